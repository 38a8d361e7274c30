#!/bin/sh
# Usage: full.sh BUILD_DIR CONFORMANCE_DIR
# The full conformance sets, which are too large or not licensed for the tree:
# templates and tokenisers against what the reference implementations answered.
set -eu
build=$1 dir=${2:-}
[ -n "$dir" ] && [ -d "$dir" ] || { echo "usage: make conformance CONFORMANCE=DIR (with template_cases.jsonl, templates/, token_cases.jsonl, tokenizers/ or tokenizers.tar.zst)" >&2; exit 2; }
tmp=$(mktemp -d "${TMPDIR:-/tmp}/lp-conformance.XXXXXX")
trap 'rm -rf "$tmp"' EXIT
tokenizers=$dir/tokenizers
if [ ! -d "$tokenizers" ]; then
	zstd -dc "$dir/tokenizers.tar.zst" | tar -xf - -C "$tmp"
	tokenizers=$tmp/tokenizers
fi
rc=0
"$build/tests/conformance" templates "$dir/template_cases.jsonl" --templates "$dir/templates" || rc=1
"$build/tests/conformance" tokens "$dir/token_cases.jsonl" --tokenizers "$tokenizers" || rc=1
exit $rc

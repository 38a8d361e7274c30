#!/bin/sh
# Usage: full_tokens.sh BUILD_DIR CONFORMANCE_DIR
# Runs CONFORMANCE_DIR/token_cases.jsonl against the tokenisers in
# CONFORMANCE_DIR/tokenizers (or tokenizers.tar.zst, unpacked aside for the run).
set -eu
build=$1 dir=$2
tmp=$(mktemp -d "${TMPDIR:-/tmp}/lp-tokens.XXXXXX")
trap 'rm -rf "$tmp"' EXIT
if [ ! -d "$dir/tokenizers" ]; then
	zstd -dc "$dir/tokenizers.tar.zst" | tar -xf - -C "$tmp"
	ln -s "$(cd "$dir" && pwd)/token_cases.jsonl" "$tmp/token_cases.jsonl"
	dir=$tmp
fi
make -s "$build/tests/test_tok_conformance"
LP_CONFORMANCE=$dir "$build/tests/test_tok_conformance"

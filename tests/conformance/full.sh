#!/bin/sh
# Usage: full.sh BUILD_DIR CONFORMANCE_DIR
# The full conformance sets, which are too large or not licensed for the tree:
# templates and tokenisers against what the reference implementations answered.
set -eu
[ -n "${2:-}" ] && [ -d "$2" ] || { echo "usage: make conformance CONFORMANCE=DIR (with template_cases.jsonl, templates/, token_cases.jsonl, tokenizers/)" >&2; exit 2; }
here=$(dirname "$0")
rc=0
sh "$here/full_templates.sh" "$1" "$2" || rc=1
sh "$here/full_tokens.sh" "$1" "$2" || rc=1
exit $rc

#!/bin/sh
# Usage: manifest.sh [--check]  Rewrites the size and SHA-256 columns of
# MANIFEST.tsv from the files, or compares them.
set -eu
cd "$(dirname "$0")"
tmp=MANIFEST.tsv.tmp
trap 'rm -f "$tmp"' EXIT
tab=$(printf '\t')
{
	printf 'file\tsource\tlicence\tbytes\tsha256\n'
	tail -n +2 MANIFEST.tsv | while IFS="$tab" read -r f source licence _; do
		printf '%s\t%s\t%s\t%s\t%s\n' "$f" "$source" "$licence" "$(wc -c <"$f")" "$(sha256sum <"$f" | cut -d' ' -f1)"
	done
} >"$tmp"
if [ "${1-}" = --check ]; then
	diff MANIFEST.tsv "$tmp"
else
	mv "$tmp" MANIFEST.tsv
fi

#!/bin/sh
# Usage: coverage.sh BUILD_DIR  Which part of each folder's lines the tests ran in a COVERAGE=1 build, and the files with
# the most lines that none ran; FILES in the environment: how many of these (default 20).
set -u
build=$1
cd "$(dirname "$0")/.." || exit 2
if [ -z "$(find "$build/obj" -name '*.gcda' 2>/dev/null | head -n 1)" ]; then
	echo "coverage: nothing has run yet: make COVERAGE=1 check" >&2
	exit 1
fi
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
# a file without .gcda never ran, and counts as such
find "$build/obj/libcommon" "$build/obj/kernels" "$build/obj/tools" -name '*.gcno' -exec "${GCOV:-gcov}" -n {} + >"$tmp/log" 2>/dev/null
awk -F"'" '/^File / { file = $2 } /^Lines executed:/ && file ~ /^(libcommon|kernels|tools)\/.*\.(c|cc)$/ {
	split($0, p, /[:% ]+/); print file, p[5], int(p[3] * p[5] / 100 + 0.5); file = "" }' "$tmp/log" | sort -u >"$tmp/files"
awk '{ d = $1; sub(/\/[^\/]*$/, "", d); n[d] += $2; hit[d] += $3; all += $2; ran += $3 }
END {
	for (d in n) printf "  %-18s %6d of %6d lines  %5.1f %%\n", d, hit[d], n[d], 100 * hit[d] / n[d] | "sort"
	close("sort")
	printf "  %-18s %6d of %6d lines  %5.1f %%\n", "all", ran, all, 100 * ran / all
}' "$tmp/files"
echo
awk '$3 < $2 { printf "  %4d lines not run  %5.1f %%  %s\n", $2 - $3, 100 * $3 / $2, $1 }' "$tmp/files" | sort -k 1,1nr -k 6 | head -n "${FILES:-20}"

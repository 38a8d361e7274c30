#!/bin/sh
# Usage: run.sh BUILD_DIR [NAME...]  Runs tests/bench/*.sh (or those named) and
# prints one table. Each script is run as "sh SCRIPT BUILD_DIR" from the root of
# the tree and prints lines of tab-separated fields on stdout:
#
#     what it measures <TAB> our figure <TAB> unit <TAB> reference figure <TAB> ratio <TAB> what the reference is
#
# The ratio says how many times better we are (above 1 is better), "-" where
# there is no reference; a bare "-" also stands for a missing figure. A script
# that cannot run here prints "# reason" and nothing else. Lines that begin
# with # are passed on below the table. Scripts with _ in their names are parts of others.
set -u
build=${1:-build}
[ $# -eq 0 ] || shift
cd "$(dirname "$0")/../.." || exit 2
export LC_ALL=C
tmp=$(mktemp -d "${TMPDIR:-/tmp}/lp-bench.XXXXXX")
trap 'rm -rf "$tmp"' EXIT
trap 'exit 130' INT TERM
status=0
for s in tests/bench/*.sh; do
	name=${s##*/}
	name=${name%.sh}
	case $name in run | *_*) continue ;; esac
	case " $* " in "  " | *" $name "*) ;; *) continue ;; esac
	if ! sh "$s" "$build" >"$tmp/one" 2>"$tmp/err"; then
		status=1
		printf '# %s failed\n' "$name" >>"$tmp/one"
		sed 's/^/#   /' "$tmp/err" | tail -n 5 >>"$tmp/one"
	fi
	cat "$tmp/one" >>"$tmp/all"
done
[ -f "$tmp/all" ] || exit $status
printf '%s, %s cores, %s\n\n' "$(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo 2>/dev/null | head -n 1)" "$(nproc)" "$(date -u +%Y-%m-%d)"
awk -F '\t' '
	BEGIN { n = 0 }
	/^#/ { note[n_notes++] = $0; next }
	NF < 5 { note[n_notes++] = "# not a result: " $0; bad = 1; next }
	{ for (i = 1; i <= 6; i++) { cell[n, i] = $i; if (length($i) > w[i]) w[i] = length($i) } n++ }
	function row(a, b, c, d, e, f) { printf "%-*s  %*s %-*s  %*s  %*s  %s\n", w[1], a, w[2], b, w[3], c, w[4], d, w[5], e, f }
	END {
		if (w[2] < 4) w[2] = 4
		if (w[4] < 9) w[4] = 9
		if (w[5] < 5) w[5] = 5
		if (n) row("measure", "ours", "unit", "reference", "ratio", "")
		for (k = 0; k < n; k++) row(cell[k, 1], cell[k, 2], cell[k, 3], cell[k, 4], cell[k, 5] (cell[k, 5] == "-" ? "" : "x"), cell[k, 6])
		for (k = 0; k < n_notes; k++) print note[k]
		exit bad
	}' "$tmp/all" || status=1
exit $status

#!/bin/sh
# Throughput of ds-audit and ds-split over about 100 MB of the tree's records,
# beside plain Python where there is one. Output: see run.sh.
set -u
build=${1:-build}
bin=$PWD/$build/bin
tmp=$(mktemp -d "${TMPDIR:-/tmp}/lp-bench-data.XXXXXX")
trap 'rm -rf "$tmp"' EXIT
trap 'exit 130' INT TERM

for f in messages_oasst.jsonl system_instruction_output.jsonl messages_parts.jsonl alpaca_rasbt.json sharegpt_toolcalls.json sharegpt_identity.json; do
	"$bin/ds-audit" -q "data/sets/$f" || exit 1
done >"$tmp/one"
n=$((100000000 / $(wc -c <"$tmp/one")))
i=0
while [ $i -lt $n ]; do cat "$tmp/one"; i=$((i + 1)); done >"$tmp/all"
mb=$(($(wc -c <"$tmp/all") / 1000000))
records=$(wc -l <"$tmp/all")

# seconds COMMAND...: the best of three runs.
seconds() {
	best=
	for _ in 1 2 3; do
		a=$(date +%s%N)
		"$@" >/dev/null 2>"$tmp/err" || { cat "$tmp/err" >&2; return 1; }
		t=$((($(date +%s%N) - a) / 1000))
		[ -n "$best" ] && [ "$best" -le "$t" ] || best=$t
	done
	echo "$best" | awk '{ print $1 / 1e6 }'
}
rate() { awk "BEGIN { printf \"%.0f\", $1 / $2 }"; }
line() { # NAME OURS REFERENCE WHAT
	if [ "$3" = - ]; then printf '%s\t%s\tMB/s\t-\t-\tno python3\n' "$1" "$(rate $mb "$2")"; else
		printf '%s\t%s\tMB/s\t%s\t%s\t%s\n' "$1" "$(rate $mb "$2")" "$(rate $mb "$3")" "$(awk "BEGIN { printf \"%.1f\", $3 / $2 }")" "$4"
	fi
}

py_audit=- py_split=-
if command -v python3 >/dev/null; then
	head -n $((records / 10)) "$tmp/all" >"$tmp/tenth"
	a=$(date +%s%N)
	PYTHONDONTWRITEBYTECODE=1 PYTHONPATH=tests/oracle python3 -c '
import json, sys
from make_audit import audit, normalise
for line in open(sys.argv[1]):
    audit(normalise(json.loads(line)))' "$tmp/tenth" || exit 1
	py_audit=$(awk "BEGIN { print ($(date +%s%N) - $a) / 1e8 }")
	py_split=$(seconds python3 -c '
import random, sys
rows = open(sys.argv[1]).readlines()
random.Random(42).shuffle(rows)
a, b = len(rows) * 8 // 10, len(rows) * 9 // 10
for part in rows[:a], rows[a:b], rows[b:]:
    sys.stdout.writelines(part)' "$tmp/all") || exit 1
fi
t=$(seconds "$bin/ds-audit" "$tmp/all") || exit 1
line 'ds-audit, records passed on' "$t" "$py_audit" 'the same checks in plain Python, findings only'
printf 'ds-audit, records\t%s\trecords/s\t-\t-\t%s records of %s bytes on average\n' "$(rate "$records" "$t")" "$records" "$((mb * 1000000 / records))"
t=$(seconds "$bin/ds-split" --part train "$tmp/all") || exit 1
line 'ds-split, hash mode' "$t" "$py_split" 'readlines and shuffle: no keys, all in memory'
t=$(seconds "$bin/ds-split" -q --mode exact --part train "$tmp/all") || exit 1
line 'ds-split, exact mode' "$t" "$py_split" 'readlines and shuffle: no keys, all in memory'

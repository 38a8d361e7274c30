#!/bin/sh
# ROUGE-1, -2 and -L with stemming on pairs of 300 words, from JSONL to JSONL,
# one thread: judge-eval score against the Python package rouge_score, run here
# when the virtual environment LP_VENV has it, else by the figure taken on our development machine.
# Usage: rouge.sh BUILD_DIR [PAIRS]
set -eu
build=$1 n=${2:-20000}
tmp=$(mktemp -d "${TMPDIR:-/tmp}/lp-rouge.XXXXXX")
trap 'rm -rf "$tmp"' EXIT

# Running text of real data sets, 300 words from anywhere in it; the answer
# keeps about half of what was expected, in runs of ten words.
gzip -dc tests/unit/data/rouge_pairs.jsonl.gz | sed -n 's/.*"ref": "\(.*\)", "cand":.*/\1/p' | sed 's/\\[a-z]/ /g; s/\\./ /g' | tr -s ' \t' '\n\n' | awk -v n="$n" '
	length($1) { word[m++] = $1 }
	END {
		srand(1)
		for (i = 0; i < n; i++) {
			a = b = ""
			at = int(rand() * (m - 300))
			for (k = 0; k < 300; k++) {
				if (k % 10 == 0) other = rand() < 0.5 ? 0 : int(rand() * (m - 600))
				a = a " " word[at + k]
				b = b " " (other ? word[other + k] : word[at + k])
			}
			printf "{\"id\":%d,\"prompt\":\"\",\"response\":\"%s\",\"expected\":\"%s\",\"tokens\":300,\"finish\":\"stop\"}\n", i, b, a
		}
	}' >"$tmp/pairs.jsonl"

# Processor time, not the clock: other work on the machine is not ours.
best=0
for round in 1 2 3; do
	(
		"$build/bin/judge-eval" score --resamples 0 "$tmp/pairs.jsonl" -o /dev/null
		times
	) >"$tmp/times"
	rate=$(sed 1d "$tmp/times" | awk -F '[ms ]+' -v n="$n" '{ print int(n / (60 * ($1 + $3) + $2 + $4)) }')
	[ "$rate" -gt "$best" ] && best=$rate
done
ref=16.8 from="rouge-score 0.1.2 as measured by others"
if [ -n "${LP_VENV:-}" ]; then
	ref=$(head -n 100 "$tmp/pairs.jsonl" | "$LP_VENV/bin/python" -c '
import json, sys, time
from rouge_score import rouge_scorer
pairs = [json.loads(l) for l in sys.stdin]
s = rouge_scorer.RougeScorer(["rouge1", "rouge2", "rougeL"], use_stemmer=True)
t = time.process_time()
for p in pairs:
    s.score(p["expected"], p["response"])
print("%.1f" % (len(pairs) / (time.process_time() - t)))')
	from="rouge-score here, the same pairs"
fi
printf 'ROUGE-1/2/L, 300 words, 1 thread\t%d\tpairs/s\t%s\t%s\t%s\n' "$best" "$ref" "$(awk "BEGIN { printf \"%.0f\", $best / $ref }")" "$from"
printf 'ROUGE-1/2/L, 300 words, 1 thread\t%d\tpairs/s\t3831\t%s\t%s\n' "$best" "$(awk "BEGIN { printf \"%.1f\", $best / 3831 }")" "rouge-score-rs, as measured by others"

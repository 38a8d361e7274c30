#!/bin/sh
# tokenize, the whole program from JSONL to token stream, one thread, on text
# and code without a repeated record (tokenize_corpus.sh), against Hugging Face
# tokenizers encoding the same texts (the virtual environment LP_VENV has it; ids are compared), else
# against the figures taken by others. Usage: tokenize.sh BUILD_DIR [MEGABYTES]
set -eu
build=$1 mb=${2:-30}
tmp=$(mktemp -d "${TMPDIR:-/tmp}/lp-tokbench.XXXXXX")
trap 'rm -rf "$tmp"' EXIT
sh tests/bench/tokenize_corpus.sh "$mb" >"$tmp/corpus.jsonl"
echo "# corpus: $(wc -c <"$tmp/corpus.jsonl") bytes, $(wc -l <"$tmp/corpus.jsonl") records, sha256 $(sha256sum <"$tmp/corpus.jsonl" | cut -c1-16)"

# MB of JSONL for each second of processor time (other work on the machine is not ours), best of 3.
rate() {
	best=0
	for _ in 1 2 3; do
		(
			"$build/bin/tokenize" --model "$1" --max-len 100000000 "$tmp/corpus.jsonl" -o "$tmp/out.lps"
			times
		) >"$tmp/times"
		r=$(sed 1d "$tmp/times" | awk -F '[ ms]+' -v n="$(wc -c <"$tmp/corpus.jsonl")" '{ printf "%.1f", n / 1e6 / (60 * ($1 + $3) + $2 + $4) }')
		best=$(printf '%s\n%s\n' "$best" "$r" | sort -n | tail -n 1)
	done
	echo "$best"
}

# The reference on the first 2 MB: its rate, and the number of sequences that differ from ours.
reference() {
	head -c 2000000 "$tmp/corpus.jsonl" | sed '$d' >"$tmp/part.jsonl"
	"$build/bin/tokenize" --model "$1" --show-mask "$tmp/part.jsonl" >"$tmp/ours"
	RAYON_NUM_THREADS=1 TOKENIZERS_PARALLELISM=false "$LP_VENV/bin/python" -c '
import json, sys, time
from itertools import groupby
from tokenizers import Tokenizer
t = Tokenizer.from_file(sys.argv[1])
texts = [json.loads(l)["text"] for l in open(sys.argv[2], encoding="utf-8")]
start = time.process_time()
ids = [t.encode(x, add_special_tokens=False).ids for x in texts]
took = time.process_time() - start
rows = (json.loads(l) for l in open(sys.argv[3], encoding="utf-8"))
ours = [[r["id"] for r in g] for _, g in groupby(rows, key=lambda r: r["record"])]
print("%.2f %d" % (sum(len(x.encode()) for x in texts) / 1e6 / took, sum(a != b for a, b in zip(ids, ours)) + abs(len(ids) - len(ours))))' "$1/tokenizer.json" "$tmp/part.jsonl" "$tmp/ours"
}

for v in qwen2.5 phi-3-mini; do
	mkdir "$tmp/$v"
	zstd -dqc "tests/conformance/tokens/$v.json.zst" >"$tmp/$v/tokenizer.json"
	ours=$(rate "$tmp/$v")
	case $v in
	qwen2.5) ref=1.8 from="Hugging Face tokenizers, as measured by others" ;;
	*) ref=2.9 from="Hugging Face tokenizers, as measured by others" ;;
	esac
	if [ -n "${LP_VENV:-}" ]; then
		reference "$tmp/$v" >"$tmp/ref"
		read -r ref differ <"$tmp/ref"
		from="Hugging Face tokenizers here, $differ records differ"
	fi
	printf 'tokenize, %s, 1 thread\t%s\tMB/s\t%s\t%s\t%s\n' "$v" "$ours" "$ref" "$(awk "BEGIN { printf \"%.1f\", $ours / $ref }")" "$from"
	[ $v = qwen2.5 ] && printf 'tokenize, %s, 1 thread\t%s\tMB/s\t7.1\t%s\ttiktoken, encoding alone, as measured by others\n' "$v" "$ours" "$(awk "BEGIN { printf \"%.1f\", $ours / 7.1 }")"
done
exit 0

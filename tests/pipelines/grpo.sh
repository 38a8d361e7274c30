#!/bin/sh
# pipelines/grpo.mk: prompts to an adapter whose completions earn more on held-out ones, by a command with quotes and dollars; nothing twice.
. "$(dirname "$0")/../cli/lib.sh"
cd "$T" || exit 1
M=$ROOT/data/stories260K
sed 's/^{"instruction": \("[^"]*"\),.*/{"prompt":\1}/' "$ROOT/data/quickstart/upper_train.jsonl" | grep '^{"prompt":"[^"]*"}$' >prompts.jsonl
chain() { make -s -f "$ROOT/pipelines/grpo.mk" BIN="$ROOT/$BUILD/bin" MODEL="$M" DATA=prompts.jsonl OUT=out SPLIT_FLAGS='--parts train=0.8,heldout=0.2 --mode exact --seed 1' \
	TRAIN_FLAGS='--raw --quant none --rank 8 --batch 32 --accumulate 1 --max-new 48 --lr 4e-3 --schedule constant --max-steps 14' "$@"; }
count='awk '"'"'{ n = gsub(/happy/, ""); print (n > 0) * length($0) / length($0) }'"'"
status 0 "prompts to an adapter" chain REWARD="$count"
ok "there is a report" grep -q 'Mean reward' out/report/report.html
reward() { grep '"event":"eval"' out/train/log.jsonl | "$1" -n 1 | sed 's|.*"reward":\([^,}]*\).*|\1|'; }
ok "held-out prompts earn more ($(reward head) to $(reward tail))" awk "BEGIN { exit !($(reward tail) > $(reward head) + 0.3) }"
cp out/train/log.jsonl first.jsonl
status 0 "again" chain REWARD="$count"
same "nothing runs" out/train/log.jsonl first.jsonl
status 0 "by another reward" chain REWARD="awk '{ print length }'"
ok "it does" sh -c '! cmp -s out/train/log.jsonl first.jsonl'
status 2 "no reward" chain

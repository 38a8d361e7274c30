#!/bin/sh
# pipelines/pref.mk on real pairs: an adapter that prefers what it should on held-out ones, a reward model, and nothing twice.
. "$(dirname "$0")/../cli/lib.sh"
cd "$T" || exit 1
M=$ROOT/data/stories260K
head -n 120 "$ROOT/data/sets/dpo_prompt_chosen_rejected.jsonl" >pairs.jsonl
chain() { make -s -f "$ROOT/pipelines/pref.mk" BIN="$ROOT/$BUILD/bin" MODEL="$M" DATA=pairs.jsonl OUT=out SPLIT_FLAGS='--parts train=0.8,heldout=0.2 --mode exact --seed 1' "$@"; }
flags='--quant none --rank 8 --batch 8 --accumulate 1 --lr 1e-3 --epochs 3'
status 0 "pairs to an adapter" chain TRAIN_FLAGS="$flags"
ok "there is a report" grep -q 'Margin of rewards' out/report/report.html
is "whose losses are not a token's" "$(grep -c 'perplexity\|per target token' out/report/report.html)" 0
last() { grep '"event":"eval"' out/train/log.jsonl | tail -n 1 | sed "s|.*\"$1\":\([^,}]*\).*|\1|"; }
ok "held-out pairs are told apart ($(last rewards/accuracies))" awk "BEGIN { exit !($(last rewards/accuracies) > 0.6 && $(last rewards/margins) > 0.3) }"
cp out/train/log.jsonl first.jsonl
status 0 "again" chain TRAIN_FLAGS="$flags"
same "nothing runs" out/train/log.jsonl first.jsonl
status 0 "a reward model" chain METHOD=reward TRAIN_FLAGS="$flags"
ok "from the same tokens" grep -q SEQ_CLS out/train/adapter/adapter_config.json
status 2 "no data" chain DATA=nowhere.jsonl OUT=other

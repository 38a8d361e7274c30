#!/bin/sh
# The pipeline as one shell pipe, and as files: the same bytes; and what a pipe
# does when one of its programs dies.
. "$(dirname "$0")/../cli/lib.sh"
M=$ROOT/data/stories260K
head -n 24 "$ROOT/data/quickstart/upper_train.jsonl" >"$T/raw.jsonl"
train="--quant nf4 --rank 4 --alpha 8 --batch 4 --accumulate 1 --max-steps 3 --lr 1e-3 --seed 7"
cd "$T" || exit 1

# shellcheck disable=SC2086
ds-audit raw.jsonl | ds-split --part train --ratio 80/10/10 | chat-template --model "$M" | tokenize --model "$M" --pack |
	qlora-train --model "$M" $train | lora-merge --model "$M" | gguf-export --type q8_0 >pipe.gguf 2>err
is "the pipe ends well" $? 0
is "nothing is said in good times" "$(cat err)" ""
is "a GGUF file came out" "$(head -c 4 pipe.gguf)" GGUF

ds-audit -o 1.jsonl raw.jsonl && ds-split --ratio 80/10/10 -o 2 1.jsonl && chat-template --model "$M" -o 3.jsonl 2/train.jsonl &&
	tokenize --model "$M" --pack -o 4.lps 3.jsonl && qlora-train --model "$M" $train -o 5 4.lps &&
	lora-merge --model "$M" --adapter 5 -o 6 && gguf-export --type q8_0 --model 6 -o files.gguf
is "the same by files ends well" $? 0
same "pipe and files give the same bytes" pipe.gguf files.gguf
is "training data were split off" "$(cat 2/*.jsonl | wc -l)" 24

# a dead upstream is no short data set: every cut of the stream is refused
n=$(wc -c <4.lps)
for cut in 4 100 $((n / 2)) $((n - 9)) $((n - 1)); do
	head -c "$cut" 4.lps >cut.lps
	# shellcheck disable=SC2086
	status 3 "a token stream cut at $cut of $n bytes is refused" qlora-train --model "$M" $train -o never cut.lps
	[ -e never ] && fail "no adapter is written" "cut at $cut"
done
: | qlora-train --model "$M" --max-steps 1 -o never >/dev/null 2>err
is "an empty stream is refused" $? 3
[ -s err ] && [ ! -e never ] && pass "with a reason, and no output" || fail "with a reason, and no output"

# the other direction: a reader that leaves early ends the writers quietly
(ds-audit raw.jsonl; echo $? >writer) 2>err | head -n 1 >/dev/null
is "a closed pipe is silent" "$(cat err)" ""

# a model that was trained itself goes through the chain like an adapter
unset MAKEFLAGS MAKELEVEL MFLAGS
ok "sft.mk with all weights trained" make -s -f "$ROOT/pipelines/sft.mk" BIN="$ROOT/$BUILD/bin" MODEL="$M" DATA=raw.jsonl OUT=out \
	TRAIN_FLAGS="--update full --max-steps 3 --batch 4 --accumulate 1" GENERATE_FLAGS="--max-new 4"
same "exports the model that left the run" out/train/adapter/model.safetensors out/merge/model/model.safetensors

#!/bin/sh
# qlora-train --update full: a model leaves it that every other program reads, a run goes on as one, and what does not go together is said.
. "$(dirname "$0")/lib.sh"
in_stories
tokens "$D/upper_train.jsonl" 12 >train.lps
tokens "$D/upper_heldout.jsonl" 4 >held.lps
train() { qlora-train --model "$M" --update full --device "$DEVICE" --lr 2e-3 --threads 1 --batch 2 --accumulate 1 --schedule-steps 8 "$@"; }
loss() { qlora-train --eval-only --model "$1" --quant none --device "$DEVICE" --eval held.lps | sed 's/.*"loss":\([0-9.]*\).*/\1/'; }

# a whole run, one in two halves, one that is killed and has three shards
status 0 "a run" train --max-steps 8 --save-every 4 --eval held.lps --eval-every 4 --log whole.log -o whole train.lps
quiet "that says nothing"
ok "is a model" test -s whole/model.safetensors -a -s whole/config.json -a -s whole/tokenizer.json
ok "of the type that it came in" sh -c "! grep -aq BF16 whole/model.safetensors"
ok "that says what it was made of" grep -q '"base":{"name":"stories260K","hash":"sha256:' whole/lorapipe.json
status 0 "half of it" train --max-steps 4 --save-every 4 --eval held.lps --eval-every 4 -o half train.lps
status 0 "gone on with" train --max-steps 8 --save-every 4 --eval held.lps --eval-every 4 --extend -o half train.lps
same "ends in the same bytes" half/model.safetensors whole/model.safetensors
same "and in the same state" half.step-8/model.safetensors whole.step-8/model.safetensors
is "the model's loss is the run's last" "$(loss whole | cut -c 1-7)" "$(sed -n 's/.*"event":"eval".*"step":8,.*"loss":\([0-9.]*\).*/\1/p' whole.log | cut -c 1-7)"
ok "a checkpoint is a model" sh -c "test \"\$(qlora-train --eval-only --model whole.step-4 --quant none --device $DEVICE --eval held.lps | wc -l)\" -eq 1"
ok "the model answers" lm-generate --model whole --quant none --max-new 4 "$D/upper_heldout.jsonl"
ok "and goes to llama.cpp" gguf-export -q --type f32 --model whole -o whole.gguf
status 0 "a damaged checkpoint is passed over" sh -c 'cp -R half.step-8 spoiled.step-8; cp -R half.step-4 spoiled.step-4; printf x | dd of=spoiled.step-8/state.safetensors bs=1 seek=9000 conv=notrunc 2>/dev/null'
status 0 "for the one before it" train --max-steps 8 --save-every 4 --eval held.lps --eval-every 4 --extend -o spoiled train.lps
same "and comes to the same end" spoiled/model.safetensors whole/model.safetensors
status 0 "the best of a run that gets worse" train --max-steps 8 --lr 0.3 --eval held.lps --eval-every 2 --restore-best -o best --log best.log train.lps
is "is what is written" "$(loss best | cut -c 1-6)" "$(sed -n 's/.*"event":"done".*"best_loss":\([0-9.]*\).*/\1/p' best.log | cut -c 1-6)"

status 0 "old checkpoints go, with all their files" train --max-steps 8 --save-every 1 --keep-checkpoints 2 --eval held.lps --eval-every 4 -o pruned train.lps
is "two stay" "$(ls -d pruned.step-* | tr '\n' ' ')" "pruned.step-7 pruned.step-8 "
n=0
while [ ! -e killed ] && [ $n -lt 20 ]; do
	n=$((n + 1))
	train --max-steps 8 --save-every 1 --eval held.lps --eval-every 4 -o killed train.lps 2>/dev/null &
	pid=$!
	[ $n -lt 4 ] && sleep "0.$(awk "BEGIN { srand($n * 7919 + $$); printf \"%03d\", 50 + rand() * 300 }")" && kill -9 $pid 2>/dev/null
	wait $pid 2>/dev/null
done
same "killed and started again it ends in the same bytes" killed/model.safetensors pruned/model.safetensors
status 0 "8-bit states, accumulated" train --max-steps 4 --optimizer adamw8bit --batch 1 --accumulate 2 -o eight train.lps
status 0 "as a stream" sh -c "qlora-train --model $M --update full --max-steps 1 --threads 1 --device $DEVICE train.lps | gguf-export -q --type f16 -o stream.gguf"

# projected gradients
galore() { qlora-train --model "$M" --update galore --device "$DEVICE" --lr 2e-3 --threads 1 --batch 2 --accumulate 1 --schedule-steps 8 --rank 8 --project-every 3 "$@"; }
status 0 "projected gradients" galore --max-steps 8 --save-every 4 -o projected train.lps
status 0 "half of it" galore --max-steps 4 --save-every 4 -o projected.half train.lps
status 0 "gone on with" galore --max-steps 8 --save-every 4 --extend -o projected.half train.lps
same "ends in the same bytes" projected.half/model.safetensors projected/model.safetensors
status 0 "8-bit states, frozen tables" galore --max-steps 4 --optimizer adamw8bit --train-embeddings no --train-head no -o projected8 train.lps
status 0 "its plan" galore --max-steps 8 --dry-run --device cuda --memory 8G train.lps
prints 'galore     rank 8, directions every 3 steps, scale 0.25' "says so"
prints 'projections of gradients' "and has them"
status 2 "another rank does not go on" galore --max-steps 8 --rank 4 --save-every 4 --extend -o projected.half train.lps
says 'rank was 8 and is now 4' "and it says why"
status 2 "an option of it elsewhere" train --max-steps 8 --project-every 3 train.lps
says 'go with --update galore' "is refused"

# embedding and head
status 2 "one of two that are one" train --max-steps 2 --train-head no train.lps
says "the model's head is its embedding: train both, or neither" "is refused"
status 0 "frozen" train --max-steps 2 --train-head no --train-embeddings no -o frozen train.lps
status 0 "both are the base's" sh -c "qlora-train --model $M --update full --dry-run --train-head no --train-embeddings no train.lps >dry"
ok "and are not counted" grep -q '^trainable *227,264 of 260,032 ' dry

# the plan
status 0 "a plan for a GPU" train --max-steps 8 --dry-run --device cuda --memory 8G train.lps
prints 'update     the weights themselves, bf16 with the rest of fp32 beside it; gradients in bf16, those of tables' "says what is trained"
prints 'gradients of weights' "and has its parts"

# what does not go together
status 2 "NF4" train --quant nf4 train.lps
says "weights in NF4 cannot be trained; leave --quant nf4 out" "is refused"
status 2 "an adapter's option" train --rank 8 train.lps
says "--rank is an adapter's" "is refused"
status 2 "an adapter" train --adapter whole train.lps
says "fold it in with lora-merge" "is refused"
status 2 "noise" train --neftune 5 train.lps
says "embeddings that are not trained" "is refused"
status 2 "8-bit products" train --max-steps 8 --compute fp8 --dry-run --device cuda train.lps
says "--compute fp8 is for a frozen base" "are refused"
status 2 "fp16" train --max-steps 8 --compute fp16 --dry-run --device cuda train.lps
says "trained in bf16 or fp32" "is refused"
status 2 "a table beside an adapter where both are one" qlora-train --model "$M" --quant none --train-head yes --train-embeddings yes train.lps
says "which PEFT has no single place for" "is refused"

status 2 "preferences" train --max-steps 8 --method dpo train.lps
says "--method dpo learns an adapter alone" "are refused"

# embedding and head beside an adapter
status 0 "a model with a head of its own" model-init --hidden 64 --layers 2 --heads 4 --ffn 96 --vocab 512 --max-len 512 --dtype float32 --tokenizer "$M" -o apart
beside() { qlora-train --model apart --device "$DEVICE" --rank 4 --lr 2e-3 --threads 1 --batch 2 --accumulate 1 --schedule-steps 8 "$@"; }
for quant in none nf4; do
	status 0 "tables beside an adapter, $quant" beside --quant $quant --max-steps 8 --save-every 4 --train-embeddings yes --train-head yes --eval held.lps --log $quant.log -o tables.$quant train.lps
	status 0 "half of it" beside --quant $quant --max-steps 4 --save-every 4 --train-embeddings yes --train-head yes --eval held.lps -o tables.half.$quant train.lps
	status 0 "gone on with" beside --quant $quant --max-steps 8 --save-every 4 --train-embeddings yes --train-head yes --eval held.lps --extend -o tables.half.$quant train.lps
	same "ends in the same bytes" tables.half.$quant/adapter_model.safetensors tables.$quant/adapter_model.safetensors
done
last() { sed -n 's/.*"event":"eval".*"step":8,.*"loss":\([0-9.]*\).*/\1/p' "$1" | cut -c 1-6; }
ok "PEFT's layout" sh -c "tr -d ' \\n' <tables.none/adapter_config.json | grep -q '\"modules_to_save\":\[\"embed_tokens\",\"lm_head\"\]' && grep -aq '\"base_model.model.lm_head.weight\"' tables.none/adapter_model.safetensors"
is "read back, the loss is the run's last" "$(qlora-train --eval-only --model apart --adapter tables.none --quant none --device "$DEVICE" --eval held.lps | sed 's/.*"loss":\([0-9.]*\).*/\1/' | cut -c 1-6)" "$(last none.log)"
status 0 "merged" lora-merge -q --verify full --model apart --adapter tables.none -o tables.merged
is "it is the same" "$(loss tables.merged | cut -c 1-6)" "$(last none.log)"
ok "the adapter answers" lm-generate --model apart --adapter tables.none --quant none --max-new 4 "$D/upper_heldout.jsonl"
status 0 "started from" beside --quant none --adapter tables.none --max-steps 1 --train-embeddings yes --train-head yes -o tables.more train.lps
status 2 "without its tables" beside --quant none --adapter tables.none --max-steps 1 train.lps
says "has an embedding or head of its own" "is refused"
status 2 "two such adapters" lora-merge --model apart --adapter tables.none --adapter tables.more -o never
says "merge it alone" "are refused"

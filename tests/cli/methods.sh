#!/bin/sh
# qlora-train's methods: what each changes, that it is written as PEFT has it, and that a run with it goes on as one.
. "$(dirname "$0")/lib.sh"
in_stories
tokens "$D/upper_train.jsonl" 12 >train.lps
train() { qlora-train --model "$M" --rank 4 --lr 5e-3 --threads 1 --batch 2 --accumulate 1 --schedule-steps 8 "$@"; }
adapter() { echo "$1/adapter_model.safetensors"; }
# so many tensors, of a list of layers
tensors() { grep -ao '"base_model[^"]*lora_[AB].weight"' "$(adapter "$1")" | sort -u; }
layers() { tensors "$1" | sed 's/.*layers.\([0-9]*\).*/\1/' | sort -u | tr '\n' ' '; }
# a run of 8 steps, and one of 4 that is gone on with
parts() { # NAME OPTION...
	name=$1
	shift
	status 0 "$name" train --max-steps 8 --save-every 4 -o "$name" "$@" train.lps
	status 0 "half of it" train --max-steps 4 --save-every 4 -o "$name.half" "$@" train.lps
	status 0 "gone on with" train --max-steps 8 --save-every 4 --extend -o "$name.half" "$@" train.lps
	same "in the same bytes" "$(adapter "$name.half")" "$(adapter "$name")"
}
parts plain --dropout 0.1

# which projections
parts some --layers 1-2,4 --targets q_proj,down_proj --optimizer adamw8bit --dropout 0.1
is "in these layers" "$(layers some)" "1 2 4 "
is "two projections of each, A and B" "$(tensors some | wc -l | tr -d ' ')" 12
ok "as PEFT writes it" sh -c "tr -d ' \\n' <some/adapter_config.json | grep -q '\"layers_to_transform\":\[1,2,4\]'"
status 0 "counted" train --max-steps 8 --layers 0 --targets q_proj --dry-run train.lps
prints '^trainable *512 of ' "without the other layers"
parts regex --targets 'model\.layers\.(0|3)\.self_attn\.(q|k)_proj|.*\.2\.mlp\.up_proj' --rslora
is "whole paths" "$(tensors regex | wc -l | tr -d ' ')" 10
ok "in the list of targets" grep -q '"model.layers.2.mlp.up_proj"' regex/adapter_config.json
ok "scaled by the root of the rank" grep -q '"use_rslora": true' regex/adapter_config.json
status 0 "started from" train --adapter regex --max-steps 1 -o regex2 train.lps
is "it has as many" "$(tensors regex2)" "$(tensors regex)"
ok "and another value" sh -c "! cmp -s $(adapter regex) $(adapter regex2)"
status 0 "merged" lora-merge -q --model "$M" --adapter regex -o merged
status 2 "no such layer" train --layers 5 train.lps
says 'has no layer 5' "is named"

# DoRA
parts dora --dora --dropout 0.1
ok "as PEFT writes it" grep -q '"use_dora": true' dora/adapter_config.json
vectors() { grep -ao '"base_model[^"]*lora_magnitude_vector"' "$(adapter "$1")" | sort -u | wc -l | tr -d ' '; }
is "a vector for each projection" "$(vectors dora)" "$(($(tensors dora | wc -l) / 2))"
parts dora.some --dora --layers 1-2,4 --targets q_proj,down_proj --lora-plus-ratio 16 --optimizer adamw8bit
is "a vector for each of some" "$(vectors dora.some)" 6
status 0 "counted" train --max-steps 8 --dora --layers 0 --targets q_proj --dry-run train.lps
prints '^adapter *DoRA r 4' "by its name"
prints '^trainable *576 of ' "with the magnitudes"
status 0 "started from" train --adapter dora --max-steps 1 -o dora2 train.lps
is "it has magnitudes too" "$(vectors dora2)" "$(vectors dora)"
loss() { train "$@" --eval train.lps --eval-only | sed 's/.*"loss":\([0-9.]*\).*/\1/'; }
status 0 "merged" lora-merge -q --model "$M" --adapter dora --dtype float32 -o dora.merged
tuned=$(loss --quant none --adapter dora)
merged=$(M=dora.merged loss --quant none)
ok "the merged model's loss ($merged) is the adapter's ($tuned)" awk "BEGIN { d = $tuned - $merged; exit !(d * d < 1e-10 * $tuned * $tuned) }"
echo '{"prompt":"Once upon a time"}' >prompt.jsonl
says_text() { lm-generate -q --raw --max-new 24 "$@" prompt.jsonl | sed 's/.*"response":"\([^"]*\)".*/\1/'; }
is "and says the same" "$(says_text --model dora.merged)" "$(says_text --model "$M" --adapter dora)"
ok "which the base does not" test "$(says_text --model "$M")" != "$(says_text --model dora.merged)"
status 2 "onto an adapter without" train --dora --adapter regex -o none train.lps
says 'without magnitudes' "is refused"
status 2 "in 8 bits" train --max-steps 8 --dora --dry-run --device cuda --compute fp8 train.lps
says 'leave --compute fp8 or --dora out' "is refused too"
status 2 "half of it without" train --max-steps 8 --save-every 4 --extend --dropout 0.1 -o dora.half train.lps
says 'dora was true and is now false' "is named"

# LoRA+
parts plus --lora-plus-ratio 16 --optimizer adamw8bit
ok "another adapter" sh -c "! cmp -s $(adapter plus) $(adapter plain)"
status 2 "half of it without" train --max-steps 8 --save-every 4 --extend -o plus.half train.lps

# noise on embeddings
parts noise --neftune 5 --dropout 0.1
ok "another adapter again" sh -c "! cmp -s $(adapter noise) $(adapter plain)"
train --max-steps 8 --save-every 4 --dropout 0.1 --neftune 5 --eval train.lps --eval-every 2 -o noise.seen train.lps 2>/dev/null
values() { tail -c 20000 "$(adapter "$1")" | od -An -v -tx4; } # behind a header that names other options
is "which evaluations between steps do not change" "$(values noise.seen)" "$(values noise)"
loss() { train --adapter noise --eval train.lps --eval-only "$@" | sed 's/.*"loss":\([0-9.]*\).*/\1/'; }
is "nor has an evaluation noise" "$(loss --neftune 50)" "$(loss)"

# several streams
tokens "$ROOT/data/quickstart/upper_train.jsonl" 4 >few.lps
{ head -n 4 "$ROOT/data/quickstart/upper_train.jsonl"; head -n 12 "$ROOT/data/quickstart/upper_train.jsonl"; } >both.jsonl
tokens both.jsonl 16 >both.lps
both() { train --dropout 0.1 --max-steps 8 --save-every 4 "$@"; }
status 0 "two streams" both -o two few.lps train.lps
status 0 "and one of both" both -o joined both.lps
is "are the same" "$(values two)" "$(values joined)"
mixed() { both --weights 3,1 "$@"; }
status 0 "three parts to one" mixed --dry-run few.lps train.lps
prints '^stream *few.lps, 4 rows, 12 in an epoch' "of the smaller one"
prints '^stream *train.lps, 12 rows, 4 in an epoch' "and of the larger one"
status 0 "trained on" mixed --schedule-steps 20 --max-steps 20 -o mixed few.lps train.lps
status 0 "half of it" mixed --schedule-steps 20 --max-steps 12 -o mixed.half few.lps train.lps
status 0 "gone on with" mixed --schedule-steps 20 --max-steps 20 --extend -o mixed.half few.lps train.lps
same "in the same bytes" "$(adapter mixed.half)" "$(adapter mixed)"
status 2 "another order" mixed --schedule-steps 20 --max-steps 24 --extend -o mixed.half train.lps few.lps
ok "all are named" grep -aq 'data[^}]*few.lps, train.lps' "$(adapter mixed)"
status 6 "a loss that is not finite" mixed --lr 1000 --max-grad-norm 0 --warmup-steps 0 --schedule constant --dump-batch dump.jsonl --max-steps 20 --schedule-steps 20 -o none few.lps train.lps
says 'on records [a-z]*.lps:[0-9]*' "its records are named with their streams"
ok "in the file too" grep -q '"stream":"[a-z]*.lps"' dump.jsonl
refused() { both -o none "$@"; }
status 2 "a weight too few" refused --weights 3 few.lps train.lps
says '1 numbers for 2' "is counted"
for w in 1,0 1,-1 1,x ,1,1 1,,1 1,1, 1,nan ''; do
	status 2 "weights '$w'" refused --weights "$w" few.lps train.lps
done
status 2 "a stream with nothing" refused --weights 1000,1 few.lps train.lps
says "'train.lps' has none of an epoch's 16 rows" "is named"
status 2 "standard input twice" refused - - <few.lps
status 3 "a second stream that is none" refused few.lps both.jsonl
status 4 "one that is not there" refused few.lps nowhere.lps

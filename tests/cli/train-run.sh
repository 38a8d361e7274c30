#!/bin/sh
# What qlora-train says and does beside its steps: held-out sets, samples, the
# watch over its curves, metrics.
. "$(dirname "$0")/lib.sh"
in_stories
tokens "$D/upper_train.jsonl" 6 >train.lps
tokens "$D/upper_heldout.jsonl" 2 >held.lps
tokens "$D/upper_heldout.jsonl" 5 >more.lps
train() { qlora-train --model "$M" --device "$DEVICE" --threads 1 --lr 5e-3 --rank 4 --batch 1 --accumulate 1 --dropout 0.1 "$@"; }
events() { grep "\"event\":\"$1\"" "$2"; }
count() { events "$1" "$2" | wc -l | tr -d ' '; }

# held-out sets by name
status 0 "two held-out sets" train --max-steps 6 --eval held.lps --eval other=more.lps --eval-every 3 --log sets.log -o sets train.lps
quiet "in silence"
is "the first decides" "$(events eval sets.log | grep -c '"set":"held".*"best":true')" 3
is "the other is told beside it" "$(events eval_set sets.log | grep -c '"set":"other"')" 3
status 0 "their losses" qlora-train --model "$M" --eval held.lps --eval other=more.lps --eval-only
is "a line each" "$(sed 's/,.*//' "$T/.out" | tr '\n' ' ')" '{"id":"held.lps" {"id":"other" '
status 2 "two of one name" train --eval held.lps --eval ./held.lps train.lps
says "two held-out sets are called 'held'; give --eval NAME=FILE" "say what to do"
status 2 "a name with a blank" train --eval "a b=held.lps" train.lps
status 2 "two streams on one input" train --eval - --eval more=- train.lps
status 0 "a set more does not change the run" train --max-steps 6 --eval held.lps --eval-every 3 -o one train.lps
is "its tensors" "$(tail -c 10000 one/adapter_model.safetensors | cksum)" "$(tail -c 10000 sets/adapter_model.safetensors | cksum)"

# samples
cat >prompts.jsonl <<'J'
{"prompt":"Make this upper case: cat","id":"cat"}
{"messages":[{"role":"user","content":"Make this upper case: dog"},{"role":"assistant","content":"DOG"}]}
J
status 0 "samples" train --max-steps 6 --eval held.lps --eval-every 3 --prompts prompts.jsonl --sample-every 2 --sample-tokens 12 --log samples.log -o sampled train.lps
same "change no bit of the run" sampled/adapter_model.safetensors one/adapter_model.safetensors
is "of each prompt before, at 2, 4 and 6" "$(count sample samples.log)" 8
response() { grep -o '"response":"\([^"\\]\|\\.\)*"'; }
lm-generate --model "$M" --device "$DEVICE" --quant nf4 --adapter sampled --max-new 12 prompts.jsonl | response >answers
events sample samples.log | tail -n 2 | response >logged
# on a GPU products of one row are others than those of training, and a close call may fall the other way
if [ "$DEVICE" = cpu ]; then same "are what lm-generate answers" answers logged; else skip "answers of another path on $DEVICE"; fi
status 0 "answers beyond the rows' length" train --max-steps 6 --eval held.lps --eval-every 3 --prompts prompts.jsonl --sample-tokens 450 --sample-every epoch -o sampled2 train.lps
same "change no bit either" sampled2/adapter_model.safetensors one/adapter_model.safetensors
status 2 "samples without prompts" train --sample-every 2 train.lps
echo '{"neither":1}' >bad.jsonl
status 3 "prompts of no known shape" train --prompts bad.jsonl train.lps
says "bad.jsonl:1" "are named"

# the watch
status 0 "a rate of nothing" train --lr 0 --max-steps 50 --log flat.log -o flat train.lps
says 'warning: step 33, flat: the loss does not fall: .*; the learning rate may be too low (--lr)' "is called flat, with the advice"
is "once, and in the log" "$(events watch flat.log | grep -c '"step":33,"name":"flat","what":".*","advice":".*"')" 1
tokens "$D/upper_train.jsonl" 1 >one.lps
status 0 "one example again and again" train --lr 2e-2 --dropout 0 --rank 16 --batch 1 --max-steps 140 --eval held.lps --eval-every 10 --save-every 50 --log heart.log -o heart one.lps
says ', collapsing: the training loss is 0.0[0-9]*, near 0; the examples are learnt by heart' "is called collapsing"
says ', overfitting: the held-out loss rises from .* while the training loss falls; end here (--patience, --restore-best)' "and overfitting"
cp -r heart.step-50 again.step-50 && events watch heart.log >watch.whole
train --lr 2e-2 --dropout 0 --rank 16 --batch 1 --max-steps 140 --eval held.lps --eval-every 10 --save-every 50 --log again.log -o again one.lps 2>/dev/null
{ awk -F'"step":' '{ split($2, s, ","); if (s[1] <= 50) print }' watch.whole; events watch again.log; } | sed 's/"time":[0-9.]*,//' >watch.again
sed 's/"time":[0-9.]*,//' watch.whole >watch.want
same "a run that goes on says what one in one piece does" watch.again watch.want

# what is not finite
diverge() { train --lr 1000 --max-grad-norm 0 --max-steps 30 --warmup-ratio 0 --schedule constant --dropout 0 "$@" train.lps; }
status 6 "a loss that is not finite" diverge --dump-batch dump.jsonl -o none
at=$(sed -n 's/.*step \([0-9]*\): the .* is not finite.*/\1/p' "$T/.err")
ok "is dumped as text" grep -q "^{\"step\":$at,\"reason\":\"step $at: the .* is not finite.*\",\"record\":[0-9]*,\"text\":\"<s>.*[A-Z][A-Z][A-Z].*\",\"ids\":\[1,.*\],\"mask\":\[0,.*1\]}" dump.jsonl
status 6 "skipped ones too" diverge --nonfinite skip:2 --dump-batch skips.jsonl -o none
is "each" "$(wc -l <skips.jsonl | tr -d ' ')" 3
status 6 "where nothing can be written" diverge --dump-batch nowhere/dump.jsonl -o none
says "nowhere/dump.jsonl: cannot open.*the batch is not dumped" "a warning says so"

# metrics
status 0 "figures of speed" train --max-steps 3 --peak-tflops 100 --log speed.log -o speed train.lps
ok "are in the records" sh -c "grep -q '\"tok_s\":[0-9.]*,\"tflops\":[0-9.e-]*,\"mfu\":[0-9.]*,\"peak_bytes\":[0-9]*,\"seconds\":[0-9.]*,\"busy\":[0-9.]*,\"left_seconds\":[0-9.]*' speed.log"
status 0 "TensorBoard's events" train --max-steps 3 --eval held.lps --tensorboard tb -o board train.lps
ok "are there" sh -c "grep -aq 'brain.Event:2' tb/events.out.tfevents.* && grep -aq 'train/loss' tb/events.out.tfevents.* && grep -aq 'eval/held/loss' tb/events.out.tfevents.*"
same "and change nothing" board/adapter_config.json speed/adapter_config.json
status 4 "a folder that cannot be made" train --max-steps 3 --tensorboard no/tb -o none train.lps

# tags
status 0 "a tag" train --max-steps 1 --tag support@1.2.0-rc.1 --data-version 3.0.0 -o tagged train.lps
ok "is in the adapter" grep -q '"about":{"tag":"support@1.2.0-rc.1","version":"1.2.0-rc.1","base":{"name":"stories260K","hash":"sha256:[0-9a-f]*"},"data":{"name":"train.lps","hash":"xxh3:[0-9a-f]*","version":"3.0.0"}}' tagged/lorapipe.json
ok "in both of its files" grep -aq 'support@1.2.0-rc.1' tagged/adapter_model.safetensors
ok "with all hyperparameters" grep -q '"options":{.*"rank":4.*"lr":0.005' tagged/lorapipe.json
ok "and it is an adapter as before" lm-generate --model "$M" --quant nf4 --adapter tagged --max-new 1 prompts.jsonl
for t in 1.2 1.2.3.4 01.2.3 v1.2.3 1.2.3- 1.2.3-01 1.2.3+ "a b@1.0.0" @1.0.0 ""; do
	status 2 "'$t' is no tag" train --max-steps 1 --tag "$t" -o none train.lps
done
for t in 0.0.0 10.20.30-alpha.1+build.007 1.0.0--; do
	status 0 "'$t' is one" train --max-steps 1 --tag "$t" --dry-run train.lps
done
status 2 "a version of data" train --data-version 3 train.lps
says "takes MAJOR.MINOR.PATCH" "is one too"

# advice, and ten steps before many
status 0 "advice" qlora-train --model "$M" --advise --rank 64 --alpha 64 train.lps
prints '^6 examples, [0-9]* tokens, [0-9]* of them targets; 3 steps' "about these data"
is "warns under each task" "$(grep -c 'too few: the examples will be learnt by heart' "$T/.out")" 4
prints 'warning: under 200 examples' "and in general"
prints '^rank  *64  16  *differs' "beside what was asked"
prints '^alpha  *64  64 or 128   ' "where they agree, nothing"
prints '^lr  *0.0002  5e-05  *differs' "a rate for few examples"
status 0 "for a task" qlora-train --model "$M" --advise --task style --rank 8 --alpha 16 train.lps
prints '^rank  *8  8   ' "another rank"
i=0
while [ $i -lt 1200 ]; do echo '{"text":"<s>a b</s>","spans":[[3,6]]}'; i=$((i + 1)); done | tokenize --model "$M" >many.lps
status 0 "1,200 examples" qlora-train --model "$M" --advise --task code many.lps
prints 'code for an interface .* below the sweet spot' "of code are below the sweet spot"
status 2 "advice on nothing" qlora-train --model "$M" --advise
says "give the token stream" "is not given"
status 0 "ten steps before many" train --max-steps 5000 --eval held.lps --eval-every 100 --prompts prompts.jsonl --smoke -o long train.lps
quiet "say nothing on standard error"
prints '^10 steps: loss [0-9.]* at first, [0-9.]* at last; held out [0-9.]* at best' "what they came to"
prints 'a checkpoint, which was read back' "with a checkpoint"
prints '^5000 steps would take ' "and how long the run would take"
is "nothing of it stays" "$(echo long*)" 'long*'
status 6 "a run that would diverge" diverge --smoke --eval held.lps

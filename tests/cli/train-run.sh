#!/bin/sh
# What qlora-train says and does beside its steps: held-out sets, samples, the
# watch over its curves, metrics.
. "$(dirname "$0")/lib.sh"
cd "$T" || exit 1
M=$ROOT/data/stories260K
D=$ROOT/data/quickstart
tokens() { head -n "$2" "$1" | chat-template --model "$M" | tokenize --model "$M"; }
tokens "$D/upper_train.jsonl" 6 >train.lps
tokens "$D/upper_heldout.jsonl" 2 >held.lps
tokens "$D/upper_heldout.jsonl" 5 >more.lps
train() { qlora-train --model "$M" --threads 1 --lr 5e-3 --rank 4 --batch 1 --accumulate 1 --dropout 0.1 "$@"; }
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
lm-generate --model "$M" --quant nf4 --adapter sampled --max-new 12 prompts.jsonl | sed 's/.*"response":\("[^,]*"\),.*/\1/' >answers
events sample samples.log | tail -n 2 | sed 's/.*"response":\("[^,]*"\),.*/\1/' >logged
same "are what lm-generate answers" answers logged
status 0 "answers beyond the rows' length" train --max-steps 6 --eval held.lps --eval-every 3 --prompts prompts.jsonl --sample-tokens 450 --sample-every epoch -o sampled2 train.lps
same "change no bit either" sampled2/adapter_model.safetensors one/adapter_model.safetensors
status 2 "samples without prompts" train --sample-every 2 train.lps
echo '{"neither":1}' >bad.jsonl
status 3 "prompts of no known shape" train --prompts bad.jsonl train.lps
says "bad.jsonl:1" "are named"

#!/bin/sh
# lora-merge: exact merges of the golden in tests/unit/data/merge (its numbers
# are proved in test_merge), streams, refusals, and what an interruption leaves.
. "$(dirname "$0")/lib.sh"
D=$ROOT/tests/unit/data/merge
cd "$T" || exit 1

ok "merge" lora-merge -q --model "$D/base" --adapter "$D/one" --verify full -o m
quiet "quietly"
ok "without --quiet" lora-merge --model "$D/base" --adapter "$D/one" -o m2
says "only the shapes are checked" "an adapter of PEFT's draws a warning"
same "the same bytes again" m/model.safetensors m2/model.safetensors
for f in config.json README.md lorapipe.json; do ok "$f is there" test -s "m/$f"; done
ok "the base's hash is recorded" grep -q '"id":"sha256:7d26d456d97446435154f6a067c3e9aa60e1fd4e9498aa8f5ea7e63a8a60ba23"' m/lorapipe.json
ok "what was lost is counted" grep -q '"elements_lost_to_rounding":0' m/lorapipe.json
status 2 "an existing output is refused" lora-merge -q --model "$D/base" --adapter "$D/one" -o m
status 2 "so is an input, --force or not" lora-merge -q --model m --adapter "$D/two" --force -o ./m/
says "is an input" "with the reason"
ok "shards" lora-merge -q --model "$D/base" --adapter "$D/one" --shard-size 8K -o shards
ok "with an index" test -s shards/model.safetensors.index.json
ok "bfloat16" lora-merge -q --model "$D/base" --adapter "$D/one" --dtype bfloat16 -o b
ok "config.json says so" grep -q '"dtype": "bfloat16"' b/config.json
for t in 1 2 3; do
	lora-merge -q -j $t --model "$D/base" --adapter "$D/one" --adapter "$D/two:0.5" -o soup$t
done
same "threads change nothing (1, 2)" soup1/model.safetensors soup2/model.safetensors
same "threads change nothing (1, 3)" soup1/model.safetensors soup3/model.safetensors
ok "the weight is recorded" grep -q '"weight":0.5' soup1/lorapipe.json
ok "a model as a base of its own" lora-merge -q --model m --adapter "$D/two" -o twice
ok "its lineage is kept" grep -q '"lineage":{"tool":"lora-merge".*"lineage":{"tool":"lora-merge"' twice/lorapipe.json

# streams
ok "to a stream" sh -c "lora-merge -q --model '$D/base' --adapter '$D/one' >m.lps"
ok "a stream as the base" sh -c "lora-merge -q --model - --adapter '$D/two' -o fromstream <m.lps"
same "gives what the directory gives" fromstream/model.safetensors twice/model.safetensors
shape="--family llama --hidden 24 --ffn 40 --layers 1 --heads 3 --kv-heads 1 --head-dim 8 --vocab 32 --dtype float32"
ok "a pipe" sh -c "model-init $shape | lora-merge -q --model - --adapter '$D/two' -o piped"
model-init $shape -o other
ok "and by way of a directory" lora-merge -q --model other --adapter "$D/two" -o stepped
same "are the same" piped/model.safetensors stepped/model.safetensors
status 3 "a cut stream" sh -c "head -c 20000 m.lps | lora-merge -q --model - --adapter '$D/two' -o x"
says "truncated" "is truncated"
status 3 "an empty stream" sh -c "lora-merge -q --model '$D/base' -o x </dev/null"
says "empty" "and the program before is named"
status 2 "a model where an adapter is due" sh -c "lora-merge -q --model '$D/base' -o x <m.lps"
says "adapter stream is needed" "is named"
status 2 "stdin twice" lora-merge -q --model - -o x
status 2 "a stream as model.safetensors' directory" sh -c "mkdir sd && cp '$D/base/config.json' sd && lora-merge -q --model sd --adapter '$D/one' -o x"
says "download" "with the remedy"

# another base
cp -R "$D/one" ours
printf '{"base_id":"sha256:%s"}\n' 7d26d456d97446435154f6a067c3e9aa60e1fd4e9498aa8f5ea7e63a8a60ba23 >ours/lorapipe.json
ok "the right base" lora-merge --model "$D/base" --adapter ours -o right
quiet "needs no warning"
same "same merge" m/model.safetensors right/model.safetensors
status 2 "another base of the same shape" lora-merge --model other --adapter ours -o x
says "another base" "is refused"
status 2 "into a stream too" sh -c "lora-merge --model other --adapter ours >x.lps"
is "before its first byte" "$(wc -c <x.lps | tr -d ' ')" 0
rm x.lps
cp -R "$D/two" two
cp ours/lorapipe.json two
ok "--accept-base merges" lora-merge --model other --adapter two --accept-base -o accepted
ok "and records it" grep -q '"accepted_although_another":true' accepted/lorapipe.json
status 2 "an adapter with its own head" lora-merge -q --model other --adapter "$D/one" -o x
says "carries its own 'lm_head.weight'" "must have this base's"
model-init --hidden 48 --heads 3 --kv-heads 1 --vocab 32 -o wide
status 2 "another shape" lora-merge -q --model wide --adapter "$D/two" -o x
says "the model.s is BF16 (96, 48)" "is named"
model-init --family llama --hidden 24 --ffn 40 --layers 1 --heads 3 --kv-heads 1 --head-dim 8 --vocab 32 --tied -o tied
status 2 "a tied head" lora-merge -q --model tied --adapter "$D/one" -o x
says "shares between embedding and head" "is refused"

# quantised bases
cp -R "$D/base" q4
sed 's/"vocab_size"/"quantization_config": {"load_in_4bit": true}, "vocab_size"/' "$D/base/config.json" >q4/config.json
sed 's/"base_model_name_or_path": *"[^"]*"/"base_model_name_or_path": "unsloth\/llama-3-8b-bnb-4bit"/' "$D/two/adapter_config.json" >two/adapter_config.json
rm two/lorapipe.json
status 2 "a 4-bit base" lora-merge -q --model q4 --adapter two -o x
says "16-bit model it was made from, unsloth/llama-3-8b$" "the right one is named"

# nothing to merge
cp -R "$D/two" zero
n=$(od -An -tu8 -N8 zero/adapter_model.safetensors | tr -d ' ')
size=$(wc -c <zero/adapter_model.safetensors)
{ head -c $((8 + n)) "$D/two/adapter_model.safetensors"; head -c $((size - 8 - n)) /dev/zero; } >zero/adapter_model.safetensors
status 2 "an adapter of zeros" lora-merge -q --model "$D/base" --adapter zero -o x
says "changes nothing" "is refused"
status 2 "a change below the rounding" lora-merge -q --model "$D/base" --adapter "$D/two:1e-7" --dtype bfloat16 -o x
says "round back" "is refused"

cp -R "$D/two" loud
sed 's/"lora_alpha": *[0-9.]*/"lora_alpha": 1e12/' "$D/two/adapter_config.json" >loud/adapter_config.json
status 3 "what float16 cannot hold" lora-merge -q --model "$D/base" --adapter loud --dtype float16 -o x
says "elements became infinite or NaN by the merge: use --dtype bfloat16 or float32" "is refused, with the way out"
ok "no output of it" test ! -e x

# broken adapters and bases
for cut in 4 100 900 1300; do
	cp -R "$D/two" "cut$cut"
	head -c $cut "$D/two/adapter_model.safetensors" >"cut$cut/adapter_model.safetensors"
	status 3 "an adapter cut at $cut" lora-merge -q --model "$D/base" --adapter "cut$cut" -o x
	says "truncated" "is truncated"
done
cp -R "$D/base" cutbase
head -c 5000 "$D/base/model.safetensors" >cutbase/model.safetensors
status 3 "a cut base" lora-merge -q --model cutbase --adapter "$D/two" -o x
mkdir no-adapter
status 4 "no adapter there" lora-merge -q --model "$D/base" --adapter no-adapter -o x
status 2 "no model" lora-merge --adapter "$D/two" -o x
says "model DIR" "is asked for"
status 4 "a full disk" sh -c "lora-merge -q --model '$D/base' --adapter '$D/two' >/dev/full"
status 4 "a limit on file size" limited 4 lora-merge -q --model "$D/base" --adapter "$D/two" -o x

# killed in the middle: a base that comes slowly, then SIGTERM
mkfifo slow
(head -c 15000 m.lps; sleep 5) >slow &
feeder=$!
lora-merge -q --model slow --adapter "$D/two" -o x 2>err &
pid=$!
i=0
while [ $i -lt 50 ] && ! ls -A | grep -q '^\.x\|^x'; do sleep 0.1; i=$((i + 1)); done
kill -TERM $pid
wait $pid
is "SIGTERM ends it" $? 143
kill $feeder 2>/dev/null
is "none of all this left anything" "$(ls -A | grep -c '^\.\{0,1\}x\(\..*\)\{0,1\}$')" 0

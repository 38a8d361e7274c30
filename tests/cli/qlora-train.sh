#!/bin/sh
# qlora-train and lm-generate from the command line: what goes in, what comes
# out, what is refused and how.
. "$(dirname "$0")/lib.sh"
cd "$ROOT" || exit 1
M=data/stories260K
D=data/quickstart
tokens() { chat-template --model $M "$1" | tokenize --model $M; }
head -n 12 $D/upper_train.jsonl >"$T/train.jsonl"
head -n 4 $D/upper_heldout.jsonl >"$T/held.jsonl"
tokens "$T/train.jsonl" >"$T/train.lps"
tokens "$T/held.jsonl" >"$T/held.lps"
train() { qlora-train --model $M --rank 4 --lr 5e-3 --threads 1 "$@"; }

# the plan, from config.json alone
mkdir "$T/l31"
cat >"$T/l31/config.json" <<'J'
{"architectures":["LlamaForCausalLM"],"attention_bias":false,"bos_token_id":128000,"eos_token_id":[128001,128008,128009],"hidden_act":"silu",
"hidden_size":4096,"intermediate_size":14336,"max_position_embeddings":131072,"mlp_bias":false,"model_type":"llama","num_attention_heads":32,
"num_hidden_layers":32,"num_key_value_heads":8,"rms_norm_eps":1e-05,"rope_scaling":{"factor":8.0,"low_freq_factor":1.0,"high_freq_factor":4.0,
"original_max_position_embeddings":8192,"rope_type":"llama3"},"rope_theta":500000.0,"tie_word_embeddings":false,"torch_dtype":"bfloat16","vocab_size":128256}
J
plan() { qlora-train --model "$T/l31" --dry-run --batch 1 "$@"; }
status 0 "a plan needs config.json alone" plan --rank 32
prints '83,886,080 of 8,114,147,328 parameters (1.034 %)' "rank 32, seven projections, Llama 3.1 8B"
status 0 "rank 16" plan --rank 16
prints '41,943,040 of 8,072,204,288 parameters (0.520 %)' "rank 16, seven projections"
status 0 "attention alone" plan --rank 16 --targets q_proj,k_proj,v_proj,o_proj
prints '13,631,488 of 8,043,892,736 parameters (0.169 %)' "rank 16, attention alone"
status 0 "rank 8" plan --rank 8
prints '20,971,520 of' "rank 8"
status 0 "rank 64" plan --rank 64
prints '167,772,160 of' "rank 64"
prints 'NF4 codes *3489660928' "half a byte a weight"
status 5 "a plan that cannot fit in --memory" plan --memory 2G
says 'needs .* MiB and 2048.0 MiB may be used' "says what it needs"
prints 'does not fit' "and still prints the plan"

# 400,000 tokens at once: what each of them costs is a few rows of the model's width, and the layers' inputs wait where there is room
long() { plan --device cuda --rank 32 --optimizer adamw8bit --max-len 400000 "$@"; }
status 2 "three times the model's positions" long --memory 80G
status 0 "when told to" long --allow-long --memory 129G
prints 'micro-batch of 400000 tokens; .* 32 run again; .* wait in host memory' "every layer runs again"
rows=$(awk '/^ *(activations, shared|gradients of activations)/ { all += $(NF - 3) } END { print all < 22.5e9 }' "$T/.out")
is "six rows of the model's width and what a piece takes" "$rows" 1

# activations that travel
gpu() { plan --device cuda --rank 16 --batch 4 --max-len 2048 "$@"; }
status 0 "a GPU with too little memory for all activations" gpu --memory 22G --host-memory 16G
prints 'recorded launches *[0-9]* bytes *32[.]3 MiB' "a step's launches are on the GPU"
prints 'of 32 layers .* [1-9][0-9]* send those to host memory' "sends some to the host"
prints '^  page-locked host memory  *[1-9]' "says how much"
prints '^  host: activations that travel  *[1-9]' "and what"
status 0 "a host with little memory" gpu --memory 22G --host-memory 600M
prints ' 0 send those to host memory' "gets none"
status 0 "a GPU that has enough" gpu --memory 70G
prints ' 0 send those to host memory and back, 0 run again' "keeps them"
status 5 "a host with none" gpu --memory 7900M --host-memory 1M
says 'raise --host-memory' "is what the plan lacks"

# what a GPU computes in
status 0 "a plan for a GPU that is not there" plan --device cuda --memory 24G
prints '^device *cuda, bf16' "takes bf16"
cp "$T/.out" "$T/bf16"
status 0 "one in fp16" plan --device cuda --compute fp16 --memory 24G
prints '^device *cuda, fp16' "says so"
prints '^loss scale from 65536' "scales the loss"
is "takes as much memory" "$(grep '^  total' "$T/.out")" "$(grep '^  total' "$T/bf16")"
status 2 "the CPU has no fp16" train --device cpu --compute fp16 --max-steps 1 -o "$T/x" "$T/train.lps"
says 'CPU computes in fp32, not fp16' "says why"
status 2 "no bf16 either" lm-generate --model $M --device cpu --compute bf16 "$T/held.jsonl"
mkdir "$T/alone" "$T/alone/bin" && cp "$(command -v qlora-train)" "$T/alone/bin"
status 5 "no library for fp16" "$T/alone/bin/qlora-train" --model $M --device cuda --compute fp16 --max-steps 1 -o "$T/x" "$T/train.lps"
says 'no CUDA kernels for fp16 (liblorapipe_cuda_f16.so' "is named"

# a run
status 0 "trains" train --eval "$T/held.lps" --eval-every 3 --max-steps 6 --log "$T/log" -o "$T/a" "$T/train.lps"
quiet "and says nothing off a terminal"
ok "writes what PEFT reads" test -f "$T/a/adapter_config.json" -a -f "$T/a/adapter_model.safetensors"
is "evaluates before, at 3 and at 6" "$(grep -c '"event":"eval"' "$T/log")" 3
is "logs each step" "$(grep -c '"event":"train"' "$T/log")" 6
ok "and the plan and the end" grep -q '"event":"done"' "$T/log"
status 0 "the same command again" train --eval "$T/held.lps" --eval-every 3 --max-steps 6 -o "$T/b" "$T/train.lps"
same "gives the same bytes" "$T/a/adapter_model.safetensors" "$T/b/adapter_model.safetensors"
status 0 "with two threads" train --threads 2 --eval "$T/held.lps" --eval-every 3 --max-steps 6 -o "$T/c" "$T/train.lps"
same "too" "$T/a/adapter_model.safetensors" "$T/c/adapter_model.safetensors"
plan_bytes() { train --quant nf4 --dry-run "$@" "$T/train.lps" | sed -n 's/^ *total *\([0-9]*\) .*/\1/p'; }
most=$(plan_bytes)
status 0 "with half of the memory" train --quant nf4 --memory $((most / 2)) --max-steps 3 -o "$T/tight" "$T/train.lps"
status 0 "and with all" train --quant nf4 --max-steps 3 -o "$T/roomy" "$T/train.lps"
same "the same bytes" "$T/tight/adapter_model.safetensors" "$T/roomy/adapter_model.safetensors"
status 2 "an output that exists" train --max-steps 1 -o "$T/a" "$T/train.lps"
says 'exists.*--force' "is refused with the remedy"
status 0 "unless --force" train --max-steps 1 --force -o "$T/b" "$T/train.lps"
status 0 "8-bit states, dropout, linear" train --optimizer adamw8bit --dropout 0.1 --schedule linear --max-steps 2 -o "$T/d" "$T/train.lps"
status 0 "checkpoints" train --save-every 1 --max-steps 2 -o "$T/e" "$T/train.lps"
ok "are beside the output" test -f "$T/e.step-1/adapter_model.safetensors"
status 0 "from standard input to standard output" sh -c "train_() { qlora-train --model $M --rank 4 --max-steps 1 --warmup-steps 0; }; train_ <'$T/train.lps' | lora-merge --model $M --accept-base -o '$T/m'"
ok "into a merged model" test -f "$T/m/config.json"
status 0 "loss of the base" qlora-train --model $M --quant none --eval "$T/held.lps" --eval-only
prints '"loss":[0-9.]*' "as JSON"
base=$(sed 's/.*"loss":\([0-9.]*\).*/\1/' "$T/.out")
status 0 "loss with the adapter" qlora-train --model $M --quant none --eval "$T/held.lps" --adapter "$T/a" --eval-only
tuned=$(sed 's/.*"loss":\([0-9.]*\).*/\1/' "$T/.out")
ok "is lower ($base, $tuned)" awk "BEGIN { exit !($tuned < $base - 0.5) }"
status 0 "goes on from an adapter" train --adapter "$T/a" --max-steps 1 -o "$T/f" "$T/train.lps"

status 0 "stops when nothing is learnt" train --lr 0 --eval "$T/held.lps" --eval-every 2 --patience 2 --max-steps 40 --log "$T/plog" -o "$T/early" "$T/train.lps"
is "after two evaluations without a fall" "$(grep '"event":"eval"' "$T/plog" | tail -n 1 | sed 's/.*"step":\([0-9]*\).*/\1/')" 4
status 2 "patience without evaluations" train --patience 3 --eval "$T/held.lps" "$T/train.lps"

# refusals, before any work
status 2 "no model" qlora-train "$T/train.lps"
status 2 "evaluation without data" train --eval-every 5 --max-steps 1 "$T/train.lps"
says 'give --eval FILE' "says what is missing"
status 2 "a projection that the model lacks" train --targets q_proj,w1 "$T/train.lps"
says "no projection 'w1'" "is named"
status 2 "--nonfinite nonsense" train --nonfinite perhaps "$T/train.lps"
status 2 "a length beyond the model's" train --max-len 4096 --dry-run
says "model's 512 positions; --allow-long" "is named, and the way past it"
status 0 "past it when told to" train --max-len 4096 --allow-long --dry-run
prints 'micro-batch of 8192 tokens' "plans for so many"
status 4 "no such file" train "$T/none.lps"
status 3 "an empty stream" train /dev/null
status 3 "not a stream" train "$T/train.jsonl"
size=$(wc -c <"$T/train.lps")
for cut in 4 100 $((size / 2)) $((size - 1)); do
	head -c "$cut" "$T/train.lps" >"$T/cut.lps"
	status 3 "a stream cut at $cut" train -o "$T/x" "$T/cut.lps"
	ok "leaves no output" test ! -e "$T/x"
done
sed 's/"hidden_act": *"silu"/"hidden_act": "gelu"/' $M/config.json >"$T/config.json"
cp -r $M "$T/m2" && cp "$T/config.json" "$T/m2/config.json"
status 3 "an activation that is not known" qlora-train --model "$T/m2" "$T/train.lps"
says 'config.json.*hidden_act' "is named"

# not finite
weight() { # DIR BYTES: a copy of the model with these four bytes inside a projection's weights
	cp -r $M "$1"
	n=$(($(od -An -N8 -tu8 $M/model.safetensors) + 8 + 600000))
	{ head -c $n $M/model.safetensors; printf "$2"; tail -c +$((n + 5)) $M/model.safetensors; } >"$1/model.safetensors"
}
weight "$T/nan" '\0\0\300\177'
for q in nf4 none; do
	status 3 "a weight that is not a number, $q" qlora-train --model "$T/nan" --quant $q --max-steps 1 -o "$T/x" "$T/train.lps"
	says "nan: tensor 'model.layers.[0-9].*', element [0-9]*, is infinite or not a number" "is named"
	ok "leaves no output" test ! -e "$T/x"
	status 3 "nor does it answer, $q" lm-generate --model "$T/nan" --quant $q --max-new 2 "$T/held.jsonl"
done
weight "$T/huge" '\377\377\177\177'
status 3 "weights that overflow" lm-generate --model "$T/huge" --max-new 2 "$T/held.jsonl"
says 'record [0-9]*: .*not finite' "the record is named"
status 3 "the likelihood under them" lm-generate --model "$T/huge" --score "$T/held.jsonl"
says 'record [0-9]*: .*not finite' "the record is named"
status 6 "training on them" qlora-train --model "$T/huge" --max-steps 1 -o "$T/x" "$T/train.lps"
status 6 "a learning rate that diverges" train --lr 1000 --max-grad-norm 0 --max-steps 60 --warmup-ratio 0 --schedule constant -o "$T/g" "$T/train.lps"
says 'step [0-9]*: the .* is not finite .* on records [0-9]' "names step and records"
ok "leaves no output under the name" test ! -e "$T/g"
ok "and keeps the last good adapter" test -f "$T/g.last-good/adapter_model.safetensors"
status 6 "skips as many as it may" train --lr 1000 --max-grad-norm 0 --max-steps 60 --warmup-ratio 0 --schedule constant --nonfinite skip:2 -o "$T/g2" "$T/train.lps"
says 'is not finite.*; skipped (2 of 2)' "says so each time"
ok "and leaves no output under the name" test ! -e "$T/g2"

# a model that is not what its config.json says
other() { rm -rf "$T/odd"; cp -R $M "$T/odd"; sed "$1" $M/config.json >"$T/odd/config.json"; qlora-train --model "$T/odd" --max-steps 1 -o "$T/x" "$T/train.lps"; }
status 3 "a layer too many in config.json" other 's/"num_hidden_layers": 5/"num_hidden_layers": 6/'
says "odd: tensor 'model.layers.5.self_attn.q_proj.weight' is missing" "the missing tensor is named"
status 3 "a layer too few" other 's/"num_hidden_layers": 5/"num_hidden_layers": 4/'
says "odd: tensor 'model.layers.4.[a-z_.]*' does not belong to a llama model" "what is too much is named"
status 3 "another width" other 's/"intermediate_size": [0-9]*/"intermediate_size": 176/'
says "tensor 'model.layers.[0-9].mlp.[a-z_.]*' is not of the shape" "what does not fit is named"
status 3 "tokens of a larger vocabulary" other 's/"vocab_size": 512/"vocab_size": 100/'
says "train.lps' holds token id [0-9]*, and the model has 100" "are named"
status 2 "sequences longer than the model reads" other 's/"max_position_embeddings": 512/"max_position_embeddings": 16/'
says "reads at most 16; tokenise with --max-len 16" "are refused, with the way out"
chat-template --model $M "$T/held.jsonl" | tokenize --model $M --train-on none >"$T/masked.lps" 2>/dev/null
status 3 "nothing to learn" train --max-steps 1 -o "$T/x" "$T/masked.lps"
says 'no token to learn from (4 sequences, all masked)' "is not trained on"
ok "no output for any of them" test ! -e "$T/x"
ok "a model of another identity" lora-merge -q --model $M --adapter "$T/a" -o "$T/merged"
status 2 "does not take its former base's adapter" lm-generate --model "$T/merged" --adapter "$T/a" --max-new 2 "$T/held.jsonl"
says "trained on another base" "and says why"

# generation
status 0 "completes" lm-generate --model $M --max-new 8 "$T/held.jsonl"
is "one for each record" "$(wc -l <"$T/.out" | tr -d ' ')" 4
prints '"expected":' "with the answer that was there"
cp "$T/.out" "$T/one"
status 0 "one at a time" lm-generate --model $M --max-new 8 --batch 1 "$T/held.jsonl"
same "the same" "$T/.out" "$T/one"
status 0 "with an adapter" lm-generate --model $M --adapter "$T/a" --max-new 8 "$T/held.jsonl"
ok "another" sh -c "! cmp -s '$T/.out' '$T/one'"
echo '{"prompt":"Once upon a time"}' >"$T/raw"
status 0 "raw text" lm-generate --model $M --raw --max-new 12 "$T/raw"
prints '"response":", there was a little girl named Lily' "goes on as the model does"
status 3 "a prompt that does not fit" lm-generate --model $M --context 4 "$T/held.jsonl"
says 'held.jsonl:1: .*--context' "is named"
{ echo; cat "$T/held.jsonl"; printf '{"prompt":"%s"}\n{"prompt":"Tom"}\n' "$(awk 'BEGIN { while (i++ < 600) printf "a b " }')"; } >"$T/long"
status 3 "a prompt longer than the model" lm-generate --model $M "$T/long"
status 0 "is left out" lm-generate --model $M --max-new 2 --batch 2 --drop-long --log "$T/long.log" "$T/long"
says '1 record.* left out' "with a warning"
is "the ids of the others are their lines" "$(sed 's/^{"id":\([0-9]*\).*/\1/' "$T/.out" | tr '\n' ' ')" "2 3 4 5 7 "
ok "the log counts" grep -q '"records":6,"dropped":1' "$T/long.log"
: >"$T/empty"
status 3 "no prompts" lm-generate --model $M "$T/empty"
echo '{"neither":1}' >"$T/bad"
status 3 "a record of no known shape" lm-generate --model $M "$T/bad"

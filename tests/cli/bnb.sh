#!/bin/sh
# A base that is in bitsandbytes' 4-bit form already, through the programs: trained on,
# generated from, and refused where full weights are needed.
. "$(dirname "$0")/lib.sh"
cd "$ROOT" || exit 1
G=tests/conformance/model
S=data/stories260K
for m in bnb_qwen2 bnb_storage; do
	mkdir "$T/$m"
	cp $G/$m/*.json $G/$m/model*.safetensors $S/tokenizer.json $S/tokenizer_config.json $S/chat_template.jinja "$T/$m"
done
head -n 12 data/quickstart/upper_train.jsonl | chat-template --model "$T/bnb_storage" | tokenize --model "$T/bnb_storage" >"$T/train.lps"
train() { base=$1; shift; qlora-train --model "$T/$base" --rank 4 --lr 5e-3 --threads 1 "$@" "$T/train.lps"; }
plan() { qlora-train --model "$1" --dry-run --batch 1; }
total() { sed -n 's/^ *total *\([0-9]*\) .*/\1/p'; }

# the plan, from config.json alone
mkdir "$T/l31"
cat >"$T/l31/config.json" <<'J'
{"architectures":["LlamaForCausalLM"],"attention_bias":false,"bos_token_id":128000,"eos_token_id":[128001,128008,128009],"hidden_act":"silu",
"hidden_size":4096,"intermediate_size":14336,"max_position_embeddings":131072,"mlp_bias":false,"model_type":"llama","num_attention_heads":32,
"num_hidden_layers":32,"num_key_value_heads":8,"rms_norm_eps":1e-05,"rope_scaling":{"factor":8.0,"low_freq_factor":1.0,"high_freq_factor":4.0,
"original_max_position_embeddings":8192,"rope_type":"llama3"},"rope_theta":500000.0,"tie_word_embeddings":false,"torch_dtype":"bfloat16","vocab_size":128256,
"unsloth_fixed":true,"quantization_config":{"_load_in_4bit":true,"_load_in_8bit":false,"bnb_4bit_compute_dtype":"bfloat16","bnb_4bit_quant_storage":"uint8",
"bnb_4bit_quant_type":"nf4","bnb_4bit_use_double_quant":true,"llm_int8_enable_fp32_cpu_offload":false,"llm_int8_has_fp16_weight":false,
"llm_int8_skip_modules":["lm_head","model.layers.31.mlp"],"llm_int8_threshold":6.0,"load_in_4bit":true,"load_in_8bit":false,"quant_method":"bitsandbytes"}}
J
status 0 "a plan needs config.json alone" qlora-train --model "$T/l31" --dry-run --batch 1 --rank 32 --device cuda
prints '83,886,080 of 8,114,147,328 parameters (1.034 %)' "parameters are counted, not bytes"
prints 'base  *NF4, double quantisation, as the checkpoint has it' "what the base is"
prints 'projections  *3[56][0-9]* bytes' "the layer that was left in 16 bits is in the plan"
sed 's/"bnb_4bit_use_double_quant":true,//; s/"llm_int8_skip_modules":\[[^]]*\]/"llm_int8_skip_modules":null/' "$T/l31/config.json" >"$T/config.json"
mv "$T/config.json" "$T/l31/config.json"
status 0 "without double quantisation" qlora-train --model "$T/l31" --dry-run --batch 1 --memory 12G
prints 'NF4 scales  *436207616 bytes' "four bytes for 64 weights"

echo '{"prompt":"Once upon a time"}' >"$T/raw.jsonl"
# trained on
for m in bnb_qwen2 bnb_storage; do
	loss=$(train $m --eval "$T/train.lps" --eval-only | sed 's/.*"loss":\([0-9.]*\).*/\1/')
	status 0 "$m: trains" train $m --max-steps 12 -o "$T/$m.a"
	quiet "$m: and says nothing"
	less=$(train $m --eval "$T/train.lps" --eval-only --adapter "$T/$m.a" | sed 's/.*"loss":\([0-9.]*\).*/\1/')
	ok "$m: learns ($loss, $less)" awk "BEGIN { exit !($less < $loss - 0.1) }"
	most=$(train $m --dry-run | total)
	status 0 "$m: with less memory" train $m --memory $((most - 1)) --max-steps 12 -o "$T/$m.tight"
	same "$m: the same bytes" "$T/$m.a/adapter_model.safetensors" "$T/$m.tight/adapter_model.safetensors"
	status 0 "$m: generates with the adapter" sh -c "printf '%s\n' '{\"prompt\":\"Once upon a time\"}' | lm-generate --model '$T/$m' --adapter '$T/$m.a' --raw --max-new 6 --context 64"
	cp "$T/.out" "$T/$m.out"
	prints '"response"' "$m: an answer"
	status 0 "$m: --quant nf4 is what it is" sh -c "printf '%s\n' '{\"prompt\":\"Once upon a time\"}' | lm-generate --model '$T/$m' --adapter '$T/$m.a' --quant nf4 --raw --max-new 6 --context 64"
	same "$m: the same answer" "$T/.out" "$T/$m.out"
done

# full weights are not to be had
status 2 "LoRA over it in 16 bits" train bnb_storage --quant none --max-steps 1 -o "$T/x"
says 'checkpoint in 4 bits.*--quant nf4, or give the 16-bit model' "is refused with the remedy"
status 2 "the same, planned" qlora-train --model "$T/l31" --dry-run --quant none
status 2 "generating in 16 bits" sh -c "printf '{\"prompt\":\"a\"}\n' | lm-generate --model '$T/bnb_storage' --quant none --raw"
says '4 bits' "is refused"
status 2 "a merge" lora-merge --model "$T/bnb_storage" --adapter "$T/bnb_storage.a" -o "$T/x"
says 'quantised (config.json has a quantization_config).*the 16-bit model it was made from' "is refused"
sed 's/"base_model_name_or_path": *"[^"]*"/"base_model_name_or_path": "unsloth\/Llama-3.2-1B-unsloth-bnb-4bit"/' "$T/bnb_storage.a/adapter_config.json" >"$T/config.json"
mv "$T/config.json" "$T/bnb_storage.a/adapter_config.json"
status 2 "a merge of an adapter that names its base" lora-merge --model "$T/bnb_storage" --adapter "$T/bnb_storage.a" -o "$T/x"
says 'made from, unsloth/Llama-3.2-1B$' "names the right one"
status 3 "export" gguf-export --model "$T/bnb_storage" -o "$T/x.gguf"
says 'already quantised.*16-bit model' "is refused"
ok "nothing is left" test ! -e "$T/x" -a ! -e "$T/x.gguf"
status 3 "random weights of its shape" model-init --from-config "$T/bnb_storage/config.json" -o "$T/x"
says 'take quantization_config out' "need a config.json without it"
sed '/"quantization_config"/,/^  }/d' "$T/bnb_storage/config.json" >"$T/full.json"
ok "without it they have" model-init --from-config "$T/full.json" --dtype bfloat16 -o "$T/full"
status 2 "a merge into a 16-bit model" lora-merge --model "$T/full" --adapter "$T/bnb_storage.a" -o "$T/x"
says 'trained on another base' "is not taken for granted"
ok "and done with --accept-base" lora-merge --model "$T/full" --adapter "$T/bnb_storage.a" --accept-base -o "$T/merged"

# the 16-bit model that the checkpoint was made from is known by its codes
for m in bnb_qwen2 bnb_storage; do
	mkdir "$T/$m.16"
	cp $G/$m.16/* $S/tokenizer.json $S/tokenizer_config.json $S/chat_template.jinja "$T/$m.16"
	train $m --max-steps 2 --warmup-steps 0 -o "$T/$m.known" 2>/dev/null
	ok "$m: its codes are in the adapter" grep -q '"codes":{"model.layers.0.[a-z_.]*":"[0-9a-f]\{64\}"' "$T/$m.known/lorapipe.json"
	status 0 "$m: its 16-bit model is taken" lm-generate --model "$T/$m.16" --adapter "$T/$m.known" --raw --max-new 2 --context 64 "$T/raw.jsonl"
	quiet "$m: without a word"
	status 0 "$m: trained on" qlora-train --model "$T/$m.16" --adapter "$T/$m.known" --max-steps 1 --threads 1 -o "$T/$m.on" "$T/train.lps"
	status 0 "$m: merged into" lora-merge --model "$T/$m.16" --adapter "$T/$m.known" -o "$T/$m.merged"
	quiet "$m: without a word"
done
ok "what was left in 16 bits has no codes" sh -c "! grep -q '\"model.layers.1.mlp' '$T/bnb_qwen2.known/lorapipe.json'"
cp $S/tokenizer.json $S/tokenizer_config.json "$T/full"
status 2 "another 16-bit model" lm-generate --model "$T/full" --adapter "$T/bnb_storage.known" --raw --max-new 2 --context 64 "$T/raw.jsonl"
says "a 4-bit one, and 'model.layers.0.[a-z_.]*' of this model does not quantise to its codes" "is refused by what differs"
# one weight that is another
cp -R "$T/bnb_storage.16" "$T/odd"
n=$(($(od -An -N8 -tu8 "$T/odd/model.safetensors") + 8 + 50000))
{ head -c $n "$T/bnb_storage.16/model.safetensors"; printf '\200\277'; tail -c +$((n + 3)) "$T/bnb_storage.16/model.safetensors"; } >"$T/odd/model.safetensors"
status 2 "the model with one weight changed" lm-generate --model "$T/odd" --adapter "$T/bnb_storage.known" --raw --max-new 2 --context 64 "$T/raw.jsonl"
says "does not quantise to its codes" "is another"

# config.json and tensors that do not agree
edit() { cp -R "$T/$1" "$T/bad" && sed "$2" "$T/$1/config.json" >"$T/bad/config.json"; }
refused() { status 3 "$1" qlora-train --model "$T/bad" --rank 4 --max-steps 1 -o "$T/x" "$T/train.lps"; says "$2" "$3"; rm -rf "$T/bad"; }
edit bnb_storage '/"quantization_config"/,/^  }/d'
refused "no quantization_config" "in bitsandbytes' 4 bits.*take the config.json that belongs" "its config.json is asked for"
edit bnb_storage 's/"bnb_4bit_use_double_quant": true/"bnb_4bit_use_double_quant": false/'
refused "no double quantisation in config.json" 'bnb_4bit_use_double_quant' "the key to correct is named"
edit bnb_qwen2 's/"bnb_4bit_use_double_quant": false/"bnb_4bit_use_double_quant": true/'
refused "double quantisation in config.json only" 'bnb_4bit_use_double_quant' "the key to correct is named"
edit bnb_qwen2 's/"model.layers.1.mlp"/"model.layers.2.mlp"/'
refused "another list of what was left out" 'llm_int8_skip_modules' "the key to correct is named"
edit bnb_storage 's/"nf4"/"fp4"/'
refused "fp4" "type 'fp4', and only nf4 is read.*16-bit model" "is refused"
edit bnb_storage 's/"load_in_4bit": true/"load_in_4bit": false/; s/"load_in_8bit": false/"load_in_8bit": true/'
refused "8 bits" "8 bits" "are refused"
edit bnb_storage 's/"quant_method": "bitsandbytes"/"quant_method": "awq"/'
refused "another method" "quantised by 'awq'" "is named"
cp -R "$T/bnb_qwen2" "$T/bad"
head -c 30000 "$T/bnb_qwen2/model.safetensors" >"$T/bad/model.safetensors"
refused "a cut checkpoint" "truncated" "is refused"
cp -R "$T/bnb_qwen2" "$T/bad"
sed 's/"blocksize": 64/"blocksize": 32/' "$T/bnb_qwen2/model.safetensors" >"$T/bad/model.safetensors"
refused "other blocks" "quant_state.bitsandbytes__nf4' says blocks of 32 weights, and only blocks of 64" "are refused by tensor and value"

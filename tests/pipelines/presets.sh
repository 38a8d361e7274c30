#!/bin/sh
# pipelines/presets: each is read as it stands, and gives the trainable
# parameters that its rank and targets must on Llama 3.1 8B; two of them evaluate, and say
# at once that they need held-out data.
. "$(dirname "$0")/../cli/lib.sh"
mkdir "$T/8b"
cat >"$T/8b/config.json" <<'E2'
{"architectures":["LlamaForCausalLM"],"model_type":"llama","hidden_size":4096,"intermediate_size":14336,"num_hidden_layers":32,
"num_attention_heads":32,"num_key_value_heads":8,"vocab_size":128256,"max_position_embeddings":131072,"rms_norm_eps":1e-5,
"rope_theta":500000.0,"tie_word_embeddings":false,"torch_dtype":"bfloat16","hidden_act":"silu"}
E2
head -n 4 data/quickstart/upper_heldout.jsonl | chat-template --model data/stories260K | tokenize --model data/stories260K -o "$T/held.lps"
trains() { # PRESET COUNT-OF-TRAINABLE
	status 0 "$1 plans a run" qlora-train --config "pipelines/presets/$1.conf" --model "$T/8b" --eval "$T/held.lps" --memory 200G --dry-run
	prints "^trainable *$2 of " "$1 trains $2 parameters"
}
trains s0 83,886,080
trains s1 41,943,040
trains s2 41,943,040
trains s3 13,631,488
for p in s0 s1; do
	status 2 "$p without held-out data is refused" qlora-train --config "pipelines/presets/$p.conf" --model "$T/8b" --dry-run
	says "give --eval" "with the remedy"
done
head -n 8 data/quickstart/upper_train.jsonl | chat-template --model data/stories260K | tokenize --model data/stories260K -o "$T/train.lps"
for p in s0 s1 s2 s3; do
	ok "$p trains" qlora-train --config "pipelines/presets/$p.conf" --model data/stories260K --eval "$T/held.lps" --eval-every 0 --max-steps 1 -o "$T/$p" "$T/train.lps"
done

# the values themselves, as the guides give them
has() { # PRESET NAME=VALUE...
	preset=$1
	shift
	qlora-train --config "pipelines/presets/$preset.conf" --print-config | sed 's/ = /=/' >"$T/conf"
	for v; do ok "$preset has $v" grep -qxF -e "$v" "$T/conf"; done
}
has s0 rank=32 alpha=64.0 dropout=0.05 batch=4 accumulate=4 epochs=3.0 lr=0.0002 schedule=cosine warmup-ratio=0.05 weight-decay=0.01 max-grad-norm=0.3 \
	optimizer=adamw8bit log-every=10 save-every=100 eval-every=100 seed=42
has s1 rank=16 alpha=16.0 dropout=0.0 batch=2 accumulate=8 epochs=3.0 lr=0.0002 schedule=cosine warmup-steps=50 weight-decay=0.01 optimizer=adamw8bit \
	log-every=25 save-every=200 eval-every=100
has s2 rank=16 alpha=16.0 dropout=0.0 batch=2 accumulate=4 max-steps=500 lr=0.0002 schedule=cosine warmup-steps=10 weight-decay=0.01 optimizer=adamw8bit \
	log-every=10 seed=3407
has s3 rank=16 alpha=16.0 dropout=0.0 targets=q_proj,k_proj,v_proj,o_proj batch=2 accumulate=4 epochs=3.0 lr=0.0002 warmup-steps=10 log-every=10 \
	save-every=epoch seed=42

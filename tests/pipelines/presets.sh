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

#!/bin/sh
# model-init: shapes, sameness over threads, shards and streams, refusals.
. "$(dirname "$0")/lib.sh"
cd "$T" || exit 1

ok "a tiny model" model-init -o a
quiet "and nothing is said"
ok "config.json, weights" test -s a/config.json -a -s a/model.safetensors
ok "one thread" model-init -j1 -o b
same "threads change nothing" a/model.safetensors b/model.safetensors
status 2 "an existing directory is refused" model-init -o a
ok "--force replaces it" model-init --force --seed 1 -o a
ok "other seeds, other weights" test "$(cksum <a/model.safetensors)" != "$(cksum <b/model.safetensors)"
ok "shards" model-init --shard-size 100K -o s
is "their number" "$(ls s | grep -c '^model-0000.-of-00003.safetensors$')" 3
ok "with an index" grep -q '"model.norm.weight": "model-0000.-of-00003.safetensors"' s/model.safetensors.index.json
model-init >st.lps
is "a stream ends with its end frame" "$(tail -c 300 st.lps | tr -d '\0' | grep -c '"end":"1"')" 1

# 8,030,261,248 is Llama 3.1 8B's own count; 1,235,814,400 Llama 3.2 1B's; 494,032,768 Qwen 2.5 0.5B's; 7,248,023,552 Mistral 7B v0.3's
for p in llama-3.1-8b:8030261248 llama-3.2-1b:1235814400 qwen2.5-0.5b:494032768 qwen2.5-7b:7615616512 mistral-7b:7248023552 llama-2-7b:6738415616; do
	is "${p%:*} has its parameters" "$(model-init --like "${p%:*}" --dry-run | sed -n 's/^parameters //p')" "${p#*:}"
done

ok "qwen2, odd sizes" model-init --family qwen2 --hidden 30 --heads 3 --kv-heads 1 --ffn 17 --vocab 11 --layers 1 --dtype float32 --tied -o q
ok "has biases on q, k, v" grep -q 'self_attn.k_proj.bias' q/model.safetensors
ok "and none on o" sh -c '! grep -q o_proj.bias q/model.safetensors'
ok "tied: no head" sh -c '! grep -q lm_head q/model.safetensors'
ok "from its configuration" model-init --from-config q/config.json --dtype float32 -o q2
n=$(model-init --from-config q/config.json --dtype float32 --dry-run | sed -n 's/^bytes //p') # the headers differ by their lineage
is "gives the same values" "$(tail -c "$n" q2/model.safetensors | cksum)" "$(tail -c "$n" q/model.safetensors | cksum)"
ok "a tokenizer goes along" sh -c 'echo "{}" >q/tokenizer.json && model-init --tokenizer q -o t && cmp q/tokenizer.json t/tokenizer.json'
status 2 "a directory without one" model-init --tokenizer a -o t2
says "no tokenizer" "is refused"
status 2 "shape options with --from-config" model-init --from-config q/config.json --layers 3 -o x
says "edit the file" "with the remedy"
status 2 "heads that do not divide" model-init --heads 4 --kv-heads 3 -o x
status 2 "odd heads" model-init --hidden 9 --heads 3 --kv-heads 3 -o x
says "head-dim" "with the remedy"
status 2 "an unknown preset" model-init --like gpt-9 -o x
status 2 "family against preset" model-init --like mistral-7b --family llama -o x
status 2 "an operand" model-init x
ok "no x was left" test ! -e x
status 4 "a full disk" sh -c 'model-init >/dev/full'
status 4 "a limit on file size" limited 1 model-init -o x
is "leaves nothing" "$(ls -A | grep -c x)" 0

#!/bin/sh
# gguf-export from the outside: files, streams, what it refuses, and that
# nothing is left behind. What is in the files: tests/unit/test_gguf.c.
. "$(dirname "$0")/lib.sh"
cd "$ROOT" || exit 1
M=data/stories260K

for t in f32 f16 bf16 q8_0 q4_0 q4_1 q5_0 q5_1 q4_k_s q4_k_m q5_k_s q5_k_m q6_k; do
	status 0 "--type $t" gguf-export --model $M --type $t -o "$T/$t.gguf"
	quiet "--type $t is silent"
done
is "it is GGUF version 3" "$(od -An -c -N 8 "$T/f32.gguf" | tr -s ' ')" ' G G U F 003 \0 \0 \0'
size() { wc -c <"$1" | tr -d ' '; }
if [ "$(size "$T/q4_k_m.gguf")" -lt "$(size "$T/q8_0.gguf")" ] && [ "$(size "$T/q8_0.gguf")" -lt "$(size "$T/f16.gguf")" ] &&
	[ "$(size "$T/f16.gguf")" -lt "$(size "$T/f32.gguf")" ]; then pass "fewer bits, fewer bytes"; else fail "fewer bits, fewer bytes" "$(ls -l "$T")"; fi
ok "the lineage names the model and the options" grep -q '"options":{"type":"q4_k_m".*"hash":"sha256:' "$T/q4_k_m.gguf.lineage.json"

gguf-export --model $M --type q8_0 >"$T/stdout.gguf" 2>"$T/.err"
quiet "standard output: silent"
same "standard output is the same file" "$T/stdout.gguf" "$T/q8_0.gguf"
ok "one thread" gguf-export --model $M --type q4_k_m -j 1 -o "$T/one.gguf"
same "one thread gives the same file" "$T/one.gguf" "$T/q4_k_m.gguf"
cp -r $M "$T/moved"
chmod -R u+w "$T/moved"
ok "a copy elsewhere" gguf-export --model "$T/moved" --type q4_k_m -o "$T/copy.gguf"
same "gives the same file" "$T/copy.gguf" "$T/q4_k_m.gguf"
ok "--log" gguf-export --model $M --type q8_0 --log "$T/log" -o "$T/logged.gguf"
ok "is one metric record" grep -q '"event":"export".*"type":"q8_0","tensors":47' "$T/log"
ok "--name" gguf-export --model $M --type q8_0 --name 'Tiny Stories' -o "$T/named.gguf"
ok "is in the file" grep -q 'Tiny Stories' "$T/named.gguf"

# a model stream, made by another program
if command -v model-init >/dev/null && model-init --like tiny --seed 3 -o "$T/rand" --tokenizer $M --vocab 512 2>/dev/null; then
	model-init --like tiny --seed 3 --tokenizer $M --vocab 512 >"$T/rand.lps"
	ok "a directory" gguf-export --model "$T/rand" --type q4_k_m -o "$T/dir.gguf"
	status 0 "the same model as a stream" sh -c 'gguf-export --type q4_k_m <"$1" >"$2"' sh "$T/rand.lps" "$T/stream.gguf"
	same "gives the same file" "$T/dir.gguf" "$T/stream.gguf"
	status 0 "a stream in a file" gguf-export --model "$T/rand.lps" --type q4_k_m -o "$T/lps.gguf"
	same "likewise" "$T/dir.gguf" "$T/lps.gguf"
	n=$(size "$T/rand.lps")
	for k in 1 100 $((n / 2)) $((n - 1)); do
		head -c "$k" "$T/rand.lps" >"$T/cut.lps"
		status 3 "a stream cut at byte $k of $n" gguf-export --type q8_0 --model "$T/cut.lps" -o "$T/cut.gguf"
		if [ -e "$T/cut.gguf" ]; then fail "leaves no file"; else pass "leaves no file"; fi
	done
else
	skip "no model-init"
fi

status 2 "an unknown type" gguf-export --model $M --type q2_k -o "$T/no.gguf"
says q4_k_m "names those that are known"
status 2 "an operand" gguf-export $M -o "$T/no.gguf"
status 4 "no such model" gguf-export --model "$T/absent" -o "$T/no.gguf"
status 3 "an empty stream" gguf-export --model /dev/null -o "$T/no.gguf"
sed 's/LlamaForCausalLM/GemmaForCausalLM/; s/"llama"/"gemma"/' $M/config.json >"$T/moved/config.json"
status 3 "an unknown family" gguf-export --model "$T/moved" -o "$T/no.gguf"
says gemma "is named"
sed 's/"num_hidden_layers": 5/"num_hidden_layers": 6/' $M/config.json >"$T/moved/config.json"
status 3 "a missing layer" gguf-export --model "$T/moved" -o "$T/no.gguf"
says 'model.layers.5.input_layernorm.weight' "is named"
sed 's/"num_hidden_layers": 5/"num_hidden_layers": 4/' $M/config.json >"$T/moved/config.json"
status 3 "a layer too many" gguf-export --model "$T/moved" -o "$T/no.gguf"
says 'model.layers.4' "is named"
cp $M/config.json "$T/moved"
n=$(size $M/model.safetensors)
head -c $((n - 100)) $M/model.safetensors >"$T/moved/model.safetensors"
status 3 "truncated weights" gguf-export --model "$T/moved" -o "$T/no.gguf"
# the last four bytes become an infinity
{ head -c $((n - 4)) $M/model.safetensors; printf '\000\000\200\177'; } >"$T/moved/model.safetensors"
status 3 "an infinite weight" gguf-export --model "$T/moved" -o "$T/no.gguf"
says 'infinite' "is found"
if ls "$T" | grep -q '^no.gguf\|\.tmp'; then fail "nothing is left behind" "$(ls "$T")"; else pass "nothing is left behind"; fi
if [ -e /dev/full ]; then
	status 4 "a full disk" sh -c "gguf-export --model $M --type q8_0 >/dev/full"
fi
status 4 "a folder that is not there" gguf-export --model $M -o "$T/none/x.gguf"

status 0 "a Modelfile beside it" gguf-export --model $M --type f16 -o "$T/with.gguf" --modelfile "$T/Modelfile"
is "names the file" "$(head -n 1 "$T/Modelfile")" "FROM ./with.gguf"
is "and is chat-template's" "$(cat "$T/Modelfile")" "$(chat-template --model $M --modelfile ./with.gguf)"
status 0 "in another folder" sh -c "mkdir '$T/mf' && gguf-export --model $M --type f16 -o '$T/with.gguf' --modelfile '$T/mf/Modelfile'"
is "by its whole path" "$(head -n 1 "$T/mf/Modelfile")" "FROM $(cd "$T" && pwd -P)/with.gguf"
status 2 "no file to name" gguf-export --model $M --modelfile "$T/Modelfile"
status 0 "a type in capitals, as people write it" gguf-export --model "$ROOT/data/stories260K" --type Q8_0 -o "$T/capitals.gguf"

#!/bin/sh
# lora-merge of a bf16 model with a rank-16 adapter on all seven projections,
# side by side with cp of the same model and sync. Usage: merge.sh [BUILD_DIR];
# tests/bench/run.sh says what it prints.
# LAYERS=6 of Llama 3.2 1B's 16: 628 M parameters, 1.26 GB. ROUNDS=3, interleaved.
set -eu
PATH=$PWD/${1:-build}/bin:$PATH
layers=${LAYERS:-6} rounds=${ROUNDS:-3} r=16
t=$(mktemp -d "${TMPDIR:-/tmp}/lp-bench.XXXXXX")
trap 'rm -rf "$t"' EXIT
cd "$t"
model-init --like llama-3.2-1b --layers "$layers" -o base

# The adapter: bf16, every value 0x3c12; the time does not depend on them.
mkdir adapter
echo "{\"peft_type\":\"LORA\",\"r\":$r,\"lora_alpha\":$r,\"target_modules\":[]}" >adapter/adapter_config.json
header=$(awk -v layers="$layers" -v r=$r 'BEGIN {
	n = split("self_attn.q_proj 2048 2048 self_attn.k_proj 512 2048 self_attn.v_proj 512 2048 self_attn.o_proj 2048 2048 " \
	          "mlp.gate_proj 8192 2048 mlp.up_proj 8192 2048 mlp.down_proj 2048 8192", m, " ")
	for (l = 0; l < layers; l++)
		for (i = 1; i <= n; i += 3) {
			p = "base_model.model.model.layers." l "." m[i]
			printf "%s\"%s.lora_A.weight\":{\"dtype\":\"BF16\",\"shape\":[%d,%d],\"data_offsets\":[%d,%d]}", s, p, r, m[i + 2], at, at + 2 * r * m[i + 2]
			at += 2 * r * m[i + 2]; s = ","
			printf ",\"%s.lora_B.weight\":{\"dtype\":\"BF16\",\"shape\":[%d,%d],\"data_offsets\":[%d,%d]}", p, m[i + 1], r, at, at + 2 * r * m[i + 1]
			at += 2 * r * m[i + 1]
		}
	printf " %d", at
}')
bytes=${header##* } header="{${header% *}}"
n=${#header}
{
	printf "\\$(printf %o $((n % 256)))\\$(printf %o $((n / 256 % 256)))\\$(printf %o $((n / 65536)))\\0\\0\\0\\0\\0%s" "$header"
	yes "$(printf '\022\074')" | tr -d '\n' | head -c "$bytes"
} >adapter/adapter_model.safetensors

took() { # NAME COMMAND...: appends NAME and seconds, the sync counted, to times
	name=$1
	shift
	sync
	a=$(date +%s.%N)
	"$@"
	sync
	b=$(date +%s.%N)
	rm -rf out
	echo "$name $a $b" | awk '{ print $1, $3 - $2 }' >>times
}
i=0
while [ $i -lt "$rounds" ]; do
	took cp cp -r base out
	took sample lora-merge -q --model base --adapter adapter -o out
	took off lora-merge -q --model base --adapter adapter --verify off -o out
	i=$((i + 1))
done
sort -k1,1 -k2,2n times | awk -v rounds="$rounds" -v size="$(du -sm base | cut -f1)" '
	{ k[$1] = k[$1] " " $2 }
	function line(what, name) {
		printf "%s of a bf16 model of %d MB\t%.2f\ts\t%.2f\t%.2f\tcp -r of the same, synced\n", what, size, m[name], m["cp"], m["cp"] / m[name]
	}
	END {
		for (n in k) { split(k[n], v, " "); m[n] = v[int((rounds + 1) / 2)] }
		line("lora-merge, rank 16 on 7 projections,", "sample")
		line("the same with --verify off,", "off")
	}'

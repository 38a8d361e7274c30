#!/bin/sh
# chat-template, whole program from JSONL to JSONL, one thread: conversations
# made by awk (seeded, no text twice) with Llama 3's template, and with any
# that TEMPLATES names (files, parted by spaces). Processor time, best of 3. Where LP_VENV has minijinja and jinja2,
# they render the same (rendering alone), and the texts are compared; else their figures are others'.
# Usage: template.sh BUILD_DIR [CONVERSATIONS]
set -eu
build=$1 n=${2:-200000}
tmp=$(mktemp -d "${TMPDIR:-/tmp}/lp-bench.XXXXXX")
trap 'rm -rf "$tmp"' EXIT
printf '{"bos_token":"<|begin_of_text|>","eos_token":"<|eot_id|>"}' >"$tmp/tokenizer_config.json"
awk -v n="$n" 'function text(k,  s, i) { for (i = 0; i < k; i++) { x = (x * 1103515245 + 12345) % 2147483648; s = s (i ? " " : "") word[int(x / 65536) % 64] } return s }
BEGIN {
	x = 1
	for (i = 0; i < 64; i++) { word[i] = ""; for (k = 0; k <= i % 9; k++) word[i] = word[i] sprintf("%c", 97 + (i * 7 + k * 5) % 26) }
	for (i = 0; i < n; i++) {
		printf "{\"messages\":[{\"role\":\"system\",\"content\":\"You are a helpful assistant.\"},{\"role\":\"user\",\"content\":\"%d %s\"},{\"role\":\"assistant\",\"content\":\"%s\"}", i, text(14), text(28)
		if (i % 2) printf ",{\"role\":\"user\",\"content\":\"%s\"},{\"role\":\"assistant\",\"content\":\"%s\"}", text(10), text(24)
		printf "],\"id\":%d}\n", i
	}
}' >"$tmp/c.jsonl"
echo "# corpus: $n conversations, $(($(wc -c <"$tmp/c.jsonl") / n)) bytes each, sha256 $(sha256sum <"$tmp/c.jsonl" | cut -c1-16)"

# Thousands of conversations for each second of processor time.
rate() {
	best=0
	for _ in 1 2 3; do
		t=$( { TIMEFORMAT='%U %S' bash -c "time $build/bin/chat-template --model $tmp --template $1 $tmp/c.jsonl >/dev/null"; } 2>&1)
		best=$(echo "$t $best" | awk -v n="$n" '{ r = n / ($1 + $2) / 1000; printf "%.0f", (r > $3 ? r : $3) }')
	done
	echo "$best"
}

for t in tests/conformance/templates/templates/trl__llama3.jinja ${TEMPLATES:-}; do
	name=$(basename "$t" .jinja)
	ours=$(rate "$t")
	if [ -n "${LP_VENV:-}" ]; then
		head -n 30000 "$tmp/c.jsonl" >"$tmp/part.jsonl"
		"$build/bin/chat-template" --model "$tmp" --template "$t" "$tmp/part.jsonl" >"$tmp/ours.jsonl"
		for peer in minijinja jinja2; do
			"$LP_VENV/bin/python" tests/bench/template_peer.py $peer "$t" "$tmp/part.jsonl" "$tmp/ours.jsonl" >"$tmp/ref" 2>/dev/null || continue
			read -r ref differ <"$tmp/ref"
			printf 'chat-template, %s\t%s\tk conversations/s\t%s\t%s\t%s here, rendering alone, %s texts differ\n' "$name" "$ours" "$ref" \
				"$(awk "BEGIN { printf \"%.1f\", $ours / $ref }")" $peer "$differ"
		done
	else
		printf 'chat-template, %s\t%s\tk conversations/s\t-\t-\t-\n' "$name" "$ours"
	fi
done

#!/bin/sh
# chat-template, whole program, one thread: 200,000 conversations made by
# awk (seeded, no text twice) with Llama 3's template. Processor time.
set -eu
build=$1
tmp=$(mktemp -d "${TMPDIR:-/tmp}/lp-bench.XXXXXX")
trap 'rm -rf "$tmp"' EXIT
n=200000
printf '{"bos_token":"<|begin_of_text|>","eos_token":"<|eot_id|>"}' >"$tmp/tokenizer_config.json"
awk -v n=$n 'function text(k,  s, i) { for (i = 0; i < k; i++) { x = (x * 1103515245 + 12345) % 2147483648; s = s (i ? " " : "") word[int(x / 65536) % 64] } return s }
BEGIN {
	x = 1
	for (i = 0; i < 64; i++) { word[i] = ""; for (k = 0; k <= i % 9; k++) word[i] = word[i] sprintf("%c", 97 + (i * 7 + k * 5) % 26) }
	for (i = 0; i < n; i++) {
		printf "{\"messages\":[{\"role\":\"system\",\"content\":\"You are a helpful assistant.\"},{\"role\":\"user\",\"content\":\"%d %s\"},{\"role\":\"assistant\",\"content\":\"%s\"}", i, text(14), text(28)
		if (i % 2) printf ",{\"role\":\"user\",\"content\":\"%s\"},{\"role\":\"assistant\",\"content\":\"%s\"}", text(10), text(24)
		printf "],\"id\":%d}\n", i
	}
}' >"$tmp/c.jsonl"
best=
for _ in 1 2 3; do
	t=$( { TIMEFORMAT='%U %S' bash -c "time $build/bin/chat-template --model $tmp --template tests/conformance/templates/templates/trl__llama3.jinja $tmp/c.jsonl >/dev/null"; } 2>&1 | awk '{ print $1 + $2 }')
	best=$(printf '%s\n%s\n' "$best" "$t" | awk 'NF && (!b || $1 < b) { b = $1 } END { print b }')
done
awk -v n=$n -v t="$best" -v b="$(wc -c <"$tmp/c.jsonl")" 'BEGIN {
	printf "chat-template, Llama 3, whole program\t%.0f\tk conversations/s\t-\t-\t-\n", n / t / 1000
	printf "# corpus: %d conversations, %.0f bytes each\n", n, b / n }'

#!/bin/sh
# One LoRA step of a Llama-shaped model of 110 M parameters (fp32 base, r 16, 4 x
# 256 tokens, every position a target, two threads) beside PyTorch + PEFT, in
# turn, with the gradients compared. LP_VENV is the folder of a virtual
# environment with torch, transformers and peft; without it ours alone is measured.
set -eu
build=$1
py=${LP_VENV:-$build/venv}/bin/python
tmp=$(mktemp -d "${TMPDIR:-/tmp}/lp-bench.XXXXXX")
trap 'rm -rf "$tmp"' EXIT
trap 'exit 130' INT TERM
"$build/bin/model-init" --family llama --hidden 768 --layers 12 --heads 12 --kv-heads 12 --ffn 2048 --vocab 32000 --max-len 1024 --tied \
	--dtype float32 --seed 1 -o "$tmp/model"
# OpenMP waits without spinning, as the programs themselves see to
ours() { OMP_WAIT_POLICY=passive "$build/tests/bench_train" 2 "$tmp/model" "$tmp/adapter" 4 256 "$1" "$tmp/grads" 2>"$tmp/err"; }
median() { sort -n "$1" | awk '{ v[NR] = $1 } END { print NR % 2 ? v[(NR + 1) / 2] : (v[NR / 2] + v[NR / 2 + 1]) / 2 }'; }
if ! "$py" -c 'import torch, transformers, peft' 2>/dev/null; then
	echo "# train: no PyTorch (set LP_VENV), so nothing to compare with"
	exit 0
fi
"$py" tests/bench/train_peer.py make "$tmp/model" "$tmp/adapter" >/dev/null 2>&1
for round in 1 2 3; do
	ours 3 >>"$tmp/a"
	"$py" tests/bench/train_peer.py run 2 "$tmp/model" "$tmp/adapter" "$tmp/grads" 4 256 3 >>"$tmp/b" 2>"$tmp/peer"
done
a=$(median "$tmp/a") b=$(median "$tmp/b")
printf 'LoRA step, 110 M, fp32, 4x256, CPU\t%s\ttok/s\t%s\t%s\tPyTorch + PEFT, 2 threads\n' "$a" "$b" "$(awk "BEGIN { printf \"%.2f\", $a / $b }")"
grep 'largest relative' "$tmp/peer" | sed 's/^/# train: /'

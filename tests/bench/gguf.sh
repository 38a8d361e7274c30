#!/bin/sh
# Throughput of gguf-export, in MB/s of the bf16 model that it reads, on all
# processors; beside llama.cpp's quantiser on the same threads where LP_VENV is
# a Python environment with llama-cpp-python (see tests/oracle/make_gguf.py for
# how it was built here). Output: see run.sh.
set -u
build=${1:-build}
bin=$PWD/$build/bin
tmp=$(mktemp -d "${TMPDIR:-/tmp}/lp-bench-gguf.XXXXXX")
trap 'rm -rf "$tmp"' EXIT
trap 'exit 130' INT TERM
"$bin/model-init" --family llama --hidden 1024 --ffn 4096 --heads 16 --kv-heads 4 --layers 4 --vocab 4096 --dtype bfloat16 \
	--tokenizer data/stories260K -o "$tmp/m" || exit 1
bytes=$(wc -c <"$tmp/m/model.safetensors")
peer=no
if [ -n "${LP_VENV:-}" ] && "$LP_VENV/bin/python" -c 'import llama_cpp' 2>/dev/null; then
	peer=yes
	"$bin/gguf-export" --model "$tmp/m" --type bf16 >"$tmp/bf16.gguf" || exit 1
fi

# best COMMAND...: microseconds of the best of three runs.
best() {
	least=
	for _ in 1 2 3; do
		a=$(date +%s%N)
		"$@" >/dev/null 2>"$tmp/err" || { cat "$tmp/err" >&2; return 1; }
		t=$((($(date +%s%N) - a) / 1000))
		[ -n "$least" ] && [ "$least" -le "$t" ] || least=$t
	done
	echo "$least"
}
quantise() {
	"$LP_VENV/bin/python" -c '
import ctypes, os, sys, time
import llama_cpp
p = llama_cpp.llama_model_quantize_default_params()
p.nthread, p.ftype = os.cpu_count(), int(sys.argv[3])
times = []
for _ in range(3):
    t = time.time()
    assert llama_cpp.llama_model_quantize(sys.argv[1].encode(), sys.argv[2].encode(), ctypes.byref(p)) == 0
    times.append(time.time() - t)
print("\n%d" % (min(times) * 1e6))' "$tmp/bf16.gguf" "$tmp/ref.gguf" "$1" 2>/dev/null | tail -n 1
}

while read -r type number; do
	ours=$(best "$bin/gguf-export" --model "$tmp/m" --type "$type") || exit 1
	rate=$((bytes / ours))
	if [ $peer = yes ] && [ "$number" != - ]; then
		theirs=$(quantise "$number")
		printf 'gguf-export %s\t%s\tMB/s\t%s\t%s\tllama.cpp, the same blocks\n' "$type" "$rate" "$((bytes / theirs))" \
			"$(awk "BEGIN { printf \"%.1f\", $theirs / $ours }")"
	else
		printf 'gguf-export %s\t%s\tMB/s\t-\t-\tof bf16 read\n' "$type" "$rate"
	fi
done <<'EOF'
bf16 -
f16 1
q8_0 7
q6_k 18
q5_k_m 17
q4_k_m 15
EOF

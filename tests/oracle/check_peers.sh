#!/bin/sh
# Usage: check_peers.sh BUILD_DIR   (make check-peers)
# Lets the reference libraries open what our programs wrote, in the Python
# environment LP_VENV, or one made in build/venv. Writes tests/oracle/peers.md.
set -eu
build=${1:-build}
here=$(dirname "$0")
venv=${LP_VENV:-build/venv}
if [ ! -x "$venv/bin/python" ]; then
	command -v python3 >/dev/null || { echo "check-peers needs python3 (Debian: python3-venv), or LP_VENV=DIR with the packages of $here/requirements.txt" >&2; exit 2; }
	echo "making $venv (some GB of packages, once)" >&2
	python3 -m venv "$venv" || { rm -rf "$venv"; exit 2; }
	# llama.cpp for any x86-64: with fused multiply-add its quantiser is no longer its own reference
	CMAKE_ARGS='-DGGML_NATIVE=OFF -DGGML_AVX=OFF -DGGML_AVX2=OFF -DGGML_BMI2=OFF -DGGML_FMA=OFF -DGGML_F16C=OFF -DGGML_SSE42=OFF' \
		"$venv/bin/pip" -q install -r "$here/requirements.txt" || { rm -rf "$venv"; exit 2; }
fi
work=$(mktemp -d "${TMPDIR:-/tmp}/lp-peers.XXXXXX")
trap 'rm -rf "$work"' EXIT
export OMP_WAIT_POLICY=passive TOKENIZERS_PARALLELISM=false HF_HUB_OFFLINE=1 TRANSFORMERS_OFFLINE=1 PYTHONWARNINGS=ignore PYTHONDONTWRITEBYTECODE=1
"$venv/bin/python" "$here/check_peers.py" "$build/bin" "$work" "$here/peers.md"

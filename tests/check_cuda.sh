#!/bin/sh
# Usage: check_cuda.sh BUNDLE [TYPE]...  The kernel suites of a bundle (make bundle) on this machine's GPU, from the root of
# the tree: what make check-cuda does where nothing can be built. TYPE: auto, bf16 or fp16, what to compute in (auto and fp16).
set -u
cd "$(dirname "$0")/.." || exit 2
export LP_DEVICE=cuda CK_FORK=no
status=0
bundle=$1
shift
[ $# -gt 0 ] || set -- auto fp16
for compute in "$@"; do
	echo "--- $compute"
	for t in test_kn_ops test_kn_adapter test_kn_decode test_kn_fp8 test_kn_pref test_kn_grpo test_kn_long test_engine_fp8 test_engine_pieces test_engine_noise test_engine_travel test_engine_device test_preference test_grpo test_bnb test_generate; do
		LP_COMPUTE=$compute "$bundle/tests/$t" || status=1
	done
done
exit $status

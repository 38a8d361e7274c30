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
	for t in "$bundle"/tests/test_*; do
		LP_COMPUTE=$compute "$t" || status=1
	done
done
exit $status

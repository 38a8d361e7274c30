#!/bin/sh
# Usage: check_cuda.sh BUNDLE  The kernel suites of a bundle (make bundle) on this machine's GPU, from the root of
# the tree: what make check-cuda does where nothing can be built.
set -u
cd "$(dirname "$0")/.." || exit 2
export LP_DEVICE=cuda CK_FORK=no
status=0
for t in test_kn_ops test_kn_adapter test_kn_decode test_engine_device test_bnb test_generate; do
	"$1/tests/$t" || status=1
done
exit $status

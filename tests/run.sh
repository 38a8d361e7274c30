#!/bin/sh
# Usage: run.sh BUILD_DIR TEST...  Runs each test program or script from the
# root of the tree, prints one line for each, the log of those that fail, and
# counts the skips that they report ("# skip: reason" or "ok N # skip reason").
set -u
build=$1
shift
# waiting threads leave the processor to those that work: machines that test are shared
export BUILD="$build" PATH="$PWD/$build/bin:$PATH" LC_ALL=C OMP_WAIT_POLICY="${OMP_WAIT_POLICY:-passive}"
export LSAN_OPTIONS="${LSAN_OPTIONS:-suppressions=$PWD/tests/lsan.supp:print_suppressions=0}"
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
pass=0 fail=0 skip=0
for t; do
	name=${t##*/}
	case $t in *.sh) set -- sh "$t" ;; *) set -- "$t" ;; esac
	start=$(date +%s)
	if timeout "${LP_TEST_TIMEOUT:-600}" "$@" >"$tmp/log" 2>&1; then
		pass=$((pass + 1)) verdict=ok
	else
		fail=$((fail + 1)) verdict=FAIL
	fi
	n=$(grep -ci '# *skip' "$tmp/log")
	skip=$((skip + n))
	printf '  %-4s %s%s (%ss)\n' "$verdict" "$name" "$([ "$n" -gt 0 ] && echo " [$n skipped]")" "$(($(date +%s) - start))"
	[ "$n" -gt 0 ] && grep -i '# *skip' "$tmp/log" | sed 's/^/         /'
	[ $verdict = FAIL ] || continue
	# of a script what failed, wherever it was; then how it all ended
	awk '/^not ok/ { on = 1 } /^ok/ { on = 0 } on { print "       | " $0 }' "$tmp/log" | head -n 60
	sed 's/^/       | /' "$tmp/log" | tail -n 60
done
echo "$pass passed, $fail failed, $skip skipped"
[ "$fail" = 0 ]

#!/bin/sh
# Every program with a failing write, fsync, rename, close, read and malloc: the
# failure is a status and a message, and nothing is left behind.
. "$(dirname "$0")/lib.sh"
. "$ROOT/tests/inject/tools.sh"
lib=$T/fault.so
${CC:-cc} -O1 -shared -fPIC -Wall -Wextra -o "$lib" "$ROOT/tests/inject/fault.c" 2>"$T/.err" || { skip "cannot build the preloaded library: $(head -n 1 "$T/.err")"; exit 0; }
case $BUILD in *san* | *cov*) skip "a preloaded malloc and a sanitiser do not mix"; exit 0 ;; esac
cd "$T" || exit 1
tools_prepare

# What stands under the final name after a fault is nothing, or it is whole: the
# directory may fail to sync after the rename, or the lineage beside a file.
# one TOOL FAULT N STATUS: prints what is wrong, if anything; false when the fault was not reached.
one() {
	rm -rf o mark
	mkdir o
	(export LP_FAULT="$2:$3" LP_FAULT_MARK="$T/mark" LD_PRELOAD="$lib" && tool_run "$1" o/result >out 2>err)
	got=$?
	if [ ! -e mark ]; then
		[ $got = 0 ] || echo "$2:$3 not reached, yet status $got: $(head -n 1 err)"
		return 1
	fi
	if [ $got != "$4" ]; then
		echo "$2:$3 gave status $got, not $4: $(head -n 1 err)"
	elif [ ! -s err ]; then
		echo "$2:$3 failed without a message"
	elif [ -e o/result ] && ! diff -r o/result good/result >diff 2>&1; then
		echo "$2:$3 left something unfinished under the final name: $(head -n 1 diff)"
	elif [ "$(find o -name '*.tmp' | wc -l)" != 0 ]; then
		echo "$2:$3 left a temporary: $(find o -name '*.tmp')"
	fi
	return 0
}

for t in $TOOLS; do
	rm -rf good && mkdir good
	if ! tool_run "$t" good/result >out 2>err; then
		fail "$t runs without a fault" "$(head -n 2 err)"
		continue
	fi
	for f in write short fsync rename close read malloc; do
		want=4 reached=0 list='1 2 5'
		[ $f = malloc ] && want=5 list='1 3 8 21 55 144'
		[ -n "${LP_SLOW:-}" ] && list='1 2 3 4 5 6 7 8 9 10 13 17 21 25 29 34 55 89 144 233 377 610'
		: >wrong
		for n in $list; do
			one "$t" $f "$n" $want >>wrong || break
			reached=$((reached + 1))
		done
		if [ -s wrong ]; then
			fail "$t: $f" "$(cat wrong)"
		elif [ $reached = 0 ]; then
			case $f in
			read) pass "$t: $f (it maps what it reads)" ;;
			*) fail "$t: $f" "was never called" ;;
			esac
		else
			pass "$t: $f ($reached places)"
		fi
	done
done

# A directory in the place of another where names cannot be exchanged: two renames. The first or the second fails: the old one
# stays; the third, which is tidying, or none (0): the new one is there. Nothing else is left.
tool_run model-init good/new || fail "model-init runs without a fault"
for n in 1 2 3 0; do
	rm -rf o && mkdir -p o/result && echo old >o/result/mine
	(export LP_FAULT="exchange:$n" LD_PRELOAD="$lib" && model-init -q --hidden 32 --ffn 64 --layers 1 --heads 2 --kv-heads 1 --vocab 64 --force -o o/result) 2>err
	got=$?
	case $n in
	1 | 2)
		is "no exchange, rename $n fails: status" $got 4
		is "no exchange, rename $n fails: the old one stays" "$(cat o/result/mine)" old
		;;
	*)
		is "no exchange, rename $n fails: status" $got 0
		ok "no exchange, rename $n fails: the new one is there" diff -r o/result good/new
		;;
	esac
	is "no exchange, rename $n fails: nothing else" "$(ls -A o)" result
done

# A checkpoint that cannot be written is missed with a warning; the ones that are there are whole, and the run comes to its end from them.
saved() { qlora-train -q --model "$M" --quant none --threads 1 --max-steps 4 --rank 2 --save-every 1 -o "$1" in/tokens.lps; }
rm -rf good && mkdir good
ok "a run with checkpoints" saved good/result
for f in write short fsync rename close; do
	list='1 2 5'
	[ -n "${LP_SLOW:-}" ] && list='1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20'
	: >wrong
	for n in $list; do
		rm -rf o mark && mkdir o
		(export LP_FAULT="$f:$n" LP_FAULT_MARK="$T/mark" LD_PRELOAD="$lib" && saved o/result >out 2>err)
		got=$?
		[ -e mark ] || break
		case $got in 0 | 4) ;; *) echo "$f:$n gave status $got: $(head -n 1 err)" ;; esac
		[ "$(find o -name '*.tmp' | wc -l)" = 0 ] || echo "$f:$n left $(find o -name '*.tmp')"
		for s in o/result.step-*; do
			if [ -e "$s" ] && ! cmp -s "$s/state.safetensors" "good/${s#o/}/state.safetensors"; then echo "$f:$n left $s damaged"; fi
		done
		[ -e o/result ] || saved o/result || echo "$f:$n: the same command does not come to its end"
		cmp -s o/result/adapter_model.safetensors good/result/adapter_model.safetensors || echo "$f:$n: another adapter"
	done >wrong
	if [ -s wrong ]; then fail "checkpoints: $f" "$(cat wrong)"; else pass "checkpoints: $f"; fi
done

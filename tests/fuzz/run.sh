#!/bin/sh
# Usage: run.sh SECONDS [TARGET...]  Fuzzes each target for so long, under
# address and undefined-behaviour sanitisers: with libFuzzer where clang has it
# (FUZZER=driver forces the other), else with the driver of this folder.
# xROUNDS instead of SECONDS runs exactly so many mutations by the driver.
set -eu
cd "$(dirname "$0")/../.."
time=${1:-30}
[ $# -gt 0 ] && shift
here=tests/fuzz
san=address,undefined
all=$(grep -o '{ "[a-z]*"' $here/fuzz_targets.c | tr -d '{ "')
targets=${*:-$all}
libs='-Wl,--as-needed -larchive -lz -lcrypto -lxxhash -lpcre2-8 -lutf8proc -lsimdjson -lstdc++ -lm -ldl'
flags='-std=c11 -O1 -g -D_GNU_SOURCE -I. -Ilibcommon -fno-sanitize-recover=all -fno-omit-frame-pointer'
src=$(ls libcommon/base/*.c libcommon/json/*.c libcommon/fmt/*.c libcommon/text/*.c | tr '\n' ' ')

seeds() { ls $here/corpus/"$1"/* 2>/dev/null || echo "$here/README.md"; }

can_libfuzzer() {
	case $time in x*) return 1 ;; esac
	[ "${FUZZER:-}" != driver ] && command -v clang >/dev/null && command -v clang++ >/dev/null || return 1
	d=$(mktemp -d)
	echo 'int LLVMFuzzerTestOneInput(const unsigned char *p, unsigned long n) { (void)p; (void)n; return 0; }' >"$d/t.c"
	clang -fsanitize=fuzzer,$san "$d/t.c" -o "$d/t" >/dev/null 2>&1 && rc=0 || rc=1
	rm -rf "$d"
	return $rc
}

if can_libfuzzer; then
	b=build/fuzz
	make -s -j2 B=$b CC=clang CXX=clang++ SANITIZE=fuzzer-no-link,$san LIBSRC="$src" \
		CFLAGS='-Wno-error -Wno-everything -fno-openmp' CXXFLAGS='-Wno-error -Wno-everything' $b/lib/liblorapipe.a
	for t in $targets; do
		# shellcheck disable=SC2086
		clang $flags -fsanitize=fuzzer,$san -DLP_TARGET="$t" -o "$b/fuzz_$t" $here/fuzz_targets.c $here/fuzz_text.c $here/fuzz_model.c \
			$b/lib/liblorapipe.a $libs
		mkdir -p "$b/corpus/$t"
		# Leaks of option texts are by contract; see base/opt.h.
		leaks=1
		[ "$t" = config ] && leaks=0
		ASAN_OPTIONS=detect_leaks=$leaks "$b/fuzz_$t" -max_total_time="$time" -timeout=20 -rss_limit_mb=4096 -print_final_stats=0 \
			-verbosity=0 -artifact_prefix="$b/crash-$t-" "$b/corpus/$t" "$here/corpus/$t" || exit 1
		printf '%-8s %ss of libFuzzer, no finding\n' "$t" "$time"
	done
else
	b=build/san
	make -s -j2 SANITIZE=$san LIBSRC="$src" B=$b-fuzz $b-fuzz/lib/liblorapipe.a
	b=$b-fuzz
	# shellcheck disable=SC2086
	${CC:-cc} $flags -fsanitize=$san -fopenmp -o $b/fuzz_main $here/fuzz_main.c $here/fuzz_targets.c $here/fuzz_text.c $here/fuzz_model.c \
		$b/lib/liblorapipe.a $libs
	bad=0
	for t in $targets; do
		leaks=1
		[ "$t" = config ] && leaks=0
		# shellcheck disable=SC2046
		ASAN_OPTIONS=detect_leaks=$leaks $b/fuzz_main "$t" "$time" $(seeds "$t") || bad=1
	done
	exit $bad
fi

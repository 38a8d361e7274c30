#!/bin/sh
# Usage: cuda.sh BUILD_DIR|BUNDLE [WORD]...  The rows of docs/performance/training-cuda.md and decoding-cuda.md on this machine's
# GPU, those whose names have one of the words, or all (about a quarter of an hour on an H100, of which the longest sequence takes eight). Lines are run.sh's. The reference is the
# best peer as it was measured on one H100 in 2026-11, with the bar of each row behind it. memory= is the plan's; a process takes
# 580 MiB more.
set -u
bin=$1/tests
shift
words=$*
if ! [ -x "$bin/bench_qlora_step" ] || ! nvidia-smi >/dev/null 2>&1; then
	echo "# cuda: no GPU here, or no $bin/bench_qlora_step"
	exit 0
fi

wanted() { # NAME
	[ -n "$words" ] || return 0
	for w in $words; do
		case $1 in *"$w"*) return 0 ;; esac
	done
	return 1
}

# NAME, the peer's tokens/s or -, who and the bar, arguments of bench_qlora_step
row() {
	name=$1 peer=$2 note=$3
	shift 3
	wanted "$name" || return 0
	"$bin/bench_qlora_step" "$@" 2>&1 | awk -v name="$name" -v peer="$peer" -v note="$note" '
		/^step/ { ms = $2; for (i = 3; i <= NF; i++) { if ($i == "tok/s") rate = $(i - 1); if ($i == "MFU") mfu = $(i + 1) " / " $(i + 4); if ($i == "adapter") hash = $(i + 1) } }
		/^memory/ { plan = $3; all = $7 }
		/^ / || /^bench/ { more = more "\n# " $0 }
		/^graph/ { how = how "; " $0 }
		/^plan/ { how = $0 }
		END {
			if (!rate) { print "# " name ": failed" more; exit }
			printf "%s\t%s\ttok/s\t%s\t%s\t%s; %s ms, MFU %s, %s MiB of the device (plan %s)\n", name, rate, peer, peer == "-" ? "-" : sprintf("%.2f", rate / peer), note, ms, mfu, all, plan
			print "# " name ": adapter " hash "; " how more
		}'
}

row 'r 16, 4 x 2048, memory free' 14791 'Unsloth at 38,326 MiB, bar 18,500' parts=1
row 'r 16, 4 x 2048, once more' 14791 'the same adapter' parts=0
row 'r 16, 4 x 2048, launched one by one, waited for' - 'the same adapter' graph=0 ahead=0
row 'r 16, 4 x 2048, in 38,326 MiB' 14791 'Unsloth, bar 18,500' memory=37746
row 'r 16, 4 x 2048, in 22 GiB' 12715 'Unsloth 2 x 2048, bar 15,500' memory=21948
row 'r 16, 4 x 2048, in 7.5 GiB' 10420 'Unsloth at 9,187 MiB, bar 12,500' memory=7100
row 'r 16, 4 x 2048, in 7.5 GiB, launched one by one' - 'the same adapter as without' memory=7100 graph=0
row 'r 16, 1 x 2048, in 5.6 GiB' - 'Unsloth about 6.8 GiB, bar 9,000' batch=1 memory=5140
row 'r 16, 4 x 4096' 10132 'Unsloth, bar 17,500' seq=4096
row 'r 16, 1 x 4096' 8926 'Unsloth, bar 15,500' batch=1 seq=4096
row 'r 32, 4 x 2048' 10384 'Unsloth, bar 0.98 of r 16' rank=32
row 'dropout 0.05, r 16, 4 x 2048' - '-' dropout=0.05
row 'fp8, r 16, 4 x 2048' - 'bar 24,000' fp8=1 parts=1
row '16-bit base, r 16, 4 x 2048' 10639 'Unsloth, bar 18,500' base=bf16
row '1B, r 16, 4 x 2048' - '-' shape=1b
row '3B, r 16, 4 x 2048' - '-' shape=3b
row '70B, r 16, 1 x 2048, in 44 GiB' - 'bar: MFU 0.6' shape=70b batch=1 memory=44476 steps=3 warmup=1
row 'longest: r 32, 1 x 400,000' - 'best claim: 342,733 tokens in 80 GB' rank=32 batch=1 seq=400000 brief=23168 warmup=1 steps=1 graph=0 # its pieces' shapes
wanted 'decode' || exit 0
"$bin/bench_decode" 2>&1 | awk '
	/^batch/ {
		b = $2 + 0
		peer = b == 1 ? 17.7 : b == 8 ? 112 : 0
		printf "decode, NF4, r 16 unmerged, batch %d\t%s\ttok/s\t%s\t%s\t%s, bar %s\n", b, $3, peer ? peer : "-", peer ? sprintf("%.1f", $3 / peer) : "-", peer ? "Unsloth" : "-", b == 1 ? 450 : b == 8 ? 2800 : 12000
	}
	{ print "# " $0 }'

#!/bin/sh
# tokenize, the whole program in a fresh process, from JSONL to token stream, on
# chat text and code without a repeated record (tokenize_corpus.sh), on 1 thread
# and on 2; beside it, in the same run, gigatoken's better mode, encoding alone,
# in a fresh process too (python3 with gigatoken in the virtual environment
# LP_VENV; without it the figures taken by others). The ids of all records are
# compared. More tokenizers than the tree's: LP_TOKENIZERS=DIR with files of any
# kind. Figures are MB of JSONL for each second of processor time on 1 thread,
# of wall time on 2, best of 3, to /dev/null. No cache file but where it says so.
# Usage: tokenize.sh BUILD_DIR [MEGABYTES]
set -eu
build=$1 mb=${2:-55}
tmp=$(mktemp -d "${TMPDIR:-/tmp}/lp-tokbench.XXXXXX")
trap 'rm -rf "$tmp"' EXIT
export XDG_CACHE_HOME="$tmp/cache"
sh tests/bench/tokenize_corpus.sh "$mb" >"$tmp/corpus.jsonl"
bytes=$(wc -c <"$tmp/corpus.jsonl")
echo "# corpus: $bytes bytes, $(wc -l <"$tmp/corpus.jsonl") records, sha256 $(sha256sum <"$tmp/corpus.jsonl" | cut -c1-16); load $(cut -d' ' -f1-3 /proc/loadavg)"

# seconds ARG...: of processor time and of wall time, the best of 3 runs.
seconds() {
	for _ in 1 2 3; do
		perl -MTime::HiRes=time -e '$s = time; system(@ARGV) and die; $s = time - $s; (undef, undef, $u, $k) = times; printf STDERR "%.2f %.3f\n", $u + $k, $s' \
			"$build/bin/tokenize" "$@" 2>&1 >/dev/null
	done | sort -n | head -n 1
}
rate() { awk -v s="$1" -v n="$bytes" 'BEGIN { printf "%.1f", n / 1e6 / s }'; }
ratio() { awk -v a="$1" -v b="$2" 'BEGIN { printf "%.2f", a / b }'; }

one() {
	name=$1 file=$2 others=$3
	ours=$(seconds --no-cache --model "$file" --max-len 100000000 -j 1 "$tmp/corpus.jsonl")
	both=$(seconds --no-cache --model "$file" --max-len 100000000 -j 2 "$tmp/corpus.jsonl" | cut -d' ' -f2)
	cpu=$(rate "${ours%% *}") wall=$(rate "$both")
	ref=$others ref2=- from="gigatoken, encoding alone, as measured by others" note=
	if [ -n "${LP_VENV:-}" ] && [ -x "$LP_VENV/bin/python" ] && "$LP_VENV/bin/python" -c 'import gigatoken' 2>/dev/null; then
		"$build/bin/tokenize" --no-cache --model "$file" --max-len 100000000 "$tmp/corpus.jsonl" >"$tmp/ours.lps"
		"$LP_VENV/bin/python" tests/bench/tokenize_peer.py gigatoken "$file" "$tmp/corpus.jsonl" 1 ids "$tmp/ours.lps" >"$tmp/peer"
		read -r _ ref load differ <"$tmp/peer"
		"$LP_VENV/bin/python" tests/bench/tokenize_peer.py gigatoken "$file" "$tmp/corpus.jsonl" 2 >"$tmp/peer"
		read -r ref2 _ <"$tmp/peer"
		from="gigatoken here, encoding alone; $differ records differ" note=": gigatoken loads in $load s"
	fi
	printf 'tokenize, %s, 1 thread\t%s\tMB/s\t%s\t%s\t%s\n' "$name" "$cpu" "$ref" "$(ratio "$cpu" "$ref")" "$from"
	if [ "$ref2" = - ]; then
		printf 'tokenize, %s, 2 threads\t%s\tMB/s\t-\t-\t\n' "$name" "$wall"
	else
		printf 'tokenize, %s, 2 threads\t%s\tMB/s\t%s\t%s\tgigatoken here, encoding alone\n' "$name" "$wall" "$ref2" "$(ratio "$wall" "$ref2")"
	fi
	[ -z "$note" ] || echo "# $name$note"
}

# The whole program on one short record: loading is nearly all of it.
loading() {
	echo '{"text":"hello"}' >"$tmp/short.jsonl"
	"$build/bin/tokenize" --model "$2" --count "$tmp/short.jsonl" >/dev/null
	best=$(
		for _ in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15; do
			# shellcheck disable=SC2086
			perl -MTime::HiRes=time -e '$s = time; system(@ARGV) and die; printf STDERR "%.1f\n", 1000 * (time - $s)' "$build/bin/tokenize" $3 --model "$2" --count "$tmp/short.jsonl" 2>&1 >/dev/null
		done | sort -n | head -n 1
	)
	printf 'tokenize, one record, %s%s\t%s\tms\t%s\t%s\tthe bar\n' "$1" "${3:+, no cache}" "$best" "$4" "$(ratio "$4" "$best")"
}

for v in qwen2.5 gpt-2 phi-3-mini; do
	mkdir "$tmp/$v"
	zstd -dqc "tests/conformance/tokens/$v.json.zst" >"$tmp/$v/tokenizer.json"
	case $v in qwen2.5) others=58 ;; phi*) others=21 ;; *) others=72 ;; esac
	one $v "$tmp/$v/tokenizer.json" $others
done
loading qwen2.5 "$tmp/qwen2.5/tokenizer.json" --no-cache 60
loading qwen2.5 "$tmp/qwen2.5/tokenizer.json" "" 10
for f in ${LP_TOKENIZERS:+"$LP_TOKENIZERS"/*}; do
	name=${f##*/}
	case $name in *config*) continue ;; *.json | *.model | *.tiktoken) ;; *) continue ;; esac
	one "$name" "$f" 72
	loading "$name" "$f" --no-cache 60
	case $name in *.json) loading "$name" "$f" "" 10 ;; esac
done
exit 0

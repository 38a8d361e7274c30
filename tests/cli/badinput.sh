#!/bin/sh
# Bad inputs and bad places for outputs: the promised status, a message that
# begins with the program's name, nothing under the final name, no crash.
. "$(dirname "$0")/lib.sh"
. "$ROOT/tests/inject/tools.sh"
cd "$T" || exit 1
tools_prepare

# refuses STATUSES NAME TOOL INPUT: runs TOOL on INPUT.
refuses() {
	want=$1 d="$3: $2" t=$3 input=$4
	rm -rf o && mkdir o
	tool_run "$t" o/result "$input" >"$T/.out" 2>"$T/.err"
	got=$?
	case " $want " in
	*" $got "*) ;;
	*) fail "$d" "status $got, not one of: $want" "$(head -n 2 "$T/.err")"; return ;;
	esac
	if [ $got != 0 ] && ! grep -aq "^$t: " "$T/.err"; then
		fail "$d" "no message: $(head -n 2 "$T/.err")"
	elif [ $got != 0 ] && [ "$(grep -avc "^$t: warning: " "$T/.err")" != 1 ]; then
		fail "$d" "more than one line for one error:" "$(head -n 3 "$T/.err")"
	elif [ $got -gt 1 ] && [ -n "$(ls -A o)" ]; then
		fail "$d" "status $got, and yet there is $(ls -A o | head -n 1)"
	else
		pass "$d"
	fi
}

# --- bytes to be refused ---
mkdir bad
gzip -9nc in/chat.jsonl >bad/whole.gz
head -c 100 bad/whole.gz >bad/cut.jsonl.gz
tar -cf bad/whole.tar in/chat.jsonl && head -c 1500 bad/whole.tar >bad/cut.tar
head -c 30000 /dev/zero >bad/zeros
gzip -9nc "$ROOT/tests/cli/badinput.sh" | tail -c +11 >bad/noise
awk 'BEGIN { for (i = 0; i < 200000; i++) printf "["; print "" }' >bad/deep
awk 'BEGIN { printf "{\"messages\":"; for (i = 0; i < 600; i++) printf "["; print "" }' >bad/deep.jsonl
printf '{"messages":[{"role":"user","content":"\377\376"}]}\n' >bad/utf8.jsonl
printf '{"messages":[{"role":"user","content":"\\ud800"}]}\n' >bad/surrogate.jsonl
(head -n 1 in/chat.jsonl; echo '{"messages":[{"role":"user"') >bad/second.jsonl
(printf '['; head -n 2 in/chat.jsonl | paste -sd, -) >bad/cut-array.json
printf 'a,b\n1,2,3\n' >bad/ragged.csv
: >bad/empty

for t in $TOOLS; do
	case $t in
	ds-audit | ds-split | ds-mix | chat-template | tokenize | lm-generate | judge-eval | ft-report) ;;
	*) continue ;;
	esac
	# ds-audit may pass a bad record on as a finding, and ds-* an empty set as
	# itself; what ends in the middle is refused by all.
	lenient=3
	case $t in ds-audit | ds-split) lenient='0 3' ;; esac
	[ $t = ft-report ] && lenient='0 2 3'
	refuses 3 "a cut gzip" $t bad/cut.jsonl.gz
	refuses 3 "a cut tar" $t bad/cut.tar
	refuses 3 "a cut array" $t bad/cut-array.json
	refuses 4 "a directory" $t bad
	refuses "0 3" "an empty input" $t bad/empty
	for f in zeros noise deep deep.jsonl utf8.jsonl surrogate.jsonl second.jsonl; do
		refuses "$lenient" "$f" $t bad/$f
	done
	refuses "$lenient" "a ragged table" $t bad/ragged.csv
done
# Where a line is at fault it is named.
for t in ds-split chat-template judge-eval; do
	case "$TOOLS " in *" $t "*) ;; *) continue ;; esac
	rm -rf o && mkdir o
	tool_run $t o/result bad/second.jsonl 2>"$T/.err"
	[ $t = judge-eval ] && n='[12]' || n=2
	says "second.jsonl:$n: " "$t: names file and line"
done

# --- tensor streams and files: cut at each kind of place, flipped, lying about lengths ---
le() { # LENGTH FILE: FILE with another header length
	printf "$1" >bad/blob
	tail -c +9 "$2" >>bad/blob
}
blob() { # TOOL FILE: makes the bad file the tool's input
	case $1 in
	qlora-train) blob_input=bad/blob ;;
	gguf-export)
		rm -rf bad/model && cp -R "$M" bad/model && cp bad/blob bad/model/model.safetensors
		blob_input=bad/model/model.safetensors ;;
	lora-merge)
		rm -rf bad/adapter && cp -R in/adapter bad/adapter && cp bad/blob bad/adapter/adapter_model.safetensors
		blob_input=bad/adapter/adapter_model.safetensors ;;
	esac
}
for t in qlora-train gguf-export lora-merge; do
	case "$TOOLS " in *" $t "*) ;; *) continue ;; esac
	good=$(tool_input $t)
	size=$(wc -c <"$good")
	head_len=$(od -An -N8 -tu8 "$good" | tr -d ' ')
	for cut in 0 1 7 8 9 100 $((head_len + 7)) $((head_len + 8)) $((head_len + 9)) $((size / 2)) $((size - 1)); do
		head -c $cut "$good" >bad/blob
		blob $t
		refuses 3 "cut at $cut of $size" $t $blob_input
	done
	for len in '\377\377\377\377\377\377\377\377' '\377\377\377\377\377\377\377\177' '\0\0\0\0\0\0\0\0' '\1\0\0\0\0\0\0\0' '\0\341\365\5\0\0\0\0'; do
		le "$len" "$good"
		blob $t
		refuses 3 "header length $len" $t $blob_input
	done
	for at in 8 9 20 $((head_len / 2)) $((head_len + 6)); do
		{ head -c $at "$good"; printf '\377'; tail -c +$((at + 2)) "$good"; } >bad/blob
		blob $t
		refuses 3 "header byte $at flipped" $t $blob_input
	done
	{ cat "$good"; echo x; } >bad/blob
	blob $t
	refuses 3 "bytes behind the end" $t $blob_input
done

# --- places where output cannot go ---
for t in $TOOLS; do
	case $t in
	ds-split | qlora-train | lora-merge | model-init) # directories
		mkdir -p o && rm -rf o/result && mkdir o/result && touch o/result/mine
		status 2 "$t: an existing directory is refused" tool_run $t o/result
		says 'force' "$t: and the way out is named"
		ok "$t: and it is untouched" test -e o/result/mine
		;;
	*)
		status 4 "$t: a full disk" tool_run $t /dev/full
		says 'No space left on device' "$t: says so"
		;;
	esac
	rm -rf o && mkdir o
	status 4 "$t: no such directory" tool_run $t o/none/result
	# 1 KiB: less than any output here, enough for the file that LLVM's OpenMP makes before main
	limited 2 tool_run $t o/result >"$T/.out" 2>"$T/.err"
	got=$?
	is "$t: a size limit" $got 4
	rm -rf good && mkdir good && tool_run $t good/result
	[ ! -e o/result ] || ok "$t: what is there is whole" diff -r o/result good/result
	is "$t: no temporary" "$(find o -name "*.tmp")" ""
done

# --- a file system that is full ---
mkdir full
if mount -t tmpfs -o size=4k lp-test full 2>/dev/null; then
	head -c 4096 /dev/zero >full/filler 2>/dev/null
	for t in $TOOLS; do
		tool_run $t full/result >"$T/.out" 2>"$T/.err"
		is "$t: a full file system" $? 4
		is "$t: leaves nothing on it" "$(ls -A full)" filler
		says 'No space left on device' "$t: says why"
	done
	umount full
else
	skip "cannot mount a small tmpfs; /dev/full and a size limit stand in"
fi

# --- interrupted in the middle ---
slow() { head -n 20 "$1"; sleep 20; tail -n +21 "$1"; }
for t in $TOOLS; do
	case $t in
	ds-audit | ds-split | ds-mix | chat-template | tokenize | lm-generate | judge-eval) ;;
	*) continue ;;
	esac
	for sig in TERM HUP; do
		rm -rf o fifo && mkdir o && mkfifo fifo
		(slow "$(tool_input $t)" >fifo) &
		feeder=$!
		# a background job of a shell ignores INT: tests/unit/test_out.c has that one
		(tool_run $t o/result fifo >/dev/null 2>"$T/.err") &
		runner=$!
		i=0
		while [ $i -lt 50 ] && [ -z "$(ls -A o)" ]; do sleep 0.1; i=$((i + 1)); done
		pid=$(ls -A o | sed -n 's/^\.result\.\([0-9]*\)\..*/\1/p' | head -n 1)
		if [ -z "$pid" ]; then
			pass "$t: SIG$sig (opens its output at the end)"
		else
			kill -$sig "$pid"
			wait $runner
			is "$t: SIG$sig leaves nothing" "$(ls -A o)" ""
		fi
		kill $feeder 2>/dev/null
		[ -n "$pid" ] || kill $runner 2>/dev/null
		wait 2>/dev/null
		[ -n "$pid" ] || break
	done
done

# --- a reader that goes away ---
for t in ds-audit ds-split ds-mix chat-template tokenize; do
	case "$TOOLS " in *" $t "*) ;; *) continue ;; esac
	i=0
	while [ $i -lt 200 ]; do cat "$(tool_input $t)"; i=$((i + 1)); done | sed 's/"id":[0-9]*/"k":0/' >big.jsonl
	extra=
	[ $t = ds-split ] && extra='--part train'
	[ $t = chat-template ] && extra="--model $M --template in/t.jinja"
	[ $t = tokenize ] && extra="--model $M"
	# shellcheck disable=SC2086
	(set +e; $t $extra big.jsonl 2>"$T/.err"; echo $? >rc) | head -c 1 >/dev/null
	case $(cat rc) in
	141 | 0) quiet "$t: a closed pipe ends it in silence" ;;
	*) fail "$t: a closed pipe" "status $(cat rc)" "$(head -n 2 "$T/.err")" ;;
	esac
done

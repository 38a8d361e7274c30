#!/bin/sh
# Checkpoints of qlora-train: killed at any moment and started again, a run ends
# in the same bytes; what is damaged, of another run, or does not fit on the disk.
. "$(dirname "$0")/lib.sh"
in_stories
tokens "$D/upper_train.jsonl" 6 >train.lps
tokens "$D/upper_heldout.jsonl" 2 >held.lps
tokens "$D/upper_train.jsonl" 5 >other.lps
COMMON="--model $M --device $DEVICE --threads 1 --lr 5e-3 --optimizer adamw8bit --rank 8 --dropout 0.1 --eval-every 4 --restore-best --batch 1 --accumulate 1 --save-every 2"
# shellcheck disable=SC2086
train() { qlora-train $COMMON --eval held.lps "$@"; }
long() { train --max-steps 24 "$@"; }
adapter() { echo "$1/adapter_model.safetensors"; }
steps() { for d in "$1".step-*; do [ -e "$d" ] && echo "${d##*-}"; done | sort -n | tr '\n' ' '; }

status 0 "a run" long -o whole train.lps
quiet "that says nothing"
is "leaves its checkpoints" "$(steps whole)" "2 4 6 8 10 12 14 16 18 20 22 24 "
ok "which are adapters" lm-generate --model "$M" --adapter whole.step-20 --quant nf4 --max-new 2 "$D/upper_heldout.jsonl"
is "no temporary is left" "$(find . -name '*.tmp')" ""

# kill -9, at a moment that is different each time
kills=3
[ -n "${LP_SLOW:-}" ] && kills=40
n=0 round=0
while [ $n -lt $kills ] && [ $round -lt 40 ]; do
	round=$((round + 1)) here=0 tries=0
	rm -rf killed killed.*
	while [ ! -e killed ] && [ $tries -lt 40 ]; do
		tries=$((tries + 1))
		# shellcheck disable=SC2086
		qlora-train $COMMON --eval held.lps --max-steps 24 -o killed --log killed.log train.lps 2>killed.err &
		pid=$!
		[ $n -lt $kills ] && sleep "0.$(awk "BEGIN { srand($tries * 7919 + $round * 104729 + $$); printf \"%03d\", 100 + rand() * 700 }")" &&
			kill -9 $pid 2>/dev/null && n=$((n + 1)) here=$((here + 1))
		wait $pid 2>/dev/null
	done
	ok "killed $here times it comes to its end" test -e killed
	same "with the same bytes" "$(adapter killed)" "$(adapter whole)"
	same "at each checkpoint" "$(adapter killed.step-20)" "$(adapter whole.step-20)"
done
ok "$n kills" test "$n" -ge $kills
is "nothing half-written stays" "$(find . -name '.*.tmp')" ""

# between the steps of a checkpoint: a copy of each state of the folder is taken while it runs
# shellcheck disable=SC2086
qlora-train $COMMON --eval held.lps --max-steps 24 -o term train.lps 2>term.err &
pid=$!
while [ ! -e term.step-4 ] && kill -0 $pid 2>/dev/null; do sleep 0.05; done
kill -TERM $pid
wait $pid
is "SIGTERM ends it as SIGTERM does" $? 143
ok "with a word on where it goes on" grep -q "stopped by SIGTERM after step [0-9]* of 24; the same command goes on from 'term.step-[0-9]*'" term.err
at=$(sed 's/.*after step \([0-9]*\) .*/\1/' term.err)
ok "which is there" test -e "term.step-$at/state.safetensors"
ok "and no output" test ! -e term

status 2 "another rate does not go on" long --lr 1e-4 -o term train.lps
says "term.step-$at: .*--lr was 0.005 and is now 0.0001; finish that run with its command" "and it says what differs"
status 2 "another rank does not either" long --rank 4 -o term train.lps
says "rank was 8 and is now 4" "says so"
status 2 "nor do other data" long -o term other.lps
says "on other training data" "says so"
# shellcheck disable=SC2086
status 2 "nor other held-out data" qlora-train $COMMON --eval other.lps --max-steps 24 -o term train.lps
says "with other held-out data" "says so"
status 2 "nor a longer run" long --max-steps 50 -o term train.lps
says "max-steps was 24 and is now 50" "says so"
cp train.lps moved.lps
status 0 "other places, threads and checkpoints do" long --threads 2 --save-every 5 --patience 90 --keep-checkpoints 3 --log term.log -o term moved.lps
quiet "and say nothing"
is "to the same tensors" "$(tail -c 20000 "$(adapter term)" | cksum)" "$(tail -c 20000 "$(adapter whole)" | cksum)"
ok "without the steps that were done" sh -c "! grep -q '\"event\":\"train\".*\"step\":$at,' term.log"
is "three checkpoints stay" "$(steps term)" "15 20 24 "

# SIGUSR1: a checkpoint, and on
# shellcheck disable=SC2086
qlora-train --model "$M" --device "$DEVICE" --threads 1 --lr 5e-3 --max-steps 60 -o usr1 --log usr1.log train.lps 2>usr1.err &
pid=$!
while ! grep -q '"event":"train"' usr1.log 2>/dev/null && kill -0 $pid; do sleep 0.05; done
kill -USR1 $pid
while ! grep -q '"event":"checkpoint"' usr1.log && kill -0 $pid 2>/dev/null; do sleep 0.05; done
kill -9 $pid
wait $pid 2>/dev/null
is "SIGUSR1 writes one" "$(steps usr1 | wc -w | tr -d ' ')" 1
ok "goes on from it" qlora-train --model "$M" --device "$DEVICE" --threads 1 --lr 5e-3 --max-steps 60 -o usr1 train.lps
is "which goes when the run is done" "$(steps usr1)" ""

# a damaged checkpoint
cut_short() { cp "$1" cut && head -c "$2" cut >"$1"; }
flip() { cp "$1" flipped && { head -c "$2" flipped; printf '\377\376'; tail -c +$(($2 + 3)) flipped; } >"$1"; }
prepare() { rm -rf hurt hurt.*; for s in 18 20; do cp -r whole.step-$s hurt.step-$s; done; }
for f in state adapter_model; do
	size=$(wc -c <whole.step-20/$f.safetensors)
	for at in 0 100 $((size / 2)) $((size - 1)); do
		prepare
		cut_short hurt.step-20/$f.safetensors "$at"
		status 0 "$f cut at $at: the one before is taken" long -o hurt train.lps
		says "warning: .*hurt.step-20.*; the checkpoint before it is tried" "and told"
		same "to the same bytes" "$(adapter hurt)" "$(adapter whole)"
	done
	prepare
	flip hurt.step-20/$f.safetensors $((size - 3000))
	status 0 "$f with a bit that is another" long -o hurt train.lps
	says "hurt.step-20: damaged: its check sum is another" "is found out"
	same "to the same bytes, $f" "$(adapter hurt)" "$(adapter whole)"
done
prepare
for s in 18 20; do flip hurt.step-$s/state.safetensors 2000; done
status 3 "when all are damaged" long -o hurt train.lps
says "no older checkpoint is whole; remove them to start anew" "it says so"
ok "and writes nothing" test ! -e hurt
rm -rf hurt hurt.*
mkdir hurt.step-7 hurt.step-x
status 0 "folders that are no checkpoint are left alone" long -o hurt train.lps
ok "as they are" test -d hurt.step-7 -a -d hurt.step-x

# a finished run
status 2 "a finished run is not overwritten" long -o whole train.lps
cp "$(adapter whole)" was
status 0 "with --force the same command gives" long --force -o whole train.lps
same "the same" was "$(adapter whole)"
cp -r whole again && for s in 22 24; do cp -r whole.step-$s again.step-$s; done
status 0 "with --force another run takes its place" train --max-steps 2 --force -o again train.lps
is "and that of its checkpoints" "$(steps again)" "2 "

# --extend
more() { train --schedule-steps 20 "$@"; }
status 0 "ten steps" more --max-steps 10 -o part train.lps
status 2 "are at their end" more --max-steps 8 --extend -o part train.lps
says "at step 10 already" "and say so"
status 0 "go on to twenty" more --max-steps 20 --extend -o part train.lps
status 0 "twenty at once" more --max-steps 20 -o once train.lps
same "end in the same bytes" "$(adapter part)" "$(adapter once)"
status 2 "nothing to extend" train --max-steps 20 --extend -o none train.lps
says "there is no 'none.step-N'" "is said"
status 2 "a schedule shorter than the run" train --max-steps 20 --schedule-steps 10 -o none train.lps

# epochs
status 0 "by epochs" train --epochs 2 --save-every epoch --eval-every epoch --log epochs.log -o epochs train.lps
is "a checkpoint each" "$(steps epochs)" "6 12 "
is "and an evaluation, and one before" "$(grep -c '"event":"eval"' epochs.log)" 3
same "the best is what its checkpoint is" "$(adapter epochs)" "$(adapter "epochs.step-$(sed -n 's/.*"best_step":\([0-9]*\).*/\1/p' epochs.log)")"
status 2 "neither steps nor epoch" train --save-every often -o none train.lps
says "takes a number of steps, or epoch" "is refused"

# no room for a checkpoint: the run goes on, and the older ones stay
room=$(($(wc -c <whole.step-2/state.safetensors) / 512))
rm -rf full full.*
cp -r whole.step-2 full.step-2
status 4 "no room for the adapter" limited 20 long -o full train.lps
says "full.step-4.*: cannot write: File too large: there is no checkpoint of step 4, and the older ones stay" "the checkpoint is missed first"
is "the older checkpoint stays" "$(steps full)" "2 "
ok "whole" cmp full.step-2/state.safetensors whole.step-2/state.safetensors
status 0 "with room again" long -o full train.lps
same "it ends as ever" "$(adapter full)" "$(adapter whole)"
[ "$room" -gt 20 ] || fail "the limit of that test is too high" "$room"

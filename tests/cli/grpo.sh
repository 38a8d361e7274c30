#!/bin/sh
# qlora-train by rewards (GRPO): what a command reads and may answer, a reward that rises, how a run is cut, gone on with, and stuck; what is
# refused. The numbers are tests/unit/test_grpo.c's.
. "$(dirname "$0")/lib.sh"
in_stories
cat >p.jsonl <<'END'
{"prompt":"Once upon a time","id":"a","answer":42}
{"prompt":"One day, a little girl","answer":[1,"x"]}
{"messages":[{"role":"user","content":"The dog"},{"role":"assistant","content":"barked."}],"level":1.50}
{"prompt":"Lily was"}
{"prompt":"There was a big"}
END
grep -v messages p.jsonl >raw.jsonl
HAPPY="awk '{ print (gsub(/happy/, \"\") > 0) }'"
printf '#!/bin/sh\nsed "s/.*\\"tokens\\":\\([0-9]*\\).*/\\1/"\n' >length
printf '#!/bin/sh\nsleep "${PAUSE:-0}"\n./length\n' >slow
chmod +x length slow
LENGTH=./length
COMMON="--model $M --device $DEVICE --method grpo --raw --quant none --threads 1 --schedule constant --warmup-steps 0 --group 4 --batch 4 --accumulate 1 --max-new 12 --rank 4 --lr 5e-3 --schedule-steps 8"
run() { qlora-train --model "$M" --device "$DEVICE" --method grpo --quant none --threads 1 --schedule constant --warmup-steps 0 "$@"; }
train() { run --raw --group 4 --batch 4 --accumulate 1 --max-new 12 --rank 4 --lr 5e-3 --schedule-steps 8 "$@"; }
adapter() { echo "$1/adapter_model.safetensors"; }
# the field of the last record of an event; of the first
field() { grep "\"event\":\"$2\"" "$1" | tail -n 1 | sed "s|.*\"$3\":\([^,}]*\).*|\1|"; }
first() { grep "\"event\":\"$2\"" "$1" | head -n 1 | sed "s|.*\"$3\":\([^,}]*\).*|\1|"; }
less() { awk "BEGIN { exit !($1 < $2) }"; }

# a reward rises
status 0 "a word is rewarded" run --raw --group 8 --batch 32 --accumulate 1 --max-new 48 --rank 8 --lr 5e-3 --max-steps 12 --log up.jsonl -o up --reward "$HAPPY" raw.jsonl
quiet "nothing is said"
ok "seldom met at first" less "$(first up.jsonl train reward)" 0.3
ok "often at last" less 0.7 "$(field up.jsonl train reward)"
status 0 "by what the adapter gives" lm-generate --model "$M" --adapter up --raw --temperature 1 --max-new 48 raw.jsonl
is "elsewhere too" "$(grep -c happy .out)" 4
is "under TRL's names" "$(grep -c '"reward":.*"reward_std":.*"frac_reward_zero_std":.*"clip_ratio/region_mean":.*"completions/mean_length":.*"rewards/1/mean":' up.jsonl)" 12
is "no KL is asked for" "$(grep -c '"kl"' up.jsonl)" 0

# what the command reads
status 0 "records" run --group 2 --batch 4 --accumulate 3 --max-new 5 --max-steps 1 --reward "tee seen.jsonl | $LENGTH" --reward 'yes 0.5 | head -n 10' --reward-weights 2,-1 --log two.jsonl -o two p.jsonl
is "a line for each completion" "$(wc -l <seen.jsonl | tr -d ' ')" 10
ok "with the record's own fields" grep -q '^{"id":"a","prompt":".*","response":".*","tokens":[0-9]*,"finish":"[a-z]*","answer":42}$' seen.jsonl
ok "whatever they are" grep -q '"answer":\[1,"x"\]}$' seen.jsonl
ok "a conversation's too" grep -q '"id":3,.*"expected":"barked.","tokens":.*"messages":\[{"role":"user","content":"The dog"},.*"level":1.50}$' seen.jsonl
is "two of each" "$(grep -c '"id":"a"' seen.jsonl)" 2
is "which differ" "$(sort -u seen.jsonl | wc -l | tr -d ' ')" 10
ok "rewards are added up by weight" awk "BEGIN { d = $(field two.jsonl train reward) - (2 * $(field two.jsonl train rewards/1/mean) - 0.5); exit !(d * d < 1e-18) }"
is "each is told of" "$(field two.jsonl train rewards/2/mean)" 0.5

# the same bytes again, whatever the threads and the memory, and gone on with; killed (in $!, not in a subshell)
for m in "--updates 1" "--quant nf4 --dora --beta 0.05" "--updates 2 --beta 0.05 --dropout 0.1 --loss-type grpo --temperature 0.8 --top-p 0.95" "--updates 2 --loss-type dr_grpo --scale-rewards none --kl k3 --beta 0.1 --optimizer adamw8bit"; do
	# shellcheck disable=SC2086
	r() { qlora-train $COMMON $m --reward ./slow --save-every 2 "$@"; }
	rm -rf w w.* again again.* half half.* small small.*
	status 0 "grpo $m" r --max-steps 8 -o w raw.jsonl
	status 0 "the same in little memory" r --max-steps 8 -j2 --memory 8M -o small raw.jsonl
	same "has the same bytes" "$(adapter small)" "$(adapter w)"
	status 0 "half of it" r --max-steps 4 -o half raw.jsonl
	status 0 "gone on with" r --max-steps 8 --extend -o half raw.jsonl
	same "in the same bytes" "$(adapter half)" "$(adapter w)"
	kills=0 tries=0 most=3
	[ -n "${LP_SLOW:-}" ] && most=15
	while [ ! -e again ] && [ $tries -lt 30 ]; do
		tries=$((tries + 1))
		# shellcheck disable=SC2086
		PAUSE=0.15 qlora-train $COMMON $m --reward ./slow --save-every 2 --max-steps 8 -o again raw.jsonl 2>again.err &
		pid=$!
		[ $tries -le $most ] && sleep "0.$(awk "BEGIN { srand($tries * 7919 + $$); printf \"%03d\", 150 + rand() * 300 }")" && kill -9 $pid 2>/dev/null && kills=$((kills + 1))
		wait $pid 2>/dev/null
	done
	same "killed $kills times it ends in the same bytes" "$(adapter again)" "$(adapter w)"
done
status 2 "--max-steps" train --reward cat --updates 2 --max-steps 7 -o no raw.jsonl
says '\--max-steps 7 is not a multiple of --updates 2' "of whole batches"
status 2 "--save-every" train --reward cat --updates 2 --max-steps 8 --save-every 3 -o no raw.jsonl
says '\--save-every 3 is not a multiple' "too"
# shellcheck disable=SC2086
PAUSE=0.05 qlora-train $COMMON --updates 4 --reward ./slow --max-steps 400 --schedule-steps 400 --save-every 4 -o term raw.jsonl 2>term.err &
pid=$!
while [ ! -e term.step-4 ] && kill -0 $pid 2>/dev/null; do sleep 0.05; done
kill -TERM $pid
wait $pid
is "SIGTERM ends it as SIGTERM does" $? 143
at=$(sed 's/.*after step \([0-9]*\) .*/\1/' term.err)
is "between two batches" "$((at % 4))" 0
ok "where it goes on" test -e "term.step-$at/state.safetensors"

# the reference
status 0 "from an adapter" train --adapter up --beta 0.1 --max-steps 2 --reward "$LENGTH" --log from.jsonl -o from raw.jsonl
ok "the reference has it" less "$(first from.jsonl train kl)" 1e-9
status 0 "or the base" train --adapter up --beta 0.1 --reference base --max-steps 2 --reward "$LENGTH" --log base.jsonl -o base raw.jsonl
ok "which is behind" less 1e-3 "$(first base.jsonl train kl)"
status 0 "half of a run from an adapter" train --adapter up --beta 0.1 --max-steps 4 --reward "$LENGTH" --save-every 4 -o fromhalf raw.jsonl
status 0 "gone on with" train --adapter up --beta 0.1 --max-steps 8 --reward "$LENGTH" --save-every 4 --extend -o fromhalf raw.jsonl
status 0 "a whole one" train --adapter up --beta 0.1 --max-steps 8 --reward "$LENGTH" --save-every 4 -o fromwhole raw.jsonl
same "has the same bytes" "$(adapter fromhalf)" "$(adapter fromwhole)"

# a command that fails, later: nothing is lost
printf '#!/bin/sh\n./length\n' >moody
chmod +x moody
status 0 "a run" train --max-steps 8 --reward ./moody -o good raw.jsonl
printf '#!/bin/sh\necho >>calls\n[ "$(wc -l <calls)" = 4 ] && { echo "is in no mood" >&2; exit 1; }\n./length\n' >moody
status 4 "a reward that fails at the fourth step" train --max-steps 8 --reward ./moody -o fail raw.jsonl
says "the reward './moody' ended with status 1; what it wrote to standard error says why; the same command goes on after step 3, from 'fail.step-3'" "says where it goes on"
says "is in no mood" "and lets the command speak"
status 0 "goes on" train --max-steps 8 --reward ./moody -o fail raw.jsonl
same "in the same bytes" "$(adapter fail)" "$(adapter good)"
is "and leaves nothing behind" "$(echo fail.*)" 'fail.*'
status 4 "there is none" train --max-steps 1 --reward 'no-such-program 2>/dev/null' -o no raw.jsonl
says 'there is no such command' "says so"
status 3 "too few numbers" train --max-steps 1 --reward 'echo 1' -o no raw.jsonl
says "the reward 'echo 1' read 4 records and wrote 1 lines" "are counted"
status 3 "no number" train --max-steps 1 --reward "sed 's/.*/good/'" -o no raw.jsonl
says "wrote 'good' for record 1 of 4: a line has to be one finite number" "is shown"
status 4 "one that hangs" train --max-steps 1 --reward 'sleep 20' --reward-timeout 0.3 -o no raw.jsonl
says 'was not done after 0.3 s' "is ended"
ok "no output" test ! -e no

status 0 "a reward that is always the same" train --max-steps 20 --schedule-steps 20 --reward "awk '{ print 1 }'" --log same.jsonl -o same raw.jsonl
says 'step 16, flat: for 16 steps the rewards of no group have differed, all 1 on the average; nothing is learnt from them: look at what --reward writes' "is named"
is "once" "$(grep -c '"event":"watch"' same.jsonl)" 1

# held-out prompts
head -n 2 raw.jsonl >held.jsonl
HELD="--raw --group 8 --batch 32 --accumulate 1 --max-new 48 --rank 8 --lr 5e-3"
# shellcheck disable=SC2086
held() { run $HELD --reward "$HAPPY" --eval held.jsonl --eval odd=p2.jsonl "$@"; }
printf '{"prompt":"Ben and Sue"}\n' >p2.jsonl
status 0 "held-out prompts" held --eval-every 4 --max-steps 12 --restore-best --log held.log -o held raw.jsonl
is "before, between and after" "$(grep -c '"event":"eval",' held.log)" 4
is "of each set" "$(grep -c '"event":"eval_set",.*"set":"odd"' held.log)" 4
is "have a reward" "$(field held.log eval loss | sed 's/^-//')" "$(field held.log eval reward)"
ok "that rises" less 0.4 "$(field held.log eval reward)"
status 0 "asked for alone" held --adapter held --eval-only
prints "^{\"id\":\"held.jsonl\",\"loss\":-$(field held.log eval reward),\"reward\":$(field held.log eval reward),.*\"rows\":2,\"tokens\":96," "it is the same"
prints '"id":"odd"' "in each set"
status 0 "the base's" held --eval-only
prints '"loss":0.0,' "is another"
status 4 "a reward that fails there" run $HELD --reward false --eval held.jsonl --max-steps 4 -o no raw.jsonl

status 0 "patience ends between batches" run $HELD --reward "awk '{ print 1 }'" --updates 3 --eval held.jsonl --eval-every 2 --patience 2 --max-steps 30 --max-new 4 --log pat.jsonl -o pat raw.jsonl
is "after the second evaluation's" "$(field pat.jsonl done step)" 6

# plans, samples, standard input
status 0 "a plan with prompts" train --reward cat --beta 0.1 --max-steps 8 --dry-run raw.jsonl
prints '^method *grpo, groups of 4, at most 12 new tokens' "names the method"
prints '^reward *1 of cat' "the reward"
prints '^data *4 prompts, the longest with its completion' "counts prompts"
prints 'key-value cache of completions' "and has their cache"
status 0 "and without" train --reward cat --max-len 100 --dry-run
prints 'micro-batch of 400 tokens' "of whole completions"
status 0 "smoke" train --reward "$LENGTH" --updates 2 --smoke raw.jsonl
prints '^20 steps: mean reward' "tells the reward"
status 0 "from standard input, with samples" sh -c "qlora-train --model '$M' --device '$DEVICE' --method grpo --raw --quant none --group 2 --batch 2 --accumulate 2 --max-new 4 --max-steps 2 --reward ./length --prompts p.jsonl --sample-every 1 --sample-tokens 3 --log s.jsonl -o stdin <raw.jsonl"
is "between steps" "$(grep -c '"event":"sample"' s.jsonl)" 15

# refused
status 2 "tables of the model itself" train --reward cat --train-head yes --train-embeddings yes --quant none -o no raw.jsonl
says "grpo learns an adapter alone" "and says what to leave out"
status 2 "no reward" train raw.jsonl
says 'needs a reward' "is asked for"
status 2 "broken groups" run --group 3 --batch 4 --reward cat p.jsonl
says 'a step has 16 completions (--batch times --accumulate), and they have to be whole groups of 3' "are refused"
status 2 "a reward of another method" qlora-train --model "$M" --method dpo --reward cat x.lps
says '\--reward is no option of --method dpo' "is named"
status 2 "scores" train --reward cat --scores x raw.jsonl
says '\--scores is no option of --method grpo' "are named"
status 2 "advice" train --reward cat --advise raw.jsonl
status 2 "weights for others" train --reward cat --reward-weights 1,2 raw.jsonl
status 2 "a reference that nobody looks at" train --reward cat --reference base raw.jsonl
status 2 "no beta" qlora-train --model "$M" --method dpo --beta 0 x.lps
status 3 "no prompts" train --reward cat /dev/null
says 'no prompts in it' "says so"
status 3 "a prompt without room" train --reward cat --max-new 510 raw.jsonl
says "raw.jsonl:1: a prompt of .* it is longer than the model's 512 positions" "is named"
status 2 "a command that changed" train --max-steps 12 --reward cat --extend -o w raw.jsonl

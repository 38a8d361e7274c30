#!/bin/sh
# qlora-train by preferences, and reward models: from records to an adapter; how a step is cut, gone on with and evaluated; what is
# refused. The numbers are tests/unit/test_preference.c's.
. "$(dirname "$0")/lib.sh"
in_stories
D=$ROOT/data/sets/dpo_prompt_chosen_rejected.jsonl
head -n 24 "$D" >train.jsonl
tail -n 8 "$D" >held.jsonl
tokens train.jsonl 24 >train.lps
tokens held.jsonl 8 >held.lps
tokens "$ROOT/data/quickstart/upper_train.jsonl" 3 >plain.lps
sed 's/.*"prompt": \("[^}]*"\), "chosen": \(.*\), "rejected".*/{"prompt":\1,"completion":\2,"label":true}/' train.jsonl | sed '2~2s/true/false/' >labels.jsonl
run() { qlora-train --model "$M" --device "$DEVICE" --quant none --rank 4 --lr 2e-3 --threads 1 --schedule constant --warmup-steps 0 "$@"; }
train() { run --batch 2 --accumulate 2 --schedule-steps 24 "$@"; }
adapter() { echo "$1/adapter_model.safetensors"; }
# the field of the last record of an event
field() { grep "\"event\":\"$2\"" "$1" | tail -n 1 | sed "s|.*\"$3\":\([^,}]*\).*|\1|"; }
first() { grep "\"event\":\"$2\"" "$1" | head -n 1 | sed "s|.*\"$3\":\([^,}]*\).*|\1|"; }
# what a 16-bit device rounds: losses, gradients; and what a plan of the smallest memory takes beside it
case $DEVICE in cpu) exact=1e-12 zero=1e-12 start=1e-6 loss=1e-6 norm=1e-4 small=8M ;; *) exact=5e-3 zero=5e-2 start=5e-3 loss=5e-3 norm=0.2 small=700M ;; esac
less() { awk "BEGIN { exit !($1 < $2) }"; }
near() { awk "BEGIN { d = $1 - ($2); exit !((d < 0 ? -d : d) <= $3) }"; }

# each method learns the training pairs
for m in dpo ipo orpo simpo reward; do
	status 0 "$m" train --method $m --max-steps 24 --log $m.log --eval held.lps -o $m train.lps
	quiet "says nothing"
	ok "the loss falls" less "$(field $m.log train loss)" "$(first $m.log train loss)"
	ok "the rewards come apart" less "$(first $m.log train rewards/margins)" "$(field $m.log train rewards/margins)"
	ok "on the right side" less 0.5 "$(field $m.log train rewards/accuracies)"
	is "and held-out pairs are told of" "$(field $m.log eval rewards/margins | grep -c .)" 1
done
ok "DPO's first loss is ln 2" near "$(first dpo.log train loss)" 0.6931471805599453 $exact
ok "and on held-out pairs" near "$(first dpo.log eval loss)" 0.6931471805599453 $exact
ok "with rewards of 0" near "$(first dpo.log eval rewards/chosen)" 0 $zero
ok "the reference's pass is recorded" grep -q '"event":"reference".*"rows":24,' dpo.log
ok "and so is the method" grep -q '"event":"plan".*"method":"dpo"' dpo.log
is "a score has no reference" "$(grep -c '"event":"reference"' reward.log)" 0
is "nor a log-probability" "$(grep -c logps reward.log)" 0
status 0 "an adapter like any other" lm-generate --model "$M" --adapter dpo --quant none --max-new 4 held.jsonl
status 0 "to be merged" lora-merge -q --model "$M" --adapter dpo -o merged

# answers with a verdict, and pairs taken apart
chat-template --model "$M" labels.jsonl | tokenize --model "$M" >labels.lps
for f in labels train; do
	status 0 "kto of $f" train --method kto --undesirable-weight 1.2 --max-steps 24 --log kto.log --eval $f.lps -o kto.$f $f.lps
	ok "the rewards come apart" less 0.1 "$(field kto.log eval rewards/margins)"
	ok "beside a KL" test -n "$(field kto.log train kl)"
	rm kto.log
done

# how a step is cut, and where a run was gone on with
for m in dpo kto reward; do
	for b in "4 1" "1 4"; do
		# shellcheck disable=SC2086
		set -- $b
		run --method $m --batch "$1" --accumulate "$2" --max-steps 1 --log "$m.$1.log" -o "$m.$1" train.lps
	done
	ok "$m: micro-batches of one give the same loss" near "$(field $m.1.log train loss)" "$(field $m.4.log train loss)" $loss
	ok "and gradient" near "$(field $m.1.log train grad_norm)" "$(field $m.4.log train grad_norm)" $norm
	status 0 "a run" train --method $m --dropout 0.1 --eval held.lps --eval-every 2 --restore-best --max-steps 8 --save-every 4 -o $m.whole train.lps
	status 0 "half of it" train --method $m --dropout 0.1 --eval held.lps --eval-every 2 --restore-best --max-steps 4 --save-every 4 -o $m.half train.lps
	status 0 "gone on with" train --method $m --dropout 0.1 --eval held.lps --eval-every 2 --restore-best --max-steps 8 --save-every 4 --extend -o $m.half train.lps
	same "in the same bytes" "$(adapter $m.half)" "$(adapter $m.whole)"
	status 2 "but not by another method" train --method ipo --dropout 0.1 --eval held.lps --eval-every 2 --restore-best --max-steps 12 --save-every 4 --extend -o $m.half train.lps
	says "method was" "which is named"
	status 0 "the same in little memory" train --method $m --dropout 0.1 --eval held.lps --eval-every 2 --restore-best --max-steps 8 --save-every 4 --memory $small -o $m.small train.lps
	same "has the same bytes" "$(adapter $m.small)" "$(adapter $m.whole)"
done

# the reference of a run that starts from an adapter
status 0 "from an adapter" train --method dpo --adapter dpo --max-steps 1 --log from.log -o from train.lps
ok "the reference has it" near "$(first from.log train loss)" 0.6931471805599453 $start
status 0 "or the base" train --method dpo --adapter dpo --reference base --max-steps 1 --log base.log -o base train.lps
ok "which is behind" less "$(first base.log train loss)" 0.6

# evaluation alone; scores
train --method dpo --adapter dpo --eval held.lps --eval-only >eval.json
is "an evaluation alone gives what the run's last gave" "$(sed 's/.*"loss":\([^,]*\).*/\1/' eval.json)" "$(field dpo.log eval loss)"
ok "with rewards" grep -q '"rewards/accuracies":' eval.json
status 0 "scores" train --method reward --adapter reward --eval held.lps --eval-only --scores scores.jsonl
is "one an answer" "$(wc -l <scores.jsonl | tr -d ' ')" 16
margin=$(awk -F'[:,}]' '{ s += ($0 ~ /chosen/ ? 1 : -1) * $(NF - 1) } END { printf "%.9f", s / 8 }' scores.jsonl)
ok "whose margin is the evaluation's" near "$margin" "$(sed 's|.*"rewards/margins":\([^,]*\).*|\1|' .out)" 1e-8
status 0 "of plain answers" train --method reward --adapter reward --eval plain.lps --eval-only --scores -
is "a line each" "$(grep -c '"record":[123],"score":' .out)" 3
is "and nothing else" "$(wc -l <.out | tr -d ' ')" 3

# a reward model is one
ok "PEFT's task" grep -q '"task_type": "SEQ_CLS"' reward/adapter_config.json
ok "and modules" sh -c "tr -d ' \\n' <reward/adapter_config.json | grep -q '\"modules_to_save\":\[\"classifier\",\"score\"\]'"
is "with a score" "$(grep -ao '"base_model.model.score.weight"' "$(adapter reward)" | sort -u)" '"base_model.model.score.weight"'
status 0 "gone on from" train --method reward --adapter reward --max-steps 1 --log again.log -o again train.lps
ok "where it was" less "$(first again.log train loss)" "$(first reward.log train loss)"
status 0 "started from another adapter" train --method reward --adapter dpo --max-steps 1 -o onto train.lps
status 0 "by LoRA+" train --method reward --lora-plus-ratio 16 --optimizer adamw8bit --max-steps 2 -o plus train.lps
status 2 "not by lm-generate" lm-generate --model "$M" --adapter reward held.jsonl
says 'is a reward model, which scores answers' "says so"
status 2 "nor by lora-merge" lora-merge --model "$M" --adapter reward -o no
says 'is a reward model' "says so"
status 2 "nor by sft" train --adapter reward plain.lps
says 'reward: the adapter is a reward model; use it with --method reward' "says so"
status 2 "evaluated without one" train --method reward --eval held.lps --eval-only
says 'name it with --adapter' "says so"
status 2 "with one that is none" train --method reward --adapter dpo --eval held.lps --eval-only
says 'no score.weight' "says so"

# plans
status 0 "a plan with data" train --method dpo --beta 0.2 --dry-run train.lps
prints '^method *dpo, beta 0.2; the reference is the model without adapter' "names the method"
prints '^data *24 rows, 48 sequences' "counts pairs"
status 0 "and without" train --method dpo --max-len 100 --dry-run
prints 'micro-batch of 400 tokens' "of pairs"
status 0 "smoke" train --method dpo --eval held.lps --smoke train.lps

# refused
status 2 "examples" train --method dpo plain.lps
says "'plain.lps' holds no preferences, which --method dpo learns from" "are named"
status 2 "pairs" train train.lps
says "'train.lps' holds preferences, and --method sft learns from examples" "are named"
status 2 "labels" train --method ipo labels.lps
says "single answers with a label, and --method ipo learns from pairs; say --method kto" "are named"
status 2 "held-out examples" train --method dpo --eval plain.lps train.lps
status 2 "an option of another method" train --method reward --beta 1 train.lps
says '\--beta is no option of --method reward' "is named"
status 2 "smoothing" train --method ipo --label-smoothing 0.1 train.lps
status 2 "a margin" train --method dpo --margin 1 train.lps
status 2 "a reference" train --method orpo --reference base train.lps
status 2 "advice" train --method dpo --advise train.lps
says 'of preferences they say a rate of 5e-6 to 5e-5' "which is short"
status 2 "scores of a run" train --method reward --scores x train.lps
head -n 1 train.jsonl | chat-template --model "$M" | tokenize --model "$M" >one.lps
status 3 "kto of one record" train --method kto one.lps
says 'there is one record alone' "says why"
chat-template --model "$M" train.jsonl | tokenize --model "$M" --max-len 40 --over-long truncate --allow-masked -q >cut.lps
status 3 "answers that were cut away" train --method dpo cut.lps
says "of 'cut.lps' has an answer without a token to learn from" "says whose"

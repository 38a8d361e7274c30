#!/bin/sh
# The examples of the manual pages, line by line, each in a folder that has the
# files which they name. (judge-eval and ft-report run their own.)
. "$(dirname "$0")/lib.sh"
cd "$T" || exit 1
D=$ROOT/data/quickstart
mkdir all && cd all || exit 1
ln -s "$ROOT/data" data
for m in M base llama-3.2-1b llama; do
	cp -R data/stories260K $m
	sed 's/"max_position_embeddings": *512/"max_position_embeddings": 4096/' data/stories260K/config.json >$m/config.json
done
cp data/stories260K/tokenizer.model .
head -n 8 $D/upper_train.jsonl | sed 's/^{/{"user":"u",/' >raw.jsonl
for f in clean train data synthetic task general a b; do cp raw.jsonl $f.jsonl; done
head -n 2 $D/upper_heldout.jsonl >held.jsonl
for f in code prose; do awk '{ r[NR] = $0 } END { for (i = 0; i < 3000; i++) print r[i % NR + 1] }' raw.jsonl >$f.jsonl; done
printf 'question,solution\nHow many?,Forty-two of them were counted that evening by the lake.\n' >data.csv
chat-template --model M raw.jsonl >text.jsonl
tokenize --model M text.jsonl >train.lps
chat-template --model M held.jsonl | tokenize --model M >held.lps
head -n 8 "$ROOT/data/sets/dpo_prompt_chosen_rejected.jsonl" | chat-template --model M | tokenize --model M >pairs.lps
qlora-train --model M --max-steps 1 --warmup-steps 0 -o out train.lps
qlora-train --model M --method reward --max-steps 1 --warmup-steps 0 -o judge pairs.lps
mkdir run
for a in adapter run/adapter a b; do cp -R out $a; done
cd .. || exit 1

for page in "$ROOT"/tools/*.1; do
	name=$(basename "$page" .1)
	case $name in judge-eval | ft-report) continue ;; esac
	sed -n '/^.SH EXAMPLES/,/^.SH SEE/p' "$page" | grep -v '^\.' | sed 's/\\e/\\/g; s/\\\\/\\/g' >lines
	[ -s lines ] || fail "$name: has examples"
	while IFS= read -r line; do
		rm -rf work && cp -R all work && cd work || exit 1
		made=$(printf '%s\n' "$line" | sed -n 's/.* -o \([^ ]*\).*/\1/p')
		case $made in adapter | parts | merged | judge) rm -rf "./$made" ;; esac
		case $line in
		*--eval-only*) cp -R ../all/out adapter 2>/dev/null ;;
		*'llama-3.2-1b --layers 4'*) line="$line --dry-run" ;; # a gigabyte
		esac
		status 0 "$name: $(printf %s "$line" | tr -d '\\\\')" sh -c "$line"
		cd .. || exit 1
	done <lines
done

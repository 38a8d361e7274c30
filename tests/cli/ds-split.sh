#!/bin/sh
. "$(dirname "$0")/lib.sh"
cd "$ROOT" || exit 1
S=data/sets
O=$S/messages_oasst.jsonl

# parts DIR FILE: disjoint and complete: all lines of all parts are those of FILE.
parts() { cat "$1"/*.jsonl | sort >"$T/all"; ds-audit "$2" 2>/dev/null | sort >"$T/in"; same "$3" "$T/all" "$T/in"; }
lines() { wc -l <"$1" | tr -d ' '; }
hash() { sha256sum <"$1" | cut -c1-16; }

# --- hash mode ---
ok 'hash mode' ds-split -o "$T/h" $O
quiet 'nothing on stderr'
parts "$T/h" $O 'disjoint and complete'
for p in train val test; do
	ds-split --part $p <$O >"$T/$p"
	same "part $p alone, from stdin" "$T/$p" "$T/h/$p.jsonl"
	ok "sidecar of $p" grep -q '"tool":"ds-split"' "$T/h/$p.jsonl.lineage.json"
done
head -n 200 $O >"$T/some"
ds-split --part val "$T/some" >"$T/val.some"
head -n "$(lines "$T/val.some")" "$T/h/val.jsonl" >"$T/val.head"
same 'stable when the data grows' "$T/val.some" "$T/val.head"
ds-split --seed 43 --part val $O >"$T/val43"
if cmp -s "$T/val43" "$T/val"; then fail 'the seed matters'; else pass 'the seed matters'; fi
cat $O $O >"$T/twice"
ds-split -o "$T/h2" "$T/twice"
for p in train val test; do
	sort "$T/h2/$p.jsonl" | uniq >"$T/a"
	sort "$T/h/$p.jsonl" | uniq >"$T/b"
	same "duplicates stay together: $p" "$T/a" "$T/b"
done
is 'the same bytes on every machine' "$(hash "$T/train") $(hash "$T/val") $(hash "$T/test")" '349a19a7e942de0a 597ce531f61be625 7a1c9b770c3c09da'

# --- what stays together ---
for i in 1 2 3 4 5 6 7 8 9 10 11 12; do for j in 1 2 3 4 5; do echo "{\"u\":\"p$i\",\"text\":\"$i $j\"}"; done; done >"$T/g"
ok 'groups' ds-split --group u --ratio 50/50 -o "$T/gd" "$T/g"
sed 's/,.*//' "$T/gd/train.jsonl" | sort -u >"$T/a"
sed 's/,.*//' "$T/gd/val.jsonl" | sort -u >"$T/b"
is 'no group crosses' "$(comm -12 "$T/a" "$T/b")" ''
is 'all groups are there' "$(cat "$T/a" "$T/b" | wc -l | tr -d ' ')" 12
status 3 'no such field' ds-split --group nope -o "$T/x" "$T/g"
says 'g:1: no field "nope" to group by' 'names file, line and field'
if [ -e "$T/x" ]; then fail 'no half output'; else pass 'no half output'; fi
ok 'first turn' ds-split --by first --mode exact -q -o "$T/first" $O
parts "$T/first" $O 'complete by first turn'
for p in train val test; do sed 's/.*"messages": *\[{"role": *"[a-z]*", *"content": *"\(\([^"\\]\|\\.\)*\)".*/\1/' "$T/first/$p.jsonl" | sort -u; done | sort | uniq -d >"$T/dups"
is 'no opening in two parts' "$(wc -l <"$T/dups" | tr -d ' ')" 0

# --- exact mode ---
i=0
while [ $i -lt 1000 ]; do echo "{\"prompt\":\"q $i\",\"completion\":\"a\"}"; i=$((i + 1)); done >"$T/k"
ok 'exact' ds-split --mode exact -o "$T/e" "$T/k"
is '1000 is 800, 100, 100' "$(lines "$T/e/train.jsonl") $(lines "$T/e/val.jsonl") $(lines "$T/e/test.jsonl")" '800 100 100'
parts "$T/e" "$T/k" 'complete'
ds-split --mode exact --part test <"$T/k" >"$T/a"
same 'stdin as well' "$T/a" "$T/e/test.jsonl"
is 'the same bytes in exact mode' "$(hash "$T/e/val.jsonl")" '8a2a55f39f342a8a'
ok 'ratio' ds-split --mode exact --ratio 90/10 -o "$T/r" "$T/k"
is '900, 100' "$(lines "$T/r/train.jsonl") $(lines "$T/r/val.jsonl")" '900 100'
ok 'named parts' ds-split --mode exact --parts a=0.5,b=0.3,c=0.2 -o "$T/n" "$T/k"
is '500, 300, 200' "$(lines "$T/n/a.jsonl") $(lines "$T/n/b.jsonl") $(lines "$T/n/c.jsonl")" '500 300 200'
status 0 'groups in exact mode' ds-split --mode exact --group u --ratio 50/50 -o "$T/ge" "$T/g"
is 'as near as groups allow' "$(lines "$T/ge/train.jsonl")" 30
status 0 'groups that do not fit' ds-split --mode exact --group u --ratio 90/10 -o "$T/gf" "$T/g"
says 'records of one key stay together (the largest group has 5)' 'the difference is reported'

# --- a sample for review ---
ok 'sample' ds-split --sample 0.1 -o "$T/s" "$T/k"
is 'a tenth' "$(lines "$T/s")" 100
ds-split --sample 0.1 --seed 42 <"$T/k" >"$T/s2"
same 'the same rows from stdin' "$T/s" "$T/s2"
is 'the same rows everywhere' "$(hash "$T/s")" '048832f6cdeb48de'
grep -v -x -F -f "$T/k" "$T/s" >"$T/alien"
is 'all from the input' "$(lines "$T/alien")" 0

# --- other records ---
ok 'preference pairs' ds-split --mode exact -q -o "$T/p" $S/dpo_prompt_chosen_rejected.jsonl
parts "$T/p" $S/dpo_prompt_chosen_rejected.jsonl 'complete'
ok 'records that are no chat' ds-split -o "$T/m" $S/mt_bench_question.jsonl
parts "$T/m" $S/mt_bench_question.jsonl 'complete'
ok 'an array' ds-split -o "$T/ar" $S/alpaca_rasbt.json
parts "$T/ar" $S/alpaca_rasbt.json 'complete'

# --- refused ---
for r in 80 80/10/20 80/-10/30 a/b 0/0 80/10/ ''; do
	status 2 "ratio '$r'" ds-split --ratio "$r" -o "$T/x" $O
done
status 2 'ratio and parts' ds-split --ratio 90/10 --parts a=0.5,b=0.5 -o "$T/x" $O
status 2 'no such part' ds-split --part dev $O
says "no part 'dev' in train, val, test" 'names the parts'
status 2 'no output' ds-split $O
status 2 'existing directory' ds-split -o "$T/h" $O
ok 'force' ds-split --force -o "$T/h" $O
status 2 'sample of nothing' ds-split --sample 0 $O
status 2 'sample with ratio' ds-split --sample 0.1 --ratio 90/10 $O
status 2 'two inputs' ds-split -o "$T/x" $O $O
status 4 'missing file' ds-split -o "$T/x" "$T/none"
: >"$T/empty"
status 3 'empty input' ds-split -o "$T/x" "$T/empty"
printf '{"text":"a"}\n{"text":\n' >"$T/cut"
status 3 'bad line' ds-split -o "$T/x" "$T/cut"
says 'cut:2:' 'names file and line'
status 3 'bad line in exact mode' ds-split --mode exact -o "$T/x" "$T/cut"
if [ -e "$T/x" ]; then fail 'no half output'; else pass 'no half output'; fi
is 'nothing else is left' "$(find "$T" -name '*.tmp*' -o -name '.*lp*' | wc -l | tr -d ' ')" 0
head -n 2 "$T/k" >"$T/two"
status 0 'an empty part' ds-split --mode exact -o "$T/tiny" "$T/two"
says 'part test is empty' 'is warned of'
status 0 'another part alone' ds-split --mode exact --part train "$T/two"
quiet 'has no word about the parts that were not asked for'

# --- killed, or out of space: nothing is left under a final name or any other ---
mkdir "$T/killed"
mkfifo "$T/fifo"
ds-split -o "$T/killed/out" <"$T/fifo" 2>/dev/null &
pid=$!
exec 9>"$T/fifo"
cat $O >&9
n=0
while [ -z "$(ls -A "$T/killed")" ] && [ $n -lt 50 ]; do sleep 0.1; n=$((n + 1)); done
kill -TERM $pid
wait $pid
exec 9>&-
is 'SIGTERM in the midst of it' "$(ls -A "$T/killed")" ''
status 4 'no space for the parts' limited 100 ds-split --mode exact -o "$T/killed/out" $O
says 'cannot write' 'says so'
status 4 'no space for the copy of stdin' limited 100 sh -c "ds-split --mode exact --part train <$O >/dev/null"
is 'nothing is left' "$(ls -A "$T/killed")" ''

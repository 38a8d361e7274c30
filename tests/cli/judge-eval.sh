#!/bin/sh
# judge-eval: score, ab, ppl, and what they refuse.
. "$(dirname "$0")/lib.sh"
cd "$T" || exit 1

cat >base.jsonl <<'X'
{"id":"a","prompt":"p1","response":"The cat sat.","expected":"the cats sat","tokens":4,"finish":"stop"}
{"id":2,"prompt":"p2","response":"x = 1","expected":"```\nx = 1\n```","tokens":5,"finish":"length"}
{"id":3,"prompt":[{"role":"user","content":"p3 \u00e9"}],"response":"{\"a\": 1}","expected":"{\"a\":1.0}","tokens":6,"finish":"stop"}
X
cat >tuned.jsonl <<'X'
{"id":3,"prompt":[{"role":"user","content":"p3 \u00e9"}],"response":"{\"a\":1.0}","expected":"{\"a\":1.0}","tokens":6,"finish":"stop"}
{"id":"a","prompt":"p1","response":"the cats sat","expected":"the cats sat","tokens":4,"finish":"stop"}
{"id":2,"prompt":"p2","response":"```\nx = 1\n```","expected":"```\nx = 1\n```","tokens":5,"finish":"stop"}
X

# --- score ---
ok "score" judge-eval score base.jsonl --summary sum.json --json -o verdicts.jsonl
quiet "score says nothing"
is "a verdict for each record" "$(grep -c . verdicts.jsonl)" 3
head -n 1 verdicts.jsonl >.first
is "rouge, matches, length" "$(cut -d, -f1-16 .first)" '{"id":"a","rouge1":1.0,"rouge1_p":1.0,"rouge1_r":1.0,"rouge2":1.0,"rouge2_p":1.0,"rouge2_r":1.0,"rougeL":1.0,"rougeL_p":1.0,"rougeL_r":1.0,"exact":false,"norm_exact":false,"json_valid":false,"json":false,"format":true,"chars":12'
ok "equal JSON by value" grep -q '"id":3,.*"json_valid":true,"json":true' verdicts.jsonl
ok "code block missing" grep -q '"id":2,.*"format":false' verdicts.jsonl
ok "examples in the summary" grep -q '"examples":\[{"id":"a","prompt":"p1","expected":"the cats sat","response":"The cat sat."' sum.json
ok "length-limited answers counted" grep -q '"finish":{"stop":2,"length":1,"other":0}' sum.json
ok "the sidecar names the verdicts' hash" grep -q '"output"\|"hash"' verdicts.jsonl.lineage.json
judge-eval score <base.jsonl --json >v2.jsonl
same "stdin gives the same" verdicts.jsonl v2.jsonl
status 0 "summary as the output" judge-eval score base.jsonl --summary -
prints '^{"report":"score","records":3,"scored":3,"with_expected":3' "it is one object"
judge-eval score base.jsonl --summary - --max-samples 2 >two.json
ok "max-samples scores some, counts all" grep -q '"records":3,"scored":2' two.json
status 0 "keep" judge-eval score base.jsonl --keep 1
is "keep keeps one review" "$(grep -c '"review"' .out)" 1
gzip -c base.jsonl >base.jsonl.gz
judge-eval score base.jsonl.gz --json >v3.jsonl
same "compressed input" verdicts.jsonl v3.jsonl

printf '{"id":1,"prompt":"p","response":"so #### 42","expected":"#### 42"}\n{"id":2,"prompt":"p","response":"#### 4","expected":"#### 42"}\n' >re.jsonl
status 0 "gate met" judge-eval score re.jsonl --regex '#### (\S+)' --gate 'regex>=0.5' -o /dev/null
status 1 "gate not met" judge-eval score re.jsonl --regex '#### (\S+)' --gate 'regex>0.5' -o v.jsonl
says 'regex>0.5.*not met: 0.5' "the gate is named with its value"
ok "verdicts are written all the same" test -s v.jsonl
status 2 "gate on what was not measured" judge-eval score re.jsonl --gate 'json>0.5' -o unmeasured.jsonl
ok "and no output" test ! -e unmeasured.jsonl
status 2 "unknown metric" judge-eval score re.jsonl --gate 'bleu>0.5'
says "no metric 'bleu'" "it is named"
status 2 "bad pattern" judge-eval score re.jsonl --regex '('
status 2 "no subcommand" judge-eval
status 2 "unknown subcommand" judge-eval scores
status 2 "an option of another subcommand" judge-eval score re.jsonl --no-base
status 3 "empty input" judge-eval score /dev/null
status 4 "missing file" judge-eval score nowhere.jsonl
printf '{"id":1,"response":"x"}\n{"id":2}\n' >bad.jsonl
status 3 "no response" judge-eval score bad.jsonl -o out.jsonl
says 'bad.jsonl:2: no response' "file and line are named"
ok "nothing under the final name" test ! -e out.jsonl
printf '{"id":1,"response":"x","expected":5}\n' >bad.jsonl
status 3 "expected of another type" judge-eval score bad.jsonl
printf '{"id":1,"response":"x"\n' >bad.jsonl
status 3 "cut record" judge-eval score bad.jsonl
printf '{"id":[1,"a"],"response":"x"}\n{"response":"y"}\n' >ids.jsonl
status 0 "ids of any type, or none" judge-eval score ids.jsonl
prints '^{"id":\[1,"a"\],' "they stay as they are"
prints '^{"id":2,' "the line number stands in"
printf '{"id":1,"response":"\\ud83d\\ude00e\\u0301","expected":""}\n' | judge-eval score >v.jsonl
ok "length is code points" grep -q '"chars":3' v.jsonl
if [ -c /dev/full ]; then
	sh -c 'judge-eval score base.jsonl >/dev/full' 2>.err
	is "full disk" $? 4
else
	skip "no /dev/full"
fi

# --- ab ---
status 0 "ab" judge-eval ab base.jsonl tuned.jsonl -o ab.json --json
quiet "ab says nothing"
ok "exact: none before, all after" grep -q '"exact":{"n":3,"tuned":1.0,"base":0.0,"delta":1.0,"delta_ci95":\[1.0,1.0\],"win":3,"tie":0,"loss":0' ab.json
ok "samples side by side" grep -q '"samples":\[{"id":"a","prompt":"p1","expected":"the cats sat","base":"The cat sat.","tuned":"the cats sat"' ab.json
judge-eval ab base.jsonl tuned.jsonl -o ab2.json --json
same "the same seed, the same bytes" ab.json ab2.json
judge-eval score tuned.jsonl --json -o tv.jsonl
judge-eval ab verdicts.jsonl tv.jsonl -o ab3.json --json
is "verdicts compare like completions" "$(sed 's/"lineage".*//' ab3.json)" "$(sed 's/"lineage".*//' ab.json)"
status 0 "a table" judge-eval ab base.jsonl tuned.jsonl --text
prints '^  Exact match  *0.0  *100.0  *+100.0  *\[+100.0, +100.0\] *3/0/0$' "with figures; three pairs prove nothing"
for i in 1 2 3 4 5 6 7 8; do
	printf '{"id":%d,"prompt":"p","response":"no","expected":"yes"}\n' $i >>eight.jsonl
	printf '{"id":%d,"prompt":"p","response":"yes","expected":"yes"}\n' $i >>eight.tuned.jsonl
done
status 0 "eight pairs" judge-eval ab eight.jsonl eight.tuned.jsonl --text
prints '^  Exact match .* 8/0/0 *better$' "all won, prove something"
status 0 "gates of a comparison" judge-eval ab base.jsonl tuned.jsonl --gate 'delta.exact>0' --gate 'win.exact>=1' --gate 'base.exact<=0' -o /dev/null
status 1 "gate not met by ab" judge-eval ab tuned.jsonl base.jsonl --gate 'delta.exact>0' -o /dev/null
status 2 "no base run" judge-eval ab tuned.jsonl
says 'needs the base' "ab asks for it"
status 0 "no base run, on purpose" judge-eval ab --no-base tuned.jsonl
prints '"base_run":false' "the report says so"
status 2 "two runs and --no-base" judge-eval ab --no-base base.jsonl tuned.jsonl
head -n 2 tuned.jsonl >short.jsonl
status 3 "missing partner" judge-eval ab base.jsonl short.jsonl
says 'id 2 of the base run has no partner' "the id is named"
status 3 "missing partner, other side" judge-eval ab short.jsonl tuned.jsonl
says 'tuned.jsonl:3: id 2 has no partner in the base run' "id and line are named"
cat base.jsonl base.jsonl >twice.jsonl
status 3 "duplicate id in base" judge-eval ab twice.jsonl tuned.jsonl
says 'twice.jsonl:4: duplicate id "a"' "the id is named"
cat tuned.jsonl tuned.jsonl >twice.jsonl
status 3 "duplicate id in tuned" judge-eval ab base.jsonl twice.jsonl
sed 's/p1/p9/' tuned.jsonl >other.jsonl
status 3 "other prompts" judge-eval ab base.jsonl other.jsonl
says 'id "a" has another prompt' "the id is named"
status 3 "empty base" judge-eval ab /dev/null tuned.jsonl
status 3 "empty tuned" judge-eval ab base.jsonl /dev/null

# --- ppl ---
printf '{"id":1,"nll":2.0,"tokens":2}\n{"id":2,"nll":4.0,"tokens":4}\n' >nll.jsonl
status 2 "perplexity alone is refused" judge-eval ppl nll.jsonl
says 'perplexity alone does not say' "and why"
status 0 "with scores" judge-eval ppl --scores sum.json nll.jsonl
prints '"perplexity":2.71828182845904' "e to the mean loss"
prints '"rougeL":{"mean"' "the scores stand beside it"
status 0 "alone on purpose" judge-eval ppl --alone nll.jsonl
status 1 "a gate on it" judge-eval ppl --alone --gate 'ppl<2' nll.jsonl
judge-eval ppl --alone nll.jsonl -o ppl.json
status 3 "scores without scores" judge-eval ppl --scores ppl.json nll.jsonl
printf '{"id":1,"nll":2.0}\n' >bad.jsonl
status 3 "likelihood without token count" judge-eval ppl --alone bad.jsonl
printf '{"id":1,"nll":null,"tokens":3}\n' >bad.jsonl
status 3 "likelihood that was not finite" judge-eval ppl --alone bad.jsonl
cat nll.jsonl nll.jsonl >bad.jsonl
status 3 "duplicate id in ppl" judge-eval ppl --alone bad.jsonl
status 2 "ab over likelihoods only" judge-eval ab nll.jsonl nll.jsonl
ok "log" judge-eval score base.jsonl -o /dev/null --log m.jsonl
ok "a metric record" grep -q '"tool":"judge-eval","event":"score".*"rougeL":' m.jsonl

# --- the manual's examples ---
cp re.jsonl gsm8k.jsonl
cp nll.jsonl likelihoods.jsonl
sed -n '/^.SH EXAMPLES/,/^.SH SEE/p' "$ROOT/tools/judge-eval.1" | grep '^judge-eval' | sed 's/\\e/\\/g' >examples
while IFS= read -r line; do
	case $line in *'regex>=0.8'*) want=1 ;; *) want=0 ;; esac
	status $want "example: $line" sh -c "$line"
done <examples
is "examples were there" "$(grep -c . examples)" 4

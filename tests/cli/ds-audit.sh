#!/bin/sh
. "$(dirname "$0")/lib.sh"
cd "$ROOT" || exit 1
S=data/sets
long=01234567890123456789012345678901234567890123456789

# --- good input passes through, byte for byte, and nothing is said ---
ok 'oasst passes' ds-audit -o "$T/out" $S/messages_oasst.jsonl
same 'byte for byte' "$T/out" $S/messages_oasst.jsonl
quiet 'nothing on stderr'
ok 'sidecar' grep -q '"tool":"ds-audit".*"messages_oasst.jsonl"' "$T/out.lineage.json"
printf '{ "text" :  "a",\t"n": 1.50e400 }\r\n\n{"b":1}' >"$T/odd"
printf '{ "text" :  "a",\t"n": 1.50e400 }\n{"b":1}\n' >"$T/odd.want"
ds-audit <"$T/odd" >"$T/odd.out" 2>/dev/null
tr -d '\r' <"$T/odd.out" >"$T/odd.out2"
same 'odd spacing and numbers' "$T/odd.out2" "$T/odd.want"
ds-audit $S/alpaca_rasbt.json | head -n 1 >"$T/first"
is 'an array becomes lines' "$(cut -c1-16 "$T/first")" '{"instruction":"'
gzip -c $S/messages_oasst.jsonl >"$T/z.gz"
ds-audit "$T/z.gz" >"$T/z.out"
same 'gzip' "$T/z.out" $S/messages_oasst.jsonl

# --- findings ---
printf '%s\n' '{"messages":[{"role":"user","content":"As an AI?"},{"role":"user","content":" "}]}' \
	'{"prompt":"p","completion":"short"}' '{"messages":[{"role":"user","content":null}]}' "{\"prompt\":\"p\",\"completion\":\"$long\"}" >"$T/bad"
cat >"$T/want" <<'X'
{"line":1,"rule":"empty-message","severity":"error","msg":"message 2: nothing but white space from user","role":"user"}
{"line":1,"rule":"consecutive-role","severity":"error","msg":"message 2: second user message in a row","role":"user"}
{"line":1,"rule":"identity-leak","severity":"warning","msg":"message 1: user says \"as an ai\"","role":"user"}
{"line":2,"rule":"short-response","severity":"warning","msg":"message 2: assistant response of 5 characters, under 50","role":"assistant"}
{"line":3,"rule":"malformed","severity":"error","msg":"message 1 has no content"}
X
status 0 'findings are the output' ds-audit --findings - "$T/bad"
same 'the findings' "$T/.out" "$T/want"
ds-audit --findings "$T/f" "$T/bad" >"$T/pass"
same 'findings to a file' "$T/f" "$T/want"
same 'records pass beside them' "$T/pass" "$T/bad"

# --- statuses ---
status 1 'fail-on a rule' ds-audit --fail-on short-response "$T/bad"
status 0 'fail-on another rule' ds-audit --fail-on long-response "$T/bad"
status 1 'fail-on error' ds-audit --fail-on error "$T/bad"
tail -n 1 "$T/bad" >"$T/clean"
status 0 'fail-on all, clean' ds-audit --fail-on all "$T/clean"
status 2 'fail-on nonsense' ds-audit --fail-on never "$T/bad"
says "neither a rule nor a severity" 'says so'
status 2 'two inputs' ds-audit "$T/bad" "$T/bad"
status 2 'unknown option' ds-audit --frobnicate
status 4 'missing file' ds-audit "$T/none"

# --- dropping ---
ok 'drop' ds-audit --drop malformed,short-response --rejects "$T/rej" -o "$T/kept" "$T/bad"
sed -n -e 1p -e 4p "$T/bad" >"$T/kept.want"
same 'what is kept' "$T/kept" "$T/kept.want"
is 'what is left out, with reasons' "$(cut -c1-44 "$T/rej" | tr '\n' '+')" '{"line":2,"reasons":["short-response"],"msg"+{"line":3,"reasons":["malformed"],"msg":"mes+'

# --- options ---
is 'thresholds' "$(ds-audit --min-turns 3 --min-chars 0 --max-chars 4 --leak-phrases short --leak-roles assistant --findings - "$T/bad" | grep '"line":2' | grep -c 'few-turns\|long-response\|identity-leak')" 3
C='{"from":"human","value":"p"},{"from":"function_call","value":"{\"name\":\"f\",\"arguments\":{}}"}'
M='{"messages":[{"role":"user","content":"p"},{"role":"assistant","content":"","tool_calls":[{"type":"function","function":{"name":"f","arguments":{}}}]}]}'
is 'calls are lifted' "$(echo "{\"conversations\":[$C]}" | ds-audit --tool-calls --to messages)" "$M"
is 'a call alone is empty to the guides' "$(echo "$M" | ds-audit --findings - | grep -c 'empty-message\|short-response')" 2
is 'and fine with --tool-calls' "$(echo "$M" | ds-audit --tool-calls --findings -)" ''
is 'null content beside a call too' "$(echo "$M" | sed 's/"content":""/"content":null/' | ds-audit --tool-calls --findings -)" ''
is 'null content without a call is not' "$(echo '{"messages":[{"role":"user","content":null}]}' | ds-audit --tool-calls --findings - | grep -c malformed)" 1
cat "$T/clean" "$T/clean" >"$T/dup"
is 'duplicates' "$(ds-audit --duplicates --findings - "$T/dup")" '{"line":2,"rule":"duplicate","severity":"warning","msg":"same text as the record at line 1"}'
status 1 'one shape' ds-audit --one-shape --fail-on mixed-shape --findings - "$T/bad"
prints '"rule":"mixed-shape".*prompt 2, messages 1\|messages 1, prompt 2' 'counts by shape'
status 0 'task' ds-audit --task style "$T/bad"
says '4 records for style or tone: too few, the minimum is 50 to 100' 'size verdict'
ok 'summary' ds-audit --summary "$T/sum" "$T/bad"
ok 'in the summary' grep -q '^4 records, 6 messages, 3 with findings; shapes: messages 1, prompt 2$' "$T/sum"
ok 'log' ds-audit --log "$T/log" "$T/bad"
ok 'metrics' grep -q '"records":4,"flagged":3.*"malformed":1' "$T/log"

# --- to messages ---
ok 'normalise' ds-audit --to messages -o "$T/msg" $S/sharegpt_identity.json
is 'all are messages' "$(grep -c '^{"messages":\[{"role":"user",' "$T/msg")" 434
ds-audit --findings - "$T/msg" >"$T/f1"
ds-audit --findings - $S/sharegpt_identity.json >"$T/f2"
same 'same findings after it' "$T/f1" "$T/f2"
is 'map and system' "$(echo '{"q":"a","a":"b","k":1.0}' | ds-audit --to messages --map prompt=q,completion=a --system S 2>&1)" \
	'{"messages":[{"role":"system","content":"S"},{"role":"user","content":"a"},{"role":"assistant","content":"b"}],"k":1.0}'
echo '{"foo":1}' >"$T/foo"
status 3 'no shape' ds-audit --to messages "$T/foo"
says "foo:1: no known shape" 'names file and line'

# --- bad input ---
printf '{"text":"a"}\n{"text":\n{"text":"b"}\n' >"$T/cut"
status 3 'bad line' ds-audit -o "$T/never" "$T/cut"
says 'cut:2:' 'names file and line'
if [ -e "$T/never" ]; then fail 'no half output'; else pass 'no half output'; fi
status 0 'skip-bad' ds-audit --skip-bad "$T/cut"
says '1 lines cannot be read and were left out' 'says how many'
is 'goes on behind it' "$(wc -l <"$T/.out")" 2
status 0 'rejects' ds-audit --rejects "$T/rej" "$T/cut"
is 'raw text of it' "$(sed 's/.*"raw"/"raw"/' "$T/rej")" '"raw":"{\"text\":"}'
printf '{"text":"\377"}\n' | ds-audit --rejects "$T/rej" >/dev/null 2>&1
ok 'not UTF-8' grep -q 'not UTF-8' "$T/rej"
: >"$T/empty"
status 3 'empty input' ds-audit "$T/empty"
says 'no records in it' 'says so'
head -c 3000 "$T/z.gz" >"$T/cut.gz"
status 3 'cut gzip' ds-audit "$T/cut.gz"
printf '[{"text":"a"},{"text":"b"}' >"$T/arr"
status 3 'array without its end' ds-audit --findings - "$T/arr"
if [ -w /dev/full ]; then
	status 4 'full disk' sh -c "ds-audit $S/messages_oasst.jsonl >/dev/full"
	says 'write' 'says so'
fi
status 2 'rejects to stdout' ds-audit --rejects - "$T/bad"
status 2 'two outputs of one name' ds-audit --findings "$T/one" -o "$T/one" "$T/bad"
says "two outputs go to '.*one'" 'is said'
status 2 'an output without a name' ds-audit -o '' "$T/bad"
sh -c "ds-audit $S/messages_oasst.jsonl | head -c 10 >/dev/null" 2>"$T/.err"
quiet 'a closed pipe is no error'

# --- constant memory: 64 MB of records (1 GB with LP_SLOW=1) in a data segment of 32 MB ---
n=81
[ "${LP_SLOW:-0}" = 1 ] && n=1300
stream() { i=0; while [ $i -lt $n ]; do cat $S/messages_oasst.jsonl; i=$((i + 1)); done; }
want=$((460 * n))
if (ulimit -d 32768 && ds-audit --version) >/dev/null 2>&1; then
	got=$(stream | (ulimit -d 32768 && ds-audit) | wc -l)
	is 'ds-audit in constant memory' "$got" "$want"
	got=$(stream | (ulimit -d 32768 && ds-audit --to messages) | wc -l)
	is 'ds-audit --to messages as well' "$got" "$want"
	got=$(stream | (ulimit -d 32768 && ds-split --parts a=0.5,b=0.5 --part a) | wc -l)
	is 'ds-split as well' "$((got % n)) $((got > 0))" '0 1'
else
	skip 'no limit on the data segment here, or a build that needs more'
fi

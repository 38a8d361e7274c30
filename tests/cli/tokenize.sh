#!/bin/sh
# tokenize: streams, masks, packing, statistics, refusals.
. "$(dirname "$0")/lib.sh"
M=$ROOT/data/stories260K
[ -f "$M/tokenizer.json" ] || { skip "no demo model"; exit 0; }
cd "$T" || exit 1

cat >a.jsonl <<'EOF'
{"text":"<s>Once upon a time, there was a little girl.</s>","spans":[[8,46]]}
{"text":"<s>Hi é😀 there</s>","spans":[[3,18]],"id":7}
{"text":"<s>The end</s>"}
EOF

# --- a stream and back ---
ok "writes a stream" tokenize --model "$M" a.jsonl -o a.lps
quiet "says nothing in good times"
ok "reads standard input" sh -c "tokenize --model '$M' <a.jsonl >b.lps"
ok "decodes" tokenize --model "$M" --decode a.lps -o d.jsonl
mkdir another && sed 's/<unk>/<none>/g' "$M/tokenizer.json" >another/tokenizer.json && cp "$M/tokenizer_config.json" another
for v in --decode --show-mask; do
	status 2 "another tokenizer's stream, $v" tokenize --model another $v a.lps
	says "a.lps: it was made with another tokenizer" "is not shown as what it is not"
done
is "as many records" "$(wc -l <d.jsonl)" 3
is "text and spans come back" "$(sed -n 2p d.jsonl)" '{"record":1,"text":"<s> Hi é😀 there</s>","spans":[[3,19]]}'
ok "shows the mask of a stream" tokenize --model "$M" --show-mask a.lps -o m1
ok "shows the mask of records" tokenize --model "$M" --show-mask a.jsonl -o m2
same "both views agree" m1 m2
is "a token is a target by its first byte" "$(sed -n '3,4p' m1 | grep -o '"mask":.' | tr '\n' ' ')" '"mask":0 "mask":1 '
is "the first token is no target" "$(grep '"pos":0' m1 | grep -c '"mask":1')" 0
is "the end of turn is a target" "$(grep -c '"id":2,.*"mask":1' m1)" 2
is "--limit" "$(tokenize --model "$M" --show-mask --limit 1 a.jsonl | grep -c '"record":0')" "$(tokenize --model "$M" --show-mask --limit 1 a.jsonl | wc -l)"
gzip -k a.jsonl
ok "compressed input" tokenize --model "$M" --decode a.lps -o d2.jsonl
ok "gzip" sh -c "tokenize --model '$M' --show-mask a.jsonl.gz >m3"
same "the same of a compressed file" m1 m3

# --- the same bytes for any number of threads ---
i=0
while [ $i -lt 400 ]; do
	printf '{"text":"<s>Story %d: once %s upon a time.</s>","spans":[[3,12]]}\n' $i "$(printf '%*s' $((i * 7 % 97)) '' | tr ' ' 'a')"
	i=$((i + 1))
done >many.jsonl
ok "one thread" tokenize --model "$M" --pack --max-len 256 -j 1 many.jsonl -o t1.lps
ok "three threads" tokenize --model "$M" --pack --max-len 256 -j 3 many.jsonl -o t3.lps
same "equal streams" t1.lps t3.lps

# --- packing ---
ok "statistics of a packed stream" tokenize --model "$M" --pack --max-len 256 --stats-file s.json many.jsonl -o p.lps
fill=$(sed 's/.*"fill":0*\.*\([0-9.]*\).*/\1/' s.json)
ok "rows are filled to 95 % and more" sh -c "case '$fill' in 9[5-9]*|1|1.0) ;; *) exit 1 ;; esac"
tokenize --model "$M" --decode p.lps | sort >p.txt
tokenize --model "$M" many.jsonl --max-len 256 | tokenize --model "$M" --decode | sort >u.txt
same "packing loses nothing" p.txt u.txt
ok "frames of ten records" tokenize --model "$M" --split-frames 10 many.jsonl -o f.lps
tokenize --model "$M" --decode f.lps | sort >f.txt
same "frames lose nothing" f.txt u.txt

# --- statistics ---
ok "statistics" tokenize --model "$M" --stats a.jsonl
prints '"rows":3,"tokens":' "count"
prints '"p50":.*"p90":.*"p95":.*"p99":.*"max":' "percentiles"
prints '"cut":\[{"max_len":256,"rows":0,"tokens":0}\]' "cuts"

if script -qec true /dev/null >/dev/null 2>&1; then
	script -qec "tokenize --model '$M' --stats a.jsonl" /dev/null >pic 2>/dev/null
	ok "on a terminal it is a picture" sh -c "grep -q '█' pic && grep -q 'holds 99 % of the rows' pic && ! grep -q '\"rows\"' pic"
else
	skip "no script(1) for a terminal"
fi

# --- length ---
status 3 "a longer record is an error" tokenize --model "$M" --max-len 12 a.jsonl -o x.lps
says 'a.jsonl:1: .*--over-long truncate' "it names the line and the remedy"
ok "nothing is left" test ! -e x.lps
ok "truncation" tokenize --model "$M" --max-len 12 --truncate a.jsonl -o x.lps
says 'cut at 12' "it says so"
is "at most 12 tokens" "$(tokenize --model "$M" --show-mask x.lps | grep -c '"pos":12')" 0
ok "dropping" tokenize --model "$M" --max-len 12 --drop-long --rejects rej.jsonl -q a.jsonl -o y.lps
sed -n 1p a.jsonl >want
same "the reject is the record" rej.jsonl want
is "two are left" "$(tokenize --model "$M" --decode y.lps | wc -l)" 2
status 2 "more than the model's positions" tokenize --model "$M" --max-len 100000 a.jsonl
says 'positions of the model; --allow-long' "is refused"
ok "past them when told to" tokenize --model "$M" --max-len 100000 --allow-long -q a.jsonl -o z.lps

is "the same by its long name" "$(tokenize --model "$M" --max-len 12 --over-long truncate -q a.jsonl | cksum)" "$(tokenize --model "$M" --max-len 12 --over-long truncate -q a.jsonl -j 2 | cksum)"
ok "splitting" tokenize --model "$M" --max-len 8 --over-long split a.jsonl -o sp.lps
is "no row is longer" "$(tokenize --model "$M" --show-mask sp.lps | grep -c '"pos":8')" 0
is "every token is there" "$(tokenize --model "$M" --show-mask sp.lps | grep -o '"id":[0-9]*' | cksum)" "$(tokenize --model "$M" --show-mask a.jsonl | grep -o '"id":[0-9]*' | cksum)"
status 2 "one way at a time" tokenize --model "$M" --truncate --over-long split a.jsonl
ok "counts" tokenize --model "$M" --count a.jsonl
is "a line a record" "$(tokenize --model "$M" --count a.jsonl | sed -n 1p)" '{"record":0,"tokens":15,"targets":12}'
is "counts add up" "$(tokenize --model "$M" --count a.jsonl | sed 's/.*"tokens":\([0-9]*\).*/\1/' | awk '{ n += $1 } END { print n }')" \
	"$(tokenize --model "$M" --show-mask a.jsonl | wc -l | tr -d ' ')"

# --- targets ---
echo '{"text":"<s>one two three</s>","spans":[[3,6],[11,20]]}' >turns.jsonl
all=$(tokenize --model "$M" --show-mask turns.jsonl | grep -c '"mask":1')
last=$(tokenize --model "$M" --train-on last --show-mask turns.jsonl | grep -c '"mask":1')
ok "the last span is less than all" test "$last" -gt 0 -a "$last" -lt "$all"
is "none" "$(tokenize --model "$M" --train-on none turns.jsonl | tokenize --model "$M" --show-mask | grep -c '"mask":1')" 0

# --- shuffling ---
tokenize --model "$M" many.jsonl >plain.lps
ok "shuffles" tokenize --model "$M" --shuffle --seed 3 many.jsonl -o sh1.lps
tokenize --model "$M" --shuffle --seed 3 -j 2 many.jsonl >sh2.lps
is "the same for one seed" "$(tokenize --model "$M" --decode sh1.lps | cksum)" "$(tokenize --model "$M" --decode sh2.lps | cksum)"
ok "another for another" sh -c "! test \"\$(tokenize --model '$M' --shuffle --seed 4 many.jsonl | tokenize --model '$M' --decode | cksum)\" = \"\$(tokenize --model '$M' --decode sh1.lps | cksum)\""
tokenize --model "$M" --decode sh1.lps | sort >sh1.txt
tokenize --model "$M" --decode plain.lps | sort >plain.txt
same "nothing is lost" sh1.txt plain.txt
tokenize --model "$M" --pack --max-len 256 --shuffle many.jsonl | tokenize --model "$M" --decode | sort >sh3.txt
same "nor of packed rows" sh3.txt plain.txt

# --- other tokenizer files ---
K=$ROOT/tests/conformance/tokens
mkdir spm && cp "$M/tokenizer.model" "$M/config.json" spm/
is "a SentencePiece model gives the same ids" "$(tokenize --model spm --show-mask a.jsonl | cksum)" "$(tokenize --model "$M" --show-mask a.jsonl | cksum)"
is "and the same text" "$(tokenize --model spm a.jsonl | tokenize --model spm --decode | sed -n 1p)" '{"record":0,"text":"<s>Once upon a time, there was a little girl.</s>","spans":[[12,49]]}'
echo '{"text":"<s>[INST]Héllo 🎉[/INST] x</s>","spans":[[20,32]]}' >inst.jsonl
is "tekken.json and back" "$(tokenize --model "$K/tekken-tiny.json.zst" inst.jsonl | tokenize --model "$K/tekken-tiny.json.zst" --decode | sed 's/,"spans.*//')" \
	'{"record":0,"text":"<s>[INST]Héllo 🎉[/INST] x</s>"'
ok "pieces of bytes are shown" sh -c "tokenize --model '$K/tekken-tiny.json.zst' --show-mask inst.jsonl | grep -q '\"piece\":\"Ġx\"'"
cp "$K/cl100k-tiny.tiktoken.zst" r.zst
echo '{"text":"Some words, 1234"}' >bare0.jsonl
status 2 "ranks that are not known" tokenize --model r.zst bare0.jsonl
says 'give --pattern' "say how"
is "with a pattern by name" "$(tokenize --model r.zst --pattern cl100k --count bare0.jsonl | cksum)" "$(tokenize --model "$K/cl100k-tiny.tiktoken.zst" --count bare0.jsonl | cksum)"

# --- tables kept from run to run ---
mkdir big && zstd -dqc "$K/qwen2.5.json.zst" >big/tokenizer.json
tokenize --no-cache --model big --show-mask a.jsonl >c0
ok "nothing is kept when told" test ! -d "$XDG_CACHE_HOME"
tokenize --model big --show-mask a.jsonl >c1
ok "tables are kept" sh -c "test \$(ls '$XDG_CACHE_HOME/lorapipe' | wc -l) = 1"
tokenize --model big --show-mask a.jsonl >c2
same "the same tokens when they are made" c0 c1
same "and when they are read" c0 c2
is "the same stream as well" "$(tokenize --model big a.jsonl | cksum)" "$(tokenize --no-cache --model big a.jsonl | cksum)"
printf x >"$XDG_CACHE_HOME/lorapipe/$(ls "$XDG_CACHE_HOME/lorapipe")"
tokenize --model big --show-mask a.jsonl >c3
same "a damaged file is not believed" c0 c3
is "no home, no cache" "$(XDG_CACHE_HOME= HOME= tokenize --model big --show-mask a.jsonl | cksum)" "$(cksum <c0)"

# --- a GGUF's own vocabulary ---
gguf-export -q --model "$M" -o s.gguf
is "byte fallback: the same ids" "$(tokenize --model s.gguf --show-mask a.jsonl | cksum)" "$(tokenize --model "$M" --show-mask a.jsonl | cksum)"
mkdir q && zstd -dqc "$K/qwen2.json.zst" >q/tokenizer.json
ok "a tokenizer is unpacked" test -s q/tokenizer.json
model-init -q --like tiny --hidden 32 --ffn 32 --heads 2 --kv-heads 1 --head-dim 16 --vocab 1024 --tokenizer q -o qm
gguf-export -q --model qm -o q.gguf
is "byte-level: the same ids" "$(tokenize --model q.gguf --allow-double-bos --show-mask a.jsonl | cksum)" "$(tokenize --model q --show-mask a.jsonl | cksum)"
ok "a stream that names it" sh -c "tokenize --model q.gguf --allow-double-bos a.jsonl | tokenize --model q.gguf --decode >/dev/null"
status 2 "and no pattern" tokenize --model q.gguf --pattern gpt2 a.jsonl
head -c 3000 q.gguf >cut.gguf
status 3 "a cut one" tokenize --model cut.gguf a.jsonl

# --- rules ---
echo '{"text":"<s><s>Twice</s>"}' >bos.jsonl
status 3 "a doubled BOS" tokenize --model "$M" bos.jsonl
says 'begins 2 times' "is named"
ok "or allowed" tokenize --model "$M" --allow-double-bos bos.jsonl -o z.lps
echo '{"text":"<s>Nothing</s>","spans":[]}' >masked.jsonl
status 3 "an all-masked record" tokenize --model "$M" masked.jsonl
says 'masked.jsonl:1: no token to learn from' "is named"
ok "or allowed" tokenize --model "$M" --allow-masked masked.jsonl -o z.lps
echo '{"text":"The end"}' >bare.jsonl
is "BOS and EOS when asked for" "$(tokenize --model "$M" --add-bos --add-eos bare.jsonl | tokenize --model "$M" --decode)" \
	'{"record":0,"text":"<s> The end</s>","spans":[[3,15]]}'
for bad in '{"text":"abc","spans":[[2,1]]}' '{"text":"abc","spans":[[0,9]]}' '{"text":"é","spans":[[1,2]]}' '{"text":"abc","spans":[[0,2],[1,3]]}' \
	'{"messages":[]}' '{"text":5}' '{"text":"abc"' '{"prompt":"a","chosen":5,"rejected":"b"}'; do
	echo "$bad" >bad.jsonl
	status 3 "refused: $bad" tokenize --model "$M" bad.jsonl
	says 'bad.jsonl:1: ' "with its line"
done

# --- preference pairs ---
cat >pref.jsonl <<'EOF'
{"prompt":"<s>Hello","chosen":" there.</s>","rejected":" you.</s>"}
{"prompt":"<s>Hello","chosen":" again</s>","chosen_spans":[[0,6]],"rejected":" not</s>","rejected_spans":[[4,8]]}
EOF
ok "pairs" tokenize --model "$M" pref.jsonl -o pref.lps
is "two sequences a pair" "$(tokenize --model "$M" --decode pref.lps | cut -c1-31 | tr '\n' ' ')" \
	'{"record":0,"side":"chosen","te {"record":0,"side":"rejected"," {"record":1,"side":"chosen","te {"record":1,"side":"rejected"," '
is "spans are bytes of the answer" "$(tokenize --model "$M" --decode pref.lps | sed -n 's/.*"spans"://p' | tr '\n' ' ')" \
	'[[9,20]]} [[9,18]]} [[9,15]]} [[13,17]]} '
echo '{"prompt":"<s>Hello","chosen":" there.</s>","label":false}' >label.jsonl
is "an answer with a label" "$(tokenize --model "$M" label.jsonl | tokenize --model "$M" --decode | cut -c1-31)" '{"record":0,"side":"rejected","'
status 2 "pairs are not packed" tokenize --model "$M" --pack pref.jsonl
cat a.jsonl pref.jsonl >mix.jsonl
status 3 "no mixture" tokenize --model "$M" mix.jsonl

# --- the input's lineage ---
cat >l.jsonl <<'EOF'
{"text":"<s>The end</s>"}
EOF
hash=$(tokenize --model "$M" l.jsonl | tr -c '[:print:]' '\n' | sed -n 's/.*name\\":\\"l.jsonl\\",\\"hash\\":\\"\([^\\]*\).*/\1/p' | head -n 1)
echo '{"output":{"name":"l.jsonl","hash":"'"$hash"'"},"inputs":[{"name":"chat_template","hash":"sha256:abc"}]}' >l.jsonl.lineage.json
ok "a sidecar of these bytes" tokenize --model "$M" l.jsonl -o l.lps
ok "the template's hash comes from it" grep -q '"template_hash":"sha256:abc"' l.lps
echo '{"text":"<s>More</s>"}' >>l.jsonl
status 3 "a sidecar of other bytes" tokenize --model "$M" l.jsonl -o l2.lps
says 'lineage file is of other contents' "is refused"

# --- bad streams, bad models ---
head -c 600 a.lps >cut.lps
status 3 "a cut stream" tokenize --model "$M" --decode cut.lps
status 3 "a stream is no records" tokenize --model "$M" a.lps
status 3 "records are no stream" tokenize --model "$M" --decode a.jsonl
status 2 "no model" tokenize a.jsonl
status 4 "a folder without a tokenizer" tokenize --model "$T" a.jsonl
mkdir odd && sed 's/"type":"BPE"/"type":"Quantum"/' "$M/tokenizer.json" >odd/tokenizer.json
grep -q Quantum odd/tokenizer.json || sed 's/"type": "BPE"/"type": "Quantum"/' "$M/tokenizer.json" >odd/tokenizer.json
status 2 "an unknown model kind" tokenize --model odd a.jsonl
says "model 'Quantum' is not supported" "is refused by name"
status 3 "no records: a dead upstream cannot pass for an empty set" sh -c ": | tokenize --model '$M' -o e.lps"
says "no records in it" "is said"
ok "and nothing is written" test ! -e e.lps

#!/bin/sh
. "$(dirname "$0")/lib.sh"
cd "$ROOT" || exit 1
seqrec() { i=1; while [ $i -le "$2" ]; do echo "{\"text\": \"$1 $i\"}"; i=$((i + 1)); done; }
seqrec a 850 >"$T/a"
seqrec b 400 >"$T/b"
seqrec c 100 >"$T/c"
hash() { sha256sum <"$1" | cut -c1-16; }
count() { grep -c "\"$1 " "$2"; }

ok 'mix' ds-mix -o "$T/m" "$T/a" "$T/b:0.15"
quiet 'nothing on stderr'
is 'base whole, 15 per cent general' "$(count a "$T/m") $(count b "$T/m")" '850 150'
is 'no record twice' "$(sort "$T/m" | uniq -d)" ''
grep '"a ' "$T/m" >"$T/x"
same 'the base in its order' "$T/x" "$T/a"
if [ "$(head -n 850 "$T/m" | grep -c '"b ')" -gt 100 ]; then pass 'they are interleaved'; else fail 'they are interleaved'; fi
ok 'sidecar names both' sh -c "grep -q '\"name\":\"a\".*\"name\":\"b\"' '$T/m.lineage.json'"
ds-mix "$T/a" "$T/b:15%" >"$T/m2"
same 'percent' "$T/m" "$T/m2"
ds-mix -- "$T/a" -:0.15 <"$T/b" >"$T/m2"
same 'standard input' "$T/m" "$T/m2"
ds-mix --seed 43 "$T/a" "$T/b:0.15" >"$T/m2"
if cmp -s "$T/m" "$T/m2"; then fail 'the seed matters'; else pass 'the seed matters'; fi
is 'the same bytes on every machine' "$(hash "$T/m")" '6791099a746d7b8e'
for r in 0.1 0.2 0.137 0.31; do
	n=$(ds-mix "$T/a" "$T/b:$r" | count b -)
	is "ratio $r within one row" "$(awk "BEGIN { d = $n - $r * (850 + $n); print (d < 1 && d > -1) }")" 1
done
ok 'three files' ds-mix -o "$T/m3" "$T/a" "$T/b:0.1" "$T/c:0.05"
is 'their shares' "$(count a "$T/m3") $(count b "$T/m3") $(count c "$T/m3")" '850 100 50'
ok 'ratios only' ds-mix -o "$T/m4" "$T/b:0.8" "$T/c:0.2"
is 'as much as there is' "$(count b "$T/m4") $(count c "$T/m4")" '400 100'
ok 'size' ds-mix --size 200 -o "$T/m5" "$T/a" "$T/b:0.25"
is '150 and 50' "$(count a "$T/m5") $(count b "$T/m5")" '150 50'
is 'tag' "$(ds-mix --tag source "$T/c" | head -n 1)" '{"text": "c 1","source":"c"}'
is 'tag of an empty record' "$(echo '{ }' | ds-mix --tag s - | sed 's/ //g')" '{"s":"(stdin)"}'
status 2 'too few' ds-mix "$T/a" "$T/c:0.5"
says 'c has 100 records and the mixture needs 850' 'says how many'
ok 'repeat' ds-mix --repeat -o "$T/m6" "$T/a" "$T/c:0.5"
is 'each eight or nine times' "$(grep '"c ' "$T/m6" | sort | uniq -c | awk '{ print $1 }' | sort -u | tr '\n' ' ')" '8 9 '
is 'an array too' "$(ds-mix data/sets/alpaca_rasbt.json "$T/b:0.1" | wc -l | tr -d ' ')" 1059

status 2 'no input' ds-mix
status 2 'an input is no output' ds-mix -o "$T/b" "$T/a" "$T/b:0.15"
says 'replace the input' 'says why'
status 2 'ratio over 1' ds-mix "$T/a" "$T/b:1.5"
status 2 'nothing left' ds-mix "$T/a" "$T/b:0.6" "$T/c:0.4"
status 2 'not 1' ds-mix "$T/b:0.5" "$T/c:0.4"
status 2 'stdin twice' ds-mix -- - -:0.1
status 4 'missing file' ds-mix "$T/none"
: >"$T/empty"
status 3 'empty file' ds-mix "$T/a" "$T/empty:0.1"
printf '{"text":"a"}\n{"text":\n' >"$T/cut"
status 3 'bad line' ds-mix -o "$T/never" "$T/a" "$T/cut:0.001"
says 'cut:2:' 'names file and line'
if [ -e "$T/never" ]; then fail 'no half output'; else pass 'no half output'; fi
status 3 'tag is there already' ds-mix --tag text "$T/a"
says 'a:1: the record has a field "text" already' 'says so'

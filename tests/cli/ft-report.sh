#!/bin/sh
# ft-report: the page, the text, and what it refuses.
. "$(dirname "$0")/lib.sh"
cd "$T" || exit 1

run() { # run FILE LAST_LOSS: a run of 40 steps that falls from 4 to LAST_LOSS
	awk -v last="$2" 'BEGIN {
		print "{\"tool\":\"qlora-train\",\"event\":\"plan\",\"time\":1,\"model\":\"tiny <m>\",\"trainable\":83886080,\"total\":8114147328,\"percent\":1.034,\"weights_bytes\":1048576}"
		for (i = 1; i <= 40; i++) {
			printf "{\"tool\":\"qlora-train\",\"event\":\"train\",\"time\":%d,\"step\":%d,\"epoch\":%.3f,\"loss\":%.6f,\"lr\":%.6g,\"grad_norm\":1.5,\"tokens\":%d,\"tok_s\":1000,\"peak_bytes\":2097152,\"seconds\":%d}\n", i, i, i / 20, last + (4 - last) * exp(-i / 6), 1e-4 * (1 - i / 41), 100 * i, i
			if (i % 10 == 0)
				printf "{\"tool\":\"qlora-train\",\"event\":\"eval\",\"time\":%d,\"step\":%d,\"loss\":%.6f,\"best\":true}\n", i, i, last + 0.1 + (4 - last) * exp(-i / 6)
		}
		print "{\"tool\":\"qlora-train\",\"event\":\"done\",\"time\":41,\"step\":40,\"loss\":1,\"best_loss\":1,\"seconds\":96.3}"
	}' >"$1"
}
run train.jsonl 1
cat >base.jsonl <<'X'
{"id":1,"prompt":"Say <hi>","response":"<script>alert(1)</script>","expected":"hi & bye"}
{"id":2,"prompt":"p2","response":"no","expected":"yes"}
X
cat >tuned.jsonl <<'X'
{"id":2,"prompt":"p2","response":"yes","expected":"yes"}
{"id":1,"prompt":"Say <hi>","response":"hi & bye","expected":"hi & bye"}
X
judge-eval ab base.jsonl tuned.jsonl -o ab.json

ok "a page" ft-report --train-log train.jsonl --ab ab.json --title 'A & B' -o report.html
quiet "says nothing"
has() { if grep -q -e "$2" report.html; then pass "$1"; else fail "$1" "no '$2'"; fi; }
hasnt() { if grep -q -e "$2" report.html; then fail "$1" "there is '$2'"; else pass "$1"; fi; }
has "a wide chart can be scrolled on a phone" 'card wide"><h3>Loss'
has "title, escaped" '<h1>A &amp; B</h1>'
has "model, escaped" 'tiny &lt;m&gt;'
has "curves" '<svg viewBox="0 0 1000 340"'
has "values on hover" '<g class="h">.*step 10 · training 1.56.* · held-out 1.66'
has "parameters" '83,886,080</dd>'
has "time" '1 min 36 s'
has "no red flags" 'No red flags'
has "comparison" '<td>Exact match</td><td>0.0 %</td><td>100.0 %</td><td>+100.0</td>'
has "answers, escaped" '&lt;script&gt;alert(1)&lt;/script&gt;'
hasnt "no script" '<script'
hasnt "nothing from outside" 'http:\|https:\|src=\|@import\|url('
ok "to stdout" ft-report --train-log train.jsonl --ab ab.json --title 'A & B'
same "the same bytes" .out report.html
ok "operands are logs" ft-report train.jsonl --ab ab.json --title 'A & B'
same "likewise" .out report.html
ok "verdicts here" ft-report --train-log train.jsonl --title 'A & B' --verdicts base.jsonl tuned.jsonl -o v.html
same "the same as of judge-eval ab" v.html report.html
gzip -k train.jsonl
ok "compressed log" ft-report train.jsonl.gz --ab ab.json --title 'A & B' -o z.html

ok "text" ft-report --text --train-log train.jsonl --ab ab.json --width 70
prints '83,886,080 of 8,114,147,328 (1.034 %)' "parameters in text"
prints 'no red flags' "flags in text"
prints 'Exact match *0.0 *100.0' "comparison in text"
prints '^  tuned  *hi & bye$' "answers in text"
is "no line of the drawing is wider than asked" "$(awk 'length($0) > 70 && /[|]/' .out | wc -l | tr -d ' ')" 0
is "ASCII outside UTF-8" "$(tr -d '\000-\177' <.out | wc -c | tr -d ' ')" 0
LC_ALL=C.UTF-8 ft-report --text --train-log train.jsonl >u.txt
ok "Braille in UTF-8" grep -q '⠉\|⠒\|⣀' u.txt

run flat.jsonl 4
ok "a flat run" ft-report flat.jsonl --text
prints 'FLAG flat: training loss does not fall' "is flagged"
prints 'No answers were compared' "loss alone is said to be no proof"
status 1 "fail on flags" ft-report flat.jsonl --text --fail-on-flags
status 0 "no flags, no failure" ft-report train.jsonl --text --fail-on-flags
ok "two runs" ft-report --train-log train.jsonl --train-log flat.jsonl -o report.html
has "a table of runs" '<th>run</th><th>steps</th>'
has "both named" 'flat.jsonl: </b>\|flat.jsonl: flat'
head -n 20 train.jsonl >cut.jsonl
ok "an unfinished run" ft-report cut.jsonl --text
prints 'note unfinished: the log ends at step 18' "is noted"
printf '{"event":"train","step":1,"loss":2}\n{"event":"nonfinite","step":2}\n' >nan.jsonl
ok "a run that diverged" ft-report nan.jsonl --text
prints 'FLAG nonfinite: .*step 2' "is flagged with its step"
ok "samples of one run" ft-report --samples tuned.jsonl --text
prints '^  tuned  *yes$' "they are shown"
ok "samples of two runs" ft-report --samples base.jsonl tuned.jsonl --text --show 1
is "show limits them" "$(grep -c '^  tuned' .out)" 1

status 2 "nothing to report" ft-report
status 2 "one verdicts file" ft-report --verdicts base.jsonl
says 'needs the base' "the base run is asked for"
status 2 "both ways to a table" ft-report --ab ab.json --verdicts base.jsonl tuned.jsonl
status 3 "empty log" ft-report /dev/null -o e.html
says '/dev/null: holds no train or eval record' "it is named"
ok "nothing under the final name" test ! -e e.html
status 4 "missing log" ft-report nowhere.jsonl
printf '{"event":"train","step":1,"loss":1}\n{"event":"train","step":2,"lo' >bad.jsonl
status 3 "cut log" ft-report bad.jsonl
says 'bad.jsonl:2' "line is named"
printf '{"event":"train","step":1,"loss":"x"}\n' >bad.jsonl
status 3 "a loss that is text" ft-report bad.jsonl
says 'bad.jsonl:1: a train record' "line is named"
status 3 "no comparison in --ab" ft-report --ab train.jsonl
printf '{"report":"ab","pairs":1,"metrics":{"rougeL":{"n":"x"}}}' >bad.json
status 3 "a field of the wrong type in --ab" ft-report --ab bad.json
says 'bad.json: a field of the metric rougeL' "file and field are named"
head -n 1 tuned.jsonl >short.jsonl
status 3 "missing partner" ft-report --verdicts base.jsonl short.jsonl
says 'id 1 ' "the id is named"
status 2 "unknown option" ft-report --no-such
if [ -c /dev/full ]; then
	status 4 "full disk" sh -c 'ft-report train.jsonl >/dev/full'
else
	skip "no /dev/full"
fi

# --- the manual's examples ---
cp train.jsonl r8.jsonl
cp flat.jsonl r32.jsonl
sed -n '/^.SH EXAMPLES/,/^.SH SEE/p' "$ROOT/tools/ft-report.1" | grep '^ft-report' | sed 's/\\e/\\/g' >examples
while IFS= read -r line; do
	case $line in *'regex>=0.8'*) want=1 ;; *) want=0 ;; esac
	status $want "example: $line" sh -c "$line"
done <examples
is "examples were there" "$(grep -c . examples)" 4

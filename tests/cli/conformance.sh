#!/bin/sh
# build/tests/conformance: any file of cases, its last line, its status.
. "$(dirname "$0")/lib.sh"
cd "$ROOT" || exit 1
RUN=$BUILD/tests/conformance
[ -x "$RUN" ] || make -s "$RUN" >/dev/null 2>&1 || { skip "no $RUN: make tests builds it"; exit 0; }
SAMPLE=tests/conformance

status 0 "template cases" "$RUN" templates $SAMPLE/templates/template_cases.jsonl.gz --templates $SAMPLE/templates/templates
is "end with a line that counts" "$(tail -n 1 "$T/.out")" "648 passed, 0 failed"
status 0 "token cases" "$RUN" tokens $SAMPLE/tokens/cases.jsonl.zst --tokenizers $SAMPLE/tokens
is "count likewise" "$(tail -n 1 "$T/.out")" "2027 passed, 0 failed"

mkdir "$T/t"
printf '{{ x }}{{ y }}' >"$T/t/a.jinja"
printf '{%% if %%}' >"$T/t/bad.jinja"
cat >"$T/cases.jsonl" <<'EOF'
{"template":"a.jinja","case":"good","input":{"x":"1","y":"2"},"output":"12"}
{"template":"a.jinja","case":"wrong","input":{"x":"1","y":"2"},"output":"13"}
{"template":"a.jinja","case":"no error","input":{"x":"1"},"error":{"type":"UndefinedError","message":""}}
{"template":"bad.jinja","case":"__compile__","input":{},"error":{"type":"TemplateSyntaxError","message":"x"}}
EOF
status 1 "failures are status 1" "$RUN" templates "$T/cases.jsonl" --templates "$T/t"
is "and counted" "$(tail -n 1 "$T/.out")" "2 passed, 2 failed"
prints 'a.jinja wrong: differs at byte 1' "and shown"
status 2 "no case there is an error of use" "$RUN" templates "$T/none.jsonl"
printf '{"tokenizer":"none.json","text":"a","ids":[1]}\n' >"$T/tok.jsonl"
status 2 "a tokeniser that is not there" "$RUN" tokens "$T/tok.jsonl" --tokenizers "$T/t"
printf '{"text":"a"}\n' >"$T/tok.jsonl"
status 3 "a line that is no case" "$RUN" tokens "$T/tok.jsonl" --tokenizers "$T/t"
says 'tok.jsonl:1:' "is named"

#!/bin/sh
# chat-template: records in, text and spans out; options; errors by record.
. "$(dirname "$0")/lib.sh"
cd "$ROOT" || exit 1
M=data/stories260K
TPL=tests/conformance/templates/templates

two='{"messages":[{"role":"user","content":"A"},{"role":"assistant","content":"b"},{"role":"user","content":"C"},{"role":"assistant","content":"d"}],"id":7,"score":1.50}'
printf '%s\n' "$two" >"$T/two.jsonl"

status 0 "renders the demo model's template" chat-template --model $M "$T/two.jsonl"
quiet "says nothing in good times"
is "text, spans and other fields" "$(cat "$T/.out")" '{"text":"<s>A\nb</s>C\nd</s>","spans":[[5,10],[12,17]],"id":7,"score":1.50}'
is "stdin is the same" "$(chat-template --model $M <"$T/two.jsonl")" "$(cat "$T/.out")"
is "the last answer only" "$(chat-template --model $M --loss last "$T/two.jsonl")" '{"text":"<s>A\nb</s>C\nd</s>","spans":[[12,17]],"id":7,"score":1.50}'
is "no answer" "$(chat-template --model $M --loss none "$T/two.jsonl" | grep -o 'spans":\[\]')" 'spans":[]'
is "head, for people" "$(chat-template --model $M --head 6 "$T/two.jsonl")" "$(printf '<s>A\nb')"
status 0 "keeps messages when told" chat-template --model $M --keep "$T/two.jsonl"
prints '"messages":\[{"role":"user","content":"A"}' "the messages are there"

is "other shapes: prompt and completion" "$(printf '{"prompt":"Hi","completion":"Yo"}\n' | chat-template --model $M)" '{"text":"<s>Hi\nYo</s>","spans":[[6,12]]}'
is "other shapes: from and value, with a system text" "$(printf '{"conversations":[{"from":"human","value":"Hi"},{"from":"gpt","value":"Yo"}]}\n' | chat-template --model $M --system S)" '{"text":"<s>S\nHi\nYo</s>","spans":[[8,14]]}'
is "rendered text passes as it is" "$(printf '{"text":"x","spans":[[0,1]]}\n' | chat-template --model $M)" '{"text":"x","spans":[[0,1]]}'
is "a prompt" "$(printf '{"messages":[{"role":"user","content":"Hi"}],"id":1}\n' | chat-template --template $TPL/trl__llama3.jinja --model $M --add-generation-prompt)" \
	'{"text":"<s><|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n","spans":[],"id":1}'
is "an open answer" "$(printf '{"prompt":"Hi","completion":"Yo"}\n' | chat-template --model $M --continue-final)" '{"text":"<s>Hi\nYo","spans":[[6,8]]}'
is "a preference" "$(printf '{"prompt":"q","chosen":"good","rejected":"bad","id":3}\n' | chat-template --model $M)" \
	'{"prompt":"<s>q\n","chosen":"good</s>","chosen_spans":[[0,8]],"rejected":"bad</s>","rejected_spans":[[0,7]],"id":3}'

printf '%s' '{{ strftime_now("%d %b %Y") }}|{{ date_string is defined }}|{{ date_string }}|{{ k }}|{{ messages[-1].content }}' >"$T/date.jinja"
is "the date is fixed" "$(printf '{"prompt":"q","completion":"a"}\n' | chat-template --template "$T/date.jinja" --loss none | cut -d'"' -f4)" '26 Jul 2024|False|||a'
is "and can be pinned, as other variables" "$(printf '{"prompt":"q","completion":"a"}\n' | chat-template --template "$T/date.jinja" --loss none --date 2025-02-01 --vars '{"k":[1]}' | cut -d'"' -f4)" '01 Feb 2025|True|01 Feb 2025|[1]|a'

status 0 "writes a file with its lineage" chat-template --model $M --date 2025-02-01 -o "$T/o.jsonl" "$T/two.jsonl"
ok "the lineage names date and template" grep -q '"date":"2025-02-01".*"name":"chat_template","hash":"sha256:' "$T/o.jsonl.lineage.json"

status 2 "no template is an error of use" chat-template "$T/two.jsonl"
says 'no template: give --model' "and says what to do"
printf '{%% if %%}' >"$T/bad.jinja"
status 2 "a bad template" chat-template --template "$T/bad.jinja" "$T/two.jsonl"
says 'bad template' "is named as such"
status 2 "a day that does not exist" chat-template --model $M --date 2025-02-30 "$T/two.jsonl"
status 2 "an unknown template name" chat-template --model $M --template-name zork "$T/two.jsonl"

printf '%s\n{"messages":[{"role":"tool","content":"x"},{"role":"assistant","content":"b"}]}\n' "$two" >"$T/mixed.jsonl"
status 3 "a record that the template refuses" chat-template --model $M "$T/mixed.jsonl"
says 'mixed.jsonl:2: the template refuses this input: Unknown role: tool' "with file, line and its reason"
status 0 "unless such are to be left out" chat-template --model $M --skip-bad "$T/mixed.jsonl"
is "one is left" "$(wc -l <"$T/.out")" 1
says 'warning: 1 of 2 records' "and counted"
printf '{"messages":[{"role":"user","content":"x"}]}\n' >"$T/q.jsonl"
status 3 "nothing to learn is an error" chat-template --model $M "$T/q.jsonl"
says 'no assistant message' "that says so"
printf '{{ messages[1].content[::-1] }}' >"$T/rev.jinja"
status 3 "a span that cannot be found is an error" chat-template --template "$T/rev.jinja" "$T/two.jsonl"
says 'two.jsonl:1: message 2: what the assistant writes cannot be found exactly' "by record and message"
: >"$T/empty.jsonl"
status 3 "an empty input" chat-template --model $M "$T/empty.jsonl"
printf '{"messages":[' >"$T/cut.jsonl"
status 3 "a cut record" chat-template --model $M "$T/cut.jsonl"
printf '{%% for a in range(99999) %%}{%% for b in range(99999) %%}{%% endfor %%}{%% endfor %%}' >"$T/loop.jinja"
status 3 "a template that does not end" chat-template --template "$T/loop.jinja" "$T/two.jsonl"
says 'steps' "runs out of steps"

# --- by role ---
printf '%s\n' '{"messages":[{"role":"user","content":" A "},{"role":"assistant","content":"b"},{"role":"tool","content":"C"},{"role":"assistant","content":"d"}]}' >"$T/roles.jsonl"
printf '%s' '{% for m in messages %}<|im_start|>{{ m.role }}
{{ m.content | trim }}<|im_end|>
{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant
{% endif %}' >"$T/chatml.jinja"
spans() { sed 's/.*"spans":\(.*\)}/\1/'; }
is "what other roles write" "$(chat-template --template "$T/chatml.jinja" --loss role:user,tool "$T/roles.jsonl" | spans)" '[[17,28],[80,91]]'
is "and the assistant with them" "$(chat-template --template "$T/chatml.jinja" --loss role:assistant,tool "$T/roles.jsonl" | spans)" '[[51,62],[80,91],[114,125]]'
is "the assistant alone is all" "$(chat-template --template "$T/chatml.jinja" --loss role:assistant "$T/roles.jsonl")" "$(chat-template --template "$T/chatml.jinja" "$T/roles.jsonl")"
status 2 "an unknown choice" chat-template --template "$T/chatml.jinja" --loss some "$T/roles.jsonl"

# --- check ---
status 0 "the demo model's template agrees with itself" chat-template --model $M --check
is "verdict" "$(tail -n 1 "$T/.out")" "verdict      yes"
prints "^end-of-turn  yes  *'</s>'" "its end of turn"
status 0 "with records" chat-template --model $M --check --json "$T/two.jsonl"
prints '"prompt":{"answer":true,"failures":0,"note":""}.*"records":1,"verdict":true}' "as JSON"
echo '{"prompt":"Hi","chosen":"Hello.","rejected":"No."}' >"$T/pair.jsonl"
status 0 "with both answers of a preference" chat-template --model $M --check --json "$T/pair.jsonl"
echo '{"text":"<s>Hi","spans":[]}' >"$T/text.jsonl"
status 3 "not with text" chat-template --model $M --check "$T/text.jsonl"
says 'text.jsonl:1: is text already' "which has no messages"
status 3 "a record that is none" chat-template --model $M --check "$T/cut.jsonl"
status 1 "an answer that is trained behind another prompt" chat-template --template $TPL/axolotl__qwen3.jinja --check
prints '^prompt  *no .*message 2 is served behind' "is named"
status 0 "the last one is not" chat-template --template $TPL/axolotl__qwen3.jinja --check --loss last
printf '{%% for m in messages %%}{{ m.role }}: {{ m.content }}\n{%% endfor %%}{%% if add_generation_prompt %%}assistant: {%% endif %%}' >"$T/open.jinja"
status 1 "a template without an end of turn" chat-template --template "$T/open.jinja" --check
prints '^end-of-turn  no .*not taught to stop' "is named"
printf '{%% for m in messages if m.role != "system" %%}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{%% endfor %%}{%% if add_generation_prompt %%}<|im_start|>assistant\n{%% endif %%}' >"$T/drop.jinja"
status 1 "a template that drops the system prompt" chat-template --template "$T/drop.jinja" --model $M --check
prints '^system  *no .*drops a system prompt' "is named"
prints "^tokens  *no .*'<|im_start|>' is no token" "so is a marker that is no token"
printf '{{ bos_token }}{{ bos_token }}{%% for m in messages %%}{{ m.role }}: {{ m.content }}</s>{%% endfor %%}{%% if add_generation_prompt %%}assistant: {%% endif %%}' >"$T/bos.jinja"
status 1 "two BOS" chat-template --template "$T/bos.jinja" --model $M --check
prints "^bos  *no .*'<s>' stands 2 times" "are counted"
status 2 "nothing else is done beside a check" chat-template --model $M --check --head 3

# --- Modelfile ---
status 0 "an Ollama Modelfile" chat-template --model $M --modelfile ./m.gguf --system 'Be "kind".' --temperature 0.3 --num-ctx 4096
quiet "with nothing to tell"
is "whole" "$(cat "$T/.out")" 'FROM ./m.gguf
TEMPLATE """{{ if .System }}{{ .System }}
{{ end }}{{ range .Messages }}{{ if eq .Role "user" }}{{ .Content }}
{{ else if eq .Role "assistant" }}{{ .Content }}</s>{{ end }}{{ end }}"""
PARAMETER stop "</s>"
PARAMETER temperature 0.3
PARAMETER num_ctx 4096
SYSTEM """Be "kind"."""'
status 0 "of ChatML" chat-template --template "$T/chatml.jinja" --modelfile m
says 'cuts white space off' "what Ollama does not do is told"
prints '{{ if .System }}<|im_start|>system$' "the system header"
prints '^PARAMETER stop "<|im_end|>"$' "the end of turn"
printf '%s' '{% for m in messages %}[{{ loop.index }}]{{ m.role }}: {{ m.content }}</s>{% endfor %}{% if add_generation_prompt %}assistant: {% endif %}' >"$T/count.jinja"
status 3 "what cannot be expressed" chat-template --template "$T/count.jinja" --modelfile m
says 'no Modelfile can express this template: ' "is refused by name"
status 3 "a template that shouts" chat-template --template "$T/rev.jinja" --modelfile m
status 3 "a system prompt that the template refuses" chat-template --template $TPL/axolotl__gemma.jinja --modelfile m --system S
status 2 "records are not read" chat-template --model $M --modelfile m "$T/two.jsonl"

# What the fault tests run: `tool_run NAME OUT [IN]` runs NAME once with a good
# input, or with IN in its place, and its output at OUT. Source it after lib.sh,
# in a scratch folder; tools_prepare makes the inputs. Programs that are not
# built, or whose inputs could not be made, are left out of $TOOLS.
M=$ROOT/data/stories260K

tools_prepare() {
	mkdir in
	i=0
	while [ $i -lt 40 ]; do
		echo "{\"messages\":[{\"role\":\"user\",\"content\":\"Question $i about cats?\"},{\"role\":\"assistant\",\"content\":\"Answer $i: they sleep a lot.\"}],\"id\":$i}"
		i=$((i + 1))
	done >in/chat.jsonl
	sed 's/.*Question \([0-9]*\) .*/{"id":\1,"prompt":"q","response":"they sleep","expected":"they sleep a lot","tokens":3,"finish":"stop"}/' in/chat.jsonl >in/completions.jsonl
	sed 's/.*Question \([0-9]*\) .*/{"text":"<s>Once upon a time \1<\/s>","spans":[[8,20]]}/' in/chat.jsonl >in/text.jsonl
	for s in 1 2 3; do echo "{\"tool\":\"qlora-train\",\"event\":\"train\",\"time\":$s,\"step\":$s,\"epoch\":0.1,\"loss\":2.$s,\"lr\":0.001,\"grad_norm\":1.0}"; done >in/log.jsonl
	echo "{% for m in messages %}{{ m.content }}\n{% endfor %}" >in/t.jinja
	TOOLS=
	for t in ds-audit ds-split ds-mix chat-template tokenize qlora-train lm-generate lora-merge gguf-export judge-eval ft-report model-init; do
		[ -x "$ROOT/$BUILD/bin/$t" ] && tool_inputs $t && TOOLS="$TOOLS $t"
	done
}

tool_inputs() {
	case $1 in
	qlora-train) tokenize -q --model "$M" in/text.jsonl -o in/tokens.lps >/dev/null 2>&1 ;;
	lora-merge) qlora-train -q --model "$M" --quant none --max-steps 4 --warmup-steps 0 --lr 0.01 --rank 2 in/tokens.lps -o in/adapter >/dev/null 2>&1 ;;
	*) true ;;
	esac
}

# The input that matters most: what a cut or a flip is tried on.
tool_input() {
	case $1 in
	ds-audit | ds-split | ds-mix | chat-template | lm-generate) echo in/chat.jsonl ;;
	tokenize) echo in/text.jsonl ;;
	qlora-train) echo in/tokens.lps ;;
	lora-merge) echo in/adapter/adapter_model.safetensors ;;
	gguf-export) echo "$M/model.safetensors" ;;
	judge-eval) echo in/completions.jsonl ;;
	ft-report) echo in/log.jsonl ;;
	model-init) ;;
	esac
}

tool_run() {
	name=$1 out=$2 input=${3:-$(tool_input "$1")}
	case $name in
	ds-audit) ds-audit -q -o "$out" "$input" ;;
	ds-split) ds-split -q -o "$out" "$input" ;;
	ds-mix) ds-mix -q -o "$out" "$input" in/chat.jsonl ;;
	chat-template) chat-template -q --model "$M" --template in/t.jinja -o "$out" "$input" ;;
	tokenize) tokenize -q --model "$M" -o "$out" "$input" ;;
	qlora-train) qlora-train -q --model "$M" --quant none --max-steps 2 --rank 2 -o "$out" "$input" ;;
	lm-generate) lm-generate -q --model "$M" --template in/t.jinja --max-new 4 --limit 20 -o "$out" "$input" ;;
	lora-merge) lora-merge -q --model "$M" --adapter "$(dirname "$input")" -o "$out" ;;
	gguf-export) gguf-export -q --model "$(dirname "$input")" -o "$out" ;;
	judge-eval) judge-eval score -q -o "$out" "$input" ;;
	ft-report) ft-report -q -o "$out" "$input" ;;
	model-init) model-init -q --hidden 32 --ffn 64 --layers 1 --heads 2 --kv-heads 1 --vocab 64 -o "$out" ;;
	esac
}

#!/bin/sh
# pipelines/stage.sh: which stages run again, and what is left when one fails.
# The programs are replaced by small scripts that note that they ran: what is
# tested here is the chain. demo.sh runs the real ones.
. "$(dirname "$0")/../cli/lib.sh"

mkdir "$T/bin" "$T/model"
echo weights >"$T/model/model.safetensors"
echo {} >"$T/model/config.json"
printf '{"a":1}\n{"a":2}\n{"a":3}\n' >"$T/data.jsonl"
# Each writes its name, its flags and its inputs' checksum; paths are left out.
cat >"$T/fake" <<'E2'
#!/bin/sh
me=${0##*/} out= ins= flags=
echo "$me" >>"$CALLS"
while [ $# -gt 0 ]; do
	case $1 in
	-o) out=$2; shift ;;
	--findings | --log | --summary | --stats-file) echo x >"$2"; shift ;;
	--model) case $me in chat-template | tokenize) ins="$ins $2/config.json" ;; *) ins="$ins $2" ;; esac; shift ;;
	--adapter | --eval) ins="$ins $2"; shift ;;
	--fail) echo half >"$out"; exit 3 ;;
	--sleep) echo half >"$out"; sleep "$2"; shift ;;
	--*) flags="$flags $1 $2"; shift ;;
	*) ins="$ins $1" ;;
	esac
	shift
done
body="$me$flags $(for i in $ins; do find "$i" -type f -exec cat {} + 2>/dev/null; done | cksum)"
case $me in
ds-split) mkdir "$out"; echo "$body" >"$out/train.jsonl"; echo "$body" >"$out/heldout.jsonl" ;;
qlora-train | lora-merge) mkdir "$out"; echo "$body" >"$out/w" ;;
*) echo "$body" >"$out" ;;
esac
E2
for p in ds-audit ds-split chat-template tokenize qlora-train lm-generate judge-eval lora-merge gguf-export ft-report; do
	cp "$T/fake" "$T/bin/$p"
	chmod +x "$T/bin/$p"
done
CALLS=$T/calls
export CALLS
unset MAKEFLAGS MAKELEVEL MFLAGS
sft() {
	: >"$CALLS"
	make -s -f "$ROOT/pipelines/sft.mk" BIN="$T/bin" MODEL="$T/model" DATA="$T/data.jsonl" OUT="$T/out" "$@" >"$T/log" 2>&1
	rc=$?
	ran=$(sed -n 's/^  RUN   \([a-z]*\) .*/\1/p' "$T/log" | sort | tr '\n' ' ')
	return $rc
}
everything="audit base export merge report score split text tokens train tuned "

sft || cat "$T/log"
is "the first run runs every stage" "$ran" "$everything"
is "the audited output is there" "$(cut -c 1-8 "$T/out/audit/chat.jsonl")" ds-audit
sft
is "nothing runs again" "$ran$(cat "$CALLS")" ""
touch "$T/data.jsonl" "$T/model/model.safetensors" "$T"/bin/*
sft
is "new times alone run nothing" "$ran" ""
sft TRAIN_FLAGS="--rank 4"
is "a training flag reruns what depends on the adapter" "$ran" "export merge report score train tuned "
sft TRAIN_FLAGS="--rank 4"
is "the flag is remembered" "$ran" ""
sft TRAIN_FLAGS="--rank 4" EXPORT_FLAGS="--type f16"
is "an export flag reruns the export" "$ran" "export "
echo '{"a":4}' >>"$T/data.jsonl"
sft TRAIN_FLAGS="--rank 4" EXPORT_FLAGS="--type f16"
is "new data reruns everything" "$ran" "$everything"
A="TRAIN_FLAGS=--rank 4"
echo more >>"$T/model/model.safetensors"
sft TRAIN_FLAGS="--rank 4" EXPORT_FLAGS="--type f16"
is "new weights leave the tokens alone" "$ran" "base export merge report score train tuned "
B="EXPORT_FLAGS=--type f16"

# a program that is another one, but whose output is the same
sed 's/^me=/# another build\nme=/' "$T/fake" >"$T/bin/tokenize"
sft "$A" "$B"
is "a rebuilt program runs again, and equal output stops there" "$ran" "tokens "
cp "$T/bin/tokenize" "$T/my-tokenizer"
sft "$A" "$B" TOKENIZE="$T/my-tokenizer"
is "a replaced program reruns its stage and what follows" "$ran" "export merge report score tokens train tuned "
grep -q my-tokenizer "$CALLS" && pass "the replacement was called" || fail "the replacement was called"

# outputs are part of the bargain
echo edited >>"$T/out/train/adapter/w"
sft "$A" "$B" TOKENIZE="$T/my-tokenizer"
is "an edited output is made again" "$ran" "train "
rm -r "$T/out/merge"
sft "$A" "$B" TOKENIZE="$T/my-tokenizer"
is "a missing output is made again" "$ran" "merge "
mv "$T/out" "$T/elsewhere"
cp -r "$T/elsewhere" "$T/out"
cp "$T/data.jsonl" "$T/same.jsonl"
sft "$A" "$B" TOKENIZE="$T/my-tokenizer" DATA="$T/same.jsonl"
is "moved and copied folders are up to date" "$ran" ""

# failures
sft "$A --fail 3" "$B" TOKENIZE="$T/my-tokenizer"
is "a failing stage fails the run" "$?" 2
[ ! -e "$T/out/.new/train" ] && pass "its partial output is gone" || fail "its partial output is gone" "$(ls -R "$T/out/.new")"
is "the last good adapter still stands" "$(cut -c 1-11 "$T/out/train/adapter/w")" qlora-train
sft "$A" "$B" TOKENIZE="$T/my-tokenizer"
is "after a failure only that stage runs" "$ran" "train "

# a signal in the middle of a stage
: >"$CALLS"
make -s -f "$ROOT/pipelines/sft.mk" BIN="$T/bin" MODEL="$T/model" DATA="$T/data.jsonl" OUT="$T/out2" "TRAIN_FLAGS=--sleep 60" train >"$T/log" 2>&1 &
pid=$!
n=0
until grep -q qlora-train "$CALLS" || [ $n = 100 ]; do
	sleep 0.1
	n=$((n + 1))
done
kill -TERM $pid
wait $pid
rc=$?
[ $rc != 0 ] && pass "SIGTERM ends the run" || fail "SIGTERM ends the run"
n=0
while [ -e "$T/out2/.new/train" ] && [ $n -lt 50 ]; do
	sleep 0.1
	n=$((n + 1))
done
[ ! -e "$T/out2/.new/train" ] && [ ! -e "$T/out2/train" ] && pass "nothing partial is left" || fail "nothing partial is left" "$(ls -R "$T/out2")"
[ -f "$T/out2/tokens/train.lps" ] && pass "what was finished before is kept" || fail "what was finished before is kept"

# refusals
status 2 "a missing MODEL= is refused" make -s -f "$ROOT/pipelines/sft.mk" BIN="$T/bin" DATA="$T/data.jsonl" OUT="$T/out3"
says "MODEL= is not given" "and named"
sft MODEL="$T/nowhere" OUT="$T/out3"
is "a model that is not there is refused" "$?" 2
grep -q "there is no '$T/nowhere/config.json'" "$T/log" && [ ! -e "$T/out3/audit" ] && pass "and named, before any stage ran" || fail "and named, before any stage ran" "$(cat "$T/log")"
sft OUT="$T/out4" EVAL_DATA="$T/same.jsonl" -j3
is "given held-out data and -j, everything runs once" "$ran" "$everything"
grep -q ds-split "$CALLS" && fail "nothing is split off then" || pass "nothing is split off then"
sft OUT="$T/with space/out" audit
is "a folder with a space works" "$?$ran" "0audit "

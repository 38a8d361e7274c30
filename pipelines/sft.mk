# Supervised fine-tuning, from raw records to a report:
#
#     make -f pipelines/sft.mk MODEL=DIR DATA=records.jsonl OUT=DIR
#
# EVAL_DATA=FILE gives held-out records; without it ds-split takes a part of
# DATA. Any stage by name stops there: audit split text tokens train base tuned
# score merge export report. Each stage's options are NAME_FLAGS, each program
# is a variable (stage.mk). README.md says when a stage runs again.
SFT := 1
include $(patsubst %/,%,$(dir $(lastword $(MAKEFILE_LIST))))/stage.mk
$(call need,MODEL DATA OUT)
all: report export
.PHONY: all

AUDIT_FLAGS ?=
SPLIT_FLAGS ?= --parts train=0.9,heldout=0.1 --mode exact --seed 42
TEMPLATE_FLAGS ?=
TOKENIZE_FLAGS ?=
TRAIN_FLAGS ?= --epochs 3
REPORT_FLAGS ?=

PROG_audit = $(DS_AUDIT)
IN_audit = $$DATA $(if $(EVAL_DATA),$$EVAL_DATA)
CMD_audit = $(DS_AUDIT) --to messages $(AUDIT_FLAGS) --findings "$$D/findings.jsonl" -o "$$D/chat.jsonl" $$DATA
ifneq ($(EVAL_DATA),)
CMD_audit += ; $(DS_AUDIT) --to messages $(AUDIT_FLAGS) --findings "$$D/heldout.findings.jsonl" -o "$$D/heldout.jsonl" $$EVAL_DATA
endif
$(eval $(call stage,audit,given))
# what can be seen to be missing stops the run before its first stage
.PHONY: given
given:
	@for f in "$$MODEL/config.json" $$DATA $$EVAL_DATA; do [ -e "$$f" ] || { echo "there is no '$$f'; give MODEL=, DATA= and EVAL_DATA= that exist" >&2; exit 2; }; done

# split: what is trained on, what is held out; the parts train and heldout must be there
PROG_split = $(DS_SPLIT)
ifneq ($(EVAL_DATA),)
IN_split = "$$OUT/audit"
CMD_split = cp "$$OUT/audit/chat.jsonl" "$$D/train.jsonl"; cp "$$OUT/audit/heldout.jsonl" "$$D/heldout.jsonl"
else
IN_split = "$$OUT/audit/chat.jsonl"
CMD_split = $(DS_SPLIT) $(SPLIT_FLAGS) -o "$$D/parts" "$$OUT/audit/chat.jsonl"; mv "$$D"/parts/* "$$D"; rmdir "$$D/parts"
endif
$(eval $(call stage,split,audit))

# text and tokens need the model's configuration, tokenizer and template, not its weights
PROG_text = $(CHAT_TEMPLATE)
IN_text = "$$MODEL"/*.j* "$$OUT/split/train.jsonl" "$$OUT/split/heldout.jsonl"
CMD_text = for p in train heldout; do $(CHAT_TEMPLATE) --model "$$MODEL" $(TEMPLATE_FLAGS) -o "$$D/$$p.jsonl" "$$OUT/split/$$p.jsonl"; done
$(eval $(call stage,text,split))

PROG_tokens = $(TOKENIZE)
IN_tokens = "$$MODEL"/*.j* "$$OUT/text/train.jsonl" "$$OUT/text/heldout.jsonl"
CMD_tokens = for p in train heldout; do $(TOKENIZE) --model "$$MODEL" $(TOKENIZE_FLAGS) --stats-file "$$D/$$p.stats.json" -o "$$D/$$p.lps" "$$OUT/text/$$p.jsonl"; done
$(eval $(call stage,tokens,text))

PROG_train = $(QLORA_TRAIN)
IN_train = "$$MODEL" "$$OUT/tokens/train.lps" "$$OUT/tokens/heldout.lps"
CMD_train = $(QLORA_TRAIN) --model "$$MODEL" --eval "$$OUT/tokens/heldout.lps" $(TRAIN_FLAGS) --log "$$D/log.jsonl" \
	-o "$$D/adapter" "$$OUT/tokens/train.lps"
$(eval $(call stage,train,tokens))

HELDOUT := $(OUT)/split/heldout.jsonl
HELDOUT_STAGE := split
ADAPTER := $(OUT)/train/adapter
ADAPTER_STAGE := train
include $(PIPELINES)/eval.mk
include $(PIPELINES)/export.mk

PROG_report = $(FT_REPORT)
IN_report = "$$OUT/train/log.jsonl" "$$OUT/score/ab.json"
CMD_report = $(FT_REPORT) $(REPORT_FLAGS) --train-log "$$OUT/train/log.jsonl" --ab "$$OUT/score/ab.json" -o "$$D/report.html"
$(eval $(call stage,report,train score))

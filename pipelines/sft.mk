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
TRAIN_FLAGS ?= --epochs 3
REPORT_FLAGS ?=

PROG_audit = $(DS_AUDIT)
IN_audit = $$DATA $(if $(EVAL_DATA),$$EVAL_DATA)
CMD_audit = $(DS_AUDIT) --to messages $(AUDIT_FLAGS) --findings "$$D/findings.jsonl" -o "$$D/chat.jsonl" $$DATA
ifneq ($(EVAL_DATA),)
CMD_audit += ; $(DS_AUDIT) --to messages $(AUDIT_FLAGS) --findings "$$D/heldout.findings.jsonl" -o "$$D/heldout.jsonl" $$EVAL_DATA
endif
$(eval $(call stage,audit,given))

SPLIT_AFTER := audit
SPLIT_TRAIN = "$$OUT/audit/chat.jsonl"
SPLIT_HELDOUT = "$$OUT/audit/heldout.jsonl"
include $(PIPELINES)/split.mk
include $(PIPELINES)/tokens.mk

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

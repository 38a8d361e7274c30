# Preferences, from pairs (or answers with a label) to an adapter and its curves:
#
#     make -f pipelines/pref.mk MODEL=DIR DATA=pairs.jsonl OUT=DIR METHOD=dpo
#
# METHOD is one of qlora-train's; EVAL_DATA=FILE gives held-out records, without
# it ds-split takes a part of DATA. Any stage by name stops there: split text
# tokens train report. What is tuned already goes before: TRAIN_FLAGS="--adapter DIR".
include $(patsubst %/,%,$(dir $(lastword $(MAKEFILE_LIST))))/stage.mk
$(call need,MODEL DATA OUT)
all: report
.PHONY: all

METHOD ?= dpo
TOKENIZE_FLAGS ?= --over-long drop
TRAIN_FLAGS ?= --epochs 3 --lr 2e-5 --eval-every epoch
REPORT_FLAGS ?=

SPLIT_AFTER := given
SPLIT_TRAIN = $$DATA
SPLIT_HELDOUT = $$EVAL_DATA
include $(PIPELINES)/split.mk
include $(PIPELINES)/tokens.mk

PROG_train = $(QLORA_TRAIN)
IN_train = "$$MODEL" "$$OUT/tokens/train.lps" "$$OUT/tokens/heldout.lps"
CMD_train = $(QLORA_TRAIN) --model "$$MODEL" --method $(METHOD) --eval "$$OUT/tokens/heldout.lps" $(TRAIN_FLAGS) --log "$$D/log.jsonl" \
	-o "$$D/adapter" "$$OUT/tokens/train.lps"
$(eval $(call stage,train,tokens))

PROG_report = $(FT_REPORT)
IN_report = "$$OUT/train/log.jsonl"
CMD_report = $(FT_REPORT) $(REPORT_FLAGS) --train-log "$$OUT/train/log.jsonl" -o "$$D/report.html"
$(eval $(call stage,report,train))

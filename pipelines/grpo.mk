# Rewards, from prompts to an adapter and its curves:
#
#     make -f pipelines/grpo.mk MODEL=DIR DATA=prompts.jsonl OUT=DIR REWARD='COMMAND'
#
# COMMAND reads completion records and writes a number a line; REWARD_FILES are
# files of its own, whose change makes the run new. EVAL_DATA=FILE gives held-out
# prompts, without it ds-split takes a part of DATA. Any stage by name stops there:
# split train report.
include $(patsubst %/,%,$(dir $(lastword $(MAKEFILE_LIST))))/stage.mk
$(call need,MODEL DATA OUT REWARD)
all: report
.PHONY: all

TRAIN_FLAGS ?= --epochs 3 --lr 1e-5 --eval-every epoch
REPORT_FLAGS ?=
REWARD_FILES ?=
# as it is: its dollars are the shell's, not make's
quoted = '$(subst ','\'',$(value REWARD))'

SPLIT_AFTER := given
SPLIT_TRAIN = $$DATA
SPLIT_HELDOUT = $$EVAL_DATA
include $(PIPELINES)/split.mk

PROG_train = $(QLORA_TRAIN)
IN_train = "$$MODEL" "$$OUT/split/train.jsonl" "$$OUT/split/heldout.jsonl" $(REWARD_FILES)
CMD_train = $(QLORA_TRAIN) --model "$$MODEL" --method grpo --reward $(quoted) --eval "$$OUT/split/heldout.jsonl" $(TRAIN_FLAGS) --log "$$D/log.jsonl" \
	-o "$$D/adapter" "$$OUT/split/train.jsonl"
$(eval $(call stage,train,split))

PROG_report = $(FT_REPORT)
IN_report = "$$OUT/train/log.jsonl"
CMD_report = $(FT_REPORT) $(REPORT_FLAGS) --train-log "$$OUT/train/log.jsonl" -o "$$D/report.html"
$(eval $(call stage,report,train))

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
SPLIT_FLAGS ?= --parts train=0.9,heldout=0.1 --mode exact --seed 42
TEMPLATE_FLAGS ?=
TOKENIZE_FLAGS ?= --over-long drop
TRAIN_FLAGS ?= --epochs 3 --lr 2e-5 --eval-every epoch
REPORT_FLAGS ?=

PROG_split = $(DS_SPLIT)
IN_split = $$DATA $(if $(EVAL_DATA),$$EVAL_DATA)
ifneq ($(EVAL_DATA),)
CMD_split = cp $$DATA "$$D/train.jsonl"; cp $$EVAL_DATA "$$D/heldout.jsonl"
else
CMD_split = $(DS_SPLIT) $(SPLIT_FLAGS) -o "$$D/parts" $$DATA; mv "$$D"/parts/* "$$D"; rmdir "$$D/parts"
endif
$(eval $(call stage,split,given))
.PHONY: given
given:
	@for f in "$$MODEL/config.json" $$DATA $$EVAL_DATA; do [ -e "$$f" ] || { echo "there is no '$$f'; give MODEL=, DATA= and EVAL_DATA= that exist" >&2; exit 2; }; done

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
CMD_train = $(QLORA_TRAIN) --model "$$MODEL" --method $(METHOD) --eval "$$OUT/tokens/heldout.lps" $(TRAIN_FLAGS) --log "$$D/log.jsonl" \
	-o "$$D/adapter" "$$OUT/tokens/train.lps"
$(eval $(call stage,train,tokens))

PROG_report = $(FT_REPORT)
IN_report = "$$OUT/train/log.jsonl"
CMD_report = $(FT_REPORT) $(REPORT_FLAGS) --train-log "$$OUT/train/log.jsonl" -o "$$D/report.html"
$(eval $(call stage,report,train))

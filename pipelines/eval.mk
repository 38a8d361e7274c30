# Did it help? Both models answer the held-out records, and the answers are
# scored. By itself:
#
#     make -f pipelines/eval.mk MODEL=DIR ADAPTER=DIR HELDOUT=chat.jsonl OUT=DIR
#
# sft.mk includes it and gives ADAPTER and HELDOUT itself.
include $(patsubst %/,%,$(dir $(lastword $(MAKEFILE_LIST))))/stage.mk
ifndef SFT
EVAL_ALONE := 1
$(call need,MODEL ADAPTER HELDOUT OUT)
all: score
endif
export ADAPTER HELDOUT

GENERATE_FLAGS ?= --max-new 256 --batch 8
SCORE_FLAGS ?=
AB_FLAGS ?=

# base and tuned: completions of either model
PROG_base = $(LM_GENERATE)
IN_base = "$$MODEL" "$$HELDOUT"
CMD_base = $(LM_GENERATE) --model "$$MODEL" $(GENERATE_FLAGS) -o "$$D/completions.jsonl" "$$HELDOUT"
$(eval $(call stage,base,$(HELDOUT_STAGE)))

PROG_tuned = $(LM_GENERATE)
IN_tuned = "$$MODEL" "$$ADAPTER" "$$HELDOUT"
# what was trained may be a whole model (--update full)
CMD_tuned = if [ -e "$$ADAPTER/config.json" ]; then set -- --model "$$ADAPTER"; else set -- --model "$$MODEL" --adapter "$$ADAPTER"; fi; \
	$(LM_GENERATE) "$$@" $(GENERATE_FLAGS) -o "$$D/completions.jsonl" "$$HELDOUT"
$(eval $(call stage,tuned,$(HELDOUT_STAGE) $(ADAPTER_STAGE)))

# score: each by itself, and one against the other
PROG_score = $(JUDGE_EVAL)
IN_score = "$$OUT/base/completions.jsonl" "$$OUT/tuned/completions.jsonl"
CMD_score = $(JUDGE_EVAL) score $(SCORE_FLAGS) --summary "$$D/base.json" -o "$$D/base.jsonl" "$$OUT/base/completions.jsonl"; \
	$(JUDGE_EVAL) score $(SCORE_FLAGS) --summary "$$D/tuned.json" -o "$$D/tuned.jsonl" "$$OUT/tuned/completions.jsonl"; \
	$(JUDGE_EVAL) ab $(SCORE_FLAGS) $(AB_FLAGS) -o "$$D/ab.json" "$$OUT/base/completions.jsonl" "$$OUT/tuned/completions.jsonl"
$(eval $(call stage,score,base tuned))

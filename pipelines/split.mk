# What is trained on and what is held out, for the chains that begin with records: SPLIT_TRAIN and SPLIT_HELDOUT are the files, of the stage
# SPLIT_AFTER; without EVAL_DATA a part of the first is held out. The parts train and heldout must be there.
SPLIT_FLAGS ?= --parts train=0.9,heldout=0.1 --mode exact --seed 42
PROG_split = $(DS_SPLIT)
IN_split = $(SPLIT_TRAIN) $(if $(EVAL_DATA),$(SPLIT_HELDOUT))
ifneq ($(EVAL_DATA),)
CMD_split = cp $(SPLIT_TRAIN) "$$D/train.jsonl"; cp $(SPLIT_HELDOUT) "$$D/heldout.jsonl"
else
CMD_split = $(DS_SPLIT) $(SPLIT_FLAGS) -o "$$D/parts" $(SPLIT_TRAIN); mv "$$D"/parts/* "$$D"; rmdir "$$D/parts"
endif
$(eval $(call stage,split,$(SPLIT_AFTER)))
# what can be seen to be missing stops the run before its first stage
.PHONY: given
given:
	@for f in "$$MODEL/config.json" $$DATA $$EVAL_DATA; do [ -e "$$f" ] || { echo "there is no '$$f'; give MODEL=, DATA= and EVAL_DATA= that exist" >&2; exit 2; }; done

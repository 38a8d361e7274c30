# The parts as text and as tokens: the model's configuration, tokenizer and template are needed, not its weights.
TEMPLATE_FLAGS ?=
TOKENIZE_FLAGS ?=
PROG_text = $(CHAT_TEMPLATE)
IN_text = "$$MODEL"/*.j* "$$OUT/split/train.jsonl" "$$OUT/split/heldout.jsonl"
CMD_text = for p in train heldout; do $(CHAT_TEMPLATE) --model "$$MODEL" $(TEMPLATE_FLAGS) -o "$$D/$$p.jsonl" "$$OUT/split/$$p.jsonl"; done
$(eval $(call stage,text,split))

PROG_tokens = $(TOKENIZE)
IN_tokens = "$$MODEL"/*.j* "$$OUT/text/train.jsonl" "$$OUT/text/heldout.jsonl"
CMD_tokens = for p in train heldout; do $(TOKENIZE) --model "$$MODEL" $(TOKENIZE_FLAGS) --stats-file "$$D/$$p.stats.json" -o "$$D/$$p.lps" "$$OUT/text/$$p.jsonl"; done
$(eval $(call stage,tokens,text))

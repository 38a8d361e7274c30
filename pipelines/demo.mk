# The whole pipeline on the real model and data in data/: `make demo`. A model of
# 260,032 parameters that tells stories learns to tell them in capitals.
# Everything is a variable of sft.mk and can be given on the command line.
DEMO := $(patsubst %/,%,$(dir $(lastword $(MAKEFILE_LIST))))
DATA_DIR := $(or $(patsubst %/pipelines,%/data,$(filter %/pipelines,$(DEMO))),data)
MODEL ?= $(DATA_DIR)/stories260K
DATA ?= $(DATA_DIR)/quickstart/upper_train.jsonl
EVAL_DATA ?= $(DATA_DIR)/quickstart/upper_heldout.jsonl
OUT ?= build/demo
TRAIN_FLAGS ?= --quant nf4 --rank 8 --alpha 16 --targets q_proj,k_proj,v_proj,o_proj,gate_proj,up_proj,down_proj --batch 8 --accumulate 1 --max-steps 120 \
	--lr 1e-2 --schedule linear --warmup-steps 10 --weight-decay 0 --max-grad-norm 1 --eval-every 30 --seed 42
GENERATE_FLAGS ?= --max-new 128 --batch 16 --temperature 0.5 --seed 42
# an answer is right if it has no small letter
SCORE_FLAGS ?= --regex '^[^a-z]+$$'
EXPORT_FLAGS ?= --type q8_0

demo:
include $(DEMO)/sft.mk

.PHONY: demo
demo: all
	@$(FT_REPORT) --text --show 3 --title 'make demo: stories in capitals' --train-log '$(OUT)/train/log.jsonl' --ab '$(OUT)/score/ab.json'
	@printf '\n  report   %s\n  adapter  %s\n  merged   %s\n  GGUF     %s\n' '$(OUT)/report/report.html' '$(OUT)/train/adapter' \
		'$(OUT)/merge/model' '$(OUT)/export/model.gguf'

# What the pipelines share: the programs, and how a stage is declared.
# Included by the other fragments; README.md says how to use them.
ifndef LP_STAGE_MK
LP_STAGE_MK := 1

PIPELINES := $(patsubst %/,%,$(dir $(lastword $(MAKEFILE_LIST))))
# Beside a built tree its programs, else those in PATH.
BIN ?= $(patsubst %/ds-audit,%/,$(firstword $(wildcard $(PIPELINES)/../build/bin/ds-audit)))
bin := $(if $(BIN),$(patsubst %/,%,$(BIN))/)

DS_AUDIT ?= $(bin)ds-audit
DS_SPLIT ?= $(bin)ds-split
CHAT_TEMPLATE ?= $(bin)chat-template
TOKENIZE ?= $(bin)tokenize
QLORA_TRAIN ?= $(bin)qlora-train
LM_GENERATE ?= $(bin)lm-generate
JUDGE_EVAL ?= $(bin)judge-eval
LORA_MERGE ?= $(bin)lora-merge
GGUF_EXPORT ?= $(bin)gguf-export
FT_REPORT ?= $(bin)ft-report

V ?= 0
export MODEL DATA EVAL_DATA OUT V

# $(call need,VARIABLE...): stops before any work when one is not given.
need = $(foreach v,$(1),$(if $($(v)),,$(error $(v)= is not given: make -f $(firstword $(MAKEFILE_LIST)) $(v)=...)))

# $(call stage,NAME,STAGES BEFORE): declares the target NAME; its command, inputs
# and programs are CMD_NAME, IN_NAME, PROG_NAME. In commands, $$D is the folder to
# fill; paths are written as $$MODEL, $$OUT and so on, so that moving a folder
# changes no key.
define stage
.PHONY: $(1)
export CMD_$(1) IN_$(1) PROG_$(1)
$(1): $(2)
	@sh '$(PIPELINES)/stage.sh' $(1)
endef

.SUFFIXES:
endif

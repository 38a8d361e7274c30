# Ship it: the adapter is folded into its base, and the result becomes one GGUF
# file. By itself:
#
#     make -f pipelines/export.mk MODEL=DIR ADAPTER=DIR OUT=DIR
include $(patsubst %/,%,$(dir $(lastword $(MAKEFILE_LIST))))/stage.mk
ifndef SFT
$(call need,MODEL ADAPTER OUT)
all: export
endif
export ADAPTER

MERGE_FLAGS ?=
EXPORT_FLAGS ?= --type q8_0

PROG_merge = $(LORA_MERGE)
IN_merge = "$$MODEL" "$$ADAPTER"
# a model that was trained itself is the result already
CMD_merge = if [ -e "$$ADAPTER/config.json" ]; then cp -R "$$ADAPTER" "$$D/model"; else $(LORA_MERGE) --model "$$MODEL" --adapter "$$ADAPTER" $(MERGE_FLAGS) -o "$$D/model"; fi
$(eval $(call stage,merge,$(ADAPTER_STAGE)))

PROG_export = $(GGUF_EXPORT)
IN_export = "$$OUT/merge/model"
CMD_export = $(GGUF_EXPORT) $(EXPORT_FLAGS) --model "$$OUT/merge/model" -o "$$D/model.gguf"
$(eval $(call stage,export,merge))

/* A model as a GGUF file: configuration, tokenizer, chat template and weights,
 * as llama.cpp's converter and quantiser lay them out. One pass in the source's
 * order, so that a stream serves as well as a directory; memory is a few
 * megabytes beside the tensor at hand. */
#ifndef LP_MODEL_GGUF_EXPORT_H
#define LP_MODEL_GGUF_EXPORT_H

#include "base/out.h"
#include "fmt/quant.h"
#include "model/source.h"

struct gguf_options {
	const char *type; /* "q4_k_m": one of GGUF_FILE_TYPES */
	const char *pre;  /* name of the pre-tokeniser; NULL: found from tokenizer.json */
	const char *name; /* general.name; NULL: config.json's own, else the family */
};
#define GGUF_FILE_TYPES "f32|f16|bf16|q8_0|q4_0|q4_1|q5_0|q5_1|q4_k_s|q4_k_m|q5_k_s|q5_k_m|q6_k"

struct gguf_report {
	uint64_t tensors, bytes;  /* of the whole file */
	uint64_t source_bytes;    /* weights read */
	uint64_t fallbacks;       /* tensors whose rows do not fit the type asked for */
	uint64_t by_type[32];     /* tensors of each enum quant_type */
	int64_t window;           /* a sliding window that the file cannot express; 0 none */
};

/* Writes the file to o, which stays the caller's to commit or abort. r may be
 * NULL. Refuses (LP_DATA, by name) what cannot be exported exactly: unknown
 * architectures, tensors missing or unknown, values that are not finite or
 * beyond the type, tokenizers that llama.cpp would run differently. */
int gguf_export(struct model_source *s, const struct gguf_options *opt, struct out *o, struct gguf_report *r, struct err *e) LP_MUST_USE;

#endif

/* The tokeniser that a GGUF file carries with its weights. */
#ifndef LP_MODEL_GGUF_TOK_H
#define LP_MODEL_GGUF_TOK_H

#include "text/tok.h"

bool gguf_tok_is(const char *path); /* a file that begins as GGUF does */
/* Byte-level BPE ("gpt2") and BPE with byte fallback ("llama"); other kinds, and
 * pre-tokenisers that are not known, are refused by name. Text is encoded as the
 * model's own tokenizer.json does it (Qwen's as NFC), special tokens in it are
 * found. sha256: of the vocabulary, not of the file. */
struct tok *gguf_tok_load(const char *path, char sha256[65], struct err *e) LP_MUST_USE;

#endif

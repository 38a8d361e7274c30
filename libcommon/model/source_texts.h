/* Between source.c, sink.c and source_texts.c only: texts as metadata of an index frame. */
#ifndef LP_MODEL_SOURCE_TEXTS_H
#define LP_MODEL_SOURCE_TEXTS_H

#include "model/source.h"

#define MODEL_N_TEXTS 7
/* Fills kv (room for MODEL_N_TEXTS + 1), values borrowed from t; the caller frees *base64. */
size_t model_texts_to_meta(const struct model_texts *t, struct st_kv *kv, char **base64);
/* t is the caller's to release, on failure too. */
int model_texts_from_meta(struct model_texts *t, const struct st_blob *b, const char *path, struct err *e) LP_MUST_USE;

#endif

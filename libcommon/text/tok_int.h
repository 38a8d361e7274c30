/* What a tokeniser is made of: private to tok.c and tok_load*.c. */
#ifndef LP_TEXT_TOK_INT_H
#define LP_TEXT_TOK_INT_H

#include <pthread.h>

#include "text/bpe.h"
#include "text/pretok.h"
#include "text/spm.h"
#include "text/tok_added.h"
#include "text/tok_cache.h"
#include "text/tok_dec.h"
#include "text/tok_file.h"
#include "text/tok_hash.h"
#include "text/tok_models.h"
#include "text/tok_norm.h"

struct tok_mem {
	struct tok_mem *next;
	struct tok_re_mem *re;
	struct bpe_mem *bpe;
	struct unigram_mem *unigram;
	struct spm_mem *spm;
	struct pretok_mem pretok;
	struct astr text, tmp;
	struct pieces segments, pieces;
	struct mtoks toks;
};
struct tok_pool {
	pthread_mutex_t lock;
	struct tok_mem *free;
};

struct tok {
	uint8_t *uni;
	struct vocab vocab;
	struct tok_norm *norm;
	struct pretok *pretok;
	struct tok_dec *dec;
	struct bpe *bpe; /* one of the four is set */
	struct unigram *unigram;
	struct wordpiece *wordpiece;
	struct spm *spm;      /* with its own normaliser */
	bool raw_bytes;       /* the vocabulary holds bytes as they are */
	struct added added;
	bool map;             /* pieces go to the model as mapped characters */
	bool marked;          /* text is cut into words as it is, its spaces being marks */
	struct marking marking;
	pretok_scan_fn *scan; /* the whole pre-tokeniser, when it is a known pattern */
	int64_t n_ids;
	int32_t bos, eos;
	struct tok_pool *pool;
	struct tok_cache cache; /* what vocab and bpe point into, when they were kept */
	struct tok_file file; /* while its hash is not known */
	struct tok_hash hash; /* without a text: of nobody's interest */
	char *path;           /* of the tokeniser's file; NULL: it came from memory */
};

void tok_mem_free(struct tok_mem *m);
/* tok_ranks.c: vocabularies that are ranks of byte strings. */
/* v: the file; of its vocab nothing is read where that is kept, or has been read, by rank and before vocab_index. */
int tok_from_tekken(struct tok *t, const struct json *v, const struct tok_cache *kept, struct vocab *read, struct err *e) LP_MUST_USE;
/* pattern: how text is cut; NULL: from the contents or the name. kept: tables of these ranks, or NULL. hash: of the
 * text, which someone works on; or NULL. */
int tok_from_tiktoken(struct tok *t, const char *text, size_t len, const char *path, const char *pattern, const struct tok_cache *kept, struct tok_hash *hash, struct err *e) LP_MUST_USE;
/* Room for the file's own special tokens and those of tokenizer_config.json. */
#define TOK_SPECIALS_MAX 200000

#endif

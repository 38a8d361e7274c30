/* Byte-pair encoding as the reference does it: merges by rank, leftmost first.
 * In byte mode (vocabularies of ByteLevel) the pieces are raw bytes; else they
 * are UTF-8, and characters outside the vocabulary fall back to byte tokens or
 * to the unknown token. */
#ifndef LP_TEXT_BPE_H
#define LP_TEXT_BPE_H

#include "json/json.h"
#include "text/tok.h"
#include "text/tok_vocab.h"

/* One token of a piece: bytes [b, e) of it. */
struct mtok {
	int32_t id;
	uint32_t b, e;
};
struct mtoks {
	struct mtok *t;
	size_t n, cap;
};
static inline void mtoks_add(struct mtoks *o, int32_t id, size_t b, size_t e);

struct bpe;
/* Merges in order, by the ids of their halves. */
struct bpe_pair_ids {
	int32_t id[2];
	int32_t to;   /* what the two strings are together; -1: not known */
	uint32_t cut; /* bytes of the first */
};
struct bpe_pairs {
	struct bpe_pair_ids *p; /* pages */
	size_t n, cap;
};
/* What is large in a model, to be kept and to be made a model of again. */
struct bpe_tables {
	struct vocab raw; /* empty: the model has none */
	const void *merges, *first, *joined, *direct;
	size_t merges_bytes, first_bytes, joined_bytes, direct_bytes;
};
void bpe_tables_of(const struct bpe *b, struct bpe_tables *t);              /* they stay b's */
bool bpe_tables_ok(const struct bpe_tables *t, size_t n_ids);               /* safe to be used */
/* want_bytes: the pre-tokeniser ends in ByteLevel. merges, tables: NULL: the model's own. v and tables stay the
 * caller's and must outlive it. */
struct bpe *bpe_new(const struct json *model, const struct bpe_pairs *merges, const struct bpe_tables *tables, const struct vocab *v, bool want_bytes, struct err *e) LP_MUST_USE;
/* From tokens that have ranks and no list of merges (tiktoken, SentencePiece):
 * two neighbours merge when v has what they make, the lowest rank first, of
 * equal ranks the leftmost. rank by id; BPE_NO_RANK: nothing merges into it.
 * bytes: v holds raw bytes, and a piece that v has is one token; else UTF-8,
 * and a character that v lacks is unk. traced: by id, or NULL; see bpe_trace. tables: NULL: to be made of rank. */
#define BPE_NO_RANK UINT32_MAX
struct bpe *bpe_from_ranks(const struct vocab *v, const uint32_t *rank, bool bytes, int32_t unk, const bool *traced, const struct bpe_tables *tables, struct err *e) LP_MUST_USE;
/* What the ids of marked text become: unk, and what is not below n, a token for each byte. f outlives b. */
struct bpe_final {
	const int32_t *name_of; /* (n) */
	size_t n;
	int32_t unk;
	const int32_t *byte_id; /* (256) */
};
void bpe_set_final(struct bpe *b, const struct bpe_final *f);
void bpe_free(struct bpe *b);
/* False: the pieces must be given as mapped characters, not as bytes. */
bool bpe_byte_mode(const struct bpe *b);

/* What a thread needs: word cache and scratch. */
struct bpe_mem;
struct bpe_mem *bpe_mem_new(const struct bpe *b);
void bpe_mem_free(struct bpe_mem *m);
/* The bytes of the left half of the pair that was last seen to make the traced
 * token id, 0 when none was. */
uint32_t bpe_trace(const struct bpe_mem *m, int32_t id);
/* In byte mode: the words s[from, end[0]), s[end[0], end[1]) ... of a text of len
 * bytes, straight to out; byte 0 of s is byte base of the input. n at most BPE_AHEAD. */
#define BPE_AHEAD 128
void bpe_encode_words(const struct bpe *b, struct bpe_mem *m, const char *s, size_t len, size_t from, const uint32_t *end, size_t n, uint32_t base, struct tok_out *out);
/* Text whose spaces stand for U+2581, cut where no merge can be. prefix: such a mark stands before it, which
 * ends at byte prefix_end of the text. For a model that bpe_takes_marks only. */
bool bpe_takes_marks(const struct bpe *b);
void bpe_encode_marked(const struct bpe *b, struct bpe_mem *m, const char *s, size_t len, bool prefix, uint32_t prefix_end, uint32_t base, struct tok_out *out);
void bpe_encode(const struct bpe *b, struct bpe_mem *m, const char *s, size_t n, struct mtoks *out);

void mtoks_grow(struct mtoks *o);
static inline void mtoks_add(struct mtoks *o, int32_t id, size_t b, size_t e)
{
	if (o->n == o->cap)
		mtoks_grow(o);
	o->t[o->n++] = (struct mtok){ id, (uint32_t)b, (uint32_t)e };
}

#endif

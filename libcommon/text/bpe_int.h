/* The tables of a BPE model: private to bpe*.c. */
#ifndef LP_TEXT_BPE_INT_H
#define LP_TEXT_BPE_INT_H

#include "text/bpe.h"
#include "text/bpe_words.h"

#define BPE_AFFIX_MAX 64
#define BPE_DIRECT 0x10000u /* characters with a direct table */
#define BPE_JOINED_BITS 20
#define BPE_MARK 0x2581u
#define BPE_MARK_BYTES 3

/* Merges whose pairs have one hash: a line of the processor's cache, searched
 * without a branch. */
#define BPE_BUCKET 4
struct bpe_bucket {
	uint64_t pair[BPE_BUCKET]; /* bpe_pair_key; 0: empty */
	uint32_t rank[BPE_BUCKET];
	uint32_t id[BPE_BUCKET];   /* BPE_SPILT in that of the first: others went to the next bucket */
};
#define BPE_SPILT 0x80000000u

struct bpe_first {
	uint32_t rank; /* BPE_NO_RANK: nothing */
	int32_t id;
};

struct bpe {
	const struct vocab *v;
	bool bytes;             /* pieces are raw bytes */
	struct vocab raw;       /* tokens as bytes, where v holds mapped characters and a word that is one is not merged */
	const struct vocab *whole; /* what a piece is looked up in: v or raw */
	const bool *traced;     /* by id; NULL: none */
	bool byte_fallback, fuse_unk, ignore_merges;
	int32_t unk;            /* -1: none */
	char prefix[BPE_AFFIX_MAX], suffix[BPE_AFFIX_MAX];
	size_t prefix_len, suffix_len;
	struct bpe_bucket *merges;
	unsigned shift;         /* 64 - log2 of the table */
	uint64_t mask;
	struct bpe_first *first; /* (256 * 256) in byte mode: what two bytes make */
	int32_t byte_id[256];   /* bytes: token of a byte; else of <0xXX>; -1: none */
	int32_t *direct;        /* (BPE_DIRECT) token of a character; NULL in byte mode */
	uint64_t *joined;       /* bit set of character pairs inside merged tokens; NULL: not used */
	uint8_t *joined_ascii;  /* (128 * 128) the same of ASCII, a space being U+2581; NULL: no text can be marked */
	bool borrowed;          /* the tables are another's */
	const struct bpe_final *final; /* NULL: ids are as they are */
};

/* A symbol of the piece being merged. */
struct sym {
	int32_t id;
	uint32_t b, e;
	int32_t prev, next;
};
struct cand {
	uint32_t rank, pos;
	int32_t id; /* what the pair becomes */
};

struct bpe_mem {
	struct words words; /* empty where tokens are traced */
	struct word_tok *long_word;
	size_t cap_long;
	struct sym *sym, *spare;
	size_t n_sym, cap_sym, cap_spare;
	struct cand *heap;
	size_t n_heap, cap_heap;
	uint32_t *trace; /* by id: see bpe_trace */
	char *mark, *first; /* a word with its marks; the first one of a text */
	size_t cap_mark, cap_first;
};

int bpe_borrow(struct bpe *b, const struct bpe_tables *t, struct err *e) LP_MUST_USE;

/* The tokens of a word, into m->sym. whole: a word of the vocabulary is one token
 * where the model ignores merges. */
void bpe_tokens(const struct bpe *b, struct bpe_mem *m, const char *s, size_t n, bool whole);
/* The same of a word whose spaces are marks; final ids. */
void bpe_marked_tokens(const struct bpe *b, struct bpe_mem *m, const char *s, size_t n);
void bpe_add_sym(struct bpe_mem *m, int32_t id, size_t b, size_t e);

#define BPE_PAIR_MIX 0x9E3779B97F4A7C15u

static inline uint64_t bpe_pair_key(int32_t l, int32_t r)
{
	return (uint64_t)((uint32_t)l + 1) << 32 | (uint32_t)r;
}

/* Asks for the memory of a look-up to come. (A macro: a function that does no more is
 * taken for one that does nothing.) */
#define bpe_want(b, l, r) __builtin_prefetch(&(b)->merges[bpe_pair_key(l, r) * BPE_PAIR_MIX >> (b)->shift])

/* The rank of a merge, BPE_NO_RANK when there is none; *id: what it makes. */
static inline uint32_t bpe_pair(const struct bpe *b, int32_t l, int32_t r, int32_t *id)
{
	uint64_t key = bpe_pair_key(l, r), h = key * BPE_PAIR_MIX >> b->shift;

	for (;; h = (h + 1) & b->mask) {
		const struct bpe_bucket *x = &b->merges[h];
		uint32_t rank = BPE_NO_RANK, to = 0;

		for (int i = 0; i < BPE_BUCKET; i++) {
			rank = x->pair[i] == key ? x->rank[i] : rank;
			to = x->pair[i] == key ? x->id[i] : to;
		}
		*id = (int32_t)(to & ~BPE_SPILT);
		if (rank != BPE_NO_RANK || !(x->id[0] & BPE_SPILT))
			return rank;
	}
}

static inline uint32_t bpe_joined_bit(uint32_t x, uint32_t y)
{
	return (x * 0x9E3779B1u ^ y * 0x85EBCA77u) >> (32 - BPE_JOINED_BITS);
}
static inline bool bpe_joined(const struct bpe *b, uint32_t x, uint32_t y)
{
	uint32_t k = bpe_joined_bit(x, y);

	return b->joined[k >> 6] >> (k & 63) & 1;
}

#endif

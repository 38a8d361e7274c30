/* Text on its way through normalisers and pre-tokenisers, with the range of
 * the input that each byte came from. While nothing has been changed it is
 * borrowed and the map is the identity. */
#ifndef LP_TEXT_TOK_STR_H
#define LP_TEXT_TOK_STR_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct astr {
	const char *s;        /* the bytes: borrowed, or buf */
	size_t len;
	bool ident;           /* byte i came from input byte base + i */
	uint32_t base;
	char *buf;            /* owned memory for changed text */
	uint32_t *b, *e;      /* (len) begin and end in the input, when not ident */
	size_t cap;           /* of buf, b, e */
};
void astr_borrow(struct astr *a, const char *s, size_t n, uint32_t base);
void astr_release(struct astr *a);
static inline uint32_t astr_begin(const struct astr *a, size_t i)
{
	return a->ident ? a->base + (uint32_t)i : a->b[i];
}
static inline uint32_t astr_end(const struct astr *a, size_t i) /* of byte i */
{
	return a->ident ? a->base + (uint32_t)i + 1 : a->e[i];
}

/* Building changed text: start empties out; the others append. */
void astr_start(struct astr *out);
void astr_copy(struct astr *out, const struct astr *in, size_t from, size_t n);
void astr_put(struct astr *out, const char *s, size_t n, uint32_t b, uint32_t e);
void astr_put_cp(struct astr *out, uint32_t cp, uint32_t b, uint32_t e);
void astr_swap(struct astr *a, struct astr *b);

/* Part of a text; id >= 0: an added token, done. */
struct piece {
	size_t off, len;
	int32_t id;
};
struct pieces {
	struct piece *p;
	size_t n, cap;
};
void pieces_add(struct pieces *l, size_t off, size_t len, int32_t id);

#endif

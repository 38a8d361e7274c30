/* BPE: words that have been merged before, and texts as words. */
#include "text/bpe.h"

#include <string.h>

#include "base/xalloc.h"
#include "text/bpe_int.h"
#include "text/utf8.h"

/* --- words --- */

/* Only tokens without a gap are kept: they are stored by their ends. */
static bool tiles(const struct bpe_mem *m, size_t n)
{
	uint32_t at = 0;

	for (size_t i = 0; i < m->n_sym; i++) {
		if (m->sym[i].b != at || m->sym[i].e == at)
			return false;
		at = m->sym[i].e;
	}
	return at == n;
}

static void keep_long(struct bpe_mem *m, const char *s, size_t n)
{
	m->long_word = xgrow(m->long_word, &m->cap_long, m->n_sym, sizeof(*m->long_word));
	for (size_t i = 0; i < m->n_sym; i++)
		m->long_word[i] = (struct word_tok){ m->sym[i].id, m->sym[i].e };
	words_add_long(&m->words, s, n, m->long_word, m->n_sym);
}

/* key: NULL for a word that is too long for a set. */
static void keep(struct bpe_mem *m, const char *s, size_t n, const uint64_t *key)
{
	struct word w;

	if (!m->words.sets || !tiles(m, n))
		return;
	if (!key || m->n_sym > WORD_IDS)
		keep_long(m, s, n);
	if (!key)
		return;
	memcpy(w.key, key, sizeof(w.key));
	w.n = (uint8_t)(m->n_sym <= WORD_IDS ? m->n_sym : 0); /* 0: among the long ones */
	for (size_t i = 0; i < WORD_IDS; i++) {
		w.id[i] = i < m->n_sym ? m->sym[i].id : 0;
		w.end[i] = (uint8_t)(i < m->n_sym ? m->sym[i].e : n);
	}
	m->words.sets[2 * (size_t)word_set(key) + 1] = w; /* behind the one that has been found before */
}

/* --- many words at once --- */

/* A word's tokens to out, room for all that a word may have being there. */
static inline size_t put_word(const struct word *w, uint32_t at, struct tok_out *out, size_t n)
{
	int32_t *restrict ids = out->ids + n;
	uint32_t *restrict begin = out->begin + n, *restrict end = out->end + n;

	memcpy(ids, w->id, sizeof(w->id));
	begin[0] = at;
	begin[1] = end[0] = at + w->end[0];
	begin[2] = end[1] = at + w->end[1];
	end[2] = at + w->end[2];
	return n + w->n;
}

static void put_long(const struct word_tok *t, size_t n, uint32_t at, struct tok_out *out)
{
	uint32_t from = at;

	tok_out_reserve(out, n);
	for (size_t i = 0; i < n; i++) {
		out->ids[out->n] = t[i].id;
		out->begin[out->n] = from;
		out->end[out->n++] = from = at + t[i].end;
	}
}

/* One that is not among the short words, or only said to be a long one. */
static void put_other(const struct bpe *b, struct bpe_mem *m, const char *s, size_t n, const uint64_t *key, bool said, bool marked, uint32_t at, struct tok_out *out)
{
	size_t k;
	const struct word_tok *t = !key || said ? words_find_long(&m->words, s, n, &k) : NULL;

	if (t) {
		put_long(t, k, at, out);
		return;
	}
	if (marked)
		bpe_marked_tokens(b, m, s, n);
	else
		bpe_tokens(b, m, s, n, true);
	tok_out_reserve(out, m->n_sym);
	for (size_t i = 0; i < m->n_sym; i++) {
		out->ids[out->n] = m->sym[i].id;
		out->begin[out->n] = at + m->sym[i].b;
		out->end[out->n++] = at + m->sym[i].e;
	}
	keep(m, s, n, key);
}

struct ahead {
	uint64_t key[2];
	uint32_t set;
};

static void encode_words(const struct bpe *b, struct bpe_mem *m, const char *s, size_t len, size_t from, const uint32_t *end, size_t n, bool marked, uint32_t base,
			 struct tok_out *out)
{
	struct ahead x[BPE_AHEAD];
	size_t at = from, k, w;

	for (k = 0; k < n && m->words.sets; at = end[k++]) {
		w = end[k] - at;
		if (w > WORD_BYTES)
			continue;
		word_key(s + at, w, len - at, x[k].key);
		x[k].set = word_set(x[k].key);
		__builtin_prefetch(&m->words.sets[2 * (size_t)x[k].set], 1);
	}
	for (k = 0, at = from; k < n; at = end[k++]) {
		bool is_short = end[k] - at <= WORD_BYTES && m->words.sets;
		const struct word *known = is_short ? words_find(&m->words, x[k].key, x[k].set) : NULL;

		if (out->cap - out->n < WORD_IDS)
			tok_out_reserve(out, WORD_IDS);
		if (known && known->n)
			out->n = put_word(known, base + (uint32_t)at, out, out->n);
		else
			put_other(b, m, s + at, end[k] - at, is_short ? x[k].key : NULL, known != NULL, marked, base + (uint32_t)at, out);
	}
}

void bpe_encode_words(const struct bpe *b, struct bpe_mem *m, const char *s, size_t len, size_t from, const uint32_t *end, size_t n, uint32_t base, struct tok_out *out)
{
	encode_words(b, m, s, len, from, end, n, false, base, out);
}

/* --- one word, or a text that is cut by none --- */

static void add_known(struct mtoks *out, size_t off, const struct word *w)
{
	for (size_t i = 0, from = 0; i < w->n; from = w->end[i++])
		mtoks_add(out, w->id[i], off + from, off + w->end[i]);
}

/* off: where the word stands in its piece. */
static void encode_word(const struct bpe *b, struct bpe_mem *m, const char *s, size_t n, size_t off, bool whole, struct mtoks *out)
{
	bool is_short = n <= WORD_BYTES && m->words.sets;
	const struct word *known = NULL;
	const struct word_tok *t;
	uint64_t key[2];
	size_t k, from = off;

	if (is_short) {
		word_key(s, n, n, key);
		known = words_find(&m->words, key, word_set(key));
	}
	if (known && known->n) {
		add_known(out, off, known);
		return;
	}
	t = !is_short || known ? words_find_long(&m->words, s, n, &k) : NULL;
	for (size_t i = 0; t && i < k; i++, from = off + t[i - 1].end)
		mtoks_add(out, t[i].id, from, off + t[i].end);
	if (t)
		return;
	bpe_tokens(b, m, s, n, whole);
	for (size_t i = 0; i < m->n_sym; i++)
		mtoks_add(out, m->sym[i].id, off + m->sym[i].b, off + m->sym[i].e);
	keep(m, s, n, is_short ? key : NULL);
}

/* Characters that no merge brings together can be cut between. */
static void encode_cut(const struct bpe *b, struct bpe_mem *m, const char *s, size_t n, struct mtoks *out)
{
	size_t from = 0, i;
	unsigned w;
	uint32_t prev = utf8_get(s, &w), c;

	for (i = w; i < n; i += w) {
		c = utf8_get(s + i, &w);
		if (!bpe_joined(b, prev, c)) {
			encode_word(b, m, s + from, i - from, from, false, out);
			from = i;
		}
		prev = c;
	}
	encode_word(b, m, s + from, n - from, from, false, out);
}

void bpe_encode(const struct bpe *b, struct bpe_mem *m, const char *s, size_t n, struct mtoks *out)
{
	int32_t id;

	if (!n)
		return;
	if (!b->joined) {
		encode_word(b, m, s, n, 0, true, out);
		return;
	}
	id = b->ignore_merges ? vocab_find(b->whole, s, n) : -1; /* of a whole piece; its parts are merged */
	if (id >= 0)
		mtoks_add(out, id, 0, n);
	else
		encode_cut(b, m, s, n, out);
}

/* --- text whose spaces are marks --- */

static inline uint32_t marked_get(const char *s, unsigned *w)
{
	*w = 1;
	return *s == ' ' ? BPE_MARK : utf8_get(s, w);
}

/* Ends of the words from byte i of s[0..n) on, at most max; prev: the character before them. */
static size_t cut_marked(const struct bpe *b, const char *s, size_t i, size_t n, uint32_t prev, uint32_t *end, size_t max)
{
	const uint8_t *near = b->joined_ascii;
	unsigned char p, c;
	size_t k = 0;
	unsigned w;

	while (i < n && k < max) {
		uint32_t next;

		p = (unsigned char)(prev == BPE_MARK ? ' ' : prev < 0x80 ? prev : 0x80);
		for (; p < 0x80 && i < n && (c = (unsigned char)s[i]) < 0x80 && near[p << 7 | c]; i++)
			p = c;
		if (i == n)
			break;
		prev = p == ' ' ? BPE_MARK : p < 0x80 ? p : prev;
		next = marked_get(s + i, &w);
		if (!bpe_joined(b, prev, next))
			end[k++] = (uint32_t)i;
		prev = next;
		i += w;
	}
	if (i >= n && k < max)
		end[k++] = (uint32_t)n;
	return k;
}

/* The first word with the mark that stands before the text: the same word as behind a
 * space, with one byte less. Bytes of it in the text. */
static size_t put_first(const struct bpe *b, struct bpe_mem *m, const char *s, size_t n, uint32_t prefix_end, uint32_t base, struct tok_out *out)
{
	uint32_t len;
	size_t from = out->n;
	char *word;

	cut_marked(b, s, 0, n, BPE_MARK, &len, 1);
	m->first = xgrow(m->first, &m->cap_first, len + 1 + 16, 1);
	word = m->first;
	word[0] = ' ';
	memcpy(word + 1, s, len);
	encode_words(b, m, word, len + 1, 0, (uint32_t[]){ len + 1 }, 1, true, 1, out);
	for (size_t i = from; i < out->n; i++) {
		out->begin[i] = base + (out->begin[i] > 2 ? out->begin[i] - 2 : 0);
		out->end[i] = base + (out->end[i] > 2 + prefix_end ? out->end[i] - 2 : prefix_end);
	}
	return len;
}

void bpe_encode_marked(const struct bpe *b, struct bpe_mem *m, const char *s, size_t len, bool prefix, uint32_t prefix_end, uint32_t base, struct tok_out *out)
{
	uint32_t end[BPE_AHEAD];
	size_t i = prefix ? put_first(b, m, s, len, prefix_end, base, out) : 0, n;

	for (; i < len; i = end[n - 1]) {
		unsigned w;
		uint32_t c = marked_get(s + i, &w);

		n = cut_marked(b, s, i + w, len, c, end, BPE_AHEAD);
		encode_words(b, m, s, len, i, end, n, true, base, out);
	}
}

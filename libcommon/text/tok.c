/* One tokeniser: added tokens, normaliser, pre-tokeniser, model, decoder, in
 * the reference's order. A struct tok does not change after it is loaded; what a
 * call writes is taken from a pool, one set for each thread at work. */
#include <stdlib.h>
#include <string.h>

#include "base/xalloc.h"
#include "text/tok_int.h"
#include "text/utf8.h"

/* --- scratch --- */

void tok_mem_free(struct tok_mem *m)
{
	tok_re_mem_free(m->re);
	bpe_mem_free(m->bpe);
	unigram_mem_free(m->unigram);
	spm_mem_free(m->spm);
	pretok_mem_release(&m->pretok);
	astr_release(&m->text);
	astr_release(&m->tmp);
	free(m->segments.p);
	free(m->pieces.p);
	free(m->toks.t);
	free(m);
}

static struct tok_mem *mem_get(const struct tok *t, struct err *e)
{
	struct tok_mem *m;

	pthread_mutex_lock(&t->pool->lock);
	m = t->pool->free;
	if (m)
		t->pool->free = m->next;
	pthread_mutex_unlock(&t->pool->lock);
	if (m)
		return m;
	m = xcalloc(1, sizeof(*m));
	m->re = tok_re_mem_new();
	if (!m->re) {
		free(m);
		err_set(e, LP_DEVICE, "out of memory for patterns");
		return NULL;
	}
	pretok_mem_init(&m->pretok);
	m->pretok.re = m->re;
	if (t->bpe)
		m->bpe = bpe_mem_new(t->bpe);
	if (t->unigram)
		m->unigram = unigram_mem_new();
	if (t->spm)
		m->spm = spm_mem_new(t->spm);
	return m;
}

static void mem_put(const struct tok *t, struct tok_mem *m)
{
	pthread_mutex_lock(&t->pool->lock);
	m->next = t->pool->free;
	t->pool->free = m;
	pthread_mutex_unlock(&t->pool->lock);
}

/* --- encoding --- */

void tok_out_release(struct tok_out *o)
{
	free(o->ids);
	free(o->begin);
	free(o->end);
	memset(o, 0, sizeof(*o));
}

void tok_out_reserve(struct tok_out *o, size_t extra)
{
	if (o->n + extra <= o->cap)
		return;
	o->cap = (o->n + extra) * 3 / 2 + 256;
	o->ids = xrealloc(o->ids, o->cap * sizeof(*o->ids));
	o->begin = xrealloc(o->begin, o->cap * sizeof(*o->begin));
	o->end = xrealloc(o->end, o->cap * sizeof(*o->end));
}

void tok_out_add(struct tok_out *o, int32_t id, uint32_t b, uint32_t e)
{
	tok_out_reserve(o, 1);
	o->ids[o->n] = id;
	o->begin[o->n] = b;
	o->end[o->n++] = e;
}

/* The tokens of a piece, with the input's bytes for the piece's own. */
static void flush(struct tok_mem *m, const struct astr *a, size_t off, struct tok_out *out)
{
	tok_out_reserve(out, m->toks.n);
	for (size_t i = 0; i < m->toks.n; i++) {
		const struct mtok *x = &m->toks.t[i];

		out->ids[out->n] = x->id;
		out->begin[out->n] = astr_begin(a, off + x->b);
		out->end[out->n++] = astr_end(a, off + (x->e > x->b ? x->e - 1 : x->b));
	}
	m->toks.n = 0;
}

static int encode_piece(const struct tok *t, struct tok_mem *m, const struct astr *a, size_t off, size_t len, struct tok_out *out, struct err *e)
{
	int rc = 0;

	if (t->bpe)
		bpe_encode(t->bpe, m->bpe, a->s + off, len, &m->toks);
	else if (t->unigram)
		rc = unigram_encode(t->unigram, m->unigram, a->s + off, len, &m->toks, e);
	else
		rc = wordpiece_encode(t->wordpiece, a->s + off, len, &m->toks, e);
	flush(m, a, off, out);
	return rc;
}

static int encode_scan(const struct tok *t, struct tok_mem *m, const struct astr *a, struct piece x, struct tok_out *out, struct err *e)
{
	size_t end = x.off + x.len, i = x.off, n;
	uint32_t ends[BPE_AHEAD];

	while ((n = t->scan(t->uni, a->s, i, end, ends, BPE_AHEAD)) != 0) {
		if (a->ident)
			bpe_encode_words(t->bpe, m->bpe, a->s, end, i, ends, n, a->base, out);
		for (size_t k = 0, at = i; k < n && !a->ident; at = ends[k++])
			if (encode_piece(t, m, a, at, ends[k] - at, out, e))
				return -1;
		i = ends[n - 1];
	}
	return 0;
}

static void encode_marked(const struct tok *t, struct tok_mem *m, const char *text, struct piece seg, struct tok_out *out)
{
	const struct marking *k = &t->marking;
	const char *s = text + seg.off;
	bool space = *s == ' ' || (seg.len >= 3 && !memcmp(s, "\xE2\x96\x81", 3));

	bpe_encode_marked(t->bpe, m->bpe, s, seg.len, k->prefix && !(k->only_first && seg.off) && !(k->unless_space && space), 1, (uint32_t)seg.off, out);
}

/* Text between added tokens of the raw kind. */
static int encode_segment(const struct tok *t, struct tok_mem *m, const char *text, struct piece seg, struct tok_out *out, struct err *e)
{
	struct astr *a = &m->text;

	astr_borrow(a, text + seg.off, seg.len, (uint32_t)seg.off);
	if (tok_norm_apply(t->norm, m->re, a, &m->tmp, e))
		return -1;
	m->pieces.n = 0;
	added_split(&t->added, &t->added.norm, a->s, a->len, &m->pieces);
	if (!t->scan && pretok_apply(t->pretok, &m->pretok, a, &m->pieces, t->map, e))
		return -1;
	for (size_t i = 0; i < m->pieces.n; i++) {
		struct piece x = m->pieces.p[i];

		if (!x.len)
			continue;
		if (x.id >= 0)
			tok_out_add(out, x.id, astr_begin(a, x.off), astr_end(a, x.off + x.len - 1));
		else if (t->scan ? encode_scan(t, m, a, x, out, e) : encode_piece(t, m, a, x.off, x.len, out, e))
			return -1;
	}
	return 0;
}

int tok_encode(const struct tok *t, const char *text, size_t len, struct tok_out *out, struct err *e)
{
	struct tok_mem *m;
	int rc = 0;

	if (len >= INT32_MAX / 4)
		return err_set(e, LP_DATA, "a text of %zu bytes is too long to tokenise at once", len);
	if (utf8_valid_len(text, len) != len)
		return err_set(e, LP_DATA, "the text is not UTF-8 at byte %zu", utf8_valid_len(text, len));
	m = mem_get(t, e);
	if (!m)
		return -1;
	m->segments.n = 0;
	m->toks.n = 0;
	added_split(&t->added, &t->added.raw, text, len, &m->segments);
	for (size_t i = 0; i < m->segments.n && !rc; i++) {
		struct piece x = m->segments.p[i];

		if (x.id >= 0)
			tok_out_add(out, x.id, (uint32_t)x.off, (uint32_t)(x.off + x.len));
		else if (t->spm)
			rc = spm_encode(t->spm, m->spm, text, x.off, x.len, out, e);
		else if (t->marked)
			encode_marked(t, m, text, x, out);
		else
			rc = encode_segment(t, m, text, x, out, e);
	}
	mem_put(t, m);
	return rc;
}

/* --- ids and text --- */

static const char *piece_of(const struct tok *t, int32_t id, size_t *n)
{
	const struct added_token *a = added_by_id(&t->added, id);

	if (a) {
		*n = a->shown_len;
		return a->shown;
	}
	return vocab_str(&t->vocab, id, n);
}

const char *tok_piece(const struct tok *t, int32_t id)
{
	size_t n;

	return piece_of(t, id, &n);
}

bool tok_show_piece(const struct tok *t, int32_t id, struct sb *out)
{
	size_t n;
	const char *s = piece_of(t, id, &n);
	char u[4];

	if (s && t->raw_bytes && !added_by_id(&t->added, id))
		for (size_t i = 0; i < n; i++)
			sb_add(out, u, utf8_put(u, byte_to_char((unsigned char)s[i])));
	else if (s)
		sb_add(out, s, n);
	return s != NULL;
}

int32_t tok_id(const struct tok *t, const char *piece)
{
	const struct added_token *a = added_by_text(&t->added, piece, strlen(piece));

	return a ? a->id : vocab_find(&t->vocab, piece, strlen(piece));
}

static bool is_special(const struct tok *t, const char *s, size_t n)
{
	const struct added_token *a = added_by_text(&t->added, s, n);

	return a && a->special;
}

bool tok_is_special(const struct tok *t, int32_t id)
{
	const struct added_token *a = added_by_id(&t->added, id);

	return a && a->special;
}

int64_t tok_vocab_size(const struct tok *t)
{
	return t->n_ids;
}

int32_t tok_bos(const struct tok *t)
{
	return t->bos;
}

int32_t tok_eos(const struct tok *t)
{
	return t->eos;
}

static void join(const struct dtoks *d, bool spaces, struct sb *out)
{
	for (size_t i = 0; i < d->n; i++) {
		if (spaces && i)
			sb_addc(out, ' ');
		sb_add(out, d->t[i].s, d->t[i].n);
	}
}

static int decode_tokens(const struct tok *t, const int32_t *ids, size_t n, bool skip_special, struct sb *out, struct err *e)
{
	struct tok_mem *m = mem_get(t, e);
	struct dtoks d = { .arena = ARENA_INIT };
	int rc;

	if (!m)
		return -1;
	d.t = xcalloc(n + 1, sizeof(*d.t));
	for (size_t i = 0; i < n; i++) {
		struct dtok *x = &d.t[d.n];

		x->s = piece_of(t, ids[i], &x->n);
		if (x->s && !(skip_special && is_special(t, x->s, x->n)))
			d.n++;
	}
	rc = tok_dec_apply(t->dec, m->re, &d, e);
	if (!rc)
		join(&d, !t->dec, out);
	free(d.t);
	arena_release(&d.arena);
	mem_put(t, m);
	return rc;
}

static void decode_bytes(const struct tok *t, const int32_t *ids, size_t n, bool skip_special, struct sb *out)
{
	struct sb bytes = SB_INIT;
	size_t len;

	for (size_t i = 0; i < n; i++) {
		const char *s = skip_special && tok_is_special(t, ids[i]) ? NULL : piece_of(t, ids[i], &len);

		if (s)
			sb_add(&bytes, s, len);
	}
	tok_dec_lossy(out, sb_str(&bytes), bytes.len);
	sb_release(&bytes);
}

/* Tokens that tokenizer_config.json adds stand outside the SentencePiece model. */
static void decode_spm(const struct tok *t, const int32_t *ids, size_t n, bool skip_special, struct sb *out)
{
	size_t from = 0, i, len;

	for (i = 0; i < n; i++) {
		const struct added_token *a = added_by_id(&t->added, ids[i]);

		if (!a || spm_type_of(t->spm, ids[i]) != SPM_UNUSED)
			continue;
		spm_decode(t->spm, ids + from, i - from, !skip_special, out);
		if (!skip_special || !a->special)
			sb_add(out, piece_of(t, ids[i], &len), a->shown_len);
		from = i + 1;
	}
	spm_decode(t->spm, ids + from, n - from, !skip_special, out);
}

int tok_decode(const struct tok *t, const int32_t *ids, size_t n, bool skip_special, struct sb *out, struct err *e)
{
	if (!t->spm && !t->raw_bytes)
		return decode_tokens(t, ids, n, skip_special, out, e);
	if (t->spm)
		decode_spm(t, ids, n, skip_special, out);
	else
		decode_bytes(t, ids, n, skip_special, out);
	return 0;
}

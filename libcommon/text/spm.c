/* The SentencePiece tokeniser: the text is normalised whole, user-defined
 * symbols are cut out (BPE), the model finds pieces, and what it does not know
 * becomes bytes or one unknown token. */
#include "text/spm.h"

#include <float.h>
#include <stdlib.h>
#include <string.h>

#include "base/xalloc.h"
#include "text/tok_added.h"
#include "text/tok_models.h"
#include "text/utf8.h"

#define SPACE "\xE2\x96\x81" /* U+2581 */
#define SPACE_LEN 3

struct spm {
	struct spm_rules rules; /* its charsmap points nowhere */
	struct charsmap map;
	struct vocab symbols;   /* what the model merges: pieces by number, then characters that are only parts of them */
	struct bpe *bpe;
	struct unigram *unigram;
	struct added user;      /* user-defined symbols, cut out of the text */
	bool *chosen, *unused;  /* by id of symbols */
	bool any_unused;
	bool marked;            /* text is only marked, never changed otherwise */
	struct bpe_final final;
	bool plain[256];        /* no rule and no symbol begins with this byte, which is no space */
	/* by piece */
	uint8_t *type;
	int32_t *name_of;       /* the piece that its text is known as: of equal texts the reserved one */
	uint32_t *off, *len;
	char *pool;
	size_t n;
	int32_t unk, byte_id[256];
	bool byte_fallback;
	char *unk_surface;
	size_t unk_surface_len;
};
struct spm_mem {
	struct bpe_mem *bpe;
	struct unigram_mem *unigram;
	struct astr text;
	struct pieces pieces;
	struct mtoks toks;
	const struct spm *spm;
};

void spm_free(struct spm *s)
{
	if (!s)
		return;
	charsmap_release(&s->map);
	bpe_free(s->bpe);
	unigram_free(s->unigram);
	vocab_release(&s->symbols);
	added_release(&s->user);
	free(s->chosen);
	free(s->unused);
	free(s->type);
	free(s->name_of);
	free(s->off);
	free(s->len);
	free(s->pool);
	free(s->unk_surface);
	free(s);
}

struct spm_mem *spm_mem_new(const struct spm *s)
{
	struct spm_mem *m = xcalloc(1, sizeof(*m));

	m->spm = s;
	if (s->bpe)
		m->bpe = bpe_mem_new(s->bpe);
	else
		m->unigram = unigram_mem_new();
	return m;
}

void spm_mem_free(struct spm_mem *m)
{
	if (!m)
		return;
	bpe_mem_free(m->bpe);
	unigram_mem_free(m->unigram);
	astr_release(&m->text);
	free(m->pieces.p);
	free(m->toks.t);
	free(m);
}

/* --- reading --- */

static bool is_symbol(enum spm_type t)
{
	return t == SPM_NORMAL || t == SPM_USER || t == SPM_UNUSED;
}

static int hex_digit(char c)
{
	return c >= '0' && c <= '9' ? c - '0' : c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

/* The byte of "<0xXX>", or -1. */
static int byte_of(const struct spm_piece *p)
{
	if (p->len != 6 || memcmp(p->s, "<0x", 3) || p->s[5] != '>' || hex_digit(p->s[3]) < 0 || hex_digit(p->s[4]) < 0)
		return -1;
	return hex_digit(p->s[3]) << 4 | hex_digit(p->s[4]);
}

static int reserved(struct spm *s, const struct spm_file *f, int32_t i, struct err *e)
{
	const struct spm_piece *p = &f->pieces[i];
	int b;

	if (p->type == SPM_UNKNOWN) {
		if (s->unk >= 0)
			return err_set(e, LP_DATA, "pieces %d and %d are both the unknown piece", s->unk, i);
		s->unk = i;
	}
	if (p->type != SPM_BYTE)
		return 0;
	b = byte_of(p);
	if (b < 0 || !f->byte_fallback)
		return err_set(e, LP_DATA, b < 0 ? "piece %d is not a byte, <0xXX>" : "piece %d is a byte, and the model does not fall back to bytes", i);
	s->byte_id[b] = i;
	return 0;
}

/* Names of all pieces, types, and the symbols of the model. */
static int load_pieces(struct spm *s, const struct spm_file *f, struct vocab *names, struct err *e)
{
	size_t bytes = 0;

	for (size_t i = 0; i < f->n; i++)
		bytes += f->pieces[i].len;
	if (bytes > UINT32_MAX || vocab_reserve(&s->symbols, f->n, e) || vocab_reserve(names, f->n, e))
		return bytes > UINT32_MAX ? err_set(e, LP_DATA, "its pieces are too large") : -1;
	s->n = f->n;
	s->type = xcalloc(f->n, sizeof(*s->type));
	s->off = xcalloc(f->n, sizeof(*s->off));
	s->len = xcalloc(f->n, sizeof(*s->len));
	s->name_of = xcalloc(f->n, sizeof(*s->name_of));
	s->pool = xmalloc(bytes + 1);
	bytes = 0;
	for (size_t i = 0; i < f->n; i++) {
		const struct spm_piece *p = &f->pieces[i];

		s->type[i] = (uint8_t)p->type;
		s->off[i] = (uint32_t)bytes;
		s->len[i] = (uint32_t)p->len;
		memcpy(s->pool + bytes, p->s, p->len);
		bytes += p->len;
		s->any_unused |= p->type == SPM_UNUSED;
		if (!is_symbol(p->type)) {
			if (reserved(s, f, (int32_t)i, e))
				return -1;
		} else if (vocab_find(&s->symbols, p->s, p->len) >= 0) {
			return err_set(e, LP_DATA, "piece %zu is there twice", i);
		} else if (vocab_add(&s->symbols, p->s, p->len, (int64_t)i, e) || vocab_add(names, p->s, p->len, (int64_t)i, e)) {
			return -1;
		}
	}
	for (size_t i = 0; i < f->n; i++) /* behind the others: a reserved piece wins its name */
		if (!is_symbol((enum spm_type)s->type[i]) && vocab_add(names, f->pieces[i].s, f->pieces[i].len, (int64_t)i, e))
			return -1;
	for (size_t i = 0; i < f->n; i++)
		s->name_of[i] = vocab_find(names, f->pieces[i].s, f->pieces[i].len);
	if (s->unk < 0)
		return err_set(e, LP_DATA, "it has no unknown piece");
	for (int b = 0; b < 256 && f->byte_fallback; b++)
		if (s->byte_id[b] < 0)
			return err_set(e, LP_DATA, "it falls back to bytes, and has no piece <0x%02X>", b);
	return 0;
}

/* Characters that occur in pieces but are none: they merge all the same. */
static int add_parts(struct spm *s, const struct spm_file *f, struct err *e)
{
	size_t next = f->n;

	for (size_t i = 0; i < f->n; i++) {
		const struct spm_piece *p = &f->pieces[i];

		for (size_t k = 0, w; is_symbol(p->type) && k < p->len; k += w) {
			w = utf8_len((unsigned char)p->s[k]);
			if (vocab_find(&s->symbols, p->s + k, w) < 0 && vocab_add(&s->symbols, p->s + k, w, (int64_t)next++, e))
				return -1;
		}
	}
	return 0;
}

struct by_score {
	float score;
	int32_t id;
};

static int higher_first(const void *a, const void *b)
{
	const struct by_score *x = a, *y = b;

	return x->score > y->score ? -1 : x->score < y->score ? 1 : (x->id > y->id) - (x->id < y->id);
}

static int load_bpe(struct spm *s, const struct spm_file *f, struct err *e)
{
	struct by_score *order = xcalloc(f->n, sizeof(*order));
	uint32_t *rank = xmalloc((s->symbols.n_ids + 1) * sizeof(*rank)), r = 0;
	size_t n = 0;

	memset(rank, 0xFF, (s->symbols.n_ids + 1) * sizeof(*rank));
	for (size_t i = 0; i < f->n; i++)
		if (is_symbol(f->pieces[i].type) && f->model == SPM_BPE)
			order[n++] = (struct by_score){ f->pieces[i].score, (int32_t)i };
	if (n)
		qsort(order, n, sizeof(*order), higher_first);
	for (size_t i = 0; i < n; i++) {
		r += i && order[i].score < order[i - 1].score;
		rank[order[i].id] = r;
	}
	s->bpe = bpe_from_ranks(&s->symbols, rank, false, s->unk, s->any_unused ? s->unused : NULL, NULL, e);
	free(order);
	free(rank);
	return s->bpe ? 0 : -1;
}

static int load_unigram(struct spm *s, const struct spm_file *f, struct err *e)
{
	struct unigram_scores u = { .min = FLT_MAX, .max = FLT_MIN, .unk = s->unk, .chosen = s->chosen };
	float *score = xcalloc(s->symbols.n_ids + 1, sizeof(*score));

	for (size_t i = 0; i < f->n; i++) {
		score[i] = f->pieces[i].score;
		if (f->pieces[i].type != SPM_NORMAL)
			continue;
		u.min = score[i] < u.min ? score[i] : u.min;
		u.max = score[i] > u.max ? score[i] : u.max;
	}
	u.score = score;
	u.unused = s->unused;
	s->unigram = unigram_from_scores(&s->symbols, &u, e);
	free(score);
	return s->unigram ? 0 : -1;
}

static int load_user(struct spm *s, const struct spm_file *f, struct err *e)
{
	if (added_init(&s->user, NULL, f->n, e))
		return -1;
	for (size_t i = 0; i < f->n; i++)
		if (f->pieces[i].type == SPM_USER && added_put(&s->user, f->pieces[i].s, f->pieces[i].len, s->name_of[i], false, e))
			return -1;
	added_match(&s->user);
	return 0;
}

static void find_plain(struct spm *s)
{
	for (int i = 0; i < 256; i++)
		s->plain[i] = i != ' ' && !s->user.raw.first[i] && !(s->map.n_units && charsmap_begins(&s->map, (unsigned char)i));
}

/* A user-defined symbol with a mark may stand where the text has a space. */
static bool user_has_mark(const struct spm *s)
{
	for (size_t i = 0; i < s->user.n; i++)
		if (memmem(s->user.t[i].text, s->user.t[i].len, SPACE, SPACE_LEN) || memchr(s->user.t[i].text, ' ', s->user.t[i].len))
			return true;
	return false;
}

/* Most models change nothing but spaces; then words of the text itself come again. */
static void find_marked(struct spm *s)
{
	s->marked = s->bpe && s->byte_fallback && !s->any_unused && !s->rules.remove_extra && s->rules.escape && !s->rules.suffix && !s->map.n_units &&
		    !user_has_mark(s) && bpe_takes_marks(s->bpe);
	if (!s->marked)
		return;
	s->final = (struct bpe_final){ s->name_of, s->n, s->unk, s->byte_id };
	bpe_set_final(s->bpe, &s->final);
}

struct spm *spm_new(const struct spm_file *f, struct vocab *names, struct err *e)
{
	struct spm *s = xcalloc(1, sizeof(*s));

	s->unk = -1;
	memset(s->byte_id, 0xFF, sizeof(s->byte_id));
	s->rules = f->rules;
	s->rules.charsmap = NULL;
	s->byte_fallback = f->byte_fallback;
	s->unk_surface = xmemdup0(f->unk_surface, f->unk_surface_len);
	s->unk_surface_len = f->unk_surface_len;
	if (f->model == SPM_WORD) {
		err_set(e, LP_USAGE, "a SentencePiece model of whole words is not supported");
		goto bad;
	}
	if (f->rules.charsmap && charsmap_load(&s->map, f->rules.charsmap, f->rules.charsmap_len, e))
		goto bad;
	if (load_pieces(s, f, names, e) || (f->model != SPM_UNIGRAM && add_parts(s, f, e)))
		goto bad;
	s->chosen = xcalloc(s->symbols.n_ids + 1, sizeof(*s->chosen));
	s->unused = xcalloc(s->symbols.n_ids + 1, sizeof(*s->unused));
	for (size_t i = 0; i < f->n; i++) {
		s->chosen[i] = f->pieces[i].type == SPM_USER;
		s->unused[i] = f->pieces[i].type == SPM_UNUSED;
	}
	if (load_user(s, f, e))
		goto bad;
	find_plain(s);
	if ((f->model == SPM_UNIGRAM ? load_unigram(s, f, e) : load_bpe(s, f, e)) != 0)
		goto bad;
	find_marked(s);
	return s;
bad:
	spm_free(s);
	return NULL;
}

/* --- normalising --- */

/* What the next characters of s[0..n) become; *used of them. */
static const char *next_part(const struct spm *s, const char *p, size_t n, size_t *used, size_t *len)
{
	const char *rule;
	size_t k = added_longest(&s->user, p, n);

	if (k) {
		*used = *len = k;
		return p;
	}
	rule = charsmap_find(&s->map, p, n, false, used);
	if (rule) {
		*len = strlen(rule);
		return rule;
	}
	if (utf8_is_cont(*p)) { /* behind a rule that ended inside a character */
		*used = 1;
		*len = 3;
		return "\xEF\xBF\xBD";
	}
	*used = *len = utf8_len((unsigned char)*p);
	return p;
}

static void put_space(const struct spm *s, struct astr *out, uint32_t b, uint32_t e)
{
	if (s->rules.escape)
		astr_put(out, SPACE, SPACE_LEN, b, e);
	else
		astr_put(out, " ", 1, b, e);
}

static void put_part(const struct spm *s, struct astr *out, const char *p, size_t n, uint32_t b, uint32_t e)
{
	size_t from = 0;

	for (size_t i = 0; i < n && s->rules.escape; i++)
		if (p[i] == ' ') {
			astr_put(out, p + from, i - from, b, e);
			put_space(s, out, b, e);
			from = i + 1;
		}
	astr_put(out, p + from, n - from, b, e);
}

static void cut_trailing(const struct spm *s, struct astr *a)
{
	const char *mark = s->rules.escape ? SPACE : " ";
	size_t w = strlen(mark);

	while (a->len >= w && !memcmp(a->s + a->len - w, mark, w))
		a->len -= w;
}

/* text[off..end) into out. */
static void normalise(const struct spm *s, const char *text, size_t off, size_t end, struct astr *out)
{
	size_t i = off, used, len;
	bool after_space = s->rules.remove_extra;
	struct astr in = { 0 };
	const char *p;

	astr_borrow(&in, text, end, 0);
	astr_start(out);
	while (i < end && s->rules.remove_extra) {
		p = next_part(s, text + i, end - i, &used, &len);
		if (len != 1 || *p != ' ')
			break;
		i += used;
	}
	if (i == end)
		return;
	if (s->rules.dummy_prefix && !s->rules.suffix)
		put_space(s, out, (uint32_t)i, (uint32_t)i);
	for (; i < end; i += used) {
		for (used = 0; i + used < end && s->plain[(unsigned char)text[i + used]]; used++)
			;
		if (used && !utf8_is_cont(text[i])) {
			astr_copy(out, &in, i, used);
			after_space = false;
			continue;
		}
		p = next_part(s, text + i, end - i, &used, &len);
		while (after_space && len && *p == ' ') {
			p++;
			len--;
		}
		if (!len)
			continue;
		put_part(s, out, p, len, (uint32_t)i, (uint32_t)(i + used));
		after_space = s->rules.remove_extra && p[len - 1] == ' ';
	}
	if (s->rules.remove_extra)
		cut_trailing(s, out);
	if (s->rules.dummy_prefix && s->rules.suffix)
		put_space(s, out, (uint32_t)end, (uint32_t)end);
}

/* --- encoding --- */

/* One token of the normalised text a[b, e) to the output. */
static void put_token(const struct spm *s, const struct astr *a, int32_t id, size_t b, size_t e, bool *after_unk, struct tok_out *out)
{
	bool unk = id == s->unk;

	if (unk && s->byte_fallback)
		for (size_t i = b; i < e; i++)
			tok_out_add(out, s->byte_id[(unsigned char)a->s[i]], astr_begin(a, i), astr_end(a, i));
	else if (unk && *after_unk)
		out->end[out->n - 1] = astr_end(a, e - 1);
	else
		tok_out_add(out, id, astr_begin(a, b), astr_end(a, e - 1));
	*after_unk = unk;
}

/* A piece that is not used falls into the halves that made it. */
static void put_merged(const struct spm *s, const struct spm_mem *m, struct mtok t, bool *after_unk, struct tok_out *out)
{
	size_t half;

	while (t.id < (int32_t)s->n && s->unused[t.id] && (half = bpe_trace(m->bpe, t.id)) != 0) {
		struct mtok left = { vocab_find(&s->symbols, m->text.s + t.b, half), t.b, t.b + (uint32_t)half };

		put_merged(s, m, left, after_unk, out);
		t.b += (uint32_t)half;
		t.id = vocab_find(&s->symbols, m->text.s + t.b, t.e - t.b);
	}
	if (t.id >= (int32_t)s->n || t.id < 0) /* a character that is only a part of pieces */
		t.id = s->unk;
	put_token(s, &m->text, s->name_of[t.id], t.b, t.e, after_unk, out);
}

static int encode_bpe(const struct spm *s, struct spm_mem *m, bool *after_unk, struct tok_out *out)
{
	const struct astr *a = &m->text;

	m->pieces.n = 0;
	added_split(&s->user, &s->user.raw, a->s, a->len, &m->pieces);
	for (size_t i = 0; i < m->pieces.n; i++) {
		struct piece x = m->pieces.p[i];

		if (x.id >= 0) {
			put_token(s, a, x.id, x.off, x.off + x.len, after_unk, out);
			continue;
		}
		m->toks.n = 0;
		bpe_encode(s->bpe, m->bpe, a->s + x.off, x.len, &m->toks);
		for (size_t k = 0; k < m->toks.n; k++) {
			struct mtok t = m->toks.t[k];

			t.b += (uint32_t)x.off;
			t.e += (uint32_t)x.off;
			put_merged(s, m, t, after_unk, out);
		}
	}
	return 0;
}

/* Text as it is, its spaces being marks, between the user-defined symbols. */
static void encode_marked(const struct spm *s, struct spm_mem *m, const char *text, size_t len, uint32_t base, struct tok_out *out)
{
	bool prefix = s->rules.dummy_prefix;

	m->pieces.n = 0;
	added_split(&s->user, &s->user.raw, text, len, &m->pieces);
	if (prefix && m->pieces.p[0].id >= 0) { /* the mark before the text stands alone */
		bpe_encode_marked(s->bpe, m->bpe, text, 0, true, 0, base, out);
		prefix = false;
	}
	for (size_t i = 0; i < m->pieces.n; i++, prefix = false) {
		struct piece x = m->pieces.p[i];
		uint32_t at = base + (uint32_t)x.off;

		if (x.id >= 0)
			tok_out_add(out, x.id, at, at + (uint32_t)x.len);
		else
			bpe_encode_marked(s->bpe, m->bpe, text + x.off, x.len, prefix, 0, at, out);
	}
}

int spm_encode(const struct spm *s, struct spm_mem *m, const char *text, size_t off, size_t len, struct tok_out *out, struct err *e)
{
	bool after_unk = false;

	if (s->marked) {
		if (len)
			encode_marked(s, m, text + off, len, (uint32_t)off, out);
		return 0;
	}
	normalise(s, text, off, off + len, &m->text);
	if (!m->text.len)
		return 0;
	if (s->bpe)
		return encode_bpe(s, m, &after_unk, out);
	m->toks.n = 0;
	if (unigram_encode(s->unigram, m->unigram, m->text.s, m->text.len, &m->toks, e))
		return -1;
	for (size_t k = 0; k < m->toks.n; k++)
		put_token(s, &m->text, m->toks.t[k].id, m->toks.t[k].b, m->toks.t[k].e, &after_unk, out);
	return 0;
}

/* --- decoding --- */

enum spm_type spm_type_of(const struct spm *s, int32_t id)
{
	return id < 0 || (size_t)id >= s->n ? SPM_UNUSED : (enum spm_type)s->type[id];
}

/* Bytes that are no UTF-8 become U+FFFD one by one; an unfinished end stays for
 * more to come. */
static void put_bytes(struct sb *bytes, bool last, struct sb *out)
{
	const char *p = sb_str(bytes);
	size_t n = bytes->len, i = 0;

	while (i < n) {
		size_t ok = utf8_valid_len(p + i, n - i);

		sb_add(out, p + i, ok);
		i += ok;
		if (i < n && last && utf8_complete_len(p + i, n - i) == 0) {
			sb_add(out, p + i, n - i);
			break;
		}
		if (i < n) {
			sb_adds(out, "\xEF\xBF\xBD");
			i++;
		}
	}
	sb_reset(bytes);
}

/* A piece with its marks as spaces; at the start without the dummy prefix. */
static void put_piece(const struct spm *s, const char *p, size_t n, bool *start, struct sb *out)
{
	const char *end = p + n, *mark;

	if (*start && (s->rules.dummy_prefix || s->rules.remove_extra) && n >= SPACE_LEN && !memcmp(p, SPACE, SPACE_LEN)) {
		p += SPACE_LEN;
		if (!s->rules.remove_extra)
			*start = false; /* only one is taken */
	}
	for (; (mark = memmem(p, (size_t)(end - p), SPACE, SPACE_LEN)) != NULL; p = mark + SPACE_LEN) {
		sb_add(out, p, (size_t)(mark - p));
		sb_addc(out, ' ');
	}
	sb_add(out, p, (size_t)(end - p));
}

void spm_decode(const struct spm *s, const int32_t *ids, size_t n, bool control, struct sb *out)
{
	struct sb bytes = SB_INIT;
	size_t begin = out->len;
	bool start = true;

	for (size_t i = 0; i < n; i++) {
		enum spm_type type = spm_type_of(s, ids[i]);
		size_t at;

		if (ids[i] < 0 || (size_t)ids[i] >= s->n)
			continue;
		if (type == SPM_BYTE) {
			struct spm_piece p = { s->pool + s->off[ids[i]], s->len[ids[i]], 0, type };

			sb_addc(&bytes, (char)byte_of(&p));
			continue;
		}
		put_bytes(&bytes, false, out);
		start &= out->len == begin;
		at = out->len;
		if (type == SPM_UNKNOWN) {
			sb_add(out, s->unk_surface, s->unk_surface_len);
		} else if (type != SPM_CONTROL) {
			put_piece(s, s->pool + s->off[ids[i]], s->len[ids[i]], &start, out);
		} else if (control) { /* text begins anew behind it, as it was encoded */
			sb_add(out, s->pool + s->off[ids[i]], s->len[ids[i]]);
			start = true;
			begin = out->len;
			continue;
		}
		start &= out->len == at;
	}
	put_bytes(&bytes, true, out);
	sb_release(&bytes);
}

/* Making and running recipes. What the engine may do with a mark while one is
 * made is tmpl_hole.c's. */
#include <stdlib.h>

#include "base/xalloc.h"
#include "text/tmpl_recipe.h"

#define MARK "\xf4\x8f\xbf\xbf" /* U+10FFFF, no character; four letters behind it say which slice */

/* --- marks --- */
void tmpl_mark(size_t k, char out[TMPL_MARK_BYTES])
{
	memcpy(out, MARK, 4);
	for (int i = 0; i < 4; i++)
		out[4 + i] = (char)('A' + (k >> (12 - 4 * i) & 15));
}

bool tmpl_has_mark(const char *s, size_t n)
{
	return n >= 4 && memmem(s, n, MARK, 4);
}

size_t mark_at(const char *s, size_t n)
{
	size_t k = 0;

	if (n < TMPL_MARK_BYTES || memcmp(s, MARK, 4))
		return SIZE_MAX;
	for (int i = 4; i < TMPL_MARK_BYTES; i++) {
		if (s[i] < 'A' || s[i] > 'P')
			return SIZE_MAX;
		k = k << 4 | (size_t)(s[i] - 'A');
	}
	return k;
}

/* --- slices and guards --- */
uint32_t recipe_keep(struct tmpl_recipe *p, const char *s, size_t n)
{
	size_t at = p->text.len;

	sb_add(&p->text, s, n);
	return (uint32_t)at;
}

struct str slice_cut(const struct tmpl_recipe *p, const struct slice *x, struct str s)
{
	unsigned char first = (unsigned char)s.s[0], last = (unsigned char)s.s[s.n - 1];

	/* most texts begin and end with a plain character */
	if ((x->left && first - 0x21u >= 0x5e) || (x->right && last - 0x21u >= 0x5e) || !x->space)
		uni_strip(&s.s, &s.n, x->left, x->right, p->text.s + x->chars, x->n_chars, x->space);
	return s;
}

bool guard_holds(const struct guard *g, const char *what, struct str s)
{
	switch (g->kind) {
	case GUARD_STARTS:
		return g->n <= s.n && !memcmp(s.s, what, g->n);
	case GUARD_ENDS:
		return g->n <= s.n && !memcmp(s.s + s.n - g->n, what, g->n);
	case GUARD_EQUALS:
		return g->n == s.n && !memcmp(s.s, what, g->n);
	default:
		return g->n <= s.n && (!g->n || memmem(s.s, s.n, what, g->n));
	}
}

/* --- making --- */
static void add_piece(struct tmpl_recipe *p, uint32_t slice, const char *s, size_t n)
{
	p->piece = xgrow(p->piece, &p->cap_piece, p->n_piece + 1, sizeof(*p->piece));
	p->piece[p->n_piece++] = (struct recipe_piece){ slice, slice == NO_SLICE ? recipe_keep(p, s, n) : 0, (uint32_t)n };
	p->n_const += slice == NO_SLICE ? n : 0;
}

/* The next place from at on where a generation block begins or ends. */
static size_t next_edge(const struct tmpl_render *r, size_t at)
{
	size_t edge = r->text.len;

	for (size_t i = 0; i < r->n_gen; i++) {
		if (r->gen[i].begin > at && r->gen[i].begin < edge)
			edge = r->gen[i].begin;
		if (r->gen[i].end > at && r->gen[i].end < edge)
			edge = r->gen[i].end;
	}
	return edge;
}

static void mark_edges(struct tmpl_recipe *p, const struct tmpl_render *r, size_t at)
{
	for (size_t i = 0; i < r->n_gen; i++) {
		if (r->gen[i].begin == at)
			p->gen[i].begin = p->n_piece;
		if (r->gen[i].end == at)
			p->gen[i].end = p->n_piece;
	}
}

/* The text with marks into pieces, parted at the edges of generation blocks as well. */
static bool cut_text(struct tmpl_recipe *p, const struct tmpl_render *r)
{
	const char *s = sb_str(&r->text);
	size_t n = r->text.len, at = 0;

	p->n_gen = r->n_gen;
	p->gen = xcalloc(r->n_gen + 1, sizeof(*p->gen));
	for (size_t i = 0; i < r->n_gen; i++)
		if (r->gen[i].nested) /* its end is no place in the text */
			return false;
	while (at < n) {
		size_t end = next_edge(r, at), k = mark_at(s + at, n - at);
		const char *hit = memmem(s + at, end - at, MARK, 4);

		mark_edges(p, r, at);
		if (hit == s + at && (k >= p->n_slice || end < at + TMPL_MARK_BYTES))
			return false; /* not one of ours, or torn */
		if (hit == s + at) {
			add_piece(p, (uint32_t)k, NULL, 0);
			at += TMPL_MARK_BYTES;
			continue;
		}
		end = hit ? (size_t)(hit - s) : end;
		add_piece(p, NO_SLICE, s + at, end - at);
		at = end;
	}
	mark_edges(p, r, n);
	return true;
}

/* Only slices that are printed or asked about are cut at each run. */
static void mark_needed(struct tmpl_recipe *p)
{
	for (size_t i = 0; i < p->n_piece; i++)
		if (p->piece[i].slice != NO_SLICE)
			p->slice[p->piece[i].slice].needed = true;
	for (size_t i = 0; i < p->n_guard; i++)
		p->slice[p->guard[i].slice].needed = true;
	for (size_t i = p->n_slice; i-- > p->n_holes;)
		if (p->slice[i].needed)
			p->slice[p->slice[i].of].needed = true;
}

struct tmpl_recipe *tmpl_recipe_new(const struct tmpl *t, const struct json *vars, const struct tmpl_watch *holes, size_t n_holes, int64_t now, struct tmpl_render *work)
{
	static const struct tmpl_limits limits = { .max_steps = 1000000, .max_output = 4 << 20 };
	struct tmpl_recipe *p = xcalloc(1, sizeof(*p));
	struct err e = ERR_INIT;

	p->n_holes = p->n_slice = n_holes;
	p->slice = xgrow(p->slice, &p->cap_slice, n_holes + 1, sizeof(*p->slice));
	p->val = xgrow(p->val, &p->cap_val, n_holes + 1, sizeof(*p->val));
	for (size_t i = 0; i < n_holes; i++) {
		p->slice[i] = (struct slice){ .of = (uint32_t)i, .hole = (uint32_t)i };
		p->val[i] = (struct str){ holes[i].s, holes[i].n };
	}
	work->watch = NULL;
	if (n_holes > TMPL_MAX_HOLES || t->has_mark || tmpl_render_marks(t, vars, now, &limits, p, work, &e) || p->looked || !cut_text(p, work)) {
		tmpl_recipe_free(p);
		return NULL;
	}
	mark_needed(p);
	return p;
}

void tmpl_recipe_free(struct tmpl_recipe *p)
{
	if (!p)
		return;
	free(p->slice);
	free(p->val);
	free(p->guard);
	free(p->piece);
	free(p->gen);
	sb_release(&p->text);
	free(p);
}

size_t tmpl_recipe_bytes(const struct tmpl_recipe *p)
{
	return sizeof(*p) + p->cap_slice * sizeof(*p->slice) + p->cap_val * sizeof(*p->val) + p->cap_guard * sizeof(*p->guard) +
	       p->cap_piece * sizeof(*p->piece) + (p->n_gen + 1) * sizeof(*p->gen) + p->text.cap;
}

/* --- running --- */
static size_t cut_slices(struct tmpl_recipe *p, const struct tmpl_watch *holes)
{
	for (size_t i = 0; i < p->n_holes; i++)
		p->val[i] = (struct str){ holes[i].s, holes[i].n };
	for (size_t i = p->n_holes; i < p->n_slice; i++)
		if (p->slice[i].needed)
			p->val[i] = slice_cut(p, &p->slice[i], p->val[p->slice[i].of]);
	for (size_t i = 0; i < p->n_guard; i++)
		if (guard_holds(&p->guard[i], p->text.s + p->guard[i].at, p->val[p->guard[i].slice]) != p->guard[i].yes)
			return SIZE_MAX;
	size_t n = p->n_const;
	for (size_t i = 0; i < p->n_piece; i++)
		n += p->piece[i].slice == NO_SLICE ? 0 : p->val[p->piece[i].slice].n;
	return n;
}

bool tmpl_recipe_run(struct tmpl_recipe *p, struct tmpl_watch *holes, struct tmpl_render *out)
{
	size_t n = cut_slices(p, holes);

	if (n == SIZE_MAX)
		return false;
	sb_reset(&out->text);
	sb_grow(&out->text, n);
	for (size_t i = 0; i < p->n_holes; i++)
		holes[i].begin = holes[i].end = SIZE_MAX;
	char *at = out->text.s;
	const char *start = at;
	for (size_t i = 0; i < p->n_piece; i++) {
		struct recipe_piece *x = &p->piece[i];

		x->begin = (size_t)(at - start);
		if (x->slice == NO_SLICE) {
			memcpy(at, p->text.s + x->at, x->n);
			at += x->n;
			continue;
		}
		struct str s = p->val[x->slice];
		struct tmpl_watch *h = &holes[p->slice[x->slice].hole];
		memcpy(at, s.s, s.n);
		at += s.n;
		if (h->begin == SIZE_MAX)
			h->begin = x->begin;
		h->end = (size_t)(at - start);
	}
	*at = 0;
	out->text.len = n;
	out->why = TMPL_OK;
	out->n_gen = 0;
	out->gen = xgrow(out->gen, &out->cap_gen, p->n_gen, sizeof(*out->gen));
	for (; out->n_gen < p->n_gen; out->n_gen++) {
		struct recipe_gen g = p->gen[out->n_gen];

		out->gen[out->n_gen] = (struct tmpl_span){ g.begin < p->n_piece ? p->piece[g.begin].begin : n,
			g.end < p->n_piece ? p->piece[g.end].begin : n, SIZE_MAX, false };
	}
	return true;
}

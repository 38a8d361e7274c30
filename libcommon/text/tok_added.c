/* Added tokens: reading, ids, and the matcher. */
#include "text/tok_added.h"

#include <stdlib.h>
#include <string.h>

#include "base/xalloc.h"
#include "text/tok_uni.h"
#include "text/utf8.h"

void added_release(struct added *a)
{
	for (size_t i = 0; i < a->n; i++) {
		free(a->t[i].text);
		free(a->t[i].shown);
	}
	free(a->t);
	free(a->by_id);
	vocab_release(&a->names);
	free(a->raw.nodes);
	free(a->norm.nodes);
	memset(a, 0, sizeof(*a));
}

const struct added_token *added_by_id(const struct added *a, int32_t id)
{
	return id >= 0 && id < a->n_ids && a->by_id[id] >= 0 ? &a->t[a->by_id[id]] : NULL;
}

const struct added_token *added_by_text(const struct added *a, const char *s, size_t n)
{
	int32_t i = vocab_find(&a->names, s, n);

	return i < 0 ? NULL : &a->t[i];
}

/* --- the trie --- */

static int32_t new_node(struct added_set *s, unsigned char byte)
{
	if (s->n == s->cap)
		s->nodes = xgrow(s->nodes, &s->cap, s->n + 1, sizeof(*s->nodes));
	s->nodes[s->n] = (struct added_node){ -1, -1, -1, byte };
	return (int32_t)s->n++;
}

static void set_add(struct added_set *s, const char *text, size_t n, int32_t tok)
{
	int32_t at = 0, c;

	if (!n)
		return;
	if (!s->n)
		new_node(s, 0);
	s->n_first += !s->first[(unsigned char)text[0]];
	s->any = (unsigned char)text[0];
	s->first[s->any] = true;
	for (size_t i = 0; i < n; i++, at = c) {
		unsigned char b = (unsigned char)text[i];

		for (c = s->nodes[at].child; c >= 0 && s->nodes[c].byte != b; c = s->nodes[c].next)
			;
		if (c < 0) {
			c = new_node(s, b);
			s->nodes[c].next = s->nodes[at].child;
			s->nodes[at].child = c;
		}
	}
	if (s->nodes[at].tok < 0) /* of equal texts the first one stands */
		s->nodes[at].tok = tok;
}

/* The longest token at s[0..n); its length in *len, or -1. */
static int32_t longest(const struct added_set *set, const char *s, size_t n, size_t *len)
{
	int32_t at = 0, best = -1, c;

	for (size_t i = 0; i < n; i++, at = c) {
		for (c = set->nodes[at].child; c >= 0 && set->nodes[c].byte != (unsigned char)s[i]; c = set->nodes[c].next)
			;
		if (c < 0)
			break;
		if (set->nodes[c].tok >= 0) {
			best = set->nodes[c].tok;
			*len = i + 1;
		}
	}
	return best;
}

size_t added_longest(const struct added *a, const char *s, size_t n)
{
	size_t len = 0;

	if (!n || !a->raw.n || !a->raw.first[(unsigned char)*s])
		return 0;
	return longest(&a->raw, s, n, &len) < 0 ? 0 : len;
}

/* --- reading --- */

static int put(struct added *a, struct added_token t, const char *s, size_t n, struct err *e)
{
	t.text = xmemdup0(s, n);
	t.len = n;
	t.shown = xmemdup0(s, n);
	t.shown_len = n;
	a->n_ids = t.id >= a->n_ids ? t.id + 1 : a->n_ids;
	a->t[a->n++] = t;
	return vocab_add(&a->names, t.text, t.len, (int64_t)a->n - 1, e);
}

static int load_token(struct added *a, const struct json *v, const struct vocab *vocab, struct err *e)
{
	struct added_token t = { 0 };
	const struct json *c = json_get(v, "content");

	if (!json_is(c, JSON_STR) || !json_get_bool(v, "special", false, &t.special) || !json_get_bool(v, "lstrip", false, &t.lstrip) ||
	    !json_get_bool(v, "normalized", !t.special, &t.normalized) || !json_get_bool(v, "rstrip", false, &t.rstrip) ||
	    !json_get_bool(v, "single_word", false, &t.single_word))
		return err_set(e, LP_DATA, "an added token is not an object with content and flags");
	if (!c->n || added_by_text(a, c->s, c->n))
		return 0;
	t.id = vocab_find(vocab, c->s, c->n);
	if (t.id < 0) {
		t.id = a->n_ids > (int32_t)vocab->n_strings ? a->n_ids : (int32_t)vocab->n_strings;
	}
	return put(a, t, c->s, c->n, e);
}

int added_init(struct added *a, const uint8_t *uni, size_t max, struct err *e)
{
	memset(a, 0, sizeof(*a));
	a->uni = uni;
	a->t = lp_try_alloc(max + 1, sizeof(*a->t), "added tokens", e);
	return a->t ? 0 : -1;
}

int added_put(struct added *a, const char *s, size_t n, int32_t id, bool special, struct err *e)
{
	struct added_token t = { .id = id, .special = special };

	if (id < 0 || id >= VOCAB_MAX_ID)
		return err_set(e, LP_DATA, "token id %d is not within 0..%d", id, VOCAB_MAX_ID - 1);
	return !n || added_by_text(a, s, n) ? 0 : put(a, t, s, n, e);
}

void added_match(struct added *a)
{
	for (size_t i = 0; i < a->n; i++)
		set_add(&a->raw, a->t[i].text, a->t[i].len, (int32_t)i);
}

void added_index(struct added *a)
{
	a->by_id = xcalloc((size_t)a->n_ids + 1, sizeof(*a->by_id));
	memset(a->by_id, 0xFF, ((size_t)a->n_ids + 1) * sizeof(*a->by_id));
	for (size_t i = 0; i < a->n; i++) /* of equal ids the last one stands */
		a->by_id[a->t[i].id] = (int32_t)i;
}

static int build_sets(struct added *a, const struct tok_norm *norm, struct err *e)
{
	struct astr s = { 0 }, tmp = { 0 };
	struct tok_re_mem *m = tok_re_mem_new();
	int rc = m ? 0 : err_set(e, LP_DEVICE, "out of memory for patterns");

	for (int special = 1; special >= 0 && !rc; special--) /* special ones come first */
		for (size_t i = 0; i < a->n && !rc; i++) {
			struct added_token *t = &a->t[i];

			if (t->special != special)
				continue;
			if (!t->normalized) {
				set_add(&a->raw, t->text, t->len, (int32_t)i);
				continue;
			}
			astr_borrow(&s, t->text, t->len, 0);
			rc = tok_norm_apply(norm, m, &s, &tmp, e);
			if (rc)
				break;
			set_add(&a->norm, s.s, s.len, (int32_t)i);
			free(t->shown);
			t->shown = xmemdup0(s.s, s.len);
			t->shown_len = s.len;
		}
	astr_release(&s);
	astr_release(&tmp);
	tok_re_mem_free(m);
	return rc;
}

int added_load(struct added *a, const struct json *list, const struct vocab *v, const struct tok_norm *norm, const uint8_t *uni, struct err *e)
{
	memset(a, 0, sizeof(*a));
	if (!list || list->type == JSON_NULL)
		return 0;
	if (list->type != JSON_ARR || list->n > 100000)
		return err_set(e, LP_DATA, "added_tokens is not a list of at most 100000");
	if (added_init(a, uni, list->n, e))
		return -1;
	for (uint32_t i = 0; i < list->n; i++)
		if (load_token(a, &list->items[i], v, e))
			return -1;
	added_index(a);
	return build_sets(a, norm, e);
}

/* --- matching --- */

static bool word_before(const struct added *a, const char *s, size_t i)
{
	unsigned w;

	return i && uni_is_word_rust(a->uni, utf8_get(s + utf8_prev(s, i), &w));
}

static bool word_after(const struct added *a, const char *s, size_t i, size_t n)
{
	unsigned w;

	return i < n && uni_is_word_rust(a->uni, utf8_get(s + i, &w));
}

/* The next byte from i on that may begin a token, or n. */
static inline size_t next_first(const struct added_set *set, const char *s, size_t i, size_t n)
{
	const char *at;

	if (set->n_first == 1) {
		at = memchr(s + i, set->any, n - i);
		return at ? (size_t)(at - s) : n;
	}
	while (i < n && !set->first[(unsigned char)s[i]])
		i++;
	return i;
}

void added_split(const struct added *a, const struct added_set *set, const char *s, size_t n, struct pieces *out)
{
	size_t done = 0, i = 0, len = 0;
	unsigned w;

	while (set->n && i < n) {
		size_t b, end;
		int32_t k = -1;

		i = next_first(set, s, i, n);
		if (i < n)
			k = longest(set, s + i, n - i, &len);
		if (k < 0) {
			i++;
			continue;
		}
		b = i;
		i = end = i + len;
		if (a->t[k].single_word && (word_before(a, s, b) || word_after(a, s, end, n)))
			continue;
		if (a->t[k].lstrip)
			while (b > done && uni_is_space(utf8_get(s + utf8_prev(s, b), &w)))
				b = utf8_prev(s, b);
		if (a->t[k].rstrip)
			while (end < n && uni_is_space(utf8_get(s + end, &w)))
				end += w;
		if (done < b)
			pieces_add(out, done, b - done, -1);
		pieces_add(out, b, end - b, a->t[k].id);
		done = end;
	}
	if (done < n)
		pieces_add(out, done, n - done, -1);
}

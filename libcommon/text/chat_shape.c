/* Renderings remembered by the shape of a conversation.
 *
 * Most templates only join and trim what messages say, so conversations that
 * differ in nothing but that share a recipe (tmpl_hole.h). A shape is all that the
 * template could see but the texts of messages: roles, further fields, tools,
 * options, how many there are. Its key holds these bytes themselves; two
 * shapes are one only when the keys are equal.
 *
 * A recipe is made when a shape comes a second time, is compared with the
 * engine's own rendering before it is kept, and again when it has been used 2, 4,
 * 8, ... times. Whatever is unusual (a blank text, very long ones, errors) is
 * left to the engine. Memory is bounded, whatever the records are. */
#include <stdlib.h>
#include <string.h>

#include "base/hash.h"
#include "base/xalloc.h"
#include "text/chat_impl.h"
#include "text/tmpl_hole.h"

enum { SETS = 256, WAYS = 4, VARIANTS = 4 };
#define MAX_KEY (64u << 10)
#define MAX_TEXT (4u << 20)   /* of all messages: the engine's limits are far from here */
#define MAX_BYTES (32u << 20) /* of all recipes */

struct shape {
	uint64_t hash;
	char *key;     /* NULL: only seen, so far */
	size_t n_key;
	struct tmpl_recipe *recipe[VARIANTS]; /* they differ in how their guards are answered */
	uint32_t n_recipe, n_used, n_missed;
	bool hot;      /* used since another shape wanted its place */
};
struct chat_shapes {
	struct shape set[SETS][WAYS];
	size_t bytes;
	bool off;
	struct sb key;
	struct tmpl_watch *hole;
	uint32_t *msg_of; /* the message of each hole */
	size_t n_hole, cap_hole, cap_msg_of;
	struct tmpl_render work, check;
	struct tmpl_watch *seen; /* of check */
	size_t cap_seen;
};

/* --- the key --- */
static inline char *room(struct sb *b, size_t n)
{
	if (b->cap - b->len <= n)
		sb_grow(b, n);
	return b->s + b->len;
}

/* Names and roles are short: two copies that may overlap, and no call. */
static inline void copy(char *to, const char *from, size_t n)
{
	if (n >= 8 && n <= 16) {
		memcpy(to, from, 8);
		memcpy(to + n - 8, from + n - 8, 8);
	} else if (n >= 4 && n < 8) {
		memcpy(to, from, 4);
		memcpy(to + n - 4, from + n - 4, 4);
	} else {
		memcpy(to, from, n);
	}
}

static inline void put(struct sb *b, char tag, const char *s, uint32_t n)
{
	char *p = room(b, n + 5u);

	*p = tag;
	memcpy(p + 1, &n, 4);
	b->len += 5;
	if (!s)
		return;
	copy(p + 5, s, n);
	b->len += n;
}

/* Each value says how long it is, so no two values have the same bytes. */
static void put_json(struct sb *b, const struct json *v)
{
	char tag = (char)('a' + v->type);

	switch (v->type) {
	case JSON_NULL:
		put(b, tag, NULL, 0);
		break;
	case JSON_BOOL:
		put(b, tag, NULL, v->b);
		break;
	case JSON_NUM: case JSON_STR:
		put(b, tag, v->s, v->n);
		break;
	case JSON_ARR:
		put(b, tag, NULL, v->n);
		for (uint32_t i = 0; i < v->n && b->len < MAX_KEY; i++)
			put_json(b, &v->items[i]);
		break;
	case JSON_OBJ:
		put(b, tag, NULL, v->n);
		for (uint32_t i = 0; i < v->n && b->len < MAX_KEY; i++) {
			put(b, 'k', v->members[i].key, v->members[i].key_len);
			put_json(b, &v->members[i].val);
		}
		break;
	}
}

/* The fields whose texts differ from record to record. */
static bool is_text_field(const struct json_member *m)
{
	if (m->val.type != JSON_STR || !m->val.n)
		return false;
	switch (m->key_len) {
	case 7:
		return !memcmp(m->key, "content", 7);
	case 8:
		return !memcmp(m->key, "thinking", 8);
	case 9:
		return !memcmp(m->key, "reasoning", 9);
	case 17:
		return !memcmp(m->key, "reasoning_content", 17);
	default:
		return false;
	}
}

/* Nothing but ASCII white space, or perhaps other space: not surely something else. */
static bool maybe_blank(const char *s, size_t n)
{
	for (size_t i = 0; i < n; i++)
		if ((unsigned char)s[i] - 0x21u < 0x5e)
			return false;
	return true;
}

static void add_hole(struct chat_shapes *x, const struct json *v, size_t msg)
{
	x->hole = xgrow(x->hole, &x->cap_hole, x->n_hole + 1, sizeof(*x->hole));
	x->msg_of = xgrow(x->msg_of, &x->cap_msg_of, x->n_hole + 1, sizeof(*x->msg_of));
	x->msg_of[x->n_hole] = (uint32_t)msg;
	x->hole[x->n_hole++] = (struct tmpl_watch){ v->s, v->n, SIZE_MAX, SIZE_MAX };
}

/* Holes become a tag in the key. False: not for recipes. */
static bool key_message(struct chat_shapes *x, const struct json *m, size_t i, size_t *bytes)
{
	put(&x->key, 'm', NULL, m->n);
	for (uint32_t k = 0; k < m->n; k++) {
		const struct json_member *f = &m->members[k];

		if (!is_text_field(f)) {
			put(&x->key, 'k', f->key, f->key_len);
			if (f->val.type == JSON_STR)
				put(&x->key, 'a' + JSON_STR, f->val.s, f->val.n);
			else
				put_json(&x->key, &f->val);
			continue;
		}
		if (maybe_blank(f->val.s, f->val.n))
			return false;
		put(&x->key, 'h', f->key, f->key_len);
		add_hole(x, &f->val, i);
		*bytes += f->val.n;
	}
	return x->key.len < MAX_KEY && *bytes < MAX_TEXT;
}

static bool make_key(struct chat_shapes *x, const struct chat_tmpl *t, const struct chat *c, const struct json *msgs, size_t n, bool gen,
                     const struct chat_render_opts *o)
{
	const struct json none = { .type = JSON_NULL };
	size_t bytes = 0;

	x->n_hole = 0;
	sb_reset(&x->key);
	put(&x->key, gen ? 'G' : 'g', t->hash, sizeof(t->hash));
	put(&x->key, 't', (const char *)&o->now, sizeof(o->now));
	put(&x->key, o->date_string ? 'D' : 'd', o->date_string, o->date_string ? (uint32_t)strlen(o->date_string) : 0);
	put_json(&x->key, o->extra ? o->extra : &none);
	put_json(&x->key, c->tools ? c->tools : &none);
	put_json(&x->key, c->documents ? c->documents : &none);
	put(&x->key, 'n', NULL, (uint32_t)n);
	for (size_t i = 0; i < n; i++)
		if (msgs[i].type != JSON_OBJ || !key_message(x, &msgs[i], i, &bytes))
			return false;
	return x->key.len < MAX_KEY && x->n_hole <= TMPL_MAX_HOLES;
}

/* --- the table --- */
static void forget(struct chat_shapes *x, struct shape *s)
{
	for (uint32_t i = 0; i < s->n_recipe; i++) {
		x->bytes -= tmpl_recipe_bytes(s->recipe[i]);
		tmpl_recipe_free(s->recipe[i]);
	}
	free(s->key);
	*s = (struct shape){ 0 };
}

static void forget_all(struct chat_shapes *x)
{
	for (size_t i = 0; i < SETS; i++)
		for (size_t k = 0; k < WAYS; k++)
			forget(x, &x->set[i][k]);
}

static struct shape *find(struct chat_shapes *x, uint64_t hash)
{
	struct shape *set = x->set[hash % SETS];

	for (size_t k = 0; k < WAYS; k++) {
		struct shape *s = &set[k];

		if (s->hash == hash && (!s->key || (s->n_key == x->key.len && !memcmp(s->key, x->key.s, s->n_key))))
			return s;
	}
	return NULL;
}

/* A place for a new shape: an unused one, or one that has not been used for long; NULL: not now. */
static struct shape *place(struct chat_shapes *x, uint64_t hash)
{
	struct shape *set = x->set[hash % SETS], *s = NULL;

	for (size_t k = 0; k < WAYS && !s; k++)
		if (!set[k].key && !set[k].hot)
			s = &set[k];
	for (size_t k = 0; k < WAYS && !s; k++)
		if (!set[k].hot)
			s = &set[k];
	for (size_t k = 0; k < WAYS; k++) /* the next one that asks finds more */
		set[k].hot = false;
	if (s) {
		forget(x, s);
		s->hash = hash;
		s->hot = true;
	}
	return s;
}

/* --- using and making recipes --- */
static void report_places(const struct chat_shapes *x, struct tmpl_render *out)
{
	for (size_t i = 0; i < (out->watch ? out->n_watch : 0); i++)
		out->watch[i].begin = out->watch[i].end = SIZE_MAX;
	for (size_t k = 0; out->watch && k < x->n_hole; k++) {
		struct tmpl_watch *w = x->msg_of[k] < out->n_watch ? &out->watch[x->msg_of[k]] : NULL;

		if (w && w->n && w->s == x->hole[k].s && w->n == x->hole[k].n) {
			w->begin = x->hole[k].begin;
			w->end = x->hole[k].end;
		}
	}
}

static bool use(struct chat_shapes *x, struct tmpl_recipe *p, struct tmpl_render *out)
{
	if (!tmpl_recipe_run(p, x->hole, out))
		return false;
	report_places(x, out);
	return true;
}

static bool agree(const struct tmpl_render *a, const struct tmpl_render *b)
{
	if (a->text.len != b->text.len || memcmp(sb_str(&a->text), sb_str(&b->text), a->text.len) || a->n_gen != b->n_gen)
		return false;
	for (size_t i = 0; i < a->n_gen; i++)
		if (a->gen[i].begin != b->gen[i].begin || a->gen[i].end != b->gen[i].end || a->gen[i].nested != b->gen[i].nested)
			return false;
	for (size_t i = 0; i < (a->watch ? a->n_watch : 0); i++)
		if (a->watch[i].begin != b->watch[i].begin || a->watch[i].end != b->watch[i].end)
			return false;
	return true;
}

/* A second rendering beside out, that watches the same strings. */
static struct tmpl_render *beside(struct chat_shapes *x, const struct tmpl_render *out)
{
	size_t n = out->watch ? out->n_watch : 0;

	x->seen = xgrow(x->seen, &x->cap_seen, n + 1, sizeof(*x->seen));
	if (n)
		memcpy(x->seen, out->watch, n * sizeof(*x->seen));
	x->check.watch = out->watch ? x->seen : NULL;
	x->check.n_watch = n;
	return &x->check;
}

/* The messages with marks for their texts. */
static struct json *with_marks(const struct json *msgs, size_t n, struct arena *a)
{
	struct json *out = arena_alloc(a, (n + 1) * sizeof(*out));
	size_t k = 0;

	for (size_t i = 0; i < n; i++) {
		out[i] = msgs[i];
		out[i].members = arena_alloc(a, (msgs[i].n + 1) * sizeof(*out[i].members));
		for (uint32_t f = 0; f < msgs[i].n; f++) {
			struct json_member *m = &out[i].members[f];

			*m = msgs[i].members[f];
			if (!is_text_field(m))
				continue;
			char *mark = arena_alloc(a, TMPL_MARK_BYTES + 1);
			tmpl_mark(k++, mark);
			mark[TMPL_MARK_BYTES] = 0;
			m->val.s = mark;
			m->val.n = TMPL_MARK_BYTES;
		}
	}
	return out;
}

static bool make(struct chat_shapes *x, struct shape *s, const struct chat_tmpl *t, const struct chat *c, const struct json *msgs, size_t n, bool gen,
                 const struct chat_render_opts *o, struct arena *a, struct tmpl_render *out)
{
	struct json vars = chat_variables(t, c, with_marks(msgs, n, a), n, gen, o, a);
	struct tmpl_render *check = beside(x, out);

	if (tmpl_has_mark(x->key.s, x->key.len) || t->has_mark)
		return false;
	struct tmpl_recipe *p = tmpl_recipe_new(chat_engine(t, c), &vars, x->hole, x->n_hole, o->now, &x->work);
	if (!p)
		return false;
	if (!use(x, p, check) || !agree(check, out)) {
		tmpl_recipe_free(p);
		return false;
	}
	if (x->bytes + tmpl_recipe_bytes(p) + x->key.len > MAX_BYTES) {
		forget_all(x);
		tmpl_recipe_free(p);
		return false;
	}
	if (!s->key) {
		s->key = xmemdup0(x->key.s, x->key.len);
		s->n_key = x->key.len;
	}
	x->bytes += tmpl_recipe_bytes(p);
	s->recipe[s->n_recipe++] = p;
	return true;
}

static bool is_power_of_2(uint32_t n)
{
	return n > 1 && !(n & (n - 1));
}

int chat_render(const struct chat_tmpl *t, const struct chat *c, const struct json *msgs, size_t n, bool gen, const struct chat_render_opts *o,
                struct chat_scratch *s, struct tmpl_render *out, struct err *e)
{
	struct chat_shapes *x = s->shapes;

	if (!x || x->off || !make_key(x, t, c, msgs, n, gen, o))
		return chat_render_prefix(t, c, msgs, n, gen, o, &s->arena, out, e);
	uint64_t hash = xxh_u64(x->key.s, x->key.len, 0);
	struct shape *sh = find(x, hash);
	for (uint32_t i = 0; sh && i < sh->n_recipe; i++) {
		if (!use(x, sh->recipe[i], out))
			continue;
		sh->hot = true;
		if (!is_power_of_2(++sh->n_used))
			return 0;
		struct tmpl_render *check = beside(x, out);
		if (!chat_render_prefix(t, c, msgs, n, gen, o, &s->arena, check, e) && agree(check, out))
			return 0;
		x->off = true; /* a fault of ours: nothing that was remembered can be trusted */
		return chat_render_prefix(t, c, msgs, n, gen, o, &s->arena, out, e);
	}
	if (chat_render_prefix(t, c, msgs, n, gen, o, &s->arena, out, e))
		return -1;
	if (!sh && !(sh = place(x, hash)))
		return 0;
	sh->hot = true;
	if (is_power_of_2(++sh->n_missed) && sh->n_recipe < VARIANTS)
		make(x, sh, t, c, msgs, n, gen, o, &s->arena, out);
	return 0;
}

/* --- life --- */
struct chat_shapes *chat_shapes_new(void)
{
	return xcalloc(1, sizeof(struct chat_shapes));
}

void chat_shapes_free(struct chat_shapes *x)
{
	if (!x)
		return;
	forget_all(x);
	sb_release(&x->key);
	free(x->hole);
	free(x->msg_of);
	free(x->seen);
	tmpl_render_release(&x->work);
	tmpl_render_release(&x->check);
	free(x);
}

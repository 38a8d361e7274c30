/* A case's rendering repeated for other texts (text/tmpl_hole.h), against the
 * engine. Every string that messages hold under a name of prose becomes a hole;
 * the recipe is made from the case's own texts, then run on them and on texts
 * that templates are known to ask for, pieces of the template's own among them. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/xalloc.h"
#include "tests/conformance/cases.h"
#include "text/tmpl_hole.h"

enum { ROUNDS = 24, MAX_HOLES = 256 };

struct other {
	struct arena a;
	struct json vars; /* a copy of the case's, whose holes can be set */
	struct json *hole[MAX_HOLES];
	struct tmpl_watch own[MAX_HOLES], now[MAX_HOLES];
	size_t n;
	uint64_t seed;
};

static uint32_t draw(struct other *o, uint32_t below)
{
	o->seed = o->seed * 6364136223846793005u + 1442695040888963407u;
	return below ? (uint32_t)(o->seed >> 33) % below : 0;
}

static bool is_prose(const struct json_member *m)
{
	static const char *const names[] = { "content", "reasoning_content", "thinking", "reasoning", "text" };

	for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++)
		if (m->key_len == strlen(names[i]) && !memcmp(m->key, names[i], m->key_len))
			return true;
	return false;
}

static bool is_blank(const struct json *v)
{
	for (uint32_t i = 0; i < v->n; i++)
		if ((unsigned char)v->s[i] > 0x20 && (unsigned char)v->s[i] < 0x7f)
			return false;
	return true;
}

static struct json copy(struct other *o, const struct json *v)
{
	struct json out = *v;

	if (v->type == JSON_ARR) {
		out.items = arena_alloc(&o->a, (v->n + 1) * sizeof(*out.items));
		for (uint32_t i = 0; i < v->n; i++)
			out.items[i] = copy(o, &v->items[i]);
	} else if (v->type == JSON_OBJ) {
		out.members = arena_alloc(&o->a, (v->n + 1) * sizeof(*out.members));
		for (uint32_t i = 0; i < v->n; i++) {
			const struct json_member *m = &v->members[i];

			out.members[i] = *m;
			out.members[i].val = copy(o, &m->val);
			if (is_prose(m) && m->val.type == JSON_STR && !is_blank(&m->val) && o->n < MAX_HOLES) {
				o->own[o->n] = (struct tmpl_watch){ m->val.s, m->val.n, SIZE_MAX, SIZE_MAX };
				o->hole[o->n++] = &out.members[i].val;
			}
		}
	}
	return out;
}

static void set(struct json *v, const char *s, size_t n)
{
	v->s = s;
	v->n = (uint32_t)n;
}

/* A text for hole k: one that is known for trouble, a piece of the template, its own text with something at its ends. */
static void change(struct other *o, size_t k, const char *src, size_t n_src)
{
	static const char *const texts[] = { "x", " padded\n", "\n\nx", "<think>\nwhy\n</think>\n\nbecause", "</think>", "a</think>", "<think>", "nil", "None", "user",
		"\xc2\xa0x\xe3\x80\x80", "\xe6\x97\xa5\xe6\x9c\xac \xe2\x80\xa6", "{\"a\": [1, \"b\"]}", "<tool_response>1</tool_response>", "[TOOL_CALLS]", "\"q\" 'q' \\", "0", "/no_think", "<|im_end|>",
		"{{ x }}{% raw %}", "line\r\nline\r\n", "\x1cx\x1f", "&<>" };
	const struct tmpl_watch *own = &o->own[draw(o, 4) ? k : draw(o, (uint32_t)o->n)];
	const char *t = texts[draw(o, sizeof(texts) / sizeof(texts[0]))];
	size_t from = n_src ? draw(o, (uint32_t)n_src) : 0, len = draw(o, 12);
	struct sb b = SB_INIT;
	uint32_t how = draw(o, 6);

	while (from > 0 && ((unsigned char)src[from] & 0xc0) == 0x80)
		from--;
	len = len > n_src - from ? n_src - from : len;
	while (from + len < n_src && ((unsigned char)src[from + len] & 0xc0) == 0x80)
		len++;
	if (how == 0)
		sb_adds(&b, t);
	if (how == 1 || how == 2)
		sb_add(&b, src + from, len);
	if (how >= 2)
		sb_add(&b, own->s, own->n);
	if (how == 4)
		sb_add(&b, src + from, len);
	if (how == 5)
		sb_adds(&b, t);
	struct json v = { .type = JSON_STR, .n = (uint32_t)b.len, .s = sb_str(&b) };
	if (is_blank(&v))
		sb_addc(&b, 'y');
	o->now[k] = (struct tmpl_watch){ arena_strndup(&o->a, b.s, b.len), b.len, SIZE_MAX, SIZE_MAX };
	sb_release(&b);
}

static bool same(const struct tmpl_render *a, const struct tmpl_render *b)
{
	if (a->text.len != b->text.len || memcmp(sb_str(&a->text), sb_str(&b->text), a->text.len) || a->n_gen != b->n_gen)
		return false;
	for (size_t i = 0; i < a->n_gen; i++)
		if (a->gen[i].begin != b->gen[i].begin || a->gen[i].end != b->gen[i].end)
			return false;
	return true;
}

/* The recipe on the texts in now, and the engine on the same. */
static bool agrees(struct other *o, const struct tmpl *t, struct tmpl_recipe *p, int64_t now, struct tmpl_render *by_recipe, struct tmpl_render *by_engine,
                   size_t *n_run)
{
	struct err e = ERR_INIT;

	if (!tmpl_recipe_run(p, o->now, by_recipe))
		return true;
	++*n_run;
	for (size_t k = 0; k < o->n; k++)
		set(o->hole[k], o->now[k].s, o->now[k].n);
	return !tmpl_render(t, &o->vars, now, NULL, by_engine, &e) && same(by_recipe, by_engine);
}

bool case_recipes(const struct tmpl *t, const char *src, size_t n_src, const struct json *input, int64_t now, struct cases_result *n)
{
	struct other *o = xcalloc(1, sizeof(*o));
	struct tmpl_render a, b;
	struct tmpl_recipe *p = NULL;
	bool good = true;

	memset(&a, 0, sizeof(a));
	memset(&b, 0, sizeof(b));
	o->seed = n_src * 31 + input->n;
	o->vars = copy(o, input);
	for (size_t k = 0; k < o->n; k++) {
		char *mark = arena_alloc(&o->a, TMPL_MARK_BYTES + 1);

		tmpl_mark(k, mark);
		set(o->hole[k], mark, TMPL_MARK_BYTES);
	}
	for (int round = -1; round < ROUNDS && o->n && good; round++) {
		for (size_t k = 0; k < o->n; k++) {
			o->now[k] = o->own[k];
			if (round >= 0 && draw(o, 3))
				change(o, k, src, n_src);
		}
		if (round < 0 && !(p = tmpl_recipe_new(t, &o->vars, o->own, o->n, now, &a)))
			break;
		good = agrees(o, t, p, now, &a, &b, &n->repeated);
	}
	n->recipes += p != NULL;
	tmpl_recipe_free(p);
	tmpl_render_release(&a);
	tmpl_render_release(&b);
	arena_release(&o->a);
	free(o);
	return good;
}

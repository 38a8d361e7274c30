/* What may happen to a hole while a recipe is made (tmpl_hole.h).
 *
 * A hole is a string that holds a mark. It may be handed on, joined, printed
 * and stored by all of the engine, whose code does so without knowing. Whatever
 * could look at its bytes comes here first: builtins are let through by name
 * when their answer does not depend on what a string says, some are answered
 * and noted (strips as slices, questions as guards), and the rest ends the
 * recipe. What is not named here is refused.
 *
 * A hole is never empty nor blank, so that a string with a mark in it is true,
 * and stripping stops inside a mark at the latest. */
#include "base/xalloc.h"
#include "text/tmpl_recipe.h"

#define DEPTH 50

struct val hole_look(struct rt *r)
{
	r->holes->looked = true;
	return rt_fail(r, TMPL_LIMIT, "the template looks into a text");
}

/* --- is there a hole in a value? --- */
static bool in_json(struct rt *r, const struct json *j, int depth)
{
	bool yes = depth > DEPTH || rt_steps(r, 1);

	switch (j->type) {
	case JSON_STR:
		return tmpl_has_mark(j->s, j->n);
	case JSON_ARR:
		for (uint32_t i = 0; i < j->n && !yes; i++)
			yes = in_json(r, &j->items[i], depth + 1);
		return yes;
	case JSON_OBJ:
		for (uint32_t i = 0; i < j->n && !yes; i++)
			yes = in_json(r, &j->members[i].val, depth + 1);
		return yes;
	default:
		return false;
	}
}

static bool in_value(struct rt *r, struct val v, int depth)
{
	bool yes = depth > DEPTH || rt_steps(r, 1);
	const struct dict *d = v.t == V_DICT ? v.dict : v.t == V_VIEW ? v.view->d : NULL;

	switch (v.t) {
	case V_STR:
		return tmpl_has_mark(v.s, v.n);
	case V_JARR: case V_JOBJ:
		return in_json(r, v.j, depth);
	case V_LIST: case V_TUPLE:
		for (uint32_t i = 0; i < v.n && !yes; i++)
			yes = in_value(r, v.l[i], depth + 1);
		return yes;
	case V_DICT: case V_VIEW:
		for (uint32_t i = 0; i < d->n && !yes; i++)
			yes = in_value(r, d->p[i].k, depth + 1) || in_value(r, d->p[i].v, depth + 1);
		return yes;
	case V_ERR: case V_MISSING: case V_UNDEF: case V_NONE: case V_BOOL: case V_INT: case V_BIG: case V_FLOAT: case V_RANGE:
	case V_FUNC: case V_MACRO: case V_SELF: /* called, never looked into */
		return false;
	default:
		return true; /* generators, namespaces and the like: who knows */
	}
}

bool hole_in(struct rt *r, struct val v)
{
	return in_value(r, v, 0);
}

static bool in_args(struct rt *r, const struct args *a)
{
	for (uint32_t i = 0; i < a->n_pos; i++)
		if (hole_in(r, a->pos[i]))
			return true;
	for (uint32_t i = 0; i < a->n_kw; i++)
		if (hole_in(r, a->kw[i].key) || hole_in(r, a->kw[i].v))
			return true;
	return false;
}

static bool is_one_of(const char *name, const char *const *list)
{
	for (; *list; list++)
		if (!strcmp(*list, name))
			return true;
	return false;
}

/* --- slices --- */
static uint32_t add_slice(struct tmpl_recipe *p, struct slice x, const char *chars)
{
	for (size_t i = p->n_holes; i < p->n_slice; i++) {
		const struct slice *y = &p->slice[i];

		if (y->of == x.of && y->left == x.left && y->right == x.right && y->space == x.space && y->n_chars == x.n_chars &&
		    (!x.n_chars || !memcmp(p->text.s + y->chars, chars, x.n_chars)))
			return (uint32_t)i;
	}
	x.chars = recipe_keep(p, chars, x.n_chars);
	p->slice = xgrow(p->slice, &p->cap_slice, p->n_slice + 1, sizeof(*p->slice));
	p->val = xgrow(p->val, &p->cap_val, p->n_slice + 1, sizeof(*p->val));
	p->slice[p->n_slice] = x;
	p->val[p->n_slice] = slice_cut(p, &x, p->val[x.of]);
	return (uint32_t)p->n_slice++;
}

/* The mark at s becomes that of its slice, stripped. */
static void strip_mark(struct rt *r, char *s, bool left, bool right, struct val chars)
{
	struct tmpl_recipe *p = r->holes;
	size_t k = mark_at(s, TMPL_MARK_BYTES);
	bool space = chars.t != V_STR;

	if (k >= p->n_slice || p->n_slice >= 65536) {
		hole_look(r);
		return;
	}
	struct slice x = { .of = (uint32_t)k, .hole = p->slice[k].hole, .left = left, .right = right, .space = space, .n_chars = space ? 0 : chars.n };
	tmpl_mark(add_slice(p, x, space ? "" : chars.s), s);
}

/* Stripping white space, or some of it, ends at a mark or before. */
static struct val strip(struct rt *r, struct val self, struct val chars, bool left, bool right)
{
	const char *s = self.s;
	size_t n = self.n;
	bool space = chars.t == V_MISSING || chars.t == V_NONE;

	if (!space && (chars.t != V_STR || hole_in(r, chars)))
		return hole_look(r);
	for (const char *c = chars.s; !space && c < chars.s + chars.n;)
		if (!uni_is_space(uni_next(&c, chars.s + chars.n)))
			return hole_look(r);
	uni_strip(&s, &n, left, right, space ? NULL : chars.s, space ? 0 : chars.n, space);
	char *p = rt_alloc(r, n);
	if (!p)
		return val_err;
	memcpy(p, s, n);
	left = left && mark_at(p, n) != SIZE_MAX;
	right = right && n >= TMPL_MARK_BYTES && mark_at(p + n - TMPL_MARK_BYTES, TMPL_MARK_BYTES) != SIZE_MAX;
	if (n == TMPL_MARK_BYTES && (left || right)) {
		strip_mark(r, p, left, right, chars);
	} else {
		if (left)
			strip_mark(r, p, true, false, chars);
		if (right)
			strip_mark(r, p + n - TMPL_MARK_BYTES, false, true, chars);
	}
	struct val out = val_str(p, n);
	out.f = self.f;
	return r->holes->looked ? val_err : out;
}

/* --- guards --- */
/* Whether the string v, which is nothing but a hole, has what is asked; -1: it is more than a hole. */
static int ask(struct rt *r, enum guard_kind kind, struct val v, struct val what)
{
	struct tmpl_recipe *p = r->holes;
	size_t k = v.n == TMPL_MARK_BYTES ? mark_at(v.s, v.n) : SIZE_MAX;

	if (k >= p->n_slice || what.t != V_STR || hole_in(r, what)) {
		hole_look(r);
		return -1;
	}
	struct guard g = { .kind = kind, .slice = (uint32_t)k, .n = what.n };
	g.yes = guard_holds(&g, what.s, p->val[k]);
	for (size_t i = 0; i < p->n_guard; i++) /* asked before? */
		if (p->guard[i].kind == kind && p->guard[i].slice == g.slice && p->guard[i].n == g.n && !memcmp(p->text.s + p->guard[i].at, what.s, g.n))
			return g.yes;
	g.at = recipe_keep(p, what.s, what.n);
	p->guard = xgrow(p->guard, &p->cap_guard, p->n_guard + 1, sizeof(*p->guard));
	p->guard[p->n_guard++] = g;
	return g.yes;
}

static struct val answer(int yes, bool negate)
{
	return yes < 0 ? val_err : val_bool((yes == 1) != negate);
}

static struct val replaced(struct rt *r, struct val self, const struct args *a)
{
	int there = a->n_pos == 2 && !a->n_kw && a->pos[0].t == V_STR && a->pos[0].n && a->pos[1].t == V_STR ? ask(r, GUARD_CONTAINS, self, a->pos[0]) : 1;

	return there ? hole_look(r) : self;
}

static struct val parted(struct rt *r, struct val self, const struct args *a)
{
	int there = a->n_pos == 1 && !a->n_kw && a->pos[0].t == V_STR && a->pos[0].n ? ask(r, GUARD_CONTAINS, self, a->pos[0]) : 1;
	struct val *one = there ? NULL : rt_alloc(r, sizeof(*one));

	if (!one)
		return hole_look(r);
	*one = self;
	return val_list(one, 1);
}

/* --- the gates --- */
static struct val str_method(struct rt *r, const struct method *m, struct val self, const struct args *a)
{
	static const char *const strips[] = { "strip", "lstrip", "rstrip", NULL };
	bool one = a->n_pos == 1 && !a->n_kw;

	if (is_one_of(m->name, strips) && a->n_pos <= 1 && !a->n_kw)
		return strip(r, self, one ? a->pos[0] : val_missing, *m->name != 'r', *m->name != 'l');
	if (!strcmp(m->name, "startswith") && one)
		return answer(ask(r, GUARD_STARTS, self, a->pos[0]), false);
	if (!strcmp(m->name, "endswith") && one)
		return answer(ask(r, GUARD_ENDS, self, a->pos[0]), false);
	if (!strcmp(m->name, "replace"))
		return replaced(r, self, a);
	if (!strcmp(m->name, "split"))
		return parted(r, self, a);
	return hole_look(r);
}

struct val hole_method(struct rt *r, const struct method *m, struct val self, const struct args *a)
{
	static const char *const of_dict[] = { "get", "items", "keys", "values", "copy", NULL }, *const by_place[] = { "cycle", "next", "reset", NULL };
	bool args = in_args(r, a);

	if (is_type(self, T(V_LOOP) | T(V_CYCLER)))
		return !args || is_one_of(m->name, by_place) ? m->fn(r, self, a) : hole_look(r);
	if (!args && !hole_in(r, self))
		return m->fn(r, self, a);
	if (self.t == V_STR)
		return str_method(r, m, self, a);
	if (is_type(self, T_DICTS) && is_one_of(m->name, of_dict) && !(a->n_pos && hole_in(r, a->pos[0])))
		return m->fn(r, self, a);
	return hole_look(r);
}

struct val hole_filter(struct rt *r, const struct builtin *f, struct val v, const struct args *a)
{
	static const char *const any[] = { "default", "d", "string", "join", NULL };
	static const char *const of_items[] = { "list", "first", "last", "length", "count", "reverse", "items", "map", "select", "reject", "selectattr", "rejectattr", NULL };
	bool args = in_args(r, a);

	if (!args && !hole_in(r, v))
		return f->fn(r, v, a);
	if (!strcmp(f->name, "trim") && v.t == V_STR && a->n_pos <= 1 && !a->n_kw)
		return strip(r, v, a->n_pos ? a->pos[0] : val_missing, true, true);
	if (!strcmp(f->name, "replace") && v.t == V_STR)
		return replaced(r, v, a);
	if (is_one_of(f->name, any) && (v.t != V_STR || strcmp(f->name, "join")))
		return f->fn(r, v, a);
	return is_one_of(f->name, of_items) && v.t != V_STR && !args ? f->fn(r, v, a) : hole_look(r);
}

struct val hole_test(struct rt *r, const struct builtin *f, struct val v, const struct args *a)
{
	static const char *const of_type[] = { "defined", "undefined", "none", "boolean", "false", "true", "integer", "float", "string", "mapping", "number",
		"sequence", "iterable", "callable", NULL };
	static const char *const compared[] = { "in", "==", "eq", "equalto", "!=", "ne", ">", "gt", "greaterthan", "ge", ">=", "<", "lt", "lessthan", "<=", "le", NULL };

	if (is_one_of(f->name, of_type) || is_one_of(f->name, compared)) /* those compare by hole_compare */
		return f->fn(r, v, a);
	return in_args(r, a) || hole_in(r, v) ? hole_look(r) : f->fn(r, v, a);
}

struct val hole_call(struct rt *r, const struct builtin *f, const struct args *a)
{
	static const char *const any[] = { "dict", "namespace", "cycler", "joiner", NULL };

	return !in_args(r, a) || is_one_of(f->name, any) ? f->fn(r, val_none, a) : hole_look(r);
}

struct val hole_compare(struct rt *r, enum op op, struct val a, struct val b)
{
	const uint32_t plain = T_NUMS | T(V_NONE) | T(V_UNDEF);
	bool negate = op == OP_NE || op == OP_NOTIN;

	if (op == OP_EQ || op == OP_NE) {
		if (a.t == V_STR && b.t == V_STR)
			return answer(hole_in(r, b) ? ask(r, GUARD_EQUALS, b, a) : ask(r, GUARD_EQUALS, a, b), negate);
		if (a.t == V_STR || b.t == V_STR || is_type(a, plain) || is_type(b, plain)) /* of other types: not equal */
			return val_bool(negate);
		return hole_look(r);
	}
	if (op != OP_IN && op != OP_NOTIN)
		return hole_look(r);
	if (b.t == V_STR && a.t == V_STR)
		return answer(ask(r, GUARD_CONTAINS, b, a), negate);
	if (is_type(b, T_DICTS) && !hole_in(r, a)) { /* keys hold no marks */
		int c = val_contains(r, b, a);

		return answer(c, negate);
	}
	return hole_look(r);
}

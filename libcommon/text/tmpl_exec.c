/* Statements, macros and loops: a compiled template run over its variables. */
#include <stdlib.h>

#include "base/xalloc.h"
#include "text/tmpl_impl.h"

#define STACK_MAX (3u << 20) /* bytes of C stack that one rendering may use */

struct loop {
	const struct node *node;
	struct env *env;   /* recursive loops: where the loop was written */
	struct iter *it;
	struct val src;    /* what is iterated over */
	struct val before, cur, after, changed;
	bool has_after;
	int64_t index0, length; /* length -1: not known yet */
	int depth0;
};

int rt_enter(struct rt *r)
{
	char here;
	const char *at = &here;
	size_t used = (size_t)(r->stack > at ? r->stack - at : at - r->stack);

	if (++r->depth > r->max_depth || used > STACK_MAX) {
		rt_fail(r, TMPL_LIMIT, "maximum recursion depth exceeded (%d calls inside one another)", r->depth);
		return -1;
	}
	return rt_steps(r, 10);
}

void rt_leave(struct rt *r)
{
	r->depth--;
}

int rt_emit(struct rt *r, const char *s, size_t n)
{
	struct sb *out = r->out;

	if (out->len + n > r->max_output) {
		rt_fail(r, TMPL_LIMIT, "the text is longer than %zu MiB", r->max_output >> 20);
		return -1;
	}
	if (r->n_alias)
		watch_printed(r, s, n, out->len);
	if (out->cap - out->len > n && n) {
		memcpy(out->s + out->len, s, n);
		out->len += n;
		out->s[out->len] = 0;
	} else if (n) {
		sb_add(out, s, n);
	}
	return 0;
}

/* --- watched strings: told by address, since slices and strips share memory --- */
void watch_copied(struct rt *r, const char *to, const char *from, size_t n)
{
	uint32_t n_now = r->n_alias;

	for (uint32_t i = 0; i < n_now && r->n_alias < r->cap_alias; i++) {
		const struct alias *a = &r->alias[i];
		const char *lo = a->lo > from ? a->lo : from, *hi = a->hi < from + n ? a->hi : from + n;

		if (lo < hi)
			r->alias[r->n_alias++] = (struct alias){ to + (lo - from), to + (hi - from), a->watch };
	}
}

void watch_printed(struct rt *r, const char *s, size_t n, size_t at)
{
	for (uint32_t i = 0; i < r->n_alias; i++) {
		const struct alias *a = &r->alias[i];
		const char *lo = a->lo > s ? a->lo : s, *hi = a->hi < s + n ? a->hi : s + n;
		struct tmpl_watch *w = &r->render->watch[a->watch];

		if (lo >= hi)
			continue;
		if (w->begin == SIZE_MAX || at + (size_t)(lo - s) < w->begin)
			w->begin = at + (size_t)(lo - s);
		if (w->end == SIZE_MAX || at + (size_t)(hi - s) > w->end)
			w->end = at + (size_t)(hi - s);
	}
}

/* Output at [start, end) has become the string at to: what was seen there is seen in the string. */
static void watch_captured(struct rt *r, size_t start, const char *to)
{
	for (size_t k = 0; k < r->render->n_watch; k++) {
		struct tmpl_watch *w = &r->render->watch[k];

		if (w->begin == SIZE_MAX || w->end <= start)
			continue;
		if (w->begin >= start && r->n_alias < r->cap_alias)
			r->alias[r->n_alias++] = (struct alias){ to + (w->begin - start), to + (w->end - start), (uint32_t)k };
		/* the part before the capture, if any, is no longer known by itself: forget all */
		w->begin = w->end = SIZE_MAX;
	}
}

/* --- output that becomes a value instead --- */
void capture_begin(struct rt *r, struct capture *c)
{
	c->start = r->out->len;
	c->outer = r->captures++ == 0;
	if (c->outer)
		r->root_len = c->start;
}

static void capture_drop(struct rt *r, const struct capture *c)
{
	r->captures--;
	if (r->out->s) {
		r->out->len = c->start;
		r->out->s[c->start] = 0;
	}
}

struct val capture_end(struct rt *r, const struct capture *c)
{
	struct val v = rt_str(r, r->out->s ? r->out->s + c->start : "", r->out->len - c->start);

	if (r->n_alias && v.t != V_ERR)
		watch_captured(r, c->start, v.s);
	capture_drop(r, c);
	return r->autoescape ? markup(v) : v;
}

/* --- frames --- */
struct env *env_new(struct rt *r, const struct func *fn, struct env *up)
{
	struct env *e = r->free_env[fn->id];

	if (e)
		r->free_env[fn->id] = NULL;
	else if (!(e = rt_alloc(r, sizeof(*e) + fn->n_slots * sizeof(struct val))))
		return NULL;
	e->up = up;
	for (uint32_t i = 0; i < fn->n_slots; i++)
		e->v[i].t = V_MISSING;
	return e;
}

void env_drop(struct rt *r, const struct func *fn, struct env *e)
{
	if (!fn->captured)
		r->free_env[fn->id] = e;
}

void run_loads(struct rt *r, const struct loads *l)
{
	for (uint32_t i = 0; i < l->n; i++) {
		const struct load *x = &l->v[i];
		struct val v = val_missing;

		if (x->kind == LOAD_COPY && x->from.up == UP_CTX) {
			v = r->ctx[x->from.idx];
		} else if (x->kind == LOAD_COPY) {
			const struct env *e = r->env;

			for (uint32_t up = x->from.up; up > 0; up--)
				e = e->up;
			v = e->v[x->from.idx];
		}
		r->env->v[x->slot] = v;
	}
}

/* --- assignment --- */
static int ns_set(struct rt *r, struct ns *ns, struct val name, struct val v)
{
	if (name.n && name.s[0] == '_') {
		rt_fail(r, TMPL_SECURITY, "chat templates cannot store underscore-prefixed attributes on a namespace, but got '%.*s'", (int)name.n, name.s);
		return -1;
	}
	for (uint32_t i = 0; i < ns->n; i++)
		if (val_equal(ns->p[i].k, name)) {
			ns->p[i].v = v;
			return 0;
		}
	if (ns->n == ns->cap) {
		uint32_t cap = ns->cap ? 2 * ns->cap : 4;
		struct pair *p = rt_alloc(r, cap * sizeof(*p));

		if (!p)
			return -1;
		if (ns->n)
			memcpy(p, ns->p, ns->n * sizeof(*p));
		ns->p = p;
		ns->cap = cap;
	}
	ns->p[ns->n++] = (struct pair){ name, v };
	return 0;
}

static int unpack(struct rt *r, const struct node *target, struct val v)
{
	const struct val *l;
	uint32_t n;

	if (v.t == V_UNDEF || !val_iterable(v)) {
		if (v.t != V_UNDEF)
			rt_fail(r, TMPL_TYPE, "cannot unpack non-iterable %s object", type_name(v));
		else if (target->list.n)
			rt_fail(r, TMPL_VALUE, "not enough values to unpack (expected %u, got 0)", target->list.n);
		return -1;
	}
	if (vec_of(r, v, &l, &n))
		return -1;
	if (n != target->list.n) {
		rt_fail(r, TMPL_VALUE, "%s values to unpack (expected %u, got %u)", n < target->list.n ? "not enough" : "too many", target->list.n, n);
		return -1;
	}
	for (uint32_t i = 0; i < n; i++)
		if (assign(r, target->list.v[i], l[i]))
			return -1;
	return 0;
}

int assign(struct rt *r, const struct node *target, struct val v)
{
	struct env *e = r->env;

	if (target->k == E_TUPLE)
		return unpack(r, target, v);
	if (target->k == E_NAME) {
		for (uint32_t up = target->ref.up; up > 0; up--)
			e = e->up;
		e->v[target->ref.idx] = v;
		return 0;
	}
	struct node as_name = *target;
	as_name.k = E_NAME;
	struct val ns = eval(r, &as_name);
	if (ns.t == V_ERR)
		return -1;
	if (ns.t != V_NS) {
		rt_fail(r, TMPL_RUNTIME, "cannot assign attribute on non-namespace object");
		return -1;
	}
	return ns_set(r, ns.ns, target->a->c, v);
}

struct val func_namespace(struct rt *r, struct val self, const struct args *a)
{
	const struct builtin *dict = global_find("dict", 4);
	struct val d = dict->fn(r, self, a);
	struct ns *ns;

	if (d.t == V_ERR || !(ns = rt_alloc(r, sizeof(*ns))))
		return val_err;
	*ns = (struct ns){ 0 };
	for (uint32_t i = 0; i < d.dict->n; i++) {
		if (d.dict->p[i].k.t != V_STR)
			return rt_fail(r, TMPL_TYPE, "a namespace attribute must be a string");
		if (ns_set(r, ns, d.dict->p[i].k, d.dict->p[i].v))
			return val_err;
	}
	return (struct val){ .t = V_NS, .ns = ns };
}

/* --- macros --- */
static struct val take_kwarg(const struct args *a, bool *used, struct val name)
{
	for (uint32_t i = 0; i < a->n_kw; i++)
		if (!used[i] && val_equal(a->kw[i].key, name)) {
			used[i] = true;
			return a->kw[i].v;
		}
	return val_missing;
}

static int special_args(struct rt *r, const struct func *fn, const struct args *a, bool *used, struct env *e)
{
	uint32_t n_pos = a->n_pos < fn->n_args ? a->n_pos : fn->n_args;

	if (fn->caller) {
		struct val c = take_kwarg(a, used, val_cstr("caller"));

		e->v[fn->caller - 1] = c.t == V_MISSING || c.t == V_NONE ? undef_hint("No caller defined") : c;
	}
	if (fn->kwargs) {
		struct dict *d = dict_new(r, a->n_kw);

		for (uint32_t i = 0; d && i < a->n_kw; i++)
			if (!used[i] && !dict_put(r, d, a->kw[i].key, a->kw[i].v))
				return -1;
		if (!d)
			return -1;
		e->v[fn->kwargs - 1] = val_dict(d);
	}
	for (uint32_t i = 0; i < a->n_kw && !fn->kwargs; i++)
		if (!used[i]) {
			rt_fail(r, TMPL_TYPE, "macro takes no keyword argument '%.*s'", (int)a->kw[i].key.n, a->kw[i].key.s);
			return -1;
		}
	if (fn->varargs) {
		struct val *l = rt_alloc(r, (a->n_pos - n_pos) * sizeof(*l));

		if (!l)
			return -1;
		if (a->n_pos > n_pos)
			memcpy(l, a->pos + n_pos, (a->n_pos - n_pos) * sizeof(*l));
		e->v[fn->varargs - 1] = val_tuple(l, a->n_pos - n_pos);
	} else if (a->n_pos > n_pos) {
		rt_fail(r, TMPL_TYPE, "macro takes not more than %u argument(s)", fn->n_args);
		return -1;
	}
	return 0;
}

static int macro_args(struct rt *r, const struct func *fn, const struct args *a, struct env *e)
{
	bool few[16] = { false }, *used = few;

	if (a->n_kw > 16) {
		if (!(used = rt_alloc(r, a->n_kw)))
			return -1;
		memset(used, 0, a->n_kw);
	}
	for (uint32_t i = 0; i < fn->n_args; i++)
		e->v[fn->args[i]->ref.idx] = i < a->n_pos ? a->pos[i] : take_kwarg(a, used, fn->args[i]->c);
	return special_args(r, fn, a, used, e);
}

/* What was not given gets its default, which may use the arguments before it. */
static int macro_defaults(struct rt *r, const struct func *fn)
{
	for (uint32_t i = 0; i < fn->n_args; i++) {
		struct val *v = &r->env->v[fn->args[i]->ref.idx], d;

		if (v->t != V_MISSING)
			continue;
		if (i + fn->n_defaults >= fn->n_args) {
			if ((d = eval(r, fn->defaults[i + fn->n_defaults - fn->n_args])).t == V_ERR)
				return -1;
			*v = d;
		} else {
			*v = undef_name(fn->args[i]->c);
		}
	}
	return 0;
}

struct val call_macro(struct rt *r, const struct func *fn, struct env *up, const struct args *a)
{
	struct env *old = r->env, *e;
	struct capture c;
	struct val v = val_err;

	if (rt_enter(r) || !(e = env_new(r, fn, up)))
		return val_err;
	capture_begin(r, &c);
	uint32_t line = r->line;
	if (!macro_args(r, fn, a, e)) {
		r->env = e;
		run_loads(r, &fn->loads);
		/* an argument that is also set in the body keeps what was passed: loads skip parameters */
		if (!macro_defaults(r, fn) && exec_body(r, &fn->body) == 0)
			v = capture_end(r, &c);
	}
	if (v.t == V_ERR)
		capture_drop(r, &c);
	else
		r->line = line;
	r->env = old;
	env_drop(r, fn, e);
	rt_leave(r);
	return v;
}

struct val macro_value(struct rt *r, const struct func *fn)
{
	struct macro *m = rt_alloc(r, sizeof(*m));

	if (!m)
		return val_err;
	*m = (struct macro){ fn, r->env };
	return (struct val){ .t = V_MACRO, .macro = m };
}

/* The call that a call block wraps, with the block as "caller". */
int exec_call_block(struct rt *r, const struct node *n)
{
	struct val caller = macro_value(r, n->fn), v;
	struct call with = *n->a->call;
	struct node call = *n->a, arg = { .k = E_CONST, .c = caller };
	struct node *kw[32];
	struct val names[32];

	if (caller.t == V_ERR)
		return -1;
	if (with.kw.n >= 31) {
		rt_fail(r, TMPL_LIMIT, "a call block with more than 30 keyword arguments");
		return -1;
	}
	for (uint32_t i = 0; i < with.kw.n; i++) {
		kw[i] = with.kw.v[i];
		names[i] = with.names[i];
	}
	kw[with.kw.n] = &arg;
	names[with.kw.n] = val_cstr("caller");
	with.kw = (struct list_of_nodes){ kw, with.kw.n + 1, 32 };
	with.names = names;
	call.call = &with;
	if ((v = eval(r, &call)).t == V_ERR)
		return -1;
	if (v.t != V_STR && (v = val_text(r, v)).t == V_ERR)
		return -1;
	return rt_emit(r, v.s, v.n);
}

int exec_generation(struct rt *r, const struct node *n)
{
	static const struct args none;
	size_t begin = r->captures ? r->root_len : r->out->len;
	bool nested = r->captures > 0;
	struct val v = call_macro(r, n->fn, r->env, &none);
	struct tmpl_render *o = r->render;

	if (v.t == V_ERR)
		return -1;
	o->gen = xgrow(o->gen, &o->cap_gen, o->n_gen + 1, sizeof(*o->gen));
	o->gen[o->n_gen++] = (struct tmpl_span){ begin, begin + v.n, SIZE_MAX, nested };
	return rt_emit(r, v.s, v.n);
}

/* Runs a block in a frame of its own, over the root's or the current one. */
int run_block(struct rt *r, const struct node *n)
{
	struct env *old = r->env, *up = old, *e;

	for (; !n->op && up->up; up = up->up)
		;
	if (rt_enter(r) || !(e = env_new(r, n->fn, up)))
		return -1;
	r->env = e;
	run_loads(r, &n->fn->loads);
	int rc = exec_body(r, &n->fn->body);
	r->env = old;
	rt_leave(r);
	return rc;
}

struct val block_call(struct rt *r, const struct node *n)
{
	struct capture c;

	capture_begin(r, &c);
	if (run_block(r, n)) {
		capture_drop(r, &c);
		return val_err;
	}
	return capture_end(r, &c);
}

/* --- loops --- */
int64_t loop_length(struct rt *r, struct loop *l)
{
	const struct val *rest;
	uint32_t n;

	if (l->length >= 0)
		return l->length;
	if (l->it->kind != IT_FILTERED && val_len(l->src, &l->length))
		return l->length;
	/* a generator: what is left is read now */
	if (vec_of(r, val_iter(l->it), &rest, &n))
		return -1;
	if (!(l->it = iter_new(r, IT_SEQ, val_list(rest, n))))
		return -1;
	l->length = (int64_t)n + l->index0 + 1 + (l->has_after && l->after.t != V_MISSING);
	return l->length;
}

static int loop_peek(struct rt *r, struct loop *l)
{
	int rc;

	if (l->has_after && l->after.t != V_MISSING)
		return 0;
	rc = iter_next(r, l->it, &l->after);
	if (rc == 0)
		l->after = val_missing;
	l->has_after = true;
	return rc < 0 ? -1 : 0;
}

static struct val loop_cycle(struct rt *r, struct val self, const struct args *a)
{
	if (!a->n_pos)
		return rt_fail(r, TMPL_TYPE, "no items for cycling given");
	return a->pos[self.loop->index0 % a->n_pos];
}

static struct val loop_changed(struct rt *r, struct val self, const struct args *a)
{
	struct val *l = rt_alloc(r, a->n_pos * sizeof(*l)), now;

	if (!l)
		return val_err;
	if (a->n_pos)
		memcpy(l, a->pos, a->n_pos * sizeof(*l));
	now = val_tuple(l, a->n_pos);
	if (self.loop->changed.t != V_MISSING && rt_equal(r, self.loop->changed, now))
		return val_false;
	self.loop->changed = now;
	return val_true;
}

struct val loop_attr(struct rt *r, struct loop *l, struct val name, bool *found)
{
	static const char *const names[] = { "index", "index0", "first", "last", "length", "revindex", "revindex0", "previtem", "nextitem",
		"depth", "depth0", "cycle", "changed" };
	static const struct method cycle = { "cycle", T(V_LOOP), loop_cycle }, changed = { "changed", T(V_LOOP), loop_changed };
	struct bound *b;
	int64_t len;
	int k = 0;

	while (k < 13 && !(strlen(names[k]) == name.n && !memcmp(names[k], name.s, name.n)))
		k++;
	*found = k < 13;
	switch (k) {
	case 0:
		return val_int(l->index0 + 1);
	case 1:
		return val_int(l->index0);
	case 2:
		return val_bool(l->index0 == 0);
	case 3:
		if (l->it->kind == IT_SEQ && !l->has_after) /* the common case, without looking ahead */
			return val_bool(l->it->pos >= l->it->src.n);
		return loop_peek(r, l) ? val_err : val_bool(l->after.t == V_MISSING);
	case 4: case 5: case 6:
		if ((len = loop_length(r, l)) < 0)
			return val_err;
		return val_int(k == 4 ? len : k == 5 ? len - l->index0 : len - l->index0 - 1);
	case 7:
		return l->index0 == 0 ? undef_hint("there is no previous item") : l->before;
	case 8:
		if (loop_peek(r, l))
			return val_err;
		return l->after.t == V_MISSING ? undef_hint("there is no next item") : l->after;
	case 9: case 10:
		return val_int(l->depth0 + (k == 9));
	case 11: case 12:
		if (!(b = rt_alloc(r, sizeof(*b))))
			return val_err;
		*b = (struct bound){ { .t = V_LOOP, .loop = l }, k == 11 ? &cycle : &changed };
		return (struct val){ .t = V_METHOD, .bound = b };
	default:
		return val_none;
	}
}

int loop_next(struct rt *r, struct loop *l, struct val *out)
{
	if (l->has_after) {
		l->has_after = false;
		if (l->after.t == V_MISSING)
			return 0;
		*out = l->after;
		l->after = val_missing;
	} else {
		int rc = iter_next(r, l->it, out);

		if (rc != 1)
			return rc;
	}
	l->index0++;
	l->before = l->cur;
	l->cur = *out;
	return 1;
}

/* Notes what one turn of a loop wrote for a message; loops inside such a turn belong to it. */
static void note_turn(struct rt *r, struct val item, size_t begin)
{
	for (size_t i = 0; i < r->render->n_turn && r->out->len > begin; i++) {
		struct tmpl_turn *t = &r->render->turn[i];

		if (t->msg != item.j)
			continue;
		t->begin = begin;
		t->end = r->out->len;
		t->n++;
	}
}

static int run_turn(struct rt *r, const struct node *n, struct val item)
{
	bool noted = r->render->n_turn && item.t == V_JOBJ && !r->captures && !r->in_turn;
	size_t begin = r->out->len;

	r->in_turn |= noted;
	int rc = exec_body(r, &n->loop->body);
	if (noted) {
		r->in_turn = false;
		note_turn(r, item, begin);
	}
	return rc;
}

/* The loop over src in the current frame. */
static int run_loop(struct rt *r, const struct node *n, struct val src, struct env *env, int depth0)
{
	const struct loop_info *info = n->loop;
	struct loop on_stack, *l = &on_stack;
	bool completed = false;
	struct val v;
	int rc;

	if (info->extended && !(l = rt_alloc(r, sizeof(*l)))) /* "loop" may be kept in a namespace */
		return -1;
	*l = (struct loop){ .node = n, .env = env, .src = src, .index0 = -1, .length = -1, .depth0 = depth0 };
	l->before = l->cur = l->after = l->changed = val_missing;
	if (!(l->it = iter_of(r, src)))
		return -1;
	if (info->test) {
		struct iter *f = iter_new(r, IT_FILTERED, src);

		if (!f)
			return -1;
		f->in = l->it;
		f->loop = info;
		f->env = r->env;
		l->it = f;
		run_loads(r, &info->test_loads);
	}
	while ((rc = loop_next(r, l, &v)) == 1) {
		if (info->extended)
			r->env->v[info->loop_slot] = (struct val){ .t = V_LOOP, .loop = l };
		if (assign(r, info->target, v))
			return -1;
		run_loads(r, &info->loads);
		if ((rc = run_turn(r, n, v)) < 0)
			return -1;
		if (rc == FLOW_BREAK)
			break;
		completed |= rc == 0;
	}
	if (rc < 0)
		return -1;
	if (completed || !info->has_else)
		return 0;
	/* as in the reference: also when every turn ended with break or continue */
	run_loads(r, &info->else_loads);
	return exec_body(r, &info->orelse);
}

/* A recursive loop is a function: its text is captured. */
static struct val run_recursive(struct rt *r, const struct node *n, struct val src, struct env *up, int depth0)
{
	struct env *old = r->env, *e;
	struct capture c;
	int rc;

	if (rt_enter(r) || !(e = env_new(r, n->loop->fn, up)))
		return val_err;
	capture_begin(r, &c);
	r->env = e;
	rc = run_loop(r, n, src, up, depth0);
	r->env = old;
	rt_leave(r);
	if (rc >= 0)
		return capture_end(r, &c);
	capture_drop(r, &c);
	return val_err;
}

struct val loop_call(struct rt *r, struct loop *l, const struct args *a)
{
	if (!l->node->loop->recursive)
		return rt_fail(r, TMPL_TYPE, "the loop must have the 'recursive' marker to be called recursively");
	if (a->n_pos != 1 || a->n_kw)
		return rt_fail(r, TMPL_TYPE, "loop() takes one argument");
	return run_recursive(r, l->node, a->pos[0], l->env, l->depth0 + 1);
}

int exec_for(struct rt *r, const struct node *n)
{
	struct val src = eval(r, n->loop->iter);

	if (src.t == V_ERR)
		return -1;
	if (!n->loop->recursive)
		return run_loop(r, n, src, NULL, 0);
	struct val text = run_recursive(r, n, src, r->env, 0);
	return text.t == V_ERR ? -1 : rt_emit(r, text.s, text.n);
}

/* Names to slots. Jinja2 decides at compile time which scope a name belongs
 * to; this file repeats its rules (idtracking and the frames of its compiler),
 * since they can be seen: a name first read in a scope and set later, set in
 * one branch only, set in a loop and read behind it.
 *
 * A scope (sym) is a block that can hide names: the root, a loop body, a macro.
 * Scopes inside one function share its frame of slots; macros, call blocks and
 * recursive loops are functions of their own that see the frames around. */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/xalloc.h"
#include "text/tmpl_impl.h"

enum action { A_PARAM, A_RESOLVE, A_ALIAS, A_UNDEFINED };
struct entry { /* one name of a scope */
	struct val name;
	uint32_t slot;
	enum action action;
	bool stored;
	bool known; /* has a reference here (not only a slot kept by a sibling branch) */
};
struct fctx { /* a function being laid out */
	struct fctx *up;
	uint32_t depth, n_slots;
	bool captured;
};
struct sym {
	struct sym *parent;
	struct fctx *fn;
	struct entry *v;
	size_t n, cap;
};
struct gen {
	struct tmpl *t;
	struct sym *s, *root;
	struct fctx *fn, *root_fn;
	bool soft;   /* inside an "if": unknown filters fail only when they run */
	int in_for;
	const char *name;
	struct err *e;
};

static int gen_body(struct gen *g, struct list_of_nodes *body);
static int gen_expr(struct gen *g, struct node *n);
static void visit(struct sym *s, struct node *n);

static int scope_fail(struct gen *g, const struct node *n, const char *fmt, ...) LP_PRINTF(3, 4);
static int scope_fail(struct gen *g, const struct node *n, const char *fmt, ...)
{
	char msg[256];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(msg, sizeof(msg), fmt, ap);
	va_end(ap);
	return err_line(g->e, LP_USAGE, g->name, n->line, "bad template: %s", msg);
}

/* --- what a scope knows --- */
static struct entry *entry_of(const struct sym *s, struct val name)
{
	for (size_t i = 0; i < s->n; i++)
		if (s->v[i].name.n == name.n && memcmp(s->v[i].name.s, name.s, name.n) == 0)
			return &s->v[i];
	return NULL;
}

static bool knows(const struct sym *s, struct val name)
{
	const struct entry *e = entry_of(s, name);

	return e && e->known;
}

static bool found(const struct sym *s, struct val name)
{
	for (; s; s = s->parent)
		if (knows(s, name))
			return true;
	return false;
}

/* A reference in s itself, with what fills it on entry. */
static struct entry *define(struct sym *s, struct val name, enum action action)
{
	struct entry *e = entry_of(s, name);

	if (!e) {
		s->v = xgrow(s->v, &s->cap, s->n + 1, sizeof(*s->v));
		e = &s->v[s->n++];
		*e = (struct entry){ .name = name, .slot = s->fn->n_slots++ };
	}
	e->known = true;
	e->action = action;
	return e;
}

static void sym_store(struct sym *s, struct val name)
{
	struct entry *e = entry_of(s, name);

	if (!e || !e->known)
		e = define(s, name, s->parent && found(s->parent, name) ? A_ALIAS : A_UNDEFINED);
	e->stored = true;
}

static void sym_load(struct sym *s, struct val name)
{
	if (!found(s, name))
		define(s, name, A_RESOLVE);
}

static struct entry *sym_param(struct sym *s, struct val name)
{
	struct entry *e = define(s, name, A_PARAM);

	e->stored = true;
	return e;
}

static struct sym sym_copy(const struct sym *s)
{
	struct sym c = *s;

	c.cap = s->n ? s->n : 1;
	c.v = xmalloc(c.cap * sizeof(*c.v));
	if (s->n)
		memcpy(c.v, s->v, s->n * sizeof(*c.v));
	return c;
}

/* Branch b's knowledge into s; *stores collects what only branches store. */
static void sym_merge(struct sym *s, const struct sym *b)
{
	for (size_t i = 0; i < b->n; i++) {
		const struct entry *from = &b->v[i];
		struct entry *to = entry_of(s, from->name);

		if (!to) {
			s->v = xgrow(s->v, &s->cap, s->n + 1, sizeof(*s->v));
			s->v[s->n++] = *from;
			continue;
		}
		if (from->known) {
			to->known = true;
			to->action = from->action;
		}
		to->stored |= from->stored;
	}
}

/* Slots that branch b made stay known by name, so that the next one shares them. */
static void sym_share(struct sym *to, const struct sym *b)
{
	for (size_t i = to->n; i < b->n; i++) {
		to->v = xgrow(to->v, &to->cap, to->n + 1, sizeof(*to->v));
		to->v[to->n++] = (struct entry){ .name = b->v[i].name, .slot = b->v[i].slot };
	}
}

static void visit_list(struct sym *s, struct list_of_nodes *l)
{
	for (uint32_t i = 0; i < l->n; i++)
		visit(s, l->v[i]);
}

static void visit_call(struct sym *s, struct call *c)
{
	visit_list(s, &c->pos);
	visit_list(s, &c->kw);
	if (c->star)
		visit(s, c->star);
	if (c->starstar)
		visit(s, c->starstar);
}

/* The three branches of an if are analysed apart, then joined: a name that
 * only branches set is looked up outside on entry. */
static void visit_if(struct sym *s, struct node *n)
{
	struct sym before, branch[3];

	visit(s, n->a);
	before = sym_copy(s);
	branch[0] = sym_copy(s);
	visit_list(&branch[0], &n->list);
	sym_share(&before, &branch[0]);
	branch[1] = sym_copy(&before);
	struct list_of_nodes *orelse = &n->list2;
	while (orelse->n == 1 && orelse->v[0]->k == S_IF && orelse->v[0]->op) {
		struct node one = *orelse->v[0];

		orelse = &orelse->v[0]->list2;
		one.list2 = (struct list_of_nodes){ 0 };
		visit_if(&branch[1], &one);
	}
	sym_share(&before, &branch[1]);
	branch[2] = sym_copy(&before);
	visit_list(&branch[2], orelse);

	for (int i = 0; i < 3; i++)
		sym_merge(s, &branch[i]);
	for (size_t k = 0; k < s->n; k++) {
		bool was = k < before.n && before.v[k].stored, now = s->v[k].stored;

		if (now && !was)
			s->v[k].action = s->parent && found(s->parent, s->v[k].name) ? A_ALIAS : A_RESOLVE;
	}
	for (int i = 0; i < 3; i++)
		free(branch[i].v);
	free(before.v);
}

/* Collects the names of one scope; does not look into scopes inside. */
static void visit(struct sym *s, struct node *n)
{
	switch (n->k) {
	case E_NAME:
		if (n->op == USE_PARAM)
			sym_param(s, n->c);
		else if (n->op == USE_STORE)
			sym_store(s, n->c);
		else
			sym_load(s, n->c);
		return;
	case E_NSREF:
		sym_load(s, n->c);
		return;
	case S_IF:
		visit_if(s, n);
		return;
	case S_SET:
		visit(s, n->b);
		visit(s, n->a);
		return;
	case S_FOR:
		visit(s, n->loop->iter);
		return;
	case S_SETBLOCK: case S_MACRO: case S_CALLBLOCK:
		visit(s, n->a);
		return;
	case S_FILTERBLOCK:
		visit(s, n->b);
		return;
	case S_WITH:
		for (uint32_t i = 1; i < n->list2.n; i += 2)
			visit(s, n->list2.v[i]);
		return;
	case S_GENERATION: case S_BLOCK: case S_AUTOESCAPE:
		return;
	default:
		break;
	}
	if (n->a)
		visit(s, n->a);
	if (n->b)
		visit(s, n->b);
	if (n->d)
		visit(s, n->d);
	visit_list(s, &n->list);
	visit_list(s, &n->list2);
	if (n->call)
		visit_call(s, n->call);
}

/* --- is a special name used without being declared? 1 yes, -1 declared first, 0 neither --- */
static int uses(const struct node *n, const char *name);

static int uses_list(const struct list_of_nodes *l, const char *name)
{
	for (uint32_t i = 0; i < l->n; i++) {
		int u = uses(l->v[i], name);

		if (u)
			return u;
	}
	return 0;
}

static int uses_func(const struct func *f, const char *name)
{
	int u = 0;

	for (uint32_t i = 0; i < f->n_args && !u; i++)
		u = uses(f->args[i], name);
	for (uint32_t i = 0; i < f->n_defaults && !u; i++)
		u = uses(f->defaults[i], name);
	return u ? u : uses_list(&f->body, name);
}

static int uses(const struct node *n, const char *name)
{
	int u = 0;

	if (n->k == E_NAME)
		return n->c.n != strlen(name) || memcmp(n->c.s, name, n->c.n) ? 0 : n->op == USE_LOAD ? 1 : -1;
	if (n->k == S_BLOCK)
		return 0;
	if (n->k == S_FOR) {
		const struct loop_info *l = n->loop;

		(void)((u = uses(l->target, name)) || (u = uses(l->iter, name)) || (u = uses_list(&l->body, name)) ||
		       (u = uses_list(&l->orelse, name)) || (l->test && (u = uses(l->test, name))));
		return u;
	}
	(void)((n->a && n->k != E_NSREF && (u = uses(n->a, name))) || (n->b && (u = uses(n->b, name))) || (n->d && (u = uses(n->d, name))) ||
	       (u = uses_list(&n->list, name)) || (u = uses_list(&n->list2, name)));
	if (!u && n->call)
		(void)((u = uses_list(&n->call->pos, name)) || (u = uses_list(&n->call->kw, name)) ||
		       (n->call->star && (u = uses(n->call->star, name))) || (n->call->starstar && (u = uses(n->call->starstar, name))));
	return !u && n->fn ? uses_func(n->fn, name) : u;
}

/* --- slots --- */
static uint32_t ctx_index(struct tmpl *t, struct val name)
{
	for (uint32_t i = 0; i < t->n_ctx; i++)
		if (val_equal(t->ctx_names[i], name))
			return i;
	if (t->n_ctx == t->cap_ctx) {
		uint32_t cap = t->cap_ctx ? 2 * t->cap_ctx : 16;
		struct val *v = arena_alloc(&t->arena, cap * sizeof(*v));

		if (t->n_ctx)
			memcpy(v, t->ctx_names, t->n_ctx * sizeof(*v));
		t->ctx_names = v;
		t->cap_ctx = cap;
	}
	t->ctx_names[t->n_ctx] = name;
	return t->n_ctx++;
}

/* Where name is, seen from a function at this depth. */
static struct ref ref_of(struct gen *g, const struct sym *s, struct val name, uint32_t depth)
{
	for (; s; s = s->parent) {
		const struct entry *e = entry_of(s, name);

		if (!e || !e->known)
			continue;
		if (e->action == A_RESOLVE && !e->stored)
			break;
		return (struct ref){ depth - s->fn->depth, e->slot };
	}
	return (struct ref){ UP_CTX, ctx_index(g->t, name) };
}

/* What to do on entering scope s. */
static struct loads loads_of(struct gen *g, const struct sym *s)
{
	struct loads l = { 0 };

	l.v = arena_alloc(&g->t->arena, (s->n + 1) * sizeof(*l.v));
	for (size_t i = 0; i < s->n; i++) {
		const struct entry *e = &s->v[i];
		struct load *to = &l.v[l.n];

		if (!e->known || e->action == A_PARAM || (e->action == A_RESOLVE && !e->stored))
			continue;
		*to = (struct load){ .kind = LOAD_COPY, .slot = e->slot };
		if (e->action == A_UNDEFINED)
			to->kind = LOAD_MISSING;
		else if (e->action == A_ALIAS)
			to->from = ref_of(g, s->parent, e->name, s->fn->depth);
		else
			to->from = (struct ref){ UP_CTX, ctx_index(g->t, e->name) };
		l.n++;
	}
	return l;
}

static struct sym sym_new(struct sym *parent, struct fctx *fn)
{
	return (struct sym){ .parent = parent, .fn = fn };
}

/* Enters s for the time of one call to gen_*: saves what to restore. */
struct saved {
	struct sym *s;
	struct fctx *fn;
	bool soft;
};
static struct saved enter(struct gen *g, struct sym *s)
{
	struct saved old = { g->s, g->fn, g->soft };

	g->s = s;
	g->fn = s->fn;
	g->soft = false;
	return old;
}

static void leave(struct gen *g, struct saved old)
{
	free(g->s->v);
	g->s = old.s;
	g->fn = old.fn;
	g->soft = old.soft;
}

/* --- expressions --- */
static int gen_list(struct gen *g, struct list_of_nodes *l)
{
	for (uint32_t i = 0; i < l->n; i++)
		if (gen_expr(g, l->v[i]))
			return -1;
	return 0;
}

static int gen_expr(struct gen *g, struct node *n)
{
	bool soft = g->soft;

	if (n->k == E_NAME || n->k == E_NSREF) {
		if (n->k == E_NAME && n->op == USE_STORE && g->in_for && n->c.n == 4 && !memcmp(n->c.s, "loop", 4))
			return scope_fail(g, n, "can't assign to special loop variable in for-loop");
		n->ref = ref_of(g, g->s, n->c, g->fn->depth);
		return 0;
	}
	if ((n->k == E_FILTER || n->k == E_TEST) && !n->impl && !soft)
		return scope_fail(g, n, "no %s named '%.*s'", n->k == E_FILTER ? "filter" : "test", (int)n->c.n, n->c.s);
	if (n->k == E_COND)
		g->soft = true;
	int rc = (n->a && gen_expr(g, n->a)) || (n->b && gen_expr(g, n->b)) || (n->d && gen_expr(g, n->d)) || gen_list(g, &n->list) ||
	         gen_list(g, &n->list2) ||
	         (n->call && (gen_list(g, &n->call->pos) || gen_list(g, &n->call->kw) || (n->call->star && gen_expr(g, n->call->star)) ||
	                      (n->call->starstar && gen_expr(g, n->call->starstar))));
	g->soft = soft;
	return rc ? -1 : 0;
}

static void set_use(struct node *n, enum name_use use)
{
	if (n->k == E_NAME)
		n->op = (uint8_t)use;
	for (uint32_t i = 0; i < n->list.n; i++)
		set_use(n->list.v[i], use);
}

static struct node *clone_target(struct gen *g, const struct node *n)
{
	struct node *c = arena_alloc(&g->t->arena, sizeof(*c));

	*c = *n;
	c->list = (struct list_of_nodes){ 0 };
	for (uint32_t i = 0; i < n->list.n; i++)
		nodes_add(&g->t->arena, &c->list, clone_target(g, n->list.v[i]));
	return c;
}

/* --- statements --- */
static int gen_func_body(struct gen *g, struct node *n, struct func *f, struct sym *parent, struct fctx *up)
{
	static const char *const special[] = { "caller", "kwargs", "varargs" };
	struct fctx fn = { .up = up, .depth = up->depth + 1 };
	struct sym s = sym_new(parent, &fn);
	uint32_t *slots[] = { &f->caller, &f->kwargs, &f->varargs };
	int rc = 0;

	for (uint32_t i = 0; i < f->n_args; i++)
		visit(&s, f->args[i]);
	for (uint32_t i = 0; i < f->n_defaults; i++)
		visit(&s, f->defaults[i]);
	visit_list(&s, &f->body);
	for (int k = 0; k < 3; k++) {
		uint32_t at = UINT32_MAX;

		for (uint32_t i = 0; i < f->n_args; i++)
			if (val_equal(f->args[i]->c, val_cstr(special[k])))
				at = i;
		if (k == 0)
			f->explicit_caller = at != UINT32_MAX;
		if (uses_list(&f->body, special[k]) != 1)
			continue;
		if (at == UINT32_MAX)
			*slots[k] = sym_param(&s, val_cstr(special[k]))->slot + 1;
		else if (k == 0 && at + f->n_defaults < f->n_args)
			rc = scope_fail(g, n, "the special \"caller\" argument must be omitted or be given a default");
	}
	f->loads = loads_of(g, &s);
	f->depth = fn.depth;
	struct saved old = enter(g, &s);
	for (uint32_t i = 0; i < f->n_args && !rc; i++)
		rc = gen_expr(g, f->args[i]);
	for (uint32_t i = 0; i < f->n_defaults && !rc; i++)
		rc = gen_expr(g, f->defaults[i]);
	if (!rc)
		rc = gen_body(g, &f->body);
	leave(g, old);
	f->n_slots = fn.n_slots;
	f->captured = fn.captured;
	return rc;
}

static void mark_captured(struct fctx *fn)
{
	for (; fn; fn = fn->up)
		fn->captured = true;
}

/* A scope of the same function: its body, and what else is evaluated in it. */
static int gen_inner(struct gen *g, struct node *n, struct node *extra)
{
	struct sym s = sym_new(g->s, g->fn);

	visit_list(&s, &n->list);
	if (extra)
		visit(&s, extra);
	n->loads = loads_of(g, &s);
	struct saved old = enter(g, &s);
	int rc = gen_body(g, &n->list) || (extra && gen_expr(g, extra));
	leave(g, old);
	return rc ? -1 : 0;
}

static int gen_with(struct gen *g, struct node *n)
{
	struct sym s = sym_new(g->s, g->fn);

	for (uint32_t i = 0; i < n->list2.n; i += 2) {
		set_use(n->list2.v[i], USE_PARAM);
		visit(&s, n->list2.v[i]);
	}
	visit_list(&s, &n->list);
	n->loads = loads_of(g, &s);
	int rc = 0;
	for (uint32_t i = 1; i < n->list2.n && !rc; i += 2)
		rc = gen_expr(g, n->list2.v[i]);
	struct saved old = enter(g, &s);
	for (uint32_t i = 0; i < n->list2.n && !rc; i += 2)
		rc = gen_expr(g, n->list2.v[i]);
	if (!rc)
		rc = gen_body(g, &n->list);
	leave(g, old);
	return rc;
}

static int gen_test(struct gen *g, struct loop_info *l, struct fctx *fn)
{
	struct sym s = sym_new(g->s, fn);

	l->test_target = clone_target(g, l->target);
	set_use(l->test_target, USE_PARAM);
	visit(&s, l->test_target);
	visit(&s, l->test);
	l->test_loads = loads_of(g, &s);
	struct saved old = enter(g, &s);
	int rc = gen_expr(g, l->test_target) || gen_expr(g, l->test);
	leave(g, old);
	return rc ? -1 : 0;
}

static bool has_scoped_block(const struct tmpl *t)
{
	for (uint32_t i = 0; i < t->n_blocks; i++)
		if (t->blocks[i]->op)
			return true;
	return false;
}

static int gen_for(struct gen *g, struct node *n)
{
	struct loop_info *l = n->loop;
	struct fctx own = { .up = g->fn, .depth = g->fn->depth + 1 }, *fn = l->recursive ? &own : g->fn;
	struct sym body = sym_new(g->s, fn), orelse = sym_new(g->s, fn);
	int rc = gen_expr(g, l->iter);

	l->extended = l->recursive || uses_list(&l->body, "loop") == 1 || has_scoped_block(g->t);
	if (l->extended)
		l->loop_slot = sym_param(&body, val_cstr("loop"))->slot;
	if (l->recursive)
		mark_captured(g->fn);
	g->in_for++;
	/* the target is a parameter of the body; only its names' uses differ */
	rc = rc || (l->target->k == E_NAME && l->target->op == USE_STORE && val_equal(l->target->c, val_cstr("loop")) &&
	            scope_fail(g, n, "can't assign to special loop variable in for-loop target"));
	set_use(l->target, USE_PARAM);
	if (!rc && l->test)
		rc = gen_test(g, l, fn);
	visit(&body, l->target);
	visit_list(&body, &l->body);
	l->loads = loads_of(g, &body);
	struct saved old = enter(g, &body);
	rc = rc || gen_expr(g, l->target) || gen_body(g, &l->body);
	leave(g, old);
	visit_list(&orelse, &l->orelse);
	l->else_loads = loads_of(g, &orelse);
	old = enter(g, &orelse);
	rc = rc || gen_body(g, &l->orelse);
	leave(g, old);
	g->in_for--;
	if (l->recursive) {
		l->fn = arena_calloc(&g->t->arena, 1, sizeof(*l->fn));
		l->fn->name = val_none;
		l->fn->id = g->t->n_funcs++;
		l->fn->n_slots = own.n_slots;
		l->fn->captured = true;
	}
	return rc ? -1 : 0;
}

static int gen_if(struct gen *g, struct node *n)
{
	bool soft = g->soft;
	int rc;

	g->soft = true;
	for (;;) {
		rc = gen_expr(g, n->a) || gen_body(g, &n->list);
		if (rc || !(n->list2.n == 1 && n->list2.v[0]->k == S_IF && n->list2.v[0]->op))
			break;
		n = n->list2.v[0];
	}
	rc = rc || gen_body(g, &n->list2);
	g->soft = soft;
	return rc ? -1 : 0;
}

static int gen_stmt(struct gen *g, struct node *n)
{
	switch (n->k) {
	case S_IF:
		return gen_if(g, n);
	case S_FOR:
		return gen_for(g, n);
	case S_SET:
		return gen_expr(g, n->a) || gen_expr(g, n->b) ? -1 : 0;
	case S_SETBLOCK:
		return gen_inner(g, n, n->b) || gen_expr(g, n->a) ? -1 : 0;
	case S_FILTERBLOCK:
		return gen_inner(g, n, n->b);
	case S_WITH:
		return gen_with(g, n);
	case S_AUTOESCAPE:
		return gen_inner(g, n, n->a);
	case S_CALLBLOCK:
	case S_MACRO:
		mark_captured(g->fn);
		return gen_func_body(g, n, n->fn, g->s, g->fn) || gen_expr(g, n->a) ? -1 : 0;
	case S_GENERATION:
		return gen_func_body(g, n, n->fn, g->s, g->fn);
	case S_BLOCK:
		return n->op ? gen_func_body(g, n, n->fn, g->s, g->fn) : gen_func_body(g, n, n->fn, g->root, g->root_fn);
	case S_PRINT:
	case S_NOLOADER:
		return gen_list(g, &n->list);
	default:
		return 0;
	}
}

static int gen_body(struct gen *g, struct list_of_nodes *body)
{
	for (uint32_t i = 0; i < body->n; i++)
		if (gen_stmt(g, body->v[i]))
			return -1;
	return 0;
}

int tmpl_scope(struct tmpl *t, const char *name, struct err *e)
{
	struct fctx fn = { 0 };
	struct sym s = sym_new(NULL, &fn);
	struct gen g = { .t = t, .s = &s, .root = &s, .fn = &fn, .root_fn = &fn, .name = name, .e = e };

	if (uses_list(&t->root.body, "self") == 1)
		sym_param(&s, val_cstr("self"));
	visit_list(&s, &t->root.body);
	t->root.loads = loads_of(&g, &s);
	const struct entry *self = entry_of(&s, val_cstr("self"));
	t->root.caller = self && self->action == A_PARAM ? self->slot + 1 : 0; /* the slot of "self" */
	int rc = gen_body(&g, &t->root.body);
	t->root.n_slots = fn.n_slots;
	free(s.v);
	return rc;
}

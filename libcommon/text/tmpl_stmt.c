/* Statements, and the two entrances: tmpl_compile and tmpl_render. */
#include <stdlib.h>

#include "base/xalloc.h"
#include "text/tmpl_impl.h"
#include "text/tmpl_recipe.h"

/* Prints a value; sums and joins of plain strings go out piece by piece,
 * without the strings in between. */
static int print_value(struct rt *r, struct val v)
{
	struct sb b = SB_INIT;

	if (v.t == V_ERR)
		return -1;
	if (r->autoescape && (v = val_escape(r, v)).t == V_ERR)
		return -1;
	if (v.t == V_STR)
		return rt_emit(r, v.s, v.n);
	if (v.t == V_UNDEF)
		return 0;
	int rc = text_add(r, &b, v) ? -1 : rt_emit(r, b.s, b.len);
	sb_release(&b);
	return rc;
}

/* "a + b + c" from the left, printed as long as the pieces are plain strings:
 * 1 all printed, 0 *v is the value, -1. start is where printing began. */
static int print_sum(struct rt *r, const struct node *n, size_t start, struct val *v)
{
	struct val b, a;

	if (n->k != E_BIN || n->op != OP_ADD) {
		*v = eval(r, n);
		if (v->t == V_STR && !(v->f & STR_MARKUP))
			return rt_emit(r, v->s, v->n) ? -1 : 1;
		return v->t == V_ERR ? -1 : 0;
	}
	int left = print_sum(r, n->a, start, v);
	if (left < 0 || (b = eval(r, n->b)).t == V_ERR)
		return -1;
	if (left == 1 && b.t == V_STR && !(b.f & STR_MARKUP))
		return rt_emit(r, b.s, b.n) ? -1 : 1;
	a = *v;
	if (left == 1) { /* takes back what was printed: "+" decides */
		a = rt_str(r, r->out->s ? r->out->s + start : "", r->out->len - start);
		r->out->len = start;
		for (size_t i = 0; r->n_alias && i < r->render->n_watch; i++) /* rare: all is forgotten, the caller looks otherwise */
			r->render->watch[i].begin = r->render->watch[i].end = SIZE_MAX;
		r->n_alias = 0;
	}
	*v = a.t == V_ERR ? a : op_binary(r, OP_ADD, a, b);
	return v->t == V_ERR ? -1 : 0;
}

/* Can the pieces of a sum be printed one by one? Not when one may print itself. */
static bool plain_sum(const struct node *n)
{
	for (; n->k == E_BIN && n->op == OP_ADD; n = n->a)
		if (n->b->k != E_CONST && n->b->k != E_ATTR && n->b->k != E_ITEM && n->b->k != E_NAME)
			return false;
	return n->k == E_CONST || n->k == E_ATTR || n->k == E_ITEM || n->k == E_NAME;
}

static int exec_print(struct rt *r, const struct node *n)
{
	for (uint32_t i = 0; i < n->list.n; i++) {
		const struct node *x = n->list.v[i];
		struct val v;

		if (x->k == E_BIN && x->op == OP_ADD && x->soft && !r->autoescape) {
			int rc = print_sum(r, x, r->out->len, &v);

			if (rc < 0 || (rc == 0 && print_value(r, v)))
				return -1;
			continue;
		}
		if (print_value(r, eval(r, x)))
			return -1;
	}
	return 0;
}

static int exec_if(struct rt *r, const struct node *n)
{
	for (;;) {
		struct val t;

		r->line = n->line;
		if ((t = eval(r, n->a)).t == V_ERR)
			return -1;
		if (val_truth(t))
			return exec_body(r, &n->list);
		if (!(n->list2.n == 1 && n->list2.v[0]->k == S_IF && n->list2.v[0]->op))
			return exec_body(r, &n->list2);
		n = n->list2.v[0];
	}
}

/* {% set x %}...{% endset %} and {% filter f %}...{% endfilter %} */
static int exec_captured(struct rt *r, const struct node *n)
{
	struct capture c;
	struct val v;

	run_loads(r, &n->loads);
	capture_begin(r, &c);
	int rc = exec_body(r, &n->list);
	v = capture_end(r, &c);
	if (rc || v.t == V_ERR)
		return rc ? rc : -1; /* break and continue leave the block: its text is dropped */
	const struct node *filters[16];
	int k = 0;
	for (const struct node *f = n->b; f; f = f->a) {
		if (k == 16) {
			rt_fail(r, TMPL_LIMIT, "more than 16 filters on one block");
			return -1;
		}
		filters[k++] = f;
	}
	while (k-- > 0) {
		struct node f = *filters[k], in = { .k = E_CONST, .c = v };

		f.a = &in;
		if ((v = eval(r, &f)).t == V_ERR)
			return -1;
	}
	return n->k == S_SETBLOCK ? assign(r, n->a, v) : print_value(r, v);
}

static int exec_with(struct rt *r, const struct node *n)
{
	run_loads(r, &n->loads);
	for (uint32_t i = 0; i < n->list2.n; i += 2) {
		struct val v = eval(r, n->list2.v[i + 1]);

		if (v.t == V_ERR || assign(r, n->list2.v[i], v))
			return -1;
	}
	return exec_body(r, &n->list);
}

static int exec_autoescape(struct rt *r, const struct node *n)
{
	bool old = r->autoescape;

	run_loads(r, &n->loads);
	struct val v = eval(r, n->a);
	if (v.t == V_ERR)
		return -1;
	r->autoescape = val_truth(v);
	int rc = exec_body(r, &n->list);
	r->autoescape = old;
	return rc;
}

static int exec_set(struct rt *r, const struct node *n)
{
	struct val v = eval(r, n->b);

	return v.t == V_ERR ? -1 : assign(r, n->a, v);
}

int exec_stmt(struct rt *r, const struct node *n)
{
	struct val v;

	r->line = n->line;
	switch (n->k) {
	case S_DATA:
		return rt_emit(r, n->c.s, n->c.n);
	case S_PRINT:
		return exec_print(r, n);
	case S_IF:
		return exec_if(r, n);
	case S_FOR:
		return exec_for(r, n);
	case S_SET:
		return exec_set(r, n);
	case S_SETBLOCK:
	case S_FILTERBLOCK:
		return exec_captured(r, n);
	case S_MACRO:
		v = macro_value(r, n->fn);
		return v.t == V_ERR ? -1 : assign(r, n->a, v);
	case S_CALLBLOCK:
		return exec_call_block(r, n);
	case S_GENERATION:
		return exec_generation(r, n);
	case S_WITH:
		return exec_with(r, n);
	case S_BLOCK:
		return run_block(r, n);
	case S_AUTOESCAPE:
		return exec_autoescape(r, n);
	case S_BREAK:
		return FLOW_BREAK;
	case S_CONTINUE:
		return FLOW_CONTINUE;
	default:
		rt_fail(r, TMPL_TYPE, "no loader for this environment specified: a chat template cannot include others");
		return -1;
	}
}

int exec_body(struct rt *r, const struct list_of_nodes *body)
{
	for (uint32_t i = 0; i < body->n; i++) {
		int rc = rt_steps(r, 1) ? -1 : exec_stmt(r, body->v[i]);

		if (rc)
			return rc;
	}
	return 0;
}

/* --- entrances --- */
static void mark_sums(struct tmpl *t, struct list_of_nodes *body);

/* Marks printed sums that may go out in pieces (node.soft, unused on them otherwise). */
static void mark_stmt(struct tmpl *t, struct node *n)
{
	if (n->k == S_PRINT && !t->has_generation)
		for (uint32_t i = 0; i < n->list.n; i++)
			if (n->list.v[i]->k == E_BIN && n->list.v[i]->op == OP_ADD)
				n->list.v[i]->soft = plain_sum(n->list.v[i]);
	if (n->k >= S_DATA && n->k != S_PRINT && n->k != S_WITH) {
		mark_sums(t, &n->list);
		for (; n->k == S_IF && n->list2.n == 1 && n->list2.v[0]->k == S_IF && n->list2.v[0]->op; n = n->list2.v[0])
			mark_sums(t, &n->list2.v[0]->list);
		mark_sums(t, &n->list2);
	}
	if (n->k == S_WITH)
		mark_sums(t, &n->list);
	if (n->loop) {
		mark_sums(t, &n->loop->body);
		mark_sums(t, &n->loop->orelse);
	}
	if (n->fn)
		mark_sums(t, &n->fn->body);
}

static void mark_sums(struct tmpl *t, struct list_of_nodes *body)
{
	for (uint32_t i = 0; i < body->n; i++)
		mark_stmt(t, body->v[i]);
}

struct tmpl *tmpl_compile(const char *src, size_t len, const char *name, struct err *e)
{
	struct tmpl *t = xcalloc(1, sizeof(*t));
	struct tok_list toks = { 0 };
	struct parser p = { .t = t, .a = &t->arena, .name = name, .e = e };

	t->name = xstrdup(name ? name : "(template)");
	p.name = t->name;
	t->n_funcs = 1; /* the root is function 0 */
	t->root.name = val_none;
	int rc = tmpl_lex(src, len, t->name, &t->arena, &toks, e);
	for (size_t i = 0; !rc && i < toks.n; i++)
		t->has_mark |= (toks.v[i].type == T_DATA || toks.v[i].type == T_STRING) && tmpl_has_mark(toks.v[i].v.s, toks.v[i].v.n);
	if (!rc) {
		p.tok = toks.v;
		rc = tmpl_parse(&p, &t->root.body) || tmpl_scope(t, t->name, e);
	}
	free(toks.v);
	if (rc) {
		tmpl_free(t);
		return NULL;
	}
	mark_sums(t, &t->root.body);
	t->ctx_globals = arena_alloc(&t->arena, (t->n_ctx + 1) * sizeof(*t->ctx_globals));
	for (uint32_t i = 0; i < t->n_ctx; i++)
		t->ctx_globals[i] = global_find(t->ctx_names[i].s, t->ctx_names[i].n);
	return t;
}

void tmpl_free(struct tmpl *t)
{
	if (!t)
		return;
	arena_release(&t->arena);
	free(t->name);
	free(t);
}

void tmpl_render_release(struct tmpl_render *o)
{
	sb_release(&o->text);
	free(o->gen);
	arena_release(&o->scratch);
	*o = (struct tmpl_render){ 0 };
}

/* The strings to follow, and room for copies of them. */
static int start_watch(struct rt *r, struct tmpl_render *out)
{
	size_t n = out->watch ? out->n_watch : 0;

	if (!n)
		return 0;
	r->cap_alias = (uint32_t)(4 * n + 16);
	if (!(r->alias = rt_alloc(r, r->cap_alias * sizeof(*r->alias))))
		return -1;
	for (size_t i = 0; i < n; i++) {
		struct tmpl_watch *w = &out->watch[i];

		w->begin = w->end = SIZE_MAX;
		if (w->n)
			r->alias[r->n_alias++] = (struct alias){ w->s, w->s + w->n, (uint32_t)i };
	}
	return 0;
}

/* Every variable and global that the template names, looked up once. */
static int load_context(struct rt *r, const struct json *vars)
{
	const struct tmpl *t = r->t;

	struct val all = vars ? val_from_json(vars) : val_none;

	if (!(r->ctx = rt_alloc(r, t->n_ctx * sizeof(*r->ctx))))
		return -1;
	for (uint32_t i = 0; i < t->n_ctx; i++) {
		if (all.t == V_JOBJ && dict_get(all, t->ctx_names[i], &r->ctx[i]))
			continue;
		r->ctx[i] = t->ctx_globals[i] ? (struct val){ .t = V_FUNC, .fn = t->ctx_globals[i] } : val_missing;
	}
	return 0;
}

int tmpl_render(const struct tmpl *t, const struct json *vars, int64_t now, const struct tmpl_limits *l, struct tmpl_render *out, struct err *e)
{
	return tmpl_render_marks(t, vars, now, l, NULL, out, e);
}

int tmpl_render_marks(const struct tmpl *t, const struct json *vars, int64_t now, const struct tmpl_limits *l, struct tmpl_recipe *p, struct tmpl_render *out, struct err *e)
{
	static const struct tmpl_limits defaults;
	char here;
	struct rt r = { .t = t, .a = &out->scratch, .out = &out->text, .render = out, .e = e, .stack = &here, .now = now, .holes = p,
		.vars = l && l->max_steps ? NULL : vars };

	l = l ? l : &defaults;
	r.max_steps = l->max_steps ? l->max_steps : 50000000;
	r.max_output = l->max_output ? l->max_output : (size_t)256 << 20;
	r.max_depth = l->max_depth ? l->max_depth : 200;
	r.max_memory = 2 * r.max_output + ((size_t)64 << 20);
	arena_reset(&out->scratch);
	sb_reset(&out->text);
	out->n_gen = 0;
	for (size_t i = 0; i < out->n_turn; i++)
		out->turn[i].n = 0;
	out->why = TMPL_OK;
	e->code = LP_OK;
	if (start_watch(&r, out) || load_context(&r, vars) || !(r.free_env = rt_alloc(&r, t->n_funcs * sizeof(*r.free_env))))
		return -1;
	memset(r.free_env, 0, t->n_funcs * sizeof(*r.free_env));
	if (!(r.env = env_new(&r, &t->root, NULL)))
		return -1;
	run_loads(&r, &t->root.loads);
	if (t->root.caller)
		r.env->v[t->root.caller - 1] = (struct val){ .t = V_SELF };
	/* a comparison that ran out of steps has set the error and nothing else */
	return exec_body(&r, &t->root.body) || e->code != LP_OK ? -1 : 0;
}

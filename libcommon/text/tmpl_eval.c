/* Expressions: the tree that tmpl_expr.c made, walked. */
#include "text/tmpl_impl.h"

#define FEW_ARGS 6

static struct val load(struct rt *r, struct ref ref, struct val name)
{
	struct val v;

	if (ref.up == UP_CTX) {
		v = r->ctx[ref.idx];
	} else {
		const struct env *e = r->env;

		for (uint32_t up = ref.up; up > 0; up--)
			e = e->up;
		v = e->v[ref.idx];
	}
	return v.t == V_MISSING ? undef_name(name) : v;
}

/* --- calls --- */
static int args_star(struct rt *r, struct val v, struct vec *pos)
{
	struct iter *it = iter_of(r, v);
	struct val x;
	int rc = -1;

	while (it && (rc = iter_next(r, it, &x)) == 1)
		if (!vec_add(r, pos, x))
			return -1;
	return rc;
}

static int args_starstar(struct rt *r, struct val v, struct args *a, struct kwarg *old, uint32_t n_old)
{
	const struct dict *d;
	struct kwarg *kw;

	if (!is_type(v, T_DICTS)) {
		rt_fail(r, TMPL_TYPE, "argument after ** must be a mapping, not %s", type_name(v));
		return -1;
	}
	if (!(d = dict_of(r, v)) || !(kw = rt_alloc(r, (d->n + n_old) * sizeof(*kw))))
		return -1;
	if (n_old)
		memcpy(kw, old, n_old * sizeof(*kw));
	for (uint32_t i = 0; i < d->n; i++) {
		if (d->p[i].k.t != V_STR) {
			rt_fail(r, TMPL_TYPE, "keywords must be strings");
			return -1;
		}
		kw[n_old + i] = (struct kwarg){ d->p[i].k, d->p[i].v };
	}
	a->kw = kw;
	a->n_kw = d->n + n_old;
	return 0;
}

/* Evaluates arguments into pos and kw (FEW_ARGS each; more come from the arena). */
static int eval_args(struct rt *r, const struct call *c, struct val *pos, struct kwarg *kw, struct args *a)
{
	if (c->pos.n > FEW_ARGS && !(pos = rt_alloc(r, c->pos.n * sizeof(*pos))))
		return -1;
	if (c->kw.n > FEW_ARGS && !(kw = rt_alloc(r, c->kw.n * sizeof(*kw))))
		return -1;
	for (uint32_t i = 0; i < c->pos.n; i++)
		if ((pos[i] = eval(r, c->pos.v[i])).t == V_ERR)
			return -1;
	for (uint32_t i = 0; i < c->kw.n; i++) {
		kw[i].key = c->names[i];
		if ((kw[i].v = eval(r, c->kw.v[i])).t == V_ERR)
			return -1;
	}
	*a = (struct args){ pos, kw, c->pos.n, c->kw.n };
	if (c->star) {
		struct vec all = { 0 };
		struct val v = eval(r, c->star);

		for (uint32_t i = 0; i < c->pos.n; i++)
			if (!vec_add(r, &all, pos[i]))
				return -1;
		if (v.t == V_ERR || args_star(r, v, &all))
			return -1;
		a->pos = all.v;
		a->n_pos = all.n;
	}
	if (c->starstar) {
		struct val v = eval(r, c->starstar);

		if (v.t == V_ERR || args_starstar(r, v, a, kw, c->kw.n))
			return -1;
	}
	return 0;
}

struct val call_value(struct rt *r, struct val f, const struct args *a)
{
	switch (f.t) {
	case V_MACRO:
		return call_macro(r, f.macro->fn, f.macro->env, a);
	case V_FUNC:
		return r->holes ? hole_call(r, f.fn, a) : f.fn->fn(r, val_none, a);
	case V_METHOD:
		return call_method(r, f.bound->m, f.bound->self, a);
	case V_LOOP:
		return loop_call(r, f.loop, a);
	case V_UNDEF:
		return rt_undef_fail(r, f);
	case V_SELF:
		if (f.n)
			return block_call(r, r->t->blocks[f.n - 1]);
		break;
	case V_JOINER:
		if (f.joiner->used)
			return f.joiner->sep;
		f.joiner->used = true;
		return val_str("", 0);
	default:
		break;
	}
	return rt_fail(r, TMPL_TYPE, "'%s' object is not callable", type_name(f));
}

static struct val eval_call(struct rt *r, const struct node *n)
{
	struct val pos[FEW_ARGS], f;
	struct kwarg kw[FEW_ARGS];
	struct args a;
	const struct node *callee = n->a;

	/* obj.method(...): no bound method is made */
	if (callee->k == E_ATTR && callee->impl) {
		struct val obj = eval(r, callee->a);
		const struct method *m;

		if (obj.t == V_ERR)
			return obj;
		if ((m = method_for(callee->impl, obj.t)) && m->fn)
			return eval_args(r, n->call, pos, kw, &a) ? val_err : call_method(r, m, obj, &a);
		f = get_attr(r, obj, callee->c, callee->impl);
	} else {
		f = eval(r, callee);
	}
	if (f.t == V_ERR || eval_args(r, n->call, pos, kw, &a))
		return val_err;
	return call_value(r, f, &a);
}

static struct val eval_filter(struct rt *r, const struct node *n, struct val v)
{
	struct val pos[FEW_ARGS];
	struct kwarg kw[FEW_ARGS];
	struct args a;
	const struct builtin *f = n->impl;

	if (v.t == V_ERR || eval_args(r, n->call, pos, kw, &a))
		return val_err;
	if (!f)
		return rt_fail(r, TMPL_RUNTIME, "no %s named '%.*s'", n->k == E_FILTER ? "filter" : "test", (int)n->c.n, n->c.s);
	return n->k == E_FILTER ? call_filter(r, f, v, &a) : call_test(r, f, v, &a);
}

/* --- the rest --- */
static struct val eval_list(struct rt *r, const struct node *n)
{
	struct val *l = rt_alloc(r, n->list.n * sizeof(*l));

	for (uint32_t i = 0; l && i < n->list.n; i++)
		if ((l[i] = eval(r, n->list.v[i])).t == V_ERR)
			return val_err;
	if (!l)
		return val_err;
	return n->k == E_TUPLE ? val_tuple(l, n->list.n) : val_list(l, n->list.n);
}

static struct val eval_dict(struct rt *r, const struct node *n)
{
	struct dict *d = dict_new(r, n->list.n);

	for (uint32_t i = 0; d && i < n->list.n; i++) {
		struct val k = eval(r, n->list.v[i]), v;

		if (k.t == V_ERR || (v = eval(r, n->list2.v[i])).t == V_ERR || !dict_put(r, d, k, v))
			return val_err;
	}
	return d ? val_dict(d) : val_err;
}

static struct val eval_concat(struct rt *r, const struct node *n)
{
	struct sb b = SB_INIT;

	for (uint32_t i = 0; i < n->list.n; i++) {
		struct val v = eval(r, n->list.v[i]);

		if (v.t != V_ERR && r->autoescape)
			v = val_escape(r, v);
		if (v.t == V_ERR || text_add(r, &b, v)) {
			sb_release(&b);
			return val_err;
		}
	}
	struct val v = rt_take(r, &b);
	return r->autoescape ? markup(v) : v;
}

static struct val eval_compare(struct rt *r, const struct node *n)
{
	struct val a = eval(r, n->a), out = val_true;

	for (uint32_t i = 0; i < n->list.n; i++) {
		struct val b;

		if (a.t == V_ERR || (b = eval(r, n->list.v[i]->a)).t == V_ERR)
			return val_err;
		out = op_compare(r, (enum op)n->list.v[i]->op, a, b);
		if (out.t == V_ERR || !out.i)
			return out;
		a = b;
	}
	return out;
}

static struct val eval_item(struct rt *r, const struct node *n)
{
	struct val obj = eval(r, n->a), part[3];
	const struct node *key = n->b;

	if (obj.t == V_ERR)
		return obj;
	if (key->k != E_SLICE) {
		struct val k = eval(r, key);

		return k.t == V_ERR ? k : get_item(r, obj, k);
	}
	const struct node *from[] = { key->a, key->b, key->d };
	for (int i = 0; i < 3; i++) {
		part[i] = from[i] ? eval(r, from[i]) : val_none;
		if (part[i].t == V_ERR)
			return val_err;
	}
	return get_slice(r, obj, part[0], part[1], part[2]);
}

#define SUM_MAX 16

/* The strings of a sum as one, and where the watched ones among them went. */
static struct val join(struct rt *r, const struct val *v, uint32_t n, uint32_t consts)
{
	size_t len = 0;
	char *p, *at;

	if (n == 1)
		return v[0];
	for (uint32_t i = 0; i < n; i++)
		len += v[i].n;
	if (len > r->max_output)
		return rt_fail(r, TMPL_LIMIT, "a text of more than %zu MiB", r->max_output >> 20);
	if (!(p = at = rt_alloc(r, len)) || rt_steps(r, len >> 6))
		return val_err;
	for (uint32_t i = 0; i < n; i++) {
		memcpy(at, v[i].s, v[i].n);
		if (!(consts >> i & 1))
			watch_copy(r, at, v[i].s, v[i].n);
		at += v[i].n;
	}
	return val_str(p, len);
}

/* "a + b + c" from the left; strings wait for one another, so that each is copied once. */
static struct val eval_sum(struct rt *r, const struct node *n)
{
	const struct node *chain[SUM_MAX];
	struct val part[SUM_MAX + 1], b;
	uint32_t k = 0, n_part = 1, consts;

	for (; k < SUM_MAX && n->k == E_BIN && n->op == OP_ADD; n = n->a)
		chain[k++] = n;
	part[0] = eval(r, n);
	consts = n->k == E_CONST;
	if (part[0].t == V_ERR)
		return val_err;
	while (k-- > 0) {
		const struct node *right = chain[k]->b;

		if ((b = eval(r, right)).t == V_ERR)
			return val_err;
		if (part[0].t == V_STR && b.t == V_STR && !((part[0].f | b.f) & STR_MARKUP)) {
			consts |= (uint32_t)(right->k == E_CONST) << n_part;
			part[n_part++] = b;
			continue;
		}
		part[0] = join(r, part, n_part, consts);
		if (part[0].t == V_ERR || (part[0] = op_binary(r, OP_ADD, part[0], b)).t == V_ERR)
			return val_err;
		n_part = 1;
		consts = 0;
	}
	return join(r, part, n_part, consts);
}

static struct val eval_cond(struct rt *r, const struct node *n)
{
	struct val t = eval(r, n->a);

	if (t.t == V_ERR)
		return t;
	if (val_truth(t))
		return eval(r, n->b);
	return n->d ? eval(r, n->d) : undef_hint("the inline if-expression evaluated to false and no else section was defined.");
}

struct val eval(struct rt *r, const struct node *n)
{
	struct val a, b;

	if (rt_steps(r, 1))
		return val_err;
	switch (n->k) {
	case E_CONST:
		return n->c;
	case E_NAME:
		return load(r, n->ref, n->c);
	case E_ATTR:
		a = eval(r, n->a);
		return a.t == V_ERR ? a : get_attr(r, a, n->c, n->impl);
	case E_ITEM:
		return eval_item(r, n);
	case E_BIN:
		if (n->op == OP_ADD && n->a->k == E_BIN)
			return eval_sum(r, n);
		if ((a = eval(r, n->a)).t == V_ERR || (b = eval(r, n->b)).t == V_ERR)
			return val_err;
		return op_binary(r, (enum op)n->op, a, b);
	case E_AND:
		a = eval(r, n->a);
		return a.t == V_ERR || !val_truth(a) ? a : eval(r, n->b);
	case E_OR:
		a = eval(r, n->a);
		return a.t == V_ERR || val_truth(a) ? a : eval(r, n->b);
	case E_NOT:
		a = eval(r, n->a);
		return a.t == V_ERR ? a : val_bool(!val_truth(a));
	case E_NEG:
	case E_POS:
		a = eval(r, n->a);
		return a.t == V_ERR ? a : op_unary(r, n->k == E_NEG, a);
	case E_CMP:
		return eval_compare(r, n);
	case E_CALL:
		return eval_call(r, n);
	case E_FILTER:
	case E_TEST:
		a = eval(r, n->a);
		return a.t == V_ERR ? a : eval_filter(r, n, a);
	case E_COND:
		return eval_cond(r, n);
	case E_CONCAT:
		return eval_concat(r, n);
	case E_LIST:
	case E_TUPLE:
		return eval_list(r, n);
	case E_DICT:
		return eval_dict(r, n);
	default:
		return rt_fail(r, TMPL_RUNTIME, "an expression that cannot be evaluated");
	}
}

/* --- arguments --- */
int bind_args(struct rt *r, const char *fname, const struct args *a, const char *const *names, uint32_t n_min, uint32_t n_max, struct val *out)
{
	if (a->n_pos > n_max) {
		rt_fail(r, TMPL_TYPE, "%s() takes at most %u arguments (%u given)", fname, n_max, a->n_pos);
		return -1;
	}
	for (uint32_t i = 0; i < n_max; i++)
		out[i] = i < a->n_pos ? a->pos[i] : val_missing;
	for (uint32_t k = 0; k < a->n_kw; k++) {
		const struct val *key = &a->kw[k].key;
		uint32_t i = 0;

		while (i < n_max && !(names[i] && strlen(names[i]) == key->n && !memcmp(names[i], key->s, key->n)))
			i++;
		if (i == n_max || out[i].t != V_MISSING) {
			rt_fail(r, TMPL_TYPE, "%s() got an unexpected keyword argument '%.*s'", fname, (int)key->n, key->s);
			return -1;
		}
		out[i] = a->kw[k].v;
	}
	for (uint32_t i = 0; i < n_min; i++)
		if (out[i].t == V_MISSING) {
			rt_fail(r, TMPL_TYPE, "%s() is missing an argument", fname);
			return -1;
		}
	return 0;
}

bool arg_int(struct rt *r, const char *fname, struct val v, int64_t *out)
{
	if (val_index(v, out))
		return true;
	if (v.t == V_UNDEF)
		rt_undef_fail(r, v);
	else
		rt_fail(r, TMPL_TYPE, "%s(): '%s' object cannot be interpreted as an integer", fname, type_name(v));
	return false;
}

bool arg_str(struct rt *r, const char *fname, struct val v)
{
	if (v.t == V_STR)
		return true;
	rt_fail(r, TMPL_TYPE, "%s(): an argument must be str, not %s", fname, type_name(v));
	return false;
}

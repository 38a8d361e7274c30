/* Iteration: over sequences, and the lazy generators that filters such as
 * map and select return in Jinja2. A generator can be walked once. */
#include "text/tmpl_impl.h"

struct iter *iter_new(struct rt *r, enum iter_kind kind, struct val src)
{
	struct iter *it = rt_alloc(r, sizeof(*it));

	if (it)
		*it = (struct iter){ .kind = kind, .src = src, .attr = val_missing, .dflt = val_missing };
	return it;
}

bool val_iterable(struct val v)
{
	return is_type(v, T_SEQS | T_DICTS | T(V_STR) | T(V_RANGE) | T(V_VIEW) | T(V_ITER) | T(V_UNDEF) | T(V_LOOP));
}

struct iter *iter_of(struct rt *r, struct val v)
{
	struct iter *it;

	if (v.t == V_STR && is_hole(r, v)) {
		hole_look(r);
		return NULL;
	}
	switch (v.t) {
	case V_UNDEF:
		return iter_new(r, IT_EMPTY, v);
	case V_LIST: case V_TUPLE: case V_JARR:
		return iter_new(r, IT_SEQ, v);
	case V_STR:
		return iter_new(r, IT_STR, v);
	case V_RANGE:
		return iter_new(r, IT_RANGE, v);
	case V_DICT: case V_JOBJ:
		if (!(it = iter_new(r, IT_DICT, v)) || !(it->d = dict_of(r, v)))
			return NULL;
		return it;
	case V_VIEW:
		if (!(it = iter_new(r, IT_DICT, v)))
			return NULL;
		it->d = v.view->d;
		it->view = v.view->kind;
		return it;
	case V_LOOP:
		return iter_new(r, IT_LOOP, v);
	case V_ITER:
		return v.iter;
	default:
		rt_fail(r, TMPL_TYPE, "'%s' object is not iterable", type_name(v));
		return NULL;
	}
}

struct iter *iter_reversed(struct rt *r, struct val v)
{
	struct iter *it;
	int64_t n;

	if (is_type(v, T_DICTS | T(V_VIEW))) {
		struct val *l, item;
		struct iter *in = iter_of(r, v);

		if (!in || !(l = rt_alloc(r, in->d->n * sizeof(*l))))
			return NULL;
		for (n = 0; iter_next(r, in, &item) == 1; n++)
			l[n] = item;
		v = val_list(l, (size_t)n);
	}
	if (!is_type(v, T_SEQS | T(V_RANGE) | T(V_STR) | T(V_UNDEF)) || !val_len(v, &n))
		return NULL;
	if ((it = iter_new(r, v.t == V_UNDEF ? IT_EMPTY : IT_REVERSED, v)))
		it->pos = v.t == V_STR ? (int64_t)v.n : n;
	return it;
}

static int next_reversed(struct iter *it, struct val *out)
{
	if (it->pos == 0)
		return 0;
	if (it->src.t == V_STR) {
		const char *p = it->src.s + it->pos, *end = p;

		uni_prev(it->src.s, &p);
		*out = val_str(p, (size_t)(end - p));
		it->pos = p - it->src.s;
		return 1;
	}
	it->pos--;
	*out = it->src.t == V_RANGE ? val_int(it->src.range->start + it->pos * it->src.range->step) : seq_at(it->src, (uint32_t)it->pos);
	return 1;
}

static int next_pair(struct rt *r, struct iter *it, struct val *out)
{
	if (it->pos >= it->d->n)
		return 0;
	const struct pair *p = &it->d->p[it->pos++];
	if (it->src.t != V_VIEW || it->view == VIEW_KEYS) {
		*out = p->k;
	} else if (it->view == VIEW_VALUES) {
		*out = p->v;
	} else {
		struct val *kv = rt_alloc(r, 2 * sizeof(*kv));

		if (!kv)
			return -1;
		kv[0] = p->k;
		kv[1] = p->v;
		*out = val_tuple(kv, 2);
	}
	return 1;
}

/* The next item that passes the test of "for ... if". */
static int next_filtered(struct rt *r, struct iter *it, struct val *out)
{
	struct env *old = r->env;
	int rc;

	r->env = it->env;
	while ((rc = iter_next(r, it->in, out)) == 1) {
		struct val t;

		if (assign(r, it->loop->test_target, *out) || (t = eval(r, it->loop->test)).t == V_ERR)
			rc = -1;
		if (rc < 0 || val_truth(t))
			break;
	}
	r->env = old;
	return rc;
}

static int next_mapped(struct rt *r, struct iter *it, struct val *out)
{
	struct val v;
	int rc;

	if (!it->in && !(it->in = iter_of(r, it->src)))
		return -1;
	if ((rc = iter_next(r, it->in, &v)) != 1)
		return rc;
	if (it->fn)
		*out = call_filter(r, it->fn, v, &it->args);
	else
		*out = attr_path(r, v, it->attr, it->dflt);
	return out->t == V_ERR ? -1 : 1;
}

static int next_selected(struct rt *r, struct iter *it, struct val *out)
{
	int rc;

	if (!it->in && !(it->in = iter_of(r, it->src)))
		return -1;
	while ((rc = iter_next(r, it->in, out)) == 1) {
		struct val v = attr_path(r, *out, it->attr, val_missing), t = v;

		if (v.t == V_ERR)
			return -1;
		if (it->fn && (t = call_test(r, it->fn, v, &it->args)).t == V_ERR)
			return -1;
		if (val_truth(t) != it->negate)
			return 1;
	}
	return rc;
}

/* Whoever walks over "loop" takes the loop's own items, each with the loop beside it. */
static int next_of_loop(struct rt *r, struct iter *it, struct val *out)
{
	struct val *pair = rt_alloc(r, 2 * sizeof(*pair));
	int rc = pair ? loop_next(r, it->src.loop, &pair[0]) : -1;

	if (rc == 1) {
		pair[1] = it->src;
		*out = val_tuple(pair, 2);
	}
	return rc;
}

int iter_next(struct rt *r, struct iter *it, struct val *out)
{
	size_t n;

	if (rt_steps(r, 1))
		return -1;
	switch (it->kind) {
	case IT_SEQ:
		if (it->pos >= it->src.n)
			return 0;
		*out = seq_at(it->src, (uint32_t)it->pos++);
		return 1;
	case IT_STR:
		if (it->pos >= it->src.n)
			return 0;
		n = uni_offset(it->src.s + it->pos, it->src.n - (size_t)it->pos, 1);
		*out = val_str(it->src.s + it->pos, n);
		out->f = 0;
		it->pos += (int64_t)n;
		return 1;
	case IT_RANGE:
		if (it->pos >= it->src.range->len)
			return 0;
		*out = val_int(it->src.range->start + it->pos++ * it->src.range->step);
		return 1;
	case IT_DICT:
		return next_pair(r, it, out);
	case IT_REVERSED:
		return next_reversed(it, out);
	case IT_FILTERED:
		return next_filtered(r, it, out);
	case IT_MAP:
		return next_mapped(r, it, out);
	case IT_SELECT:
		return next_selected(r, it, out);
	case IT_LOOP:
		return next_of_loop(r, it, out);
	case IT_LATER:
		it->src = it->make(r, it);
		if (it->src.t == V_ERR)
			return -1;
		it->kind = IT_SEQ;
		return iter_next(r, it, out);
	default:
		return 0;
	}
}

int vec_of(struct rt *r, struct val v, const struct val **items, uint32_t *n)
{
	struct vec all = { 0 };
	struct val x;
	int rc;

	if (v.t == V_LIST || v.t == V_TUPLE) {
		*items = v.l;
		*n = v.n;
		return rt_steps(r, v.n);
	}
	struct iter *it = iter_of(r, v);
	if (!it)
		return -1;
	while ((rc = iter_next(r, it, &x)) == 1)
		if (!vec_add(r, &all, x))
			return -1;
	*items = all.v;
	*n = all.n;
	return rc;
}

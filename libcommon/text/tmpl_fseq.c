/* Filters over sequences. Those that are generators in Jinja2 are lazy here
 * too: a list that nobody walks costs nothing and fails for nothing. */
#include "text/tmpl_impl.h"

FILTER(f_length)
{
	int64_t n;

	if (bind_args(r, "length", a, NULL, 0, 0, NULL))
		return val_err;
	if (v.t == V_LOOP)
		return (n = loop_length(r, v.loop)) < 0 ? val_err : val_int(n);
	return val_len(v, &n) ? val_int(n) : rt_fail(r, TMPL_TYPE, "object of type '%s' has no len()", type_name(v));
}

FILTER(f_list)
{
	const struct val *l;
	uint32_t n;

	if (bind_args(r, "list", a, NULL, 0, 0, NULL) || vec_of(r, v, &l, &n))
		return val_err;
	return val_list(l, n);
}

FILTER(f_first)
{
	struct iter *it;
	struct val x;

	if (bind_args(r, "first", a, NULL, 0, 0, NULL) || !(it = iter_of(r, v)))
		return val_err;
	int rc = iter_next(r, it, &x);
	return rc < 0 ? val_err : rc ? x : undef_hint("No first item, sequence was empty.");
}

FILTER(f_last)
{
	struct iter *it;
	struct val x;

	if (bind_args(r, "last", a, NULL, 0, 0, NULL))
		return val_err;
	if (!(it = iter_reversed(r, v)))
		return rt_fail(r, TMPL_TYPE, "'%s' object is not reversible", type_name(v));
	int rc = iter_next(r, it, &x);
	return rc < 0 ? val_err : rc ? x : undef_hint("No last item, sequence was empty.");
}

FILTER(f_reverse)
{
	struct iter *it;
	struct vec out = { 0 };
	const struct val *l;
	uint32_t n;

	if (bind_args(r, "reverse", a, NULL, 0, 0, NULL))
		return val_err;
	if (v.t == V_STR)
		return get_slice(r, v, val_none, val_none, val_int(-1));
	if ((it = iter_reversed(r, v)))
		return val_iter(it);
	if (!val_iterable(v))
		return rt_fail(r, TMPL_RUNTIME, "argument must be iterable");
	if (vec_of(r, v, &l, &n))
		return val_err;
	while (n > 0)
		if (!vec_add(r, &out, l[--n]))
			return val_err;
	return val_list(out.v, out.n);
}

FILTER(f_join)
{
	static const char *const names[] = { "d", "attribute" };
	struct val arg[2], x, d = val_str("", 0);
	struct sb b = SB_INIT;
	struct iter *it;
	int rc, n = 0;

	if (bind_args(r, "join", a, names, 0, 2, arg) || !(it = iter_of(r, v)))
		return val_err;
	if (arg[0].t != V_MISSING && (d = val_text(r, arg[0])).t == V_ERR)
		return d;
	while ((rc = iter_next(r, it, &x)) == 1) {
		if (n++)
			sb_add(&b, d.s, d.n);
		if ((x = attr_path(r, x, arg[1], val_missing)).t == V_ERR || text_add(r, &b, x))
			rc = -1;
		else if (b.len > r->max_output)
			rt_fail(r, TMPL_LIMIT, "a text of more than %zu MiB", r->max_output >> 20), rc = -1;
		if (rc < 0)
			break;
	}
	if (rc < 0) {
		sb_release(&b);
		return val_err;
	}
	return rt_take(r, &b);
}

/* --- map, select and their kin --- */
static struct val no_such(struct rt *r, struct iter *it)
{
	return rt_fail(r, TMPL_RUNTIME, "no %s named '%.*s' found", it->negate ? "test" : "filter", (int)it->attr.n, it->attr.s);
}

static struct val unknown(struct rt *r, struct val name, bool test)
{
	struct iter *it = iter_new(r, IT_LATER, val_none);

	if (it) {
		it->make = no_such;
		it->attr = name.t == V_STR ? name : val_cstr("?");
		it->negate = test;
	}
	return val_iter(it);
}

/* The arguments behind the first n, kept for as long as the generator. */
static bool rest_args(struct rt *r, const struct args *a, uint32_t n, struct args *out)
{
	struct val *pos = rt_alloc(r, a->n_pos * sizeof(*pos));
	struct kwarg *kw = rt_alloc(r, a->n_kw * sizeof(*kw));

	if (!pos || !kw)
		return false;
	if (a->n_pos > n)
		memcpy(pos, a->pos + n, (a->n_pos - n) * sizeof(*pos));
	if (a->n_kw)
		memcpy(kw, a->kw, a->n_kw * sizeof(*kw));
	*out = (struct args){ pos, kw, a->n_pos > n ? a->n_pos - n : 0, a->n_kw };
	return true;
}

FILTER(f_map)
{
	static const char *const names[] = { "attribute", "default" };
	struct iter *it;
	struct val arg[2] = { val_missing, val_missing };
	const struct builtin *fn = NULL;

	if (!val_truth(v))
		return val_iter(iter_new(r, IT_EMPTY, v));
	if (a->n_pos == 0) {
		if (bind_args(r, "map", a, names, 0, 2, arg))
			return val_err;
		if (arg[0].t == V_MISSING)
			return rt_fail(r, TMPL_RUNTIME, "map requires a filter argument");
	} else if (a->pos[0].t != V_STR || !(fn = filter_find(a->pos[0].s, a->pos[0].n))) {
		return unknown(r, a->pos[0], false);
	}
	if (!(it = iter_new(r, IT_MAP, v)))
		return val_err;
	it->attr = arg[0];
	it->dflt = arg[1];
	it->fn = fn;
	if (fn && !rest_args(r, a, 1, &it->args))
		return val_err;
	return val_iter(it);
}

static struct val selected(struct rt *r, struct val v, const struct args *a, bool negate, bool by_attr)
{
	uint32_t off = by_attr;
	struct iter *it;

	if (!val_truth(v))
		return val_iter(iter_new(r, IT_EMPTY, v));
	if (by_attr && a->n_pos == 0)
		return rt_fail(r, TMPL_RUNTIME, "missing parameter for attribute name");
	const struct builtin *fn = NULL;
	if (a->n_pos > off && (a->pos[off].t != V_STR || !(fn = test_find(a->pos[off].s, a->pos[off].n))))
		return unknown(r, a->pos[off], true);
	if (!(it = iter_new(r, IT_SELECT, v)))
		return val_err;
	it->attr = by_attr ? a->pos[0] : val_missing;
	it->negate = negate;
	it->fn = fn;
	if (fn && !rest_args(r, a, off + 1, &it->args))
		return val_err;
	return val_iter(it);
}

FILTER(f_select)
{
	return selected(r, v, a, false, false);
}

FILTER(f_reject)
{
	return selected(r, v, a, true, false);
}

FILTER(f_selectattr)
{
	return selected(r, v, a, false, true);
}

FILTER(f_rejectattr)
{
	return selected(r, v, a, true, true);
}

/* --- generators that are computed as a whole when first asked --- */
static struct val later(struct rt *r, struct val v, const struct val *arg, uint32_t n, struct val (*make)(struct rt *, struct iter *))
{
	struct iter *it = iter_new(r, IT_LATER, v);
	struct val *keep = rt_alloc(r, n * sizeof(*keep));

	if (!it || !keep)
		return val_err;
	if (n)
		memcpy(keep, arg, n * sizeof(*keep));
	it->attr = val_tuple(keep, n);
	it->make = make;
	return val_iter(it);
}

static struct val make_items(struct rt *r, struct iter *it)
{
	struct vec out = { 0 };

	if (it->src.t == V_UNDEF)
		return val_list(NULL, 0);
	if (!is_type(it->src, T_DICTS))
		return rt_fail(r, TMPL_TYPE, "can only get item pairs from a mapping");
	const struct dict *d = dict_of(r, it->src);
	for (uint32_t i = 0; d && i < d->n; i++) {
		struct val *kv = rt_alloc(r, 2 * sizeof(*kv));

		if (!kv)
			return val_err;
		kv[0] = d->p[i].k;
		kv[1] = d->p[i].v;
		if (!vec_add(r, &out, val_tuple(kv, 2)))
			return val_err;
	}
	return d ? val_list(out.v, out.n) : val_err;
}

FILTER(f_items)
{
	return bind_args(r, "items", a, NULL, 0, 0, NULL) ? val_err : later(r, v, NULL, 0, make_items);
}

static struct val make_batch(struct rt *r, struct iter *it)
{
	const struct val *l, *arg = it->attr.l;
	struct vec out = { 0 };
	uint32_t n;
	int64_t count;

	if (vec_of(r, it->src, &l, &n) || !arg_int(r, "batch", arg[0], &count))
		return val_err;
	count = count < 1 ? 1 : count;
	for (uint32_t i = 0; i < n; i += (uint32_t)count) {
		struct vec row = { 0 };

		for (uint32_t k = i; k < n && k - i < count; k++)
			if (!vec_add(r, &row, l[k]))
				return val_err;
		while (arg[1].t != V_MISSING && arg[1].t != V_NONE && row.n < count)
			if (!vec_add(r, &row, arg[1]))
				return val_err;
		if (!vec_add(r, &out, val_list(row.v, row.n)))
			return val_err;
		if (count > (int64_t)n)
			break;
	}
	return val_list(out.v, out.n);
}

FILTER(f_batch)
{
	static const char *const names[] = { "linecount", "fill_with" };
	struct val arg[2];

	return bind_args(r, "batch", a, names, 1, 2, arg) ? val_err : later(r, v, arg, 2, make_batch);
}

static struct val make_slice(struct rt *r, struct iter *it)
{
	const struct val *l, *arg = it->attr.l;
	struct vec out = { 0 };
	uint32_t n, at = 0;
	int64_t slices;

	if (vec_of(r, it->src, &l, &n) || !arg_int(r, "slice", arg[0], &slices))
		return val_err;
	if (slices == 0)
		return rt_fail(r, TMPL_VALUE, "division by zero");
	for (int64_t i = 0; i < slices; i++) {
		uint32_t take = (uint32_t)(n / slices + (i < n % slices));
		struct vec row = { 0 };

		for (uint32_t k = 0; k < take; k++)
			if (!vec_add(r, &row, l[at++]))
				return val_err;
		if (arg[1].t != V_MISSING && arg[1].t != V_NONE && i >= n % slices && !vec_add(r, &row, arg[1]))
			return val_err;
		if (!vec_add(r, &out, val_list(row.v, row.n)))
			return val_err;
	}
	return val_list(out.v, out.n);
}

FILTER(f_slice)
{
	static const char *const names[] = { "slices", "fill_with" };
	struct val arg[2];

	return bind_args(r, "slice", a, names, 1, 2, arg) ? val_err : later(r, v, arg, 2, make_slice);
}

static struct val fold_case(struct rt *r, struct val v, bool case_sensitive)
{
	static const struct args none;

	if (v.t != V_STR || case_sensitive)
		return v;
	v.f = 0;
	return m_lower(r, v, &none);
}

static struct val make_unique(struct rt *r, struct iter *it)
{
	const struct val *arg = it->attr.l;
	struct dict *seen = dict_new(r, 0);
	struct iter *in = iter_of(r, it->src);
	struct vec out = { 0 };
	struct val x, k;
	int rc;

	if (!seen || !in)
		return val_err;
	while ((rc = iter_next(r, in, &x)) == 1) {
		k = attr_path(r, x, arg[1], val_missing);
		if (k.t == V_ERR || (k = fold_case(r, k, val_truth(arg[0]))).t == V_ERR)
			return val_err;
		uint32_t before = seen->n;
		if (!dict_put(r, seen, k, val_none) || (seen->n > before && !vec_add(r, &out, x)))
			return val_err;
	}
	return rc < 0 ? val_err : val_list(out.v, out.n);
}

FILTER(f_unique)
{
	static const char *const names[] = { "case_sensitive", "attribute" };
	struct val arg[2];

	return bind_args(r, "unique", a, names, 0, 2, arg) ? val_err : later(r, v, arg, 2, make_unique);
}

/* --- order --- */
struct keyed {
	struct val key, item;
};

/* Stable merge sort; -1 when two keys have no order. */
static int sort_keyed(struct rt *r, struct keyed *v, struct keyed *tmp, uint32_t n, bool reverse)
{
	uint32_t half = n / 2, i = 0, k = half, o = 0;
	int c;

	if (n < 2)
		return 0;
	if (sort_keyed(r, v, tmp, half, reverse) || sort_keyed(r, v + half, tmp, n - half, reverse))
		return -1;
	while (i < half && k < n) {
		if (rt_steps(r, 1) || !val_order(r, v[k].key, v[i].key, "<", &c))
			return -1;
		tmp[o++] = (reverse ? c > 0 : c == -1) ? v[k++] : v[i++];
	}
	while (i < half)
		tmp[o++] = v[i++];
	while (k < n)
		tmp[o++] = v[k++];
	memcpy(v, tmp, n * sizeof(*v));
	return 0;
}

static struct keyed *keyed_new(struct rt *r, uint32_t n)
{
	return rt_alloc(r, 2 * (size_t)n * sizeof(struct keyed)); /* the second half is for sorting */
}

/* The list of keys that "a,b" names: a list also for one, since lists compare
 * equal items without asking which is less. */
static struct val sort_key(struct rt *r, struct val x, struct val attr, bool case_sensitive)
{
	struct vec keys = { 0 };

	if (attr.t != V_STR || !memchr(attr.s, ',', attr.n)) {
		x = attr_path(r, x, attr, val_missing);
		if (x.t == V_ERR || (x = fold_case(r, x, case_sensitive)).t == V_ERR || !vec_add(r, &keys, x))
			return val_err;
		return val_list(keys.v, keys.n);
	}
	for (const char *p = attr.s, *end = p + attr.n; p <= end;) {
		const char *comma = memchr(p, ',', (size_t)(end - p));
		struct val k = attr_path(r, x, val_str(p, (size_t)((comma ? comma : end) - p)), val_missing);

		if (k.t == V_ERR || (k = fold_case(r, k, case_sensitive)).t == V_ERR || !vec_add(r, &keys, k))
			return val_err;
		p = comma ? comma + 1 : end + 1;
	}
	return val_list(keys.v, keys.n);
}

static struct val sorted(struct rt *r, struct keyed *k, uint32_t n, bool reverse)
{
	struct val *out = rt_alloc(r, n * sizeof(*out));

	if (!out || sort_keyed(r, k, k + n, n, reverse))
		return val_err;
	for (uint32_t i = 0; i < n; i++)
		out[i] = k[i].item;
	return val_list(out, n);
}

FILTER(f_sort)
{
	static const char *const names[] = { "reverse", "case_sensitive", "attribute" };
	struct val arg[3];
	const struct val *l;
	struct keyed *k;
	uint32_t n;

	if (bind_args(r, "sort", a, names, 0, 3, arg) || vec_of(r, v, &l, &n) || !(k = keyed_new(r, n)))
		return val_err;
	for (uint32_t i = 0; i < n; i++) {
		k[i].item = l[i];
		if ((k[i].key = sort_key(r, l[i], arg[2], val_truth(arg[1]))).t == V_ERR)
			return val_err;
	}
	return sorted(r, k, n, val_truth(arg[0]));
}

FILTER(f_dictsort)
{
	static const char *const names[] = { "case_sensitive", "by", "reverse" };
	struct val arg[3], items;
	struct keyed *k;
	bool by_value = false;

	if (bind_args(r, "dictsort", a, names, 0, 3, arg))
		return val_err;
	if (arg[1].t != V_MISSING) {
		by_value = val_equal(arg[1], val_cstr("value"));
		if (!by_value && !val_equal(arg[1], val_cstr("key")))
			return rt_fail(r, TMPL_RUNTIME, "you can only sort by either \"key\" or \"value\"");
	}
	if (v.t == V_UNDEF)
		return rt_undef_fail(r, v);
	if (!is_type(v, T_DICTS))
		return rt_fail(r, TMPL_TYPE, "'%s' object has no attribute 'items'", type_name(v));
	struct iter it = { .src = v };
	if ((items = make_items(r, &it)).t == V_ERR || !(k = keyed_new(r, items.n)))
		return val_err;
	for (uint32_t i = 0; i < items.n; i++) {
		k[i].item = items.l[i];
		if ((k[i].key = fold_case(r, items.l[i].l[by_value], val_truth(arg[0]))).t == V_ERR)
			return val_err;
	}
	return sorted(r, k, items.n, val_truth(arg[2]));
}

FILTER(f_groupby)
{
	static const char *const names[] = { "attribute", "default", "case_sensitive" };
	struct val arg[3], items;
	const struct val *l;
	struct vec out = { 0 };
	struct keyed *k;
	uint32_t n;

	if (bind_args(r, "groupby", a, names, 1, 3, arg) || vec_of(r, v, &l, &n) || !(k = keyed_new(r, n)))
		return val_err;
	for (uint32_t i = 0; i < n; i++) {
		k[i].item = l[i];
		k[i].key = attr_path(r, l[i], arg[0], arg[1]);
		if (k[i].key.t == V_ERR || (k[i].key = fold_case(r, k[i].key, val_truth(arg[2]))).t == V_ERR)
			return val_err;
	}
	items = sorted(r, k, n, false);
	for (uint32_t i = 0, e; items.t != V_ERR && i < n; i = e) {
		struct val *pair = rt_alloc(r, 2 * sizeof(*pair));

		for (e = i + 1; e < n && rt_equal(r, k[i].key, k[e].key); e++)
			;
		if (!pair)
			return val_err;
		pair[0] = attr_path(r, items.l[i], arg[0], arg[1]);
		pair[1] = val_list(items.l + i, e - i);
		struct val t = val_tuple(pair, 2);
		t.f = TUPLE_GROUP;
		if (!vec_add(r, &out, t))
			return val_err;
	}
	return items.t == V_ERR ? items : val_list(out.v, out.n);
}

static struct val extreme(struct rt *r, struct val v, const struct args *a, int sign)
{
	static const char *const names[] = { "case_sensitive", "attribute" };
	struct val arg[2], x, k, best = val_missing, best_key = val_missing;
	struct iter *it;
	int rc, c;

	if (bind_args(r, "min", a, names, 0, 2, arg) || !(it = iter_of(r, v)))
		return val_err;
	while ((rc = iter_next(r, it, &x)) == 1) {
		k = attr_path(r, x, arg[1], val_missing);
		if (k.t == V_ERR || (k = fold_case(r, k, val_truth(arg[0]))).t == V_ERR)
			return val_err;
		if (best.t != V_MISSING) {
			if (!val_order(r, k, best_key, sign < 0 ? "<" : ">", &c))
				return val_err;
			if (c != sign)
				continue;
		}
		best = x;
		best_key = k;
	}
	if (rc < 0)
		return val_err;
	return best.t == V_MISSING ? undef_hint("No aggregated item, sequence was empty.") : best;
}

FILTER(f_min)
{
	return extreme(r, v, a, -1);
}

FILTER(f_max)
{
	return extreme(r, v, a, 1);
}

FILTER(f_sum)
{
	static const char *const names[] = { "attribute", "start" };
	struct val arg[2], x, sum;
	struct iter *it;
	int rc;

	if (bind_args(r, "sum", a, names, 0, 2, arg) || !(it = iter_of(r, v)))
		return val_err;
	sum = arg[1].t == V_MISSING ? val_int(0) : arg[1];
	if (sum.t == V_STR)
		return rt_fail(r, TMPL_TYPE, "sum() can't sum strings [use ''.join(seq) instead]");
	while ((rc = iter_next(r, it, &x)) == 1) {
		x = attr_path(r, x, arg[0], val_missing);
		if (x.t == V_ERR || (sum = op_binary(r, OP_ADD, sum, x)).t == V_ERR)
			return val_err;
	}
	return rc < 0 ? val_err : sum;
}

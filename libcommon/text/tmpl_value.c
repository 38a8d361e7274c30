/* Values: making them, comparing them as Python does, and the dict. */
#include <errno.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/hash.h"
#include "base/num.h"
#include "text/tmpl_impl.h"

#define DICT_LINEAR 12  /* up to here a dict is searched from end to end */
#define VALUE_DEPTH 600 /* nesting that is followed in comparisons and text forms */

const struct val val_err = { .t = V_ERR };
const struct val val_missing = { .t = V_MISSING };
const struct val val_none = { .t = V_NONE };
const struct val val_true = { .t = V_BOOL, .i = 1 };
const struct val val_false = { .t = V_BOOL, .i = 0 };

struct val rt_fail(struct rt *r, enum tmpl_why why, const char *fmt, ...)
{
	char msg[900];
	va_list ap;

	if (r->e->code != LP_OK)
		return val_err;
	va_start(ap, fmt);
	vsnprintf(msg, sizeof(msg), fmt, ap);
	va_end(ap);
	r->render->why = why;
	if (why == TMPL_RAISED)
		err_set(r->e, LP_DATA, "the template refuses this input: %s", msg);
	else
		err_set(r->e, LP_DATA, "template line %u: %s", r->line, msg);
	return val_err;
}

struct val rt_undef_fail(struct rt *r, struct val u)
{
	int n = u.n > 200 ? 200 : (int)u.n;
	static const char *const of[] = { [V_UNDEF] = "undefined", [V_NONE] = "None", [V_BOOL] = "bool object", [V_INT] = "int object",
		[V_FLOAT] = "float object", [V_STR] = "str object", [V_LIST] = "list object", [V_JARR] = "list object", [V_TUPLE] = "tuple object",
		[V_DICT] = "dict object", [V_JOBJ] = "dict object", [V_NS] = "namespace object", [V_LOOP] = "loop object" };
	const char *obj = u.aux < sizeof(of) / sizeof(of[0]) && of[u.aux] ? of[u.aux] : "object";

	switch (u.f) {
	case U_NAME:
		return rt_fail(r, TMPL_UNDEFINED, "'%.*s' is undefined", n, u.s);
	case U_ATTR:
		return rt_fail(r, TMPL_UNDEFINED, "'%s' has no attribute '%.*s'", obj, n, u.s);
	case U_ELEM:
		return rt_fail(r, TMPL_UNDEFINED, "%s has no element %lld", obj, (long long)u.i);
	case U_UNSAFE:
		return rt_fail(r, TMPL_SECURITY, "access to attribute '%.*s' of '%s' is unsafe", n, u.s, obj);
	default:
		return rt_fail(r, TMPL_UNDEFINED, "%.*s", n, u.s);
	}
}

struct val undef_hint(const char *text)
{
	struct val v = { .t = V_UNDEF, .f = U_HINT, .n = (uint32_t)strlen(text), .s = text };
	return v;
}

/* Bytes of all strings in v. */
static uint64_t weight(const struct json *v)
{
	uint64_t n = v->type == JSON_STR ? v->n : 0;

	for (uint32_t i = 0; v->type == JSON_ARR && i < v->n; i++)
		n += weight(&v->items[i]);
	for (uint32_t i = 0; v->type == JSON_OBJ && i < v->n; i++)
		n += v->members[i].key_len + weight(&v->members[i].val);
	return n;
}

/* A large record may cost more: it is weighed once, when it comes to that. */
int rt_out_of_steps(struct rt *r)
{
	if (r->vars && !r->weighed) {
		r->weighed = true;
		r->max_steps += 8 * weight(r->vars);
		if (r->steps <= r->max_steps)
			return 0;
	}
	rt_fail(r, TMPL_LIMIT, "more than %llu steps: the template does not end, or the record is too large for it", (unsigned long long)r->max_steps);
	return -1;
}

void *rt_alloc(struct rt *r, size_t bytes)
{
	if (bytes > r->max_memory || r->a->total > r->max_memory - bytes) {
		rt_fail(r, TMPL_LIMIT, "the template needs more than %zu MiB for one record", r->max_memory >> 20);
		return NULL;
	}
	return arena_alloc(r->a, bytes ? bytes : 1);
}

struct val rt_str(struct rt *r, const char *s, size_t n)
{
	char *p;

	if (n > UINT32_MAX)
		return rt_fail(r, TMPL_LIMIT, "a string of more than 4 GiB");
	if (!(p = rt_alloc(r, n)))
		return val_err;
	if (n)
		memcpy(p, s, n);
	return val_str(p, n);
}

struct val rt_take(struct rt *r, struct sb *b)
{
	struct val v = r->e->code == LP_OK ? rt_str(r, b->s, b->len) : val_err;

	sb_release(b);
	return v;
}

const char *type_name(struct val v)
{
	static const char *const names[] = { [V_ERR] = "error", [V_MISSING] = "missing", [V_UNDEF] = "Undefined", [V_NONE] = "NoneType",
		[V_BOOL] = "bool", [V_INT] = "int", [V_BIG] = "int", [V_FLOAT] = "float", [V_STR] = "str", [V_LIST] = "list", [V_TUPLE] = "tuple",
		[V_DICT] = "dict", [V_JARR] = "list", [V_JOBJ] = "dict", [V_RANGE] = "range", [V_VIEW] = "dict view", [V_ITER] = "generator",
		[V_NS] = "Namespace", [V_MACRO] = "Macro", [V_FUNC] = "function", [V_METHOD] = "method", [V_LOOP] = "LoopContext",
		[V_CYCLER] = "Cycler", [V_JOINER] = "Joiner", [V_SELF] = "TemplateReference", [V_SLICE] = "slice" };

	return v.t == V_STR && v.f & STR_MARKUP ? "Markup" : names[v.t];
}

static struct val number_from_json(const struct json *j)
{
	char *end;

	for (uint32_t i = 0; i < j->n; i++)
		if (j->s[i] == '.' || (j->s[i] | 32) == 'e')
			return val_float(strtod(j->s, NULL));
	if (j->n < 18) { /* fits, and cannot overflow on the way */
		int64_t v = 0;
		bool neg = j->s[0] == '-';

		for (uint32_t i = neg; i < j->n; i++)
			v = 10 * v + (j->s[i] - '0');
		return val_int(neg ? -v : v);
	}
	errno = 0;
	int64_t v = strtoll(j->s, &end, 10);
	if (errno == ERANGE)
		return (struct val){ .t = V_BIG, .n = j->n, .s = j->s };
	return val_int(v);
}

struct val val_from_json(const struct json *j)
{
	struct val v = { .t = V_NONE };

	switch (j->type) {
	case JSON_NULL:
		return v;
	case JSON_BOOL:
		return val_bool(j->b);
	case JSON_NUM:
		return number_from_json(j);
	case JSON_STR:
		return val_str(j->s, j->n);
	case JSON_ARR:
		v.t = V_JARR;
		break;
	case JSON_OBJ:
		v.t = V_JOBJ;
		break;
	}
	v.n = j->n;
	v.j = j;
	return v;
}

bool val_truth(struct val v)
{
	int64_t len;

	switch (v.t) {
	case V_UNDEF: case V_NONE: case V_MISSING: case V_ERR:
		return false;
	case V_BOOL: case V_INT:
		return v.i != 0;
	case V_FLOAT:
		return v.d != 0;
	case V_STR: case V_LIST: case V_TUPLE: case V_JARR: case V_JOBJ:
		return v.n != 0;
	case V_DICT: case V_RANGE: case V_VIEW:
		return val_len(v, &len) && len > 0;
	default:
		return true;
	}
}

bool val_len(struct val v, int64_t *len)
{
	switch (v.t) {
	case V_UNDEF:
		*len = 0;
		return true;
	case V_STR:
		*len = (int64_t)uni_count(v.s, v.n);
		return true;
	case V_LIST: case V_TUPLE: case V_JARR:
		*len = v.n;
		return true;
	case V_JOBJ: /* a key that comes twice counts once */
		*len = v.n;
		for (uint32_t i = 0; v.n <= 64 && i < v.n; i++)
			for (uint32_t k = i + 1; k < v.n; k++)
				if (v.j->members[i].key_len == v.j->members[k].key_len &&
				    memcmp(v.j->members[i].key, v.j->members[k].key, v.j->members[i].key_len) == 0) {
					--*len;
					break;
				}
		return true;
	case V_DICT:
		*len = v.dict->n;
		return true;
	case V_RANGE:
		*len = v.range->len;
		return true;
	case V_VIEW:
		*len = v.view->d->n;
		return true;
	default:
		return false;
	}
}

struct val seq_at(struct val seq, uint32_t i)
{
	return seq.t == V_JARR ? val_from_json(&seq.j->items[i]) : seq.l[i];
}

/* --- comparison --- */
static bool is_num(struct val v)
{
	return is_type(v, T_NUMS);
}

static double num_as_double(struct val v)
{
	char buf[64];

	if (v.t == V_FLOAT)
		return v.d;
	if (v.t != V_BIG)
		return (double)v.i;
	snprintf(buf, sizeof(buf), "%.*s%s", v.n > 50 ? 50 : (int)v.n, v.s, "");
	double d = strtod(buf, NULL);
	return v.n > 50 ? d * pow(10, v.n - 50.0) : d;
}

/* -2: not comparable (NaN) */
static int num_order(struct val a, struct val b)
{
	if (is_type(a, T_INTS) && is_type(b, T_INTS))
		return a.i < b.i ? -1 : a.i > b.i;
	if (a.t == V_BIG && b.t == V_BIG) {
		bool na = a.s[0] == '-', nb = b.s[0] == '-';

		if (na != nb)
			return na ? -1 : 1;
		int c = a.n != b.n ? (a.n < b.n ? -1 : 1) : memcmp(a.s, b.s, a.n);
		return na ? (c < 0) - (c > 0) : (c > 0) - (c < 0);
	}
	if (is_type(a, T_INTS) && b.t == V_BIG)
		return b.s[0] == '-' ? 1 : -1;
	if (a.t == V_BIG && is_type(b, T_INTS))
		return a.s[0] == '-' ? -1 : 1;
	/* long double holds every 64-bit integer and every double */
	long double x = is_type(a, T_INTS) ? (long double)a.i : (long double)num_as_double(a);
	long double y = is_type(b, T_INTS) ? (long double)b.i : (long double)num_as_double(b);
	if (isnan(x) || isnan(y))
		return -2;
	return x < y ? -1 : x > y;
}

static bool equal_at(struct rt *r, struct val a, struct val b, int depth);

static bool dict_equal(struct rt *r, struct val a, struct val b, int depth)
{
	int64_t na, nb;

	if (!val_len(a, &na) || !val_len(b, &nb) || na != nb)
		return false;
	uint32_t n = a.t == V_JOBJ ? a.n : a.dict->n;
	for (uint32_t i = 0; i < n; i++) {
		struct val k = a.t == V_JOBJ ? val_str(a.j->members[i].key, a.j->members[i].key_len) : a.dict->p[i].k, x, y;

		if (!dict_get(a, k, &x) || !dict_get(b, k, &y) || !equal_at(r, x, y, depth + 1))
			return false;
	}
	return true;
}

/* r may be NULL: nothing is charged then. */
static bool equal_at(struct rt *r, struct val a, struct val b, int depth)
{
	if (depth > VALUE_DEPTH || (r && rt_read(r, a)))
		return false;
	if (a.t == V_STR || b.t == V_STR)
		return a.t == b.t && a.n == b.n && memcmp(a.s, b.s, a.n) == 0;
	if (is_num(a) && is_num(b))
		return num_order(a, b) == 0;
	if ((is_type(a, T_LISTS) && is_type(b, T_LISTS)) || (a.t == V_TUPLE && b.t == V_TUPLE)) {
		if (a.n != b.n)
			return false;
		for (uint32_t i = 0; i < a.n; i++)
			if (!equal_at(r, seq_at(a, i), seq_at(b, i), depth + 1))
				return false;
		return true;
	}
	if (is_type(a, T_DICTS) && is_type(b, T_DICTS))
		return dict_equal(r, a, b, depth);
	if (a.t != b.t)
		return false;
	switch (a.t) {
	case V_NONE: case V_UNDEF: case V_MISSING:
		return true;
	case V_RANGE:
		return a.range->len == b.range->len && (!a.range->len || (a.range->start == b.range->start && (a.range->len == 1 || a.range->step == b.range->step)));
	default:
		return a.s == b.s;
	}
}

bool val_equal(struct val a, struct val b)
{
	return equal_at(NULL, a, b, 0);
}

bool rt_equal(struct rt *r, struct val a, struct val b)
{
	return equal_at(r, a, b, 0);
}

bool val_same(struct val a, struct val b)
{
	if (a.t != b.t)
		return false;
	switch (a.t) {
	case V_NONE:
		return true;
	case V_BOOL: case V_INT:
		return a.i == b.i;
	case V_FLOAT:
		return a.d == b.d;
	case V_STR:
		return a.n == b.n && (a.s == b.s || memcmp(a.s, b.s, a.n) == 0);
	default:
		return a.s == b.s && a.n == b.n;
	}
}

static bool order_at(struct rt *r, struct val a, struct val b, const char *op, int *out, int depth)
{
	if (rt_read(r, a))
		return false;
	if (a.t == V_STR && b.t == V_STR) {
		int c = memcmp(a.s, b.s, a.n < b.n ? a.n : b.n); /* UTF-8 sorts as code points do */

		*out = c ? (c > 0) - (c < 0) : (a.n > b.n) - (a.n < b.n);
		return true;
	}
	if (is_num(a) && is_num(b)) {
		*out = num_order(a, b);
		return true;
	}
	if (a.t == V_UNDEF || b.t == V_UNDEF) {
		rt_undef_fail(r, a.t == V_UNDEF ? a : b);
		return false;
	}
	if (depth < VALUE_DEPTH && ((is_type(a, T_LISTS) && is_type(b, T_LISTS)) || (a.t == V_TUPLE && b.t == V_TUPLE))) {
		for (uint32_t i = 0; i < a.n && i < b.n; i++)
			if (!rt_equal(r, seq_at(a, i), seq_at(b, i)))
				return order_at(r, seq_at(a, i), seq_at(b, i), op, out, depth + 1);
		*out = (a.n > b.n) - (a.n < b.n);
		return true;
	}
	rt_fail(r, TMPL_TYPE, "'%s' not supported between instances of '%s' and '%s'", op, type_name(a), type_name(b));
	return false;
}

bool val_order(struct rt *r, struct val a, struct val b, const char *op, int *out)
{
	return order_at(r, a, b, op, out, 0);
}

/* --- dict --- */
bool val_hashable(struct rt *r, struct val v)
{
	if (rt_read(r, v)) /* who asks goes on to hash it */
		return false;
	if (v.t == V_TUPLE) {
		for (uint32_t i = 0; i < v.n; i++)
			if (!val_hashable(r, v.l[i]))
				return false;
		return true;
	}
	return !is_type(v, T_LISTS | T_DICTS | T(V_VIEW) | T(V_SLICE));
}

uint64_t val_hash(struct val v)
{
	uint64_t h = 0;

	switch (v.t) {
	case V_STR:
		return xxh_u64(v.s, v.n, 0);
	case V_FLOAT:
		if (v.d != floor(v.d) || fabs(v.d) > 9e18)
			return xxh_u64(&v.d, sizeof(v.d), 2);
		v.i = (int64_t)v.d;
		/* fall through */
	case V_BOOL: case V_INT:
		return xxh_u64(&v.i, sizeof(v.i), 1);
	case V_TUPLE:
		for (uint32_t i = 0; i < v.n; i++)
			h = h * 1000003 + val_hash(v.l[i]);
		return h;
	case V_NONE: case V_UNDEF:
		return v.t;
	default:
		return (uint64_t)(uintptr_t)v.s;
	}
}

struct dict *dict_new(struct rt *r, uint32_t cap)
{
	struct dict *d = rt_alloc(r, sizeof(*d));

	if (!d)
		return NULL;
	*d = (struct dict){ .cap = cap };
	if (cap && !(d->p = rt_alloc(r, cap * sizeof(*d->p))))
		return NULL;
	return d;
}

static struct pair *dict_find(const struct dict *d, struct val k)
{
	if (!d->n_idx) {
		for (uint32_t i = 0; i < d->n; i++)
			if (val_equal(d->p[i].k, k))
				return &d->p[i];
		return NULL;
	}
	for (uint64_t h = val_hash(k);; h++) {
		uint32_t i = d->idx[h & (d->n_idx - 1)];

		if (!i)
			return NULL;
		if (val_equal(d->p[i - 1].k, k))
			return &d->p[i - 1];
	}
}

static bool dict_index(struct rt *r, struct dict *d)
{
	d->n_idx = 64;
	while (d->n_idx < 3 * d->cap)
		d->n_idx *= 2;
	if (!(d->idx = rt_alloc(r, d->n_idx * sizeof(*d->idx))))
		return false;
	memset(d->idx, 0, d->n_idx * sizeof(*d->idx));
	for (uint32_t i = 0; i < d->n; i++) {
		uint64_t h = val_hash(d->p[i].k);

		while (d->idx[h & (d->n_idx - 1)])
			h++;
		d->idx[h & (d->n_idx - 1)] = i + 1;
	}
	return true;
}

bool dict_put(struct rt *r, struct dict *d, struct val k, struct val v)
{
	if (!val_hashable(r, k)) {
		rt_fail(r, TMPL_TYPE, "unhashable type: '%s'", type_name(k));
		return false;
	}
	if (is_hole(r, k)) {
		hole_look(r);
		return false;
	}
	struct pair *hit = dict_find(d, k);
	if (hit) {
		hit->v = v;
		return true;
	}
	if (d->n == d->cap) {
		uint32_t cap = d->cap ? 2 * d->cap : 4;
		struct pair *p = rt_alloc(r, cap * sizeof(*p));

		if (!p)
			return false;
		if (d->n)
			memcpy(p, d->p, d->n * sizeof(*p));
		d->p = p;
		d->cap = cap;
		d->n_idx = 0;
	}
	d->p[d->n++] = (struct pair){ k, v };
	if (d->n_idx) {
		uint64_t h = val_hash(k);

		while (d->idx[h & (d->n_idx - 1)])
			h++;
		d->idx[h & (d->n_idx - 1)] = d->n;
	} else if (d->n > DICT_LINEAR) {
		return dict_index(r, d);
	}
	return true;
}

const struct dict *dict_of(struct rt *r, struct val v)
{
	if (v.t == V_DICT)
		return v.dict;
	struct dict *d = dict_new(r, v.n);
	for (uint32_t i = 0; d && i < v.n; i++) {
		const struct json_member *m = &v.j->members[i];

		if (!dict_put(r, d, val_str(m->key, m->key_len), val_from_json(&m->val)))
			return NULL;
	}
	return d;
}

bool dict_get(struct val v, struct val k, struct val *out)
{
	if (v.t == V_JOBJ) {
		if (k.t != V_STR)
			return false;
		for (uint32_t i = v.n; i-- > 0;) {
			const struct json_member *m = &v.j->members[i];

			if (m->key_len == k.n && memcmp(m->key, k.s, k.n) == 0) {
				*out = val_from_json(&m->val);
				return true;
			}
		}
		return false;
	}
	struct pair *p = dict_find(v.dict, k);
	if (p)
		*out = p->v;
	return p != NULL;
}

bool vec_add(struct rt *r, struct vec *v, struct val x)
{
	if (v->n == v->cap) {
		uint32_t cap = v->cap ? 2 * v->cap : 8;
		struct val *p = rt_alloc(r, cap * sizeof(*p));

		if (!p)
			return false;
		if (v->n)
			memcpy(p, v->v, v->n * sizeof(*p));
		v->v = p;
		v->cap = cap;
	}
	v->v[v->n++] = x;
	return true;
}

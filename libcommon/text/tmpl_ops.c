/* Operators, attributes, items and slices, as Python and Jinja2's sandbox
 * have them. Integers are 64 bits wide; what would not fit is an error. */
#include <math.h>

#include "text/tmpl_impl.h"

static const char *const op_names[] = { "+", "-", "*", "/", "//", "%", "** or pow()", "==", "!=", "<", "<=", ">", ">=", "in", "not in" };

static struct val overflow(struct rt *r)
{
	return rt_fail(r, TMPL_LIMIT, "an integer beyond 64 bits");
}

bool val_index(struct val v, int64_t *out)
{
	if (!is_type(v, T_INTS))
		return false;
	*out = v.i;
	return true;
}

static double as_double(struct val v)
{
	return v.t == V_FLOAT ? v.d : (double)v.i;
}

static struct val zero_division(struct rt *r)
{
	return rt_fail(r, TMPL_VALUE, "division by zero");
}

static struct val float_op(struct rt *r, enum op op, double a, double b)
{
	double m;

	switch (op) {
	case OP_ADD:
		return val_float(a + b);
	case OP_SUB:
		return val_float(a - b);
	case OP_MUL:
		return val_float(a * b);
	case OP_DIV:
		return b == 0 ? zero_division(r) : val_float(a / b);
	case OP_POW:
		if (a == 0 && b < 0)
			return zero_division(r);
		if (a < 0 && b != floor(b))
			return rt_fail(r, TMPL_VALUE, "a complex number");
		return val_float(pow(a, b));
	default:
		if (b == 0)
			return zero_division(r);
		m = fmod(a, b);
		if (m != 0 && (b < 0) != (m < 0))
			m += b;
		else if (m == 0)
			m = copysign(0, b);
		if (op == OP_MOD)
			return val_float(m);
		double q = (a - m) / b, f = floor(q);
		if (q - f > 0.5)
			f += 1;
		return val_float(q == 0 ? copysign(0, a / b) : f);
	}
}

static struct val int_pow(struct rt *r, int64_t a, int64_t b)
{
	int64_t out = 1;

	if (b < 0)
		return float_op(r, OP_POW, (double)a, (double)b);
	while (b > 0) {
		if (b & 1 && __builtin_mul_overflow(out, a, &out))
			return overflow(r);
		b >>= 1;
		if (b && __builtin_mul_overflow(a, a, &a))
			return overflow(r);
	}
	return val_int(out);
}

static struct val int_op(struct rt *r, enum op op, int64_t a, int64_t b)
{
	int64_t out = 0;

	switch (op) {
	case OP_ADD:
		return __builtin_add_overflow(a, b, &out) ? overflow(r) : val_int(out);
	case OP_SUB:
		return __builtin_sub_overflow(a, b, &out) ? overflow(r) : val_int(out);
	case OP_MUL:
		return __builtin_mul_overflow(a, b, &out) ? overflow(r) : val_int(out);
	case OP_DIV:
		return b == 0 ? zero_division(r) : val_float((double)((long double)a / (long double)b));
	case OP_POW:
		return int_pow(r, a, b);
	default:
		if (b == 0)
			return zero_division(r);
		if (b == -1)
			return op == OP_MOD ? val_int(0) : int_op(r, OP_SUB, 0, a);
		out = a % b;
		if (out && (out < 0) != (b < 0))
			out += b;
		return op == OP_MOD ? val_int(out) : val_int((a - out) / b);
	}
}

/* str * n, list * n */
static struct val repeat(struct rt *r, struct val a, int64_t k)
{
	size_t n = k > 0 ? a.n : 0, count = k > 0 ? (size_t)k : 0;

	if (n && count > r->max_output / n)
		return rt_fail(r, TMPL_LIMIT, "a repetition of more than %zu MiB", r->max_output >> 20);
	if (rt_steps(r, n * count >> 4))
		return val_err;
	if (a.t == V_STR) {
		char *p = rt_alloc(r, n * count);

		for (size_t i = 0; p && i < count; i++)
			memcpy(p + i * n, a.s, n);
		struct val v = val_str(p, n * count);
		v.f = a.f;
		return p ? v : val_err;
	}
	struct val *l = rt_alloc(r, n * count * sizeof(*l));
	for (size_t i = 0; l && n && i < n * count; i++)
		l[i] = seq_at(a, (uint32_t)(i % n));
	if (!l)
		return val_err;
	return a.t == V_TUPLE ? val_tuple(l, n * count) : val_list(l, n * count);
}

static struct val join_seqs(struct rt *r, struct val a, struct val b)
{
	struct val *l = rt_alloc(r, ((size_t)a.n + b.n) * sizeof(*l));

	if (!l || rt_steps(r, (uint64_t)a.n + b.n))
		return val_err;
	for (uint32_t i = 0; i < a.n; i++)
		l[i] = seq_at(a, i);
	for (uint32_t i = 0; i < b.n; i++)
		l[a.n + i] = seq_at(b, i);
	return a.t == V_TUPLE ? val_tuple(l, (size_t)a.n + b.n) : val_list(l, (size_t)a.n + b.n);
}

static struct val bad_operands(struct rt *r, enum op op, struct val a, struct val b)
{
	if (a.t == V_UNDEF || b.t == V_UNDEF)
		return rt_undef_fail(r, a.t == V_UNDEF ? a : b);
	if (is_type(a, T_NUMS) && is_type(b, T_NUMS))
		return overflow(r); /* one is beyond 64 bits */
	if (op == OP_ADD && (a.t == V_STR || is_type(a, T_SEQS)))
		return rt_fail(r, TMPL_TYPE, "can only concatenate %s (not \"%s\") to %s", type_name(a), type_name(b), type_name(a));
	return rt_fail(r, TMPL_TYPE, "unsupported operand type(s) for %s: '%s' and '%s'", op_names[op], type_name(a), type_name(b));
}

struct val op_binary(struct rt *r, enum op op, struct val a, struct val b)
{
	if (op != OP_ADD && (is_hole(r, a) || is_hole(r, b)))
		return hole_look(r);
	if (a.t == V_STR) {
		if (op == OP_ADD && b.t == V_STR)
			return str_concat(r, a, b);
		if (op == OP_MOD)
			return format_percent(r, a, b);
	}
	if (is_type(a, T_INTS) && is_type(b, T_INTS))
		return int_op(r, op, a.i, b.i);
	if (is_type(a, T_NUMS) && is_type(b, T_NUMS) && a.t != V_BIG && b.t != V_BIG)
		return float_op(r, op, as_double(a), as_double(b));
	if (op == OP_ADD && ((is_type(a, T_LISTS) && is_type(b, T_LISTS)) || (a.t == V_TUPLE && b.t == V_TUPLE)))
		return join_seqs(r, a, b);
	if (op == OP_MUL && is_type(a, T_SEQS | T(V_STR)) && is_type(b, T_INTS))
		return repeat(r, a, b.i);
	if (op == OP_MUL && is_type(b, T_SEQS | T(V_STR)) && is_type(a, T_INTS))
		return repeat(r, b, a.i);
	return bad_operands(r, op, a, b);
}

struct val op_unary(struct rt *r, bool neg, struct val a)
{
	if (is_type(a, T_INTS))
		return neg ? int_op(r, OP_SUB, 0, a.i) : val_int(a.i);
	if (a.t == V_FLOAT)
		return val_float(neg ? -a.d : a.d);
	if (a.t == V_UNDEF)
		return rt_undef_fail(r, a);
	if (a.t == V_BIG)
		return neg ? overflow(r) : a;
	return rt_fail(r, TMPL_TYPE, "bad operand type for unary %s: '%s'", neg ? "-" : "+", type_name(a));
}

struct val op_compare(struct rt *r, enum op op, struct val a, struct val b)
{
	int c;

	if (is_hole(r, a) || is_hole(r, b))
		return hole_compare(r, op, a, b);
	switch (op) {
	case OP_EQ:
		return val_bool(rt_equal(r, a, b));
	case OP_NE:
		return val_bool(!rt_equal(r, a, b));
	case OP_IN:
	case OP_NOTIN:
		c = val_contains(r, b, a);
		return c < 0 ? val_err : val_bool((c == 1) == (op == OP_IN));
	default:
		if (!val_order(r, a, b, op_names[op], &c))
			return val_err;
		if (c == -2)
			return val_false;
		return val_bool(op == OP_LT ? c < 0 : op == OP_LE ? c <= 0 : op == OP_GT ? c > 0 : c >= 0);
	}
}

static int contains_items(struct rt *r, struct val in, struct val x)
{
	struct iter *it = iter_of(r, in);
	struct val v;
	int rc;

	if (!it)
		return -1;
	while ((rc = iter_next(r, it, &v)) == 1)
		if (rt_equal(r, v, x))
			return 1;
	return rc;
}

int val_contains(struct rt *r, struct val in, struct val x)
{
	struct val v;

	switch (in.t) {
	case V_STR:
		if (rt_read(r, in))
			return -1;
		if (x.t != V_STR) {
			rt_fail(r, TMPL_TYPE, "'in <string>' requires string as left operand, not %s", type_name(x));
			return -1;
		}
		return x.n == 0 || (x.n <= in.n && memmem(in.s, in.n, x.s, x.n) != NULL);
	case V_LIST: case V_TUPLE: case V_JARR:
		if (rt_steps(r, in.n))
			return -1;
		for (uint32_t i = 0; i < in.n; i++)
			if (rt_equal(r, seq_at(in, i), x))
				return 1;
		return 0;
	case V_DICT: case V_JOBJ:
		if (!val_hashable(r, x)) {
			rt_fail(r, TMPL_TYPE, "unhashable type: '%s'", type_name(x));
			return -1;
		}
		return dict_get(in, x, &v);
	case V_RANGE: case V_VIEW: case V_ITER: case V_UNDEF:
		return contains_items(r, in, x);
	default:
		rt_fail(r, TMPL_TYPE, "argument of type '%s' is not iterable", type_name(in));
		return -1;
	}
}

/* --- attributes --- */
static struct val bind_method(struct rt *r, struct val obj, const struct method *m)
{
	struct bound *b;

	if (!m->fn)
		return (struct val){ .t = V_UNDEF, .f = U_UNSAFE, .aux = obj.t, .n = (uint32_t)strlen(m->name), .s = m->name };
	if (!(b = rt_alloc(r, sizeof(*b))))
		return val_err;
	*b = (struct bound){ obj, m };
	return (struct val){ .t = V_METHOD, .bound = b };
}

static bool named(struct val name, const char *s)
{
	return name.n == strlen(s) && memcmp(name.s, s, name.n) == 0;
}

static struct val macro_attr(struct rt *r, const struct func *f, struct val name, bool *found)
{
	*found = true;
	if (named(name, "name"))
		return f->name;
	if (named(name, "catch_kwargs"))
		return val_bool(f->kwargs);
	if (named(name, "catch_varargs"))
		return val_bool(f->varargs);
	if (named(name, "caller"))
		return val_bool(f->caller);
	if (named(name, "explicit_caller"))
		return val_bool(f->explicit_caller);
	if (named(name, "arguments")) {
		struct val *l = rt_alloc(r, f->n_args * sizeof(*l));

		for (uint32_t i = 0; l && i < f->n_args; i++)
			l[i] = f->args[i]->c;
		return l ? val_tuple(l, f->n_args) : val_err;
	}
	*found = false;
	return val_none;
}

static struct val number_attr(struct val obj, struct val name, bool *found)
{
	*found = true;
	if (named(name, "real"))
		return obj.t == V_BOOL ? val_int(obj.i) : obj;
	if (named(name, "imag"))
		return obj.t == V_FLOAT ? val_float(0) : val_int(0);
	if (obj.t != V_FLOAT && named(name, "numerator"))
		return val_int(obj.i);
	if (obj.t != V_FLOAT && named(name, "denominator"))
		return val_int(1);
	*found = false;
	return val_none;
}

/* Python's getattr(obj, name): methods and attributes, not dict items. */
static struct val py_attr(struct rt *r, struct val obj, struct val name, const struct method *m, bool *found)
{
	const struct builtin *f;

	*found = true;
	if (m && (m = method_for(m, obj.t)))
		return bind_method(r, obj, m);
	switch (obj.t) {
	case V_NS:
		for (uint32_t i = 0; i < obj.ns->n; i++)
			if (val_equal(obj.ns->p[i].k, name))
				return obj.ns->p[i].v;
		break;
	case V_LOOP:
		return loop_attr(r, obj.loop, name, found);
	case V_MACRO:
		return macro_attr(r, obj.macro->fn, name, found);
	case V_TUPLE:
		if (obj.f & TUPLE_GROUP && (named(name, "grouper") || named(name, "list")))
			return obj.l[named(name, "list")];
		break;
	case V_BOOL: case V_INT: case V_FLOAT:
		return number_attr(obj, name, found);
	case V_CYCLER:
		if (named(name, "current"))
			return obj.cycler->items[obj.cycler->pos];
		break;
	case V_JOINER:
		if (named(name, "sep"))
			return obj.joiner->sep;
		if (named(name, "used"))
			return val_bool(obj.joiner->used);
		break;
	case V_FUNC:
		if (!strcmp(obj.fn->name, "dict") && named(name, "fromkeys") && (f = global_find("dict.fromkeys", 13)))
			return (struct val){ .t = V_FUNC, .fn = f };
		break;
	case V_SELF:
		for (uint32_t i = 0; i < r->t->n_blocks; i++)
			if (val_equal(r->t->blocks[i]->c, name))
				return (struct val){ .t = V_SELF, .n = i + 1 };
		break;
	default:
		break;
	}
	if (name.n > 4 && !memcmp(name.s, "__", 2) && !memcmp(name.s + name.n - 2, "__", 2))
		return (struct val){ .t = V_UNDEF, .f = U_UNSAFE, .aux = obj.t, .n = name.n, .s = name.s };
	*found = false;
	return val_none;
}

struct val attr_only(struct rt *r, struct val obj, struct val name)
{
	bool found;
	struct val v = obj.t == V_UNDEF ? rt_undef_fail(r, obj) : py_attr(r, obj, name, method_find(name.s, name.n), &found);

	if (v.t == V_ERR || found)
		return v;
	return (struct val){ .t = V_UNDEF, .f = U_ATTR, .aux = obj.t, .n = name.n, .s = name.s };
}

static struct val undef_attr(struct val obj, struct val name)
{
	return (struct val){ .t = V_UNDEF, .f = U_ATTR, .aux = obj.t, .n = name.n, .s = name.s };
}

struct val get_attr(struct rt *r, struct val obj, struct val name, const struct method *m)
{
	struct val v;
	bool found;

	if (is_type(obj, T_DICTS) && !m) {
		if (obj.n > 16 && obj.t == V_JOBJ && rt_read(r, obj))
			return val_err;
		if (dict_get(obj, name, &v))
			return v;
		return undef_attr(obj, name);
	}
	if (obj.t == V_UNDEF)
		return rt_undef_fail(r, obj);
	v = py_attr(r, obj, name, m, &found);
	if (found)
		return v;
	if (is_type(obj, T_DICTS) && dict_get(obj, name, &v))
		return v;
	return undef_attr(obj, name);
}

static struct val undef_elem(struct val obj, struct val key)
{
	return (struct val){ .t = V_UNDEF, .f = U_ELEM, .aux = obj.t, .i = is_type(key, T_INTS) ? key.i : 0 };
}

static struct val str_at(struct val s, int64_t i)
{
	int64_t n = (int64_t)uni_count(s.s, s.n);
	struct val v;

	i += i < 0 ? n : 0;
	if (i < 0 || i >= n)
		return val_missing;
	size_t at = uni_offset(s.s, s.n, (size_t)i), end = at + uni_offset(s.s + at, s.n - at, 1);
	v = val_str(s.s + at, end - at);
	v.f = s.f;
	return v;
}

/* obj[key] of Python; V_MISSING for the errors that getitem forgives. */
static struct val py_item(struct rt *r, struct val obj, struct val key)
{
	struct val v;
	int64_t i, n;

	if (is_type(obj, T_DICTS))
		return val_hashable(r, key) && dict_get(obj, key, &v) ? v : val_missing;
	if (!val_index(key, &i))
		return val_missing;
	if (obj.t == V_STR)
		return str_at(obj, i);
	if (!is_type(obj, T_SEQS | T(V_RANGE)) || !val_len(obj, &n))
		return val_missing;
	i += i < 0 ? n : 0;
	if (i < 0 || i >= n)
		return val_missing;
	return obj.t == V_RANGE ? val_int(obj.range->start + i * obj.range->step) : seq_at(obj, (uint32_t)i);
}

struct val get_item(struct rt *r, struct val obj, struct val key)
{
	struct val v;
	bool found;

	if (obj.t == V_UNDEF)
		return rt_undef_fail(r, obj);
	if (r->holes && ((obj.t == V_STR && hole_in(r, obj)) || hole_in(r, key)))
		return hole_look(r);
	if (rt_read(r, obj))
		return val_err;
	v = py_item(r, obj, key);
	if (v.t != V_MISSING)
		return v;
	if (key.t != V_STR)
		return undef_elem(obj, key);
	v = py_attr(r, obj, key, method_find(key.s, key.n), &found);
	return found ? v : undef_attr(obj, key);
}

/* --- slices --- */
static int slice_bound(struct rt *r, struct val v, int64_t len, int64_t dflt, int64_t low, int64_t high, int64_t *out)
{
	int64_t i;

	if (v.t == V_NONE) {
		*out = dflt;
		return 0;
	}
	if (!val_index(v, &i)) {
		rt_fail(r, TMPL_TYPE, "slice indices must be integers or None or have an __index__ method");
		return -1;
	}
	if (i < 0)
		i = i < -len ? low : i + len;
	*out = i < low ? low : i > high ? high : i;
	return 0;
}

static struct val slice_str(struct rt *r, struct val s, int64_t start, int64_t count, int64_t step)
{
	size_t at = uni_offset(s.s, s.n, (size_t)(start > 0 ? start : 0));
	struct val v;

	if (step == 1) {
		v = val_str(s.s + at, uni_offset(s.s + at, s.n - at, (size_t)count));
	} else {
		char *p = rt_alloc(r, s.n), *w = p;
		const char *q = s.s + at;

		if (!p || rt_steps(r, s.n))
			return val_err;
		for (int64_t i = 0; i < count; i++) {
			size_t one = (size_t)(uni_offset(q, (size_t)(s.s + s.n - q), 1));

			memcpy(w, q, one);
			w += one;
			for (int64_t k = 0; i + 1 < count && k < (step > 0 ? step : -step); k++) {
				if (step > 0)
					q += uni_offset(q, (size_t)(s.s + s.n - q), 1);
				else
					uni_prev(s.s, &q);
			}
		}
		v = val_str(p, (size_t)(w - p));
	}
	v.f = s.f;
	return v;
}

struct val get_slice(struct rt *r, struct val obj, struct val start, struct val stop, struct val step)
{
	int64_t n, a, b, by = 1;

	if (obj.t == V_UNDEF)
		return rt_undef_fail(r, obj);
	if (rt_read(r, obj))
		return val_err;
	if (obj.t == V_STR && is_hole(r, obj))
		return hole_look(r);
	if (!is_type(obj, T_SEQS | T(V_STR) | T(V_RANGE)) || !val_len(obj, &n))
		return rt_fail(r, TMPL_TYPE, "'%s' object is not subscriptable by a slice", type_name(obj));
	if (step.t != V_NONE && !val_index(step, &by))
		return rt_fail(r, TMPL_TYPE, "slice indices must be integers or None or have an __index__ method");
	if (by == 0)
		return rt_fail(r, TMPL_VALUE, "slice step cannot be zero");
	if (by < -INT64_MAX)
		by = -INT64_MAX;
	int64_t low = by > 0 ? 0 : -1, high = by > 0 ? n : n - 1;
	if (slice_bound(r, start, n, by > 0 ? low : high, low, high, &a) || slice_bound(r, stop, n, by > 0 ? high : low, low, high, &b))
		return val_err;
	int64_t count = by > 0 ? (b > a ? (b - a - 1) / by + 1 : 0) : (a > b ? (a - b - 1) / -by + 1 : 0);
	if (obj.t == V_STR)
		return slice_str(r, obj, a, count, by);
	if (obj.t == V_RANGE) {
		struct range *g = rt_alloc(r, sizeof(*g));

		if (!g)
			return val_err;
		*g = (struct range){ .start = obj.range->start + a * obj.range->step, .step = obj.range->step * by, .len = count };
		g->stop = g->start + count * g->step;
		return (struct val){ .t = V_RANGE, .range = g };
	}
	if (obj.t == V_LIST && by == 1)
		return val_list(obj.l + (count ? a : 0), (size_t)count);
	struct val *l = rt_alloc(r, (size_t)count * sizeof(*l));
	if (!l || rt_steps(r, (uint64_t)count))
		return val_err;
	for (int64_t i = 0; i < count; i++)
		l[i] = seq_at(obj, (uint32_t)(a + i * by));
	return obj.t == V_TUPLE ? val_tuple(l, (size_t)count) : val_list(l, (size_t)count);
}

/* "a.b.0" as the attribute arguments of filters have it; each missing part becomes dflt if given. */
struct val attr_path(struct rt *r, struct val obj, struct val path, struct val dflt)
{
	if (path.t == V_NONE || path.t == V_MISSING)
		return obj;
	if (path.t != V_STR) {
		obj = get_item(r, obj, path);
		return obj.t == V_UNDEF && dflt.t != V_NONE && dflt.t != V_MISSING ? dflt : obj;
	}
	const char *p = path.s, *end = path.s + path.n;
	for (;;) {
		const char *dot = memchr(p, '.', (size_t)(end - p));
		size_t n = (size_t)((dot ? dot : end) - p);
		struct val key = val_str(p, n);
		bool number = n > 0 && n < 18;
		int64_t i = 0;

		for (size_t k = 0; k < n && number; k++) {
			number = p[k] >= '0' && p[k] <= '9';
			i = i * 10 + (p[k] - '0');
		}
		obj = get_item(r, obj, number ? val_int(i) : key);
		if (obj.t == V_ERR)
			return obj;
		if (obj.t == V_UNDEF && dflt.t != V_NONE && dflt.t != V_MISSING)
			obj = dflt;
		if (!dot)
			return obj;
		p = dot + 1;
	}
}

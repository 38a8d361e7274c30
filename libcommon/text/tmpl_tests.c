/* Tests: what "is" asks. */
#include "text/tmpl_impl.h"

#define TEST(name) static struct val name(struct rt *r, struct val v, const struct args *a)
#define NO_ARGS(name) bind_args(r, name, a, NULL, 0, 0, NULL)
static const char *const no_names[4];
static const struct args none;

static struct val remainder_of(struct rt *r, struct val v, struct val by, int64_t want)
{
	struct val m = op_binary(r, OP_MOD, v, by);

	return m.t == V_ERR ? m : val_bool(val_equal(m, val_int(want)));
}

TEST(t_odd)
{
	return NO_ARGS("odd") ? val_err : remainder_of(r, v, val_int(2), 1);
}

TEST(t_even)
{
	return NO_ARGS("even") ? val_err : remainder_of(r, v, val_int(2), 0);
}

TEST(t_divisibleby)
{
	static const char *const names[] = { "num" };
	struct val by;

	return bind_args(r, "divisibleby", a, names, 1, 1, &by) ? val_err : remainder_of(r, v, by, 0);
}

TEST(t_defined)
{
	return NO_ARGS("defined") ? val_err : val_bool(v.t != V_UNDEF);
}

TEST(t_undefined)
{
	return NO_ARGS("undefined") ? val_err : val_bool(v.t == V_UNDEF);
}

TEST(t_filter)
{
	return NO_ARGS("filter") ? val_err : val_bool(v.t == V_STR && filter_find(v.s, v.n));
}

TEST(t_test)
{
	return NO_ARGS("test") ? val_err : val_bool(v.t == V_STR && test_find(v.s, v.n));
}

TEST(t_none)
{
	return NO_ARGS("none") ? val_err : val_bool(v.t == V_NONE);
}

TEST(t_boolean)
{
	return NO_ARGS("boolean") ? val_err : val_bool(v.t == V_BOOL);
}

TEST(t_false)
{
	return NO_ARGS("false") ? val_err : val_bool(v.t == V_BOOL && !v.i);
}

TEST(t_true)
{
	return NO_ARGS("true") ? val_err : val_bool(v.t == V_BOOL && v.i);
}

TEST(t_integer)
{
	return NO_ARGS("integer") ? val_err : val_bool(is_type(v, T(V_INT) | T(V_BIG)));
}

TEST(t_float)
{
	return NO_ARGS("float") ? val_err : val_bool(v.t == V_FLOAT);
}

TEST(t_lower)
{
	struct val s = val_text(r, v);

	return s.t == V_ERR || NO_ARGS("lower") ? val_err : m_islower(r, s, &none);
}

TEST(t_upper)
{
	struct val s = val_text(r, v);

	return s.t == V_ERR || NO_ARGS("upper") ? val_err : m_isupper(r, s, &none);
}

TEST(t_string)
{
	return NO_ARGS("string") ? val_err : val_bool(v.t == V_STR);
}

TEST(t_mapping)
{
	return NO_ARGS("mapping") ? val_err : val_bool(is_type(v, T_DICTS));
}

TEST(t_number)
{
	return NO_ARGS("number") ? val_err : val_bool(is_type(v, T_NUMS));
}

TEST(t_sequence)
{
	return NO_ARGS("sequence") ? val_err : val_bool(is_type(v, T_SEQS | T_DICTS | T(V_STR) | T(V_RANGE) | T(V_UNDEF)));
}

TEST(t_iterable)
{
	return NO_ARGS("iterable") ? val_err : val_bool(val_iterable(v));
}

TEST(t_callable)
{
	return NO_ARGS("callable") ? val_err : val_bool(is_type(v, T(V_MACRO) | T(V_FUNC) | T(V_METHOD) | T(V_LOOP) | T(V_JOINER) | T(V_UNDEF)));
}

TEST(t_sameas)
{
	static const char *const names[] = { "other" };
	struct val other;

	return bind_args(r, "sameas", a, names, 1, 1, &other) ? val_err : val_bool(val_same(v, other));
}

TEST(t_escaped)
{
	return NO_ARGS("escaped") ? val_err : val_bool(v.t == V_STR && v.f & STR_MARKUP);
}

static struct val compare(struct rt *r, struct val v, const struct args *a, enum op op)
{
	struct val b;

	return bind_args(r, "a comparison", a, no_names, 1, 1, &b) ? val_err : op_compare(r, op, v, b);
}

TEST(t_in)
{
	static const char *const names[] = { "seq" };
	struct val seq;

	return bind_args(r, "in", a, names, 1, 1, &seq) ? val_err : op_compare(r, OP_IN, v, seq);
}

TEST(t_eq)
{
	return compare(r, v, a, OP_EQ);
}

TEST(t_ne)
{
	return compare(r, v, a, OP_NE);
}

TEST(t_lt)
{
	return compare(r, v, a, OP_LT);
}

TEST(t_le)
{
	return compare(r, v, a, OP_LE);
}

TEST(t_gt)
{
	return compare(r, v, a, OP_GT);
}

TEST(t_ge)
{
	return compare(r, v, a, OP_GE);
}

static const struct builtin tests[] = {
	{ "odd", t_odd }, { "even", t_even }, { "divisibleby", t_divisibleby }, { "defined", t_defined }, { "undefined", t_undefined },
	{ "filter", t_filter }, { "test", t_test }, { "none", t_none }, { "boolean", t_boolean }, { "false", t_false }, { "true", t_true },
	{ "integer", t_integer }, { "float", t_float }, { "lower", t_lower }, { "upper", t_upper }, { "string", t_string },
	{ "mapping", t_mapping }, { "number", t_number }, { "sequence", t_sequence }, { "iterable", t_iterable }, { "callable", t_callable },
	{ "sameas", t_sameas }, { "escaped", t_escaped }, { "in", t_in }, { "==", t_eq }, { "eq", t_eq }, { "equalto", t_eq },
	{ "!=", t_ne }, { "ne", t_ne }, { ">", t_gt }, { "gt", t_gt }, { "greaterthan", t_gt }, { "ge", t_ge }, { ">=", t_ge },
	{ "<", t_lt }, { "lt", t_lt }, { "lessthan", t_lt }, { "<=", t_le }, { "le", t_le },
};

const struct builtin *test_find(const char *s, size_t n)
{
	for (size_t i = 0; i < sizeof(tests) / sizeof(tests[0]); i++)
		if (strlen(tests[i].name) == n && !memcmp(tests[i].name, s, n))
			return &tests[i];
	return NULL;
}

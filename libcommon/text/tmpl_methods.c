/* Methods of str, as Python 3 has them (splitting and searching: tmpl_strfind.c),
 * and the table of all methods. Those that would change a list or dict are in
 * it without a function: the sandbox refuses them. */
#include "text/tmpl_impl.h"

#define STR T(V_STR)

static struct val keep(struct val self, struct val v)
{
	if (v.t == V_STR)
		v.f = self.f;
	return v;
}

static struct val sub(struct val self, const char *s, size_t n)
{
	return keep(self, val_str(s, n));
}

static const char *const no_names[8];

static struct val strip(struct rt *r, struct val self, const struct args *a, bool left, bool right)
{
	struct val chars;
	const char *s = self.s;
	size_t n = self.n;

	if (bind_args(r, "strip", a, no_names, 0, 1, &chars))
		return val_err;
	bool space = chars.t == V_MISSING || chars.t == V_NONE;
	if (!space && chars.t != V_STR)
		return rt_fail(r, TMPL_TYPE, "strip arg must be None or str");
	uni_strip(&s, &n, left, right, space ? NULL : chars.s, space ? 0 : chars.n, space);
	if (rt_steps(r, (self.n - n) >> 1))
		return val_err;
	return sub(self, s, n);
}

struct val m_strip(struct rt *r, struct val self, const struct args *a)
{
	return strip(r, self, a, true, true);
}

static struct val m_lstrip(struct rt *r, struct val self, const struct args *a)
{
	return strip(r, self, a, true, false);
}

static struct val m_rstrip(struct rt *r, struct val self, const struct args *a)
{
	return strip(r, self, a, false, true);
}

/* --- making new strings --- */
struct val str_replace(struct rt *r, struct val self, struct val old, struct val new, int64_t max)
{
	struct sb b = SB_INIT;
	const char *p = self.s, *end = p + self.n, *hit;

	if (self.f & STR_MARKUP && (new = val_escape(r, new)).t == V_ERR)
		return new;
	if (rt_steps(r, self.n >> 5))
		return val_err;
	if (max == 0 || (old.n && !memmem(p, self.n, old.s, old.n)))
		return self;
	if (!old.n) { /* between all characters */
		for (int64_t k = 0; max < 0 || k < max; k++) {
			sb_add(&b, new.s, new.n);
			if (p >= end || b.len > r->max_output)
				break;
			const char *q = p;
			uni_next(&q, end);
			sb_add(&b, p, (size_t)(q - p));
			p = q;
		}
	} else {
		for (int64_t k = 0; (max < 0 || k < max) && b.len <= r->max_output && !rt_steps(r, 1) && (hit = memmem(p, (size_t)(end - p), old.s, old.n)); k++) {
			sb_add(&b, p, (size_t)(hit - p));
			sb_add(&b, new.s, new.n);
			p = hit + old.n;
		}
	}
	sb_add(&b, p, (size_t)(end - p));
	if (b.len > r->max_output) {
		sb_release(&b);
		return rt_fail(r, TMPL_LIMIT, "a text of more than %zu MiB", r->max_output >> 20);
	}
	return keep(self, rt_take(r, &b));
}

static struct val m_replace(struct rt *r, struct val self, const struct args *a)
{
	struct val arg[3];
	int64_t max = -1;

	if (bind_args(r, "replace", a, no_names, 2, 3, arg) || !arg_str(r, "replace", arg[0]) || !arg_str(r, "replace", arg[1]) ||
	    (arg[2].t != V_MISSING && !arg_int(r, "replace", arg[2], &max)))
		return val_err;
	return str_replace(r, self, arg[0], arg[1], max);
}

static struct val m_join(struct rt *r, struct val self, const struct args *a)
{
	struct val it, x;
	struct sb b = SB_INIT;
	struct iter *in;
	int rc, n = 0;

	if (bind_args(r, "join", a, no_names, 1, 1, &it) || !(in = iter_of(r, it)))
		return val_err;
	while ((rc = iter_next(r, in, &x)) == 1 && x.t == V_STR && b.len <= r->max_output) {
		if (n++)
			sb_add(&b, self.s, self.n);
		if (self.f & STR_MARKUP && !(x.f & STR_MARKUP))
			escape_add(&b, x.s, x.n);
		else
			sb_add(&b, x.s, x.n);
	}
	if (rc == 1 && x.t != V_STR)
		rt_fail(r, TMPL_TYPE, "sequence item %d: expected str instance, %s found", n, type_name(x));
	else if (rc == 1)
		rt_fail(r, TMPL_LIMIT, "a text of more than %zu MiB", r->max_output >> 20);
	if (rc) {
		sb_release(&b);
		return val_err;
	}
	return keep(self, rt_take(r, &b));
}

static struct val cased(struct rt *r, struct val self, const struct args *a, enum uni_case to)
{
	struct sb b = SB_INIT;

	if (bind_args(r, "case method", a, no_names, 0, 0, NULL) || rt_steps(r, 2 * (uint64_t)self.n))
		return val_err;
	uni_case_add(&b, self.s, self.n, to);
	return keep(self, rt_take(r, &b));
}

struct val m_upper(struct rt *r, struct val self, const struct args *a)
{
	return cased(r, self, a, UNI_UPPER);
}

struct val m_lower(struct rt *r, struct val self, const struct args *a)
{
	return cased(r, self, a, UNI_LOWER);
}

static struct val m_casefold(struct rt *r, struct val self, const struct args *a)
{
	return cased(r, self, a, UNI_FOLD);
}

static void add_mapped(struct sb *b, uint32_t c, enum uni_case to)
{
	uint32_t m[3];
	char buf[4];
	size_t n = uni_map(c, to, m);

	for (size_t i = 0; i < n; i++)
		sb_add(b, buf, uni_put(buf, m[i]));
}

/* A title-case first letter, the rest in lower case (which may look back for a final sigma). */
struct val m_capitalize(struct rt *r, struct val self, const struct args *a)
{
	struct sb b = SB_INIT, low = SB_INIT;
	const char *p = self.s, *end = p + self.n;

	if (bind_args(r, "capitalize", a, no_names, 0, 0, NULL) || rt_steps(r, 2 * (uint64_t)self.n))
		return val_err;
	if (p < end) {
		uint32_t first[3];
		char buf[4];
		uint32_t c = uni_next(&p, end);
		size_t skip = 0, n = uni_map(c, UNI_LOWER, first);

		add_mapped(&b, c, UNI_TITLE);
		uni_case_add(&low, self.s, self.n, UNI_LOWER);
		for (size_t i = 0; i < n; i++)
			skip += uni_put(buf, first[i]);
		sb_add(&b, low.s + skip, low.len - skip);
	}
	sb_release(&low);
	return keep(self, rt_take(r, &b));
}

static struct val by_word(struct rt *r, struct val self, const struct args *a, bool title)
{
	struct sb b = SB_INIT;
	const char *p = self.s, *end = p + self.n;
	bool in_word = false;

	if (bind_args(r, "title", a, no_names, 0, 0, NULL) || rt_steps(r, 2 * (uint64_t)self.n))
		return val_err;
	while (p < end) {
		const char *q = p;
		uint32_t c = uni_next(&q, end);

		bool lower = title ? in_word : uni_is_upper(c);

		if (lower && c == 0x3a3 && uni_final_sigma(self.s, p, q, end))
			sb_adds(&b, "\xcf\x82");
		else if (!title && !lower && !uni_is_lower(c))
			sb_add(&b, p, (size_t)(q - p));
		else
			add_mapped(&b, c, lower ? UNI_LOWER : title ? UNI_TITLE : UNI_UPPER);
		in_word = uni_is_cased(c);
		p = q;
	}
	return keep(self, rt_take(r, &b));
}

static struct val m_title(struct rt *r, struct val self, const struct args *a)
{
	return by_word(r, self, a, true);
}

static struct val m_swapcase(struct rt *r, struct val self, const struct args *a)
{
	return by_word(r, self, a, false);
}

/* align: -1 left, 0 centre, 1 right */
static struct val justify(struct rt *r, struct val self, const struct args *a, int align)
{
	struct val arg[2];
	struct sb b = SB_INIT;
	int64_t width, len = (int64_t)uni_count(self.s, self.n);

	if (bind_args(r, "center", a, no_names, 1, 2, arg) || !arg_int(r, "center", arg[0], &width))
		return val_err;
	if (arg[1].t == V_MISSING)
		arg[1] = val_str(" ", 1);
	if (arg[1].t != V_STR || uni_count(arg[1].s, arg[1].n) != 1)
		return rt_fail(r, TMPL_TYPE, "the fill character must be exactly one character long");
	if (width > 10000000)
		return rt_fail(r, TMPL_LIMIT, "a field wider than 10 million characters");
	int64_t pad = width > len ? width - len : 0;
	if (rt_steps(r, (uint64_t)pad >> 1))
		return val_err;
	int64_t left = align < 0 ? 0 : align > 0 ? pad : pad / 2 + (pad & width & 1);
	for (int64_t i = 0; i < left; i++)
		sb_add(&b, arg[1].s, arg[1].n);
	sb_add(&b, self.s, self.n);
	for (int64_t i = left; i < pad; i++)
		sb_add(&b, arg[1].s, arg[1].n);
	return keep(self, rt_take(r, &b));
}

struct val m_center(struct rt *r, struct val self, const struct args *a)
{
	return justify(r, self, a, 0);
}

static struct val m_ljust(struct rt *r, struct val self, const struct args *a)
{
	return justify(r, self, a, -1);
}

static struct val m_rjust(struct rt *r, struct val self, const struct args *a)
{
	return justify(r, self, a, 1);
}

static struct val m_zfill(struct rt *r, struct val self, const struct args *a)
{
	struct val w;
	struct sb b = SB_INIT;
	int64_t width, len = (int64_t)uni_count(self.s, self.n);

	if (bind_args(r, "zfill", a, no_names, 1, 1, &w) || !arg_int(r, "zfill", w, &width))
		return val_err;
	if (width > 10000000)
		return rt_fail(r, TMPL_LIMIT, "a field wider than 10 million characters");
	size_t sign = self.n && (self.s[0] == '-' || self.s[0] == '+');
	sb_add(&b, self.s, sign);
	for (int64_t i = len; i < width; i++)
		sb_addc(&b, '0');
	sb_add(&b, self.s + sign, self.n - sign);
	return keep(self, rt_take(r, &b));
}

static struct val m_expandtabs(struct rt *r, struct val self, const struct args *a)
{
	static const char *const names[] = { "tabsize" };
	struct val t;
	struct sb b = SB_INIT;
	int64_t size = 8, col = 0;

	if (bind_args(r, "expandtabs", a, names, 0, 1, &t) || (t.t != V_MISSING && !arg_int(r, "expandtabs", t, &size)))
		return val_err;
	size = size > 1000 ? 1000 : size;
	for (uint32_t i = 0; i < self.n; i++) {
		char c = self.s[i];

		if (c == '\t') {
			for (int64_t k = size > 0 ? size - col % size : 0; k > 0; k--, col++)
				sb_addc(&b, ' ');
			continue;
		}
		sb_addc(&b, c);
		col = c == '\n' || c == '\r' ? 0 : col + (((unsigned char)c & 0xc0) != 0x80);
	}
	return keep(self, rt_take(r, &b));
}

static struct val m_format(struct rt *r, struct val self, const struct args *a)
{
	return format_str(r, self, a, val_missing);
}

static struct val m_format_map(struct rt *r, struct val self, const struct args *a)
{
	static const struct args none;
	struct val map;

	if (bind_args(r, "format_map", a, no_names, 1, 1, &map))
		return val_err;
	return format_str(r, self, &none, map);
}

static struct val m_translate(struct rt *r, struct val self, const struct args *a)
{
	struct val table, to;
	struct sb b = SB_INIT;
	const char *p = self.s, *end = p + self.n;

	if (bind_args(r, "translate", a, no_names, 1, 1, &table) || rt_steps(r, self.n))
		return val_err;
	if (!is_type(table, T_DICTS))
		return rt_fail(r, TMPL_TYPE, "'%s' object is not a translation table", type_name(table));
	while (p < end) {
		const char *q = p;
		uint32_t c = uni_next(&q, end);
		char buf[4];

		if (!dict_get(table, val_int(c), &to))
			sb_add(&b, p, (size_t)(q - p));
		else if (to.t == V_STR)
			sb_add(&b, to.s, to.n);
		else if (to.t == V_INT && to.i >= 0 && to.i <= 0x10ffff)
			sb_add(&b, buf, uni_put(buf, (uint32_t)to.i));
		p = q;
	}
	return keep(self, rt_take(r, &b));
}

static struct val m_encode(struct rt *r, struct val self, const struct args *a)
{
	(void)self;
	(void)a;
	return rt_fail(r, TMPL_RUNTIME, "str.encode gives bytes, which templates here do not have");
}

/* --- questions --- */
#define IS_ALL(name, test)                                                         \
	static struct val name(struct rt *r, struct val self, const struct args *a) \
	{                                                                           \
		const char *p = self.s, *end = p + self.n;                          \
		bool yes = self.n > 0;                                              \
                                                                                    \
		if (bind_args(r, #name, a, no_names, 0, 0, NULL) || rt_steps(r, self.n >> 1)) \
			return val_err;                                             \
		while (yes && p < end)                                              \
			yes = test(uni_next(&p, end));                              \
		return val_bool(yes);                                               \
	}
IS_ALL(m_isalnum, uni_is_alnum)
IS_ALL(m_isalpha, uni_is_alpha)
IS_ALL(m_isdecimal, uni_is_decimal)
IS_ALL(m_isdigit, uni_is_digit)
IS_ALL(m_isnumeric, uni_is_numeric)
IS_ALL(m_isspace, uni_is_space)
IS_ALL(m_isprintable_some, uni_is_printable)

static struct val m_isprintable(struct rt *r, struct val self, const struct args *a)
{
	return self.n ? m_isprintable_some(r, self, a) : val_true;
}

static struct val m_isascii(struct rt *r, struct val self, const struct args *a)
{
	if (bind_args(r, "isascii", a, no_names, 0, 0, NULL))
		return val_err;
	for (uint32_t i = 0; i < self.n; i++)
		if ((unsigned char)self.s[i] >= 0x80)
			return val_false;
	return val_true;
}

static struct val m_isidentifier(struct rt *r, struct val self, const struct args *a)
{
	const char *p = self.s, *end = p + self.n;
	bool first = true;

	if (bind_args(r, "isidentifier", a, no_names, 0, 0, NULL) || rt_steps(r, self.n >> 1))
		return val_err;
	for (; p < end; first = false) {
		uint32_t c = uni_next(&p, end);

		if (!(c == '_' || (first ? uni_is_alpha(c) : uni_is_alpha(c) || uni_is_decimal(c))))
			return val_false;
	}
	return val_bool(!first);
}

/* no letter of the wrong case, and at least one of the right */
static struct val is_case(struct rt *r, struct val self, const struct args *a, bool upper)
{
	const char *p = self.s, *end = p + self.n;
	bool some = false;

	if (bind_args(r, "islower", a, no_names, 0, 0, NULL) || rt_steps(r, self.n >> 1))
		return val_err;
	while (p < end) {
		uint32_t c = uni_next(&p, end);

		if (uni_is_title(c) || (upper ? uni_is_lower(c) : uni_is_upper(c)))
			return val_false;
		some |= upper ? uni_is_upper(c) : uni_is_lower(c);
	}
	return val_bool(some);
}

struct val m_islower(struct rt *r, struct val self, const struct args *a)
{
	return is_case(r, self, a, false);
}

struct val m_isupper(struct rt *r, struct val self, const struct args *a)
{
	return is_case(r, self, a, true);
}

static struct val m_istitle(struct rt *r, struct val self, const struct args *a)
{
	const char *p = self.s, *end = p + self.n;
	bool in_word = false, some = false;

	if (bind_args(r, "istitle", a, no_names, 0, 0, NULL) || rt_steps(r, self.n >> 1))
		return val_err;
	while (p < end) {
		uint32_t c = uni_next(&p, end);
		bool high = uni_is_upper(c) || uni_is_title(c), low = uni_is_lower(c);

		if ((high && in_word) || (low && !in_word))
			return val_false;
		in_word = high || low;
		some |= in_word;
	}
	return val_bool(some);
}

/* --- the table, sorted by name; several types may share one --- */
#define LISTS (T(V_LIST) | T(V_JARR))
#define DICTS (T(V_DICT) | T(V_JOBJ))
static const struct method methods[] = {
	{ "append", LISTS, NULL },
	{ "capitalize", STR, m_capitalize },
	{ "casefold", STR, m_casefold },
	{ "center", STR, m_center },
	{ "clear", LISTS | DICTS, NULL },
	{ "copy", LISTS | DICTS, m_copy },
	{ "count", STR, m_count },
	{ "count", LISTS | T(V_TUPLE) | T(V_RANGE), m_seq_count },
	{ "encode", STR, m_encode },
	{ "endswith", STR, m_endswith },
	{ "expandtabs", STR, m_expandtabs },
	{ "extend", LISTS, NULL },
	{ "find", STR, m_find },
	{ "format", STR, m_format },
	{ "format_map", STR, m_format_map },
	{ "fromkeys", DICTS, m_fromkeys },
	{ "get", DICTS, m_get },
	{ "index", STR, m_index },
	{ "index", LISTS | T(V_TUPLE) | T(V_RANGE), m_seq_index },
	{ "insert", LISTS, NULL },
	{ "is_integer", T(V_FLOAT), m_is_integer },
	{ "isalnum", STR, m_isalnum },
	{ "isalpha", STR, m_isalpha },
	{ "isascii", STR, m_isascii },
	{ "isdecimal", STR, m_isdecimal },
	{ "isdigit", STR, m_isdigit },
	{ "isidentifier", STR, m_isidentifier },
	{ "islower", STR, m_islower },
	{ "isnumeric", STR, m_isnumeric },
	{ "isprintable", STR, m_isprintable },
	{ "isspace", STR, m_isspace },
	{ "istitle", STR, m_istitle },
	{ "isupper", STR, m_isupper },
	{ "items", DICTS, m_items },
	{ "join", STR, m_join },
	{ "keys", DICTS, m_keys },
	{ "ljust", STR, m_ljust },
	{ "lower", STR, m_lower },
	{ "lstrip", STR, m_lstrip },
	{ "next", T(V_CYCLER), m_next },
	{ "partition", STR, m_partition },
	{ "pop", LISTS | DICTS, NULL },
	{ "popitem", DICTS, NULL },
	{ "remove", LISTS, NULL },
	{ "removeprefix", STR, m_removeprefix },
	{ "removesuffix", STR, m_removesuffix },
	{ "replace", STR, m_replace },
	{ "reset", T(V_CYCLER), m_reset },
	{ "reverse", LISTS, NULL },
	{ "rfind", STR, m_rfind },
	{ "rindex", STR, m_rindex },
	{ "rjust", STR, m_rjust },
	{ "rpartition", STR, m_rpartition },
	{ "rsplit", STR, m_rsplit },
	{ "rstrip", STR, m_rstrip },
	{ "setdefault", DICTS, NULL },
	{ "sort", LISTS, NULL },
	{ "split", STR, m_split },
	{ "splitlines", STR, m_splitlines },
	{ "startswith", STR, m_startswith },
	{ "strip", STR, m_strip },
	{ "swapcase", STR, m_swapcase },
	{ "title", STR, m_title },
	{ "translate", STR, m_translate },
	{ "update", DICTS, NULL },
	{ "upper", STR, m_upper },
	{ "values", DICTS, m_values },
	{ "zfill", STR, m_zfill },
};
#define N_METHODS (sizeof(methods) / sizeof(methods[0]))

const struct method *method_find(const char *s, size_t n)
{
	size_t lo = 0, hi = N_METHODS;

	while (lo < hi) { /* the first that is not below s */
		size_t mid = (lo + hi) / 2, len = strlen(methods[mid].name);
		int c = memcmp(methods[mid].name, s, len < n ? len : n);

		if (c < 0 || (c == 0 && len < n))
			lo = mid + 1;
		else
			hi = mid;
	}
	return lo < N_METHODS && strlen(methods[lo].name) == n && !memcmp(methods[lo].name, s, n) ? &methods[lo] : NULL;
}

const struct method *method_for(const struct method *m, uint8_t type)
{
	for (const char *name = m->name; m < methods + N_METHODS && !strcmp(m->name, name); m++)
		if (m->types & T(type))
			return m;
	return NULL;
}

/* JSON text to a tree. simdjson's first stage checks UTF-8 and finds where
 * tokens begin, for the machine's best instruction set; the walk over those
 * positions is ours, because the tree keeps number texts and exact error
 * offsets, which its DOM does not. No exceptions, no RTTI.
 *
 * The text is copied once into the arena. Strings and numbers point into that
 * copy, unescaped in place and closed with a NUL over the byte behind them;
 * tokens are read from the original, so those NULs never meet the walk. */
#include <simdjson.h>

#include <cstdarg>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <new>

extern "C" { /* base/ is plain C */
#include "base/arena.h"
#include "base/err.h"
#include "base/in.h"
#include "json/json.h"
#include "json/json_quick.h"
}

namespace {

constexpr size_t kMaxDepth = 512;
constexpr size_t kMaxText = 0xffffff00u;      /* positions are 32 bits */
constexpr size_t kKeepCapacity = 16u << 20;   /* a larger document's tables are given back */

using stage_one = simdjson::internal::dom_parser_implementation;

/* Finished children wait here until their container closes; elements and
 * members of all open containers share one stack of each kind. */
template <typename T> struct stack {
	T *v = nullptr;
	size_t n = 0, cap = 0;
	~stack() { free(v); }
	bool push(const T &x)
	{
		if (n == cap) {
			size_t want = cap ? cap * 2 : 256;
			void *p = realloc(static_cast<void *>(v), want * sizeof(T));

			if (!p)
				return false;
			v = static_cast<T *>(p);
			cap = want;
		}
		v[n++] = x;
		return true;
	}
};

} // namespace

struct json_parser {
	std::unique_ptr<stage_one> one;
	stack<json> items;
	stack<json_member> members;
};

namespace {

inline bool is_space(unsigned char c)
{
	return c == ' ' || c == '\n' || c == '\t' || c == '\r';
}

struct walker {
	json_parser *p;
	arena *a;
	err *e;
	const char *text; /* what is read */
	char *copy;       /* what the tree points into */
	const uint32_t *at, *end;
	uint32_t len;
	bool escapes;     /* there is a backslash in the text */

	int bad(uint32_t off, const char *what)
	{
		err_set(e, LP_DATA, "bad JSON: %s", what);
		e->off = off;
		return -1;
	}
	int no_memory()
	{
		return err_set(e, LP_DEVICE, "out of memory for a JSON tree");
	}
	/* One behind the token at *t: tokens are parted by white space only. */
	uint32_t token_end(const uint32_t *t) const
	{
		uint32_t stop = t + 1 < end ? t[1] : len;

		while (stop > *t + 1 && is_space(static_cast<unsigned char>(text[stop - 1])))
			stop--;
		return stop;
	}
	char peek() const { return at < end ? text[*at] : '\0'; }
	uint32_t here() const { return at < end ? *at : len; }
	int value(json *out, size_t depth);
	int array(json *out, size_t depth);
	int object(json *out, size_t depth);
	int string(const char **s, uint32_t *n);
	int unescape(uint32_t from, uint32_t to, uint32_t *n);
	int number(json *out);
	int literal(const char *word, uint32_t n);
};

int hex4(const char *s)
{
	int v = 0;

	for (int i = 0; i < 4; i++) {
		char c = s[i];
		int d = c >= '0' && c <= '9' ? c - '0' : (c | 0x20) >= 'a' && (c | 0x20) <= 'f' ? (c | 0x20) - 'a' + 10 : -1;

		if (d < 0)
			return -1;
		v = v * 16 + d;
	}
	return v;
}

char *put_utf8(char *w, unsigned c)
{
	if (c < 0x80) {
		*w++ = static_cast<char>(c);
	} else if (c < 0x800) {
		*w++ = static_cast<char>(0xc0 | c >> 6);
		*w++ = static_cast<char>(0x80 | (c & 63));
	} else if (c < 0x10000) {
		*w++ = static_cast<char>(0xe0 | c >> 12);
		*w++ = static_cast<char>(0x80 | (c >> 6 & 63));
		*w++ = static_cast<char>(0x80 | (c & 63));
	} else {
		*w++ = static_cast<char>(0xf0 | c >> 18);
		*w++ = static_cast<char>(0x80 | (c >> 12 & 63));
		*w++ = static_cast<char>(0x80 | (c >> 6 & 63));
		*w++ = static_cast<char>(0x80 | (c & 63));
	}
	return w;
}

/* text[from..to), the inside of a string, to copy[from..); never longer. */
int walker::unescape(uint32_t from, uint32_t to, uint32_t *n)
{
	const char *r = text + from, *stop = text + to;
	char *w = copy + from;

	while (r < stop) {
		const char *slash = static_cast<const char *>(memchr(r, '\\', static_cast<size_t>(stop - r)));
		size_t run = static_cast<size_t>((slash ? slash : stop) - r);
		int u, low;

		memmove(w, r, run);
		w += run;
		r += run;
		if (!slash)
			break;
		switch (r + 1 < stop ? r[1] : '\0') {
		case '"': *w++ = '"'; r += 2; continue;
		case '\\': *w++ = '\\'; r += 2; continue;
		case '/': *w++ = '/'; r += 2; continue;
		case 'b': *w++ = '\b'; r += 2; continue;
		case 'f': *w++ = '\f'; r += 2; continue;
		case 'n': *w++ = '\n'; r += 2; continue;
		case 'r': *w++ = '\r'; r += 2; continue;
		case 't': *w++ = '\t'; r += 2; continue;
		case 'u': break;
		default: return bad(static_cast<uint32_t>(slash - text), "unknown escape in a string");
		}
		u = stop - r >= 6 ? hex4(r + 2) : -1;
		if (u < 0)
			return bad(static_cast<uint32_t>(slash - text), "\\u needs four hex digits");
		r += 6;
		if (u >= 0xd800 && u < 0xe000) {
			low = u < 0xdc00 && stop - r >= 6 && r[0] == '\\' && r[1] == 'u' ? hex4(r + 2) : -1;
			if (low < 0xdc00 || low > 0xdfff)
				return bad(static_cast<uint32_t>(slash - text), "half of a surrogate pair in a string");
			u = 0x10000 + ((u - 0xd800) << 10) + (low - 0xdc00);
			r += 6;
		}
		w = put_utf8(w, static_cast<unsigned>(u));
	}
	*n = static_cast<uint32_t>(w - (copy + from));
	return 0;
}

/* The token at *at begins with a quote. */
int walker::string(const char **s, uint32_t *n)
{
	uint32_t from = *at + 1, to = token_end(at) - 1;

	if (to < from || text[to] != '"')
		return bad(*at, "string without its closing quote");
	*n = to - from;
	if (escapes && memchr(text + from, '\\', to - from) && unescape(from, to, n))
		return -1;
	copy[from + *n] = 0;
	*s = copy + from;
	at++;
	return 0;
}

/* -? (0 | [1-9][0-9]*) (. [0-9]+)? ([eE] [+-]? [0-9]+)? */
int walker::number(json *out)
{
	uint32_t from = *at, to = token_end(at);
	const char *s = text + from, *stop = text + to, *d;

	auto digits = [&] {
		for (d = s; s < stop && *s >= '0' && *s <= '9'; s++)
			;
		return s > d;
	};
	if (*s == '-')
		s++;
	if (s < stop && *s == '0')
		s++;
	else if (!digits())
		return bad(from, "expected a value");
	if (s < stop && *s == '.') {
		s++;
		if (!digits())
			return bad(from, "a number needs a digit behind its point");
	}
	if (s < stop && (*s == 'e' || *s == 'E')) {
		s++;
		if (s < stop && (*s == '+' || *s == '-'))
			s++;
		if (!digits())
			return bad(from, "a number needs a digit in its exponent");
	}
	if (s != stop)
		return bad(static_cast<uint32_t>(s - text), "unexpected character in a number");
	out->type = JSON_NUM;
	out->n = to - from;
	out->s = copy + from;
	copy[to] = 0;
	at++;
	return 0;
}

int walker::literal(const char *word, uint32_t n)
{
	if (token_end(at) - *at != n || memcmp(text + *at, word, n))
		return bad(*at, "expected a value");
	at++;
	return 0;
}

int walker::array(json *out, size_t depth)
{
	size_t base = p->items.n;

	at++;
	if (peek() != ']') {
		for (;; at++) {
			json v;

			if (value(&v, depth))
				return -1;
			if (!p->items.push(v))
				return no_memory();
			if (peek() != ',')
				break;
		}
		if (peek() != ']')
			return bad(here(), at < end ? "expected ',' or ']'" : "the text ends inside an array");
	}
	at++;
	out->type = JSON_ARR;
	out->n = static_cast<uint32_t>(p->items.n - base);
	out->items = static_cast<json *>(arena_alloc(a, out->n * sizeof(json)));
	if (out->n)
		memcpy(static_cast<void *>(out->items), p->items.v + base, out->n * sizeof(json));
	p->items.n = base;
	return 0;
}

int walker::object(json *out, size_t depth)
{
	size_t base = p->members.n;

	at++;
	if (peek() != '}') {
		for (;; at++) {
			json_member m;

			if (peek() != '"')
				return bad(here(), at < end ? "expected a member's name" : "the text ends inside an object");
			if (string(&m.key, &m.key_len))
				return -1;
			if (peek() != ':')
				return bad(here(), at < end ? "expected ':'" : "the text ends inside an object");
			at++;
			if (value(&m.val, depth))
				return -1;
			if (!p->members.push(m))
				return no_memory();
			if (peek() != ',')
				break;
		}
		if (peek() != '}')
			return bad(here(), at < end ? "expected ',' or '}'" : "the text ends inside an object");
	}
	at++;
	out->type = JSON_OBJ;
	out->n = static_cast<uint32_t>(p->members.n - base);
	out->members = static_cast<json_member *>(arena_alloc(a, out->n * sizeof(json_member)));
	if (out->n)
		memcpy(static_cast<void *>(out->members), p->members.v + base, out->n * sizeof(json_member));
	p->members.n = base;
	return 0;
}

int walker::value(json *out, size_t depth)
{
	if (at == end)
		return bad(len, "the text ends where a value is due");
	switch (text[*at]) {
	case '"':
		out->type = JSON_STR;
		return string(&out->s, &out->n);
	case '{':
	case '[':
		if (depth >= kMaxDepth)
			return bad(*at, "nested deeper than 512");
		return text[*at] == '{' ? object(out, depth + 1) : array(out, depth + 1);
	case 't':
		out->type = JSON_BOOL;
		out->n = 0;
		out->b = true;
		return literal("true", 4);
	case 'f':
		out->type = JSON_BOOL;
		out->n = 0;
		out->b = false;
		return literal("false", 5);
	case 'n':
		out->type = JSON_NULL;
		out->n = 0;
		out->s = nullptr;
		return literal("null", 4);
	default:
		return number(out);
	}
}

/* Length of a well-formed UTF-8 sequence at s, 0 when there is none. */
size_t utf8_len(const unsigned char *s, size_t n)
{
	unsigned c = s[0];

	if (c < 0x80)
		return 1;
	if (c >= 0xc2 && c < 0xe0)
		return n >= 2 && (s[1] & 0xc0) == 0x80 ? 2 : 0;
	if (c >= 0xe0 && c < 0xf0) {
		if (n < 3 || (s[1] & 0xc0) != 0x80 || (s[2] & 0xc0) != 0x80)
			return 0;
		return (c == 0xe0 && s[1] < 0xa0) || (c == 0xed && s[1] > 0x9f) ? 0 : 3;
	}
	if (c >= 0xf0 && c < 0xf5) {
		if (n < 4 || (s[1] & 0xc0) != 0x80 || (s[2] & 0xc0) != 0x80 || (s[3] & 0xc0) != 0x80)
			return 0;
		return (c == 0xf0 && s[1] < 0x90) || (c == 0xf4 && s[1] > 0x8f) ? 0 : 4;
	}
	return 0;
}

/* The first stage says only that something is wrong: find out what and where. */
int explain(const char *text, size_t len, simdjson::error_code code, err *e)
{
	const unsigned char *s = reinterpret_cast<const unsigned char *>(text);
	size_t quote = 0;
	bool inside = false;

	if (code == simdjson::MEMALLOC)
		return err_set(e, LP_DEVICE, "out of memory for a JSON text of %zu bytes", len);
	for (size_t i = 0, k; i < len; i += k) {
		k = utf8_len(s + i, len - i);
		if (!k) {
			err_set(e, LP_DATA, "bad JSON: not UTF-8");
			e->off = static_cast<int64_t>(i);
			return -1;
		}
		if (inside && s[i] < 0x20) {
			err_set(e, LP_DATA, "bad JSON: a bare control character in a string");
			e->off = static_cast<int64_t>(i);
			return -1;
		}
		if (s[i] == '"') {
			inside = !inside;
			quote = i;
		} else if (inside && s[i] == '\\' && i + 1 < len && s[i + 1] < 0x80 && s[i + 1] >= 0x20) {
			k = 2;
		}
	}
	if (inside)
		err_set(e, LP_DATA, "bad JSON: string without its closing quote");
	else
		err_set(e, LP_DATA, "bad JSON: %s", code == simdjson::EMPTY ? "no value in it" : simdjson::error_message(code));
	e->off = static_cast<int64_t>(inside ? quote : 0);
	return -1;
}

simdjson::error_code run_stage_one(json_parser *p, const char *text, size_t len)
{
	simdjson::error_code code = simdjson::SUCCESS;

	if (!p->one)
		code = simdjson::get_active_implementation()->create_dom_parser_implementation(len < 65536 ? 65536 : len, kMaxDepth, p->one);
	else if (p->one->capacity() < len)
		code = p->one->set_capacity(len + len / 2 < kMaxText ? len + len / 2 : len);
	if (code)
		return code;
	return p->one->stage1(reinterpret_cast<const uint8_t *>(text), len, simdjson::stage1_mode::regular);
}

} // namespace

extern "C" {

bool json_utf8_ok(const char *s, size_t n)
{
	return simdjson::validate_utf8(s, n);
}

struct json_parser *json_parser_new(void)
{
	return new (std::nothrow) json_parser; /* NULL is told by json_parse */
}

void json_parser_free(struct json_parser *p)
{
	delete p;
}

int json_parse(struct json_parser *p, const char *text, size_t len, struct arena *a, struct json *out, struct err *e)
{
	simdjson::error_code code;
	walker w;
	int rc;

	if (!p)
		return err_set(e, LP_DEVICE, "out of memory for a JSON parser");
	if (len > kMaxText)
		return err_set(e, LP_DATA, "JSON text of %zu bytes is too large (4 GiB at most)", len);
	code = run_stage_one(p, text, len);
	if (code)
		return explain(text, len, code, e);
	p->items.n = p->members.n = 0;
	w.p = p;
	w.a = a;
	w.e = e;
	w.text = text;
	w.copy = static_cast<char *>(arena_alloc(a, len + 1));
	memcpy(w.copy, text, len);
	w.at = p->one->structural_indexes.get();
	w.end = w.at + p->one->n_structural_indexes;
	w.len = static_cast<uint32_t>(len);
	w.escapes = memchr(text, '\\', len) != nullptr;
	rc = w.value(out, 0);
	if (!rc && w.at < w.end)
		rc = w.bad(*w.at, "text behind the value");
	if (p->one->capacity() > kKeepCapacity)
		p->one.reset();
	return rc;
}

int json_load(const char *path, struct arena *a, struct json *out, struct err *e)
{
	size_t len;
	char *text = in_slurp(path, 1u << 30, &len, e); /* SLACK of in.c covers JSON_PADDING */
	json_parser *p;
	size_t skip;
	int rc;

	if (!text)
		return -1;
	skip = len >= 3 && !memcmp(text, "\xef\xbb\xbf", 3) ? 3 : 0;
	p = json_parser_new();
	rc = json_parse(p, text + skip, len - skip, a, out, e);
	if (rc) {
		if (e->off >= 0)
			e->off += static_cast<int64_t>(skip);
		err_where(e, path, 0);
	}
	json_parser_free(p);
	free(text);
	return rc;
}

int json_parse_str(const char *text, struct arena *a, struct json *out, struct err *e)
{
	size_t len = strlen(text);
	char *padded = static_cast<char *>(calloc(len + JSON_PADDING + 1, 1));
	json_parser *p;
	int rc;

	if (!padded)
		return err_set(e, LP_DEVICE, "out of memory for a JSON text of %zu bytes", len);
	memcpy(padded, text, len);
	p = json_parser_new();
	rc = json_parse(p, padded, len, a, out, e);
	json_parser_free(p);
	free(padded);
	return rc;
}

} // extern "C"

/* Known forms of JSON: see json_quick.h. */
#include "json/json_quick.h"

#include <string.h>

static inline bool is_space(char c)
{
	return c == ' ' || c == '\n' || c == '\t' || c == '\r';
}

void quick_space(struct quick *q)
{
#ifdef __SSE2__ /* files for people are indented: runs are long, but rarely longer than 16 */
	while (q->end - q->s >= 16) {
		__m128i x = _mm_loadu_si128((const __m128i *)(const void *)q->s);
		__m128i a = _mm_or_si128(_mm_cmpeq_epi8(x, _mm_set1_epi8(' ')), _mm_cmpeq_epi8(x, _mm_set1_epi8('\n')));
		__m128i b = _mm_or_si128(_mm_cmpeq_epi8(x, _mm_set1_epi8('\t')), _mm_cmpeq_epi8(x, _mm_set1_epi8('\r')));
		unsigned other = ~(unsigned)_mm_movemask_epi8(_mm_or_si128(a, b)) & 0xFFFF;

		if (other) {
			q->s += __builtin_ctz(other);
			return;
		}
		q->s += 16;
	}
#endif
	while (q->s < q->end && is_space(*q->s))
		q->s++;
}

bool quick_char_far(struct quick *q, char c)
{
	quick_space(q);
	if (q->s >= q->end || *q->s != c)
		return false;
	q->s++;
	return true;
}

bool quick_key(struct quick *q, const char *name)
{
	size_t n = strlen(name);

	if (!quick_char(q, '"'))
		return false;
	if ((size_t)(q->end - q->s) <= n || memcmp(q->s, name, n) != 0 || q->s[n] != '"') {
		q->s--;
		return false;
	}
	q->s += n + 1;
	return quick_char(q, ':');
}

static int hex4(const char *s)
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

static char *put_utf8(char *w, unsigned c)
{
	unsigned n = c < 0x80 ? 1 : c < 0x800 ? 2 : c < 0x10000 ? 3 : 4;

	if (n == 1) {
		*w = (char)c;
		return w + 1;
	}
	for (unsigned i = n - 1; i; i--, c >>= 6)
		w[i] = (char)(0x80 | (c & 63));
	w[0] = (char)((0xF00u >> n) | c);
	return w + n;
}

/* The escape at q->s, behind its backslash, to w; NULL: none. */
static char *unescape(struct quick *q, char *w)
{
	static const char plain[256] = { ['"'] = '"', ['\\'] = '\\', ['/'] = '/', ['b'] = '\b', ['f'] = '\f', ['n'] = '\n', ['r'] = '\r', ['t'] = '\t' };
	char c = q->s < q->end ? plain[(unsigned char)*q->s] : 0;
	int u, low;

	if (c) {
		*w++ = c;
		q->s++;
		return w;
	}
	if (q->end - q->s < 5 || *q->s != 'u' || (u = hex4(q->s + 1)) < 0)
		return NULL;
	q->s += 5;
	if (u >= 0xD800 && u < 0xE000) {
		low = u < 0xDC00 && q->end - q->s >= 6 && q->s[0] == '\\' && q->s[1] == 'u' ? hex4(q->s + 2) : -1;
		if (low < 0xDC00 || low > 0xDFFF)
			return NULL;
		u = 0x10000 + ((u - 0xD800) << 10) + (low - 0xDC00);
		q->s += 6;
	}
	return put_utf8(w, (unsigned)u);
}

bool quick_string(struct quick *q, char *out, size_t *len)
{
	uint64_t seen = 0;
	char *w = out;

	for (;;) {
		uint64_t x, stop;

		if (q->s >= q->end)
			return false;
		memcpy(&x, q->s, 8);
		memcpy(w, &x, 8);
		stop = quick_ends(le64toh(x));
		seen |= x;
		if (!stop) {
			q->s += 8;
			w += 8;
			continue;
		}
		q->s += __builtin_ctzll(stop) >> 3;
		w += __builtin_ctzll(stop) >> 3;
		if (q->s >= q->end)
			return false;
		if (*q->s == '"')
			break;
		if (*q->s++ != '\\' || !(w = unescape(q, w)))
			return false;
	}
	q->s++;
	*w = 0;
	*len = (size_t)(w - out);
	return !(seen & QUICK_TOPS) || json_utf8_ok(out, *len);
}

bool quick_skip(struct quick *q)
{
	size_t depth = 0, n;
	const char *s;
	bool slash;

	quick_space(q);
	for (; q->s < q->end; q->s++) {
		switch (*q->s) {
		case '"':
			q->s++;
			if (!quick_slice(q, &s, &n, &slash))
				return false;
			if (!depth)
				return true;
			q->s--;
			break;
		case '{':
		case '[':
			depth++;
			break;
		case '}':
		case ']':
			if (!depth)
				return true; /* behind a number or a word */
			if (!--depth) {
				q->s++;
				return true;
			}
			break;
		case ',':
			if (!depth)
				return true;
			break;
		default:
			break;
		}
	}
	return false;
}

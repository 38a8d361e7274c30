/* For phrases of ASCII, the text need not be lower-cased: its ASCII letters
 * are compared in either case, and only U+0130 and U+212A lower to ASCII
 * besides. The text is probed at every stride-th byte: the four bytes there,
 * their case bit set, are looked up among the first stride such groups of each
 * phrase (Wu and Manber's filter), and what shows up is then compared. */
#include "text/pyfind.h"

#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/sb.h"
#include "base/xalloc.h"
#include "text/pystr.h"

enum { GROUP = 4, MAX_STRIDE = 4, TABLE_BITS = 15 };

struct pyfind {
	struct sb *low; /* the phrases */
	size_t n, stride;
	bool simple; /* all of ASCII, of GROUP bytes or more */
	struct sb scratch;
	uint8_t marked[1 << TABLE_BITS];
};

static unsigned char lower(unsigned char c)
{
	return c >= 'A' && c <= 'Z' ? c + 32 : c;
}

static size_t group_at(const char *p)
{
	uint32_t x;

	memcpy(&x, p, GROUP);
	return (uint32_t)((x | 0x20202020u) * 0x9e3779b1u) >> (32 - TABLE_BITS);
}

static void prepare(struct pyfind *f)
{
	f->simple = true;
	f->stride = MAX_STRIDE;
	for (size_t i = 0; i < f->n; i++) {
		size_t len = f->low[i].len;

		if (len < GROUP || py_len(f->low[i].s, len) != len) {
			f->simple = false;
			return;
		}
		if (len - GROUP + 1 < f->stride)
			f->stride = len - GROUP + 1;
	}
	for (size_t i = 0; i < f->n; i++)
		for (size_t k = 0; k < f->stride; k++)
			f->marked[group_at(f->low[i].s + k)] = 1;
}

struct pyfind *pyfind_new(const char *const *phrases, size_t n)
{
	struct pyfind *f = xcalloc(1, sizeof(*f));

	f->low = xcalloc(n + 1, sizeof(*f->low));
	f->n = n;
	for (size_t i = 0; i < n; i++)
		py_lower(phrases[i], strlen(phrases[i]), &f->low[i]);
	prepare(f);
	return f;
}

void pyfind_free(struct pyfind *f)
{
	if (!f)
		return;
	for (size_t i = 0; i < f->n; i++)
		sb_release(&f->low[i]);
	free(f->low);
	sb_release(&f->scratch);
	free(f);
}

const char *pyfind_phrase(const struct pyfind *f, int i)
{
	return sb_str(&f->low[i]);
}

static bool equal_at(const struct sb *low, const char *s, size_t n, size_t at)
{
	if (n - at < low->len)
		return false;
	for (size_t i = 0; i < low->len; i++)
		if (lower((unsigned char)s[at + i]) != (unsigned char)low->s[i])
			return false;
	return true;
}

/* The first of the limit phrases that begins up to stride - 1 bytes before s[i]; limit when none. */
static size_t match_at(const struct pyfind *f, const char *s, size_t n, size_t i, size_t limit)
{
	for (size_t k = 0; k < limit; k++)
		for (size_t back = 0; back < f->stride && back <= i; back++)
			if (equal_at(&f->low[k], s, n, i - back))
				return k;
	return limit;
}

static int find_ascii(const struct pyfind *f, const char *s, size_t n)
{
	size_t best = f->n;

	for (size_t i = 0; i + GROUP <= n && best; i += f->stride)
		if (f->marked[group_at(s + i)])
			best = match_at(f, s, n, i, best);
	return best < f->n ? (int)best : -1;
}

static int find_lowered(struct pyfind *f, const char *s, size_t n)
{
	py_lower(s, n, &f->scratch);
	for (size_t i = 0; i < f->n; i++)
		if (memmem(sb_str(&f->scratch), f->scratch.len, sb_str(&f->low[i]), f->low[i].len))
			return (int)i;
	return -1;
}

int pyfind_any(struct pyfind *f, const char *s, size_t n)
{
	if (!f->simple || (py_len(s, n) != n && (memmem(s, n, "\xc4\xb0", 2) || memmem(s, n, "\xe2\x84\xaa", 3))))
		return find_lowered(f, s, n);
	return find_ascii(f, s, n);
}

/* Hand-written scanners of the patterns that most models use. Each returns
 * the end of the match that the pattern finds at byte i; all of them match
 * every character, so the pieces tile the text. */
#include "text/pretok.h"

#include <string.h>

#include "text/tok_uni.h"
#include "text/utf8.h"

enum kind { LETTER = 1, NUMBER = 2, SPACE = 4, OTHER = 8 };

static const uint8_t ascii_kind[128] = {
#define O8 OTHER, OTHER, OTHER, OTHER, OTHER, OTHER, OTHER, OTHER
#define L8 LETTER, LETTER, LETTER, LETTER, LETTER, LETTER, LETTER, LETTER
	O8, OTHER, SPACE, SPACE, SPACE, SPACE, SPACE, OTHER, OTHER, O8, O8,
	SPACE, OTHER, OTHER, OTHER, OTHER, OTHER, OTHER, OTHER, O8,
	NUMBER, NUMBER, NUMBER, NUMBER, NUMBER, NUMBER, NUMBER, NUMBER, NUMBER, NUMBER, OTHER, OTHER, OTHER, OTHER, OTHER, OTHER,
	OTHER, LETTER, LETTER, LETTER, LETTER, LETTER, LETTER, LETTER, L8, L8, LETTER, LETTER, LETTER, OTHER, OTHER, OTHER, OTHER, OTHER,
	OTHER, LETTER, LETTER, LETTER, LETTER, LETTER, LETTER, LETTER, L8, L8, LETTER, LETTER, LETTER, OTHER, OTHER, OTHER, OTHER, OTHER,
};

static unsigned slow_kind(const uint8_t *uni, const char *s, unsigned *w)
{
	uint32_t c = utf8_get(s, w), m;

	if (uni_is_space(c))
		return SPACE;
	m = uni_mask(uni, c);
	return m & UM_L ? LETTER : m & UM_N ? NUMBER : OTHER;
}

static inline unsigned kind_at(const uint8_t *uni, const char *s, unsigned *w)
{
	unsigned char c = (unsigned char)*s;

	if (c < 0x80) {
		*w = 1;
		return ascii_kind[c];
	}
	return slow_kind(uni, s, w);
}

/* End of the run of one kind that begins at i. */
static inline size_t run_of(const uint8_t *uni, const char *s, size_t i, size_t n, unsigned kind)
{
	unsigned w;

	while (i < n && kind_at(uni, s + i, &w) == kind)
		i += w;
	return i;
}

/* \s+(?!\S)|\s+ at i, which is a space. */
static size_t spaces(const uint8_t *uni, const char *s, size_t i, size_t n)
{
	size_t r = run_of(uni, s, i, n, SPACE), last;

	if (r == n)
		return n;
	last = utf8_prev(s, r);
	return last > i ? last : r;
}

/* \s*[\r\n]+|\s+(?!\S)|\s+ at i, which is a space. */
static size_t spaces_nl(const uint8_t *uni, const char *s, size_t i, size_t n)
{
	size_t r = run_of(uni, s, i, n, SPACE), k, last;

	for (k = r; k > i; k--)
		if (s[k - 1] == '\n' || s[k - 1] == '\r')
			return k;
	if (r == n)
		return n;
	last = utf8_prev(s, r);
	return last > i ? last : r;
}

/* 's|'t|'re|'ve|'m|'ll|'d behind the apostrophe at i; i when there is none.
 * Without case, the long s (U+017F) folds to s. */
static size_t contraction(const char *s, size_t i, size_t n, bool fold)
{
	unsigned char a = i + 1 < n ? (unsigned char)s[i + 1] : 0, b = i + 2 < n ? (unsigned char)s[i + 2] : 0;

	if (fold) {
		if (a == 0xC5 && b == 0xBF)
			return i + 3;
		if (a >= 'A' && a <= 'Z')
			a |= 32;
		if (b >= 'A' && b <= 'Z')
			b |= 32;
	}
	if (a == 's' || a == 't' || a == 'm' || a == 'd')
		return i + 2;
	if ((a == 'r' && b == 'e') || (a == 'v' && b == 'e') || (a == 'l' && b == 'l'))
		return i + 3;
	return i;
}

const char pretok_gpt2_pattern[] = "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+";

static size_t scan_gpt2(const uint8_t *uni, const char *s, size_t i, size_t n)
{
	unsigned w, k;
	size_t j = i;

	if (s[i] == '\'') {
		j = contraction(s, i, n, false);
		if (j != i)
			return j;
	}
	k = kind_at(uni, s + i, &w);
	if (s[i] == ' ' && i + 1 < n) {
		unsigned k1 = kind_at(uni, s + i + 1, &w);

		if (k1 != SPACE) {
			k = k1;
			j = i + 1;
		}
	}
	if (k == SPACE)
		return spaces(uni, s, i, n);
	return run_of(uni, s, j + w, n, k);
}

/* Llama 3 (3 digits a piece) and Qwen 2 (1 digit). */
static inline size_t scan_cl100k(const uint8_t *uni, const char *s, size_t i, size_t n, unsigned digits)
{
	unsigned w, w1, k, c;
	size_t j;

	k = kind_at(uni, s + i, &w);
	if (k == LETTER)
		return run_of(uni, s, i + w, n, LETTER);
	if (k == NUMBER) {
		j = i + w;
		for (c = 1; c < digits && j < n && kind_at(uni, s + j, &w) == NUMBER; c++)
			j += w;
		return j;
	}
	if (s[i] == '\'') {
		j = contraction(s, i, n, true);
		if (j != i)
			return j;
	}
	if (s[i] != '\r' && s[i] != '\n' && i + w < n && kind_at(uni, s + i + w, &w1) == LETTER)
		return run_of(uni, s, i + w + w1, n, LETTER);
	j = i;
	if (s[i] == ' ' && i + 1 < n && kind_at(uni, s + i + 1, &w1) == OTHER) {
		j = i + 1;
		w = w1;
		k = OTHER;
	}
	if (k == OTHER) {
		j = run_of(uni, s, j + w, n, OTHER);
		while (j < n && (s[j] == '\r' || s[j] == '\n'))
			j++;
		return j;
	}
	return spaces_nl(uni, s, i, n);
}

static size_t scan_llama3(const uint8_t *uni, const char *s, size_t i, size_t n)
{
	return scan_cl100k(uni, s, i, n, 3);
}

static size_t scan_qwen2(const uint8_t *uni, const char *s, size_t i, size_t n)
{
	return scan_cl100k(uni, s, i, n, 1);
}

/* tiktoken's own: white space that ends the text is one piece, lines or not. */
static size_t scan_tiktoken(const uint8_t *uni, const char *s, size_t i, size_t n)
{
	unsigned w;

	if (kind_at(uni, s + i, &w) == SPACE && run_of(uni, s, i, n, SPACE) == n)
		return n;
	return scan_cl100k(uni, s, i, n, 3);
}

#define UM_UP (1u << UC_LU | 1u << UC_LT | 1u << UC_LM | 1u << UC_LO | UM_M)
#define UM_LOW (1u << UC_LL | 1u << UC_LM | 1u << UC_LO | UM_M)

static inline uint32_t mask_at(const uint8_t *uni, const char *s, unsigned *w)
{
	return uni_mask(uni, utf8_get(s, w));
}

/* UP*LOW+ from p: its end, or p when it does not match. */
static size_t up_low(const uint8_t *uni, const char *s, size_t p, size_t n, size_t *up_end)
{
	size_t a = p, low = p, j; /* low: end of the last character of the UP run that is LOW too */
	unsigned w;
	uint32_t m = 0;

	while (a < n && ((m = mask_at(uni, s + a, &w)) & UM_UP)) {
		a += w;
		if (m & UM_LOW)
			low = a;
	}
	*up_end = a;
	if (a < n && (m & UM_LOW)) {
		for (j = a + w; j < n && (mask_at(uni, s + j, &w) & UM_LOW); j += w)
			;
		return j;
	}
	return low;
}

static size_t with_contraction(const char *s, size_t j, size_t n)
{
	return j < n && s[j] == '\'' ? contraction(s, j, n, true) : j;
}

/* The two word alternatives of o200k at i, without contractions; i when neither matches. */
static size_t o200k_word(const uint8_t *uni, const char *s, size_t i, size_t n)
{
	unsigned w;
	uint32_t c = utf8_get(s + i, &w), m = uni_mask(uni, c);
	bool pre = c != '\r' && c != '\n' && !(m & (UM_L | UM_N)), bare = m & (UM_L | UM_M);
	size_t up1 = 0, up0 = 0, j;

	if (pre && i + w < n) {
		j = up_low(uni, s, i + w, n, &up1);
		if (j > i + w)
			return j;
	}
	if (bare) {
		j = up_low(uni, s, i, n, &up0);
		if (j > i)
			return j;
	}
	if (pre && up1 > i + w)
		return up1;
	if (bare && up0 > i)
		return up0;
	return i;
}

static inline size_t scan_cased(const uint8_t *uni, const char *s, size_t i, size_t n, unsigned digits, bool contractions)
{
	unsigned w, w1, k, c;
	size_t j = o200k_word(uni, s, i, n);

	if (j > i)
		return contractions ? with_contraction(s, j, n) : j;
	k = kind_at(uni, s + i, &w);
	if (k == NUMBER) {
		j = i + w;
		for (c = 1; c < digits && j < n && kind_at(uni, s + j, &w) == NUMBER; c++)
			j += w;
		return j;
	}
	if (s[i] == ' ' && i + 1 < n && kind_at(uni, s + i + 1, &w1) == OTHER) {
		j = i + 1;
		w = w1;
		k = OTHER;
	}
	if (k == OTHER) {
		j = run_of(uni, s, j + w, n, OTHER);
		while (j < n && (s[j] == '\r' || s[j] == '\n' || s[j] == '/'))
			j++;
		return j;
	}
	return spaces_nl(uni, s, i, n);
}

static size_t scan_o200k(const uint8_t *uni, const char *s, size_t i, size_t n)
{
	return scan_cased(uni, s, i, n, 3, true);
}

static size_t scan_tekken(const uint8_t *uni, const char *s, size_t i, size_t n)
{
	return scan_cased(uni, s, i, n, 1, false);
}

#define TAIL(more) " ?[^\\s\\p{L}\\p{N}]+[\\r\\n" more "]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"
#define CL100K(num) "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|" num "|" TAIL("")
#define UP "[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]"
#define LOW "[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]"
#define PRE "[^\\r\\n\\p{L}\\p{N}]?"
#define CASED(short, num) PRE UP "*" LOW "+" short "|" PRE UP "+" LOW "*" short "|" num "|" TAIL("/")

const char pretok_llama3_pattern[] = CL100K("\\p{N}{1,3}");
const char pretok_qwen2_pattern[] = CL100K("\\p{N}");
const char pretok_o200k_pattern[] = CASED("(?i:'s|'t|'re|'ve|'m|'ll|'d)?", "\\p{N}{1,3}");
const char pretok_cl100k_pattern[] = "'(?i:[sdmt]|ll|ve|re)|[^\\r\\n\\p{L}\\p{N}]?+\\p{L}++|\\p{N}{1,3}+| ?[^\\s\\p{L}\\p{N}]++[\\r\\n]*+|"
				     "\\s++$|\\s*[\\r\\n]|\\s+(?!\\S)|\\s";
static const char tekken_pattern[] = CASED("", "\\p{N}");

pretok_scan_fn *pretok_scan_for(const char *pattern, size_t len)
{
	static const struct { const char *pattern; pretok_scan_fn *fn; } known[] = {
		{ pretok_gpt2_pattern, scan_gpt2 },
		{ pretok_llama3_pattern, scan_llama3 },
		{ pretok_qwen2_pattern, scan_qwen2 },
		{ pretok_o200k_pattern, scan_o200k },
		{ pretok_cl100k_pattern, scan_tiktoken },
		{ tekken_pattern, scan_tekken },
	};

	for (size_t i = 0; i < sizeof(known) / sizeof(*known); i++)
		if (strlen(known[i].pattern) == len && !memcmp(known[i].pattern, pattern, len))
			return known[i].fn;
	return NULL;
}

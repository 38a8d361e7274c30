/* Hand-written scanners of the patterns that most models use. Each step finds
 * the end of the match that the pattern finds at byte i; all of them match
 * every character, so the pieces tile the text. ASCII is told by a table, runs
 * of letters eight bytes at a time; a character beyond ASCII goes the slow way. */
#include "text/pretok.h"

#include <endian.h>
#include <string.h>

#include "text/pretok_block.h"
#include "text/tok_uni.h"
#include "text/utf8.h"

/* PRE: what a word may begin with, [^\r\n\p{L}\p{N}]. Beyond ASCII: none of them. */
enum kind { LETTER = 1, NUMBER = 2, SPACE = 4, OTHER = 8, PRE = 16 };

#define XX OTHER | PRE
#define SP SPACE | PRE
#define X8 XX, XX, XX, XX, XX, XX, XX, XX
#define L8 LETTER, LETTER, LETTER, LETTER, LETTER, LETTER, LETTER, LETTER
#define N8 NUMBER, NUMBER, NUMBER, NUMBER, NUMBER, NUMBER, NUMBER, NUMBER
static const uint8_t ascii[256] = {
	X8, XX, SP, SPACE, SP, SP, SPACE, XX, XX, X8, X8,
	SP, XX, XX, XX, XX, XX, XX, XX, X8,
	N8, NUMBER, NUMBER, XX, XX, XX, XX, XX, XX,
	XX, LETTER, LETTER, LETTER, LETTER, LETTER, LETTER, LETTER, L8, L8, LETTER, LETTER, LETTER, XX, XX, XX, XX, XX,
	XX, LETTER, LETTER, LETTER, LETTER, LETTER, LETTER, LETTER, L8, L8, LETTER, LETTER, LETTER, XX, XX, XX, XX, XX,
};

static inline unsigned ascii_at(const char *s, size_t i, size_t n)
{
	return i < n ? ascii[(unsigned char)s[i]] : 0;
}

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
		return ascii[c] & ~PRE;
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

/* --- eight bytes at a time --- */

#define EACH 0x0101010101010101u
#define TOPS (0x80 * EACH)

static inline uint64_t load8(const char *s)
{
	uint64_t x;

	memcpy(&x, s, 8);
	return le64toh(x);
}

/* The top bit of each byte of x that is within [lo, hi], ASCII. */
static inline uint64_t between(uint64_t x, unsigned lo, unsigned hi)
{
	uint64_t m = x & ~TOPS;

	return (m + (0x80 - lo) * EACH) & ~(m + (0x7F - hi) * EACH) & ~x & TOPS;
}

static inline uint64_t letters8(uint64_t x)
{
	return between(x | 0x20 * EACH, 'a', 'z');
}

/* Bytes before the first one without its top bit; tops is not TOPS. */
static inline unsigned leading(uint64_t tops)
{
	return (unsigned)__builtin_ctzll(tops ^ TOPS) >> 3;
}

/* End of the run of letters that goes on at i. */
static inline size_t letters(const uint8_t *uni, const char *s, size_t i, size_t n)
{
	for (uint64_t m; i + 8 <= n; i += 8)
		if ((m = letters8(load8(s + i))) != TOPS) {
			i += leading(m);
			return (unsigned char)s[i] < 0x80 ? i : run_of(uni, s, i, n, LETTER);
		}
	return run_of(uni, s, i, n, LETTER);
}

/* End of the ASCII white space that begins at i; *nl: behind its last line end, 0 when there is none. */
static inline size_t ascii_spaces(const char *s, size_t i, size_t n, size_t *nl)
{
	*nl = 0;
	for (; i < n && (ascii[(unsigned char)s[i]] & SPACE); i++) {
		if (s[i] == '\n' || s[i] == '\r')
			*nl = i + 1;
		while (i + 9 <= n && load8(s + i + 1) == ' ' * EACH)
			i += 8;
	}
	return i;
}

/* \s+(?!\S)|\s+ at i, which is a space. */
static inline size_t spaces(const uint8_t *uni, const char *s, size_t i, size_t n)
{
	size_t nl, r = ascii_spaces(s, i, n, &nl), last;

	if (r < n && (unsigned char)s[r] >= 0x80)
		r = run_of(uni, s, r, n, SPACE);
	if (r == n)
		return n;
	last = utf8_prev(s, r);
	return last > i ? last : r;
}

/* \s*[\r\n]+|\s+(?!\S)|\s+ at i, which is a space. */
static inline size_t spaces_nl(const uint8_t *uni, const char *s, size_t i, size_t n)
{
	size_t nl, r = ascii_spaces(s, i, n, &nl), k, last;

	if (r < n && (unsigned char)s[r] >= 0x80) {
		k = r;
		r = run_of(uni, s, r, n, SPACE);
		for (; k < r; k++)
			if (s[k] == '\n' || s[k] == '\r')
				nl = k + 1;
	}
	if (nl)
		return nl;
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

/* A scanner that finds many pieces in one call: in blocks of ASCII where block is not
 * 0, else one by one. */
#define SCANNER(name, step, block)                                                                            \
	static size_t name(const uint8_t *uni, const char *s, size_t i, size_t n, uint32_t *end, size_t max) \
	{                                                                                                     \
		size_t k = 0, more;                                                                           \
                                                                                                              \
		while (k < max && i < n) {                                                                    \
			bool room = max - k >= PRETOK_BLOCK;                                                  \
                                                                                                              \
			if (!room && k >= PRETOK_BLOCK) /* the next call has room for a block again */        \
				break;                                                                        \
			if (room && n - i >= PRETOK_BLOCK && (more = block) != 0) {                           \
				k += more;                                                                    \
				i = end[k - 1];                                                               \
				continue;                                                                     \
			}                                                                                     \
			i = step;                                                                             \
			end[k++] = (uint32_t)i;                                                               \
		}                                                                                             \
		return k;                                                                                     \
	}

/* Is a block worth a look? */
static inline bool near_ascii(const char *s)
{
	return !(load8(s) & TOPS);
}

#define BLOCK_CL100K(digits) near_ascii(s + i) ? pretok_block_cl100k(s, i, digits, end + k) : 0
#define BLOCK_O200K(digits, joined) near_ascii(s + i) ? pretok_block_o200k(s, i, digits, joined, end + k) : 0
#define BLOCK_GPT2 near_ascii(s + i) ? pretok_block_gpt2(s, i, end + k) : 0

const char pretok_gpt2_pattern[] = "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+";

static inline size_t gpt2_step(const uint8_t *uni, const char *s, size_t i, size_t n)
{
	unsigned w = 1, k;
	size_t j = i;

	if (s[i] == '\'') {
		j = contraction(s, i, n, false);
		if (j != i)
			return j;
	}
	j += s[i] == ' ' && i + 1 < n && !(ascii[(unsigned char)s[i + 1]] & SPACE);
	k = kind_at(uni, s + j, &w);
	if (k == LETTER)
		return letters(uni, s, j + w, n);
	if (k == SPACE)
		return spaces(uni, s, i, n);
	return run_of(uni, s, j + w, n, k);
}

SCANNER(scan_gpt2, gpt2_step(uni, s, i, n), BLOCK_GPT2)

/* At most this many digits from i, the first of which is w bytes. */
static inline size_t numbers(const uint8_t *uni, const char *s, size_t i, size_t n, unsigned w, unsigned digits)
{
	for (i += w; --digits && i < n && kind_at(uni, s + i, &w) == NUMBER; i += w)
		;
	return i;
}

/* Behind words and numbers: ' ?[^\s\p{L}\p{N}]+[\r\n]*' and white space; k: the kind at i. */
static inline size_t marks(const uint8_t *uni, const char *s, size_t i, size_t n, unsigned k, unsigned w, bool slash)
{
	unsigned w1;
	size_t j = i;

	if (s[i] == ' ' && i + 1 < n && kind_at(uni, s + i + 1, &w1) == OTHER) {
		j = i + 1;
		w = w1;
		k = OTHER;
	}
	if (k != OTHER)
		return spaces_nl(uni, s, i, n);
	j = run_of(uni, s, j + w, n, OTHER);
	while (j < n && (s[j] == '\r' || s[j] == '\n' || (slash && s[j] == '/')))
		j++;
	return j;
}

/* Llama 3 (3 digits a piece) and Qwen 2 (1 digit). */
static inline size_t cl100k_step(const uint8_t *uni, const char *s, size_t i, size_t n, unsigned digits)
{
	unsigned char c = (unsigned char)s[i];
	size_t pre = (ascii[c] & PRE) && (ascii_at(s, i + 1, n) & LETTER), j;
	unsigned w, w1, k;

	if (c == '\'') {
		j = contraction(s, i, n, true);
		if (j != i)
			return j;
	}
	if (ascii[(unsigned char)s[i + pre]] & LETTER)
		return letters(uni, s, i + pre + 1, n);
	k = kind_at(uni, s + i, &w);
	if (k == LETTER)
		return letters(uni, s, i + w, n);
	if (k == NUMBER)
		return numbers(uni, s, i, n, w, digits);
	if (c != '\r' && c != '\n' && i + w < n && kind_at(uni, s + i + w, &w1) == LETTER)
		return letters(uni, s, i + w + w1, n);
	return marks(uni, s, i, n, k, w, false);
}

SCANNER(scan_llama3, cl100k_step(uni, s, i, n, 3), BLOCK_CL100K(3))
SCANNER(scan_qwen2, cl100k_step(uni, s, i, n, 1), BLOCK_CL100K(1))

/* tiktoken's own: white space that ends the text is one piece, lines or not. */
static inline size_t tiktoken_step(const uint8_t *uni, const char *s, size_t i, size_t n)
{
	unsigned w;

	if (kind_at(uni, s + i, &w) == SPACE && run_of(uni, s, i, n, SPACE) == n)
		return n;
	return cl100k_step(uni, s, i, n, 3);
}

SCANNER(scan_tiktoken, tiktoken_step(uni, s, i, n), BLOCK_CL100K(3)) /* a block leaves white space that ends it to the step */

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

/* Capitals, then small letters, all of them ASCII, from i on; 0 when what follows is not. */
static inline size_t ascii_cased(const char *s, size_t i, size_t n)
{
	while (i < n && s[i] >= 'A' && s[i] <= 'Z')
		i++;
	for (uint64_t m; i + 8 <= n; i += 8)
		if ((m = between(load8(s + i), 'a', 'z')) != TOPS) {
			i += leading(m);
			return (unsigned char)s[i] < 0x80 ? i : 0;
		}
	while (i < n && s[i] >= 'a' && s[i] <= 'z')
		i++;
	return i == n || (unsigned char)s[i] < 0x80 ? i : 0;
}

static inline size_t cased_step(const uint8_t *uni, const char *s, size_t i, size_t n, unsigned digits, bool contractions)
{
	size_t pre = (ascii[(unsigned char)s[i]] & PRE) && (ascii_at(s, i + 1, n) & LETTER), j = 0;
	unsigned w, k;

	if (ascii[(unsigned char)s[i + pre]] & LETTER)
		j = ascii_cased(s, i + pre, n);
	if (!j)
		j = o200k_word(uni, s, i, n);
	if (j > i)
		return contractions ? with_contraction(s, j, n) : j;
	k = kind_at(uni, s + i, &w);
	if (k == NUMBER)
		return numbers(uni, s, i, n, w, digits);
	return marks(uni, s, i, n, k, w, true);
}

SCANNER(scan_o200k, cased_step(uni, s, i, n, 3, true), BLOCK_O200K(3, true))
SCANNER(scan_tekken, cased_step(uni, s, i, n, 1, false), BLOCK_O200K(1, false))

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

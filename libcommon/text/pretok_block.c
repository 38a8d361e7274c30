/* Known patterns over 64 bytes at once: each character is a bit in a set for its
 * class, and where a piece begins follows from shifts of these sets. The first
 * byte begins a match, so nothing before it matters; a boundary that could hang
 * on what comes behind the block is left to the next one. */
#include "text/pretok_block.h"

#include <stdbool.h>
#include <string.h>

/* Bit k stands for byte k of the block. */
struct block {
	uint64_t high;                 /* beyond ASCII */
	uint64_t letter, digit, space; /* space: any white space */
	uint64_t blank, line, quote;   /* ' ', \r or \n, ' */
	uint64_t small, slash;         /* of the letters; / */
};

#ifdef __SSE2__
#include <emmintrin.h>

/* Bytes within [lo, hi], by signed comparison: x - lo wraps below lo. */
static inline __m128i within(__m128i x, char lo, char hi)
{
	return _mm_cmplt_epi8(_mm_add_epi8(x, _mm_set1_epi8((char)(0x80 - lo))), _mm_set1_epi8((char)(0x81 + hi - lo)));
}

static inline uint64_t set(__m128i x, int at)
{
	return (uint64_t)(uint32_t)_mm_movemask_epi8(x) << at;
}

static inline void classify(const char *s, struct block *b)
{
	memset(b, 0, sizeof(*b));
	for (int at = 0; at < 64; at += 16) {
		__m128i x = _mm_loadu_si128((const __m128i *)(const void *)(s + at)), line;
		__m128i blank = _mm_cmpeq_epi8(x, _mm_set1_epi8(' '));

		line = _mm_or_si128(_mm_cmpeq_epi8(x, _mm_set1_epi8('\n')), _mm_cmpeq_epi8(x, _mm_set1_epi8('\r')));
		b->high |= set(x, at);
		b->letter |= set(within(_mm_or_si128(x, _mm_set1_epi8(0x20)), 'a', 'z'), at);
		b->digit |= set(within(x, '0', '9'), at);
		b->space |= set(_mm_or_si128(blank, within(x, '\t', '\r')), at);
		b->blank |= set(blank, at);
		b->line |= set(line, at);
		b->quote |= set(_mm_cmpeq_epi8(x, _mm_set1_epi8('\'')), at);
		b->small |= set(_mm_slli_epi16(x, 2), at); /* 0x20 is now the top bit */
		b->slash |= set(_mm_cmpeq_epi8(x, _mm_set1_epi8('/')), at);
	}
	b->small &= b->letter;
}
#else
/* Slower than the scanners, so nothing is found here. */
static inline void classify(const char *s, struct block *b)
{
	(void)s;
	memset(b, 0, sizeof(*b));
	b->high = UINT64_MAX;
}
#endif

/* x or the bits below it in a run of within that ends at it. */
static inline uint64_t fill_down(uint64_t x, uint64_t within)
{
	for (unsigned k = 1; k < 64; k *= 2) {
		x |= within & (x >> k);
		within &= within >> k;
	}
	return x;
}

static inline uint64_t below(unsigned k)
{
	return k < 64 ? (1ull << k) - 1 : UINT64_MAX;
}

/* The bytes up to the first one beyond ASCII. */
static inline unsigned valid(const struct block *b)
{
	return b->high ? (unsigned)__builtin_ctzll(b->high) : 64;
}

/* Digits in groups from where each run begins. */
static inline uint64_t groups(uint64_t digit, unsigned size)
{
	uint64_t begin = digit & ~(digit << 1), all = begin, most = digit;

	if (size == 1)
		return digit;
	for (unsigned k = 1; k <= size; k++) /* the last size + 1 characters are digits */
		most &= digit << k;
	for (; begin; all |= begin)
		begin = begin << size & most;
	return all;
}

/* The boundary bits, the first of which is no end, as ends. */
static inline size_t put(uint64_t bound, size_t i, uint32_t *end)
{
	size_t n = 0;

	for (bound &= ~1ull; bound; bound &= bound - 1)
		end[n++] = (uint32_t)(i + (unsigned)__builtin_ctzll(bound));
	return n;
}

/* Bytes of 's 't 'm 'd 're 've 'll at s, three of which can be read; 0: none. */
static inline unsigned short_form(const char *s, bool fold)
{
	char a = s[1], b = s[2];

	if (fold) {
		a = (char)(a >= 'A' && a <= 'Z' ? a | 0x20 : a);
		b = (char)(b >= 'A' && b <= 'Z' ? b | 0x20 : b);
	}
	if (a == 's' || a == 't' || a == 'm' || a == 'd')
		return 2;
	return (a == 'r' && b == 'e') || (a == 'v' && b == 'e') || (a == 'l' && b == 'l') ? 3 : 0;
}

/* Short forms at these quotes: their ends are boundaries, and none is inside. What
 * hangs on bytes that are not known lowers *limit. */
static inline uint64_t short_forms(const char *s, uint64_t quotes, bool fold, uint64_t bound, unsigned *limit)
{
	for (; quotes; quotes &= quotes - 1) {
		unsigned k = (unsigned)__builtin_ctzll(quotes), n;

		if (k + 3 >= *limit) {
			*limit = k + 1 < *limit ? k + 1 : *limit;
			break;
		}
		n = short_form(s + k, fold);
		if (n)
			bound = (bound & ~((below(n) & ~1ull) << k)) | 1ull << (k + n);
	}
	return bound;
}

/* The same behind words, which they belong to; one a word. */
static inline uint64_t joined_forms(const char *s, uint64_t quotes, uint64_t bound, unsigned *limit)
{
	for (unsigned end = 0; quotes; quotes &= quotes - 1) {
		unsigned k = (unsigned)__builtin_ctzll(quotes), n;

		if (k + 3 >= *limit) {
			*limit = k < *limit ? k : *limit;
			break;
		}
		n = k == end ? 0 : short_form(s + k, true);
		if (n) {
			end = k + n;
			bound = (bound & ~(below(n) << k)) | 1ull << end;
		}
	}
	return bound;
}

/* White space that reaches the end of what is known: nothing behind its first byte is certain. */
static inline unsigned before_space(uint64_t space, unsigned limit)
{
	uint64_t rest = ~space & below(limit - 1);

	if (!(space >> (limit - 1) & 1))
		return limit;
	return rest ? 65 - (unsigned)__builtin_clzll(rest) : 1;
}

/* What the patterns of cl100k and o200k have in common: word: where the words of a run of
 * letters begin; more: what marks take with them besides line ends. */
static inline uint64_t cl100k_bounds(const struct block *b, uint64_t seen, unsigned digits, uint64_t word, uint64_t more, uint64_t *alone, uint64_t *spaces)
{
	uint64_t other, begin, taken, eaten, space, plain, tail, last, bound, line;

	other = ~(b->letter | b->digit | b->space) & seen;
	begin = b->line & (other << 1); /* line ends behind marks belong to them, and so does more behind these */
	taken = (b->line | more) & seen;
	eaten = (taken & ~(taken + begin)) | begin;
	other &= ~eaten;
	space = b->space & seen & ~eaten;
	line = b->line & space;
	plain = space & ~line;
	tail = plain & (line >> 1); /* white space before a line end of its run goes with it */
	if (tail)
		tail = fill_down(tail, plain);
	tail = plain & ~tail;
	last = tail & ~(space >> 1);
	*alone = other & ~(other << 1) & ~(other >> 1) & (b->letter >> 1) & ~((last & b->blank) << 1); /* a mark that a word begins with */
	bound = (space & ~(space << 1)) | (tail & ~(tail << 1)) | last | ((line << 1) & ~space) | ((eaten << 1) & ~eaten);
	bound |= (word & ~(last << 1) & ~(*alone << 1)) | (other & ~(other << 1) & ~((last & b->blank) << 1));
	*spaces = space;
	return bound | groups(b->digit & seen, digits);
}

size_t pretok_block_cl100k(const char *s, size_t i, unsigned digits, uint32_t *end)
{
	struct block b;
	uint64_t bound, alone, space;
	unsigned limit;

	classify(s + i, &b);
	limit = valid(&b);
	if (limit < 8)
		return 0;
	bound = cl100k_bounds(&b, below(limit), digits, b.letter & ~(b.letter << 1), 0, &alone, &space);
	limit = before_space(space, limit);
	if (alone & b.quote)
		bound = short_forms(s + i, alone & b.quote, true, bound, &limit);
	return put(bound & below(limit), i, end);
}

size_t pretok_block_o200k(const char *s, size_t i, unsigned digits, bool joined, uint32_t *end)
{
	struct block b;
	uint64_t bound, alone, space, quotes;
	unsigned limit;

	classify(s + i, &b);
	limit = valid(&b);
	if (limit < 8)
		return 0;
	/* a capital behind a small letter begins a word */
	bound = cl100k_bounds(&b, below(limit), digits, b.letter & ~(b.letter << 1 & (b.small | ~(b.small << 1))), b.slash, &alone, &space);
	limit = before_space(space, limit);
	quotes = b.quote & (b.letter << 1);
	if (joined && quotes)
		bound = joined_forms(s + i, quotes, bound, &limit);
	return put(bound & below(limit), i, end);
}

size_t pretok_block_gpt2(const char *s, size_t i, uint32_t *end)
{
	struct block b;
	uint64_t seen, other, space, last, bound, quotes;
	unsigned limit;

	classify(s + i, &b);
	limit = valid(&b);
	if (limit < 8)
		return 0;
	seen = below(limit);
	other = ~(b.letter | b.digit | b.space) & seen;
	space = b.space & seen;
	last = space & ~(space >> 1);
	bound = (b.letter & ~(b.letter << 1)) | (b.digit & ~(b.digit << 1)) | (other & ~(other << 1));
	quotes = b.quote & other & ~(other << 1) & ~((last & b.blank) << 1);
	bound = (bound & ~((last & b.blank) << 1)) | (space & ~(space << 1)) | last;
	limit = before_space(space, limit);
	if (quotes)
		bound = short_forms(s + i, quotes, false, bound, &limit);
	return put(bound & below(limit), i, end);
}

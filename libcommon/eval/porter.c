#include "eval/porter.h"

#include <stdbool.h>
#include <string.h>

struct rule {
	const char *suffix, *to;
};

static bool is_vowel(char c)
{
	return c == 'a' || c == 'e' || c == 'i' || c == 'o' || c == 'u';
}

/* A y is a consonant at the start of a word and after a vowel; a run of them
 * alternates. */
static bool is_consonant(const char *w, size_t i)
{
	bool negate = false;

	while (i > 0 && w[i] == 'y') {
		negate = !negate;
		i--;
	}
	return !is_vowel(w[i]) != negate;
}

/* How often a vowel is followed by a consonant in w[0..n). */
static size_t measure(const char *w, size_t n)
{
	size_t m = 0;
	bool prev = true;

	for (size_t i = 0; i < n; i++) {
		bool c = w[i] == 'y' ? i == 0 || !prev : !is_vowel(w[i]);

		m += c && !prev;
		prev = c;
	}
	return m;
}

static bool has_vowel(const char *w, size_t n)
{
	for (size_t i = 0; i < n; i++)
		if (is_vowel(w[i]) || (w[i] == 'y' && i > 0 && is_consonant(w, i - 1)))
			return true;
	return false;
}

static bool ends(const char *w, size_t n, const char *suffix)
{
	size_t k = strlen(suffix);

	return n >= k && memcmp(w + n - k, suffix, k) == 0;
}

/* Consonant, vowel, consonant other than w, x, y at the end; NLTK: also a
 * two-letter vowel, consonant. */
static bool ends_cvc(const char *w, size_t n)
{
	if (n >= 3 && is_consonant(w, n - 3) && !is_consonant(w, n - 2) && is_consonant(w, n - 1))
		return w[n - 1] != 'w' && w[n - 1] != 'x' && w[n - 1] != 'y';
	return n == 2 && !is_consonant(w, 0) && is_consonant(w, 1);
}

static size_t put(char *w, size_t stem, const char *to)
{
	size_t k = strlen(to);

	memcpy(w + stem, to, k);
	return stem + k;
}

/* The first rule whose suffix fits decides: it applies when the stem before
 * it has a measure above min, else the word stays. */
static size_t apply(char *w, size_t n, const struct rule *rules, size_t n_rules, size_t min)
{
	for (size_t i = 0; i < n_rules; i++) {
		if (!ends(w, n, rules[i].suffix))
			continue;
		n -= strlen(rules[i].suffix);
		return measure(w, n) > min ? put(w, n, rules[i].to) : n + strlen(rules[i].suffix);
	}
	return n;
}

static size_t irregular(char *w, size_t n)
{
	static const struct rule forms[] = {
		{ "sky", "sky" }, { "skies", "sky" }, { "dying", "die" }, { "lying", "lie" }, { "tying", "tie" },
		{ "news", "news" }, { "innings", "inning" }, { "inning", "inning" }, { "outings", "outing" },
		{ "outing", "outing" }, { "cannings", "canning" }, { "canning", "canning" }, { "howe", "howe" },
		{ "proceed", "proceed" }, { "exceed", "exceed" }, { "succeed", "succeed" },
	};

	for (size_t i = 0; i < sizeof(forms) / sizeof(*forms); i++)
		if (strlen(forms[i].suffix) == n && memcmp(w, forms[i].suffix, n) == 0)
			return put(w, 0, forms[i].to);
	return 0;
}

static size_t step1a(const char *w, size_t n)
{
	if (ends(w, n, "ies"))
		return n == 4 ? n - 1 : n - 2;
	if (ends(w, n, "sses"))
		return n - 2;
	if (ends(w, n, "s") && !ends(w, n, "ss"))
		return n - 1;
	return n;
}

/* After -ed or -ing went: put an e back, or undouble. */
static size_t step1b_tidy(char *w, size_t n)
{
	char last = w[n - 1];

	if (ends(w, n, "at") || ends(w, n, "bl") || ends(w, n, "iz"))
		return put(w, n, "e");
	if (n >= 2 && last == w[n - 2] && is_consonant(w, n - 1))
		return last == 'l' || last == 's' || last == 'z' ? n : n - 1;
	if (measure(w, n) == 1 && ends_cvc(w, n))
		return put(w, n, "e");
	return n;
}

static size_t step1b(char *w, size_t n)
{
	if (ends(w, n, "ied"))
		return n == 4 ? n - 1 : n - 2;
	if (ends(w, n, "eed"))
		return measure(w, n - 3) > 0 ? n - 1 : n;
	if (ends(w, n, "ed") && has_vowel(w, n - 2))
		return step1b_tidy(w, n - 2);
	if (ends(w, n, "ing") && has_vowel(w, n - 3))
		return step1b_tidy(w, n - 3);
	return n;
}

static size_t step2(char *w, size_t n)
{
	static const struct rule rules[] = {
		{ "ational", "ate" }, { "tional", "tion" }, { "enci", "ence" }, { "anci", "ance" }, { "izer", "ize" },
		{ "bli", "ble" }, { "alli", "al" }, { "entli", "ent" }, { "eli", "e" }, { "ousli", "ous" },
		{ "ization", "ize" }, { "ation", "ate" }, { "ator", "ate" }, { "alism", "al" }, { "iveness", "ive" },
		{ "fulness", "ful" }, { "ousness", "ous" }, { "aliti", "al" }, { "iviti", "ive" }, { "biliti", "ble" },
		{ "fulli", "ful" },
	};

	/* -alli goes first, and what is left may lose another suffix. */
	if (ends(w, n, "alli") && measure(w, n - 4) > 0)
		n -= 2;
	/* The l of -logi counts as part of the stem. */
	if (ends(w, n, "logi"))
		return measure(w, n - 3) > 0 ? n - 1 : n;
	return apply(w, n, rules, sizeof(rules) / sizeof(*rules), 0);
}

static size_t step3(char *w, size_t n)
{
	static const struct rule rules[] = {
		{ "icate", "ic" }, { "ative", "" }, { "alize", "al" }, { "iciti", "ic" },
		{ "ical", "ic" }, { "ful", "" }, { "ness", "" },
	};

	return apply(w, n, rules, sizeof(rules) / sizeof(*rules), 0);
}

static size_t step4(char *w, size_t n)
{
	static const struct rule rules[] = {
		{ "al", "" }, { "ance", "" }, { "ence", "" }, { "er", "" }, { "ic", "" }, { "able", "" },
		{ "ible", "" }, { "ant", "" }, { "ement", "" }, { "ment", "" }, { "ent", "" }, { "ou", "" },
		{ "ism", "" }, { "ate", "" }, { "iti", "" }, { "ous", "" }, { "ive", "" }, { "ize", "" },
	};

	if (ends(w, n, "ion"))
		return measure(w, n - 3) > 1 && (w[n - 4] == 's' || w[n - 4] == 't') ? n - 3 : n;
	return apply(w, n, rules, sizeof(rules) / sizeof(*rules), 1);
}

static size_t step5(const char *w, size_t n)
{
	if (ends(w, n, "e")) {
		size_t m = measure(w, n - 1);

		if (m > 1 || (m == 1 && !ends_cvc(w, n - 1)))
			n--;
	}
	if (ends(w, n, "ll") && measure(w, n - 1) > 1)
		n--;
	return n;
}

size_t porter_stem(char *w, size_t n)
{
	size_t fixed = irregular(w, n);

	if (fixed)
		return fixed;
	if (n <= 2)
		return n;
	n = step1b(w, step1a(w, n));
	if (n > 2 && w[n - 1] == 'y' && is_consonant(w, n - 2))
		w[n - 1] = 'i';
	return step5(w, step4(w, step3(w, step2(w, n))));
}

#include "train/tag.h"

#include <string.h>

#define DIGITS "0123456789"
#define WORD DIGITS "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ-"

/* A number without a leading zero; NULL when there is none. */
static const char *number(const char *s)
{
	size_t n = strspn(s, DIGITS);

	return n == 0 || (n > 1 && *s == '0') ? NULL : s + n;
}

/* Words between dots. Numbers among those of a pre-release have no leading zero. */
static const char *words(const char *s, bool strict)
{
	for (;; s++) {
		size_t n = strspn(s, WORD);

		if (n == 0 || (strict && n > 1 && *s == '0' && strspn(s, DIGITS) == n))
			return NULL;
		s += n;
		if (*s != '.')
			return s;
	}
}

bool tag_is_version(const char *s)
{
	for (int i = 0; i < 3 && s; i++) {
		s = number(s);
		if (s && i < 2)
			s = *s == '.' ? s + 1 : NULL;
	}
	if (s && *s == '-')
		s = words(s + 1, true);
	if (s && *s == '+')
		s = words(s + 1, false);
	return s && !*s;
}

bool tag_parse(const char *text, const char **version)
{
	const char *at = strrchr(text, '@');

	*version = at ? at + 1 : text;
	if (at && (at == text || strspn(text, WORD "._") < (size_t)(at - text)))
		return false;
	return tag_is_version(*version);
}

#include "base/num.h"

#include <errno.h>
#include <locale.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

bool parse_u64(const char *s, uint64_t *out)
{
	uint64_t v = 0;

	if (!*s)
		return false;
	for (; *s; s++) {
		unsigned d = (unsigned)*s - '0';

		if (d > 9 || v > (UINT64_MAX - d) / 10)
			return false;
		v = v * 10 + d;
	}
	*out = v;
	return true;
}

bool parse_i64(const char *s, int64_t *out)
{
	bool neg = *s == '-';
	uint64_t v, limit = neg ? (uint64_t)INT64_MAX + 1 : INT64_MAX;

	if (*s == '-' || *s == '+')
		s++;
	if (!parse_u64(s, &v) || v > limit)
		return false;
	*out = neg ? (int64_t)(0 - v) : (int64_t)v;
	return true;
}

static const char *digits(const char *s)
{
	while (*s >= '0' && *s <= '9')
		s++;
	return s;
}

/* [+-] digits [. digits] [e [+-] digits], with a digit before or after the
 * point: strtod alone would take hex, "inf" and leading space. */
static bool is_decimal(const char *s)
{
	const char *p;
	bool any;

	if (*s == '-' || *s == '+')
		s++;
	p = digits(s);
	any = p > s;
	if (*p == '.') {
		s = p + 1;
		p = digits(s);
		any |= p > s;
	}
	if (!any)
		return false;
	if (*p == 'e' || *p == 'E') {
		s = p + 1;
		if (*s == '-' || *s == '+')
			s++;
		p = digits(s);
		if (p == s)
			return false;
	}
	return !*p;
}

/* glibc's newlocale("C") hands out its static object: cheap, no allocation. */
static double c_strtod(const char *s)
{
	locale_t c = newlocale(LC_ALL_MASK, "C", (locale_t)0);
	double v = strtod_l(s, NULL, c);

	freelocale(c);
	return v;
}

bool parse_f64(const char *s, double *out)
{
	double v;

	if (!is_decimal(s))
		return false;
	v = c_strtod(s);
	if (!isfinite(v))
		return false;
	*out = v;
	return true;
}

static bool size_suffix(const char *s, unsigned *shift)
{
	static const char units[] = "kmgt";
	const char *u;

	*shift = 0;
	if (*s && (u = strchr(units, *s | 0x20)) && *u) {
		*shift = 10 * (unsigned)(u - units + 1);
		s++;
		if ((*s | 0x20) == 'i') {
			s++;
			return (*s | 0x20) == 'b' && !s[1];
		}
	}
	if ((*s | 0x20) == 'b')
		s++;
	return !*s;
}

bool parse_size(const char *s, uint64_t *out)
{
	const char *p = digits(s);
	size_t n;
	char num[48];
	unsigned shift;
	uint64_t v;
	double f;

	if (p == s)
		return false;
	if (*p == '.')
		p = digits(p + 1);
	n = (size_t)(p - s);
	if (n >= sizeof(num) || !size_suffix(p, &shift))
		return false;
	memcpy(num, s, n);
	num[n] = 0;
	if (!memchr(num, '.', n)) {
		if (!parse_u64(num, &v) || v > UINT64_MAX >> shift)
			return false;
		*out = v << shift;
		return true;
	}
	if (!shift || !parse_f64(num, &f))
		return false;
	f = ldexp(f, (int)shift);
	if (f >= 18446744073709551616.0)
		return false;
	*out = (uint64_t)f;
	return true;
}

/* Digits of the shortest "%.*e" that reads back as v: 15 digits always
 * survive the way there and back for a normal number, so shorter ones are
 * those 15 with their zeros cut; subnormals have fewer, so start at 1. */
static void shortest(double v, char *e, size_t size)
{
	locale_t c = newlocale(LC_ALL_MASK, "C", (locale_t)0), old = uselocale(c);
	int p = fabs(v) < 2.2250738585072014e-308 ? 0 : 14;

	for (; p <= 16; p++) {
		snprintf(e, size, "%.*e", p, v);
		if (strtod(e, NULL) == v)
			break;
	}
	uselocale(old);
	freelocale(c);
}

size_t fmt_f64(double v, char *buf)
{
	char e[40], dig[20], *p = buf;
	int n = 0, exp10, i;

	if (!isfinite(v))
		return (size_t)snprintf(buf, 32, "%s", isnan(v) ? "nan" : v < 0 ? "-inf" : "inf");
	if (v == 0)
		return (size_t)snprintf(buf, 32, signbit(v) ? "-0.0" : "0.0");
	shortest(v, e, sizeof(e));
	for (i = 0; e[i] != 'e'; i++)
		if (e[i] >= '0' && e[i] <= '9')
			dig[n++] = e[i];
	exp10 = (int)strtol(e + i + 1, NULL, 10);
	while (n > 1 && dig[n - 1] == '0')
		n--;
	if (v < 0)
		*p++ = '-';
	if (exp10 < -4 || exp10 >= 16) {
		*p++ = dig[0];
		if (n > 1) {
			*p++ = '.';
			memcpy(p, dig + 1, (size_t)n - 1);
			p += n - 1;
		}
		p += snprintf(p, 8, "e%c%02d", exp10 < 0 ? '-' : '+', abs(exp10));
	} else if (exp10 < 0) {
		*p++ = '0';
		*p++ = '.';
		for (i = -1; i > exp10; i--)
			*p++ = '0';
		memcpy(p, dig, (size_t)n);
		p += n;
	} else {
		for (i = 0; i < n || i <= exp10; i++) {
			if (i == exp10 + 1)
				*p++ = '.';
			*p++ = i < n ? dig[i] : '0';
		}
		if (n <= exp10 + 1) {
			*p++ = '.';
			*p++ = '0';
		}
	}
	*p = 0;
	return (size_t)(p - buf);
}

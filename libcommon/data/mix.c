#include "data/mix.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/num.h"
#include "base/rng.h"
#include "base/xalloc.h"

#define ONE 1000000000ull /* a share of everything */

__extension__ typedef unsigned __int128 u128;

/* --- the command line --- */

/* 0.15 or 15%: 1 a ratio, 0 no number at all, -1 a number out of range. */
static int read_ratio(const char *text, uint64_t *ratio)
{
	size_t n = strlen(text);
	bool percent = n > 1 && text[n - 1] == '%';
	char *number = xmemdup0(text, percent ? n - 1 : n);
	double v;
	bool ok = parse_f64(number, &v);

	free(number);
	if (!ok)
		return 0;
	if (percent)
		v /= 100;
	if (!(v > 0 && v <= 1))
		return -1;
	*ratio = (uint64_t)llround(v * (double)ONE);
	return *ratio ? 1 : -1;
}

int mix_add(struct mix *m, const char *arg, struct err *e)
{
	const char *colon = strrchr(arg, ':');
	struct mix_source *s = &m->src[m->n];
	int rc = colon && access(arg, F_OK) ? read_ratio(colon + 1, &s->ratio) : 0;

	if (m->n == MIX_MAX_SOURCES)
		return err_set(e, LP_USAGE, "more than %d files", MIX_MAX_SOURCES);
	if (rc < 0)
		return err_set(e, LP_USAGE, "'%.200s': a ratio is over 0 and at most 1, or a percentage", arg);
	s->has_ratio = rc == 1;
	s->path = rc ? xmemdup0(arg, (size_t)(colon - arg)) : xstrdup(arg);
	m->n++;
	return 0;
}

void mix_release(struct mix *m)
{
	for (size_t i = 0; i < m->n; i++)
		free(m->src[i].path);
	memset(m, 0, sizeof(*m));
}

/* --- the plan --- */

/* n split by weights, by largest remainder; the earlier wins a tie. */
static void apportion(uint64_t n, const uint64_t *weight, size_t k, uint64_t *out)
{
	uint64_t rest[MIX_MAX_SOURCES], left = n;
	u128 total = 0;

	for (size_t i = 0; i < k; i++)
		total += weight[i];
	if (!total)
		return;
	for (size_t i = 0; i < k; i++) {
		u128 x = (u128)n * weight[i];

		out[i] = (uint64_t)(x / total);
		rest[i] = (uint64_t)(x % total);
		left -= out[i];
	}
	for (; left; left--) {
		size_t best = 0;

		for (size_t i = 1; i < k; i++)
			if (rest[i] > rest[best])
				best = i;
		out[best]++;
		rest[best] = 0;
	}
}

static uint64_t divide_round(u128 a, uint64_t b)
{
	return (uint64_t)((a + b / 2) / b);
}

/* Every file has a ratio: as many records as the scarcest allows. */
static uint64_t largest_size(const struct mix *m)
{
	uint64_t size = UINT64_MAX;

	for (size_t i = 0; i < m->n; i++) {
		uint64_t most = (uint64_t)((u128)m->src[i].have * ONE / m->src[i].ratio);

		if (most < size)
			size = most;
	}
	return size;
}

static void plan_ratios_only(struct mix *m, uint64_t size)
{
	uint64_t weight[MIX_MAX_SOURCES] = { 0 }, take[MIX_MAX_SOURCES] = { 0 };

	for (size_t i = 0; i < m->n; i++)
		weight[i] = m->src[i].ratio;
	apportion(size, weight, m->n, take);
	for (size_t i = 0; i < m->n; i++)
		m->src[i].take = take[i];
}

/* The base whole (or its share of size), and each other in its ratio to it. */
static void plan_on_base(struct mix *m, uint64_t shares, uint64_t size)
{
	uint64_t weight[MIX_MAX_SOURCES] = { 0 }, take[MIX_MAX_SOURCES] = { 0 }, base = 0, rest = size;

	for (size_t i = 0; i < m->n; i++)
		if (!m->src[i].has_ratio)
			base += weight[i] = m->src[i].have;
	for (size_t i = 0; i < m->n; i++) {
		struct mix_source *s = &m->src[i];

		if (!s->has_ratio)
			continue;
		s->take = size ? divide_round((u128)size * s->ratio, ONE) : divide_round((u128)base * s->ratio, ONE - shares);
		rest = s->take < rest ? rest - s->take : 0;
	}
	apportion(size ? rest : base, weight, m->n, take);
	for (size_t i = 0; i < m->n; i++)
		if (!m->src[i].has_ratio)
			m->src[i].take = take[i];
}

int mix_plan(struct mix *m, uint64_t size, bool repeat, struct err *e)
{
	uint64_t shares = 0;
	bool base = false;
	char sum[32];

	for (size_t i = 0; i < m->n; i++) {
		shares += m->src[i].ratio;
		base |= !m->src[i].has_ratio;
	}
	fmt_f64((double)shares / (double)ONE, sum);
	if (base && shares >= ONE)
		return err_set(e, LP_USAGE, "the ratios add up to %s and leave nothing for the files without one", sum);
	if (!base && (shares > ONE + 1 || shares + 1 < ONE))
		return err_set(e, LP_USAGE, "the ratios add up to %s, not 1; give one file without a ratio", sum);
	if (base)
		plan_on_base(m, shares, size);
	else
		plan_ratios_only(m, size ? size : largest_size(m));
	m->total = 0;
	for (size_t i = 0; i < m->n; i++) {
		const struct mix_source *s = &m->src[i];

		if (s->take > s->have && (!repeat || !s->have))
			return err_set(e, LP_USAGE, "%.300s has %" PRIu64 " records and the mixture needs %" PRIu64 "; ask for less, or take records again with --repeat",
			               s->path, s->have, s->take);
		m->total += s->take;
	}
	return 0;
}

/* --- the order --- */

size_t mix_pick(struct mix *m)
{
	uint64_t left = 0, x;

	for (size_t i = 0; i < m->n; i++)
		left += m->src[i].take - m->src[i].written;
	if (!left)
		return SIZE_MAX;
	x = rng_below(m->seed, rng_stream("mix order"), m->step++, left);
	for (size_t i = 0; i < m->n; i++) {
		uint64_t n = m->src[i].take - m->src[i].written;

		if (x < n)
			return i;
		x -= n;
	}
	return SIZE_MAX;
}

/* Selection sampling (Knuth, volume 2, algorithm S) in the last, partial pass. */
bool mix_wants(struct mix *m, size_t i)
{
	struct mix_source *s = &m->src[i];
	uint64_t pass = s->seen / s->have, at = s->seen % s->have, n = s->seen++;
	bool yes = true;

	if (pass == s->take / s->have) {
		uint64_t need = s->take - s->written, left = s->have - at;

		yes = rng_below(m->seed, rng_stream("mix choice") + i, n, left) < need;
	}
	s->written += yes;
	return yes;
}

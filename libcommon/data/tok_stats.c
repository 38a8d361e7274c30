/* Length statistics: exact up to a million tokens a sequence, in constant memory. */
#include "data/tok_stats.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/xalloc.h"
#include "json/json.h"

void tok_stats_release(struct tok_stats *s)
{
	free(s->count);
	memset(s, 0, sizeof(*s));
}

void tok_stats_add(struct tok_stats *s, uint64_t tokens, uint64_t targets)
{
	if (!s->n || tokens < s->min)
		s->min = tokens;
	if (tokens > s->max)
		s->max = tokens;
	s->n++;
	s->tokens += tokens;
	s->targets += targets;
	if (tokens > TOK_STATS_EXACT) {
		s->longer++;
		s->longer_tokens += tokens;
		return;
	}
	if (tokens >= s->cap) {
		size_t old = s->cap;

		s->count = xgrow(s->count, &s->cap, tokens + 1, sizeof(*s->count));
		memset(s->count + old, 0, (s->cap - old) * sizeof(*s->count));
	}
	s->count[tokens]++;
}

uint64_t tok_stats_percentile(const struct tok_stats *s, double share)
{
	uint64_t want = (uint64_t)ceil(share * (double)s->n), sum = 0;

	for (size_t l = 0; l < s->cap; l++) {
		sum += s->count[l];
		if (sum >= want && sum)
			return l;
	}
	return s->max;
}

static void cut_at(const struct tok_stats *s, struct jw *w, uint64_t len)
{
	uint64_t rows = s->longer, tokens = s->longer_tokens - s->longer * len;

	for (size_t l = len + 1; l < s->cap; l++) {
		rows += s->count[l];
		tokens += s->count[l] * (l - len);
	}
	jw_obj(w);
	jw_key(w, "max_len");
	jw_i64(w, (int64_t)len);
	jw_key(w, "rows");
	jw_i64(w, (int64_t)rows);
	jw_key(w, "tokens");
	jw_i64(w, (int64_t)tokens);
	jw_end_obj(w);
}

static void number(struct jw *w, const char *key, uint64_t v)
{
	jw_key(w, key);
	jw_i64(w, (int64_t)v);
}

static uint64_t rows_within(const struct tok_stats *s, uint64_t from, uint64_t to)
{
	uint64_t n = 0;

	for (uint64_t l = from; l <= to && l < s->cap; l++)
		n += s->count[l];
	return n;
}

/* Sequences by length in powers of two: (from/2, from]. */
static void histogram(const struct tok_stats *s, struct jw *w)
{
	jw_key(w, "histogram");
	jw_arr(w);
	for (uint64_t from = 0, to = 16; s->n && from <= s->max && from < TOK_STATS_EXACT; from = to + 1, to *= 2) {
		jw_obj(w);
		number(w, "to", to);
		number(w, "rows", rows_within(s, from, to));
		jw_end_obj(w);
	}
	jw_end_arr(w);
}

/* The smallest power of two (from 128) that holds 99 % of the sequences whole. */
static uint64_t suggested(const struct tok_stats *s)
{
	uint64_t want = tok_stats_percentile(s, 0.99), len = 128;

	while (len < want)
		len *= 2;
	return len;
}

void tok_stats_json(const struct tok_stats *s, uint64_t max_len, uint64_t rows, uint64_t row_tokens, struct sb *out)
{
	static const uint64_t cuts[] = { 256, 512, 1024, 2048, 4096, 8192, 16384, 32768, 65536, 131072 };
	static const struct { const char *key; double share; } marks[] = { { "p50", 0.5 }, { "p90", 0.9 }, { "p95", 0.95 }, { "p99", 0.99 } };
	struct jw w = jw_to(out);

	jw_obj(&w);
	number(&w, "rows", s->n);
	number(&w, "tokens", s->tokens);
	number(&w, "targets", s->targets);
	number(&w, "min", s->min);
	jw_key(&w, "mean");
	jw_f64(&w, s->n ? (double)s->tokens / (double)s->n : 0);
	for (size_t i = 0; i < sizeof(marks) / sizeof(*marks); i++)
		number(&w, marks[i].key, tok_stats_percentile(s, marks[i].share));
	number(&w, "max", s->max);
	number(&w, "suggested_max_len", suggested(s));
	jw_key(&w, "cut");
	jw_arr(&w);
	for (size_t i = 0; i < sizeof(cuts) / sizeof(*cuts) && s->n && (!i || cuts[i - 1] < s->max); i++)
		cut_at(s, &w, cuts[i]);
	jw_end_arr(&w);
	histogram(s, &w);
	number(&w, "max_len", max_len);
	number(&w, "truncated_rows", s->truncated);
	number(&w, "truncated_tokens", s->cut_tokens);
	number(&w, "dropped_rows", s->dropped);
	number(&w, "dropped_tokens", s->dropped_tokens);
	number(&w, "split_rows", s->split);
	if (rows) {
		number(&w, "packed_rows", rows);
		jw_key(&w, "fill");
		jw_f64(&w, (double)row_tokens / ((double)rows * (double)max_len));
	}
	jw_end_obj(&w);
	sb_addc(out, '\n');
}

/* --- for people --- */

/* A bar of eighths of a character. */
static void bar(struct sb *out, uint64_t n, uint64_t most, int columns)
{
	uint64_t eighths = most ? (uint64_t)((double)n / (double)most * columns * 8 + 0.5) : 0;

	if (n && !eighths)
		eighths = 1;
	for (; eighths >= 8; eighths -= 8)
		sb_adds(out, "\xE2\x96\x88");
	if (eighths) {
		char part[4] = { '\xE2', '\x96', (char)(0x90 - eighths), 0 };

		sb_adds(out, part);
	}
}

static void picture_cuts(const struct tok_stats *s, uint64_t len, struct sb *out)
{
	uint64_t rows = s->longer, tokens = s->longer_tokens - s->longer * len;

	for (size_t l = len + 1; l < s->cap; l++) {
		rows += s->count[l];
		tokens += s->count[l] * (l - len);
	}
	sb_addf(out, "  --max-len %-7llu cuts %llu rows (%.2f %%), %llu tokens (%.2f %%)\n", (unsigned long long)len, (unsigned long long)rows, 100.0 * (double)rows / (double)s->n,
	        (unsigned long long)tokens, s->tokens ? 100.0 * (double)tokens / (double)s->tokens : 0);
}

void tok_stats_picture(const struct tok_stats *s, int columns, struct sb *out)
{
	uint64_t most = s->longer, suggest = suggested(s), n;
	int width = columns > 60 ? columns - 30 : 30;

	if (!s->n)
		return;
	for (uint64_t from = 0, to = 16; from <= s->max && from < TOK_STATS_EXACT; from = to + 1, to *= 2)
		if ((n = rows_within(s, from, to)) > most)
			most = n;
	for (uint64_t from = 0, to = 16; from <= s->max && from < TOK_STATS_EXACT; from = to + 1, to *= 2) {
		n = rows_within(s, from, to);
		sb_addf(out, "%10llu %10llu ", (unsigned long long)to, (unsigned long long)n);
		bar(out, n, most, width);
		sb_addc(out, '\n');
	}
	if (s->longer) {
		sb_addf(out, "%10s %10llu ", "more", (unsigned long long)s->longer);
		bar(out, s->longer, most, width);
		sb_addc(out, '\n');
	}
	sb_addf(out, "  %llu rows, %llu tokens, %llu of them targets; a row has %llu to %llu, mean %.1f, p50 %llu, p90 %llu, p99 %llu\n", (unsigned long long)s->n,
	        (unsigned long long)s->tokens, (unsigned long long)s->targets, (unsigned long long)s->min, (unsigned long long)s->max, (double)s->tokens / (double)s->n,
	        (unsigned long long)tok_stats_percentile(s, 0.5), (unsigned long long)tok_stats_percentile(s, 0.9), (unsigned long long)tok_stats_percentile(s, 0.99));
	for (uint64_t len = suggest > 256 ? suggest / 4 : 64; len <= suggest * 2; len *= 2)
		picture_cuts(s, len, out);
	sb_addf(out, "  %llu holds 99 %% of the rows whole\n", (unsigned long long)suggest);
}

/* What a run learns from: one token stream, or several, and how much of an epoch each has. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/hash.h"
#include "base/num.h"
#include "base/xalloc.h"
#include "train/run_int.h"

static int load_stream(struct run *r, const char *path, struct dataset *d, struct err *e)
{
	struct stream *s = &r->streams[r->n_streams];
	struct in *in = in_open(path, e);

	if (!in)
		return -1;
	snprintf(s->name, sizeof(s->name), "%s", in_name(in));
	if (dataset_load_take(d, in, r->desc.vocab, run_positions(r), e) < 0) {
		dataset_release(d);
		return -1;
	}
	if (run_pref_rows(r, d, s->name, e) < 0) {
		dataset_release(d);
		return -1;
	}
	s->first = r->train.n_rows;
	s->n_rows = d->n_rows;
	s->lineage = d->lineage ? xstrdup(d->lineage) : NULL;
	memcpy(s->hash, d->hash, sizeof(s->hash));
	r->n_streams++;
	return 0;
}

static int append_stream(struct run *r, const char *path, struct err *e)
{
	struct dataset d;
	int rc;

	if (load_stream(r, path, &d, e) < 0)
		return -1;
	rc = r->train.tokenizer_hash && d.tokenizer_hash && strcmp(r->train.tokenizer_hash, d.tokenizer_hash) != 0
		? err_set(e, LP_USAGE, "'%s' and '%s' come from different tokenizers; make both with one", r->streams[0].name, path)
		: 0;
	if (rc == 0)
		r->streams[r->n_streams - 1].records = dataset_append(&r->train, &d);
	dataset_release(&d);
	return rc;
}

/* Of all streams, in their order. */
static void hash_streams(struct run *r)
{
	struct xxh *h = xxh_new();

	for (size_t i = 0; i < r->n_streams; i++)
		xxh_add(h, r->streams[i].hash, sizeof(r->streams[i].hash));
	xxh_hex(h, r->train.hash);
	xxh_free(h);
}

static int parse_weights(const struct run *r, double *w, struct err *e)
{
	const char *p = r->c->weights;
	size_t n = 0;

	for (; *p; n++) {
		size_t len = strcspn(p, ",");
		char text[32];

		snprintf(text, sizeof(text), "%.*s", (int)len, p);
		if (n < r->n_streams && (len >= sizeof(text) || !parse_f64(text, &w[n]) || !(w[n] > 0 && w[n] <= 1e9)))
			return err_set(e, LP_USAGE, "--weights takes numbers above 0 as in 3,1, not '%s'", r->c->weights);
		p += len + (p[len] == ',' && p[len + 1]);
		if (*p == ',')
			return err_set(e, LP_USAGE, "--weights takes numbers above 0 as in 3,1, not '%s'", r->c->weights);
	}
	return n == r->n_streams ? 0 : err_set(e, LP_USAGE, "--weights has %zu numbers for %zu token streams", n, r->n_streams);
}

/* Rows of an epoch in parts like the weights, rounded so that they add up: what is left over goes to the largest remainders. */
static int share(struct run *r, const double *w, struct err *e)
{
	int64_t left = r->train.n_rows;
	double sum = 0, *rest = xcalloc(r->n_streams, sizeof(*rest));

	for (size_t i = 0; i < r->n_streams; i++)
		sum += w[i];
	for (size_t i = 0; i < r->n_streams; i++) {
		double exact = (double)r->train.n_rows * (w[i] / sum);

		r->streams[i].take = (int64_t)exact;
		rest[i] = exact - (double)r->streams[i].take;
		left -= r->streams[i].take;
	}
	for (; left > 0; left--) {
		size_t most = 0;

		for (size_t i = 1; i < r->n_streams; i++)
			most = rest[i] > rest[most] ? i : most;
		r->streams[most].take++;
		rest[most] = -1;
	}
	free(rest);
	for (size_t i = 0; i < r->n_streams; i++)
		if (r->streams[i].take == 0)
			return err_set(e, LP_USAGE, "by its weight '%s' has none of an epoch's %lld rows; leave it out, or raise its weight", r->streams[i].name,
			               (long long)r->train.n_rows);
	return 0;
}

static int weigh(struct run *r, struct err *e)
{
	double *w = xcalloc(r->n_streams, sizeof(*w));
	int rc = parse_weights(r, w, e) < 0 || share(r, w, e) < 0 ? -1 : 0;

	free(w);
	return rc;
}

int run_load_streams(struct run *r, struct err *e)
{
	const struct train_config *c = r->c;

	r->streams = xcalloc(c->n_streams + 1, sizeof(*r->streams));
	if (load_stream(r, c->n_streams ? c->streams[0] : NULL, &r->train, e) < 0)
		return -1;
	r->streams[0].first = 0;
	for (size_t i = 1; i < c->n_streams; i++)
		if (append_stream(r, c->streams[i], e) < 0)
			return -1;
	if (r->n_streams > 1)
		hash_streams(r);
	for (size_t i = 0; i < r->n_streams; i++)
		r->streams[i].take = r->streams[i].n_rows;
	return c->weights ? weigh(r, e) : 0;
}

void run_release_streams(struct run *r)
{
	for (size_t i = 0; i < r->n_streams; i++)
		free(r->streams[i].lineage);
	free(r->streams);
	r->streams = NULL;
	r->n_streams = 0;
}

bool run_repeats_rows(const struct run *r)
{
	for (size_t i = 0; i < r->n_streams; i++)
		if (r->streams[i].take > r->streams[i].n_rows)
			return true;
	return false;
}

int64_t run_rows(const struct run *r)
{
	return r->rollout ? run_prompts(r) : r->train.n_rows;
}

void run_start_order(struct run *r)
{
	struct order_part *parts = xcalloc(r->n_streams + 1, sizeof(*parts));

	order_init(&r->order, r->c->seed, run_rows(r));
	for (size_t i = 0; i < r->n_streams; i++)
		parts[i] = (struct order_part){ r->streams[i].first, r->streams[i].n_rows, r->streams[i].take };
	if (r->c->weights)
		order_mix(&r->order, parts, r->n_streams);
	free(parts);
}

int64_t run_record(const struct run *r, int64_t seq, const char **stream)
{
	int64_t record = r->train.seq_record[seq];
	size_t i = r->n_streams - 1;

	while (i > 0 && record < r->streams[i].records)
		i--;
	*stream = r->n_streams > 1 ? r->streams[i].name : NULL;
	return record - r->streams[i].records + 1;
}

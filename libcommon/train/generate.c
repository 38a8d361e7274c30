#include "train/generate.h"

#include <math.h>
#include <omp.h>
#include <stdlib.h>
#include <string.h>

#include "base/rng.h"
#include "base/xalloc.h"

static int64_t kv_width(const struct model_desc *m)
{
	return m->kv_heads * m->head_dim;
}

/* What a row of logits gave. */
struct chosen {
	int32_t id;
	double logprob;
};

/* Steps of a burst: how often the host looks whether sequences have ended. */
#define BURST 16

static uint64_t steps_bytes(struct gen_steps *s, void *base, int64_t batch)
{
	struct layout l = { .base = base };
	void *logprob = layout_array(&l, "steps", batch * BURST, sizeof(double)), *out = layout_array(&l, "steps", batch * BURST, sizeof(int32_t));
	void *count = layout_array(&l, "steps", batch, sizeof(int32_t));

	if (s) {
		s->logprob = logprob;
		s->out = out;
		s->count = count;
	}
	return l.used;
}

uint64_t generator_bytes(const struct device *d, const struct model_desc *m, int64_t batch, int64_t context)
{
	struct layout l = { 0 };

	layout_array(&l, "keys", batch * m->layers * context, (size_t)kv_width(m) * dtype_bytes(d->act));
	layout_array(&l, "values", batch * m->layers * context, (size_t)kv_width(m) * dtype_bytes(d->act));
	return l.used + steps_bytes(NULL, NULL, batch);
}

int generator_init(struct generator *n, struct engine *g, int64_t batch, int64_t context, struct err *e)
{
	const struct model_desc *m = &g->w.desc;
	uint64_t bytes = generator_bytes(g->dev, m, batch, context);

	memset(n, 0, sizeof(*n));
	n->g = g;
	n->batch = batch;
	n->context = context;
	n->memory = device_alloc(g->dev, bytes, "the key-value cache (lower --batch or --context)", e);
	if (!n->memory)
		return -1;
	bytes -= steps_bytes(NULL, NULL, batch);
	steps_bytes(&n->steps, (char *)n->memory + bytes, batch);
	n->steps.out_host = xcalloc((size_t)(batch * BURST), sizeof(*n->steps.out_host));
	n->steps.logprob_host = xcalloc((size_t)(batch * BURST), sizeof(*n->steps.logprob_host));
	n->cache = (struct kn_kv_cache){ n->memory, (char *)n->memory + bytes / 2, m->layers * context * kv_width(m), kv_width(m) };
	microbatch_init(&n->mb, g->shape.max_tokens);
	n->slot = xcalloc((size_t)batch, sizeof(*n->slot));
	n->logits = xcalloc((size_t)(g->chunk * m->vocab), sizeof(*n->logits));
	n->chosen = xcalloc((size_t)g->chunk, sizeof(*n->chosen));
	n->threads = g->dev->threads > 0 ? g->dev->threads : omp_get_max_threads(); /* a GPU says none */
	n->threads = n->threads < batch ? n->threads : (int)batch;
	n->idx = xcalloc((size_t)(n->threads * m->vocab), sizeof(*n->idx));
	n->prob = xcalloc((size_t)(n->threads * m->vocab), sizeof(*n->prob));
	return 0;
}

void generator_release(struct generator *n)
{
	for (int i = 0; i < GEN_RECORDINGS; i++)
		if (n->steps.rec[i].recording)
			n->g->dev->k.forget(n->g->dev, n->steps.rec[i].recording);
	free(n->steps.out_host);
	free(n->steps.logprob_host);
	if (n->memory)
		device_free(n->g->dev, n->memory);
	microbatch_release(&n->mb);
	free(n->slot);
	free(n->logits);
	free(n->chosen);
	free(n->idx);
	free(n->prob);
	memset(n, 0, sizeof(*n));
}

/* What a layer's attention works on. */
struct kept {
	struct kn_kv_cache c;
	struct kn_attn_shape s;
};

/* The micro-batch's keys and values go to their slots. */
static struct kept keep_keys(const struct generator *n, int64_t layer, const struct acts *a, const struct microbatch *b)
{
	struct engine *g = n->g;
	struct kept k = { .c = engine_layer_cache(g, &n->cache, layer, n->context) };

	engine_attn_shape(g, layer, b, &k.s);
	g->dev->k.kv_append(g->dev, &k.s, &k.c, engine_k(g, a->qkv), engine_v(g, a->qkv), g->in.rec, g->in.pos, b->n_tokens);
	return k;
}

/* Prompts: attention among themselves, keys and values kept. */
static void attn_prompt(void *ctx, struct engine *g, int64_t layer, struct acts *a, const struct microbatch *b)
{
	engine_attn_self(NULL, g, layer, a, b);
	keep_keys(ctx, layer, a, b);
}

/* One token a row, against its slot's cache. */
static void attn_next(void *ctx, struct engine *g, int64_t layer, struct acts *a, const struct microbatch *b)
{
	struct generator *n = ctx;
	struct kept k = keep_keys(n, layer, a, b);

	g->dev->k.attn_decode(g->dev, &k.s, a->qkv, &k.c, g->in.rec, g->in.tgt_id, n->context, a->o);
}

/* --- choosing a token --- */

static int32_t argmax(const float *z, int64_t v)
{
	int64_t best = 0;

	for (int64_t i = 1; i < v; i++)
		if (z[i] > z[best])
			best = i;
	return (int32_t)best;
}

static double log_sum_exp(const float *z, int64_t v, double scale)
{
	double max = (double)z[argmax(z, v)] * scale, sum = 0;

	for (int64_t i = 0; i < v; i++)
		sum += exp((double)z[i] * scale - max);
	return max + log(sum);
}

/* Tokens by falling probability, the lower id among equals: a heap gives as many as are wanted, which are few, without sorting them all.
 * The i-th that was taken stands at idx[v - 1 - i]. */
struct ranked {
	double *prob;
	uint32_t *idx;
	int64_t v, taken;
};

static bool before(const struct ranked *r, uint32_t a, uint32_t b)
{
	return r->prob[a] != r->prob[b] ? r->prob[a] > r->prob[b] : a < b;
}

static void sift(struct ranked *r, int64_t n, int64_t i)
{
	uint32_t moved = r->idx[i];

	for (int64_t k; (k = 2 * i + 1) < n; i = k) {
		k += k + 1 < n && before(r, r->idx[k + 1], r->idx[k]);
		if (!before(r, r->idx[k], moved))
			break;
		r->idx[i] = r->idx[k];
	}
	r->idx[i] = moved;
}

static uint32_t ranked_at(struct ranked *r, int64_t i)
{
	while (r->taken <= i) {
		int64_t last = r->v - 1 - r->taken++;
		uint32_t top = r->idx[0];

		r->idx[0] = r->idx[last];
		r->idx[last] = top;
		sift(r, last, 0);
	}
	return r->idx[r->v - 1 - i];
}

/* Probability of the first n, or of as many as have the part of it that is asked for; *m says how many. */
static double mass(struct ranked *r, int64_t n, double part, int64_t *m)
{
	double sum = 0;

	for (*m = 0; *m < n && (*m == 0 || sum < part); ++*m)
		sum += r->prob[ranked_at(r, *m)];
	return sum;
}

/* Draws from softmax(z / temperature) cut to top_k, then to top_p. */
static int32_t draw(struct ranked *r, const float *z, int64_t v, const struct gen_options *o, double u)
{
	double lse = log_sum_exp(z, v, 1 / o->temperature), kept = 0, at = 0;
	int64_t m = v;

	for (int64_t i = 0; i < v; i++) {
		r->prob[i] = exp((double)z[i] / o->temperature - lse);
		r->idx[i] = (uint32_t)i;
		kept += r->prob[i];
	}
	r->v = v;
	r->taken = 0;
	for (int64_t i = v / 2 - 1; i >= 0; i--)
		sift(r, v, i);
	if (o->top_k > 0 && o->top_k < v)
		kept = mass(r, o->top_k, INFINITY, &m);
	/* top_p is a part of what top_k leaves */
	if (o->top_p < 1)
		kept = mass(r, m, o->top_p * kept, &m);
	for (int64_t i = 0; i < m; i++) {
		at += r->prob[ranked_at(r, i)];
		if (u * kept < at)
			return (int32_t)ranked_at(r, i);
	}
	return (int32_t)ranked_at(r, m - 1);
}

static bool is_stop(const struct gen_options *o, int32_t id)
{
	for (int64_t i = 0; i < o->n_stop; i++)
		if (o->stop[i] == id)
			return true;
	return false;
}

/* The next token of s is id; false when s has ended. */
static bool take_id(struct generator *n, struct gen_seq *s, int32_t id, double logprob, const struct gen_options *o)
{
	s->logprob += logprob;
	if (is_stop(o, id)) {
		s->finish = GEN_STOP;
		s->end = id;
		return false;
	}
	s->out[s->n_new++] = id;
	s->finish = s->n_new == o->max_new ? GEN_LENGTH : GEN_CONTEXT;
	return s->n_new < o->max_new && s->n_prompt + s->n_new < n->context;
}

static struct chosen choose(struct ranked *r, const struct gen_seq *s, const float *z, int64_t v, const struct gen_options *o)
{
	struct chosen c = { .id = o->temperature > 0 ? draw(r, z, v, o, rng_unit(o->seed, s->stream, (uint64_t)s->n_new)) : argmax(z, v) };

	c.logprob = (double)z[c.id] - log_sum_exp(z, v, 1);
	return c;
}

/* Of m rows of logits; each thread has scratch of its own. */
static void choose_rows(struct generator *n, const struct gen_seq *s, const int32_t *slot, int64_t m, const struct gen_options *o)
{
	int64_t v = n->g->w.desc.vocab;

#pragma omp parallel for num_threads(n->threads) schedule(dynamic, 1) if (m * v > 16384)
	for (int64_t j = 0; j < m; j++) {
		int64_t t = omp_get_thread_num();
		struct ranked r = { .prob = n->prob + t * v, .idx = n->idx + t * v };

		n->chosen[j] = choose(&r, &s[slot[j]], n->logits + j * v, v, o);
	}
}

/* Logits of the micro-batch's target rows to tokens; slots of the sequences that go on
 * stay in live. Logits come chunk by chunk. */
static int64_t advance(struct generator *n, struct gen_seq *s, int32_t *live, int64_t n_live, const struct gen_options *o)
{
	struct engine *g = n->g;
	struct device *d = g->dev;

	for (int64_t i = 0; i < n->mb.n_targets; i += g->chunk) {
		int64_t m = n->mb.n_targets - i < g->chunk ? n->mb.n_targets - i : g->chunk;

		engine_hidden(g, g->in.tgt_row + i, m);
		engine_head(g, g->hid, g->logits, m);
		d->k.to_host(d, n->logits, g->logits, m * g->w.desc.vocab);
		choose_rows(n, s, n->slot + i, m, o);
		for (int64_t j = 0; j < m; j++) {
			int32_t slot = n->slot[i + j];

			if (take_id(n, &s[slot], n->chosen[j].id, n->chosen[j].logprob, o))
				live[n_live++] = slot;
		}
	}
	return n_live;
}

static void add_token(struct microbatch *b, int32_t id, int64_t pos, int32_t slot)
{
	b->ids[b->n_tokens] = id;
	b->pos[b->n_tokens] = (int32_t)pos;
	b->rec[b->n_tokens++] = slot;
}

/* The last token so far of a sequence predicts. */
static void end_sequence(struct generator *n, int32_t slot)
{
	struct microbatch *b = &n->mb;

	b->seq_start[++b->n_seqs] = (int32_t)b->n_tokens;
	b->tgt_row[b->n_targets] = (int32_t)(b->n_tokens - 1);
	b->tgt_id[b->n_targets] = b->pos[b->n_tokens - 1] + 1; /* no target: how many keys the slot will have */
	n->slot[b->n_targets++] = slot;
}

/* Reads all prompts, as many at once as a micro-batch holds. */
static int64_t read_prompts(struct generator *n, struct gen_seq *s, int64_t count, int32_t *live, const struct gen_options *o)
{
	int64_t n_live = 0;

	for (int64_t i = 0; i < count;) {
		microbatch_clear(&n->mb);
		for (; i < count && n->mb.n_tokens + s[i].n_prompt <= n->mb.cap; i++) {
			for (int64_t t = 0; t < s[i].n_prompt; t++)
				add_token(&n->mb, s[i].prompt[t], t, (int32_t)i);
			end_sequence(n, (int32_t)i);
		}
		engine_send(n->g, &n->mb);
		engine_forward(n->g, &n->mb, attn_prompt, n);
		n_live = advance(n, s, live, n_live, o);
	}
	return n_live;
}

static int64_t next_token(struct generator *n, struct gen_seq *s, int32_t *live, int64_t n_live, const struct gen_options *o)
{
	microbatch_clear(&n->mb);
	for (int64_t i = 0; i < n_live; i++) {
		const struct gen_seq *q = &s[live[i]];
		int64_t len = q->n_prompt + q->n_new;

		add_token(&n->mb, q->out[q->n_new - 1], len - 1, live[i]);
		end_sequence(n, live[i]);
	}
	engine_send(n->g, &n->mb);
	engine_forward(n->g, &n->mb, attn_next, n);
	return advance(n, s, live, 0, o);
}

/* --- steps that the device takes by itself --- */

/* Rows for n_live sequences: few different numbers, so that few steps are recorded. Rows behind the last sequence repeat the
 * first: they write the same keys to the same place. */
static int64_t rows_for(const struct generator *n, int64_t n_live)
{
	int64_t rows = 1;

	while (rows < n_live)
		rows *= 2;
	return rows < n->batch ? rows : n->batch;
}

/* The last tokens of the live sequences go where engine_decode reads them. */
static void send_last(struct generator *n, const struct gen_seq *s, const int32_t *live, int64_t n_live, int64_t rows)
{
	struct engine *g = n->g;
	struct microbatch *b = &n->mb;

	microbatch_clear(b);
	for (int64_t i = 0; i < rows; i++) {
		int32_t slot = live[i < n_live ? i : 0];
		const struct gen_seq *q = &s[slot];

		add_token(b, q->out[q->n_new - 1], q->n_prompt + q->n_new - 1, slot);
		b->tgt_id[i] = (int32_t)(q->n_prompt + q->n_new);
	}
	device_upload(g->dev, g->in.ids, b->ids, (uint64_t)rows * sizeof(int32_t));
	device_upload(g->dev, g->in.pos, b->pos, (uint64_t)rows * sizeof(int32_t));
	device_upload(g->dev, g->in.rec, b->rec, (uint64_t)rows * sizeof(int32_t));
	device_upload(g->dev, g->in.tgt_id, b->tgt_id, (uint64_t)rows * sizeof(int32_t));
}

static void greedy_step(struct generator *n, int64_t rows)
{
	struct engine *g = n->g;
	struct kn_pick p = { g->logits, rows, g->w.desc.vocab, BURST, g->in.ids, g->in.pos, g->in.tgt_id, n->steps.count, n->steps.out, n->steps.logprob };

	engine_decode(g, rows, &n->cache, n->context);
	g->dev->k.pick(g->dev, &p);
}

/* The first step of so many rows runs as it is, the second is recorded, the others are replayed. */
static void run_step(struct generator *n, int64_t rows)
{
	struct device *d = n->g->dev;
	int i = 0;

	while (i < GEN_RECORDINGS - 1 && n->steps.rec[i].rows && n->steps.rec[i].rows != rows)
		i++;
	if (n->steps.rec[i].rows == rows && n->steps.rec[i].seen && !n->steps.rec[i].recording && d->k.record(d)) {
		greedy_step(n, rows);
		n->steps.rec[i].recording = d->k.recorded(d, NULL);
	}
	if (n->steps.rec[i].rows == rows && n->steps.rec[i].recording) {
		d->k.replay(d, n->steps.rec[i].recording);
		return;
	}
	n->steps.rec[i].seen = n->steps.rec[i].rows == 0 || n->steps.rec[i].rows == rows;
	n->steps.rec[i].rows = n->steps.rec[i].rows ? n->steps.rec[i].rows : rows;
	greedy_step(n, rows);
}

/* As many steps as no sequence's room forbids; those past a sequence's end are for nothing. */
static int64_t burst_of(const struct generator *n, const struct gen_seq *s, const int32_t *live, int64_t n_live, const struct gen_options *o)
{
	int64_t steps = BURST, wanted = 0;

	for (int64_t i = 0; i < n_live; i++) {
		const struct gen_seq *q = &s[live[i]];
		int64_t room = n->context - q->n_prompt - q->n_new, want = o->max_new - q->n_new;

		steps = room < steps ? room : steps;
		wanted = want > wanted ? want : wanted;
	}
	return wanted < steps ? wanted : steps;
}

/* A burst of greedy steps; slots of the sequences that go on stay in live. */
static int64_t next_burst(struct generator *n, struct gen_seq *s, int32_t *live, int64_t n_live, const struct gen_options *o)
{
	struct device *d = n->g->dev;
	int64_t rows = rows_for(n, n_live), steps = burst_of(n, s, live, n_live, o), on = 0;

	send_last(n, s, live, n_live, rows);
	device_zero(d, n->steps.count, (uint64_t)rows * sizeof(*n->steps.count));
	for (int64_t i = 0; i < steps; i++)
		run_step(n, rows);
	device_download(d, n->steps.out_host, n->steps.out, (uint64_t)(rows * BURST) * sizeof(*n->steps.out));
	device_download(d, n->steps.logprob_host, n->steps.logprob, (uint64_t)(rows * BURST) * sizeof(*n->steps.logprob));
	for (int64_t i = 0; i < n_live; i++) {
		bool goes_on = true;

		for (int64_t k = 0; k < steps && goes_on; k++)
			goes_on = take_id(n, &s[live[i]], n->steps.out_host[i * BURST + k], n->steps.logprob_host[i * BURST + k], o);
		if (goes_on)
			live[on++] = live[i];
	}
	return on;
}

/* One step whose tokens the host draws. */
static int64_t next_drawn(struct generator *n, struct gen_seq *s, int32_t *live, int64_t n_live, const struct gen_options *o)
{
	struct device *d = n->g->dev;
	int64_t on = 0;

	send_last(n, s, live, n_live, n_live);
	engine_decode(n->g, n_live, &n->cache, n->context);
	d->k.to_host(d, n->logits, n->g->logits, n_live * n->g->w.desc.vocab);
	choose_rows(n, s, live, n_live, o);
	for (int64_t i = 0; i < n_live; i++)
		if (take_id(n, &s[live[i]], n->chosen[i].id, n->chosen[i].logprob, o))
			live[on++] = live[i];
	return on;
}

static int64_t go_on(struct generator *n, struct gen_seq *s, int32_t *live, int64_t n_live, const struct gen_options *o)
{
	/* how follows from the batch that was planned, not from how many are left */
	if (n->batch > engine_decode_rows(n->g))
		return next_token(n, s, live, n_live, o);
	return o->temperature > 0 ? next_drawn(n, s, live, n_live, o) : next_burst(n, s, live, n_live, o);
}

int generator_run(struct generator *n, struct gen_seq *s, int64_t count, const struct gen_options *o, struct err *e)
{
	int32_t *live = xcalloc((size_t)count + 1, sizeof(*live));
	int64_t n_live;
	int rc = 0;

	for (int64_t i = 0; i < count; i++) {
		s[i].n_new = 0;
		s[i].logprob = 0;
		if (s[i].n_prompt < 1 || s[i].n_prompt >= n->context)
			rc = err_set(e, LP_DATA, "a prompt of %lld tokens; the context holds %lld with the response (--context)", (long long)s[i].n_prompt,
			             (long long)n->context);
	}
	if (rc == 0) {
		n->g->decode_rows = n->batch;
		n->g->backward = false; /* nothing is sent to wait for a backward pass */
		engine_place_adapters(n->g);
		n->g->dora_current = false; /* steps may have changed the adapter */
		engine_dora_refresh(n->g);
		n_live = read_prompts(n, s, count, live, o);
		while (n_live > 0)
			n_live = go_on(n, s, live, n_live, o);
		rc = device_sync(n->g->dev, e);
	}
	free(live);
	return rc;
}

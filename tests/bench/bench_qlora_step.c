/* One training step of a public shape on a device, with weights made at random on the machine: tokens/s, utilisation,
 * memory forecast and measured, milliseconds by operation, and the hash of the adapter after the steps.
 *
 * usage: bench_qlora_step [name=value]...
 *   device=cuda shape=8b|1b|3b|70b|tiny rank=16 alpha=16 batch=4 seq=2048 accumulate=1 base=nf4|bf16 memory=0 host=0 (MiB) link=0 (GB/s that
 *   the plan reckons with, 0: the device's) brief=0 (tokens of the rows of warm-up steps, 0: seq) steps=10 warmup=3 parts=0|1 dropout=0
 *   fp8=0|1 dora=0|1 graph=1|0 (micro-batches are replayed) ahead=1|0 (a step is queued before the last one is seen) dry=0|1 (the plan alone, which
 *   needs no GPU) dpo=0|1 (rows are taken two by two as the answers of a pair, so batch is even: as many tokens as without; the reference's
 *   pass, which a run makes once for each row, is timed beside it)
 * Every position is a target; token ids are random. MFU = tokens/s * (4 * P + 6 * S * C * L) / 798e12, P the parameters of the frozen
 * products and the head: forward and input gradient, causal attention; and the same against the vendor's 989e12. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/hash.h"
#include "base/log.h"

#define BENCH "bench_qlora_step"
#include "random_model.h"

struct conf {
	const char *device, *shape, *base;
	int64_t rank, alpha, batch, seq, accumulate, memory, host, link, brief, steps, warmup, parts, fp8, dora, graph, ahead, dry, dpo;
	double dropout;
};

/* --- milliseconds by operation: each one is waited for --- */

static struct device *dev;
static struct kn_ops real;
static double spent[16];
static int64_t waits;
static const char *const part_names[] = { "gemm, large", "adapters, down", "attention", "dequantisation", "norms", "rotary", "activation", "loss",
	                                  "optimiser", "rows and copies", "adapters, inner gradients", "adapters, outer gradients", "rows to 8 bits", "adapters through masks", "gemm with activation",
	                                  "magnitudes" };

static double begin(void)
{
	must(device_sync(dev, &e) == 0);
	return now_seconds();
}

static void end(int part, double from)
{
	must(device_sync(dev, &e) == 0);
	spent[part] += now_seconds() - from;
	waits++;
}

#define TIMED(part, call)                \
	do {                             \
		double from = begin();   \
		call;                    \
		end(part, from);         \
	} while (0)

static void t_gemm(struct device *d, bool ta, bool tb, int64_t m, int64_t n, int64_t k, float alpha, const void *a, int64_t lda, const void *b, int64_t ldb,
                   float beta, const void *c0, void *c, int64_t ldc, bool f32_c)
{
	TIMED(m <= 256 || n <= 256 || k <= 256, real.gemm(d, ta, tb, m, n, k, alpha, a, lda, b, ldb, beta, c0, c, ldc, f32_c));
}
static void t_attn_fwd(struct device *d, const struct kn_attn_shape *s, const void *q, const void *k, const void *v, void *o, float *lse)
{
	TIMED(2, real.attn_fwd(d, s, q, k, v, o, lse));
}
static void t_attn_bwd(struct device *d, const struct kn_attn_shape *s, const void *q, const void *k, const void *v, const void *o, const float *lse,
                       const void *d_o, void *dq, void *dk, void *dv)
{
	TIMED(2, real.attn_bwd(d, s, q, k, v, o, lse, d_o, dq, dk, dv));
}
static void t_dequant(struct device *d, void *y, int64_t ldy, const struct nf4 *q, int64_t rows, int64_t cols)
{
	TIMED(3, real.nf4_dequant(d, y, ldy, q, rows, cols));
}
static void t_place(struct device *d, void *right, int64_t ld_right, void *lower, int64_t ld_lower, const struct kn_adapters *a)
{
	TIMED(9, real.adapter_place(d, right, ld_right, lower, ld_lower, a));
}
static void t_adapter_grad(struct device *d, const struct kn_adapter_grad *a)
{
	TIMED(10, real.adapter_grad(d, a));
}
static void t_down(struct device *d, const struct kn_adapter_outer *a)
{
	TIMED(1, real.adapter_down(d, a));
}
static void t_through(struct device *d, const struct kn_adapter_outer *a)
{
	TIMED(13, real.adapter_through(d, a));
}
static void t_outer(struct device *d, const struct kn_adapter_outer *a)
{
	TIMED(11, real.adapter_outer(d, a));
}
static void t_fp8_rows(struct device *d, const struct fp8_mat *q, const void *x, int64_t ldx, int64_t t, int64_t cols, int64_t r, int64_t tail, float top)
{
	TIMED(12, real.fp8_rows(d, q, x, ldx, t, cols, r, tail, top));
}
static void t_fp8_place(struct device *d, const struct fp8_mat *w, const struct fp8_mat *wt, const struct kn_adapters *a)
{
	TIMED(9, real.fp8_place(d, w, wt, a));
}
static void t_fp8_gemm(struct device *d, int64_t m, int64_t n, int64_t k, const struct fp8_mat *a, const struct fp8_mat *b, const void *c0, void *c, int64_t ldc)
{
	TIMED(0, real.fp8_gemm(d, m, n, k, a, b, c0, c, ldc));
}
static void t_norm_fwd(struct device *d, void *y, int64_t ldy, float *rstd, const void *x, const float *w, int64_t t, int64_t c, float eps)
{
	TIMED(4, real.rmsnorm_fwd(d, y, ldy, rstd, x, w, t, c, eps));
}
static void t_norm_bwd(struct device *d, void *dx, int64_t ld, const void *dy, const void *xo, const float *rstd, const float *w, int64_t t, int64_t c)
{
	TIMED(4, real.rmsnorm_bwd(d, dx, ld, dy, xo, rstd, w, t, c));
}
static void t_rope(struct device *d, void *x, int64_t ldx, const int32_t *pos, const float *ct, const float *st, int64_t t, int64_t h, int64_t hd, int64_t rot, bool inv)
{
	TIMED(5, real.rope(d, x, ldx, pos, ct, st, t, h, hd, rot, inv));
}
static void t_act_fwd(struct device *d, void *h, int64_t ldh, const void *gu, int64_t ldg, int64_t t, int64_t f)
{
	TIMED(6, real.swiglu_fwd(d, h, ldh, gu, ldg, t, f));
}
static void t_act_bwd(struct device *d, void *gu, int64_t ldg, const void *dh, void *h, int64_t ldh, int64_t t, int64_t f)
{
	TIMED(6, real.swiglu_bwd(d, gu, ldg, dh, h, ldh, t, f));
}
static void t_gated_fwd(struct device *d, const struct kn_gated *a)
{
	TIMED(14, real.gated_fwd(d, a));
}
static void t_gated_bwd(struct device *d, const struct kn_gated *a)
{
	TIMED(14, real.gated_bwd(d, a));
}
static void t_xent_segment(struct device *d, const struct kn_xent *x, void *z, int64_t ldz, const void *w, int64_t first, int64_t count)
{
	TIMED(7, real.xent_segment(d, x, z, ldz, w, first, count));
}
static void t_xent_end(struct device *d, const struct kn_xent *x, double *loss, const float *scale)
{
	TIMED(7, real.xent_end(d, x, loss, scale));
}
static void t_adam(struct device *d, const struct kn_adam_seg *s, const struct kn_adam_seg *sd, int64_t n, int64_t blocks, const struct kn_adam_arrays *x,
                   const struct kn_adam *a)
{
	TIMED(8, real.adam(d, s, sd, n, blocks, x, a));
}
static void t_rows(struct device *d, void *y, const void *x, const int32_t *idx, int64_t n, int64_t c)
{
	TIMED(9, real.gather_rows(d, y, x, idx, n, c));
}
static void t_scatter(struct device *d, void *y, int64_t ldy, const void *x, const int32_t *idx, int64_t n, int64_t c)
{
	TIMED(9, real.scatter_rows(d, y, ldy, x, idx, n, c));
}
static void t_copy_rows(struct device *d, void *y, int64_t ldy, const void *x, int64_t ldx, int64_t t, int64_t c)
{
	TIMED(9, real.copy_rows(d, y, ldy, x, ldx, t, c));
}
static void t_row_squares(struct device *d, double *squares, const void *w, int64_t ldw, int64_t out, int64_t in)
{
	TIMED(15, real.row_squares(d, squares, w, ldw, out, in));
}
static void t_dora_factors(struct device *d, const struct kn_dora_factors *a)
{
	TIMED(15, real.dora_factors(d, a));
}
static void t_dora_out(struct device *d, const struct kn_dora_out *a)
{
	TIMED(15, real.dora_out(d, a));
}
static void t_dora_back(struct device *d, const struct kn_dora_back *a)
{
	TIMED(15, real.dora_back(d, a));
}
static void t_dora_rest(struct device *d, void *x, int64_t ldx, const float *factor, int64_t t, int64_t n)
{
	TIMED(15, real.dora_rest(d, x, ldx, factor, t, n));
}
static void t_dora_gate_fwd(struct device *d, const struct kn_dora_gate *a)
{
	TIMED(6, real.dora_gate_fwd(d, a));
}
static void t_dora_gate_bwd(struct device *d, const struct kn_dora_gate *a)
{
	TIMED(6, real.dora_gate_bwd(d, a));
}
static void t_zero(struct device *d, void *p, uint64_t n)
{
	TIMED(9, real.zero(d, p, n));
}

static bool never(struct device *d)
{
	(void)d;
	return false;
}

/* From now on every micro-batch is launched operation by operation. */
static void no_recordings(struct engine *g)
{
	for (int i = 0; i < WORKS; i++)
		if (g->works[i].recording)
			g->dev->k.forget(g->dev, g->works[i].recording);
	memset(g->works, 0, sizeof(g->works));
	g->dev->k.record = never;
}

static void watch_parts(struct device *d)
{
	dev = d;
	real = d->k;
	d->k.gemm = t_gemm;
	d->k.attn_fwd = t_attn_fwd;
	d->k.attn_bwd = t_attn_bwd;
	d->k.nf4_dequant = t_dequant;
	d->k.adapter_place = t_place;
	d->k.adapter_through = t_through;
	d->k.fp8_rows = t_fp8_rows;
	d->k.fp8_place = t_fp8_place;
	d->k.fp8_gemm = t_fp8_gemm;
	d->k.adapter_grad = t_adapter_grad;
	d->k.adapter_down = t_down;
	d->k.adapter_outer = t_outer;
	d->k.rmsnorm_fwd = t_norm_fwd;
	d->k.rmsnorm_bwd = t_norm_bwd;
	d->k.rope = t_rope;
	d->k.swiglu_fwd = t_act_fwd;
	d->k.swiglu_bwd = t_act_bwd;
	d->k.gated_fwd = t_gated_fwd;
	d->k.gated_bwd = t_gated_bwd;
	d->k.xent_segment = t_xent_segment;
	d->k.xent_end = t_xent_end;
	d->k.adam = t_adam;
	d->k.gather_rows = t_rows;
	d->k.scatter_rows = t_scatter;
	d->k.copy_rows = t_copy_rows;
	d->k.zero = t_zero;
	d->k.row_squares = t_row_squares;
	d->k.dora_factors = t_dora_factors;
	d->k.dora_out = t_dora_out;
	d->k.dora_back = t_dora_back;
	d->k.dora_rest = t_dora_rest;
	d->k.dora_gate_fwd = t_dora_gate_fwd;
	d->k.dora_gate_bwd = t_dora_gate_bwd;
}

/* --- steps --- */

static int32_t random_id(int64_t row, int64_t i, int64_t vocab)
{
	return (int32_t)(rng_u64(7, (uint64_t)row, (uint64_t)i) % (uint64_t)vocab);
}

/* n sequences: one, or a pair. */
static void add_row(struct dataset *d, int64_t row, int64_t seq, int64_t n, int64_t vocab)
{
	int32_t *ids = xcalloc((size_t)(n * seq), sizeof(*ids));
	uint8_t *mask = xmalloc((size_t)(n * seq));
	int64_t start[3] = { 0, seq, 2 * seq }, record[2] = { row, row };

	for (int64_t i = 0; i < n * seq; i++)
		ids[i] = random_id(row, i, vocab);
	memset(mask, 1, (size_t)(n * seq));
	dataset_add_row(d, ids, mask, start, record, n);
	d->good[d->n_seqs - 1] = n == 1;
	free(ids);
	free(mask);
}

struct bench {
	struct conf c;
	struct device dev;
	struct model_desc m;
	struct lora lora;
	struct optim optim;
	struct engine g;
	struct dataset data;
	struct microbatch *b, *brief; /* (accumulate), of steps and of those that warm up */
};

/* (accumulate) micro-batches of random rows of so many tokens. */
static struct microbatch *batches(struct bench *x, int64_t seq)
{
	struct microbatch *b = xcalloc((size_t)x->c.accumulate, sizeof(*b));
	int64_t first = x->data.n_rows, each = x->c.dpo ? 2 : 1, rows = x->c.batch / each;

	for (int64_t r = 0; r < rows * x->c.accumulate; r++)
		add_row(&x->data, r, seq, each, x->m.vocab);
	for (int64_t i = 0; i < x->c.accumulate; i++) {
		microbatch_init(&b[i], x->c.batch * seq);
		microbatch_clear(&b[i]);
		for (int64_t r = 0; r < rows; r++)
			microbatch_add(&b[i], &x->data, first + i * rows + r);
	}
	return b;
}

static const struct microbatch *of_step(const struct bench *x, int64_t i)
{
	return i < x->c.warmup ? x->brief : x->b;
}

/* What a step's loss is the mean over. */
static double units(const struct bench *x, const struct microbatch *b)
{
	int64_t n = 0;

	for (int64_t k = 0; k < x->c.accumulate; k++)
		n += x->c.dpo ? b[k].n_seqs / 2 : b[k].n_targets;
	return (double)n;
}

/* Step i is given to the device. */
static void give(struct bench *x, int64_t i)
{
	const struct microbatch *b = of_step(x, i);

	engine_set_dropout(&x->g, true, 1, i);
	engine_begin(&x->g);
	for (int64_t k = 0; k < x->c.accumulate; k++)
		engine_run(&x->g, &b[k], true, 1.0 / units(x, b));
	engine_squares(&x->g);
	engine_sums_send(&x->g, (int)(i % 2));
	optim_step(&x->optim, &x->lora, &x->dev, 2e-4, 1, &(struct optim_sums){ x->g.sums, x->g.sums + 1, x->g.refused }, 0.3);
}

/* Its loss, when it is there. */
static double take(struct bench *x, int64_t i)
{
	const struct microbatch *b = of_step(x, i);
	double loss, squares;

	must(engine_sums_wait(&x->g, (int)(i % 2), &loss, &squares, &e) == 0);
	/* the update would have been refused, and the next steps measured would be of nothing */
	if (!isfinite(loss) || !isfinite(squares)) {
		fprintf(stderr, "%s: step %lld: loss %g, squares of gradients %g\n", BENCH, (long long)i, loss, squares);
		exit(1);
	}
	return loss / units(x, b);
}

static int by_value(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return x < y ? -1 : x > y;
}

static void plan(struct bench *x)
{
	static const struct kn_pref_rule dpo = { .method = KN_PREF_DPO, .beta = 0.1 };
	const struct conf *c = &x->c;
	const struct engine *g = &x->g;
	struct engine_shape s = { .max_tokens = x->c.batch * x->c.seq, .max_seq = x->c.seq, .train = true, .optim = &x->optim, .fp8 = x->c.fp8, .pref = x->c.dpo ? &dpo : NULL, .host_budget = (uint64_t)x->c.host << 20 };

	describe(&x->m, c->shape);
	must((c->dry ? device_open_plan : device_open)(&x->dev, c->device, getenv("LP_COMPUTE"), 0, &e) == 0);
	x->dev.host_rate = c->link ? 1e9 * (double)c->link : x->dev.host_rate;
	/* behind a warm-up of other work than a step's, a step is timed from its own beginning */
	x->c.ahead = c->ahead && x->dev.ahead && !c->brief;
	s.budget = x->c.memory ? (uint64_t)x->c.memory << 20 : x->dev.free_bytes / 100 * 97;
	x->optim = (struct optim){ .kind = OPTIM_ADAMW8, .beta1 = 0.9, .beta2 = 0.999, .eps = 1e-8, .weight_decay = 0.01 };
	x->lora = (struct lora){ .rank = x->c.rank, .alpha = (double)x->c.alpha, .dropout = x->c.dropout, .dora = x->c.dora };
	must(lora_targets("all", x->lora.targets, &e) == 0);
	lora_init(&x->lora, &x->m);
	must(engine_plan(&x->g, &x->dev, &x->m, DT_BF16, strcmp(x->c.base, "nf4") == 0, &x->lora, &s, &e) == 0);
	printf("%s, %s, %sr %lld, %lld x %lld x %lld, %s%s, dropout %g\n", x->dev.name, c->shape, c->dora ? "DoRA " : "", (long long)c->rank, (long long)c->batch, (long long)c->seq,
	       (long long)c->accumulate, c->base, c->fp8 ? ", fp8" : "", c->dropout);
	printf("plan: %.1f MiB, %.1f MiB of the host; %lld layers full, %lld lean, %lld travel, %d sets, %lld again; %lld dense; %lld streams on the host%s%s, %lld rows of the head there; estimated at %.1f ms\n",
	       (double)engine_bytes(g) / (1 << 20), (double)g->host_plan.used / (1 << 20), (long long)g->full, (long long)g->lean, (long long)g->travel, g->sets,
	       (long long)engine_again(g), (long long)g->w.cached_layers, (long long)g->away,
	       g->w.host_embed ? ", the embedding" : "", g->optim_away ? ", the optimiser" : "", (long long)(x->m.vocab - g->w.head_rows), 1e3 * engine_seconds(g) * (double)c->accumulate);
}

static void setup(struct bench *x)
{
	uint64_t before, total;
	double from = now_seconds();

	x->dev.k.memory(&x->dev, &before, &total);
	must(engine_alloc(&x->g, &e) == 0);
	fill(&x->g);
	lora_start(&x->lora, &x->dev, 3407);
	if (x->c.dora)
		engine_start_magnitudes(&x->g);
	x->b = batches(x, x->c.seq);
	x->brief = x->c.brief ? batches(x, x->c.brief) : x->b;
	printf("set-up %.1f s; in use before %.1f MiB\n", now_seconds() - from, (double)(total - before) / (1 << 20));
}

static void adapter_hash(struct bench *x, char hex[65])
{
	uint64_t n = (uint64_t)x->lora.n_params * sizeof(float);
	void *host = xmalloc(n);

	device_download(&x->dev, host, x->lora.params, n);
	sha_once(host, n, hex);
	free(host);
}

static void report(struct bench *x, double *t, double loss, double first)
{
	const struct model_desc *m = &x->m;
	double tokens = (double)(x->c.batch * x->c.seq * x->c.accumulate), flops, rate;
	int64_t weights = m->vocab * m->hidden;
	uint64_t unused, total;
	char hex[65];

	for (int s = 0; s < LIN_N; s++)
		weights += m->layers * linear_in(m, s) * linear_out(m, s);
	qsort(t, (size_t)x->c.steps, sizeof(*t), by_value);
	rate = tokens / t[x->c.steps / 2];
	flops = 4 * (double)weights + 6 * (double)x->c.seq * (double)m->hidden * (double)m->layers;
	adapter_hash(x, hex);
	printf("step %.1f ms (%.1f to %.1f)  %.0f tok/s  MFU %.3f of 798, %.3f of 989 TFLOP/s  loss %.6f then %.6f  adapter %.16s\n", 1e3 * t[x->c.steps / 2],
	       1e3 * t[0], 1e3 * t[x->c.steps - 1], rate, rate * flops / 798e12, rate * flops / 989e12, first, loss, hex);
	printf("graph: %lld of %lld micro-batches replayed, %lld launches of the host avoided in each\n", (long long)x->g.replayed, (long long)x->g.wanted,
	       (long long)(x->g.replayed ? x->g.avoided / x->g.replayed - 1 : 0));
	x->dev.k.memory(&x->dev, &unused, &total);
	printf("memory: plan %.1f MiB, whole device %.1f MiB in use\n", (double)engine_bytes(&x->g) / (1 << 20), (double)(total - unused) / (1 << 20));
}

/* Seconds from one step's loss to the next in t (steps). */
static void run_steps(struct bench *x, double *t, double *first, double *loss)
{
	int64_t total = x->c.warmup + x->c.steps;
	double seen = now_seconds();

	for (int64_t i = 0; i < total + x->c.ahead; i++) {
		int64_t done = i - x->c.ahead;
		double now;

		if (i < total)
			give(x, i);
		if (done < 0)
			continue;
		*loss = take(x, done);
		*first = done ? *first : *loss;
		now = now_seconds();
		if (done >= x->c.warmup)
			t[done - x->c.warmup] = now - seen;
		seen = now;
	}
}

/* What the reference's pass takes for a step's rows: forward, and a wait for each micro-batch. */
static void report_reference(struct bench *x)
{
	double *value = xcalloc((size_t)x->c.batch, sizeof(*value)), from = 0;

	engine_set_dropout(&x->g, false, 0, 0);
	engine_begin(&x->g);
	for (int64_t i = -x->c.warmup; i < x->c.steps; i++) {
		from = i ? from : now_seconds();
		for (int64_t k = 0; k < x->c.accumulate; k++) {
			engine_run(&x->g, &x->b[k], false, 1);
			must(engine_values(&x->g, value, x->b[k].n_seqs, &e) == 0);
		}
	}
	printf("reference's pass: %.1f ms for a step's rows\n", 1e3 * (now_seconds() - from) / (double)x->c.steps);
	free(value);
}

/* A step whose operations are waited for one by one; median: milliseconds of one that is not. */
static void report_parts(struct bench *x, double median)
{
	double begun, wait, sum = 0, whole;
	int64_t step = x->c.warmup + x->c.steps;

	no_recordings(&x->g);
	watch_parts(&x->dev);
	for (int i = 0; i < 100; i++)
		TIMED(9, real.zero(&x->dev, x->g.refused, sizeof(*x->g.refused)));
	wait = spent[9] / (double)waits;
	spent[9] = 0;
	waits = 0;
	begun = now_seconds();
	give(x, step);
	take(x, step);
	whole = now_seconds() - begun;
	for (size_t i = 0; i < sizeof(part_names) / sizeof(*part_names); i++) {
		printf("  %-26s %8.2f ms\n", part_names[i], 1e3 * spent[i]);
		sum += spent[i];
	}
	printf("  %-26s %8.2f ms (%lld operations, each waited for: %.1f us without work)\n", "whole step", 1e3 * whole, (long long)waits, 1e6 * wait);
	printf("  %-26s %8.2f ms (of %.2f; the rest is work)\n", "idle, by these", median - 1e3 * (sum - (double)waits * wait), median);
}

int main(int argc, char **argv)
{
	struct bench x = { .c = { "cuda", "8b", "nf4", 16, 16, 4, 2048, 1, 0, 0, 0, 0, 10, 3, 0, 0, 0, 1, 1, 0, 0, 0 } };
	const struct arg args[] = { { "device", .s = &x.c.device }, { "shape", .s = &x.c.shape }, { "base", .s = &x.c.base }, { "rank", .i = &x.c.rank },
		                    { "alpha", .i = &x.c.alpha }, { "batch", .i = &x.c.batch }, { "seq", .i = &x.c.seq }, { "accumulate", .i = &x.c.accumulate },
		                    { "memory", .i = &x.c.memory }, { "host", .i = &x.c.host }, { "link", .i = &x.c.link }, { "brief", .i = &x.c.brief }, { "steps", .i = &x.c.steps }, { "warmup", .i = &x.c.warmup },
		                    { "parts", .i = &x.c.parts }, { "dropout", .f = &x.c.dropout }, { "fp8", .i = &x.c.fp8 }, { "dora", .i = &x.c.dora }, { "graph", .i = &x.c.graph }, { "ahead", .i = &x.c.ahead },
		                    { "dry", .i = &x.c.dry }, { "dpo", .i = &x.c.dpo }, { NULL } };
	double *t, loss = 0, first = 0;

	take_args(args, argc, argv);
	if (x.c.dpo && x.c.batch % 2) {
		fprintf(stderr, "%s: dpo=1 takes rows two by two: batch must be even\n", BENCH);
		return 2;
	}
	plan(&x);
	if (x.c.dry)
		return 0;
	setup(&x);
	if (!x.c.graph)
		no_recordings(&x.g);
	t = xcalloc((size_t)x.c.steps + 1, sizeof(*t));
	run_steps(&x, t, &first, &loss);
	report(&x, t, loss, first);
	if (x.c.dpo)
		report_reference(&x);
	if (x.c.parts)
		report_parts(&x, 1e3 * t[x.c.steps / 2]);
	return 0;
}

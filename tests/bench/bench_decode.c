/* Greedy decoding of a public shape, with weights and prompts made at random on the machine and the adapter unmerged:
 * tokens/s for each batch, the prompt's apart, memory, and a hash of the tokens, which two runs must share.
 *
 * usage: bench_decode [name=value]...
 *   device=cuda shape=8b|1b|3b|70b|tiny base=nf4|bf16 rank=16 prompt=512 new=128 batch=0 (1, 8 and 64) parts=0|1
 * Decoding's time is that of a whole run less that of one which stops at the first new token. parts: how much shorter a
 * step is when an operation is left out of it, and how long one is that has nothing else (but the choice of the token). */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/hash.h"
#include "base/log.h"
#include "train/generate.h"

#define BENCH "bench_decode"
#include "random_model.h"

struct conf {
	const char *device, *shape, *base;
	int64_t rank, prompt, max_new, batch, parts;
};

struct bench {
	struct conf c;
	struct device dev;
	struct model_desc m;
	struct lora lora;
	struct engine g;
	int64_t context, most;  /* most rows at once */
	int32_t *prompts, *out; /* (most, prompt), (most, max_new) */
};

static void setup(struct bench *x)
{
	double from = now_seconds();
	struct engine_shape s = { 0 };

	describe(&x->m, x->c.shape);
	must(device_open(&x->dev, x->c.device, getenv("LP_COMPUTE"), 0, &e) == 0);
	x->most = x->c.batch ? x->c.batch : 64;
	x->context = x->c.prompt + x->c.max_new;
	/* prompts are read up to eight at a time */
	s = (struct engine_shape){ .max_tokens = (x->most < 8 ? x->most : 8) * x->c.prompt, .max_seq = x->context, .decode = x->most };
	s.max_tokens = s.max_tokens > x->context ? s.max_tokens : x->context;
	s.budget = x->dev.free_bytes / 10 * 9 - generator_bytes(&x->dev, &x->m, x->most, x->context);
	x->lora = (struct lora){ .rank = x->c.rank, .alpha = 16 };
	if (x->c.rank) {
		must(lora_targets("all", x->lora.targets, &e) == 0);
		lora_init(&x->lora, &x->m);
	}
	must(engine_plan(&x->g, &x->dev, &x->m, DT_BF16, strcmp(x->c.base, "nf4") == 0, x->c.rank ? &x->lora : NULL, &s, &e) == 0);
	must(engine_alloc(&x->g, &e) == 0);
	fill(&x->g);
	if (x->c.rank)
		send_const(&x->dev, x->lora.params, x->lora.n_params, 0, 0.01f);
	x->prompts = xcalloc((size_t)(x->most * x->c.prompt), sizeof(*x->prompts));
	x->out = xcalloc((size_t)(x->most * x->c.max_new), sizeof(*x->out));
	for (int64_t i = 0; i < x->most * x->c.prompt; i++)
		x->prompts[i] = (int32_t)(rng_u64(7, 1, (uint64_t)i) % (uint64_t)x->m.vocab);
	printf("%s, %s, %s, r %lld, prompt %lld, %lld new; plan %.1f MiB, set-up %.1f s\n", x->dev.name, x->c.shape, x->c.base, (long long)x->c.rank,
	       (long long)x->c.prompt, (long long)x->c.max_new, (double)engine_bytes(&x->g) / (1 << 20), now_seconds() - from);
}

/* Seconds of completing the first batch prompts. */
static double complete(struct bench *x, struct generator *n, int64_t batch, int64_t max_new)
{
	struct gen_seq *s = xcalloc((size_t)batch, sizeof(*s));
	struct gen_options o = { .max_new = max_new, .top_p = 1 };
	double from = now_seconds();

	for (int64_t i = 0; i < batch; i++)
		s[i] = (struct gen_seq){ .prompt = x->prompts + i * x->c.prompt, .n_prompt = x->c.prompt, .out = x->out + i * x->c.max_new };
	must(generator_run(n, s, batch, &o, &e) == 0);
	free(s);
	return now_seconds() - from;
}

/* Decoding's seconds for each step, the best of some runs. hex: the tokens' hash. */
static double step_seconds(struct bench *x, int64_t batch, int times, double *read, char hex[65], bool *same)
{
	struct generator n;
	char again[65];
	double best = 0;

	must(generator_init(&n, &x->g, batch, x->context, &e) == 0);
	complete(x, &n, batch, x->c.max_new); /* what is made at first use */
	sha_once(x->out, (size_t)(batch * x->c.max_new) * sizeof(*x->out), hex);
	for (int i = 0; i < times; i++) {
		double first = complete(x, &n, batch, 1), all = complete(x, &n, batch, x->c.max_new);

		best = i && best < all - first ? best : all - first;
		*read = first;
	}
	sha_once(x->out, (size_t)(batch * x->c.max_new) * sizeof(*x->out), again);
	*same = strcmp(hex, again) == 0;
	generator_release(&n);
	return best / (double)(x->c.max_new - 1);
}

static bool run(struct bench *x, int64_t batch)
{
	uint64_t unused, total;
	double read, step;
	char hex[65];
	bool same;

	step = step_seconds(x, batch, 2, &read, hex, &same);
	x->dev.k.memory(&x->dev, &unused, &total);
	printf("batch %3lld: %8.0f tok/s, %.3f ms a step; prompts %.0f tok/s; %.1f MiB of the device in use; tokens %.16s%s\n", (long long)batch,
	       (double)batch / step, 1e3 * step, (double)(batch * x->c.prompt) / read, (double)(total - unused) / (1 << 20), hex, same ? "" : ", AND ANOTHER");
	fflush(stdout);
	return same;
}

/* --- a step without one of its operations, and with that one alone --- */

enum { NORMS = GRP_N, TURN, ATTENTION, HEAD, PARTS };

static struct kn_ops real;
static int chosen;
static bool alone; /* the chosen one runs alone, or all others do */
static const struct engine *engine;

static bool runs(int what)
{
	return (what == chosen) == alone;
}

static void some_skinny(struct device *d, const struct kn_skinny *s)
{
	int what = HEAD;

	for (int i = 0; i < GRP_N; i++)
		if (s->out == engine->w.layers[0].grp[i].out && s->in == engine->w.layers[0].grp[i].in)
			what = i;
	if (runs(what))
		real.skinny(d, s);
}
static void some_gemm(struct device *d, bool ta, bool tb, int64_t m, int64_t n, int64_t k, float alpha, const void *a, int64_t lda, const void *b, int64_t ldb,
                      float beta, const void *c0, void *c, int64_t ldc, bool f32_c)
{
	if (m > 64 || runs(HEAD))
		real.gemm(d, ta, tb, m, n, k, alpha, a, lda, b, ldb, beta, c0, c, ldc, f32_c);
}
static void some_turn(struct device *d, const struct kn_attn_shape *s, const struct kn_kv_cache *c, void *q, const float *ct, const float *st, const int32_t *slot,
                      const int32_t *pos, int64_t t)
{
	if (runs(TURN))
		real.kv_turn(d, s, c, q, ct, st, slot, pos, t);
}
static void some_decode(struct device *d, const struct kn_attn_shape *s, const void *q, const struct kn_kv_cache *c, const int32_t *slot, const int32_t *len,
                        int64_t longest, void *o)
{
	if (runs(ATTENTION))
		real.attn_decode(d, s, q, c, slot, len, longest, o);
}
static void some_norm(struct device *d, void *y, int64_t ldy, float *rstd, const void *x, const float *w, int64_t t, int64_t c, float eps)
{
	if (t > 64 || runs(NORMS))
		real.rmsnorm_fwd(d, y, ldy, rstd, x, w, t, c, eps);
}

static void parts(struct bench *x, int64_t batch)
{
	static const char *const names[PARTS] = { "q, k, v", "o", "gate, up", "down", "norms", "rotary and cache", "attention", "head" };
	double read, whole, ms[2];
	char hex[65];
	bool same;

	real = x->dev.k;
	engine = &x->g;
	whole = step_seconds(x, batch, 1, &read, hex, &same);
	printf("batch %lld: %.3f ms a step\n  %-20s saved when left out, alone\n", (long long)batch, 1e3 * whole, "");
	x->dev.k.skinny = some_skinny;
	x->dev.k.gemm = some_gemm;
	x->dev.k.kv_turn = some_turn;
	x->dev.k.attn_decode = some_decode;
	x->dev.k.rmsnorm_fwd = some_norm;
	for (chosen = 0; chosen < PARTS; chosen++) {
		for (int i = 0; i < 2; i++) {
			alone = i;
			ms[i] = 1e3 * step_seconds(x, batch, 1, &read, hex, &same);
		}
		printf("  %-20s %8.3f %8.3f ms\n", names[chosen], 1e3 * whole - ms[0], ms[1]);
		fflush(stdout);
	}
	x->dev.k = real;
}

int main(int argc, char **argv)
{
	static const int64_t batches[] = { 1, 8, 64 };
	struct bench x = { .c = { "cuda", "8b", "nf4", 16, 512, 128, 0, 0 } };
	const struct arg args[] = { { "device", .s = &x.c.device }, { "shape", .s = &x.c.shape }, { "base", .s = &x.c.base }, { "rank", .i = &x.c.rank },
		                    { "prompt", .i = &x.c.prompt }, { "new", .i = &x.c.max_new }, { "batch", .i = &x.c.batch }, { "parts", .i = &x.c.parts },
		                    { NULL } };
	bool same = true;

	take_args(args, argc, argv);
	setup(&x);
	for (int i = 0; i < 3; i++)
		if (x.c.batch == 0 || i == 0)
			same = run(&x, x.c.batch ? x.c.batch : batches[i]) && same;
	for (int i = 0; i < 3 && x.c.parts; i++)
		if (x.c.batch == 0 || i == 0)
			parts(&x, x.c.batch ? x.c.batch : batches[i]);
	engine_release(&x.g);
	device_close(&x.dev);
	return same ? 0 : 1;
}

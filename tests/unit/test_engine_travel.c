/* Activations that travel to host memory and back: no plan changes a bit, on the device that LP_DEVICE names (cpu), nor do copies that are
 * as late as the device's contract lets them be; what the plan chooses, from shapes alone. */
#include <math.h>
#include <stdio.h>

#include "engine_small.h"

/* --- a device whose copies are late --- */

/* A copy is made when something waits for it, or for a later one of its queue, and not before. Until then what it will write is NaN: whoever
 * looks there too early, or writes too early what has yet to leave, changes the result. */
struct late {
	void *dst;
	const void *src;
	uint64_t bytes;
	int after; /* the copy of the same slot before it; -1: none */
};
enum { OUT, IN, QUEUES, MOST_COPIES = 1 << 14 };
static struct late queue[QUEUES][MOST_COPIES];
static int made[QUEUES], queued[QUEUES];
static struct {
	int which, copy; /* copy -1: none */
} last[COPY_SLOTS];

static void make_copies(int which, int upto)
{
	while (made[which] <= upto) {
		struct late *c = &queue[which][made[which]++];

		if (which == IN && c->after >= 0)
			make_copies(OUT, c->after);
		memcpy(c->dst, c->src, c->bytes);
	}
}

static void put(int which, int slot, void *dst, const void *src, uint64_t bytes)
{
	ck_assert_int_lt(queued[which], MOST_COPIES);
	queue[which][queued[which]] = (struct late){ dst, src, bytes, last[slot].which == OUT ? last[slot].copy : -1 };
	last[slot].which = which;
	last[slot].copy = queued[which]++;
}

static void late_away(struct device *d, int slot, void *host, const void *dev, uint64_t bytes)
{
	(void)d;
	memset(host, 0xff, bytes);
	put(OUT, slot, host, dev, bytes);
}

static void late_back(struct device *d, int slot, void *dev, const void *host, uint64_t bytes)
{
	(void)d;
	/* it comes after what the slot did: only then may the buffer be anything */
	if (last[slot].copy >= 0)
		make_copies(last[slot].which, last[slot].copy);
	memset(dev, 0xff, bytes);
	put(IN, slot, dev, host, bytes);
}

static void late_await(struct device *d, int slot)
{
	(void)d;
	if (last[slot].copy >= 0)
		make_copies(last[slot].which, last[slot].copy);
}

static int late_settle(struct device *d, int slot, struct err *e)
{
	(void)e;
	late_await(d, slot);
	return 0;
}

static void watch(struct device *d)
{
	memset(made, 0, sizeof(made));
	memset(queued, 0, sizeof(queued));
	for (int i = 0; i < COPY_SLOTS; i++)
		last[i].copy = -1;
	d->flops = 1e11; /* rates below are beside these, on any device */
	d->memory_rate = 2e10;
	if (d->kind != DEVICE_CPU)
		return;
	d->k.away = late_away;
	d->k.back = late_back;
	d->k.await = late_await;
	d->k.settle = late_settle;
}

/* --- bits --- */

struct result {
	float *grads;
	double loss, held_out;
};

/* Two micro-batches, the second of them shorter, with an evaluation between; on a device that records until all three are replayed. */
static struct result run(struct fix *f)
{
	struct result r = { .grads = xcalloc((size_t)f->lora.n_params, sizeof(*r.grads)) };
	struct microbatch less;
	double both;

	f->g.recordings = WORKS; /* every shape's, whatever room there is */
	microbatch_init(&less, ROWS * SEQ);
	microbatch_clear(&less);
	microbatch_add(&less, &f->data, 1);
	for (int round = 0; round < (f->dev.kind == DEVICE_CPU ? 1 : 3); round++) {
		engine_set_dropout(&f->g, f->lora.dropout > 0, 1, 1);
		engine_begin(&f->g);
		engine_run(&f->g, &f->b, true, 1.0 / (double)f->b.n_targets);
		must(f, engine_sums(&f->g, &r.loss, NULL, &f->e) == 0);
		engine_run(&f->g, &f->b, false, 1);
		must(f, engine_sums(&f->g, &both, NULL, &f->e) == 0);
		r.held_out = both - r.loss;
		engine_run(&f->g, &less, true, 1.0 / (double)f->b.n_targets);
		must(f, engine_sums(&f->g, &r.loss, NULL, &f->e) == 0);
	}
	/* each shape from its second turn on; what goes through in several pieces is not recorded */
	if (f->dev.kind == DEVICE_CPU)
		ck_assert_int_eq(f->g.replayed, 0);
	else
		ck_assert_int_eq(f->g.replayed, (f->b.n_tokens > f->g.shape.piece ? 0 : 4) + (less.n_tokens > f->g.shape.piece ? 0 : 2));
	device_download(&f->dev, r.grads, f->lora.grads, (uint64_t)f->lora.n_params * sizeof(*r.grads));
	must(f, device_sync(&f->dev, &f->e) == 0);
	microbatch_release(&less);
	return r;
}

/* Four optimiser steps of the two; ahead: each is queued before the sums of the last one are waited for. */
static void run_steps(struct fix *f, int ahead, double loss[4], float *grads)
{
	struct microbatch less;

	microbatch_init(&less, ROWS * SEQ);
	microbatch_clear(&less);
	microbatch_add(&less, &f->data, 1);
	for (int i = 0; i < 4 + ahead; i++) {
		if (i < 4) {
			engine_set_dropout(&f->g, f->lora.dropout > 0, 1, i);
			engine_begin(&f->g);
			engine_run(&f->g, i % 2 ? &less : &f->b, true, 1e-3 * (i + 1));
			engine_run(&f->g, i % 2 ? &f->b : &less, true, 1e-3 * (i + 1));
			engine_squares(&f->g);
			engine_sums_send(&f->g, i % 2);
		}
		if (i >= ahead)
			must(f, engine_sums_wait(&f->g, (i - ahead) % 2, &loss[i - ahead], NULL, &f->e) == 0);
	}
	device_download(&f->dev, grads, f->lora.grads, (uint64_t)f->lora.n_params * sizeof(*grads));
	microbatch_release(&less);
}

static void compare(const struct fix *a, const struct result *x, const struct result *y)
{
	ck_assert(isfinite(x->loss));
	ck_assert(x->loss == y->loss && x->held_out == y->held_out);
	ck_assert_mem_eq(x->grads, y->grads, (size_t)a->lora.n_params * sizeof(*x->grads));
}

/* What plans there were. */
struct seen {
	int64_t travel, sets[SETS + 1], beside_again, none_again, offload;
};

static void note(struct seen *s, const struct engine *g)
{
	s->travel += g->travel > 0;
	s->sets[g->sets] += g->travel > 0;
	s->beside_again += g->travel > 0 && engine_again(g) > 0;
	s->none_again += g->travel > 0 && engine_again(g) == 0;
	s->offload += g->travel > 0 && g->away > 0;
}

struct kind {
	double dropout;
	bool dora;
};

static void compare_plans(int64_t layers, struct kind kind, int64_t piece, struct seen *seen)
{
	/* from copies that cost nothing to some that are waited for */
	static const double rates[] = { 1e18, 4e9, 2.5e9, 2e9, 1.5e9, 1e9 };
	struct fix all, some;
	struct result want, got;
	uint64_t least, most;

	setup(&all, &(struct conf){ .layers = layers, .dropout = kind.dropout, .dora = kind.dora, .piece = piece });
	want = run(&all);
	least = least_of(&all, 1e18);
	most = engine_bytes(&all.g);
	for (int k = 0; k < 36; k++) {
		struct conf c = { .layers = layers, .dropout = kind.dropout, .dora = kind.dora, .piece = piece, .host_rate = rates[k % 6], .budget = least + (most - least) * (uint64_t)(k / 6) / 9, .watch = watch };

		setup(&some, &c);
		ck_assert_uint_le(engine_bytes(&some.g), c.budget);
		note(seen, &some.g);
		got = run(&some);
		compare(&all, &want, &got);
		free(got.grads);
		teardown(&some);
	}
	free(want.grads);
	teardown(&all);
}

static const int64_t depths[] = { 2, 3, 4, 12 };
static const struct kind kinds[] = { { 0, false }, { 0.2, false }, { 0, true }, { 0.2, true } };

START_TEST(test_no_bit_changes)
{
	struct seen s = { 0 };

	for (size_t i = _i ? 3 : 0; i < sizeof(depths) / sizeof(*depths); i++)
		compare_plans(depths[i], kinds[_i], 0, &s);
	compare_plans(12, kinds[_i], 40, &s); /* and in pieces */
	printf("plans with layers that travel: %d; 2, 3, 4 sets: %d, %d, %d; beside layers that run again: %d, without: %d; the stream as well: %d\n", (int)s.travel,
	       (int)s.sets[2], (int)s.sets[3], (int)s.sets[4], (int)s.beside_again, (int)s.none_again, (int)s.offload);
	fflush(stdout);
	/* every choice was there to be compared; a GPU's rows are of other lengths, and so are its plans */
	ck_assert(s.travel > 0);
	if (!getenv("LP_DEVICE") || strcmp(getenv("LP_DEVICE"), "cpu") == 0)
		/* of DoRA's larger sets four are not always worth it */
		ck_assert(s.sets[2] > 0 && s.sets[3] > 0 && (s.sets[4] > 0 || kinds[_i].dora) && s.beside_again > 0 && s.none_again > 0 && s.offload > 0);
}
END_TEST

/* Inputs and sums are copies of the same kind. */
START_TEST(test_queued_steps)
{
	struct fix waits, late;
	double want[4], got[4];
	float *grads[2];

	setup(&waits, &(struct conf){ .layers = 5, .dropout = kinds[_i].dropout, .dora = kinds[_i].dora });
	setup(&late, &(struct conf){ .layers = 5, .dropout = kinds[_i].dropout, .dora = kinds[_i].dora, .watch = watch });
	for (int i = 0; i < 2; i++)
		grads[i] = xcalloc((size_t)waits.lora.n_params, sizeof(float));
	run_steps(&waits, 0, want, grads[0]);
	run_steps(&late, 1, got, grads[1]);
	for (int i = 0; i < 4; i++)
		ck_assert(isfinite(want[i]) && want[i] == got[i]);
	ck_assert_mem_eq(grads[0], grads[1], (size_t)waits.lora.n_params * sizeof(float));
	for (int i = 0; i < 2; i++)
		free(grads[i]);
	teardown(&waits);
	teardown(&late);
}
END_TEST

/* --- what is chosen --- */

/* Each layer has its place; what runs again and what travels never share a set. */
START_TEST(test_spread)
{
	struct fix f;
	int64_t layers = 12;

	setup(&f, &(struct conf){ .layers = layers });
	for (f.g.sets = 1; f.g.sets <= SETS; f.g.sets++)
		for (f.g.lean = f.g.sets; f.g.lean < layers; f.g.lean++)
			for (f.g.travel = 0; f.g.travel <= layers - f.g.lean && (f.g.sets > 1 || f.g.travel == 0); f.g.travel++) {
				int64_t n[4] = { 0 };
				int turn = 0, ways = f.g.lean + f.g.travel < layers ? f.g.sets - 1 : f.g.sets;

				f.g.full = f.g.lean > f.g.sets;
				f.g.lean -= f.g.full;
				engine_spread(&f.g);
				for (int64_t i = layers - 1; i >= 0; i--) {
					struct layer_keep k = f.g.keep[i];

					n[k.how]++;
					if (layers - 1 - i < f.g.sets)
						ck_assert(k.how == KEEP_LEAN && k.set == layers - 1 - i);
					else if (k.how == KEEP_HOST)
						ck_assert_int_eq(k.set, turn++ % ways);
					else
						ck_assert_int_eq(k.set, k.how == KEEP_NONE ? f.g.sets - 1 : -1);
				}
				ck_assert(n[KEEP_FULL] == f.g.full && n[KEEP_LEAN] == f.g.lean && n[KEEP_HOST] == f.g.travel);
				f.g.lean += f.g.full;
			}
	teardown(&f);
}
END_TEST

/* A published shape on a GPU that is not there. */
static void plan(struct engine *g, struct device *d, struct lora *l, const struct model_desc *m, int64_t batch, int64_t mib, uint64_t host)
{
	struct engine_shape s = { .max_tokens = batch * 2048, .max_seq = 2048, .train = true, .budget = (uint64_t)mib << 20, .host_budget = host };
	struct err e = ERR_INIT;

	ck_assert_int_eq(device_open_plan(d, "cuda", "bf16", 1, &e), 0);
	*l = (struct lora){ .rank = 16, .alpha = 16 };
	ck_assert_int_eq(lora_targets("all", l->targets, &e), 0);
	lora_init(l, m);
	ck_assert_msg(engine_plan(g, d, m, DT_BF16, true, l, &s, &e) == 0, "%s", e.msg);
	ck_assert_uint_le(engine_bytes(g), s.budget);
	ck_assert_uint_le(g->host_plan.used, host);
}

static void unplan(struct engine *g, struct device *d, struct lora *l)
{
	engine_release(g);
	lora_release(l);
	device_close(d);
}

static const struct {
	int64_t layers, width, ffn, batch, mib, travel, travel_most;
} published[] = {
	{ 80, 8192, 28672, 1, 44476, 60, 79 },  /* nearly all may travel */
	{ 32, 4096, 14336, 4, 21948, 1, 20 },   /* a copy takes as long as three layers */
	{ 32, 4096, 14336, 4, 60000, 0, 0 },    /* all stay */
};

START_TEST(test_published_shapes)
{
	struct model_desc m = small_model(published[_i].layers);
	struct engine g, less;
	struct device d, d2;
	struct lora l, l2;

	m.hidden = published[_i].width;
	m.ffn = published[_i].ffn;
	m.head_dim = 128;
	m.heads = m.hidden / 128;
	m.kv_heads = 8;
	m.vocab = 128256;
	plan(&g, &d, &l, &m, published[_i].batch, published[_i].mib, (uint64_t)64 << 30);
	plan(&less, &d2, &l2, &m, published[_i].batch, published[_i].mib, (uint64_t)3 << 30);
	printf("%d layers of %d: %d stay, %d travel in %d sets, %d run again; estimated at %.0f ms, with little host memory at %.0f ms\n", (int)m.layers, (int)m.hidden,
	       (int)(g.full + g.lean), (int)g.travel, g.sets, (int)engine_again(&g), 1e3 * engine_seconds(&g), 1e3 * engine_seconds(&less));
	ck_assert_int_ge(g.travel, published[_i].travel);
	ck_assert_int_le(g.travel, published[_i].travel_most);
	ck_assert(published[_i].travel == 0 || engine_seconds(&g) < engine_seconds(&less));
	unplan(&g, &d, &l);
	unplan(&less, &d2, &l2);
}
END_TEST

/* The host's limit is the plan's, and one that nothing fits in is said. */
START_TEST(test_host_memory)
{
	struct fix f;
	uint64_t least;
	struct engine_shape s = { .max_tokens = ROWS * SEQ, .max_seq = SEQ, .train = true };
	struct engine g;

	setup(&f, &(struct conf){ .layers = 10, .host_rate = 1e18 });
	least = least_of(&f, 1e18);
	for (uint64_t host = 64; host < (uint64_t)1 << 24; host *= 2) {
		s.budget = least;
		s.host_budget = host;
		if (engine_plan(&g, &f.dev, &f.model, f.dev.act, false, &f.lora, &s, &f.e) == 0) {
			ck_assert_uint_le(g.host_plan.used, host);
		} else {
			ck_assert_int_eq(f.e.code, LP_DEVICE);
			ck_assert_msg(strstr(f.e.msg, "--host-memory") != NULL, "%s", f.e.msg);
		}
		engine_release(&g);
	}
	teardown(&f);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("engine_travel");
	TCase *t = tcase_create("engine_travel");
	SRunner *r = srunner_create(s);
	int failed;

	tcase_set_timeout(t, 120);
	tcase_add_loop_test(t, test_no_bit_changes, 0, 4);
	tcase_add_loop_test(t, test_queued_steps, 0, 4);
	tcase_add_test(t, test_spread);
	tcase_add_loop_test(t, test_published_shapes, 0, sizeof(published) / sizeof(*published));
	tcase_add_test(t, test_host_memory);
	suite_add_tcase(s, t);
	srunner_run_all(r, CK_NORMAL);
	failed = srunner_ntests_failed(r);
	srunner_free(r);
	return failed ? 1 : 0;
}

/* Optimiser states in host memory come to the device that LP_DEVICE names (cpu) in pieces, and go back: the bits of
 * parameters and states are those of states that stay there. */
#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/rng.h"
#include "base/xalloc.h"
#include "fmt/st.h"
#include "train/optim.h"

#define STEPS 3

static struct device dev;
static const struct model_desc model = { .layers = 4, .hidden = 1024, .heads = 16, .kv_heads = 4, .head_dim = 64, .ffn = 3072, .vocab = 64 };

static void open_device(void)
{
	struct err e = ERR_INIT;
	const char *spec = getenv("LP_DEVICE") ? getenv("LP_DEVICE") : "cpu";

	if (!dev.k.alloc)
		ck_assert_msg(device_open(&dev, spec, getenv("LP_COMPUTE"), 2, &e) == 0, "%s", e.msg);
}

static const struct optim adamw = { .beta1 = 0.9, .beta2 = 0.999, .eps = 1e-8, .weight_decay = 0.01 };

struct setting {
	struct lora lora;
	struct optim optim;
	struct layout on_device, on_host;
	void *device_memory, *host_memory, *ring;
};

/* away: sixteenths of the states. */
static void layout(struct setting *s, int away)
{
	lora_layout(&s->lora, &s->on_device, true);
	optim_layout(&s->optim, &s->lora, &s->on_device, &s->on_host, away);
}

static void fill(float *to, int64_t n, uint64_t stream)
{
	static float some[65521];
	float *x = xcalloc((size_t)n, sizeof(*x));

	for (int64_t j = 0; j < 65521; j++)
		some[j] = (float)rng_unit(3, stream, (uint64_t)j) - 0.5f;
	for (int64_t j = 0; j < n; j++)
		x[j] = some[j % 65521];
	device_upload(&dev, to, x, (uint64_t)n * sizeof(*x));
	free(x);
}

static void start(struct setting *s, const struct model_desc *m, int64_t rank, const struct optim *o, int away)
{
	struct err e = ERR_INIT;

	memset(s, 0, sizeof(*s));
	s->lora = (struct lora){ .rank = rank, .alpha = 64 };
	ck_assert(lora_targets("all", s->lora.targets, &e) == 0);
	lora_init(&s->lora, m);
	s->optim = *o;
	layout(s, away);
	s->device_memory = device_alloc(&dev, s->on_device.used, "a test", &e);
	ck_assert(s->device_memory != NULL);
	layout_place(&s->on_device, s->device_memory);
	if (away) {
		s->ring = device_alloc(&dev, OPTIM_RING * optim_ring_bytes(&s->optim, &s->lora), "a test", &e);
		s->host_memory = dev.k.host_alloc(&dev, s->on_host.used, "a test", &e);
		ck_assert(s->ring != NULL && s->host_memory != NULL);
		memset(s->host_memory, 0x55, s->on_host.used);
		layout_place(&s->on_host, s->host_memory);
	}
	layout(s, away);
	s->optim.ring = s->ring;
	optim_start(&s->optim, &s->lora, &dev);
	fill(s->lora.params, s->lora.n_params, STEPS);
}

static void step(struct setting *s, int i)
{
	fill(s->lora.grads, s->lora.n_params, (uint64_t)i);
	optim_step(&s->optim, &dev, 1e-3, 1, NULL, 0);
}

static void same(const void *a, const void *b, uint64_t bytes)
{
	struct err e = ERR_INIT;
	char *x = xmalloc(bytes + 1), *y = xmalloc(bytes + 1);

	device_download(&dev, x, a, bytes);
	device_download(&dev, y, b, bytes);
	ck_assert_msg(device_sync(&dev, &e) == 0, "%s", e.msg);
	ck_assert_mem_eq(x, y, bytes);
	free(x);
	free(y);
}

static void same_state(struct setting *a, struct setting *b, int state)
{
	uint64_t bytes = optim_bytes(&a->optim, &a->lora);
	char *x = xcalloc(bytes, 1), *y = xcalloc(bytes, 1);

	optim_read(&a->optim, &a->lora, &dev, state, x);
	optim_read(&b->optim, &b->lora, &dev, state, y);
	ck_assert_mem_eq(x, y, bytes);
	free(x);
	free(y);
}

static void finish(struct setting *s)
{
	optim_release(&s->optim);
	lora_release(&s->lora);
	device_free(&dev, s->device_memory);
	if (s->ring)
		device_free(&dev, s->ring);
	if (s->host_memory)
		dev.k.host_free(&dev, s->host_memory);
}

START_TEST(test_away)
{
	struct optim o = adamw;
	struct setting here, away;
	struct err e = ERR_INIT;

	open_device();
	o.kind = _i & 1 ? OPTIM_ADAMW8 : OPTIM_ADAMW;
	o.b_rate = _i & 2 ? 16 : 0;
	o.piece = _i & 4 ? 65536 : 0;
	start(&here, &model, 64, &o, 0);
	start(&away, &model, 64, &o, _i & 4 ? 5 : OPTIM_PARTS);
	ck_assert_int_eq(here.optim.n_pieces, o.b_rate > 0 ? 2 : 1);
	ck_assert_int_gt(away.optim.n_pieces, OPTIM_RING); /* each buffer is used again */
	ck_assert_uint_lt(away.on_device.used, here.on_device.used);
	for (int i = 0; i < STEPS; i++) {
		step(&here, i);
		step(&away, i);
	}
	ck_assert_msg(device_sync(&dev, &e) == 0, "%s", e.msg); /* before the host looks at what comes there */
	same(here.lora.params, away.lora.params, (uint64_t)here.lora.n_params * sizeof(float));
	for (int i = 0; i < OPTIM_STATES; i++)
		same_state(&here, &away, i);
	finish(&here);
	finish(&away);
}
END_TEST

/* A golden's tensor "NAME.WHAT.T" for each of the adapter's, to the device. */
static void send(const struct lora *l, const struct st_file *f, char what, int t, float *to)
{
	for (int64_t i = 0; i < l->n_tensors; i++) {
		char name[ARCH_NAME + 16];
		const struct tensor *x;

		snprintf(name, sizeof(name), "%s.%c.%d", l->tensors[i].name, what, t);
		x = st_find(&f->blob, name);
		ck_assert_msg(x && x->bytes == (uint64_t)l->tensors[i].n * sizeof(float), "%s", name);
		device_upload(&dev, to + l->tensors[i].offset, x->data, x->bytes);
	}
}

/* PEFT's groups, PyTorch's AdamW: make_loraplus.py. */
START_TEST(test_lora_plus)
{
	static const struct model_desc small = { .layers = 1, .hidden = 24, .heads = 3, .kv_heads = 1, .head_dim = 8, .ffn = 40, .vocab = 64 };
	struct optim o = adamw;
	struct setting s;
	struct st_file f;
	struct err e = ERR_INIT;
	const double *rates;
	float *want, *got;

	open_device();
	ck_assert_msg(st_file_open(&f, "tests/conformance/model/loraplus.safetensors", &e) == 0, "%s", e.msg);
	o.weight_decay = strtod(st_meta(&f.blob, "weight_decay"), NULL);
	o.b_rate = strtod(st_meta(&f.blob, "ratio"), NULL);
	o.piece = 2048; /* where they are away */
	start(&s, &small, 4, &o, _i == 1 ? OPTIM_PARTS : 0);
	rates = st_find(&f.blob, "rates")->data;
	want = xcalloc((size_t)s.lora.n_params, sizeof(*want));
	got = xcalloc((size_t)s.lora.n_params, sizeof(*got));
	send(&s.lora, &f, 'p', 0, s.lora.params);
	for (int t = 1; t <= 4; t++) {
		send(&s.lora, &f, 'g', t, s.lora.grads);
		optim_step(&s.optim, &dev, rates[t - 1], 1, NULL, 0);
		device_download(&dev, got, s.lora.params, (uint64_t)s.lora.n_params * sizeof(*got));
		send(&s.lora, &f, 'p', t, s.lora.grads); /* a place for them */
		device_download(&dev, want, s.lora.grads, (uint64_t)s.lora.n_params * sizeof(*want));
		ck_assert_msg(device_sync(&dev, &e) == 0, "%s", e.msg);
		/* values are up to 0.5, an update up to 0.05: a few roundings of either (adamw.h) */
		for (int64_t i = 0; i < s.lora.n_params; i++)
			ck_assert_float_eq_tol(got[i], want[i], 2e-7f);
	}
	free(want);
	free(got);
	finish(&s);
	st_file_close(&f);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("optim");
	TCase *t = tcase_create("optim");
	SRunner *r = srunner_create(s);
	int failed;

	tcase_set_timeout(t, 60);
	tcase_add_loop_test(t, test_away, 0, 8);
	tcase_add_loop_test(t, test_lora_plus, 0, 2);
	suite_add_tcase(s, t);
	srunner_run_all(r, CK_NORMAL);
	failed = srunner_ntests_failed(r);
	srunner_free(r);
	return failed ? 1 : 0;
}

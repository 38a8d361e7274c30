/* A model of tests/conformance/model on a device, with its adapter, its one micro-batch and its goldens. Included once, by
 * the tests of the engine. */
#ifndef LP_TESTS_ENGINE_FIX_H
#define LP_TESTS_ENGINE_FIX_H

#include <check.h>
#include <stdio.h>
#include <string.h>

#include "train/engine.h"

#define DIR_MODEL "tests/conformance/model/"
static const char *const cases[] = { "llama", "llama3", "qwen2", "mistral" };

struct fix {
	struct device *dev; /* the test's */
	struct model_desc desc;
	struct peft peft;
	struct st_file gold;
	struct lora lora;
	struct optim optim;
	struct engine g;
	struct dataset data;
	struct microbatch b;
	const char *name;
	struct err e;
};

static void must(struct fix *f, bool ok)
{
	if (!ok)
		ck_abort_msg("%s: %s", f->e.path, f->e.msg);
}

static const struct tensor *gold(struct fix *f, const char *name)
{
	const struct tensor *t = st_find(&f->gold.blob, name);

	ck_assert_msg(t != NULL, "no golden %s", name);
	return t;
}

static const struct tensor *gold_lora(struct fix *f, const char *prefix, const struct lora_tensor *t)
{
	char name[160];

	snprintf(name, sizeof(name), "%s%s", prefix, t->name);
	return gold(f, name);
}

static double value(const struct tensor *t, size_t i)
{
	return t->dtype == DT_F64 ? ((const double *)t->data)[i] : (double)((const float *)t->data)[i];
}

static void setup_dropout(struct fix *f, struct device *dev, const char *name, bool nf4, uint64_t budget, double dropout)
{
	char path[256];
	struct model_source *src;
	struct engine_shape shape = { .max_tokens = 64, .max_seq = 40, .train = true, .optim = &f->optim, .budget = budget };

	memset(f, 0, sizeof(*f));
	f->optim = (struct optim){ .kind = OPTIM_ADAMW8, .beta1 = 0.9, .beta2 = 0.999, .eps = 1e-8, .piece = 2048 };
	f->dev = dev;
	f->name = name;
	snprintf(path, sizeof(path), DIR_MODEL "%s", name);
	must(f, model_desc_load(path, &f->desc, &f->e) == 0);
	must(f, (src = model_source_open(path, &f->e)) != NULL);
	snprintf(path, sizeof(path), DIR_MODEL "%s/golden.safetensors", name);
	must(f, st_file_open(&f->gold, path, &f->e) == 0);
	snprintf(path, sizeof(path), DIR_MODEL "%s/adapter", name);
	must(f, peft_load(&f->peft, path, &f->e) == 0);
	must(f, lora_from_peft(&f->lora, &f->desc, &f->peft, &f->e) == 0);
	f->lora.dropout = dropout;
	must(f, engine_plan(&f->g, dev, &f->desc, weights_source_dtype(src, DT_F32), nf4, &f->lora, &shape, &f->e) == 0);
	must(f, engine_alloc(&f->g, &f->e) == 0);
	must(f, engine_load(&f->g, src, &f->e) == 0);
	lora_load(&f->lora, dev, &f->peft);
	model_source_close(src);
	dataset_add_row(&f->data, gold(f, "input_ids")->data, gold(f, "loss_mask")->data, gold(f, "seq_start")->data, gold(f, "seq_record")->data,
	                (int64_t)tensor_elems(gold(f, "seq_record")));
	microbatch_init(&f->b, 64);
	microbatch_clear(&f->b);
	microbatch_add(&f->b, &f->data, 0);
}

static void setup(struct fix *f, struct device *dev, const char *name, bool nf4, uint64_t budget)
{
	setup_dropout(f, dev, name, nf4, budget, 0);
}

static void teardown(struct fix *f)
{
	microbatch_release(&f->b);
	dataset_release(&f->data);
	engine_release(&f->g);
	lora_release(&f->lora);
	peft_release(&f->peft);
	st_file_close(&f->gold);
}

/* What the plan needs at the least: nothing kept, nothing dense. */
static uint64_t smallest(struct device *dev, const char *name, bool nf4)
{
	struct fix f;
	struct engine g;
	struct optim optim = { .kind = OPTIM_ADAMW8, .piece = 2048 };
	struct engine_shape shape = { .max_tokens = 64, .max_seq = 40, .train = true, .optim = &optim, .budget = 1 };
	uint64_t n;

	setup(&f, dev, name, nf4, 0);
	ck_assert_int_eq(engine_plan(&g, dev, &f.desc, f.g.w.dtype, nf4, &f.lora, &shape, &f.e), -1);
	n = engine_bytes(&g);
	engine_release(&g);
	teardown(&f);
	return n;
}

#endif

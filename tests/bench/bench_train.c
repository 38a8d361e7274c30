/* Usage: bench_train THREADS MODEL_DIR ADAPTER_DIR BATCH SEQ STEPS [GRADS.safetensors]
 * One LoRA step (forward, backward, AdamW) on BATCH rows of SEQ tokens, every
 * position a target, fp32 base: prints tokens per second of each
 * step after one warm-up. Token i of row r is Philox(r, i) mod vocabulary, so that a peer can
 * make the same. GRADS receives the first step's gradients. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "base/num.h"
#include "base/rng.h"
#include "base/xalloc.h"
#include "train/engine.h"

static struct err e = ERR_INIT;

static void must(bool ok)
{
	if (!ok) {
		fprintf(stderr, "bench_train: %s: %s\n", e.path, e.msg);
		exit(1);
	}
}

static void add_row(struct dataset *d, int64_t row, int64_t len, int64_t vocab)
{
	int32_t *ids = xcalloc((size_t)len, sizeof(*ids));
	uint8_t *mask = xcalloc((size_t)len, 1);
	int64_t start[2] = { 0, len };

	for (int64_t i = 0; i < len; i++) {
		ids[i] = (int32_t)(rng_u64(1, (uint64_t)row, (uint64_t)i) % (uint64_t)vocab);
		mask[i] = 1;
	}
	dataset_add_row(d, ids, mask, start, &row, 1);
	free(ids);
	free(mask);
}

static void write_tensors(struct engine *g, const char *path, float *values, const int32_t *ids, int64_t n_ids)
{
	size_t n = (size_t)g->lora->n_tensors;
	struct tensor *t = xcalloc(n + 1, sizeof(*t));
	struct out *o = out_open(path, &e);

	must(o != NULL);
	for (size_t i = 0; i < n; i++) {
		const struct lora_tensor *l = &g->lora->tensors[i];

		t[i] = (struct tensor){ l->name, DT_F32, 2, { (uint64_t)l->rows, (uint64_t)l->cols }, (uint64_t)l->n * 4, values + l->offset };
	}
	t[n] = (struct tensor){ "input_ids", DT_I32, 1, { (uint64_t)n_ids }, (uint64_t)n_ids * 4, ids };
	must(st_write(o, t, n + 1, NULL, 0, &e) == 0);
	must(out_commit(o, &e) == 0);
	free(t);
}

int main(int argc, char **argv)
{
	struct device dev;
	struct model_desc m;
	struct model_source *src;
	struct peft p;
	struct lora lora;
	struct engine g;
	struct optim optim = { .kind = OPTIM_ADAMW, .beta1 = 0.9, .beta2 = 0.999, .eps = 1e-8 };
	struct dataset d = { 0 };
	struct microbatch b;
	int64_t threads, batch, seq, steps;

	if (argc < 7 || !parse_i64(argv[1], &threads) || !parse_i64(argv[4], &batch) || !parse_i64(argv[5], &seq) || !parse_i64(argv[6], &steps)) {
		fprintf(stderr, "usage: bench_train THREADS MODEL_DIR ADAPTER_DIR BATCH SEQ STEPS [GRADS]\n");
		return 2;
	}
	must(device_open(&dev, "cpu", NULL, (int)threads, &e) == 0 && model_desc_load(argv[2], &m, &e) == 0);
	must((src = model_source_open(argv[2], &e)) != NULL && peft_load(&p, argv[3], &e) == 0 && lora_from_peft(&lora, &m, &p, &e) == 0);
	must(engine_plan(&g, &dev, &m, DT_F32, false, &lora, &(struct engine_shape){ .max_tokens = batch * seq, .max_seq = seq, .train = true, .optim = &optim }, &e) == 0);
	must(engine_alloc(&g, &e) == 0 && engine_load(&g, src, &e) == 0);
	lora_load(&lora, &dev, &p);
	microbatch_init(&b, batch * seq);
	microbatch_clear(&b);
	for (int64_t r = 0; r < batch; r++) {
		add_row(&d, r, seq, m.vocab);
		microbatch_add(&b, &d, r);
	}
	for (int64_t s = 0; s <= steps; s++) {
		double begin = now_seconds(), loss = 0;

		device_zero(&dev, lora.grads, (uint64_t)lora.n_params * 4);
		engine_run(&g, &b, true, 1.0 / (double)b.n_targets);
		if (s == 0 && argc > 7)
			write_tensors(&g, argv[7], lora.grads, d.ids, d.n_tokens);
		optim_step(&optim, &dev, 1e-4, 1, NULL, 0);
		for (int64_t i = 0; i < b.n_targets; i++)
			loss += g.nll[i];
		if (s > 0)
			printf("%.2f\n", (double)(batch * seq) / (now_seconds() - begin));
		fprintf(stderr, "step %lld: loss %.6f, %.3f s\n", (long long)s, loss / (double)b.n_targets, now_seconds() - begin);
	}
	return 0;
}

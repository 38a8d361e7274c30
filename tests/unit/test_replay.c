/* Two real runs of PyTorch + PEFT on the demo model, replayed: the same token
 * blocks, batch order, initial adapter and list of learning rates
 * (tests/conformance/model/README.md), through the trainer's own steps.
 *
 * Both programs round in fp32 and every step feeds the next, so their paths
 * part slowly: over the first 20 steps each loss agrees to 1e-4 relative and each gradient norm to
 * 1e-3; after 200 steps the held-out loss agrees to 1 %. (Two runs of PyTorch with
 * one and two threads differ by as much.) */
#include <check.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/xalloc.h"
#include "stream_fix.h"
#include "train/run_int.h"

#define MODEL "data/stories260K"

static void must(bool ok, const struct err *e)
{
	if (!ok)
		ck_abort_msg("%s: %s", e->path, e->msg);
}

static const struct tensor *need(const struct st_file *f, const char *name)
{
	const struct tensor *t = st_find(&f->blob, name);

	ck_assert_msg(t != NULL, "no %s", name);
	return t;
}

/* SET.input_ids etc. as a token stream at path, one row a sequence. */
static void write_stream(const struct st_file *f, const char *set, const char *path)
{
	char name[64];
	const struct tensor *ids, *start, *mask;
	struct token_frame t = { 0 };
	int32_t *i32;
	uint8_t *m;
	int64_t *rec;

	snprintf(name, sizeof(name), "%s.input_ids", set);
	ids = need(f, name);
	snprintf(name, sizeof(name), "%s.seq_start", set);
	start = need(f, name);
	snprintf(name, sizeof(name), "%s.loss_mask", set);
	mask = st_find(&f->blob, name);
	t.n_tokens = (int64_t)tensor_elems(ids);
	t.n_rows = t.n_seqs = (int64_t)tensor_elems(start) - 1;
	i32 = xcalloc((size_t)t.n_tokens, sizeof(*i32));
	m = xcalloc((size_t)t.n_tokens, 1);
	rec = xcalloc((size_t)t.n_seqs, sizeof(*rec));
	for (int64_t i = 0; i < t.n_tokens; i++) {
		i32[i] = ((const int16_t *)ids->data)[i];
		m[i] = mask ? ((const uint8_t *)mask->data)[i] : 1;
	}
	for (int64_t s = 0; s < t.n_seqs; s++) {
		rec[s] = s;
		m[((const int64_t *)start->data)[s]] = 0;
	}
	t.input_ids = i32;
	t.loss_mask = m;
	t.row_start = t.seq_start = start->data;
	t.seq_record = rec;
	write_frame(path, &t);
	free(i32);
	free(m);
	free(rec);
}

static void load_init(struct run *r, const struct st_file *f)
{
	for (int64_t i = 0; i < r->lora.n_tensors; i++) {
		struct lora_tensor *t = &r->lora.tensors[i];
		char name[128];
		const struct tensor *init;

		snprintf(name, sizeof(name), "init.%s", t->name);
		init = st_find(&f->blob, name);
		memset(r->lora.params + t->offset, 0, (size_t)t->n * sizeof(float));
		if (init)
			memcpy(r->lora.params + t->offset, init->data, (size_t)t->n * sizeof(float));
		else
			ck_assert(strstr(t->name, "lora_B") != NULL);
	}
}

static void check_heldout(struct run *r, const struct st_file *f, int64_t step, double tolerance)
{
	const int64_t *steps = need(f, "heldout.step")->data;
	struct err e = ERR_INIT;
	struct told told;
	double loss, want;

	for (size_t i = 0; i < 4; i++)
		if (steps[i] == step) {
			want = ((const double *)need(f, "heldout.loss")->data)[i];
			must(run_evaluate(r, &r->evals[0].d, NULL, &loss, &told, &e) == 0, &e);
			printf("  step %lld held-out %.6f, PyTorch %.6f\n", (long long)step, loss, want);
			ck_assert_double_eq_tol(loss / want, 1, tolerance);
		}
}

static void replay(const char *name)
{
	char path[128], train[64], eval[64];
	const char *tokens[] = { train }, *evals[] = { eval };
	struct st_file f;
	struct err e = ERR_INIT;
	struct run r;
	struct train_config c = { .model = MODEL, .streams = tokens, .n_streams = 1, .evals = evals, .n_evals = 1, .device = "cpu", .threads = 1, .rank = 8, .alpha = 16, .targets = "all", .batch = 8, .accumulate = 1,
		                  .epochs = 1, .max_grad_norm = 1, .warmup_steps = 0, .optim = { .kind = OPTIM_ADAMW, .beta1 = 0.9, .beta2 = 0.999, .eps = 1e-8 } };
	const double *lr, *loss, *norm;
	const int32_t *rows;

	snprintf(path, sizeof(path), "tests/conformance/model/%s.safetensors", name);
	snprintf(train, sizeof(train), "/tmp/lp-replay-%d-train.lps", (int)getpid());
	snprintf(eval, sizeof(eval), "/tmp/lp-replay-%d-eval.lps", (int)getpid());
	must(st_file_open(&f, path, &e) == 0, &e);
	write_stream(&f, "train", train);
	write_stream(&f, "heldout", eval);
	must(run_prepare(&r, &c, true, &e) == 0, &e);
	must(run_load(&r, &e) == 0, &e);
	load_init(&r, &f);
	lr = need(&f, "step.lr")->data;
	loss = need(&f, "step.loss")->data;
	norm = need(&f, "step.grad_norm")->data;
	rows = need(&f, "batch_index")->data;
	check_heldout(&r, &f, 0, 2e-6);
	for (int64_t s = 0; s < 200; s++) {
		struct step_result res;
		int64_t batch[8];

		for (int i = 0; i < 8; i++)
			batch[i] = rows[s * 8 + i];
		r.step = s;
		run_queue(&r, batch, 8, lr[s]);
		must(run_result(&r, &res, &e) == 0, &e);
		if (s < 20) {
			ck_assert_double_eq_tol(res.loss / loss[s], 1, 1e-4);
			ck_assert_double_eq_tol(res.grad_norm / norm[s], 1, 1e-3);
		}
		check_heldout(&r, &f, s + 1, 0.01);
	}
	run_release(&r);
	st_file_close(&f);
	unlink(train);
	unlink(eval);
}

START_TEST(test_capitals)
{
	replay("sft_upper");
}
END_TEST

START_TEST(test_shakespeare)
{
	replay("shakespeare");
}
END_TEST

int main(void)
{
	Suite *s = suite_create("replay");
	TCase *t = tcase_create("replay");
	SRunner *r = srunner_create(s);
	int failed;

	tcase_set_timeout(t, 300);
	tcase_add_test(t, test_capitals);
	tcase_add_test(t, test_shakespeare);
	suite_add_tcase(s, t);
	srunner_run_all(r, CK_NORMAL);
	failed = srunner_ntests_failed(r);
	srunner_free(r);
	return failed ? 1 : 0;
}

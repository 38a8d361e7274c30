/* model/merge.c: the fold against its definition, against PEFT's own merge
 * within fp32's error, and whole merges against identities that
 * tests/oracle/make_merge.py computed in numpy. */
#include <math.h>
#include <sys/stat.h>

#include "base/num.h"
#include "base/rng.h"
#include "base/xalloc.h"
#include "model/merge.h"
#include "scratch.h"

#define DATA "tests/unit/data/merge/"

/* --- one matrix --- */

static void random_floats(float *v, size_t n, const char *name, double std)
{
	for (size_t i = 0; i < n; i++)
		v[i] = (float)(std * rng_normal(1, rng_stream(name), i));
}

START_TEST(fast_equals_definition)
{
	static const int64_t shapes[][3] = { { 3, 1, 1 }, { 2, 7, 3 }, { 5, 513, 4 }, { 4, 1024, 9 }, { 2, 1500, 64 }, { 1, 2049, 5 } };
	static const enum dtype types[] = { DT_F32, DT_F16, DT_BF16 };

	for (size_t i = 0; i < sizeof(shapes) / sizeof(shapes[0]); i++)
		for (int from = 0; from < 3; from++)
			for (int to = 0; to < 6; to++) { /* with magnitudes from 3 on */
				int64_t rows = shapes[i][0], cols = shapes[i][1], r = shapes[i][2];
				enum dtype type = types[to % 3];
				size_t n = (size_t)(rows * cols), out = dtype_bytes(type);
				float *wf = malloc(n * 4), *a = malloc((size_t)(r * cols) * 4), *b = malloc((size_t)(rows * r) * 4);
				uint8_t *w = malloc(n * 4), *fast = malloc((size_t)cols * 4), *slow = malloc((size_t)cols * 4);
				struct tensor tw = { "w", types[from], 2, { (uint64_t)rows, (uint64_t)cols }, n * dtype_bytes(types[from]), w };
				struct tensor ta = { "a", DT_F32, 2, { (uint64_t)r, (uint64_t)cols }, 0, a };
				struct tensor tb = { "b", DT_F32, 2, { (uint64_t)rows, (uint64_t)r }, 0, b };
				float length[8] = { 0.25f, 4, 0, 10, 3 };
				struct tensor tm = { "m", DT_F32, 1, { (uint64_t)rows }, 0, length };
				struct peft_module m = { "m", &ta, &tb, 1.7, r, to < 3 ? NULL : &tm };
				struct fold f = { 0 };
				struct fold_count c = { 0 }, one = { 0 };
				uint8_t *all = malloc(n * 4);
				uint64_t lost = 0;

				random_floats(wf, n, "w", 1);
				random_floats(a, (size_t)(r * cols), "a", 1e-2);
				random_floats(b, (size_t)(rows * r), "b", 1e-2);
				a[0] = 0;
				from_f32(types[from], wf, w, n);
				OK(fold_add(&f, &tw, &m, 1, &er));
				if (to < 3)
					OK(fold_add(&f, &tw, &m, -0.3, &er));
				fold_rows(&f, 0, rows, w, types[from], type, all, &c);
				for (int64_t row = 0; row < rows; row++) {
					const uint8_t *wr = w + (size_t)(row * cols) * dtype_bytes(types[from]);

					fold_rows(&f, row, 1, wr, types[from], type, fast, &one);
					ck_assert_mem_eq(fast, all + (size_t)(row * cols) * out, (size_t)cols * out);
					fold_row_slow(&f, row, wr, types[from], type, slow);
					ck_assert_mem_eq(fast, slow, (size_t)cols * out);
					for (int64_t j = 0; j < cols; j++) {
						float x;
						uint8_t plain[4];

						to_f32(types[from], wr + (size_t)j * dtype_bytes(types[from]), &x, 1);
						from_f32(type, &x, plain, 1);
						lost += !memcmp(plain, slow + (size_t)j * out, out);
					}
				}
				/* Every element but those under a[0] in rank 1 has a delta. */
				ck_assert_uint_eq(c.moved, n - (r == 1 && to < 3 ? (uint64_t)rows : 0));
				ck_assert_uint_eq(c.lost, lost - (n - c.moved));
				ck_assert_uint_eq(c.bad, 0);
				fold_release(&f);
				free(wf), free(a), free(b), free(w), free(fast), free(slow), free(all);
			}
}
END_TEST

/* Sums on the edge of a rounding: halfway, and beside it by less than fp32 could tell. */
START_TEST(one_rounding_only)
{
	const float w[3] = { 1, 1, 1 }, b[3] = { 0x1p-8f, 0x1p-8f, 0x1p-8f };
	const float a[3] = { 1, 1.0000001f, 0.99999994f }; /* 2^-8 is half a step of bf16 at 1 */
	const uint16_t want[3] = { 0x3f80, 0x3f81, 0x3f80 };
	struct tensor tw = { "w", DT_F32, 2, { 1, 3 }, 12, w }, ta = { "a", DT_F32, 2, { 1, 3 }, 12, a }, tb = { "b", DT_F32, 2, { 1, 1 }, 4, b };
	struct peft_module m = { "m", &ta, &tb, 1, 1 };
	struct fold f = { 0 };
	struct fold_count c = { 0 };
	uint16_t got[3];

	OK(fold_add(&f, &tw, &m, 1, &er));
	fold_rows(&f, 0, 1, w, DT_F32, DT_BF16, got, &c);
	ck_assert_mem_eq(got, want, sizeof(got));
	ck_assert_uint_eq(c.moved, 3);
	ck_assert_uint_eq(c.lost, 2);
	fold_release(&f);
}
END_TEST

START_TEST(overflow_and_nan)
{
	const float w[2] = { 65504, INFINITY }, a[2] = { 100, 1 }, b[1] = { 1 }, nan[1] = { NAN };
	struct tensor tw = { "w", DT_F32, 2, { 1, 2 }, 8, w }, ta = { "a", DT_F32, 2, { 1, 2 }, 8, a }, tb = { "b", DT_F32, 2, { 1, 1 }, 4, b };
	struct peft_module m = { "m", &ta, &tb, 1, 1 };
	struct fold f = { 0 };
	static const enum dtype types[] = { DT_F16, DT_BF16, DT_F32 };
	uint32_t got[2];

	OK(fold_add(&f, &tw, &m, 1, &er));
	for (int i = 0; i < 3; i++) {
		struct fold_count c = { 0 };

		fold_rows(&f, 0, 1, w, DT_F32, types[i], got, &c);
		ck_assert_uint_eq(c.bad, types[i] == DT_F16);
	}
	fold_release(&f);
	tb.data = nan;
	BAD(fold_add(&f, &tw, &m, 1, &er), LP_DATA, "NaN");
	fold_release(&f);
	ta.shape[1] = 3;
	tb.data = b;
	BAD(fold_add(&f, &tw, &m, 1, &er), LP_USAGE, "another base");
	fold_release(&f);
}
END_TEST

/* --- whole models --- */

struct merged {
	struct merge m;
	struct peft adapters[2];
	double weights[2];
	const char *names[2];
};

static int merge_to(struct merged *x, const char *base, struct model_sink *k, struct err *e)
{
	struct tensor *list;
	size_t n;
	int rc;

	x->m.adapters = x->adapters;
	x->m.weights = x->weights;
	x->m.names = x->names;
	for (size_t i = 0; i < x->m.n_adapters; i++)
		if (peft_open(&x->adapters[i], x->names[i], e)) {
			x->m.n_adapters = i;
			return -1;
		}
	x->m.base = model_source_open(base, e);
	if (!x->m.base || merge_check(&x->m, e))
		return -1;
	list = merge_list(&x->m, &n);
	rc = model_sink_begin(k, model_source_texts(x->m.base), list, n, NULL, 0, e);
	free(list);
	return rc ? -1 : merge_run(&x->m, k, e);
}

static void merged_release(struct merged *x)
{
	model_source_close(x->m.base);
	for (size_t i = 0; i < x->m.n_adapters; i++)
		peft_release(&x->adapters[i]);
}

static void identity_of(const char *path, char id[72])
{
	struct model_source *s = model_source_open(path, &er);
	struct tensor t;

	ck_assert_msg(s != NULL, "%s", er.msg);
	while (model_source_next(s, &t, &er) > 0)
		;
	OK(model_source_identity(s, id, &er));
	model_source_close(s);
}

/* Writes the base as a stream. */
static void stream_base(const char *path)
{
	struct model_source *s = model_source_open(DATA "base", &er);
	struct model_sink *k = model_sink_stream(out_open(path, &er), &er);
	struct tensor t;

	OK(model_sink_begin(k, model_source_texts(s), model_source_at(s, 0), model_source_count(s), NULL, 0, &er));
	while (model_source_next(s, &t, &er) > 0)
		OK(model_sink_tensor(k, &t, &er));
	OK(model_sink_commit(k, &er));
	model_source_close(s);
}

static const char *gold(const char *key)
{
	static struct arena a;
	static struct json v;

	if (!v.n)
		OK(json_load(DATA "golden.json", &a, &v, &er));
	return json_get(&v, key)->s;
}

START_TEST(goldens)
{
	static const struct {
		const char *key;
		enum dtype to;
	} cases[] = { { "one_F32", DT_F32 }, { "one_F16", DT_F16 }, { "one_BF16", DT_BF16 },
		      { "dora_F32", DT_F32 }, { "dora_F16", DT_F16 }, { "dora_BF16", DT_BF16 },
		      { "soup_F32", DT_F32 }, { "soup_F16", DT_F16 }, { "soup_BF16", DT_BF16 } };

	stream_base(at("base.lps"));
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
		for (int way = 0; way < 4; way++) { /* base and output: directories or streams */
			bool soup = cases[i].key[0] == 's';
			struct merged x = { .m = { .to_given = true, .to = cases[i].to, .n_adapters = soup ? 2 : 1, .verify = VERIFY_FULL },
					    .weights = { soup ? 0.3 : 1, 0.7 }, .names = { cases[i].key[0] == 'd' ? DATA "dora" : DATA "one", DATA "two" } };
			struct model_sink *k = way & 1 ? model_sink_stream(out_open(at("m.lps"), &er), &er) :
						       model_sink_dir(at("m"), true, 4096, &er);
			char id[72];

			OK(merge_to(&x, way & 2 ? at("base.lps") : DATA "base", k, &er));
			OK(model_sink_commit(k, &er));
			identity_of(at(way & 1 ? "m.lps" : "m"), id);
			ck_assert_str_eq(id, gold(cases[i].key));
			ck_assert_str_eq(x.m.base_id, gold("base"));
			ck_assert_uint_gt(x.m.verified, x.m.count.moved - 1);
			merged_release(&x);
		}
}
END_TEST

/* W + delta of one element, about. */
static double plain(const struct fold *f, int64_t row, int64_t col, const struct tensor *w)
{
	const struct fold_term *q = &f->terms[0];
	double s = 0;

	for (int64_t k = 0; k < q->r; k++)
		s += q->b[row * q->r + k] * q->a[k * f->cols + col];
	return (double)((const float *)w->data)[row * f->cols + col] + q->coef * s;
}

/* PEFT computes s * (B A) and W + delta in fp32: r products and r - 1 sums in
 * any order, one scaling, one sum. |difference| <= u |W'| + (r + 2) u |s| |B||A|
 * to first order, u = 2^-24; ours has the exact rounding, u |W'|. With magnitudes the delta's part
 * is multiplied by the factor, whose length is a sum of `cols` squares: (cols / 2 + 3) u |W'| more. */
START_TEST(near_peft)
{
	static const char *const of[2][4] = { { "model.layers.0.self_attn.q_proj", "model.layers.0.self_attn.v_proj", "model.layers.0.mlp.down_proj", "lm_head" },
		                              { "model.layers.0.self_attn.k_proj", "model.layers.0.self_attn.o_proj", "model.layers.0.mlp.down_proj" } };
	const char *const *names = of[_i];
	size_t n = _i ? 3 : 4;
	struct model_source *s;
	struct st_file peft;
	struct peft p;

	s = model_source_open(DATA "base", &er);
	OK(st_file_open(&peft, _i ? DATA "peft_dora.safetensors" : DATA "peft_one.safetensors", &er));
	OK(peft_open(&p, _i ? DATA "dora" : DATA "one", &er));
	ck_assert_uint_eq(p.n_modules, n);
	for (size_t i = 0; i < n; i++) {
		const struct peft_module *m = peft_find(&p, names[i]);
		char name[96];
		const struct tensor *w, *theirs;
		const float *a = m->a->data, *b = m->b->data;
		struct fold f = { 0 };
		struct fold_count c = { 0 };
		float row[64];

		snprintf(name, sizeof(name), "%s.weight", names[i]);
		w = model_source_find(s, name);
		theirs = st_find(&peft.blob, name);
		OK(fold_add(&f, w, m, 1, &er));
		for (int64_t y = 0; y < f.rows; y++) {
			fold_rows(&f, y, 1, (const float *)w->data + y * f.cols, DT_F32, DT_F32, row, &c);
			for (int64_t x = 0; x < f.cols; x++) {
				double other = (double)((const float *)theirs->data)[y * f.cols + x], sum = 0, by = f.m ? (double)row[x] / plain(&f, y, x, w) : 1;

				for (int64_t k = 0; k < m->r; k++)
					sum += fabs((double)b[y * m->r + k] * (double)a[k * f.cols + x]);
				ck_assert(fabs((double)row[x] - other) <=
					  0x1p-24 * ((2 + (f.m ? (double)f.cols / 2 + 3 : 0)) * fabs((double)row[x]) + (double)(m->r + 2) * fabs(m->scale) * sum * fabs(by)) * 1.0001);
			}
		}
		fold_release(&f);
	}
	peft_release(&p);
	st_file_close(&peft);
	model_source_close(s);
}
END_TEST

START_TEST(dora_alone)
{
	for (int i = 0; i < 2; i++) {
		struct merged x = { .m = { .n_adapters = i ? 1 : 2 }, .weights = { i ? 0.5 : 1, 1 }, .names = { DATA "dora", DATA "two" } };
		struct model_sink *k = model_sink_dir(at("d"), true, 8192, &er);

		BAD(merge_to(&x, DATA "base", k, &er), LP_USAGE, "alone and with weight 1");
		model_sink_abort(k);
		merged_release(&x);
	}
}
END_TEST

/* The proof notices one wrong bit anywhere in the written files. */
START_TEST(proof_sees_a_wrong_bit)
{
	struct merged x = { .m = { .n_adapters = 1, .verify = VERIFY_OFF }, .weights = { 1 }, .names = { DATA "one" } };
	struct model_sink *k = model_sink_dir(at("w"), true, 8192, &er);
	const char *path;

	OK(merge_to(&x, DATA "base", k, &er));
	x.m.verify = VERIFY_FULL;
	OK(merge_prove(&x.m, k, &er));
	for (size_t i = 0; (path = model_sink_shard_path(k, i)); i++) {
		size_t n, data;
		char *bytes = get_file(path, &n), *name = xstrdup(path);

		data = 8 + (size_t)get_u64(bytes);
		for (size_t byte = data; byte < n; byte += 397) {
			bytes[byte] ^= 1;
			put_file(name, bytes, n);
			BAD(merge_prove(&x.m, k, &er), LP_IO, "read back");
			bytes[byte] ^= 1;
		}
		put_file(name, bytes, n);
		free(bytes);
		free(name);
	}
	OK(merge_prove(&x.m, k, &er));
	model_sink_abort(k);
	merged_release(&x);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("merge");
	TCase *c = tcase_create("all");
	int rc;

	scratch_open();
	tcase_set_timeout(c, 120);
	tcase_add_test(c, fast_equals_definition);
	tcase_add_test(c, one_rounding_only);
	tcase_add_test(c, overflow_and_nan);
	tcase_add_test(c, goldens);
	tcase_add_loop_test(c, near_peft, 0, 2);
	tcase_add_test(c, dora_alone);
	tcase_add_test(c, proof_sees_a_wrong_bit);
	suite_add_tcase(s, c);
	rc = run_tests(s);
	scratch_close();
	return rc;
}

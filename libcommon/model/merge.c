/* Merging a whole model in bounded memory: a few blocks of the tensor at hand
 * and the adapters. Hashing, folding and writing overlap as OpenMP tasks. */
#include "model/codes.h"
#include "model/merge.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "base/rng.h"
#include "base/xalloc.h"

#define BLOCK_BYTES ((size_t)8 << 20) /* of output, in flight twice */

static bool is_float(enum dtype t)
{
	return t == DT_F32 || t == DT_F16 || t == DT_BF16;
}

/* --- what is refused before anything is written --- */

/* "unsloth/llama-3-8b-bnb-4bit" was made from "unsloth/llama-3-8b". */
static int refuse_quantised(const struct merge *m, const char *why, struct err *e)
{
	static const char *const tails[] = { "-unsloth-bnb-4bit", "-bnb-4bit", "-4bit", "-bnb-8bit", "-AWQ", "-GPTQ" };
	const char *name = m->n_adapters ? m->adapters[0].base_name : "";
	size_t n = strlen(name);

	for (size_t i = 0; i < sizeof(tails) / sizeof(tails[0]); i++) {
		size_t k = strlen(tails[i]);

		if (n > k && !strcmp(name + n - k, tails[i]))
			return err_off(e, LP_USAGE, model_source_name(m->base), -1,
				       "the base is quantised (%s): its weights are lossy; merge into the 16-bit model it was made from, %.*s",
				       why, (int)(n - k), name);
	}
	return err_off(e, LP_USAGE, model_source_name(m->base), -1,
		       "the base is quantised (%s): its weights are lossy; merge into the 16-bit model it was made from", why);
}

static int check_base(const struct merge *m, bool *tied, struct err *e)
{
	const struct model_texts *t = model_source_texts(m->base);
	struct arena a = ARENA_INIT;
	struct json config;
	int rc = json_parse_str(t->config, &a, &config, e);

	if (rc)
		err_where(e, "config.json", 0);
	else if (json_is(json_get(&config, "quantization_config"), JSON_OBJ))
		rc = refuse_quantised(m, "config.json has a quantization_config", e);
	else if (!json_get_bool(&config, "tie_word_embeddings", false, tied))
		rc = err_off(e, LP_DATA, "config.json", -1, "tie_word_embeddings is not a boolean");
	arena_release(&a);
	for (size_t i = 0; i < model_source_count(m->base) && !rc; i++) {
		const struct tensor *x = model_source_at(m->base, i);

		if (strstr(x->name, ".absmax") || strstr(x->name, ".quant_map") || strstr(x->name, ".qweight"))
			rc = refuse_quantised(m, x->name, e);
		else if ((x->dtype == DT_U8 || x->dtype == DT_I8) && x->n_dims == 2)
			rc = refuse_quantised(m, x->name, e);
		else if (x->dtype == DT_F64 && m->to_given)
			rc = err_off(e, LP_DATA, model_source_name(m->base), -1, "tensor '%.200s' is F64, which is not converted", x->name);
	}
	return rc;
}

static const struct tensor *find(const struct model_source *s, const char *name)
{
	for (size_t i = 0; i < model_source_count(s); i++) /* a stream has no index by name */
		if (!strcmp(model_source_at(s, i)->name, name))
			return model_source_at(s, i);
	return NULL;
}

static int check_module(const struct merge *m, size_t adapter, const struct peft_module *x, bool tied, struct err *e)
{
	const char *path = m->names[adapter], *last = strrchr(x->path, '.') ? strrchr(x->path, '.') + 1 : x->path;
	char *name = xasprintf("%s.weight", x->path);
	const struct tensor *w = find(m->base, name);

	free(name);
	if (tied && (!strcmp(last, "lm_head") || !strcmp(last, "embed_tokens")))
		return err_off(e, LP_USAGE, path, -1, "the adapter changes '%.200s', which this model shares between embedding and head: "
			       "it cannot be merged without changing both; train without it", x->path);
	if (!w)
		return err_off(e, LP_USAGE, path, -1, "the adapter has module '%.200s', the model has no '%.200s.weight': it is of another base",
			       x->path, x->path);
	if (!is_float(w->dtype))
		return err_off(e, LP_USAGE, path, -1, "'%.200s.weight' is %s: merging needs F32, F16 or BF16", x->path, dtype_st_name(w->dtype));
	if (w->n_dims != 2 || x->b->shape[0] != w->shape[0] || x->a->shape[1] != w->shape[1]) {
		char shape[128];

		st_shape_text(w, shape, sizeof(shape));
		return err_off(e, LP_USAGE, path, -1, "module '%.200s' is (%" PRIu64 ", %" PRIu64 ") in the adapter, the model's is %s: "
			       "it is of another base", x->path, x->b->shape[0], x->a->shape[1], shape);
	}
	return 0;
}

/* A row's length is of the base and one adapter. */
static int check_magnitudes(const struct merge *m, struct err *e)
{
	for (size_t i = 0; i < m->n_adapters; i++)
		if (m->adapters[i].dora && (m->n_adapters > 1 || m->weights[i] != 1))
			return err_off(e, LP_USAGE, m->names[i], -1, "a DoRA adapter is merged alone and with weight 1: its magnitudes are of the base with nothing else");
	return 0;
}

int merge_check(struct merge *m, struct err *e)
{
	bool tied = false;

	if (check_base(m, &tied, e) || check_magnitudes(m, e))
		return -1;
	for (size_t i = 0; i < m->n_adapters; i++)
		for (size_t j = 0; j < m->adapters[i].n_modules; j++)
			if (check_module(m, i, &m->adapters[i].modules[j], tied, e))
				return -1;
	return 0;
}

int merge_identity(struct merge *m, struct err *e)
{
	if (model_source_identity(m->base, m->base_id, e))
		return -1;
	for (size_t i = 0; i < m->n_adapters; i++) {
		const struct peft *p = &m->adapters[i];
		char first[ARCH_NAME];
		int fits;

		if (!p->base_id || !strcmp(p->base_id, m->base_id))
			continue;
		/* the 16-bit model that the adapter's 4-bit base was made from */
		fits = p->codes && model_source_is_dir(m->base) ? codes_match(m->base, p->codes, first, e) : 0;
		if (fits < 0)
			return -1;
		if (fits)
			continue;
		if (!m->accept_base)
			return err_off(e, LP_USAGE, m->names[i], -1, "the adapter was trained on another base ('%s', %.19s..., and this one is %.19s...): give that, "
				       "or --accept-base to merge all the same", p->base_name, p->base_id, m->base_id);
		m->base_accepted = true;
	}
	return 0;
}

static enum dtype out_type(const struct merge *m, const struct tensor *t)
{
	return m->to_given && is_float(t->dtype) ? m->to : t->dtype;
}

struct tensor *merge_list(const struct merge *m, size_t *n)
{
	struct tensor *list;

	*n = model_source_count(m->base);
	list = xcalloc(*n + 1, sizeof(*list));
	for (size_t i = 0; i < *n; i++) {
		list[i] = *model_source_at(m->base, i);
		list[i].dtype = out_type(m, &list[i]);
		list[i].bytes = tensor_elems(&list[i]) * dtype_bytes(list[i].dtype);
		list[i].data = NULL;
	}
	return list;
}

/* --- one tensor --- */

/* The modules of all adapters that change t; none is common. */
static int load_fold(const struct merge *m, const struct tensor *t, struct fold *f, struct err *e)
{
	size_t n = strlen(t->name);
	static const char tail[] = ".weight";
	char *path;
	int rc = 0;

	memset(f, 0, sizeof(*f));
	if (n < sizeof(tail) || strcmp(t->name + n - (sizeof(tail) - 1), tail))
		return 0;
	path = xmemdup0(t->name, n - (sizeof(tail) - 1));
	for (size_t i = 0; i < m->n_adapters && !rc; i++) {
		const struct peft_module *x = peft_find(&m->adapters[i], path);

		if (x)
			rc = fold_add(f, t, x, m->weights[i], e);
	}
	if (rc)
		fold_release(f);
	free(path);
	return rc;
}

struct job { /* the tensor at hand, as rows; unfolded tensors are one-column rows */
	const struct tensor *t;
	const struct fold *f; /* NULL: convert or copy */
	enum dtype to;
	uint64_t rows, row_in, row_out; /* bytes of a row */
};

static struct job make_job(const struct merge *m, const struct tensor *t, const struct fold *f)
{
	struct job j = { .t = t, .f = f->n_terms ? f : NULL, .to = out_type(m, t) };
	uint64_t cols = j.f ? (uint64_t)f->cols : 1;

	j.rows = j.f ? (uint64_t)f->rows : tensor_elems(t);
	j.row_in = cols * dtype_bytes(t->dtype);
	j.row_out = cols * dtype_bytes(j.to);
	return j;
}

static void convert(const struct job *j, uint64_t first, uint64_t n, uint8_t *dst)
{
	enum { STEP = 1024 };
	float wide[STEP];

	for (uint64_t at = 0; at < n; at += STEP) {
		size_t k = n - at < STEP ? (size_t)(n - at) : STEP;

		to_f32(j->t->dtype, (const uint8_t *)j->t->data + (first + at) * j->row_in, wide, k);
		from_f32(j->to, wide, dst + at * j->row_out, k);
	}
}

/* Rows [first, first + n) into dst, which begins at row first. */
static void do_rows(const struct job *j, uint64_t first, uint64_t n, uint8_t *dst, struct fold_count *sum)
{
	struct fold_count c = { 0 };

	if (!j->f) {
		convert(j, first, n, dst);
		return;
	}
	fold_rows(j->f, (int64_t)first, (int64_t)n, (const uint8_t *)j->t->data + first * j->row_in, j->t->dtype, j->to, dst, &c);
#pragma omp critical(lp_merge_count)
	{
		sum->moved += c.moved;
		sum->lost += c.lost;
		sum->bad += c.bad;
	}
}

/* Starts tasks for a block of rows; the caller's taskgroup waits for them. */
static void spawn_block(const struct job *j, uint64_t first, uint64_t n, uint8_t *dst, struct fold_count *c)
{
	uint64_t step = n / 16 + 1;

	for (uint64_t at = 0; at < n; at += step) {
		uint64_t k = n - at < step ? n - at : step;
#pragma omp task firstprivate(at, k)
		do_rows(j, first + at, k, dst + at * j->row_out, c);
	}
}

/* A row that the proof looks at: first, last, and about one in 64 by a hash; all when full. */
static bool sampled(const struct merge *m, const struct job *j, uint64_t row)
{
	return m->verify == VERIFY_FULL || row == 0 || row + 1 == j->rows || rng_u64(0x6d65726765, rng_stream(j->t->name), row) >> 58 == 0;
}

/* Holds rows of got (beginning at row first) against the definition. */
static int prove_rows(struct merge *m, const struct job *j, uint64_t first, uint64_t n, const uint8_t *got, struct err *e)
{
	uint64_t proved = 0, wrong = UINT64_MAX;

#pragma omp parallel for schedule(dynamic, 16) reduction(+ : proved) reduction(min : wrong)
	for (uint64_t i = 0; i < n; i++) {
		uint8_t *want;

		if (!sampled(m, j, first + i))
			continue;
		want = xmalloc(j->row_out);
		fold_row_slow(j->f, (int64_t)(first + i), (const uint8_t *)j->t->data + (first + i) * j->row_in, j->t->dtype, j->to, want);
		if (memcmp(want, got + i * j->row_out, j->row_out) && first + i < wrong)
			wrong = first + i;
		free(want);
		proved += (uint64_t)j->f->cols;
	}
	m->verified += proved;
	if (wrong != UINT64_MAX)
		return err_set(e, LP_IO, "row %" PRIu64 " of '%.200s' is not what the merge gives when read back: nothing was kept; "
			       "check the memory and the disk of this machine", wrong, j->t->name);
	return 0;
}

static bool reads_back(const struct merge *m, struct model_sink *k)
{
	return model_source_is_dir(m->base) && model_sink_shard_path(k, 0);
}

/* Computes block after block, writing one while the next is made. */
static int write_blocks(struct merge *m, const struct job *j, uint8_t *buf[2], struct model_sink *k, struct err *e)
{
	uint64_t step = BLOCK_BYTES / j->row_out ? BLOCK_BYTES / j->row_out : 1, done = 0;
	bool prove = j->f && m->verify != VERIFY_OFF && !reads_back(m, k);
	int rc = 0;

#pragma omp taskgroup
	spawn_block(j, 0, j->rows < step ? j->rows : step, buf[0], &m->count);
	for (int b = 0; done < j->rows && !rc; b = !b) {
		uint64_t n = j->rows - done < step ? j->rows - done : step, next = done + n;

#pragma omp taskgroup
		{
			if (next < j->rows)
				spawn_block(j, next, j->rows - next < step ? j->rows - next : step, buf[!b], &m->count);
			if (prove)
				rc = prove_rows(m, j, done, n, buf[b], e);
			if (!rc)
				rc = model_sink_bytes(k, buf[b], n * j->row_out, e);
		}
		done = next;
	}
	return rc;
}

static size_t largest_row(const struct merge *m)
{
	size_t most = BLOCK_BYTES;

	for (size_t i = 0; i < model_source_count(m->base); i++) {
		const struct tensor *t = model_source_at(m->base, i);

		if (t->n_dims == 2 && t->shape[1] * 4 > most)
			most = t->shape[1] * 4;
	}
	return most;
}

/* PEFT saves the head's own weight along when the head is adapted: it must be this base's. */
static int check_copies(const struct merge *m, const struct tensor *t, struct err *e)
{
	for (size_t i = 0; i < m->n_adapters; i++) {
		const struct tensor *copy = peft_base_copy(&m->adapters[i], t->name);

		if (copy && (!st_same_shape(copy, t) || memcmp(copy->data, t->data, t->bytes)))
			return err_off(e, LP_USAGE, m->names[i], -1, "the adapter carries its own '%.200s', which is not the base's: "
				       "it was trained, resized or of another base", t->name);
	}
	return 0;
}

static int merge_tensor(struct merge *m, const struct tensor *t, size_t i, uint8_t *buf[2], struct model_sink *k, struct err *e)
{
	struct fold f;
	struct job j;
	int rc;

	if (check_copies(m, t, e) || load_fold(m, t, &f, e))
		return -1;
	j = make_job(m, t, &f);
#pragma omp task firstprivate(i)
	model_source_digest(m->base, i);
	if (!j.f && j.to == t->dtype)
		rc = model_sink_bytes(k, t->data, t->bytes, e);
	else
		rc = j.rows ? write_blocks(m, &j, buf, k, e) : model_sink_bytes(k, NULL, 0, e);
#pragma omp taskwait
	model_source_dropped(m->base, t);
	fold_release(&f);
	return rc;
}

static int merge_all(struct merge *m, struct model_sink *k, struct err *e)
{
	size_t room = largest_row(m), i = 0;
	uint8_t *buf[2] = { lp_try_alloc(room, 1, "merge block", e), NULL };
	struct tensor t;
	int rc = -1, got;

	buf[1] = buf[0] ? lp_try_alloc(room, 1, "merge block", e) : NULL;
	while (buf[1] && (got = model_source_next(m->base, &t, e)) >= 0) {
		if (!got) {
			rc = 0;
			break;
		}
		progress("merging %zu of %zu tensors", i + 1, model_source_count(m->base));
		if (merge_tensor(m, &t, i++, buf, k, e))
			break;
	}
	free(buf[0]);
	free(buf[1]);
	return rc;
}

/* --- the proof --- */

static const struct tensor *find_written(const struct st_file *files, size_t n, const char *name, size_t *hint)
{
	for (size_t i = 0; i < n; i++) { /* the list is in file order: nearly always the same file */
		size_t at = (*hint + i) % n;
		const struct tensor *t = st_find(&files[at].blob, name);

		if (t) {
			*hint = at;
			return t;
		}
	}
	return NULL;
}

static int prove_tensor(struct merge *m, const struct tensor *t, const struct tensor *w, struct err *e)
{
	struct fold f;
	struct job j;
	int rc = 0;

	if (load_fold(m, t, &f, e))
		return -1;
	j = make_job(m, t, &f);
	if (!w || w->bytes != j.rows * j.row_out || w->dtype != j.to)
		rc = err_set(e, LP_IO, "tensor '%.200s' is not in the output when it is read back", t->name);
	else if (j.f)
		rc = prove_rows(m, &j, 0, j.rows, w->data, e);
	else if (m->verify == VERIFY_FULL) {
		uint8_t *want = lp_try_alloc(w->bytes ? w->bytes : 1, 1, "tensor to compare", e);

		rc = want ? 0 : -1;
		if (want && j.to == t->dtype)
			memcpy(want, t->data, t->bytes);
		else if (want)
			convert(&j, 0, j.rows, want);
		if (want && memcmp(want, w->data, w->bytes))
			rc = err_set(e, LP_IO, "tensor '%.200s' is not what was written when it is read back", t->name);
		free(want);
		m->verified += j.rows;
	}
	fold_release(&f);
	model_source_dropped(m->base, t);
	return rc;
}

int merge_prove(struct merge *m, struct model_sink *k, struct err *e)
{
	struct st_file *files;
	size_t n = 0, open = 0, hint = 0;
	int rc = 0;

	while (model_sink_shard_path(k, n))
		n++;
	files = xcalloc(n, sizeof(*files));
	while (open < n && !(rc = st_file_open(&files[open], model_sink_shard_path(k, open), e)))
		open++;
	for (size_t i = 0; i < model_source_count(m->base) && !rc; i++) {
		const struct tensor *t = model_source_at(m->base, i);

		progress("checking %zu of %zu tensors", i + 1, model_source_count(m->base));
		rc = prove_tensor(m, t, find_written(files, n, t->name, &hint), e);
	}
	while (open)
		st_file_close(&files[--open]);
	free(files);
	return rc;
}

static int check_counts(const struct merge *m, struct err *e)
{
	if (m->count.bad)
		return err_set(e, LP_DATA, "%" PRIu64 " elements became infinite or NaN by the merge: use --dtype bfloat16 or float32", m->count.bad);
	if (!m->count.moved)
		return err_set(e, LP_USAGE, "the merge changes nothing: every product B A is zero; is the adapter trained?");
	if (m->count.moved == m->count.lost)
		return err_set(e, LP_USAGE, "the merge changes nothing: all %" PRIu64 " changed elements round back to the base's; use --dtype float32",
			       m->count.lost);
	return 0;
}

int merge_run(struct merge *m, struct model_sink *k, struct err *e)
{
	double start = now_seconds();
	int rc = -1;

#pragma omp parallel
#pragma omp single
	rc = merge_all(m, k, e);
	if (!rc)
		rc = model_sink_finish(k, e);
	m->seconds_fold = now_seconds() - start;
	if (!rc)
		rc = merge_identity(m, e);
	if (!rc)
		rc = check_counts(m, e);
	start = now_seconds();
	if (!rc && m->verify != VERIFY_OFF && reads_back(m, k))
		rc = merge_prove(m, k, e);
	m->seconds_verify = now_seconds() - start;
	return rc;
}

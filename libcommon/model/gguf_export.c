/* The export itself: plan, head, then every tensor once, in the source's order,
 * a batch of rows at a time. Rows are independent, so threads change nothing. */
#include "model/gguf_export.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/xalloc.h"
#include "model/gguf_plan.h"

/* Values a thread converts at a time, and encoded bytes between two writes (rows
 * are whole). Threads wait for one another once a batch. */
#define CHUNK_ELEMS (1 << 16)
#define BATCH_BYTES (1 << 23)

struct exporter {
	struct gguf_plan plan;
	struct gguf_writer w;
	struct model_source *s;
	struct out *o;
	uint8_t *batch;       /* encoded rows */
	size_t batch_bytes;
	struct gguf_report report;
	struct err *e;
};

/* Row r of a permuted matrix comes from here: within a head of d rows, the two
 * halves are dealt out in turn (0, d/2, 1, d/2 + 1, ...). */
static uint64_t source_row(const struct gguf_item *it, uint64_t rows, uint64_t r)
{
	uint64_t d, head, i;

	if (!it->heads)
		return r;
	d = rows / (uint64_t)it->heads;
	head = r / d;
	i = r % d;
	return head * d + (i & 1) * (d / 2) + i / 2;
}

/* What went wrong first, in the order of the source's elements. */
struct fault {
	int64_t at;     /* element of the source's tensor; -1 none */
	bool nonfinite; /* else the type cannot hold it */
};

static void note_fault(struct fault *f, uint64_t at, bool nonfinite)
{
#pragma omp critical(gguf_fault)
	if (f->at < 0 || (int64_t)at < f->at) {
		f->at = (int64_t)at;
		f->nonfinite = nonfinite;
	}
}

/* Rows [first, first + n) of it as blocks into dst; scratch holds n rows. A
 * permuted vector (a bias) has rows of one element. */
static void encode_rows(const struct gguf_item *it, const struct tensor *t, uint64_t first, uint64_t n, uint64_t rows,
                        uint64_t cols, float *scratch, uint8_t *dst, struct fault *f)
{
	uint64_t row_in = cols * dtype_bytes(t->dtype);
	const uint8_t *src = t->data;
	int64_t at;

	if (!it->heads)
		to_f32(t->dtype, src + first * row_in, scratch, n * cols);
	for (uint64_t r = 0; it->heads && r < n; r++)
		to_f32(t->dtype, src + source_row(it, rows, first + r) * row_in, scratch + r * cols, cols);
	at = quant_find_nonfinite(scratch, n * cols);
	if (at >= 0) {
		note_fault(f, source_row(it, rows, first + (uint64_t)at / cols) * cols + (uint64_t)at % cols, true);
		return;
	}
	at = quant_encode(it->type, scratch, dst, n * cols);
	if (at >= 0)
		note_fault(f, source_row(it, rows, first + (uint64_t)at / cols) * cols + (uint64_t)at % cols, false);
}

static int encode_batch(struct exporter *x, const struct gguf_item *it, const struct tensor *t, uint64_t first, uint64_t n,
                        uint64_t rows, uint64_t cols, uint64_t row_bytes, struct fault *f)
{
	uint64_t step = CHUNK_ELEMS / cols ? CHUNK_ELEMS / cols : 1;
	bool short_of_memory = false;

#pragma omp parallel if (n > step)
	{
		float *scratch = malloc(step * cols * sizeof(*scratch));

		if (!scratch)
#pragma omp atomic write
			short_of_memory = true;
#pragma omp for schedule(dynamic)
		for (uint64_t r = 0; r < n; r += step)
			if (scratch)
				encode_rows(it, t, first + r, r + step < n ? step : n - r, rows, cols, scratch, x->batch + r * row_bytes, f);
		free(scratch);
	}
	if (short_of_memory)
		return err_set(x->e, LP_DEVICE, "no memory for a row of tensor '%s' (%" PRIu64 " values)", t->name, cols);
	return 0;
}

static int refuse_fault(struct exporter *x, const struct gguf_item *it, const struct tensor *t, const struct fault *f)
{
	uint64_t cols = t->shape[t->n_dims - 1], row = (uint64_t)f->at / cols, col = (uint64_t)f->at % cols;

	if (f->nonfinite)
		return err_set(x->e, LP_DATA, "tensor '%s', element [%" PRIu64 ", %" PRIu64 "], is infinite or not a number; the checkpoint is broken",
		               t->name, row, col);
	return err_set(x->e, LP_DATA, "tensor '%s', element [%" PRIu64 ", %" PRIu64 "] or its block, is too large for %s; choose --type bf16 or f32",
	               t->name, row, col, quant_info(it->type)->name);
}

static int export_tensor(struct exporter *x, const struct gguf_item *it, const struct tensor *t)
{
	/* a permuted bias is rows of one element; other vectors are one row */
	bool narrow = it->heads && it->n_dims == 1;
	uint64_t cols = narrow ? 1 : it->dims[0], rows = narrow ? it->dims[0] : it->dims[1], n;
	uint64_t row_bytes = quant_row_bytes(it->type, cols), per_batch = BATCH_BYTES / row_bytes ? BATCH_BYTES / row_bytes : 1;
	struct fault f = { -1, false };

	if (per_batch > rows)
		per_batch = rows;
	if (per_batch * row_bytes > x->batch_bytes) {
		free(x->batch);
		x->batch_bytes = 0;
		x->batch = lp_try_alloc(per_batch, row_bytes, "encoded rows", x->e);
		if (!x->batch)
			return -1;
		x->batch_bytes = per_batch * row_bytes;
	}
	if (gguf_data_begin(&x->w, rows * row_bytes, x->e))
		return -1;
	for (uint64_t r = 0; r < rows; r += n) {
		n = r + per_batch < rows ? per_batch : rows - r;
		if (encode_batch(x, it, t, r, n, rows, cols, row_bytes, &f))
			return -1;
		if (f.at >= 0)
			return refuse_fault(x, it, t, &f);
		if (gguf_data(&x->w, x->o, x->batch, n * row_bytes, x->e))
			return -1;
	}
	x->report.by_type[it->type]++;
	return 0;
}

static int export_rope(struct exporter *x)
{
	uint64_t bytes = (uint64_t)x->plan.desc.head_dim / 2 * sizeof(float);

	if (!x->plan.rope_factors)
		return 0;
	x->report.by_type[QT_F32]++;
	return gguf_data_begin(&x->w, bytes, x->e) || gguf_data(&x->w, x->o, x->plan.rope_factors, bytes, x->e) ? -1 : 0;
}

static int export_data(struct exporter *x)
{
	struct tensor t;
	size_t i = 0;
	int rc;

	if (export_rope(x))
		return -1;
	while ((rc = model_source_next(x->s, &t, x->e)) == 1) {
		if (!x->plan.items[i].skip && export_tensor(x, &x->plan.items[i], &t))
			return -1;
		x->report.source_bytes += t.bytes;
		model_source_dropped(x->s, &t);
		i++;
	}
	return rc;
}

static int announce(struct exporter *x)
{
	uint64_t half = (uint64_t)x->plan.desc.head_dim / 2;

	if (x->plan.rope_factors && gguf_put_tensor(&x->w, "rope_freqs.weight", QT_F32, 1, &half, x->e))
		return -1;
	for (size_t i = 0; i < x->plan.n_items; i++) {
		const struct gguf_item *it = &x->plan.items[i];

		if (!it->skip && gguf_put_tensor(&x->w, it->name, it->type, it->n_dims, it->dims, x->e))
			return -1;
	}
	return 0;
}

/* The head is read back by the strict reader before anything is written, with
 * the size that the whole file will have. */
static int write_head(struct exporter *x)
{
	struct sb head = SB_INIT;
	struct gguf g;
	int rc;

	gguf_head(&x->w, &head);
	x->report.bytes = head.len + x->w.data_bytes;
	rc = gguf_parse(&g, sb_str(&head), head.len, x->report.bytes, out_name(x->o), x->e);
	if (!rc) {
		x->report.tensors = g.n_tensors;
		gguf_close(&g);
		rc = out_write(x->o, sb_str(&head), head.len, x->e);
	}
	sb_release(&head);
	return rc;
}

static int make_plan(struct exporter *x, const struct gguf_options *opt)
{
	struct gguf_plan *p = &x->plan;
	struct json config;
	char where[512];

	p->file_type = gguf_file_type(opt->type);
	if (!p->file_type)
		return err_set(x->e, LP_USAGE, "file type '%s' is none of %s", opt->type, GGUF_FILE_TYPES);
	snprintf(where, sizeof(where), "%s: config.json", model_source_name(x->s));
	if (json_parse_str(model_source_texts(x->s)->config, &p->arena, &config, x->e) || model_desc_read(&config, where, &p->desc, x->e))
		return err_where(x->e, where, 0);
	if (p->desc.bnb.on)
		return err_off(x->e, LP_DATA, where, -1, "the checkpoint is already quantised (quantization_config): its weights are lossy; give the 16-bit model that it was made from");
	p->family = gguf_family(&p->desc, x->e);
	if (!p->family || gguf_plan_tensors(p, x->s, x->e))
		return -1;
	gguf_plan_types(p);
	if (p->desc.rope == ROPE_LLAMA3) {
		p->rope_factors = arena_calloc(&p->arena, (size_t)p->desc.head_dim / 2, sizeof(float));
		gguf_rope_factors(&p->desc, p->rope_factors);
	}
	return 0;
}

/* general.name: the last part of what config.json calls the model. It does not
 * depend on where the model lies. */
static const char *model_name(struct exporter *x, const struct gguf_options *opt)
{
	struct json config;
	const char *name = NULL, *slash;

	if (opt->name)
		return opt->name;
	if (!json_parse_str(model_source_texts(x->s)->config, &x->plan.arena, &config, x->e) &&
	    json_get_str(&config, "_name_or_path", NULL, &name) && name) {
		slash = strrchr(name, '/');
		name = slash ? slash + 1 : name;
	}
	return name && *name ? name : x->plan.desc.family;
}

static int export_all(struct exporter *x, const struct gguf_options *opt)
{
	if (make_plan(x, opt))
		return -1;
	gguf_put_model(&x->w, &x->plan, model_name(x, opt));
	if (gguf_put_tokenizer(&x->w, model_source_texts(x->s), &x->plan.desc, opt->pre, x->e) || announce(x) || write_head(x) || export_data(x))
		return -1;
	if (x->w.tensor_left || x->w.written != x->w.data_bytes || out_bytes(x->o) != x->report.bytes)
		return err_set(x->e, LP_DATA, "wrote %" PRIu64 " bytes where the header says %" PRIu64 "; please report this", out_bytes(x->o),
		               x->report.bytes);
	return 0;
}

int gguf_export(struct model_source *s, const struct gguf_options *opt, struct out *o, struct gguf_report *r, struct err *e)
{
	struct exporter x = { .plan = { .arena = ARENA_INIT }, .w = GGUF_WRITER_INIT, .s = s, .o = o, .e = e };
	int rc = export_all(&x, opt);

	if (r) {
		*r = x.report;
		r->fallbacks = x.plan.fallbacks;
		r->window = x.plan.desc.window && x.plan.desc.window < x.plan.desc.max_pos ? x.plan.desc.window : 0;
	}
	free(x.batch);
	gguf_writer_release(&x.w);
	arena_release(&x.plan.arena);
	return rc;
}

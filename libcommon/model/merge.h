/* Merging adapters into a base: W' = round(W + sum_t c_t * (B_t A_t)).
 *
 * Exactly: with every number widened to fp64, s_t = ((0 + b_0 a_0) + b_1 a_1) + ...
 * over the rank in order (each product is exact: both factors come from 24 bits
 * or fewer), delta = ((0 + c_1 s_1) + c_2 s_2) + ..., and W' is the rounding of
 * the fp64 sum W + delta to the output type, nearest, ties to even, once. No
 * contraction, no other order: the same bits on every machine and thread count.
 * c_t is the adapter's scale (alpha / r) times its weight in the merge.
 *
 * A DoRA adapter, merged alone and with weight 1, has a magnitude m for each row:
 * W' = round((m / n) * (W + delta)), n the root of the sum of squares of W + delta
 * over the row, which is ((0 + l_0) + l_1) + ... of eight sums, l_i that of the
 * columns i, i + 8, ... in order. m / n is 0 where n is. All in fp64. */
#ifndef LP_MODEL_MERGE_H
#define LP_MODEL_MERGE_H

#include "base/sb.h"
#include "fmt/peft.h"
#include "model/source.h"

/* --- one matrix --- */
struct fold_term {
	double *a;    /* (r, cols) */
	double *b;    /* (rows, r) */
	int64_t r;
	double coef;
};
struct fold {
	int64_t rows, cols;
	double *m;    /* (rows) magnitudes, or NULL */
	struct fold_term *terms;
	size_t n_terms;
};
struct fold_count {
	uint64_t moved; /* elements whose delta is not zero, or with magnitudes that are not the base's */
	uint64_t lost;  /* of these: the output is what it would be without the delta */
	uint64_t bad;   /* infinite or NaN in the output, finite in the base */
};
/* w is (rows, cols); adds one module. Shape and finiteness are checked. */
int fold_add(struct fold *f, const struct tensor *w, const struct peft_module *m, double weight, struct err *e) LP_MUST_USE;
void fold_release(struct fold *f);
/* Rows [row, row + n): w and dst hold these rows, in types from and to (F32, F16, BF16). Adds to *c. */
void fold_rows(const struct fold *f, int64_t row, int64_t n, const void *w, enum dtype from, enum dtype to, void *dst, struct fold_count *c);
/* The definition, one row, element by element; equal bits. For the proof, and for tests. */
void fold_row_slow(const struct fold *f, int64_t row, const void *w, enum dtype from, enum dtype to, void *dst);

/* --- a whole model --- */
enum merge_verify { VERIFY_OFF, VERIFY_SAMPLE, VERIFY_FULL };
struct merge {
	struct model_source *base;
	struct peft *adapters;
	const double *weights;      /* of each adapter */
	const char *const *names;   /* of each adapter, for messages */
	size_t n_adapters;
	bool to_given;
	enum dtype to;              /* of every float tensor, when given; else each keeps its own */
	bool accept_base;           /* an identity other than the adapter's is recorded, not refused */
	enum merge_verify verify;

	/* Results. */
	char base_id[72];           /* known after merge_run, or merge_identity */
	bool base_accepted;         /* the identity differed, and accept_base was set */
	struct fold_count count;
	uint64_t verified;          /* elements proved, read back where that is possible */
	double seconds_fold, seconds_verify;
};
/* Before anything is written: every adapter fits this base. Refuses quantised
 * bases, tied weights, modules that the model lacks, other shapes. */
int merge_check(struct merge *m, struct err *e) LP_MUST_USE;
/* Hashes the base and holds it against the adapters. LP_USAGE when it is another. */
int merge_identity(struct merge *m, struct err *e) LP_MUST_USE;
/* The tensors of the merged model, described; the caller frees. */
struct tensor *merge_list(const struct merge *m, size_t *n);
/* Reads the finished sink's files back: sampled rows of every adapted matrix, or
 * with VERIFY_FULL every element, equal the definition. LP_IO when not. merge_run calls it. */
int merge_prove(struct merge *m, struct model_sink *k, struct err *e) LP_MUST_USE;
/* Writes all tensors into the sink, which is begun; finishes it, proves it, checks
 * the base's identity; does not commit. A merge that changes nothing is LP_USAGE. */
int merge_run(struct merge *m, struct model_sink *k, struct err *e) LP_MUST_USE;

/* --- what goes beside the weights; after merge_run --- */
/* README.md, a model card: base is its name for people. */
void merge_readme(const struct merge *m, const char *base, const char *version, struct sb *out);
/* lorapipe.json: the hashes of base and adapters, the counts, the lineage (JSON). */
void merge_manifest(const struct merge *m, const char *base, const char *lineage, struct sb *out);

#endif

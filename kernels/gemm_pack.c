/* Panels and blocks, after Goto and van de Geijn (Anatomy of High-Performance
 * Matrix Multiplication, 2008), but with panels that all threads share: a weight
 * is laid out once in a product, however many threads and rows there are. */
#include "kernels/gemm_pack.h"

#include <stdlib.h>
#include <string.h>

#include "base/compiler.h"
#include "base/xalloc.h"

#define STEP 512    /* of K: a panel of A this deep stays in the first cache */
#define ROOM_K 1024 /* of K at once, whole steps */
#define ROOM_N 2048 /* rows of A, columns of B at once, about */
#define A_PANELS 20 /* of a work item */
#define B_PANELS 6  /* these stay in the second cache */

/* c (mr, nr) = beta c + alpha a b; a (k, mr), b (k, nr) are panels. */
typedef void micro_fn(int64_t k, const float *a, const float *b, float *c, int64_t ldc, float alpha, float beta);

struct gemm_room {
	int mr, nr;
	micro_fn *micro;
	float *a, *b; /* panels: (ROOM_N / mr, k, mr), (ROOM_N / nr, k, nr) */
};

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
typedef float v4 __attribute__((vector_size(16), aligned(4), may_alias));
typedef int i4 __attribute__((vector_size(16)));
typedef float v8 __attribute__((vector_size(32), aligned(4), may_alias));
typedef float v16 __attribute__((vector_size(64), aligned(4), may_alias));

/* The sums stay in registers: MR x 2 of them, two of b, one of a. */
#define MICRO(name, isa, vec, lanes, MR)                                                                                  \
	__attribute__((target(isa))) LP_FUSED static void name(int64_t k, const float *a, const float *b, float *c, int64_t ldc, \
	                                                        float alpha, float beta)                                        \
	{                                                                                                                       \
		vec s[MR][2] = { 0 };                                                                                                 \
                                                                                                                          \
		for (int i = 0; i < (MR); i++) {                                                                                      \
			__builtin_prefetch(c + i * ldc, 1);                                                                                 \
			__builtin_prefetch(c + i * ldc + (lanes), 1);                                                                       \
		}                                                                                                                     \
                                                                                                                          \
		for (int64_t p = 0; p < k; p++, a += (MR), b += 2 * (lanes)) {                                                        \
			vec b0 = *(const vec *)b, b1 = *(const vec *)(b + (lanes));                                                         \
                                                                                                                          \
			_Pragma("GCC unroll 12") for (int i = 0; i < (MR); i++)                                                             \
			{                                                                                                                   \
				s[i][0] += a[i] * b0;                                                                                             \
				s[i][1] += a[i] * b1;                                                                                             \
			}                                                                                                                   \
		}                                                                                                                     \
		_Pragma("GCC unroll 12") for (int i = 0; i < (MR); i++)                                                               \
		{                                                                                                                     \
			vec *c0 = (vec *)(c + i * ldc), *c1 = (vec *)(c + i * ldc + (lanes));                                               \
                                                                                                                          \
			*c0 = beta != 0 ? beta * *c0 + alpha * s[i][0] : alpha * s[i][0];                                                   \
			*c1 = beta != 0 ? beta * *c1 + alpha * s[i][1] : alpha * s[i][1];                                                   \
		}                                                                                                                     \
	}
MICRO(micro_avx512, "avx512f,fma", v16, 16, 12)
MICRO(micro_avx2, "avx2,fma", v8, 8, 6)

/* to (4 rows w apart) <- four rows of x, ld apart, turned: to[l * w + i] = x[i * ld + l]. */
static inline void turn4(float *to, int w, const float *x, int64_t ld)
{
	v4 a = *(const v4 *)x, b = *(const v4 *)(x + ld), c = *(const v4 *)(x + 2 * ld), d = *(const v4 *)(x + 3 * ld);
	v4 ac = __builtin_shuffle(a, c, (i4){ 0, 4, 1, 5 }), bd = __builtin_shuffle(b, d, (i4){ 0, 4, 1, 5 });
	v4 ac2 = __builtin_shuffle(a, c, (i4){ 2, 6, 3, 7 }), bd2 = __builtin_shuffle(b, d, (i4){ 2, 6, 3, 7 });

	*(v4 *)to = __builtin_shuffle(ac, bd, (i4){ 0, 4, 1, 5 });
	*(v4 *)(to + w) = __builtin_shuffle(ac, bd, (i4){ 2, 6, 3, 7 });
	*(v4 *)(to + 2 * w) = __builtin_shuffle(ac2, bd2, (i4){ 0, 4, 1, 5 });
	*(v4 *)(to + 3 * w) = __builtin_shuffle(ac2, bd2, (i4){ 2, 6, 3, 7 });
}

static bool choose(struct gemm_room *r, int lanes)
{
	__builtin_cpu_init();
	if (lanes >= 16 && __builtin_cpu_supports("avx512f"))
		*r = (struct gemm_room){ .mr = 12, .nr = 32, .micro = micro_avx512 };
	else if (lanes >= 8 && __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
		*r = (struct gemm_room){ .mr = 6, .nr = 16, .micro = micro_avx2 };
	return r->micro != NULL;
}
#else
static inline void turn4(float *to, int w, const float *x, int64_t ld)
{
	for (int i = 0; i < 4; i++)
		for (int l = 0; l < 4; l++)
			to[l * w + i] = x[i * ld + l];
}

static bool choose(struct gemm_room *r, int lanes)
{
	(void)r;
	(void)lanes;
	return false;
}
#endif

int gemm_room_new(int lanes, struct gemm_room **out, struct err *e)
{
	struct gemm_room *r = lp_try_alloc(1, sizeof(*r), "products", e);

	*out = NULL;
	if (!r)
		return -1;
	memset(r, 0, sizeof(*r));
	if (!choose(r, lanes)) {
		free(r);
		return 0;
	}
	r->a = aligned_alloc(64, (size_t)ROOM_N * ROOM_K * sizeof(float));
	r->b = aligned_alloc(64, (size_t)ROOM_N * ROOM_K * sizeof(float));
	if (!r->a || !r->b) {
		gemm_room_free(r);
		return err_set(e, LP_DEVICE, "out of memory for products");
	}
	*out = r;
	return 0;
}

void gemm_room_free(struct gemm_room *r)
{
	if (!r)
		return;
	free(r->a);
	free(r->b);
	free(r);
}

float *gemm_room_scratch(struct gemm_room *r, int64_t *floats)
{
	*floats = r ? (int64_t)ROOM_N * ROOM_K : 0;
	return r ? r->b : NULL;
}

/* One operand: element (i, l) of its n x k is x[i * ld + l], or x[l * ld + i] when across. */
struct operand {
	const float *x;
	int64_t ld, n;
	bool across;
	int w; /* of a panel */
	float *panels;
};

static int64_t n_panels(const struct operand *o)
{
	return (o->n + o->w - 1) / o->w;
}

/* n rows of x become n columns of to, w wide; k long. By pieces, so that what is written stays near. */
static void turn(float *to, int w, const float *x, int64_t ld, int64_t n, int64_t k)
{
	for (int64_t l0 = 0; l0 < k; l0 += 64) {
		int64_t l1 = l0 + 64 < k ? l0 + 64 : k, i = 0;

		for (; i + 4 <= n; i += 4) {
			int64_t l = l0;

			for (; l + 4 <= l1; l += 4)
				turn4(to + l * w + i, w, x + i * ld + l, ld);
			for (; l < l1; l++)
				for (int64_t j = i; j < i + 4; j++)
					to[l * w + j] = x[j * ld + l];
		}
		for (; i < n; i++)
			for (int64_t l = l0; l < l1; l++)
				to[l * w + i] = x[i * ld + l];
	}
}

/* Panel p: for each l the w elements (p w .., l), zeros past the last. */
static void pack(const struct operand *o, int64_t p, int64_t k)
{
	int64_t first = p * o->w, n = o->n - first < o->w ? o->n - first : o->w;
	float *to = o->panels + first * k;
	const float *x = o->across ? o->x + first : o->x + first * o->ld;

	if (n < o->w)
		memset(to, 0, (size_t)(k * o->w) * sizeof(*to));
	if (!o->across)
		turn(to, o->w, x, o->ld, n, k);
	else if (n == 32) /* sizes that the compiler knows */
		for (int64_t l = 0; l < k; l++)
			memcpy(to + l * 32, x + l * o->ld, 32 * sizeof(*to));
	else if (n == 16)
		for (int64_t l = 0; l < k; l++)
			memcpy(to + l * o->w, x + l * o->ld, 16 * sizeof(*to));
	else
		for (int64_t l = 0; l < k; l++)
			for (int64_t i = 0; i < n; i++)
				to[l * o->w + i] = x[l * o->ld + i];
}

/* A block at the edge of C is computed beside it, by the same operations. */
static void edge(const struct gemm_room *r, int64_t k, const float *a, const float *b, float *c, int64_t ldc, int64_t m, int64_t n,
                 float alpha, float beta)
{
	float t[12 * 32] = { 0 };

	for (int64_t i = 0; i < m && beta != 0; i++)
		memcpy(t + i * r->nr, c + i * ldc, (size_t)n * sizeof(*t));
	r->micro(k, a, b, t, r->nr, alpha, beta);
	for (int64_t i = 0; i < m; i++)
		memcpy(c + i * ldc, t + i * r->nr, (size_t)n * sizeof(*t));
}

struct product {
	struct operand a, b;
	int64_t k, ldc;
	float alpha, beta, *c;
};

/* Panels [i0, i1) of A with [j0, j1) of B. */
static void block(const struct gemm_room *r, const struct product *x, int64_t i0, int64_t i1, int64_t j0, int64_t j1)
{
	for (int64_t l = 0; l < x->k; l += STEP) {
		int64_t k = x->k - l < STEP ? x->k - l : STEP;
		float beta = l ? 1 : x->beta;

		for (int64_t i = i0; i < i1; i++)
			for (int64_t j = j0; j < j1; j++) {
				int64_t m = x->a.n - i * r->mr, n = x->b.n - j * r->nr;
				const float *a = r->a + (i * x->k + l) * r->mr, *b = r->b + (j * x->k + l) * r->nr;
				float *c = x->c + i * r->mr * x->ldc + j * r->nr;

				if (m < r->mr || n < r->nr)
					edge(r, k, a, b, c, x->ldc, m < r->mr ? m : r->mr, n < r->nr ? n : r->nr, x->alpha, beta);
				else
					r->micro(k, a, b, c, x->ldc, x->alpha, beta);
			}
	}
}

/* What fits the room at once. */
static void part(const struct gemm_room *r, int threads, const struct product *x, bool new_b)
{
	int64_t na = n_panels(&x->a), nb = n_panels(&x->b), items_a = (na + A_PANELS - 1) / A_PANELS, items_b = (nb + B_PANELS - 1) / B_PANELS;

#pragma omp parallel num_threads(threads)
	{
#pragma omp for schedule(dynamic, 4)
		for (int64_t p = new_b ? -nb : 0; p < na; p++)
			pack(p < 0 ? &x->b : &x->a, p < 0 ? p + nb : p, x->k);
#pragma omp for schedule(dynamic)
		for (int64_t t = 0; t < items_a * items_b; t++) {
			int64_t i = t % items_a, j = t / items_a;

			block(r, x, na * i / items_a, na * (i + 1) / items_a, nb * j / items_b, nb * (j + 1) / items_b);
		}
	}
}

static int64_t at_most(int64_t n, int64_t most)
{
	return n < most ? n : most;
}

bool kn_gemm_packed(struct gemm_room *r, int threads, bool ta, bool tb, int64_t m, int64_t n, int64_t k, float alpha, const float *a,
                    int64_t lda, const float *b, int64_t ldb, float beta, float *c, int64_t ldc)
{
	struct product x = { .ldc = ldc, .alpha = alpha };
	int64_t rows, cols;

	if (!r || m < 48 || n < 48 || k < 16)
		return false;
	rows = ROOM_N / r->mr * r->mr;
	cols = ROOM_N / r->nr * r->nr;
	for (int64_t l = 0; l < k; l += ROOM_K) {
		x.k = at_most(k - l, ROOM_K);
		x.beta = l ? 1 : beta;
		for (int64_t j = 0; j < n; j += cols) {
			x.b = (struct operand){ tb ? b + j * ldb + l : b + l * ldb + j, ldb, at_most(n - j, cols), !tb, r->nr, r->b };
			for (int64_t i = 0; i < m; i += rows) {
				x.a = (struct operand){ ta ? a + l * lda + i : a + i * lda + l, lda, at_most(m - i, rows), ta, r->mr, r->a };
				x.c = c + i * ldc + j;
				part(r, threads, &x, i == 0);
			}
		}
	}
	return true;
}

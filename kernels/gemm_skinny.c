#include "kernels/gemm_skinny.h"

#include "base/compiler.h"

#define COLS 16 /* of a block of C */
#define ITEM 96 /* rows or columns of a work item, whole blocks of either */

/* c (rows, 16) = beta c + alpha sum_l a[i * ai + l * al] b[l * ldb ..]. */
struct strip {
	int64_t k;
	const float *a;
	int64_t ai, al;
	const float *b;
	int64_t ldb;
	float alpha, beta;
	int64_t ldc;
};
typedef void strip_fn(const struct strip *s, int64_t i, float *c);

struct kernel {
	int rows, some_rows;
	strip_fn *many, *some, *one;
};

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
typedef float v8 __attribute__((vector_size(32), aligned(4), may_alias));
typedef float v16 __attribute__((vector_size(64), aligned(4), may_alias));

/* MR rows from i on; the sums stay in registers. */
#define STRIP(name, isa, vec, MR)                                                                                \
	__attribute__((target(isa))) LP_FUSED static void name(const struct strip *s, int64_t i, float *c)               \
	{                                                                                                                \
		enum { NV = COLS * (int)sizeof(float) / (int)sizeof(vec) };                                                    \
		const float *a = s->a + i * s->ai, *b = s->b;                                                                  \
		vec t[MR][NV] = { 0 };                                                                                         \
                                                                                                                   \
		for (int64_t l = 0; l < s->k; l++, a += s->al, b += s->ldb) {                                                  \
			_Pragma("GCC unroll 12") for (int r = 0; r < (MR); r++)                                                      \
				_Pragma("GCC unroll 2") for (int v = 0; v < NV; v++)                                                       \
					t[r][v] += a[r * s->ai] * ((const vec *)b)[v];                                                           \
		}                                                                                                              \
		_Pragma("GCC unroll 12") for (int r = 0; r < (MR); r++)                                                        \
			_Pragma("GCC unroll 2") for (int v = 0; v < NV; v++)                                                         \
			{                                                                                                            \
				vec *to = (vec *)(c + (i + r) * s->ldc) + v;                                                               \
                                                                                                                   \
				*to = s->beta != 0 ? s->beta * *to + s->alpha * t[r][v] : s->alpha * t[r][v];                              \
			}                                                                                                            \
	}
STRIP(strip12_avx512, "avx512f,fma", v16, 12)
STRIP(strip4_avx512, "avx512f,fma", v16, 4)
STRIP(strip1_avx512, "avx512f,fma", v16, 1)
STRIP(strip6_avx2, "avx2,fma", v8, 6)
STRIP(strip2_avx2, "avx2,fma", v8, 2)
STRIP(strip1_avx2, "avx2,fma", v8, 1)

static bool choose(struct kernel *x)
{
	__builtin_cpu_init();
	if (__builtin_cpu_supports("avx512f"))
		*x = (struct kernel){ 12, 4, strip12_avx512, strip4_avx512, strip1_avx512 };
	else if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
		*x = (struct kernel){ 6, 2, strip6_avx2, strip2_avx2, strip1_avx2 };
	else
		return false;
	return true;
}
#else
static bool choose(struct kernel *x)
{
	(void)x;
	return false;
}
#endif

static void rows(const struct kernel *x, const struct strip *s, int64_t i, int64_t end, float *c)
{
	for (; i + x->rows <= end; i += x->rows)
		x->many(s, i, c);
	for (; i + x->some_rows <= end; i += x->some_rows)
		x->some(s, i, c);
	for (; i < end; i++)
		x->one(s, i, c);
}

/* B as (k, n) without gaps: every row of C walks over it, and rows far apart would share a few places of the cache. */
static void gather(float *to, const float *b, int64_t ldb, bool tb, int64_t n, int64_t k)
{
	for (int64_t l = 0; l < k; l++)
		for (int64_t j = 0; j < n; j++)
			to[l * n + j] = tb ? b[j * ldb + l] : b[l * ldb + j];
}

bool kn_gemm_skinny(int threads, bool ta, bool tb, int64_t m, int64_t n, int64_t k, float alpha, const float *a, int64_t lda,
                    const float *b, int64_t ldb, float beta, float *c, int64_t ldc, float *room, int64_t room_floats)
{
	struct strip s = { k, a, ta ? 1 : lda, ta ? lda : 1, b, ldb, alpha, beta, ldc };
	bool narrow = (n == COLS || n == 2 * COLS) && k * n <= room_floats, flat = m <= 96 && ta && !tb && n % COLS == 0;
	int64_t items_i = (m + ITEM - 1) / ITEM, items_j = (n + ITEM - 1) / ITEM;
	struct kernel x;

	if (k < 16 || m * n * k < 65536 || (!narrow && !flat) || !choose(&x))
		return false;
	if (narrow) {
		gather(room, b, ldb, tb, n, k);
		s.b = room;
		s.ldb = n;
	}
#pragma omp parallel for schedule(dynamic) num_threads(threads)
	for (int64_t t = 0; t < items_i * items_j; t++) {
		int64_t i = t % items_i * ITEM, j = t / items_i * ITEM, i1 = i + ITEM < m ? i + ITEM : m, j1 = j + ITEM < n ? j + ITEM : n;

		for (; j < j1; j += COLS) {
			struct strip mine = s;

			mine.b += j;
			rows(&x, &mine, i, i1, c + j);
		}
	}
	return true;
}

/* The orthogonal iteration, all of it queued: two products for each turn, and rows made orthonormal by a Cholesky factor. */
#include "kernels/cuda.cuh"

#define THREADS 256

enum { TURNS = 8 };

struct parts { /* of scratch */
	void *y;      /* (longer side, r) or (r, longer side) activations */
	float *z;     /* (r, k) */
	double *gram; /* (r, r), then its lower factor */
};

/* As kn_basis_scratch_cuda counts it. */
static void place(struct parts *s, char *at, int64_t rows, int64_t cols, int64_t r)
{
	int64_t k = rows < cols ? rows : cols, most = rows < cols ? cols : rows;
	uint64_t y = ((uint64_t)(most * r) * sizeof(act_t) + 255) / 256 * 256, z = ((uint64_t)(k * r) * sizeof(float) + 255) / 256 * 256;

	s->y = at;
	s->z = (float *)(at + y);
	s->gram = (double *)(at + y + z);
}

/* gram[i][j], j <= i: a block a pair of rows. */
static __global__ void __launch_bounds__(THREADS) gram_kernel(const float *z, double *gram, int64_t r, int64_t k)
{
	__shared__ double shared[33];
	int64_t i = blockIdx.x, j = blockIdx.y;
	double s = 0;

	if (j > i)
		return;
	for (int64_t c = threadIdx.x; c < k; c += THREADS)
		s += (double)z[i * k + c] * (double)z[j * k + c];
	s = block_sum(s, shared);
	if (threadIdx.x == 0)
		gram[i * r + j] = s;
}

/* The lower factor in place, by one block. A row that lies in the span of those above it gets a 0 on the diagonal. */
static __global__ void __launch_bounds__(1024) cholesky_kernel(double *a, int64_t r)
{
	__shared__ double pivot, least;

	if (threadIdx.x == 0) {
		double most = 0;

		for (int64_t i = 0; i < r; i++)
			most = fmax(most, a[i * r + i]);
		least = most * 1e-13;
	}
	for (int64_t j = 0; j < r; j++) {
		__syncthreads();
		if (threadIdx.x == 0) {
			pivot = a[j * r + j] > least ? sqrt(a[j * r + j]) : 0;
			a[j * r + j] = pivot;
		}
		__syncthreads();
		for (int64_t i = j + 1 + threadIdx.x; i < r; i += blockDim.x)
			a[i * r + j] = pivot > 0 ? a[i * r + j] / pivot : 0;
		__syncthreads();
		for (int64_t t = threadIdx.x; t < (r - j - 1) * (r - j - 1); t += blockDim.x) {
			int64_t i = j + 1 + t / (r - j - 1), c = j + 1 + t % (r - j - 1);

			if (c <= i)
				a[i * r + c] -= a[i * r + j] * a[c * r + j];
		}
	}
}

/* p = L^-1 z, a thread a column: z is solved in place, row by row. */
static __global__ void __launch_bounds__(THREADS) solve_kernel(act_t *p, float *z, const double *l, int64_t r, int64_t k)
{
	int64_t c = (int64_t)blockIdx.x * THREADS + threadIdx.x;

	if (c >= k)
		return;
	for (int64_t i = 0; i < r; i++) {
		double s = (double)z[i * k + c], diagonal = l[i * r + i];

		for (int64_t j = 0; j < i; j++)
			s -= l[i * r + j] * (double)z[j * k + c];
		s = diagonal > 0 ? s / diagonal : 0;
		z[i * k + c] = (float)s;
		p[i * k + c] = act_down((float)s);
	}
}

/* Uniform numbers, by a mixed counter. */
static __global__ void __launch_bounds__(THREADS) start_kernel(act_t *p, int64_t n, uint64_t seed)
{
	int64_t i = (int64_t)blockIdx.x * THREADS + threadIdx.x;
	uint64_t x = seed + 0x9e3779b97f4a7c15ULL * (uint64_t)(i + 1);

	if (i >= n)
		return;
	x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9ULL;
	x = (x ^ x >> 27) * 0x94d049bb133111ebULL;
	p[i] = act_down((float)((x ^ x >> 31) >> 40) * 0x1p-24f - 0.5f);
}

static void turn(struct device *d, act_t *p, const void *g, int64_t rows, int64_t cols, int64_t r, const struct parts *s)
{
	cudaStream_t st = cuda_of(d)->stream;
	int64_t k = rows < cols ? rows : cols;

	if (rows >= cols) {
		kn_gemm_cuda(d, false, true, rows, r, cols, 1, g, cols, p, cols, 0, NULL, s->y, r, false);
		kn_gemm_cuda(d, true, false, r, cols, rows, 1, s->y, r, g, cols, 0, NULL, s->z, cols, true);
	} else {
		kn_gemm_cuda(d, false, false, r, cols, rows, 1, p, rows, g, cols, 0, NULL, s->y, cols, false);
		kn_gemm_cuda(d, false, true, r, rows, cols, 1, s->y, cols, g, cols, 0, NULL, s->z, rows, true);
	}
	gram_kernel<<<dim3((unsigned)r, (unsigned)r), THREADS, 0, st>>>(s->z, s->gram, r, k);
	cholesky_kernel<<<1, 1024, 0, st>>>(s->gram, r);
	solve_kernel<<<(unsigned)((k + THREADS - 1) / THREADS), THREADS, 0, st>>>(p, s->z, s->gram, r, k);
	cuda_launched(d, "basis");
}

void kn_basis_cuda(struct device *d, void *p, const void *g, int64_t rows, int64_t cols, int64_t r, uint64_t seed, void *scratch)
{
	int64_t n = r * (rows < cols ? rows : cols);
	struct parts s;

	place(&s, (char *)scratch, rows, cols, r);
	start_kernel<<<(unsigned)((n + THREADS - 1) / THREADS), THREADS, 0, cuda_of(d)->stream>>>((act_t *)p, n, seed);
	for (int i = 0; i < TURNS; i++)
		turn(d, (act_t *)p, g, rows, cols, r, &s);
}

/* --- the update --- */

static __global__ void __launch_bounds__(THREADS) add_update_kernel(void *p, int16_t *rest, const float *u, int64_t n, float scale, float keep, const double *squares, const double *loss,
                                                                    const int32_t *refused)
{
	int64_t i = (int64_t)blockIdx.x * THREADS + threadIdx.x;
	uint16_t *w = (uint16_t *)p;
	float x;

	if (i >= n || (squares && !(isfinite(*squares) && (!loss || isfinite(*loss)) && !(refused && *refused))))
		return;
	x = rest ? __uint_as_float(((uint32_t)w[i] << 16) + (uint32_t)(int32_t)rest[i]) : ((const float *)p)[i];
	x = __fmul_rn(__fadd_rn(x, __fmul_rn(scale, u[i])), keep);
	if (!rest) {
		((float *)p)[i] = x;
		return;
	}
	w[i] = (uint16_t)((__float_as_uint(x) + 0x8000u) >> 16);
	rest[i] = (int16_t)(uint16_t)__float_as_uint(x);
}

void kn_add_update_cuda(struct device *d, void *p, int16_t *rest, const float *u, int64_t n, float scale, float keep, const struct kn_adam *a)
{
	if (n)
		add_update_kernel<<<(unsigned)((n + THREADS - 1) / THREADS), THREADS, 0, cuda_of(d)->stream>>>(p, rest, u, n, scale, keep, a->squares, a->loss, a->refused);
	cuda_launched(d, "add_update");
}

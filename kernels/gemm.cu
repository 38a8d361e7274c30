/* Products by cuBLASLt: activations or e4m3 in, fp32 sums, activations or fp32 out. Row-major C is
 * column-major C^T = op(B)^T op(A)^T. The library's first choice for a shape fixes the
 * bits; it never sums by atomics. For large products the first call times the other
 * candidates, and takes the fastest of those that give the same bits as the first on
 * the matrices at hand: how C is cut into tiles changes no sum over K. */
#include "kernels/cuda.cuh"

#include <cublasLt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define WORKSPACE (32 << 20)
#define SLOTS 2048 /* a power of two */
#define CANDIDATES 8
#define LARGE 1e10  /* multiply-adds from which trying pays */
#define CHOICES 256
#define FP8 16u     /* of a key's flags */

struct gemm_key {
	int64_t m, n, k, lda, ldb, ldc;
	uint32_t flags; /* ta, tb, f32_c, beta != 0, fp8, alignments of a, b, c as exponents */
	uint32_t used;
};

struct gemm_plan {
	struct gemm_key key;
	cublasLtMatmulDesc_t op;
	cublasLtMatrixLayout_t a, b, c;
	cublasLtMatmulAlgo_t algo;
	bool untried; /* the other candidates */
};

/* What was found fastest, for products whose m lies in one bucket of 512. */
struct gemm_choice {
	struct gemm_key key; /* m: the bucket's end */
	cublasLtMatmulAlgo_t algo;
};

struct gemm_call {
	const void *a, *b, *c0;
	void *c;
	float alpha, beta;
	const float *scale_a, *scale_b; /* fp8: of rows of a and of b */
};

struct gemm_state {
	cublasLtHandle_t lt;
	struct gemm_choice *choices; /* (CHOICES) */
	int n_choices;
	unsigned long long *sum;     /* checksum of a result, device memory */
	cudaEvent_t from, to;
	void *workspace;
	struct gemm_plan *plans; /* (SLOTS), open addressing */
	int n_plans;
};

static int lt_fail(struct err *e, cublasStatus_t s)
{
	e->code = LP_DEVICE;
	snprintf(e->msg, sizeof(e->msg), "cuBLASLt: %s", cublasLtGetStatusString(s));
	return -1;
}

int gemm_open(struct device *d, struct err *e)
{
	struct gemm_state *g = (struct gemm_state *)calloc(1, sizeof(*g));
	cublasStatus_t s;

	if (!g)
		return lt_fail(e, CUBLAS_STATUS_ALLOC_FAILED);
	cuda_of(d)->gemm = g;
	g->plans = (struct gemm_plan *)calloc(SLOTS, sizeof(*g->plans));
	s = g->plans ? cublasLtCreate(&g->lt) : CUBLAS_STATUS_ALLOC_FAILED;
	g->choices = (struct gemm_choice *)calloc(CHOICES, sizeof(*g->choices));
	if (s == CUBLAS_STATUS_SUCCESS && (!g->choices || cudaMalloc(&g->workspace, WORKSPACE) != cudaSuccess || cudaMalloc((void **)&g->sum, 8) != cudaSuccess ||
	                                   cudaEventCreate(&g->from) != cudaSuccess || cudaEventCreate(&g->to) != cudaSuccess))
		s = CUBLAS_STATUS_ALLOC_FAILED;
	return s == CUBLAS_STATUS_SUCCESS ? 0 : lt_fail(e, s);
}

static void drop(struct gemm_plan *p)
{
	if (!p->key.used)
		return;
	cublasLtMatmulDescDestroy(p->op);
	cublasLtMatrixLayoutDestroy(p->a);
	cublasLtMatrixLayoutDestroy(p->b);
	cublasLtMatrixLayoutDestroy(p->c);
	memset(p, 0, sizeof(*p));
}

void gemm_close(struct device *d)
{
	struct gemm_state *g = cuda_of(d)->gemm;

	if (!g)
		return;
	for (int i = 0; g->plans && i < SLOTS; i++)
		drop(&g->plans[i]);
	free(g->plans);
	free(g->choices);
	if (g->from)
		cudaEventDestroy(g->from);
	if (g->to)
		cudaEventDestroy(g->to);
	cudaFree(g->sum);
	cudaFree(g->workspace);
	if (g->lt)
		cublasLtDestroy(g->lt);
	free(g);
	cuda_of(d)->gemm = NULL;
}

/* The largest power of two up to 16 bytes that divides both, as an exponent. No more than that: every buffer has it, so
 * that where the plan puts a buffer does not choose the algorithm. */
static uint32_t alignment(const void *p, int64_t ld, int64_t size)
{
	uint64_t x = (uint64_t)(uintptr_t)p | (uint64_t)(ld * size);
	uint32_t a = 0;

	while (a < 4 && !(x >> a & 1))
		a++;
	return a;
}

static uint64_t hash(const struct gemm_key *k)
{
	const int64_t v[7] = { k->m, k->n, k->k, k->lda, k->ldb, k->ldc, k->flags };
	uint64_t h = 0x9e3779b97f4a7c15ULL;

	for (int i = 0; i < 7; i++)
		h = (h ^ (uint64_t)v[i]) * 0xff51afd7ed558ccdULL, h ^= h >> 32;
	return h;
}

static bool same(const struct gemm_key *a, const struct gemm_key *b)
{
	return a->m == b->m && a->n == b->n && a->k == b->k && a->lda == b->lda && a->ldb == b->ldb && a->ldc == b->ldc && a->flags == b->flags;
}

static cublasStatus_t set_layout(cublasLtMatrixLayout_t *l, cudaDataType_t t, int64_t rows, int64_t cols, int64_t ld)
{
	return cublasLtMatrixLayoutCreate(l, t, (uint64_t)rows, (uint64_t)cols, ld);
}

/* The library's candidates for p, best guess first. */
static cublasStatus_t candidates(struct gemm_state *g, const struct gemm_plan *p, cublasLtMatmulHeuristicResult_t *found, int most, int *n)
{
	const struct gemm_key *k = &p->key;
	/* split sums are folded in fp32 through the workspace: neither in place by atomics, nor rounded to 16 bits on the way */
	uint32_t schemes = CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE;
	uint32_t al[3] = { 1u << (k->flags >> 8 & 15), 1u << (k->flags >> 12 & 15), 1u << (k->flags >> 16 & 15) };
	uint64_t room = WORKSPACE;
	cublasLtMatmulPreference_t pref;
	cublasStatus_t s = cublasLtMatmulPreferenceCreate(&pref);

	if (s != CUBLAS_STATUS_SUCCESS)
		return s;
	cublasLtMatmulPreferenceSetAttribute(pref, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &room, sizeof(room));
	cublasLtMatmulPreferenceSetAttribute(pref, CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, &schemes, sizeof(schemes));
	/* cuBLASLt's A is our B */
	cublasLtMatmulPreferenceSetAttribute(pref, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, &al[1], sizeof(al[1]));
	cublasLtMatmulPreferenceSetAttribute(pref, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, &al[0], sizeof(al[0]));
	cublasLtMatmulPreferenceSetAttribute(pref, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, &al[2], sizeof(al[2]));
	cublasLtMatmulPreferenceSetAttribute(pref, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, &al[2], sizeof(al[2]));
	s = cublasLtMatmulAlgoGetHeuristic(g->lt, p->op, p->a, p->b, p->c, p->c, pref, most, found, n);
	cublasLtMatmulPreferenceDestroy(pref);
	return s == CUBLAS_STATUS_SUCCESS && *n == 0 ? CUBLAS_STATUS_NOT_SUPPORTED : s;
}

static bool large(const struct gemm_key *k)
{
	return (double)k->m * (double)k->n * (double)k->k >= LARGE && !(k->flags & 4);
}

static struct gemm_key bucket(struct gemm_key k)
{
	k.m = (k.m + 511) / 512 * 512;
	return k;
}

static const struct gemm_choice *chosen(const struct gemm_state *g, const struct gemm_key *k)
{
	struct gemm_key b = bucket(*k);

	for (int i = 0; i < g->n_choices; i++)
		if (same(&g->choices[i].key, &b))
			return &g->choices[i];
	return NULL;
}

static cublasStatus_t choose(struct gemm_state *g, struct gemm_plan *p)
{
	const struct gemm_choice *c = large(&p->key) ? chosen(g, &p->key) : NULL;
	cublasLtMatmulHeuristicResult_t found;
	cublasStatus_t s;
	int n = 0;

	if (c && cublasLtMatmulAlgoCheck(g->lt, p->op, p->a, p->b, p->c, p->c, &c->algo, &found) == CUBLAS_STATUS_SUCCESS && found.workspaceSize <= WORKSPACE) {
		p->algo = c->algo;
		return CUBLAS_STATUS_SUCCESS;
	}
	s = candidates(g, p, &found, 1, &n);
	if (s == CUBLAS_STATUS_SUCCESS)
		p->algo = found.algo;
	p->untried = s == CUBLAS_STATUS_SUCCESS && !c && large(&p->key) && g->n_choices < CHOICES;
	return s;
}

/* Both operands have a scale for each row. Sums stay in the tensor cores' accumulators: of a product of random numbers their lost
 * bits are a hundredth of what the codes lost already, and folding them into fp32 cores' sums costs a sixth of the step. */
static void scale_rows(cublasLtMatmulDesc_t op, const void *some)
{
	cublasLtMatmulMatrixScale_t mode = CUBLASLT_MATMUL_MATRIX_SCALE_OUTER_VEC_32F;
	int8_t fast = 1;

	cublasLtMatmulDescSetAttribute(op, CUBLASLT_MATMUL_DESC_A_SCALE_MODE, &mode, sizeof(mode));
	cublasLtMatmulDescSetAttribute(op, CUBLASLT_MATMUL_DESC_B_SCALE_MODE, &mode, sizeof(mode));
	cublasLtMatmulDescSetAttribute(op, CUBLASLT_MATMUL_DESC_FAST_ACCUM, &fast, sizeof(fast));
	/* without pointers there is no candidate for the mode; each call sets its own */
	cublasLtMatmulDescSetAttribute(op, CUBLASLT_MATMUL_DESC_A_SCALE_POINTER, &some, sizeof(some));
	cublasLtMatmulDescSetAttribute(op, CUBLASLT_MATMUL_DESC_B_SCALE_POINTER, &some, sizeof(some));
}

static void set_scales(cublasLtMatmulDesc_t op, const struct gemm_call *k)
{
	/* cuBLASLt's A is our B */
	cublasLtMatmulDescSetAttribute(op, CUBLASLT_MATMUL_DESC_A_SCALE_POINTER, &k->scale_b, sizeof(k->scale_b));
	cublasLtMatmulDescSetAttribute(op, CUBLASLT_MATMUL_DESC_B_SCALE_POINTER, &k->scale_a, sizeof(k->scale_a));
}

static cublasStatus_t make_plan(struct gemm_state *g, struct gemm_plan *p)
{
	const struct gemm_key *k = &p->key;
	bool ta = k->flags & 1, tb = k->flags & 2, wide = k->flags & 4, fp8 = k->flags & FP8;
	cudaDataType_t in = fp8 ? CUDA_R_8F_E4M3 : ACT_CUDA_R;
	cublasOperation_t opa = tb ? CUBLAS_OP_T : CUBLAS_OP_N, opb = ta ? CUBLAS_OP_T : CUBLAS_OP_N;
	cublasStatus_t s = cublasLtMatmulDescCreate(&p->op, CUBLAS_COMPUTE_32F, CUDA_R_32F);

	if (s != CUBLAS_STATUS_SUCCESS)
		return s;
	cublasLtMatmulDescSetAttribute(p->op, CUBLASLT_MATMUL_DESC_TRANSA, &opa, sizeof(opa));
	cublasLtMatmulDescSetAttribute(p->op, CUBLASLT_MATMUL_DESC_TRANSB, &opb, sizeof(opb));
	if (fp8)
		scale_rows(p->op, g->sum);
	s = tb ? set_layout(&p->a, in, k->k, k->n, k->ldb) : set_layout(&p->a, in, k->n, k->k, k->ldb);
	if (s == CUBLAS_STATUS_SUCCESS)
		s = ta ? set_layout(&p->b, in, k->m, k->k, k->lda) : set_layout(&p->b, in, k->k, k->m, k->lda);
	if (s == CUBLAS_STATUS_SUCCESS)
		s = set_layout(&p->c, wide ? CUDA_R_32F : ACT_CUDA_R, k->n, k->m, k->ldc);
	return s == CUBLAS_STATUS_SUCCESS ? choose(g, p) : s;
}

static struct gemm_plan *find(struct gemm_state *g, const struct gemm_key *k, cublasStatus_t *s)
{
	uint64_t i = hash(k) & (SLOTS - 1);

	*s = CUBLAS_STATUS_SUCCESS;
	while (g->plans[i].key.used && !same(&g->plans[i].key, k))
		i = (i + 1) & (SLOTS - 1);
	if (g->plans[i].key.used)
		return &g->plans[i];
	if (g->n_plans >= SLOTS / 2) { /* many lengths of micro-batches: begin anew */
		for (int j = 0; j < SLOTS; j++)
			drop(&g->plans[j]);
		g->n_plans = 0;
		i = hash(k) & (SLOTS - 1);
	}
	g->plans[i].key = *k;
	g->plans[i].key.used = 1;
	g->n_plans++;
	*s = make_plan(g, &g->plans[i]);
	return &g->plans[i];
}

static __global__ void scale_kernel(const void *c0, void *c, int64_t m, int64_t n, int64_t ldc, float beta, bool wide)
{
	int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x, at;

	if (i >= m * n)
		return;
	at = i / n * ldc + i % n;
	if (wide)
		((float *)c)[at] = beta ? ((const float *)c0)[at] * beta : 0;
	else
		((act_t *)c)[at] = act_down(beta ? act_up(((const act_t *)c0)[at]) * beta : 0);
}

/* --- trying the candidates --- */

/* A sum of integers, so its order is nothing: every element's bits, weighted by its place. */
static __global__ void checksum_kernel(const uint16_t *c, int64_t n, int64_t ldc, unsigned long long *out)
{
	unsigned long long s = 0;

	for (int64_t j = threadIdx.x; j < n; j += blockDim.x)
		s += (unsigned long long)(c[blockIdx.x * ldc + j] + 1) * (2 * (unsigned long long)(blockIdx.x * n + j) * 0x9e3779b97f4a7c15ULL + 1);
	atomicAdd(out, s);
}

static cublasStatus_t launch(struct cuda_impl *x, const struct gemm_plan *p, const struct gemm_call *k, const cublasLtMatmulAlgo_t *algo)
{
	if (p->key.flags & FP8)
		set_scales(p->op, k);
	return cublasLtMatmul(x->gemm->lt, p->op, &k->alpha, k->b, p->a, k->a, p->b, &k->beta, k->c0, p->c, k->c, p->c, algo, x->gemm->workspace, WORKSPACE,
	                      x->stream);
}

/* Milliseconds of the fastest of three runs, and the result's checksum; negative when it does not run. */
static float time_algo(struct cuda_impl *x, const struct gemm_plan *p, const struct gemm_call *k, const cublasLtMatmulAlgo_t *algo, unsigned long long *sum)
{
	struct gemm_state *g = x->gemm;
	float best = -1, ms;

	for (int i = 0; i < 3; i++) {
		cudaEventRecord(g->from, x->stream);
		if (launch(x, p, k, algo) != CUBLAS_STATUS_SUCCESS)
			return -1;
		cudaEventRecord(g->to, x->stream);
		if (cudaEventSynchronize(g->to) != cudaSuccess || cudaEventElapsedTime(&ms, g->from, g->to) != cudaSuccess)
			return -1;
		best = best < 0 || ms < best ? ms : best;
	}
	cudaMemsetAsync(g->sum, 0, sizeof(*sum), x->stream);
	checksum_kernel<<<(unsigned)p->key.m, 256, 0, x->stream>>>((const uint16_t *)k->c, p->key.n, p->key.ldc, g->sum);
	cudaMemcpyAsync(sum, g->sum, sizeof(*sum), cudaMemcpyDeviceToHost, x->stream);
	return cudaStreamSynchronize(x->stream) == cudaSuccess ? best : -1;
}

static void try_others(struct cuda_impl *x, struct gemm_plan *p, const struct gemm_call *k)
{
	struct gemm_state *g = x->gemm;
	cublasLtMatmulHeuristicResult_t found[CANDIDATES];
	unsigned long long first = 0, sum;
	float best = 0;
	int n = 0;

	p->untried = false;
	if (candidates(g, p, found, CANDIDATES, &n) != CUBLAS_STATUS_SUCCESS)
		return;
	for (int i = 0; i < n; i++) {
		float ms = time_algo(x, p, k, &found[i].algo, i ? &sum : &first);

		if (i == 0 && ms < 0)
			return;
		if (i == 0 || (ms >= 0 && sum == first && ms < best)) {
			best = ms;
			p->algo = found[i].algo;
		}
	}
	g->choices[g->n_choices].key = bucket(p->key);
	g->choices[g->n_choices++].algo = p->algo;
}

static void run(struct cuda_impl *x, const struct gemm_key *key, const struct gemm_call *call)
{
	cublasStatus_t s;
	struct gemm_plan *p = find(x->gemm, key, &s);

	/* a product that adds to its own result cannot be tried, nor one that is only recorded */
	if (s == CUBLAS_STATUS_SUCCESS && p->untried && !x->recording && (call->beta == 0 || call->c0 != call->c))
		try_others(x, p, call);
	if (s == CUBLAS_STATUS_SUCCESS)
		s = launch(x, p, call, &p->algo);
	if (s != CUBLAS_STATUS_SUCCESS && x->recording)
		x->spoiled = true;
	else if (s != CUBLAS_STATUS_SUCCESS && !x->failed[0])
		snprintf(x->failed, sizeof(x->failed), "gemm (%lld, %lld, %lld)%s%s%s: %s", (long long)key->m, (long long)key->n, (long long)key->k, key->flags & 1 ? " ta" : "",
		         key->flags & 2 ? " tb" : "", key->flags & FP8 ? " fp8" : "", cublasLtGetStatusString(s));
}

void kn_gemm_cuda(struct device *d, bool ta, bool tb, int64_t m, int64_t n, int64_t k, float alpha, const void *a, int64_t lda,
                  const void *b, int64_t ldb, float beta, const void *c0, void *c, int64_t ldc, bool f32_c)
{
	struct cuda_impl *x = cuda_of(d);
	struct gemm_key key = { m, n, k, lda, ldb, ldc, 0, 0 };
	struct gemm_call call = { a, b, c0 ? c0 : c, c, alpha, beta, NULL, NULL };

	if (m == 0 || n == 0)
		return;
	c0 = call.c0;
	if (k == 0) {
		scale_kernel<<<(unsigned)((m * n + 255) / 256), 256, 0, x->stream>>>(c0, c, m, n, ldc, beta, f32_c);
		cuda_launched(d, "gemm");
		return;
	}
	key.flags = (uint32_t)ta | (uint32_t)tb << 1 | (uint32_t)f32_c << 2 | (uint32_t)(beta != 0) << 3 | alignment(a, lda, 2) << 8 |
	            alignment(b, ldb, 2) << 12 | alignment(c, ldc, f32_c ? 4 : 2) << 16;
	run(x, &key, &call);
}

void kn_fp8_gemm_cuda(struct device *d, int64_t m, int64_t n, int64_t k, const struct fp8_mat *a, const struct fp8_mat *b, const void *c0, void *c, int64_t ldc)
{
	struct gemm_key key = { m, n, k, a->ld, b->ld, ldc, 0, 0 };
	struct gemm_call call = { a->q, b->q, c0 ? c0 : c, c, 1, c0 ? 1.0f : 0.0f, a->scale, b->scale };

	if (m == 0 || n == 0)
		return;
	key.flags = 2 | (uint32_t)(c0 != NULL) << 3 | FP8 | alignment(a->q, a->ld, 1) << 8 | alignment(b->q, b->ld, 1) << 12 | alignment(c, ldc, 2) << 16;
	run(cuda_of(d), &key, &call);
}

/* An adapter's skinny products over x, which is read once. */
#include "kernels/cuda.cuh"
#include "kernels/mma.cuh"

#define THREADS 256

#define OUTER_THREADS 128
/* Tiles on their way, as many as shared memory has room for; they change no bits. */
#define MANY_STAGES 6
#define FEW_STAGES 3 /* in 64 KiB */

/* A (rows, 64) tile of activations, rows of 128 bytes exchanged like tile_at's; rows beyond the end are zero. */
template <int ROWS> static __device__ __forceinline__ void fetch_rows(uint32_t to, const act_t *from, int64_t ld, int64_t left)
{
#pragma unroll
	for (int i = 0; i < (ROWS * 8 + OUTER_THREADS - 1) / OUTER_THREADS; i++) {
		int p = i * OUTER_THREADS + (int)threadIdx.x, r = p / 8, c = p % 8 * 8;

		if (p < ROWS * 8)
			copy16(tile_at(to, r, c), from + (r < left ? r * ld + c : 0), r < left);
	}
}

/* s = x A^T. A thread block has 64 tokens; NT sixteens of inner values. */
template <int NT, int STAGES>
static __global__ void __launch_bounds__(OUTER_THREADS) down_kernel(act_t *x, int64_t ldx, const act_t *a, int64_t lda, int64_t t, int64_t in)
{
	extern __shared__ __align__(128) unsigned char smem[];
	const int stage = 64 * 128 + NT * 16 * 128;
	uint32_t base = smem_at(smem);
	int64_t row0 = (int64_t)blockIdx.x * 64;
	int warp = threadIdx.x / 32, lane = threadIdx.x % 32, n = (int)(in / 64);
	float acc[2 * NT][4] = { 0 };

	for (int i = 0; i < n + STAGES - 1; i++) {
		if (i < n) {
			uint32_t to = base + (uint32_t)(i % STAGES * stage);

			fetch_rows<64>(to, x + row0 * ldx + i * 64, ldx, t - row0);
			fetch_rows<NT * 16>(to + 64 * 128, a + i * 64, lda, NT * 16);
		}
		copy_commit();
		if (i < STAGES - 1)
			continue;
		copy_wait<STAGES - 1>();
		__syncthreads();
		{
			uint32_t tile = base + (uint32_t)((i - (STAGES - 1)) % STAGES * stage), am = tile + 64 * 128;

#pragma unroll
			for (int k = 0; k < 64; k += 16) {
				uint32_t f[4];

				ldsm4(f, tile_at(tile, warp * 16 + lane % 16, k + lane / 16 * 8));
#pragma unroll
				for (int c = 0; c < NT; c++) {
					uint32_t b[4];

					/* rows of A are columns of the product: its parts come in the order (n, k), (n, k + 8), (n + 8, k), ... */
					ldsm4(b, tile_at(am, c * 16 + lane % 8 + lane / 16 * 8, k + lane / 8 % 2 * 8));
					mma(acc[2 * c], f, b[0], b[1], act_t());
					mma(acc[2 * c + 1], f, b[2], b[3], act_t());
				}
			}
		}
		__syncthreads();
	}
#pragma unroll
	for (int h = 0; h < 2; h++) {
		int64_t row = row0 + warp * 16 + lane / 4 + h * 8;

		if (row < t)
#pragma unroll
			for (int c = 0; c < 2 * NT; c++)
				*(uint32_t *)(x + row * ldx + in + c * 8 + lane % 4 * 2) = act_pack(acc[c][2 * h], acc[c][2 * h + 1]);
	}
}

/* Partial sums of ds^T x over a run of tokens: a thread block has 64 columns of x. */
template <int NT, int STAGES>
static __global__ void __launch_bounds__(OUTER_THREADS) outer_kernel(float *out, const act_t *ds, int64_t ld_ds, const act_t *x, int64_t ldx, int64_t t, int64_t in,
                                                                     int64_t run)
{
	extern __shared__ __align__(128) unsigned char smem[];
	const int ds_ld = NT * 16 + 8, stage = 64 * 128 + 64 * ds_ld * 2;
	uint32_t base = smem_at(smem);
	int64_t col0 = (int64_t)blockIdx.x * 64, from = run * blockIdx.y, to = from + run < t ? from + run : t;
	int warp = threadIdx.x / 32, lane = threadIdx.x % 32, n = (int)((to - from + 63) / 64);
	float acc[NT][2][4] = { 0 };

	for (int i = 0; i < n + STAGES - 1; i++) {
		if (i < n) {
			uint32_t at = base + (uint32_t)(i % STAGES * stage);
			int64_t row = from + i * 64, left = to - row;

			fetch_rows<64>(at, x + row * ldx + col0, ldx, left);
			for (int p = threadIdx.x; p < 64 * NT * 2; p += OUTER_THREADS) {
				int r = p / (NT * 2), c = p % (NT * 2) * 8;

				copy16(at + 64 * 128 + (uint32_t)((r * ds_ld + c) * 2), ds + (r < left ? (row + r) * ld_ds + c : 0), r < left);
			}
		}
		copy_commit();
		if (i < STAGES - 1)
			continue;
		copy_wait<STAGES - 1>();
		__syncthreads();
		{
			uint32_t tile = base + (uint32_t)((i - (STAGES - 1)) % STAGES * stage), dt = tile + 64 * 128;

#pragma unroll
			for (int k = 0; k < 64; k += 16) {
				uint32_t b[4];

				ldsm4t(b, tile_at(tile, k + lane % 16, warp * 16 + lane / 16 * 8));
#pragma unroll
				for (int m = 0; m < NT; m++) {
					uint32_t f[4];

					ldsm4t(f, dt + (uint32_t)(((k + lane % 8 + lane / 16 * 8) * ds_ld + m * 16 + lane / 8 % 2 * 8) * 2));
					mma(acc[m][0], f, b[0], b[1], act_t());
					mma(acc[m][1], f, b[2], b[3], act_t());
				}
			}
		}
		__syncthreads();
	}
	out += (int64_t)blockIdx.y * NT * 16 * in + col0 + warp * 16 + lane % 4 * 2;
#pragma unroll
	for (int m = 0; m < NT; m++)
#pragma unroll
		for (int c = 0; c < 2; c++)
#pragma unroll
			for (int h = 0; h < 2; h++)
				*(float2 *)(out + (m * 16 + lane / 4 + h * 8) * in + c * 8) = make_float2(acc[m][c][2 * h], acc[m][c][2 * h + 1]);
}

static __global__ void __launch_bounds__(THREADS) fold_outer(float *da, const float *parts, int64_t n, int runs)
{
	int64_t i = ((int64_t)blockIdx.x * THREADS + threadIdx.x) * 4;
	float4 sum;

	if (i >= n)
		return;
	sum = *(const float4 *)(parts + i);
	for (int r = 1; r < runs; r++) {
		float4 v = *(const float4 *)(parts + r * n + i);

		sum.x += v.x, sum.y += v.y, sum.z += v.z, sum.w += v.w;
	}
	da[i] += sum.x, da[i + 1] += sum.y, da[i + 2] += sum.z, da[i + 3] += sum.w;
}

/* Bytes of shared memory for nr inner values. */
static int down_bytes(int64_t nr, int stages)
{
	return stages * (64 * 128 + (int)nr * 128);
}

static int outer_bytes(int64_t nr, int stages)
{
	return stages * (64 * 128 + 64 * ((int)nr + 8) * 2);
}

static bool outer_fits(const struct kn_adapter_outer *a)
{
	return a->nr % 16 == 0 && a->nr > 0 && a->nr <= 96 && a->in % 64 == 0 && eights(a->x, a->ldx);
}

template <int NT, int STAGES> static void down_by(struct device *d, const struct kn_adapter_outer *a)
{
	int bytes = down_bytes(NT * 16, STAGES);

	cudaFuncSetAttribute(down_kernel<NT, STAGES>, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes);
	down_kernel<NT, STAGES><<<(unsigned)((a->t + 63) / 64), OUTER_THREADS, bytes, cuda_of(d)->stream>>>((act_t *)a->x, a->ldx, (const act_t *)a->a, a->lda, a->t, a->in);
	cuda_launched(d, "adapter_down");
}

template <int NT> static void down(struct device *d, const struct kn_adapter_outer *a)
{
	down_bytes(NT * 16, MANY_STAGES) <= cuda_of(d)->shared ? down_by<NT, MANY_STAGES>(d, a) : down_by<NT, FEW_STAGES>(d, a);
}

void kn_adapter_down_cuda(struct device *d, const struct kn_adapter_outer *a)
{
	if (!outer_fits(a) || !eights(a->a, a->lda)) {
		kn_gemm_cuda(d, false, true, a->t, a->nr, a->in, 1, a->x, a->ldx, a->a, a->lda, 0, NULL, (act_t *)a->x + a->in, a->ldx, false);
		return;
	}
	switch (a->nr / 16) {
	case 1: down<1>(d, a); break;
	case 2: down<2>(d, a); break;
	case 3: down<3>(d, a); break;
	case 4: down<4>(d, a); break;
	case 5: down<5>(d, a); break;
	default: down<6>(d, a); break;
	}
}

template <int NT, int STAGES> static void outer_by(struct device *d, const struct kn_adapter_outer *a)
{
	cudaStream_t st = cuda_of(d)->stream;
	int bytes = outer_bytes(NT * 16, STAGES);
	int64_t blocks = a->in / 64, runs = (4 * cuda_of(d)->sms + blocks - 1) / blocks, run;

	/* how many runs follows from the shape and the processor alone */
	runs = runs > KN_ADAPTER_RUNS ? KN_ADAPTER_RUNS : runs;
	run = ((a->t + runs - 1) / runs + 63) / 64 * 64;
	runs = (a->t + run - 1) / run;
	cudaFuncSetAttribute(outer_kernel<NT, STAGES>, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes);
	outer_kernel<NT, STAGES><<<dim3((unsigned)blocks, (unsigned)runs), OUTER_THREADS, bytes, st>>>((float *)a->scratch, (const act_t *)a->ds, a->ld_ds, (const act_t *)a->x,
	                                                                                     a->ldx, a->t, a->in, run);
	fold_outer<<<(unsigned)((a->nr * a->in / 4 + THREADS - 1) / THREADS), THREADS, 0, st>>>(a->da, (const float *)a->scratch, a->nr * a->in, (int)runs);
	cuda_launched(d, "adapter_outer");
}

template <int NT> static void outer(struct device *d, const struct kn_adapter_outer *a)
{
	outer_bytes(NT * 16, MANY_STAGES) <= cuda_of(d)->shared ? outer_by<NT, MANY_STAGES>(d, a) : outer_by<NT, FEW_STAGES>(d, a);
}

void kn_adapter_outer_cuda(struct device *d, const struct kn_adapter_outer *a)
{
	if (!outer_fits(a) || !eights(a->ds, a->ld_ds)) {
		kn_gemm_cuda(d, true, false, a->nr, a->in, a->t, 1, a->ds, a->ld_ds, a->x, a->ldx, 1, NULL, a->da, a->in, true);
		return;
	}
	switch (a->nr / 16) {
	case 1: outer<1>(d, a); break;
	case 2: outer<2>(d, a); break;
	case 3: outer<3>(d, a); break;
	case 4: outer<4>(d, a); break;
	case 5: outer<5>(d, a); break;
	default: outer<6>(d, a); break;
	}
}

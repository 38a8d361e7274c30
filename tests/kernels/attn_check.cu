/* Attention on CUDA against fp64, and its times.
 *   attn_check check    every path on odd shapes; poisoned outputs, two runs equal, neighbours without effect
 *   attn_check quick    fewer of them; small: a few, for compute-sanitizer
 *   attn_check bench    medians, on data larger than the cache
 * ROOM in the environment: bytes of shared memory that a block may have, to take the kernels of a smaller GPU.
 * The fp64 reference runs on the device, one block to a row, and is itself
 * compared with plain host loops on a small shape. */
#include <algorithm>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <vector>

#include "kernels/attn_cuda.cuh"

extern "C" {
#include "kernels/attn.h"
}

#define CK(x) \
	do { \
		cudaError_t e_ = (cudaError_t)(x); \
		if (e_ != cudaSuccess) { \
			printf("%s:%d: %s\n", __FILE__, __LINE__, cudaGetErrorString(e_)); \
			exit(1); \
		} \
	} while (0)

/* --- data --- */

static __device__ float normal_at(uint64_t i, uint32_t stream)
{
	uint64_t z = (i + 1) * 0x9e3779b97f4a7c15ull + stream * 0xd1b54a32d192ed03ull;
	float a, b;

	z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
	z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
	z ^= z >> 31;
	a = ((uint32_t)z + 0.5f) * 0x1p-32f;
	b = (uint32_t)(z >> 32) * 0x1p-32f;
	return sqrtf(-2 * logf(a)) * cospif(2 * b);
}

template <typename T> __global__ void fill_kernel(T *x, int64_t n, uint32_t stream)
{
	for (int64_t i = blockIdx.x * (int64_t)blockDim.x + threadIdx.x; i < n; i += (int64_t)gridDim.x * blockDim.x)
		x[i] = num16<T>::down(normal_at(i, stream));
}

static void fill(void *x, int64_t n, uint32_t stream, enum attn_dtype t)
{
	if (t == ATTN_BF16)
		fill_kernel<<<1024, 256>>>((bf16 *)x, n, stream);
	else
		fill_kernel<<<1024, 256>>>((__half *)x, n, stream);
	CK(cudaGetLastError());
}

static void *dev(int64_t bytes)
{
	void *p;

	CK(cudaMalloc(&p, bytes + 256));
	return p;
}

/* --- the reference: fp64 on the device --- */

struct ref {
	double *o, *lse, *dq, *dk, *dv; /* dense (T, heads, D) */
};

template <typename T> struct in {
	const T *q, *k, *v, *g;
	const int32_t *seq_of; /* (T): first token of the token's sequence, then its end */
};

template <typename T> static __device__ double score64(const struct attn_cuda &s, const in<T> &x, int i, int j, int h, double *slope)
{
	const T *q = x.q + i * s.ldq + (int64_t)h * s.head_dim, *k = x.k + j * s.ldk + (int64_t)(h / (s.n_heads / s.n_kv)) * s.head_dim;
	double d = 0, t;

	for (int c = 0; c < s.head_dim; c++)
		d += (double)num16<T>::up(q[c]) * (double)num16<T>::up(k[c]);
	d *= (double)s.scale;
	*slope = 1;
	if (s.softcap > 0) {
		t = tanh(d / (double)s.softcap);
		*slope = 1 - t * t;
		d = (double)s.softcap * t;
	}
	return d;
}

template <typename T> static __device__ double dp64(const struct attn_cuda &s, const in<T> &x, int i, int j, int h)
{
	const T *g = x.g + i * s.ldo + (int64_t)h * s.head_dim, *v = x.v + j * s.ldv + (int64_t)(h / (s.n_heads / s.n_kv)) * s.head_dim;
	double d = 0;

	for (int c = 0; c < s.head_dim; c++)
		d += (double)num16<T>::up(g[c]) * (double)num16<T>::up(v[c]);
	return d;
}

template <typename T> __global__ void ref_row(const struct attn_cuda s, const in<T> x, struct ref r, double *dd)
{
	extern __shared__ double p[]; /* p, then ds */
	__shared__ double red[128];
	int i = blockIdx.x, h = blockIdx.y, tid = threadIdx.x, j0 = x.seq_of[2 * i], n, kvh = h / (s.n_heads / s.n_kv), d = s.head_dim;
	double max = -INFINITY, sum = 0, slope, acc = 0;

	if (s.window > 0 && i - s.window + 1 > j0)
		j0 = i - s.window + 1;
	n = i - j0 + 1;
	for (int j = tid; j < n; j += 128) {
		p[j] = score64(s, x, i, j0 + j, h, &slope);
		max = fmax(max, p[j]);
	}
	red[tid] = max;
	__syncthreads();
	for (int t = 0; t < 128; t++)
		max = fmax(max, red[t]);
	__syncthreads();
	for (int j = tid; j < n; j += 128)
		sum += exp(p[j] - max);
	red[tid] = sum;
	__syncthreads();
	sum = 0;
	for (int t = 0; t < 128; t++)
		sum += red[t];
	__syncthreads();
	for (int j = tid; j < n; j += 128)
		p[j] = exp(p[j] - max) / sum;
	if (tid == 0)
		r.lse[(int64_t)i * s.n_heads + h] = max + log(sum);
	__syncthreads();
	for (int c = tid; c < d; c += 128) {
		double o = 0;

		for (int j = 0; j < n; j++)
			o += p[j] * (double)num16<T>::up(x.v[(j0 + j) * s.ldv + (int64_t)kvh * d + c]);
		r.o[((int64_t)i * s.n_heads + h) * d + c] = o;
		acc += o * (double)num16<T>::up(x.g[i * s.ldo + (int64_t)h * d + c]);
	}
	red[tid] = acc;
	__syncthreads();
	acc = 0;
	for (int t = 0; t < 128; t++)
		acc += red[t];
	if (tid == 0)
		dd[(int64_t)i * s.n_heads + h] = acc;
	for (int j = tid; j < n; j += 128) {
		score64(s, x, i, j0 + j, h, &slope);
		p[j] *= (dp64(s, x, i, j0 + j, h) - acc) * slope * (double)s.scale;
	}
	__syncthreads();
	for (int c = tid; c < d; c += 128) {
		double q = 0;

		for (int j = 0; j < n; j++)
			q += p[j] * (double)num16<T>::up(x.k[(j0 + j) * s.ldk + (int64_t)kvh * d + c]);
		r.dq[((int64_t)i * s.n_heads + h) * d + c] = q;
	}
}

template <typename T> __global__ void ref_col(const struct attn_cuda s, const in<T> x, struct ref r, const double *dd)
{
	extern __shared__ double p[];
	int j = blockIdx.x, kvh = blockIdx.y, tid = threadIdx.x, end = x.seq_of[2 * j + 1], n, group = s.n_heads / s.n_kv, d = s.head_dim;
	double dk[2] = { 0 }, dv[2] = { 0 }, slope;

	if (s.window > 0 && j + s.window < end)
		end = j + s.window;
	n = end - j;
	for (int h = kvh * group; h < (kvh + 1) * group; h++) {
		__syncthreads();
		for (int i = tid; i < n; i += 128) {
			double w = exp(score64(s, x, j + i, j, h, &slope) - r.lse[(int64_t)(j + i) * s.n_heads + h]);

			p[2 * i] = w;
			p[2 * i + 1] = w * (dp64(s, x, j + i, j, h) - dd[(int64_t)(j + i) * s.n_heads + h]) * slope * (double)s.scale;
		}
		__syncthreads();
		for (int l = 0; l < 2; l++)
			for (int i = 0, c = tid + 128 * l; i < n && c < d; i++) {
				dv[l] += p[2 * i] * (double)num16<T>::up(x.g[(j + i) * s.ldo + (int64_t)h * d + c]);
				dk[l] += p[2 * i + 1] * (double)num16<T>::up(x.q[(j + i) * s.ldq + (int64_t)h * d + c]);
			}
	}
	for (int l = 0; l < 2; l++)
		if (tid + 128 * l < d) {
			r.dk[((int64_t)j * s.n_kv + kvh) * d + tid + 128 * l] = dk[l];
			r.dv[((int64_t)j * s.n_kv + kvh) * d + tid + 128 * l] = dv[l];
		}
}

/* --- one problem --- */

struct prob {
	struct attn_cuda s;
	std::vector<int32_t> start;
	int64_t wide; /* row of the joint q, k, v buffer */
	char *qkv, *dqkv, *o, *g, *ws;
	float *lse;
	int32_t *seq_of;
	struct ref r;
	double *dd;
};

static int64_t q_at(const struct prob *p, int which)
{
	int64_t q = (int64_t)p->s.n_heads * p->s.head_dim, k = (int64_t)p->s.n_kv * p->s.head_dim, up = 8;

	q = (q + up - 1) / up * up;
	k = (k + up - 1) / up * up;
	return 2 * (which == 0 ? 0 : which == 1 ? q : q + k);
}

static void prob_open(struct prob *p, int nh, int nkv, int d, const std::vector<int> &len, int window, float cap,
	enum attn_dtype t, bool dense)
{
	int64_t q, k, tok;
	std::vector<int32_t> tiles, seq_of;

	memset(&p->s, 0, sizeof(p->s));
	p->start.assign(1, 0);
	for (size_t i = 0; i < len.size(); i++) {
		for (int j = 0; j < len[i]; j++) {
			seq_of.push_back(p->start[i]);
			seq_of.push_back(p->start[i] + len[i]);
		}
		p->start.push_back(p->start[i] + len[i]);
		p->s.max_len = std::max(p->s.max_len, len[i]);
	}
	p->s.n_heads = nh, p->s.n_kv = nkv, p->s.head_dim = d, p->s.window = window, p->s.softcap = cap, p->s.dtype = t;
	p->s.room = getenv("ROOM") ? atoi(getenv("ROOM")) : 0;
	p->s.scale = (float)((cap > 0 ? 4 : 1) / sqrt((double)d));
	p->s.n_seqs = (int)len.size();
	p->s.n_tokens = (int)(tok = p->start.back());
	q = q_at(p, 1) / 2;
	k = q_at(p, 2) / 2 - q;
	p->wide = q + 2 * k + (dense ? 0 : 24);
	p->s.ldq = p->s.ldk = p->s.ldv = p->wide;
	p->s.ldo = dense ? (int64_t)nh * d : q + 8;
	tiles.resize(2 * (tok / ATTN_TILE + len.size()) + 2);
	p->s.n_tiles = (int)attn_tiles(p->start.data(), p->s.n_seqs, tiles.data());
	p->qkv = (char *)dev(tok * p->wide * 2);
	p->dqkv = (char *)dev(tok * p->wide * 2);
	p->o = (char *)dev(tok * p->s.ldo * 2);
	p->g = (char *)dev(tok * p->s.ldo * 2);
	p->lse = (float *)dev(tok * nh * 4);
	p->ws = (char *)dev(attn_bwd_workspace(&p->s));
	p->seq_of = (int32_t *)dev(tok * 8);
	CK(cudaMemcpy(p->seq_of, seq_of.data(), tok * 8, cudaMemcpyHostToDevice));
	p->s.seq_start = (int32_t *)dev(p->start.size() * 4);
	CK(cudaMemcpy((void *)p->s.seq_start, p->start.data(), p->start.size() * 4, cudaMemcpyHostToDevice));
	p->s.tiles = (int32_t *)dev(tiles.size() * 4);
	CK(cudaMemcpy((void *)p->s.tiles, tiles.data(), tiles.size() * 4, cudaMemcpyHostToDevice));
	fill(p->qkv, tok * p->wide, 1, t);
	fill(p->g, tok * p->s.ldo, 2, t);
}

static void prob_close(struct prob *p)
{
	cudaFree(p->qkv), cudaFree(p->dqkv), cudaFree(p->o), cudaFree(p->g), cudaFree(p->lse), cudaFree(p->ws), cudaFree(p->seq_of);
	cudaFree((void *)p->s.seq_start), cudaFree((void *)p->s.tiles);
}

static int fwd(struct prob *p, cudaStream_t st = 0)
{
	return attn_fwd_cuda(st, &p->s, p->qkv, p->qkv + q_at(p, 1), p->qkv + q_at(p, 2), p->o, p->lse);
}

static int bwd(struct prob *p, cudaStream_t st = 0)
{
	return attn_bwd_cuda(st, &p->s, p->qkv, p->qkv + q_at(p, 1), p->qkv + q_at(p, 2), p->o, p->lse, p->g, p->dqkv, p->dqkv + q_at(p, 1),
		p->dqkv + q_at(p, 2), p->ws);
}

template <typename T> static void reference_of(struct prob *p)
{
	in<T> x = { (T *)p->qkv, (T *)(p->qkv + q_at(p, 1)), (T *)(p->qkv + q_at(p, 2)), (T *)p->g, p->seq_of };
	int64_t n = p->s.n_tokens, q = n * p->s.n_heads * p->s.head_dim * 8, k = n * p->s.n_kv * p->s.head_dim * 8;

	p->r.o = (double *)dev(q), p->r.dq = (double *)dev(q), p->r.dk = (double *)dev(k), p->r.dv = (double *)dev(k);
	p->r.lse = (double *)dev(n * p->s.n_heads * 8), p->dd = (double *)dev(n * p->s.n_heads * 8);
	CK(cudaFuncSetAttribute(ref_row<T>, cudaFuncAttributeMaxDynamicSharedMemorySize, 98304));
	CK(cudaFuncSetAttribute(ref_col<T>, cudaFuncAttributeMaxDynamicSharedMemorySize, 98304));
	ref_row<T><<<dim3(p->s.n_tokens, p->s.n_heads), 128, 8 * p->s.max_len>>>(p->s, x, p->r, p->dd);
	ref_col<T><<<dim3(p->s.n_tokens, p->s.n_kv), 128, 16 * p->s.max_len>>>(p->s, x, p->r, p->dd);
	CK(cudaGetLastError());
	CK(cudaDeviceSynchronize());
}

static void reference(struct prob *p)
{
	if (p->s.dtype == ATTN_BF16)
		reference_of<bf16>(p);
	else
		reference_of<__half>(p);
}

static void reference_free(struct prob *p)
{
	cudaFree(p->r.o), cudaFree(p->r.dq), cudaFree(p->r.dk), cudaFree(p->r.dv), cudaFree(p->r.lse), cudaFree(p->dd);
}

/* --- comparison --- */

static double value(uint16_t x, enum attn_dtype t)
{
	uint32_t u = (uint32_t)x << 16;
	float f;

	memcpy(&f, &u, 4);
	if (t == ATTN_F16) {
		__half h;

		memcpy((void *)&h, &x, 2);
		f = __half2float(h);
	}
	return f;
}

struct err_of {
	double l2, row; /* relative error of the tensor; of its worst row (against its own norm, or the mean row's if that is larger) */
	int64_t at;
};

/* Rows of `width` of got (stride ld, 16-bit) against want (dense). */
static struct err_of compare(const void *got, int64_t ld, const double *want, int64_t rows, int64_t heads, int64_t d, enum attn_dtype t)
{
	int64_t width = heads * d;
	std::vector<uint16_t> x(rows * ld + 8);
	std::vector<double> w(rows * width);
	struct err_of e = { 0, 0, -1 };
	double err = 0, norm = 0, mean;

	/* the last row ends before its stride does */
	CK(cudaMemcpy(x.data(), got, ((rows - 1) * ld + width) * 2, cudaMemcpyDeviceToHost));
	CK(cudaMemcpy(w.data(), want, rows * width * 8, cudaMemcpyDeviceToHost));
	for (double y : w)
		norm += y * y;
	mean = fmax(sqrt(norm / (rows * heads)), 1e-3 * sqrt((double)d)); /* a window of one: gradients of zero */
	for (int64_t r = 0; r < rows * heads; r++) {
		double re = 0, rn = 0;

		for (int64_t c = 0; c < d; c++) {
			double a = value(x[r / heads * ld + r % heads * d + c], t), b = w[r * d + c];

			re += (a - b) * (a - b);
			rn += b * b;
		}
		err += re;
		re = sqrt(re) / fmax(sqrt(rn), mean);
		if (!(re <= e.row)) {
			e.row = re;
			e.at = r;
		}
	}
	e.l2 = sqrt(err / (norm + 1e-300));
	if (norm < 1e-12 * rows * width) /* a gradient that is zero: window of one, or single tokens */
		e.l2 = sqrt(err / (rows * width));
	return e;
}

static uint64_t hash_of(const void *p, int64_t bytes)
{
	std::vector<uint8_t> x(bytes);
	uint64_t h = 1469598103934665603ull;

	CK(cudaMemcpy(x.data(), p, bytes, cudaMemcpyDeviceToHost));
	for (int64_t i = 0; i + 8 <= bytes; i += 8) {
		uint64_t w;

		memcpy(&w, &x[i], 8);
		h = (h ^ w) * 1099511628211ull;
		h ^= h >> 29;
	}
	return h;
}

static int bad, done;
static bool tell; /* print every path's errors */
static double worst[3][2][6]; /* by path, type: o, lse, dq, dk, dv */

/* Elements between the rows still hold poison. */
static int64_t touched(const void *p, int64_t rows, int64_t ld, const std::vector<std::pair<int64_t, int64_t>> &own)
{
	std::vector<uint16_t> x(rows * ld);
	std::vector<char> mine(ld, 0);
	int64_t n = 0;

	for (auto &r : own)
		for (int64_t c = r.first; c < r.second; c++)
			mine[c] = 1;
	CK(cudaMemcpy(x.data(), p, rows * ld * 2, cudaMemcpyDeviceToHost));
	for (int64_t i = 0; i < rows * ld; i++)
		n += !mine[i % ld] && x[i] != 0xffff;
	return n;
}

static void run_poisoned(struct prob *p)
{
	CK(cudaMemset(p->o, 0xff, p->s.n_tokens * p->s.ldo * 2));
	CK(cudaMemset(p->lse, 0xff, (int64_t)p->s.n_tokens * p->s.n_heads * 4));
	CK(cudaMemset(p->dqkv, 0xff, p->s.n_tokens * p->wide * 2));
	CK(cudaMemset(p->ws, 0xff, attn_bwd_workspace(&p->s)));
	CK(fwd(p));
	CK(bwd(p));
	CK(cudaDeviceSynchronize());
}

static double lse_error(struct prob *p)
{
	int64_t n = (int64_t)p->s.n_tokens * p->s.n_heads;
	std::vector<float> x(n);
	std::vector<double> w(n);
	double e = 0;

	CK(cudaMemcpy(x.data(), p->lse, n * 4, cudaMemcpyDeviceToHost));
	CK(cudaMemcpy(w.data(), p->r.lse, n * 8, cudaMemcpyDeviceToHost));
	for (int64_t i = 0; i < n; i++) {
		double d = fabs(x[i] - w[i]) / (1 + fabs(w[i]));

		e = d <= e ? e : d;
	}
	return e;
}

static void check_path(struct prob *p, enum attn_path path, const char *name)
{
	static const char *const what[] = { "o", "lse", "dq", "dk", "dv" };
	int64_t n = p->s.n_tokens, qw = (int64_t)p->s.n_heads * p->s.head_dim, kw = (int64_t)p->s.n_kv * p->s.head_dim;
	enum attn_dtype t = p->s.dtype;
	double unit = t == ATTN_BF16 ? 1 : 0.125, e[5], row[5];
	struct err_of x[4];
	uint64_t h[2][3];
	int64_t out;
	bool ok = true;

	p->s.path = path;
	if (attn_path(&p->s) != path)
		return;
	done++;
	for (int i = 0; i < 2; i++) {
		run_poisoned(p);
		h[i][0] = hash_of(p->o, n * p->s.ldo * 2), h[i][1] = hash_of(p->dqkv, n * p->wide * 2),
			h[i][2] = hash_of(p->lse, n * p->s.n_heads * 4);
	}
	x[0] = compare(p->o, p->s.ldo, p->r.o, n, p->s.n_heads, p->s.head_dim, t);
	x[1] = compare(p->dqkv, p->wide, p->r.dq, n, p->s.n_heads, p->s.head_dim, t);
	x[2] = compare(p->dqkv + q_at(p, 1), p->wide, p->r.dk, n, p->s.n_kv, p->s.head_dim, t);
	x[3] = compare(p->dqkv + q_at(p, 2), p->wide, p->r.dv, n, p->s.n_kv, p->s.head_dim, t);
	e[0] = x[0].l2, e[1] = lse_error(p), e[2] = x[1].l2, e[3] = x[2].l2, e[4] = x[3].l2;
	row[0] = x[0].row, row[1] = 0, row[2] = x[1].row, row[3] = x[2].row, row[4] = x[3].row;
	out = touched(p->o, n, p->s.ldo, { { 0, qw } }) +
	      touched(p->dqkv, n, p->wide, { { 0, qw }, { q_at(p, 1) / 2, q_at(p, 1) / 2 + kw }, { q_at(p, 2) / 2, q_at(p, 2) / 2 + kw } });
	for (int i = 0; i < 5; i++) {
		/* D comes from the rounded o: an error of 2^-9 |do| |o| in dP - D, which few keys or columns do not average away */
		bool few = n < 16 || p->s.head_dim < 8;
		double bound = i == 1 ? 2e-5 : i == 0 ? 4e-3 * unit : (few ? 6e-2 : 8e-3) * unit;

		ok = ok && e[i] <= bound && row[i] <= (i == 0 ? 1e-2 : few ? 0.6 : p->s.head_dim < 64 ? 0.25 : 5e-2) * unit;
		worst[path - 1][t][i] = fmax(worst[path - 1][t][i], e[i]);
	}
	if (tell)
		printf("%s %s d %d tokens %d scale %.3f: o %.2e dq %.2e dk %.2e dv %.2e\n", name, t == ATTN_BF16 ? "bf16" : "f16", p->s.head_dim, (int)n,
			(double)p->s.scale, e[0], e[2], e[3], e[4]);
	if (ok && out == 0 && !memcmp(h[0], h[1], sizeof(h[0])))
		return;
	if (bad++ >= 40)
		return;
	printf("BAD %s %s nh %d nkv %d d %d window %d cap %g tokens %d seqs %d%s out %lld:", name, t == ATTN_BF16 ? "bf16" : "f16", p->s.n_heads, p->s.n_kv,
		p->s.head_dim, p->s.window, (double)p->s.softcap, p->s.n_tokens, p->s.n_seqs, memcmp(h[0], h[1], sizeof(h[0])) ? " UNEQUAL" : "",
		(long long)out);
	for (int i = 0; i < 5; i++)
		printf(" %s %.2e (%.2e at %lld)", what[i], e[i], row[i], i == 1 ? 0LL : (long long)x[i < 2 ? 0 : i - 1].at);
	printf("\n");
}

static void check_shape(int nh, int nkv, int d, const std::vector<int> &len, int window, float cap, enum attn_dtype t)
{
	struct prob p;

	prob_open(&p, nh, nkv, d, len, window, cap, t, false);
	reference(&p);
	check_path(&p, ATTN_SM90, "sm90");
	check_path(&p, ATTN_MMA, "mma");
	check_path(&p, ATTN_PLAIN, "plain");
	reference_free(&p);
	prob_close(&p);
}

/* Host loops, as short as they can be, against the device's reference. */
static void check_reference(void)
{
	struct prob p;
	const int nh = 4, nkv = 2, d = 6;
	std::vector<int> len = { 5, 9 };
	double cap = 3, scale, m = 0;

	prob_open(&p, nh, nkv, d, len, 4, (float)cap, ATTN_ACT, true);
	reference(&p);
	scale = p.s.scale;
	std::vector<uint16_t> x(14 * p.wide), g(14 * p.s.ldo);
	std::vector<double> dq(14 * nh * d), dk(14 * nkv * d), dv(14 * nkv * d), o(14 * nh * d), got(14 * nh * d);
	CK(cudaMemcpy(x.data(), p.qkv, x.size() * 2, cudaMemcpyDeviceToHost));
	CK(cudaMemcpy(g.data(), p.g, g.size() * 2, cudaMemcpyDeviceToHost));
	auto at = [&](int which, int tok, int col) { return value(x[tok * p.wide + q_at(&p, which) / 2 + col], ATTN_ACT); };
	for (int i = 0; i < 14; i++)
		for (int h = 0; h < nh; h++) {
			double w[14] = { 0 }, sl[14], sum = 0, dd = 0;
			int b = i < 5 ? 0 : 5, kh = h / 2;

			for (int j = std::max(b, i - 3); j <= i; j++) {
				double s = 0, th;

				for (int c = 0; c < d; c++)
					s += at(0, i, h * d + c) * at(1, j, kh * d + c);
				th = tanh(s * scale / cap), sl[j] = 1 - th * th, w[j] = exp(cap * th), sum += w[j];
			}
			for (int j = std::max(b, i - 3); j <= i; j++)
				for (int c = 0; c < d; c++)
					o[(i * nh + h) * d + c] += w[j] / sum * at(2, j, kh * d + c);
			for (int c = 0; c < d; c++)
				dd += o[(i * nh + h) * d + c] * value(g[i * p.s.ldo + h * d + c], ATTN_ACT);
			for (int j = std::max(b, i - 3); j <= i; j++) {
				double dp = 0, ds;

				for (int c = 0; c < d; c++)
					dp += value(g[i * p.s.ldo + h * d + c], ATTN_ACT) * at(2, j, kh * d + c);
				ds = w[j] / sum * (dp - dd) * sl[j] * scale;
				for (int c = 0; c < d; c++) {
					dq[(i * nh + h) * d + c] += ds * at(1, j, kh * d + c);
					dk[(j * nkv + kh) * d + c] += ds * at(0, i, h * d + c);
					dv[(j * nkv + kh) * d + c] += w[j] / sum * value(g[i * p.s.ldo + h * d + c], ATTN_ACT);
				}
			}
		}
	auto diff = [&](const double *devp, const std::vector<double> &want) {
		CK(cudaMemcpy(got.data(), devp, want.size() * 8, cudaMemcpyDeviceToHost));
		for (size_t i = 0; i < want.size(); i++)
			m = fmax(m, fabs(got[i] - want[i]));
	};
	diff(p.r.o, o), diff(p.r.dq, dq), diff(p.r.dk, dk), diff(p.r.dv, dv);
	printf("reference against host loops: %.1e\n", m);
	bad += !(m < 1e-12);
	reference_free(&p);
	prob_close(&p);
}

/* A sequence alone gives the bits that it has among others; a captured graph with a padded list too. */
static void check_alone(enum attn_path path, int d)
{
	struct prob p, one;
	std::vector<int> len = { 77, 300, 1, 129 };
	int nh = 8, nkv = 2, t0 = 77;
	cudaStream_t st;
	cudaGraph_t g;
	cudaGraphExec_t x;

	prob_open(&p, nh, nkv, d, len, 0, 0, ATTN_ACT, false);
	p.s.path = path;
	if (attn_path(&p.s) != path) {
		prob_close(&p);
		return;
	}
	prob_open(&one, nh, nkv, d, { 300 }, 0, 0, ATTN_ACT, false);
	one.s.path = path;
	CK(cudaMemcpy(one.qkv, p.qkv + t0 * p.wide * 2, 300 * p.wide * 2, cudaMemcpyDeviceToDevice));
	CK(cudaMemcpy(one.g, p.g + t0 * p.s.ldo * 2, 300 * p.s.ldo * 2, cudaMemcpyDeviceToDevice));
	run_poisoned(&p);
	run_poisoned(&one);
	bool same = hash_of(one.o, 300 * p.s.ldo * 2) == hash_of(p.o + t0 * p.s.ldo * 2, 300 * p.s.ldo * 2) &&
	            hash_of(one.dqkv, 300 * p.wide * 2) == hash_of(p.dqkv + t0 * p.wide * 2, 300 * p.wide * 2);
	/* the graph, with two pairs of padding */
	uint64_t ho = hash_of(p.o, p.s.n_tokens * p.s.ldo * 2), hd = hash_of(p.dqkv, p.s.n_tokens * p.wide * 2);
	std::vector<int32_t> tiles(2 * (p.s.n_tiles + 2), -1);

	CK(cudaMemcpy(tiles.data(), p.s.tiles, p.s.n_tiles * 8, cudaMemcpyDeviceToHost));
	p.s.n_tiles += 2;
	cudaFree((void *)p.s.tiles);
	p.s.tiles = (int32_t *)dev(tiles.size() * 4);
	CK(cudaMemcpy((void *)p.s.tiles, tiles.data(), tiles.size() * 4, cudaMemcpyHostToDevice));
	CK(cudaMemset(p.o, 0xff, p.s.n_tokens * p.s.ldo * 2));
	CK(cudaMemset(p.dqkv, 0xff, p.s.n_tokens * p.wide * 2));
	CK(cudaStreamCreate(&st));
	CK(cudaStreamBeginCapture(st, cudaStreamCaptureModeThreadLocal));
	CK(fwd(&p, st));
	CK(bwd(&p, st));
	CK(cudaStreamEndCapture(st, &g));
	CK(cudaGraphInstantiate(&x, g, 0));
	CK(cudaGraphLaunch(x, st));
	CK(cudaStreamSynchronize(st));
	bool graph = ho == hash_of(p.o, p.s.n_tokens * p.s.ldo * 2) && hd == hash_of(p.dqkv, p.s.n_tokens * p.wide * 2);
	if (!same || !graph) {
		printf("BAD path %d d %d:%s%s\n", path, d, same ? "" : " neighbours matter", graph ? "" : " graph differs");
		bad++;
	}
	prob_close(&p);
	prob_close(&one);
}

/* Decoding: the last token of a sequence, its keys in a slot of a cache, against the reference's last row. */
static void check_decode(int nh, int nkv, int d, int window, float cap, enum attn_dtype t, std::vector<int> len, int cap_len)
{
	struct prob p;
	int b = (int)len.size(), most = *std::max_element(len.begin(), len.end());
	struct attn_cuda s;
	int64_t kw = (int64_t)nkv * d, layer = (int64_t)cap_len * kw, stride = (2 * layer + 7) / 8 * 8, qw = (int64_t)nh * d;
	int slots = b + 2;
	char *kc = (char *)dev(slots * stride * 2), *vc = (char *)dev(slots * stride * 2), *q = (char *)dev(b * qw * 2),
		*o = (char *)dev(b * qw * 2), *ws;
	std::vector<int32_t> slot(b), l(b);
	double *want = (double *)dev(b * qw * 8);
	struct err_of e;
	uint64_t h;
	int64_t wb;

	prob_open(&p, nh, nkv, d, len, window, cap, t, false);
	reference(&p);
	s = p.s;
	fill(kc, slots * stride, 9, t), fill(vc, slots * stride, 10, t);
	for (int i = 0; i < b; i++) {
		int64_t first = p.start[i], last = p.start[i + 1] - 1;

		slot[i] = slots - 1 - i, l[i] = len[i];
		CK(cudaMemcpy2D(kc + (slot[i] * stride + layer) * 2, kw * 2, p.qkv + q_at(&p, 1) + first * p.wide * 2,
			p.wide * 2, kw * 2, len[i], cudaMemcpyDeviceToDevice));
		CK(cudaMemcpy2D(vc + (slot[i] * stride + layer) * 2, kw * 2, p.qkv + q_at(&p, 2) + first * p.wide * 2,
			p.wide * 2, kw * 2, len[i], cudaMemcpyDeviceToDevice));
		CK(cudaMemcpy(q + i * qw * 2, p.qkv + last * p.wide * 2, qw * 2, cudaMemcpyDeviceToDevice));
		CK(cudaMemcpy(want + i * qw, p.r.o + last * qw, qw * 8, cudaMemcpyDeviceToDevice));
	}
	int32_t *ds = (int32_t *)dev(b * 4), *dl = (int32_t *)dev(b * 4);
	CK(cudaMemcpy(ds, slot.data(), b * 4, cudaMemcpyHostToDevice));
	CK(cudaMemcpy(dl, l.data(), b * 4, cudaMemcpyHostToDevice));
	s.n_seqs = b, s.ldq = s.ldo = qw, s.ldk = s.ldv = kw, s.max_len = std::max(cap_len, most), s.n_tiles = d % 3 ? 0 : 1 << d % 8;
	wb = attn_decode_workspace(&s);
	ws = (char *)dev(wb);
	CK(cudaMemset(ws, 0, wb));
	for (int i = 0; i < 2; i++) {
		CK(cudaMemset(o, 0xff, b * qw * 2));
		CK(attn_decode_cuda(0, &s, q, kc + layer * 2, vc + layer * 2, stride, ds, dl, o, ws));
		CK(cudaDeviceSynchronize());
		if (i == 1 && h != hash_of(o, b * qw * 2))
			printf("BAD decode: unequal\n"), bad++;
		h = hash_of(o, b * qw * 2);
	}
	e = compare(o, qw, want, b, nh, d, t);
	/* a row alone */
	s.n_seqs = 1;
	std::vector<uint16_t> all(b * qw), one(qw);
	CK(cudaMemcpy(all.data(), o, b * qw * 2, cudaMemcpyDeviceToHost));
	CK(attn_decode_cuda(0, &s, q + (b - 1) * qw * 2, kc + layer * 2, vc + layer * 2, stride, ds + b - 1, dl + b - 1, o, ws));
	CK(cudaMemcpy(one.data(), o, qw * 2, cudaMemcpyDeviceToHost));
	done++;
	if (!(e.l2 <= (t == ATTN_BF16 ? 3e-3 : 4e-4)) || memcmp(one.data(), &all[(b - 1) * qw], qw * 2)) {
		printf("BAD decode nh %d nkv %d d %d window %d cap %g rows %d type %d: %.2e (%.2e)%s\n", nh, nkv, d, window, (double)cap, b, t, e.l2, e.row,
			memcmp(one.data(), &all[(b - 1) * qw], qw * 2) ? ", alone differs" : "");
		bad++;
	}
	reference_free(&p);
	prob_close(&p);
	cudaFree(kc), cudaFree(vc), cudaFree(q), cudaFree(o), cudaFree(ws), cudaFree(ds), cudaFree(dl), cudaFree(want);
}

/* A few shapes of every kernel, for a memory checker. */
static int check_small(void)
{
	for (int d : { 64, 128, 96, 256, 100 }) {
		check_shape(4, 2, d, { 2, 1, 3, 130 }, 0, 0, ATTN_ACT);
		check_shape(4, 1, d, { 129, 200 }, 70, 30, ATTN_ACT);
		check_decode(8, 2, d, 0, 0, ATTN_ACT, { 1, 63, 300 }, 700);
	}
	printf("%d checks, %d bad\n", done, bad);
	return bad != 0;
}

static int check(int quick)
{
	static const int heads[][2] = { { 4, 4 }, { 8, 2 }, { 8, 1 }, { 7, 1 } };
	static const int windows[] = { 0, 5, 0, 128, 0, 1, 1000 };
	static const float caps[] = { 0, 0, 30, 0, 50 };
	static const int dims[] = { 64, 128, 80, 96, 256, 8, 16, 40, 72, 100, 136, 1, 3, 112 };
	std::vector<std::vector<int>> lens = { { 1 }, { 2, 1, 3 }, { 127, 128, 129 }, { 1037 }, {}, { 513, 64, 65, 1, 255,
		300 }, { 700, 40 } };
	int n = 0;

	for (int i = 0; i < 60; i++)
		lens[4].push_back(1 + i * 37 % 41);
	check_reference();
	tell = true; /* to be compared with a framework's */
	check_shape(8, 2, 128, { 1037 }, 0, 0, ATTN_ACT);
	check_shape(8, 2, 64, { 1037 }, 0, 0, ATTN_ACT);
	check_shape(8, 2, 64, { 1037 }, 0, 0, ATTN_F16);
	tell = false;
	for (int d : dims)
		for (size_t l = 0; l < lens.size(); l++) {
			for (int r = 0; r < (quick ? 1 : d == 64 || d == 128 ? 6 : 2); r++, n++)
				check_shape(heads[n % 4][0], heads[n % 4][1], d, lens[l], windows[n % 7], caps[n % 5],
					n % 4 == 3 && r ? ATTN_F16 : ATTN_ACT);
		}
	for (int path = ATTN_SM90; path <= ATTN_PLAIN; path++)
		for (int d : { 64, 128, 80, 256 })
			check_alone((enum attn_path)path, d);
	for (int d : dims) {
		check_decode(8, 2, d, 0, 0, ATTN_ACT, { 1, 63, 64, 65, 600 }, 700);
		check_decode(7, 1, d, 100, 30, ATTN_ACT, { 1, 600, 99, 101 }, 3000);
		check_decode(8, 8, d, 0, 0, ATTN_F16, { 1000 }, 1000);
		check_decode(32, 8, d, 0, 0, ATTN_ACT, { 300, 2, 128 }, 5000);
	}
	for (int path = 0; path < 3; path++)
		for (int t = 0; t < 2; t++)
			if (worst[path][t][0] > 0)
				printf("path %d %s: worst relative error o %.2e lse %.2e dq %.2e dk %.2e dv %.2e\n", path + 1, t ? "f16" : "bf16", worst[path][t][0],
					worst[path][t][1], worst[path][t][2], worst[path][t][3], worst[path][t][4]);
	printf("%d checks, %d bad\n", done, bad);
	return bad != 0;
}

/* --- times --- */

template <typename F> static double median_ms(F run, int n)
{
	std::vector<float> t(n);
	cudaEvent_t a, b;

	CK(cudaEventCreate(&a));
	CK(cudaEventCreate(&b));
	for (int i = -5; i < n; i++) {
		CK(cudaEventRecord(a));
		run(i + 5);
		CK(cudaEventRecord(b));
		CK(cudaEventSynchronize(b));
		if (i >= 0)
			CK(cudaEventElapsedTime(&t[i], a, b));
	}
	std::sort(t.begin(), t.end());
	return t[n / 2];
}

static void bench_shape(const char *name, int nh, int nkv, int d, const std::vector<int> &len, int window, int paths)
{
	struct prob p[2]; /* two sets of buffers: neither is in the cache when its turn comes */
	double flop = 0;

	for (int i = 0; i < 2; i++)
		prob_open(&p[i], nh, nkv, d, len, window, 0, ATTN_ACT, true);
	for (int l : len)
		for (int i = 0; i < l; i++)
			flop += 4.0 * nh * d * (window > 0 && i >= window ? window : i + 1);
	for (int path = ATTN_SM90; path <= ATTN_MMA; path++) {
		double f, b;

		p[0].s.path = p[1].s.path = (enum attn_path)path;
		if (!(paths >> path & 1) || attn_path(&p[0].s) != path)
			continue;
		f = median_ms([&](int i) { CK(fwd(&p[i & 1])); }, 21);
		b = median_ms([&](int i) { CK(bwd(&p[i & 1])); }, 21);
		printf("%-22s path %d: forward %.3f ms %4.0f TFLOP/s, backward %.3f ms %4.0f TFLOP/s\n", name, path, f, flop / f / 1e9, b, 2.5 * flop / b / 1e9);
	}
	prob_close(&p[0]);
	prob_close(&p[1]);
}

static void bench_decode(int b, int keys, int nh, int nkv, int d, int planned)
{
	int sets = std::max(2, 512 / b + 1), cap = keys + 40; /* slots enough that the cache holds none of them */
	int64_t stride = (int64_t)cap * nkv * d, kw = (int64_t)nkv * d;
	char *kc = (char *)dev(sets * (int64_t)b * stride * 2), *vc = (char *)dev(sets * (int64_t)b * stride * 2);
	char *q = (char *)dev((int64_t)b * nh * d * 2), *o = (char *)dev((int64_t)b * nh * d * 2), *ws;
	struct attn_cuda s = { nh, nkv, d, (int64_t)nh * d, kw, kw, (int64_t)nh * d, 0, (float)(1 / sqrt((double)d)), 0, 0, b,
		cap, NULL, NULL, planned };
	std::vector<int32_t> len(b, keys), slot(sets * b);
	int32_t *dl = (int32_t *)dev(b * 4), *ds = (int32_t *)dev(sets * b * 4);
	double t;

	for (size_t i = 0; i < slot.size(); i++)
		slot[i] = (int)i;
	CK(cudaMemcpy(dl, len.data(), b * 4, cudaMemcpyHostToDevice));
	CK(cudaMemcpy(ds, slot.data(), slot.size() * 4, cudaMemcpyHostToDevice));
	fill(kc, sets * (int64_t)b * stride, 1, ATTN_ACT), fill(vc, sets * (int64_t)b * stride, 2, ATTN_BF16), fill(q,
		(int64_t)b * nh * d, 3, ATTN_ACT);
	ws = (char *)dev(attn_decode_workspace(&s));
	CK(cudaMemset(ws, 0, attn_decode_workspace(&s)));
	/* in a graph of 20, as an engine would run it: a launch costs more than the work at batch 1 */
	cudaStream_t st;
	cudaGraph_t g;
	cudaGraphExec_t x;
	CK(cudaStreamCreate(&st));
	CK(cudaStreamBeginCapture(st, cudaStreamCaptureModeThreadLocal));
	for (int i = 0; i < 20; i++)
		CK(attn_decode_cuda(st, &s, q, kc, vc, stride, ds + i % sets * b, dl, o, ws));
	CK(cudaStreamEndCapture(st, &g));
	CK(cudaGraphInstantiate(&x, g, 0));
	t = median_ms([&](int) { CK(cudaGraphLaunch(x, 0)); }, 11) / 20;
	printf("decode batch %2d%s, %d keys, %d/%d heads of %d: %.2f us, %.0f GB/s\n", b, planned ? " planned" : "", keys, nh, nkv, d, t * 1e3, 4.0 * b * keys * kw / t / 1e6);
	cudaFree(kc), cudaFree(vc), cudaFree(q), cudaFree(o), cudaFree(ws), cudaFree(dl), cudaFree(ds);
}

static int bench(int paths)
{
	std::vector<int> mix;

	for (int i = 0, left = 8192; left > 0; i++) {
		int l = std::min(left, 40 + i * 7919 % 1500);

		mix.push_back(l);
		left -= l;
	}
	bench_shape("4x2048 32/8 128", 32, 8, 128, { 2048, 2048, 2048, 2048 }, 0, paths);
	bench_shape("1x2048 32/8 128", 32, 8, 128, { 2048 }, 0, paths);
	bench_shape("1x4096 32/8 128", 32, 8, 128, { 4096 }, 0, paths);
	bench_shape("1x8192 32/8 128", 32, 8, 128, { 8192 }, 0, paths);
	bench_shape("16x512 32/8 128", 32, 8, 128, std::vector<int>(16, 512), 0, paths);
	bench_shape("mix 8192 32/8 128", 32, 8, 128, mix, 0, paths);
	bench_shape("1x8192 w1024 32/8 128", 32, 8, 128, { 8192 }, 1024, paths);
	bench_shape("4x2048 32/8 64", 32, 8, 64, { 2048, 2048, 2048, 2048 }, 0, paths);
	bench_shape("4x2048 32/32 96", 32, 32, 96, { 2048, 2048, 2048, 2048 }, 0, paths);
	bench_shape("4x2048 32/32 80", 32, 32, 80, { 2048, 2048, 2048, 2048 }, 0, paths);
	bench_shape("4x2048 16/8 256", 16, 8, 256, { 2048, 2048, 2048, 2048 }, 0, paths);
	for (int planned = 0; planned < 2; planned++) {
		for (int b : { 1, 8, 64 })
			bench_decode(b, 600, 32, 8, 128, planned * b);
		bench_decode(1, 8000, 32, 8, 128, planned);
		bench_decode(64, 600, 32, 8, 64, planned * 64);
	}
	return 0;
}

int main(int argc, char **argv)
{
	const char *what = argc > 1 ? argv[1] : "check";
	int rc;

	setvbuf(stdout, NULL, _IOLBF, 0);

	if (!strcmp(what, "bench"))
		rc = bench(argc > 2 ? atoi(argv[2]) : 6);
	else if (!strcmp(what, "small"))
		rc = check_small();
	else
		rc = check(!strcmp(what, "quick"));
	CK(cudaDeviceSynchronize());
	return rc;
}

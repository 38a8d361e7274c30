/* A CUDA device behind the device table: one stream, memory by cudaMalloc at
 * planning time only, errors kept until the next sync. Never managed memory. */
#include "kernels/cuda.cuh"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* The least compute capability whose tensor cores know the activation type. */
#ifdef LP_F16
#define LEAST 75
#define LEAST_SAYS "7.5 or later is needed"
#else
#define LEAST 80
#define LEAST_SAYS "bf16 needs 8.0 or later; use --compute fp16"
#endif

/* The shared object stands alone: it has no err_set. */
static int fail(struct err *e, const char *what, cudaError_t c)
{
	e->code = LP_DEVICE;
	snprintf(e->msg, sizeof(e->msg), "%s: %s (%s)", what, cudaGetErrorString(c), cudaGetErrorName(c));
	return -1;
}

void cuda_note(struct device *d, cudaError_t c, const char *what)
{
	struct cuda_impl *x = cuda_of(d);

	if (x->recording)
		x->spoiled = true;
	else if (!x->failed[0])
		snprintf(x->failed, sizeof(x->failed), "%s: %s (%s)", what, cudaGetErrorString(c), cudaGetErrorName(c));
	cudaGetLastError();
}

static void check(struct device *d, cudaError_t c, const char *what)
{
	if (c != cudaSuccess)
		cuda_note(d, c, what);
}

/* --- memory --- */

static void *cuda_alloc(struct device *d, uint64_t bytes, const char *what, struct err *e)
{
	void *p = NULL;
	size_t avail = 0, total = 0;
	cudaError_t c = cudaMalloc(&p, bytes ? bytes : 1);

	if (c == cudaErrorMemoryAllocation) {
		cudaGetLastError();
		cudaMemGetInfo(&avail, &total);
		e->code = LP_DEVICE;
		snprintf(e->msg, sizeof(e->msg), "the device has no %.1f MiB for %s (%.1f MiB are free); lower --batch or --max-len, or set --memory",
		         (double)bytes / (1 << 20), what, (double)avail / (1 << 20));
		return NULL;
	}
	if (c == cudaSuccess)
		c = cudaMemsetAsync(p, 0, bytes, cuda_of(d)->stream);
	if (c != cudaSuccess) {
		fail(e, what, c);
		return NULL;
	}
	return p;
}

static void cuda_free(struct device *d, void *p)
{
	check(d, cudaFree(p), "free");
}

/* A copy from pageable memory has read it when it returns. By default the pointers say where memory is: what waits in host memory
 * is uploaded and downloaded as what is on the device. */
static void cuda_upload(struct device *d, void *dst, const void *src, uint64_t bytes)
{
	check(d, cudaMemcpyAsync(dst, src, bytes, cudaMemcpyDefault, cuda_of(d)->stream), "upload");
}

static void cuda_upload_rows(struct device *d, void *dst, uint64_t ld, const void *src, uint64_t row, int64_t n)
{
	check(d, cudaMemcpy2DAsync(dst, ld, src, row, row, (size_t)n, cudaMemcpyHostToDevice, cuda_of(d)->stream), "upload");
}

static void cuda_download(struct device *d, void *dst, const void *src, uint64_t bytes)
{
	/* a copy from the host's memory to the host's need not wait for the stream */
	check(d, cudaStreamSynchronize(cuda_of(d)->stream), "download");
	check(d, cudaMemcpyAsync(dst, src, bytes, cudaMemcpyDefault, cuda_of(d)->stream), "download");
	check(d, cudaStreamSynchronize(cuda_of(d)->stream), "download");
}

static void cuda_copy(struct device *d, void *dst, const void *src, uint64_t bytes)
{
	check(d, cudaMemcpyAsync(dst, src, bytes, cudaMemcpyDeviceToDevice, cuda_of(d)->stream), "copy");
}

static void cuda_zero(struct device *d, void *dst, uint64_t bytes)
{
	check(d, cudaMemsetAsync(dst, 0, bytes, cuda_of(d)->stream), "zero");
}

static void *cuda_host_alloc(struct device *d, uint64_t bytes, const char *what, struct err *e)
{
	void *p = NULL;
	cudaError_t c = cudaMallocHost(&p, bytes ? bytes : 1);

	(void)d;
	if (c == cudaSuccess)
		return p;
	cudaGetLastError();
	e->code = LP_DEVICE;
	snprintf(e->msg, sizeof(e->msg), "the host has no %.1f MiB of page-locked memory for %s; give the device more with --memory", (double)bytes / (1 << 20), what);
	return NULL;
}

static void cuda_host_free(struct device *d, void *p)
{
	check(d, cudaFreeHost(p), "free");
}

static struct cuda_copies *copies(struct cuda_impl *x)
{
	return x->recording ? &x->taped : &x->live;
}

/* Makes a copy stream wait for all operations so far. */
static void follow(struct device *d, cudaStream_t to)
{
	struct cuda_impl *x = cuda_of(d);
	struct cuda_copies *c = copies(x);

	check(d, cudaEventRecord(c->now, x->stream), "copies");
	check(d, cudaStreamWaitEvent(to, c->now, 0), "copies");
	c->joined[to == x->in] = true;
}

static void copied(struct device *d, int slot, cudaStream_t by)
{
	struct cuda_copies *c = copies(cuda_of(d));

	check(d, cudaEventRecord(c->slot[slot], by), "copies");
	c->used[slot] = true;
}

static void cuda_away(struct device *d, int slot, void *host, const void *dev, uint64_t bytes)
{
	struct cuda_impl *x = cuda_of(d);

	follow(d, x->out);
	check(d, cudaMemcpyAsync(host, dev, bytes, cudaMemcpyDeviceToHost, x->out), "copies to the host");
	copied(d, slot, x->out);
}

static void cuda_back(struct device *d, int slot, void *dev, const void *host, uint64_t bytes)
{
	struct cuda_impl *x = cuda_of(d);
	struct cuda_copies *c = copies(x);

	follow(d, x->in);
	if (c->used[slot])
		check(d, cudaStreamWaitEvent(x->in, c->slot[slot], 0), "copies");
	check(d, cudaMemcpyAsync(dev, host, bytes, cudaMemcpyHostToDevice, x->in), "copies from the host");
	copied(d, slot, x->in);
}

static void cuda_await(struct device *d, int slot)
{
	struct cuda_copies *c = copies(cuda_of(d));

	if (c->used[slot])
		check(d, cudaStreamWaitEvent(cuda_of(d)->stream, c->slot[slot], 0), "copies");
}

static int report(struct cuda_impl *x, struct err *e)
{
	if (!x->failed[0])
		return 0;
	e->code = LP_DEVICE;
	snprintf(e->msg, sizeof(e->msg), "%s", x->failed);
	x->failed[0] = 0;
	return -1;
}

static int cuda_settle(struct device *d, int slot, struct err *e)
{
	struct cuda_impl *x = cuda_of(d);

	if (x->live.used[slot])
		check(d, cudaEventSynchronize(x->live.slot[slot]), "the device");
	return e ? report(x, e) : 0;
}

static int cuda_sync(struct device *d, struct err *e)
{
	struct cuda_impl *x = cuda_of(d);

	check(d, cudaStreamSynchronize(x->stream), "the device");
	return report(x, e);
}

static void cuda_memory(struct device *d, uint64_t *unused, uint64_t *total)
{
	size_t a = 0, b = 0;

	check(d, cudaMemGetInfo(&a, &b), "memory");
	*unused = a;
	*total = b;
}

/* --- recordings: CUDA graphs of the stream --- */

/* What copies outside of recordings are doing is over before the stream goes on. */
static void await_all(struct device *d)
{
	for (int i = 0; i < COPY_SLOTS; i++)
		cuda_await(d, i);
}

static bool cuda_record(struct device *d)
{
	struct cuda_impl *x = cuda_of(d);
	cudaError_t c;

	await_all(d);
	c = cudaStreamBeginCapture(x->stream, cudaStreamCaptureModeThreadLocal);
	cudaGetLastError();
	memset(x->taped.used, 0, sizeof(x->taped.used));
	memset(x->taped.joined, 0, sizeof(x->taped.joined));
	x->recording = c == cudaSuccess;
	x->spoiled = false;
	return x->recording;
}

/* A stream that took part in a recording comes back to the first one before it ends. */
static void rejoin(struct device *d, cudaStream_t from)
{
	struct cuda_impl *x = cuda_of(d);

	if (!x->taped.joined[from == x->in])
		return;
	check(d, cudaEventRecord(x->taped.now, from), "copies");
	check(d, cudaStreamWaitEvent(x->stream, x->taped.now, 0), "copies");
}

static void *cuda_recorded(struct device *d, int64_t *operations)
{
	struct cuda_impl *x = cuda_of(d);
	cudaGraph_t graph = NULL;
	cudaGraphExec_t run = NULL;
	size_t n = 0;
	cudaError_t c;

	rejoin(d, x->out);
	rejoin(d, x->in);
	c = cudaStreamEndCapture(x->stream, &graph);
	x->recording = false;
	if (c == cudaSuccess && !x->spoiled)
		c = cudaGraphInstantiate(&run, graph, 0);
	if (graph && operations && cudaGraphGetNodes(graph, NULL, &n) == cudaSuccess)
		*operations = (int64_t)n;
	if (graph)
		cudaGraphDestroy(graph);
	cudaGetLastError();
	return c == cudaSuccess ? run : NULL;
}

static void cuda_replay(struct device *d, void *recording)
{
	await_all(d);
	check(d, cudaGraphLaunch((cudaGraphExec_t)recording, cuda_of(d)->stream), "a recording");
}

/* One that is still running is freed when it has ended. */
static void cuda_forget(struct device *d, void *recording)
{
	check(d, cudaGraphExecDestroy((cudaGraphExec_t)recording), "a recording");
}

static void close_copies(struct cuda_copies *c)
{
	for (int i = 0; i < COPY_SLOTS; i++)
		if (c->slot[i])
			cudaEventDestroy(c->slot[i]);
	if (c->now)
		cudaEventDestroy(c->now);
}

static void cuda_close(struct device *d)
{
	struct cuda_impl *x = cuda_of(d);

	if (!x)
		return;
	gemm_close(d);
	cudaFree(x->partials);
	close_copies(&x->live);
	close_copies(&x->taped);
	if (x->sent)
		cudaEventDestroy(x->sent);
	if (x->out)
		cudaStreamDestroy(x->out);
	if (x->in)
		cudaStreamDestroy(x->in);
	if (x->stream)
		cudaStreamDestroy(x->stream);
	free(x);
	d->impl = NULL;
}

static const struct kn_ops cuda_ops(void)
{
	struct kn_ops k;

	memset(&k, 0, sizeof(k));
	k.alloc = cuda_alloc;
	k.free = cuda_free;
	k.upload = cuda_upload;
	k.upload_rows = cuda_upload_rows;
	k.download = cuda_download;
	k.copy = cuda_copy;
	k.zero = cuda_zero;
	k.host_alloc = cuda_host_alloc;
	k.host_free = cuda_host_free;
	k.away = cuda_away;
	k.back = cuda_back;
	k.await = cuda_await;
	k.settle = cuda_settle;
	k.sync = cuda_sync;
	k.memory = cuda_memory;
	k.close = cuda_close;
	k.record = cuda_record;
	k.recorded = cuda_recorded;
	k.replay = cuda_replay;
	k.forget = cuda_forget;
	k.gemm = kn_gemm_cuda;
	k.embed_fwd = kn_embed_fwd_cuda;
	k.embed_host = kn_embed_host_cuda;
	k.embed_bwd = kn_embed_bwd_cuda;
	k.rmsnorm_fwd = kn_rmsnorm_fwd_cuda;
	k.rmsnorm_bwd = kn_rmsnorm_bwd_cuda;
	k.rope = kn_rope_cuda;
	k.attn_fwd = kn_attn_fwd_cuda;
	k.attn_bwd = kn_attn_bwd_cuda;
	k.kv_append = kn_kv_append_cuda;
	k.attn_decode = kn_attn_decode_cuda;
	k.swiglu_fwd = kn_swiglu_fwd_cuda;
	k.swiglu_bwd = kn_swiglu_bwd_cuda;
	k.gated_fwd = kn_gated_fwd_cuda;
	k.gated_bwd = kn_gated_bwd_cuda;
	k.xent_segment = kn_xent_segment_cuda;
	k.xent_end = kn_xent_end_cuda;
	k.xent_whole = kn_xent_whole_cuda;
	k.pref_values = kn_pref_values_cuda;
	k.pref_loss = kn_pref_loss_cuda;
	k.pref_rows = kn_pref_rows_cuda;
	k.pref_drift = kn_pref_drift_cuda;
	k.grpo_loss = kn_grpo_loss_cuda;
	k.grpo_rows = kn_grpo_rows_cuda;
	k.score_fwd = kn_score_fwd_cuda;
	k.score_bwd = kn_score_bwd_cuda;
	k.dropout = kn_dropout_cuda;
	k.bias_add = kn_bias_add_cuda;
	k.gather_rows = kn_gather_rows_cuda;
	k.scatter_rows = kn_scatter_rows_cuda;
	k.copy_rows = kn_copy_rows_cuda;
	k.to_host = kn_to_host_cuda;
	k.sum_squares = kn_sum_squares_cuda;
	k.sum = kn_sum_cuda;
	k.add_squares = kn_add_squares_cuda;
	k.col_sums = kn_col_sums_cuda;
	k.adam = kn_adam_cuda;
	k.basis = kn_basis_cuda;
	k.add_update = kn_add_update_cuda;
	k.nf4_quant = kn_nf4_quant_cuda;
	k.nf4_dequant = kn_nf4_dequant_cuda;
	k.convert = kn_convert_cuda;
	k.adapter_place = kn_adapter_place_cuda;
	k.adapter_down = kn_adapter_down_cuda;
	k.adapter_outer = kn_adapter_outer_cuda;
	k.adapter_through = kn_adapter_through_cuda;
	k.adapter_grad = kn_adapter_grad_cuda;
	k.row_squares = kn_row_squares_cuda;
	k.dora_factors = kn_dora_factors_cuda;
	k.dora_out = kn_dora_out_cuda;
	k.dora_back = kn_dora_back_cuda;
	k.dora_gate_fwd = kn_dora_gate_fwd_cuda;
	k.dora_gate_bwd = kn_dora_gate_bwd_cuda;
	k.dora_rest = kn_dora_rest_cuda;
#ifndef LP_F16 /* its products for few rows are bf16's alone: fp16 decodes by dense products (device.h, few) */
	k.skinny = kn_skinny_cuda;
#endif
	k.pick = kn_pick_cuda;
	k.kv_turn = kn_kv_turn_cuda;
	k.fp8_rows = kn_fp8_rows_cuda;
	k.fp8_cols = kn_fp8_cols_cuda;
	k.fp8_place = kn_fp8_place_cuda;
	k.fp8_gemm = kn_fp8_gemm_cuda;
	return k;
}

static cudaError_t open_events(struct cuda_copies *s)
{
	cudaError_t c = cudaEventCreateWithFlags(&s->now, cudaEventDisableTiming);

	for (int i = 0; i < COPY_SLOTS && c == cudaSuccess; i++)
		c = cudaEventCreateWithFlags(&s->slot[i], cudaEventDisableTiming);
	return c;
}

static cudaError_t open_copies(struct cuda_impl *x)
{
	cudaError_t c = cudaStreamCreateWithFlags(&x->out, cudaStreamNonBlocking);

	if (c == cudaSuccess)
		c = cudaStreamCreateWithFlags(&x->in, cudaStreamNonBlocking);
	if (c == cudaSuccess)
		c = cudaEventCreateWithFlags(&x->sent, cudaEventDisableTiming);
	if (c == cudaSuccess)
		c = open_events(&x->live);
	return c == cudaSuccess ? open_events(&x->taped) : c;
}

/* Tests let a large GPU do as a small one does: LP_CUDA_SHARED is the bytes of shared memory that a thread block may have. */
static void limit_shared(struct cuda_impl *x)
{
	const char *s = getenv("LP_CUDA_SHARED");
	int n = s ? (int)strtol(s, NULL, 10) : 0;

	if (n > 0 && n < x->shared)
		x->shared = n;
}

static int open_impl(struct device *d, int index, struct err *e)
{
	struct cuda_impl *x = (struct cuda_impl *)calloc(1, sizeof(*x));
	int major = 0;
	cudaError_t c;

	if (!x)
		return fail(e, "the device's state", cudaErrorMemoryAllocation);
	d->impl = x;
	c = cudaSetDevice(index);
	if (c == cudaSuccess)
		c = cudaStreamCreateWithFlags(&x->stream, cudaStreamNonBlocking);
	if (c == cudaSuccess)
		c = open_copies(x);
	if (c == cudaSuccess)
		c = cudaMalloc((void **)&x->partials, SUM_BLOCKS * sizeof(double));
	if (c == cudaSuccess)
		c = cudaDeviceGetAttribute(&x->sms, cudaDevAttrMultiProcessorCount, index);
	if (c != cudaSuccess)
		return fail(e, "the device", c);
	c = cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, index);
	if (c == cudaSuccess)
		c = cudaDeviceGetAttribute(&x->shared, cudaDevAttrMaxSharedMemoryPerBlockOptin, index);
	if (c != cudaSuccess)
		return fail(e, "the device", c);
	x->chains = major >= 9;
	limit_shared(x);
	if (gemm_open(d, e) < 0 || nf4_open(d, e) < 0 || adam_open(d, e) < 0)
		return -1;
#ifndef LP_F16
	if (skinny_open(d, e) < 0)
		return -1;
#endif
	return cuda_sync(d, e);
}

/* d comes described (kind, types, attention's scratch); this adds the functions and the device itself. */
extern "C" __attribute__((visibility("default"))) int device_open_cuda(struct device *d, int index, struct err *e)
{
	struct kn_ops planned = d->k;
	struct cudaDeviceProp p;
	size_t avail = 0, total = 0;
	int n = 0;
	cudaError_t c = cudaGetDeviceCount(&n);

	if (c != cudaSuccess || n == 0) {
		e->code = LP_DEVICE;
		snprintf(e->msg, sizeof(e->msg), "no CUDA device can be used: %s; is the driver installed, and new enough for CUDA %d.%d?",
		         c == cudaSuccess ? "none is there" : cudaGetErrorString(c), CUDART_VERSION / 1000, CUDART_VERSION % 1000 / 10);
		return -1;
	}
	if (index >= n) {
		e->code = LP_USAGE;
		snprintf(e->msg, sizeof(e->msg), "there is no CUDA device %d; the last is cuda:%d", index, n - 1);
		return -1;
	}
	c = cudaGetDeviceProperties(&p, index);
	if (c != cudaSuccess)
		return fail(e, "the device", c);
	if (10 * p.major + p.minor < LEAST) {
		e->code = LP_DEVICE;
		snprintf(e->msg, sizeof(e->msg), "%.60s has compute capability %d.%d; " LEAST_SAYS, p.name, p.major, p.minor);
		return -1;
	}
	if (d->act != ACT_DTYPE) {
		e->code = LP_DEVICE;
		snprintf(e->msg, sizeof(e->msg), "the CUDA libraries of this build are mixed up; install one build whole");
		return -1;
	}
	d->index = index;
	if (open_impl(d, index, e) < 0) {
		cuda_close(d);
		return -1;
	}
	d->k = cuda_ops();
	d->k.attn_scratch = planned.attn_scratch;
	d->k.decode_scratch = planned.decode_scratch;
	d->k.adapter_scratch = planned.adapter_scratch;
	d->k.basis_scratch = planned.basis_scratch;
	d->k.skinny_scratch = planned.skinny_scratch;
	cudaMemGetInfo(&avail, &total);
	d->free_bytes = avail;
	d->fp8 = d->fp8 && p.major >= 9;
	snprintf(d->name, sizeof(d->name), "cuda:%d, %.40s, compute capability %d.%d, %s", index, p.name, p.major, p.minor, ACT_DTYPE == DT_F16 ? "fp16" : "bf16");
	return 0;
}

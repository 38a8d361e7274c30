#include "kernels/device.h"

#include <cblas.h>
#include <dlfcn.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/num.h"
#include "base/xalloc.h"
#include "kernels/gemm_pack.h"

/* The number behind a word that begins a line of a file ("" is before the first); UINT64_MAX: there is none. */
static uint64_t number_in(const char *path, const char *word)
{
	FILE *f = fopen(path, "r");
	uint64_t n = UINT64_MAX;
	char line[128];

	while (f && n == UINT64_MAX && fgets(line, sizeof(line), f)) {
		unsigned long long v;

		if (strncmp(line, word, strlen(word)) == 0 && sscanf(line + strlen(word), "%llu", &v) == 1)
			n = v;
	}
	if (f)
		fclose(f);
	return n;
}

/* What a container's limit leaves, in either version of control groups. */
static uint64_t limited_memory(void)
{
	static const char *const files[2][3] = {
		{ "/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.stat", "anon " },
		{ "/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.stat", "total_rss " },
	};
	uint64_t least = UINT64_MAX;

	for (int i = 0; i < 2; i++) {
		uint64_t most = number_in(files[i][0], ""), used = number_in(files[i][1], files[i][2]), left = most > used ? most - used : 0;

		if (most != UINT64_MAX && used != UINT64_MAX && left < least)
			least = left;
	}
	return least;
}

static uint64_t available_memory(void)
{
	long pages = sysconf(_SC_AVPHYS_PAGES), size = sysconf(_SC_PAGESIZE);
	uint64_t unused = pages > 0 && size > 0 ? (uint64_t)pages * (uint64_t)size : 0, limited = limited_memory();
	uint64_t kib = number_in("/proc/meminfo", "MemAvailable:"); /* page cache counts as free: it knows how much of it */

	if (kib != UINT64_MAX)
		unused = kib * 1024;
	return unused < limited ? unused : limited;
}

static void *cpu_alloc(struct device *d, uint64_t bytes, const char *what, struct err *e)
{
	void *p = lp_try_alloc(1, bytes ? bytes : 1, what, e);

	(void)d;
	if (p)
		memset(p, 0, bytes);
	return p;
}

static void cpu_free(struct device *d, void *p)
{
	(void)d;
	free(p);
}

static void cpu_copy(struct device *d, void *dst, const void *src, uint64_t bytes)
{
	(void)d;
	memmove(dst, src, bytes);
}

static void cpu_upload_rows(struct device *d, void *dst, uint64_t ld_bytes, const void *src, uint64_t row_bytes, int64_t n)
{
	(void)d;
	for (int64_t i = 0; i < n; i++)
		memcpy((char *)dst + (uint64_t)i * ld_bytes, (const char *)src + (uint64_t)i * row_bytes, row_bytes);
}

static void cpu_zero(struct device *d, void *dst, uint64_t bytes)
{
	(void)d;
	memset(dst, 0, bytes);
}

static void cpu_away(struct device *d, int slot, void *host, const void *dev, uint64_t bytes)
{
	(void)slot;
	cpu_copy(d, host, dev, bytes);
}

static void cpu_await(struct device *d, int slot)
{
	(void)d;
	(void)slot;
}

static int cpu_settle(struct device *d, int slot, struct err *e)
{
	(void)d;
	(void)slot;
	(void)e;
	return 0;
}

static int cpu_sync(struct device *d, struct err *e)
{
	(void)d;
	(void)e;
	return 0;
}

static void cpu_memory(struct device *d, uint64_t *unused, uint64_t *total)
{
	(void)d;
	*unused = available_memory();
	*total = (uint64_t)sysconf(_SC_PHYS_PAGES) * (uint64_t)sysconf(_SC_PAGESIZE);
}

static void cpu_close(struct device *d)
{
	gemm_room_free(d->impl);
	d->impl = NULL;
}

static bool cpu_record(struct device *d)
{
	(void)d;
	return false;
}

static const struct kn_ops cpu_ops = {
	.alloc = cpu_alloc,
	.free = cpu_free,
	.upload = cpu_copy,
	.upload_rows = cpu_upload_rows,
	.download = cpu_copy,
	.copy = cpu_copy,
	.zero = cpu_zero,
	.host_alloc = cpu_alloc,
	.host_free = cpu_free,
	.away = cpu_away,
	.back = cpu_away,
	.await = cpu_await,
	.settle = cpu_settle,
	.sync = cpu_sync,
	.memory = cpu_memory,
	.close = cpu_close,
	.record = cpu_record,
	.gemm = kn_gemm_cpu,
	.embed_fwd = kn_embed_fwd_cpu,
	.embed_host = kn_embed_host_cpu,
	.embed_bwd = kn_embed_bwd_cpu,
	.rmsnorm_fwd = kn_rmsnorm_fwd_cpu,
	.rmsnorm_bwd = kn_rmsnorm_bwd_cpu,
	.rope = kn_rope_cpu,
	.attn_scratch = kn_attn_scratch_cpu,
	.decode_scratch = kn_decode_scratch_cpu,
	.attn_fwd = kn_attn_fwd_cpu,
	.attn_bwd = kn_attn_bwd_cpu,
	.kv_append = kn_kv_append_cpu,
	.attn_decode = kn_attn_decode_cpu,
	.swiglu_fwd = kn_swiglu_fwd_cpu,
	.swiglu_bwd = kn_swiglu_bwd_cpu,
	.gated_fwd = kn_gated_fwd_cpu,
	.gated_bwd = kn_gated_bwd_cpu,
	.xent_segment = kn_xent_segment_cpu,
	.xent_end = kn_xent_end_cpu,
	.xent_whole = kn_xent_whole_cpu,
	.pref_values = kn_pref_values_cpu,
	.pref_loss = kn_pref_loss_cpu,
	.pref_rows = kn_pref_rows_cpu,
	.pref_drift = kn_pref_drift_cpu,
	.grpo_loss = kn_grpo_loss_cpu,
	.grpo_rows = kn_grpo_rows_cpu,
	.score_fwd = kn_score_fwd_cpu,
	.score_bwd = kn_score_bwd_cpu,
	.dropout = kn_dropout_cpu,
	.bias_add = kn_bias_add_cpu,
	.gather_rows = kn_gather_rows_cpu,
	.scatter_rows = kn_scatter_rows_cpu,
	.copy_rows = kn_copy_rows_cpu,
	.to_host = kn_to_host_cpu,
	.sum_squares = kn_sum_squares_cpu,
	.sum = kn_sum_cpu,
	.add_squares = kn_add_squares_cpu,
	.col_sums = kn_col_sums_cpu,
	.adam = kn_adam_cpu,
	.basis = kn_basis_cpu,
	.basis_scratch = kn_basis_scratch_cpu,
	.add_update = kn_add_update_cpu,
	.nf4_quant = kn_nf4_quant_cpu,
	.nf4_dequant = kn_nf4_dequant_cpu,
	.convert = kn_convert_cpu,
	.adapter_place = kn_adapter_place_cpu,
	.fp8_rows = kn_fp8_rows_cpu,
	.fp8_cols = kn_fp8_cols_cpu,
	.fp8_place = kn_fp8_place_cpu,
	.fp8_gemm = kn_fp8_gemm_cpu,
	.adapter_down = kn_adapter_down_cpu,
	.adapter_outer = kn_adapter_outer_cpu,
	.adapter_through = kn_adapter_through_cpu,
	.adapter_grad = kn_adapter_grad_cpu,
	.adapter_scratch = kn_adapter_scratch_cpu,
	.row_squares = kn_row_squares_cpu,
	.dora_factors = kn_dora_factors_cpu,
	.dora_out = kn_dora_out_cpu,
	.dora_back = kn_dora_back_cpu,
	.dora_gate_fwd = kn_dora_gate_fwd_cpu,
	.dora_gate_bwd = kn_dora_gate_bwd_cpu,
	.dora_rest = kn_dora_rest_cpu,
	.skinny = kn_skinny_cpu,
	.skinny_scratch = kn_skinny_scratch_cpu,
	.pick = kn_pick_cpu,
	.kv_turn = kn_kv_turn_cpu,
};

/* What a CUDA device is planned with; kernels/cuda_device.cu takes the same. */
static void describe_cuda(struct device *d, enum dtype act)
{
	d->kind = DEVICE_CUDA;
	snprintf(d->name, sizeof(d->name), "cuda, %s, planned without one", act == DT_F16 ? "fp16" : "bf16");
	d->act = act;
	d->row_pad = 64; /* 128 bytes: what the copy engine and the memory like */
	d->logits = 1 << 27;
	d->segment = 14336; /* two of them lie in the room of an 8B model's gate and up, and sums come and go in a few hundredths of a product's time */
	d->overhead = 580ull << 20; /* an H100, driver 580: 563 MiB at first, 575 in the end */
	/* the same: 0.5 MiB a layer in a step of 8B, 1 MiB in one of 70B whose activations travel */
	d->launch_bytes = 9 << 10;
	d->fp8 = act == DT_BF16;
	d->few = act == DT_BF16 ? 64 : 0;
	/* an H100's, under a whole step's load; other cards are slower at all three alike, and plans look at ratios */
	d->flops = 700e12;
	d->memory_rate = 2.7e12;
	d->host_rate = 50e9;
	d->host_bytes = available_memory() / 2;
	d->ahead = 1;
	d->k.attn_scratch = kn_attn_scratch_cuda;
	d->k.decode_scratch = kn_decode_scratch_cuda;
	d->k.adapter_scratch = kn_adapter_scratch_cuda;
	d->k.basis_scratch = kn_basis_scratch_cuda;
	d->k.skinny_scratch = kn_skinny_scratch_cuda;
}

/* Cores that this process may run on (taskset and cgroup cpusets count). */
static int usable_cores(void)
{
	cpu_set_t set;

	if (sched_getaffinity(0, sizeof(set), &set) == 0 && CPU_COUNT(&set) > 0)
		return CPU_COUNT(&set);
	return 1;
}

static int open_cpu(struct device *d, int threads, struct err *e)
{
	struct gemm_room *room;

	d->kind = DEVICE_CPU;
	d->act = DT_F32;
	d->row_pad = 16;
	d->fp8 = true;
	d->logits = 1 << 24;
	d->segment = 4096;
	d->threads = threads > 0 ? threads : usable_cores();
	d->free_bytes = available_memory();
	d->host_bytes = d->free_bytes / 2;
	d->flops = 1e11;
	d->memory_rate = 2e10;
	d->k = cpu_ops;
	/* tiles are ours to spread over threads: each product stays on one */
	openblas_set_num_threads(1);
	if (gemm_room_new(16, &room, e) < 0)
		return -1;
	d->impl = room;
	snprintf(d->name, sizeof(d->name), "cpu, %d threads, OpenBLAS %s", d->threads, openblas_get_corename());
	return 0;
}

/* A shared object: beside the program's own folder (../lib), or where it was
 * installed (../lib/lorapipe), or wherever the loader finds it. */
static void *open_library(const char *name)
{
	char self[4096], path[4400];
	ssize_t n = readlink("/proc/self/exe", self, sizeof(self) - 1);
	const char *const folder[] = { "/../lib", "/../lib/lorapipe" };
	void *lib = NULL;

	if (n > 0) {
		self[n] = 0;
		*strrchr(self, '/') = 0;
		for (int i = 0; i < 2 && !lib; i++) {
			snprintf(path, sizeof(path), "%s%s/%s", self, folder[i], name);
			lib = dlopen(path, RTLD_NOW | RTLD_LOCAL);
		}
	}
	return lib ? lib : dlopen(name, RTLD_NOW | RTLD_LOCAL);
}

/* Ten times the compute capability of a GPU, as the driver says before any library is chosen; 0: it says nothing. */
static int capability(int index)
{
	enum { MAJOR = 75, MINOR = 76 }; /* of CUdevice_attribute */
	typedef int init_fn(unsigned), device_fn(int *, int), attribute_fn(int *, int, int);
	void *lib = dlopen("libcuda.so.1", RTLD_LAZY | RTLD_LOCAL);
	int dev, major, minor;
	init_fn *init;
	device_fn *device;
	attribute_fn *attribute;

	if (!lib)
		return 0;
	/* POSIX lets a data pointer from dlsym be called as a function */
	*(void **)&init = dlsym(lib, "cuInit");
	*(void **)&device = dlsym(lib, "cuDeviceGet");
	*(void **)&attribute = dlsym(lib, "cuDeviceGetAttribute");
	if (!init || !device || !attribute || init(0) != 0 || device(&dev, index) != 0 || attribute(&major, MAJOR, dev) != 0 || attribute(&minor, MINOR, dev) != 0)
		return 0;
	return 10 * major + minor;
}

/* What activations are asked to be; of auto what the GPU's tensor cores know, bf16 when nothing is known of it. */
static enum dtype act_of(const char *compute, int cc)
{
	if (strcmp(compute, "auto") == 0)
		return cc > 0 && cc < 80 ? DT_F16 : DT_BF16;
	return strcmp(compute, "fp16") == 0 ? DT_F16 : DT_BF16;
}

static int open_cuda(struct device *d, int index, const char *compute, struct err *e)
{
	typedef int open_fn(struct device *, int, struct err *);
	enum dtype act = act_of(compute, strcmp(compute, "auto") == 0 ? capability(index) : 0);
	const char *name = act == DT_F16 ? "liblorapipe_cuda_f16.so" : "liblorapipe_cuda.so";
	void *lib = open_library(name);
	char self[sizeof(d->name)];
	open_fn *fn;

	if (!lib)
		return err_set(e, LP_DEVICE, "this build has no CUDA kernels for %s (%s); use --device cpu, or build with CUDA=1 and install it whole",
		               act == DT_F16 ? "fp16" : "bf16", dlerror());
	*(void **)&fn = dlsym(lib, "device_open_cuda");
	if (!fn)
		return err_set(e, LP_DEVICE, "%s is of another version: no device_open_cuda; install one build whole", name);
	describe_cuda(d, act);
	if (fn(d, index, e) < 0)
		return -1;
	if (strcmp(compute, "fp8") == 0 && !d->fp8) {
		snprintf(self, sizeof(self), "%s", d->name);
		device_close(d);
		return err_set(e, LP_DEVICE, "%s: products of 8 bits need compute capability 9.0 or later; use --compute bf16", self);
	}
	return 0;
}

static bool has_driver(void)
{
	void *lib = dlopen("libcuda.so.1", RTLD_LAZY | RTLD_LOCAL);

	if (lib)
		dlclose(lib);
	return lib != NULL;
}

static int check_compute(const char **compute, struct err *e)
{
	if (!*compute)
		*compute = "auto";
	if (strcmp(*compute, "auto") != 0 && strcmp(*compute, "bf16") != 0 && strcmp(*compute, "fp16") != 0 && strcmp(*compute, "fp8") != 0)
		return err_set(e, LP_USAGE, "unknown type to compute in, '%s'; use auto, bf16, fp16 or fp8", *compute);
	return 0;
}

int device_open(struct device *d, const char *spec, const char *compute, int threads, struct err *e)
{
	struct err none = ERR_INIT;
	uint64_t index = 0;

	memset(d, 0, sizeof(*d));
	if (check_compute(&compute, e) < 0)
		return -1;
	if (strcmp(spec, "cuda") == 0 || (strncmp(spec, "cuda:", 5) == 0 && parse_u64(spec + 5, &index) && index < 1024))
		return open_cuda(d, (int)index, compute, e);
	if (strcmp(spec, "cpu") != 0 && strcmp(spec, "auto") != 0)
		return err_set(e, LP_USAGE, "unknown device '%s'; use auto, cpu, cuda or cuda:N", spec);
	/* without a driver there is no device, and no need to load what only works with one */
	if (strcmp(spec, "auto") == 0 && has_driver() && open_cuda(d, 0, compute, &none) == 0)
		return 0;
	if (strcmp(compute, "auto") != 0)
		return err_set(e, LP_USAGE, "the CPU computes in fp32, not %s%s%s; leave --compute out, or name a GPU with --device cuda", compute,
		               none.msg[0] ? ", and there is no GPU: " : "", none.msg);
	memset(d, 0, sizeof(*d));
	return open_cpu(d, threads, e);
}

int device_open_plan(struct device *d, const char *spec, const char *compute, int threads, struct err *e)
{
	if (strncmp(spec, "cuda", 4) != 0)
		return device_open(d, spec, compute, threads, e);
	memset(d, 0, sizeof(*d));
	if (check_compute(&compute, e) < 0 || open_cpu(d, threads, e) < 0)
		return -1;
	describe_cuda(d, act_of(compute, 0));
	return 0;
}

void device_close(struct device *d)
{
	if (d->k.close)
		d->k.close(d);
}

void *device_alloc(struct device *d, uint64_t bytes, const char *what, struct err *e)
{
	return d->k.alloc(d, bytes, what, e);
}

void device_free(struct device *d, void *p)
{
	d->k.free(d, p);
}

void device_upload(struct device *d, void *dst, const void *src, uint64_t bytes)
{
	d->k.upload(d, dst, src, bytes);
}

void device_download(struct device *d, void *dst, const void *src, uint64_t bytes)
{
	d->k.download(d, dst, src, bytes);
}

void device_copy(struct device *d, void *dst, const void *src, uint64_t bytes)
{
	d->k.copy(d, dst, src, bytes);
}

void device_zero(struct device *d, void *dst, uint64_t bytes)
{
	d->k.zero(d, dst, bytes);
}

int device_sync(struct device *d, struct err *e)
{
	return d->k.sync(d, e);
}

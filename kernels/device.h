/* The device table: every kernel is called through function pointers that are
 * filled once, when the device is opened. Callers know shapes and pointers of
 * device memory, never a backend. CUDA kernels live in a shared object that is
 * opened only for --device cuda.
 *
 * All calls are asynchronous in contract: results and errors are certain after
 * dev_sync. Matrices are row-major. T counts tokens of all sequences of a
 * micro-batch laid end to end, without padding. Activations are of the device's
 * own type (CPU: fp32); reductions accumulate in fp32 or wider, in an order
 * that follows from shapes alone: neither threads nor free memory change bits. */
#ifndef LP_KERNELS_DEVICE_H
#define LP_KERNELS_DEVICE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "fmt/dtype.h"
#include "kernels/adam.h"
#include "kernels/adapter.h"
#include "kernels/attn.h"
#include "kernels/basis.h"
#include "kernels/dora.h"
#include "kernels/dropout.h"
#include "kernels/embed.h"
#include "kernels/fp8.h"
#include "kernels/gated.h"
#include "kernels/gemm.h"
#include "kernels/grpo.h"
#include "kernels/nf4.h"
#include "kernels/pick.h"
#include "kernels/pref.h"
#include "kernels/rmsnorm.h"
#include "kernels/rope.h"
#include "kernels/skinny.h"
#include "kernels/swiglu.h"
#include "kernels/vec.h"
#include "kernels/xent.h"

enum { COPY_SLOTS = 16 };

struct kn_ops {
	/* memory: 256-byte aligned, cleared; uploads read src before they return. What they fill, and what download reads, may be
	 * memory of host_alloc too */
	void *(*alloc)(struct device *d, uint64_t bytes, const char *what, struct err *e);
	void (*free)(struct device *d, void *p);
	void (*upload)(struct device *d, void *dst, const void *src, uint64_t bytes);
	/* n rows of row_bytes, ld_bytes apart at dst, end to end at src */
	void (*upload_rows)(struct device *d, void *dst, uint64_t ld_bytes, const void *src, uint64_t row_bytes, int64_t n);
	void (*download)(struct device *d, void *dst, const void *src, uint64_t bytes);
	void (*copy)(struct device *d, void *dst, const void *src, uint64_t bytes);
	void (*zero)(struct device *d, void *dst, uint64_t bytes);
	/* host memory that travels fast, and copies that travel while operations run. A slot (0 .. COPY_SLOTS - 1) is a device
	 * buffer's name: away copies it to the host after all operations so far; back copies from the host, after all operations so
	 * far and what the slot did before; await: operations from now on wait for the slot; settle: the host waits for the slot's
	 * last copy, and for nothing behind it, and with e reports what went wrong so far, as sync does. */
	void *(*host_alloc)(struct device *d, uint64_t bytes, const char *what, struct err *e);
	void (*host_free)(struct device *d, void *p);
	void (*away)(struct device *d, int slot, void *host, const void *dev, uint64_t bytes);
	void (*back)(struct device *d, int slot, void *dev, const void *host, uint64_t bytes);
	void (*await)(struct device *d, int slot);
	int (*settle)(struct device *d, int slot, struct err *e);
	int (*sync)(struct device *d, struct err *e);
	void (*memory)(struct device *d, uint64_t *unused, uint64_t *total); /* bytes of the whole device */
	void (*close)(struct device *d);
	/* Operations between record and recorded do not run: they become a recording that replay runs as often as wanted, with the
	 * same arguments and no cost for each launch. Nothing in between may wait, allocate or copy from the host, but for the
	 * slots' copies: those of a recording are done where it ends, and none is on its way where it begins. operations, unless
	 * NULL: how many it holds. false, or NULL: the device cannot, and nothing was recorded. */
	bool (*record)(struct device *d);
	void *(*recorded)(struct device *d, int64_t *operations);
	void (*replay)(struct device *d, void *recording);
	void (*forget)(struct device *d, void *recording);
	/* operations */
	kn_gemm_fn *gemm;
	kn_embed_fwd_fn *embed_fwd;
	kn_embed_host_fn *embed_host;
	kn_embed_bwd_fn *embed_bwd;
	kn_rmsnorm_fwd_fn *rmsnorm_fwd;
	kn_rmsnorm_bwd_fn *rmsnorm_bwd;
	kn_rope_fn *rope;
	kn_attn_scratch_fn *attn_scratch;
	kn_decode_scratch_fn *decode_scratch;
	kn_attn_fwd_fn *attn_fwd;
	kn_attn_bwd_fn *attn_bwd;
	kn_kv_append_fn *kv_append;
	kn_attn_decode_fn *attn_decode;
	kn_swiglu_fwd_fn *swiglu_fwd;
	kn_swiglu_bwd_fn *swiglu_bwd;
	kn_gated_fn *gated_fwd, *gated_bwd;
	kn_xent_segment_fn *xent_segment;
	kn_xent_end_fn *xent_end;
	kn_xent_whole_fn *xent_whole;
	kn_pref_values_fn *pref_values;
	kn_pref_loss_fn *pref_loss;
	kn_pref_rows_fn *pref_rows;
	kn_pref_drift_fn *pref_drift;
	kn_grpo_loss_fn *grpo_loss;
	kn_grpo_rows_fn *grpo_rows;
	kn_score_fwd_fn *score_fwd;
	kn_score_bwd_fn *score_bwd;
	kn_dropout_fn *dropout;
	kn_bias_add_fn *bias_add;
	kn_gather_rows_fn *gather_rows;
	kn_scatter_rows_fn *scatter_rows;
	kn_copy_rows_fn *copy_rows;
	kn_to_host_fn *to_host;
	kn_sum_squares_fn *sum_squares;
	kn_sum_fn *sum;
	kn_add_squares_fn *add_squares;
	kn_col_sums_fn *col_sums;
	kn_adam_fn *adam;
	kn_basis_fn *basis;
	kn_basis_scratch_fn *basis_scratch;
	kn_add_update_fn *add_update;
	kn_nf4_quant_fn *nf4_quant;
	kn_nf4_dequant_fn *nf4_dequant;
	kn_convert_fn *convert;
	kn_adapter_place_fn *adapter_place;
	kn_adapter_outer_fn *adapter_down, *adapter_outer, *adapter_through;
	kn_adapter_grad_fn *adapter_grad;
	kn_adapter_scratch_fn *adapter_scratch;
	kn_row_squares_fn *row_squares;
	kn_dora_factors_fn *dora_factors;
	kn_dora_out_fn *dora_out;
	kn_dora_back_fn *dora_back;
	kn_dora_gate_fn *dora_gate_fwd, *dora_gate_bwd;
	kn_dora_rest_fn *dora_rest;
	kn_skinny_fn *skinny; /* may be NULL where few is 0 */
	kn_skinny_scratch_fn *skinny_scratch;
	kn_pick_fn *pick;
	kn_kv_turn_fn *kv_turn;
	kn_fp8_rows_fn *fp8_rows;
	kn_fp8_cols_fn *fp8_cols;
	kn_fp8_place_fn *fp8_place;
	kn_fp8_gemm_fn *fp8_gemm;
};

enum device_kind { DEVICE_CPU, DEVICE_CUDA };

struct device {
	enum device_kind kind;
	int index;           /* CUDA device number */
	int threads;         /* CPU threads */
	char name[96];       /* "cpu, 2 threads, OpenBLAS Zen" */
	uint64_t free_bytes; /* memory that a run may plan with */
	uint64_t host_bytes; /* host memory that a run may lock in place: half of what is available */
	uint64_t overhead;   /* bytes of the device that the context and its libraries take, beside any plan */
	uint64_t launch_bytes; /* of the device, that an operation takes in a recording; 0: it has none */
	enum dtype act;      /* of activations and of dense weights: DT_F32 (CPU), DT_BF16 or DT_F16 */
	int64_t row_pad;     /* what is added to a row is a multiple of this many elements */
	int64_t logits;      /* elements of a chunk of logits that pay */
	int64_t segment;     /* rows of the head that pay in one product of the loss (xent.h) */
	bool fp8;            /* products of 8 bits (fp8.h): the CPU has their definition, GPUs from compute capability 9.0 on */
	int ahead;           /* optimiser steps that are queued before the sums of the one ahead of them are looked at */
	int64_t few;         /* up to so many rows skinny is faster than a dense product; 0: never */
	/* what plans reckon with, a second: operations of a large product, bytes of memory read or written, bytes to host memory, and as
	 * many back; 0: host memory is the device's own */
	double flops, memory_rate, host_rate;
	struct kn_ops k;
	void *impl;
};

/* spec: "auto", "cpu", "cuda", "cuda:N". compute, the type of activations on CUDA: "bf16", "fp16", or "auto" (NULL): bf16
 * where the GPU's tensor cores know it (compute capability 8.0), else fp16; "fp8" is bf16 on a device that has products of 8 bits. The CPU takes "auto" alone. threads 0: one for each
 * core that the process may use. LP_DEVICE when a CUDA device is asked for and cannot be had. */
int device_open(struct device *d, const char *spec, const char *compute, int threads, struct err *e) LP_MUST_USE;
/* A device that is only planned for: sizes and types, no memory, no work. Needs no GPU, and takes auto for bf16. */
int device_open_plan(struct device *d, const char *spec, const char *compute, int threads, struct err *e) LP_MUST_USE;
void device_close(struct device *d);

void *device_alloc(struct device *d, uint64_t bytes, const char *what, struct err *e) LP_MUST_USE; /* cleared */
void device_free(struct device *d, void *p);
void device_upload(struct device *d, void *dst, const void *src, uint64_t bytes);
void device_download(struct device *d, void *dst, const void *src, uint64_t bytes); /* waits */
void device_copy(struct device *d, void *dst, const void *src, uint64_t bytes);
void device_zero(struct device *d, void *dst, uint64_t bytes);
/* Waits, and reports what went wrong since the last call (LP_DEVICE). */
int device_sync(struct device *d, struct err *e) LP_MUST_USE;

/* p + n elements of the activation type. */
static inline void *act_at(const struct device *d, const void *p, int64_t n)
{
	return (char *)(uintptr_t)p + n * (int64_t)dtype_bytes(d->act);
}

#endif

/* The activation type of a CUDA library. The same sources make two: bf16, and with LP_F16 defined fp16, for GPUs whose
 * tensor cores know no bf16 (compute capability 7.5), and for whoever asks for it. Internal to kernels/(*).cu. */
#ifndef LP_KERNELS_ACT_CUH
#define LP_KERNELS_ACT_CUH

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <stdint.h>

typedef __nv_bfloat16 bf16;

/* ACT_DTYPE of fmt/dtype.h, ACT_CUDA_R of the CUDA libraries, ACT_PTX in instructions, ACT_MAP of Hopper's copies. */
#ifdef LP_F16
typedef __half act_t;
#define ACT_DTYPE DT_F16
#define ACT_CUDA_R CUDA_R_16F
#define ACT_PTX "f16"
#define ACT_MAP CU_TENSOR_MAP_DATA_TYPE_FLOAT16
#else
typedef bf16 act_t;
#define ACT_DTYPE DT_BF16
#define ACT_CUDA_R CUDA_R_16BF
#define ACT_PTX "bf16"
#define ACT_MAP CU_TENSOR_MAP_DATA_TYPE_BFLOAT16
#endif

/* Conversions of a 16-bit type, alone and in pairs, the lower half first. */
template <typename T> struct num16;
template <> struct num16<bf16> {
	static __host__ __device__ __forceinline__ float up(bf16 x) { return __bfloat162float(x); }
	static __device__ __forceinline__ bf16 down(float x) { return __float2bfloat16_rn(x); }
	static __device__ __forceinline__ uint32_t pack(float lo, float hi)
	{
		__nv_bfloat162 p = __floats2bfloat162_rn(lo, hi);

		return *(uint32_t *)&p;
	}
	static __device__ __forceinline__ float2 unpack(uint32_t x) { return make_float2(__uint_as_float(x << 16), __uint_as_float(x & 0xffff0000u)); }
};
template <> struct num16<__half> {
	static __host__ __device__ __forceinline__ float up(__half x) { return __half2float(x); }
	static __device__ __forceinline__ __half down(float x) { return __float2half_rn(x); }
	static __device__ __forceinline__ uint32_t pack(float lo, float hi)
	{
		__half2 p = __floats2half2_rn(lo, hi);

		return *(uint32_t *)&p;
	}
	static __device__ __forceinline__ float2 unpack(uint32_t x) { return __half22float2(*(__half2 *)&x); }
};

static __host__ __device__ __forceinline__ float act_up(act_t x)
{
	return num16<act_t>::up(x);
}
/* Beyond fp16's 65504: infinite. */
static __device__ __forceinline__ act_t act_down(float x)
{
	return num16<act_t>::down(x);
}
static __device__ __forceinline__ uint32_t act_pack(float lo, float hi)
{
	return num16<act_t>::pack(lo, hi);
}

#endif

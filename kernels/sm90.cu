#include "kernels/sm90.cuh"

#include <cuda_runtime.h>

typedef CUresult encode_fn(CUtensorMap *, CUtensorMapDataType, cuuint32_t, void *, const cuuint64_t *, const cuuint64_t *, const cuuint32_t *,
	const cuuint32_t *, CUtensorMapInterleave, CUtensorMapSwizzle, CUtensorMapL2promotion, CUtensorMapFloatOOBfill);

/* The driver's function, asked for at run time so that nothing links against the driver. */
static encode_fn *encoder(void)
{
	static encode_fn *const fn = [] {
		void *p = NULL;
		enum cudaDriverEntryPointQueryResult found;

		if (cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &p, 12000, cudaEnableDefault, &found) != cudaSuccess ||
		    found != cudaDriverEntryPointSuccess)
			p = NULL;
		return (encode_fn *)p;
	}();

	return fn;
}

bool sm90_can_map(void)
{
	return encoder() != NULL;
}

static CUtensorMapSwizzle swizzle_of(uint32_t elements)
{
	return elements == 64 ? CU_TENSOR_MAP_SWIZZLE_128B : elements == 32 ? CU_TENSOR_MAP_SWIZZLE_64B : CU_TENSOR_MAP_SWIZZLE_32B;
}

bool sm90_map(CUtensorMap *m, const void *p, int rank, const uint64_t *size, const uint64_t *stride, const uint32_t *box)
{
	static const cuuint32_t step[3] = { 1, 1, 1 };
	cuuint64_t sizes[3], strides[2];

	for (int i = 0; i < rank; i++)
		sizes[i] = size[i];
	for (int i = 0; i < rank - 1; i++)
		strides[i] = stride[i];
	return encoder()(m, ACT_MAP, (cuuint32_t)rank, (void *)p, sizes, strides, box, step, CU_TENSOR_MAP_INTERLEAVE_NONE, swizzle_of(box[0]),
	                 CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE) == CUDA_SUCCESS;
}

#include "kernels/sm90.cuh"

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

bool sm90_map(CUtensorMap *m, const void *p, int rank, const uint64_t *size, const uint64_t *stride, const uint32_t *box, int line)
{
	static const cuuint32_t step[3] = { 1, 1, 1 };
	cuuint64_t sizes[3], strides[2];

	for (int i = 0; i < rank; i++)
		sizes[i] = size[i];
	for (int i = 0; i < rank - 1; i++)
		strides[i] = stride[i];
	return encoder()(m, ACT_MAP, (cuuint32_t)rank, (void *)p, sizes, strides, box, step, CU_TENSOR_MAP_INTERLEAVE_NONE, swizzle_of(box[0]),
	                 line == 256 ? CU_TENSOR_MAP_L2_PROMOTION_L2_256B : CU_TENSOR_MAP_L2_PROMOTION_L2_128B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE) == CUDA_SUCCESS;
}

bool sm90_map_rows(CUtensorMap *m, const void *p, int64_t ld, int64_t cols, int64_t rows, int width, int box, int line)
{
	const uint64_t size[2] = { (uint64_t)cols, (uint64_t)rows }, stride[1] = { (uint64_t)ld * 2 };
	const uint32_t boxes[2] = { (uint32_t)width, (uint32_t)box };

	return sm90_map(m, p, 2, size, stride, boxes, line);
}

bool sm90_is(int index)
{
	int major = 0, minor = 0;

	cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, index);
	cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, index);
	return major == 9 && minor == 0;
}

bool sm90_built(const void *kernel)
{
	struct cudaFuncAttributes a;

	return sm90_can_map() && cudaFuncGetAttributes(&a, kernel) == cudaSuccess && a.numRegs > 64;
}

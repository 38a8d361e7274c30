/* Directions that a gradient is projected on (GaLore, Zhao et al. 2024), and the update that comes back.
 *
 * basis: P (R, K), rows orthonormal, K = min(rows, cols): the R leading singular directions of G (rows, cols), activations without gaps; of its
 * rows when rows >= cols (G P^T P is nearest to G), else of its columns (P^T P G is). A direction has either
 * sign, but moments from before meet it: one that lasts. The CPU takes them from the eigenvectors of G^T G or G G^T in fp64, the largest component positive. CUDA iterates 8 times from one
 * seeded start, so with signs near those of the last time: P <- orthonormal rows of P G^T G, in the activation type with fp32 sums and fp64 Cholesky factors; of the squares of G
 * that the best P holds it holds 99 in 100. A G that is not finite gives zeros on the CPU, anything on CUDA. scratch: basis_scratch bytes of device memory.
 *
 * add_update: p = (p + scale u) keep over n elements, u fp32, p fp32, or with a rest two halves (adam.h); nothing where adam would change
 * nothing (adamw.h). A rounding for each operation. */
#ifndef LP_KERNELS_BASIS_H
#define LP_KERNELS_BASIS_H

#include "kernels/adamw.h"

struct device;
typedef void kn_basis_fn(struct device *d, void *p, const void *g, int64_t rows, int64_t cols, int64_t r, uint64_t seed, void *scratch);
typedef uint64_t kn_basis_scratch_fn(const struct device *d, int64_t rows, int64_t cols, int64_t r);
typedef void kn_add_update_fn(struct device *d, void *p, int16_t *rest, const float *u, int64_t n, float scale, float keep, const struct kn_adam *a);
kn_basis_fn kn_basis_cpu;
kn_basis_scratch_fn kn_basis_scratch_cpu, kn_basis_scratch_cuda;
kn_add_update_fn kn_add_update_cpu;

#endif

/* Best-fit decreasing packing of sequences into rows of one length. */
#ifndef LP_TEXT_PACK_H
#define LP_TEXT_PACK_H

#include <stddef.h>
#include <stdint.h>

#include "base/err.h"

/* Gives each of n lengths (1..cap) its bin; every bin holds at most cap. Bins
 * are numbered by their first sequence in input order, so rows keep the order of
 * the data as far as packing can. Deterministic. */
int pack_best_fit(const uint32_t *len, size_t n, uint32_t cap, uint32_t *bin, size_t *n_bins, struct err *e) LP_MUST_USE;

#endif

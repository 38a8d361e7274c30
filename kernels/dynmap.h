/* The 8-bit dynamic maps, shared by NF4's second level and 8-bit AdamW. */
#ifndef LP_KERNELS_DYNMAP_H
#define LP_KERNELS_DYNMAP_H

#include <stdint.h>

extern const float dynmap_signed[256], dynmap_unsigned[256]; /* ascending */
/* The index of the entry nearest to v; a tie goes to the lower one. */
uint8_t dynmap_nearest(const float map[256], float v);

#endif

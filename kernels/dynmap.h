/* Constants that every backend takes from here: NF4's levels, and the 8-bit dynamic maps of
 * its second level and of 8-bit AdamW. */
#ifndef LP_KERNELS_DYNMAP_H
#define LP_KERNELS_DYNMAP_H

#include <stdint.h>

extern const float nf4_levels[16];
extern const float dynmap_signed[256], dynmap_unsigned[256]; /* ascending */
/* The code of v, as bitsandbytes' CPU code finds it: v, clamped to [-1, 1], is
 * snapped to a grid of 65,536 points, then the nearest entry is taken (a tie goes to
 * the lower one). Its CUDA code takes the nearest entry to v itself. */
uint8_t dynmap_code(const float map[256], float v);

#endif

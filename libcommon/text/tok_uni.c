/* The Unicode table of the reference, unpacked once per tokeniser. */
#include "text/tok_uni.h"

#include <stdlib.h>
#include <string.h>

static const uint64_t runs[] = {
#include "text/tok_uni_tab.h"
};
#define N_RUNS (sizeof(runs) / sizeof(*runs))

bool uni_run(size_t i, uint32_t *lo, uint32_t *hi, uint8_t *a, uint8_t *b)
{
	if (i >= N_RUNS)
		return false;
	*lo = (uint32_t)(runs[i] >> 16);
	*hi = i + 1 < N_RUNS ? (uint32_t)(runs[i + 1] >> 16) - 1 : 0x10FFFF;
	*a = (uint8_t)runs[i];
	*b = (uint8_t)(runs[i] >> 8);
	return true;
}

uint8_t *uni_table_new(void)
{
	uint8_t *t = calloc(UNI_FLAT, 1);
	uint32_t lo, hi;
	uint8_t a, b;
	size_t i;

	for (i = 0; t && uni_run(i, &lo, &hi, &a, &b) && lo < UNI_FLAT; i++) {
		uint32_t end = hi + 1 < UNI_FLAT ? hi + 1 : UNI_FLAT, c;

		if (!b) {
			if (a) /* zero pages stay untouched */
				memset(t + lo, a, end - lo);
			continue;
		}
		for (c = lo; c < end; c++)
			t[c] = (c - lo) & 1 ? b : a;
	}
	return t;
}

/* Rotary frequencies: transformers' modeling_rope_utils, the power in fp64. */
#include <math.h>

#include "model/arch.h"

/* Llama 3.1: long wavelengths are stretched by the factor, short ones kept,
 * those between blended (Llama 3.1 model card; rope_type "llama3"). */
static float llama3(const struct model_desc *m, float f)
{
	float wavelen = (float)(2 * M_PI) / f;
	float low = (float)((double)m->rope_original / m->rope_low), high = (float)((double)m->rope_original / m->rope_high);
	float smooth;

	if (wavelen < high)
		return f;
	if (wavelen > low)
		return f / (float)m->rope_factor;
	smooth = ((float)m->rope_original / wavelen - (float)m->rope_low) / (float)(m->rope_high - m->rope_low);
	return (1.0f - smooth) * f / (float)m->rope_factor + smooth * f;
}

void model_inv_freq(const struct model_desc *m, float *inv_freq)
{
	for (int64_t i = 0; i < m->head_dim / 2; i++) {
		float f = (float)(1 / pow(m->rope_theta, (double)(2 * i) / (double)m->head_dim));

		if (m->rope == ROPE_LINEAR)
			f /= (float)m->rope_factor;
		else if (m->rope == ROPE_LLAMA3)
			f = llama3(m, f);
		inv_freq[i] = f;
	}
}

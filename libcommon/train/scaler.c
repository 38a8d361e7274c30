#include "train/scaler.h"

#define MOST 0x1p126 /* its double is the last power of two that fp32 has */

void scaler_init(struct scaler *s, double start)
{
	*s = (struct scaler){ .on = start > 0, .scale = start > 0 ? start : 1 };
}

bool scaler_update(struct scaler *s, bool finite)
{
	if (!s->on)
		return finite;
	if (!finite) {
		s->overflows++;
		s->good = 0;
		if (s->scale / 2 < 1)
			return false;
		s->scale /= 2;
		return true;
	}
	if (++s->good == SCALER_INTERVAL) {
		s->good = 0;
		s->scale *= s->scale <= MOST ? 2 : 1;
	}
	return true;
}

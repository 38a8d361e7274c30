/* Loss scaling, for a device whose activations are fp16: their gradients go down to 6e-8 and no further. The loss's gradient is
 * multiplied by a power of two, and the adapter's gradients, which are fp32, are divided by it where they are used. A step whose
 * gradients are then not finite changes nothing, and halves the scale; 2000 steps in a row that are finite double it. That is
 * torch.amp.GradScaler with its defaults; as in transformers' Trainer such a step counts as a step, but the learning rate's
 * schedule does not go on. */
#ifndef LP_TRAIN_SCALER_H
#define LP_TRAIN_SCALER_H

#include <stdbool.h>
#include <stdint.h>

#define SCALER_START 65536.0
enum { SCALER_INTERVAL = 2000 };

struct scaler {
	bool on;
	double scale;      /* 1 when off */
	int64_t good;      /* finite steps in a row since it last changed */
	int64_t overflows; /* steps that were not finite */
};

/* start: a power of two, 0: off. */
void scaler_init(struct scaler *s, double start);
/* After a step: were the gradients finite? False when they were not at a scale of 1 either: it would fall below, where
 * fp16 has nothing left to gain. */
bool scaler_update(struct scaler *s, bool finite);

#endif

/* Qwen 2 and 2.5, dense: biases on q, k and v, a window on upper layers if asked for. */
#include "model/arch.h"

static int read_qwen2(const struct json *config, struct model_desc *m, struct err *e)
{
	bool use;

	m->bias[LIN_Q] = m->bias[LIN_K] = m->bias[LIN_V] = true;
	if (arch_bool(config, "use_sliding_window", false, &use, e) < 0)
		return -1;
	if (!use)
		return 0;
	if (arch_int(config, "sliding_window", 4096, 1, INT32_MAX, &m->window, e) < 0)
		return -1;
	return arch_int(config, "max_window_layers", 28, 0, INT32_MAX, &m->window_first, e);
}

static const char *const keys[] = { "use_sliding_window", "sliding_window", "max_window_layers", 0 };
const struct arch arch_qwen2 = { "qwen2", "Qwen2ForCausalLM", keys, read_qwen2 };

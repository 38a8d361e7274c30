/* Mistral 7B and its successors of the same shape: a sliding window on every
 * layer when the configuration sets one. */
#include "model/arch.h"

static int read_mistral(const struct json *config, struct model_desc *m, struct err *e)
{
	/* v0.1 sets 4096, later ones null */
	if (!json_get(config, "sliding_window") || json_is(json_get(config, "sliding_window"), JSON_NULL))
		return 0;
	return arch_int(config, "sliding_window", 4096, 1, INT32_MAX, &m->window, e);
}

static const char *const keys[] = { "sliding_window", 0 };
const struct arch arch_mistral = { "mistral", "MistralForCausalLM", keys, read_mistral };

/* Llama 2, 3, 3.1, 3.2, 3.3 and models of the same shape. */
#include "model/arch.h"

static int read_llama(const struct json *config, struct model_desc *m, struct err *e)
{
	bool attn, mlp;

	if (arch_bool(config, "attention_bias", false, &attn, e) < 0 || arch_bool(config, "mlp_bias", false, &mlp, e) < 0)
		return -1;
	for (int s = 0; s < LIN_N; s++)
		m->bias[s] = s <= LIN_O ? attn : mlp;
	return 0;
}

static const char *const keys[] = { "attention_bias", "mlp_bias", 0 };
const struct arch arch_llama = { "llama", "LlamaForCausalLM", keys, read_llama };

/* model/arch.h: what a config.json may say, and that what is not known is refused by name; and the factors that GGUF has for
 * Llama 3's rotary scaling, against the frequencies that we train with. */
#include <math.h>

#include "base/arena.h"
#include "json/json.h"
#include "model/arch.h"
#include "model/gguf_plan.h"
#include "scratch.h"

/* A config.json of small shape: family first, extra last. */
static struct model_desc m;
static int read_config(const char *family, const char *extra)
{
	static const char base[] = "\"hidden_size\":64,\"num_hidden_layers\":2,\"num_attention_heads\":4,\"num_key_value_heads\":2,"
				   "\"intermediate_size\":96,\"vocab_size\":100,\"max_position_embeddings\":8192";
	char text[1024];
	struct arena a = ARENA_INIT;
	struct json v;
	int rc;

	snprintf(text, sizeof(text), "{%s%s%s%s}", family, base, *extra ? "," : "", extra);
	put_text(at("config.json"), text);
	rc = json_load(at("config.json"), &a, &v, &er) < 0 ? -1 : model_desc_read(&v, "config.json", &m, &er);
	arena_release(&a);
	return rc;
}
#define LLAMA "\"model_type\":\"llama\","

START_TEST(what_is_known)
{
	OK(read_config(LLAMA, ""));
	ck_assert_int_eq(m.head_dim, 16);
	ck_assert_int_eq(m.rope, ROPE_DEFAULT);
	OK(read_config(LLAMA, "\"rope_scaling\":{\"type\":\"linear\",\"factor\":4.0}"));
	ck_assert_int_eq(m.rope, ROPE_LINEAR);
	ck_assert_double_eq(m.rope_factor, 4);
	OK(read_config(LLAMA, "\"rope_parameters\":{\"rope_type\":\"default\",\"rope_theta\":500000.0}"));
	ck_assert_double_eq(m.rope_theta, 500000);
	OK(read_config(LLAMA, "\"eos_token_id\":[2,7],\"some_new_key\":null,\"another\":false,\"a_third\":0"));
	ck_assert_int_eq(m.n_eos, 2);
	ck_assert_int_eq(m.eos[1], 7);
}
END_TEST

static const struct {
	const char *extra, *says;
} refused[] = {
	{ "\"some_new_key\":true", "'some_new_key' is set" },
	{ "\"rope_scaling\":{\"rope_type\":\"yarn\",\"factor\":4.0}", "rotary scaling 'yarn' is not known" },
	{ "\"rope_scaling\":{\"rope_type\":7}", "'rope_type' must be a string" },
	{ "\"rope_scaling\":{\"rope_type\":\"linear\"}", "'factor' must be a positive number" },
	{ "\"rope_scaling\":{\"rope_type\":\"llama3\",\"factor\":8,\"low_freq_factor\":4,\"high_freq_factor\":4}", "'high_freq_factor' must be above" },
	{ "\"rope_theta\":-1", "'rope_theta' must be a positive number" },
	{ "\"rms_norm_eps\":0", "'rms_norm_eps' must be a positive number" },
	{ "\"hidden_act\":\"gelu\"", "'hidden_act'" },
	{ "\"attention_dropout\":0.1", "'attention_dropout' is not 0" },
	{ "\"tie_word_embeddings\":1", "'tie_word_embeddings' must be true or false" },
	{ "\"head_dim\":15", "head_dim 15 is odd" },
	{ "\"eos_token_id\":100", "'eos_token_id' must name tokens" },
	{ "\"bos_token_id\":\"<s>\"", "'bos_token_id' must be a whole number" },
	{ "\"torch_dtype\":\"float8_e4m3fn\"", "'torch_dtype' must be" },
	{ "\"quantization_config\":{\"bits\":4}", "already quantised" },
	{ "\"architectures\":[\"LlamaForSequenceClassification\"]", "architecture 'LlamaForSequenceClassification' is not known" },
};

START_TEST(what_is_not)
{
	BAD(read_config(LLAMA, refused[_i].extra), LP_DATA, refused[_i].says);
}
END_TEST

START_TEST(shapes_that_cannot_be)
{
	static const char *const no_heads = "{\"model_type\":\"llama\",\"hidden_size\":64,\"num_hidden_layers\":2}";
	static const char *const uneven = "{\"model_type\":\"llama\",\"hidden_size\":64,\"num_hidden_layers\":2,\"num_attention_heads\":4,\"num_key_value_heads\":3,"
					  "\"intermediate_size\":96,\"vocab_size\":100}";

	BAD(read_config("\"model_type\":\"gpt2\",", ""), LP_DATA, "model_type 'gpt2' is not known; known are llama, qwen2 and mistral");
	BAD(read_config("", ""), LP_DATA, "model_type '' is not known");
	put_text(at("config.json"), no_heads);
	BAD(model_desc_load(scratch, &m, &er), LP_DATA, "no 'num_attention_heads' in it");
	put_text(at("config.json"), uneven);
	BAD(model_desc_load(scratch, &m, &er), LP_DATA, "num_attention_heads (4) is not a multiple of num_key_value_heads (3)");
	put_text(at("config.json"), "[]");
	BAD(model_desc_load(scratch, &m, &er), LP_DATA, "not a JSON object");
}
END_TEST

/* GGUF's factors divide the frequencies without scaling; both are made in fp32, each in its reference's order of operations. */
START_TEST(factors_of_gguf)
{
	struct model_desc llama = { .head_dim = 128, .rope = ROPE_LLAMA3, .rope_theta = 500000, .rope_factor = _i ? 32 : 8, .rope_low = 1, .rope_high = 4,
		                    .rope_original = 8192 };
	struct model_desc plain = { .head_dim = 128, .rope_theta = 500000 };
	float scaled[64], freq[64], factor[64];
	int kept = 0, blended = 0, stretched = 0;

	model_inv_freq(&llama, scaled);
	model_inv_freq(&plain, freq);
	gguf_rope_factors(&llama, factor);
	for (int i = 0; i < 64; i++) {
		ck_assert_double_eq_tol((double)freq[i] / factor[i] / scaled[i], 1, 2e-6);
		kept += factor[i] == 1;
		stretched += factor[i] == (float)llama.rope_factor;
		blended += factor[i] > 1 && factor[i] < (float)llama.rope_factor;
	}
	ck_assert(kept > 0 && blended > 0 && stretched > 0);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("arch");
	TCase *t = tcase_create("arch");

	tcase_add_unchecked_fixture(t, scratch_open, scratch_close);
	tcase_add_test(t, what_is_known);
	tcase_add_loop_test(t, what_is_not, 0, sizeof(refused) / sizeof(*refused));
	tcase_add_test(t, shapes_that_cannot_be);
	tcase_add_loop_test(t, factors_of_gguf, 0, 2);
	suite_add_tcase(s, t);
	return run_tests(s);
}

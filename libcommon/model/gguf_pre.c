/* llama.cpp knows byte-level pre-tokenisers by name, tokenizer.json by their
 * steps. Each step is written as one line, and the lines are looked up. */
#include <string.h>

#include "base/sb.h"
#include "model/gguf_plan.h"

/* "split REGEX", "digits" (one by one), "bytes" (byte-level without its own
 * pattern), "words" (byte-level with GPT-2's). merges: what ignore_merges must
 * be, as llama.cpp ties that to the name. */
static const struct {
	const char *name, *steps;
	bool ignore_merges;
} known[] = {
	{ "llama-bpe",
	  "split (?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+\n"
	  "bytes\n", true },
	{ "dbrx",
	  "split (?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+\n"
	  "bytes\n", false },
	{ "qwen2",
	  "split (?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+\n"
	  "bytes\n", false },
	{ "qwen35",
	  "split (?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?[\\p{L}\\p{M}]+|\\p{N}| ?[^\\s\\p{L}\\p{M}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+\n"
	  "bytes\n", false },
	{ "gpt-2", "words\n", false },
	{ "smollm", "digits\nwords\n", false },
	{ "tekken",
	  "split [^\\r\\n\\p{L}\\p{N}]?[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]*[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]+|"
	  "[^\\r\\n\\p{L}\\p{N}]?[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]+[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]*|\\p{N}|"
	  " ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+\nbytes\n", true },
	{ "gpt-4o",
	  "split [^\\r\\n\\p{L}\\p{N}]?[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]*[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|"
	  "[^\\r\\n\\p{L}\\p{N}]?[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]+[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|"
	  "\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+\nbytes\n", false },
	{ "deepseek-coder",
	  "split [\r\n]\nsplit \\s?\\p{L}+\nsplit \\s?\\p{P}+\nsplit [\xe4\xb8\x80-\xe9\xbe\xa5\xe0\xa0\x80-\xe4\xb8\x80\xea\xb0\x80-\xed\x9f\xbf]+\n"
	  "digits\nbytes\n", false },
	{ "deepseek-v3",
	  "split \\p{N}{1,3}\nsplit [\xe4\xb8\x80-\xe9\xbe\xa5\xe3\x81\x80-\xe3\x82\x9f\xe3\x82\xa0-\xe3\x83\xbf]+\n"
	  "split [!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|[^\r\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+|"
	  " ?[\\p{P}\\p{S}]+[\r\n]*|\\s*[\r\n]+|\\s+(?!\\S)|\\s+\nbytes\n", false },
};

/* False when the step has no line of ours. */
static bool describe(const struct json *step, struct sb *out)
{
	const struct json *type = json_get(step, "type"), *list = json_get(step, "pretokenizers");
	const char *text;
	bool flag, other;

	if (json_str_is(type, "Sequence") && json_is(list, JSON_ARR)) {
		for (uint32_t i = 0; i < list->n; i++)
			if (!describe(&list->items[i], out))
				return false;
		return true;
	}
	if (json_str_is(type, "Split")) {
		if (!json_str_is(json_get(step, "behavior"), "Isolated") || !json_get_bool(step, "invert", false, &flag) || flag ||
		    !json_get_str(json_get(step, "pattern"), "Regex", NULL, &text) || !text)
			return false;
		sb_addf(out, "split %s\n", text);
		return true;
	}
	if (json_str_is(type, "Digits")) {
		if (!json_get_bool(step, "individual_digits", false, &flag) || !flag)
			return false;
		sb_adds(out, "digits\n");
		return true;
	}
	if (!json_str_is(type, "ByteLevel") || !json_get_bool(step, "add_prefix_space", true, &other) || other ||
	    !json_get_bool(step, "use_regex", true, &flag))
		return false;
	sb_adds(out, flag ? "words\n" : "bytes\n");
	return true;
}

const char *gguf_pre_name(const struct json *tokenizer, struct err *e)
{
	struct sb steps = SB_INIT;
	const char *name = NULL;
	bool ignore_merges = false, same_steps = false;

	if (!json_get_bool(json_get(tokenizer, "model"), "ignore_merges", false, &ignore_merges))
		ignore_merges = false;
	if (describe(json_get(tokenizer, "pre_tokenizer"), &steps))
		for (size_t i = 0; i < sizeof(known) / sizeof(*known) && !name; i++) {
			if (strcmp(known[i].steps, sb_str(&steps)))
				continue;
			same_steps = true;
			if (known[i].ignore_merges == ignore_merges)
				name = known[i].name;
		}
	sb_release(&steps);
	if (!name)
		err_set(e, LP_DATA, "its pre-tokeniser%s is none that we know llama.cpp's name of; if llama.cpp has one, give it: --pre NAME",
		        same_steps ? " together with its ignore_merges" : "");
	return name;
}

const char *gguf_pre_steps(const char *name, size_t n, bool *ignore_merges)
{
	static const char *const same[][2] = { { "llama3", "llama-bpe" }, { "llama-v3", "llama-bpe" }, { "smaug-bpe", "dbrx" }, { "deepseek-r1-qwen", "qwen2" },
		{ "gpt2", "gpt-2" }, { "phi-2", "gpt-2" }, { "llama4", "gpt-4o" } };

	for (size_t i = 0; i < sizeof(same) / sizeof(*same); i++)
		if (strlen(same[i][0]) == n && !memcmp(same[i][0], name, n)) {
			name = same[i][1];
			n = strlen(name);
			break;
		}
	for (size_t i = 0; i < sizeof(known) / sizeof(*known); i++)
		if (strlen(known[i].name) == n && !memcmp(known[i].name, name, n)) {
			*ignore_merges = known[i].ignore_merges;
			return known[i].steps;
		}
	return NULL;
}

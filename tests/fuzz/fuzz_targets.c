/* The table of targets; under libFuzzer, the entry of the one that LP_TARGET names. */
#include "fuzz.h"

const struct fuzz_target fuzz_targets[] = {
	{ "json", fuzz_json },       { "jsonl", fuzz_jsonl }, { "record", fuzz_record }, { "archive", fuzz_archive }, { "config", fuzz_config },
	{ "st", fuzz_st },           { "stream", fuzz_stream }, { "gguf", fuzz_gguf },   { "tok", fuzz_tok },         { "tmpl", fuzz_tmpl },
	{ "recipe", fuzz_recipe },
	{ 0, 0 },
};

#ifdef LP_TARGET
#define JOIN(a, b) a##b
#define TARGET_FN(name) JOIN(fuzz_, name)

int LLVMFuzzerTestOneInput(const uint8_t *p, size_t n);
int LLVMFuzzerTestOneInput(const uint8_t *p, size_t n)
{
	TARGET_FN(LP_TARGET)(p, n);
	return 0;
}
#endif

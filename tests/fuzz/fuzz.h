/* Fuzz targets: each takes any bytes and must neither crash, leak nor hang.
 * Built twice: under libFuzzer (LP_TARGET names one), and with fuzz_main.c. */
#ifndef LP_TESTS_FUZZ_H
#define LP_TESTS_FUZZ_H

#include <stddef.h>
#include <stdint.h>

typedef void fuzz_fn(const uint8_t *p, size_t n);
fuzz_fn fuzz_json, fuzz_jsonl, fuzz_record, fuzz_archive, fuzz_st, fuzz_stream, fuzz_gguf, fuzz_tok, fuzz_tmpl, fuzz_recipe, fuzz_config;

struct fuzz_target {
	const char *name;
	fuzz_fn *fn;
};
extern const struct fuzz_target fuzz_targets[]; /* ends with a NULL name */

#endif

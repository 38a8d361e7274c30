/* Speed of the record path: usage: bench_json FILE.jsonl [ROUNDS]. Reads the
 * file by in_line alone, with json_parse, and with the text written again. */
#include <stdio.h>
#include <stdlib.h>

#include "base/log.h"
#include "base/num.h"
#include "json/jsonl.h"

enum stage { LINES, PARSED, WRITTEN, N_STAGES };
static const char *const names[] = { "in_line", "in_line + json_parse", "in_line + json_parse + jw_value" };

static int pass(const char *path, enum stage stage, uint64_t *bytes, struct err *e)
{
	struct in *in = in_open(path, e);
	struct json_parser *p = json_parser_new();
	struct arena a = ARENA_INIT;
	struct sb b = SB_INIT;
	const char *s;
	size_t n;
	int rc = -1;

	while (in && (rc = in_line(in, &s, &n, JSONL_MAX_RECORD, e)) > 0) {
		struct jw w = jw_to(&b);
		struct json v;

		if (stage == LINES || !n)
			continue;
		arena_reset(&a);
		if (json_parse(p, s, n, &a, &v, e)) {
			rc = -1;
			break;
		}
		sb_reset(&b);
		if (stage == WRITTEN)
			jw_value(&w, &v);
	}
	*bytes = in ? in_offset(in) : 0;
	in_close(in);
	json_parser_free(p);
	arena_release(&a);
	sb_release(&b);
	return rc;
}

int main(int argc, char **argv)
{
	struct err e = ERR_INIT;
	int64_t rounds = 5;
	uint64_t bytes = 0;

	if (argc < 2 || (argc > 2 && !parse_i64(argv[2], &rounds))) {
		fprintf(stderr, "usage: bench_json FILE.jsonl [ROUNDS]\n");
		return LP_USAGE;
	}
	for (int k = 0; k < N_STAGES; k++) {
		double best = 1e9;

		for (int64_t i = 0; i < rounds; i++) {
			double t = now_seconds();

			if (pass(argv[1], k, &bytes, &e)) {
				fprintf(stderr, "bench_json: %s: %s\n", argv[1], e.msg);
				return e.code;
			}
			t = now_seconds() - t;
			best = t < best ? t : best;
		}
		printf("%-32s %8.0f MB/s (%llu bytes, best of %d)\n", names[k], (double)bytes / best / 1e6, (unsigned long long)bytes, (int)rounds);
	}
	return 0;
}

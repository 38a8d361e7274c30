/* Targets of text: JSON, record streams, records, configurations, packed inputs. */
#include "fuzz.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/opt.h"
#include "base/opt_priv.h"
#include "json/jsonl.h"
#include "json/record.h"

static void broken(const char *what)
{
	fprintf(stderr, "fuzz: %s\n", what);
	abort();
}

/* The bytes as a file; the name is good until the next call. */
static const char *as_file(const uint8_t *p, size_t n, int *fd)
{
	static char name[64];

	*fd = memfd_create("fuzz", MFD_CLOEXEC);
	if (*fd < 0 || write(*fd, p, n) != (ssize_t)n)
		broken("no memory file");
	snprintf(name, sizeof(name), "/proc/self/fd/%d", *fd);
	return name;
}

static struct jsonl *open_bytes(const uint8_t *p, size_t n, const char *format, int *fd)
{
	struct err e = ERR_INIT;
	struct in *in = in_open(as_file(p, n, fd), &e);

	return in ? jsonl_open_take(in, format, &e) : NULL;
}

/* What is accepted is written, parsed again, and is the same. */
void fuzz_json(const uint8_t *p, size_t n)
{
	struct json_parser *parser = json_parser_new();
	char *text = calloc(n + JSON_PADDING + 1, 1);
	struct arena a = ARENA_INIT;
	struct sb b = SB_INIT;
	struct jw w = jw_to(&b);
	struct err e = ERR_INIT;
	struct json v, again;

	memcpy(text, p, n);
	if (!json_parse(parser, text, n, &a, &v, &e)) {
		jw_value(&w, &v);
		sb_grow(&b, JSON_PADDING);
		if (json_parse(parser, b.s, b.len, &a, &again, &e))
			broken("what was written does not parse");
		if (!json_equal(&v, &again))
			broken("what was written is not what was read");
	} else if (e.code != LP_DATA) {
		broken("bad JSON with another status");
	}
	sb_release(&b);
	arena_release(&a);
	json_parser_free(parser);
	free(text);
}

void fuzz_jsonl(const uint8_t *p, size_t n)
{
	static const char *const formats[] = { "auto", "jsonl", "array", "csv" };
	struct jsonl_rec rec;
	struct jsonl *j;
	const char *raw;
	size_t len;
	int fd, rc;

	if (!n)
		return;
	j = open_bytes(p + 1, n - 1, formats[p[0] & 3], &fd);
	while (j) {
		struct err e = ERR_INIT;

		rc = jsonl_next(j, &rec, &e);
		if (rc > 0 && memchr(rec.raw, '\n', rec.raw_len))
			broken("a record of two lines");
		if (rc < 0)
			jsonl_bad_raw(j, &raw, &len);
		if (rc < 0 && !e.msg[0])
			broken("an error without a message");
		if (!rc || (rc < 0 && !jsonl_can_continue(j)))
			break;
	}
	jsonl_close(j);
	close(fd);
}

void fuzz_record(const uint8_t *p, size_t n)
{
	struct chat_map map;
	struct jsonl_rec rec;
	struct err e = ERR_INIT;
	struct sb b = SB_INIT;
	struct jsonl *j;
	int fd;

	memset(&map, 0, sizeof(map));
	j = open_bytes(p, n, "jsonl", &fd);
	while (j && jsonl_next(j, &rec, &e) > 0) {
		struct chat c;
		struct pref pr;

		sb_reset(&b);
		if (!chat_from_json(&rec.v, &map, jsonl_arena(j), &c, &e)) {
			struct arena a = ARENA_INIT;
			struct json v;
			struct chat again;

			chat_write(&c, &b);
			if (json_parse_str(sb_str(&b), &a, &v, &e))
				broken("a chat record that was written does not parse");
			if (chat_from_json(&v, &map, &a, &again, &e) || again.n_msgs != c.n_msgs)
				broken("a chat record that was written is no chat record");
			arena_release(&a);
		}
		if (record_is_preference(&rec.v) && pref_from_json(&rec.v, &map, jsonl_arena(j), &pr, &e) && !e.msg[0])
			broken("an error without a message");
	}
	jsonl_close(j);
	sb_release(&b);
	close(fd);
}

void fuzz_archive(const uint8_t *p, size_t n)
{
	struct err e = ERR_INIT;
	int fd;
	struct in *in = in_open(as_file(p, n, &fd), &e);
	const char *line;
	size_t len;
	uint64_t sum = 0;

	/* what unpacks to very much is not wrong, only long */
	while (in && in_offset(in) < 64u << 20 && in_line(in, &line, &len, 1 << 20, &e) > 0)
		sum += len + (line[len] != 0);
	if (in && in_offset(in) < sum)
		broken("more bytes in lines than were read");
	in_close(in);
	close(fd);
}

void fuzz_config(const uint8_t *p, size_t n)
{
	static bool flag;
	static const char *text, *method;
	static int64_t rank;
	static double lr;
	static uint64_t memory;
	static struct opt_list targets;
	struct opt opts[] = {
		{ OPT_FLAG, "pack", 0, &flag, 0, "x" }, { OPT_STR, "model", 0, &text, 0, "x" },
		{ OPT_INT, "rank", 0, &rank, 0, "x", .min = 1, .max = 64 }, { OPT_F64, "lr", 0, &lr, 0, "x" },
		{ OPT_SIZE, "memory", 0, &memory, 0, "x" }, { OPT_CHOICE, "method", 0, &method, 0, "x", "sft|dpo" },
		{ OPT_LIST, "targets", 0, &targets, 0, "x" }, { OPT_END }
	};
	const struct opt_spec spec = { "fuzz", "", "", NULL, opts };
	struct err e = ERR_INIT;
	struct sb b = SB_INIT;
	int fd, fd2;

	/* texts live as long as the process, so a run over many inputs forgets them */
	text = method = NULL;
	rank = 8;
	free(targets.items);
	memset(&targets, 0, sizeof(targets));
	if (!opt_load_config(&spec, as_file(p, n, &fd), &e)) {
		opt_config_text(&spec, &b);
		if (opt_load_config(&spec, as_file((const uint8_t *)sb_str(&b), b.len, &fd2), &e))
			broken("a configuration that was printed does not load");
		close(fd2);
	}
	sb_release(&b);
	close(fd);
}

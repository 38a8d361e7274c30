/* Option tables: one table per program yields the parser, --help, --version,
 * --config FILE, --print-config, shell completion (--completion bash|zsh|fish)
 * and the effective options that the lineage records.
 *
 * Rules: long names first; one letter has one meaning in every program
 * (-o output, -j threads, -q quiet, -v verbose, -h help, -V version). A later
 * option wins over an earlier one, the command line over --config. "--name
 * value" and "--name=value" both work, "--" ends options, flags take --no-NAME. */
#ifndef LP_BASE_OPT_H
#define LP_BASE_OPT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "base/sb.h"

enum opt_kind {
	OPT_END = 0,
	OPT_SECTION, /* help only: a heading in .help */
	OPT_FLAG,    /* bool *value */
	OPT_STR,     /* const char **value */
	OPT_INT,     /* int64_t *value, within [min, max] */
	OPT_F64,     /* double *value, within [min, max] */
	OPT_SIZE,    /* uint64_t *value, bytes: 8G */
	OPT_CHOICE,  /* const char **value, one of choices "a|b|c" */
	OPT_LIST     /* struct opt_list *value: each use appends */
};

struct opt_list {
	const char **items;
	size_t n, cap;
};

struct opt {
	enum opt_kind kind;
	const char *name;    /* without the dashes */
	char letter;         /* 0 when it has none */
	void *value;         /* holds the default before parsing */
	const char *arg;     /* name of the argument in help: "FILE" */
	const char *help;    /* one line, lower case, no full stop */
	const char *choices; /* OPT_CHOICE */
	double min, max;     /* OPT_INT, OPT_F64; both 0: no limits. A default outside them stands for "not set" */
	bool unrecorded;     /* does not shape the output: not in lineage (--log, -j, -q) */
	unsigned char from;    /* set by opt_parse: enum opt_from */
};
enum opt_from { OPT_DEFAULT, OPT_CONFIG, OPT_CMDLINE };

struct opt_spec {
	const char *tool;     /* "ds-audit" */
	const char *summary;  /* one line for help and NAME */
	const char *synopsis; /* "[OPTION]... [FILE]"; several forms split by \n */
	const char *notes;    /* free text at the foot of --help, or NULL */
	struct opt *opts;     /* ends with OPT_END */
};

/* The shared rows: put OPT_COMMON last in each table. */
struct opt_common {
	const char *output; /* -o, --output; NULL: stdout */
	bool force;         /* --force: replace an existing output directory */
	bool quiet, verbose;
	const char *log;    /* --log FILE */
};
extern struct opt_common opt_common;
#define OPT_COMMON                                                                                             \
	{ OPT_SECTION, .help = "Common" },                                                                     \
	{ OPT_STR, "output", 'o', &opt_common.output, "PATH", "write here (temporary name, then renamed) instead of stdout", .unrecorded = true }, \
	{ OPT_FLAG, "force", 0, &opt_common.force, 0, "replace an existing output directory", .unrecorded = true }, \
	{ OPT_STR, "log", 0, &opt_common.log, "FILE", "append metric records (JSONL) to FILE", .unrecorded = true }, \
	{ OPT_FLAG, "quiet", 'q', &opt_common.quiet, 0, "no progress line and no warnings", .unrecorded = true }, \
	{ OPT_FLAG, "verbose", 'v', &opt_common.verbose, 0, "say more on stderr", .unrecorded = true },           \
	{ OPT_END }

/* Parses argv; operands are left in argv[1..*argc). --help, --version,
 * --completion and --print-config print to stdout and exit 0. */
int opt_parse(const struct opt_spec *spec, int *argc, char **argv, struct err *e) LP_MUST_USE;

/* True if the user gave the option (command line or configuration). */
bool opt_given(const struct opt_spec *spec, const char *name);

/* The effective options as one JSON object, unrecorded ones left out. */
void opt_json(const struct opt_spec *spec, struct sb *out);

void opt_list_add(struct opt_list *l, const char *item);
/* Splits "a,b,c" (no empty items) into l; the pieces live as long as the process. */
void opt_split(const char *csv, struct opt_list *l);

#endif

/* ds-split: cuts a data set into parts without leaks. Keys and assignment:
 * data/split.h. Hash mode streams; exact mode and --sample read twice. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "base/rng.h"
#include "base/tool.h"
#include "base/xalloc.h"
#include "data/recio.h"
#include "data/split.h"

static struct {
	const char *ratio, *parts, *mode, *by, *group, *part, *map, *format;
	int64_t seed;
	double sample;
	struct chat_map fields; /* from map */
} opt = { .ratio = "80/10/10", .by = "prompt", .format = "auto", .seed = 42 };

static struct opt opts[] = {
	{ OPT_STR, "ratio", 0, &opt.ratio, "A/B/C", "sizes of train, val and test (A/B: train and val)" },
	{ OPT_STR, "parts", 0, &opt.parts, "NAME=R,...", "parts of any name and number instead, as train=0.9,val=0.1" },
	{ OPT_CHOICE, "mode", 0, &opt.mode, "MODE", "hash (the default): by the key alone, sizes on average; exact (that of --sample): sizes exact", "hash|exact" },
	{ OPT_CHOICE, "by", 0, &opt.by, "KEY", "what stays together: equal prompts, equal first user turns, or equal records", "prompt|first|record" },
	{ OPT_STR, "group", 0, &opt.group, "FIELD", "what stays together: records with the same value of FIELD" },
	{ OPT_INT, "seed", 0, &opt.seed, "N", "of the assignment", .max = 9e15 },
	{ OPT_STR, "part", 0, &opt.part, "NAME", "write this part alone, to stdout or the file of -o" },
	{ OPT_F64, "sample", 0, &opt.sample, "SHARE", "write a random share of the records alone, for review", .max = 1 },
	{ OPT_STR, "map", 0, &opt.map, "NAME=FIELD,...", "fields to read: prompt, completion, system, or messages" },
	{ OPT_CHOICE, "format", 0, &opt.format, "FORMAT", "of the input", "auto|jsonl|array|csv" },
	OPT_COMMON,
};
static const struct opt_spec spec = {
	.tool = "ds-split",
	.summary = "cut a data set into parts without leaks",
	.synopsis = "[OPTION]... -o DIR [FILE]\n[OPTION]... --part NAME [FILE]\n[OPTION]... --sample SHARE [FILE]",
	.notes = "-o DIR gets NAME.jsonl for each part; the order of the records is the input's.",
	.opts = opts,
};

struct run {
	struct split split;
	struct split_keyer keyer;
	struct recio *in;
	struct outdir *dir;
	struct out *out[SPLIT_MAX_PARTS]; /* NULL: not asked for */
	uint64_t got[SPLIT_MAX_PARTS], n;
	struct split_key *keys; /* exact mode */
	size_t cap_keys;
	uint8_t *part;
	bool exact;
	struct sb line;
};

static int key_of(struct run *r, const struct jsonl_rec *rec, struct split_key *key, struct err *e)
{
	if (opt.sample > 0) {
		key->hash = rng_u64((uint64_t)opt.seed, rng_stream("ds-split sample"), r->n);
		key->id = r->n;
		return 0;
	}
	if (split_key_of(&r->keyer, &rec->v, recio_arena(r->in), key, e) < 0)
		return err_where(e, recio_name(r->in), rec->line);
	return 0;
}

static int emit(struct run *r, const struct jsonl_rec *rec, size_t part, struct err *e)
{
	r->got[part]++;
	if (!r->out[part])
		return 0;
	recio_line(rec, &r->line);
	return out_write(r->out[part], r->line.s, r->line.len, e);
}

static int hash_pass(struct run *r, struct err *e)
{
	struct jsonl_rec rec;
	struct split_key key;
	int rc;

	for (r->n = 0; (rc = recio_next(r->in, &rec, e)) == 1; r->n++) {
		if (key_of(r, &rec, &key, e) < 0 || emit(r, &rec, split_by_hash(&r->split, key.hash), e) < 0)
			return -1;
		if (!(r->n & 4095))
			progress("%" PRIu64 " records", r->n);
	}
	return rc;
}

static int keep_key(struct run *r, struct split_key key, struct err *e)
{
	if (r->n == r->cap_keys) {
		size_t cap = r->cap_keys ? r->cap_keys * 2 : 4096;
		struct split_key *more = lp_try_alloc(cap, sizeof(*more), "the keys of exact mode", e);

		if (!more)
			return -1;
		if (r->n)
			memcpy(more, r->keys, r->n * sizeof(*more));
		free(r->keys);
		r->keys = more;
		r->cap_keys = cap;
	}
	r->keys[r->n] = key;
	return 0;
}

static void report_exact(const struct run *r, const struct split_sizes *z)
{
	for (size_t i = 0; i < r->split.n; i++)
		if (z->got[i] != z->want[i])
			warn("part %s has %" PRIu64 " records, not %" PRIu64 ": records of one key stay together (the largest group has %" PRIu64 ")",
			     r->split.parts[i].name, z->got[i], z->want[i], z->largest_group);
	note("%" PRIu64 " keys in %" PRIu64 " records, %" PRIu64 " at most of one key", z->n_groups, r->n, z->largest_group);
}

static int exact_passes(struct run *r, struct err *e)
{
	struct jsonl_rec rec;
	struct split_key key;
	struct split_sizes sizes;
	uint64_t n = 0;
	int rc;

	for (r->n = 0; (rc = recio_next(r->in, &rec, e)) == 1; r->n++)
		if (key_of(r, &rec, &key, e) < 0 || keep_key(r, key, e) < 0)
			return -1;
	if (rc < 0 || !(r->part = lp_try_alloc(r->n + 1, 1, "the parts of exact mode", e)) ||
	    split_exact(&r->split, r->keys, r->n, r->part, &sizes, e) < 0 || recio_again(r->in, e) < 0)
		return -1;
	for (; (rc = recio_next(r->in, &rec, e)) == 1; n++) {
		if (n == r->n)
			return err_line(e, LP_DATA, recio_name(r->in), rec.line, "the file grew while it was read; run again when it is complete");
		if (emit(r, &rec, r->part[n], e) < 0)
			return -1;
	}
	if (!rc && opt.sample <= 0)
		report_exact(r, &sizes);
	return rc;
}

/* --- outputs --- */

static int open_outputs(struct run *r, struct err *e)
{
	const char *only = opt.sample > 0 ? "sample" : opt.part;

	if (only) {
		int k = split_find(&r->split, only);

		if (k < 0)
			return err_set(e, LP_USAGE, "no part '%.60s' in %.200s", only, opt.parts ? opt.parts : "train, val, test");
		return (r->out[k] = out_open(opt_common.output, e)) ? 0 : -1;
	}
	if (!opt_common.output || !strcmp(opt_common.output, "-"))
		return err_set(e, LP_USAGE, "several parts need a directory: -o DIR; or choose one with --part NAME");
	if (!(r->dir = outdir_open(opt_common.output, opt_common.force, e)))
		return -1;
	for (size_t i = 0; i < r->split.n; i++) {
		char name[128];

		snprintf(name, sizeof(name), "%s.jsonl.lineage.json", r->split.parts[i].name);
		outdir_path(r->dir, name); /* will be written: to be cleared away on a signal */
		snprintf(name, sizeof(name), "%s.jsonl", r->split.parts[i].name);
		if (!(r->out[i] = out_open(outdir_path(r->dir, name), e)))
			return -1;
	}
	return 0;
}

static int commit(struct run *r, struct err *e)
{
	struct lineage l;
	char hex[33], hash[48];
	int rc = 0;

	recio_hash(r->in, hex);
	snprintf(hash, sizeof(hash), "xxh3:%s", hex);
	lineage_init(&l, &spec);
	lineage_input(&l, recio_name(r->in), hash, NULL);
	for (size_t i = 0; i < r->split.n && !rc; i++) {
		struct out *o = r->out[i];
		char *path = !o ? NULL : r->dir ? xstrdup(out_name(o)) : opt_common.output ? xstrdup(opt_common.output) : NULL;

		r->out[i] = NULL;
		if (o)
			rc = recio_commit(o, path, &l, e);
		free(path);
	}
	lineage_release(&l);
	if (!rc && r->dir) {
		struct outdir *d = r->dir;

		r->dir = NULL;
		rc = outdir_commit(d, e);
	}
	return rc;
}

static int report(const struct run *r, struct err *e)
{
	for (size_t i = 0; i < r->split.n; i++) {
		const char *name = r->split.parts[i].name;

		if (!r->got[i] && r->split.parts[i].weight && (!opt.part || !strcmp(opt.part, name)))
			warn("part %s is empty: %" PRIu64 " records are too few for these ratios", name, r->n);
		note("%s: %" PRIu64 " records, %.2f%%", name, r->got[i], 100.0 * (double)r->got[i] / (double)r->n);
		if (log_metric("split", e, "\"part\":\"%s\",\"records\":%" PRIu64, name, r->got[i]) < 0)
			return -1;
	}
	if (r->keyer.n_whole)
		note("%" PRIu64 " records are no chat records; they stay together when they are equal", r->keyer.n_whole);
	return 0;
}

/* --- options --- */

static int read_options(struct run *r, int argc, struct err *e)
{
	bool sampling = opt_given(&spec, "sample");

	if (argc > 2)
		return err_set(e, LP_USAGE, "one input at a time, not %d; join files with cat or ds-mix", argc - 1);
	if (sampling && !(opt.sample > 0))
		return err_set(e, LP_USAGE, "--sample is a share over 0 and at most 1");
	if (sampling && (opt.part || opt.parts || opt.group || opt_given(&spec, "ratio")))
		return err_set(e, LP_USAGE, "--sample draws records one by one and goes without --ratio, --parts, --part and --group");
	if (opt.parts && opt_given(&spec, "ratio"))
		return err_set(e, LP_USAGE, "--ratio and --parts say the same; give one of them");
	if (opt.map && chat_map_parse(opt.map, &opt.fields, e) < 0)
		return -1;
	r->keyer.by = !strcmp(opt.by, "first") ? SPLIT_BY_FIRST : !strcmp(opt.by, "record") ? SPLIT_BY_RECORD : SPLIT_BY_PROMPT;
	r->keyer.group = opt.group;
	r->keyer.map = &opt.fields;
	r->keyer.seed = (uint64_t)opt.seed;
	r->exact = opt.mode ? !strcmp(opt.mode, "exact") : sampling;
	return sampling ? split_set_sample(&r->split, opt.sample, e) : opt.parts ? split_parse_parts(opt.parts, &r->split, e) : split_parse_ratio(opt.ratio, &r->split, e);
}

static int run(struct run *r, int argc, char **argv, struct err *e)
{
	if (read_options(r, argc, e) < 0 || !(r->in = recio_open(argc > 1 ? argv[1] : NULL, opt.format, r->exact, e)) || open_outputs(r, e) < 0 ||
	    (r->exact ? exact_passes(r, e) : hash_pass(r, e)) < 0)
		return -1;
	if (!r->n)
		return err_line(e, LP_DATA, recio_name(r->in), 0, "no records in it");
	return commit(r, e) < 0 ? -1 : report(r, e);
}

int main(int argc, char **argv)
{
	struct err e = ERR_INIT;
	struct run r = { 0 };
	int rc;

	tool_init(&spec, &argc, &argv);
	rc = run(&r, argc, argv, &e);
	for (size_t i = 0; i < SPLIT_MAX_PARTS; i++)
		out_abort(r.out[i]);
	outdir_abort(r.dir);
	recio_close(r.in);
	split_keyer_release(&r.keyer);
	split_release(&r.split);
	free(r.keys);
	free(r.part);
	sb_release(&r.line);
	return rc < 0 ? tool_fail(&e) : tool_done(LP_OK);
}

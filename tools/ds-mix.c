/* ds-mix: mixes files of records in given ratios. The arithmetic: data/mix.h. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/log.h"
#include "base/tool.h"
#include "data/mix.h"
#include "data/recio.h"

static struct {
	int64_t seed, size;
	const char *tag, *format;
	bool repeat;
} opt = { .seed = 42, .format = "auto" };

static struct opt opts[] = {
	{ OPT_INT, "seed", 0, &opt.seed, "N", "of the choice and the order", .max = 9e15 },
	{ OPT_INT, "size", 0, &opt.size, "N", "records in all; 0: every record of the files without a ratio", .max = 9e15 },
	{ OPT_FLAG, "repeat", 0, &opt.repeat, 0, "take records again where a file has too few" },
	{ OPT_STR, "tag", 0, &opt.tag, "FIELD", "add FIELD with the name of the file that a record is from" },
	{ OPT_CHOICE, "format", 0, &opt.format, "FORMAT", "of the inputs", "auto|jsonl|array|csv" },
	OPT_COMMON,
};
static const struct opt_spec spec = {
	.tool = "ds-mix",
	.summary = "mix files of records in given ratios",
	.synopsis = "[OPTION]... FILE[:RATIO]...",
	.notes = "A RATIO is the file's share of the mixture: 0.15 or 15%. Files without one are taken whole.",
	.opts = opts,
};

struct run {
	struct mix mix;
	struct recio *in[MIX_MAX_SOURCES];
	struct out *out;
	struct sb line;
};

static const char *base_name(const char *path)
{
	const char *slash = strrchr(path, '/');

	return slash ? slash + 1 : path;
}

/* Adds the tag as the last member of the record's text. */
static int tag_line(const struct jsonl_rec *rec, const char *source, struct sb *line, struct err *e)
{
	struct jw w = { line, true };

	if (!json_is(&rec->v, JSON_OBJ) || json_get(&rec->v, opt.tag))
		return err_set(e, LP_DATA, json_is(&rec->v, JSON_OBJ) ? "the record has a field \"%.100s\" already; choose another --tag"
		                                                      : "the record is not an object and takes no field \"%.100s\"", opt.tag);
	while (line->len && line->s[line->len - 1] != '}')
		line->len--;
	line->len--;
	w.comma = rec->v.n > 0;
	jw_key(&w, opt.tag);
	jw_str(&w, source);
	sb_adds(line, "}\n");
	return 0;
}

/* The next record that the mixture wants of source i. */
static int take_one(struct run *r, size_t i, struct err *e)
{
	struct jsonl_rec rec;
	int rc;

	do {
		rc = recio_next(r->in[i], &rec, e);
		if (!rc)
			rc = recio_again(r->in[i], e) < 0 ? -1 : recio_next(r->in[i], &rec, e);
		if (!rc)
			return err_line(e, LP_DATA, recio_name(r->in[i]), 0, "the file changed while it was read");
		if (rc < 0)
			return -1;
	} while (!mix_wants(&r->mix, i));
	recio_line(&rec, &r->line);
	if (opt.tag && tag_line(&rec, base_name(recio_name(r->in[i])), &r->line, e) < 0)
		return err_where(e, recio_name(r->in[i]), rec.line);
	return out_write(r->out, r->line.s, r->line.len, e);
}

/* First pass: how many records each file has. */
static int count(struct run *r, size_t i, struct err *e)
{
	struct mix_source *s = &r->mix.src[i];
	struct jsonl_rec rec;
	int rc;

	if (!(r->in[i] = recio_open(s->path, opt.format, true, e)))
		return -1;
	while ((rc = recio_next(r->in[i], &rec, e)) == 1)
		if (!(++s->have & 4095))
			progress("%s: %" PRIu64 " records", s->path, s->have);
	if (rc < 0)
		return -1;
	if (!s->have)
		return err_line(e, LP_DATA, recio_name(r->in[i]), 0, "no records in it");
	return recio_again(r->in[i], e);
}

static int commit(struct run *r, struct err *e)
{
	struct lineage l;
	struct out *out = r->out;
	int rc;

	lineage_init(&l, &spec);
	for (size_t i = 0; i < r->mix.n; i++) {
		char hex[33], hash[48];

		recio_hash(r->in[i], hex);
		snprintf(hash, sizeof(hash), "xxh3:%s", hex);
		lineage_input(&l, recio_name(r->in[i]), hash, NULL);
	}
	r->out = NULL;
	rc = recio_commit(out, opt_common.output, &l, e);
	lineage_release(&l);
	return rc;
}

static int report(const struct run *r, struct err *e)
{
	for (size_t i = 0; i < r->mix.n; i++) {
		const struct mix_source *s = &r->mix.src[i];
		double share = (double)s->take / (double)r->mix.total;

		note("%s: %" PRIu64 " of %" PRIu64 " records, %.2f%% of the mixture", s->path, s->take, s->have, 100 * share);
		if (log_metric("mix", e, "\"source\":%zu,\"have\":%" PRIu64 ",\"take\":%" PRIu64 ",\"share\":%s", i, s->have, s->take, log_num(share)) < 0)
			return -1;
	}
	return 0;
}

static int run(struct run *r, int argc, char **argv, struct err *e)
{
	size_t n_stdin = 0, i;

	if (argc < 2)
		return err_set(e, LP_USAGE, "no input; give FILE[:RATIO]...");
	for (int k = 1; k < argc; k++) {
		if (mix_add(&r->mix, argv[k], e) < 0 || tool_spares(r->mix.src[r->mix.n - 1].path, e) < 0)
			return -1;
		if (!strcmp(r->mix.src[r->mix.n - 1].path, "-") && n_stdin++)
			return err_set(e, LP_USAGE, "standard input is named twice");
	}
	for (i = 0; i < r->mix.n; i++)
		if (count(r, i, e) < 0)
			return -1;
	if (mix_plan(&r->mix, (uint64_t)opt.size, opt.repeat, e) < 0 || !(r->out = out_open(opt_common.output, e)))
		return -1;
	while ((i = mix_pick(&r->mix)) != SIZE_MAX) {
		if (take_one(r, i, e) < 0)
			return -1;
		if (!(r->mix.step & 4095))
			progress("%" PRIu64 " of %" PRIu64 " records", r->mix.step, r->mix.total);
	}
	return commit(r, e) < 0 ? -1 : report(r, e);
}

int main(int argc, char **argv)
{
	struct err e = ERR_INIT;
	struct run r = { 0 };
	int rc;

	tool_init(&spec, &argc, &argv);
	r.mix.seed = (uint64_t)opt.seed;
	rc = run(&r, argc, argv, &e);
	out_abort(r.out);
	for (size_t i = 0; i < MIX_MAX_SOURCES; i++)
		recio_close(r.in[i]);
	mix_release(&r.mix);
	sb_release(&r.line);
	return rc < 0 ? tool_fail(&e) : tool_done(LP_OK);
}

/* gguf-export: a model directory or stream as a GGUF file, converted and
 * quantised in one pass. */
#include <inttypes.h>
#include <omp.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/log.h"
#include "base/tool.h"
#include "fmt/lineage.h"
#include "model/gguf_export.h"

static const char *model, *type = "f16";
static struct gguf_options gguf;
static int64_t threads;

static struct opt opts[] = {
	{ OPT_SECTION, .help = "Input" },
	{ OPT_STR, "model", 0, &model, "DIR", "model directory, or a model stream in a file; - or nothing: a stream on stdin", .unrecorded = true },
	{ OPT_SECTION, .help = "Output" },
	{ OPT_CHOICE, "type", 0, &type, "TYPE", "file type; mixes as llama.cpp's", GGUF_FILE_TYPES },
	{ OPT_STR, "name", 0, &gguf.name, "TEXT", "general.name, instead of the one in config.json" },
	{ OPT_STR, "pre", 0, &gguf.pre, "NAME", "llama.cpp's name of the pre-tokeniser, where it is not recognised" },
	{ OPT_INT, "threads", 'j', &threads, "N", "threads; 0: all processors; the bytes do not depend on it", .min = 0, .max = 1024, .unrecorded = true },
	OPT_COMMON
};

static const struct opt_spec spec = {
	.tool = "gguf-export",
	.summary = "write a model as a GGUF file, converted and quantised",
	.synopsis = "[OPTION]... [--model DIR] [-o FILE]",
	.opts = opts,
};

/* One line for people, and one metric record. */
static int tell(const struct gguf_report *r, double seconds, struct err *e)
{
	progress_done();
	if (r->window)
		warn("the model's sliding window of %" PRId64 " tokens has no form in this file: longer contexts are attended in full", r->window);
	if (r->fallbacks)
		note("%" PRIu64 " tensors have rows that do not fit the type and got the next one that does", r->fallbacks);
	note("%" PRIu64 " tensors, %" PRIu64 " bytes, %.1f s", r->tensors, r->bytes, seconds);
	return log_metric("export", e, "\"type\":\"%s\",\"tensors\":%" PRIu64 ",\"bytes\":%" PRIu64 ",\"source_bytes\":%" PRIu64
	                  ",\"fallbacks\":%" PRIu64 ",\"seconds\":%s", type, r->tensors, r->bytes, r->source_bytes, r->fallbacks, log_num(seconds));
}

static bool to_stdout(void)
{
	return !opt_common.output || !strcmp(opt_common.output, "-");
}

/* Beside a file: what it was made of. */
static int write_lineage(struct model_source *s, const char *hash, struct err *e)
{
	struct lineage l;
	char id[72];
	int rc;

	if (to_stdout())
		return 0;
	if (model_source_identity(s, id, e))
		return -1;
	lineage_init(&l, &spec);
	lineage_input(&l, "model", id, NULL);
	rc = lineage_sidecar(&l, opt_common.output, hash, e);
	lineage_release(&l);
	return rc;
}

static int run(struct err *e)
{
	struct model_source *s = model_source_open(model && *model ? model : "-", e);
	struct gguf_report report;
	struct out *o = NULL;
	double start = now_seconds();
	char hex[33], hash[48];
	int rc = -1;

	if (!s)
		return -1;
	o = out_open(opt_common.output, e);
	if (!o)
		goto out;
	gguf.type = type;
	if (gguf_export(s, &gguf, o, &report, e)) {
		err_where(e, model ? model : "(stdin)", 0);
		goto out;
	}
	out_hash(o, hex);
	rc = out_commit(o, e);
	o = NULL;
	snprintf(hash, sizeof(hash), "xxh3:%s", hex);
	if (!rc)
		rc = write_lineage(s, hash, e);
	if (!rc)
		rc = tell(&report, now_seconds() - start, e);
out:
	out_abort(o);
	model_source_close(s);
	return rc;
}

int main(int argc, char **argv)
{
	struct err e = ERR_INIT;

	tool_init(&spec, &argc, &argv);
	if (argc > 1) {
		err_set(&e, LP_USAGE, "no operand is taken: the model goes behind --model, not '%s'", argv[1]);
		return tool_fail(&e);
	}
	if (to_stdout() && isatty(STDOUT_FILENO)) {
		err_set(&e, LP_USAGE, "standard output is a terminal; give -o FILE, or a pipe");
		return tool_fail(&e);
	}
	if (threads)
		omp_set_num_threads((int)threads);
	return run(&e) ? tool_fail(&e) : tool_done(LP_OK);
}

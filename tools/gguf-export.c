/* gguf-export: a model directory or stream as a GGUF file, converted and
 * quantised in one pass. */
#include <inttypes.h>
#include <omp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/log.h"
#include "base/tool.h"
#include "base/xalloc.h"
#include "fmt/lineage.h"
#include "model/gguf_export.h"
#include "text/modelfile.h"

static const char *model, *type = "f16", *modelfile;
static struct gguf_options gguf;
static int64_t threads;

static struct opt opts[] = {
	{ OPT_SECTION, .help = "Input" },
	{ OPT_STR, "model", 0, &model, "DIR", "model directory, or a model stream in a file; - or nothing: a stream on stdin", .unrecorded = true },
	{ OPT_SECTION, .help = "Output" },
	{ OPT_CHOICE, "type", 0, &type, "TYPE", "file type; mixes as llama.cpp's", GGUF_FILE_TYPES },
	{ OPT_STR, "name", 0, &gguf.name, "TEXT", "general.name, instead of the one in config.json" },
	{ OPT_STR, "pre", 0, &gguf.pre, "NAME", "llama.cpp's name of the pre-tokeniser, where it is not recognised" },
	{ OPT_STR, "modelfile", 0, &modelfile, "FILE", "also write an Ollama Modelfile whose prompts equal the model's chat template", .unrecorded = true },
	{ OPT_INT, "threads", 'j', &threads, "N", "threads; 0: one for each processor", .min = 0, .max = 1024, .unrecorded = true },
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

/* FROM: Ollama looks for a relative path from the Modelfile's folder. */
static char *path_for(const char *gguf_path, const char *file)
{
	const char *a = strrchr(gguf_path, '/'), *b = strrchr(file, '/'), *name = a ? a + 1 : gguf_path;
	size_t n = (size_t)(name - gguf_path);
	char *folder, *real, *path;

	if (n == (b ? (size_t)(b + 1 - file) : 0) && !memcmp(gguf_path, file, n))
		return xasprintf("./%s", name);
	folder = n ? xmemdup0(gguf_path, n) : xstrdup(".");
	real = realpath(folder, NULL);
	path = xasprintf("%s/%s", real ? real : folder, name);
	free(folder);
	free(real);
	return path;
}

/* The Modelfile's text: made before the export, so that a refusal costs nothing. */
static int make_modelfile(const struct model_texts *texts, struct sb *text, struct err *e)
{
	struct modelfile_opts m = { .temperature = -1 };
	struct chat_render_opts how = { 0 };
	struct sb notes = SB_INIT;
	struct chat_tmpl *t = chat_tmpl_new(texts->chat_template, texts->tokenizer_config, NULL, e);
	char *from = path_for(opt_common.output, modelfile), date[32];
	int rc = -1;

	m.from = from;
	if (t && !chat_set_date(&how, CHAT_DEFAULT_DATE, false, date, e) && !modelfile_adds_bos(t, texts->tokenizer, &m.adds_bos, e))
		rc = modelfile_write(t, &m, &how, text, &notes, e);
	for (char *p = notes.s, *end; !rc && p && *p; p = end + 1) {
		end = strchr(p, '\n');
		note("%.*s", (int)(end - p), p);
	}
	chat_tmpl_free(t);
	sb_release(&notes);
	free(from);
	return rc;
}

static int write_modelfile(const struct sb *text, struct err *e)
{
	struct out *o = out_open(modelfile, e);

	if (!o)
		return -1;
	if (!out_write(o, text->s, text->len, e))
		return out_commit(o, e);
	out_abort(o);
	return -1;
}

static int run(struct err *e)
{
	struct model_source *s = model_source_open(model && *model ? model : "-", e);
	struct gguf_report report;
	struct out *o = NULL;
	double start = now_seconds();
	struct sb modelfile_text = SB_INIT;
	char hex[33], hash[48];
	int rc = -1;

	if (!s)
		return -1;
	if (modelfile && make_modelfile(model_source_texts(s), &modelfile_text, e))
		goto out;
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
	if (!rc && modelfile)
		rc = write_modelfile(&modelfile_text, e);
	if (!rc)
		rc = tell(&report, now_seconds() - start, e);
out:
	out_abort(o);
	sb_release(&modelfile_text);
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
	if (modelfile && to_stdout()) {
		err_set(&e, LP_USAGE, "--modelfile names the GGUF file, which standard output is not: give -o FILE");
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

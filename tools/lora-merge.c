/* lora-merge: folds adapters into a base model. The arithmetic: model/merge.h. */
#include <inttypes.h>
#include <omp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/log.h"
#include "base/num.h"
#include "base/tool.h"
#include "base/xalloc.h"
#include "fmt/lineage.h"
#include "model/config_edit.h"
#include "model/merge.h"

static struct {
	const char *model, *dtype, *verify;
	struct opt_list adapters;
	uint64_t shard;
	bool accept_base;
	int64_t threads;
} opt = { .shard = 5ull << 30, .verify = "sample" };

static struct opt opts[] = {
	{ OPT_STR, "model", 0, &opt.model, "DIR", "the base model the adapter was trained on; - is a model stream" },
	{ OPT_LIST, "adapter", 0, &opt.adapters, "PATH[:WEIGHT]", "an adapter's directory or stream; several are added; - (the default) is standard input" },
	{ OPT_CHOICE, "dtype", 0, &opt.dtype, "TYPE", "of the merged model (each tensor's own)", "float32|bfloat16|float16" },
	{ OPT_SIZE, "shard-size", 0, &opt.shard, "SIZE", "largest file" },
	{ OPT_CHOICE, "verify", 0, &opt.verify, "HOW", "read the output back and prove it: rows of every changed matrix, or every element", "sample|full|off" },
	{ OPT_FLAG, "accept-base", 0, &opt.accept_base, 0, "merge into a base other than the one trained on; this is recorded" },
	{ OPT_INT, "threads", 'j', &opt.threads, "N", "threads; 0: one for each processor", .max = 1024, .unrecorded = true },
	OPT_COMMON,
};
static const struct opt_spec spec = {
	.tool = "lora-merge",
	.summary = "fold LoRA adapters into their base model",
	.synopsis = "--model DIR [OPTION]... [-o DIR]",
	.notes = "Without -o the merged model is written to standard output as a stream.",
	.opts = opts,
};

struct run {
	struct merge m;
	struct peft *adapters;
	double *weights;
	const char **names;
	char **paths; /* the same, owned; ends with NULL */
	struct model_texts texts; /* the base's, config.json edited; borrowed but for config */
	char *config;
	char *base_name;
	struct lineage lineage;
};

/* "PATH:0.5": a number behind the last colon is a weight, unless PATH:0.5 is there itself. */
static char *split_weight(const char *arg, double *weight)
{
	const char *colon = strrchr(arg, ':');
	struct stat st;

	if (colon && stat(arg, &st) && parse_f64(colon + 1, weight))
		return xmemdup0(arg, (size_t)(colon - arg));
	*weight = 1;
	return xstrdup(arg);
}

static int load_adapters(struct run *r, struct err *e)
{
	size_t n = opt.adapters.n ? opt.adapters.n : 1, from_stdin = 0;

	r->adapters = xcalloc(n, sizeof(*r->adapters));
	r->weights = xcalloc(n, sizeof(*r->weights));
	r->names = xcalloc(n, sizeof(*r->names));
	r->paths = xcalloc(n + 1, sizeof(*r->paths));
	for (size_t i = 0; i < n; i++) {
		r->names[i] = r->paths[i] = split_weight(opt.adapters.n ? opt.adapters.items[i] : "-", &r->weights[i]);
		if (!strcmp(r->names[i], "-") && (from_stdin++ || !strcmp(opt.model, "-")))
			return err_set(e, LP_USAGE, "standard input can be one thing only: give the others by name");
		if (!strcmp(r->names[i], "-") && isatty(0))
			return err_set(e, LP_USAGE, "no adapter: give --adapter DIR, or an adapter stream on standard input");
	}
	for (size_t i = 0; i < n; i++) {
		if (peft_open(&r->adapters[i], r->names[i], e))
			return -1;
		r->m.n_adapters++;
		if (r->adapters[i].score)
			return err_off(e, LP_USAGE, r->names[i], -1, "the adapter is a reward model: its score has no place in a language model, so it stays an adapter");
		if (!strcmp(r->names[i], "-"))
			r->names[i] = "(stdin)";
		if (!r->adapters[i].base_id)
			warn("%s: the adapter does not say which base it was trained on: only the shapes are checked", r->names[i]);
	}
	r->m.adapters = r->adapters;
	r->m.weights = r->weights;
	r->m.names = r->names;
	return 0;
}

static int open_base(struct run *r, struct err *e)
{
	struct sb config = SB_INIT;
	char *path = xstrdup(opt.model), *slash;

	for (size_t n = strlen(path); n > 1 && path[n - 1] == '/'; n--)
		path[n - 1] = '\0';
	slash = strrchr(path, '/');
	r->base_name = xstrdup(r->adapters[0].base_name[0] ? r->adapters[0].base_name : slash ? slash + 1 : path);
	free(path);
	r->m.base = model_source_open(opt.model, e);
	if (!r->m.base || merge_check(&r->m, e))
		return -1;
	r->texts = *model_source_texts(r->m.base);
	if (r->m.to_given) {
		if (config_set_dtype(r->texts.config, r->m.to, &config, e))
			return -1;
		r->texts.config = r->config = sb_detach(&config);
	}
	return 0;
}

static void record_inputs(struct run *r)
{
	lineage_input(&r->lineage, r->base_name, r->m.base_id[0] ? r->m.base_id : "unknown", model_source_lineage(r->m.base));
	for (size_t i = 0; i < r->m.n_adapters; i++)
		lineage_input(&r->lineage, r->names[i], r->adapters[i].hash, r->adapters[i].lineage);
}

static int begin(struct run *r, struct model_sink *k, const char *lineage, struct err *e)
{
	const struct st_kv meta[] = { { "lineage", lineage } };
	size_t n;
	struct tensor *list = merge_list(&r->m, &n);
	int rc = model_sink_begin(k, &r->texts, list, n, meta, lineage ? 1 : 0, e);

	free(list);
	return rc;
}

static int report(const struct run *r, struct err *e)
{
	const struct fold_count *c = &r->m.count;

	note("%" PRIu64 " elements changed, %" PRIu64 " changes lost to rounding; %" PRIu64 " elements proved; %.1f s and %.1f s", c->moved - c->lost,
	     c->lost, r->m.verified, r->m.seconds_fold, r->m.seconds_verify);
	return log_metric("merge", e, "\"moved\":%" PRIu64 ",\"lost\":%" PRIu64 ",\"verified\":%" PRIu64 ",\"seconds\":%s,\"verify_seconds\":%s",
			  c->moved, c->lost, r->m.verified, log_num(r->m.seconds_fold), log_num(r->m.seconds_verify));
}

/* The base is hashed while it is read, and held against the adapters before the commit. */
static int to_directory(struct run *r, struct err *e)
{
	struct model_sink *k = model_sink_dir(opt_common.output, opt_common.force, opt.shard, e);
	struct sb lineage = SB_INIT, text = SB_INIT;
	int rc = -1;

	if (!k)
		return -1;
	if (begin(r, k, NULL, e) || merge_run(&r->m, k, e))
		goto out;
	record_inputs(r);
	lineage_json(&r->lineage, &lineage);
	merge_manifest(&r->m, r->base_name, lineage.s, &text);
	if (model_sink_file(k, "lorapipe.json", text.s, text.len, e))
		goto out;
	sb_reset(&text);
	merge_readme(&r->m, r->base_name, lp_version, &text);
	if (model_sink_file(k, "README.md", text.s, text.len, e))
		goto out;
	rc = model_sink_commit(k, e);
	k = NULL;
out:
	model_sink_abort(k);
	sb_release(&lineage);
	sb_release(&text);
	return rc;
}

/* The index frame names the base's hash, so a directory is hashed first. */
static int to_stream(struct run *r, struct err *e)
{
	struct sb lineage = SB_INIT;
	struct model_sink *k;
	struct out *o;
	int rc;

	if (isatty(1))
		return err_set(e, LP_USAGE, "a model stream is not for a terminal: give -o DIR, or a pipe");
	if (model_source_is_dir(r->m.base) && merge_identity(&r->m, e))
		return -1;
	o = out_open(NULL, e);
	if (!o)
		return -1;
	k = model_sink_stream(o, e);
	record_inputs(r);
	lineage_json(&r->lineage, &lineage);
	rc = begin(r, k, lineage.s, e);
	if (!rc)
		rc = merge_run(&r->m, k, e);
	if (rc)
		model_sink_abort(k);
	else
		rc = model_sink_commit(k, e);
	sb_release(&lineage);
	return rc;
}

/* --force would put the output in an input's place. */
static int check_output(const struct run *r, struct err *e)
{
	struct stat out, in;

	if (!opt_common.output || stat(opt_common.output, &out))
		return 0;
	for (size_t i = 0; i <= r->m.n_adapters; i++)
		if (!stat(i ? r->names[i - 1] : opt.model, &in) && in.st_dev == out.st_dev && in.st_ino == out.st_ino)
			return err_off(e, LP_USAGE, opt_common.output, -1, "is an input too: give another name for the output");
	return 0;
}

static int run(struct run *r, struct err *e)
{
	if (!opt.model)
		return err_set(e, LP_USAGE, "no base: give --model DIR");
	r->m.to_given = opt.dtype && dtype_from_hf(opt.dtype, &r->m.to);
	r->m.accept_base = opt.accept_base;
	r->m.verify = !strcmp(opt.verify, "off") ? VERIFY_OFF : !strcmp(opt.verify, "full") ? VERIFY_FULL : VERIFY_SAMPLE;
	lineage_init(&r->lineage, &spec);
	if (load_adapters(r, e) || check_output(r, e) || open_base(r, e))
		return -1;
	if (opt_common.output ? to_directory(r, e) : to_stream(r, e))
		return -1;
	return report(r, e);
}

static void release(struct run *r)
{
	model_source_close(r->m.base);
	for (size_t i = 0; i < r->m.n_adapters; i++)
		peft_release(&r->adapters[i]);
	free(r->adapters);
	free(r->weights);
	for (size_t i = 0; r->paths && r->paths[i]; i++)
		free(r->paths[i]);
	free(r->paths);
	free(r->names);
	free(r->config);
	free(r->base_name);
	lineage_release(&r->lineage);
}

int main(int argc, char **argv)
{
	struct err e = ERR_INIT;
	struct run r = { 0 };
	int rc;

	tool_init(&spec, &argc, &argv);
	if (opt.threads)
		omp_set_num_threads((int)opt.threads);
	rc = argc > 1 ? err_set(&e, LP_USAGE, "'%s' is not expected: lora-merge takes options only", argv[1]) : run(&r, &e);
	release(&r);
	return rc ? tool_fail(&e) : tool_done(LP_OK);
}

/* model-init: random checkpoints of any known shape. Values: model/init.h. */
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
#include "model/config_edit.h"
#include "model/init.h"

static struct {
	const char *family, *like, *from_config, *dtype, *tokenizer;
	struct init_shape shape;
	bool tied, dry_run;
	int64_t seed, threads;
	uint64_t shard;
	double std;
} opt = { .shard = 5ull << 30, .std = 0.02, .dtype = "bfloat16" };

static struct opt opts[] = {
	{ OPT_SECTION, .help = "Shape (0: as the preset has it)" },
	{ OPT_CHOICE, "family", 0, &opt.family, "NAME", "architecture", "llama|qwen2|mistral" },
	{ OPT_STR, "like", 0, &opt.like, "PRESET", "shape of a published model (see below); other options change it" },
	{ OPT_STR, "from-config", 0, &opt.from_config, "FILE", "take this config.json instead of a shape by options" },
	{ OPT_INT, "hidden", 0, &opt.shape.hidden, "N", "width of the residual stream", .min = 1, .max = 1 << 20 },
	{ OPT_INT, "layers", 0, &opt.shape.layers, "N", "decoder layers", .min = 1, .max = 1 << 16 },
	{ OPT_INT, "heads", 0, &opt.shape.heads, "N", "query heads", .min = 1, .max = 1 << 16 },
	{ OPT_INT, "kv-heads", 0, &opt.shape.kv_heads, "N", "key and value heads; query heads are a multiple", .min = 1, .max = 1 << 16 },
	{ OPT_INT, "head-dim", 0, &opt.shape.head_dim, "N", "values of a head (hidden / heads)", .min = 2, .max = 1 << 16 },
	{ OPT_INT, "ffn", 0, &opt.shape.ffn, "N", "width inside the feed-forward block", .min = 1, .max = 1 << 22 },
	{ OPT_INT, "vocab", 0, &opt.shape.vocab, "N", "tokens", .min = 1, .max = 1 << 24 },
	{ OPT_INT, "max-len", 0, &opt.shape.max_len, "N", "positions", .min = 1, .max = 1 << 30 },
	{ OPT_FLAG, "tied", 0, &opt.tied, 0, "the head is the embedding table" },
	{ OPT_F64, "rope-theta", 0, &opt.shape.rope_theta, "X", "base of the rotary frequencies", .min = 1, .max = 1e12 },
	{ OPT_F64, "rms-eps", 0, &opt.shape.rms_eps, "X", "epsilon of the norms", .min = 1e-12, .max = 1 },
	{ OPT_SECTION, .help = "Values" },
	{ OPT_CHOICE, "dtype", 0, &opt.dtype, "TYPE", "of all tensors", "float32|bfloat16|float16" },
	{ OPT_INT, "seed", 0, &opt.seed, "N", "of the values", .max = 9007199254740992.0 },
	{ OPT_F64, "init-std", 0, &opt.std, "X", "standard deviation of weights and biases; norms are 1", .max = 1e4 },
	{ OPT_SECTION, .help = "Output" },
	{ OPT_STR, "tokenizer", 0, &opt.tokenizer, "DIR", "copy the tokenizer and chat template of this directory" },
	{ OPT_SIZE, "shard-size", 0, &opt.shard, "SIZE", "largest file" },
	{ OPT_INT, "threads", 'j', &opt.threads, "N", "threads; 0: one for each processor", .max = 1024, .unrecorded = true },
	{ OPT_FLAG, "dry-run", 0, &opt.dry_run, 0, "print parameters and bytes, write nothing", .unrecorded = true },
	OPT_COMMON,
};
static const struct opt_spec spec = {
	.tool = "model-init",
	.summary = "make a random model",
	.synopsis = "[OPTION]... [-o DIR]",
	.notes = "Presets: tiny (the default), tiny-qwen2, tiny-mistral, llama-2-7b, tinyllama-1.1b, llama-3-8b, llama-3.1-8b, "
		 "llama-3.2-1b, llama-3.2-3b, qwen2.5-0.5b, qwen2.5-1.5b, qwen2.5-7b, mistral-7b.\n\n"
		 "Without -o the model is written to standard output as a stream.",
	.opts = opts,
};

static const char *const shape_opts[] = { "family", "like", "hidden", "layers", "heads", "kv-heads", "head-dim", "ffn",
					  "vocab", "max-len", "tied", "rope-theta", "rms-eps" };

/* config.json's text, from a file or from the options. */
static int make_config(enum dtype t, struct sb *out, struct err *e)
{
	char *text;
	int rc;

	if (opt.like && !init_preset(opt.like))
		return err_set(e, LP_USAGE, "--like: there is no preset '%s'; --help lists them", opt.like);
	if (!opt.from_config) {
		opt.shape.family = opt.family;
		opt.shape.tied = opt_given(&spec, "tied") ? opt.tied : -1;
		if (opt.like && opt.family && strcmp(opt.family, init_preset(opt.like)->family))
			return err_set(e, LP_USAGE, "--like %s is a %s, --family says %s: give one of them", opt.like,
				       init_preset(opt.like)->family, opt.family);
		if (init_shape_complete(&opt.shape, opt.like ? init_preset(opt.like) : NULL, e))
			return -1;
		init_config_json(&opt.shape, t, opt.std, out);
		return 0;
	}
	for (size_t i = 0; i < sizeof(shape_opts) / sizeof(shape_opts[0]); i++)
		if (opt_given(&spec, shape_opts[i]))
			return err_set(e, LP_USAGE, "--%s does not go with --from-config: edit the file instead", shape_opts[i]);
	text = in_slurp(opt.from_config, 1 << 20, NULL, e);
	if (!text)
		return -1;
	rc = config_set_dtype(text, t, out, e);
	free(text);
	return rc;
}

static int make_texts(struct model_texts *texts, const char *config, struct err *e)
{
	memset(texts, 0, sizeof(*texts));
	if (opt.tokenizer && model_texts_read(texts, opt.tokenizer, e))
		return -1;
	if (opt.tokenizer && !texts->tokenizer && !texts->tokenizer_model)
		return err_off(e, LP_USAGE, opt.tokenizer, -1, "no tokenizer.json or tokenizer.model there");
	free(texts->config);
	free(texts->generation_config); /* may stop at ids that this model lacks */
	texts->generation_config = NULL;
	texts->config = xstrdup(config);
	return 0;
}

static struct model_sink *open_sink(struct err *e)
{
	struct out *o;

	if (opt_common.output)
		return model_sink_dir(opt_common.output, opt_common.force, opt.shard, e);
	if (isatty(1)) {
		err_set(e, LP_USAGE, "a model stream is not for a terminal: give -o DIR, or a pipe");
		return NULL;
	}
	o = out_open(NULL, e);
	return o ? model_sink_stream(o, e) : NULL;
}

static int write_model(const struct model_texts *texts, const struct tensor *t, size_t n, struct err *e)
{
	struct model_sink *k = open_sink(e);
	struct lineage l;
	struct sb lineage = SB_INIT;
	int rc;

	if (!k)
		return -1;
	lineage_init(&l, &spec);
	lineage_json(&l, &lineage);
	{
		const struct st_kv meta[] = { { "lineage", lineage.s } };

		rc = model_sink_begin(k, texts, t, n, meta, 1, e);
	}
	if (!rc)
		rc = init_write(t, n, (uint64_t)opt.seed, opt.std, k, e);
	if (rc)
		model_sink_abort(k);
	else
		rc = model_sink_commit(k, e);
	lineage_release(&l);
	sb_release(&lineage);
	return rc;
}

static int run(struct err *e)
{
	struct sb config = SB_INIT;
	struct arena a = ARENA_INIT;
	struct model_texts texts = { 0 };
	struct model_desc m;
	struct tensor *t;
	struct json v;
	enum dtype dtype;
	size_t n;
	int rc = -1;

	dtype_from_hf(opt.dtype, &dtype);
	if (make_config(dtype, &config, e) || json_parse_str(config.s, &a, &v, e) ||
	    model_desc_read(&v, opt.from_config ? opt.from_config : "(options)", &m, e) || make_texts(&texts, config.s, e))
		goto out;
	if (m.bnb.on) {
		err_off(e, LP_DATA, opt.from_config, -1, "it is of a quantised checkpoint: take quantization_config out for a model in full");
		goto out;
	}
	t = init_tensors(&m, dtype, &a, &n);
	if (opt.dry_run) {
		printf("parameters %" PRId64 "\nbytes %" PRIu64 "\n", model_params(&m), (uint64_t)model_params(&m) * dtype_bytes(dtype));
		rc = 0;
	} else {
		rc = write_model(&texts, t, n, e);
	}
out:
	model_texts_release(&texts);
	arena_release(&a);
	sb_release(&config);
	return rc;
}

int main(int argc, char **argv)
{
	struct err e = ERR_INIT;

	tool_init(&spec, &argc, &argv);
	if (argc > 1)
		err_set(&e, LP_USAGE, "'%s' is not expected: model-init takes options only", argv[1]);
	else if (opt.threads)
		omp_set_num_threads((int)opt.threads);
	if (e.code || run(&e))
		return tool_fail(&e);
	return tool_done(LP_OK);
}

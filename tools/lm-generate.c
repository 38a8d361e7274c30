/* lm-generate: chat or {"prompt"} records in, completion records out. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "base/tool.h"
#include "base/xalloc.h"
#include "fmt/lineage.h"
#include "model/codes.h"
#include "train/completion.h"
#include "train/generate.h"
#include "train/prompt.h"

static struct {
	const char *model, *adapter, *quant, *template, *template_name, *system, *map, *format, *device, *compute, *date;
	int64_t max_new, top_k, seed, batch, context, threads, limit;
	double temperature, top_p;
	uint64_t memory;
	bool ignore_eos, raw, score, drop_long;
} o = { .quant = "none", .format = "auto", .device = "auto", .compute = "auto", .date = CHAT_DEFAULT_DATE, .max_new = 256, .seed = 42, .batch = 8, .context = 2048, .top_p = 1 };

static struct opt options[] = {
	{ OPT_SECTION, .help = "Model" },
	{ OPT_STR, "model", 0, &o.model, "DIR", "Hugging Face model directory (needed)" },
	{ OPT_STR, "adapter", 0, &o.adapter, "DIR", "run with this adapter" },
	{ OPT_CHOICE, "quant", 0, &o.quant, "KIND", "the base as it is, or as QLoRA trains on it", "none|nf4" },
	{ OPT_SECTION, .help = "Prompts" },
	{ OPT_STR, "template", 0, &o.template, "FILE", "chat template instead of the model's" },
	{ OPT_STR, "template-name", 0, &o.template_name, "NAME", "which of the model's named templates (default: default)" },
	{ OPT_STR, "date", 0, &o.date, "YYYY-MM-DD", "the day that templates see as today" },
	{ OPT_STR, "system", 0, &o.system, "TEXT", "a system message for records that have none" },
	{ OPT_STR, "map", 0, &o.map, "NAME=FIELD,...", "fields to read: prompt, completion, system, or messages" },
	{ OPT_CHOICE, "format", 0, &o.format, "FORMAT", "of the input", "auto|jsonl|array|csv" },
	{ OPT_FLAG, "raw", 0, &o.raw, 0, "{\"prompt\"} is the text itself: no template (BOS is put before it)" },
	{ OPT_INT, "limit", 0, &o.limit, "N", "only the first N records (0: all)", .min = 0, .max = 1e12 },
	{ OPT_FLAG, "drop-long", 0, &o.drop_long, 0, "leave out records that are longer than the context" },
	{ OPT_FLAG, "score", 0, &o.score, 0, "complete nothing: the likelihood of the answers that the records hold" },
	{ OPT_SECTION, .help = "Decoding" },
	{ OPT_INT, "max-new", 0, &o.max_new, "N", "most new tokens", .min = 1, .max = 1 << 20 },
	{ OPT_F64, "temperature", 0, &o.temperature, "X", "0: greedy", .min = 0, .max = 100 },
	{ OPT_F64, "top-p", 0, &o.top_p, "X", "smallest set of tokens with this probability", .min = 1e-6, .max = 1 },
	{ OPT_INT, "top-k", 0, &o.top_k, "N", "the N likeliest tokens (0: all)", .min = 0, .max = 1 << 24 },
	{ OPT_INT, "seed", 0, &o.seed, "N", "seed of the draws; each is keyed by record and position", .min = 0, .max = 9e15 },
	{ OPT_FLAG, "ignore-eos", 0, &o.ignore_eos, 0, "go on past the model's end tokens" },
	{ OPT_SECTION, .help = "Machine" },
	{ OPT_INT, "batch", 0, &o.batch, "N", "sequences at once", .min = 1, .max = 4096 },
	{ OPT_INT, "context", 0, &o.context, "N", "most tokens of prompt and response together", .min = 2, .max = 1 << 24 },
	{ OPT_STR, "device", 0, &o.device, "NAME", "auto, cpu, cuda or cuda:N" },
	{ OPT_CHOICE, "compute", 0, &o.compute, "TYPE", "of weights and activations on a GPU (auto: bf16 where it has that)", "auto|bf16|fp16" },
	{ OPT_INT, "threads", 'j', &o.threads, "N", "CPU threads; 0: one for each processor", .min = 0, .max = 1024, .unrecorded = true },
	{ OPT_SIZE, "memory", 0, &o.memory, "SIZE", "memory that may be used (0: what is free)", .unrecorded = true },
	OPT_COMMON,
};

static const struct opt_spec spec = {
	.tool = "lm-generate",
	.summary = "complete prompts with a model, with or without an adapter",
	.synopsis = "--model DIR [OPTION]... [FILE]",
	.notes = "A chat record whose last message is the assistant's is completed from the message before; that answer becomes the field \"expected\".",
	.opts = options,
};

struct state {
	struct device dev;
	struct model_desc desc;
	struct peft peft;
	bool has_adapter;
	struct lora lora;
	struct engine g;
	struct generator gen;
	struct prompter prompter;
	char date_string[32];
	int32_t stop[32];
	struct gen_options opts;
	struct lineage lineage;
	int64_t tokens;
	int64_t records, dropped;
};

/* --- set-up --- */

static int load_adapter(struct state *s, struct err *e)
{
	if (!o.adapter)
		return 0;
	if (peft_open(&s->peft, o.adapter, e) < 0)
		return -1;
	s->has_adapter = true;
	if (s->peft.score)
		return err_off(e, LP_USAGE, o.adapter, -1, "the adapter is a reward model, which scores answers and writes none (qlora-train --eval-only --method reward)");
	if (lora_from_peft(&s->lora, &s->desc, &s->peft, e) < 0)
		return err_where(e, o.adapter, 0);
	return 0;
}

static int check_base(struct state *s, struct model_source *src, struct err *e)
{
	if (!s->has_adapter)
		return 0;
	if (codes_check_base(&s->peft, o.adapter, src, s->g.w.identity, e) < 0)
		return -1;
	if (!s->peft.base_id)
		warn("'%s' does not say which base it was trained on; it fits by shape", o.adapter);
	lora_load(&s->lora, &s->dev, &s->peft);
	if (weights_take_saved(&s->g.w, &s->dev, &s->peft, e) < 0)
		return err_where(e, o.adapter, 0);
	lineage_input(&s->lineage, o.adapter, s->peft.hash, s->peft.lineage);
	return 0;
}

static int load_engine(struct state *s, struct model_source *src, struct err *e)
{
	int64_t context = o.context < s->desc.max_pos ? o.context : s->desc.max_pos;
	struct engine_shape shape = { .max_tokens = context > o.batch ? context : o.batch, .max_seq = context, .decode = o.batch };
	/* a checkpoint in 4 bits is NF4 as it is */
	bool nf4 = strcmp(o.quant, "nf4") == 0 || (s->desc.bnb.on && !opt_given(&spec, "quant"));
	uint64_t cache, budget;

	if (device_open(&s->dev, o.device, o.compute, (int)o.threads, e) < 0)
		return -1;
	cache = generator_bytes(&s->dev, &s->desc, o.batch, context);
	budget = o.memory ? o.memory : s->dev.free_bytes / 10 * 9;
	if (cache >= budget)
		return err_set(e, LP_DEVICE, "the key-value cache needs %.2f GiB of %.2f; lower --batch or --context", (double)cache / (1 << 30),
		               (double)budget / (1 << 30));
	shape.budget = budget - cache;
	if (engine_plan(&s->g, &s->dev, &s->desc, weights_source_dtype(src, s->desc.dtype), nf4,
	                s->has_adapter ? &s->lora : NULL, &shape, e) < 0 ||
	    engine_alloc(&s->g, e) < 0 || engine_load(&s->g, src, e) < 0)
		return -1;
	lineage_input(&s->lineage, o.model, s->g.w.identity, NULL);
	if (check_base(s, src, e) < 0)
		return -1;
	/* at least one token is new; a text to score may fill the context */
	s->prompter.max_tokens = o.score ? context : context - 1;
	return generator_init(&s->gen, &s->g, o.batch, context, e);
}

static int load_texts(struct state *s, const struct model_texts *t, struct err *e)
{
	struct prompter *p = &s->prompter;

	p->raw = o.raw;
	p->score = o.score;
	p->drop_long = o.drop_long;
	p->map.system = o.system;
	if (chat_set_date(&p->how, o.date, opt_given(&spec, "date"), s->date_string, e) < 0)
		return -1;
	p->tok = tok_load_dir(o.model, e);
	if (!p->tok)
		return -1;
	if (!o.raw) {
		p->tmpl = chat_tmpl_load_dir(o.model, o.template, o.template_name, e);
		if (!p->tmpl)
			return -1;
	}
	s->opts.stop = s->stop;
	if (prompt_stops(t, s->desc.eos, s->desc.n_eos, p->tok, s->stop, (int64_t)(sizeof(s->stop) / sizeof(*s->stop)), &s->opts.n_stop, e) < 0)
		return -1;
	if (o.ignore_eos)
		s->opts.n_stop = 0;
	return 0;
}

static int load(struct state *s, struct err *e)
{
	struct model_source *src;
	int rc;

	if (!o.model)
		return err_set(e, LP_USAGE, "which model? give --model DIR");
	if (o.score && o.raw)
		return err_set(e, LP_USAGE, "--score needs answers, and --raw prompts have none");
	if (o.map && chat_map_parse(o.map, &s->prompter.map, e) < 0)
		return -1;
	s->opts = (struct gen_options){ .max_new = o.max_new, .temperature = o.temperature, .top_p = o.top_p, .top_k = o.top_k, .seed = (uint64_t)o.seed };
	if (model_desc_load(o.model, &s->desc, e) < 0 || load_adapter(s, e) < 0)
		return -1;
	src = model_source_open(o.model, e);
	if (!src)
		return -1;
	rc = load_texts(s, model_source_texts(src), e);
	if (rc == 0)
		rc = load_engine(s, src, e);
	model_source_close(src);
	return rc;
}

/* --- completions --- */

/* Tokens chosen among logits that are no numbers are no answer. */
static int check_number(const struct prompt *p, double logprob, struct err *e)
{
	if (isfinite(logprob))
		return 0;
	return err_set(e, LP_DATA, "record %s: the model's logits are not finite: its weights are too large for this computation, or the adapter diverged",
	               p->id);
}

static int write_completion(struct state *s, const struct prompt *p, const struct gen_seq *q, struct out *out, struct err *e)
{
	struct sb line = SB_INIT;
	int rc = completion_write(&s->prompter, p, q, NULL, &line, e);

	if (rc == 0)
		rc = out_write(out, line.s, line.len, e);
	s->tokens += q->n_new;
	sb_release(&line);
	return rc;
}

/* {"id","nll","tokens"}: the answer's tokens, each given all before it. */
static int score_one(struct state *s, const struct prompt *p, struct out *out, struct err *e)
{
	struct dataset d = { 0 };
	struct sb line = SB_INIT;
	struct jw w = jw_to(&line);
	int64_t start[2] = { 0, p->n_ids }, record = 0;
	double nll = 0;
	int rc;

	dataset_add_row(&d, p->ids, p->mask, start, &record, 1);
	microbatch_clear(&s->gen.mb);
	microbatch_add(&s->gen.mb, &d, 0);
	engine_begin(&s->g);
	engine_run(&s->g, &s->gen.mb, false, 1);
	rc = engine_sums(&s->g, &nll, NULL, e);
	if (rc == 0)
		rc = check_number(p, nll, e);
	jw_obj(&w);
	jw_key(&w, "id");
	jw_raw(&w, p->id, strlen(p->id));
	jw_key(&w, "nll");
	jw_f64(&w, nll);
	jw_key(&w, "tokens");
	jw_i64(&w, s->gen.mb.n_targets);
	jw_end_obj(&w);
	sb_addc(&line, '\n');
	if (rc == 0)
		rc = out_write(out, line.s, line.len, e);
	s->tokens += s->gen.mb.n_targets;
	sb_release(&line);
	dataset_release(&d);
	return rc;
}

static int complete(struct state *s, struct prompt *p, int64_t n, struct out *out, struct err *e)
{
	struct gen_seq *q = xcalloc((size_t)n, sizeof(*q));
	int32_t *ids = xcalloc((size_t)(n * o.max_new), sizeof(*ids));
	int rc;

	for (int64_t i = 0; i < n; i++)
		q[i] = (struct gen_seq){ .prompt = p[i].ids, .n_prompt = p[i].n_ids, .stream = p[i].line, .out = ids + i * o.max_new };
	rc = generator_run(&s->gen, q, n, &s->opts, e);
	for (int64_t i = 0; i < n && rc == 0; i++)
		rc = check_number(&p[i], q[i].logprob, e) < 0 ? -1 : write_completion(s, &p[i], &q[i], out, e);
	free(q);
	free(ids);
	return rc;
}

/* Up to a batch of prompts; *n is how many there were, and fewer than a batch at the end alone. */
static int read_batch(struct state *s, struct jsonl *in, struct prompt *p, int64_t *n, struct err *e)
{
	struct jsonl_rec r;
	int got;

	for (*n = 0; *n < o.batch && (o.limit == 0 || s->records < o.limit);) {
		got = jsonl_next(in, &r, e);
		if (got <= 0)
			return got;
		s->records++;
		++*n; /* also when it fails: it is released with the others */
		if (prompt_make(&s->prompter, &r, jsonl_arena(in), &p[*n - 1], e) < 0)
			return err_where(e, in_name(jsonl_in(in)), r.line);
		if (p[*n - 1].too_long) {
			prompt_release(&p[--*n]);
			s->dropped++;
		}
	}
	return 0;
}

static int run_records(struct state *s, struct jsonl *in, struct out *out, struct err *e)
{
	struct prompt *p = xcalloc((size_t)o.batch, sizeof(*p));
	int64_t n = 0;
	int rc;

	do {
		rc = read_batch(s, in, p, &n, e);
		if (rc == 0 && n && !o.score)
			rc = complete(s, p, n, out, e);
		for (int64_t i = 0; i < n; i++) {
			if (rc == 0 && o.score)
				rc = score_one(s, &p[i], out, e);
			prompt_release(&p[i]);
		}
		progress("%lld records, %lld tokens", (long long)s->records, (long long)s->tokens);
	} while (rc == 0 && n == o.batch);
	free(p);
	if (rc == 0 && s->records == 0)
		return err_line(e, LP_DATA, in_name(jsonl_in(in)), 0, "no records in it");
	return rc;
}

static int finish(struct state *s, struct jsonl *in, struct out *out, struct err *e)
{
	char hash[48] = "xxh3:";

	in_hash(jsonl_in(in), hash + 5);
	lineage_input(&s->lineage, in_name(jsonl_in(in)), hash, NULL);
	memcpy(hash, "xxh3:", 6);
	out_hash(out, hash + 5);
	if (out_commit(out, e) < 0)
		return -1;
	return lineage_sidecar(&s->lineage, opt_common.output, hash, e);
}

static int run(struct state *s, const char *path, struct err *e)
{
	struct in *in = in_open(path, e);
	struct jsonl *j = in ? jsonl_open_take(in, o.format, e) : NULL;
	struct out *out = NULL;
	double begin;
	int rc = -1;

	if (!j || load(s, e) < 0 || !(out = out_open(opt_common.output, e))) {
		jsonl_close(j);
		return -1;
	}
	begin = now_seconds();
	rc = run_records(s, j, out, e);
	progress_done();
	if (rc == 0)
		rc = log_metric("done", e, "\"records\":%lld,\"dropped\":%lld,\"tokens\":%lld,\"seconds\":%.3f", (long long)s->records,
		                (long long)s->dropped, (long long)s->tokens, now_seconds() - begin);
	if (rc == 0 && s->dropped)
		warn("%lld records longer than %lld tokens were left out", (long long)s->dropped, (long long)s->prompter.max_tokens);
	if (rc == 0)
		rc = finish(s, j, out, e);
	else
		out_abort(out);
	jsonl_close(j);
	return rc;
}

int main(int argc, char **argv)
{
	static struct state s;
	struct err e = ERR_INIT;
	int rc;

	tool_init(&spec, &argc, &argv);
	lineage_init(&s.lineage, &spec);
	rc = argc > 2 ? err_set(&e, LP_USAGE, "one input at a time, not %d; join files with cat or ds-mix", argc - 1) : run(&s, argc > 1 ? argv[1] : NULL, &e);
	generator_release(&s.gen);
	engine_release(&s.g);
	lora_release(&s.lora);
	if (s.has_adapter)
		peft_release(&s.peft);
	chat_tmpl_free(s.prompter.tmpl);
	tok_free(s.prompter.tok);
	lineage_release(&s.lineage);
	return rc < 0 ? tool_fail(&e) : tool_done(LP_OK);
}

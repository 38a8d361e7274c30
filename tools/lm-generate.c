/* lm-generate: chat or {"prompt"} records in, completion records out. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/log.h"
#include "base/tool.h"
#include "base/xalloc.h"
#include "fmt/lineage.h"
#include "json/jsonl.h"
#include "json/record.h"
#include "text/tmpl.h"
#include "text/tok.h"
#include "train/generate.h"

static struct {
	const char *model, *adapter, *quant, *template, *template_name, *system, *map, *format, *device, *date;
	int64_t max_new, top_k, seed, batch, context, threads, limit;
	double temperature, top_p;
	uint64_t memory;
	bool ignore_eos, raw, score;
} o = { .quant = "none", .device = "auto", .max_new = 256, .seed = 42, .batch = 8, .context = 2048, .top_p = 1 };

static struct opt options[] = {
	{ OPT_SECTION, .help = "Model" },
	{ OPT_STR, "model", 0, &o.model, "DIR", "Hugging Face model directory (needed)" },
	{ OPT_STR, "adapter", 0, &o.adapter, "DIR", "run with this adapter" },
	{ OPT_CHOICE, "quant", 0, &o.quant, "KIND", "the base as it is, or as QLoRA trains on it", "none|nf4" },
	{ OPT_SECTION, .help = "Prompts" },
	{ OPT_STR, "template", 0, &o.template, "FILE", "chat template instead of the model's" },
	{ OPT_STR, "template-name", 0, &o.template_name, "NAME", "which of several templates" },
	{ OPT_STR, "date", 0, &o.date, "DATE", "the day that a template sees, YYYY-MM-DD" },
	{ OPT_STR, "system", 0, &o.system, "TEXT", "system message where a record has none" },
	{ OPT_STR, "map", 0, &o.map, "LIST", "names of fields: prompt=FIELD,completion=FIELD" },
	{ OPT_CHOICE, "format", 0, &o.format, "NAME", "of the input", "auto|jsonl|array|csv" },
	{ OPT_FLAG, "raw", 0, &o.raw, 0, "{\"prompt\"} is the text itself: no template (BOS is put before it)" },
	{ OPT_INT, "limit", 0, &o.limit, "N", "only the first N records (0: all)", .min = 0, .max = 1e12 },
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
	{ OPT_INT, "threads", 'j', &o.threads, "N", "CPU threads (0: one for each core)", .min = 0, .max = 1024, .unrecorded = true },
	{ OPT_SIZE, "memory", 0, &o.memory, "SIZE", "memory that may be used (0: what is free)", .unrecorded = true },
	OPT_COMMON,
};

static const struct opt_spec spec = {
	.tool = "lm-generate",
	.summary = "complete prompts with a model, with or without an adapter",
	.synopsis = "--model DIR [OPTION]... [FILE]",
	.notes = "A chat record whose last message is the assistant's is completed from the message before;\nthat answer becomes the field \"expected\".",
	.opts = options,
};

struct job { /* one record on its way through */
	char *id, *prompt, *expected; /* JSON text, text (with --score: all of it), text or NULL */
	struct tmpl_span *spans;      /* --score: the last answer */
	size_t n_spans;
	uint8_t *mask;                /* (n_ids) --score: 1 on its tokens */
	size_t expected_len;
	int32_t *ids, *out;
	int64_t n_ids;
	uint64_t number;
};

struct state {
	struct device dev;
	struct model_desc desc;
	struct peft peft;
	bool has_adapter;
	struct lora lora;
	struct engine g;
	struct generator gen;
	struct tok *tok;
	struct chat_tmpl *tmpl;
	struct chat_map map;
	int32_t stop[32];
	struct gen_options opts;
	struct lineage lineage;
	int64_t tokens;
};

/* --- set-up --- */

static void add_stop(struct state *s, int64_t id)
{
	if (id >= 0 && s->opts.n_stop < (int64_t)(sizeof(s->stop) / sizeof(*s->stop)))
		s->stop[s->opts.n_stop++] = (int32_t)id;
}

/* The model's end tokens: generation_config.json's, config.json's, the tokenizer's. */
static int find_stops(struct state *s, const struct model_texts *t, struct err *e)
{
	struct arena a = ARENA_INIT;
	struct json v;
	const struct json *eos;
	int64_t id;

	if (t->generation_config) {
		if (json_parse_str(t->generation_config, &a, &v, e) < 0) {
			arena_release(&a);
			return err_where(e, "generation_config.json", 0);
		}
		eos = json_get(&v, "eos_token_id");
		for (uint32_t i = 0; eos && i < (eos->type == JSON_ARR ? eos->n : 1); i++)
			if (json_as_i64(eos->type == JSON_ARR ? &eos->items[i] : eos, &id))
				add_stop(s, id);
		arena_release(&a);
	}
	for (int i = 0; i < s->desc.n_eos; i++)
		add_stop(s, s->desc.eos[i]);
	add_stop(s, tok_eos(s->tok));
	s->opts.stop = s->stop;
	if (o.ignore_eos)
		s->opts.n_stop = 0;
	return 0;
}

static int load_adapter(struct state *s, struct err *e)
{
	if (!o.adapter)
		return 0;
	if (peft_open(&s->peft, o.adapter, e) < 0)
		return -1;
	s->has_adapter = true;
	if (lora_from_peft(&s->lora, &s->desc, &s->peft, e) < 0)
		return err_where(e, o.adapter, 0);
	return 0;
}

static int check_base(struct state *s, struct err *e)
{
	if (!s->has_adapter)
		return 0;
	if (s->peft.base_id && strcmp(s->peft.base_id, s->g.w.identity) != 0)
		return err_line(e, LP_USAGE, o.adapter, 0, "the adapter was trained on another base (%.19s..., not %.19s...)", s->peft.base_id, s->g.w.identity);
	if (!s->peft.base_id)
		warn("'%s' does not say which base it was trained on; it fits by shape", o.adapter);
	lora_load(&s->lora, &s->dev, &s->peft);
	lineage_input(&s->lineage, o.adapter, s->peft.hash, s->peft.lineage);
	return 0;
}

static int load_engine(struct state *s, struct model_source *src, struct err *e)
{
	int64_t context = o.context < s->desc.max_pos ? o.context : s->desc.max_pos;
	struct engine_shape shape = { .max_tokens = context > o.batch ? context : o.batch, .max_seq = context };
	uint64_t cache = generator_bytes(&s->desc, o.batch, context), budget;

	if (device_open(&s->dev, o.device, (int)o.threads, e) < 0)
		return -1;
	budget = o.memory ? o.memory : s->dev.free_bytes / 10 * 9;
	if (cache >= budget)
		return err_set(e, LP_DEVICE, "the key-value cache needs %.2f GiB of %.2f; lower --batch or --context", (double)cache / (1 << 30),
		               (double)budget / (1 << 30));
	shape.budget = budget - cache;
	if (engine_plan(&s->g, &s->dev, &s->desc, weights_source_dtype(src, s->desc.dtype), strcmp(o.quant, "nf4") == 0,
	                s->has_adapter ? &s->lora : NULL, &shape, e) < 0 ||
	    engine_alloc(&s->g, e) < 0 || weights_load(&s->g.w, src, &s->dev, e) < 0)
		return -1;
	lineage_input(&s->lineage, o.model, s->g.w.identity, NULL);
	if (check_base(s, e) < 0)
		return -1;
	return generator_init(&s->gen, &s->g, o.batch, context, e);
}

static int load_texts(struct state *s, const struct model_texts *t, struct err *e)
{
	s->tok = tok_load_dir(o.model, e);
	if (!s->tok)
		return -1;
	if (!o.raw) {
		s->tmpl = chat_tmpl_load_dir(o.model, o.template, o.template_name, e);
		if (!s->tmpl)
			return -1;
	}
	return find_stops(s, t, e);
}

static int load(struct state *s, struct err *e)
{
	struct model_source *src;
	int rc;

	if (!o.model)
		return err_set(e, LP_USAGE, "which model? give --model DIR");
	if (o.score && o.raw)
		return err_set(e, LP_USAGE, "--score needs answers, and --raw prompts have none");
	if (o.map && chat_map_parse(o.map, &s->map, e) < 0)
		return -1;
	s->map.system = o.system;
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

/* --- prompts --- */

static int64_t pinned_now(struct err *e)
{
	struct tm tm = { 0 };

	if (!o.date)
		return (int64_t)time(NULL);
	if (sscanf(o.date, "%4d-%2d-%2d", &tm.tm_year, &tm.tm_mon, &tm.tm_mday) != 3)
		return err_set(e, LP_USAGE, "--date takes YYYY-MM-DD, not '%s'", o.date);
	tm.tm_year -= 1900;
	tm.tm_mon -= 1;
	return (int64_t)timegm(&tm);
}

/* The text to complete, and the answer that was there. */
static int chat_prompt(struct state *s, const struct json *v, struct arena *a, struct job *j, struct err *e)
{
	struct chat c;
	struct chat_render_opts r = { .add_generation_prompt = true };
	struct sb text = SB_INIT;

	if (chat_from_json(v, &s->map, a, &c, e) < 0)
		return -1;
	r.now = pinned_now(e);
	if (r.now < 0)
		return -1;
	if (o.score) {
		r.add_generation_prompt = false;
		r.span_choice = "last";
	} else if (c.n_msgs && strcmp(c.msgs[c.n_msgs - 1].role, "assistant") == 0 && c.msgs[c.n_msgs - 1].content) {
		const struct chat_msg *last = &c.msgs[--c.n_msgs];

		j->expected = xmemdup0(last->content, last->content_len);
		j->expected_len = last->content_len;
	}
	if (chat_tmpl_render(s->tmpl, &c, &r, &text, o.score ? &j->spans : NULL, o.score ? &j->n_spans : NULL, e) < 0) {
		sb_release(&text);
		return -1;
	}
	j->prompt = sb_detach(&text);
	if (o.score && j->n_spans == 0)
		return err_set(e, LP_DATA, "no answer to score: the record's last message is not the assistant's");
	return 0;
}

/* {"prompt": TEXT} and no answer: nothing but the user's turn. */
static bool is_bare_prompt(const struct json *v)
{
	return json_is(json_get(v, "prompt"), JSON_STR) && !json_get(v, "completion") && !json_get(v, "response") && !json_get(v, "messages");
}

static int bare_prompt(struct state *s, const struct json *v, struct arena *a, struct job *j, struct err *e)
{
	const struct json *p = json_get(v, "prompt"), *x = json_get(v, "expected");
	struct json_member m[2] = { { "role", 4, { .type = JSON_STR, .n = 4, .s = "user" } }, { "content", 7, *p } };
	struct json msg = { .type = JSON_OBJ, .n = 2, .members = m };
	struct json_member top = { "messages", 8, { .type = JSON_ARR, .n = 1, .items = &msg } };

	if (json_is(x, JSON_STR)) {
		j->expected = xmemdup0(x->s, x->n);
		j->expected_len = x->n;
	}
	if (o.raw) {
		const char *bos = tok_bos(s->tok) >= 0 ? tok_piece(s->tok, tok_bos(s->tok)) : "";
		bool has = strncmp(p->s, bos, strlen(bos)) == 0;

		j->prompt = xasprintf("%s%s", has ? "" : bos, p->s);
		return 0;
	}
	return chat_prompt(s, &(struct json){ .type = JSON_OBJ, .n = 1, .members = &top }, a, j, e);
}

static int tokenise(struct state *s, struct job *j, struct err *e)
{
	struct tok_out t = { 0 };

	if (tok_encode(s->tok, j->prompt, strlen(j->prompt), &t, e) < 0) {
		tok_out_release(&t);
		return -1;
	}
	j->n_ids = (int64_t)t.n;
	j->ids = t.ids;
	if (o.score) {
		j->mask = xcalloc(t.n + 1, 1);
		for (size_t i = 0; i < t.n; i++)
			for (size_t k = 0; k < j->n_spans; k++)
				j->mask[i] |= t.begin[i] >= j->spans[k].begin && t.begin[i] < j->spans[k].end;
	}
	t.ids = NULL;
	tok_out_release(&t);
	j->out = xcalloc((size_t)o.max_new + 1, sizeof(*j->out));
	if (j->n_ids < s->gen.context && j->n_ids > 0)
		return 0;
	return err_set(e, LP_DATA, "a prompt of %lld tokens, and prompt and response may have %lld together; raise --context or shorten it",
	               (long long)j->n_ids, (long long)s->gen.context);
}

static int make_job(struct state *s, const struct jsonl_rec *r, struct arena *a, uint64_t number, struct job *j, struct err *e)
{
	const struct json *id = json_get(&r->v, "id");
	struct sb text = SB_INIT;
	struct jw w = jw_to(&text);
	int rc;

	memset(j, 0, sizeof(*j));
	j->number = number;
	if (id)
		jw_value(&w, id);
	else
		jw_i64(&w, (int64_t)number);
	j->id = sb_detach(&text);
	if (is_bare_prompt(&r->v) && !o.score)
		rc = bare_prompt(s, &r->v, a, j, e);
	else
		rc = o.raw ? err_set(e, LP_DATA, "--raw takes records with a string \"prompt\"") : chat_prompt(s, &r->v, a, j, e);
	return rc == 0 ? tokenise(s, j, e) : -1;
}

static void free_job(struct job *j)
{
	free(j->id);
	free(j->prompt);
	free(j->expected);
	free(j->ids);
	free(j->out);
	free(j->spans);
	free(j->mask);
}

/* --- completions --- */

/* What the new tokens add to the text: decoded behind the prompt, so that a
 * space that a decoder drops at the beginning of a text is not lost. */
static int response_text(struct state *s, const struct job *j, const struct gen_seq *q, struct sb *out, struct err *e)
{
	struct sb before = SB_INIT, all = SB_INIT;
	int64_t n = j->n_ids + q->n_new;
	int32_t *ids = xcalloc((size_t)n + 1, sizeof(*ids));
	int rc;

	memcpy(ids, j->ids, (size_t)j->n_ids * sizeof(*ids));
	memcpy(ids + j->n_ids, q->out, (size_t)q->n_new * sizeof(*ids));
	rc = tok_decode(s->tok, j->ids, (size_t)j->n_ids, true, &before, e);
	if (rc == 0)
		rc = tok_decode(s->tok, ids, (size_t)n, true, &all, e);
	if (rc == 0 && all.len >= before.len && memcmp(sb_str(&all), sb_str(&before), before.len) == 0)
		sb_add(out, sb_str(&all) + before.len, all.len - before.len);
	else if (rc == 0)
		rc = tok_decode(s->tok, q->out, (size_t)q->n_new, true, out, e);
	sb_release(&before);
	sb_release(&all);
	free(ids);
	return rc;
}

static int write_completion(struct state *s, const struct job *j, const struct gen_seq *q, struct out *out, struct err *e)
{
	static const char *const finish[] = { "stop", "length", "context" };
	struct sb text = SB_INIT, line = SB_INIT;
	struct jw w = jw_to(&line);
	int rc = response_text(s, j, q, &text, e);

	jw_obj(&w);
	jw_key(&w, "id");
	jw_raw(&w, j->id, strlen(j->id));
	jw_key(&w, "prompt");
	jw_str(&w, j->prompt);
	jw_key(&w, "response");
	jw_strn(&w, sb_str(&text), text.len);
	if (j->expected) {
		jw_key(&w, "expected");
		jw_strn(&w, j->expected, j->expected_len);
	}
	jw_key(&w, "tokens");
	jw_i64(&w, q->n_new);
	jw_key(&w, "finish");
	jw_str(&w, finish[q->finish]);
	jw_end_obj(&w);
	sb_addc(&line, '\n');
	if (rc == 0)
		rc = out_write(out, line.s, line.len, e);
	s->tokens += q->n_new;
	sb_release(&text);
	sb_release(&line);
	return rc;
}

/* {"id","nll","tokens"}: the answer's tokens, each given all before it. */
static int score_one(struct state *s, const struct job *j, struct out *out, struct err *e)
{
	struct dataset d = { 0 };
	struct sb line = SB_INIT;
	struct jw w = jw_to(&line);
	int64_t start[2] = { 0, j->n_ids }, record = 0;
	double nll = 0;
	int rc;

	dataset_add_row(&d, j->ids, j->mask, start, &record, 1);
	microbatch_clear(&s->gen.mb);
	microbatch_add(&s->gen.mb, &d, 0);
	rc = engine_run(&s->g, &s->gen.mb, false, 1, e);
	for (int64_t i = 0; i < s->gen.mb.n_targets; i++)
		nll += s->g.nll[i];
	jw_obj(&w);
	jw_key(&w, "id");
	jw_raw(&w, j->id, strlen(j->id));
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

static int run_batch(struct state *s, struct job *jobs, int64_t n, struct out *out, struct err *e)
{
	struct gen_seq *q = xcalloc((size_t)n + 1, sizeof(*q));
	int rc;

	for (int64_t i = 0; i < n; i++)
		q[i] = (struct gen_seq){ .prompt = jobs[i].ids, .n_prompt = jobs[i].n_ids, .stream = jobs[i].number, .out = jobs[i].out };
	rc = n && !o.score ? generator_run(&s->gen, q, n, &s->opts, e) : 0;
	for (int64_t i = 0; i < n; i++) {
		if (rc == 0)
			rc = o.score ? score_one(s, &jobs[i], out, e) : write_completion(s, &jobs[i], &q[i], out, e);
		free_job(&jobs[i]);
	}
	free(q);
	if (rc == 0)
		progress("%lld records, %lld tokens", n ? (long long)jobs[n - 1].number : 0, (long long)s->tokens);
	return rc;
}

static int run_records(struct state *s, struct jsonl *in, struct out *out, struct err *e)
{
	struct job *jobs = xcalloc((size_t)o.batch, sizeof(*jobs));
	struct jsonl_rec r;
	uint64_t number = 0;
	int64_t n = 0;
	int rc = 0;

	while (rc == 0 && (o.limit == 0 || number < (uint64_t)o.limit)) {
		int got = jsonl_next(in, &r, e);

		if (got <= 0) {
			rc = got;
			break;
		}
		if (make_job(s, &r, jsonl_arena(in), ++number, &jobs[n++], e) < 0) {
			rc = err_where(e, in_name(jsonl_in(in)), r.line);
		} else if (n == o.batch) {
			rc = run_batch(s, jobs, n, out, e);
			n = 0;
		}
	}
	if (rc == 0)
		rc = run_batch(s, jobs, n, out, e);
	else
		for (int64_t i = 0; i < n; i++)
			free_job(&jobs[i]);
	free(jobs);
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
		rc = log_metric("done", e, "\"tokens\":%lld,\"seconds\":%.3f", (long long)s->tokens, now_seconds() - begin);
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
	rc = argc > 2 ? err_set(&e, LP_USAGE, "one input at most, not %d", argc - 1) : run(&s, argc > 1 ? argv[1] : NULL, &e);
	generator_release(&s.gen);
	engine_release(&s.g);
	lora_release(&s.lora);
	if (s.has_adapter)
		peft_release(&s.peft);
	chat_tmpl_free(s.tmpl);
	tok_free(s.tok);
	lineage_release(&s.lineage);
	return rc < 0 ? tool_fail(&e) : tool_done(LP_OK);
}

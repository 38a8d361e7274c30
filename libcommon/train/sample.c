#include "train/sample.h"

#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "base/xalloc.h"
#include "train/generate.h"
#include "train/prompt.h"

enum { BATCH = 8, MOST_PROMPTS = 256 };

struct sampler {
	struct prompt_texts texts;
	struct prompt *prompts;
	int64_t n, batch, context;
	struct gen_options opts;
	struct gen_seq *seqs; /* (batch) */
	int32_t *ids;         /* (batch, max_new) */
	struct generator gen;
	bool started;
};

static int read_prompts(struct sampler *s, const char *path, struct err *e)
{
	struct in *in = in_open(path, e);
	struct jsonl *j = in ? jsonl_open_take(in, "auto", e) : NULL;
	struct jsonl_rec rec;
	size_t cap = 0;
	int got = 0;

	while (j && (got = jsonl_next(j, &rec, e)) == 1) {
		if (s->n == MOST_PROMPTS) {
			got = err_line(e, LP_USAGE, path, rec.line, "more than %d prompts are no samples; give fewer", MOST_PROMPTS);
			break;
		}
		s->prompts = xgrow(s->prompts, &cap, (size_t)s->n + 1, sizeof(*s->prompts));
		s->n++; /* also when it fails: it is released with the others */
		if (prompt_make(&s->texts.prompter, &rec, jsonl_arena(j), &s->prompts[s->n - 1], e) < 0) {
			got = err_where(e, path, rec.line);
			break;
		}
	}
	jsonl_close(j);
	if (!j || got < 0)
		return -1;
	return s->n ? 0 : err_line(e, LP_DATA, path, 0, "no prompts in it");
}

int sampler_open(struct run *r, struct err *e)
{
	struct sampler *s;
	int64_t longest = 0;

	if (!r->c->prompts || r->c->eval_only)
		return 0;
	s = r->sampler = xcalloc(1, sizeof(*s));
	s->opts.max_new = r->c->sample_tokens;
	if (prompt_texts_load(&s->texts, r->c->model, r->desc.eos, r->desc.n_eos, e) < 0)
		return -1;
	s->texts.prompter.max_tokens = r->desc.max_pos - 1;
	s->opts.stop = s->texts.stop;
	s->opts.n_stop = s->texts.n_stop;
	if (read_prompts(s, r->c->prompts, e) < 0)
		return -1;
	for (int64_t i = 0; i < s->n; i++)
		longest = s->prompts[i].n_ids > longest ? s->prompts[i].n_ids : longest;
	s->batch = s->n < BATCH ? s->n : BATCH;
	s->context = longest + s->opts.max_new < r->desc.max_pos ? longest + s->opts.max_new : r->desc.max_pos;
	s->seqs = xcalloc((size_t)s->batch, sizeof(*s->seqs));
	s->ids = xcalloc((size_t)(s->batch * s->opts.max_new), sizeof(*s->ids));
	return 0;
}

int64_t sampler_context(const struct run *r)
{
	return r->sampler ? r->sampler->context : 0;
}

int64_t sampler_batch(const struct run *r)
{
	return r->sampler ? r->sampler->batch : 0;
}

uint64_t sampler_bytes(const struct run *r)
{
	return r->sampler ? generator_bytes(&r->dev, &r->desc, r->sampler->batch, r->sampler->context) : 0;
}

int sampler_start(struct run *r, struct err *e)
{
	struct sampler *s = r->sampler;

	if (!s)
		return 0;
	if (generator_init(&s->gen, &r->g, s->batch, s->context, e) < 0)
		return -1;
	s->started = true;
	return 0;
}

static int log_sample(const struct run *r, const struct prompt *p, const struct gen_seq *q, struct err *e)
{
	struct sb text = SB_INIT, prompt = SB_INIT, response = SB_INIT;
	struct jw jp = jw_to(&prompt), jr = jw_to(&response);
	int rc = prompt_response(&r->sampler->texts.prompter, p, q->out, q->n_new, &text, e);

	jw_str(&jp, p->text);
	jw_strn(&jr, sb_str(&text), text.len);
	if (rc == 0)
		rc = log_metric("sample", e, "\"step\":%lld,\"id\":%s,\"prompt\":%s,\"response\":%s,\"tokens\":%lld", (long long)r->step, p->id, sb_str(&prompt),
		                sb_str(&response), (long long)q->n_new);
	note("step %lld, sample %s: %s", (long long)r->step, p->id, sb_str(&response));
	sb_release(&text);
	sb_release(&prompt);
	sb_release(&response);
	return rc;
}

int sampler_run(struct run *r, struct err *e)
{
	struct sampler *s = r->sampler;
	int rc = 0;

	engine_set_dropout(&r->g, false, 0, 0);
	for (int64_t i = 0; i < s->n && rc == 0; i += s->batch) {
		int64_t n = s->n - i < s->batch ? s->n - i : s->batch;

		for (int64_t j = 0; j < n; j++)
			s->seqs[j] = (struct gen_seq){ .prompt = s->prompts[i + j].ids, .n_prompt = s->prompts[i + j].n_ids, .out = s->ids + j * s->opts.max_new };
		rc = generator_run(&s->gen, s->seqs, n, &s->opts, e);
		for (int64_t j = 0; j < n && rc == 0; j++)
			rc = log_sample(r, &s->prompts[i + j], &s->seqs[j], e);
	}
	return rc;
}

void sampler_close(struct run *r)
{
	struct sampler *s = r->sampler;

	if (!s)
		return;
	if (s->started)
		generator_release(&s->gen);
	for (int64_t i = 0; i < s->n; i++)
		prompt_release(&s->prompts[i]);
	prompt_texts_release(&s->texts);
	free(s->prompts);
	free(s->seqs);
	free(s->ids);
	free(s);
	r->sampler = NULL;
}

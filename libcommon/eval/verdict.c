#include "eval/verdict.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/hash.h"
#include "base/xalloc.h"
#include "eval/rouge.h"

static const struct metric_info infos[N_METRICS] = {
	[METRIC_ROUGE1] = { "rouge1", "ROUGE-1", 1, true, true },
	[METRIC_ROUGE2] = { "rouge2", "ROUGE-2", 1, true, true },
	[METRIC_ROUGEL] = { "rougeL", "ROUGE-L", 1, true, true },
	[METRIC_EXACT] = { "exact", "Exact match", 1, true, true },
	[METRIC_NORM_EXACT] = { "norm_exact", "Exact, normalised", 1, true, true },
	[METRIC_REGEX] = { "regex", "Pattern matched", 1, true, true },
	[METRIC_JSON_VALID] = { "json_valid", "Valid JSON", 1, true, true },
	[METRIC_JSON] = { "json", "Equal JSON", 1, true, true },
	[METRIC_FORMAT] = { "format", "Format kept", 1, true, true },
	[METRIC_NLL] = { "nll", "Loss, nats/token", -1, false, false },
	[METRIC_CHARS] = { "chars", "Length, characters", 0, false, false },
	[METRIC_TOKENS] = { "tokens", "Length, tokens", 0, false, false },
};

const struct metric_info *metric_info(enum metric m)
{
	return &infos[m];
}

int metric_by_name(const char *name)
{
	for (int m = 0; m < N_METRICS; m++)
		if (strcmp(infos[m].name, name) == 0)
			return m;
	return -1;
}

struct scorer {
	struct rouge *rouge;
	struct match_regex *regex;
	bool json;
	struct sb id, scratch;
};

struct scorer *scorer_new(struct match_regex *regex, bool json)
{
	struct scorer *s = xcalloc(1, sizeof(*s));

	s->rouge = rouge_new(true);
	s->regex = regex;
	s->json = json;
	return s;
}

void scorer_free(struct scorer *s)
{
	if (!s)
		return;
	rouge_free(s->rouge);
	sb_release(&s->id);
	sb_release(&s->scratch);
	free(s);
}

/* What both kinds have: id, finish, lengths, likelihood. */
static int read_common(struct scorer *s, const struct json *rec, uint64_t line, struct verdict *v, struct err *e)
{
	const struct json *id = json_get(rec, "id");
	int64_t tokens, n_tokens;

	memset(v, 0, sizeof(*v));
	for (int m = 0; m < N_METRICS; m++)
		v->m[m] = NAN;
	sb_reset(&s->id);
	if (id && id->type != JSON_NULL) {
		struct jw w = jw_to(&s->id);

		jw_value(&w, id);
	} else {
		sb_addf(&s->id, "%llu", (unsigned long long)line);
	}
	v->id = sb_str(&s->id);
	v->id_len = s->id.len;
	if (!json_get_str(rec, "finish", NULL, &v->finish))
		return err_set(e, LP_DATA, "finish is not a string");
	if (!json_get_i64(rec, "tokens", -1, &tokens) || !json_get_f64(rec, "nll", NAN, &v->nll))
		return err_set(e, LP_DATA, "tokens or nll is not a number");
	if (!json_get_i64(rec, "n_tokens", json_get(rec, "response") ? 0 : tokens, &n_tokens))
		return err_set(e, LP_DATA, "n_tokens is not a whole number");
	/* A record of likelihood alone counts the tokens that it scored there. */
	if (tokens >= 0 && (isnan(v->nll) || json_get(rec, "n_tokens")))
		v->m[METRIC_TOKENS] = (double)tokens;
	if (isnan(v->nll))
		return 0;
	if (n_tokens <= 0)
		return err_set(e, LP_DATA, "nll is given without the number of its tokens (n_tokens)");
	v->n_tokens = (uint64_t)n_tokens;
	v->m[METRIC_NLL] = v->nll / (double)n_tokens;
	return 0;
}

/* The text of a prompt that is a string, or the last user turn of messages. */
static void find_prompt(struct scorer *s, const struct json *p, struct verdict *v)
{
	if (!p || p->type == JSON_NULL)
		return;
	if (p->type == JSON_STR) {
		v->prompt = p->s;
		v->n_prompt = p->n;
		xxh_once(p->s, p->n, v->prompt_hash);
		return;
	}
	sb_reset(&s->scratch);
	struct jw w = jw_to(&s->scratch);

	jw_value(&w, p);
	xxh_once(sb_str(&s->scratch), s->scratch.len, v->prompt_hash);
	for (uint32_t i = 0; p->type == JSON_ARR && i < p->n; i++) {
		const struct json *text = json_get(&p->items[i], "content");

		if (json_str_is(json_get(&p->items[i], "role"), "user") && json_is(text, JSON_STR)) {
			v->prompt = text->s;
			v->n_prompt = text->n;
		}
	}
}

static int compare(struct scorer *s, struct verdict *v, struct err *e)
{
	struct rouge_scores r;
	const struct rouge_prf *all[3] = { &r.r1, &r.r2, &r.rl };
	bool valid = false;

	if (s->json) {
		v->m[METRIC_JSON] = match_json(v->expected, v->n_expected, v->response, v->n_response, &valid);
		v->m[METRIC_JSON_VALID] = valid;
		if (!v->has_expected)
			v->m[METRIC_JSON] = NAN;
	}
	if (s->regex && (v->has_expected || !match_regex_has_group(s->regex))) {
		int rc = match_regex_test(s->regex, v->expected, v->n_expected, v->response, v->n_response, e);

		if (rc < 0)
			return -1;
		v->m[METRIC_REGEX] = rc;
	}
	if (!v->has_expected)
		return 0;
	if (rouge_score(s->rouge, v->expected, v->n_expected, v->response, v->n_response, &r, e))
		return -1;
	for (int i = 0; i < 3; i++) {
		v->m[METRIC_ROUGE1 + i] = all[i]->f;
		v->p[i] = all[i]->p;
		v->r[i] = all[i]->r;
	}
	v->m[METRIC_EXACT] = match_exact(v->expected, v->n_expected, v->response, v->n_response);
	v->m[METRIC_NORM_EXACT] = match_normalised(v->expected, v->n_expected, v->response, v->n_response);
	v->m[METRIC_FORMAT] = match_format(v->expected, v->n_expected, v->response, v->n_response);
	return 0;
}

int scorer_score(struct scorer *s, const struct json *rec, uint64_t line, struct verdict *v, struct err *e)
{
	const struct json *response = json_get(rec, "response"), *expected = json_get(rec, "expected");

	if (!json_is(rec, JSON_OBJ))
		return err_set(e, LP_DATA, "a completion record is a JSON object; this is none");
	if (!json_is(response, JSON_STR))
		return err_set(e, LP_DATA, "no response string: completion records are {\"id\",\"prompt\",\"response\",\"expected\"}, as lm-generate writes them");
	if (expected && expected->type != JSON_STR && expected->type != JSON_NULL)
		return err_set(e, LP_DATA, "expected is not a string");
	if (read_common(s, rec, line, v, e))
		return -1;
	find_prompt(s, json_get(rec, "prompt"), v);
	v->response = response->s;
	v->n_response = response->n;
	v->m[METRIC_CHARS] = (double)match_code_points(response->s, response->n);
	v->has_expected = json_is(expected, JSON_STR);
	if (v->has_expected) {
		v->expected = expected->s;
		v->n_expected = expected->n;
	}
	return compare(s, v, e);
}

static void take_text(const struct json *obj, const char *key, const char **text, size_t *len)
{
	const struct json *t = json_get(obj, key);

	if (json_is(t, JSON_STR)) {
		*text = t->s;
		*len = t->n;
	}
}

int scorer_read(struct scorer *s, const struct json *rec, uint64_t line, struct verdict *v, struct err *e)
{
	const struct json *review = json_get(rec, "review");
	const char *hash;
	bool any = false;

	if (json_get(rec, "response"))
		return scorer_score(s, rec, line, v, e);
	if (!json_is(rec, JSON_OBJ))
		return err_set(e, LP_DATA, "a verdict record is a JSON object; this is none");
	if (read_common(s, rec, line, v, e))
		return -1;
	for (int m = 0; m < N_METRICS; m++) {
		const struct json *x = json_get(rec, infos[m].name);

		if (m == METRIC_NLL || m == METRIC_TOKENS || !x || x->type == JSON_NULL)
			continue;
		if (x->type == JSON_BOOL)
			v->m[m] = x->b;
		else if (!json_as_f64(x, &v->m[m]))
			return err_set(e, LP_DATA, "%s is neither a number nor a boolean", infos[m].name);
		any = true;
		v->has_expected = v->has_expected || m <= METRIC_NORM_EXACT;
	}
	if (!any && isnan(v->nll))
		return err_set(e, LP_DATA, "neither a completion (\"response\") nor a verdict (\"rougeL\", \"chars\", ...)");
	if (!json_get_str(rec, "prompt_hash", "", &hash) || strlen(hash) >= sizeof(v->prompt_hash))
		return err_set(e, LP_DATA, "prompt_hash is not a hash");
	memcpy(v->prompt_hash, hash, strlen(hash) + 1);
	take_text(review, "prompt", &v->prompt, &v->n_prompt);
	take_text(review, "expected", &v->expected, &v->n_expected);
	take_text(review, "response", &v->response, &v->n_response);
	return 0;
}

static void write_cut(struct jw *w, const char *key, const char *s, size_t len, size_t chars)
{
	jw_key(w, key);
	if (s)
		jw_strn(w, s, match_prefix(s, len, chars));
	else
		jw_null(w);
}

void verdict_write_review(const struct verdict *v, struct jw *w)
{
	write_cut(w, "prompt", v->prompt, v->n_prompt, VERDICT_PROMPT_CHARS);
	write_cut(w, "expected", v->expected, v->n_expected, VERDICT_ANSWER_CHARS);
	write_cut(w, "response", v->response, v->n_response, VERDICT_ANSWER_CHARS);
}

static void write_metric(const struct verdict *v, int m, struct jw *w)
{
	static const char *const p[3] = { "rouge1_p", "rouge2_p", "rougeL_p" }, *const r[3] = { "rouge1_r", "rouge2_r", "rougeL_r" };

	if (isnan(v->m[m]) || m == METRIC_NLL)
		return;
	jw_key(w, infos[m].name);
	if (m <= METRIC_ROUGEL) {
		jw_f64(w, v->m[m]);
		jw_key(w, p[m]);
		jw_f64(w, v->p[m]);
		jw_key(w, r[m]);
		jw_f64(w, v->r[m]);
	} else if (infos[m].rate) {
		jw_bool(w, v->m[m] != 0);
	} else {
		jw_i64(w, (int64_t)v->m[m]);
	}
}

void verdict_write(const struct verdict *v, bool review, struct sb *out)
{
	struct jw w = jw_to(out);

	jw_obj(&w);
	jw_key(&w, "id");
	jw_raw(&w, v->id, v->id_len);
	for (int m = 0; m < N_METRICS; m++)
		write_metric(v, m, &w);
	if (!isnan(v->nll)) {
		jw_key(&w, "nll");
		jw_f64(&w, v->nll);
		jw_key(&w, "n_tokens");
		jw_i64(&w, (int64_t)v->n_tokens);
	}
	if (v->finish) {
		jw_key(&w, "finish");
		jw_str(&w, v->finish);
	}
	if (*v->prompt_hash) {
		jw_key(&w, "prompt_hash");
		jw_str(&w, v->prompt_hash);
	}
	if (review) {
		jw_key(&w, "review");
		jw_obj(&w);
		verdict_write_review(v, &w);
		jw_end_obj(&w);
	}
	jw_end_obj(&w);
	sb_addc(out, '\n');
}

#include "train/prompt.h"

#include <stdlib.h>
#include <string.h>

#include "base/xalloc.h"

static int render(const struct prompter *m, struct chat *c, struct prompt *p, struct tmpl_span **spans, size_t *n_spans, struct err *e)
{
	struct chat_render_opts how = m->how;
	struct sb text = SB_INIT;

	how.add_generation_prompt = !m->score;
	how.span_choice = "last";
	if (chat_tmpl_render(m->tmpl, c, &how, &text, m->score ? spans : NULL, m->score ? n_spans : NULL, e) < 0) {
		sb_release(&text);
		return -1;
	}
	p->text = sb_detach(&text);
	return 0;
}

/* The text to complete, and the answer that was there. */
static int from_chat(const struct prompter *m, const struct json *v, struct arena *a, struct prompt *p, struct tmpl_span **spans, size_t *n_spans,
                     struct err *e)
{
	struct chat c;

	if (chat_from_json(v, &m->map, a, &c, e) < 0)
		return -1;
	if (!m->score && c.n_msgs && strcmp(c.msgs[c.n_msgs - 1].role, "assistant") == 0 && c.msgs[c.n_msgs - 1].content) {
		const struct chat_msg *last = &c.msgs[--c.n_msgs];

		p->expected = xmemdup0(last->content, last->content_len);
		p->expected_len = last->content_len;
	}
	if (render(m, &c, p, spans, n_spans, e) < 0)
		return -1;
	if (m->score && *n_spans == 0)
		return err_set(e, LP_DATA, "no answer to score: the record's last message is not the assistant's");
	return 0;
}

/* {"prompt": TEXT} and no answer: nothing but the user's turn. */
static bool is_bare(const struct json *v)
{
	return json_is(json_get(v, "prompt"), JSON_STR) && !json_get(v, "completion") && !json_get(v, "response") && !json_get(v, "messages");
}

static char *raw_text(const struct prompter *m, const struct json *text)
{
	const char *bos = tok_bos(m->tok) >= 0 ? tok_piece(m->tok, tok_bos(m->tok)) : "";

	return xasprintf("%s%s", strncmp(text->s, bos, strlen(bos)) == 0 ? "" : bos, text->s);
}

static int from_bare(const struct prompter *m, const struct json *v, struct arena *a, struct prompt *p, struct err *e)
{
	const struct json *text = json_get(v, "prompt"), *expected = json_get(v, "expected");
	struct json_member fields[2] = { { "role", 4, { .type = JSON_STR, .n = 4, .s = "user" } }, { "content", 7, *text } };
	struct json msg = { .type = JSON_OBJ, .n = 2, .members = fields };
	struct json_member top = { "messages", 8, { .type = JSON_ARR, .n = 1, .items = &msg } };

	if (json_is(expected, JSON_STR)) {
		p->expected = xmemdup0(expected->s, expected->n);
		p->expected_len = expected->n;
	}
	if (!m->raw)
		return from_chat(m, &(struct json){ .type = JSON_OBJ, .n = 1, .members = &top }, a, p, NULL, NULL, e);
	p->text = raw_text(m, text);
	return 0;
}

static bool inside(const struct tmpl_span *spans, size_t n, size_t at)
{
	for (size_t i = 0; i < n; i++)
		if (at >= spans[i].begin && at < spans[i].end)
			return true;
	return false;
}

static int tokenise(const struct prompter *m, struct prompt *p, const struct tmpl_span *spans, size_t n_spans, struct err *e)
{
	struct tok_out t = { 0 };

	if (tok_encode(m->tok, p->text, strlen(p->text), &t, e) < 0) {
		tok_out_release(&t);
		return -1;
	}
	p->n_ids = (int64_t)t.n;
	p->ids = t.ids;
	if (m->score)
		p->mask = xcalloc(t.n + 1, 1);
	for (size_t i = 0; m->score && i < t.n; i++)
		p->mask[i] = inside(spans, n_spans, t.begin[i]);
	t.ids = NULL;
	tok_out_release(&t);
	p->too_long = p->n_ids > m->max_tokens;
	if (p->n_ids > 0 && (!p->too_long || m->drop_long))
		return 0;
	return err_set(e, LP_DATA, "%s of %lld tokens, and it may have 1 to %lld; raise --context, shorten it, or give --drop-long", m->score ? "a text" : "a prompt",
	               (long long)p->n_ids, (long long)m->max_tokens);
}

int prompt_make(const struct prompter *m, const struct jsonl_rec *r, struct arena *a, struct prompt *p, struct err *e)
{
	const struct json *id = json_get(&r->v, "id");
	struct tmpl_span *spans = NULL;
	size_t n_spans = 0;
	struct sb text = SB_INIT;
	struct jw w = jw_to(&text);
	int rc;

	memset(p, 0, sizeof(*p));
	p->line = r->line;
	if (id)
		jw_value(&w, id);
	else
		jw_i64(&w, (int64_t)r->line);
	p->id = sb_detach(&text);
	if (is_bare(&r->v) && !m->score)
		rc = from_bare(m, &r->v, a, p, e);
	else if (m->raw)
		rc = err_set(e, LP_DATA, "--raw takes records with a string \"prompt\"");
	else
		rc = from_chat(m, &r->v, a, p, &spans, &n_spans, e);
	if (rc == 0)
		rc = tokenise(m, p, spans, n_spans, e);
	free(spans);
	return rc;
}

void prompt_release(struct prompt *p)
{
	free(p->id);
	free(p->text);
	free(p->expected);
	free(p->ids);
	free(p->mask);
	memset(p, 0, sizeof(*p));
}

int prompt_response(const struct prompter *m, const struct prompt *p, const int32_t *ids, int64_t n, struct sb *out, struct err *e)
{
	struct sb before = SB_INIT, all = SB_INIT;
	int32_t *both = xcalloc((size_t)(p->n_ids + n) + 1, sizeof(*both));
	int rc;

	memcpy(both, p->ids, (size_t)p->n_ids * sizeof(*both));
	memcpy(both + p->n_ids, ids, (size_t)n * sizeof(*both));
	rc = tok_decode(m->tok, p->ids, (size_t)p->n_ids, true, &before, e);
	if (rc == 0)
		rc = tok_decode(m->tok, both, (size_t)(p->n_ids + n), true, &all, e);
	if (rc == 0 && all.len >= before.len && memcmp(sb_str(&all), sb_str(&before), before.len) == 0)
		sb_add(out, sb_str(&all) + before.len, all.len - before.len);
	else if (rc == 0) /* a character that both share: the new tokens alone */
		rc = tok_decode(m->tok, ids, (size_t)n, true, out, e);
	sb_release(&before);
	sb_release(&all);
	free(both);
	return rc;
}

static void add(int32_t *stop, int64_t max, int64_t *n, int64_t id)
{
	if (id >= 0 && *n < max)
		stop[(*n)++] = (int32_t)id;
}

int prompt_stops(const struct model_texts *t, const int32_t *eos, int n_eos, const struct tok *tok, int32_t *stop, int64_t max, int64_t *n, struct err *e)
{
	struct arena a = ARENA_INIT;
	struct json v;
	const struct json *list;
	int64_t id;

	*n = 0;
	if (t->generation_config) {
		if (json_parse_str(t->generation_config, &a, &v, e) < 0) {
			arena_release(&a);
			return err_where(e, "generation_config.json", 0);
		}
		list = json_get(&v, "eos_token_id");
		for (uint32_t i = 0; list && i < (list->type == JSON_ARR ? list->n : 1); i++)
			if (json_as_i64(list->type == JSON_ARR ? &list->items[i] : list, &id))
				add(stop, max, n, id);
		arena_release(&a);
	}
	for (int i = 0; i < n_eos; i++)
		add(stop, max, n, eos[i]);
	add(stop, max, n, tok_eos(tok));
	return 0;
}

int prompt_texts_load(struct prompt_texts *p, const char *model, const int32_t *eos, int n_eos, struct err *e)
{
	struct model_texts t = { 0 };
	struct err none = ERR_INIT;
	int rc;

	memset(p, 0, sizeof(*p));
	p->prompter.tok = tok_load_dir(model, e);
	if (!p->prompter.tok || chat_set_date(&p->prompter.how, CHAT_DEFAULT_DATE, false, p->date, e) < 0 || model_texts_load(&t, model, e) < 0)
		return -1;
	p->prompter.tmpl = chat_tmpl_load_dir(model, NULL, NULL, &none);
	p->prompter.raw = !p->prompter.tmpl;
	rc = prompt_stops(&t, eos, n_eos, p->prompter.tok, p->stop, sizeof(p->stop) / sizeof(*p->stop), &p->n_stop, e);
	model_texts_release(&t);
	return rc;
}

void prompt_texts_release(struct prompt_texts *p)
{
	chat_tmpl_free(p->prompter.tmpl);
	tok_free(p->prompter.tok);
}

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "text/chat_check.h"
#include "text/chat_impl.h"

const char *const chat_check_names[CHECK_N] = { "spans", "prompt", "bos", "end-of-turn", "system", "tokens" };

/* One conversation, rendered as for training. */
struct asked {
	struct chat_check *k;
	const struct chat *c;
	const char *where;
	struct sb text;
	struct tmpl_span *spans;
	size_t n_spans;
};

static void yes(struct chat_check *k, enum chat_check_what w)
{
	if (k->v[w].answer == CHECK_UNASKED)
		k->v[w].answer = CHECK_YES;
}

static void LP_PRINTF(4, 5) no(struct chat_check *k, enum chat_check_what w, const char *where, const char *fmt, ...)
{
	va_list ap;

	k->v[w].answer = CHECK_NO;
	if (k->v[w].n_no++)
		return;
	int n = snprintf(k->v[w].note, sizeof(k->v[w].note), "%s%s", where, *where ? ": " : "");
	va_start(ap, fmt);
	vsnprintf(k->v[w].note + n, sizeof(k->v[w].note) - (size_t)n, fmt, ap);
	va_end(ap);
}

static void LP_PRINTF(3, 4) remark(struct chat_check *k, enum chat_check_what w, const char *fmt, ...)
{
	va_list ap;

	if (k->v[w].note[0])
		return;
	va_start(ap, fmt);
	vsnprintf(k->v[w].note, sizeof(k->v[w].note), fmt, ap);
	va_end(ap);
}

static bool is_space(char c)
{
	return c == ' ' || (c >= 9 && c <= 13);
}

static size_t count(const char *s, size_t n, const char *what, size_t m)
{
	size_t k = 0;

	for (const char *p = s, *hit; m && (hit = memmem(p, n - (size_t)(p - s), what, m)); p = hit + m)
		k++;
	return k;
}

/* A few bytes of a text for a message: one line, whole characters. */
static const char *excerpt(char buf[64], const char *s, size_t n)
{
	size_t k = 0;

	for (size_t i = 0; i < n && k < 40; i++) {
		if (s[i] == '\n') {
			buf[k++] = '\\';
			buf[k++] = 'n';
		} else if ((unsigned char)s[i] >= 32) {
			buf[k++] = s[i];
		}
	}
	while (n > 40 && k > 0 && ((unsigned char)buf[k - 1] & 0xc0) == 0x80)
		k--;
	if (k > 0 && (unsigned char)buf[k - 1] >= 0xc0)
		k--;
	buf[k] = 0;
	return buf;
}

/* --- the prompt --- */
/* Is the message one that the choice of spans learns? */
static bool is_learned(const struct asked *a, size_t i)
{
	return chat_is_learned(a->c, i, a->k->o->span_choice);
}

static bool tokens_agree(const struct asked *a, const struct sb *prompt)
{
	struct tok_out p = { 0 }, whole = { 0 };
	struct err e = ERR_INIT;
	bool same = true;

	if (!tok_encode(a->k->tok, sb_str(prompt), prompt->len, &p, &e) && !tok_encode(a->k->tok, sb_str(&a->text), a->text.len, &whole, &e))
		same = p.n <= whole.n && !memcmp(p.ids, whole.ids, p.n * sizeof(*p.ids));
	tok_out_release(&p);
	tok_out_release(&whole);
	return same;
}

static void ask_prompt_of(struct asked *a, size_t i)
{
	struct chat_render_opts o = *a->k->o;
	struct chat before = *a->c;
	struct sb prompt = SB_INIT;
	struct err e = ERR_INIT;
	char x[64], y[64];
	size_t at = 0;

	before.n_msgs = i;
	o.add_generation_prompt = true;
	o.continue_final = false;
	if (chat_tmpl_render(a->k->t, &before, &o, &prompt, NULL, NULL, &e)) {
		no(a->k, CHECK_PROMPT, a->where, "the prompt of message %zu cannot be rendered: %.200s", i + 1, e.msg);
		goto out;
	}
	while (at < prompt.len && at < a->text.len && prompt.s[at] == a->text.s[at])
		at++;
	if (at < prompt.len) {
		size_t from = at > 12 ? at - 12 : 0;
		while (from < at && ((unsigned char)prompt.s[from] & 0xc0) == 0x80)
			from++;
		no(a->k, CHECK_PROMPT, a->where, "message %zu is served behind '%s' and trained behind '%s'%s", i + 1, excerpt(x, prompt.s + from, prompt.len - from),
		   excerpt(y, sb_str(&a->text) + from, a->text.len - from), chat_is_learned(a->c, i, "last") ? "" : "; --loss last leaves it out");
	} else if (a->k->tok && !tokens_agree(a, &prompt)) {
		no(a->k, CHECK_PROMPT, a->where, "message %zu: the last token of the prompt is another one in the training text: it merges with the answer", i + 1);
	} else {
		yes(a->k, CHECK_PROMPT);
	}
out:
	sb_release(&prompt);
}

/* --- the beginning --- */
static void ask_bos(struct asked *a)
{
	struct chat_check *k = a->k;
	const struct json *bos = json_get(&k->t->special, "bos_token");
	size_t n;

	if (!json_is(bos, JSON_STR) || !bos->n) {
		remark(k, CHECK_BOS, "the model has no bos_token");
		return;
	}
	n = count(sb_str(&a->text), a->text.len, bos->s, bos->n);
	if (n == 1 || (n > 1 && n >= a->c->n_msgs && !strncmp(a->text.s, bos->s, bos->n))) {
		yes(k, CHECK_BOS);
		if (n > 1)
			remark(k, CHECK_BOS, "'%s' begins every turn", bos->s);
		if (strncmp(a->text.s, bos->s, bos->n))
			no(k, CHECK_BOS, a->where, "'%s' stands inside the text, not at its start", bos->s);
	} else if (n > 1) {
		no(k, CHECK_BOS, a->where, "'%s' stands %zu times in the text", bos->s, n);
	} else if (k->t->adds_bos) {
		no(k, CHECK_BOS, a->where, "the tokeniser adds '%s' when serving (add_bos_token), and the template writes none", bos->s);
	} else {
		yes(k, CHECK_BOS);
		remark(k, CHECK_BOS, "the template writes no '%s', and nothing adds it", bos->s);
	}
}

/* --- the end of turn --- */
/* What stands in a span behind its content, without white space around it. */
static bool tail_of(const struct asked *a, const struct tmpl_span *s, const struct chat_msg *m, const char **tail, size_t *n)
{
	const char *text = a->text.s + s->begin, *end = a->text.s + s->end, *hit = NULL;
	size_t len = m->content_len;

	while (len > 0 && is_space(m->content[len - 1]))
		len--;
	for (const char *p = text, *h; len && (h = memmem(p, (size_t)(end - p), m->content, len)); p = h + 1)
		hit = h + len;
	if (!hit)
		return false;
	while (hit < end && is_space(*hit))
		hit++;
	while (end > hit && is_space(end[-1]))
		end--;
	*tail = hit;
	*n = (size_t)(end - hit);
	return true;
}

/* Learns the end of turn from a probe, whose contents occur nowhere else. */
static void learn_end(struct asked *a)
{
	const struct json *eos = json_get(&a->k->t->special, "eos_token");
	const char *tail;
	size_t n, at = 0;

	for (size_t i = 0; i < a->n_spans; i++) {
		while (at < a->c->n_msgs && !is_learned(a, at))
			at++;
		if (at == a->c->n_msgs)
			return;
		if (!tail_of(a, &a->spans[i], &a->c->msgs[at++], &tail, &n))
			continue; /* a generation block of its own for the end of the text */
		if (!n) {
			no(a->k, CHECK_END, a->where, "nothing ends the answer of message %zu: the model is not taught to stop", at);
			return;
		}
		if (!a->k->end[0] && n < sizeof(a->k->end)) {
			memcpy(a->k->end, tail, n);
			a->k->end[n] = 0;
		}
		yes(a->k, CHECK_END);
	}
	if (a->k->end[0] && json_is(eos, JSON_STR) && eos->n && !strstr(a->k->end, eos->s))
		remark(a->k, CHECK_END, "'%s'; eos_token is '%s': serving must stop at the former as well", a->k->end, eos->s);
	else if (a->k->end[0])
		remark(a->k, CHECK_END, "'%s'", a->k->end);
}

static void ask_end(struct asked *a)
{
	size_t n = strlen(a->k->end);

	for (size_t i = 0; i < a->n_spans && n; i++) {
		size_t end = a->spans[i].end;

		while (end > a->spans[i].begin && is_space(a->text.s[end - 1]))
			end--;
		if (end - a->spans[i].begin < n || memcmp(a->text.s + end - n, a->k->end, n))
			no(a->k, CHECK_END, a->where, "the end of turn '%s' is not learned with answer %zu", a->k->end, i + 1);
	}
}

/* --- special tokens --- */
/* "<|x|>", with the bars of DeepSeek's as well: its length at s, or 0. */
static size_t marker_at(const char *s, const char *end)
{
	static const char *const open[] = { "<|", "<\xef\xbd\x9c" }, *const close[] = { "|>", "\xef\xbd\x9c>" };

	for (size_t i = 0; i < 2; i++) {
		size_t n = strlen(open[i]), m = strlen(close[i]);

		if ((size_t)(end - s) < n + m || memcmp(s, open[i], n))
			continue;
		for (const char *p = s + n; p + m <= end && p - s < 80 && *p != '\n' && *p != ' ' && *p != '<'; p++)
			if (!memcmp(p, close[i], m))
				return (size_t)(p - s) + m;
	}
	return 0;
}

static void ask_token(struct chat_check *k, const char *what, const char *s, size_t n)
{
	struct tok_out ids = { 0 };
	struct err e = ERR_INIT;

	if (tok_encode(k->tok, s, n, &ids, &e) || ids.n != 1)
		no(k, CHECK_TOKENS, "", "%s '%.*s' is no token of the tokeniser: it becomes %zu", what, (int)n, s, ids.n);
	else
		yes(k, CHECK_TOKENS);
	tok_out_release(&ids);
}

static void ask_tokens(struct asked *a)
{
	static const char *const names[] = { "bos_token", "eos_token" };
	const char *p = sb_str(&a->text), *end = p + a->text.len;

	for (size_t i = 0; i < 2; i++) {
		const struct json *v = json_get(&a->k->t->special, names[i]);

		if (json_is(v, JSON_STR) && v->n)
			ask_token(a->k, names[i], v->s, v->n);
	}
	for (size_t n; p < end; p += n ? n : 1) {
		n = marker_at(p, end);
		if (n)
			ask_token(a->k, "the template's", p, n);
	}
}

/* --- a conversation --- */
static bool begin(struct asked *a)
{
	struct err e = ERR_INIT;

	a->k->n++;
	if (chat_tmpl_render(a->k->t, a->c, a->k->o, &a->text, &a->spans, &a->n_spans, &e)) {
		no(a->k, CHECK_SPANS, a->where, "%.300s", e.msg);
		return false;
	}
	yes(a->k, CHECK_SPANS);
	return true;
}

static void ask(struct asked *a)
{
	for (size_t i = 0; i < a->c->n_msgs; i++)
		if (is_learned(a, i))
			ask_prompt_of(a, i);
	ask_bos(a);
}

static void end(struct asked *a)
{
	sb_release(&a->text);
	free(a->spans);
}

void chat_check_add(struct chat_check *k, const struct chat *c, const char *where)
{
	struct asked a = { .k = k, .c = c, .where = where };

	if (begin(&a)) {
		ask(&a);
		ask_end(&a);
	}
	end(&a);
}

/* --- small conversations --- */
static const struct {
	const char *roles, *name; /* s, u, a */
} probes[] = { { "ua", "a question and its answer" }, { "uaua", "two turns" }, { "sua", "a system prompt" }, { "suaua", "a system prompt and two turns" } };

static void ask_probe(struct chat_check *k, const char *roles, const char *name)
{
	static const char *const texts[] = { "Qx7u one", "Zk3a two", "Wv9u three", "Yj5a four" };
	struct chat_msg m[8];
	struct chat c = { .msgs = m };
	struct asked a = { .k = k, .c = &c, .where = name };
	struct err e = ERR_INIT;

	for (size_t at = 0; roles[c.n_msgs]; c.n_msgs++) {
		char r = roles[c.n_msgs];
		const char *text = r == 's' ? "Sm1s rule" : texts[at++];

		m[c.n_msgs] = (struct chat_msg){ .role = r == 's' ? "system" : r == 'u' ? "user" : "assistant", .content = text, .content_len = strlen(text) };
	}
	if (roles[0] == 's' && k->v[CHECK_SPANS].answer == CHECK_YES) { /* its own question first: a refusal answers the others */
		if (chat_tmpl_render(k->t, &c, k->o, &a.text, NULL, NULL, &e)) {
			yes(k, CHECK_SYSTEM);
			remark(k, CHECK_SYSTEM, "refused: %.200s", e.msg);
			goto out;
		}
		if (!strstr(sb_str(&a.text), "Sm1s rule"))
			no(k, CHECK_SYSTEM, "", "the template drops a system prompt without a word");
		yes(k, CHECK_SYSTEM);
		sb_reset(&a.text);
	}
	if (begin(&a)) {
		ask(&a);
		learn_end(&a);
		if (k->tok)
			ask_tokens(&a);
	}
out:
	end(&a);
}

void chat_check_begin(struct chat_check *k, const struct chat_tmpl *t, const struct tok *tok, const struct chat_render_opts *o)
{
	*k = (struct chat_check){ .t = t, .tok = tok, .o = o };
	for (size_t i = 0; i < sizeof(probes) / sizeof(probes[0]); i++)
		ask_probe(k, probes[i].roles, probes[i].name);
	if (!tok)
		remark(k, CHECK_TOKENS, "no tokeniser to ask");
}

bool chat_check_good(const struct chat_check *k)
{
	for (size_t i = 0; i < CHECK_N; i++)
		if (k->v[i].answer == CHECK_NO)
			return false;
	return true;
}

/* A template's constants, learnt by rendering three small conversations: what
 * it puts before an answer and behind it. Whatever they do not settle stays
 * unknown, and chat_spans.c looks for other proof or refuses the record. */
#include <stdlib.h>
#include <string.h>

#include "base/xalloc.h"
#include "text/chat_impl.h"

static const char *const texts[] = { "Qx7u", "Zk3a", "Wv9u" }; /* of a user, an assistant, a user */
#define TEXT_BYTES 4

/* A rendering, and what stands in it around the texts. */
struct probe {
	char *s;
	size_t n;
	size_t turn, turn_end; /* what a loop wrote for the second message, or the only one; SIZE_MAX: not known */
};
struct part {
	const char *s;
	size_t n;
};

static void keep(struct piece *p, const char *s, size_t n)
{
	p->s = xmemdup0(s, n);
	p->n = n;
}

size_t chat_without_space(const char *s, size_t n)
{
	size_t k = n;

	while (k > 0 && chat_is_space(s[k - 1]))
		k--;
	return k ? k : n;
}

size_t chat_whole_tokens(const char *s, size_t n)
{
	while (n > 0 && !chat_is_space(s[n - 1]) && s[n - 1] != '>' && s[n - 1] != ']')
		n--;
	return n;
}

size_t chat_common(const char *a, size_t n, const char *b, size_t m)
{
	size_t k = 0;

	while (k < n && k < m && a[k] == b[k])
		k++;
	return k;
}

static bool is_blank(struct part p)
{
	for (size_t i = 0; i < p.n; i++)
		if (!chat_is_space(p.s[i]))
			return false;
	return true;
}

static bool ends_with(struct part p, struct part end)
{
	return end.n <= p.n && !memcmp(p.s + p.n - end.n, end.s, end.n);
}

static struct probe render_chat(struct chat_tmpl *t, struct chat_scratch *s, const struct chat *c, const struct json *msgs, size_t n, bool gen)
{
	struct tmpl_turn turn = { .msg = &msgs[n > 1] };
	struct chat_render_opts o = { 0 };
	struct err e = ERR_INIT;

	s->r.watch = NULL;
	s->r.turn = &turn;
	s->r.n_turn = 1;
	int rc = chat_render_prefix(t, c, msgs, n, gen, &o, &s->arena, &s->r, &e);
	s->r.n_turn = 0;
	if (rc)
		return (struct probe){ 0 };
	bool once = turn.n == 1;
	return (struct probe){ xmemdup0(sb_str(&s->r.text), s->r.text.len), s->r.text.len, once ? turn.begin : SIZE_MAX, once ? turn.end : SIZE_MAX };
}

/* Renders [user, assistant, user][0..n). */
static struct probe render(struct chat_tmpl *t, struct chat_scratch *s, const struct json *tools, size_t n, bool gen)
{
	static const char *const roles[] = { "user", "assistant", "user" };
	struct chat_msg m[3];
	struct json msgs[3];
	struct chat c = { .msgs = m, .n_msgs = n, .tools = tools };

	arena_reset(&s->arena);
	for (size_t i = 0; i < 3; i++) {
		m[i] = (struct chat_msg){ .role = roles[i], .content = texts[i], .content_len = TEXT_BYTES };
		msgs[i] = chat_message(&m[i], NULL, 0, &s->arena);
	}
	return render_chat(t, s, &c, msgs, n, gen);
}

/* What stands behind text a, up to text b (-1: to the end); s NULL: one is not there. */
static struct part between(const struct probe *p, int a, int b)
{
	const char *from = p->s ? strstr(p->s, texts[a]) : NULL, *to = from && b >= 0 ? strstr(from, texts[b]) : p->s + p->n;

	if (!from || !to)
		return (struct part){ 0 };
	from += TEXT_BYTES;
	return (struct part){ from, (size_t)(to - from) };
}

static struct part before(const struct probe *p, int a)
{
	const char *hit = p->s ? strstr(p->s, texts[a]) : NULL;

	return (struct part){ hit ? p->s : NULL, hit ? (size_t)(hit - p->s) : 0 };
}

/* --- before an answer --- */
static void learn_prompt(struct chat_tmpl *t, const struct probe *u, const struct probe *ug, const struct probe *ua)
{
	struct part x = before(u, 0), answer = before(ua, 1);
	size_t k = chat_common(u->s, u->n, ug->s, ug->n), whole = chat_whole_tokens(ug->s, k);

	if (k < u->n && whole >= x.n + TEXT_BYTES) /* "<|" of the prompt's token may be that of EOS */
		k = whole;
	/* some close the text with EOS unless they are asked for a prompt: what differs is enough */
	if (k == u->n || (k < ug->n && x.s && k > x.n + TEXT_BYTES))
		keep(&t->gen, ug->s + k, ug->n - k);
	if (t->gen.s && answer.s && answer.n >= ug->n && !memcmp(ua->s, ug->s, ug->n))
		keep(&t->lead, ua->s + ug->n, answer.n - ug->n);
	t->opens_bare = t->lead.s && !t->gen.n && ua->turn == ug->n;
}

/* Is a the same as u, but for the names of the roles? */
static bool same_but_role(struct part a, struct part u)
{
	const char *name = memmem(u.s, u.n, "user", 4);
	size_t at = name ? (size_t)(name - u.s) : 0;

	return name && a.n == u.n + 5 && !memcmp(a.s, u.s, at) && !memcmp(a.s + at, "assistant", 9) && !memcmp(a.s + at + 9, u.s + at + 4, u.n - at - 4);
}

/* Templates without a prompt of their own that introduce every role alike: nothing before an answer is its own. */
static void learn_gap(struct chat_tmpl *t, const struct probe *ua, const struct probe *uau)
{
	struct part to_answer = between(ua, 0, 1), to_user = between(uau, 1, 2);

	if (t->gen.n || !to_answer.s || !to_user.s)
		return;
	if (same_but_role(to_answer, to_user) || (is_blank(to_answer) && is_blank(to_user)))
		keep(&t->gap, to_answer.s, to_answer.n);
}

/* --- behind an answer --- */
/* Up to behind eos_token; 0 when it is not there. */
static size_t eos_end(const struct chat_tmpl *t, struct part p)
{
	const struct json *eos = json_get(&t->special, "eos_token");
	const char *hit = eos && eos->n ? memmem(p.s, p.n, eos->s, eos->n) : NULL;

	return hit ? (size_t)(hit - p.s) + eos->n : 0;
}

/* Up to the token that opens the next turn, as it opens the generation prompt; 0 when that is not there. */
static size_t opener(const struct chat_tmpl *t, struct part p)
{
	const char *end = t->gen.n && *t->gen.s == '<' ? memchr(t->gen.s, '>', t->gen.n) : NULL;
	const char *hit = end ? memmem(p.s, p.n, t->gen.s, (size_t)(end + 1 - t->gen.s)) : NULL;

	return hit ? (size_t)(hit - p.s) : 0;
}

static struct part last_token(struct part p)
{
	size_t at = p.n;

	while (at > 0 && p.s[at - 1] != '<' && p.s[at - 1] != '[')
		at--;
	return at ? (struct part){ p.s + at - 1, p.n - at + 1 } : (struct part){ p.s, 0 };
}

/* Is t the first token of the text, or the second (behind BOS)? No end of turn is. */
static bool opens_text(struct part t, struct part start)
{
	const char *second = start.n && *start.s == '<' ? memchr(start.s, '>', start.n) : NULL;
	struct part rest = { second ? second + 1 : start.s, second ? start.n - (size_t)(second + 1 - start.s) : 0 };

	return t.n && ((t.n <= start.n && !memcmp(start.s, t.s, t.n)) || (t.n <= rest.n && !memcmp(rest.s, t.s, t.n)));
}

/* The tokens that last and mid share, k bytes, up to the one that opens turns: where the
 * end of turn ends. 0 when it cannot be told. */
static size_t shared_end(const struct chat_tmpl *t, struct part last, struct part mid, size_t k, struct part start)
{
	while (k > 0 && mid.s[k - 1] != '>' && mid.s[k - 1] != ']')
		k--;
	struct part token = last_token((struct part){ mid.s, k });
	if (opens_text(token, start))
		return k - token.n;
	if (k < last.n && eos_end(t, (struct part){ last.s + k, last.n - k }) == last.n - k)
		return k; /* EOS alone closes the text: what is before it ended the turn */
	return token.n && memmem(start.s, start.n, token.s, token.n) ? 0 : k;
}

/* Where nothing ends an answer at the end of the text: what its loop writes behind it in the
 * middle, else what stands there before the header of a user's turn, as that is at the start. */
static void learn_inner(struct chat_tmpl *t, const struct probe *uau, struct part mid, struct part start)
{
	size_t at = (size_t)(mid.s - uau->s), n, k = 0;
	struct part end = { mid.s, uau->turn_end != SIZE_MAX && uau->turn_end >= at && uau->turn_end - at <= mid.n ? uau->turn_end - at : 0 };

	if (is_blank(end)) {
		while (k < mid.n && k < start.n && mid.s[mid.n - 1 - k] == start.s[start.n - 1 - k])
			k++;
		while (k && mid.s[mid.n - k] != '<' && mid.s[mid.n - k] != '[')
			k--;
		end.n = k ? mid.n - k : 0;
	}
	n = is_blank(end) ? 0 : chat_without_space(end.s, end.n);
	struct part token = last_token((struct part){ end.s, n });
	if (n && (end.s[n - 1] == '>' || end.s[n - 1] == ']') && is_blank((struct part){ end.s, n - token.n }))
		keep(&t->end_mid, end.s, n);
}

/* The end of turn before a user's: what an answer at the end of the text shares
 * with it, when that is all there is; else up to EOS, to the next turn's first
 * token, or as far as whole tokens are shared. */
static void learn_mid(struct chat_tmpl *t, struct part last, struct part mid, struct part start)
{
	size_t k = chat_common(last.s, last.n, mid.s, mid.n), end;

	if (k && k == last.n) {
		keep(&t->end_mid, mid.s, chat_without_space(mid.s, k));
		return;
	}
	if (is_blank(mid)) { /* nothing ends a turn */
		keep(&t->end_mid, mid.s, 0);
		t->ends_bare = true;
		return;
	}
	if (!(end = eos_end(t, mid)) && !(end = opener(t, mid)))
		end = shared_end(t, last, mid, k, start);
	if (end)
		keep(&t->end_mid, mid.s, chat_without_space(mid.s, end));
}

/* What a template writes at the end of every text, whoever spoke last, such as
 * a generation prompt that nobody asked for, is no answer's: last without it. */
static struct part learn_tail(struct chat_tmpl *t, const struct probe *u, struct part last)
{
	struct part of_user = between(u, 0, -1), rest;

	if (!of_user.s)
		return last;
	if (!t->end_mid.s) { /* where the answer's end of turn ends is not known */
		t->tail_unknown = of_user.n && last.n && of_user.s[of_user.n - 1] == last.s[last.n - 1];
		return last;
	}
	if (!t->end_mid.n || t->end_mid.n >= last.n || memcmp(last.s, t->end_mid.s, t->end_mid.n))
		return last;
	rest = (struct part){ last.s + t->end_mid.n, last.n - t->end_mid.n };
	size_t eos = eos_end(t, rest);
	if (eos && !is_blank((struct part){ rest.s, eos - json_get(&t->special, "eos_token")->n }))
		eos = 0;
	rest = (struct part){ rest.s + eos, rest.n - eos };
	if (is_blank(rest) || !ends_with(of_user, rest))
		return last;
	keep(&t->tail, rest.s, rest.n);
	return (struct part){ last.s, last.n - rest.n };
}

/* --- behind calls --- */
/* The token that stands last when a conversation ends with a call, and stays there when it goes on. */
static void learn_call(struct chat_tmpl *t, struct chat_scratch *s, const struct json *tools)
{
	static const char text[] = "[{\"role\":\"user\",\"content\":\"Qx7u\"},"
				   "{\"role\":\"assistant\",\"content\":\"\",\"tool_calls\":[{\"id\":\"q1w2e3r4t\",\"type\":\"function\",\"function\":{\"name\":\"fq7\",\"arguments\":{\"a\":\"Zk3a\"}}}]},"
				   "{\"role\":\"tool\",\"tool_call_id\":\"q1w2e3r4t\",\"name\":\"fq7\",\"content\":\"Wv9u\"},{\"role\":\"assistant\",\"content\":\"Hj5s\"}]";
	struct chat_msg m[4] = { { 0 } };
	struct chat c = { .msgs = m, .n_msgs = 2, .tools = tools };
	struct err e = ERR_INIT;
	struct json v;

	arena_reset(&s->arena);
	if (json_parse_str(text, &s->arena, &v, &e))
		return;
	struct probe call = render_chat(t, s, &c, v.items, 2, false);
	c.n_msgs = 4;
	struct probe on = render_chat(t, s, &c, v.items, 4, false);
	size_t n = call.s ? chat_without_space(call.s, call.n) : 0;
	if (t->tail.n && n >= t->tail.n && !memcmp(call.s + n - t->tail.n, t->tail.s, t->tail.n))
		n -= t->tail.n;
	struct part token = last_token((struct part){ call.s, n }), behind = between(&call, 1, -1);
	if (token.n && behind.s && token.s >= behind.s && on.s && n <= on.n && !memcmp(on.s, call.s, n))
		keep(&t->end_call, token.s, token.n);
	free(call.s);
	free(on.s);
}

/* Some templates take no conversation without a tool. */
static const char a_tool[] = "[{\"type\":\"function\",\"function\":{\"name\":\"fq7\",\"description\":\"d\",\"parameters\":{\"type\":\"object\",\"properties\":"
			     "{\"a\":{\"type\":\"string\",\"description\":\"d\"}},\"required\":[\"a\"]}}}]";

void chat_learn(struct chat_tmpl *t)
{
	struct chat_scratch *s = chat_scratch_new();
	struct arena a = ARENA_INIT;
	struct err ignored = ERR_INIT;
	struct json tool, *tools = NULL;
	struct probe u = render(t, s, NULL, 1, false);

	if (!u.s && !json_parse_str(a_tool, &a, &tool, &ignored)) {
		tools = &tool;
		u = render(t, s, tools, 1, false);
	}
	struct probe ug = render(t, s, tools, 1, true), ua = render(t, s, tools, 2, false), uau = render(t, s, tools, 3, false);
	struct part last = between(&ua, 1, -1), mid = between(&uau, 1, 2);

	if (u.s && ug.s)
		learn_prompt(t, &u, &ug, &ua);
	if (last.s && mid.s) {
		learn_mid(t, last, mid, before(&u, 0));
		if (!t->end_mid.s && is_blank(last))
			learn_inner(t, &uau, mid, before(&u, 0));
		learn_gap(t, &ua, &uau);
	}
	if (last.s)
		last = learn_tail(t, &u, last);
	if (last.s && !t->tail_unknown)
		keep(&t->end_last, last.s, chat_without_space(last.s, last.n));
	learn_call(t, s, tools);
	free(u.s);
	free(ug.s);
	free(ua.s);
	free(uau.s);
	arena_release(&a);
	chat_scratch_free(s);
}

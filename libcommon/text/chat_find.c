/* Which bytes of a rendering one message wrote, where no tags say it: the place is
 * found and then proved, never guessed:
 *   1. The message's content is followed by address through the rendering
 *      (struct tmpl_watch). What stands before it must be the template's
 *      generation prompt, and what stands behind it its end of turn, both
 *      learnt by rendering probes (chat_learn.c). Not where calls or thoughts
 *      of the message may stand before it.
 *   2. Otherwise renderings of the messages before it, with the generation
 *      prompt, and of those up to it must be prefixes of the text, but for what
 *      the template writes behind every text.
 *   3. What prefixes leave open, what the template's own loop wrote for the message
 *      tells: it must begin as the generation prompt does, end with an end of turn.
 * A span of calls must not change with what later messages say. A message that
 * no way settles is an error of the record. */
#include <string.h>

#include "text/chat_impl.h"

static bool stands_before(const struct finder *f, size_t at, const struct piece *p)
{
	return p->s && p->n <= at && !memcmp(f->text + at - p->n, p->s, p->n);
}

/* The generation prompt but for white space, as templates have it that are laid
 * out carelessly: the answer then begins with its content. */
static bool header_before(const struct finder *f, size_t at)
{
	struct piece g = f->t->gen;

	while (g.n && chat_is_space(g.s[g.n - 1]))
		g.n--;
	while (g.n && chat_is_space(*g.s)) {
		g.s++;
		g.n--;
	}
	while (at > 0 && chat_is_space(f->text[at - 1]))
		at--;
	return g.n && stands_before(f, at, &g);
}

/* Where the turn that holds content at `at` begins, by its header. */
static bool find_begin(const struct finder *f, size_t at, size_t *begin)
{
	const struct chat_tmpl *t = f->t;

	if (t->lead.s && stands_before(f, at, &t->lead) && stands_before(f, at - t->lead.n, &t->gen)) {
		*begin = at - t->lead.n;
		return true;
	}
	*begin = at;
	return t->gen.n && (stands_before(f, at, &t->gen) || header_before(f, at));
}

static bool find_end(const struct finder *f, size_t at, bool last, size_t *end)
{
	const struct piece *first = last ? &f->t->end_last : &f->t->end_mid, *second = last ? &f->t->end_mid : &f->t->end_last;

	if (!last && f->t->ends_bare) {
		*end = at;
		return true;
	}
	const struct piece *p = chat_stands_at(f, at, first) ? first : chat_stands_at(f, at, second) ? second : NULL;

	if (!p)
		return false;
	*end = at + p->n;
	return true;
}

/* A prefix of the text, rendered from fewer messages? Its length, or SIZE_MAX. Without gen
 * that is the text up to the last one's end: what the template writes behind every text is not of it. */
static size_t prefix_of(const struct finder *f, size_t n, bool gen)
{
	const struct piece *tail = &f->t->tail;
	struct err e = ERR_INIT;

	f->s->probe.watch = NULL;
	if (chat_render(f->t, f->c, f->msgs, n, gen, f->o, f->s, &f->s->probe, &e))
		return SIZE_MAX;
	const char *s = sb_str(&f->s->probe.text);
	size_t len = f->s->probe.text.len;
	if (!gen && tail->n && len >= tail->n && !memcmp(s + len - tail->n, tail->s, tail->n))
		len -= tail->n;
	return len <= f->len && !memcmp(s, f->text, len) ? len : SIZE_MAX;
}

/* The text without its generation prompt, if it was asked for or comes unasked; SIZE_MAX: where that begins is not known. */
static size_t closed_len(const struct finder *f)
{
	const struct piece *g = &f->t->gen, *tail = &f->t->tail;
	size_t n = f->len;

	if (f->t->tail_unknown)
		return SIZE_MAX;
	if (f->o->add_generation_prompt && !f->o->continue_final && stands_before(f, n, g))
		n -= g->n;
	if (!tail->n)
		return n;
	return stands_before(f, n, tail) ? n - tail->n : SIZE_MAX;
}

/* Nothing but tokens such as <think>, and white space? */
static bool is_tokens(const char *s, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		const char *end;

		if (chat_is_space(s[i]))
			continue;
		if (s[i] != '<' || !(end = memchr(s + i, '>', n - i)) || memchr(s + i, ' ', (size_t)(end - s) - i))
			return false;
		i = (size_t)(end - s);
	}
	return true;
}

static bool has_calls(const struct finder *f, size_t i)
{
	const struct json *calls = f->msgs[i].n > 2 ? json_get(&f->msgs[i], "tool_calls") : NULL;

	return calls && calls->type != JSON_NULL;
}

/* What a message says it thought; NULL: nothing. */
static const struct json *thoughts(const struct finder *f, size_t i)
{
	static const char *const names[] = { "reasoning_content", "thinking", "reasoning" };

	if (f->msgs[i].n <= 2) /* a role and a content */
		return NULL;
	for (size_t k = 0; k < sizeof(names) / sizeof(*names); k++) {
		const struct json *v = json_get(&f->msgs[i], names[k]);

		if (json_is(v, JSON_STR) && v->n)
			return v;
	}
	return NULL;
}

/* The place of what the message thought, white space aside, from `from` on and before `to`; SIZE_MAX: none. */
static size_t thoughts_in(const struct finder *f, size_t i, size_t from, size_t to)
{
	const struct json *v = thoughts(f, i);
	size_t b = 0, n = v ? v->n : 0;

	if (!v)
		return SIZE_MAX;
	while (n && chat_is_space(v->s[n - 1]))
		n--;
	while (b < n && chat_is_space(v->s[b]))
		b++;
	const char *hit = b < n ? memmem(f->text + from, to - from, v->s + b, n - b) : NULL;
	return hit ? (size_t)(hit - f->text) : SIZE_MAX;
}

/* Does the text go on with that? */
static bool thinks_at(const struct finder *f, size_t i, size_t at)
{
	while (at < f->len && chat_is_space(f->text[at]))
		at++;
	return thoughts_in(f, i, at, f->len) == at;
}

/* Is the content the first that the message says? at: where it is, or SIZE_MAX. */
static bool is_first(const struct finder *f, size_t i, size_t at)
{
	return at != SIZE_MAX && !has_calls(f, i) && thoughts_in(f, i, 0, at) == SIZE_MAX;
}

/* The end of the header when only part of the generation prompt stands in the
 * text (it may open a "<think>" that the answer does not have, or close it where the
 * answer goes on). at: where the answer's content is, SIZE_MAX when it has none; tokens
 * may stand before it, and behind a header that ends where another token of the prompt
 * begins also calls. */
static bool begins_with_part(const struct finder *f, size_t i, size_t at, size_t *begin)
{
	size_t turn = prefix_of(f, i, false);

	if (turn == SIZE_MAX || turn > at || prefix_of(f, i, true) != SIZE_MAX)
		return false;
	const struct sb *p = &f->s->probe.text; /* of the rendering that was no prefix */
	const struct piece *tail = &f->t->tail;
	size_t from = turn;
	if (f->t->gen.n && tail->n && p->len - turn >= tail->n && !memcmp(p->s + turn, tail->s, tail->n))
		from += tail->n; /* what stands behind every text is not of the prompt */
	size_t n = p->len - from, k = chat_common(p->s + from, n, f->text + turn, f->len - turn), whole = chat_whole_tokens(f->text + turn, k);
	bool at_token = whole < n && p->s[from + whole] == '<';

	*begin = turn + (at == turn + k || (k && k == n) ? k : whole);
	if (at != SIZE_MAX && at < *begin) /* what they share goes into the content */
		*begin = at;
	if (*begin <= turn)
		return false;
	if (thinks_at(f, i, *begin))
		return true;
	return at == SIZE_MAX || *begin == at || (k == n && has_calls(f, i)) || (at_token && (has_calls(f, i) || is_tokens(f->text + *begin, at - *begin)));
}

/* Where the content of the message before i ends in the text; SIZE_MAX: it cannot be seen. */
static size_t end_of_previous(const struct finder *f, size_t i)
{
	struct tmpl_watch *w = arena_alloc(&f->s->arena, (f->c->n_msgs + 1) * sizeof(*w));
	const struct chat_msg *m = &f->c->msgs[i - 1];
	struct err e = ERR_INIT;

	for (size_t k = 0; k < f->c->n_msgs; k++)
		w[k] = (struct tmpl_watch){ m->content, m->content && k == i - 1 ? m->content_len : 0, SIZE_MAX, SIZE_MAX };
	f->s->probe.watch = w;
	f->s->probe.n_watch = f->c->n_msgs;
	int rc = chat_render(f->t, f->c, f->msgs, f->c->n_msgs, f->o->add_generation_prompt && !f->o->continue_final, f->o, f->s, &f->s->probe, &e);
	f->s->probe.watch = NULL;
	return rc || f->s->probe.text.len != f->len || memcmp(sb_str(&f->s->probe.text), f->text, f->len) ? SIZE_MAX : w[i - 1].end;
}

/* The prompt and the text go different ways at a token, before the content and
 * behind the message before it: what they share introduces the turn, and what
 * the text has then are tokens of the answer (it thinks, or it does not). */
static bool begins_at_parting(const struct finder *f, size_t i, size_t at, size_t *begin)
{
	if (i == 0 || at == SIZE_MAX || prefix_of(f, i, true) != SIZE_MAX)
		return false;
	const struct sb *p = &f->s->probe.text; /* of the rendering that was no prefix */
	size_t k = chat_whole_tokens(f->text, chat_common(sb_str(p), p->len, f->text, f->len));

	if (k >= at || k >= p->len || p->s[k] != '<' || f->text[k] != '<' || !is_tokens(f->text + k, at - k))
		return false;
	size_t end = end_of_previous(f, i);
	*begin = k;
	return end < k && memchr(f->text + end, '<', k - end); /* the shared header is there */
}

/* A template that introduces all roles alike, and never asks for an answer. */
static bool begins_bare(const struct finder *f, size_t at, size_t *begin)
{
	*begin = at;
	return at != SIZE_MAX && stands_before(f, at, &f->t->gap);
}

/* --- by what the template's loop wrote for the message --- */
/* Renders once more with the loops' turns noted; n is 0 where that tells nothing. */
static void note_turns(struct finder *f)
{
	struct chat_scratch *s = f->s;
	struct err e = ERR_INIT;

	if (f->turn)
		return;
	f->turn = arena_calloc(&s->arena, f->c->n_msgs + 1, sizeof(*f->turn));
	for (size_t i = 0; i < f->c->n_msgs; i++)
		f->turn[i].msg = &f->msgs[i];
	s->probe.watch = NULL;
	s->probe.turn = f->turn;
	s->probe.n_turn = f->c->n_msgs;
	int rc = chat_render_prefix(f->t, f->c, f->msgs, f->c->n_msgs, f->o->add_generation_prompt && !f->o->continue_final, f->o, &s->arena, &s->probe, &e);
	s->probe.n_turn = 0;
	if (rc || s->probe.text.len != f->len || memcmp(sb_str(&s->probe.text), f->text, f->len))
		for (size_t i = 0; i < f->c->n_msgs; i++)
			f->turn[i].n = 0;
}

/* The turn begins as the generation prompt does, in whole tokens at least; what
 * the prompt has beyond that is a token which this answer does not have. Where
 * nothing introduces an answer, or its content comes first, all of it is the answer's. */
static bool begins_turn(const struct finder *f, const struct tmpl_turn *t, size_t at, size_t *begin)
{
	const struct piece *g = &f->t->gen;
	size_t n = t->end - t->begin, k = chat_common(f->text + t->begin, n, g->s ? g->s : "", g->n);

	*begin = t->begin;
	if (at == t->begin || f->t->opens_bare)
		return true;
	if (k < g->n)
		k = chat_whole_tokens(g->s, k);
	*begin = t->begin + k;
	if (!k || (k < g->n && g->s[k] != '<' && !is_tokens(g->s + k, g->n - k)))
		return false;
	return at == SIZE_MAX || (*begin <= at && (k == g->n || is_tokens(f->text + *begin, at - *begin)));
}

/* It ends with an end of turn, where the template has any; white space behind that is the template's. */
static bool ends_turn(const struct finder *f, const struct tmpl_turn *t, size_t i, size_t content_end, size_t *end)
{
	const struct piece *ends[] = { &f->t->end_mid, &f->t->end_last, &f->t->end_call };
	bool last = i + 1 == f->c->n_msgs;
	size_t n = last && closed_len(f) < t->end ? closed_len(f) : t->end;

	while (n > t->begin && chat_is_space(f->text[n - 1]))
		n--;
	*end = content_end != SIZE_MAX && content_end > n && content_end <= t->end ? content_end : n;
	if (f->t->end_last.s && !f->t->end_last.n && (last || (f->t->end_mid.s && !f->t->end_mid.n) || (!f->t->end_mid.s && n == content_end)))
		return true;
	for (size_t k = 0; k < (has_calls(f, i) ? 3 : 2); k++) {
		struct piece p = *ends[k];

		for (; p.n && chat_is_space(*p.s); p.n--)
			p.s++;
		if (p.n && n - t->begin >= p.n && stands_before(f, n, &p))
			return true;
	}
	return false;
}

/* --- one message --- */
static bool begin_of(struct finder *f, size_t i, const struct tmpl_watch *w, size_t *b)
{
	*b = prefix_of(f, i, true);
	if (*b != SIZE_MAX || (w->begin != SIZE_MAX && thoughts_in(f, i, 0, w->begin) == SIZE_MAX && find_begin(f, w->begin, b)) || begins_with_part(f, i, w->begin, b) ||
	    begins_at_parting(f, i, w->begin, b) || begins_bare(f, w->begin, b))
		return true;
	note_turns(f);
	return f->turn[i].n == 1 && begins_turn(f, &f->turn[i], w->begin, b);
}

/* The text up to e stays when later messages say something else: nothing of them is in it. */
static bool stands_alone(const struct finder *f, size_t i, size_t e)
{
	struct json *msgs = arena_alloc(&f->s->arena, f->c->n_msgs * sizeof(*msgs));
	struct err ignored = ERR_INIT;

	for (size_t k = 0; k < f->c->n_msgs; k++)
		msgs[k] = k > i && f->c->msgs[k].content ? chat_message(&f->c->msgs[k], "Qx7u", 4, &f->s->arena) : f->msgs[k];
	f->s->probe.watch = NULL;
	return !chat_render_prefix(f->t, f->c, msgs, f->c->n_msgs, f->o->add_generation_prompt && !f->o->continue_final, f->o, &f->s->arena, &f->s->probe, &ignored) &&
	       e <= f->s->probe.text.len && !memcmp(sb_str(&f->s->probe.text), f->text, e);
}

/* Calls may be parted from the content by what tools answered, or by an end of turn and
 * a header: that is not one span. */
static bool is_one(const struct finder *f, size_t i, size_t b, size_t e)
{
	const struct piece *end = &f->t->end_last;

	if (!has_calls(f, i))
		return true;
	if (end->n && !chat_is_space(*end->s) && e - b > end->n && memmem(f->text + b, e - b - end->n, end->s, end->n))
		return false;
	return i + 1 == f->c->n_msgs || prefix_of(f, i + 1, false) == e || stands_alone(f, i, e);
}

/* Of an answer without a content that is seen, and without calls: an end of turn where it begins. */
static bool ends_at_once(const struct finder *f, size_t i, size_t b, size_t *e)
{
	const struct json *content = json_get(&f->msgs[i], "content");

	return f->msgs[i].n == 2 && json_is(content, JSON_STR) && !content->n && find_end(f, b, i + 1 == f->c->n_msgs, e) && *e > b;
}

/* b: where it begins. */
static bool end_of(struct finder *f, size_t i, const struct tmpl_watch *w, size_t b, size_t *e)
{
	bool last = i + 1 == f->c->n_msgs;
	size_t n;

	*e = last ? closed_len(f) : prefix_of(f, i + 1, false);
	if (*e != SIZE_MAX && *e > b) {
		if (w->end != SIZE_MAX && !has_calls(f, i) && find_end(f, w->end, last, &n)) {
			*e = n;
			return true;
		}
		n = chat_without_space(f->text + b, *e - b);
		/* white space that is the end of turn stays */
		if (f->t->end_mid.n == 0 || !chat_is_space(f->t->end_mid.s[0]) || w->end == SIZE_MAX)
			*e = w->end != SIZE_MAX && w->end > b + n && w->end <= *e ? w->end : b + n; /* space of the content's own is the answer's */
		if (!last && f->t->end_last.s && !f->t->end_last.n && chat_stands_at(f, *e, &f->t->end_mid))
			*e += f->t->end_mid.n; /* which a conversation does not end with */
		return true;
	}
	if (w->end != SIZE_MAX ? find_end(f, w->end, last, e) : ends_at_once(f, i, b, e))
		return true;
	note_turns(f);
	return f->turn[i].n == 1 && ends_turn(f, &f->turn[i], i, w->end, e);
}

static bool holds(const struct tmpl_watch *w, size_t b, size_t e)
{
	return e > b && (w->begin == SIZE_MAX || (w->begin >= b && w->end <= e));
}

/* What prefixes tell, and the loop's turn where they do not; else all by the turn. */
static int by_proof(struct finder *f, size_t i, const struct tmpl_watch *w, struct tmpl_span *out)
{
	size_t b, e;
	bool ok = begin_of(f, i, w, &b) && end_of(f, i, w, b, &e) && holds(w, b, e);

	if (!ok) {
		note_turns(f);
		ok = f->turn[i].n == 1 && begins_turn(f, &f->turn[i], w->begin, &b) && ends_turn(f, &f->turn[i], i, w->end, &e) && holds(w, b, e);
	}
	if (!ok || !is_one(f, i, b, e))
		return -1;
	*out = (struct tmpl_span){ b, e, i, false };
	return 0;
}

int chat_find_message(struct finder *f, size_t i, struct tmpl_span *out, struct err *e)
{
	const struct tmpl_watch *w = &f->s->watch[i];
	size_t begin, end;

	if (is_first(f, i, w->begin) && find_begin(f, w->begin, &begin) &&
	    find_end(f, w->end, i + 1 == f->c->n_msgs, &end)) {
		*out = (struct tmpl_span){ begin, end, i, false };
		return 0;
	}
	if (!by_proof(f, i, w, out))
		return 0;
	return err_set(e, LP_DATA, "message %zu: what the assistant writes cannot be found exactly in this rendering; use a template with {%% generation %%} tags", i + 1);
}

/* What another role than the assistant wrote: its content, and the end of turn
 * if one stands behind it. Exact when the bytes are the content's, at most
 * without the white space around it. */
int chat_find_other(const struct finder *f, size_t i, struct tmpl_span *out, struct err *e)
{
	const struct tmpl_watch *w = &f->s->watch[i];
	const struct chat_msg *m = &f->c->msgs[i];
	size_t b = 0, n = m->content_len, end;

	while (n > 0 && chat_is_space(m->content[n - 1]))
		n--;
	while (b < n && chat_is_space(m->content[b]))
		b++;
	if (w->begin == SIZE_MAX || w->end - w->begin < n - b || w->end - w->begin > m->content_len || b == n ||
	    !memmem(m->content, m->content_len, f->text + w->begin, w->end - w->begin))
		return err_set(e, LP_DATA, "message %zu: what the role '%s' writes cannot be found exactly in this rendering", i + 1, m->role);
	if (!find_end(f, w->end, i + 1 == f->c->n_msgs, &end) || chat_is_space(f->text[end - 1]))
		end = w->end;
	*out = (struct tmpl_span){ w->begin, end, i, false };
	return 0;
}

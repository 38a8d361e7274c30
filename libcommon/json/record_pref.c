/* Preference records: a prompt and two answers, or one answer with a label. */
#include <string.h>

#include "json/record_int.h"

bool record_is_preference(const struct json *v)
{
	if (rec_field(v, "chosen") && rec_field(v, "rejected"))
		return true;
	return json_is(json_get(v, "label"), JSON_BOOL) &&
	       (rec_field(v, "messages") || rec_field(v, "conversations") || rec_field(v, "prompt"));
}

/* --- transcripts: "\n\nHuman: ... \n\nAssistant: ..." --- */

static const char HUMAN[] = "\n\nHuman:", ASSISTANT[] = "\n\nAssistant:";

static const char *find_turn(const char *s, const char *end, const char **role, size_t *marker)
{
	const char *h = memmem(s, (size_t)(end - s), HUMAN, sizeof(HUMAN) - 1);
	const char *a = memmem(s, (size_t)(end - s), ASSISTANT, sizeof(ASSISTANT) - 1);

	if (!h && !a)
		return NULL;
	if (a && (!h || a < h)) {
		*role = "assistant";
		*marker = sizeof(ASSISTANT) - 1;
		return a;
	}
	*role = "user";
	*marker = sizeof(HUMAN) - 1;
	return h;
}

static bool is_transcript(const struct json *v)
{
	const char *role;
	size_t n;

	return json_is(v, JSON_STR) && find_turn(v->s, v->s + v->n, &role, &n) == v->s;
}

/* Appends the turns; the space after a marker's colon belongs to the marker. */
static void add_transcript(struct rec_list *l, const struct json *v)
{
	const char *end = v->s + v->n, *role, *next_role;
	size_t marker, next_marker = 0;
	const char *p = find_turn(v->s, end, &role, &marker);

	while (p) {
		const char *text = p + marker;
		const char *next = find_turn(text, end, &next_role, &next_marker);
		const char *stop = next ? next : end;

		if (text < stop && *text == ' ')
			text++;
		rec_push(l, role, arena_strndup(l->a, text, (size_t)(stop - text)), (size_t)(stop - text), NULL);
		p = next;
		role = next_role;
		marker = next_marker;
	}
}

/* --- the two answers --- */

static bool same_message(const struct chat_msg *a, const struct chat_msg *b)
{
	if (strcmp(a->role, b->role) || !a->content != !b->content || a->content_len != b->content_len)
		return false;
	if (a->content && memcmp(a->content, b->content, a->content_len))
		return false;
	const struct json *ca = rec_field(a->orig, "tool_calls"), *cb = rec_field(b->orig, "tool_calls");

	return !ca && !cb ? true : ca && cb && json_equal(ca, cb);
}

/* Two whole conversations: the prompt is their common start, cut back to where
 * both go on with an answer of the assistant. */
static int split_common(const struct rec_list *c, const struct rec_list *r, size_t *at, struct err *e)
{
	size_t min = c->n < r->n ? c->n : r->n, k = 0;

	while (k < min && same_message(&c->v[k], &r->v[k]))
		k++;
	if (k == c->n && k == r->n)
		return err_set(e, LP_DATA, "chosen and rejected are the same");
	while (k > 0 && (k >= c->n || k >= r->n || strcmp(c->v[k].role, "assistant") || strcmp(r->v[k].role, "assistant")))
		k--;
	if (!k)
		return err_set(e, LP_DATA, "chosen and rejected have no common start; give a prompt");
	*at = k;
	return 0;
}

static int read_answer(const struct json *v, const char *field, struct rec_list *l, struct err *e)
{
	enum rec_style style;

	if (is_transcript(v)) {
		add_transcript(l, v);
		return 0;
	}
	if (json_is(v, JSON_STR)) {
		rec_push(l, "assistant", v->s, v->n, NULL);
		return 0;
	}
	if (!rec_is_message(v) && !rec_is_messages(v))
		return err_set(e, LP_DATA, "\"%s\" is neither a string, a message nor a list of messages", field);
	return rec_add_messages(l, v, field, &style, e);
}

/* The part that asks; *found says whether there is one. */
static int read_prompt(const struct json *v, const struct chat_map *m, struct rec_list *l, struct chat *c, bool *found, struct err *e)
{
	static const char *const lists[] = { "messages", "conversations" };
	static const char *const texts[] = { "prompt", "instruction", "question" };
	const char *field = m ? (m->prompt ? m->prompt : m->messages) : NULL;
	enum rec_style style;

	*found = true;
	c->shape = "messages";
	for (size_t i = 0; !field && i < 2; i++)
		if (rec_field(v, lists[i]))
			field = lists[i];
	for (size_t i = 0; !field && i < 3; i++)
		if (rec_field(v, texts[i]))
			field = texts[i];
	if (!field) {
		*found = false;
		return 0;
	}
	const struct json *p = rec_field(v, field);

	if (!p)
		return err_set(e, LP_DATA, "no field \"%.100s\", which --map names", field);
	if (json_is(p, JSON_ARR)) {
		if (rec_add_messages(l, p, field, &style, e) < 0)
			return -1;
	} else if (is_transcript(p)) {
		add_transcript(l, p);
		c->shape = "prompt";
		if (l->n && !strcmp(l->v[l->n - 1].role, "assistant") && !l->v[l->n - 1].content_len)
			l->n--; /* "\n\nAssistant:" at the end asks for the answer */
	} else if (json_is(p, JSON_STR)) {
		c->shape = !strcmp(field, "instruction") || !strcmp(field, "question") ? field : "prompt";
		rec_push_user(l, p, !strcmp(field, "instruction") ? rec_field(v, "input") : NULL);
	} else {
		return err_set(e, LP_DATA, "\"%s\" is neither a string nor a list of messages", field);
	}
	return 0;
}

static int add_systems(const struct json *v, const struct chat_map *m, struct rec_list *l, const struct chat *c, struct err *e)
{
	const char *field = m && m->system_field ? m->system_field : strcmp(c->shape, "messages") ? "system" : NULL;
	const struct json *s = field ? rec_field(v, field) : NULL;

	if (s && s->type != JSON_STR)
		return err_set(e, LP_DATA, "\"%s\" is not a string", field);
	if (s && s->n)
		rec_add_system(l, s->s, s->n);
	if (m && m->system)
		rec_add_system(l, m->system, strlen(m->system));
	return 0;
}

static void put(struct chat *c, const struct rec_list *l, size_t from)
{
	c->msgs = l->v + from;
	c->n_msgs = l->n - from;
}

static int read_pair(const struct json *v, const struct chat_map *m, struct arena *a, struct pref *p, struct err *e)
{
	struct rec_list ask = { .a = a }, c = { .a = a }, r = { .a = a };
	const struct json *chosen = rec_field(v, "chosen"), *rejected = rec_field(v, "rejected");
	bool has_prompt;
	size_t at = 0;

	if (!chosen || !rejected)
		return err_set(e, LP_DATA, "no \"%s\"; a preference record has chosen and rejected, or a boolean label", chosen ? "rejected" : "chosen");
	if (read_prompt(v, m, &ask, &p->prompt, &has_prompt, e) < 0 || read_answer(chosen, "chosen", &c, e) < 0 ||
	    read_answer(rejected, "rejected", &r, e) < 0)
		return -1;
	if (!has_prompt || c.n > 1 || r.n > 1) {
		/* Whole conversations. Where the prompt stands beside them, it is their start. */
		if (!has_prompt && c.n < 2 && r.n < 2)
			return err_set(e, LP_DATA, "no prompt, and chosen and rejected are single answers");
		bool repeats = has_prompt;

		for (size_t i = 0; repeats && i < ask.n; i++)
			repeats = i < c.n && i < r.n && same_message(&ask.v[i], &c.v[i]) && same_message(&ask.v[i], &r.v[i]);
		if (!has_prompt || repeats) {
			if (split_common(&c, &r, &at, e) < 0)
				return -1;
			ask = (struct rec_list){ .a = a };
			for (size_t i = 0; i < at; i++)
				rec_push(&ask, c.v[i].role, c.v[i].content, c.v[i].content_len, c.v[i].orig);
		}
	}
	if (add_systems(v, m, &ask, &p->prompt, e) < 0)
		return -1;
	if (!ask.n || c.n <= at || r.n <= at)
		return err_set(e, LP_DATA, "%s is empty", !ask.n ? "the prompt" : c.n <= at ? "\"chosen\"" : "\"rejected\"");
	put(&p->prompt, &ask, 0);
	put(&p->chosen, &c, at);
	put(&p->rejected, &r, at);
	return 0;
}

/* A chat whose last assistant turn carries the label. */
static int read_labelled(const struct json *v, const struct chat_map *m, struct arena *a, struct pref *p, struct err *e)
{
	struct chat c;
	size_t k;

	if (chat_from_json(v, m, a, &c, e) < 0)
		return -1;
	for (k = c.n_msgs; k > 0 && strcmp(c.msgs[k - 1].role, "assistant"); k--)
		;
	if (k < 2 || k != c.n_msgs)
		return err_set(e, LP_DATA, "a labelled record ends with the assistant's answer to a prompt; this one does not");
	p->has_label = true;
	p->label = json_get(v, "label")->b;
	p->prompt = c;
	p->prompt.n_msgs = k - 1;
	p->chosen.msgs = c.msgs + k - 1;
	p->chosen.n_msgs = 1;
	p->chosen.shape = c.shape;
	return 0;
}

int pref_from_json(const struct json *v, const struct chat_map *m, struct arena *a, struct pref *p, struct err *e)
{
	memset(p, 0, sizeof(*p));
	if (!json_is(v, JSON_OBJ))
		return err_set(e, LP_DATA, "the record is not a JSON object");
	if (!rec_field(v, "chosen") && !rec_field(v, "rejected") && json_is(json_get(v, "label"), JSON_BOOL)) {
		if (read_labelled(v, m, a, p, e) < 0)
			return -1;
	} else if (read_pair(v, m, a, p, e) < 0) {
		return -1;
	}
	const char *shape = p->prompt.shape;

	if (rec_common(v, a, &p->prompt, e) < 0)
		return -1;
	p->chosen.shape = p->rejected.shape = p->prompt.shape = shape;
	p->chosen.orig = p->rejected.orig = v;
	p->chosen.tools = p->rejected.tools = p->prompt.tools;
	p->chosen.documents = p->rejected.documents = p->prompt.documents;
	p->chosen.id = p->rejected.id = p->prompt.id;
	return 0;
}

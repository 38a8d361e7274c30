/* From any known shape of training record to chat messages. A shape is told by
 * its field names alone (table SHAPES); what the fields hold is then checked
 * strictly, so that a broken record is refused and never half read. */
#include "json/record.h"

#include <stdlib.h>
#include <string.h>

#include "base/xalloc.h"
#include "json/record_int.h"

struct chat_msg *rec_push(struct rec_list *l, const char *role, const char *content, size_t len, const struct json *orig)
{
	if (l->n == l->cap) {
		size_t cap = l->cap ? l->cap * 2 : 8;
		struct chat_msg *v = arena_calloc(l->a, cap, sizeof(*v));

		if (l->n)
			memcpy(v, l->v, l->n * sizeof(*v));
		l->v = v;
		l->cap = cap;
	}
	l->v[l->n] = (struct chat_msg){ .role = role, .content = content, .content_len = len, .orig = orig };
	return &l->v[l->n++];
}

void rec_text_of(struct arena *a, const struct json *v, const char **s, size_t *len)
{
	struct sb b = SB_INIT;
	struct jw w = jw_to(&b);

	if (v->type == JSON_STR) {
		*s = v->s;
		*len = v->n;
		return;
	}
	jw_value(&w, v);
	*s = arena_strndup(a, sb_str(&b), b.len);
	*len = b.len;
	sb_release(&b);
}

/* --- one message --- */

static const struct {
	const char *from, *role;
} SPEAKERS[] = {
	{ "human", "user" },         { "gpt", "assistant" },        { "chatgpt", "assistant" }, { "bot", "assistant" },
	{ "model", "assistant" },    { "function_call", "assistant" }, { "observation", "tool" },  { "function_response", "tool" },
};

static const char *role_of_speaker(const char *from)
{
	for (size_t i = 0; i < sizeof(SPEAKERS) / sizeof(SPEAKERS[0]); i++)
		if (!strcmp(from, SPEAKERS[i].from))
			return SPEAKERS[i].role;
	return from;
}

/* The text of a part, under whichever name it goes; NULL when it has none. */
static const struct json *part_text(const struct json *part)
{
	static const char *const names[] = { "text", "value", "content", "thinking", "reasoning" };

	for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
		const struct json *t = rec_field(part, names[i]);

		if (t)
			return t;
	}
	return NULL;
}

/* What the parts of one message add up to. */
struct parts {
	struct sb text, reasoning;
	struct json *calls; /* room for one a part */
	uint32_t n_calls;
	bool has_reasoning;
};

static int add_part(struct arena *a, const struct json *part, size_t i, struct parts *p, struct err *e)
{
	const struct json *type = rec_field(part, "type");
	const struct json *text = part_text(part);

	if (!json_is(part, JSON_OBJ))
		return err_set(e, LP_DATA, "content part %zu is not an object", i + 1);
	if (json_str_is(type, "tool_call"))
		return rec_call(a, text, &p->calls[p->n_calls++], e);
	if (type && !json_str_is(type, "text") && !json_str_is(type, "input_text") && !json_str_is(type, "output_text") &&
	    !json_str_is(type, "reasoning") && !json_str_is(type, "thinking"))
		return err_set(e, LP_DATA, "content part %zu has type '%.40s'; only text can be read", i + 1,
		               json_is(type, JSON_STR) ? type->s : "?");
	if (!json_is(text, JSON_STR))
		return err_set(e, LP_DATA, "content part %zu has no text", i + 1);
	if (json_str_is(type, "reasoning") || json_str_is(type, "thinking")) {
		p->has_reasoning = true;
		sb_add(&p->reasoning, text->s, text->n);
	} else {
		sb_add(&p->text, text->s, text->n);
	}
	return 0;
}

/* The message's object with its parts written out as fields. */
static const struct json *unfold_parts(struct arena *a, const struct json *msg, const struct json *content, const char *text,
                                       const struct parts *p)
{
	struct json o = rec_obj(a, msg->n + 3);
	struct json *out = arena_alloc(a, sizeof(*out));

	for (uint32_t i = 0; i < msg->n; i++)
		if (&msg->members[i].val != content)
			o.members[o.n++] = msg->members[i];
	rec_obj_add(&o, "content", rec_str(text, p->text.len));
	if (p->has_reasoning)
		rec_obj_add(&o, "reasoning_content", rec_str(arena_strndup(a, sb_str(&p->reasoning), p->reasoning.len), p->reasoning.len));
	if (p->n_calls) {
		struct json calls = { .type = JSON_ARR, .n = p->n_calls };

		calls.items = p->calls;
		rec_obj_add(&o, "tool_calls", calls);
	}
	*out = o;
	return out;
}

static int add_parts_message(struct rec_list *l, const char *role, const struct json *msg, const struct json *content, struct err *e)
{
	struct parts p = { SB_INIT, SB_INIT, NULL, 0, false };
	const char *text;
	int rc = -1;

	p.calls = arena_calloc(l->a, content->n + 1, sizeof(*p.calls));
	for (uint32_t i = 0; i < content->n; i++)
		if (add_part(l->a, &content->items[i], i, &p, e) < 0)
			goto out;
	text = arena_strndup(l->a, sb_str(&p.text), p.text.len);
	if (p.has_reasoning || p.n_calls)
		msg = unfold_parts(l->a, msg, content, text, &p);
	rec_push(l, role, text, p.text.len, msg);
	rc = 0;
out:
	sb_release(&p.text);
	sb_release(&p.reasoning);
	return rc;
}

static int add_message(struct rec_list *l, const struct json *msg, enum rec_style style, struct err *e)
{
	bool usual = style == REC_ROLE_CONTENT;
	const char *role_key = usual ? "role" : "from", *text_key = usual ? "content" : "value";
	const struct json *role = usual ? json_get(msg, "role") : json_get(msg, "from");
	const struct json *content = usual ? json_get(msg, "content") : json_get(msg, "value");

	if (!json_is(msg, JSON_OBJ))
		return err_set(e, LP_DATA, "message %zu is not an object", l->n + 1);
	if (!role)
		return err_set(e, LP_DATA, "message %zu has no \"%s\"", l->n + 1, role_key);
	if (role->type != JSON_STR || strlen(role->s) != role->n)
		return err_set(e, LP_DATA, "message %zu: \"%s\" is not a plain string", l->n + 1, role_key);
	if (!content && !rec_field(msg, "tool_calls"))
		return err_set(e, LP_DATA, "message %zu has no \"%s\"", l->n + 1, text_key);
	const char *name = style == REC_ROLE_CONTENT ? role->s : role_of_speaker(role->s);

	if (!content || content->type == JSON_NULL) {
		rec_push(l, name, NULL, 0, msg);
	} else if (content->type == JSON_STR) {
		rec_push(l, name, content->s, content->n, msg);
	} else if (content->type == JSON_ARR) {
		struct err sub = ERR_INIT;

		if (add_parts_message(l, name, msg, content, &sub) < 0)
			return err_set(e, LP_DATA, "message %zu: %.800s", l->n + 1, sub.msg);
	} else {
		return err_set(e, LP_DATA, "message %zu: \"%s\" is neither a string nor a list of parts", l->n + 1, text_key);
	}
	return 0;
}

bool rec_is_message(const struct json *v)
{
	return json_get(v, "role") || json_get(v, "from");
}

bool rec_is_messages(const struct json *v)
{
	return json_is(v, JSON_ARR) && v->n && rec_is_message(&v->items[0]);
}

/* A list in from/value names speakers so in its first message; the rest must agree. */
static enum rec_style style_of(const struct json *first)
{
	return !json_get(first, "role") && json_get(first, "from") ? REC_FROM_VALUE : REC_ROLE_CONTENT;
}

int rec_add_messages(struct rec_list *l, const struct json *v, const char *field, enum rec_style *style, struct err *e)
{
	*style = REC_ROLE_CONTENT;
	if (json_is(v, JSON_OBJ)) {
		*style = style_of(v);
		return add_message(l, v, *style, e);
	}
	if (!json_is(v, JSON_ARR))
		return err_set(e, LP_DATA, "\"%s\" is not a list of messages", field);
	if (v->n)
		*style = style_of(&v->items[0]);
	for (uint32_t i = 0; i < v->n; i++)
		if (add_message(l, &v->items[i], *style, e) < 0)
			return -1;
	return 0;
}

/* --- fields common to all shapes --- */

static int read_tools(const struct json *v, struct arena *a, struct chat *c, struct err *e)
{
	const struct json *t = rec_field(v, "tools");
	struct err sub = ERR_INIT;
	struct json *parsed;

	if (!t || t->type == JSON_ARR) {
		c->tools = t;
		return 0;
	}
	if (t->type != JSON_STR)
		return err_set(e, LP_DATA, "\"tools\" is neither a list nor its JSON text");
	if (t->s[strspn(t->s, " \t\r\n")] == '\0')
		return 0;
	parsed = arena_alloc(a, sizeof(*parsed));
	if (json_parse_str(t->s, a, parsed, &sub) < 0)
		return err_set(e, LP_DATA, "\"tools\" is text, but not JSON: %.200s", sub.msg);
	if (parsed->type != JSON_ARR)
		return err_set(e, LP_DATA, "\"tools\" is JSON text, but not of a list");
	if (parsed->n)
		c->tools = parsed;
	return 0;
}

int rec_common(const struct json *v, struct arena *a, struct chat *c, struct err *e)
{
	c->orig = v;
	c->id = rec_field(v, "id");
	c->documents = rec_field(v, "documents");
	return read_tools(v, a, c, e);
}

void rec_add_system(struct rec_list *l, const char *text, size_t len)
{
	for (size_t i = 0; i < l->n; i++)
		if (!strcmp(l->v[i].role, "system"))
			return;
	rec_push(l, "system", text, len, NULL);
	struct chat_msg sys = l->v[l->n - 1];

	memmove(l->v + 1, l->v, (l->n - 1) * sizeof(*l->v));
	l->v[0] = sys;
}

void rec_push_user(struct rec_list *l, const struct json *instruction, const struct json *input)
{
	const char *s, *in = NULL;
	size_t n, n_in = 0;

	rec_text_of(l->a, instruction, &s, &n);
	if (input)
		rec_text_of(l->a, input, &in, &n_in);
	if (n_in) {
		char *both = arena_alloc(l->a, n + n_in + 3);

		memcpy(both, s, n);
		memcpy(both + n, "\n\n", 2);
		memcpy(both + n + 2, in, n_in);
		both[n + n_in + 2] = '\0';
		s = both;
		n += n_in + 2;
	}
	rec_push(l, "user", s, n, NULL);
}

/* --- shapes --- */

struct shape {
	const char *name;
	const char *ask;          /* the field with the prompt, or the messages, or the text */
	uint32_t ask_len;
	const char *answers[4];   /* exactly one of them; none for lists and text */
};
static const struct shape CANONICAL[] = {
	{ "messages", "messages", 8, { NULL } },
	{ "conversations", "conversations", 13, { NULL } },
	{ "instruction", "instruction", 11, { "output", "response" } },
	{ "prompt", "prompt", 6, { "completion" } },
	{ "question", "question", 8, { "answer" } },
	{ "text", "text", 4, { NULL } },
};
static const struct shape LENIENT[] = {
	{ "instruction", "instruction", 11, { "completion", "answer" } },
	{ "prompt", "prompt", 6, { "response", "answer", "output" } },
	{ "question", "question", 8, { "response", "completion", "output" } },
};

/* Fills *answer with the one answer field there; two answers are an error. */
static int fits(const struct shape *s, const struct json *v, const char **answer, struct err *e)
{
	*answer = NULL;
	if (!rec_field(v, s->ask))
		return 0;
	if (!s->answers[0])
		return 1;
	for (size_t i = 0; i < sizeof(s->answers) / sizeof(s->answers[0]) && s->answers[i]; i++) {
		if (!rec_field(v, s->answers[i]))
			continue;
		if (*answer)
			return err_set(e, LP_DATA, "has both \"%s\" and \"%s\"; name the one to use with --map prompt=%s,completion=FIELD",
			               *answer, s->answers[i], s->ask);
		*answer = s->answers[i];
	}
	return *answer != NULL;
}

/* Bit k: the record has a field whose name is k bytes long. */
static uint32_t name_lengths(const struct json *v)
{
	uint32_t mask = 0;

	for (uint32_t i = 0; i < v->n; i++)
		mask |= v->members[i].key_len < 32 ? 1u << v->members[i].key_len : 0;
	return mask;
}

static int find_shape(const struct shape *table, size_t n, const struct json *v, const struct shape **found,
                      const char **answer, struct err *e)
{
	uint32_t lengths = name_lengths(v);

	*found = NULL;
	for (size_t i = 0; i < n; i++) {
		const char *ans;
		int rc = lengths >> table[i].ask_len & 1 ? fits(&table[i], v, &ans, e) : 0;

		if (rc < 0)
			return -1;
		if (!rc)
			continue;
		if (*found)
			return err_set(e, LP_DATA, "fits two shapes, \"%s\" and \"%s\"; choose one with --map (prompt=FIELD,completion=FIELD or messages=FIELD)",
			               (*found)->name, table[i].name);
		*found = &table[i];
		*answer = ans;
	}
	return 0;
}

static int no_shape(const struct json *v, struct err *e)
{
	struct sb names = SB_INIT;

	if (rec_field(v, "chosen") && rec_field(v, "rejected"))
		return err_set(e, LP_DATA, "a preference record (chosen, rejected), not a chat record");
	for (uint32_t i = 0; i < v->n && names.len < 300; i++)
		sb_addf(&names, "%s%.60s", i ? ", " : "", v->members[i].key);
	err_set(e, LP_DATA, "no known shape of chat record (fields: %.400s); name the fields with --map prompt=FIELD,completion=FIELD",
	        v->n ? sb_str(&names) : "none");
	sb_release(&names);
	return -1;
}

static void own(struct chat *c, const char *field)
{
	size_t i = 0;

	while (c->owned[i])
		i++;
	c->owned[i] = field;
}

static int want_string(const struct json *v, const char *field, struct err *e)
{
	if (v->type != JSON_STR)
		return err_set(e, LP_DATA, "\"%s\" is not a string", field);
	return 0;
}

/* prompt and answer fields; either may be messages where the shape is "prompt". */
static int read_pair(const struct json *v, const struct shape *s, const char *answer, struct rec_list *l, struct chat *c, struct err *e)
{
	const struct json *ask = rec_field(v, s->ask), *ans = answer ? rec_field(v, answer) : NULL;
	bool lists = !strcmp(s->name, "prompt");
	enum rec_style style;

	own(c, s->ask);
	if (answer)
		own(c, answer);
	if (lists && rec_is_messages(ask)) {
		if (rec_add_messages(l, ask, s->ask, &style, e) < 0)
			return -1;
	} else {
		if (want_string(ask, s->ask, e) < 0)
			return -1;
		if (!strcmp(s->name, "instruction")) {
			rec_push_user(l, ask, rec_field(v, "input"));
			own(c, "input");
		} else {
			rec_push_user(l, ask, NULL);
		}
	}
	if (lists && ans && (rec_is_messages(ans) || rec_is_message(ans)))
		return rec_add_messages(l, ans, answer, &style, e);
	if (ans) {
		const char *text;
		size_t len;

		rec_text_of(l->a, ans, &text, &len);
		rec_push(l, "assistant", text, len, NULL);
	}
	return 0;
}

static int read_list(const struct json *v, const char *field, struct rec_list *l, struct chat *c, struct err *e)
{
	enum rec_style style;

	const struct json *list = json_get(v, field);

	if (!json_is(list, JSON_ARR))
		return err_set(e, LP_DATA, "\"%s\" is not a list of messages", field);
	if (rec_add_messages(l, list, field, &style, e) < 0)
		return -1;
	own(c, field);
	c->shape = style == REC_FROM_VALUE ? "sharegpt" : rec_same(field, "conversations") ? "conversations" : "messages";
	return 0;
}

static int read_known(const struct json *v, struct rec_list *l, struct chat *c, struct err *e)
{
	const struct shape *s;
	const char *answer = NULL;

	if (find_shape(CANONICAL, sizeof(CANONICAL) / sizeof(CANONICAL[0]), v, &s, &answer, e) < 0)
		return -1;
	if (!s && find_shape(LENIENT, sizeof(LENIENT) / sizeof(LENIENT[0]), v, &s, &answer, e) < 0)
		return -1;
	if (!s)
		return no_shape(v, e);
	c->shape = s->name;
	if (rec_same(s->name, "messages") || rec_same(s->name, "conversations"))
		return read_list(v, s->ask, l, c, e);
	if (!strcmp(s->name, "text")) {
		const struct json *t = json_get(v, "text");

		if (want_string(t, "text", e) < 0)
			return -1;
		rec_push(l, "assistant", t->s, t->n, NULL);
		own(c, "text");
		return 0;
	}
	return read_pair(v, s, answer, l, c, e);
}

/* The one shape that --map describes. */
static int read_mapped(const struct json *v, const struct chat_map *m, struct rec_list *l, struct chat *c, struct err *e)
{
	struct shape s = { "prompt", m->prompt, 0, { m->completion } };
	const char *need[] = { m->messages, m->prompt, m->completion };

	for (size_t i = 0; i < 3; i++)
		if (need[i] && !rec_field(v, need[i]))
			return err_set(e, LP_DATA, "no field \"%.100s\", which --map names", need[i]);
	if (m->messages)
		return read_list(v, m->messages, l, c, e);
	c->shape = "prompt";
	return read_pair(v, &s, m->completion, l, c, e);
}

/* The record's own system field: named by --map, or part of the pair shapes. */
static int read_system(const struct json *v, const struct chat_map *m, struct rec_list *l, struct chat *c, struct err *e)
{
	bool pair = rec_same(c->shape, "instruction") || rec_same(c->shape, "prompt") || rec_same(c->shape, "question");
	const char *field = m && m->system_field ? m->system_field : pair ? "system" : NULL;
	const struct json *s = field ? rec_field(v, field) : NULL;

	if (s && want_string(s, field, e) < 0)
		return -1;
	if (s && (pair || s->n))
		own(c, field);
	if (s && s->n)
		rec_add_system(l, s->s, s->n);
	if (m && m->system && strcmp(c->shape, "text"))
		rec_add_system(l, m->system, strlen(m->system));
	return 0;
}

int chat_from_json(const struct json *v, const struct chat_map *m, struct arena *a, struct chat *c, struct err *e)
{
	struct rec_list l = { .a = a };
	int rc;

	memset(c, 0, sizeof(*c));
	if (!json_is(v, JSON_OBJ))
		return err_set(e, LP_DATA, "the record is not a JSON object");
	if (rec_common(v, a, c, e) < 0)
		return -1;
	rc = m && (m->prompt || m->messages) ? read_mapped(v, m, &l, c, e) : read_known(v, &l, c, e);
	if (rc < 0 || read_system(v, m, &l, c, e) < 0)
		return -1;
	c->msgs = l.v;
	c->n_msgs = l.n;
	return 0;
}

const struct chat_msg *chat_last(const struct chat *c, const char *role)
{
	for (size_t i = c->n_msgs; i-- > 0;)
		if (!strcmp(c->msgs[i].role, role))
			return &c->msgs[i];
	return NULL;
}

/* --- --map --- */

static int map_one(struct chat_map *m, char *pair, struct err *e)
{
	char *eq = strchr(pair, '=');
	const char **slot;

	if (!eq || !eq[1])
		return err_set(e, LP_USAGE, "--map: '%.100s' is not NAME=FIELD", pair);
	*eq = '\0';
	slot = !strcmp(pair, "prompt")     ? &m->prompt
	       : !strcmp(pair, "completion") ? &m->completion
	       : !strcmp(pair, "system")     ? &m->system_field
	       : !strcmp(pair, "messages")   ? &m->messages
	                                     : NULL;
	if (!slot)
		return err_set(e, LP_USAGE, "--map: unknown name '%.100s'; use prompt, completion, system or messages", pair);
	*slot = eq + 1;
	return 0;
}

int chat_map_parse(const char *text, struct chat_map *m, struct err *e)
{
	char *copy = xstrdup(text), *p = copy; /* the names point into it for good */

	while (p) {
		char *comma = strchr(p, ',');

		if (comma)
			*comma++ = '\0';
		if (map_one(m, p, e) < 0) {
			free(copy);
			return -1;
		}
		p = comma;
	}
	if (m->messages && (m->prompt || m->completion))
		return err_set(e, LP_USAGE, "--map: messages stands alone, without prompt and completion");
	if (m->completion && !m->prompt)
		return err_set(e, LP_USAGE, "--map: completion=%s needs prompt=FIELD beside it", m->completion);
	return 0;
}

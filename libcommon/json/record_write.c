/* Chat and finding records on their way out. */
#include <string.h>

#include "json/record_int.h"

static bool is_key(const struct json_member *m, const char *key)
{
	return m->key_len == strlen(key) && !memcmp(m->key, key, m->key_len);
}

static void write_message(const struct chat_msg *msg, struct jw *w)
{
	const struct json *o = msg->orig;

	jw_obj(w);
	jw_key(w, "role");
	jw_str(w, msg->role);
	if (msg->content) {
		jw_key(w, "content");
		jw_strn(w, msg->content, msg->content_len);
	} else if (json_get(o, "content") || json_get(o, "value")) {
		jw_key(w, "content");
		jw_null(w);
	}
	for (uint32_t i = 0; o && i < o->n; i++) {
		const struct json_member *m = &o->members[i];

		if (is_key(m, "role") || is_key(m, "content") || (!json_get(o, "role") && (is_key(m, "from") || is_key(m, "value"))))
			continue;
		jw_keyn(w, m->key, m->key_len);
		jw_value(w, &m->val);
	}
	jw_end_obj(w);
}

void chat_write_messages(const struct chat *c, struct jw *w)
{
	jw_arr(w);
	for (size_t i = 0; i < c->n_msgs; i++)
		write_message(&c->msgs[i], w);
	jw_end_arr(w);
}

/* Nothing was made here: every message is its own object with its own text. */
static bool is_unchanged(const struct chat *c)
{
	const struct json *list = json_get(c->orig, "messages");

	if (strcmp(c->shape, "messages") || !list || list->n != c->n_msgs)
		return false;
	for (size_t i = 0; i < c->n_msgs; i++) {
		const struct json *text = json_get(&list->items[i], "content");

		if (c->msgs[i].orig != &list->items[i] || (text && text->type != JSON_NULL && text->s != c->msgs[i].content))
			return false;
	}
	return true;
}

/* Whether the field has become messages, or would stand twice. */
static bool is_taken(const struct chat *c, const struct json_member *m)
{
	for (size_t i = 0; i < sizeof(c->owned) / sizeof(c->owned[0]) && c->owned[i]; i++)
		if (is_key(m, c->owned[i]))
			return true;
	return is_key(m, "messages");
}

void chat_write(const struct chat *c, struct sb *out)
{
	struct jw w = jw_to(out);

	if (is_unchanged(c)) {
		jw_value(&w, c->orig);
		return;
	}
	jw_obj(&w);
	jw_key(&w, "messages");
	chat_write_messages(c, &w);
	for (uint32_t i = 0; i < c->orig->n; i++) {
		const struct json_member *m = &c->orig->members[i];

		if (is_taken(c, m))
			continue;
		jw_keyn(&w, m->key, m->key_len);
		jw_value(&w, &m->val);
	}
	jw_end_obj(&w);
}

void finding_write_role(struct sb *out, uint64_t line, const char *rule, const char *severity, const char *msg, const char *role)
{
	struct jw w = jw_to(out);

	jw_obj(&w);
	jw_key(&w, "line");
	jw_i64(&w, (int64_t)line);
	jw_key(&w, "rule");
	jw_str(&w, rule);
	jw_key(&w, "severity");
	jw_str(&w, severity);
	jw_key(&w, "msg");
	jw_str(&w, msg);
	if (role) {
		jw_key(&w, "role");
		jw_str(&w, role);
	}
	jw_end_obj(&w);
}

void finding_write(struct sb *out, uint64_t line, const char *rule, const char *severity, const char *msg)
{
	finding_write_role(out, line, rule, severity, msg, NULL);
}

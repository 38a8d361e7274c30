/* What record.c, record_pref.c and record_write.c share; not for others. */
#ifndef LP_JSON_RECORD_INT_H
#define LP_JSON_RECORD_INT_H

#include "json/record.h"

/* How the messages of a list name their role and text. */
enum rec_style { REC_ROLE_CONTENT, REC_FROM_VALUE };

/* A growing list of messages in an arena. */
struct rec_list {
	struct arena *a;
	struct chat_msg *v;
	size_t n, cap;
};
struct chat_msg *rec_push(struct rec_list *l, const char *role, const char *content, size_t len, const struct json *orig);

/* A member that is there and not null, else NULL. */
static inline const struct json *rec_field(const struct json *obj, const char *key)
{
	const struct json *v = json_get(obj, key);

	return v && v->type != JSON_NULL ? v : NULL;
}
/* Most strings that are compared differ at once. */
static inline bool rec_same(const char *a, const char *b)
{
	return *a == *b && !strcmp(a, b);
}

/* An object that reads as one message in either style. */
bool rec_is_message(const struct json *v);
bool rec_is_messages(const struct json *v); /* a list of at least one such object */
/* Appends the messages of an array, or one message object. field names it in errors. */
int rec_add_messages(struct rec_list *l, const struct json *v, const char *field, enum rec_style *style, struct err *e) LP_MUST_USE;
/* A string as it is, any other value as its JSON text. */
void rec_text_of(struct arena *a, const struct json *v, const char **s, size_t *len);
/* Instruction, blank line, input (may be NULL or empty). */
void rec_push_user(struct rec_list *l, const struct json *instruction, const struct json *input);
/* {"name","arguments"}, or its JSON text, as {"type":"function","function":it}. v may be NULL. */
int rec_call(struct arena *a, const struct json *v, struct json *call, struct err *e) LP_MUST_USE;
/* An object with room for cap members, and a member more (key is kept, not copied). */
struct json rec_obj(struct arena *a, uint32_t cap);
void rec_obj_add(struct json *obj, const char *key, struct json val);
struct json rec_str(const char *s, size_t n);
/* The parts that are the same in every shape: tools, documents, id. */
int rec_common(const struct json *v, struct arena *a, struct chat *c, struct err *e) LP_MUST_USE;
/* Puts the system text of --system before the messages where none is. */
void rec_add_system(struct rec_list *l, const char *text, size_t len);

#endif

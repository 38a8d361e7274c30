/* The record kinds of docs/formats/lp-record.5: chat, preference, text,
 * completion, finding; and the normalising of every known shape to chat. */
#ifndef LP_JSON_RECORD_H
#define LP_JSON_RECORD_H

#include "base/arena.h"
#include "json/json.h"

struct chat_msg {
	const char *role;         /* "system", "user", "assistant", "tool", ... NUL-terminated */
	const char *content;      /* joined text; NULL when the message has none (null, or tool calls only) */
	size_t content_len;
	const struct json *orig;  /* the message's own object, or NULL when made here; other fields are read from it */
};

struct chat {
	struct chat_msg *msgs;
	size_t n_msgs;
	const struct json *tools;     /* NULL when absent */
	const struct json *documents; /* likewise */
	const struct json *id;        /* likewise */
	const struct json *orig;      /* the whole record */
	const char *shape;            /* "messages", "conversations", "sharegpt", "instruction", "prompt", "question", "text" */
};

struct pref {
	struct chat prompt;           /* messages before the answers */
	struct chat chosen, rejected; /* answers only (usually one message each) */
	bool has_label, label;        /* one answer with a boolean: only chosen is filled */
};

/* --map prompt=FIELD,completion=FIELD[,system=FIELD]; --system TEXT. */
struct chat_map {
	const char *prompt, *completion, *system_field; /* NULL: the known names */
	const char *system;  /* a system message to add where a record has none; NULL: never */
};
int chat_map_parse(const char *text, struct chat_map *m, struct err *e) LP_MUST_USE;

/* Strict: LP_DATA with the reason when the value is not a chat record or fits two
 * shapes. Everything in *c lives in a or points into v. */
int chat_from_json(const struct json *v, const struct chat_map *m, struct arena *a, struct chat *c, struct err *e) LP_MUST_USE;
bool record_is_preference(const struct json *v);
int pref_from_json(const struct json *v, const struct chat_map *m, struct arena *a, struct pref *p, struct err *e) LP_MUST_USE;

/* Writes one chat record: {"messages":[...],...}; fields of the input that are
 * not part of its shape pass through unchanged; a record that was "messages"
 * with nothing to change is written as it was. Message fields other than role
 * and content pass through from msg.orig. */
void chat_write(const struct chat *c, struct sb *out);
/* Only the "messages" array value. */
void chat_write_messages(const struct chat *c, struct jw *w);

/* The text the last user turn asks, and the last assistant turn, or NULL. */
const struct chat_msg *chat_last(const struct chat *c, const char *role);

/* Finding records. severity: "info", "warning", "error". */
void finding_write(struct sb *out, uint64_t line, const char *rule, const char *severity, const char *msg);

#endif

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
	const char *owned[4];         /* the record's fields that became messages; NULL behind the last */
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
	const char *messages; /* --map messages=FIELD: the one field that holds the turns */
};
/* Fields that *m does not get from text keep their value; the names live as
 * long as the process. */
int chat_map_parse(const char *text, struct chat_map *m, struct err *e) LP_MUST_USE;

/* Strict: LP_DATA with the reason when the value is not a chat record or fits two
 * shapes. Everything in *c lives in a or points into v.
 *
 * Shapes (a field that is null counts as absent):
 *   messages       messages: [{role, content}]
 *   conversations  conversations: [{role, content}]
 *   sharegpt       conversations or messages: [{from, value}]; human is user, gpt assistant,
 *                  function_call assistant (its JSON text is the content), observation tool
 *   instruction    instruction, input?, output or response, system?
 *   prompt         prompt, completion, system?; either may be messages
 *   question       question, answer, system?
 *   text           text: one assistant message that holds it
 * Where none of these is complete, prompt, question or instruction beside one of completion, response,
 * answer or output will do. An answer that is no string is kept as its JSON text. Parts of type
 * reasoning and tool_call become the message's reasoning_content and tool_calls (orig is then made here).
 * tools given as JSON text is parsed; the text "[]" or "" is no tools. */
int chat_from_json(const struct json *v, const struct chat_map *m, struct arena *a, struct chat *c, struct err *e) LP_MUST_USE;
/* For rendering: assistant messages whose text is nothing but a call (sharegpt's function_call) get it as
 * tool_calls, and an empty content. Texts that are no {"name","arguments"}, or list of these, stay. */
void chat_lift_calls(struct chat *c, struct arena *a);
bool record_is_preference(const struct json *v);
int pref_from_json(const struct json *v, const struct chat_map *m, struct arena *a, struct pref *p, struct err *e) LP_MUST_USE;

/* Writes one chat record, without a newline: {"messages":[...],...}; fields of the input that are
 * not part of its shape pass through unchanged; a record that was "messages"
 * with nothing to change is written as it was. Message fields other than role
 * and content pass through from msg.orig. */
void chat_write(const struct chat *c, struct sb *out);
/* Only the "messages" array value. */
void chat_write_messages(const struct chat *c, struct jw *w);

/* The text the last user turn asks, and the last assistant turn, or NULL. */
const struct chat_msg *chat_last(const struct chat *c, const char *role);

/* Finding records, without a newline. severity: "info", "warning", "error". */
void finding_write(struct sb *out, uint64_t line, const char *rule, const char *severity, const char *msg);
/* The same with the "role" of the message concerned (NULL: none). */
void finding_write_role(struct sb *out, uint64_t line, const char *rule, const char *severity, const char *msg, const char *role);

#endif

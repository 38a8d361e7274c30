/* What the files of chat_* share. */
#ifndef LP_TEXT_CHAT_IMPL_H
#define LP_TEXT_CHAT_IMPL_H

#include <string.h>

#include "text/tmpl.h"

/* A constant text of a template, found by rendering probes; s NULL: not found. */
struct piece {
	char *s;
	size_t n;
};
struct chat_tmpl {
	char *src;
	struct tmpl *t;
	struct tmpl *tools;       /* the template named "tool_use", for records with tools; NULL */
	struct arena arena;
	struct json special;      /* object: bos_token, eos_token, ... */
	const char *tools_src;    /* its text */
	char hash[32];            /* of the texts of the templates and of special */
	bool has_mark;            /* special holds what stands for a hole (tmpl_hole.h) */
	bool says_bos, adds_bos;  /* add_bos_token is there; the tokeniser puts a BOS before every text, unless told not to */
	struct piece gen;         /* what add_generation_prompt adds */
	struct piece lead;        /* what stands between it and an answer */
	struct piece gap;         /* all between a user's content and an answer's, where that is made alike for every role */
	struct piece end_last, end_mid; /* behind an answer at the end, and before a user turn; without white space after it */
	struct piece end_call;    /* the token that ends a turn of calls, where the template writes one */
	bool opens_bare;          /* nothing introduces an answer: all that loops write for its message is its own */
	bool ends_bare;           /* nothing ends a turn before a user's but white space */
	struct piece tail;        /* what the template writes at the end of every text, unasked */
	bool tail_unknown;        /* there may be such a thing, but where it begins is not known */
};
struct chat_scratch {
	struct tmpl_render r, probe;
	struct arena arena;
	struct tmpl_watch *watch;
	size_t cap_watch;
	struct chat_shapes *shapes; /* chat_shape.c; NULL: nothing is remembered */
};

/* Renders the first n messages into out->text. msgs: JSON objects of all. */
int chat_render_prefix(const struct chat_tmpl *t, const struct chat *c, const struct json *msgs, size_t n, bool gen_prompt,
                       const struct chat_render_opts *o, struct arena *a, struct tmpl_render *out, struct err *e) LP_MUST_USE;
/* The same, from what s remembers of renderings of the same shape (chat_shape.c). */
int chat_render(const struct chat_tmpl *t, const struct chat *c, const struct json *msgs, size_t n, bool gen_prompt,
                const struct chat_render_opts *o, struct chat_scratch *s, struct tmpl_render *out, struct err *e) LP_MUST_USE;
struct chat_shapes *chat_shapes_new(void);
void chat_shapes_free(struct chat_shapes *x);
/* All that the template is given, and which of its templates a record is for. */
struct json chat_variables(const struct chat_tmpl *t, const struct chat *c, const struct json *msgs, size_t n, bool gen_prompt,
                           const struct chat_render_opts *o, struct arena *a);
const struct tmpl *chat_engine(const struct chat_tmpl *t, const struct chat *c);
/* The message as the template is to see it; content NULL: its own. */
struct json chat_message(const struct chat_msg *m, const char *content, size_t len, struct arena *a);
/* Learns gen, lead and ends by rendering small conversations; a template that refuses them has none. */
void chat_learn(struct chat_tmpl *t);
static inline bool chat_is_space(char c)
{
	return c == ' ' || (c >= 9 && c <= 13);
}
size_t chat_without_space(const char *s, size_t n); /* an end of turn without the white space behind it, unless that is all */
size_t chat_whole_tokens(const char *s, size_t n);  /* back to the end of a token's text */
size_t chat_common(const char *a, size_t n, const char *b, size_t m); /* bytes that both begin with */
static inline bool chat_is_answer(const struct chat_msg *m)
{
	return *m->role == 'a' && !strcmp(m->role, "assistant");
}
/* Whether spans of this message are looked for, and whether they count, by a span choice (NULL: "all"). */
bool chat_is_sought(const struct chat_msg *m, const char *choice);
bool chat_is_learned(const struct chat *c, size_t i, const char *choice);
/* Where a message is looked for. */
struct finder {
	const struct chat_tmpl *t;
	const struct chat *c;
	const struct json *msgs;
	const struct chat_render_opts *o;
	struct chat_scratch *s;
	const char *text;
	size_t len;
	struct tmpl_turn *turn; /* of the messages, once they are asked for */
};
static inline bool chat_stands_at(const struct finder *f, size_t at, const struct piece *p)
{
	return p->s && p->n && p->n <= f->len - at && !memcmp(f->text + at, p->s, p->n);
}
int chat_find_message(struct finder *f, size_t i, struct tmpl_span *out, struct err *e) LP_MUST_USE;  /* of the assistant, by proof (chat_find.c) */
int chat_find_other(const struct finder *f, size_t i, struct tmpl_span *out, struct err *e) LP_MUST_USE; /* of another role */
/* Spans of the rendering in s->r, made with the contents of messages watched. */
int chat_find_spans(const struct chat_tmpl *t, const struct chat *c, const struct json *msgs, const struct chat_render_opts *o,
                    struct chat_scratch *s, struct tmpl_span **spans, size_t *n_spans, struct err *e) LP_MUST_USE;

#endif

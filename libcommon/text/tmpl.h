/* Chat templates: the Jinja that transformers runs, in an immutable sandbox
 * (bounded steps, and with them time; recursion, memory and output). Output is byte-equal to
 * transformers' apply_chat_template. */
#ifndef LP_TEXT_TMPL_H
#define LP_TEXT_TMPL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/arena.h"
#include "base/err.h"
#include "base/sb.h"
#include "json/json.h"
#include "json/record.h"

struct tmpl;
struct tmpl *tmpl_compile(const char *src, size_t len, const char *name, struct err *e) LP_MUST_USE;
void tmpl_free(struct tmpl *t);

struct tmpl_span {
	size_t begin, end; /* bytes of the rendered text */
	size_t msg;        /* index of the message it belongs to; SIZE_MAX when unknown */
	bool nested;       /* of a generation block inside a macro or capture: begin is where the outermost one began, as in transformers */
};
/* Why a rendering failed, as the reference names it. */
enum tmpl_why {
	TMPL_OK,
	TMPL_RAISED,    /* raise_exception: the message is the template's own */
	TMPL_UNDEFINED, /* UndefinedError */
	TMPL_TYPE,      /* TypeError */
	TMPL_VALUE,     /* ValueError, ZeroDivisionError and the like */
	TMPL_SECURITY,  /* SecurityError: refused by the sandbox */
	TMPL_RUNTIME,   /* unknown filter and other errors of the template */
	TMPL_LIMIT      /* steps, recursion, output or memory */
};
/* A string of the variables whose way into the text is followed. */
struct tmpl_watch {
	const char *s; /* a string of the JSON, by address */
	size_t n;
	size_t begin, end; /* out: from its first to behind its last byte in the text; begin SIZE_MAX: not seen */
};
/* What loops over the messages wrote for one of them. */
struct tmpl_turn {
	const struct json *msg; /* in: an item of the variables' list, by address */
	size_t begin, end;      /* out: bytes of the text */
	size_t n;               /* out: how many turns of loops wrote something for it; begin and end are the last one's */
};
struct tmpl_render {
	struct sb text;
	struct tmpl_span *gen; /* {% generation %} blocks, in order */
	size_t n_gen, cap_gen;
	enum tmpl_why why;     /* after a failure */
	struct tmpl_watch *watch; /* in: set by the caller, NULL none */
	size_t n_watch;
	struct tmpl_turn *turn;    /* in: likewise */
	size_t n_turn;
	struct arena scratch;  /* memory of the last rendering, used again by the next */
};
void tmpl_render_release(struct tmpl_render *r);

struct tmpl_limits {
	uint64_t max_steps;  /* 0: the default, 50 million */
	size_t max_output;   /* 0: the default, 256 MiB */
	int max_depth;       /* 0: the default, 200 */
};

/* vars: an object with every variable the template sees (messages, tools, bos_token,
 * add_generation_prompt, ...); now: Unix time for strftime_now. Bad input that the
 * template itself refuses (raise_exception) is LP_DATA with its message. */
int tmpl_render(const struct tmpl *t, const struct json *vars, int64_t now, const struct tmpl_limits *l,
                struct tmpl_render *out, struct err *e) LP_MUST_USE;

/* --- a model's template: text, special tokens, spans --- */
struct chat_tmpl; /* compiled template + bos/eos and other token strings of tokenizer_config.json */
/* template_text NULL: chat_template.jinja, else tokenizer_config.json's (name picks
 * one of a list, NULL "default"). Either argument may be NULL when not there. */
struct chat_tmpl *chat_tmpl_new(const char *template_text, const char *tokenizer_config_json, const char *name, struct err *e) LP_MUST_USE;
struct chat_tmpl *chat_tmpl_load_dir(const char *model_dir, const char *template_file, const char *name, struct err *e) LP_MUST_USE;
void chat_tmpl_free(struct chat_tmpl *t);
const char *chat_tmpl_source(const struct chat_tmpl *t); /* the template's text */

struct chat_scratch; /* memory that renderings can share, and what is remembered of their shapes; one for each thread */
struct chat_scratch *chat_scratch_new(void);
void chat_scratch_free(struct chat_scratch *s);

struct chat_render_opts {
	bool add_generation_prompt;
	bool continue_final;       /* leave the last message open */
	int64_t now;               /* for strftime_now and date_string */
	const char *date_string;   /* pinned "date_string" variable, or NULL */
	const char *span_choice;   /* "all" (default), "last", "none", "train" (the message's own flag), "role:NAME,..." (what these roles write) */
	const struct json *extra;  /* more variables (object), or NULL */
	struct chat_scratch *scratch; /* NULL: made and freed by each call */
};
#define CHAT_DEFAULT_DATE "2024-07-26" /* what Llama's own templates fall back to */
/* The day that templates see as today, YYYY-MM-DD: sets o->now; when pin is set, also the
 * date_string variable (into the caller's buffer), which otherwise the template chooses. LP_USAGE. */
int chat_set_date(struct chat_render_opts *o, const char *date, bool pin, char date_string[32], struct err *e) LP_MUST_USE;

/* Renders; spans (bytes the loss is taken on: what assistant messages write,
 * end-of-turn token included) go to *spans (free()). A span that cannot
 * be found exactly is LP_DATA. spans may be NULL (prompts). */
int chat_tmpl_render(const struct chat_tmpl *t, const struct chat *c, const struct chat_render_opts *o,
                     struct sb *text, struct tmpl_span **spans, size_t *n_spans, struct err *e) LP_MUST_USE;
/* A preference record: the prompt with its generation prompt, and what each answer adds to it, with
 * spans relative to the answer. LP_DATA when an answer's rendering does not begin with the prompt's. */
struct pref_text {
	struct sb prompt, answer[2];       /* chosen, rejected */
	struct tmpl_span *spans[2];
	size_t n_spans[2];
};
int chat_tmpl_render_pref(const struct chat_tmpl *t, const struct pref *p, const struct chat_render_opts *o, struct pref_text *out, struct err *e) LP_MUST_USE;
void pref_text_release(struct pref_text *p);

#endif

/* As much of Go's text/template as a Modelfile of ours uses, to prove that what
 * was derived renders as the model's own template does. */
#include <string.h>

#include "text/modelfile.h"

struct go {
	const char *p, *end;
	const struct chat *c;
	struct sb *out;
	struct err *e;
	int depth;
};
struct action { /* what stands between the braces */
	const char *s;
	size_t n;
};

static bool is(struct action a, const char *text)
{
	return a.n == strlen(text) && !memcmp(a.s, text, a.n);
}

/* Writes text up to the next action, which it takes. false: no action follows. */
static bool next_action(struct go *g, bool run, struct action *a)
{
	const char *open = memmem(g->p, (size_t)(g->end - g->p), "{{", 2), *close;

	if (run)
		sb_add(g->out, g->p, (size_t)((open ? open : g->end) - g->p));
	if (!open) {
		g->p = g->end;
		return false;
	}
	open += 2;
	close = open;
	for (bool quoted = false; close < g->end && (quoted || strncmp(close, "}}", 2)); close++)
		quoted ^= *close == '"';
	g->p = close + 2 <= g->end ? close + 2 : g->end;
	while (open < close && *open == ' ')
		open++;
	while (close > open && close[-1] == ' ')
		close--;
	*a = (struct action){ open, (size_t)(close - open) };
	return true;
}

static const struct chat_msg *system_of(const struct go *g)
{
	for (size_t i = 0; i < g->c->n_msgs; i++)
		if (!strcmp(g->c->msgs[i].role, "system"))
			return &g->c->msgs[i];
	return NULL;
}

/* ".System" or eq .Role "x" */
static int condition(struct go *g, struct action a, const struct chat_msg *m, bool *holds)
{
	const struct chat_msg *system = system_of(g);
	size_t n = m ? strlen(m->role) : 0;

	if (is(a, ".System") && !m) {
		*holds = system && system->content_len;
		return 0;
	}
	if (m && a.n > 11 && !memcmp(a.s, "eq .Role \"", 10) && a.s[a.n - 1] == '"') {
		*holds = a.n - 11 == n && !memcmp(a.s + 10, m->role, n);
		return 0;
	}
	return err_set(g->e, LP_DATA, "condition '%.*s' of a Go template is not known here", (int)a.n, a.s);
}

static int value(struct go *g, struct action a, const struct chat_msg *m)
{
	const struct chat_msg *system = system_of(g);

	if (a.n >= 2 && a.s[0] == '"' && a.s[a.n - 1] == '"')
		sb_add(g->out, a.s + 1, a.n - 2);
	else if (m && is(a, ".Content"))
		sb_add(g->out, m->content, m->content_len);
	else if (m && is(a, ".Role"))
		sb_adds(g->out, m->role);
	else if (!m && is(a, ".System"))
		sb_add(g->out, system ? system->content : "", system ? system->content_len : 0);
	else
		return err_set(g->e, LP_DATA, "action '%.*s' of a Go template is not known here", (int)a.n, a.s);
	return 0;
}

static int block(struct go *g, bool run, const struct chat_msg *m, struct action *last);

/* Behind "if": up to its end. */
static int if_block(struct go *g, bool run, const struct chat_msg *m, struct action cond)
{
	bool done = false, holds = false;
	struct action a;

	if (condition(g, cond, m, &holds))
		return -1;
	for (;;) {
		if (block(g, run && holds && !done, m, &a))
			return -1;
		done |= holds;
		if (is(a, "end"))
			return 0;
		holds = true;
		if (a.n > 8 && !memcmp(a.s, "else if ", 8) && condition(g, (struct action){ a.s + 8, a.n - 8 }, m, &holds))
			return -1;
	}
}

static int range_block(struct go *g, bool run)
{
	const char *start = g->p;
	struct action a;

	for (size_t i = 0; i < g->c->n_msgs; i++) {
		g->p = start;
		if (block(g, run, &g->c->msgs[i], &a))
			return -1;
		if (!is(a, "end"))
			return err_set(g->e, LP_DATA, "range of a Go template does not end");
	}
	return 0;
}

/* Up to an end or else, which *last then is; the whole text when last is NULL. */
static int block(struct go *g, bool run, const struct chat_msg *m, struct action *last)
{
	struct action a;
	int rc = 0;

	if (++g->depth > 16)
		return err_set(g->e, LP_DATA, "a Go template is nested too deeply");
	while (!rc) {
		if (!next_action(g, run, &a)) {
			rc = last ? err_set(g->e, LP_DATA, "a block of a Go template does not end") : 0;
			break;
		}
		bool ends = is(a, "end") || (a.n >= 4 && !memcmp(a.s, "else", 4));
		if (ends && last) {
			*last = a;
			break;
		}
		if (a.n > 3 && !memcmp(a.s, "if ", 3))
			rc = if_block(g, run, m, (struct action){ a.s + 3, a.n - 3 });
		else if (!m && is(a, "range .Messages"))
			rc = range_block(g, run);
		else if (ends || run)
			rc = value(g, a, m);
	}
	g->depth--;
	return rc;
}

int modelfile_render(const char *src, size_t len, const struct chat *c, struct sb *out, struct err *e)
{
	struct go g = { .p = src, .end = src + len, .c = c, .out = out, .e = e };

	return block(&g, true, NULL, NULL);
}

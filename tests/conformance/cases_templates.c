#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/in.h"
#include "base/sb.h"
#include "json/jsonl.h"
#include "tests/conformance/cases.h"
#include "text/tmpl.h"

struct run {
	const char *dir;
	char name[256]; /* of the template that is loaded */
	struct tmpl *t;
	char *src;
	size_t n_src;
	struct tmpl_render out;
	struct err compile_err;
	struct cases_result *n;
	bool verbose;
};

static int use(struct run *r, const char *name, struct err *e)
{
	char path[4096];
	size_t n;

	if (!strcmp(r->name, name))
		return 0;
	tmpl_free(r->t);
	r->t = NULL;
	free(r->src);
	r->src = NULL;
	r->name[0] = 0;
	snprintf(path, sizeof(path), "%s/%s", r->dir, name);
	if (access(path, F_OK) != 0)
		snprintf(path, sizeof(path), "%s/templates/%s", r->dir, name);
	char *text = in_slurp(path, 64u << 20, &n, e);
	if (!text)
		return -1;
	snprintf(r->name, sizeof(r->name), "%s", name);
	r->compile_err = (struct err)ERR_INIT;
	r->t = tmpl_compile(text, n, name, &r->compile_err);
	r->src = text;
	r->n_src = n;
	return 0;
}

/* ISO date and time, UTC; a space between them will do. */
static int64_t parse_now(const char *s)
{
	struct tm tm = { 0 };
	char sep;

	if (!s || sscanf(s, "%d-%d-%d%c%d:%d:%d", &tm.tm_year, &tm.tm_mon, &tm.tm_mday, &sep, &tm.tm_hour, &tm.tm_min, &tm.tm_sec) < 3)
		return 0;
	tm.tm_year -= 1900;
	tm.tm_mon--;
	return (int64_t)timegm(&tm);
}

/* Is our kind of error the reference's class? */
static bool same_class(const char *type, const struct tmpl_render *o)
{
	static const struct {
		const char *type;
		enum tmpl_why why;
	} map[] = { { "TemplateError", TMPL_RAISED }, { "UndefinedError", TMPL_UNDEFINED }, { "TypeError", TMPL_TYPE },
		{ "SecurityError", TMPL_SECURITY }, { "TemplateRuntimeError", TMPL_RUNTIME }, { "ValueError", TMPL_VALUE },
		{ "ZeroDivisionError", TMPL_VALUE }, { "KeyError", TMPL_VALUE }, { "OverflowError", TMPL_LIMIT },
		{ "FilterArgumentError", TMPL_RUNTIME }, { "RecursionError", TMPL_LIMIT } };

	for (size_t i = 0; i < sizeof(map) / sizeof(map[0]); i++)
		if (!strcmp(map[i].type, type))
			return map[i].why == o->why || (map[i].why == TMPL_VALUE && o->why == TMPL_LIMIT);
	return true;
}

static size_t code_points(const char *s, size_t n)
{
	size_t k = 0;

	for (size_t i = 0; i < n; i++)
		k += ((unsigned char)s[i] & 0xc0) != 0x80;
	return k;
}

/* The reference counts code points up to where the outermost output began. */
static bool same_spans(const struct json *want, const struct tmpl_render *o)
{
	if (!json_is(want, JSON_ARR) || want->n != o->n_gen)
		return false;
	for (size_t i = 0; i < o->n_gen; i++) {
		const struct json *w = &want->items[i];
		int64_t b, e;

		if (!json_is(w, JSON_ARR) || w->n != 2 || !json_as_i64(&w->items[0], &b) || !json_as_i64(&w->items[1], &e))
			return false;
		if ((size_t)b != code_points(o->text.s, o->gen[i].begin))
			return false;
		/* of a nested one the end is begin plus a length in bytes, not a place in the text */
		if (!o->gen[i].nested && (size_t)e != code_points(o->text.s, o->gen[i].end))
			return false;
	}
	return true;
}

static void complain(struct run *r, const char *kase, const char *what, const struct sb *got, const struct json *want)
{
	size_t i = 0, n = got ? got->len : 0;

	r->n->failed++;
	if (!r->verbose && r->n->failed > CASES_SHOWN)
		return;
	printf("%s %s: %s", r->name, kase, what);
	if (want && got) {
		const char *s = sb_str(got);

		while (i < n && i < want->n && s[i] == want->s[i])
			i++;
		size_t from = i > 30 ? i - 30 : 0;
		printf(" at byte %zu of %zu (%u)\n  got  %.*s\n  want %.*s", i, n, want->n, (int)(n - from > 90 ? 90 : n - from), s + from,
		       (int)(want->n - from > 90 ? 90 : want->n - from), want->s + from);
	}
	printf("\n");
}

static void render(struct run *r, const struct json *v, const char *kase, const char *now)
{
	const struct json *output = json_get(v, "output"), *error = json_get(v, "error"), *gen = json_get(v, "generation");
	const char *type = "", *msg = "";
	struct err e = ERR_INIT;
	int rc = tmpl_render(r->t, json_get(v, "input"), parse_now(now), NULL, &r->out, &e);

	if (error) {
		if (!json_get_str(error, "type", "", &type) || !json_get_str(error, "message", "", &msg))
			complain(r, kase, "its error has no type and message", NULL, NULL);
		else if (!rc)
			complain(r, kase, "renders, and must not", NULL, NULL);
		else if (!same_class(type, &r->out) || (r->out.why == TMPL_RAISED && !strstr(e.msg, msg)))
			complain(r, kase, e.msg, NULL, NULL);
		else
			r->n->passed++;
	} else if (rc) {
		complain(r, kase, e.msg, NULL, NULL);
	} else if (r->out.text.len != output->n || memcmp(sb_str(&r->out.text), output->s, output->n)) {
		complain(r, kase, "differs", &r->out.text, output);
	} else if (gen && gen->type != JSON_NULL && !same_spans(gen, &r->out)) {
		complain(r, kase, "generation spans differ", NULL, NULL);
	} else if (!case_recipes(r->t, r->src, r->n_src, json_get(v, "input"), parse_now(now), r->n)) {
		complain(r, kase, "repeated for other texts by its recipe, it is not what the engine gives", NULL, NULL);
	} else {
		r->n->passed++;
	}
}

static int one_case(struct run *r, const struct json *v, struct err *e)
{
	const struct json *input = json_get(v, "input"), *error = json_get(v, "error");
	const char *name, *now = NULL, *kase;

	if (!json_get_str(v, "template", NULL, &name) || !name || !json_get_str(v, "case", "", &kase))
		return err_set(e, LP_DATA, "no template case: it has no \"template\"");
	if (!error && !json_is(json_get(v, "output"), JSON_STR))
		return err_set(e, LP_DATA, "no template case: neither \"output\" nor \"error\"");
	if (use(r, name, e))
		return -1;
	if (!r->t || !strcmp(kase, "__compile__")) {
		if (r->t || !error)
			complain(r, kase, r->t ? "compiles, and must not" : r->compile_err.msg, NULL, NULL);
		else
			r->n->passed++;
		return 0;
	}
	if (!json_is(input, JSON_OBJ) || !json_get_str(input, "now", NULL, &now))
		return err_set(e, LP_DATA, "no template case: it has no \"input\"");
	render(r, v, kase, now);
	return 0;
}

int cases_templates(const char *path, const char *dir, bool verbose, struct cases_result *n, struct err *e)
{
	struct run r = { .dir = dir, .n = n, .verbose = verbose };
	struct jsonl_rec rec;
	struct in *in = in_open(path, e);
	struct jsonl *j = in ? jsonl_open_take(in, "jsonl", e) : NULL;
	int rc = j ? 1 : -1;

	*n = (struct cases_result){ 0 };
	while (rc == 1 && (rc = jsonl_next(j, &rec, e)) == 1)
		if (one_case(&r, &rec.v, e)) {
			err_where(e, path, rec.line);
			rc = -1;
		}
	jsonl_close(j);
	tmpl_free(r.t);
	free(r.src);
	tmpl_render_release(&r.out);
	return rc;
}

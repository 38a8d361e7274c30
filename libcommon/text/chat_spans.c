/* Which bytes of a rendering the assistant wrote: {% generation %} blocks say it
 * themselves; without them each message is looked for (chat_find.c). */
#include <stdlib.h>
#include <string.h>

#include "base/xalloc.h"
#include "text/chat_impl.h"

/* --- whose messages count --- */
static bool is_trained(const struct chat_msg *m)
{
	const struct json *flag = m->orig ? json_get(m->orig, "train") : NULL;

	return !json_is(flag, JSON_BOOL) || flag->b;
}

/* Is name one of "a,b,c"? */
static bool is_listed(const char *name, const char *list)
{
	for (size_t n = strlen(name), k; *list; list += k + (list[k] == ',')) {
		k = strcspn(list, ",");
		if (k == n && !memcmp(list, name, n))
			return true;
	}
	return false;
}

bool chat_is_sought(const struct chat_msg *m, const char *choice)
{
	if (choice && *choice == 'r' && !strncmp(choice, "role:", 5))
		return is_listed(m->role, choice + 5);
	return chat_is_answer(m);
}

bool chat_is_learned(const struct chat *c, size_t i, const char *choice)
{
	if (!chat_is_sought(&c->msgs[i], choice) || (choice && !strcmp(choice, "none")))
		return false;
	if (choice && !strcmp(choice, "train"))
		return is_trained(&c->msgs[i]);
	for (size_t k = i + 1; choice && !strcmp(choice, "last") && k < c->n_msgs; k++)
		if (chat_is_sought(&c->msgs[k], choice))
			return false;
	return true;
}

/* --- generation blocks --- */
/* Inside macros and set blocks the place of a block in the text is not known:
 * such templates are searched like those without tags. */
static bool tags_are_placed(const struct tmpl_render *r)
{
	for (size_t i = 0; i < r->n_gen; i++)
		if (r->gen[i].nested)
			return false;
	return true;
}

/* As many spans as answers: each is its answer's when it holds what that says. */
static void name_messages(const struct finder *f, struct tmpl_span *out)
{
	size_t k = 0;

	for (size_t i = 0; i < f->c->n_msgs; i++) {
		const struct tmpl_watch *w = &f->s->watch[i];

		if (!chat_is_answer(&f->c->msgs[i]))
			continue;
		if (w->begin == SIZE_MAX || w->begin < out[k].begin || w->end > out[k].end) {
			while (k-- > 0)
				out[k].msg = SIZE_MAX;
			return;
		}
		out[k++].msg = i;
	}
}

static int from_tags(const struct finder *f, struct tmpl_span *out, size_t *n, struct err *e)
{
	const struct tmpl_render *r = &f->s->r;
	size_t n_asst = 0, at = 0;

	for (size_t i = 0; i < f->c->n_msgs; i++)
		n_asst += chat_is_answer(&f->c->msgs[i]);
	*n = 0;
	for (size_t k = 0; k < r->n_gen; k++) {
		struct tmpl_span g = r->gen[k];

		if (g.end == g.begin)
			continue;
		/* the end of turn belongs to the answer, also where the template's author left it outside; not where it is a block of its own */
		size_t next = k + 1 < r->n_gen ? r->gen[k + 1].begin : f->len;
		if (f->t->end_mid.n <= next - g.end && f->t->end_mid.n && !chat_is_space(f->t->end_mid.s[0]) && chat_stands_at(f, g.end, &f->t->end_mid) &&
		    !(g.end - g.begin >= f->t->end_mid.n && !memcmp(f->text + g.end - f->t->end_mid.n, f->t->end_mid.s, f->t->end_mid.n)))
			g.end += f->t->end_mid.n;
		g.msg = SIZE_MAX;
		if (r->n_gen == n_asst) {
			while (at < f->c->n_msgs && !chat_is_answer(&f->c->msgs[at]))
				at++;
			g.msg = at++;
		}
		/* blocks that follow one another are of one message, unless each message has its own */
		if (r->n_gen != n_asst && *n && out[*n - 1].end == g.begin)
			out[*n - 1].end = g.end;
		else
			out[(*n)++] = g;
	}
	if (r->n_gen != n_asst && *n == n_asst)
		name_messages(f, out);
	if (n_asst && !*n)
		return err_set(e, LP_DATA, "the template's {%% generation %%} blocks wrote nothing for this record's assistant messages");
	return 0;
}

/* --- which of them count --- */
static int choose(const struct finder *f, const char *choice, struct tmpl_span *v, size_t *n, struct err *e)
{
	size_t last = SIZE_MAX, k = 0;
	bool train = !strcmp(choice, "train");

	if (!strcmp(choice, "all") || !strncmp(choice, "role:", 5))
		return 0;
	for (size_t i = 0; i < f->c->n_msgs; i++)
		if (chat_is_answer(&f->c->msgs[i]))
			last = i;
	for (size_t i = 0; i < *n; i++) {
		if (v[i].msg == SIZE_MAX)
			return err_set(e, LP_DATA, "the template's {%% generation %%} blocks do not match the assistant messages one to one: only --loss all is exact");
		if (train ? is_trained(&f->c->msgs[v[i].msg]) : v[i].msg == last)
			v[k++] = v[i];
	}
	*n = k;
	return 0;
}

static int by_place(const void *a, const void *b)
{
	const struct tmpl_span *x = a, *y = b;

	return (x->begin > y->begin) - (x->begin < y->begin);
}

int chat_find_spans(const struct chat_tmpl *t, const struct chat *c, const struct json *msgs, const struct chat_render_opts *o,
                    struct chat_scratch *s, struct tmpl_span **spans, size_t *n_spans, struct err *e)
{
	struct finder f = { t, c, msgs, o, s, sb_str(&s->r.text), s->r.text.len, NULL };
	const char *choice = o->span_choice ? o->span_choice : "all";
	size_t n = 0;

	*n_spans = 0;
	*spans = xmalloc((c->n_msgs + s->r.n_gen + 1) * sizeof(**spans));
	if (!strcmp(choice, "none"))
		return 0;
	bool tags = s->r.n_gen && tags_are_placed(&s->r), assistant = strncmp(choice, "role:", 5) != 0 || is_listed("assistant", choice + 5);
	if (tags && assistant && from_tags(&f, *spans, &n, e))
		return -1;
	for (size_t i = 0; i < c->n_msgs; i++) {
		bool answer = chat_is_answer(&c->msgs[i]);

		if (!chat_is_sought(&c->msgs[i], choice) || (answer && tags))
			continue;
		if (answer ? chat_find_message(&f, i, &(*spans)[n], e) : chat_find_other(&f, i, &(*spans)[n], e))
			return -1;
		n++;
	}
	if (tags && n > 1)
		qsort(*spans, n, sizeof(**spans), by_place);
	for (size_t i = 1; i < n; i++)
		if ((*spans)[i].begin < (*spans)[i - 1].end)
			return err_set(e, LP_DATA, "the messages that are learned overlap in the rendering");
	if (choose(&f, choice, *spans, &n, e))
		return -1;
	*n_spans = n;
	return 0;
}

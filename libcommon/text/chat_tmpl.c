/* A model's template: found in its directory, given the variables that
 * transformers gives it, rendered for chat and preference records. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/hash.h"
#include "base/in.h"
#include "base/xalloc.h"
#include "text/chat_impl.h"
#include "text/tmpl_hole.h"

#define MAX_FILE (64u << 20)
#define CONTINUE_TAG "CONTINUE_FINAL_MESSAGE_TAG "

static struct json str_json(const char *s, size_t n)
{
	return (struct json){ .type = JSON_STR, .n = (uint32_t)n, .s = s };
}

static void add_member(struct json *obj, const char *key, struct json val)
{
	obj->members[obj->n++] = (struct json_member){ key, (uint32_t)strlen(key), val };
}

/* --- loading --- */
/* A token is its text, or an AddedToken object with "content". */
static const struct json *token_text(const struct json *v)
{
	const struct json *text = json_is(v, JSON_OBJ) ? json_get(v, "content") : v;

	return json_is(text, JSON_STR) ? text : NULL;
}

static void read_special(struct chat_tmpl *t, const struct json *config)
{
	static const char *const names[] = { "bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token" };
	const struct json *more = json_get(config, "additional_special_tokens"), *extra = json_get(config, "extra_special_tokens");
	uint32_t n_extra = json_is(extra, JSON_OBJ) ? extra->n : 0;

	const struct json *adds = json_get(config, "add_bos_token");
	t->says_bos = json_is(adds, JSON_BOOL);
	t->adds_bos = json_is(adds, JSON_BOOL) && adds->b;
	t->special = (struct json){ .type = JSON_OBJ };
	t->special.members = arena_calloc(&t->arena, 8 + n_extra, sizeof(*t->special.members));
	for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
		const struct json *text = token_text(json_get(config, names[i]));

		if (text)
			add_member(&t->special, names[i], *text);
	}
	for (uint32_t i = 0; i < n_extra; i++) {
		const struct json *text = token_text(&extra->members[i].val);

		if (text)
			add_member(&t->special, extra->members[i].key, *text);
	}
	if (json_is(more, JSON_ARR) && more->n) {
		struct json list = { .type = JSON_ARR };

		list.items = arena_calloc(&t->arena, more->n, sizeof(*list.items));
		for (uint32_t i = 0; i < more->n; i++)
			if (token_text(&more->items[i]))
				list.items[list.n++] = *token_text(&more->items[i]);
		add_member(&t->special, "additional_special_tokens", list);
	}
}

/* The text of the template called name in a list of named ones. */
static const struct json *named_template(const struct json *list, const char *name)
{
	for (uint32_t i = 0; json_is(list, JSON_ARR) && i < list->n; i++)
		if (json_str_is(json_get(&list->items[i], "name"), name))
			return json_get(&list->items[i], "template");
	return NULL;
}

/* A named template that the list lacks: says which it has. */
static int no_such_template(const struct json *list, const char *name, struct err *e)
{
	struct sb have = SB_INIT;

	for (uint32_t i = 0; json_is(list, JSON_ARR) && i < list->n; i++) {
		const struct json *n = json_get(&list->items[i], "name");

		if (json_is(n, JSON_STR))
			sb_addf(&have, "%s%s", have.len ? ", " : "", n->s);
	}
	int rc = err_set(e, LP_USAGE, "no template named '%s' in tokenizer_config.json; it has %s", name, have.len ? sb_str(&have) : "no named ones");
	sb_release(&have);
	return rc;
}

static int pick_template(struct chat_tmpl *t, const struct json *config, const char *name, const char **text, struct err *e)
{
	const struct json *v = json_get(config, "chat_template"), *one = v;

	if (json_is(v, JSON_ARR)) {
		one = named_template(v, name ? name : "default");
		if (!one && !name && v->n == 1)
			one = json_get(&v->items[0], "template");
		if (!json_is(one, JSON_STR))
			return no_such_template(v, name ? name : "default", e);
		const struct json *tools = name ? NULL : named_template(v, "tool_use");
		t->tools_src = json_is(tools, JSON_STR) ? tools->s : NULL;
		if (json_is(tools, JSON_STR) && !(t->tools = tmpl_compile(tools->s, tools->n, "chat_template tool_use", e)))
			return -1;
	} else if (name && strcmp(name, "default")) {
		return no_such_template(v, name, e);
	}
	if (!json_is(one, JSON_STR))
		return err_set(e, LP_USAGE, "the model has no chat template; give one with --template FILE");
	*text = one->s;
	return 0;
}

/* What tells this template from another in the keys of chat_shape.c. */
static void name_texts(struct chat_tmpl *t)
{
	struct sb all = SB_INIT;
	struct jw w = jw_to(&all);
	char hex[33];

	jw_value(&w, &t->special);
	sb_add(&all, t->src, strlen(t->src) + 1);
	if (t->tools_src)
		sb_adds(&all, t->tools_src);
	t->has_mark = tmpl_has_mark(all.s, all.len);
	xxh_once(all.s, all.len, hex);
	memcpy(t->hash, hex, sizeof(t->hash));
	sb_release(&all);
}

struct chat_tmpl *chat_tmpl_new(const char *template_text, const char *tokenizer_config_json, const char *name, struct err *e)
{
	struct chat_tmpl *t = xcalloc(1, sizeof(*t));
	struct json config = { .type = JSON_NULL };

	if (tokenizer_config_json && json_parse_str(tokenizer_config_json, &t->arena, &config, e))
		goto bad;
	read_special(t, &config);
	if (!template_text && pick_template(t, &config, name, &template_text, e))
		goto bad;
	t->src = xstrdup(template_text);
	if (!(t->t = tmpl_compile(t->src, strlen(t->src), "chat_template", e)))
		goto bad;
	name_texts(t);
	chat_learn(t);
	return t;
bad:
	chat_tmpl_free(t);
	return NULL;
}

/* NULL and no error when the file is not there. */
static char *slurp_if_there(const char *dir, const char *name, struct err *e)
{
	char *path = xasprintf("%s/%s", dir, name), *text = NULL;
	size_t n;

	if (access(path, F_OK) == 0)
		text = in_slurp(path, MAX_FILE, &n, e);
	free(path);
	return text;
}

static char *slurp_named(const char *dir, const char *name, struct err *e)
{
	char *file, *text;

	if (!name || !strcmp(name, "default"))
		return slurp_if_there(dir, "chat_template.jinja", e);
	if (strchr(name, '/'))
		return NULL;
	file = xasprintf("additional_chat_templates/%s.jinja", name);
	text = slurp_if_there(dir, file, e);
	free(file);
	return text;
}

struct chat_tmpl *chat_tmpl_load_dir(const char *model_dir, const char *template_file, const char *name, struct err *e)
{
	char *config = NULL, *text = NULL;
	struct chat_tmpl *t = NULL;
	size_t n;

	e->code = LP_OK;
	if (model_dir && !(config = slurp_if_there(model_dir, "tokenizer_config.json", e)) && e->code)
		goto out;
	if (template_file)
		text = in_slurp(template_file, MAX_FILE, &n, e);
	else if (model_dir)
		text = slurp_named(model_dir, name, e);
	if (e->code)
		goto out;
	if (!text && !config) {
		err_set(e, LP_USAGE, "no chat_template.jinja and no tokenizer_config.json in '%s'; give --template FILE", model_dir ? model_dir : "");
		goto out;
	}
	t = chat_tmpl_new(text, config, name, e);
	if (!t && template_file)
		err_where(e, template_file, 0);
	else if (!t && model_dir)
		err_where(e, model_dir, 0);
out:
	free(config);
	free(text);
	return t;
}

void chat_tmpl_free(struct chat_tmpl *t)
{
	if (!t)
		return;
	tmpl_free(t->t);
	tmpl_free(t->tools);
	arena_release(&t->arena);
	free(t->src);
	free(t->gen.s);
	free(t->lead.s);
	free(t->gap.s);
	free(t->tail.s);
	free(t->end_last.s);
	free(t->end_mid.s);
	free(t->end_call.s);
	free(t);
}

const char *chat_tmpl_source(const struct chat_tmpl *t)
{
	return t->src;
}

struct chat_scratch *chat_scratch_new(void)
{
	struct chat_scratch *s = xcalloc(1, sizeof(*s));

	s->shapes = chat_shapes_new();
	return s;
}

static void scratch_release(struct chat_scratch *s)
{
	tmpl_render_release(&s->r);
	tmpl_render_release(&s->probe);
	arena_release(&s->arena);
	chat_shapes_free(s->shapes);
	free(s->watch);
}

void chat_scratch_free(struct chat_scratch *s)
{
	if (!s)
		return;
	scratch_release(s);
	free(s);
}

/* --- messages --- */
static bool is_key(const struct json_member *m, const char *key)
{
	return m->key_len == strlen(key) && !memcmp(m->key, key, m->key_len);
}

/* The reasoning of a message, under the first of the names it may have. */
static const struct json *reasoning_of(const struct json *o)
{
	static const char *const names[] = { "reasoning_content", "thinking", "reasoning" };

	for (size_t i = 0; i < 3; i++) {
		const struct json *v = json_get(o, names[i]);

		if (v && v->type != JSON_NULL)
			return v;
	}
	return NULL;
}

/* Is the record's own object what the template is to see? */
static bool own_object_will_do(const struct chat_msg *m, const char *content, size_t len)
{
	const struct json *text = json_get(m->orig, "content"), *role = json_get(m->orig, "role");

	if (!json_is(role, JSON_STR) || (role->s != m->role && !json_str_is(role, m->role)))
		return false;
	for (uint32_t i = 0; i < m->orig->n; i++) /* reasoning fields all hold "reasoning" or "thinking" */
		if (m->orig->members[i].key_len >= 8 && (m->orig->members[i].key[0] == 'r' || m->orig->members[i].key[0] == 't') && reasoning_of(m->orig))
			return false;
	if (!text || text->type == JSON_NULL)
		return !content;
	return json_is(text, JSON_STR) && text->s == content && text->n == len;
}

struct json chat_message(const struct chat_msg *m, const char *content, size_t len, struct arena *a)
{
	const struct json *o = m->orig, *reasoning;
	struct json out = { .type = JSON_OBJ }, text = { .type = JSON_NULL };
	bool speaker, has_content = false;

	if (!content) {
		content = m->content;
		len = m->content_len;
	}
	if (own_object_will_do(m, content, len))
		return *o;
	reasoning = o ? reasoning_of(o) : NULL;
	speaker = o && !json_get(o, "role");
	if (content)
		text = str_json(content, len);
	out.members = arena_calloc(a, (o ? o->n : 0) + 5, sizeof(*out.members));
	/* as transformers: "thinking" first when it is only copied, "reasoning_content" always the reasoning */
	if (reasoning && !json_get(o, "thinking"))
		add_member(&out, "thinking", *reasoning);
	if (!o || speaker)
		add_member(&out, "role", str_json(m->role, strlen(m->role)));
	for (uint32_t i = 0; o && i < o->n; i++) {
		const struct json_member *f = &o->members[i];

		if (speaker && is_key(f, "from"))
			continue;
		if (is_key(f, "role")) {
			add_member(&out, "role", str_json(m->role, strlen(m->role)));
		} else if (is_key(f, "content") || (speaker && is_key(f, "value"))) {
			add_member(&out, "content", text);
			has_content = true;
		} else if (is_key(f, "reasoning_content") && reasoning) {
			add_member(&out, "reasoning_content", *reasoning);
		} else {
			out.members[out.n++] = *f;
		}
	}
	if (!has_content && content)
		add_member(&out, "content", text);
	if (reasoning && !json_get(o, "reasoning_content"))
		add_member(&out, "reasoning_content", *reasoning);
	return out;
}

/* --- rendering --- */
struct json chat_variables(const struct chat_tmpl *t, const struct chat *c, const struct json *msgs, size_t n, bool gen_prompt,
                           const struct chat_render_opts *o, struct arena *a)
{
	const struct json null = { .type = JSON_NULL };
	uint32_t n_extra = o->extra ? o->extra->n : 0;
	struct json v = { .type = JSON_OBJ }, list = { .type = JSON_ARR, .n = (uint32_t)n }, flag = { .type = JSON_BOOL };

	/* later members win: the caller's own come last */
	v.members = arena_alloc(a, (t->special.n + n_extra + 6) * sizeof(*v.members));
	if (t->special.n)
		memcpy(v.members, t->special.members, t->special.n * sizeof(*v.members));
	v.n = t->special.n;
	list.items = (struct json *)msgs;
	flag.b = gen_prompt;
	add_member(&v, "messages", list);
	add_member(&v, "tools", c->tools ? *c->tools : null);
	add_member(&v, "documents", c->documents ? *c->documents : null);
	add_member(&v, "add_generation_prompt", flag);
	if (o->date_string)
		add_member(&v, "date_string", str_json(o->date_string, strlen(o->date_string)));
	if (n_extra)
		memcpy(v.members + v.n, o->extra->members, n_extra * sizeof(*v.members));
	v.n += n_extra;
	return v;
}

const struct tmpl *chat_engine(const struct chat_tmpl *t, const struct chat *c)
{
	return c->tools && t->tools ? t->tools : t->t;
}

int chat_render_prefix(const struct chat_tmpl *t, const struct chat *c, const struct json *msgs, size_t n, bool gen_prompt,
                       const struct chat_render_opts *o, struct arena *a, struct tmpl_render *out, struct err *e)
{
	struct json vars = chat_variables(t, c, msgs, n, gen_prompt, o, a);

	return tmpl_render(chat_engine(t, c), &vars, o->now, NULL, out, e);
}

static bool is_py_space(char c)
{
	return c == ' ' || (c >= 9 && c <= 13) || (c >= 0x1c && c <= 0x1f);
}

/* Cuts text where the last message's content ends, as continue_final_message does. */
static int render_open(const struct chat_tmpl *t, const struct chat *c, const struct json *msgs, const struct chat_render_opts *o,
                       struct chat_scratch *s, struct sb *text, struct err *e)
{
	const struct chat_msg *last = c->n_msgs ? &c->msgs[c->n_msgs - 1] : NULL;
	size_t n_tag = strlen(CONTINUE_TAG), n_msg, at = SIZE_MAX;
	struct json *m;

	if (!last || !last->content)
		return err_set(e, LP_DATA, "--continue-final needs a last message with content");
	if (!strstr(t->src, "content"))
		return err_set(e, LP_DATA, "--continue-final: the template does not use the content of messages");
	char *tagged = arena_alloc(&s->arena, last->content_len + n_tag + 1);
	memcpy(tagged, last->content, last->content_len);
	memcpy(tagged + last->content_len, CONTINUE_TAG, n_tag + 1);
	n_msg = last->content_len + n_tag;
	m = arena_alloc(&s->arena, c->n_msgs * sizeof(*m));
	memcpy(m, msgs, c->n_msgs * sizeof(*m));
	m[c->n_msgs - 1] = chat_message(last, tagged, n_msg, &s->arena);
	s->probe.watch = NULL;
	if (chat_render_prefix(t, c, m, c->n_msgs, o->add_generation_prompt, o, &s->arena, &s->probe, e))
		return -1;
	const struct sb *r = &s->probe.text;
	for (size_t i = 0; i + n_tag - 1 <= r->len; i++)
		if (!memcmp(r->s + i, CONTINUE_TAG, n_tag - 1))
			at = i;
	if (at == SIZE_MAX)
		return err_set(e, LP_DATA, "--continue-final: the last message does not appear in the rendering");
	bool whole = at + n_tag <= r->len && r->s[at + n_tag - 1] == ' ';
	while (!whole && at > 0 && is_py_space(r->s[at - 1]))
		at--;
	sb_add(text, r->s, at);
	return 0;
}

static struct tmpl_watch *watch_messages(const struct chat *c, const char *choice, struct chat_scratch *s)
{
	s->watch = xgrow(s->watch, &s->cap_watch, c->n_msgs + 1, sizeof(*s->watch));
	for (size_t i = 0; i < c->n_msgs; i++) {
		bool ours = c->msgs[i].content && chat_is_sought(&c->msgs[i], choice);

		s->watch[i] = (struct tmpl_watch){ c->msgs[i].content, ours ? c->msgs[i].content_len : 0, SIZE_MAX, SIZE_MAX };
	}
	return s->watch;
}

/* Spans of the whole rendering, cut to a shorter text that it begins with. */
static int cut_spans(const struct sb *text, const struct sb *whole, struct tmpl_span *spans, size_t *n, struct err *e)
{
	size_t k = 0;

	if (text->len > whole->len || memcmp(sb_str(text), sb_str(whole), text->len))
		return err_set(e, LP_DATA, "the open rendering is not the start of the closed one: no exact loss spans");
	for (size_t i = 0; i < *n; i++) {
		if (spans[i].begin >= text->len)
			continue;
		spans[k] = spans[i];
		spans[k].end = spans[k].end > text->len ? text->len : spans[k].end;
		k++;
	}
	*n = k;
	return 0;
}

/* A rendering to the caller's empty buffer: the two change places. */
static void hand_over(struct sb *to, struct sb *from)
{
	struct sb empty = *to;

	if (to->len) {
		sb_add(to, sb_str(from), from->len);
		return;
	}
	*to = *from;
	*from = empty;
}

static int render_one(const struct chat_tmpl *t, const struct chat *c, const struct chat_render_opts *o, struct chat_scratch *s,
                      struct sb *text, struct tmpl_span **spans, size_t *n_spans, struct err *e)
{
	struct json *msgs;

	arena_reset(&s->arena);
	msgs = arena_alloc(&s->arena, (c->n_msgs + 1) * sizeof(*msgs));
	for (size_t i = 0; i < c->n_msgs; i++)
		msgs[i] = chat_message(&c->msgs[i], NULL, 0, &s->arena);
	if (o->continue_final && render_open(t, c, msgs, o, s, text, e))
		return -1;
	if (o->continue_final && !spans)
		return 0;
	s->r.watch = spans ? watch_messages(c, o->span_choice, s) : NULL;
	s->r.n_watch = spans ? c->n_msgs : 0;
	if (chat_render(t, c, msgs, c->n_msgs, o->add_generation_prompt && !o->continue_final, o, s, &s->r, e))
		return -1;
	if (spans && chat_find_spans(t, c, msgs, o, s, spans, n_spans, e))
		return -1;
	if (o->continue_final)
		return cut_spans(text, &s->r.text, *spans, n_spans, e);
	hand_over(text, &s->r.text);
	return 0;
}

int chat_tmpl_render(const struct chat_tmpl *t, const struct chat *c, const struct chat_render_opts *o,
                     struct sb *text, struct tmpl_span **spans, size_t *n_spans, struct err *e)
{
	struct chat_scratch once = { 0 }, *s = o->scratch ? o->scratch : &once; /* that one remembers nothing */

	if (spans) {
		*spans = NULL;
		*n_spans = 0;
	}
	int rc = render_one(t, c, o, s, text, spans, n_spans, e);
	if (rc && spans) {
		free(*spans);
		*spans = NULL;
	}
	scratch_release(&once);
	return rc;
}

/* --- preference records --- */
static int render_side(const struct chat_tmpl *t, const struct pref *p, const struct chat *answer, int side, const struct chat_render_opts *o,
                       struct pref_text *out, struct arena *a, struct err *e)
{
	static const char *const names[] = { "chosen", "rejected" };
	struct chat both = p->prompt;
	struct chat_render_opts full = *o;
	struct sb text = SB_INIT;
	size_t n = out->prompt.len, k = 0;
	int rc = -1;

	both.n_msgs = p->prompt.n_msgs + answer->n_msgs;
	both.msgs = arena_alloc(a, (both.n_msgs + 1) * sizeof(*both.msgs));
	memcpy(both.msgs, p->prompt.msgs, p->prompt.n_msgs * sizeof(*both.msgs));
	memcpy(both.msgs + p->prompt.n_msgs, answer->msgs, answer->n_msgs * sizeof(*both.msgs));
	full.add_generation_prompt = false;
	if (chat_tmpl_render(t, &both, &full, &text, &out->spans[side], &out->n_spans[side], e))
		goto out;
	if (text.len < n || memcmp(text.s, sb_str(&out->prompt), n)) {
		err_set(e, LP_DATA, "%s: its rendering does not begin with the prompt's (the template treats the last turn apart)", names[side]);
		goto out;
	}
	sb_add(&out->answer[side], text.s + n, text.len - n);
	/* only what the answer itself writes; earlier turns belong to the prompt */
	for (size_t i = 0; i < out->n_spans[side]; i++) {
		struct tmpl_span x = out->spans[side][i];

		if (x.end <= n)
			continue;
		x.begin = x.begin > n ? x.begin - n : 0;
		x.end -= n;
		out->spans[side][k++] = x;
	}
	out->n_spans[side] = k;
	rc = 0;
out:
	sb_release(&text);
	return rc;
}

int chat_tmpl_render_pref(const struct chat_tmpl *t, const struct pref *p, const struct chat_render_opts *o, struct pref_text *out, struct err *e)
{
	struct chat_render_opts prompt = *o;
	struct arena a = ARENA_INIT;
	int rc;

	*out = (struct pref_text){ 0 };
	prompt.add_generation_prompt = true;
	prompt.continue_final = false;
	rc = chat_tmpl_render(t, &p->prompt, &prompt, &out->prompt, NULL, NULL, e) || render_side(t, p, &p->chosen, 0, o, out, &a, e) ||
	     (!p->has_label && render_side(t, p, &p->rejected, 1, o, out, &a, e));
	arena_release(&a);
	if (rc)
		pref_text_release(out);
	return rc ? -1 : 0;
}

void pref_text_release(struct pref_text *p)
{
	sb_release(&p->prompt);
	for (int i = 0; i < 2; i++) {
		sb_release(&p->answer[i]);
		free(p->spans[i]);
	}
	*p = (struct pref_text){ 0 };
}

/* A template written for chat is, on alternating turns,
 *   first [+ system] + (user + content + between + content + after)* + user + content + prompt
 * for constant texts. They are read off renderings of contents that occur
 * nowhere else; where a text is shared out between two neighbours does not
 * matter, because only their sum is ever written. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/xalloc.h"
#include "text/chat_check.h"
#include "text/chat_impl.h"
#include "text/modelfile.h"

#define DAY 86400

struct part {
	const char *s;
	size_t n;
};
struct maker {
	const struct chat_tmpl *t;
	const struct modelfile_opts *m;
	struct chat_render_opts o;
	struct part bos; /* the one that the runtime adds */
	struct sb go;    /* TEMPLATE */
	bool has_system;
	struct err *e;
};

/* --- conversations --- */
static const char *const plain[] = { "Sm1s rule", "Qx7u one", "Zk3a two", "Wv9u three", "Yj5a four", "Pt2u five" };
static const char *const rough[] = { "Be {{ brief }}.\nAnd \"kind\".", "\xc3\xa9t\xc3\xa9 % \\n {x}?", "a < b && c\n\n- list", "`code` {{ .Content }}", "1\n2", "\xe4\xbd\xa0\xe5\xa5\xbd {% if %}" };

/* roles: of s, u and a. The texts are taken in the order of list. */
static size_t converse(const char *roles, const char *const *list, struct chat_msg *m)
{
	size_t n = 0, at = 1;

	for (; roles[n]; n++) {
		const char *text = roles[n] == 's' ? list[0] : list[at++];

		m[n] = (struct chat_msg){ .role = roles[n] == 's' ? "system" : roles[n] == 'u' ? "user" : "assistant", .content = text, .content_len = strlen(text) };
	}
	return n;
}

/* As the runtime is to render it: without the BOS that it adds itself. */
static int render(struct maker *k, const char *roles, const char *const *list, struct sb *out, struct err *e)
{
	struct chat_msg m[8];
	struct chat c = { .msgs = m, .n_msgs = converse(roles, list, m) };

	sb_reset(out);
	if (chat_tmpl_render(k->t, &c, &k->o, out, NULL, NULL, e))
		return -1;
	if (k->bos.n && out->len >= k->bos.n && !memcmp(out->s, k->bos.s, k->bos.n)) {
		memmove(out->s, out->s + k->bos.n, out->len - k->bos.n);
		out->len -= k->bos.n;
		out->s[out->len] = 0;
	}
	return 0;
}

/* Cuts a rendering at the contents of its messages, in their order: parts[0] text
 * parts[1] text ... parts[n]. false: one is missing, changed or moved. */
static bool cut(const struct sb *text, const char *roles, struct part *parts)
{
	const char *p = sb_str(text), *end = p + text->len;
	struct chat_msg m[8];
	size_t n = converse(roles, plain, m);

	for (size_t i = 0; i < n; i++) {
		const char *hit = memmem(p, (size_t)(end - p), m[i].content, m[i].content_len);

		if (!hit)
			return false;
		parts[i] = (struct part){ p, (size_t)(hit - p) };
		p = hit + m[i].content_len;
	}
	parts[n] = (struct part){ p, (size_t)(end - p) };
	return true;
}

/* --- the Go template --- */
static size_t same_start(struct part a, struct part b)
{
	size_t k = 0;

	while (k < a.n && k < b.n && a.s[k] == b.s[k])
		k++;
	while (k > 0 && k < a.n && ((unsigned char)a.s[k] & 0xc0) == 0x80) /* whole characters */
		k--;
	return k;
}

static size_t same_end(struct part a, struct part b)
{
	size_t k = 0;

	while (k < a.n && k < b.n && a.s[a.n - k - 1] == b.s[b.n - k - 1])
		k++;
	while (k > 0 && ((unsigned char)a.s[a.n - k] & 0xc0) == 0x80)
		k--;
	return k;
}

/* Text for the template: its own brackets become constants. */
static void put(struct sb *go, const char *s, size_t n)
{
	for (size_t i = 0; i < n; i++)
		if (s[i] == '{' && (i + 1 == n || s[i + 1] == '{'))
			sb_adds(go, "{{ \"{\" }}");
		else
			sb_addc(go, s[i]);
}

static int refuse(struct maker *k, const char *feature)
{
	return err_set(k->e, LP_DATA, "no Modelfile can express this template: %s", feature);
}

/* texts: renderings of "u", "uau" and "su", the last empty without system prompts. */
static int derive(struct maker *k, const struct sb *one, const struct sb *two, const struct sb *system)
{
	struct part u[2], uau[4], su[3];

	if (!cut(one, "u", u) || !cut(two, "uau", uau))
		return refuse(k, "it changes, moves or leaves out what users or the assistant write");
	if (k->has_system && !cut(system, "su", su))
		return refuse(k, "the system prompt does not stand before the first turn");
	if (uau[3].n != u[1].n || memcmp(uau[3].s, u[1].s, u[1].n))
		return refuse(k, "the end of its prompt depends on the turns before");
	/* the header of a user's turn, its footer */
	size_t head = same_end(u[0], uau[2]), foot = same_start(u[1], uau[1]);
	if (k->has_system && same_end(u[0], su[1]) < head)
		head = same_end(u[0], su[1]);
	if (k->has_system) {
		sb_adds(&k->go, "{{ if .System }}");
		put(&k->go, su[0].s, su[0].n);
		sb_adds(&k->go, "{{ .System }}");
		put(&k->go, su[1].s, su[1].n - head);
		if (u[0].n > head) {
			sb_adds(&k->go, "{{ else }}");
			put(&k->go, u[0].s, u[0].n - head);
		}
		sb_adds(&k->go, "{{ end }}");
	} else {
		put(&k->go, u[0].s, u[0].n - head);
	}
	sb_adds(&k->go, "{{ range .Messages }}{{ if eq .Role \"user\" }}");
	put(&k->go, u[0].s + u[0].n - head, head);
	sb_adds(&k->go, "{{ .Content }}");
	put(&k->go, u[1].s, foot);
	sb_adds(&k->go, "{{ else if eq .Role \"assistant\" }}");
	put(&k->go, uau[1].s + foot, uau[1].n - foot);
	sb_adds(&k->go, "{{ .Content }}");
	put(&k->go, uau[2].s, uau[2].n - head);
	sb_adds(&k->go, "{{ end }}{{ end }}");
	put(&k->go, u[1].s + foot, u[1].n - foot);
	return 0;
}

/* Do both render the same? */
static int verify(struct maker *k, const char *roles, const char *const *list, const char *feature)
{
	struct sb want = SB_INIT, got = SB_INIT;
	struct chat_msg m[8];
	struct chat c = { .msgs = m, .n_msgs = converse(roles, list, m) };
	int rc = render(k, roles, list, &want, k->e) || modelfile_render(sb_str(&k->go), k->go.len, &c, &got, k->e) ? -1 : 0;

	if (!rc && (want.len != got.len || memcmp(sb_str(&want), sb_str(&got), got.len)))
		rc = refuse(k, feature);
	sb_release(&want);
	sb_release(&got);
	return rc;
}

static int make_template(struct maker *k, struct sb *notes)
{
	struct sb one = SB_INIT, two = SB_INIT, system = SB_INIT;
	struct err e = ERR_INIT;
	int rc = -1;

	if (render(k, "u", plain, &one, k->e) || render(k, "uau", plain, &two, k->e))
		goto out;
	k->has_system = !render(k, "su", plain, &system, &e);
	if (!k->has_system)
		sb_addf(notes, "the template refuses a system prompt; TEMPLATE leaves it out\n");
	else if (!strstr(sb_str(&system), plain[0]))
		k->has_system = false, sb_addf(notes, "the template drops a system prompt, and so does TEMPLATE\n");
	if (derive(k, &one, &two, &system))
		goto out;
	rc = verify(k, "u", plain, "a first question") || verify(k, "uau", plain, "a second turn") || verify(k, "uauau", plain, "a third turn differs from a second") ||
	     verify(k, "uau", rough, "it changes what messages say");
	if (!rc && k->has_system)
		rc = verify(k, "su", plain, "a system prompt") || verify(k, "suau", plain, "the place of the system prompt depends on the number of turns") ||
		     verify(k, "suauau", rough, "the place of the system prompt depends on the number of turns");
out:
	sb_release(&one);
	sb_release(&two);
	sb_release(&system);
	return rc ? -1 : 0;
}

/* --- what the template does and a Modelfile cannot --- */
static void note_differences(struct maker *k, struct sb *notes)
{
	static const char *const spaces[] = { "", " Qx7u " }, *const thought[] = { "", "Qx7u", "<think>\nhm\n</think>\n\nZk3a", "Wv9u" };
	struct sb a = SB_INIT, b = SB_INIT;
	struct err e = ERR_INIT;

	if (!render(k, "u", spaces, &a, &e) && !strstr(sb_str(&a), spaces[1]))
		sb_adds(notes, "the template cuts white space off what messages say; Ollama does not\n");
	if (!render(k, "uau", thought, &a, &e) && !strstr(sb_str(&a), "hm"))
		sb_adds(notes, "the template drops the reasoning of earlier answers; Ollama does so only when it thinks\n");
	if (!render(k, "u", plain, &a, &e)) {
		k->o.now += 400 * DAY;
		if (!render(k, "u", plain, &b, &e) && (a.len != b.len || memcmp(sb_str(&a), sb_str(&b), a.len)))
			sb_adds(notes, "the template writes the day on which it runs; TEMPLATE has the one of --date\n");
		k->o.now -= 400 * DAY;
	}
	if (strstr(chat_tmpl_source(k->t), "tools"))
		sb_adds(notes, "the template takes tools; TEMPLATE does not\n");
	sb_release(&a);
	sb_release(&b);
}

/* --- the file --- */
/* A text in quotes that Ollama's parser takes as it is. */
static int put_quoted(struct maker *k, struct sb *out, const char *s, size_t n)
{
	const char *quotes = memchr(s, '"', n) || memchr(s, '\n', n) ? "\"\"\"" : "\"";

	if (memmem(s, n, "\"\"\"", 3) || (quotes[1] && n && s[n - 1] == '"'))
		return refuse(k, "three quotes in a row end a text in it");
	sb_adds(out, quotes);
	sb_add(out, s, n);
	sb_adds(out, quotes);
	sb_addc(out, '\n');
	return 0;
}

static int put_stops(struct maker *k, struct sb *out)
{
	const struct json *eos = json_get(&k->t->special, "eos_token");
	struct chat_check check;
	bool has_eos = json_is(eos, JSON_STR) && eos->n;
	struct chat_render_opts o = k->o;

	o.add_generation_prompt = false;
	o.span_choice = "last";
	chat_check_begin(&check, k->t, NULL, &o);
	if (!check.end[0] && !has_eos)
		return refuse(k, "it ends no answer, and the model has no eos_token: there is nothing to stop at");
	if (check.end[0]) {
		sb_adds(out, "PARAMETER stop ");
		if (put_quoted(k, out, check.end, strlen(check.end)))
			return -1;
	}
	if (has_eos && strcmp(check.end, eos->s)) {
		sb_adds(out, "PARAMETER stop ");
		return put_quoted(k, out, eos->s, eos->n);
	}
	return 0;
}

static int put_file(struct maker *k, struct sb *out)
{
	sb_addf(out, "FROM %s\nTEMPLATE ", k->m->from);
	if (put_quoted(k, out, sb_str(&k->go), k->go.len) || put_stops(k, out))
		return -1;
	if (k->m->temperature >= 0)
		sb_addf(out, "PARAMETER temperature %.6g\n", k->m->temperature);
	if (k->m->num_ctx > 0)
		sb_addf(out, "PARAMETER num_ctx %lld\n", (long long)k->m->num_ctx);
	if (k->m->system) {
		if (!k->has_system)
			return refuse(k, "it takes no system prompt, and one was given");
		sb_adds(out, "SYSTEM ");
		return put_quoted(k, out, k->m->system, strlen(k->m->system));
	}
	return 0;
}

/* Does a post-processor put a special token before a text? 1 or 0, -1: it does not say. */
static int post_adds(const struct json *post, int depth)
{
	const struct json *type = json_get(post, "type"), *list = json_get(post, "processors"), *single = json_get(post, "single");
	int found = -1;

	for (uint32_t i = 0; depth < 8 && json_is(list, JSON_ARR) && i < list->n; i++) {
		int one = post_adds(&list->items[i], depth + 1);

		found = one >= 0 ? one : found;
	}
	if (json_str_is(type, "ByteLevel"))
		return 0;
	if (!json_str_is(type, "TemplateProcessing"))
		return found;
	return json_is(single, JSON_ARR) && single->n > 1 && json_is(json_get(&single->items[0], "SpecialToken"), JSON_OBJ);
}

int modelfile_adds_bos(const struct chat_tmpl *t, const char *tokenizer_json, bool *adds, struct err *e)
{
	struct arena a = ARENA_INIT;
	struct json v = { .type = JSON_NULL };
	bool fallback = false;
	int post, rc = 0;

	if (tokenizer_json)
		rc = json_parse_str(tokenizer_json, &a, &v, e);
	post = post_adds(json_get(&v, "post_processor"), 0);
	if (!json_get_bool(json_get(&v, "model"), "byte_fallback", false, &fallback))
		fallback = false;
	*adds = post >= 0 ? post : t->says_bos ? t->adds_bos : fallback;
	arena_release(&a);
	return rc;
}

int modelfile_write(const struct chat_tmpl *t, const struct modelfile_opts *m, const struct chat_render_opts *o, struct sb *out, struct sb *notes, struct err *e)
{
	const struct json *bos = json_get(&t->special, "bos_token");
	struct maker k = { .t = t, .m = m, .o = *o, .e = e };
	int rc;

	k.o.add_generation_prompt = true;
	k.o.continue_final = false;
	if (m->adds_bos && json_is(bos, JSON_STR))
		k.bos = (struct part){ bos->s, bos->n };
	rc = make_template(&k, notes);
	if (!rc) {
		note_differences(&k, notes);
		rc = put_file(&k, out);
	}
	sb_release(&k.go);
	return rc;
}

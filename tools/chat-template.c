/* chat-template: chat records in, rendered text with loss spans out. The
 * engine and the spans are libcommon/text/tmpl.h's. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/in.h"
#include "base/log.h"
#include "base/num.h"
#include "base/tool.h"
#include "base/xalloc.h"
#include "data/recio.h"
#include "json/record.h"
#include "text/chat_check.h"
#include "text/modelfile.h"
#include "text/tmpl.h"

static struct {
	const char *model, *template_file, *template_name, *date, *loss, *vars, *map, *system, *format, *modelfile;
	bool gen_prompt, continue_final, keep, skip_bad, check, json;
	int64_t head, num_ctx;
	double temperature;
	struct chat_map fields; /* from map and system */
} opt = { .date = CHAT_DEFAULT_DATE, .loss = "all", .format = "auto", .temperature = -1 };

static struct opt opts[] = {
	{ OPT_SECTION, .help = "Template" },
	{ OPT_STR, "model", 0, &opt.model, "DIR", "the model's directory: its template and its special tokens" },
	{ OPT_STR, "template", 0, &opt.template_file, "FILE", "use this template; special tokens still come from --model" },
	{ OPT_STR, "template-name", 0, &opt.template_name, "NAME", "which of the model's named templates (default: default)" },
	{ OPT_STR, "date", 0, &opt.date, "YYYY-MM-DD", "the day that templates see as today" },
	{ OPT_STR, "vars", 0, &opt.vars, "JSON", "an object with more variables, such as {\"enable_thinking\":false}" },
	{ OPT_SECTION, .help = "Rendering" },
	{ OPT_FLAG, "add-generation-prompt", 0, &opt.gen_prompt, 0, "end with the header of an answer" },
	{ OPT_FLAG, "continue-final", 0, &opt.continue_final, 0, "leave the last message open, to be continued" },
	{ OPT_STR, "loss", 0, &opt.loss, "WHICH", "messages to learn: all, last or none of the assistant's, train (those without \"train\": false), or role:NAME,..." },
	{ OPT_FLAG, "keep", 0, &opt.keep, 0, "keep messages, tools and documents in the output" },
	{ OPT_INT, "head", 0, &opt.head, "N", "print the first N characters of each text instead of records", .max = 1e9 },
	{ OPT_FLAG, "skip-bad", 0, &opt.skip_bad, 0, "leave out records that cannot be rendered, and count them" },
	{ OPT_SECTION, .help = "Instead of rendering" },
	{ OPT_FLAG, "check", 0, &opt.check, 0, "does what is trained on agree with what is served? Asks the template, and FILE's records" },
	{ OPT_FLAG, "json", 0, &opt.json, 0, "the answers of --check as JSON" },
	{ OPT_STR, "modelfile", 0, &opt.modelfile, "FROM", "write an Ollama Modelfile for the model FROM, whose prompts equal the template's" },
	{ OPT_F64, "temperature", 0, &opt.temperature, "X", "a parameter of the Modelfile", .min = 0, .max = 100 },
	{ OPT_INT, "num-ctx", 0, &opt.num_ctx, "N", "another: tokens of context", .min = 1, .max = 1e9 },
	{ OPT_SECTION, .help = "Records" },
	{ OPT_STR, "map", 0, &opt.map, "NAME=FIELD,...", "fields to read: prompt, completion, system, or messages" },
	{ OPT_STR, "system", 0, &opt.system, "TEXT", "a system message for records that have none" },
	{ OPT_CHOICE, "format", 0, &opt.format, "FORMAT", "of the input", "auto|jsonl|array|csv" },
	OPT_COMMON,
};
static const struct opt_spec spec = {
	.tool = "chat-template",
	.summary = "render chat records with the model's own template",
	.synopsis = "[OPTION]... [FILE]",
	.notes = "Writes {\"text\",\"spans\",...}: spans are the byte ranges that the assistant writes, its end of turn included.",
	.opts = opts,
};

struct run {
	struct chat_tmpl *tmpl;
	struct chat_render_opts how;
	struct recio *in;
	struct out *out;
	struct arena arena; /* --vars */
	struct json vars;
	struct sb text, line;
	char date_string[32];
	uint64_t n, n_bad;
	struct err first_bad;
};

static int check_options(struct err *e)
{
	static const char *const kinds[] = { "all", "last", "none", "train" };
	bool known = !strncmp(opt.loss, "role:", 5) && opt.loss[5];

	for (size_t i = 0; i < sizeof(kinds) / sizeof(kinds[0]); i++)
		known |= !strcmp(opt.loss, kinds[i]);
	if (!known)
		return err_set(e, LP_USAGE, "--loss '%s' is none of all, last, none, train and role:NAME,...", opt.loss);
	if (!opt.model && !opt.template_file)
		return err_set(e, LP_USAGE, "no template: give --model DIR or --template FILE");
	if (opt.gen_prompt && opt.continue_final)
		return err_set(e, LP_USAGE, "--add-generation-prompt and --continue-final exclude each other");
	if (opt.check && opt.modelfile)
		return err_set(e, LP_USAGE, "--check and --modelfile exclude each other");
	if ((opt.check || opt.modelfile) && (opt.gen_prompt || opt.continue_final || opt.keep || opt.head))
		return err_set(e, LP_USAGE, "%s renders no records: no --add-generation-prompt, --continue-final, --keep or --head with it", opt.check ? "--check" : "--modelfile");
	return 0;
}

static int set_up(struct run *r, const char *path, struct err *e)
{
	if (check_options(e))
		return -1;
	if (opt.vars && (json_parse_str(opt.vars, &r->arena, &r->vars, e) || r->vars.type != JSON_OBJ))
		return err_set(e, LP_USAGE, "--vars is not a JSON object");
	opt.fields.system = opt.system;
	if ((opt.map && chat_map_parse(opt.map, &opt.fields, e)) || chat_set_date(&r->how, opt.date, opt_given(&spec, "date"), r->date_string, e))
		return -1;
	r->how.add_generation_prompt = opt.gen_prompt;
	r->how.continue_final = opt.continue_final;
	r->how.span_choice = opt.loss;
	r->how.extra = opt.vars ? &r->vars : NULL;
	r->how.scratch = chat_scratch_new();
	if (!(r->tmpl = chat_tmpl_load_dir(opt.model, opt.template_file, opt.template_name, e)))
		return -1;
	if (path && opt.modelfile)
		return err_set(e, LP_USAGE, "--modelfile reads no records: leave '%s' out", path);
	if ((path || !(opt.check || opt.modelfile)) && !(r->in = recio_open(path, opt.format, false, e)))
		return -1;
	return (r->out = out_open(opt_common.output, e)) ? 0 : -1;
}

/* --- output --- */
static bool is_key(const struct json_member *m, const char *key)
{
	return m->key[0] == key[0] && !strcmp(m->key, key) && m->key_len == strlen(key);
}

static bool is_ours(const struct chat *c, const struct json_member *m)
{
	static const char *const made[] = { "text", "spans", "prompt", "chosen", "rejected", "chosen_spans", "rejected_spans", "messages" };
	static const char *const used[] = { "tools", "documents" };

	for (size_t i = 0; i < sizeof(c->owned) / sizeof(c->owned[0]) && c->owned[i]; i++)
		if (is_key(m, c->owned[i]))
			return true;
	for (size_t i = 0; i < sizeof(made) / sizeof(made[0]); i++)
		if (is_key(m, made[i]))
			return true;
	return !opt.keep && (is_key(m, used[0]) || is_key(m, used[1]));
}

/* The fields of the record that nobody here has used. */
static void pass_through(struct jw *w, const struct chat *c)
{
	for (uint32_t i = 0; c->orig && i < c->orig->n; i++) {
		const struct json_member *m = &c->orig->members[i];

		if (is_ours(c, m))
			continue;
		jw_keyn(w, m->key, m->key_len);
		jw_value(w, &m->val);
	}
}

static void put_spans(struct jw *w, const char *key, const struct tmpl_span *v, size_t n)
{
	jw_key(w, key);
	jw_arr(w);
	for (size_t i = 0; i < n; i++) {
		jw_arr(w);
		jw_i64(w, (int64_t)v[i].begin);
		jw_i64(w, (int64_t)v[i].end);
		jw_end_arr(w);
	}
	jw_end_arr(w);
}

static void put_text(struct jw *w, const char *key, const struct sb *text)
{
	jw_key(w, key);
	jw_strn(w, sb_str(text), text->len);
}

/* --head: the beginning of a text, for people */
static int print_head(struct run *r, const struct sb *text, struct err *e)
{
	size_t n = 0;

	for (int64_t k = 0; n < text->len && k <= opt.head; n++)
		if (((unsigned char)text->s[n] & 0xc0) != 0x80 && k++ == opt.head)
			break;
	return out_write(r->out, sb_str(text), n, e) || out_write(r->out, "\n", 1, e) ? -1 : 0;
}

static int write_line(struct run *r, struct err *e)
{
	sb_addc(&r->line, '\n');
	return out_write(r->out, r->line.s, r->line.len, e);
}

static int write_as_is(struct run *r, const struct json *v, struct err *e)
{
	struct jw w = jw_to(&r->line);

	sb_reset(&r->line);
	jw_value(&w, v);
	return write_line(r, e);
}

/* --- records --- */
static int one_chat(struct run *r, const struct json *v, struct err *e)
{
	struct tmpl_span *spans = NULL;
	size_t n = 0, n_asst = 0;
	struct jw w = jw_to(&r->line);
	struct chat c;

	if (chat_from_json(v, &opt.fields, recio_arena(r->in), &c, e))
		return -1;
	if (*c.shape == 't' && !strcmp(c.shape, "text")) /* rendered, or plain: nothing to do */
		return opt.head ? print_head(r, &(struct sb){ .s = (char *)json_get(v, "text")->s, .len = json_get(v, "text")->n }, e) : write_as_is(r, v, e);
	for (size_t i = 0; i < c.n_msgs; i++)
		n_asst += *c.msgs[i].role == 'a' && !strcmp(c.msgs[i].role, "assistant");
	if (!n_asst && !opt.gen_prompt && strcmp(opt.loss, "none"))
		return err_set(e, LP_DATA, "no assistant message to learn from; --loss none renders it all the same, --add-generation-prompt as a prompt");
	sb_reset(&r->text);
	if (chat_tmpl_render(r->tmpl, &c, &r->how, &r->text, &spans, &n, e))
		return -1;
	if (opt.head) {
		free(spans);
		return print_head(r, &r->text, e);
	}
	sb_reset(&r->line);
	jw_obj(&w);
	put_text(&w, "text", &r->text);
	put_spans(&w, "spans", spans, n);
	free(spans);
	if (opt.keep) {
		jw_key(&w, "messages");
		chat_write_messages(&c, &w);
	}
	pass_through(&w, &c);
	jw_end_obj(&w);
	return write_line(r, e);
}

static int one_pref(struct run *r, const struct json *v, struct err *e)
{
	static const char *const names[] = { "chosen", "rejected" }, *const spans[] = { "chosen_spans", "rejected_spans" };
	struct jw w = jw_to(&r->line);
	struct pref p;
	struct pref_text t;

	if (pref_from_json(v, &opt.fields, recio_arena(r->in), &p, e) || chat_tmpl_render_pref(r->tmpl, &p, &r->how, &t, e))
		return -1;
	sb_reset(&r->line);
	jw_obj(&w);
	put_text(&w, "prompt", &t.prompt);
	for (int i = 0; i < (p.has_label ? 1 : 2); i++) {
		put_text(&w, names[i], &t.answer[i]);
		put_spans(&w, spans[i], t.spans[i], t.n_spans[i]);
	}
	if (opt.keep) {
		jw_key(&w, "messages");
		chat_write_messages(&p.prompt, &w);
	}
	pass_through(&w, &p.prompt);
	jw_end_obj(&w);
	int rc = 0;
	for (int i = 0; opt.head && i < (p.has_label ? 1 : 2) && !rc; i++) {
		sb_reset(&r->text);
		sb_add(&r->text, sb_str(&t.prompt), t.prompt.len);
		sb_add(&r->text, sb_str(&t.answer[i]), t.answer[i].len);
		rc = print_head(r, &r->text, e);
	}
	pref_text_release(&t);
	return rc || opt.head ? rc : write_line(r, e);
}

static int one_record(struct run *r, const struct jsonl_rec *rec, struct err *e)
{
	struct err why = ERR_INIT;
	int rc = record_is_preference(&rec->v) ? one_pref(r, &rec->v, &why) : one_chat(r, &rec->v, &why);

	r->n++;
	if (!rc)
		return 0;
	if (why.code == LP_DATA && opt.skip_bad) {
		if (!r->n_bad++) {
			r->first_bad = why;
			r->first_bad.line = rec->line;
		}
		return 0;
	}
	if (why.code == LP_DATA)
		return err_line(e, LP_DATA, recio_name(r->in), rec->line, "%.900s", why.msg);
	*e = why;
	return -1;
}

static int all_records(struct run *r, struct err *e)
{
	struct jsonl_rec rec;
	int rc;

	while ((rc = recio_next(r->in, &rec, e)) == 1) {
		if (one_record(r, &rec, e))
			return -1;
		if (!(r->n & 4095))
			progress("%" PRIu64 " records", r->n);
	}
	if (rc < 0)
		return -1;
	if (!r->n)
		return err_line(e, LP_DATA, recio_name(r->in), 0, "no records in it");
	if (r->n_bad == r->n)
		return err_line(e, LP_DATA, recio_name(r->in), r->first_bad.line, "no record can be rendered: %.800s", r->first_bad.msg);
	if (r->n_bad)
		warn("%" PRIu64 " of %" PRIu64 " records cannot be rendered and were left out; line %" PRIu64 ": %.300s", r->n_bad, r->n, r->first_bad.line, r->first_bad.msg);
	progress_done();
	return log_metric("chat-template", e, "\"records\":%" PRIu64 ",\"left_out\":%" PRIu64, r->n, r->n_bad);
}

/* --- check --- */
static void check_side(struct chat_check *k, const struct pref *p, const struct chat *answer, struct arena *a, const char *where)
{
	struct chat both = p->prompt;

	both.n_msgs += answer->n_msgs;
	both.msgs = arena_alloc(a, (both.n_msgs + 1) * sizeof(*both.msgs));
	memcpy(both.msgs, p->prompt.msgs, p->prompt.n_msgs * sizeof(*both.msgs));
	memcpy(both.msgs + p->prompt.n_msgs, answer->msgs, answer->n_msgs * sizeof(*both.msgs));
	chat_check_add(k, &both, where);
}

static int check_record(struct run *r, struct chat_check *k, const struct jsonl_rec *rec, struct err *e)
{
	struct arena *a = recio_arena(r->in);
	char where[32];
	struct pref p;
	struct chat c;

	snprintf(where, sizeof(where), "line %" PRIu64, rec->line);
	r->n++;
	if (record_is_preference(&rec->v)) {
		if (pref_from_json(&rec->v, &opt.fields, a, &p, e))
			return err_where(e, recio_name(r->in), rec->line);
		check_side(k, &p, &p.chosen, a, where);
		if (!p.has_label)
			check_side(k, &p, &p.rejected, a, where);
		return 0;
	}
	if (chat_from_json(&rec->v, &opt.fields, a, &c, e))
		return err_where(e, recio_name(r->in), rec->line);
	if (!strcmp(c.shape, "text"))
		return err_line(e, LP_DATA, recio_name(r->in), rec->line, "is text already: --check needs the messages");
	chat_check_add(k, &c, where);
	return 0;
}

static void put_answers(const struct chat_check *k, struct sb *out)
{
	static const char *const words[] = { "not asked", "yes", "no" };

	for (size_t i = 0; i < CHECK_N; i++) {
		sb_addf(out, "%-12s %-9s", chat_check_names[i], words[k->v[i].answer]);
		if (k->v[i].n_no > 1)
			sb_addf(out, " (%" PRIu64 " times)", k->v[i].n_no);
		sb_addf(out, "%s%s\n", k->v[i].note[0] ? " " : "", k->v[i].note);
	}
	sb_addf(out, "%-12s %s\n", "verdict", chat_check_good(k) ? "yes" : "no");
}

static void put_json(const struct chat_check *k, uint64_t records, struct sb *out)
{
	struct jw w = jw_to(out);

	jw_obj(&w);
	for (size_t i = 0; i < CHECK_N; i++) {
		jw_key(&w, chat_check_names[i]);
		jw_obj(&w);
		jw_key(&w, "answer");
		if (k->v[i].answer == CHECK_UNASKED)
			jw_null(&w);
		else
			jw_bool(&w, k->v[i].answer == CHECK_YES);
		jw_key(&w, "failures");
		jw_i64(&w, (int64_t)k->v[i].n_no);
		jw_key(&w, "note");
		recio_json_text(&w, k->v[i].note, strlen(k->v[i].note));
		jw_end_obj(&w);
	}
	jw_key(&w, "records");
	jw_i64(&w, (int64_t)records);
	jw_key(&w, "verdict");
	jw_bool(&w, chat_check_good(k));
	jw_end_obj(&w);
	sb_addc(out, '\n');
}

/* Status LP_OK, LP_NO, or -1. */
static int check(struct run *r, struct err *e)
{
	char *tokenizer = opt.model ? xasprintf("%s/tokenizer.json", opt.model) : NULL;
	struct tok *tok = NULL;
	struct chat_check k;
	struct jsonl_rec rec;
	int rc = 1;

	if (tokenizer && access(tokenizer, F_OK) == 0 && !(tok = tok_load_dir(opt.model, e))) {
		free(tokenizer);
		return -1;
	}
	free(tokenizer);
	chat_check_begin(&k, r->tmpl, tok, &r->how);
	while (r->in && rc == 1 && (rc = recio_next(r->in, &rec, e)) == 1)
		if (check_record(r, &k, &rec, e))
			rc = -1;
	if (opt.json)
		put_json(&k, r->n, &r->line);
	else
		put_answers(&k, &r->line);
	tok_free(tok);
	if (rc < 0 || out_write(r->out, r->line.s, r->line.len, e))
		return -1;
	struct out *out = r->out;
	r->out = NULL;
	return out_commit(out, e) ? -1 : chat_check_good(&k) ? LP_OK : LP_NO;
}

/* The model's tokenizer.json, or NULL: without one, and then e tells whether for good. */
static char *tokenizer_text(struct err *e)
{
	char *path = opt.model ? xasprintf("%s/tokenizer.json", opt.model) : NULL, *text = NULL;
	size_t n;

	if (path && access(path, F_OK) == 0)
		text = in_slurp(path, 1u << 30, &n, e);
	free(path);
	return text;
}

static int write_modelfile(struct run *r, struct err *e)
{
	struct modelfile_opts m = { opt.modelfile, opt.system, opt.temperature, opt.num_ctx, false };
	char *tokenizer = tokenizer_text(e);
	struct sb notes = SB_INIT;
	int rc = e->code || modelfile_adds_bos(r->tmpl, tokenizer, &m.adds_bos, e) || modelfile_write(r->tmpl, &m, &r->how, &r->line, &notes, e) ? -1 : 0;

	free(tokenizer);
	for (char *p = notes.s, *end; !rc && p && *p; p = end + 1) {
		end = strchr(p, '\n');
		warn("%.*s", (int)(end - p), p);
	}
	sb_release(&notes);
	if (rc || out_write(r->out, r->line.s, r->line.len, e))
		return -1;
	struct out *out = r->out;
	r->out = NULL;
	return out_commit(out, e);
}

static int commit(struct run *r, struct err *e)
{
	struct lineage l;
	struct out *out = r->out;
	char hex[33], hash[80];
	const char *src = chat_tmpl_source(r->tmpl);

	lineage_init(&l, &spec);
	recio_hash(r->in, hex);
	snprintf(hash, sizeof(hash), "xxh3:%s", hex);
	lineage_input(&l, recio_name(r->in), hash, NULL);
	sha_once(src, strlen(src), hash + 7);
	memcpy(hash, "sha256:", 7);
	lineage_input(&l, "chat_template", hash, NULL);
	r->out = NULL;
	int rc = recio_commit(out, opt_common.output, &l, e);
	lineage_release(&l);
	return rc;
}

int main(int argc, char **argv)
{
	struct err e = ERR_INIT;
	struct run r = { 0 };
	int rc;

	tool_init(&spec, &argc, &argv);
	if (argc > 2) {
		err_set(&e, LP_USAGE, "one input at a time, not %d; join files with cat or ds-mix", argc - 1);
		return tool_fail(&e);
	}
	rc = set_up(&r, argc > 1 ? argv[1] : NULL, &e);
	if (!rc)
		rc = opt.check ? check(&r, &e) : opt.modelfile ? write_modelfile(&r, &e) : all_records(&r, &e) || commit(&r, &e) ? -1 : LP_OK;
	out_abort(r.out);
	recio_close(r.in);
	chat_tmpl_free(r.tmpl);
	chat_scratch_free(r.how.scratch);
	arena_release(&r.arena);
	sb_release(&r.text);
	sb_release(&r.line);
	return rc < 0 ? tool_fail(&e) : tool_done(rc);
}

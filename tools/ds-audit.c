/* ds-audit: checks chat records and passes them on. Rules: data/audit.h. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/log.h"
#include "base/tool.h"
#include "data/audit.h"
#include "data/recio.h"
#include "fmt/lineage.h"

static struct {
	const char *to, *format, *map, *system;
	const char *findings, *rejects, *summary, *task;
	const char *drop, *fail_on, *phrases, *roles;
	int64_t min_turns, min_chars, max_chars;
	bool skip_bad, tool_calls, duplicates, one_shape;
	struct chat_map fields; /* from map and system */
	struct opt_list phrase_list, role_list;
} opt = {
	.format = "auto",
	.phrases = "as an ai,i am an ai,language model",
	.min_turns = 2,
	.min_chars = 50,
	.max_chars = 8000,
};

static struct opt opts[] = {
	{ OPT_SECTION, .help = "Rules" },
	{ OPT_INT, "min-turns", 0, &opt.min_turns, "N", "few-turns: fewer messages than this", .max = 1e9 },
	{ OPT_INT, "min-chars", 0, &opt.min_chars, "N", "short-response: an assistant message under N characters", .max = 1e9 },
	{ OPT_INT, "max-chars", 0, &opt.max_chars, "N", "long-response: an assistant message over N characters", .max = 1e9 },
	{ OPT_STR, "leak-phrases", 0, &opt.phrases, "A,B,...", "identity-leak: a message that holds one of these, in any case" },
	{ OPT_STR, "leak-roles", 0, &opt.roles, "A,B,...", "identity-leak: look at these roles only" },
	{ OPT_FLAG, "tool-calls", 0, &opt.tool_calls, 0, "a message with tool_calls may be short, empty, or without content" },
	{ OPT_FLAG, "duplicates", 0, &opt.duplicates, 0, "duplicate: the text of an earlier record; memory grows by 40 to 80 bytes a record" },
	{ OPT_FLAG, "one-shape", 0, &opt.one_shape, 0, "mixed-shape: records of more than one shape" },
	{ OPT_CHOICE, "task", 0, &opt.task, "TASK", "size: too few records for this task", AUDIT_TASKS },
	{ OPT_SECTION, .help = "What becomes of them" },
	{ OPT_STR, "drop", 0, &opt.drop, "RULES", "leave out records with these findings (rules or severities, by commas)" },
	{ OPT_STR, "fail-on", 0, &opt.fail_on, "RULES", "exit with 1 when there is such a finding (rules or severities)" },
	{ OPT_STR, "findings", 0, &opt.findings, "FILE", "write finding records; with - they are the output, instead of the records" },
	{ OPT_STR, "rejects", 0, &opt.rejects, "FILE", "write what is left out, lines that cannot be read too, with the reasons" },
	{ OPT_FLAG, "skip-bad", 0, &opt.skip_bad, 0, "leave out lines that cannot be read instead of stopping there" },
	{ OPT_STR, "summary", 0, &opt.summary, "FILE", "write a summary for people; - is standard error (there by itself on a terminal)", .unrecorded = true },
	{ OPT_SECTION, .help = "Records" },
	{ OPT_CHOICE, "to", 0, &opt.to, "KIND", "messages: write every record in the one shape {\"messages\"}", "messages" },
	{ OPT_STR, "map", 0, &opt.map, "NAME=FIELD,...", "fields to read: prompt, completion, system, or messages" },
	{ OPT_STR, "system", 0, &opt.system, "TEXT", "a system message for records that have none" },
	{ OPT_CHOICE, "format", 0, &opt.format, "FORMAT", "of the input", "auto|jsonl|array|csv" },
	OPT_COMMON,
};
static const struct opt_spec spec = {
	.tool = "ds-audit",
	.summary = "check training data and pass it on",
	.synopsis = "[OPTION]... [FILE]",
	.notes = "Rules: few-turns, short-response, long-response, identity-leak, duplicate, mixed-shape and size are warnings; "
	         "empty-message, consecutive-role and malformed are errors.",
	.opts = opts,
};

struct run {
	struct audit *audit;
	uint32_t drop, fail_on, found;
	struct jsonl *in;
	const char *in_path;
	struct out *out, *findings, *rejects; /* findings may be out */
	struct audit_findings f;
	struct sb line;
	uint64_t n_bad, n_dropped;
};

static int write_findings(struct run *r, uint64_t line, struct err *e)
{
	for (size_t i = 0; i < r->f.n; i++) {
		const struct audit_finding *f = &r->f.v[i];

		r->found |= 1u << f->rule;
		if (!r->findings)
			continue;
		sb_reset(&r->line);
		finding_write_role(&r->line, line, audit_rule_name(f->rule), audit_severity_name(audit_rule_severity(f->rule)), f->msg, f->role);
		sb_addc(&r->line, '\n');
		if (out_write(r->findings, r->line.s, r->line.len, e) < 0)
			return -1;
	}
	return 0;
}

/* {"line","reasons":[rule...],"msg","record" or "raw"}: the record as it came, or the text of a line that is no JSON. */
static int reject(struct run *r, uint64_t line, const struct json *v, const char *raw, size_t raw_len, struct err *e)
{
	struct jw w = jw_to(&r->line);

	r->n_dropped++;
	if (!r->rejects)
		return 0;
	sb_reset(&r->line);
	jw_obj(&w);
	jw_key(&w, "line");
	jw_i64(&w, (int64_t)line);
	jw_key(&w, "reasons");
	jw_arr(&w);
	for (size_t i = 0; i < r->f.n; i++)
		jw_str(&w, audit_rule_name(r->f.v[i].rule));
	jw_end_arr(&w);
	jw_key(&w, "msg");
	jw_str(&w, r->f.n ? r->f.v[0].msg : "");
	if (v) {
		jw_key(&w, "record");
		jw_value(&w, v);
	} else {
		jw_key(&w, "raw");
		recio_json_text(&w, raw, raw_len);
	}
	jw_end_obj(&w);
	sb_addc(&r->line, '\n');
	return out_write(r->rejects, r->line.s, r->line.len, e);
}

static int emit(struct run *r, const struct jsonl_rec *rec, struct chat *c, struct err *e)
{
	if (r->findings == r->out)
		return 0;
	if (opt.to) {
		if (opt.tool_calls)
			chat_lift_calls(c, jsonl_arena(r->in));
		sb_reset(&r->line);
		chat_write(c, &r->line);
		sb_addc(&r->line, '\n');
	} else {
		recio_line(rec, &r->line);
	}
	return out_write(r->out, r->line.s, r->line.len, e);
}

static int one_record(struct run *r, const struct jsonl_rec *rec, struct err *e)
{
	struct err why = ERR_INIT;
	struct chat c;
	bool is_chat = !chat_from_json(&rec->v, &opt.fields, jsonl_arena(r->in), &c, &why);
	uint32_t rules = 0;

	if (is_chat)
		audit_chat(r->audit, rec->line, &c, &r->f);
	else
		audit_malformed(r->audit, why.msg, &r->f);
	if (write_findings(r, rec->line, e) < 0)
		return -1;
	for (size_t i = 0; i < r->f.n; i++)
		rules |= 1u << r->f.v[i].rule;
	if (rules & r->drop)
		return reject(r, rec->line, &rec->v, NULL, 0, e);
	if (is_chat || !opt.to)
		return emit(r, rec, &c, e);
	if (opt.skip_bad || opt.rejects)
		return reject(r, rec->line, &rec->v, NULL, 0, e);
	return err_line(e, LP_DATA, in_name(jsonl_in(r->in)), rec->line, "%.700s; --to messages cannot write it (--skip-bad leaves it out)", why.msg);
}

/* A line that is no JSON: *e says why, and is cleared when the audit goes on. */
static int bad_line(struct run *r, struct err *e)
{
	struct err why = *e;
	const char *raw = "";
	size_t len = 0;
	char msg[256];

	err_where(e, in_name(jsonl_in(r->in)), 0);
	if (e->code != LP_DATA || !jsonl_can_continue(r->in) || !(opt.skip_bad || opt.rejects))
		return -1;
	*e = (struct err)ERR_INIT;
	r->n_bad++;
	jsonl_bad_raw(r->in, &raw, &len);
	snprintf(msg, sizeof(msg), "%.240s", why.msg);
	audit_malformed(r->audit, msg, &r->f);
	return write_findings(r, why.line, e) < 0 ? -1 : reject(r, why.line, NULL, raw, len, e);
}

static int all_records(struct run *r, struct err *e)
{
	struct jsonl_rec rec;
	int rc;

	while ((rc = jsonl_next(r->in, &rec, e)) != 0) {
		if ((rc < 0 ? bad_line(r, e) : one_record(r, &rec, e)) < 0)
			return -1;
		if (!(audit_records(r->audit) & 4095))
			progress("%" PRIu64 " records, %" PRIu64 " with findings", audit_records(r->audit), audit_flagged(r->audit));
	}
	if (!audit_records(r->audit))
		return err_line(e, LP_DATA, in_name(jsonl_in(r->in)), 0, "no records in it");
	audit_set(r->audit, opt.one_shape, opt.task, &r->f);
	return write_findings(r, 0, e);
}

static int write_summary(struct run *r, struct err *e)
{
	struct sb text = SB_INIT;
	bool ok, to_file = opt.summary && strcmp(opt.summary, "-");
	int rc = 0;

	audit_summary(r->audit, &text);
	if (r->n_dropped)
		sb_addf(&text, "  left out: %" PRIu64 " (%" PRIu64 " of them cannot be read)\n", r->n_dropped, r->n_bad);
	if (opt.task) {
		sb_adds(&text, "  ");
		audit_size_verdict(opt.task, audit_records(r->audit), &text, &ok);
		sb_addc(&text, '\n');
	}
	progress_done();
	if (to_file) {
		struct out *o = out_open(opt.summary, e);

		rc = o && !out_write(o, text.s, text.len, e) ? out_commit(o, e) : (out_abort(o), -1);
	} else if (opt.summary || (isatty(2) && !opt_common.quiet)) {
		fputs(sb_str(&text), stderr);
	}
	sb_release(&text);
	return rc;
}

static int write_log(const struct run *r, struct err *e)
{
	struct sb rules = SB_INIT;
	int rc;

	for (int k = 0; k < AUDIT_N_RULES; k++)
		sb_addf(&rules, ",\"%s\":%" PRIu64, audit_rule_name(k), audit_count(r->audit, k));
	rc = log_metric("audit", e, "\"records\":%" PRIu64 ",\"flagged\":%" PRIu64 ",\"dropped\":%" PRIu64 ",\"unreadable\":%" PRIu64 "%s",
	                audit_records(r->audit), audit_flagged(r->audit), r->n_dropped, r->n_bad, sb_str(&rules));
	sb_release(&rules);
	return rc;
}

static void say_warnings(const struct run *r)
{
	struct sb text = SB_INIT;
	bool ok = true;

	if (r->n_bad && opt.skip_bad)
		warn("%" PRIu64 " lines cannot be read and were left out", r->n_bad);
	if (opt.task && !(opt.summary || isatty(2))) {
		audit_size_verdict(opt.task, audit_records(r->audit), &text, &ok);
		if (!ok)
			warn("%s", sb_str(&text));
	}
	sb_release(&text);
}

/* Everything under its final name. A second output gets no sidecar: the first one's tells where both are from. */
static int commit(struct run *r, struct err *e)
{
	struct out *second[] = { r->findings != r->out ? r->findings : NULL, r->rejects };
	struct lineage l;
	char hex[33], hash[48];
	int rc = 0;

	r->findings = r->rejects = NULL;
	for (size_t i = 0; i < 2; i++)
		if (second[i] && (rc ? (out_abort(second[i]), -1) : out_commit(second[i], e)) < 0)
			rc = -1;
	if (rc < 0)
		return -1;
	in_hash(jsonl_in(r->in), hex);
	snprintf(hash, sizeof(hash), "xxh3:%s", hex);
	lineage_init(&l, &spec);
	lineage_input(&l, in_name(jsonl_in(r->in)), hash, NULL);
	struct out *out = r->out;

	r->out = NULL;
	rc = recio_commit(out, opt_common.output, &l, e);
	lineage_release(&l);
	return rc;
}

/* The later of two outputs of one name would replace the other. */
static int check_outputs(struct err *e)
{
	const char *const files[] = { opt_common.output, opt.findings, opt.rejects, opt.summary };

	for (size_t i = 0; i < sizeof(files) / sizeof(*files); i++)
		for (size_t j = i + 1; j < sizeof(files) / sizeof(*files); j++)
			if (files[i] && files[j] && strcmp(files[i], "-") && !strcmp(files[i], files[j]))
				return err_set(e, LP_USAGE, "two outputs go to '%s'; give each a name of its own", files[i]);
	return 0;
}

static int open_all(struct run *r, struct err *e)
{
	struct in *in;
	bool only_findings = opt.findings && !strcmp(opt.findings, "-");

	if (opt.rejects && !strcmp(opt.rejects, "-"))
		return err_set(e, LP_USAGE, "--rejects needs a file name: standard output has the records");
	if (check_outputs(e) < 0)
		return -1;
	opt.fields.system = opt.system;
	if ((opt.map && chat_map_parse(opt.map, &opt.fields, e) < 0) || (opt.drop && audit_parse_rules(opt.drop, "drop", &r->drop, e) < 0) ||
	    (opt.fail_on && audit_parse_rules(opt.fail_on, "fail-on", &r->fail_on, e) < 0))
		return -1;
	if (!(in = in_open(r->in_path, e)) || !(r->in = jsonl_open_take(in, opt.format, e)))
		return -1;
	if (!(r->out = out_open(opt_common.output, e)))
		return -1;
	r->findings = only_findings ? r->out : NULL;
	if (opt.findings && !only_findings && !(r->findings = out_open(opt.findings, e)))
		return -1;
	return opt.rejects && !(r->rejects = out_open(opt.rejects, e)) ? -1 : 0;
}

static void release(struct run *r)
{
	if (r->findings != r->out)
		out_abort(r->findings);
	out_abort(r->rejects);
	out_abort(r->out);
	if (r->in)
		jsonl_close(r->in);
	audit_free(r->audit);
	audit_findings_release(&r->f);
	sb_release(&r->line);
}

int main(int argc, char **argv)
{
	struct err e = ERR_INIT;
	struct run r = { 0 };
	int status = LP_OK;

	tool_init(&spec, &argc, &argv);
	if (argc > 2) {
		err_set(&e, LP_USAGE, "one input at a time, not %d; join files with cat or ds-mix", argc - 1);
		return tool_fail(&e);
	}
	opt_split(opt.phrases, &opt.phrase_list);
	if (opt.roles)
		opt_split(opt.roles, &opt.role_list);
	r.audit = audit_new(&(struct audit_opts){ .min_turns = opt.min_turns,
	                                          .min_chars = opt.min_chars,
	                                          .max_chars = opt.max_chars,
	                                          .phrases = opt.phrase_list,
	                                          .leak_roles = opt.role_list,
	                                          .tool_calls = opt.tool_calls,
	                                          .duplicates = opt.duplicates });
	r.in_path = argc > 1 ? argv[1] : NULL;
	if (open_all(&r, &e) < 0 || all_records(&r, &e) < 0 || commit(&r, &e) < 0 || write_log(&r, &e) < 0 || write_summary(&r, &e) < 0) {
		release(&r);
		return tool_fail(&e);
	}
	say_warnings(&r);
	if (r.found & r.fail_on)
		status = LP_NO;
	release(&r);
	return tool_done(status);
}

#include "data/audit.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/hash.h"
#include "base/xalloc.h"
#include "text/pyfind.h"
#include "text/pystr.h"

static const struct {
	const char *name;
	enum audit_severity severity;
} RULES[AUDIT_N_RULES] = {
	[AUDIT_FEW_TURNS] = { "few-turns", AUDIT_WARNING },
	[AUDIT_SHORT_RESPONSE] = { "short-response", AUDIT_WARNING },
	[AUDIT_LONG_RESPONSE] = { "long-response", AUDIT_WARNING },
	[AUDIT_EMPTY_MESSAGE] = { "empty-message", AUDIT_ERROR },
	[AUDIT_CONSECUTIVE_ROLE] = { "consecutive-role", AUDIT_ERROR },
	[AUDIT_IDENTITY_LEAK] = { "identity-leak", AUDIT_WARNING },
	[AUDIT_MALFORMED] = { "malformed", AUDIT_ERROR },
	[AUDIT_DUPLICATE] = { "duplicate", AUDIT_WARNING },
	[AUDIT_MIXED_SHAPE] = { "mixed-shape", AUDIT_WARNING },
	[AUDIT_SIZE] = { "size", AUDIT_WARNING },
};
static const char *const SEVERITIES[] = { "info", "warning", "error" };

const char *audit_rule_name(enum audit_rule r)
{
	return RULES[r].name;
}

const char *audit_severity_name(enum audit_severity s)
{
	return SEVERITIES[s];
}

enum audit_severity audit_rule_severity(enum audit_rule r)
{
	return RULES[r].severity;
}

static bool is_name(const char *name, size_t n, const char *want)
{
	return strlen(want) == n && !memcmp(name, want, n);
}

static uint32_t rules_named(const char *name, size_t n)
{
	uint32_t set = 0;

	for (int r = 0; r < AUDIT_N_RULES; r++) {
		if (is_name(name, n, RULES[r].name))
			return 1u << r;
		for (int s = 0; s <= AUDIT_ERROR; s++)
			if (is_name(name, n, SEVERITIES[s]) && (int)RULES[r].severity >= s)
				set |= 1u << r;
		if (is_name(name, n, "all"))
			set |= 1u << r;
	}
	return set;
}

int audit_parse_rules(const char *csv, const char *option, uint32_t *rules, struct err *e)
{
	*rules = 0;
	for (const char *p = csv;; p++) {
		size_t n = strcspn(p, ",");
		uint32_t set = rules_named(p, n);

		if (!set)
			return err_set(e, LP_USAGE, "--%s: '%.*s' is neither a rule nor a severity; use few-turns, short-response, long-response, "
			               "empty-message, consecutive-role, identity-leak, malformed, duplicate, mixed-shape, size, info, warning, error or all",
			               option, (int)(n < 60 ? n : 60), p);
		*rules |= set;
		p += n;
		if (!*p)
			return 0;
	}
}

/* --- the set of texts seen: open addressing, 128-bit hashes --- */

struct seen {
	uint64_t a, b, line; /* line 0: empty */
};

#define MAX_SHAPES 8
struct audit {
	struct audit_opts o;
	struct pyfind *phrases;
	struct sb low, text;
	uint64_t n_records, n_messages, n_flagged;
	uint64_t counts[AUDIT_N_RULES];
	struct {
		const char *name;
		uint64_t n;
	} shapes[MAX_SHAPES];
	struct seen *seen;
	size_t n_seen, cap_seen;
};

struct audit *audit_new(const struct audit_opts *o)
{
	struct audit *a = xcalloc(1, sizeof(*a));

	a->o = *o;
	a->phrases = pyfind_new(o->phrases.items, o->phrases.n);
	return a;
}

void audit_free(struct audit *a)
{
	if (!a)
		return;
	pyfind_free(a->phrases);
	free(a->seen);
	sb_release(&a->low);
	sb_release(&a->text);
	free(a);
}

void audit_findings_release(struct audit_findings *f)
{
	free(f->v);
	memset(f, 0, sizeof(*f));
}

static struct audit_finding *add(struct audit *a, struct audit_findings *f, enum audit_rule rule, const char *role)
{
	f->v = xgrow(f->v, &f->cap, f->n + 1, sizeof(*f->v));
	f->v[f->n].rule = rule;
	f->v[f->n].role = role;
	f->v[f->n].msg[0] = '\0';
	a->counts[rule]++;
	return &f->v[f->n++];
}

#define SAY(finding, ...) snprintf((finding)->msg, sizeof((finding)->msg), __VA_ARGS__)

static bool is_assistant(const struct chat_msg *m)
{
	return !strcmp(m->role, "assistant");
}

/* With --tool-calls: an assistant's call, which has its say without content. */
static bool is_call(const struct audit *a, const struct chat_msg *m)
{
	const struct json *calls = a->o.tool_calls ? json_get(m->orig, "tool_calls") : NULL;

	return json_is(calls, JSON_ARR) && calls->n;
}

static void check_lengths(struct audit *a, const struct chat *c, struct audit_findings *f)
{
	for (size_t i = 0; i < c->n_msgs; i++) {
		const struct chat_msg *m = &c->msgs[i];

		if (!is_assistant(m) || is_call(a, m))
			continue;
		int64_t n = (int64_t)py_len(m->content, m->content_len);

		if (n < a->o.min_chars)
			SAY(add(a, f, AUDIT_SHORT_RESPONSE, m->role), "message %zu: assistant response of %" PRId64 " characters, under %" PRId64,
			    i + 1, n, a->o.min_chars);
		if (n > a->o.max_chars)
			SAY(add(a, f, AUDIT_LONG_RESPONSE, m->role), "message %zu: assistant response of %" PRId64 " characters, over %" PRId64,
			    i + 1, n, a->o.max_chars);
	}
}

static bool is_blank(const struct chat_msg *m)
{
	const char *s;
	size_t n;

	if (m->content_len && (unsigned char)m->content[0] > ' ' && (unsigned char)m->content[0] < 0x7f)
		return false;
	py_strip(m->content ? m->content : "", m->content_len, &s, &n);
	return n == 0;
}

static void check_empty(struct audit *a, const struct chat *c, struct audit_findings *f)
{
	for (size_t i = 0; i < c->n_msgs; i++)
		if (is_blank(&c->msgs[i]) && !is_call(a, &c->msgs[i]))
			SAY(add(a, f, AUDIT_EMPTY_MESSAGE, c->msgs[i].role), "message %zu: nothing but white space from %.80s", i + 1, c->msgs[i].role);
}

static void check_alternation(struct audit *a, const struct chat *c, struct audit_findings *f)
{
	const struct chat_msg *prev = NULL;

	for (size_t i = 0; i < c->n_msgs; i++) {
		const struct chat_msg *m = &c->msgs[i];

		if (!strcmp(m->role, "system"))
			continue;
		if (prev && !strcmp(prev->role, m->role))
			SAY(add(a, f, AUDIT_CONSECUTIVE_ROLE, m->role), "message %zu: second %.80s message in a row", i + 1, m->role);
		prev = m;
	}
}

static bool role_is_checked(const struct audit *a, const char *role)
{
	for (size_t i = 0; i < a->o.leak_roles.n; i++)
		if (!strcmp(a->o.leak_roles.items[i], role))
			return true;
	return a->o.leak_roles.n == 0;
}

static void check_identity(struct audit *a, const struct chat *c, struct audit_findings *f)
{
	for (size_t i = 0; i < c->n_msgs; i++) {
		const struct chat_msg *m = &c->msgs[i];
		int k = role_is_checked(a, m->role) ? pyfind_any(a->phrases, m->content ? m->content : "", m->content_len) : -1;

		if (k >= 0)
			SAY(add(a, f, AUDIT_IDENTITY_LEAK, m->role), "message %zu: %.80s says \"%.100s\"", i + 1, m->role, pyfind_phrase(a->phrases, k));
	}
}

/* --- duplicates --- */

static void seen_grow(struct audit *a)
{
	size_t old_cap = a->cap_seen;
	struct seen *old = a->seen;

	a->cap_seen = old_cap ? old_cap * 2 : 1024;
	a->seen = xcalloc(a->cap_seen, sizeof(*a->seen));
	for (size_t i = 0; i < old_cap; i++) {
		if (!old[i].line)
			continue;
		size_t k = old[i].a & (a->cap_seen - 1);

		while (a->seen[k].line)
			k = (k + 1) & (a->cap_seen - 1);
		a->seen[k] = old[i];
	}
	free(old);
}

/* The line of an earlier record with this text, or 0 after remembering it. */
static uint64_t seen_before(struct audit *a, const void *p, size_t n, uint64_t line)
{
	uint64_t h = xxh_u64(p, n, 0x9e3779b97f4a7c15ull), g = xxh_u64(p, n, 0xc2b2ae3d27d4eb4full);
	size_t k;

	if (a->n_seen * 5 >= a->cap_seen * 3)
		seen_grow(a);
	for (k = h & (a->cap_seen - 1); a->seen[k].line; k = (k + 1) & (a->cap_seen - 1))
		if (a->seen[k].a == h && a->seen[k].b == g)
			return a->seen[k].line;
	a->seen[k] = (struct seen){ h, g, line };
	a->n_seen++;
	return 0;
}

static void check_duplicate(struct audit *a, uint64_t line, const struct chat *c, struct audit_findings *f)
{
	sb_reset(&a->text);
	for (size_t i = 0; i < c->n_msgs; i++) {
		sb_adds(&a->text, c->msgs[i].role);
		sb_addc(&a->text, '\1');
		py_collapse(c->msgs[i].content ? c->msgs[i].content : "", c->msgs[i].content_len, &a->low);
		sb_add(&a->text, sb_str(&a->low), a->low.len);
		sb_addc(&a->text, '\2');
	}
	uint64_t first = seen_before(a, sb_str(&a->text), a->text.len, line);

	if (first)
		SAY(add(a, f, AUDIT_DUPLICATE, NULL), "same text as the record at line %" PRIu64, first);
}

/* --- one record --- */

static void count_shape(struct audit *a, const char *shape)
{
	for (size_t i = 0; i < MAX_SHAPES; i++) {
		if (a->shapes[i].name && strcmp(a->shapes[i].name, shape))
			continue;
		a->shapes[i].name = shape;
		a->shapes[i].n++;
		return;
	}
}

void audit_malformed(struct audit *a, const char *why, struct audit_findings *f)
{
	f->n = 0;
	a->n_records++;
	a->n_flagged++;
	SAY(add(a, f, AUDIT_MALFORMED, NULL), "%.240s", why);
}

void audit_chat(struct audit *a, uint64_t line, const struct chat *c, struct audit_findings *f)
{
	char why[64];

	for (size_t i = 0; i < c->n_msgs; i++) {
		if (c->msgs[i].content || is_call(a, &c->msgs[i]))
			continue;
		snprintf(why, sizeof(why), "message %zu has no content", i + 1);
		audit_malformed(a, why, f);
		return;
	}
	f->n = 0;
	a->n_records++;
	a->n_messages += c->n_msgs;
	count_shape(a, c->shape);
	if ((int64_t)c->n_msgs < a->o.min_turns)
		SAY(add(a, f, AUDIT_FEW_TURNS, NULL), "%zu turn%s, under %" PRId64, c->n_msgs, c->n_msgs == 1 ? "" : "s", a->o.min_turns);
	check_lengths(a, c, f);
	check_empty(a, c, f);
	check_alternation(a, c, f);
	check_identity(a, c, f);
	if (a->o.duplicates)
		check_duplicate(a, line, c, f);
	a->n_flagged += f->n > 0;
}

/* --- the whole set --- */

static void list_shapes(const struct audit *a, struct sb *out)
{
	for (size_t i = 0; i < MAX_SHAPES && a->shapes[i].name; i++)
		sb_addf(out, "%s%s %" PRIu64, i ? ", " : "", a->shapes[i].name, a->shapes[i].n);
}

void audit_set(struct audit *a, bool one_shape, const char *task, struct audit_findings *f)
{
	struct sb text = SB_INIT;
	bool ok;

	f->n = 0;
	if (one_shape && a->shapes[1].name) {
		list_shapes(a, &text);
		SAY(add(a, f, AUDIT_MIXED_SHAPE, NULL), "records of more than one shape: %.200s", sb_str(&text));
	}
	if (task) {
		sb_reset(&text);
		audit_size_verdict(task, a->n_records, &text, &ok);
		if (!ok)
			SAY(add(a, f, AUDIT_SIZE, NULL), "%.240s", sb_str(&text));
	}
	sb_release(&text);
}

uint64_t audit_records(const struct audit *a)
{
	return a->n_records;
}

uint64_t audit_count(const struct audit *a, enum audit_rule r)
{
	return a->counts[r];
}

uint64_t audit_flagged(const struct audit *a)
{
	return a->n_flagged;
}

void audit_summary(const struct audit *a, struct sb *out)
{
	sb_addf(out, "%" PRIu64 " records, %" PRIu64 " messages, %" PRIu64 " with findings", a->n_records, a->n_messages, a->n_flagged);
	if (a->shapes[0].name) {
		sb_adds(out, "; shapes: ");
		list_shapes(a, out);
	}
	sb_addc(out, '\n');
	for (int r = 0; r < AUDIT_N_RULES; r++)
		if (a->counts[r])
			sb_addf(out, "  %-16s %10" PRIu64 "  %s\n", RULES[r].name, a->counts[r], SEVERITIES[RULES[r].severity]);
}

/* The guides' table: where training begins to work, where it is best, where more stops paying. */
static const struct {
	const char *task, *label;
	uint64_t min_low, min_high, best_low, best_high, much;
} SIZES[] = {
	{ "style", "style or tone", 50, 100, 200, 500, 1000 },
	{ "qa", "domain questions", 200, 500, 1000, 3000, 10000 },
	{ "code", "code generation", 500, 1000, 2000, 5000, 15000 },
	{ "reasoning", "reasoning chains", 1000, 2000, 5000, 10000, 20000 },
};

void audit_size_verdict(const char *task, uint64_t n, struct sb *out, bool *ok)
{
	size_t i = 0;

	while (i + 1 < sizeof(SIZES) / sizeof(SIZES[0]) && strcmp(task, SIZES[i].task))
		i++;
	*ok = n >= SIZES[i].best_low;
	sb_addf(out, "%" PRIu64 " records for %s: ", n, SIZES[i].label);
	if (n < SIZES[i].min_low)
		sb_addf(out, "too few, the minimum is %" PRIu64 " to %" PRIu64, SIZES[i].min_low, SIZES[i].min_high);
	else if (n < SIZES[i].best_low)
		sb_addf(out, "%s, below the sweet spot of %" PRIu64 " to %" PRIu64, n < SIZES[i].min_high ? "at the minimum" : "above the minimum",
		        SIZES[i].best_low, SIZES[i].best_high);
	else if (n <= SIZES[i].best_high)
		sb_addf(out, "in the sweet spot of %" PRIu64 " to %" PRIu64, SIZES[i].best_low, SIZES[i].best_high);
	else if (n <= SIZES[i].much)
		sb_addf(out, "more than the sweet spot of %" PRIu64 " to %" PRIu64, SIZES[i].best_low, SIZES[i].best_high);
	else
		sb_addf(out, "beyond %" PRIu64 ", where more records add little; prefer better ones", SIZES[i].much);
	if (n < 200)
		sb_adds(out, "; under 200 a model memorises");
}

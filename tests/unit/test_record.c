/* json/record*.c: every shape, what is refused and why, and real files against Python's goldens. */
#include "json/record.h"

#include <inttypes.h>

#include "base/hash.h"
#include "base/num.h"
#include "json/jsonl.h"
#include "scratch.h"

static struct arena arena;

static struct json parse(const char *text)
{
	struct json v;

	OK(json_parse_str(text, &arena, &v, &er));
	return v;
}

/* "role:content|role:content", null content as "-". */
static void show(const struct chat *c, struct sb *out)
{
	for (size_t i = 0; i < c->n_msgs; i++) {
		sb_addf(out, "%s%s:", i ? "|" : "", c->msgs[i].role);
		if (c->msgs[i].content)
			sb_add(out, c->msgs[i].content, c->msgs[i].content_len);
		else
			sb_addc(out, '-');
	}
}

static const struct {
	const char *in, *shape, *turns, *written; /* written NULL: as it was */
} GOOD[] = {
	{ "{\"messages\":[{\"role\":\"user\",\"content\":\"a\"},{\"role\":\"assistant\",\"content\":\"b\"}],\"id\":1e400}", "messages", "user:a|assistant:b", NULL },
	{ "{\"messages\":[]}", "messages", "", NULL },
	{ "{\"messages\":[{\"role\":\"assistant\",\"content\":null,\"tool_calls\":[{\"id\":1}]}]}", "messages", "assistant:-", NULL },
	{ "{\"messages\":[{\"role\":\"assistant\",\"tool_calls\":[{\"id\":1}]}]}", "messages", "assistant:-", NULL },
	{ "{\"conversations\":[{\"role\":\"user\",\"content\":\"a\",\"weight\":0.10}],\"n\":100000000000000000000000001}", "conversations", "user:a",
	  "{\"messages\":[{\"role\":\"user\",\"content\":\"a\",\"weight\":0.10}],\"n\":100000000000000000000000001}" },
	{ "{\"conversations\":[{\"from\":\"system\",\"value\":\"s\"},{\"from\":\"human\",\"value\":\"a\"},{\"from\":\"function_call\",\"value\":\"{}\"},"
	  "{\"from\":\"observation\",\"value\":\"o\"},{\"from\":\"gpt\",\"value\":\"b\"}],\"tools\":\"[]\"}",
	  "sharegpt", "system:s|user:a|assistant:{}|tool:o|assistant:b",
	  "{\"messages\":[{\"role\":\"system\",\"content\":\"s\"},{\"role\":\"user\",\"content\":\"a\"},{\"role\":\"assistant\",\"content\":\"{}\"},"
	  "{\"role\":\"tool\",\"content\":\"o\"},{\"role\":\"assistant\",\"content\":\"b\"}],\"tools\":\"[]\"}" },
	{ "{\"instruction\":\"do\",\"input\":\"\",\"output\":\"done\"}", "instruction", "user:do|assistant:done",
	  "{\"messages\":[{\"role\":\"user\",\"content\":\"do\"},{\"role\":\"assistant\",\"content\":\"done\"}]}" },
	{ "{\"k\":1,\"instruction\":\"do\",\"input\":\"it\",\"response\":\"done\",\"system\":\"s\",\"z\":[2]}", "instruction", "system:s|user:do\n\nit|assistant:done",
	  "{\"messages\":[{\"role\":\"system\",\"content\":\"s\"},{\"role\":\"user\",\"content\":\"do\\n\\nit\"},{\"role\":\"assistant\",\"content\":\"done\"}],\"k\":1,\"z\":[2]}" },
	{ "{\"instruction\":\"do\",\"output\":{\"b\":[1.50,true],\"a\":null}}", "instruction", "user:do|assistant:{\"b\":[1.50,true],\"a\":null}",
	  "{\"messages\":[{\"role\":\"user\",\"content\":\"do\"},{\"role\":\"assistant\",\"content\":\"{\\\"b\\\":[1.50,true],\\\"a\\\":null}\"}]}" },
	{ "{\"instruction\":\"do\",\"system\":\"\",\"output\":\"x\"}", "instruction", "user:do|assistant:x",
	  "{\"messages\":[{\"role\":\"user\",\"content\":\"do\"},{\"role\":\"assistant\",\"content\":\"x\"}]}" },
	{ "{\"prompt\":\"p\",\"completion\":\"c\"}", "prompt", "user:p|assistant:c",
	  "{\"messages\":[{\"role\":\"user\",\"content\":\"p\"},{\"role\":\"assistant\",\"content\":\"c\"}]}" },
	{ "{\"prompt\":[{\"role\":\"user\",\"content\":\"p\"}],\"completion\":[{\"role\":\"assistant\",\"content\":\"c\"}]}", "prompt", "user:p|assistant:c",
	  "{\"messages\":[{\"role\":\"user\",\"content\":\"p\"},{\"role\":\"assistant\",\"content\":\"c\"}]}" },
	{ "{\"question\":\"q\",\"answer\":42}", "question", "user:q|assistant:42",
	  "{\"messages\":[{\"role\":\"user\",\"content\":\"q\"},{\"role\":\"assistant\",\"content\":\"42\"}]}" },
	{ "{\"prompt\":\"p\",\"answer\":\"a\"}", "prompt", "user:p|assistant:a",
	  "{\"messages\":[{\"role\":\"user\",\"content\":\"p\"},{\"role\":\"assistant\",\"content\":\"a\"}]}" },
	{ "{\"text\":\"t\"}", "text", "assistant:t", "{\"messages\":[{\"role\":\"assistant\",\"content\":\"t\"}]}" },
	{ "{\"messages\":null,\"text\":\"t\",\"conversations\":null}", "text", "assistant:t",
	  "{\"messages\":[{\"role\":\"assistant\",\"content\":\"t\"}],\"conversations\":null}" },
	{ "{\"messages\":[{\"role\":\"user\",\"content\":[{\"type\":\"text\",\"text\":\"a\"},{\"type\":\"text\",\"value\":\"b\"}],\"w\":0.0}]}", "messages", "user:ab",
	  "{\"messages\":[{\"role\":\"user\",\"content\":\"ab\",\"w\":0.0}]}" },
	{ "{\"messages\":[{\"role\":\"assistant\",\"content\":[{\"type\":\"reasoning\",\"value\":\"why\"},{\"type\":\"text\",\"value\":\"b\"},"
	  "{\"type\":\"tool_call\",\"value\":\"{\\\"name\\\":\\\"f\\\",\\\"arguments\\\":{\\\"x\\\":1}}\"}]}]}", "messages", "assistant:b",
	  "{\"messages\":[{\"role\":\"assistant\",\"content\":\"b\",\"reasoning_content\":\"why\",\"tool_calls\":[{\"type\":\"function\",\"function\":"
	  "{\"name\":\"f\",\"arguments\":{\"x\":1}}}]}]}" },
	{ "{\"messages\":[{\"role\":\"user\",\"content\":\"a\\u0000b\"}]}", "messages", "user:a", NULL },
};

START_TEST(shapes)
{
	struct json v = parse(GOOD[_i].in);
	struct sb turns = SB_INIT, out = SB_INIT;
	struct chat c;

	OK(chat_from_json(&v, NULL, &arena, &c, &er));
	ck_assert_str_eq(c.shape, GOOD[_i].shape);
	show(&c, &turns);
	ck_assert_str_eq(sb_str(&turns), GOOD[_i].turns);
	chat_write(&c, &out);
	ck_assert_str_eq(sb_str(&out), GOOD[_i].written ? GOOD[_i].written : GOOD[_i].in);
	/* What was written reads as the same turns. */
	struct json again = parse(sb_str(&out));
	struct sb turns2 = SB_INIT;

	OK(chat_from_json(&again, NULL, &arena, &c, &er));
	show(&c, &turns2);
	ck_assert_str_eq(sb_str(&turns), sb_str(&turns2));
	sb_release(&turns);
	sb_release(&turns2);
	sb_release(&out);
}
END_TEST

static const struct {
	const char *in, *says;
} REFUSED[] = {
	{ "[1]", "not a JSON object" },
	{ "{}", "no known shape of chat record (fields: none)" },
	{ "{\"foo\":1,\"bar\":2}", "(fields: foo, bar)" },
	{ "{\"prompt\":\"p\"}", "no known shape" },
	{ "{\"messages\":[],\"text\":\"t\"}", "fits two shapes, \"messages\" and \"text\"" },
	{ "{\"instruction\":\"a\",\"output\":\"b\",\"prompt\":\"c\",\"completion\":\"d\"}", "fits two shapes, \"instruction\" and \"prompt\"" },
	{ "{\"instruction\":\"a\",\"output\":\"b\",\"response\":\"c\"}", "has both \"output\" and \"response\"" },
	{ "{\"prompt\":\"a\",\"answer\":\"b\",\"response\":\"c\"}", "has both \"response\" and \"answer\"" },
	{ "{\"prompt\":\"a\",\"chosen\":\"b\",\"rejected\":\"c\"}", "a preference record" },
	{ "{\"messages\":{\"role\":\"user\"}}", "\"messages\" is not a list of messages" },
	{ "{\"messages\":[\"x\"]}", "message 1 is not an object" },
	{ "{\"messages\":[{\"content\":\"x\"}]}", "message 1 has no \"role\"" },
	{ "{\"messages\":[{\"role\":5,\"content\":\"x\"}]}", "message 1: \"role\" is not a plain string" },
	{ "{\"messages\":[{\"role\":\"u\\u0000\",\"content\":\"x\"}]}", "not a plain string" },
	{ "{\"messages\":[{\"role\":\"user\",\"content\":\"x\"},{\"role\":\"user\"}]}", "message 2 has no \"content\"" },
	{ "{\"messages\":[{\"role\":\"user\",\"content\":7}]}", "neither a string nor a list of parts" },
	{ "{\"messages\":[{\"role\":\"user\",\"content\":[{\"type\":\"image_url\",\"image_url\":\"u\"}]}]}", "content part 1 has type 'image_url'" },
	{ "{\"messages\":[{\"role\":\"user\",\"content\":[{\"type\":\"text\"}]}]}", "content part 1 has no text" },
	{ "{\"messages\":[{\"role\":\"user\",\"content\":[\"x\"]}]}", "content part 1 is not an object" },
	{ "{\"messages\":[{\"role\":\"assistant\",\"content\":[{\"type\":\"tool_call\",\"value\":\"{no\"}]}]}", "tool call is not JSON" },
	{ "{\"conversations\":[{\"from\":\"human\",\"value\":\"a\"},{\"role\":\"assistant\",\"content\":\"b\"}]}", "message 2 has no \"from\"" },
	{ "{\"text\":5}", "\"text\" is not a string" },
	{ "{\"instruction\":[1],\"output\":\"x\"}", "\"instruction\" is not a string" },
	{ "{\"instruction\":\"a\",\"output\":\"x\",\"system\":4}", "\"system\" is not a string" },
	{ "{\"messages\":[],\"tools\":\"{\"}", "\"tools\" is text, but not JSON" },
	{ "{\"messages\":[],\"tools\":\"{}\"}", "not of a list" },
	{ "{\"messages\":[],\"tools\":5}", "\"tools\" is neither" },
};

START_TEST(refused)
{
	struct json v = parse(REFUSED[_i].in);
	struct chat c;

	BAD(chat_from_json(&v, NULL, &arena, &c, &er), LP_DATA, REFUSED[_i].says);
}
END_TEST

static void turns_are(const char *in, const char *map, const char *system, const char *want)
{
	struct json v = parse(in);
	struct chat_map m = { .system = system };
	struct chat c;
	struct sb turns = SB_INIT;

	if (map)
		OK(chat_map_parse(map, &m, &er));
	OK(chat_from_json(&v, &m, &arena, &c, &er));
	show(&c, &turns);
	ck_assert_str_eq(sb_str(&turns), want);
	sb_release(&turns);
}

START_TEST(maps)
{
	const char *two = "{\"instruction\":\"a\",\"output\":\"b\",\"text\":\"c\",\"q\":\"d\",\"s\":\"e\",\"turns\":[{\"from\":\"human\",\"value\":\"f\"}]}";
	struct json v = parse(two);
	struct chat_map m = { 0 };
	struct chat c;

	turns_are(two, "prompt=instruction,completion=output", NULL, "user:a|assistant:b");
	turns_are(two, "prompt=q,completion=text,system=s", NULL, "system:e|user:d|assistant:c");
	turns_are(two, "messages=turns", "S", "system:S|user:f");
	turns_are(two, "prompt=q", NULL, "user:d");
	turns_are("{\"messages\":[{\"role\":\"user\",\"content\":\"a\"}],\"s\":\"e\"}", "system=s", "S", "system:e|user:a");
	turns_are("{\"messages\":[{\"role\":\"system\",\"content\":\"own\"}]}", NULL, "S", "system:own");
	turns_are("{\"text\":\"plain\"}", NULL, "S", "assistant:plain");
	OK(chat_map_parse("prompt=q,completion=nope", &m, &er));
	BAD(chat_from_json(&v, &m, &arena, &c, &er), LP_DATA, "no field \"nope\", which --map names");
	m = (struct chat_map){ 0 };
	BAD(chat_map_parse("prompt", &m, &er), LP_USAGE, "not NAME=FIELD");
	BAD(chat_map_parse("prompt=", &m, &er), LP_USAGE, "not NAME=FIELD");
	BAD(chat_map_parse("user=x", &m, &er), LP_USAGE, "unknown name 'user'");
	BAD(chat_map_parse("completion=x", &m, &er), LP_USAGE, "needs prompt=FIELD");
	m = (struct chat_map){ 0 };
	BAD(chat_map_parse("messages=x,prompt=y", &m, &er), LP_USAGE, "stands alone");
}
END_TEST

START_TEST(tools_and_id)
{
	struct json v = parse("{\"id\":\"x\",\"messages\":[],\"tools\":\"[{\\\"name\\\":\\\"f\\\"}]\",\"documents\":[1]}");
	struct chat c;

	OK(chat_from_json(&v, NULL, &arena, &c, &er));
	ck_assert(json_str_is(c.id, "x") && c.tools && c.tools->n == 1 && c.documents->n == 1);
	ck_assert(json_str_is(json_get(&c.tools->items[0], "name"), "f"));
	v = parse("{\"messages\":[],\"tools\":[]}");
	OK(chat_from_json(&v, NULL, &arena, &c, &er));
	ck_assert(c.tools && c.tools->n == 0); /* an empty list stays one; its text does not */
	v = parse("{\"messages\":[],\"tools\":\" [ ] \"}");
	OK(chat_from_json(&v, NULL, &arena, &c, &er));
	ck_assert_ptr_null(c.tools);
}
END_TEST

START_TEST(calls)
{
	static const char *const in[] = { "{\\\"name\\\":\\\"f\\\",\\\"arguments\\\":{\\\"x\\\":1.0}}", "[{\\\"name\\\":\\\"f\\\"},{\\\"name\\\":\\\"g\\\"}]", "not a call", "{}", "[]" };
	static const char *const want[] = {
		"\"content\":\"\",\"w\":1,\"tool_calls\":[{\"type\":\"function\",\"function\":{\"name\":\"f\",\"arguments\":{\"x\":1.0}}}]}",
		"\"content\":\"\",\"w\":1,\"tool_calls\":[{\"type\":\"function\",\"function\":{\"name\":\"f\"}},{\"type\":\"function\",\"function\":{\"name\":\"g\"}}]}",
		"\"content\":\"not a call\",\"w\":1}",
		"\"content\":\"{}\",\"w\":1}",
		"\"content\":\"[]\",\"w\":1}",
	};
	char text[300], expected[400];
	struct sb out = SB_INIT;
	struct chat c;

	snprintf(text, sizeof(text), "{\"conversations\":[{\"from\":\"function_call\",\"value\":\"%s\",\"w\":1}]}", in[_i]);
	snprintf(expected, sizeof(expected), "{\"messages\":[{\"role\":\"assistant\",%s]}", want[_i]);
	struct json v = parse(text);

	OK(chat_from_json(&v, NULL, &arena, &c, &er));
	chat_lift_calls(&c, &arena);
	chat_write(&c, &out);
	ck_assert_str_eq(sb_str(&out), expected);
	sb_release(&out);
}
END_TEST

static const struct {
	const char *in, *want; /* prompt # chosen # rejected, or the label */
} PREFS[] = {
	{ "{\"prompt\":\"p\",\"chosen\":\"c\",\"rejected\":\"r\"}", "user:p#assistant:c#assistant:r" },
	{ "{\"system\":\"s\",\"question\":\"p\",\"chosen\":\"c\",\"rejected\":\"r\"}", "system:s|user:p#assistant:c#assistant:r" },
	{ "{\"instruction\":\"p\",\"input\":\"i\",\"chosen\":\"c\",\"rejected\":\"r\"}", "user:p\n\ni#assistant:c#assistant:r" },
	{ "{\"prompt\":[{\"role\":\"user\",\"content\":\"p\"}],\"chosen\":[{\"role\":\"assistant\",\"content\":\"c\"}],\"rejected\":[{\"role\":\"assistant\",\"content\":\"r\"}]}",
	  "user:p#assistant:c#assistant:r" },
	{ "{\"conversations\":[{\"from\":\"human\",\"value\":\"p\"}],\"chosen\":{\"from\":\"gpt\",\"value\":\"c\"},\"rejected\":{\"from\":\"gpt\",\"value\":\"r\"}}",
	  "user:p#assistant:c#assistant:r" },
	{ "{\"chosen\":[{\"role\":\"user\",\"content\":\"p\"},{\"role\":\"assistant\",\"content\":\"c\"}],\"rejected\":[{\"role\":\"user\",\"content\":\"p\"},{\"role\":\"assistant\",\"content\":\"r\"}]}",
	  "user:p#assistant:c#assistant:r" },
	{ "{\"prompt\":\"p\",\"chosen\":[{\"role\":\"user\",\"content\":\"p\"},{\"role\":\"assistant\",\"content\":\"c\"}],\"rejected\":[{\"role\":\"user\",\"content\":\"p\"},{\"role\":\"assistant\",\"content\":\"r\"}]}",
	  "user:p#assistant:c#assistant:r" },
	{ "{\"chosen\":\"\\n\\nHuman: p\\n\\nAssistant: c\",\"rejected\":\"\\n\\nHuman: p\\n\\nAssistant: r\\n\\nHuman: more\"}", "user:p#assistant:c#assistant:r|user:more" },
	{ "{\"prompt\":\"\\n\\nHuman: p\\n\\nAssistant:\",\"chosen\":\" c\",\"rejected\":\" r\"}", "user:p#assistant: c#assistant: r" },
	{ "{\"chosen\":\"\\n\\nHuman: a\\n\\nAssistant: b\\n\\nHuman: x\\n\\nAssistant: c\",\"rejected\":\"\\n\\nHuman: a\\n\\nAssistant: b\\n\\nHuman: y\\n\\nAssistant: r\"}",
	  "user:a#assistant:b|user:x|assistant:c#assistant:b|user:y|assistant:r" },
	{ "{\"messages\":[{\"role\":\"user\",\"content\":\"p\"},{\"role\":\"assistant\",\"content\":\"c\"}],\"label\":false}", "user:p#assistant:c#false" },
	{ "{\"prompt\":\"p\",\"completion\":\"c\",\"label\":true}", "user:p#assistant:c#true" },
};

static void show_pref(const struct pref *p, struct sb *out)
{
	show(&p->prompt, out);
	sb_addc(out, '#');
	show(&p->chosen, out);
	sb_addc(out, '#');
	if (p->has_label)
		sb_adds(out, p->label ? "true" : "false");
	else
		show(&p->rejected, out);
}

START_TEST(preferences)
{
	struct json v = parse(PREFS[_i].in);
	struct pref p;
	struct sb out = SB_INIT;

	ck_assert(record_is_preference(&v));
	OK(pref_from_json(&v, NULL, &arena, &p, &er));
	show_pref(&p, &out);
	ck_assert_str_eq(sb_str(&out), PREFS[_i].want);
	sb_release(&out);
}
END_TEST

static const struct {
	const char *in, *says;
} BAD_PREFS[] = {
	{ "{\"prompt\":\"p\",\"chosen\":\"c\"}", "no \"rejected\"" },
	{ "{\"chosen\":\"c\",\"rejected\":\"r\"}", "no prompt, and chosen and rejected are single answers" },
	{ "{\"prompt\":5,\"chosen\":\"c\",\"rejected\":\"r\"}", "\"prompt\" is neither" },
	{ "{\"prompt\":\"p\",\"chosen\":5,\"rejected\":\"r\"}", "\"chosen\" is neither" },
	{ "{\"chosen\":\"\\n\\nHuman: p\\n\\nAssistant: c\",\"rejected\":\"\\n\\nHuman: p\\n\\nAssistant: c\"}", "are the same" },
	{ "{\"chosen\":\"\\n\\nHuman: p\\n\\nAssistant: c\",\"rejected\":\"\\n\\nHuman: q\\n\\nAssistant: c\"}", "no common start" },
	{ "{\"messages\":[{\"role\":\"user\",\"content\":\"p\"}],\"label\":true}", "ends with the assistant's answer" },
};

START_TEST(bad_preferences)
{
	struct json v = parse(BAD_PREFS[_i].in);
	struct pref p;

	BAD(pref_from_json(&v, NULL, &arena, &p, &er), LP_DATA, BAD_PREFS[_i].says);
}
END_TEST

START_TEST(not_preferences)
{
	const char *const other[] = { "{\"messages\":[]}", "{\"text\":\"x\",\"label\":true}", "{\"prompt\":\"p\",\"label\":1}", "[]", "{\"chosen\":\"c\",\"rejected\":null}" };

	for (size_t i = 0; i < sizeof(other) / sizeof(other[0]); i++) {
		struct json v = parse(other[i]);

		ck_assert_msg(!record_is_preference(&v), "%s", other[i]);
	}
}
END_TEST

START_TEST(findings)
{
	struct sb s = SB_INIT;

	finding_write(&s, 7, "few-turns", "warning", "a \"b\"");
	ck_assert_str_eq(s.s, "{\"line\":7,\"rule\":\"few-turns\",\"severity\":\"warning\",\"msg\":\"a \\\"b\\\"\"}");
	sb_reset(&s);
	finding_write_role(&s, 1, "x", "error", "m", "user");
	ck_assert_str_eq(s.s, "{\"line\":1,\"rule\":\"x\",\"severity\":\"error\",\"msg\":\"m\",\"role\":\"user\"}");
	sb_release(&s);
}
END_TEST

/* Whatever is still JSON after a few changed bytes is read or refused, and what is written reads again. */
START_TEST(mutations)
{
	static const char swaps[] = "\"{}[]:,nulltrue0019.eE-\\ab";
	struct json_parser *parser = json_parser_new();
	struct arena a = ARENA_INIT;
	struct sb out = SB_INIT;
	uint64_t x = 0x853c49e6748fea9bull + (uint64_t)_i;
	int n_read = 0;

	for (int t = 0; t < 4000; t++) {
		size_t n_good = sizeof(GOOD) / sizeof(GOOD[0]), n_pref = sizeof(PREFS) / sizeof(PREFS[0]), k = (size_t)t % (n_good + n_pref);
		char *text = calloc(1, 1024 + JSON_PADDING);
		size_t n;
		struct json v, again;
		struct chat c;
		struct pref p;

		n = (size_t)snprintf(text, 1024, "%s", k < n_good ? GOOD[k].in : PREFS[k - n_good].in);
		for (int m = 0; m < 1 + t % 3; m++) {
			x = x * 6364136223846793005ull + 1442695040888963407ull;
			text[(x >> 33) % n] = swaps[(x >> 20) % (sizeof(swaps) - 1)];
		}
		arena_reset(&a);
		if (!json_parse(parser, text, n, &a, &v, &er)) {
			if (!chat_from_json(&v, NULL, &a, &c, &er)) {
				sb_reset(&out);
				chat_lift_calls(&c, &a);
				chat_write(&c, &out);
				OK(json_parse_str(sb_str(&out), &a, &again, &er));
				n_read++;
			}
			if (!pref_from_json(&v, NULL, &a, &p, &er))
				ck_assert(p.prompt.n_msgs && p.chosen.n_msgs && (p.has_label || p.rejected.n_msgs));
		}
		free(text);
	}
	ck_assert_int_gt(n_read, 100);
	json_parser_free(parser);
	arena_release(&a);
	sb_release(&out);
}
END_TEST

/* --- real files --- */

static void add(struct sb *b, const struct chat *c)
{
	for (size_t i = 0; i < c->n_msgs; i++) {
		sb_adds(b, c->msgs[i].role);
		sb_addc(b, '\x1f');
		sb_add(b, c->msgs[i].content ? c->msgs[i].content : "", c->msgs[i].content_len);
		sb_addc(b, '\x1e');
	}
}

/* One record as the golden's script writes it; false when it is refused. */
static bool canonical(struct jsonl *j, const struct jsonl_rec *rec, bool pref, struct sb *b)
{
	struct err e = ERR_INIT;
	struct chat c;
	struct pref p;

	sb_reset(b);
	if (!pref) {
		if (chat_from_json(&rec->v, NULL, jsonl_arena(j), &c, &e) < 0)
			return false;
		add(b, &c);
	} else {
		if (pref_from_json(&rec->v, NULL, jsonl_arena(j), &p, &e) < 0)
			return false;
		add(b, &p.prompt);
		sb_addc(b, '\x1d');
		add(b, &p.chosen);
		sb_addc(b, '\x1d');
		if (p.has_label)
			sb_addc(b, p.label ? '1' : '0');
		else
			add(b, &p.rejected);
	}
	sb_addc(b, '\n');
	return true;
}

/* Returns false when the file is not there. */
static bool check_file(const char *dir, const char *name, bool pref, uint64_t want_read, uint64_t want_refused, const char *want_hash)
{
	char path[512], hex[65];
	struct err e = ERR_INIT;
	struct jsonl_rec rec;
	struct jsonl *j;
	struct sha *h = sha_new();
	struct sb b = SB_INIT;
	uint64_t n_read = 0, n_refused = 0;
	int rc;

	snprintf(path, sizeof(path), "%s/%s", dir, name);
	if (access(path, R_OK)) {
		sha_free(h);
		return false;
	}
	j = jsonl_open_take(in_open(path, &e), NULL, &e);
	ck_assert_msg(j != NULL, "%s: %s", path, e.msg);
	while ((rc = jsonl_next(j, &rec, &e)) == 1) {
		if (canonical(j, &rec, pref, &b)) {
			n_read++;
			sha_add(h, b.s, b.len);
		} else {
			n_refused++;
		}
	}
	ck_assert_msg(rc == 0, "%s: %s", path, e.msg);
	sha_hex(h, hex);
	ck_assert_msg(n_read == want_read && n_refused == want_refused, "%s: %" PRIu64 " read, %" PRIu64 " refused", name, n_read, n_refused);
	ck_assert_msg(!strcmp(hex, want_hash), "%s: messages differ from the golden's", name);
	sha_free(h);
	sb_release(&b);
	jsonl_close(j);
	return true;
}

/* data/sets, and the folder named by LP_DATA_DIR if it is set. */
START_TEST(real_files)
{
	size_t n;
	char *text = get_file("tests/unit/data/record_goldens.tsv", &n), *rest = text, *line;
	const char *more = getenv("LP_DATA_DIR");
	int n_files = 0;

	while ((line = strsep(&rest, "\n"))) {
		char *f[5], *p = line;
		uint64_t n_read, n_refused;

		if (!*line || *line == '#')
			continue;
		for (int i = 0; i < 5; i++)
			ck_assert_ptr_nonnull(f[i] = strsep(&p, "\t"));
		ck_assert(parse_u64(f[2], &n_read) && parse_u64(f[3], &n_refused));
		n_files += check_file("data/sets", f[0], !strcmp(f[1], "preference"), n_read, n_refused, f[4]);
		if (more)
			n_files += check_file(more, f[0], !strcmp(f[1], "preference"), n_read, n_refused, f[4]);
	}
	ck_assert_int_ge(n_files, 7);
	free(text);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("record");
	TCase *c = tcase_create("all");

	tcase_add_loop_test(c, shapes, 0, sizeof(GOOD) / sizeof(GOOD[0]));
	tcase_add_loop_test(c, refused, 0, sizeof(REFUSED) / sizeof(REFUSED[0]));
	tcase_add_loop_test(c, preferences, 0, sizeof(PREFS) / sizeof(PREFS[0]));
	tcase_add_loop_test(c, bad_preferences, 0, sizeof(BAD_PREFS) / sizeof(BAD_PREFS[0]));
	tcase_add_loop_test(c, calls, 0, 5);
	tcase_add_test(c, maps);
	tcase_add_test(c, tools_and_id);
	tcase_add_test(c, not_preferences);
	tcase_add_test(c, findings);
	tcase_add_loop_test(c, mutations, 0, 4);
	tcase_add_test(c, real_files);
	suite_add_tcase(s, c);
	return run_tests(s);
}

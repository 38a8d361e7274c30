/* A model's template: renderings equal to apply_chat_template's, special
 * tokens, named templates, and the spans of what the assistant writes. */
#include <check.h>
#include <glob.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/in.h"
#include "json/jsonl.h"
#include "text/tmpl.h"

#define TEMPLATES "tests/conformance/templates/templates/"

static char *slurp(const char *path)
{
	struct err e = ERR_INIT;
	size_t n;
	char *s = in_slurp(path, 1u << 24, &n, &e);

	ck_assert_msg(s != NULL, "%s: %s", path, e.msg);
	return s;
}

static struct chat_tmpl *load(const char *template)
{
	struct err e = ERR_INIT;
	char path[512];

	snprintf(path, sizeof(path), TEMPLATES "%s", template ? template : "");
	struct chat_tmpl *t = chat_tmpl_load_dir("data/stories260K", template ? path : NULL, NULL, &e);
	ck_assert_msg(t != NULL, "%s: %s", path, e.msg);
	return t;
}

/* Renders a record given as text; returns the status. */
static int render(const struct chat_tmpl *t, const char *record, const struct chat_render_opts *o, struct sb *text, struct tmpl_span **spans,
                  size_t *n, struct err *e)
{
	struct arena a = ARENA_INIT;
	struct json v;
	struct chat c;

	*e = (struct err)ERR_INIT;
	sb_reset(text);
	ck_assert_int_eq(json_parse_str(record, &a, &v, e), 0);
	int rc = chat_from_json(&v, NULL, &a, &c, e);
	ck_assert_msg(!rc, "%s", e->msg);
	rc = chat_tmpl_render(t, &c, o, text, spans, n, e);
	arena_release(&a);
	return rc;
}

START_TEST(test_goldens)
{
	struct err e = ERR_INIT;
	struct in *in = in_open("tests/unit/data/chat_tmpl.jsonl", &e);
	struct jsonl *j = jsonl_open_take(in, "jsonl", &e);
	struct jsonl_rec rec;
	struct chat_tmpl *t = NULL;
	char last[256] = "none";
	struct sb text = SB_INIT, got = SB_INIT;
	size_t n = 0;

	while (jsonl_next(j, &rec, &e) == 1) {
		const char *name, *mode;
		struct jw w = jw_to(&got);

		ck_assert(json_get_str(&rec.v, "template", NULL, &name) && json_get_str(&rec.v, "mode", "", &mode));
		if (!t || strcmp(last, name ? name : "")) {
			chat_tmpl_free(t);
			t = load(name);
			snprintf(last, sizeof(last), "%s", name ? name : "");
		}
		struct chat_render_opts o = { .add_generation_prompt = !strcmp(mode, "prompt"), .continue_final = !strcmp(mode, "continue") };
		const struct json *want = json_get(&rec.v, "output");
		sb_reset(&got);
		jw_obj(&w);
		jw_key(&w, "messages");
		jw_value(&w, json_get(&rec.v, "messages"));
		jw_end_obj(&w);
		int rc = render(t, sb_str(&got), &o, &text, NULL, NULL, &e);
		ck_assert_msg((rc == 0) == (want != NULL), "line %lu: %s", (unsigned long)rec.line, e.msg);
		if (want)
			ck_assert_msg(text.len == want->n && !memcmp(sb_str(&text), want->s, want->n), "line %lu %s %s:\n%s\n%s", (unsigned long)rec.line, last, mode, sb_str(&text), want->s);
		e = (struct err)ERR_INIT;
		n++;
	}
	ck_assert_uint_eq(n, 135);
	jsonl_close(j);
	chat_tmpl_free(t);
	sb_release(&text);
	sb_release(&got);
}
END_TEST

static struct chat_tmpl *from_text(const char *src)
{
	struct err e = ERR_INIT;
	struct chat_tmpl *t = chat_tmpl_new(src, "{\"bos_token\":\"<s>\",\"eos_token\":\"</s>\"}", NULL, &e);

	ck_assert_msg(t != NULL, "%s", e.msg);
	return t;
}

/* The spans' texts joined by "|"; frees t. */
static void ck_spans_of(struct chat_tmpl *t, const char *record, struct chat_render_opts o, const char *want)
{
	struct sb text = SB_INIT, got = SB_INIT;
	struct tmpl_span *s;
	struct err e;
	size_t n;
	int rc = render(t, record, &o, &text, &s, &n, &e);

	ck_assert_msg(rc == 0, "%s: %s", want, e.msg);
	for (size_t i = 0; i < n; i++) {
		ck_assert_uint_le(s[i].end, text.len);
		if (i)
			sb_addc(&got, '|');
		sb_add(&got, text.s + s[i].begin, s[i].end - s[i].begin);
	}
	ck_assert_str_eq(sb_str(&got), want);
	free(s);
	sb_release(&text);
	sb_release(&got);
	chat_tmpl_free(t);
}

static void ck_spans(const char *template, const char *record, struct chat_render_opts o, const char *want)
{
	ck_spans_of(load(template), record, o, want);
}

#define TWO "{\"messages\":[{\"role\":\"user\",\"content\":\"u1\"},{\"role\":\"assistant\",\"content\":\"a1\"},{\"role\":\"user\",\"content\":\"a1\"},{\"role\":\"assistant\",\"content\":\" b2\\n\",\"train\":false}]}"

START_TEST(test_spans)
{
	struct chat_render_opts all = { 0 }, last = { .span_choice = "last" }, none = { .span_choice = "none" }, train = { .span_choice = "train" };

	ck_spans(NULL, TWO, all, "a1</s>| b2\n</s>");
	ck_spans(NULL, TWO, last, " b2\n</s>");
	ck_spans(NULL, TWO, none, "");
	ck_spans(NULL, TWO, train, "a1</s>");
	ck_spans("trl__llama3.jinja", TWO, all, "a1<|eot_id|>|b2<|eot_id|>");
	ck_spans("axolotl__chatml.jinja", TWO, all, "a1<|im_end|>| b2\n<|im_end|>");
	ck_spans("axolotl__gemma.jinja", TWO, all, "a1<end_of_turn>|b2<end_of_turn>");
	ck_spans("axolotl__phi_4.jinja", TWO, all, "a1<|im_end|>| b2\n<|im_end|>");
	ck_spans("axolotl__mistral_v1.jinja", TWO, all, " a1</s>|  b2\n</s>");
	/* generation tags: as the template has them, its newline included */
	ck_spans("trl__phi3_training.jinja", TWO, all, "a1<|end|>\n| b2\n<|end|>\n</s>");
	ck_spans("trl__phi3_training.jinja", TWO, last, " b2\n<|end|>\n</s>"); /* two blocks, one message */
	ck_spans("trl__qwen2_5_training.jinja", TWO, all, "\na1<|im_end|>\n|\n b2\n<|im_end|>\n");
}
END_TEST

/* Templates that write a generation prompt unasked, part with it at a token, or have none. */
START_TEST(test_spans_of_odd_prompts)
{
	static const char cohere[] = "{% for m in messages %}<|TURN|>{% if m.role == 'user' %}<|USER|>{{ m.content }}<|END|>{% else %}<|BOT|><|TEXT|>{{ m.content }}<|/TEXT|><|END|>"
				     "{% endif %}{% endfor %}<|TURN|><|BOT|>{% if add_generation_prompt %}<|THINK|>{% endif %}";
	static const char codellama[] = "{% for m in messages %}Source: {{ m.role }}\n\n {{ m.content | trim }} <step> {% endfor %}Source: assistant\nDestination: user\n\n ";
	static const char blenderbot[] = "{% for m in messages %}{% if m.role == 'user' %}{{ ' ' }}{% endif %}{{ m.content }}{% if not loop.last %}{{ '  ' }}{% endif %}{% endfor %}{{ eos_token }}";
	static const char gptoss[] = "{% for m in messages %}<|start|>{{ m.role }}<|message|>{{ m.content }}{% if loop.last and m.role == 'assistant' %}<|return|>{% else %}<|end|>{% endif %}"
				     "{% endfor %}{% if add_generation_prompt %}<|start|>assistant{% endif %}";
	struct chat_render_opts all = { 0 }, prompt = { .add_generation_prompt = true };

	ck_spans_of(from_text(cohere), TWO, all, "<|TEXT|>a1<|/TEXT|><|END|>|<|TEXT|> b2\n<|/TEXT|><|END|>");
	ck_spans_of(from_text(cohere), TWO, prompt, "<|TEXT|>a1<|/TEXT|><|END|>|<|TEXT|> b2\n<|/TEXT|><|END|>");
	ck_spans_of(from_text(codellama), TWO, all, "a1 <step>|b2 <step>");
	ck_spans_of(from_text(blenderbot), TWO, all, "a1| b2\n</s>");
	ck_spans_of(from_text(gptoss), TWO, all, "<|message|>a1<|end|>|<|message|> b2\n<|return|>");
}
END_TEST

START_TEST(test_spans_of_hard_turns)
{
	struct chat_render_opts all = { 0 }, open = { .continue_final = true };

	/* the content of the question is that of the answer; empty answers; a call of a tool */
	ck_spans("axolotl__chatml.jinja", "{\"messages\":[{\"role\":\"user\",\"content\":\"x\"},{\"role\":\"assistant\",\"content\":\"\"}]}", all, "<|im_end|>");
	ck_spans("axolotl__qwen3.jinja", "{\"messages\":[{\"role\":\"user\",\"content\":\"x\"},{\"role\":\"assistant\",\"content\":\"<think>\\nr\\n</think>\\n\\ny\"}]}", all,
	         "r\n</think>\n\ny<|im_end|>"); /* its generation prompt ends with "<think>\n" */
	ck_spans("axolotl__chatml.jinja", TWO, open, "a1<|im_end|>| b2\n");
}
END_TEST

/* --- calls and thoughts --- */
#define CALL(args) "\"tool_calls\":[{\"id\":\"c12345678\",\"type\":\"function\",\"function\":{\"name\":\"f\",\"arguments\":" args "}}]"
#define TOOL(text) "{\"role\":\"tool\",\"tool_call_id\":\"c12345678\",\"name\":\"f\",\"content\":\"" text "\"}"
#define SAYS(role, text) "{\"role\":\"" role "\",\"content\":\"" text "\"}"
/* A question, a call, what the tool says, another call, an answer; and again without a tool. */
static const char CALLS[] = "{\"messages\":[" SAYS("user", "q") ",{\"role\":\"assistant\",\"content\":\"\"," CALL("{\"a\":1}") "}," TOOL("7") ","
	"{\"role\":\"assistant\",\"content\":\"\"," CALL("{\"a\":2}") "}," TOOL("8") "," SAYS("assistant", "y") "," SAYS("user", "r") "," SAYS("assistant", "z") "],"
	"\"tools\":[{\"type\":\"function\",\"function\":{\"name\":\"f\",\"description\":\"d\",\"parameters\":{\"type\":\"object\",\"properties\":{\"a\":{\"type\":\"integer\",\"description\":\"d\"}},\"required\":[\"a\"]}}}]}";
/* The last message calls, and says something as well. */
static const char CALL_AND_TEXT[] = "{\"messages\":[" SAYS("user", "q") ",{\"role\":\"assistant\",\"content\":\"so\"," CALL("{\"a\":1}") "}]}";
static const char TEXT_PARTED[] = "{\"messages\":[" SAYS("user", "q") ",{\"role\":\"assistant\",\"content\":\"so\"," CALL("{\"a\":1}") "}," TOOL("7") "," SAYS("assistant", "y") "]}";
static const char THINKS[] = "{\"messages\":[" SAYS("user", "q") ",{\"role\":\"assistant\",\"content\":\"y\",\"reasoning_content\":\"why\"}," SAYS("user", "r") ","
	"{\"role\":\"assistant\",\"content\":\"z\",\"reasoning_content\":\"so\"}]}";

START_TEST(test_spans_of_calls)
{
	struct chat_render_opts all = { 0 };

	/* a list of tools that stands before the last question: no part of the conversation is a prefix of it */
	ck_spans("axolotl__mistral_v2v3.jinja", CALLS, all,
	         "[TOOL_CALLS] [{\"name\": \"f\", \"arguments\": {\"a\": 1}, \"id\": \"c12345678\"}]</s>|[TOOL_CALLS] [{\"name\": \"f\", \"arguments\": {\"a\": 2}, \"id\": \"c12345678\"}]</s>| y</s>| z</s>");
	ck_spans("axolotl__mistral_v3_tekken.jinja", CALLS, all,
	         "[TOOL_CALLS][{\"name\": \"f\", \"arguments\": {\"a\": 1}, \"id\": \"c12345678\"}]</s>|[TOOL_CALLS][{\"name\": \"f\", \"arguments\": {\"a\": 2}, \"id\": \"c12345678\"}]</s>|y</s>|z</s>");
	/* a generation prompt behind every text, that no turn but the last is followed by */
	ck_spans("axolotl__command_a_rag.jinja", CALLS, all,
	         "<|START_THINKING|><|END_THINKING|><|START_ACTION|>[\n    {\"tool_call_id\": \"0\", \"tool_name\": \"f\", \"parameters\": {\"a\": 1}}\n]<|END_ACTION|><|END_OF_TURN_TOKEN|>|"
	         "<|START_THINKING|><|END_THINKING|><|START_ACTION|>[\n    {\"tool_call_id\": \"1\", \"tool_name\": \"f\", \"parameters\": {\"a\": 2}}\n]<|END_ACTION|><|END_OF_TURN_TOKEN|>|"
	         "<|START_RESPONSE|>y<|END_RESPONSE|><|END_OF_TURN_TOKEN|>|<|START_RESPONSE|>z<|END_RESPONSE|><|END_OF_TURN_TOKEN|>");
	ck_spans("axolotl__command_a.jinja", CALLS, all, /* which writes no calls, and asks for an answer behind every text */
	         "<|END_RESPONSE|><|END_OF_TURN_TOKEN|>|<|END_RESPONSE|><|END_OF_TURN_TOKEN|>|y<|END_RESPONSE|><|END_OF_TURN_TOKEN|>|z<|END_RESPONSE|><|END_OF_TURN_TOKEN|>");
	/* the prompt goes on with a channel of thoughts, the answer with a call; the tool's answer stands within the turn */
	ck_spans("axolotl__gemma4.jinja", CALL_AND_TEXT, all, "<|tool_call>call:f{a:1}<tool_call|>so<|tool_response>");
	ck_spans("axolotl__gemma4.jinja", CALLS, all, "<|tool_call>call:f{a:1}<tool_call|><|tool_response>|<|tool_call>call:f{a:2}<tool_call|><|tool_response>|y<turn|>|z<turn|>");
}
END_TEST

/* Of a turn with a tool's words in its middle no one span is the assistant's. */
START_TEST(test_parted_by_a_tool)
{
	struct chat_tmpl *t = load("axolotl__gemma4.jinja");
	struct chat_render_opts o = { 0 };
	struct sb text = SB_INIT;
	struct tmpl_span *s;
	struct err e;
	size_t n;

	ck_assert_int_eq(render(t, TEXT_PARTED, &o, &text, &s, &n, &e), -1);
	ck_assert_int_eq(e.code, LP_DATA);
	ck_assert_msg(strstr(e.msg, "message 2") != NULL, "%s", e.msg);
	sb_release(&text);
	chat_tmpl_free(t);
}
END_TEST

START_TEST(test_spans_of_thoughts)
{
	struct chat_render_opts all = { 0 };
	/* a turn of several parts, each with a header as the prompt has it: the answer begins with the first */
	static const char parts[] = "{% for m in messages %}{% if m.role == 'assistant' and m.thinking %}<|start|>assistant<|channel|>analysis<|message|>{{ m.thinking }}<|end|>{% endif %}"
	                            "<|start|>{{ m.role }}{{ '<|channel|>final' if m.role == 'assistant' }}<|message|>{{ m.content }}{{ '<|return|>' if m.role == 'assistant' else '<|end|>' }}{% endfor %}"
	                            "{% if add_generation_prompt %}<|start|>assistant{% endif %}";
	/* no answer at the end has an end of turn: its loop writes one in the middle, or the next turn does */
	static const char within[] = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% if m.role == 'user' or not loop.last %}<eot>{% endif %}{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}";
	static const char behind[] = "{% for m in messages %}{% if loop.previtem and loop.previtem.role == 'assistant' %}<done>{% endif %}<{{ m.role }}>{{ m.content }}{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}";

	ck_spans_of(from_text(parts), THINKS, all, "<|channel|>analysis<|message|>why<|end|><|start|>assistant<|channel|>final<|message|>y<|return|>|"
	                                           "<|channel|>analysis<|message|>so<|end|><|start|>assistant<|channel|>final<|message|>z<|return|>");
	ck_spans_of(from_text(within), TWO, all, "a1<eot>| b2\n");
	ck_spans_of(from_text(behind), TWO, all, "a1<done>| b2\n");
	/* the prompt closes the thoughts that the answer has, or the earlier answer has none */
	ck_spans("axolotl__qwen3.jinja", THINKS, all, "y<|im_end|>|so\n</think>\n\nz<|im_end|>");
	ck_spans("trl__glm4moe.jinja", THINKS, all, "\n<think></think>\ny|\n<think>so</think>\nz");
	ck_spans("axolotl__chatml.jinja", THINKS, all, "y<|im_end|>|z<|im_end|>"); /* and some write none */
}
END_TEST

/* --- what is remembered by shape gives what the engine gives --- */
static const char *const shapes[] = {
	"{\"messages\":[{\"role\":\"user\",\"content\":\"%s\"},{\"role\":\"assistant\",\"content\":\"%s\"}]}",
	"{\"messages\":[{\"role\":\"system\",\"content\":\"%s\"},{\"role\":\"user\",\"content\":\"%s\"},{\"role\":\"assistant\",\"content\":\"%s\",\"reasoning_content\":\"%s\"}]}",
	"{\"messages\":[{\"role\":\"user\",\"content\":\"%s\"},{\"role\":\"assistant\",\"content\":\"%s\"},{\"role\":\"user\",\"content\":\"%s\"},{\"role\":\"assistant\",\"content\":\"%s\"}]}",
	("{\"messages\":[{\"role\":\"user\",\"content\":\"%s\"},{\"role\":\"assistant\",\"content\":null,\"tool_calls\":[{\"id\":\"c12345678\",\"type\":\"function\",\"function\":{\"name\":\"f\","
	"\"arguments\":{\"a\":1}}}]},{\"role\":\"tool\",\"content\":\"%s\",\"tool_call_id\":\"c12345678\"},{\"role\":\"assistant\",\"content\":\"%s\"}]}"),
};
static const char *const contents[] = { "Hi", "", " \\n", " padded\\n", "<think>\\nwhy\\n</think>\\n\\nso", "</think>", "\\u00a0x\\u3000", "<|im_end|>", "x\\n\\n", "\\ud83d\\ude00 y", "[INST]", "a b c" };

static void ck_same(const struct chat_tmpl *t, const char *name, const char *record, const struct chat_render_opts *o)
{
	struct chat_render_opts fresh = *o;
	struct sb a = SB_INIT, b = SB_INIT;
	struct tmpl_span *x = NULL, *y = NULL;
	struct err ea, eb;
	size_t n, m;

	fresh.scratch = NULL;
	int rc = render(t, record, o, &a, &x, &n, &ea);
	ck_assert_msg(rc == render(t, record, &fresh, &b, &y, &m, &eb), "%s: %s: %s / %s", name, record, ea.msg, eb.msg);
	if (rc) {
		ck_assert_str_eq(ea.msg, eb.msg);
	} else {
		ck_assert_msg(a.len == b.len && !memcmp(a.s, b.s, a.len), "%s: %s:\n%s\n%s", name, record, a.s, b.s);
		ck_assert_uint_eq(n, m);
		for (size_t i = 0; i < n; i++)
			ck_assert_msg(x[i].begin == y[i].begin && x[i].end == y[i].end && x[i].msg == y[i].msg, "%s: %s: span %zu", name, record, i);
	}
	free(x);
	free(y);
	sb_release(&a);
	sb_release(&b);
}

START_TEST(test_remembered)
{
	const size_t n_shapes = sizeof(shapes) / sizeof(shapes[0]), n_contents = sizeof(contents) / sizeof(contents[0]);
	struct chat_render_opts o = { .scratch = chat_scratch_new() };
	uint32_t seed = 1;
	char record[2048];
	glob_t g;

	ck_assert_int_eq(glob(TEMPLATES "*.jinja", 0, NULL, &g), 0);
	for (size_t i = 0; i < g.gl_pathc; i++) {
		const char *name = strrchr(g.gl_pathv[i], '/') + 1, *c[4];
		struct chat_tmpl *t = load(name);

		for (int k = 0; k < 160; k++) {
			for (int j = 0; j < 4; j++)
				c[j] = contents[(seed = seed * 1664525 + 1013904223) >> 16 & 1 ? 11 - (seed >> 24) % 3 : (seed >> 24) % n_contents];
			o.span_choice = k & 8 ? "all" : "role:user,assistant";
			o.add_generation_prompt = k & 16;
			snprintf(record, sizeof(record), shapes[(size_t)k % n_shapes], c[0], c[1], c[2], c[3]);
			ck_same(t, name, record, &o);
		}
		chat_tmpl_free(t);
	}
	chat_scratch_free(o.scratch);
	globfree(&g);
}
END_TEST

START_TEST(test_span_not_found)
{
	/* the answer is turned round: nothing of it can be followed, nor does a prefix end before it */
	const char *src = "{% for m in messages %}{{ loop.length }}{{ m.content[::-1] }}{% endfor %}";
	struct chat_render_opts o = { 0 };
	struct sb text = SB_INIT;
	struct tmpl_span *s;
	struct err e = ERR_INIT;
	size_t n;
	struct chat_tmpl *t = chat_tmpl_new(src, NULL, NULL, &e);

	ck_assert(t != NULL);
	ck_assert_int_eq(render(t, TWO, &o, &text, &s, &n, &e), -1);
	ck_assert_int_eq(e.code, LP_DATA);
	ck_assert_msg(strstr(e.msg, "message 2") != NULL, "%s", e.msg);
	sb_release(&text);
	chat_tmpl_free(t);
}
END_TEST

/* A generation block inside a macro has no known place: the answer is searched for. */
START_TEST(test_tags_in_macro)
{
	const char *src = "{% macro put(m) %}<{{ m.role }}>{% if m.role == 'assistant' %}{% generation %}{{ m.content }}</s>{% endgeneration %}{% else %}{{ m.content }}{% endif %}{% endmacro %}"
	                  "{% for m in messages %}{{ put(m) }}\n{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}";
	struct chat_render_opts o = { 0 };
	struct sb text = SB_INIT;
	struct tmpl_span *s;
	struct err e = ERR_INIT;
	size_t n;
	struct chat_tmpl *t = chat_tmpl_new(src, NULL, NULL, &e);

	ck_assert_msg(t != NULL, "%s", e.msg);
	ck_assert_msg(render(t, TWO, &o, &text, &s, &n, &e) == 0, "%s", e.msg);
	ck_assert_uint_eq(n, 2);
	ck_assert_str_eq(sb_str(&text), "<user>u1\n<assistant>a1</s>\n<user>a1\n<assistant> b2\n</s>\n");
	ck_assert_uint_eq(s[0].begin, 20);
	ck_assert_uint_eq(s[0].end, 26);
	ck_assert(!memcmp(text.s + s[1].begin, " b2\n</s>", s[1].end - s[1].begin) && s[1].end - s[1].begin == 8);
	free(s);
	sb_release(&text);
	chat_tmpl_free(t);
}
END_TEST

START_TEST(test_config)
{
	static const char config[] = "{\"bos_token\":{\"content\":\"<B>\",\"lstrip\":false},\"eos_token\":\"<E>\",\"pad_token\":null,"
	                             "\"additional_special_tokens\":[\"<x>\",{\"content\":\"<y>\"}],"
	                             "\"chat_template\":[{\"name\":\"default\",\"template\":\"d{{ bos_token }}{{ eos_token }}{{ pad_token is defined }}{{ additional_special_tokens }}\"},"
	                             "{\"name\":\"tool_use\",\"template\":\"t{{ tools|length }}\"},{\"name\":\"rag\",\"template\":\"r\"}]}";
	struct chat_render_opts o = { .span_choice = "none" };
	struct err e = ERR_INIT;
	struct sb text = SB_INIT;
	struct chat_tmpl *t = chat_tmpl_new(NULL, config, NULL, &e);

	ck_assert_msg(t != NULL, "%s", e.msg);
	ck_assert_int_eq(render(t, TWO, &o, &text, NULL, NULL, &e), 0);
	ck_assert_str_eq(sb_str(&text), "d<B><E>False['<x>', '<y>']");
	ck_assert_int_eq(render(t, "{\"messages\":[{\"role\":\"user\",\"content\":\"a\"}],\"tools\":[{},{}]}", &o, &text, NULL, NULL, &e), 0);
	ck_assert_str_eq(sb_str(&text), "t2");
	chat_tmpl_free(t);
	t = chat_tmpl_new(NULL, config, "rag", &e);
	ck_assert_int_eq(render(t, TWO, &o, &text, NULL, NULL, &e), 0);
	ck_assert_str_eq(sb_str(&text), "r");
	chat_tmpl_free(t);
	e = (struct err)ERR_INIT;
	ck_assert_ptr_null(chat_tmpl_new(NULL, config, "zork", &e));
	ck_assert_msg(e.code == LP_USAGE && strstr(e.msg, "default, tool_use, rag"), "%s", e.msg);
	ck_assert_ptr_null(chat_tmpl_new(NULL, "{}", NULL, &e));
	sb_release(&text);
}
END_TEST

START_TEST(test_variables)
{
	struct chat_render_opts o = { .date_string = "01 Feb 2025", .now = 1738368000 };
	struct arena a = ARENA_INIT;
	struct json extra;
	struct err e = ERR_INIT;
	struct sb text = SB_INIT;
	struct chat_tmpl *t = chat_tmpl_new("{{ date_string }}|{{ strftime_now('%Y-%m-%d') }}|{{ enable_thinking }}|{{ messages[0].extra }}|{{ messages[1].thinking }}|{{ messages[1].reasoning_content }}|{{ documents is none }}",
	                                    NULL, NULL, &e);

	ck_assert_int_eq(json_parse_str("{\"enable_thinking\":false}", &a, &extra, &e), 0);
	o.extra = &extra;
	ck_assert_int_eq(render(t, "{\"messages\":[{\"role\":\"user\",\"content\":\"a\",\"extra\":1.50},{\"role\":\"assistant\",\"content\":\"b\",\"reasoning\":\"r\"}]}", &o, &text, NULL, NULL, &e), 0);
	ck_assert_str_eq(sb_str(&text), "01 Feb 2025|2025-02-01|False|1.5|r|r|True");
	/* a from/value record is seen as role and content */
	chat_tmpl_free(t);
	t = chat_tmpl_new("{{ messages|tojson }}", NULL, NULL, &e);
	ck_assert_int_eq(render(t, "{\"conversations\":[{\"from\":\"human\",\"value\":\"a\",\"k\":1},{\"from\":\"gpt\",\"value\":\"b\"}]}", &o, &text, NULL, NULL, &e), 0);
	ck_assert_str_eq(sb_str(&text), "[{\"role\": \"user\", \"content\": \"a\", \"k\": 1}, {\"role\": \"assistant\", \"content\": \"b\"}]");
	chat_tmpl_free(t);
	arena_release(&a);
	sb_release(&text);
}
END_TEST

START_TEST(test_preference)
{
	struct chat_render_opts o = { 0 };
	struct arena a = ARENA_INIT;
	struct json v;
	struct pref p;
	struct pref_text out;
	struct err e = ERR_INIT;
	struct chat_tmpl *t = load("trl__llama3.jinja");

	ck_assert_int_eq(json_parse_str("{\"prompt\":\"q\",\"chosen\":\"good\",\"rejected\":\"bad\"}", &a, &v, &e), 0);
	ck_assert_int_eq(pref_from_json(&v, NULL, &a, &p, &e), 0);
	ck_assert_msg(chat_tmpl_render_pref(t, &p, &o, &out, &e) == 0, "%s", e.msg);
	ck_assert_str_eq(sb_str(&out.prompt), "<s><|start_header_id|>user<|end_header_id|>\n\nq<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n");
	ck_assert_str_eq(sb_str(&out.answer[0]), "good<|eot_id|>");
	ck_assert_str_eq(sb_str(&out.answer[1]), "bad<|eot_id|>");
	ck_assert_uint_eq(out.n_spans[1], 1);
	ck_assert_uint_eq(out.spans[1][0].begin, 0);
	ck_assert_uint_eq(out.spans[1][0].end, out.answer[1].len);
	pref_text_release(&out);
	chat_tmpl_free(t);
	arena_release(&a);
}
END_TEST

START_TEST(test_load_errors)
{
	struct err e = ERR_INIT;

	ck_assert_ptr_null(chat_tmpl_load_dir("tests/unit/data", NULL, NULL, &e));
	ck_assert_int_eq(e.code, LP_USAGE);
	e = (struct err)ERR_INIT;
	ck_assert_ptr_null(chat_tmpl_load_dir(NULL, "no/such/file", NULL, &e));
	ck_assert_int_eq(e.code, LP_IO);
	e = (struct err)ERR_INIT;
	ck_assert_ptr_null(chat_tmpl_new("{% if %}", NULL, NULL, &e));
	ck_assert_int_eq(e.code, LP_USAGE);
	ck_assert_uint_eq(e.line, 1);
	free(slurp("data/stories260K/chat_template.jinja"));
}
END_TEST

int main(void)
{
	Suite *s = suite_create("chat_tmpl");
	TCase *t = tcase_create("chat_tmpl");
	SRunner *sr;
	int failed;

	tcase_add_test(t, test_goldens);
	tcase_add_test(t, test_spans);
	tcase_add_test(t, test_spans_of_odd_prompts);
	tcase_add_test(t, test_spans_of_hard_turns);
	tcase_add_test(t, test_spans_of_calls);
	tcase_add_test(t, test_parted_by_a_tool);
	tcase_add_test(t, test_spans_of_thoughts);
	tcase_add_test(t, test_remembered);
	tcase_add_test(t, test_span_not_found);
	tcase_add_test(t, test_tags_in_macro);
	tcase_add_test(t, test_config);
	tcase_add_test(t, test_variables);
	tcase_add_test(t, test_preference);
	tcase_add_test(t, test_load_errors);
	suite_add_tcase(s, t);
	sr = srunner_create(s);
	srunner_run_all(sr, CK_NORMAL);
	failed = srunner_ntests_failed(sr);
	srunner_free(sr);
	return failed != 0;
}

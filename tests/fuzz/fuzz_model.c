/* Targets of model files: tensors, streams, GGUF, tokenisers, templates. */
#include "fuzz.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "fmt/gguf.h"
#include "fmt/st.h"
#include "fmt/tokens.h"
#include "text/tmpl_hole.h"
#include "text/tok.h"
#include "text/utf8.h"

static void broken(const char *what)
{
	fprintf(stderr, "fuzz: %s\n", what);
	abort();
}

void fuzz_st(const uint8_t *p, size_t n)
{
	struct err e = ERR_INIT;
	struct st_blob b;
	uint64_t sum = 0;
	char *copy = malloc(n ? n : 1); /* exactly n bytes, so that a read behind them shows */

	memcpy(copy, p, n);
	if (!st_parse_header(copy, n, "fuzz", &b, &e)) {
		for (size_t i = 0; i < b.n_tensors; i++)
			sum += b.tensors[i].bytes;
		if (sum != b.data_bytes)
			broken("tensors do not add up to the data");
		st_blob_release(&b);
	}
	free(copy);
}

void fuzz_stream(const uint8_t *p, size_t n)
{
	struct err e = ERR_INIT;
	const struct st_blob *b;
	struct st_reader *r;
	struct token_frame f;
	char name[64];
	struct in *in;
	int fd = memfd_create("fuzz", MFD_CLOEXEC);

	if (fd < 0 || write(fd, p, n) != (ssize_t)n)
		broken("no memory file");
	snprintf(name, sizeof(name), "/proc/self/fd/%d", fd);
	in = in_open(name, &e);
	r = in ? st_reader_open_take(in, &e) : NULL;
	while (r && st_reader_next(r, &b, 16u << 20, &e) > 0) {
		int64_t sum = 0;

		if (!token_frame_view(b, &f, &e))
			for (int64_t i = 0; i < f.n_tokens; i++) /* touches all that it vouches for */
				sum += f.input_ids[i] + f.loss_mask[i];
		(void)*(volatile int64_t *)&sum;
	}
	st_reader_close(r);
	close(fd);
}

void fuzz_gguf(const uint8_t *p, size_t n)
{
	struct err e = ERR_INIT;
	struct gguf g;
	char *copy = malloc(n ? n : 1);

	memcpy(copy, p, n);
	if (!gguf_parse(&g, copy, n, n, "fuzz", &e)) {
		uint64_t u;
		struct gguf_str s;

		(void)gguf_get_u64(&g, "general.alignment", &u);
		(void)gguf_get_str(&g, "general.architecture", &s);
		gguf_close(&g);
	}
	free(copy);
}

/* tokenizer.json, a NUL, a text to encode. */
void fuzz_tok(const uint8_t *p, size_t n)
{
	static const char text[] = "Hello w\xc3\xb6rld 123  \n\xf0\x9f\x98\x80 <s>'s";
	const uint8_t *nul = n ? memchr(p, 0, n) : NULL;
	size_t json_len = nul ? (size_t)(nul - p) : n;
	char *json = malloc(json_len + 1);
	struct err e = ERR_INIT;
	struct tok *t;

	memcpy(json, p, json_len);
	json[json_len] = 0;
	t = tok_new(json, json_len, NULL, "fuzz", &e);
	if (t) {
		struct tok_out out;
		struct sb back = SB_INIT;
		size_t len = sizeof(text) - 1;

		memset(&out, 0, sizeof(out));
		if (!tok_encode(t, text, len, &out, &e)) {
			for (size_t i = 0; i < out.n; i++)
				if (out.begin[i] > out.end[i] || out.end[i] > len)
					broken("a token outside the text");
			if (tok_decode(t, out.ids, out.n, false, &back, &e) && !e.msg[0])
				broken("an error without a message");
		}
		tok_out_release(&out);
		sb_release(&back);
		tok_free(t);
	}
	free(json);
}

void fuzz_tmpl(const uint8_t *p, size_t n)
{
	static const char vars_text[] =
		"{\"messages\":[{\"role\":\"system\",\"content\":\"S\"},{\"role\":\"user\",\"content\":\"U\\n\"},{\"role\":\"assistant\","
		"\"content\":\"A\"}],\"tools\":[{\"name\":\"f\",\"x\":1.5}],\"bos_token\":\"<s>\",\"eos_token\":\"</s>\",\"add_generation_prompt\":true}";
	const struct tmpl_limits limits = { .max_steps = 20000, .max_output = 1 << 20, .max_depth = 60 };
	char *src = malloc(n + 1);
	struct arena a = ARENA_INIT;
	struct err e = ERR_INIT;
	struct json vars;
	struct tmpl *t;

	memcpy(src, p, n);
	src[n] = 0;
	t = tmpl_compile(src, n, "fuzz", &e);
	if (t) {
		struct tmpl_render r;

		memset(&r, 0, sizeof(r));
		if (json_parse_str(vars_text, &a, &vars, &e))
			broken("the variables do not parse");
		if (!tmpl_render(t, &vars, 1763784000, &limits, &r, &e)) {
			if (r.text.len > (1 << 20) + 64)
				broken("more output than allowed");
			for (size_t i = 0; i < r.n_gen; i++)
				if (r.gen[i].begin > r.gen[i].end || r.gen[i].end > r.text.len)
					broken("a span outside the text");
		} else if (!e.msg[0]) {
			broken("an error without a message");
		}
		tmpl_render_release(&r);
		tmpl_free(t);
		arena_release(&a);
	}
	free(src);
}

/* --- recipes --- */
enum { N_TEXTS = 3 };

/* The bytes behind the next NUL as a text that a hole may have: valid, and not blank. */
static size_t next_text(const uint8_t **p, const uint8_t *end, char *out, size_t cap)
{
	const uint8_t *nul = *p < end ? memchr(*p, 0, (size_t)(end - *p)) : NULL;
	size_t n = nul ? (size_t)(nul - *p) : (size_t)(end - *p), k = 0;

	if (n > cap - 2)
		n = cap - 2;
	n = utf8_valid_len((const char *)*p, n);
	memcpy(out, *p, n);
	*p = nul ? nul + 1 : end;
	while (k < n && ((unsigned char)out[k] <= 0x20 || (unsigned char)out[k] >= 0x7f))
		k++;
	if (k == n)
		out[n++] = 'y';
	return n;
}

static void set_texts(struct json *msgs, const struct tmpl_watch *texts)
{
	for (int i = 0; i < N_TEXTS; i++) {
		struct json *v = &msgs->items[i].members[1].val;

		v->s = texts[i].s;
		v->n = (uint32_t)texts[i].n;
	}
}

/* A template, and six texts behind NULs: a recipe from three of them, run on
 * all six, gives what the engine gives. */
void fuzz_recipe(const uint8_t *p, size_t n)
{
	static const char vars_text[] =
		"{\"messages\":[{\"role\":\"system\",\"content\":\"\"},{\"role\":\"user\",\"content\":\"\",\"x\":[1,\"a\"]},{\"role\":\"assistant\","
		"\"content\":\"\"}],\"tools\":[{\"name\":\"f\",\"x\":1.5}],\"bos_token\":\"<s>\",\"eos_token\":\"</s>\",\"add_generation_prompt\":true}";
	const struct tmpl_limits limits = { .max_steps = 1000000, .max_output = 4 << 20, .max_depth = 60 };
	const uint8_t *end = p + n, *nul = memchr(p, 0, n);
	char text[2 * N_TEXTS][256], mark[N_TEXTS][TMPL_MARK_BYTES];
	struct tmpl_watch w[2 * N_TEXTS], marks[N_TEXTS];
	struct tmpl_render a, b;
	struct arena mem = ARENA_INIT;
	struct err e = ERR_INIT;
	struct json vars;
	struct tmpl *t = tmpl_compile((const char *)p, nul ? (size_t)(nul - p) : n, "fuzz", &e);

	if (!t)
		return;
	if (json_parse_str(vars_text, &mem, &vars, &e))
		broken("the variables do not parse");
	memset(&a, 0, sizeof(a));
	memset(&b, 0, sizeof(b));
	p = nul ? nul + 1 : end;
	for (int i = 0; i < 2 * N_TEXTS; i++)
		w[i] = (struct tmpl_watch){ text[i], next_text(&p, end, text[i], sizeof(text[i])), SIZE_MAX, SIZE_MAX };
	for (size_t i = 0; i < N_TEXTS; i++) {
		tmpl_mark(i, mark[i]);
		marks[i] = (struct tmpl_watch){ mark[i], TMPL_MARK_BYTES, SIZE_MAX, SIZE_MAX };
	}
	set_texts(&vars.members[0].val, marks);
	struct tmpl_recipe *r = tmpl_recipe_new(t, &vars, w, N_TEXTS, 1763784000, &a);
	for (int i = 0; r && i < 2; i++) {
		struct tmpl_watch *now = w + (size_t)i * N_TEXTS;

		if (!tmpl_recipe_run(r, now, &a))
			continue;
		set_texts(&vars.members[0].val, now);
		if (tmpl_render(t, &vars, 1763784000, &limits, &b, &e)) {
			if (b.why != TMPL_LIMIT)
				broken("the recipe has a text where the engine has an error");
		} else if (a.text.len != b.text.len || memcmp(sb_str(&a.text), sb_str(&b.text), a.text.len)) {
			broken("the recipe's text is not the engine's");
		}
	}
	tmpl_recipe_free(r);
	tmpl_render_release(&a);
	tmpl_render_release(&b);
	tmpl_free(t);
	arena_release(&mem);
}

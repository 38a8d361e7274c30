/* fmt/gguf*.c and model/gguf_*.c: the reader against every cut and flipped byte,
 * whole models against llama.cpp's hashes (data/gguf_golden.tsv), the choice of
 * types (data/gguf_types.tsv), tokenizers, and what is refused. */
#include "gguf_gen.h"
#include "scratch.h"

#include <omp.h>
#include <sys/stat.h>

#include "base/hash.h"
#include "base/num.h"
#include "fmt/gguf.h"
#include "fmt/st.h"
#include "model/gguf_export.h"
#include "model/gguf_plan.h"
#include "text/spm_file.h"

/* --- a small file by hand --- */

static void small_file(struct sb *out)
{
	struct gguf_writer w = GGUF_WRITER_INIT;
	const uint64_t a[2] = { 32, 3 }, b[1] = { 5 };
	struct err e = ERR_INIT;

	gguf_put_str(&w, "general.architecture", "llama", 5);
	gguf_put_u32(&w, "a.count", 7);
	gguf_put_f32(&w, "a.number", 1.5f);
	gguf_put_bool(&w, "a.flag", true);
	gguf_put_array(&w, "a.words", GGUF_STR, 3);
	gguf_item_put_str(&w, "x", 1);
	gguf_item_put_str(&w, "", 0);
	gguf_item_put_str(&w, "yz", 2);
	gguf_put_array(&w, "a.ids", GGUF_I32, 2);
	gguf_item_put_i32(&w, -4);
	gguf_item_put_i32(&w, 9);
	ck_assert_int_eq(gguf_put_tensor(&w, "one.weight", QT_Q8_0, 2, a, &e), 0);
	ck_assert_int_eq(gguf_put_tensor(&w, "two.bias", QT_F32, 1, b, &e), 0);
	ck_assert_int_eq(gguf_put_tensor(&w, "odd", QT_Q4_K, 1, a, &e), -1);
	gguf_head(&w, out);
	for (uint64_t i = 0; i < w.data_bytes; i++)
		sb_addc(out, (char)i);
	gguf_writer_release(&w);
}

static int parse_all(const struct sb *b, struct err *e)
{
	struct gguf g;

	if (gguf_parse(&g, b->s, b->len, b->len, "x", e))
		return -1;
	gguf_close(&g);
	return 0;
}

START_TEST(reads_back)
{
	struct sb b = SB_INIT;
	const struct gguf_tensor *t;
	const struct gguf_key *k;
	struct gguf_str s;
	struct gguf g;
	uint64_t u;
	float f;
	bool flag;

	small_file(&b);
	put_file(at("x.gguf"), b.s, b.len);
	OK(gguf_open(&g, at("x.gguf"), &er));
	ck_assert_uint_eq(g.n_keys, 6);
	ck_assert_uint_eq(g.n_tensors, 2);
	ck_assert(gguf_get_u64(&g, "a.count", &u) && u == 7);
	ck_assert(gguf_get_f32(&g, "a.number", &f) && f == 1.5f);
	ck_assert(gguf_get_bool(&g, "a.flag", &flag) && flag);
	ck_assert(gguf_get_str(&g, "general.architecture", &s) && s.len == 5 && !memcmp(s.s, "llama", 5));
	ck_assert(!gguf_get_u64(&g, "a.flag", &u) && !gguf_get_u64(&g, "absent", &u) && !gguf_get_f32(&g, "a.count", &f));
	k = gguf_find(&g, "a.words");
	ck_assert(k && k->n == 3 && k->strs[2].len == 2 && k->strs[1].len == 0);
	k = gguf_find(&g, "a.ids");
	ck_assert(k && k->n == 2 && gguf_item_i64(k, 0) == -4 && gguf_item_i64(k, 1) == 9);
	t = gguf_find_tensor(&g, "two.bias");
	ck_assert(t && t->type == QT_F32 && t->n_dims == 1 && t->elems == 5 && t->bytes == 20);
	ck_assert_int_eq(((const uint8_t *)t->data)[0], 128); /* 3 rows of 34 bytes, padded to 32 */
	ck_assert_ptr_null(gguf_find_tensor(&g, "odd"));
	gguf_close(&g);
	sb_release(&b);
}
END_TEST

START_TEST(every_cut)
{
	struct sb b = SB_INIT, cut = SB_INIT;

	small_file(&b);
	/* the last tensor's padding (12 bytes) may be missing */
	for (size_t n = 0; n + 12 < b.len; n++) {
		struct err e = ERR_INIT;

		sb_reset(&cut);
		sb_add(&cut, b.s, n);
		ck_assert_msg(parse_all(&cut, &e) < 0 && e.code == LP_DATA, "cut at %zu of %zu", n, b.len);
	}
	sb_addc(&b, 0);
	BAD(parse_all(&b, &er), LP_DATA, "behind the last tensor");
	sb_release(&b);
	sb_release(&cut);
}
END_TEST

/* No flipped byte crashes or reads outside (run under a sanitiser); the checks
 * of counts, lengths, offsets and names catch what they name. */
START_TEST(every_flip)
{
	struct sb b = SB_INIT;

	small_file(&b);
	for (size_t i = 0; i < b.len; i++)
		for (int bit = 0; bit < 8; bit++) {
			struct err e = ERR_INIT;

			b.s[i] = (char)(b.s[i] ^ 1 << bit);
			if (parse_all(&b, &e) < 0)
				ck_assert_int_eq(e.code, LP_DATA);
			else
				ck_assert_uint_ge(i, 24);
			b.s[i] = (char)(b.s[i] ^ 1 << bit);
		}
	OK(parse_all(&b, &er));
	sb_release(&b);
}
END_TEST

START_TEST(refused_heads)
{
	struct gguf_writer w = GGUF_WRITER_INIT;
	struct sb b = SB_INIT;
	const uint64_t n = 4;
	struct err e0 = ERR_INIT;

	sb_adds(&b, "GGUF");
	BAD(parse_all(&b, &er), LP_DATA, "ends inside");
	b.s[0] = 'X';
	BAD(parse_all(&b, &er), LP_DATA, "not a GGUF");
	sb_reset(&b);
	gguf_put_u32(&w, "same", 1);
	gguf_put_u32(&w, "same", 2);
	gguf_head(&w, &b);
	BAD(parse_all(&b, &er), LP_DATA, "key occurs twice");
	gguf_writer_release(&w);
	w = (struct gguf_writer)GGUF_WRITER_INIT;
	sb_reset(&b);
	ck_assert_int_eq(gguf_put_tensor(&w, "t", QT_F32, 1, &n, &e0), 0);
	ck_assert_int_eq(gguf_put_tensor(&w, "t", QT_F32, 1, &n, &e0), 0);
	gguf_head(&w, &b);
	for (int i = 0; i < 64; i++)
		sb_addc(&b, 0);
	BAD(parse_all(&b, &er), LP_DATA, "name occurs twice");
	gguf_writer_release(&w);
	w = (struct gguf_writer)GGUF_WRITER_INIT;
	sb_reset(&b);
	gguf_put_u32(&w, "general.alignment", 24);
	gguf_head(&w, &b);
	BAD(parse_all(&b, &er), LP_DATA, "no power of two");
	b.s[4] = 2;
	BAD(parse_all(&b, &er), LP_DATA, "version 2");
	gguf_writer_release(&w);
	sb_release(&b);
	BAD(gguf_open(&(struct gguf){ 0 }, at("absent.gguf"), &er), LP_IO, "");
}
END_TEST

/* --- models --- */

#define MAX_TENSORS 200
struct model_files {
	struct tensor t[MAX_TENSORS];
	char names[MAX_TENSORS][96];
	int n;
};

static void add_tensor(struct model_files *f, const struct gen_model *m, const char *name, int rows, int cols)
{
	struct tensor *t = &f->t[f->n];
	uint64_t elems = (uint64_t)(rows ? rows : 1) * (uint64_t)cols;

	ck_assert_int_lt(f->n, MAX_TENSORS);
	snprintf(f->names[f->n], sizeof(f->names[0]), "%s", name);
	*t = (struct tensor){ .name = f->names[f->n], .dtype = m->dtype, .n_dims = rows ? 2 : 1 };
	t->shape[0] = (uint64_t)(rows ? rows : cols);
	t->shape[1] = rows ? (uint64_t)cols : 0;
	t->bytes = elems * dtype_bytes(m->dtype);
	t->data = gen_weights((uint64_t)f->n++, elems, m->dtype);
}

static void add_layer(struct model_files *f, const struct gen_model *m, int layer)
{
	int q = m->heads * m->head_dim, kv = m->kv_heads * m->head_dim;
	const struct {
		const char *name;
		int rows, cols;
		bool bias;
	} parts[] = { { "self_attn.q_proj", q, m->hidden, m->bias },  { "self_attn.k_proj", kv, m->hidden, m->bias },
		      { "self_attn.v_proj", kv, m->hidden, m->bias }, { "self_attn.o_proj", m->hidden, q, m->bias && !strcmp(m->family, "llama") },
		      { "mlp.gate_proj", m->ffn, m->hidden, false },  { "mlp.up_proj", m->ffn, m->hidden, false },
		      { "mlp.down_proj", m->hidden, m->ffn, false } };
	char name[96];

	snprintf(name, sizeof(name), "model.layers.%d.input_layernorm.weight", layer);
	add_tensor(f, m, name, 0, m->hidden);
	for (size_t i = 0; i < sizeof(parts) / sizeof(*parts); i++) {
		snprintf(name, sizeof(name), "model.layers.%d.%s.weight", layer, parts[i].name);
		add_tensor(f, m, name, parts[i].rows, parts[i].cols);
		snprintf(name, sizeof(name), "model.layers.%d.%s.bias", layer, parts[i].name);
		if (parts[i].bias)
			add_tensor(f, m, name, 0, parts[i].rows);
	}
	snprintf(name, sizeof(name), "model.layers.%d.post_attention_layernorm.weight", layer);
	add_tensor(f, m, name, 0, m->hidden);
}

static struct model_files *make_tensors(const struct gen_model *m)
{
	struct model_files *f = calloc(1, sizeof(*f));

	add_tensor(f, m, "model.embed_tokens.weight", m->vocab, m->hidden);
	for (int l = 0; l < m->layers; l++)
		add_layer(f, m, l);
	add_tensor(f, m, "model.norm.weight", 0, m->hidden);
	if (!m->tied)
		add_tensor(f, m, "lm_head.weight", m->vocab, m->hidden);
	return f;
}

static void free_tensors(struct model_files *f)
{
	for (int i = 0; i < f->n; i++)
		free((void *)(uintptr_t)f->t[i].data);
	free(f);
}

static void put_config(const char *dir, const struct gen_model *m, const char *more)
{
	struct sb b = SB_INIT;
	char path[256];

	sb_addf(&b, "{\"architectures\":[\"%s\"],\"model_type\":\"%s\",\"hidden_size\":%d,\"intermediate_size\":%d,",
	        !strcmp(m->family, "llama") ? "LlamaForCausalLM" : !strcmp(m->family, "qwen2") ? "Qwen2ForCausalLM" : "MistralForCausalLM",
	        m->family, m->hidden, m->ffn);
	sb_addf(&b, "\"num_attention_heads\":%d,\"num_key_value_heads\":%d,\"head_dim\":%d,\"num_hidden_layers\":%d,\"vocab_size\":%d,",
	        m->heads, m->kv_heads, m->head_dim, m->layers, m->vocab);
	if (!strcmp(m->family, "llama"))
		sb_addf(&b, "\"attention_bias\":%s,", m->bias ? "true" : "false");
	sb_addf(&b, "%s\"max_position_embeddings\":512,\"rms_norm_eps\":1e-5,\"rope_theta\":10000.0,\"tie_word_embeddings\":%s,"
	            "\"hidden_act\":\"silu\",\"bos_token_id\":1,\"eos_token_id\":2}",
	        more, m->tied ? "true" : "false");
	snprintf(path, sizeof(path), "%s/config.json", dir);
	put_text(path, sb_str(&b));
	sb_release(&b);
}

/* Byte tokens only, as the goldens' tokenizer has it; more goes behind the vocabulary. */
static void put_tokenizer(const char *dir, const char *vocab, const char *merges, const char *more)
{
	struct sb b = SB_INIT;
	char path[256];

	sb_adds(&b, "{\"model\":{\"type\":\"BPE\",\"byte_fallback\":true,\"unk_token\":\"<unk>\",\"merges\":[");
	sb_addf(&b, "%s],\"vocab\":{\"<unk>\":0,\"<s>\":1,\"</s>\":2", merges);
	for (int i = 0; i < 256; i++)
		sb_addf(&b, ",\"<0x%02X>\":%d", (unsigned)i, 3 + i);
	sb_addf(&b, "%s}}%s}", vocab, more);
	snprintf(path, sizeof(path), "%s/tokenizer.json", dir);
	put_text(path, sb_str(&b));
	sb_release(&b);
}

static void put_tensors(const char *dir, const struct model_files *f)
{
	struct err e = ERR_INIT;
	char path[256];
	struct out *o;

	snprintf(path, sizeof(path), "%s/model.safetensors", dir);
	o = out_open(path, &e);
	ck_assert_msg(o && !st_write(o, f->t, (size_t)f->n, NULL, 0, &e), "%s", e.msg);
	ck_assert_int_eq(out_commit(o, &e), 0);
}

/* A model directory; valid until the next call. */
static const char *make_model(const struct gen_model *m)
{
	static char dir[256];
	struct model_files *f = make_tensors(m);

	snprintf(dir, sizeof(dir), "%s", at(m->name));
	mkdir(dir, 0777);
	put_config(dir, m, "");
	put_tokenizer(dir, "", "", "");
	put_tensors(dir, f);
	free_tensors(f);
	return dir;
}

static int export_to(const char *dir, const char *type, const char *path, struct err *e)
{
	const struct gguf_options opt = { type, NULL, NULL };
	struct model_source *s = model_source_open(dir, e);
	struct gguf_report r;
	struct out *o;
	int rc;

	if (!s)
		return -1;
	o = out_open(path, e);
	if (!o) {
		model_source_close(s);
		return -1;
	}
	rc = gguf_export(s, &opt, o, &r, e);
	if (rc)
		out_abort(o);
	else
		rc = out_commit(o, e);
	model_source_close(s);
	return rc;
}

/* The hash that the oracle takes: of name, 0, type, 0, data of each tensor, by name. */
static void content_hash(const struct gguf *g, char hex[65])
{
	struct sha *h = sha_new();

	for (uint64_t i = 0; i < g->n_tensors; i++) {
		const struct gguf_tensor *t = g->by_name[i];
		const char *type = quant_info(t->type)->name;

		sha_add(h, t->name, strlen(t->name) + 1);
		sha_add(h, type, strlen(type) + 1);
		sha_add(h, t->data, t->bytes);
	}
	sha_hex(h, hex);
	sha_free(h);
}

static void check_model(const char *dir, const char *type, const char *want)
{
	struct gguf g;
	char hex[65];

	OK(export_to(dir, type, at("out.gguf"), &er));
	OK(gguf_open(&g, at("out.gguf"), &er));
	content_hash(&g, hex);
	gguf_close(&g);
	ck_assert_msg(!strcmp(hex, want), "%s as %s differs from llama.cpp's", dir, type);
}

START_TEST(golden_models)
{
	const struct gen_model *m = &gen_models[_i];
	char name[32], type[16], counts[256], hex[65], line[512];
	FILE *f = fopen("tests/unit/data/gguf_golden.tsv", "r");
	const char *dir = make_model(m);
	int n = 0;

	ck_assert_ptr_nonnull(f);
	while (fgets(line, sizeof(line), f)) {
		if (line[0] == '#')
			continue;
		ck_assert_int_eq(sscanf(line, "%31s %15s %255s %64s", name, type, counts, hex), 4);
		if (strcmp(name, m->name))
			continue;
		check_model(dir, type, hex);
		n++;
	}
	fclose(f);
	ck_assert_int_eq(n, 13);
}
END_TEST

START_TEST(threads_change_nothing)
{
	const char *dir = make_model(&gen_models[0]);
	size_t n1, n4;
	char *one, *four;

	omp_set_num_threads(1);
	OK(export_to(dir, "q4_k_m", at("one.gguf"), &er));
	omp_set_num_threads(4);
	OK(export_to(dir, "q4_k_m", at("four.gguf"), &er));
	one = get_file(at("one.gguf"), &n1);
	four = get_file(at("four.gguf"), &n4);
	ck_assert_uint_eq(n1, n4);
	ck_assert_mem_eq(one, four, n1);
	free(one);
	free(four);
}
END_TEST

/* --- types --- */

static void run_of(struct sb *out, const struct gguf_plan *p, int64_t layers, enum gguf_role role)
{
	const char *last = NULL;
	int n = 0;

	for (int64_t l = 0; l <= layers; l++) {
		const char *now = NULL;

		for (size_t i = 0; i < p->n_items && l < layers; i++)
			if (p->items[i].layer == l && p->items[i].role == role)
				now = quant_info(p->items[i].type)->name;
		if (last && (!now || strcmp(now, last))) {
			sb_addf(out, "%s%s*%d", out->len ? "," : "", last, n);
			n = 0;
		}
		last = now;
		n++;
	}
}

static void check_types(char *line)
{
	char *c[16], *rest = line;
	struct gguf_plan p = { .arena = ARENA_INIT };
	struct sb v = SB_INIT, down = SB_INIT;
	int n = 0;

	for (char *t; n < 13 && (t = strsep(&rest, "\t\n"));)
		c[n++] = t;
	ck_assert_int_eq(n, 13);
	p.desc = (struct model_desc){ .family = c[0], .layers = atoll(c[1]), .heads = atoll(c[2]), .kv_heads = atoll(c[3]),
		                      .hidden = atoll(c[4]), .ffn = atoll(c[5]), .tied = c[6][0] == '1' };
	p.file_type = gguf_file_type(c[7]);
	p.items = arena_calloc(&p.arena, (size_t)p.desc.layers * 3 + 2, sizeof(*p.items));
#define ITEM(r, l, cols) p.items[p.n_items++] = (struct gguf_item){ .role = (r), .layer = (l), .n_dims = 2, .dims = { (uint64_t)(cols), 64 } }
	ITEM(ROLE_EMBED, -1, p.desc.hidden);
	if (!p.desc.tied)
		ITEM(ROLE_OUTPUT, -1, p.desc.hidden);
	for (int64_t l = 0; l < p.desc.layers; l++) {
		ITEM(ROLE_ATTN_V, l, p.desc.hidden);
		ITEM(ROLE_FFN_DOWN, l, p.desc.ffn);
		ITEM(ROLE_MATRIX, l, p.desc.hidden);
	}
#undef ITEM
	gguf_plan_types(&p);
	ck_assert_str_eq(quant_info(p.items[0].type)->name, c[8]);
	if (!p.desc.tied)
		ck_assert_str_eq(quant_info(p.items[1].type)->name, c[9]);
	ck_assert_str_eq(quant_info(p.items[p.n_items - 1].type)->name, c[10]);
	run_of(&v, &p, p.desc.layers, ROLE_ATTN_V);
	run_of(&down, &p, p.desc.layers, ROLE_FFN_DOWN);
	ck_assert_str_eq(sb_str(&v), c[11]);
	ck_assert_str_eq(sb_str(&down), c[12]);
	sb_release(&v);
	sb_release(&down);
	arena_release(&p.arena);
}

START_TEST(golden_types)
{
	FILE *f = fopen("tests/unit/data/gguf_types.tsv", "r");
	char line[4096];
	int n = 0;

	ck_assert_ptr_nonnull(f);
	while (fgets(line, sizeof(line), f))
		if (line[0] != '#') {
			check_types(line);
			n++;
		}
	fclose(f);
	ck_assert_int_eq(n, 9 * 13);
}
END_TEST

/* --- tokenizers --- */

static const struct gen_model tiny = { "tiny", "llama", 8, 8, 2, 1, 4, 1, 264, true, false, DT_F32 };

static struct gguf open_export(const char *dir)
{
	struct gguf g;

	OK(export_to(dir, "f32", at("tok.gguf"), &er));
	OK(gguf_open(&g, at("tok.gguf"), &er));
	return g;
}

static void check_token(const struct gguf *g, uint64_t i, const char *text, float score, int type)
{
	const struct gguf_key *s = gguf_find(g, "tokenizer.ggml.tokens"), *k = gguf_find(g, "tokenizer.ggml.scores");

	ck_assert(s && s->n == 264 && s->strs[i].len == strlen(text) && !memcmp(s->strs[i].s, text, strlen(text)));
	if (k)
		ck_assert_float_eq(gguf_item_f32(k, i), score);
	ck_assert_int_eq(gguf_item_i64(gguf_find(g, "tokenizer.ggml.token_type"), i), type);
}

START_TEST(fallback_tokens)
{
	const char *dir = make_model(&tiny);
	struct gguf g;
	struct gguf_str s;
	uint64_t id;
	bool flag;

	put_tokenizer(dir, ",\"a\":259,\"b\":260,\"ab\":261,\"aab\":262", "\"a b\",[\"a\",\"ab\"]",
	              ",\"added_tokens\":[{\"id\":2,\"content\":\"</s>\",\"special\":true},{\"id\":263,\"content\":\"x\xe2\x96\x81y\",\"special\":false}],"
	              "\"normalizer\":{\"type\":\"Sequence\",\"normalizers\":[{\"type\":\"Prepend\",\"prepend\":\"_\"}]},"
	              "\"post_processor\":{\"type\":\"TemplateProcessing\",\"single\":[{\"SpecialToken\":{\"id\":\"<s>\"}},{\"Sequence\":{\"id\":\"A\"}}]}");
	put_text(at("tiny/tokenizer_config.json"), "{\"bos_token\":{\"content\":\"<s>\"},\"pad_token\":\"</s>\",\"add_eos_token\":true,"
	                                           "\"chat_template\":[{\"name\":\"tool_use\",\"template\":\"T\"},{\"name\":\"default\",\"template\":\"D\"}]}");
	g = open_export(dir);
	ck_assert(gguf_get_str(&g, "tokenizer.ggml.model", &s) && !memcmp(s.s, "llama", s.len));
	check_token(&g, 0, "<unk>", -1000, TOKEN_UNKNOWN);
	check_token(&g, 2, "</s>", -1000, TOKEN_CONTROL);
	check_token(&g, 3, "<0x00>", -1000, TOKEN_BYTE);
	check_token(&g, 261, "ab", 0, TOKEN_NORMAL);
	check_token(&g, 262, "aab", -1, TOKEN_NORMAL);
	check_token(&g, 263, "x y", -1000, TOKEN_USER);
	ck_assert(gguf_get_u64(&g, "tokenizer.ggml.bos_token_id", &id) && id == 1);
	ck_assert(gguf_get_u64(&g, "tokenizer.ggml.eos_token_id", &id) && id == 2);
	ck_assert(gguf_get_u64(&g, "tokenizer.ggml.padding_token_id", &id) && id == 2);
	ck_assert(gguf_get_bool(&g, "tokenizer.ggml.add_bos_token", &flag) && flag);
	ck_assert(gguf_get_bool(&g, "tokenizer.ggml.add_eos_token", &flag) && !flag);
	ck_assert(gguf_get_bool(&g, "tokenizer.ggml.add_space_prefix", &flag) && flag);
	ck_assert(gguf_get_str(&g, "tokenizer.chat_template", &s) && s.len == 1 && s.s[0] == 'D');
	ck_assert(gguf_get_str(&g, "tokenizer.chat_template.tool_use", &s) && s.s[0] == 'T');
	gguf_close(&g);
	put_text(at("tiny/chat_template.jinja"), "J");
	g = open_export(dir);
	ck_assert(gguf_get_str(&g, "tokenizer.chat_template", &s) && s.s[0] == 'J');
	gguf_close(&g);
}
END_TEST

#define GPT2_PRE "\"pre_tokenizer\":{\"type\":\"ByteLevel\",\"add_prefix_space\":false,\"use_regex\":true}"
START_TEST(byte_level_tokens)
{
	const char *dir = make_model(&tiny);
	const struct gguf_key *k;
	struct gguf_str s;
	struct gguf g;
	bool flag;

	put_text(at("tiny/tokenizer.json"), "{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0,\"b\":1,\"ab\":2,\"\xc4\xa0""a\":3},"
	                                    "\"merges\":[\"a b\",[\" \",\"a\"]]},\"added_tokens\":[{\"id\":5,\"content\":\"<|x|>\",\"special\":false}]," GPT2_PRE "}");
	g = open_export(dir);
	ck_assert(gguf_get_str(&g, "tokenizer.ggml.model", &s) && !memcmp(s.s, "gpt2", s.len));
	ck_assert(gguf_get_str(&g, "tokenizer.ggml.pre", &s) && !memcmp(s.s, "gpt-2", s.len));
	check_token(&g, 2, "ab", 0, TOKEN_NORMAL);
	check_token(&g, 4, "[PAD4]", 0, TOKEN_UNUSED);
	check_token(&g, 5, "<|x|>", 0, TOKEN_CONTROL);
	k = gguf_find(&g, "tokenizer.ggml.merges");
	ck_assert(k && k->n == 2 && k->strs[1].len == 4 && !memcmp(k->strs[1].s, "\xc4\xa0 a", 4));
	ck_assert(gguf_get_bool(&g, "tokenizer.ggml.add_bos_token", &flag) && !flag);
	gguf_close(&g);
}
END_TEST

START_TEST(refused_tokenizers)
{
	const char *dir = make_model(&tiny);

#define TOK(text, why) do { put_text(at("tiny/tokenizer.json"), text); BAD(export_to(dir, "f32", at("no.gguf"), &er), LP_DATA, why); } while (0)
	TOK("{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0},\"merges\":[]},\"pre_tokenizer\":{\"type\":\"Metaspace\"}}", "--pre NAME");
	TOK("{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0},\"merges\":[],\"ignore_merges\":true}," GPT2_PRE "}", "ignore_merges");
	TOK("{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":264},\"merges\":[]}," GPT2_PRE "}", "beyond the embedding's 264 rows");
	TOK("{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":1,\"b\":1},\"merges\":[]}," GPT2_PRE "}", "same id");
	TOK("{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":1},\"merges\":[\"ab\"]}," GPT2_PRE "}", "no pair");
	TOK("{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":1},\"merges\":[]},\"normalizer\":{\"type\":\"Lowercase\"}," GPT2_PRE "}", "normaliser");
	TOK("{\"model\":{\"type\":\"Unigram\",\"vocab\":[]}}", "only BPE");
	TOK("{\"model\":{\"type\":\"BPE\",\"byte_fallback\":true,\"vocab\":{\"a\":1},\"merges\":[\"a a\"]}}", "not in the vocabulary");
	TOK("{\"model\":", "");
	put_tokenizer(dir, "", "", "");
	put_text(at("tiny/tokenizer.model"), "\x0a\xff\x7f");
	BAD(export_to(dir, "f32", at("no.gguf"), &er), LP_DATA, "not a SentencePiece model");
	put_file(at("tiny/tokenizer.model"), "\x0a\x08\x0a\x01q\x15\0\0\x80?\x12\x02\x18\x02", 14);
	BAD(export_to(dir, "f32", at("no.gguf"), &er), LP_DATA, "different tokenizers");
	put_file(at("tiny/tokenizer.model"), "\x0a\x08\x0a\x01q\x15\0\0\x80?", 10);
	BAD(export_to(dir, "f32", at("no.gguf"), &er), LP_DATA, "unigram");
	unlink(at("tiny/tokenizer.model"));
	unlink(at("tiny/tokenizer.json"));
	BAD(export_to(dir, "f32", at("no.gguf"), &er), LP_DATA, "neither tokenizer.json nor tokenizer.model");
	ck_assert_int_ne(access(at("no.gguf"), F_OK), 0);
}
END_TEST

/* The demo model's own tokenizer.model, cut everywhere: an error, never a crash. */
START_TEST(spm_cuts)
{
	size_t n;
	char *bytes = get_file("data/stories260K/tokenizer.model", &n);
	struct arena a = ARENA_INIT;
	struct spm_file m;

	OK(spm_parse((unsigned char *)bytes, n, "m", &a, &m, &er));
	ck_assert_uint_eq(m.n, 512);
	ck_assert(m.model == SPM_BPE && m.rules.dummy_prefix);
	for (size_t k = 0; k < n; k++) {
		struct err e = ERR_INIT;
		int rc = spm_parse((unsigned char *)bytes, k, "m", &a, &m, &e);

		ck_assert(rc == 0 || e.code == LP_DATA);
		arena_reset(&a);
	}
	arena_release(&a);
	free(bytes);
}
END_TEST

/* --- weights that are refused --- */

START_TEST(refused_models)
{
	struct model_files *f = make_tensors(&tiny);
	const char *dir = make_model(&tiny);
	float *x;

#define NO(why) BAD(export_to(dir, "q8_0", at("no.gguf"), &er), LP_DATA, why)
	x = (float *)(uintptr_t)f->t[4].data; /* v_proj, 4 x 8 */
	x[19] = NAN;
	put_tensors(dir, f);
	NO("'model.layers.0.self_attn.v_proj.weight', element [2, 3]");
	x[19] = -INFINITY;
	put_tensors(dir, f);
	NO("element [2, 3]");
	x[19] = 1e30f;
	put_tensors(dir, f);
	NO("too large for F16");
	x[19] = 0;
	/* the permuted rows of q are found again */
	x = (float *)(uintptr_t)f->t[2].data; /* q_proj, 2 heads of 4 rows */
	x[8 * 6 + 1] = NAN;
	put_tensors(dir, f);
	NO("q_proj.weight', element [6, 1]");
	x[8 * 6 + 1] = 0;
	f->t[5].name = "model.layers.0.self_attn.o.weight";
	put_tensors(dir, f);
	NO("'model.layers.0.self_attn.o_proj.weight' is missing");
	f->t[5].name = f->names[5];
	f->t[5].shape[0] = 4;
	f->t[5].shape[1] = 16;
	put_tensors(dir, f);
	NO("has not the shape");
	f->t[5].shape[0] = f->t[5].shape[1] = 8;
	add_tensor(f, &tiny, "model.extra", 0, 8);
	put_tensors(dir, f);
	NO("'model.extra' is not part of a llama model");
	snprintf(f->names[f->n - 1], 96, "model.layers.0.self_attn.rotary_emb.inv_freq");
	put_tensors(dir, f);
	OK(export_to(dir, "q8_0", at("yes.gguf"), &er));
	f->t[1].dtype = DT_I32;
	put_tensors(dir, f);
	NO("is I32");
	put_config(dir, &tiny, "\"quantization_config\":{\"quant_method\":\"bitsandbytes\"},");
	NO("quantis");
	put_config(dir, &(struct gen_model){ "tiny", "gemma", 8, 8, 2, 1, 4, 1, 264, true, false, DT_F32 }, "");
	NO("gemma");
	ck_assert_int_ne(access(at("no.gguf"), F_OK), 0);
	free_tensors(f);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("gguf");
	TCase *c = tcase_create("gguf");
	int failed;

	scratch_open();
	tcase_set_timeout(c, 300);
	tcase_add_test(c, reads_back);
	tcase_add_test(c, every_cut);
	tcase_add_test(c, every_flip);
	tcase_add_test(c, refused_heads);
	tcase_add_loop_test(c, golden_models, 0, GEN_MODELS);
	tcase_add_test(c, threads_change_nothing);
	tcase_add_test(c, golden_types);
	tcase_add_test(c, fallback_tokens);
	tcase_add_test(c, byte_level_tokens);
	tcase_add_test(c, refused_tokenizers);
	tcase_add_test(c, spm_cuts);
	tcase_add_test(c, refused_models);
	suite_add_tcase(s, c);
	failed = run_tests(s);
	scratch_close();
	return failed;
}

/* PEFT LoRA adapters, read strictly: what would change the result and is not
 * understood here is refused by its name, never skipped. Follows the files
 * that PEFT 0.21 writes (save_pretrained) and how it matches patterns. */
#include "fmt/peft.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include "base/xalloc.h"

#define PREFIX "base_model.model."
#define STREAM_TENSOR_MAX ((uint64_t)16 << 30)

static int refuse(struct err *e, const char *path, const char *key, const char *why)
{
	return err_off(e, LP_USAGE, path, -1, "the adapter has %s, %s", key, why);
}

static bool is_set(const struct json *v)
{
	if (!v || v->type == JSON_NULL)
		return false;
	return v->type == JSON_BOOL ? v->b : v->type == JSON_ARR || v->type == JSON_OBJ || v->type == JSON_STR ? v->n > 0 : true;
}

/* PEFT names both heads that a model of this task may have. */
static bool saves_score_alone(const struct json *c)
{
	const struct json *m = json_get(c, "modules_to_save"), *task = json_get(c, "task_type");

	for (uint32_t i = 0; json_is(m, JSON_ARR) && i < m->n; i++)
		if (!json_str_is(&m->items[i], "score") && !json_str_is(&m->items[i], "classifier"))
			return false;
	return !is_set(m) || (json_is(m, JSON_ARR) && json_is(task, JSON_STR) && json_str_is(task, "SEQ_CLS"));
}

/* Settings that make the adapter something else than W + scale * B A, or the same with magnitudes. */
static int check_unsupported(const struct json *c, const char *path, struct err *e)
{
	static const char *const keys[] = { "fan_in_fan_out",        "lora_bias",
					    "layer_replication", "target_parameters",       "trainable_token_indices", "alora_invocation_tokens",
					    "use_qalora",       "use_bdlora",              "kasa_config",           "velora_config",
					    "monteclora_config", "arrow_config" };
	static const char *const inits[] = { "gaussian", "eva", "orthogonal", "true", "false" };
	const struct json *init = json_get(c, "init_lora_weights");
	const char *bias;

	if (!saves_score_alone(c))
		return refuse(e, path, "modules_to_save", "which is not supported but for a reward model's score: merge it with PEFT, or train without it");
	for (size_t i = 0; i < sizeof(keys) / sizeof(keys[0]); i++)
		if (is_set(json_get(c, keys[i])))
			return refuse(e, path, keys[i], "which is not supported: merge it with PEFT, or train without it");
	if (!json_get_str(c, "bias", "none", &bias) || strcmp(bias, "none"))
		return refuse(e, path, "bias other than none", "which is not supported: train with bias none");
	if (json_is(init, JSON_STR)) {
		for (size_t i = 0; i < sizeof(inits) / sizeof(inits[0]); i++)
			if (json_str_is(init, inits[i]))
				return 0;
		return refuse(e, path, "an init_lora_weights that changes the base weights",
			      "so it fits no plain base: convert it with PEFT's path_initial_model_for_weight_conversion");
	}
	return 0;
}

static int read_config(struct peft *p, const char *path, struct err *e)
{
	const struct json *c = &p->config;
	const char *type;

	if (!json_is(c, JSON_OBJ))
		return err_off(e, LP_DATA, path, -1, "not a JSON object");
	if (!json_get_str(c, "peft_type", NULL, &type) || !type)
		return err_off(e, LP_DATA, path, -1, "no peft_type: this is not an adapter's configuration");
	if (strcmp(type, "LORA"))
		return err_off(e, LP_USAGE, path, -1, "peft_type is '%.40s': only LORA adapters are supported", type);
	if (check_unsupported(c, path, e))
		return -1;
	if (!json_get_i64(c, "r", 8, &p->r) || p->r < 1)
		return err_off(e, LP_DATA, path, -1, "r is not a positive whole number");
	if (!json_get_f64(c, "lora_alpha", 8, &p->alpha))
		return err_off(e, LP_DATA, path, -1, "lora_alpha is not a number");
	if (!json_get_bool(c, "use_rslora", false, &p->rslora))
		return err_off(e, LP_DATA, path, -1, "use_rslora is not a boolean");
	if (!json_get_bool(c, "use_dora", false, &p->dora))
		return err_off(e, LP_DATA, path, -1, "use_dora is not a boolean");
	if (!json_get_str(c, "base_model_name_or_path", "", &p->base_name))
		return err_off(e, LP_DATA, path, -1, "base_model_name_or_path is not a string");
	return 0;
}

/* As PEFT: the first key for which (.*\.)?(key)$ matches the path, as a regular expression. */
static int pattern_find(const struct json *pat, const char *module, const char *path, const struct json **hit, struct err *e)
{
	*hit = NULL;
	for (uint32_t i = 0; json_is(pat, JSON_OBJ) && i < pat->n && !*hit; i++) {
		char *re = xasprintf("^(?:.*\\.)?(?:%s)$", pat->members[i].key);
		int code, n = -1;
		PCRE2_SIZE at;
		pcre2_code *pc = pcre2_compile((PCRE2_SPTR)re, PCRE2_ZERO_TERMINATED, PCRE2_UTF, &code, &at, NULL);
		pcre2_match_data *md = pc ? pcre2_match_data_create_from_pattern(pc, NULL) : NULL;

		if (md)
			n = pcre2_match(pc, (PCRE2_SPTR)module, PCRE2_ZERO_TERMINATED, 0, 0, md, NULL);
		pcre2_match_data_free(md);
		pcre2_code_free(pc);
		free(re);
		if (!pc)
			return err_off(e, LP_DATA, path, -1, "pattern '%.100s' is not a regular expression", pat->members[i].key);
		if (n >= 0)
			*hit = &pat->members[i].val;
	}
	return 0;
}

static int module_scale(const struct peft *p, struct peft_module *m, const char *path, struct err *e)
{
	const struct json *rank, *alpha;
	int64_t r = p->r;
	double al = p->alpha;

	if (pattern_find(json_get(&p->config, "rank_pattern"), m->path, path, &rank, e) ||
	    pattern_find(json_get(&p->config, "alpha_pattern"), m->path, path, &alpha, e))
		return -1;
	if ((rank && !json_as_i64(rank, &r)) || (alpha && !json_as_f64(alpha, &al)))
		return err_off(e, LP_DATA, path, -1, "rank_pattern or alpha_pattern gives '%.200s' what is not a number", m->path);
	if (m->r != r)
		return err_off(e, LP_DATA, path, -1, "'%.200s' has rank %" PRId64 ", the configuration says %" PRId64, m->path, m->r, r);
	m->scale = p->rslora ? al / sqrt((double)r) : al / (double)r;
	return 0;
}

static int by_path(const void *x, const void *y)
{
	const struct peft_module *a = x, *b = y;

	return strcmp(a->path, b->path);
}

/* Splits base_model.model.PATH.lora_A.weight; side is 'A', 'B' or, of magnitudes, 'm'. */
static char *module_path(struct arena *a, const char *name, char *side)
{
	static const char *const tails[] = { ".lora_A.weight", ".lora_B.weight", ".lora_magnitude_vector" };
	size_t n = strlen(name), pre = sizeof(PREFIX) - 1;

	for (int i = 0; i < 3; i++) {
		size_t tail = strlen(tails[i]);

		*side = "ABm"[i];
		if (n > pre + tail && !strncmp(name, PREFIX, pre) && !strcmp(name + n - tail, tails[i]))
			return arena_strndup(a, name + pre, n - pre - tail);
	}
	return NULL;
}

static const char copy_tail[] = ".base_layer.weight";

static bool is_copy(const char *name)
{
	size_t n = strlen(name), k = sizeof(copy_tail) - 1;

	return n > k && !strcmp(name + n - k, copy_tail) && !strncmp(name, PREFIX, sizeof(PREFIX) - 1);
}

const struct tensor *peft_base_copy(const struct peft *p, const char *weight_name)
{
	size_t n = strlen(weight_name);

	if (n < 7 || strcmp(weight_name + n - 7, ".weight"))
		return NULL;
	for (size_t i = 0; i < p->n_copies; i++) {
		const char *path = p->copies[i]->name + sizeof(PREFIX) - 1;

		if (!strncmp(path, weight_name, n - 7) && !strcmp(path + n - 7, copy_tail))
			return p->copies[i];
	}
	return NULL;
}

static int take_score(struct peft *p, const struct tensor *t, const char *path, struct err *e)
{
	if ((t->dtype != DT_F32 && t->dtype != DT_F16 && t->dtype != DT_BF16) || t->n_dims != 2 || t->shape[0] != 1)
		return err_off(e, LP_DATA, path, -1, "score.weight is not one row of F32, F16 or BF16: only reward models, which give one number, are supported");
	p->score = t;
	return 0;
}

static int take_tensor(struct peft *p, const struct tensor *t, const char *path, struct err *e)
{
	struct peft_module *m;
	char side = 0;

	if (is_copy(t->name)) {
		p->copies[p->n_copies++] = t;
		return 0;
	}
	if (strcmp(t->name, PREFIX "score.weight") == 0)
		return take_score(p, t, path, e);
	m = &p->modules[p->n_modules];
	m->path = module_path(&p->arena, t->name, &side);
	if (!m->path)
		return err_off(e, LP_DATA, path, -1, "tensor '%.200s' is not base_model.model.PATH.lora_A.weight, lora_B.weight or lora_magnitude_vector", t->name);
	if (side == 'm' && !p->dora)
		return err_off(e, LP_DATA, path, -1, "tensor '%.200s' is of DoRA, and the configuration has no use_dora", t->name);
	if (t->dtype != DT_F32 && t->dtype != DT_F16 && t->dtype != DT_BF16)
		return err_off(e, LP_DATA, path, -1, "tensor '%.200s' is %s: adapters are F32, F16 or BF16", t->name, dtype_st_name(t->dtype));
	if (side == 'm' && t->n_dims != 1)
		return err_off(e, LP_DATA, path, -1, "tensor '%.200s' is not a vector of magnitudes", t->name);
	if (side != 'm' && (t->n_dims != 2 || !t->shape[0] || !t->shape[1]))
		return err_off(e, LP_DATA, path, -1, "tensor '%.200s' is not a matrix: only linear layers are supported", t->name);
	m->a = side == 'A' ? t : NULL;
	m->b = side == 'B' ? t : NULL;
	m->m = side == 'm' ? t : NULL;
	p->n_modules++;
	return 0;
}

/* One tensor more of module *to. */
static int join(struct peft_module *to, const struct peft_module *x, const char *path, struct err *e)
{
	if ((x->a && to->a) || (x->b && to->b) || (x->m && to->m))
		return err_off(e, LP_DATA, path, -1, "module '%.200s' has the same tensor twice", x->path);
	to->path = x->path;
	to->a = x->a ? x->a : to->a;
	to->b = x->b ? x->b : to->b;
	to->m = x->m ? x->m : to->m;
	return 0;
}

static int check_module(const struct peft *p, struct peft_module *m, const char *path, struct err *e)
{
	if (!m->a || !m->b)
		return err_off(e, LP_DATA, path, -1, "module '%.200s' has only one of lora_A and lora_B", m->path);
	m->r = (int64_t)m->a->shape[0];
	if (m->b->shape[1] != m->a->shape[0])
		return err_off(e, LP_DATA, path, -1, "module '%.200s': lora_A has rank %" PRIu64 ", lora_B %" PRIu64, m->path, m->a->shape[0], m->b->shape[1]);
	if (p->dora && !m->m)
		return err_off(e, LP_DATA, path, -1, "module '%.200s' has no lora_magnitude_vector, and the configuration has use_dora", m->path);
	if (m->m && m->m->shape[0] != m->b->shape[0])
		return err_off(e, LP_DATA, path, -1, "module '%.200s': lora_B has %" PRIu64 " rows, lora_magnitude_vector %" PRIu64, m->path, m->b->shape[0], m->m->shape[0]);
	return module_scale(p, m, path, e);
}

/* Joins the tensors of each module, which are neighbours once sorted. */
static int join_all(struct peft *p, const char *path, struct err *e)
{
	size_t n = 0, i = 0;

	qsort(p->modules, p->n_modules, sizeof(*p->modules), by_path);
	while (i < p->n_modules) {
		struct peft_module m = { .path = p->modules[i].path };

		for (; i < p->n_modules && !strcmp(p->modules[i].path, m.path); i++)
			if (join(&m, &p->modules[i], path, e))
				return -1;
		if (check_module(p, &m, path, e))
			return -1;
		p->modules[n++] = m;
	}
	p->n_modules = n;
	return n ? 0 : err_off(e, LP_DATA, path, -1, "the adapter has no modules");
}

static int take_all(struct peft *p, const struct tensor *t, size_t n, const char *path, struct err *e)
{
	p->modules = arena_calloc(&p->arena, n + 1, sizeof(*p->modules));
	p->copies = arena_calloc(&p->arena, n + 1, sizeof(*p->copies));
	for (size_t i = 0; i < n; i++)
		if (take_tensor(p, &t[i], path, e))
			return -1;
	return join_all(p, path, e);
}

static int check_id(const char *id, const char *path, struct err *e)
{
	if (id && (strncmp(id, "sha256:", 7) || strlen(id) != 71 || strspn(id + 7, "0123456789abcdef") != 64))
		return err_off(e, LP_DATA, path, -1, "base_id is not sha256: and 64 hex digits");
	return 0;
}

/* lorapipe.json beside the adapter: may be absent; if there it must agree. */
static int read_sidecar(struct peft *p, const char *dir, struct err *e)
{
	char *path = xasprintf("%s/lorapipe.json", dir);
	const char *id = NULL;
	struct json v;
	int rc = 0;

	if (!access(path, F_OK)) {
		rc = json_load(path, &p->arena, &v, e);
		if (!rc && !json_get_str(&v, "base_id", NULL, &id))
			rc = err_off(e, LP_DATA, path, -1, "base_id is not a string");
		if (!rc && p->base_id && id && strcmp(id, p->base_id))
			rc = err_off(e, LP_DATA, path, -1, "base_id is not the one in adapter_model.safetensors: the files are of two adapters");
		if (!rc && !p->base_id)
			p->base_id = id;
	}
	if (!rc)
		rc = check_id(p->base_id, path, e);
	free(path);
	return rc;
}

static int load_dir(struct peft *p, const char *dir, const char *config, const char *model, struct err *e)
{
	char hex[65], full[72];

	if (json_load(config, &p->arena, &p->config, e))
		return -1;
	if (read_config(p, config, e) || st_file_open(&p->file, model, e) ||
	    take_all(p, p->file.blob.tensors, p->file.blob.n_tensors, model, e))
		return -1;
	sha_once(p->file.map, p->file.map_bytes, hex);
	snprintf(full, sizeof(full), "sha256:%s", hex);
	p->hash = arena_strndup(&p->arena, full, strlen(full));
	p->base_id = st_meta(&p->file.blob, "base_id");
	p->lineage = st_meta(&p->file.blob, "lineage");
	p->codes = st_meta(&p->file.blob, "codes");
	return read_sidecar(p, dir, e);
}

int peft_load(struct peft *p, const char *dir, struct err *e)
{
	char *config = xasprintf("%s/adapter_config.json", dir), *model = xasprintf("%s/adapter_model.safetensors", dir);
	char *bin = xasprintf("%s/adapter_model.bin", dir);
	int rc;

	memset(p, 0, sizeof(*p));
	if (access(model, F_OK) && !access(bin, F_OK))
		rc = err_off(e, LP_USAGE, bin, -1, "the adapter is in PyTorch's pickle format: save it again as safetensors with PEFT");
	else
		rc = load_dir(p, dir, config, model, e);
	free(config);
	free(model);
	free(bin);
	if (rc)
		peft_release(p);
	return rc;
}

const struct peft_module *peft_find(const struct peft *p, const char *path)
{
	struct peft_module key = { .path = path };

	return p->n_modules ? bsearch(&key, p->modules, p->n_modules, sizeof(key), by_path) : NULL;
}

void peft_release(struct peft *p)
{
	for (size_t i = 0; i < p->n_owned; i++)
		free((void *)p->owned[i].data);
	st_file_close(&p->file);
	arena_release(&p->arena);
	memset(p, 0, sizeof(*p));
}

static const char *keep(struct peft *p, const char *s)
{
	return s ? arena_strndup(&p->arena, s, strlen(s)) : NULL;
}

/* The index frame: configuration, identity, and the tensors to come. */
static int stream_index(struct peft *p, const struct st_blob *b, const char *name, struct err *e)
{
	const char *config = st_meta(b, "adapter_config");

	if (!config || b->n_tensors)
		return err_off(e, LP_DATA, name, 0, "corrupt: the adapter stream does not begin with an index frame");
	if (json_parse_str(config, &p->arena, &p->config, e)) {
		err_where(e, name, 0);
		return -1;
	}
	if (read_config(p, name, e) || st_list_parse(st_meta(b, "tensors"), name, &p->arena, &p->owned, &p->n_owned, e))
		return -1;
	p->base_id = keep(p, st_meta(b, "base_id"));
	p->lineage = keep(p, st_meta(b, "lineage"));
	p->codes = keep(p, st_meta(b, "codes"));
	return check_id(p->base_id, name, e);
}

static int stream_tensor(struct tensor *t, const struct st_blob *b, const char *name, struct err *e)
{
	void *data;

	if (b->n_tensors != 1 || strcmp(b->tensors[0].name, t->name) || !st_same_shape(&b->tensors[0], t))
		return err_off(e, LP_DATA, name, -1, "corrupt: the frame of '%.200s' is not as the stream's index announced", t->name);
	data = lp_try_alloc(t->bytes ? t->bytes : 1, 1, "adapter tensor", e);
	if (!data)
		return -1;
	memcpy(data, b->tensors[0].data, t->bytes);
	t->data = data;
	return 0;
}

static int stream_all(struct peft *p, struct st_reader *r, struct err *e)
{
	const char *name = st_reader_name(r);
	const struct st_blob *b;
	char hash[40] = "xxh3:";
	int rc = st_reader_next(r, &b, 0, e);

	/* A plain file is known by its header, before its data is read. */
	if (rc < 0 && !st_reader_is_file(r))
		return -1;
	if (rc <= 0 || strcmp(st_reader_kind(r), "adapter"))
		return err_off(e, LP_USAGE, name, -1, "an adapter stream is needed here, not a %s%s", st_reader_kind(r),
			       strcmp(st_reader_kind(r), "file") ? " stream" : ": give an adapter's directory with --adapter");
	if (stream_index(p, b, name, e))
		return -1;
	for (size_t i = 0; i < p->n_owned; i++) {
		rc = st_reader_next(r, &b, STREAM_TENSOR_MAX, e);
		if (rc <= 0)
			return rc ? -1 : err_off(e, LP_DATA, name, -1, "corrupt: the stream ends before all tensors of its index");
		if (stream_tensor(&p->owned[i], b, name, e))
			return -1;
	}
	rc = st_reader_next(r, &b, 0, e);
	if (rc)
		return rc < 0 ? -1 : err_off(e, LP_DATA, name, -1, "corrupt: the stream has more tensors than its index");
	st_reader_hash(r, hash + 5);
	p->hash = keep(p, hash);
	return take_all(p, p->owned, p->n_owned, name, e);
}

int peft_load_stream_take(struct peft *p, struct in *in, struct err *e)
{
	struct st_reader *r = st_reader_open_take(in, e);
	int rc;

	memset(p, 0, sizeof(*p));
	if (!r)
		return -1;
	rc = stream_all(p, r, e);
	st_reader_close(r);
	if (rc)
		peft_release(p);
	return rc;
}

int peft_open(struct peft *p, const char *path, struct err *e)
{
	struct stat st;
	struct in *in;

	memset(p, 0, sizeof(*p));
	if (strcmp(path, "-") && !stat(path, &st) && S_ISDIR(st.st_mode))
		return peft_load(p, path, e);
	in = in_open(path, e);
	return in ? peft_load_stream_take(p, in, e) : -1;
}

#include "model/bnb.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/xalloc.h"
#include "kernels/nf4.h"

/* --- config.json --- */

static const char original[] = "give the 16-bit model that it was made from";

static int check_kind(const struct json *q, struct err *e)
{
	const char *method, *type;
	bool four, eight;

	if (!json_get_str(q, "quant_method", "bitsandbytes", &method))
		method = "?";
	if (strcmp(method, "bitsandbytes") != 0)
		return err_set(e, LP_DATA, "the checkpoint is quantised by '%.40s', of which nothing is read; %s", method, original);
	if (!json_get_bool(q, "load_in_4bit", false, &four) || !json_get_bool(q, "load_in_8bit", false, &eight) ||
	    !json_get_str(q, "bnb_4bit_quant_type", "fp4", &type))
		return err_set(e, LP_DATA, "'quantization_config' has a value of another type than bitsandbytes writes");
	if (eight || !four)
		return err_set(e, LP_DATA, "the checkpoint is already quantised, %s; 4 bits of type nf4 are read: %s", eight ? "to 8 bits" : "and not with load_in_4bit", original);
	if (strcmp(type, "nf4") != 0)
		return err_set(e, LP_DATA, "the checkpoint is in 4 bits of type '%.20s', and only nf4 is read; %s", type, original);
	return 0;
}

/* transformers' should_convert_module: a pattern matches a module's name from its start up to a dot or its end,
 * or is its tail. They are regular expressions there; we read those that are plain names. */
static bool matches(const char *name, const char *pattern)
{
	size_t n = strlen(name), k = strlen(pattern);

	if (k <= n && strcmp(name + n - k, pattern) == 0)
		return true;
	return k && k <= n && strncmp(name, pattern, k) == 0 && (pattern[k - 1] == '.' || name[k] == '.');
}

static int keep(struct model_desc *m, const struct json *pattern, struct err *e)
{
	if (pattern->type != JSON_STR)
		return err_set(e, LP_DATA, "'llm_int8_skip_modules' must be a list of names");
	if (strpbrk(pattern->s, "*+?[](){}|^$\\"))
		return err_set(e, LP_DATA, "'%.80s' in llm_int8_skip_modules is a pattern; list the modules by their names", pattern->s);
	for (int64_t l = 0; l < m->layers; l++)
		for (int s = 0; s < LIN_N; s++) {
			char name[ARCH_NAME];

			snprintf(name, sizeof(name), "model.layers.%lld.%s", (long long)l, linear_path(s));
			if (matches(name, pattern->s))
				m->bnb.kept[l] |= (uint8_t)(1 << s);
		}
	return 0;
}

int bnb_read(const struct json *q, struct model_desc *m, struct err *e)
{
	const struct json *skip = json_get(q, "llm_int8_skip_modules");
	bool twice;

	if (!q || q->type == JSON_NULL)
		return 0;
	if (q->type != JSON_OBJ)
		return err_set(e, LP_DATA, "'quantization_config' must be an object");
	if (check_kind(q, e) < 0)
		return -1;
	if (!json_get_bool(q, "bnb_4bit_use_double_quant", false, &twice) || (skip && skip->type != JSON_NULL && skip->type != JSON_ARR))
		return err_set(e, LP_DATA, "'quantization_config' has a value of another type than bitsandbytes writes");
	if (m->layers > BNB_LAYERS || m->hidden < 8)
		return err_set(e, LP_DATA, "a 4-bit checkpoint of %lld layers and hidden size %lld: up to %d layers and from 8 on are read", (long long)m->layers,
		               (long long)m->hidden, BNB_LAYERS);
	m->bnb.on = true;
	m->bnb.plain = !twice;
	for (uint32_t i = 0; json_is(skip, JSON_ARR) && i < skip->n; i++)
		if (keep(m, &skip->items[i], e) < 0)
			return -1;
	return 0;
}

/* --- tensors --- */

static const char *const tails[BNB_PARTS] = {
	[BNB_CODES] = "", [BNB_ABSMAX] = ".absmax", [BNB_NESTED_ABSMAX] = ".nested_absmax", [BNB_MAP] = ".quant_map",
	[BNB_NESTED_MAP] = ".nested_quant_map", [BNB_STATE] = ".quant_state.bitsandbytes__nf4", [BNB_FP4] = ".quant_state.bitsandbytes__fp4",
};

const char *bnb_tail(enum bnb_part p)
{
	return tails[p];
}

int bnb_part(const char *tail)
{
	for (int i = 0; i < BNB_PARTS; i++)
		if (strcmp(tail, tails[i]) == 0)
			return i;
	return -1;
}

unsigned bnb_parts(bool plain)
{
	unsigned all = 1u << BNB_CODES | 1u << BNB_ABSMAX | 1u << BNB_MAP | 1u << BNB_STATE;

	return plain ? all : all | 1u << BNB_NESTED_ABSMAX | 1u << BNB_NESTED_MAP;
}

static int check_codes(const struct tensor *t, int64_t rows, int64_t cols, struct err *e)
{
	uint64_t want = (uint64_t)(rows * cols + 1) / 2;

	if (t->n_dims == 2 && t->shape[0] == (uint64_t)rows && t->shape[1] == (uint64_t)cols && cols != 1)
		return err_set(e, LP_DATA, "tensor '%s' is %s and not in 4 bits, as config.json says; if that is meant, list the module in its llm_int8_skip_modules",
		               t->name, dtype_st_name(t->dtype));
	if (t->n_dims != 2 || t->shape[1] != 1 || t->bytes != want)
		return err_set(e, LP_DATA, "tensor '%s' has %llu bytes; the 4-bit codes of (%lld, %lld) are a column of %llu", t->name,
		               (unsigned long long)t->bytes, (long long)rows, (long long)cols, (unsigned long long)want);
	return 0;
}

static int check_array(const struct tensor *t, enum dtype dtype, int64_t n, struct err *e)
{
	int64_t at;

	if (t->dtype != dtype || t->n_dims != 1 || t->shape[0] != (uint64_t)n)
		return err_set(e, LP_DATA, "tensor '%s' must be %s of %lld elements: the checkpoint is broken, or not in blocks of %d", t->name,
		               dtype_st_name(dtype), (long long)n, NF4_BLOCK);
	at = dtype == DT_F32 ? tensor_find_nonfinite(t) : -1;
	if (at >= 0)
		return err_set(e, LP_DATA, "tensor '%s', element %lld, is infinite or not a number; the checkpoint is broken", t->name, (long long)at);
	return 0;
}

static int check_absmax(const struct tensor *t, int64_t n, bool plain, struct err *e)
{
	if (t->dtype == (plain ? DT_U8 : DT_F32))
		return err_set(e, LP_DATA, "tensor '%s' is %s, so the scales are %squantised themselves, and by config.json they are%s: correct its bnb_4bit_use_double_quant",
		               t->name, dtype_st_name(t->dtype), plain ? "" : "not ", plain ? " not" : "");
	return check_array(t, plain ? DT_F32 : DT_U8, nf4_blocks(n), e);
}

/* The levels are published numbers. The dynamic map is computed by bitsandbytes, in fp32 and on whatever
 * machine: a rounding apart is the same map. */
static int check_map(const struct tensor *t, const float *want, int64_t n, float apart, const char *what, struct err *e)
{
	const uint8_t *at = t->data;

	if (check_array(t, DT_F32, n, e) < 0)
		return -1;
	for (int64_t i = 0; i < n; i++) {
		float v;

		memcpy(&v, at + i * (int64_t)sizeof(v), sizeof(v));
		if (fabsf(v - want[i]) > apart * fabsf(want[i]))
			return err_set(e, LP_DATA, "tensor '%s', element %lld, is %g: not %s of nf4, which is all that is read; %s", t->name, (long long)i,
			               (double)v, what, original);
	}
	return 0;
}

static int check_state_json(const struct tensor *t, const struct json *v, int64_t rows, int64_t cols, bool plain, float *offset, struct err *e)
{
	const struct json *shape = json_get(v, "shape");
	int64_t block, nested, r, c;
	double at;
	const char *type;

	if (!json_get_str(v, "quant_type", "", &type) || strcmp(type, "nf4") != 0)
		return err_set(e, LP_DATA, "tensor '%s' says quant_type '%.20s', and only nf4 is read; %s", t->name, type ? type : "?", original);
	if (!json_get_i64(v, "blocksize", 0, &block) || block != NF4_BLOCK)
		return err_set(e, LP_DATA, "tensor '%s' says blocks of %lld weights, and only blocks of %d are read; quantise again with a blocksize of %d, or %s", t->name,
		               (long long)block, NF4_BLOCK, NF4_BLOCK, original);
	if (!json_is(shape, JSON_ARR) || shape->n != 2 || !json_as_i64(&shape->items[0], &r) || !json_as_i64(&shape->items[1], &c) || r != rows || c != cols)
		return err_set(e, LP_DATA, "tensor '%s' is of a weight of another shape than the (%lld, %lld) that config.json implies", t->name, (long long)rows,
		               (long long)cols);
	if (plain)
		return 0;
	if (!json_get_i64(v, "nested_blocksize", 0, &nested) || nested != NF4_BLOCK2)
		return err_set(e, LP_DATA, "tensor '%s' says blocks of %lld scales, and only blocks of %d are read; %s", t->name, (long long)nested, NF4_BLOCK2, original);
	if (!json_get_str(v, "nested_dtype", "float32", &type) || strcmp(type, "float32") != 0 || !json_get_f64(v, "nested_offset", NAN, &at) || !isfinite((float)at))
		return err_set(e, LP_DATA, "tensor '%s' has no finite nested_offset in fp32", t->name);
	*offset = (float)at;
	return 0;
}

static int check_state(const struct tensor *t, int64_t rows, int64_t cols, bool plain, float *offset, struct err *e)
{
	struct arena a = ARENA_INIT;
	struct err bad = ERR_INIT;
	struct json v;
	char *text;
	int rc;

	if (t->dtype != DT_U8 || t->bytes == 0 || t->bytes > 4096)
		return err_set(e, LP_DATA, "tensor '%s' must be some bytes of JSON", t->name);
	text = xmemdup0(t->data, (size_t)t->bytes);
	rc = json_parse_str(text, &a, &v, &bad);
	if (rc == 0 && v.type == JSON_OBJ)
		rc = check_state_json(t, &v, rows, cols, plain, offset, e);
	else
		rc = err_set(e, LP_DATA, "tensor '%s' is not the JSON that bitsandbytes writes", t->name);
	arena_release(&a);
	free(text);
	return rc;
}

int bnb_check(const struct tensor *t, enum bnb_part p, int64_t rows, int64_t cols, bool plain, float *offset, struct err *e)
{
	int64_t n = rows * cols;

	if (plain && (p == BNB_NESTED_ABSMAX || p == BNB_NESTED_MAP))
		return err_set(e, LP_DATA, "tensor '%s' is of double quantisation, which config.json does not have: set its bnb_4bit_use_double_quant", t->name);
	switch (p) {
	case BNB_CODES:
		return check_codes(t, rows, cols, e);
	case BNB_ABSMAX:
		return check_absmax(t, n, plain, e);
	case BNB_NESTED_ABSMAX:
		return check_array(t, DT_F32, nf4_blocks2(n), e);
	case BNB_MAP:
		return check_map(t, nf4_levels, 16, 0, "a level", e);
	case BNB_NESTED_MAP:
		return check_map(t, dynmap_signed, 256, 1e-6f, "the dynamic map", e);
	case BNB_STATE:
		return check_state(t, rows, cols, plain, offset, e);
	default:
		return err_set(e, LP_DATA, "tensor '%s': the weight is of type fp4, and only nf4 is read; %s", t->name, original);
	}
}

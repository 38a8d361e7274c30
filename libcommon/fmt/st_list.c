/* The list of tensors that a model or adapter stream announces first. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "fmt/st.h"

void st_list_json(const struct tensor *t, size_t n, struct sb *out)
{
	struct jw w = jw_to(out);

	jw_arr(&w);
	for (size_t i = 0; i < n; i++) {
		jw_obj(&w);
		jw_key(&w, "name");
		jw_str(&w, t[i].name);
		jw_key(&w, "dtype");
		jw_str(&w, dtype_st_name(t[i].dtype));
		jw_key(&w, "shape");
		jw_arr(&w);
		for (int d = 0; d < t[i].n_dims; d++)
			jw_i64(&w, (int64_t)t[i].shape[d]);
		jw_end_arr(&w);
		jw_end_obj(&w);
	}
	jw_end_arr(&w);
}

static int parse_one(const struct json *v, const char *path, struct tensor *t, struct err *e)
{
	const struct json *name = json_get(v, "name"), *shape = json_get(v, "shape");
	const char *dtype;
	uint64_t bytes;
	int64_t d;

	if (!json_is(name, JSON_STR) || strlen(name->s) != name->n || !json_get_str(v, "dtype", NULL, &dtype) || !dtype ||
	    !dtype_from_st(dtype, &t->dtype) || !json_is(shape, JSON_ARR) || shape->n > TENSOR_MAX_DIMS)
		return err_off(e, LP_DATA, path, 0, "corrupt: an entry of the stream's tensor list is malformed");
	t->name = name->s;
	t->n_dims = (int)shape->n;
	bytes = dtype_bytes(t->dtype);
	for (uint32_t i = 0; i < shape->n; i++) {
		if (!json_as_i64(&shape->items[i], &d) || d < 0 || __builtin_mul_overflow(bytes, (uint64_t)d, &bytes) || bytes > INT64_MAX)
			return err_off(e, LP_DATA, path, 0, "corrupt: the tensor list gives '%.200s' an impossible shape", t->name);
		t->shape[i] = (uint64_t)d;
	}
	t->bytes = bytes;
	return 0;
}

int st_list_parse(const char *text, const char *path, struct arena *a, struct tensor **t, size_t *n, struct err *e)
{
	struct json v;

	if (!text)
		return err_off(e, LP_DATA, path, 0, "corrupt: the stream does not begin with an index frame");
	if (json_parse_str(text, a, &v, e) || !json_is(&v, JSON_ARR))
		return err_off(e, LP_DATA, path, 0, "corrupt: the stream's tensor list is not a JSON array");
	*t = arena_calloc(a, (size_t)v.n + 1, sizeof(**t));
	for (uint32_t i = 0; i < v.n; i++)
		if (parse_one(&v.items[i], path, &(*t)[i], e))
			return -1;
	*n = v.n;
	return 0;
}

bool st_same_shape(const struct tensor *a, const struct tensor *b)
{
	return a->dtype == b->dtype && a->n_dims == b->n_dims && !memcmp(a->shape, b->shape, (size_t)a->n_dims * sizeof(a->shape[0]));
}

void st_shape_text(const struct tensor *t, char *buf, size_t n)
{
	size_t at = (size_t)snprintf(buf, n, "%s (", dtype_st_name(t->dtype));

	for (int i = 0; i < t->n_dims && at < n; i++)
		at += (size_t)snprintf(buf + at, n - at, "%s%" PRIu64, i ? ", " : "", t->shape[i]);
	if (at < n)
		snprintf(buf + at, n - at, ")");
}

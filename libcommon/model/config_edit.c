/* Small edits of a config.json text: parsed, changed, written again. Numbers
 * keep their text, members their order. */
#include "model/config_edit.h"

#include <string.h>

static void newline(struct sb *out, int depth)
{
	sb_addc(out, '\n');
	for (int i = 0; i < depth; i++)
		sb_adds(out, "  ");
}

static void scalar(const struct json *v, struct sb *out)
{
	struct jw w = jw_to(out);

	jw_value(&w, v);
}

static void key(const struct json_member *m, struct sb *out)
{
	struct jw w = jw_to(out);

	jw_strn(&w, m->key, m->key_len);
	sb_adds(out, ": ");
}

static void value(const struct json *v, struct sb *out, int depth)
{
	bool obj = v->type == JSON_OBJ;

	if ((!obj && v->type != JSON_ARR) || !v->n) {
		scalar(v, out);
		return;
	}
	sb_addc(out, obj ? '{' : '[');
	for (uint32_t i = 0; i < v->n; i++) {
		if (i)
			sb_addc(out, ',');
		newline(out, depth + 1);
		if (obj)
			key(&v->members[i], out);
		value(obj ? &v->members[i].val : &v->items[i], out, depth + 1);
	}
	newline(out, depth);
	sb_addc(out, obj ? '}' : ']');
}

void json_pretty(const struct json *v, struct sb *out)
{
	value(v, out, 0);
}

int config_set_dtype(const char *config, enum dtype t, struct sb *out, struct err *e)
{
	const char *name = dtype_hf_name(t);
	const struct json text = { .type = JSON_STR, .n = (uint32_t)strlen(name), .s = name };
	struct arena a = ARENA_INIT;
	struct json v;
	bool found = false;

	if (json_parse_str(config, &a, &v, e) || !json_is(&v, JSON_OBJ)) {
		arena_release(&a);
		return e->code ? err_where(e, "config.json", 0) : err_off(e, LP_DATA, "config.json", -1, "not a JSON object");
	}
	for (uint32_t i = 0; i < v.n; i++)
		if (!strcmp(v.members[i].key, "torch_dtype") || !strcmp(v.members[i].key, "dtype")) {
			v.members[i].val = text;
			found = true;
		}
	if (!found) {
		struct json_member *m = arena_calloc(&a, (size_t)v.n + 1, sizeof(*m));

		if (v.n)
			memcpy(m, v.members, v.n * sizeof(*m));
		m[v.n++] = (struct json_member){ "torch_dtype", 11, text };
		v.members = m;
	}
	json_pretty(&v, out);
	sb_addc(out, '\n');
	arena_release(&a);
	return 0;
}

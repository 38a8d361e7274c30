/* Tool calls in the records' own ways, as the messages' tool_calls. */
#include <string.h>

#include "json/record_int.h"

struct json rec_str(const char *s, size_t n)
{
	struct json v = { .type = JSON_STR, .n = (uint32_t)n };

	v.s = s;
	return v;
}

struct json rec_obj(struct arena *a, uint32_t cap)
{
	struct json v = { .type = JSON_OBJ };

	v.members = arena_calloc(a, cap ? cap : 1, sizeof(*v.members));
	return v;
}

void rec_obj_add(struct json *obj, const char *key, struct json val)
{
	obj->members[obj->n++] = (struct json_member){ .key = key, .key_len = (uint32_t)strlen(key), .val = val };
}

int rec_call(struct arena *a, const struct json *v, struct json *call, struct err *e)
{
	struct json f;

	if (json_is(v, JSON_STR)) {
		struct err sub = ERR_INIT;

		if (json_parse_str(v->s, a, &f, &sub) < 0)
			return err_set(e, LP_DATA, "tool call is not JSON: %.200s", sub.msg);
	} else if (v) {
		f = *v;
	} else {
		return err_set(e, LP_DATA, "tool call without a value");
	}
	if (!json_is(json_get(&f, "name"), JSON_STR))
		return err_set(e, LP_DATA, "tool call without a name");
	*call = rec_obj(a, 2);
	rec_obj_add(call, "type", rec_str("function", 8));
	rec_obj_add(call, "function", f);
	return 0;
}

/* --- calls written as a message's text --- */

/* One call or a list of them, else false. */
static bool read_calls(struct arena *a, const struct json *text, struct json *calls)
{
	struct err ignored = ERR_INIT;
	struct json v, *items;
	uint32_t n;

	if (json_parse_str(text->s, a, &v, &ignored) < 0 || (v.type != JSON_OBJ && v.type != JSON_ARR) || !v.n)
		return false;
	n = v.type == JSON_ARR ? v.n : 1;
	items = arena_calloc(a, n, sizeof(*items));
	for (uint32_t i = 0; i < n; i++) {
		const struct json *one = v.type == JSON_ARR ? &v.items[i] : &v;

		if (!json_is(one, JSON_OBJ) || rec_call(a, one, &items[i], &ignored) < 0)
			return false;
	}
	*calls = (struct json){ .type = JSON_ARR, .n = n };
	calls->items = items;
	return true;
}

void chat_lift_calls(struct chat *c, struct arena *a)
{
	for (size_t i = 0; i < c->n_msgs; i++) {
		struct chat_msg *m = &c->msgs[i];
		const struct json *text = json_get(m->orig, "value");
		struct json *o, calls;

		if (!json_str_is(json_get(m->orig, "from"), "function_call") || !json_is(text, JSON_STR) || !read_calls(a, text, &calls))
			continue;
		o = arena_alloc(a, sizeof(*o));
		*o = rec_obj(a, m->orig->n + 1);
		for (uint32_t k = 0; k < m->orig->n; k++)
			if (&m->orig->members[k].val != text)
				o->members[o->n++] = m->orig->members[k];
		rec_obj_add(o, "tool_calls", calls);
		m->orig = o;
		m->content = "";
		m->content_len = 0;
	}
}

/* Strict JSON (RFC 8259, UTF-8): parsed by simdjson behind this header into a
 * tree that lives in an arena. Numbers keep their text, members their order;
 * nothing is lost between json_parse and jw_value. Depth is limited to 512. */
#ifndef LP_JSON_JSON_H
#define LP_JSON_JSON_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "base/arena.h"
#include "base/err.h"
#include "base/sb.h"

#ifdef __cplusplus
extern "C" {
#endif

enum json_type { JSON_NULL, JSON_BOOL, JSON_NUM, JSON_STR, JSON_ARR, JSON_OBJ };

struct json_member;
struct json {
	enum json_type type;
	uint32_t n; /* bytes of a string or number text; elements; members */
	union {
		bool b;
		const char *s;               /* STR (unescaped UTF-8) and NUM text; NUL behind it */
		struct json *items;          /* ARR: n of them */
		struct json_member *members; /* OBJ: n of them */
	};
};
struct json_member {
	const char *key; /* NUL behind it; may hold NULs when the text had \u0000 */
	uint32_t key_len;
	struct json val;
};

#define JSON_PADDING 64 /* readable bytes that json_parse needs behind the text */

struct json_parser;
struct json_parser *json_parser_new(void);
void json_parser_free(struct json_parser *p);

/* text[0..len) and JSON_PADDING readable bytes behind it. The tree points into
 * the arena only. e->off is the byte where it went wrong. */
int json_parse(struct json_parser *p, const char *text, size_t len, struct arena *a, struct json *out, struct err *e) LP_MUST_USE;
/* For small files: reads path, parses; the tree lives in a. */
int json_load(const char *path, struct arena *a, struct json *out, struct err *e) LP_MUST_USE;
/* Parses a NUL-terminated string of any padding (copies it). */
int json_parse_str(const char *text, struct arena *a, struct json *out, struct err *e) LP_MUST_USE;

/* NULL when obj is not an object or has no such key; the last of duplicates.
 * Here, so that looking for a constant takes no call: its length and bytes are known to the compiler. */
static inline const struct json *json_getn(const struct json *obj, const char *key, size_t n)
{
	if (!obj || obj->type != JSON_OBJ)
		return NULL;
	for (uint32_t i = obj->n; i-- > 0;)
		if (obj->members[i].key_len == n && !memcmp(obj->members[i].key, key, n))
			return &obj->members[i].val;
	return NULL;
}
static inline const struct json *json_get(const struct json *obj, const char *key)
{
	return json_getn(obj, key, strlen(key));
}
bool json_is(const struct json *v, enum json_type t); /* false for NULL */
bool json_str_is(const struct json *v, const char *s);
/* Typed fetch with a default when absent or null; false when of another type
 * (or not a whole number in range). */
bool json_get_i64(const struct json *obj, const char *key, int64_t dflt, int64_t *out);
bool json_get_f64(const struct json *obj, const char *key, double dflt, double *out);
bool json_get_bool(const struct json *obj, const char *key, bool dflt, bool *out);
/* dflt may be NULL. */
bool json_get_str(const struct json *obj, const char *key, const char *dflt, const char **out);
bool json_as_i64(const struct json *v, int64_t *out);
bool json_as_f64(const struct json *v, double *out);
bool json_equal(const struct json *a, const struct json *b); /* number by text, objects by order of keys ignored */

/* The writer: compact, commas and colons placed by itself. */
struct jw {
	struct sb *out;
	bool comma; /* a comma is due before the next item */
};
static inline struct jw jw_to(struct sb *out)
{
	struct jw w = { out, false };
	return w;
}
void jw_obj(struct jw *w);
void jw_end_obj(struct jw *w);
void jw_arr(struct jw *w);
void jw_end_arr(struct jw *w);
void jw_key(struct jw *w, const char *key);
void jw_keyn(struct jw *w, const char *key, size_t n);
void jw_strn(struct jw *w, const char *s, size_t n); /* UTF-8 kept; ", \ and controls escaped */
void jw_str(struct jw *w, const char *s);            /* NULL writes null */
void jw_i64(struct jw *w, int64_t v);
void jw_f64(struct jw *w, double v); /* shortest round trip; non-finite as null */
void jw_bool(struct jw *w, bool v);
void jw_null(struct jw *w);
void jw_raw(struct jw *w, const char *text, size_t n); /* one whole value, as it is */
void jw_value(struct jw *w, const struct json *v);

#ifdef __cplusplus
}
#endif

#endif

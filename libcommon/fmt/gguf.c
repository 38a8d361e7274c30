/* Reading GGUF. Nothing in the file is trusted: every length is compared with
 * what is left before it is used, and an answer is given only when all of the
 * file has been accounted for. Version 3, little-endian; arrays of arrays are
 * refused, as no writer makes them. */
#include "fmt/gguf.h"

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/num.h"
#include "fmt/quant.h"

#define MAX_KEYS 65536
#define MAX_TENSORS 1000000
#define MAX_NAME 1024

/* What is left to parse. at is relative to the start of the file. */
struct cursor {
	const uint8_t *p;
	uint64_t at, end;
	const char *name;
	struct err *e;
};

static int bad(const struct cursor *c, const char *what)
{
	return err_off(c->e, LP_DATA, c->name, (int64_t)c->at, "damaged GGUF: %s; make or download the file again", what);
}

static const uint8_t *take(struct cursor *c, uint64_t n)
{
	const uint8_t *p = c->p + c->at;

	if (n > c->end - c->at)
		return NULL;
	c->at += n;
	return p;
}

static int take_u32(struct cursor *c, uint32_t *v)
{
	const uint8_t *p = take(c, 4);

	if (!p)
		return bad(c, "it ends inside the header");
	*v = get_u32(p);
	return 0;
}

static int take_u64(struct cursor *c, uint64_t *v)
{
	const uint8_t *p = take(c, 8);

	if (!p)
		return bad(c, "it ends inside the header");
	*v = get_u64(p);
	return 0;
}

static int take_str(struct cursor *c, struct gguf_str *s)
{
	if (take_u64(c, &s->len))
		return -1;
	s->s = (const char *)take(c, s->len);
	return s->s ? 0 : bad(c, "a string is longer than the file");
}

static unsigned scalar_bytes(enum gguf_type t)
{
	static const uint8_t bytes[GGUF_N_TYPES] = { 1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8 };

	return bytes[t];
}

static int take_strs(struct gguf *g, struct cursor *c, struct gguf_key *k)
{
	struct gguf_str *s;

	/* each string takes at least its length's eight bytes */
	if (k->n > (c->end - c->at) / 8)
		return bad(c, "an array is longer than the file");
	s = arena_alloc(&g->arena, (size_t)k->n * sizeof(*s) + 1);
	for (uint64_t i = 0; i < k->n; i++)
		if (take_str(c, &s[i]))
			return -1;
	k->strs = s;
	return 0;
}

static int take_key(struct gguf *g, struct cursor *c, struct gguf_key *k)
{
	uint32_t type, item;

	if (take_str(c, &k->name) || take_u32(c, &type))
		return -1;
	if (!k->name.len || k->name.len > MAX_NAME || memchr(k->name.s, 0, k->name.len))
		return bad(c, "a key is empty or too long");
	if (type >= GGUF_N_TYPES)
		return bad(c, "a value has an unknown type");
	k->type = k->item_type = (enum gguf_type)type;
	k->n = 1;
	if (type == GGUF_ARR) {
		if (take_u32(c, &item) || take_u64(c, &k->n))
			return -1;
		if (item >= GGUF_N_TYPES || item == GGUF_ARR)
			return bad(c, "an array has items of an unknown type");
		k->item_type = (enum gguf_type)item;
	}
	if (k->item_type == GGUF_STR)
		return take_strs(g, c, k);
	if (k->n > (c->end - c->at) / scalar_bytes(k->item_type))
		return bad(c, "a value is longer than the file");
	k->value = take(c, k->n * scalar_bytes(k->item_type));
	if (k->item_type == GGUF_BOOL)
		for (uint64_t i = 0; i < k->n; i++)
			if (k->value[i] > 1)
				return bad(c, "a truth value is neither 0 nor 1");
	return 0;
}

static int take_tensor(struct gguf *g, struct cursor *c, struct gguf_tensor *t)
{
	struct gguf_str name;
	uint32_t n_dims;
	uint64_t rows = 1;

	if (take_str(c, &name) || take_u32(c, &n_dims))
		return -1;
	if (!name.len || name.len > MAX_NAME || memchr(name.s, 0, name.len))
		return bad(c, "a tensor's name is empty or too long");
	if (n_dims < 1 || n_dims > GGUF_MAX_DIMS)
		return bad(c, "a tensor has no dimension or too many");
	t->name = arena_strndup(&g->arena, name.s, name.len);
	t->n_dims = (int)n_dims;
	for (int i = 0; i < GGUF_MAX_DIMS; i++) {
		t->dims[i] = 1;
		if (i < t->n_dims && take_u64(c, &t->dims[i]))
			return -1;
		if (!t->dims[i] || (i && __builtin_mul_overflow(rows, t->dims[i], &rows)))
			return bad(c, "a tensor's shape is empty or too large");
	}
	if (take_u32(c, &t->type) || take_u64(c, &t->offset))
		return -1;
	if (!quant_info(t->type))
		return err_off(c->e, LP_DATA, c->name, (int64_t)c->at, "tensor '%s' has type %u, which this program does not know",
		               t->name, (unsigned)t->type);
	t->bytes = quant_row_bytes(t->type, t->dims[0]);
	if (!t->bytes || __builtin_mul_overflow(t->bytes, rows, &t->bytes) || __builtin_mul_overflow(t->dims[0], rows, &t->elems) ||
	    t->elems > INT64_MAX / 4)
		return bad(c, "a tensor's rows are no whole number of blocks, or it is too large");
	return 0;
}

/* --- tables sorted by name --- */

static int compare_keys(const void *a, const void *b)
{
	const struct gguf_str *x = &(*(const struct gguf_key *const *)a)->name, *y = &(*(const struct gguf_key *const *)b)->name;
	size_t n = x->len < y->len ? x->len : y->len;
	int d = memcmp(x->s, y->s, n);

	return d ? d : (x->len > y->len) - (x->len < y->len);
}

static int compare_tensors(const void *a, const void *b)
{
	return strcmp((*(const struct gguf_tensor *const *)a)->name, (*(const struct gguf_tensor *const *)b)->name);
}

static int sort_names(struct gguf *g, const struct cursor *c)
{
	g->by_key = arena_calloc(&g->arena, g->n_keys + 1, sizeof(*g->by_key));
	g->by_name = arena_calloc(&g->arena, g->n_tensors + 1, sizeof(*g->by_name));
	for (uint64_t i = 0; i < g->n_keys; i++)
		g->by_key[i] = &g->keys[i];
	for (uint64_t i = 0; i < g->n_tensors; i++)
		g->by_name[i] = &g->tensors[i];
	qsort(g->by_key, g->n_keys, sizeof(*g->by_key), compare_keys);
	qsort(g->by_name, g->n_tensors, sizeof(*g->by_name), compare_tensors);
	for (uint64_t i = 1; i < g->n_keys; i++)
		if (!compare_keys(&g->by_key[i - 1], &g->by_key[i]))
			return bad(c, "a key occurs twice");
	for (uint64_t i = 1; i < g->n_tensors; i++)
		if (!compare_tensors(&g->by_name[i - 1], &g->by_name[i]))
			return bad(c, "a tensor's name occurs twice");
	return 0;
}

/* Tensors must lie one behind the other, each at the next aligned offset, and
 * end with the file (the last one's padding may be missing). */
static int place_tensors(struct gguf *g, const struct cursor *c, uint64_t file_bytes)
{
	uint64_t align = g->alignment, pos = 0, room;

	g->data_offset = (c->at + align - 1) / align * align;
	if (g->data_offset > file_bytes)
		return g->n_tensors || c->at != file_bytes ? bad(c, "it ends before its data") : 0;
	room = file_bytes - g->data_offset;
	for (uint64_t i = 0; i < g->n_tensors; i++) {
		struct gguf_tensor *t = &g->tensors[i];

		if (t->offset != pos)
			return err_off(c->e, LP_DATA, c->name, (int64_t)c->at, "damaged GGUF: tensor '%s' is not where the one before it ends", t->name);
		if (t->bytes > room - pos)
			return err_off(c->e, LP_DATA, c->name, (int64_t)file_bytes,
			               "truncated: tensor '%s' ends beyond the file; make or download the file again", t->name);
		if (c->end == file_bytes)
			t->data = c->p + g->data_offset + pos;
		pos += t->bytes;
		pos += (align - pos % align) % align;
		if (pos > room)
			pos = room;
	}
	return pos == room ? 0 : bad(c, "there is something behind the last tensor");
}

static int read_alignment(struct gguf *g, const struct cursor *c)
{
	const struct gguf_key *k = gguf_find(g, "general.alignment");

	g->alignment = 32;
	if (!k)
		return 0;
	if (!gguf_get_u64(g, "general.alignment", &g->alignment) || !g->alignment || g->alignment > 1 << 20 ||
	    (g->alignment & (g->alignment - 1)))
		return bad(c, "general.alignment is no power of two");
	return 0;
}

static int parse(struct gguf *g, struct cursor *c, uint64_t file_bytes)
{
	uint32_t version;
	const uint8_t *magic = take(c, 4);

	if (!magic || memcmp(magic, "GGUF", 4))
		return err_off(c->e, LP_DATA, c->name, 0, "not a GGUF file");
	if (take_u32(c, &version))
		return -1;
	if (version != 3)
		return err_off(c->e, LP_DATA, c->name, 4, "GGUF version %u is not read, only 3; convert the file with a newer program", (unsigned)version);
	if (take_u64(c, &g->n_tensors) || take_u64(c, &g->n_keys))
		return -1;
	/* the shortest tensor is described in 33 bytes, the shortest key in 14 */
	if (g->n_tensors > MAX_TENSORS || g->n_keys > MAX_KEYS || g->n_tensors > c->end / 33 || g->n_keys > c->end / 14)
		return bad(c, "its counts are larger than it");
	g->keys = arena_calloc(&g->arena, g->n_keys + 1, sizeof(*g->keys));
	g->tensors = arena_calloc(&g->arena, g->n_tensors + 1, sizeof(*g->tensors));
	for (uint64_t i = 0; i < g->n_keys; i++)
		if (take_key(g, c, &g->keys[i]))
			return -1;
	for (uint64_t i = 0; i < g->n_tensors; i++)
		if (take_tensor(g, c, &g->tensors[i]))
			return -1;
	return sort_names(g, c) || read_alignment(g, c) || place_tensors(g, c, file_bytes) ? -1 : 0;
}

int gguf_parse(struct gguf *g, const void *p, uint64_t n, uint64_t file_bytes, const char *name, struct err *e)
{
	struct cursor c = { p, 0, n, name, e };

	memset(g, 0, sizeof(*g));
	if (!parse(g, &c, file_bytes))
		return 0;
	gguf_close(g);
	return -1;
}

int gguf_open(struct gguf *g, const char *path, struct err *e)
{
	struct stat st;
	void *map = NULL;
	int fd = open(path, O_RDONLY | O_CLOEXEC);

	if (fd < 0)
		return err_sys(e, path, "open");
	if (fstat(fd, &st)) {
		close(fd);
		return err_sys(e, path, "read");
	}
	if (!S_ISREG(st.st_mode) || !st.st_size) {
		close(fd);
		return err_off(e, LP_DATA, path, 0, "not a GGUF file: %s", S_ISREG(st.st_mode) ? "it is empty" : "it is no regular file");
	}
	map = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
	close(fd);
	if (map == MAP_FAILED)
		return err_sys(e, path, "map");
	if (gguf_parse(g, map, (uint64_t)st.st_size, (uint64_t)st.st_size, path, e)) {
		munmap(map, (size_t)st.st_size);
		return -1;
	}
	g->map = map;
	g->map_bytes = (size_t)st.st_size;
	return 0;
}

void gguf_close(struct gguf *g)
{
	if (g->map)
		munmap(g->map, g->map_bytes);
	arena_release(&g->arena);
	memset(g, 0, sizeof(*g));
}

/* --- look-ups --- */

const struct gguf_key *gguf_find(const struct gguf *g, const char *key)
{
	struct gguf_key want = { .name = { key, strlen(key) } };
	const struct gguf_key *w = &want, **hit;

	hit = bsearch(&w, g->by_key, g->n_keys, sizeof(*g->by_key), compare_keys);
	return hit ? *hit : NULL;
}

const struct gguf_tensor *gguf_find_tensor(const struct gguf *g, const char *name)
{
	struct gguf_tensor want = { .name = name };
	const struct gguf_tensor *w = &want, **hit;

	hit = bsearch(&w, g->by_name, g->n_tensors, sizeof(*g->by_name), compare_tensors);
	return hit ? *hit : NULL;
}

int64_t gguf_item_i64(const struct gguf_key *k, uint64_t i)
{
	const uint8_t *p = k->value + i * scalar_bytes(k->item_type);

	switch (k->item_type) {
	case GGUF_U8:
	case GGUF_BOOL:
		return *p;
	case GGUF_I8:
		return (int8_t)*p;
	case GGUF_U16:
		return get_u16(p);
	case GGUF_I16:
		return (int16_t)get_u16(p);
	case GGUF_U32:
		return get_u32(p);
	case GGUF_I32:
		return (int32_t)get_u32(p);
	case GGUF_U64:
	case GGUF_I64:
		return (int64_t)get_u64(p);
	default:
		return 0;
	}
}

float gguf_item_f32(const struct gguf_key *k, uint64_t i)
{
	uint32_t u = get_u32(k->value + 4 * i);
	float v;

	memcpy(&v, &u, 4);
	return v;
}

bool gguf_get_u64(const struct gguf *g, const char *key, uint64_t *out)
{
	const struct gguf_key *k = gguf_find(g, key);
	int64_t v;

	if (!k || k->type == GGUF_ARR || k->type == GGUF_STR || k->type == GGUF_F32 || k->type == GGUF_F64 || k->type == GGUF_BOOL)
		return false;
	v = gguf_item_i64(k, 0);
	if (v < 0)
		return false;
	*out = (uint64_t)v;
	return true;
}

bool gguf_get_f32(const struct gguf *g, const char *key, float *out)
{
	const struct gguf_key *k = gguf_find(g, key);

	if (!k || k->type != GGUF_F32)
		return false;
	*out = gguf_item_f32(k, 0);
	return true;
}

bool gguf_get_bool(const struct gguf *g, const char *key, bool *out)
{
	const struct gguf_key *k = gguf_find(g, key);

	if (!k || k->type != GGUF_BOOL)
		return false;
	*out = k->value[0] != 0;
	return true;
}

bool gguf_get_str(const struct gguf *g, const char *key, struct gguf_str *out)
{
	const struct gguf_key *k = gguf_find(g, key);

	if (!k || k->type != GGUF_STR)
		return false;
	*out = k->strs[0];
	return true;
}

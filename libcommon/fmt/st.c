/* The safetensors header: parsed with every bound checked before use, and
 * made; and the mapped file. The data is never looked at here.
 * Spec: the format section of the safetensors README. */
#include "fmt/st.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/num.h"
#include "base/xalloc.h"

#define HEADER_MAX 100000000u

struct entry { /* one tensor of a header, while it is being checked */
	struct tensor t;
	uint64_t begin, end;
	size_t order;
};

static int bad(const char *path, struct err *e, const char *name, const char *what)
{
	return err_off(e, LP_DATA, path, -1, "tensor '%.200s' %s", name, what);
}

/* Elements times size, or false on overflow of 63 bits. */
static bool shape_bytes(const struct tensor *t, uint64_t *bytes)
{
	uint64_t n = dtype_bytes(t->dtype);
	bool zero = false;

	for (int i = 0; i < t->n_dims; i++) {
		if (!t->shape[i])
			zero = true;
		else if (__builtin_mul_overflow(n, t->shape[i], &n) || n > INT64_MAX)
			return false;
	}
	*bytes = zero ? 0 : n;
	return true;
}

static int parse_entry(const struct json_member *m, const char *path, struct entry *en, struct err *e)
{
	const char *dt;
	const struct json *shape = json_get(&m->val, "shape"), *off = json_get(&m->val, "data_offsets");
	int64_t v, o[2];

	en->t.name = m->key;
	if (strlen(m->key) != m->key_len)
		return bad(path, e, m->key, "has a NUL in its name");
	if (!json_get_str(&m->val, "dtype", NULL, &dt) || !dt)
		return bad(path, e, m->key, "has no dtype");
	if (!dtype_from_st(dt, &en->t.dtype))
		return err_off(e, LP_DATA, path, -1, "tensor '%.200s' has element type '%.20s', which is not supported", m->key, dt);
	if (!json_is(shape, JSON_ARR))
		return bad(path, e, m->key, "has no shape");
	if (shape->n > TENSOR_MAX_DIMS)
		return bad(path, e, m->key, "has more than 8 dimensions");
	en->t.n_dims = (int)shape->n;
	for (uint32_t i = 0; i < shape->n; i++) {
		if (!json_as_i64(&shape->items[i], &v) || v < 0)
			return bad(path, e, m->key, "has a shape that is not whole numbers");
		en->t.shape[i] = (uint64_t)v;
	}
	if (!shape_bytes(&en->t, &en->t.bytes))
		return bad(path, e, m->key, "has a shape whose size overflows");
	if (!json_is(off, JSON_ARR) || off->n != 2 || !json_as_i64(&off->items[0], &o[0]) || !json_as_i64(&off->items[1], &o[1]) ||
	    o[0] < 0 || o[1] < o[0])
		return bad(path, e, m->key, "has bad data_offsets");
	if ((uint64_t)(o[1] - o[0]) != en->t.bytes)
		return err_off(e, LP_DATA, path, -1, "tensor '%.200s' spans %" PRId64 " bytes, its dtype and shape need %" PRIu64, m->key,
			       o[1] - o[0], en->t.bytes);
	en->begin = (uint64_t)o[0], en->end = (uint64_t)o[1];
	return 0;
}

static int by_offset(const void *x, const void *y)
{
	const struct entry *a = x, *b = y;

	if (a->begin != b->begin)
		return a->begin < b->begin ? -1 : 1;
	if (a->end != b->end)
		return a->end < b->end ? -1 : 1;
	return a->order < b->order ? -1 : a->order > b->order;
}

static int by_name(const void *x, const void *y)
{
	return strcmp(*(const char *const *)x, *(const char *const *)y);
}

/* The first name that occurs twice, or NULL. */
static const char *duplicate(const struct tensor *t, size_t n)
{
	const char **names = xmalloc((n + 1) * sizeof(*names)), *dup = NULL;

	for (size_t i = 0; i < n; i++)
		names[i] = t[i].name;
	qsort(names, n, sizeof(*names), by_name);
	for (size_t i = 1; i < n && !dup; i++)
		if (!strcmp(names[i - 1], names[i]))
			dup = names[i];
	free(names);
	return dup;
}

static int take_meta(const struct json *v, const char *path, struct st_blob *b, struct err *e)
{
	if (!json_is(v, JSON_OBJ))
		return err_off(e, LP_DATA, path, -1, "__metadata__ is not an object");
	if (b->meta.n)
		return err_off(e, LP_DATA, path, -1, "the header has two __metadata__ objects");
	for (uint32_t i = 0; i < v->n; i++)
		if (!json_is(&v->members[i].val, JSON_STR))
			return err_off(e, LP_DATA, path, -1, "metadata value '%.100s' is not a string", v->members[i].key);
	b->meta = *v;
	return 0;
}

static int take_tensors(const struct json *root, const char *path, struct st_blob *b, struct err *e)
{
	struct entry *en = xcalloc((size_t)root->n + 1, sizeof(*en));
	const char *dup;
	size_t n = 0;
	int rc = -1;

	for (uint32_t i = 0; i < root->n; i++) {
		const struct json_member *m = &root->members[i];

		if (!strcmp(m->key, "__metadata__")) {
			if (take_meta(&m->val, path, b, e))
				goto out;
			continue;
		}
		en[n].order = n;
		if (parse_entry(m, path, &en[n], e))
			goto out;
		n++;
	}
	qsort(en, n, sizeof(*en), by_offset);
	b->tensors = arena_calloc(&b->arena, n + 1, sizeof(*b->tensors));
	for (size_t i = 0; i < n; i++) {
		if (en[i].begin != b->data_bytes) {
			err_off(e, LP_DATA, path, -1, "tensor '%.200s' begins at byte %" PRIu64 " of the data, not at %" PRIu64
				": the data has holes or overlaps", en[i].t.name, en[i].begin, b->data_bytes);
			goto out;
		}
		b->data_bytes = en[i].end;
		b->tensors[i] = en[i].t;
	}
	b->n_tensors = n;
	dup = duplicate(b->tensors, n);
	if (dup) {
		bad(path, e, dup, "is there twice");
		goto out;
	}
	rc = 0;
out:
	free(en);
	return rc;
}

int st_parse_header(const char *header, size_t n, const char *path, struct st_blob *b, struct err *e)
{
	struct json_parser *jp;
	struct json root;
	char *text;
	int rc = -1;

	memset(b, 0, sizeof(*b));
	b->meta.type = JSON_OBJ;
	if (n < 2 || n > HEADER_MAX)
		return err_off(e, LP_DATA, path, 0, "a safetensors header of %zu bytes: the format allows 2 to %u", n, HEADER_MAX);
	if (header[0] != '{')
		return err_off(e, LP_DATA, path, 8, "a safetensors header begins with '{': this is not such a file");
	text = lp_try_alloc(n + JSON_PADDING, 1, "safetensors header", e);
	if (!text)
		return -1;
	memcpy(text, header, n);
	memset(text + n, 0, JSON_PADDING);
	jp = json_parser_new();
	if (json_parse(jp, text, n, &b->arena, &root, e)) {
		if (e->off >= 0)
			e->off += 8;
		err_where(e, path, 0);
	} else if (!json_is(&root, JSON_OBJ)) {
		err_off(e, LP_DATA, path, 8, "the safetensors header is not a JSON object");
	} else {
		rc = take_tensors(&root, path, b, e);
	}
	json_parser_free(jp);
	free(text);
	if (rc)
		st_blob_release(b);
	return rc;
}

const struct tensor *st_find(const struct st_blob *b, const char *name)
{
	for (size_t i = 0; i < b->n_tensors; i++)
		if (!strcmp(b->tensors[i].name, name))
			return &b->tensors[i];
	return NULL;
}

const char *st_meta(const struct st_blob *b, const char *key)
{
	const struct json *v = json_get(&b->meta, key);

	return json_is(v, JSON_STR) ? v->s : NULL;
}

void st_blob_release(struct st_blob *b)
{
	arena_release(&b->arena);
	memset(b, 0, sizeof(*b));
}

static int check_file(struct st_file *f, struct err *e)
{
	uint64_t n, have;
	char *data = f->map;

	if (f->map_bytes < 8)
		return err_off(e, LP_DATA, f->path, (int64_t)f->map_bytes, "truncated: %zu bytes are too few for a safetensors file", f->map_bytes);
	n = get_u64(data);
	if (n > HEADER_MAX)
		return err_off(e, LP_DATA, f->path, 0, "not a safetensors file: its first 8 bytes give a header of %" PRIu64 " bytes", n);
	if (n > f->map_bytes - 8)
		return err_off(e, LP_DATA, f->path, (int64_t)f->map_bytes, "truncated: the header alone needs %" PRIu64 " bytes", n + 8);
	if (st_parse_header(data + 8, n, f->path, &f->blob, e))
		return -1;
	if (st_meta(&f->blob, "stream"))
		return err_off(e, LP_DATA, f->path, -1, "this is a %s stream, not a safetensors file: give it on standard input, or write it with -o DIR",
			       st_meta(&f->blob, "stream"));
	have = f->map_bytes - 8 - n;
	if (have < f->blob.data_bytes)
		return err_off(e, LP_DATA, f->path, (int64_t)f->map_bytes, "truncated: the header promises %" PRIu64 " bytes, the file has %zu",
			       f->blob.data_bytes + 8 + n, f->map_bytes);
	if (have > f->blob.data_bytes)
		return err_off(e, LP_DATA, f->path, (int64_t)(f->blob.data_bytes + 8 + n), "%" PRIu64 " bytes too many behind the last tensor",
			       have - f->blob.data_bytes);
	data += 8 + n;
	for (size_t i = 0; i < f->blob.n_tensors; i++) {
		f->blob.tensors[i].data = data;
		data += f->blob.tensors[i].bytes;
	}
	return 0;
}

int st_file_open(struct st_file *f, const char *path, struct err *e)
{
	struct stat st;
	int fd = open(path, O_RDONLY | O_CLOEXEC);

	memset(f, 0, sizeof(*f));
	if (fd < 0)
		return err_sys(e, path, "open");
	if (fstat(fd, &st)) {
		close(fd);
		return err_sys(e, path, "stat");
	}
	if (!S_ISREG(st.st_mode)) {
		close(fd);
		return err_off(e, LP_USAGE, path, -1, "not a regular file: a safetensors file is needed here");
	}
	f->path = xstrdup(path);
	f->map_bytes = (size_t)st.st_size;
	if (f->map_bytes) {
		f->map = mmap(NULL, f->map_bytes, PROT_READ, MAP_PRIVATE, fd, 0);
		if (f->map == MAP_FAILED) {
			f->map = NULL;
			err_sys(e, path, "map");
			close(fd);
			st_file_close(f);
			return -1;
		}
	}
	close(fd);
	if (check_file(f, e)) {
		st_file_close(f);
		return -1;
	}
	return 0;
}

void st_file_close(struct st_file *f)
{
	if (f->map)
		munmap(f->map, f->map_bytes);
	free(f->path);
	st_blob_release(&f->blob);
	memset(f, 0, sizeof(*f));
}

static void write_meta(struct jw *w, const struct st_kv *meta, size_t n_meta)
{
	jw_key(w, "__metadata__");
	jw_obj(w);
	for (size_t i = 0; i < n_meta; i++)
		if (meta[i].value) {
			jw_key(w, meta[i].key);
			jw_str(w, meta[i].value);
		}
	jw_end_obj(w);
}

int st_make_header(const struct tensor *t, size_t n, const struct st_kv *meta, size_t n_meta, struct sb *out, struct err *e)
{
	struct jw w = jw_to(out);
	size_t start = out->len;
	uint64_t at = 0, bytes;
	const char *dup = duplicate(t, n);
	uint8_t len[8] = { 0 };

	if (dup)
		return bad("", e, dup, "is there twice");
	sb_add(out, len, 8);
	jw_obj(&w);
	if (n_meta)
		write_meta(&w, meta, n_meta);
	for (size_t i = 0; i < n; i++) {
		if (!strcmp(t[i].name, "__metadata__"))
			return bad("", e, t[i].name, "may not have this name");
		if (t[i].n_dims > TENSOR_MAX_DIMS || !shape_bytes(&t[i], &bytes) || bytes != t[i].bytes)
			return bad("", e, t[i].name, "has a size that its shape contradicts");
		jw_key(&w, t[i].name);
		jw_obj(&w);
		jw_key(&w, "dtype");
		jw_str(&w, dtype_st_name(t[i].dtype));
		jw_key(&w, "shape");
		jw_arr(&w);
		for (int d = 0; d < t[i].n_dims; d++)
			jw_i64(&w, (int64_t)t[i].shape[d]);
		jw_end_arr(&w);
		jw_key(&w, "data_offsets");
		jw_arr(&w);
		jw_i64(&w, (int64_t)at);
		at += bytes;
		jw_i64(&w, (int64_t)at);
		jw_end_arr(&w);
		jw_end_obj(&w);
	}
	jw_end_obj(&w);
	while ((out->len - start) % 8)
		sb_addc(out, ' ');
	if (out->len - start - 8 > HEADER_MAX)
		return err_set(e, LP_DATA, "the safetensors header would have %zu bytes, over the format's %u", out->len - start - 8, HEADER_MAX);
	put_u64(out->s + start, out->len - start - 8);
	return 0;
}

int st_write(struct out *o, const struct tensor *t, size_t n, const struct st_kv *meta, size_t n_meta, struct err *e)
{
	struct sb head = SB_INIT;
	int rc = st_make_header(t, n, meta, n_meta, &head, e);

	if (!rc)
		rc = out_write(o, head.s, head.len, e);
	for (size_t i = 0; i < n && !rc; i++)
		if (t[i].bytes)
			rc = out_write(o, t[i].data, t[i].bytes, e);
	sb_release(&head);
	return rc;
}

/* Writing GGUF: the head is made in memory, data is streamed behind it. */
#include "fmt/gguf.h"

#include <string.h>

#include "base/num.h"
#include "fmt/quant.h"

#define ALIGNMENT 32

static void add_u32(struct sb *b, uint32_t v)
{
	uint8_t p[4];

	put_u32(p, v);
	sb_add(b, p, 4);
}

static void add_u64(struct sb *b, uint64_t v)
{
	uint8_t p[8];

	put_u64(p, v);
	sb_add(b, p, 8);
}

static void add_str(struct sb *b, const char *s, size_t n)
{
	add_u64(b, n);
	sb_add(b, s, n);
}

static void add_f32(struct sb *b, float v)
{
	uint32_t u;

	memcpy(&u, &v, 4);
	add_u32(b, u);
}

static void put_key(struct gguf_writer *w, const char *key, enum gguf_type type)
{
	add_str(&w->keys, key, strlen(key));
	add_u32(&w->keys, type);
	w->n_keys++;
}

void gguf_put_u32(struct gguf_writer *w, const char *key, uint32_t v)
{
	put_key(w, key, GGUF_U32);
	add_u32(&w->keys, v);
}

void gguf_put_f32(struct gguf_writer *w, const char *key, float v)
{
	put_key(w, key, GGUF_F32);
	add_f32(&w->keys, v);
}

void gguf_put_bool(struct gguf_writer *w, const char *key, bool v)
{
	put_key(w, key, GGUF_BOOL);
	sb_addc(&w->keys, v ? 1 : 0);
}

void gguf_put_str(struct gguf_writer *w, const char *key, const char *s, size_t n)
{
	put_key(w, key, GGUF_STR);
	add_str(&w->keys, s, n);
}

void gguf_put_array(struct gguf_writer *w, const char *key, enum gguf_type item, uint64_t n)
{
	put_key(w, key, GGUF_ARR);
	add_u32(&w->keys, item);
	add_u64(&w->keys, n);
}

void gguf_item_put_str(struct gguf_writer *w, const char *s, size_t n)
{
	add_str(&w->keys, s, n);
}

void gguf_item_put_f32(struct gguf_writer *w, float v)
{
	add_f32(&w->keys, v);
}

void gguf_item_put_i32(struct gguf_writer *w, int32_t v)
{
	add_u32(&w->keys, (uint32_t)v);
}

static uint64_t padding(uint64_t n)
{
	return (ALIGNMENT - n % ALIGNMENT) % ALIGNMENT;
}

int gguf_put_tensor(struct gguf_writer *w, const char *name, uint32_t type, int n_dims, const uint64_t *dims, struct err *e)
{
	uint64_t bytes = quant_row_bytes(type, dims[0]);

	if (!bytes || n_dims < 1 || n_dims > GGUF_MAX_DIMS)
		return err_set(e, LP_DATA, "tensor '%s' has a shape that its type cannot hold", name);
	for (int i = 1; i < n_dims; i++)
		if (!dims[i] || __builtin_mul_overflow(bytes, dims[i], &bytes) || bytes > INT64_MAX / 2)
			return err_set(e, LP_DATA, "tensor '%s' is empty or too large", name);
	add_str(&w->infos, name, strlen(name));
	add_u32(&w->infos, (uint32_t)n_dims);
	for (int i = 0; i < n_dims; i++)
		add_u64(&w->infos, dims[i]);
	add_u32(&w->infos, type);
	add_u64(&w->infos, w->data_bytes);
	w->data_bytes += bytes + padding(bytes);
	w->n_tensors++;
	return 0;
}

void gguf_head(const struct gguf_writer *w, struct sb *out)
{
	static const char zeros[ALIGNMENT];

	sb_add(out, "GGUF", 4);
	add_u32(out, 3);
	add_u64(out, w->n_tensors);
	add_u64(out, w->n_keys);
	sb_add(out, sb_str(&w->keys), w->keys.len);
	sb_add(out, sb_str(&w->infos), w->infos.len);
	sb_add(out, zeros, padding(out->len));
}

int gguf_data_begin(struct gguf_writer *w, uint64_t bytes, struct err *e)
{
	if (w->tensor_left)
		return err_set(e, LP_DATA, "a tensor was left unfinished");
	w->tensor_left = bytes;
	return 0;
}

int gguf_data(struct gguf_writer *w, struct out *o, const void *p, size_t n, struct err *e)
{
	static const char zeros[ALIGNMENT];
	uint64_t pad;

	if (n > w->tensor_left)
		return err_set(e, LP_DATA, "a tensor is longer than it was announced");
	if (out_write(o, p, n, e))
		return -1;
	w->tensor_left -= n;
	w->written += n;
	pad = w->tensor_left ? 0 : padding(w->written);
	w->written += pad;
	return pad ? out_write(o, zeros, pad, e) : 0;
}

void gguf_writer_release(struct gguf_writer *w)
{
	sb_release(&w->keys);
	sb_release(&w->infos);
}

/* GGUF version 3, little-endian: a strict reader and a writer.
 * File: "GGUF", u32 version, u64 tensors, u64 keys; the keys; one description a
 * tensor; zeros up to the alignment (general.alignment, 32 without it); the
 * tensors, each padded to the alignment. */
#ifndef LP_FMT_GGUF_H
#define LP_FMT_GGUF_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/arena.h"
#include "base/err.h"
#include "base/out.h"
#include "base/sb.h"

enum gguf_type {
	GGUF_U8, GGUF_I8, GGUF_U16, GGUF_I16, GGUF_U32, GGUF_I32, GGUF_F32, GGUF_BOOL,
	GGUF_STR, GGUF_ARR, GGUF_U64, GGUF_I64, GGUF_F64, GGUF_N_TYPES
};

/* A string of the file: not NUL-terminated, points into the map. */
struct gguf_str {
	const char *s;
	uint64_t len;
};

struct gguf_key {
	struct gguf_str name;
	enum gguf_type type;      /* GGUF_ARR: item_type and n say more */
	enum gguf_type item_type; /* never GGUF_ARR: arrays of arrays are refused */
	uint64_t n;               /* items; 1 for a scalar */
	const uint8_t *value;     /* its bytes (an array: of the first item) */
	const struct gguf_str *strs; /* strings: n of them */
};

#define GGUF_MAX_DIMS 4
struct gguf_tensor {
	const char *name;           /* NUL-terminated */
	uint32_t type;              /* enum quant_type: others are refused */
	int n_dims;
	uint64_t dims[GGUF_MAX_DIMS]; /* fastest first; 1 beyond n_dims */
	uint64_t elems, bytes;
	uint64_t offset;            /* from the start of the data section */
	const void *data;           /* NULL when only the head was parsed */
};

struct gguf {
	struct gguf_key *keys;
	uint64_t n_keys;
	struct gguf_tensor *tensors; /* in file order */
	uint64_t n_tensors;
	uint64_t alignment, data_offset; /* data_offset: of the data section in the file */
	void *map;                  /* NULL when parsed from memory */
	size_t map_bytes;
	struct arena arena;
	const struct gguf_tensor **by_name; /* sorted */
	const struct gguf_key **by_key;
};

/* Maps path and checks all of it: every length against the file, unique
 * names, tensors in order without holes and inside the file, nothing behind them. */
int gguf_open(struct gguf *g, const char *path, struct err *e) LP_MUST_USE;
/* The same checks of a head in memory (n bytes), for a file of file_bytes; p
 * must outlive g. Tensors get no data unless n is file_bytes. */
int gguf_parse(struct gguf *g, const void *p, uint64_t n, uint64_t file_bytes, const char *name, struct err *e) LP_MUST_USE;
void gguf_close(struct gguf *g);

const struct gguf_key *gguf_find(const struct gguf *g, const char *key);          /* NULL when absent */
const struct gguf_tensor *gguf_find_tensor(const struct gguf *g, const char *name); /* likewise */
/* Typed fetch; false when absent or of another type. Any integer type that
 * holds a value that fits serves gguf_get_u64. */
bool gguf_get_u64(const struct gguf *g, const char *key, uint64_t *out);
bool gguf_get_f32(const struct gguf *g, const char *key, float *out);
bool gguf_get_bool(const struct gguf *g, const char *key, bool *out);
bool gguf_get_str(const struct gguf *g, const char *key, struct gguf_str *out);
/* Item i of an array of F32, or of any integer type. The caller keeps i below n. */
float gguf_item_f32(const struct gguf_key *k, uint64_t i);
int64_t gguf_item_i64(const struct gguf_key *k, uint64_t i);

/* --- writing: keys, then tensors, then the head, then each tensor's bytes --- */
struct gguf_writer {
	struct sb keys, infos;
	uint64_t n_keys, n_tensors;
	uint64_t data_bytes;   /* of all tensors, padding included */
	uint64_t tensor_left;  /* bytes that the tensor being written still needs */
	uint64_t written;      /* data bytes so far, padding included */
};
#define GGUF_WRITER_INIT { .n_keys = 0 }

void gguf_put_u32(struct gguf_writer *w, const char *key, uint32_t v);
void gguf_put_f32(struct gguf_writer *w, const char *key, float v);
void gguf_put_bool(struct gguf_writer *w, const char *key, bool v);
void gguf_put_str(struct gguf_writer *w, const char *key, const char *s, size_t n);
/* An array's head; then exactly n items of it. */
void gguf_put_array(struct gguf_writer *w, const char *key, enum gguf_type item, uint64_t n);
void gguf_item_put_str(struct gguf_writer *w, const char *s, size_t n);
void gguf_item_put_f32(struct gguf_writer *w, float v);
void gguf_item_put_i32(struct gguf_writer *w, int32_t v);
/* dims fastest first. Rows must be whole blocks. */
int gguf_put_tensor(struct gguf_writer *w, const char *name, uint32_t type, int n_dims, const uint64_t *dims, struct err *e) LP_MUST_USE;
/* The head, padded: what stands before the data. */
void gguf_head(const struct gguf_writer *w, struct sb *out);
/* Bytes of tensor data in the order of gguf_put_tensor, in pieces of any size; the
 * padding after each tensor is added. begin takes the tensor's size. */
int gguf_data_begin(struct gguf_writer *w, uint64_t bytes, struct err *e) LP_MUST_USE;
int gguf_data(struct gguf_writer *w, struct out *o, const void *p, size_t n, struct err *e) LP_MUST_USE;
void gguf_writer_release(struct gguf_writer *w);

#endif

/* The safetensors blob, as a file and as a frame of a stream (docs/formats/lp-stream.5).
 * Blob: u64 little-endian header length N; N bytes of JSON; data. Header limits as the
 * public format: at most 100 MB, begins with '{', offsets contiguous without holes. */
#ifndef LP_FMT_ST_H
#define LP_FMT_ST_H

#include "base/arena.h"
#include "base/in.h"
#include "base/out.h"
#include "fmt/dtype.h"
#include "json/json.h"

struct st_blob {
	struct json meta;          /* "__metadata__" object (strings only), or an empty object */
	struct tensor *tensors;    /* in data order; data set when the bytes are in memory */
	size_t n_tensors;
	uint64_t data_bytes;
	struct arena arena;        /* owns names, meta */
};
/* Parses and checks a header of n bytes. Names path in errors. */
int st_parse_header(const char *header, size_t n, const char *path, struct st_blob *b, struct err *e) LP_MUST_USE;
const struct tensor *st_find(const struct st_blob *b, const char *name); /* NULL when absent */
const char *st_meta(const struct st_blob *b, const char *key);           /* NULL when absent */
void st_blob_release(struct st_blob *b);

/* A whole file, mapped read-only: tensor data pointers are into the map. */
struct st_file {
	struct st_blob blob;
	void *map;
	size_t map_bytes;
	char *path;
};
int st_file_open(struct st_file *f, const char *path, struct err *e) LP_MUST_USE;
void st_file_close(struct st_file *f);

/* One metadata pair for writing. */
struct st_kv {
	const char *key, *value;
};
/* The header text (with the u64 length before it, space-padded to 8 bytes) of
 * tensors in the given order. Names must be unique. */
int st_make_header(const struct tensor *t, size_t n, const struct st_kv *meta, size_t n_meta, struct sb *out, struct err *e) LP_MUST_USE;
/* Header and data of a whole blob (every data pointer set). */
int st_write(struct out *o, const struct tensor *t, size_t n, const struct st_kv *meta, size_t n_meta, struct err *e) LP_MUST_USE;

/* --- streams: frames and an end frame --- */
struct st_writer; /* counts frames, records, tokens; hashes all bytes */
/* kind: "tokens", "model", "adapter". */
struct st_writer *st_writer_new(struct out *o, const char *kind);
/* Writes one frame; "stream": kind is added to its metadata. */
int st_writer_frame(struct st_writer *w, const struct tensor *t, size_t n, const struct st_kv *meta, size_t n_meta,
                    uint64_t records, uint64_t tokens, struct err *e) LP_MUST_USE;
/* The same in pieces: the header, then exactly the data bytes that it promised,
 * in order, before the next frame or the end. Data pointers are not read. */
int st_writer_begin(struct st_writer *w, const struct tensor *t, size_t n, const struct st_kv *meta, size_t n_meta,
                    uint64_t records, uint64_t tokens, struct err *e) LP_MUST_USE;
int st_writer_bytes(struct st_writer *w, const void *p, size_t n, struct err *e) LP_MUST_USE;
int st_writer_end(struct st_writer *w, struct err *e) LP_MUST_USE; /* the end frame */
void st_writer_free(struct st_writer *w);

struct st_reader; /* takes either form: a stream, or one blob as a file */
/* Closes in, on failure too. */
struct st_reader *st_reader_open_take(struct in *in, struct err *e) LP_MUST_USE;
/* 1 a frame (data in memory until the next call), 0 the proved end, -1 error:
 * a stream without its end frame, or with a wrong count or hash, is LP_DATA "truncated". max_bytes bounds one frame's data. */
int st_reader_next(struct st_reader *r, const struct st_blob **b, uint64_t max_bytes, struct err *e) LP_MUST_USE;
const char *st_reader_kind(const struct st_reader *r); /* "tokens", "model", "adapter", or "file" */
bool st_reader_is_file(const struct st_reader *r); /* a header was read, and it is a plain file's */
uint64_t st_reader_records(const struct st_reader *r); /* after the end: totals it proved */
uint64_t st_reader_tokens(const struct st_reader *r);
const char *st_reader_name(const struct st_reader *r); /* of its input, for messages */
/* XXH3-128 of all frames so far; of a stream, its end frame is not part of it. */
void st_reader_hash(const struct st_reader *r, char hex[33]);
void st_reader_close(struct st_reader *r);

/* The list of tensors in the index frame of a model or adapter stream:
 * [{"name","dtype","shape"},...]. Names live in a; data is NULL. */
void st_list_json(const struct tensor *t, size_t n, struct sb *out);
int st_list_parse(const char *text, const char *path, struct arena *a, struct tensor **t, size_t *n, struct err *e) LP_MUST_USE;
bool st_same_shape(const struct tensor *a, const struct tensor *b); /* dtype and shape; not the name */
void st_shape_text(const struct tensor *t, char *buf, size_t n);    /* "BF16 (4096, 1024)" */

#endif

/* Where a model's or an adapter's tensors come from: a Hugging Face directory
 * (model.safetensors, or shards with an index), or a model stream on a pipe.
 * Order for a directory: as the shards hold them. Bounded memory: a directory
 * is mapped; a stream yields one tensor at a time. */
#ifndef LP_MODEL_SOURCE_H
#define LP_MODEL_SOURCE_H

#include "fmt/st.h"

/* The texts that travel with a model; NULL when absent. */
struct model_texts {
	char *config;            /* config.json */
	char *tokenizer;         /* tokenizer.json */
	char *tokenizer_config;  /* tokenizer_config.json */
	char *chat_template;     /* chat_template.jinja */
	char *generation_config; /* generation_config.json */
	char *special_tokens_map;
	char *added_tokens;
	unsigned char *tokenizer_model; /* tokenizer.model (SentencePiece), binary */
	size_t tokenizer_model_bytes;
};
void model_texts_release(struct model_texts *t);
/* Reads those that exist in dir; only config.json must. */
int model_texts_load(struct model_texts *t, const char *dir, struct err *e) LP_MUST_USE;
/* The same where config.json may be missing too: a folder with a tokenizer. */
int model_texts_read(struct model_texts *t, const char *dir, struct err *e) LP_MUST_USE;
/* Writes them into an output directory. */
int model_texts_save(const struct model_texts *t, struct outdir *d, struct err *e) LP_MUST_USE;

struct model_source;
/* path: a directory; "-" or a file: a model stream. */
struct model_source *model_source_open(const char *path, struct err *e) LP_MUST_USE;
const struct model_texts *model_source_texts(const struct model_source *s);
/* The list of all tensors (described; data only for a directory). */
size_t model_source_count(const struct model_source *s);
const struct tensor *model_source_at(const struct model_source *s, size_t i);
/* Directory sources only: random access by name; NULL when absent or a stream. */
const struct tensor *model_source_find(const struct model_source *s, const char *name);
bool model_source_is_dir(const struct model_source *s);
/* In order: 1 a tensor with its data (valid until the next call), 0 end, -1 error. */
int model_source_next(struct model_source *s, struct tensor *t, struct err *e) LP_MUST_USE;
/* Drops the pages of tensors already read (directory). */
void model_source_dropped(struct model_source *s, const struct tensor *t);
/* SHA-256 identity over sorted (name, dtype, shape, data hash), whatever the
 * sharding: of one line a tensor, names in byte order, NAME NUL DTYPE NUL
 * D0,D1,... NUL HEX LF, with DTYPE as in safetensors and HEX its data's SHA-256. For a stream, available after the end. "sha256:" + 64 hex. */
int model_source_identity(struct model_source *s, char id[72], struct err *e) LP_MUST_USE;
/* Hashes tensor i now, while its bytes are near, so that model_source_identity
 * need not read it again. Directory sources; safe from several threads for different i. */
void model_source_digest(struct model_source *s, size_t i);
/* The SHA-256 of tensor i's data, hex; "" of one that a stream has not brought yet. */
const char *model_source_sha(struct model_source *s, size_t i);
/* Begins to hash what is not hashed yet on threads of its own, beside the caller's work; model_source_identity waits for
 * them. Directory sources; meanwhile no model_source_digest. */
void model_source_hash(struct model_source *s);
const char *model_source_name(const struct model_source *s); /* for messages */
/* The lineage JSON that the model carries, or NULL. */
const char *model_source_lineage(const struct model_source *s);
void model_source_close(struct model_source *s);

/* The other side: a model written as a sharded directory or as a stream. */
struct model_sink;
struct model_sink *model_sink_dir(const char *path, bool force, uint64_t shard_bytes, struct err *e) LP_MUST_USE;
struct model_sink *model_sink_stream(struct out *o, struct err *e) LP_MUST_USE; /* takes o */
/* First: the texts and the list of every tensor to come, in order. */
int model_sink_begin(struct model_sink *k, const struct model_texts *t, const struct tensor *list, size_t n,
                     const struct st_kv *meta, size_t n_meta, struct err *e) LP_MUST_USE;
int model_sink_tensor(struct model_sink *k, const struct tensor *t, struct err *e) LP_MUST_USE;
/* The same in pieces: the next n bytes of the current tensor, which the list
 * orders; a tensor without bytes takes one call with n = 0. */
int model_sink_bytes(struct model_sink *k, const void *p, size_t n, struct err *e) LP_MUST_USE;
/* One more file of the directory (lineage, README.md); ignored by a stream. */
int model_sink_file(struct model_sink *k, const char *name, const void *p, size_t n, struct err *e) LP_MUST_USE;
/* The path of such a file, for who writes it himself (outdir_path); directory sinks. */
const char *model_sink_path(struct model_sink *k, const char *name);
/* Directory sinks, after the last tensor: shard files on disk under temporary
 * names, for reading back before the commit. path is NULL past the last. */
const char *model_sink_shard_path(struct model_sink *k, size_t shard);
/* Closes the last shard, so that all can be read back. */
int model_sink_finish(struct model_sink *k, struct err *e) LP_MUST_USE;
int model_sink_commit(struct model_sink *k, struct err *e) LP_MUST_USE;
void model_sink_abort(struct model_sink *k);

#endif

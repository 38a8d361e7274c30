/* Where a model goes: a directory as Hugging Face writes it (one file, or
 * shards and their index), or a model stream. Shards are planned before the
 * first byte, since their names say how many there are. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/xalloc.h"
#include "model/source.h"
#include "model/source_texts.h"

struct model_sink {
	struct outdir *d;
	uint64_t shard_bytes;
	struct out *o;           /* the shard being written, or the stream */
	struct st_writer *w;     /* stream */
	struct arena arena;
	struct tensor *list;
	size_t *shard;           /* of each tensor */
	size_t n, n_shards, n_open;
	size_t at;               /* tensor due */
	uint64_t done;           /* bytes of it that are written */
	bool begun;              /* its header is out */
	struct st_kv *meta;      /* of each shard */
	size_t n_meta;
};

struct model_sink *model_sink_dir(const char *path, bool force, uint64_t shard_bytes, struct err *e)
{
	struct outdir *d = outdir_open(path, force, e);
	struct model_sink *k;

	if (!d)
		return NULL;
	k = xcalloc(1, sizeof(*k));
	k->d = d;
	k->shard_bytes = shard_bytes;
	return k;
}

struct model_sink *model_sink_stream(struct out *o, struct err *e)
{
	struct model_sink *k = xcalloc(1, sizeof(*k));

	(void)e;
	k->o = o;
	k->w = st_writer_new(o, "model");
	return k;
}

static void shard_name(const struct model_sink *k, size_t i, char name[64])
{
	if (k->n_shards == 1)
		snprintf(name, 64, "model.safetensors");
	else
		snprintf(name, 64, "model-%05zu-of-%05zu.safetensors", i + 1, k->n_shards);
}

const char *model_sink_shard_path(struct model_sink *k, size_t shard)
{
	char name[64];

	if (!k->d || shard >= k->n_shards)
		return NULL;
	shard_name(k, shard, name);
	return outdir_path(k->d, name);
}

/* Greedy, in order, as transformers does: a shard closes before it would pass the limit. */
static void plan_shards(struct model_sink *k)
{
	uint64_t used = 0;

	k->n_shards = 1;
	for (size_t i = 0; i < k->n; i++) {
		if (used && k->shard_bytes && used + k->list[i].bytes > k->shard_bytes) {
			k->n_shards++;
			used = 0;
		}
		k->shard[i] = k->n_shards - 1;
		used += k->list[i].bytes;
	}
}

static void copy_meta(struct model_sink *k, const struct st_kv *meta, size_t n)
{
	k->meta = arena_calloc(&k->arena, n + 1, sizeof(*k->meta));
	k->meta[k->n_meta++] = (struct st_kv){ "format", "pt" };
	for (size_t i = 0; i < n; i++)
		if (meta[i].value)
			k->meta[k->n_meta++] = (struct st_kv){ arena_strndup(&k->arena, meta[i].key, strlen(meta[i].key)),
							       arena_strndup(&k->arena, meta[i].value, strlen(meta[i].value)) };
}

static int stream_index(struct model_sink *k, const struct model_texts *t, const struct st_kv *meta, size_t n_meta, struct err *e)
{
	struct st_kv *kv = xcalloc(MODEL_N_TEXTS + 2 + n_meta, sizeof(*kv));
	struct sb list = SB_INIT;
	char *base64;
	size_t n = model_texts_to_meta(t, kv, &base64);
	int rc;

	st_list_json(k->list, k->n, &list);
	kv[n++] = (struct st_kv){ "tensors", sb_str(&list) };
	for (size_t i = 0; i < n_meta; i++)
		kv[n++] = meta[i];
	rc = st_writer_frame(k->w, NULL, 0, kv, n, 0, 0, e);
	free(kv);
	free(base64);
	sb_release(&list);
	return rc;
}

int model_sink_begin(struct model_sink *k, const struct model_texts *t, const struct tensor *list, size_t n, const struct st_kv *meta,
		     size_t n_meta, struct err *e)
{
	k->list = arena_calloc(&k->arena, n + 1, sizeof(*k->list));
	k->shard = arena_calloc(&k->arena, n + 1, sizeof(*k->shard));
	k->n = n;
	for (size_t i = 0; i < n; i++) {
		k->list[i] = list[i];
		k->list[i].name = arena_strndup(&k->arena, list[i].name, strlen(list[i].name));
		k->list[i].data = NULL;
	}
	if (k->w)
		return stream_index(k, t, meta, n_meta, e);
	copy_meta(k, meta, n_meta);
	plan_shards(k);
	return model_texts_save(t, k->d, e);
}

static int close_shard(struct model_sink *k, struct err *e)
{
	struct out *o = k->o;

	k->o = NULL;
	return o ? out_commit(o, e) : 0;
}

/* The file of the tensor that is due, with its header. */
static int open_shard(struct model_sink *k, struct err *e)
{
	struct sb head = SB_INIT;
	size_t n = 0;
	int rc;

	if (close_shard(k, e))
		return -1;
	while (k->at + n < k->n && k->shard[k->at + n] == k->shard[k->at])
		n++;
	k->o = out_open(model_sink_shard_path(k, k->n_open), e);
	if (!k->o)
		return -1;
	k->n_open++;
	rc = st_make_header(k->list + k->at, n, k->meta, k->n_meta, &head, e);
	if (!rc)
		rc = out_write(k->o, head.s, head.len, e);
	sb_release(&head);
	return rc;
}

static int begin_tensor(struct model_sink *k, struct err *e)
{
	k->begun = true;
	if (k->w)
		return st_writer_begin(k->w, &k->list[k->at], 1, NULL, 0, 0, 0, e);
	return k->n_open == k->shard[k->at] ? open_shard(k, e) : 0;
}

int model_sink_bytes(struct model_sink *k, const void *p, size_t n, struct err *e)
{
	if (k->at == k->n || n > k->list[k->at].bytes - k->done)
		return err_set(e, LP_DATA, "more data than the model's list of tensors announced");
	if (!k->begun && begin_tensor(k, e))
		return -1;
	if (n && (k->w ? st_writer_bytes(k->w, p, n, e) : out_write(k->o, p, n, e)))
		return -1;
	k->done += n;
	if (k->done == k->list[k->at].bytes) {
		k->at++;
		k->done = 0;
		k->begun = false;
	}
	return 0;
}

int model_sink_tensor(struct model_sink *k, const struct tensor *t, struct err *e)
{
	if (k->at == k->n || k->done || strcmp(t->name, k->list[k->at].name) || !st_same_shape(t, &k->list[k->at]))
		return err_set(e, LP_DATA, "tensor '%.200s' is not the next of the model's list", t->name);
	return model_sink_bytes(k, t->data, t->bytes, e);
}

int model_sink_file(struct model_sink *k, const char *name, const void *p, size_t n, struct err *e)
{
	return k->d ? outdir_put(k->d, name, p, n, e) : 0;
}

const char *model_sink_path(struct model_sink *k, const char *name)
{
	return outdir_path(k->d, name);
}

int model_sink_finish(struct model_sink *k, struct err *e)
{
	if (k->at != k->n)
		return err_set(e, LP_DATA, "tensor '%.200s' was announced and not written", k->list[k->at].name);
	return k->w ? 0 : close_shard(k, e);
}

static int by_name(const void *x, const void *y, void *list)
{
	const struct tensor *t = list;

	return strcmp(t[*(const size_t *)x].name, t[*(const size_t *)y].name);
}

static int put_index(struct model_sink *k, struct err *e)
{
	size_t *order = xmalloc((k->n + 1) * sizeof(*order));
	struct sb text = SB_INIT;
	uint64_t total = 0;
	char name[64];
	int rc;

	for (size_t i = 0; i < k->n; i++) {
		order[i] = i;
		total += k->list[i].bytes;
	}
	qsort_r(order, k->n, sizeof(*order), by_name, k->list);
	sb_addf(&text, "{\n  \"metadata\": {\n    \"total_size\": %" PRIu64 "\n  },\n  \"weight_map\": {", total);
	for (size_t i = 0; i < k->n; i++) {
		struct jw w = jw_to(&text);

		sb_adds(&text, i ? ",\n    " : "\n    ");
		jw_str(&w, k->list[order[i]].name);
		shard_name(k, k->shard[order[i]], name);
		sb_addf(&text, ": \"%s\"", name);
	}
	sb_adds(&text, "\n  }\n}\n");
	rc = outdir_put(k->d, "model.safetensors.index.json", text.s, text.len, e);
	sb_release(&text);
	free(order);
	return rc;
}

static void sink_free(struct model_sink *k)
{
	st_writer_free(k->w);
	arena_release(&k->arena);
	free(k);
}

int model_sink_commit(struct model_sink *k, struct err *e)
{
	int rc = model_sink_finish(k, e);

	if (!rc && k->w)
		rc = st_writer_end(k->w, e);
	else if (!rc && k->n_shards > 1)
		rc = put_index(k, e);
	if (rc) {
		model_sink_abort(k);
		return -1;
	}
	rc = k->w ? out_commit(k->o, e) : outdir_commit(k->d, e);
	sink_free(k);
	return rc;
}

void model_sink_abort(struct model_sink *k)
{
	if (!k)
		return;
	out_abort(k->o);
	if (k->d)
		outdir_abort(k->d);
	sink_free(k);
}

/* Where tensors come from: a Hugging Face directory, mapped, or a model stream.
 * A directory must be whole: every tensor in exactly the shard that the index
 * names. Nothing here knows what the tensors mean. */
#include "model/source.h"

#include <inttypes.h>
#include <omp.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/xalloc.h"
#include "model/source_texts.h"

enum { HASHERS = 8 };

struct model_source {
	char *path;
	struct model_texts texts;
	struct arena arena;
	struct tensor *list;    /* in order */
	size_t n, next;
	size_t *sorted;         /* indices of list, by name */
	char (*digest)[65];     /* SHA-256 of each tensor's data; "" when not known */
	const char *lineage;
	struct st_file *shards; /* directory */
	size_t n_shards;
	struct st_reader *r;    /* stream */
	bool ended;             /* stream: its end was proved */
	pthread_t hashers[HASHERS];
	int n_hashers;
	atomic_size_t hashed;   /* the next tensor that a hasher takes */
};

struct place { /* one entry of weight_map */
	const char *name, *file;
	bool seen;
};

static int by_name(const void *x, const void *y)
{
	const struct place *a = x, *b = y;

	return strcmp(a->name, b->name);
}

static int by_text(const void *x, const void *y)
{
	return strcmp(*(const char *const *)x, *(const char *const *)y);
}

static int by_list_name(const void *x, const void *y, void *list)
{
	const struct tensor *t = list;

	return strcmp(t[*(const size_t *)x].name, t[*(const size_t *)y].name);
}

/* Sorts the list by name on the side; a name twice is an error. */
static int finish_list(struct model_source *s, struct err *e)
{
	s->sorted = xmalloc((s->n + 1) * sizeof(*s->sorted));
	s->digest = xcalloc(s->n + 1, sizeof(*s->digest));
	for (size_t i = 0; i < s->n; i++)
		s->sorted[i] = i;
	qsort_r(s->sorted, s->n, sizeof(*s->sorted), by_list_name, s->list);
	for (size_t i = 1; i < s->n; i++)
		if (!strcmp(s->list[s->sorted[i - 1]].name, s->list[s->sorted[i]].name))
			return err_off(e, LP_DATA, s->path, -1, "tensor '%.200s' is there twice", s->list[s->sorted[i]].name);
	return s->n ? 0 : err_off(e, LP_DATA, s->path, -1, "the model has no tensors");
}

static int open_shard(struct model_source *s, const char *file, struct err *e)
{
	char *path = xasprintf("%s/%s", s->path, file);
	int rc;

	if (access(path, F_OK))
		rc = err_off(e, LP_DATA, path, -1, "this shard of the model is missing: download it again");
	else
		rc = st_file_open(&s->shards[s->n_shards], path, e);
	free(path);
	if (rc)
		return -1;
	s->n += s->shards[s->n_shards++].blob.n_tensors;
	return 0;
}

static void fill_list(struct model_source *s)
{
	size_t k = 0;

	s->list = arena_calloc(&s->arena, s->n + 1, sizeof(*s->list));
	for (size_t i = 0; i < s->n_shards; i++)
		for (size_t j = 0; j < s->shards[i].blob.n_tensors; j++)
			s->list[k++] = s->shards[i].blob.tensors[j];
	s->lineage = st_meta(&s->shards[0].blob, "lineage");
}

/* A merged model keeps its lineage in lorapipe.json, since its base's hash is known last. */
static int read_sidecar(struct model_source *s, struct err *e)
{
	char *path = xasprintf("%s/lorapipe.json", s->path);
	const struct json *lineage;
	struct json v;
	int rc = 0;

	if (!s->lineage && !access(path, F_OK)) {
		rc = json_load(path, &s->arena, &v, e);
		lineage = rc ? NULL : json_get(&v, "lineage");
		if (json_is(lineage, JSON_OBJ)) {
			struct sb text = SB_INIT;
			struct jw w = jw_to(&text);

			jw_value(&w, lineage);
			s->lineage = arena_strndup(&s->arena, text.s, text.len);
			sb_release(&text);
		}
	}
	free(path);
	return rc;
}

static int open_single(struct model_source *s, struct err *e)
{
	s->shards = xcalloc(1, sizeof(*s->shards));
	if (open_shard(s, "model.safetensors", e))
		return -1;
	fill_list(s);
	return finish_list(s, e);
}

/* weight_map as places sorted by name, and the shard names, once each. */
static int read_map(struct model_source *s, const char *index, struct place **places, size_t *n, const char ***files, size_t *n_files,
		    struct err *e)
{
	const struct json *map;
	struct json root;

	if (json_load(index, &s->arena, &root, e))
		return -1;
	map = json_get(&root, "weight_map");
	if (!json_is(map, JSON_OBJ) || !map->n)
		return err_off(e, LP_DATA, index, -1, "no weight_map: this is not an index of shards");
	*n = map->n;
	*places = arena_calloc(&s->arena, map->n, sizeof(**places));
	*files = arena_calloc(&s->arena, map->n, sizeof(**files));
	for (uint32_t i = 0; i < map->n; i++) {
		const struct json *v = &map->members[i].val;

		if (!json_is(v, JSON_STR) || strlen(v->s) != v->n || !v->n || strchr(v->s, '/') || v->s[0] == '.')
			return err_off(e, LP_DATA, index, -1, "the shard of '%.200s' is not a plain file name", map->members[i].key);
		(*places)[i] = (struct place){ map->members[i].key, v->s, false };
		(*files)[i] = v->s;
	}
	qsort(*places, *n, sizeof(**places), by_name);
	for (size_t i = 1; i < *n; i++)
		if (!strcmp((*places)[i - 1].name, (*places)[i].name))
			return err_off(e, LP_DATA, index, -1, "the index lists tensor '%.200s' twice", (*places)[i].name);
	qsort(*files, *n, sizeof(**files), by_text);
	*n_files = 1;
	for (size_t i = 1; i < *n; i++)
		if (strcmp((*files)[i], (*files)[*n_files - 1]))
			(*files)[(*n_files)++] = (*files)[i];
	return 0;
}

/* Every tensor of the shard belongs there, by the index. */
static int check_shard(struct model_source *s, size_t shard, const char *file, struct place *places, size_t n, struct err *e)
{
	const struct st_blob *b = &s->shards[shard].blob;

	for (size_t i = 0; i < b->n_tensors; i++) {
		struct place key = { .name = b->tensors[i].name }, *p = bsearch(&key, places, n, sizeof(*places), by_name);

		if (!p)
			return err_off(e, LP_DATA, s->shards[shard].path, -1, "tensor '%.200s' is not in the index", key.name);
		if (strcmp(p->file, file))
			return err_off(e, LP_DATA, s->shards[shard].path, -1, "tensor '%.200s' is here, and by the index in %.100s", key.name, p->file);
		p->seen = true;
	}
	return 0;
}

static int open_sharded(struct model_source *s, const char *index, struct err *e)
{
	struct place *places = NULL;
	const char **files = NULL;
	size_t n = 0, n_files = 0;

	if (read_map(s, index, &places, &n, &files, &n_files, e))
		return -1;
	s->shards = xcalloc(n_files, sizeof(*s->shards));
	for (size_t i = 0; i < n_files; i++)
		if (open_shard(s, files[i], e) || check_shard(s, i, files[i], places, n, e))
			return -1;
	for (size_t i = 0; i < n; i++)
		if (!places[i].seen)
			return err_off(e, LP_DATA, index, -1, "tensor '%.200s' is missing from its shard %.100s", places[i].name, places[i].file);
	fill_list(s);
	return finish_list(s, e);
}

static int open_dir(struct model_source *s, struct err *e)
{
	char *single = xasprintf("%s/model.safetensors", s->path), *index = xasprintf("%s/model.safetensors.index.json", s->path);
	int rc = model_texts_load(&s->texts, s->path, e);

	if (!rc && !access(single, F_OK))
		rc = open_single(s, e);
	else if (!rc && !access(index, F_OK))
		rc = open_sharded(s, index, e);
	else if (!rc)
		rc = err_off(e, LP_USAGE, s->path, -1, "neither model.safetensors nor model.safetensors.index.json is there: "
			     "download the model's safetensors files");
	free(single);
	free(index);
	return rc ? rc : read_sidecar(s, e);
}

static int open_stream(struct model_source *s, struct err *e)
{
	struct in *in = in_open(s->path, e);
	const struct st_blob *b;
	const char *lineage;
	int rc;

	if (!in)
		return -1;
	s->r = st_reader_open_take(in, e);
	if (!s->r)
		return -1;
	rc = st_reader_next(s->r, &b, 0, e);
	/* A plain file is known by its header, before its data is read. */
	if (rc < 0 && !st_reader_is_file(s->r))
		return -1;
	if (rc <= 0 || strcmp(st_reader_kind(s->r), "model"))
		return err_off(e, LP_USAGE, st_reader_name(s->r), -1, "a model stream is needed here, not a %s%s", st_reader_kind(s->r),
			       strcmp(st_reader_kind(s->r), "file") ? " stream" : ": give the model's directory with --model");
	if (b->n_tensors)
		return err_off(e, LP_DATA, st_reader_name(s->r), 0, "corrupt: the stream does not begin with an index frame");
	if (st_list_parse(st_meta(b, "tensors"), st_reader_name(s->r), &s->arena, &s->list, &s->n, e))
		return -1;
	lineage = st_meta(b, "lineage");
	s->lineage = lineage ? arena_strndup(&s->arena, lineage, strlen(lineage)) : NULL;
	if (model_texts_from_meta(&s->texts, b, st_reader_name(s->r), e))
		return -1;
	return finish_list(s, e);
}

struct model_source *model_source_open(const char *path, struct err *e)
{
	struct model_source *s = xcalloc(1, sizeof(*s));
	struct stat st;
	int rc;

	s->path = xstrdup(path);
	if (strcmp(path, "-") && stat(path, &st))
		rc = err_sys(e, path, "open");
	else if (strcmp(path, "-") && S_ISDIR(st.st_mode))
		rc = open_dir(s, e);
	else
		rc = open_stream(s, e);
	if (rc) {
		model_source_close(s);
		return NULL;
	}
	return s;
}

const struct model_texts *model_source_texts(const struct model_source *s)
{
	return &s->texts;
}

size_t model_source_count(const struct model_source *s)
{
	return s->n;
}

const struct tensor *model_source_at(const struct model_source *s, size_t i)
{
	return &s->list[i];
}

bool model_source_is_dir(const struct model_source *s)
{
	return !s->r;
}

const char *model_source_name(const struct model_source *s)
{
	return s->r ? st_reader_name(s->r) : s->path;
}

const char *model_source_lineage(const struct model_source *s)
{
	return s->lineage;
}

const struct tensor *model_source_find(const struct model_source *s, const char *name)
{
	size_t lo = 0, hi = s->n;

	while (!s->r && lo < hi) {
		size_t mid = lo + (hi - lo) / 2;
		int c = strcmp(name, s->list[s->sorted[mid]].name);

		if (!c)
			return &s->list[s->sorted[mid]];
		if (c < 0)
			hi = mid;
		else
			lo = mid + 1;
	}
	return NULL;
}

static int stream_next(struct model_source *s, struct tensor *t, struct err *e)
{
	const char *name = st_reader_name(s->r);
	const struct tensor *want = &s->list[s->next];
	const struct st_blob *b;
	int rc = st_reader_next(s->r, &b, s->next < s->n ? want->bytes : 0, e);

	if (rc < 0)
		return -1;
	if (!rc && s->next < s->n)
		return err_off(e, LP_DATA, name, -1, "corrupt: the stream ends before tensor '%.200s' of its index", want->name);
	if (!rc) {
		s->ended = true;
		return 0;
	}
	if (s->next == s->n)
		return err_off(e, LP_DATA, name, -1, "corrupt: the stream has more tensors than its index");
	if (b->n_tensors != 1 || strcmp(b->tensors[0].name, want->name) || !st_same_shape(&b->tensors[0], want))
		return err_off(e, LP_DATA, name, -1, "corrupt: the frame of '%.200s' is not as the stream's index announced", want->name);
	*t = *want;
	t->data = b->tensors[0].data;
	sha_once(t->data, t->bytes, s->digest[s->next++]);
	return 1;
}

int model_source_next(struct model_source *s, struct tensor *t, struct err *e)
{
	if (s->r)
		return stream_next(s, t, e);
	if (s->next == s->n)
		return 0;
	*t = s->list[s->next++];
	return 1;
}

void model_source_dropped(struct model_source *s, const struct tensor *t)
{
	uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE), lo, hi;

	if (s->r || !t->data)
		return;
	lo = ((uintptr_t)t->data + page - 1) & ~(page - 1);
	hi = ((uintptr_t)t->data + t->bytes) & ~(page - 1);
	if (hi > lo)
		madvise((void *)lo, hi - lo, MADV_DONTNEED);
}

void model_source_digest(struct model_source *s, size_t i)
{
	if (!s->r && !s->digest[i][0])
		sha_once(s->list[i].data, s->list[i].bytes, s->digest[i]);
}

const char *model_source_sha(struct model_source *s, size_t i)
{
	model_source_digest(s, i);
	return s->digest[i];
}

static void *hash_tensors(void *arg)
{
	struct model_source *s = arg;
	size_t i;

	while ((i = atomic_fetch_add(&s->hashed, 1)) < s->n)
		model_source_digest(s, i);
	return NULL;
}

void model_source_hash(struct model_source *s)
{
	int wanted = omp_get_max_threads() - 1;

	if (s->r || s->n_hashers)
		return;
	wanted = wanted < 1 ? 1 : wanted > HASHERS ? HASHERS : wanted;
	while (s->n_hashers < wanted && !pthread_create(&s->hashers[s->n_hashers], NULL, hash_tensors, s)) /* fewer will do */
		s->n_hashers++;
}

static void await_hashers(struct model_source *s)
{
	while (s->n_hashers)
		pthread_join(s->hashers[--s->n_hashers], NULL);
}

/* One line a tensor, sorted by name: NAME NUL DTYPE NUL D0,D1 NUL HEX LF. */
int model_source_identity(struct model_source *s, char id[72], struct err *e)
{
	struct sha *h;
	char hex[65];

	if (s->r && !s->ended)
		return err_off(e, LP_USAGE, st_reader_name(s->r), -1, "a stream's identity is known at its end only");
	await_hashers(s);
#pragma omp parallel for schedule(dynamic)
	for (size_t i = 0; i < s->n; i++) {
		model_source_digest(s, i);
		model_source_dropped(s, &s->list[i]);
	}
	h = sha_new();
	for (size_t i = 0; i < s->n; i++) {
		const struct tensor *t = &s->list[s->sorted[i]];
		struct sb line = SB_INIT;

		sb_add(&line, t->name, strlen(t->name) + 1);
		sb_add(&line, dtype_st_name(t->dtype), strlen(dtype_st_name(t->dtype)) + 1);
		for (int d = 0; d < t->n_dims; d++)
			sb_addf(&line, "%s%" PRIu64, d ? "," : "", t->shape[d]);
		sb_addc(&line, '\0');
		sb_addf(&line, "%s\n", s->digest[s->sorted[i]]);
		sha_add(h, line.s, line.len);
		sb_release(&line);
	}
	sha_hex(h, hex);
	sha_free(h);
	snprintf(id, 72, "sha256:%s", hex);
	return 0;
}

void model_source_close(struct model_source *s)
{
	if (!s)
		return;
	atomic_store(&s->hashed, s->n);
	await_hashers(s);
	for (size_t i = 0; i < s->n_shards; i++)
		st_file_close(&s->shards[i]);
	free(s->shards);
	st_reader_close(s->r);
	model_texts_release(&s->texts);
	arena_release(&s->arena);
	free(s->sorted);
	free(s->digest);
	free(s->path);
	free(s);
}

/* Tables of a tokenizer in a file: see tok_cache.h. The file is this machine's
 * memory as it is: a header, and sections that begin on 64 bytes. */
#include "text/tok_cache.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/hash.h"
#include "base/tool.h"
#include "base/xalloc.h"

#define FORMAT 4 /* of the tables; a release makes its own in any case */
#define ALIGN 64

enum section { REST, POOL, STR, SLOTS, RAW_POOL, RAW_STR, RAW_SLOTS, MERGES, FIRST, JOINED, DIRECT, N_SECTIONS };
struct header {
	char magic[8];
	uint32_t order, format;      /* a number that tells the order of bytes */
	char release[32];
	char sha256[65], hash[33];   /* of the tokenizer file; of all behind the header */
	uint64_t source_len, file_len;
	uint64_t n_ids, n_strings, raw_ids, raw_strings;
	struct { uint64_t off, len; } at[N_SECTIONS];
	char check[33];              /* hash of the header with this empty */
};
#define HEAD ((sizeof(struct header) + ALIGN - 1) / ALIGN * ALIGN)

char *tok_cache_path(const char *text, size_t len)
{
	const char *dir = getenv("XDG_CACHE_HOME"), *home = getenv("HOME");
	char hex[33];

	if (len < TOK_CACHE_LEAST || ((!dir || *dir != '/') && (!home || *home != '/')))
		return NULL;
	xxh_once(text, len, hex);
	return dir && *dir == '/' ? xasprintf("%s/lorapipe/tok-%s", dir, hex) : xasprintf("%s/.cache/lorapipe/tok-%s", home, hex);
}

static void seal(const struct header *h, char hex[33])
{
	struct header copy;

	memcpy(&copy, h, sizeof(copy)); /* what lies between its members too */
	memset(copy.check, 0, sizeof(copy.check));
	xxh_once(&copy, sizeof(copy), hex);
}

static void start(struct header *h, size_t source_len)
{
	memset(h, 0, sizeof(*h));
	memcpy(h->magic, "lptokens", sizeof(h->magic));
	h->order = 0x01020304;
	h->format = FORMAT;
	snprintf(h->release, sizeof(h->release), "%s", lp_version);
	h->source_len = source_len;
}

/* --- reading --- */

static bool header_ok(const struct header *h, size_t source_len, size_t file_len)
{
	struct header want;
	char check[33];

	start(&want, source_len);
	if (memcmp(h->magic, want.magic, sizeof(want.magic)) || h->order != want.order || h->format != want.format ||
	    memcmp(h->release, want.release, sizeof(want.release)) || h->source_len != source_len || h->file_len != file_len)
		return false;
	seal(h, check);
	if (memcmp(check, h->check, sizeof(check)) || h->sha256[64])
		return false;
	for (int i = 0; i < N_SECTIONS; i++)
		if (h->at[i].off % ALIGN || h->at[i].off > file_len || h->at[i].len > file_len - h->at[i].off)
			return false;
	return true;
}

/* So many elements of that size, a power of two of them; 0: none. */
static uint64_t elements(const struct header *h, enum section s, size_t size)
{
	uint64_t n = h->at[s].len / size;

	return h->at[s].len % size == 0 && n && (n & (n - 1)) == 0 ? n : 0;
}

static bool open_vocab(const struct header *h, char *map, enum section pool, uint64_t n_ids, uint64_t n_strings, uint64_t limit, struct vocab *v)
{
	uint64_t slots = elements(h, pool + 2, sizeof(*v->slots));
	bool ok = true;

	*v = (struct vocab){ .pool = map + h->at[pool].off, .pool_len = h->at[pool].len, .str = (struct vocab_str *)(map + h->at[pool + 1].off), .n_ids = n_ids,
		.n_strings = n_strings, .slots = (struct vocab_bucket *)(map + h->at[pool + 2].off), .mask = (uint32_t)slots - 1, .borrowed = true };
	if (n_ids > VOCAB_MAX_ID || h->at[pool + 1].len != n_ids * sizeof(*v->str) || !slots || slots > 4 * (uint64_t)VOCAB_MAX_ID || n_strings >= slots * VOCAB_BUCKET)
		return false;
	for (size_t i = 0; i < n_ids; i++)
		ok &= v->str[i].len < 0 || (uint64_t)v->str[i].off + (uint64_t)v->str[i].len < v->pool_len;
	return ok && vocab_table_ok(v, limit);
}

static bool open_tables(const struct header *h, char *map, struct tok_cache *c)
{
	struct bpe_tables *t = &c->tables;

	if (!open_vocab(h, map, POOL, h->n_ids, h->n_strings, h->n_ids, &c->vocab))
		return false;
	if (h->at[RAW_SLOTS].len && !open_vocab(h, map, RAW_POOL, h->raw_ids, h->raw_strings, h->n_ids, &t->raw))
		return false;
	t->merges = map + h->at[MERGES].off;
	t->merges_bytes = h->at[MERGES].len;
	t->first = h->at[FIRST].len ? map + h->at[FIRST].off : NULL;
	t->first_bytes = h->at[FIRST].len;
	t->joined = h->at[JOINED].len ? map + h->at[JOINED].off : NULL;
	t->joined_bytes = h->at[JOINED].len;
	t->direct = h->at[DIRECT].len ? map + h->at[DIRECT].off : NULL;
	t->direct_bytes = h->at[DIRECT].len;
	c->rest = map + h->at[REST].off;
	c->rest_len = h->at[REST].len;
	return bpe_tables_ok(t, h->n_ids) && h->at[REST].off + h->at[REST].len + JSON_PADDING <= c->map_len;
}

bool tok_cache_open(struct tok_cache *c, const char *path, size_t source_len)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	const struct header *h;
	struct stat st;
	char hash[33];

	memset(c, 0, sizeof(*c));
	if (fd < 0)
		return false;
	if (!fstat(fd, &st) && S_ISREG(st.st_mode) && (size_t)st.st_size > HEAD) {
		c->map_len = (size_t)st.st_size;
		c->map = mmap(NULL, c->map_len, PROT_READ, MAP_PRIVATE | MAP_POPULATE, fd, 0);
		if (c->map == MAP_FAILED)
			c->map = NULL;
	}
	close(fd);
	if (!c->map)
		return false;
	h = c->map;
	if (header_ok(h, source_len, c->map_len)) {
		xxh_once((char *)c->map + HEAD, c->map_len - HEAD, hash);
		memcpy(c->sha256, h->sha256, sizeof(c->sha256));
		if (!memcmp(hash, h->hash, sizeof(hash)) && open_tables(h, c->map, c))
			return true;
	}
	tok_cache_close(c);
	return false;
}

void tok_cache_close(struct tok_cache *c)
{
	if (c->map)
		munmap(c->map, c->map_len);
	memset(c, 0, sizeof(*c));
}

/* --- writing --- */

struct part {
	const void *p;
	size_t n;
};

static void vocab_parts(const struct vocab *v, struct part *p)
{
	p[0] = (struct part){ v->pool, v->pool_len };
	p[1] = (struct part){ v->str, v->n_ids * sizeof(*v->str) };
	p[2] = (struct part){ v->slots, v->slots ? ((size_t)v->mask + 1) * sizeof(*v->slots) : 0 };
}

static bool put(int fd, const void *p, size_t n)
{
	const char *s = p;

	while (n) {
		ssize_t k = write(fd, s, n);

		if (k <= 0)
			return false;
		s += k;
		n -= (size_t)k;
	}
	return true;
}

static void make_dirs(const char *path)
{
	char *dir = xstrdup(path);

	for (char *s = strchr(dir + 1, '/'); s; s = strchr(s + 1, '/')) {
		*s = 0;
		mkdir(dir, 0700);
		*s = '/';
	}
	free(dir);
}

/* The whole file in memory first: it is hashed as one. */
static bool write_file(int fd, struct header *h, const struct part p[N_SECTIONS])
{
	size_t at = HEAD;
	char *all;
	bool ok;

	for (int i = 0; i < N_SECTIONS; i++) {
		h->at[i].off = at;
		h->at[i].len = p[i].n;
		at += (p[i].n + (i == REST ? JSON_PADDING : 0) + ALIGN - 1) / ALIGN * ALIGN;
	}
	h->file_len = at;
	all = lp_pages(at);
	if (!all)
		return false;
	for (int i = 0; i < N_SECTIONS; i++)
		if (p[i].n)
			memcpy(all + h->at[i].off, p[i].p, p[i].n);
	xxh_once(all + HEAD, at - HEAD, h->hash);
	seal(h, h->check);
	memcpy(all, h, sizeof(*h));
	ok = put(fd, all, at);
	lp_pages_free(all, at);
	return ok;
}

void tok_cache_write(const char *path, size_t source_len, const char sha256[65], const char *rest, size_t rest_len, const struct vocab *v, const struct bpe_tables *t)
{
	char *temp = xasprintf("%s.XXXXXX", path);
	struct part p[N_SECTIONS];
	struct header h;
	bool done;
	int fd;

	make_dirs(path);
	fd = mkstemp(temp);
	if (fd < 0) {
		free(temp);
		return;
	}
	start(&h, source_len);
	memcpy(h.sha256, sha256, sizeof(h.sha256));
	h.n_ids = v->n_ids;
	h.n_strings = v->n_strings;
	h.raw_ids = t->raw.n_ids;
	h.raw_strings = t->raw.n_strings;
	p[REST] = (struct part){ rest, rest_len };
	vocab_parts(v, p + POOL);
	vocab_parts(&t->raw, p + RAW_POOL);
	p[MERGES] = (struct part){ t->merges, t->merges_bytes };
	p[FIRST] = (struct part){ t->first, t->first_bytes };
	p[JOINED] = (struct part){ t->joined, t->joined_bytes };
	p[DIRECT] = (struct part){ t->direct, t->direct_bytes };
	done = write_file(fd, &h, p);
	if (close(fd) || !done || rename(temp, path))
		unlink(temp);
	free(temp);
}

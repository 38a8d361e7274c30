#include "data/recio.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <utf8proc.h>

#include "base/xalloc.h"

void recio_line(const struct jsonl_rec *rec, struct sb *out)
{
	sb_reset(out);
	if (memchr(rec->raw, '\n', rec->raw_len)) {
		struct jw w = jw_to(out);

		jw_value(&w, &rec->v);
	} else {
		sb_add(out, rec->raw, rec->raw_len);
	}
	sb_addc(out, '\n');
}

void recio_json_text(struct jw *w, const char *s, size_t n)
{
	struct sb b = SB_INIT;

	for (size_t i = 0; i < n;) {
		utf8proc_int32_t cp;
		utf8proc_ssize_t k = utf8proc_iterate((const utf8proc_uint8_t *)s + i, (utf8proc_ssize_t)(n - i < 4 ? n - i : 4), &cp);

		if (k > 0)
			sb_add(&b, s + i, (size_t)k);
		else
			sb_adds(&b, "\xef\xbf\xbd");
		i += k > 0 ? (size_t)k : 1;
	}
	jw_strn(w, sb_str(&b), b.len);
	sb_release(&b);
}

int recio_commit(struct out *o, const char *path, const struct lineage *l, struct err *e)
{
	char hex[33], hash[48];

	out_hash(o, hex);
	snprintf(hash, sizeof(hash), "xxh3:%s", hex);
	return out_commit(o, e) < 0 ? -1 : lineage_sidecar(l, path, hash, e);
}

struct recio {
	char *path, *format, *name;
	struct jsonl *j;
	FILE *spool;      /* stdin only */
	int pass;         /* 0 the first */
	char first[33];   /* hash of the first whole pass */
	char spooled[33]; /* the same of the spool's bytes, once read whole */
	struct sb line;
};

static struct jsonl *open_pass(const char *path, const char *format, struct err *e)
{
	struct in *in = in_open(path, e);

	return in ? jsonl_open_take(in, format, e) : NULL;
}

static FILE *open_spool(struct err *e)
{
	const char *dir = getenv("TMPDIR");
	char *path = xasprintf("%s/lp-spool.XXXXXX", dir && *dir ? dir : "/tmp");
	int fd = mkstemp(path);
	FILE *f = fd >= 0 ? fdopen(fd, "w+") : NULL;

	if (!f) {
		err_sys(e, path, "create");
		if (fd >= 0)
			close(fd);
	}
	if (fd >= 0)
		unlink(path);
	free(path);
	return f;
}

struct recio *recio_open(const char *path, const char *format, bool again, struct err *e)
{
	struct recio *r = xcalloc(1, sizeof(*r));

	r->path = xstrdup(path ? path : "-");
	r->format = xstrdup(format ? format : "auto");
	if (again && !strcmp(r->path, "-") && !(r->spool = open_spool(e)))
		goto fail;
	if (!(r->j = open_pass(r->path, r->format, e)))
		goto fail;
	r->name = xstrdup(in_name(jsonl_in(r->j)));
	return r;
fail:
	recio_close(r);
	return NULL;
}

static int keep(struct recio *r, const struct jsonl_rec *rec, struct err *e)
{
	recio_line(rec, &r->line);
	if (fwrite(r->line.s, 1, r->line.len, r->spool) != r->line.len)
		return err_sys(e, "temporary copy of standard input", "write");
	return 0;
}

int recio_next(struct recio *r, struct jsonl_rec *rec, struct err *e)
{
	int rc = jsonl_next(r->j, rec, e);

	if (rc < 0)
		return err_where(e, r->name, 0);
	if (rc == 1)
		return r->spool && !r->pass && keep(r, rec, e) < 0 ? -1 : 1;
	char *want = r->pass && r->spool ? r->spooled : r->first;
	char hex[33];

	in_hash(jsonl_in(r->j), hex);
	if (!*want)
		memcpy(want, hex, sizeof(hex));
	else if (strcmp(want, hex))
		return err_line(e, LP_DATA, r->name, 0, "the file changed while it was read; run again when it is complete");
	return 0;
}

int recio_again(struct recio *r, struct err *e)
{
	char fd_path[64];
	struct jsonl *j;

	if (r->spool) {
		if (fflush(r->spool))
			return err_sys(e, "temporary copy of standard input", "write");
		snprintf(fd_path, sizeof(fd_path), "/proc/self/fd/%d", fileno(r->spool));
		j = open_pass(fd_path, "jsonl", e);
	} else {
		j = open_pass(r->path, r->format, e);
	}
	if (!j)
		return -1;
	jsonl_close(r->j);
	r->j = j;
	r->pass++;
	return 0;
}

const char *recio_name(const struct recio *r)
{
	return r->name;
}

void recio_hash(const struct recio *r, char hex[33])
{
	memcpy(hex, r->first, sizeof(r->first));
}

struct arena *recio_arena(struct recio *r)
{
	return jsonl_arena(r->j);
}

void recio_close(struct recio *r)
{
	if (!r)
		return;
	if (r->j)
		jsonl_close(r->j);
	if (r->spool)
		fclose(r->spool);
	sb_release(&r->line);
	free(r->path);
	free(r->format);
	free(r->name);
	free(r);
}

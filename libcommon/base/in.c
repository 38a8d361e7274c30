/* Byte input. in_dec.c decompresses; here tar and zip are taken apart by
 * libarchive, and bytes and lines handed out of one buffer. The buffer never
 * mixes two members, so that a member's last line ends with it even when its
 * newline is missing. */
#include "base/in.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/in_dec.h"
#include "base/la.h"
#include "base/sb.h"
#include "base/xalloc.h"

enum { BUF_BYTES = 256 << 10, SLACK = 64, PEEK_MAX = 4096 };

struct in {
	int fd;
	char *path;     /* as given, or "(stdin)" */
	char *name;     /* path, or path:member */
	struct dec *dec;
	char *buf;      /* cap bytes and SLACK readable ones behind */
	size_t cap;
	size_t pos, end; /* unread: buf[pos..end) */
	size_t hashed;   /* buf[hashed..pos) is consumed and not yet in hash */
	char *nul_at;    /* where in_line put a NUL over a newline, or NULL */
	bool eof;        /* nothing after buf[end) in this member */
	bool last;       /* and no further member */
	uint64_t base;   /* decoded bytes before buf[0] */
	uint64_t line_no;
	struct xxh *hash;
	/* tar, zip */
	const struct la *la;
	struct archive *ar;
	char *block;        /* what its callback hands out */
	size_t block_bytes; /* already there for the first call */
	struct err cause;   /* of the callback's failure */
};

/* --- tar and zip --- */

static bool is_tar(const char *head, size_t n)
{
	const unsigned char *h = (const unsigned char *)head;
	unsigned sum = 0, want = 0, i;

	if (n < 512 || !h[0])
		return false;
	for (i = 0; i < 512; i++)
		sum += i >= 148 && i < 156 ? ' ' : h[i];
	for (i = 148; i < 156 && h[i] == ' '; i++)
		;
	for (; i < 156 && h[i] >= '0' && h[i] <= '7'; i++)
		want = want * 8 + (unsigned)(h[i] - '0');
	return sum == want;
}

static bool is_packed(const char *h, size_t n)
{
	return (n >= 4 && (!memcmp(h, "PK\3\4", 4) || !memcmp(h, "PK\5\6", 4))) || is_tar(h, n);
}

static int ar_fail(struct in *in, struct err *e)
{
	if (in->cause.code) {
		*e = in->cause;
		return -1;
	}
	return archive_err(in->la->archive_error_string(in->ar), in->name, e);
}

static la_ssize_t ar_read(struct archive *ar, void *data, const void **block)
{
	struct in *in = data;
	int64_t n = (int64_t)in->block_bytes;

	*block = in->block;
	if (n) {
		in->block_bytes = 0;
		return (la_ssize_t)n;
	}
	n = dec_read(in->dec, in->block, BUF_BYTES, &in->cause);
	if (n < 0)
		in->la->archive_set_error(ar, EINVAL, "%s", in->cause.msg);
	return (la_ssize_t)n;
}

/* An archive ends before its file does: what is left holds the check sums. */
static int drain(struct in *in, struct err *e)
{
	int64_t n = 1;

	while (in->block && n > 0)
		n = dec_read(in->dec, in->block, BUF_BYTES, e);
	return n < 0 ? -1 : 0;
}

/* The next regular member: 1, 0 at the proved end of the archive, -1. */
static int ar_next(struct in *in, struct err *e)
{
	struct archive_entry *ent;
	const char *member;
	int64_t before;
	int rc;

	do {
		if (in->eof && in->la->archive_read_data_skip(in->ar) < ARCHIVE_WARN)
			return ar_fail(in, e);
		in->eof = true;
		before = in->la->archive_filter_bytes(in->ar, 0);
		rc = in->la->archive_read_next_header(in->ar, &ent);
		if (rc == ARCHIVE_EOF) {
			/* A tar ends with a block of zeros; libarchive also takes a
			 * mere end of file, which is how a cut one looks. */
			if ((in->la->archive_format(in->ar) & ARCHIVE_FORMAT_BASE_MASK) == ARCHIVE_FORMAT_TAR &&
			    in->la->archive_filter_bytes(in->ar, 0) == before)
				return err_off(e, LP_DATA, in->path, -1, "truncated tar archive (no end marker); fetch or pack it again");
			return drain(in, e);
		}
		if (rc < ARCHIVE_WARN)
			return ar_fail(in, e);
	} while (in->la->archive_entry_filetype(ent) != AE_IFREG);
	member = in->la->archive_entry_pathname(ent);
	free(in->name);
	in->name = xasprintf("%s:%s", in->path, member ? member : "?");
	in->eof = false;
	in->line_no = 0;
	return 1;
}

static int ar_open(struct in *in, struct err *e)
{
	struct archive *ar;
	int rc;

	in->la = la_load(in->path, e);
	if (!in->la)
		return -1;
	ar = in->ar = in->la->archive_read_new();
	if (!ar)
		return err_set(e, LP_DEVICE, "out of memory for libarchive");
	in->la->archive_read_support_format_tar(ar);
	if (dec_is_plain(in->dec) && lseek(in->fd, -(off_t)in->end, SEEK_CUR) >= 0) {
		in->la->archive_read_support_format_zip(ar); /* can seek: a zip's directory is used */
		rc = in->la->archive_read_open_fd(ar, in->fd, BUF_BYTES);
	} else {
		in->la->archive_read_support_format_zip_streamable(ar);
		in->block = xmalloc(BUF_BYTES);
		memcpy(in->block, in->buf, in->end);
		in->block_bytes = in->end;
		rc = in->la->archive_read_open(ar, in, NULL, ar_read, NULL);
	}
	in->pos = in->end = 0;
	in->eof = in->last = false;
	if (rc < ARCHIVE_WARN)
		return ar_fail(in, e);
	rc = ar_next(in, e);
	in->eof = in->last = rc == 0;
	return rc < 0 ? -1 : 0;
}

/* --- opening, closing --- */

/* Fills the buffer far enough to tell an archive. */
static int read_head(struct in *in, struct err *e)
{
	int64_t n;

	do {
		n = dec_read(in->dec, in->buf + in->end, in->cap - in->end, e);
		if (n < 0)
			return -1;
		in->end += (size_t)n;
	} while (n && head_wants_more(in->buf, in->end));
	in->eof = in->last = !n;
	return 0;
}

struct in *in_open(const char *path, struct err *e)
{
	bool std = !path || !strcmp(path, "-");
	struct in *in = xcalloc(1, sizeof(*in));
	struct stat st;

	in->cause = (struct err)ERR_INIT;
	in->path = xstrdup(std ? "(stdin)" : path);
	in->name = xstrdup(in->path);
	in->fd = std ? 0 : open(path, O_RDONLY | O_CLOEXEC);
	if (in->fd < 0) {
		err_sys(e, in->path, "open");
		goto bad;
	}
	if (!fstat(in->fd, &st) && S_ISDIR(st.st_mode)) {
		err_off(e, LP_IO, in->path, -1, "is a directory; name the file inside it");
		goto bad;
	}
	in->cap = BUF_BYTES;
	in->buf = xmalloc(in->cap + SLACK);
	memset(in->buf + in->cap, 0, SLACK);
	in->hash = xxh_new();
	in->dec = dec_open(in->fd, in->path, e);
	if (!in->dec || read_head(in, e))
		goto bad;
	if (is_packed(in->buf, in->end) && ar_open(in, e))
		goto bad;
	return in;
bad:
	in_close(in);
	return NULL;
}

void in_close(struct in *in)
{
	if (!in)
		return;
	if (in->ar)
		in->la->archive_read_free(in->ar);
	dec_close(in->dec);
	if (in->fd > 0)
		close(in->fd);
	xxh_free(in->hash);
	free(in->block);
	free(in->buf);
	free(in->path);
	free(in->name);
	free(in);
}

/* --- the buffer --- */

/* Gives the newline back that in_line covered with a NUL. */
static void uncover(struct in *in)
{
	if (in->nul_at)
		*in->nul_at = '\n';
	in->nul_at = NULL;
}

static void hash_consumed(struct in *in)
{
	xxh_add(in->hash, in->buf + in->hashed, in->pos - in->hashed);
	in->hashed = in->pos;
}

/* Moves the unread bytes to the front and makes room for more. */
static void make_room(struct in *in, size_t want)
{
	hash_consumed(in);
	if (in->pos) {
		memmove(in->buf, in->buf + in->pos, in->end - in->pos);
		in->base += in->pos;
		in->end -= in->pos;
		in->pos = in->hashed = 0;
	}
	/* A giant line's buffer goes back once it is done with. */
	if (in->cap > 64 * (size_t)BUF_BYTES && in->end + want <= BUF_BYTES) {
		in->cap = BUF_BYTES;
		in->buf = xrealloc(in->buf, in->cap + SLACK);
	}
	if (in->end + want > in->cap) {
		in->cap = (in->end + want) * 2;
		in->buf = xrealloc(in->buf, in->cap + SLACK);
	}
	memset(in->buf + in->cap, 0, SLACK);
}

/* More bytes of this member behind end: 1, 0 when it has no more, -1. */
static int fill(struct in *in, struct err *e)
{
	int64_t n;

	if (in->eof)
		return 0;
	make_room(in, BUF_BYTES / 2);
	if (in->ar) {
		n = in->la->archive_read_data(in->ar, in->buf + in->end, in->cap - in->end);
		if (n < 0)
			return ar_fail(in, e);
	} else {
		n = dec_read(in->dec, in->buf + in->end, in->cap - in->end, e);
		if (n < 0)
			return -1;
		in->last = !n;
	}
	in->eof = !n;
	in->end += (size_t)n;
	return n > 0;
}

/* Called when a member is used up: 1 when another one begins, 0, -1. */
static int next_member(struct in *in, struct err *e)
{
	int rc;

	if (in->last)
		return 0;
	rc = ar_next(in, e);
	if (rc < 0)
		return -1;
	in->last = !rc;
	return rc;
}

/* At least one unread byte: 1, 0 at the very end, -1. */
static int need(struct in *in, struct err *e)
{
	int rc;

	while (in->pos == in->end) {
		rc = fill(in, e);
		if (rc < 0)
			return -1;
		if (!rc && (rc = next_member(in, e)) <= 0)
			return rc;
	}
	return 1;
}

int64_t in_read(struct in *in, void *buf, size_t n, struct err *e)
{
	size_t have;
	int rc;

	uncover(in);
	if (!n)
		return 0;
	rc = need(in, e);
	if (rc <= 0)
		return rc;
	have = in->end - in->pos;
	if (n > have)
		n = have;
	memcpy(buf, in->buf + in->pos, n);
	in->pos += n;
	return (int64_t)n;
}

int in_read_full(struct in *in, void *buf, size_t n, const char *what, struct err *e)
{
	size_t got = 0;

	while (got < n) {
		int64_t k = in_read(in, (char *)buf + got, n - got, e);

		if (k < 0)
			return -1;
		if (!k)
			return err_off(e, LP_DATA, in->name, (int64_t)in_offset(in),
				       "truncated: %s needs %zu bytes, %zu are there", what, n, got);
		got += (size_t)k;
	}
	return 0;
}

int in_line(struct in *in, const char **line, size_t *len, size_t max, struct err *e)
{
	size_t seen = 0; /* bytes of the line known to hold no newline */
	char *s, *nl;
	int rc;

	uncover(in);
	rc = need(in, e);
	if (rc <= 0)
		return rc;
	for (;;) {
		s = in->buf + in->pos;
		nl = memchr(s + seen, '\n', in->end - in->pos - seen);
		if (nl)
			break;
		seen = in->end - in->pos;
		if (seen > max)
			goto too_long;
		rc = fill(in, e);
		if (rc < 0)
			return -1;
		if (!rc) { /* the last line of a member may lack its newline */
			s = in->buf + in->pos;
			nl = in->buf + in->end;
			break;
		}
	}
	*len = (size_t)(nl - s);
	if (*len > max)
		goto too_long;
	*line = s;
	in->line_no++;
	if (nl < in->buf + in->end) {
		in->nul_at = nl;
		in->pos += *len + 1;
	} else {
		in->pos = in->end;
	}
	*nl = 0;
	return 1;
too_long:
	return err_line(e, LP_DATA, in->name, in->line_no + 1, "line is longer than %zu bytes", max);
}

int64_t in_peek(struct in *in, const void **p, size_t n, struct err *e)
{
	int rc;

	uncover(in);
	rc = need(in, e);
	if (rc < 0)
		return -1;
	if (n > PEEK_MAX)
		n = PEEK_MAX;
	while (in->end - in->pos < n) {
		rc = fill(in, e);
		if (rc < 0)
			return -1;
		if (!rc)
			break;
	}
	*p = in->buf + in->pos;
	return (int64_t)(in->end - in->pos < n ? in->end - in->pos : n);
}

uint64_t in_offset(const struct in *in)
{
	return in->base + in->pos;
}

uint64_t in_line_no(const struct in *in)
{
	return in->line_no;
}

const char *in_name(const struct in *in)
{
	return in->name;
}

void in_hash(const struct in *in, char hex[33])
{
	struct xxh *h = xxh_copy(in->hash);

	if (in->nul_at) { /* it is the last consumed byte */
		xxh_add(h, in->buf + in->hashed, in->pos - 1 - in->hashed);
		xxh_add(h, "\n", 1);
	} else {
		xxh_add(h, in->buf + in->hashed, in->pos - in->hashed);
	}
	xxh_hex(h, hex);
	xxh_free(h);
}

char *in_slurp(const char *path, size_t max, size_t *len, struct err *e)
{
	struct in *in = in_open(path, e);
	struct sb b = SB_INIT;
	int64_t n = 0;

	if (!in)
		return NULL;
	do {
		b.len += (size_t)n;
		if (b.len > max) {
			n = err_off(e, LP_DATA, in->name, -1, "file is larger than %zu bytes", max);
			break;
		}
		sb_grow(&b, BUF_BYTES + SLACK);
		n = in_read(in, b.s + b.len, BUF_BYTES, e);
	} while (n > 0);
	in_close(in);
	if (n < 0) {
		sb_release(&b);
		return NULL;
	}
	memset(b.s + b.len, 0, SLACK);
	if (len)
		*len = b.len;
	return b.s;
}

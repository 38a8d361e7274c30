/* gzip is inflated by zlib and not by libarchive, which passes over gzip's
 * check sum and length: a flipped bit would become other text. */
#include "base/in_dec.h"
#include "base/la.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <zlib.h>

#include "base/xalloc.h"

enum { RAW_BYTES = 128 << 10, GZIP_ONLY = 16 + MAX_WBITS };
enum kind { PLAIN, GZIP, OTHER };

struct dec {
	int fd;
	const char *name;
	enum kind kind;
	char *raw;              /* bytes of the file; raw[pos..end) are not used yet */
	size_t pos, end;
	int read_errno;         /* of raw_fill */
	z_stream z;             /* GZIP */
	bool between;           /* GZIP: the last member is complete, its sums are right */
	const struct la *la;    /* OTHER */
	struct archive *ar;     /* OTHER */
	bool done;              /* OTHER: it holds nothing */
};

int64_t read_some(int fd, void *buf, size_t n)
{
	ssize_t got;

	do
		got = read(fd, buf, n);
	while (got < 0 && errno == EINTR);
	return got;
}

bool head_wants_more(const char *h, size_t n)
{
	if (!n)
		return true;
	return n < HEAD_BYTES && h[0] != '{' && h[0] != '[' && !(n >= 16 && memchr(h, '\n', n));
}

bool dec_is_plain(const struct dec *d)
{
	return d->kind == PLAIN;
}

int archive_err(const char *why, const char *name, struct err *e)
{
	return err_off(e, LP_DATA, name, -1, "truncated or corrupt archive (%s); fetch or pack it again", why ? why : "unknown format");
}

static enum kind tell(const char *h, size_t n)
{
	if (n >= 3 && !memcmp(h, "\x1f\x8b\x08", 3))
		return GZIP;
	if (n >= 4 && (!memcmp(h, "\x28\xb5\x2f\xfd", 4) || ((h[0] & 0xf0) == 0x50 && !memcmp(h + 1, "\x2a\x4d\x18", 3))))
		return OTHER;
	if (n >= 6 && !memcmp(h, "\xfd" "7zXZ", 6))
		return OTHER;
	if (n >= 10 && !memcmp(h, "BZh", 3) && h[3] >= '1' && h[3] <= '9' &&
	    (!memcmp(h + 4, "1AY&SY", 6) || !memcmp(h + 4, "\x17\x72\x45\x38\x50\x90", 6)))
		return OTHER;
	return PLAIN;
}

/* Unused bytes of the file in raw: how many, 0 at its end, -1 (read_errno). */
static int64_t raw_fill(struct dec *d)
{
	int64_t n;

	if (d->pos < d->end)
		return (int64_t)(d->end - d->pos);
	n = read_some(d->fd, d->raw, RAW_BYTES);
	if (n < 0)
		d->read_errno = errno;
	d->pos = 0;
	d->end = n > 0 ? (size_t)n : 0;
	return n;
}

/* --- gzip --- */

static int gzip_bad(struct dec *d, const char *why, struct err *e)
{
	return err_off(e, LP_DATA, d->name, -1, "truncated or corrupt archive (gzip: %s); fetch or pack it again", why);
}

/* Members one behind the other are one text; zeros behind the last are
 * padding; anything else there fails as a bad header. */
static bool next_member_begins(struct dec *d)
{
	while (d->pos < d->end && !d->raw[d->pos])
		d->pos++;
	if (d->pos == d->end)
		return false;
	inflateReset2(&d->z, GZIP_ONLY);
	d->between = false;
	return true;
}

static int64_t gzip_read(struct dec *d, void *buf, size_t n, struct err *e)
{
	d->z.next_out = buf;
	d->z.avail_out = n > (1u << 30) ? 1u << 30 : (uInt)n;
	for (;;) {
		int64_t have = raw_fill(d);
		int rc;

		if (have < 0) {
			errno = d->read_errno;
			return err_sys(e, d->name, "read");
		}
		if (!have)
			return d->between ? 0 : gzip_bad(d, "truncated", e);
		if (d->between && !next_member_begins(d))
			continue;
		d->z.next_in = (Bytef *)d->raw + d->pos;
		d->z.avail_in = (uInt)(d->end - d->pos);
		rc = inflate(&d->z, Z_NO_FLUSH);
		d->pos = d->end - d->z.avail_in;
		if (rc == Z_STREAM_END)
			d->between = true;
		else if (rc != Z_OK && rc != Z_BUF_ERROR)
			return gzip_bad(d, d->z.msg ? d->z.msg : "bad data", e);
		if ((char *)d->z.next_out > (char *)buf)
			return (char *)d->z.next_out - (char *)buf;
	}
}

/* --- zstd, xz, bzip2: libarchive's filters under its "raw" format --- */

static la_ssize_t on_read(struct archive *ar, void *data, const void **block)
{
	struct dec *d = data;
	int64_t n = raw_fill(d);

	*block = d->raw + d->pos;
	d->pos = d->end;
	if (n < 0)
		d->la->archive_set_error(ar, d->read_errno, "cannot read: %s", strerror(d->read_errno));
	return (la_ssize_t)n;
}

static int other_bad(struct dec *d, struct err *e)
{
	if (d->read_errno) {
		errno = d->read_errno;
		return err_sys(e, d->name, "read");
	}
	return archive_err(d->la->archive_error_string(d->ar), d->name, e);
}

static int other_open(struct dec *d, struct err *e)
{
	struct archive_entry *ent;
	struct archive *ar;
	bool failed;
	int rc;

	d->la = la_load(d->name, e);
	if (!d->la)
		return -1;
	ar = d->ar = d->la->archive_read_new();
	if (!ar)
		return err_set(e, LP_DEVICE, "out of memory for libarchive");
	d->la->archive_read_support_filter_bzip2(ar);
	d->la->archive_read_support_filter_xz(ar);
	d->la->archive_read_support_filter_zstd(ar);
	d->la->archive_read_support_format_raw(ar);
	d->la->archive_read_support_format_empty(ar);
	if (d->la->archive_read_open(ar, d, NULL, on_read, NULL) < ARCHIVE_WARN)
		return other_bad(d, e);
	failed = d->la->archive_errno(ar) != 0;
	rc = d->la->archive_read_next_header(ar, &ent);
	/* Raw takes anything, undecoded bytes too; and "empty" is also what
	 * libarchive makes of a decoder that fails at once. */
	if (d->la->archive_filter_count(ar) < 2 || (rc == ARCHIVE_EOF && failed))
		return err_off(e, LP_DATA, d->name, 0, "truncated or corrupt archive (bad header); fetch or pack it again");
	if (rc == ARCHIVE_EOF)
		d->done = true;
	else if (rc < ARCHIVE_WARN)
		return other_bad(d, e);
	return 0;
}

/* --- all --- */

struct dec *dec_open(int fd, const char *name, struct err *e)
{
	struct dec *d = xcalloc(1, sizeof(*d));
	int64_t n;

	d->fd = fd;
	d->name = name;
	d->raw = xmalloc(HEAD_BYTES);
	do {
		n = read_some(fd, d->raw + d->end, HEAD_BYTES - d->end);
		if (n < 0) {
			err_sys(e, name, "read");
			goto bad;
		}
		d->end += (size_t)n;
	} while (n && head_wants_more(d->raw, d->end));
	d->kind = tell(d->raw, d->end);
	if (d->kind == PLAIN)
		return d;
	d->raw = xrealloc(d->raw, RAW_BYTES);
	if (d->kind == GZIP && inflateInit2(&d->z, GZIP_ONLY) != Z_OK) {
		d->kind = PLAIN; /* nothing to end */
		err_set(e, LP_DEVICE, "out of memory for zlib");
		goto bad;
	}
	if (d->kind == OTHER && other_open(d, e))
		goto bad;
	return d;
bad:
	dec_close(d);
	return NULL;
}

void dec_close(struct dec *d)
{
	if (!d)
		return;
	if (d->kind == GZIP)
		inflateEnd(&d->z);
	if (d->ar)
		d->la->archive_read_free(d->ar);
	free(d->raw);
	free(d);
}

static int64_t plain_read(struct dec *d, void *buf, size_t n, struct err *e)
{
	int64_t got;

	if (d->pos < d->end) { /* what dec_open looked at */
		if (n > d->end - d->pos)
			n = d->end - d->pos;
		memcpy(buf, d->raw + d->pos, n);
		d->pos += n;
		return (int64_t)n;
	}
	got = read_some(d->fd, buf, n);
	return got < 0 ? err_sys(e, d->name, "read") : got;
}

int64_t dec_read(struct dec *d, void *buf, size_t n, struct err *e)
{
	la_ssize_t got;

	if (d->done)
		return 0;
	if (d->kind == PLAIN)
		return plain_read(d, buf, n, e);
	if (d->kind == GZIP)
		return gzip_read(d, buf, n, e);
	got = d->la->archive_read_data(d->ar, buf, n);
	return got < 0 ? other_bad(d, e) : (int64_t)got;
}

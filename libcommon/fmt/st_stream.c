/* Streams of safetensors blobs with a proof of their end (docs/formats/lp-stream.5).
 * Every frame's metadata has "stream": kind, and "records" and "tokens" where
 * it counts any. The end frame has no tensors; its metadata has "end": "1",
 * the totals, and "hash": "xxh3:..." over all bytes before it. */
#include "fmt/st.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/num.h"
#include "base/xalloc.h"

#define HEADER_MAX 100000000u

struct st_writer {
	struct out *o;
	struct xxh *hash;
	char *kind;
	uint64_t frames, records, tokens;
	uint64_t due; /* data bytes that the open frame still needs */
};

struct st_writer *st_writer_new(struct out *o, const char *kind)
{
	struct st_writer *w = xcalloc(1, sizeof(*w));

	w->o = o;
	w->hash = xxh_new();
	w->kind = xstrdup(kind);
	return w;
}

static int put(struct st_writer *w, const void *p, size_t n, struct err *e)
{
	if (!n)
		return 0;
	xxh_add(w->hash, p, n);
	return out_write(w->o, p, n, e);
}

static int put_header(struct st_writer *w, const struct tensor *t, size_t n, const struct st_kv *meta, size_t n_meta, struct err *e)
{
	struct sb head = SB_INIT;
	int rc;

	if (w->due)
		return err_set(e, LP_DATA, "a frame ended %" PRIu64 " bytes short", w->due);
	rc = st_make_header(t, n, meta, n_meta, &head, e);
	if (!rc)
		rc = put(w, head.s, head.len, e);
	sb_release(&head);
	return rc;
}

int st_writer_begin(struct st_writer *w, const struct tensor *t, size_t n, const struct st_kv *meta, size_t n_meta, uint64_t records,
		    uint64_t tokens, struct err *e)
{
	struct st_kv *kv = xmalloc((n_meta + 3) * sizeof(*kv));
	char rec[24], tok[24];
	size_t k = 0;
	int rc;

	kv[k++] = (struct st_kv){ "stream", w->kind };
	snprintf(rec, sizeof(rec), "%" PRIu64, records);
	snprintf(tok, sizeof(tok), "%" PRIu64, tokens);
	if (records)
		kv[k++] = (struct st_kv){ "records", rec };
	if (tokens)
		kv[k++] = (struct st_kv){ "tokens", tok };
	for (size_t i = 0; i < n_meta; i++)
		kv[k++] = meta[i];
	rc = put_header(w, t, n, kv, k, e);
	free(kv);
	if (rc)
		return -1;
	for (size_t i = 0; i < n; i++)
		w->due += t[i].bytes;
	w->frames++;
	w->records += records;
	w->tokens += tokens;
	return 0;
}

int st_writer_bytes(struct st_writer *w, const void *p, size_t n, struct err *e)
{
	if (n > w->due)
		return err_set(e, LP_DATA, "a frame has more data than its header promised");
	w->due -= n;
	return put(w, p, n, e);
}

int st_writer_frame(struct st_writer *w, const struct tensor *t, size_t n, const struct st_kv *meta, size_t n_meta, uint64_t records,
		    uint64_t tokens, struct err *e)
{
	int rc = st_writer_begin(w, t, n, meta, n_meta, records, tokens, e);

	for (size_t i = 0; i < n && !rc; i++)
		rc = st_writer_bytes(w, t[i].data, t[i].bytes, e);
	return rc;
}

int st_writer_end(struct st_writer *w, struct err *e)
{
	char frames[24], records[24], tokens[24], hash[40] = "xxh3:";
	const struct st_kv kv[] = { { "stream", w->kind }, { "end", "1" },       { "frames", frames },
				    { "records", records }, { "tokens", tokens }, { "hash", hash } };

	snprintf(frames, sizeof(frames), "%" PRIu64, w->frames);
	snprintf(records, sizeof(records), "%" PRIu64, w->records);
	snprintf(tokens, sizeof(tokens), "%" PRIu64, w->tokens);
	xxh_hex(w->hash, hash + 5);
	return put_header(w, NULL, 0, kv, 6, e);
}

void st_writer_free(struct st_writer *w)
{
	if (!w)
		return;
	xxh_free(w->hash);
	free(w->kind);
	free(w);
}

struct st_reader {
	struct in *in;
	struct st_blob blob; /* the frame that the caller sees */
	struct xxh *hash;
	char *kind;          /* NULL before the first frame */
	bool file, ended;
	uint64_t frames, records, tokens;
	uint64_t frame_at;   /* where the current frame begins */
	char *header, *data;
	size_t header_cap, data_cap;
};

struct st_reader *st_reader_open_take(struct in *in, struct err *e)
{
	struct st_reader *r = xcalloc(1, sizeof(*r));
	const void *p;

	r->in = in;
	r->hash = xxh_new();
	if (in_peek(in, &p, 8, e) < 0) {
		st_reader_close(r);
		return NULL;
	}
	return r;
}

static int fail(const struct st_reader *r, struct err *e, uint64_t off, const char *what)
{
	return err_off(e, LP_DATA, in_name(r->in), (int64_t)off, "%s", what);
}

/* A buffer of n bytes, grown as needed. */
static int room(char **buf, size_t *cap, size_t n, const char *what, struct err *e)
{
	if (n <= *cap && *buf)
		return 0;
	free(*buf);
	*cap = 0;
	*buf = lp_try_alloc(n ? n : 1, 1, what, e);
	if (!*buf)
		return -1;
	*cap = n;
	return 0;
}

static int read_exact(struct st_reader *r, void *p, size_t n, const char *what, struct err *e)
{
	if (!n)
		return 0;
	if (in_read_full(r->in, p, n, what, e)) {
		if (e->off < 0)
			e->off = (int64_t)in_offset(r->in);
		return -1;
	}
	return 0;
}

/* What begins with no length of a frame; text is what people give by mistake. */
static int no_frame(struct st_reader *r, const uint8_t head[8], uint64_t n, struct err *e)
{
	int text = 0;

	while (text < 8 && ((head[text] >= ' ' && head[text] <= '~') || (head[text] >= '\t' && head[text] <= '\r')))
		text++;
	if (text == 8)
		return err_off(e, LP_DATA, in_name(r->in), (int64_t)r->frame_at, "this is text, not a stream of tensor frames");
	return err_off(e, LP_DATA, in_name(r->in), (int64_t)r->frame_at, "not a tensor frame: its first 8 bytes give a header of %" PRIu64 " bytes", n);
}

/* The length of the next header; 0 at the end of input, -1 on error. */
static int64_t next_length(struct st_reader *r, uint8_t len[8], struct err *e)
{
	int64_t got;
	uint64_t n;

	r->frame_at = in_offset(r->in);
	got = in_read(r->in, len, 1, e);
	if (got <= 0)
		return got;
	if (read_exact(r, len + 1, 7, "frame length", e))
		return -1;
	n = get_u64(len);
	return n < 2 || n > HEADER_MAX ? no_frame(r, len, n, e) : (int64_t)n;
}

static bool meta_count(const struct st_blob *b, const char *key, uint64_t *out)
{
	const char *s = st_meta(b, key);

	*out = 0;
	return !s || parse_u64(s, out);
}

/* The end frame's promises against what was seen, and nothing behind it. */
static int check_end(struct st_reader *r, struct err *e)
{
	char hash[40] = "xxh3:";
	const char *want = st_meta(&r->blob, "hash");
	uint64_t frames, records, tokens;
	uint8_t extra;
	int64_t got;

	if (r->blob.n_tensors || strcmp(st_meta(&r->blob, "end"), "1") || !st_meta(&r->blob, "frames") || !st_meta(&r->blob, "records") ||
	    !st_meta(&r->blob, "tokens") || !meta_count(&r->blob, "frames", &frames) ||
	    !meta_count(&r->blob, "records", &records) || !meta_count(&r->blob, "tokens", &tokens))
		return fail(r, e, r->frame_at, "corrupt: malformed end frame");
	if (frames != r->frames)
		return err_off(e, LP_DATA, in_name(r->in), (int64_t)r->frame_at,
			       "corrupt: the stream had %" PRIu64 " frames, its end says %" PRIu64, r->frames, frames);
	if (records != r->records || tokens != r->tokens)
		return fail(r, e, r->frame_at, "corrupt: the stream's records or tokens are not as many as its end says");
	xxh_hex(r->hash, hash + 5);
	if (!want || strcmp(want, hash))
		return fail(r, e, r->frame_at, "corrupt: the stream's bytes do not have the hash that its end gives");
	got = in_read(r->in, &extra, 1, e);
	if (got < 0)
		return -1;
	if (got)
		return fail(r, e, in_offset(r->in) - 1, "corrupt: bytes follow the end of the stream");
	r->ended = true;
	return 0;
}

/* Decides the form at the first frame; later frames must agree. */
static int check_kind(struct st_reader *r, struct err *e)
{
	const char *kind = st_meta(&r->blob, "stream");
	uint64_t n, records, tokens;

	if (!r->kind) {
		r->file = !kind;
		r->kind = xstrdup(kind ? kind : "file");
	} else if (!kind || strcmp(kind, r->kind)) {
		return fail(r, e, r->frame_at, "corrupt: a frame of another kind inside the stream");
	}
	if (r->file)
		return 0;
	if (!meta_count(&r->blob, "records", &records) || !meta_count(&r->blob, "tokens", &tokens))
		return fail(r, e, r->frame_at, "corrupt: malformed counts in a frame");
	if (st_meta(&r->blob, "end"))
		return 0;
	if (__builtin_add_overflow(r->records, records, &n) || __builtin_add_overflow(r->tokens, tokens, &n))
		return fail(r, e, r->frame_at, "corrupt: impossible counts in a frame");
	r->records += records;
	r->tokens += tokens;
	return 0;
}

static int read_data(struct st_reader *r, uint64_t max_bytes, struct err *e)
{
	char *p;

	if (r->blob.data_bytes > max_bytes)
		return err_off(e, LP_DATA, in_name(r->in), (int64_t)r->frame_at,
			       "a frame of %" PRIu64 " bytes, over the %" PRIu64 " expected here", r->blob.data_bytes, max_bytes);
	if (room(&r->data, &r->data_cap, r->blob.data_bytes, "tensor frame", e) || read_exact(r, r->data, r->blob.data_bytes, "tensor data", e))
		return -1;
	xxh_add(r->hash, r->data, r->blob.data_bytes);
	p = r->data;
	for (size_t i = 0; i < r->blob.n_tensors; i++) {
		r->blob.tensors[i].data = p;
		p += r->blob.tensors[i].bytes;
	}
	return 0;
}

static int at_end_of_input(struct st_reader *r, struct err *e)
{
	if (r->file) {
		r->ended = true;
		return 0;
	}
	if (!r->kind)
		return fail(r, e, 0, "truncated: the input is empty, not even an end frame; the program before this one failed");
	return fail(r, e, in_offset(r->in), "truncated: the stream has no end frame; the program before this one failed or was cut short");
}

int st_reader_next(struct st_reader *r, const struct st_blob **b, uint64_t max_bytes, struct err *e)
{
	uint8_t len[8];
	int64_t n;

	if (r->ended)
		return 0;
	st_blob_release(&r->blob);
	n = next_length(r, len, e);
	if (n < 0)
		return -1;
	if (!n)
		return at_end_of_input(r, e);
	if (r->file)
		return fail(r, e, r->frame_at, "bytes follow the last tensor: neither a safetensors file nor a stream");
	if (room(&r->header, &r->header_cap, (size_t)n, "frame header", e) || read_exact(r, r->header, (size_t)n, "frame header", e))
		return -1;
	if (st_parse_header(r->header, (size_t)n, in_name(r->in), &r->blob, e)) {
		if (e->off < 0 && e->code == LP_DATA)
			e->off = (int64_t)r->frame_at;
		return -1;
	}
	if (check_kind(r, e))
		return -1;
	if (!r->file && st_meta(&r->blob, "end"))
		return check_end(r, e);
	xxh_add(r->hash, len, 8);
	xxh_add(r->hash, r->header, (size_t)n);
	if (read_data(r, max_bytes, e))
		return -1;
	r->frames++;
	*b = &r->blob;
	return 1;
}

const char *st_reader_kind(const struct st_reader *r)
{
	return r->kind ? r->kind : "file";
}

bool st_reader_is_file(const struct st_reader *r)
{
	return r->file;
}

const char *st_reader_name(const struct st_reader *r)
{
	return in_name(r->in);
}

uint64_t st_reader_records(const struct st_reader *r)
{
	return r->records;
}

uint64_t st_reader_tokens(const struct st_reader *r)
{
	return r->tokens;
}

void st_reader_hash(const struct st_reader *r, char hex[33])
{
	xxh_hex(r->hash, hex);
}

void st_reader_close(struct st_reader *r)
{
	if (!r)
		return;
	in_close(r->in);
	xxh_free(r->hash);
	st_blob_release(&r->blob);
	free(r->kind);
	free(r->header);
	free(r->data);
	free(r);
}

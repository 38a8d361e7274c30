/* Record streams. JSONL is parsed straight from the input's line buffer. An
 * array's elements are cut out of a sliding buffer by counting brackets
 * outside strings; simdjson then judges each. A CSV row is turned into JSON
 * text and parsed like any other, so that one checker sees every record. */
#include "json/jsonl.h"

#include <stdlib.h>
#include <string.h>

#include "base/sb.h"
#include "base/xalloc.h"

enum { CHUNK = 256 << 10, MAX_COLUMNS = 65536 };
enum form { JSONL, ARRAY, CSV };

struct jsonl {
	struct in *in;
	enum form form;
	struct json_parser *parser;
	struct arena arena;
	bool can_continue;
	const char *bad;  /* the failed record's bytes */
	size_t bad_len;
	struct sb made;   /* raw text made here: CSV rows, elements with newlines in them */
	uint64_t count;   /* array: elements so far */
	/* array */
	char *buf;        /* cap bytes and JSON_PADDING behind */
	size_t pos, end, cap;
	bool opened, closed, eof; /* seen a '[', its ']', the end of the input */
	bool fresh;                /* between a '[' and its first element */
	/* CSV */
	struct sb row;    /* the record's lines as they were */
	struct sb field;  /* its fields, each with a NUL behind */
	size_t *at, n_at, cap_at; /* where each begins in field; one more than there are */
	char **names;
	size_t n_names;
	uint64_t last_line;
};

/* --- opening --- */

static bool ends_with(const char *s, size_t n, const char *end)
{
	size_t k = strlen(end);

	return n >= k && !memcmp(s + n - k, end, k);
}

static bool is_csv_name(const char *s)
{
	static const char *const packed[] = { ".gz", ".zst", ".xz", ".bz2" };
	size_t n = strlen(s);

	for (size_t i = 0; i < 4; i++)
		if (ends_with(s, n, packed[i])) {
			n -= strlen(packed[i]);
			break;
		}
	return ends_with(s, n, ".csv");
}

static bool is_space(char c)
{
	return c == ' ' || c == '\t' || c == '\r' || c == '\n';
}

/* A byte order mark is dropped whatever the form. */
static int skip_mark(struct in *in, struct err *e)
{
	const void *p;
	char mark[3];
	int64_t n = in_peek(in, &p, 3, e);

	if (n < 0)
		return -1;
	return n == 3 && !memcmp(p, "\xef\xbb\xbf", 3) ? in_read_full(in, mark, 3, "byte order mark", e) : 0;
}

static int tell(struct in *in, const char *format, enum form *form, struct err *e)
{
	const void *p;
	int64_t n;

	if (format && strcmp(format, "auto")) {
		if (!strcmp(format, "jsonl"))
			*form = JSONL;
		else if (!strcmp(format, "array"))
			*form = ARRAY;
		else if (!strcmp(format, "csv"))
			*form = CSV;
		else
			return err_set(e, LP_USAGE, "unknown record format '%s'; give auto, jsonl, array or csv", format);
		return 0;
	}
	*form = JSONL;
	if (is_csv_name(in_name(in))) {
		*form = CSV;
		return 0;
	}
	/* Grows the view, so that a pipe's first line need not fill 4096 bytes. */
	for (size_t want = 1; want <= 4096; want *= 2) {
		n = in_peek(in, &p, want, e);
		if (n < 0)
			return -1;
		for (int64_t i = 0; i < n; i++) {
			char c = ((const char *)p)[i];

			if (is_space(c))
				continue;
			*form = c == '[' ? ARRAY : JSONL;
			return 0;
		}
		if ((size_t)n < want)
			break;
	}
	return 0;
}

struct jsonl *jsonl_open_take(struct in *in, const char *format, struct err *e)
{
	struct jsonl *j = xcalloc(1, sizeof(*j));

	j->in = in;
	j->parser = json_parser_new();
	if (skip_mark(in, e) || tell(in, format, &j->form, e)) {
		jsonl_close(j);
		return NULL;
	}
	return j;
}

static void forget_names(struct jsonl *j)
{
	for (size_t i = 0; i < j->n_names; i++)
		free(j->names[i]);
	free(j->names);
	j->names = NULL;
	j->n_names = 0;
}

void jsonl_close(struct jsonl *j)
{
	if (!j)
		return;
	in_close(j->in);
	json_parser_free(j->parser);
	arena_release(&j->arena);
	sb_release(&j->made);
	sb_release(&j->row);
	sb_release(&j->field);
	forget_names(j);
	free(j->at);
	free(j->buf);
	free(j);
}

bool jsonl_can_continue(const struct jsonl *j)
{
	return j->can_continue;
}

void jsonl_bad_raw(const struct jsonl *j, const char **raw, size_t *len)
{
	*raw = j->bad ? j->bad : "";
	*len = j->bad ? j->bad_len : 0;
}

struct in *jsonl_in(struct jsonl *j)
{
	return j->in;
}

struct arena *jsonl_arena(struct jsonl *j)
{
	return &j->arena;
}

/* The record's own text is whole, so what follows it can still be read. */
static int bad_record(struct jsonl *j, const char *raw, size_t len, uint64_t line, struct err *e)
{
	j->bad = raw;
	j->bad_len = len;
	j->can_continue = e->code == LP_DATA;
	err_where(e, in_name(j->in), line);
	return -1;
}

/* --- JSONL --- */

static bool blank(const char *s, size_t n)
{
	for (size_t i = 0; i < n; i++)
		if (!is_space(s[i]))
			return false;
	return true;
}

static int next_line(struct jsonl *j, struct jsonl_rec *rec, bool parse, struct err *e)
{
	int rc;

	do {
		rc = in_line(j->in, &rec->raw, &rec->raw_len, JSONL_MAX_RECORD, e);
		if (rc <= 0)
			return rc;
	} while (blank(rec->raw, rec->raw_len));
	while (rec->raw_len && is_space(rec->raw[rec->raw_len - 1]))
		rec->raw_len--;
	rec->line = in_line_no(j->in);
	if (!parse)
		rec->v = (struct json){ .type = JSON_NULL };
	else if (json_parse(j->parser, rec->raw, rec->raw_len, &j->arena, &rec->v, e))
		return bad_record(j, rec->raw, rec->raw_len, rec->line, e);
	return 1;
}

/* --- a top-level array --- */

static int array_bad(struct jsonl *j, const char *what, struct err *e)
{
	return err_off(e, LP_DATA, in_name(j->in), (int64_t)(in_offset(j->in) - (j->end - j->pos)), "%s", what);
}

/* More bytes behind end: 1, 0 at the end of the input, -1. */
static int array_fill(struct jsonl *j, struct err *e)
{
	int64_t n;

	if (j->eof)
		return 0;
	if (j->pos) {
		memmove(j->buf, j->buf + j->pos, j->end - j->pos);
		j->end -= j->pos;
		j->pos = 0;
	}
	if (j->end + CHUNK > j->cap || (j->cap > 64 * (size_t)CHUNK && j->end < CHUNK)) { /* room, or a giant's buffer back */
		j->cap = (j->end + CHUNK) * 2;
		j->buf = xrealloc(j->buf, j->cap + JSON_PADDING);
		memset(j->buf + j->cap, 0, JSON_PADDING);
	}
	n = in_read(j->in, j->buf + j->end, j->cap - j->end, e);
	if (n < 0)
		return -1;
	j->eof = !n;
	j->end += (size_t)n;
	return n > 0;
}

/* The next byte that is not space, at buf[pos]: 1, 0 at the end, -1. */
static int array_peek(struct jsonl *j, char *c, struct err *e)
{
	for (;;) {
		int rc;

		for (; j->pos < j->end; j->pos++)
			if (!is_space(j->buf[j->pos])) {
				*c = j->buf[j->pos];
				return 1;
			}
		rc = array_fill(j, e);
		if (rc <= 0)
			return rc;
	}
}

/* What ends or nests an element, outside and inside strings. */
struct scan {
	size_t at;   /* offset from pos */
	size_t depth;
	bool inside, escaped;
};

/* 1 when buf[pos + at] is the ',' or ']' behind the element, 0: more bytes. */
static int scan_on(struct jsonl *j, struct scan *s)
{
	const char *b = j->buf + j->pos, *p = b + s->at, *end = j->buf + j->end;

	for (; p < end; p++) {
		char c = *p;

		if (s->inside) {
			if (s->escaped)
				s->escaped = false;
			else if (c == '\\')
				s->escaped = true;
			else if (c == '"')
				s->inside = false;
			continue;
		}
		switch (c) {
		case '"':
			s->inside = true;
			break;
		case '{':
		case '[':
			s->depth++;
			break;
		case ']':
			if (!s->depth)
				goto found;
			/* fall through */
		case '}':
			if (s->depth) /* a stray one is the parser's to refuse */
				s->depth--;
			break;
		case ',':
			if (!s->depth)
				goto found;
			break;
		default:
			break;
		}
	}
	s->at = (size_t)(p - b);
	return 0;
found:
	s->at = (size_t)(p - b);
	return 1;
}

/* Moves to the first byte of the next element: 1, 0 at the proved end, -1. */
static int array_advance(struct jsonl *j, struct err *e)
{
	for (;;) {
		char c;
		int rc = array_peek(j, &c, e);

		if (rc < 0)
			return -1;
		if (!rc && (j->closed || (!j->opened && !in_offset(j->in))))
			return 0;
		if (!rc)
			return array_bad(j, j->opened ? "truncated: the array is not closed by ']'" : "empty: a JSON array is due", e);
		if (j->opened && !j->closed) {
			if (c != ']' || !j->fresh)
				return 1; /* a ']' behind a comma is the parser's to refuse */
			j->closed = true;
		} else if (c == '[') { /* members of an archive bring one array each */
			j->opened = j->fresh = true;
			j->closed = false;
		} else {
			return array_bad(j, j->closed ? "text behind the array's ']'" : "expected '['", e);
		}
		j->pos++;
	}
}

/* The element begins at pos: its length without the space behind it, and how
 * much to skip for the next one. */
static int array_cut(struct jsonl *j, size_t *len, size_t *skip, struct err *e)
{
	struct scan s = { 0 };
	size_t n;

	while (!scan_on(j, &s)) {
		int rc;

		if (s.at > JSONL_MAX_RECORD)
			return array_bad(j, "array element is larger than 256 MiB", e);
		rc = array_fill(j, e);
		if (rc < 0)
			return -1;
		if (!rc)
			return array_bad(j, "truncated: the input ends inside this array element", e);
	}
	for (n = s.at; n && is_space(j->buf[j->pos + n - 1]); n--)
		;
	*len = n;
	*skip = s.at + 1;
	j->closed = j->buf[j->pos + s.at] == ']';
	j->fresh = false;
	return 0;
}

/* Raw text is one line's worth: an element written over several is made compact. */
static void one_line(struct jsonl *j, struct jsonl_rec *rec)
{
	struct jw w = jw_to(&j->made);

	if (!memchr(rec->raw, '\n', rec->raw_len) && !memchr(rec->raw, '\r', rec->raw_len))
		return;
	sb_reset(&j->made);
	jw_value(&w, &rec->v);
	rec->raw = j->made.s;
	rec->raw_len = j->made.len;
}

static int next_element(struct jsonl *j, struct jsonl_rec *rec, struct err *e)
{
	const char *text;
	size_t len = 0, skip = 0;
	int rc = array_advance(j, e);

	if (rc <= 0)
		return rc;
	if (array_cut(j, &len, &skip, e))
		return -1;
	text = j->buf + j->pos;
	j->pos += skip;
	rec->line = ++j->count;
	rec->raw = text;
	rec->raw_len = len;
	if (json_parse(j->parser, text, len, &j->arena, &rec->v, e)) {
		bad_record(j, text, len, 0, e);
		return err_line(e, e->code, in_name(j->in), rec->line, "array element: %s", e->msg);
	}
	one_line(j, rec);
	return 1;
}

/* --- CSV --- */

static int csv_bad(struct jsonl *j, uint64_t line, const char *what, struct err *e)
{
	err_line(e, LP_DATA, in_name(j->in), line, "%s", what);
	return bad_record(j, j->row.s, j->row.len, line, e);
}

static void field_begin(struct jsonl *j)
{
	j->at = xgrow(j->at, &j->cap_at, j->n_at + 1, sizeof(*j->at));
	j->at[j->n_at++] = j->field.len;
}

static size_t span_to(const char *s, const char *end, char c)
{
	const char *p = s;

	while (p < end && *p != c)
		p++;
	return (size_t)(p - s);
}

/* Reads a quoted field whose opening quote is before s; it may run over
 * lines. Returns what is behind the closing quote, NULL on error. */
static const char *quoted_field(struct jsonl *j, const char *s, const char **end, uint64_t line, struct err *e)
{
	for (;;) {
		const char *q = memchr(s, '"', (size_t)(*end - s));
		size_t len;
		int rc;

		if (q) {
			sb_add(&j->field, s, (size_t)(q - s));
			if (q + 1 == *end || q[1] != '"')
				return q + 1;
			sb_addc(&j->field, '"');
			s = q + 2;
			continue;
		}
		sb_add(&j->field, s, (size_t)(*end - s));
		sb_addc(&j->field, '\n');
		if (j->field.len > JSONL_MAX_RECORD) {
			csv_bad(j, line, "CSV record is larger than 256 MiB", e);
			j->can_continue = false;
			return NULL;
		}
		rc = in_line(j->in, &s, &len, JSONL_MAX_RECORD, e);
		if (rc < 0)
			return NULL;
		if (!rc) {
			csv_bad(j, line, "truncated: the input ends inside a quoted field", e);
			j->can_continue = false;
			return NULL;
		}
		*end = s + len;
		sb_addc(&j->row, '\n');
		sb_add(&j->row, s, len);
	}
}

/* Splits the line at s, and those that its quoted fields run on to. */
static int csv_fields(struct jsonl *j, const char *s, size_t len, uint64_t line, struct err *e)
{
	const char *end = s + len;

	j->n_at = 0;
	for (;; s++) {
		if (j->n_at >= MAX_COLUMNS)
			return csv_bad(j, line, "more than 65536 columns", e);
		field_begin(j);
		if (s < end && *s == '"') {
			s = quoted_field(j, s + 1, &end, line, e);
			if (!s)
				return -1;
			s += s + 1 == end && *s == '\r';
			if (s < end && *s != ',')
				return csv_bad(j, line, "text behind a quoted field; double the quotes inside it", e);
		} else {
			size_t n = span_to(s, end, ',');

			sb_add(&j->field, s, n - (s + n == end && n && s[n - 1] == '\r'));
			s += n;
		}
		sb_addc(&j->field, 0);
		if (s == end)
			break;
	}
	field_begin(j);
	j->n_at--;
	return 1;
}

/* One row into field and at: 1, 0 at the end, -1. */
static int csv_row(struct jsonl *j, uint64_t *line, struct err *e)
{
	const char *s = NULL;
	size_t len = 0;
	int rc;

	do {
		rc = in_line(j->in, &s, &len, JSONL_MAX_RECORD, e);
		if (rc <= 0)
			return rc;
	} while (blank(s, len));
	*line = in_line_no(j->in);
	sb_reset(&j->row);
	sb_add(&j->row, s, len);
	sb_reset(&j->field);
	return csv_fields(j, s, len, *line, e);
}

/* The header names the fields; in an archive, each member has its own. */
static int csv_header(struct jsonl *j, uint64_t line, struct err *e)
{
	forget_names(j);
	j->names = xcalloc(j->n_at, sizeof(*j->names));
	for (size_t i = 0; i < j->n_at; i++) {
		const char *name = j->field.s + j->at[i];

		j->names[j->n_names++] = xstrdup(name);
		if (!*name || strlen(name) + 1 != j->at[i + 1] - j->at[i])
			return csv_bad(j, line, "a column of the header has no name", e);
		for (size_t k = 0; k < i; k++)
			if (!strcmp(j->names[k], name))
				return csv_bad(j, line, "two columns of the header have the same name", e);
	}
	return 0;
}

static int next_row(struct jsonl *j, struct jsonl_rec *rec, struct err *e)
{
	struct jw w = jw_to(&j->made);
	bool header;
	int rc;

	do {
		rc = csv_row(j, &rec->line, e);
		if (rc <= 0)
			return rc;
		header = !j->n_names || rec->line <= j->last_line; /* lines count anew in each member */
		j->last_line = rec->line;
		if (header && csv_header(j, rec->line, e)) {
			j->can_continue = false;
			return -1;
		}
	} while (header);
	if (j->n_at != j->n_names) {
		err_line(e, LP_DATA, in_name(j->in), rec->line, "%zu fields where the header has %zu", j->n_at, j->n_names);
		return bad_record(j, j->row.s, j->row.len, rec->line, e);
	}
	sb_reset(&j->made);
	jw_obj(&w);
	for (size_t i = 0; i < j->n_names; i++) {
		jw_key(&w, j->names[i]);
		jw_strn(&w, j->field.s + j->at[i], j->at[i + 1] - j->at[i] - 1);
	}
	jw_end_obj(&w);
	sb_grow(&j->made, JSON_PADDING);
	rec->raw = j->made.s;
	rec->raw_len = j->made.len;
	if (json_parse(j->parser, rec->raw, rec->raw_len, &j->arena, &rec->v, e)) {
		e->off = -1; /* an offset into text made here helps nobody */
		return bad_record(j, j->row.s, j->row.len, rec->line, e);
	}
	return 1;
}

static int next(struct jsonl *j, struct jsonl_rec *rec, bool parse, struct err *e)
{
	arena_reset(&j->arena);
	j->can_continue = false;
	j->bad = NULL;
	switch (j->form) {
	case ARRAY:
		return next_element(j, rec, e);
	case CSV:
		return next_row(j, rec, e);
	case JSONL:
		break;
	}
	return next_line(j, rec, parse, e);
}

int jsonl_next(struct jsonl *j, struct jsonl_rec *rec, struct err *e)
{
	return next(j, rec, true, e);
}

int jsonl_next_raw(struct jsonl *j, struct jsonl_rec *rec, struct err *e)
{
	return next(j, rec, false, e);
}

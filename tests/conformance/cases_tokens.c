#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/in.h"
#include "base/sb.h"
#include "json/jsonl.h"
#include "tests/conformance/cases.h"
#include "text/tok.h"

struct run {
	const char *dir; /* where the tokeniser files are */
	char name[256];  /* of the one that is loaded */
	struct tok *tok; /* NULL: it was refused */
	struct err load_err;
	struct tok_out out;
	struct cases_result *n;
	bool verbose;
};

static int find_file(const char *dir, const char *name, char *path, size_t cap, struct err *e)
{
	static const char *const folders[] = { "", "tokenizers/" }, *const packed[] = { "", ".zst", ".gz" };

	for (size_t i = 0; i < 2; i++)
		for (size_t k = 0; k < 3; k++) {
			snprintf(path, cap, "%s/%s%s%s", dir, folders[i], name, packed[k]);
			if (access(path, F_OK) == 0)
				return 0;
		}
	return err_set(e, LP_USAGE, "no tokeniser '%s' in '%s'", name, dir);
}

static int use(struct run *r, const char *name, struct err *e)
{
	char path[4096];

	if (!strcmp(r->name, name))
		return 0;
	tok_free(r->tok);
	r->tok = NULL;
	r->name[0] = 0;
	if (find_file(r->dir, name, path, sizeof(path), e))
		return -1;
	snprintf(r->name, sizeof(r->name), "%s", name);
	r->load_err = (struct err)ERR_INIT;
	r->tok = tok_load_file(path, &r->load_err);
	return 0;
}

static bool is_shown(const struct run *r)
{
	return r->verbose || r->n->failed <= CASES_SHOWN;
}

/* Offsets are ordered and inside the text. */
static bool offsets_ok(const struct run *r, size_t len)
{
	for (size_t i = 0; i < r->out.n; i++)
		if (r->out.begin[i] > r->out.end[i] || r->out.end[i] > len || (i && r->out.begin[i] < r->out.begin[i - 1]))
			return false;
	return true;
}

/* The reference counts whole characters: a token that starts inside one begins with it. */
static bool begins_equal(const struct run *r, const char *text, const struct json *begin)
{
	int64_t want;

	for (uint32_t i = 0; json_is(begin, JSON_ARR) && i < begin->n && i < r->out.n; i++) {
		uint32_t b = r->out.begin[i];

		while (b && ((unsigned char)text[b] & 0xC0) == 0x80)
			b--;
		if (!json_as_i64(&begin->items[i], &want) || want != b)
			return false;
	}
	return true;
}

static bool ids_equal(const struct run *r, const struct json *ids)
{
	int64_t id;

	if (r->out.n != ids->n)
		return false;
	for (uint32_t i = 0; i < ids->n; i++)
		if (!json_as_i64(&ids->items[i], &id) || id != r->out.ids[i])
			return false;
	return true;
}

static bool decodes(const struct run *r, const struct json *want)
{
	struct sb text = SB_INIT;
	struct err e = ERR_INIT;
	bool ok = !json_is(want, JSON_STR) ||
	          (!tok_decode(r->tok, r->out.ids, r->out.n, false, &text, &e) && text.len == want->n && !memcmp(sb_str(&text), want->s, want->n));

	sb_release(&text);
	return ok;
}

static void complain(struct run *r, const char *what, const struct json *text, const struct json *ids)
{
	r->n->failed++;
	if (!is_shown(r))
		return;
	printf("%s: %s: '%.80s'\n", r->name, what, text->s);
	if (!ids)
		return;
	printf("  got ");
	for (size_t i = 0; i < r->out.n && i < 24; i++)
		printf(" %d", r->out.ids[i]);
	printf("\n  want");
	for (uint32_t i = 0; i < ids->n && i < 24; i++)
		printf(" %s", ids->items[i].s);
	printf("\n");
}

static int one_case(struct run *r, const struct json *v, struct err *e)
{
	const struct json *text = json_get(v, "text"), *ids = json_get(v, "ids"), *error = json_get(v, "error");
	const char *name;
	struct err why = ERR_INIT;

	if (!json_get_str(v, "tokenizer", NULL, &name) || !name || !json_is(text, JSON_STR) || (!error && !json_is(ids, JSON_ARR)))
		return err_set(e, LP_DATA, "no token case: \"tokenizer\", \"text\" and \"ids\" make one");
	if (use(r, name, e))
		return -1;
	r->out.n = 0;
	if (!r->tok)
		why = r->load_err;
	int rc = r->tok ? tok_encode(r->tok, text->s, text->n, &r->out, &why) : -1;
	if (error && !rc)
		complain(r, "is encoded, and must be refused", text, NULL);
	else if (!error && rc)
		complain(r, why.msg, text, NULL);
	else if (error)
		r->n->passed++;
	else if (!ids_equal(r, ids))
		complain(r, "ids differ", text, ids);
	else if (!offsets_ok(r, text->n) || !begins_equal(r, text->s, json_get(v, "begin")))
		complain(r, "offsets differ", text, NULL);
	else if (!decodes(r, json_get(v, "decoded")))
		complain(r, "decodes to another text", text, NULL);
	else
		r->n->passed++;
	return 0;
}

int cases_tokens(const char *path, const char *dir, bool verbose, struct cases_result *n, struct err *e)
{
	struct run r = { .dir = dir, .n = n, .verbose = verbose };
	struct jsonl_rec rec;
	struct in *in = in_open(path, e);
	struct jsonl *j = in ? jsonl_open_take(in, "jsonl", e) : NULL;
	int rc = j ? 1 : -1;

	*n = (struct cases_result){ 0 };
	while (rc == 1 && (rc = jsonl_next(j, &rec, e)) == 1)
		if (one_case(&r, &rec.v, e)) {
			err_where(e, path, rec.line);
			rc = -1;
		}
	jsonl_close(j);
	tok_free(r.tok);
	tok_out_release(&r.out);
	return rc;
}

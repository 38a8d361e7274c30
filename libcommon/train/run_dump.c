/* A batch as people can read it: JSONL, a line for each sequence. */
#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

#include "text/tok.h"
#include "train/run_int.h"

static void add_sequence(const struct run *r, const struct tok *tok, int64_t s, const char *reason, struct sb *out)
{
	const struct dataset *d = &r->train;
	const char *stream;
	int64_t from = d->seq_start[s], n = d->seq_start[s + 1] - from;
	struct sb text = SB_INIT;
	struct err none = ERR_INIT;
	struct jw w = jw_to(out);

	jw_obj(&w);
	jw_key(&w, "step");
	jw_i64(&w, r->step + 1);
	jw_key(&w, "reason");
	jw_str(&w, reason);
	jw_key(&w, "record");
	jw_i64(&w, run_record(r, s, &stream));
	if (stream) {
		jw_key(&w, "stream");
		jw_str(&w, stream);
	}
	if (d->kind != DATA_PLAIN) {
		jw_key(&w, "side");
		jw_str(&w, d->good[s] ? "chosen" : "rejected");
	}
	jw_key(&w, "text");
	if (tok && tok_decode(tok, d->ids + from, (size_t)n, false, &text, &none) == 0)
		jw_strn(&w, sb_str(&text), text.len);
	else
		jw_null(&w);
	jw_key(&w, "ids");
	jw_arr(&w);
	for (int64_t t = 0; t < n; t++)
		jw_i64(&w, d->ids[from + t]);
	jw_end_arr(&w);
	jw_key(&w, "mask");
	jw_arr(&w);
	for (int64_t t = 0; t < n; t++)
		jw_i64(&w, d->mask[from + t] != 0);
	jw_end_arr(&w);
	jw_end_obj(&w);
	sb_addc(out, '\n');
	sb_release(&text);
}

static int append(const char *path, const struct sb *b, struct err *e)
{
	int fd = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666), bad = 0;

	if (fd < 0)
		return err_sys(e, path, "open");
	for (size_t done = 0; done < b->len && !bad;) {
		ssize_t k = write(fd, b->s + done, b->len - done);

		if (k > 0)
			done += (size_t)k;
		else if (k < 0 && errno != EINTR)
			bad = err_sys(e, path, "write");
	}
	if (close(fd) && !bad)
		bad = err_sys(e, path, "close");
	return bad;
}

int run_dump_batch(const struct run *r, const int64_t *rows, int64_t n, const char *reason, struct err *e)
{
	struct err none = ERR_INIT;
	/* without a tokenizer the ids have to do */
	struct tok *tok = tok_load_dir(r->c->model, &none);
	struct sb b = SB_INIT;
	int rc;

	for (int64_t i = 0; i < n; i++)
		for (int64_t s = r->train.row_seq[rows[i]]; s < r->train.row_seq[rows[i] + 1]; s++)
			add_sequence(r, tok, s, reason, &b);
	rc = append(r->c->dump_batch, &b, e);
	sb_release(&b);
	tok_free(tok);
	return rc;
}

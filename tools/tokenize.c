/* tokenize: text records to a token stream, and back. Tokens and masks:
 * data/tok_batch.h; frames and packing: data/tok_frames.h. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "base/log.h"
#include "base/tool.h"
#include "base/xalloc.h"
#include "data/tok_batch.h"
#include "data/tok_frames.h"
#include "data/tok_input.h"
#include "data/tok_stats.h"
#include "data/tok_view.h"
#include "fmt/lineage.h"
#include "model/gguf_tok.h"

#define DEFAULT_MAX_LEN 2048
#define FRAME_BYTES_MAX (4ull << 30)

static struct {
	const char *model, *pattern, *rejects, *stats_file, *template_hash, *format, *over_long, *train_on;
	int64_t max_len, window, split_frames, threads, limit, seed;
	bool truncate, drop_long, pack, shuffle, stats, count, show_mask, decode;
	bool double_bos, masked, add_bos, add_eos, no_cache, allow_long;
	enum tok_over over;
	enum tok_train train;
} opt = { .format = "auto", .window = 4096, .threads = 1, .over_long = "refuse", .train_on = "all" };

static struct opt opts[] = {
	{ OPT_STR, "model", 0, &opt.model, "DIR", "the model whose tokenizer to use, or a tokenizer file of any kind" },
	{ OPT_STR, "pattern", 0, &opt.pattern, "PATTERN", "how text is cut for tiktoken ranks: gpt2, cl100k, o200k, llama3, qwen or a regular expression" },
	{ OPT_SECTION, .help = "Length" },
	{ OPT_INT, "max-len", 0, &opt.max_len, "N", "tokens of a row; 0: 2048, or the model's limit if that is less", .min = 0, .max = 1e8 },
	{ OPT_FLAG, "allow-long", 0, &opt.allow_long, 0, "a --max-len beyond the model's positions" },
	{ OPT_CHOICE, "over-long", 0, &opt.over_long, "WHAT", "of longer records: refuse, truncate at the right, split into rows, drop", "refuse|truncate|split|drop" },
	{ OPT_FLAG, "truncate", 0, &opt.truncate, 0, "the same as --over-long truncate" },
	{ OPT_FLAG, "drop-long", 0, &opt.drop_long, 0, "the same as --over-long drop" },
	{ OPT_STR, "rejects", 0, &opt.rejects, "FILE", "records that are dropped for their length go here", .unrecorded = true },
	{ OPT_FLAG, "pack", 0, &opt.pack, 0, "lay several records in a row, best fit; they never see one another" },
	{ OPT_INT, "pack-window", 0, &opt.window, "N", "records that are packed or shuffled together (a frame's tokens at most)", .min = 1, .max = 65536 },
	{ OPT_FLAG, "shuffle", 0, &opt.shuffle, 0, "rows in random order within the window" },
	{ OPT_INT, "seed", 0, &opt.seed, "N", "of --shuffle", .min = 0, .max = 9e15 },
	{ OPT_SECTION, .help = "Rules" },
	{ OPT_CHOICE, "train-on", 0, &opt.train_on, "WHAT", "targets: all spans of a record, the last one, none", "all|last|none" },
	{ OPT_FLAG, "allow-double-bos", 0, &opt.double_bos, 0, "accept a record that begins twice" },
	{ OPT_FLAG, "allow-masked", 0, &opt.masked, 0, "accept a record without a token to learn from" },
	{ OPT_FLAG, "add-bos", 0, &opt.add_bos, 0, "put the begin token before a text that has none" },
	{ OPT_FLAG, "add-eos", 0, &opt.add_eos, 0, "put the end token, as a target, behind a text that has none" },
	{ OPT_SECTION, .help = "Views" },
	{ OPT_FLAG, "stats", 0, &opt.stats, 0, "the output is the lengths' statistics, as JSON" },
	{ OPT_FLAG, "count", 0, &opt.count, 0, "the output is the tokens of each record, as JSON lines" },
	{ OPT_STR, "stats-file", 0, &opt.stats_file, "FILE", "write the statistics as well", .unrecorded = true },
	{ OPT_FLAG, "show-mask", 0, &opt.show_mask, 0, "the output is each token with its mask, of records or of a token stream" },
	{ OPT_FLAG, "decode", 0, &opt.decode, 0, "a token stream back to text records" },
	{ OPT_INT, "limit", 0, &opt.limit, "N", "stop after N records; 0: all", .min = 0, .max = 9e15 },
	{ OPT_SECTION, .help = "Running" },
	{ OPT_STR, "template-hash", 0, &opt.template_hash, "HASH", "the template's, for the stream (otherwise from the input's sidecar)" },
	{ OPT_CHOICE, "format", 0, &opt.format, "FORMAT", "of the input", "auto|jsonl|array|csv" },
	{ OPT_INT, "split-frames", 0, &opt.split_frames, "N", "records of a frame; 0: by tokens, about a million", .min = 0, .max = 65536 },
	{ OPT_FLAG, "no-cache", 0, &opt.no_cache, 0, "read the tokenizer itself, and keep nothing of it for the next run", .unrecorded = true },
	{ OPT_INT, "threads", 'j', &opt.threads, "N", "threads", .min = 1, .max = 1024, .unrecorded = true },
	OPT_COMMON,
};
static const struct opt_spec spec = {
	.tool = "tokenize",
	.summary = "text records to a token stream",
	.synopsis = "[OPTION]... --model DIR [FILE]\n[OPTION]... --model DIR --stats [FILE]\n[OPTION]... --model DIR --count [FILE]\n[OPTION]... --model DIR --show-mask [FILE]\n"
		    "[OPTION]... --model DIR --decode [FILE]",
	.notes = "A token is a target when its first byte is inside one of the record's spans; a record "
		 "without spans is learnt whole.",
	.opts = opts,
};

struct run {
	struct tok *tok;
	struct tok_policy policy;
	char tok_hash[72], tok_sha[65]; /* see know_tokenizer */
	struct out *out, *rejects;
	struct sb line;
	/* Text records: */
	struct jsonl *records;
	struct tok_sidecar side;
	struct st_writer *stream;
	struct tok_frames frames;
	struct tok_stats stats;
	int64_t n_records;
	int pairs;              /* -1: no record yet */
	char input_hash[33];    /* of the input's bytes up to the batch in use */
};

/* --- before work starts --- */

static int check_options(struct err *e)
{
	int64_t limit;

	if (!opt.model)
		return err_set(e, LP_USAGE, "which model? give --model DIR");
	if (opt.stats + opt.count + opt.show_mask + opt.decode > 1)
		return err_set(e, LP_USAGE, "--stats, --count, --show-mask and --decode are different outputs; give one");
	if (opt.truncate + opt.drop_long + (strcmp(opt.over_long, "refuse") != 0) > 1)
		return err_set(e, LP_USAGE, "--over-long, --truncate and --drop-long exclude each other");
	opt.over = opt.truncate || !strcmp(opt.over_long, "truncate") ? TOK_TRUNCATE : opt.drop_long || !strcmp(opt.over_long, "drop") ? TOK_DROP :
		!strcmp(opt.over_long, "split") ? TOK_SPLIT : TOK_REFUSE;
	opt.train = !strcmp(opt.train_on, "last") ? TOK_TRAIN_LAST : !strcmp(opt.train_on, "none") ? TOK_TRAIN_NONE : TOK_TRAIN_ALL;
	if (opt.rejects && opt.over != TOK_DROP)
		return err_set(e, LP_USAGE, "--rejects takes what --over-long drop leaves out; give both");
	if (tok_model_limit(opt.model, &limit, e))
		return -1;
	if (!opt.max_len)
		opt.max_len = limit > 0 && limit < DEFAULT_MAX_LEN ? limit : DEFAULT_MAX_LEN;
	else if (limit > 0 && opt.max_len > limit && !opt.allow_long)
		return err_set(e, LP_USAGE, "--max-len %" PRId64 " is more than the %" PRId64 " positions of the model; --allow-long goes past them", opt.max_len, limit);
	return 0;
}

static int load_tokenizer(struct run *r, struct err *e)
{
	struct tok_how how = { .keep = !opt.no_cache, .will_hash = !opt.count && !opt.stats, .threads = (int)opt.threads };

	if (gguf_tok_is(opt.model))
		r->tok = opt.pattern ? NULL : gguf_tok_load(opt.model, r->tok_sha, e);
	else
		r->tok = tok_load_hashed(opt.model, opt.pattern, &how, e);
	if (!r->tok && !e->code)
		return err_set(e, LP_USAGE, "--pattern goes with tiktoken ranks, and this is another kind; leave it out");
	if (!r->tok)
		return -1;
	if (opt.add_bos && tok_bos(r->tok) < 0)
		return err_set(e, LP_USAGE, "--add-bos: the tokenizer names no begin token; tokenizer_config.json may (bos_token)");
	if (opt.add_eos && tok_eos(r->tok) < 0)
		return err_set(e, LP_USAGE, "--add-eos: the tokenizer names no end token; tokenizer_config.json may (eos_token)");
	return 0;
}

/* The hash of the tokenizer's file, which takes long enough to be left until it is needed. */
static int know_tokenizer(struct run *r, struct err *e)
{
	const char *sha = *r->tok_sha ? r->tok_sha : tok_sha256(r->tok);

	if (*r->tok_hash)
		return 0;
	if (!sha && sha_file(tok_path(r->tok), r->tok_sha, e))
		return -1;
	snprintf(r->tok_hash, sizeof(r->tok_hash), "sha256:%s", sha ? sha : r->tok_sha);
	return 0;
}

/* --- frames --- */

#define N_META 9

static const char *file_name(const char *path)
{
	const char *slash = strrchr(path, '/');

	return slash && slash[1] ? slash + 1 : path;
}

/* The metadata of a frame names the input by its bytes up to there. */
static int write_frame(struct run *r, struct err *e)
{
	struct st_kv meta[N_META];
	char vocab[24], max_len[24], bos[16], eos[16];
	struct lineage l;
	struct sb text = SB_INIT;
	char *hash;
	size_t n = 0;
	int rc;

	if (know_tokenizer(r, e))
		return -1;
	snprintf(vocab, sizeof(vocab), "%" PRId64, tok_vocab_size(r->tok));
	snprintf(max_len, sizeof(max_len), "%" PRId64, opt.max_len);
	snprintf(bos, sizeof(bos), "%" PRId32, tok_bos(r->tok));
	snprintf(eos, sizeof(eos), "%" PRId32, tok_eos(r->tok));
	lineage_init(&l, &spec);
	hash = xasprintf("xxh3:%s", r->input_hash);
	lineage_input(&l, in_name(jsonl_in(r->records)), hash, r->side.lineage);
	lineage_input(&l, file_name(tok_path(r->tok) ? tok_path(r->tok) : opt.model), r->tok_hash, NULL);
	lineage_json(&l, &text);
	meta[n++] = (struct st_kv){ "tokenizer", file_name(opt.model) };
	meta[n++] = (struct st_kv){ "tokenizer_hash", r->tok_hash };
	if (r->side.template_hash)
		meta[n++] = (struct st_kv){ "template_hash", r->side.template_hash };
	meta[n++] = (struct st_kv){ "vocab_size", vocab };
	meta[n++] = (struct st_kv){ "max_len", max_len };
	meta[n++] = (struct st_kv){ "packing", opt.pack ? "best-fit" : "none" };
	meta[n++] = (struct st_kv){ "bos_id", bos };
	meta[n++] = (struct st_kv){ "eos_id", eos };
	meta[n++] = (struct st_kv){ "lineage", sb_str(&text) };
	r->frames.meta = meta;
	r->frames.n_meta = n;
	rc = tok_frames_flush(&r->frames, e);
	lineage_release(&l);
	sb_release(&text);
	free(hash);
	return rc;
}

static int to_frames(struct run *r, const struct tok_rec *rec, struct err *e)
{
	bool full = false;

	for (int k = 0; k < rec->n_texts; k++) {
		const struct tok_text *t = &rec->t[k];
		size_t step = opt.over == TOK_SPLIT ? (size_t)opt.max_len : t->n;

		for (size_t at = 0, n; at < t->n; at += n) {
			struct token_seq s = { t->ids + at, t->mask + at, t->n - at, rec->number, rec->pair ? rec->number : -1, t->good };

			s.n = n = s.n < step ? s.n : step;
			if (at && !opt.masked && !memchr(s.mask + 1, 1, n - 1))
				continue; /* nothing to learn from in this part */
			if (tok_frames_add(&r->frames, &s, &full, e))
				return -1;
		}
	}
	return full ? write_frame(r, e) : 0;
}

/* --- what is made of a record --- */

static int show(struct run *r, const int32_t *ids, const uint8_t *mask, size_t n, int64_t record, const char *side, struct err *e)
{
	sb_reset(&r->line);
	if (opt.decode) {
		if (tok_view_record(r->tok, ids, mask, n, record, side, &r->line, e))
			return -1;
	} else if (!opt_common.output && isatty(1)) {
		if (tok_view_colour(r->tok, ids, mask, n, record, side, &r->line, e))
			return -1;
	} else {
		tok_view_lines(r->tok, ids, mask, n, record, side, &r->line);
	}
	return out_write(r->out, sb_str(&r->line), r->line.len, e);
}

static const char *side_of(const struct tok_rec *rec, int k)
{
	return !rec->pair ? NULL : rec->t[k].good ? "chosen" : "rejected";
}

static int count(struct run *r, const struct tok_rec *rec, int k, struct err *e)
{
	sb_reset(&r->line);
	tok_view_count(rec->number, side_of(rec, k), rec->t[k].n_full, rec->t[k].n_targets, &r->line);
	return out_write(r->out, sb_str(&r->line), r->line.len, e);
}

static int drop(struct run *r, const struct tok_rec *rec, struct err *e)
{
	r->stats.dropped++;
	for (int k = 0; k < rec->n_texts; k++)
		r->stats.dropped_tokens += rec->t[k].n;
	if (!r->rejects)
		return 0;
	return out_write(r->rejects, rec->raw, rec->raw_len, e) || out_write(r->rejects, "\n", 1, e) ? -1 : 0;
}

static int use_record(struct run *r, const struct tok_rec *rec, struct err *e)
{
	if (rec->problem) {
		*e = *rec->problem;
		return err_where(e, rec->name, rec->line);
	}
	if (r->pairs >= 0 && r->pairs != rec->pair)
		return err_line(e, LP_DATA, rec->name, rec->line, "preference pairs and plain records are mixed; separate them");
	r->pairs = rec->pair;
	if (rec->pair && (opt.pack || opt.over == TOK_SPLIT))
		return err_set(e, LP_USAGE, "%s does not apply to preference pairs", opt.pack ? "--pack" : "--over-long split");
	for (int k = 0; k < rec->n_texts; k++) {
		const struct tok_text *t = &rec->t[k];

		tok_stats_add(&r->stats, t->n_full, t->n_targets);
		r->stats.split += opt.over == TOK_SPLIT && t->n_full > (size_t)opt.max_len;
		if (!rec->dropped && t->n_full > t->n) {
			r->stats.truncated++;
			r->stats.cut_tokens += t->n_full - t->n;
		}
		if (opt.show_mask && !rec->dropped && show(r, t->ids, t->mask, t->n, rec->number, side_of(rec, k), e))
			return -1;
		if (opt.count && count(r, rec, k, e))
			return -1;
	}
	if (rec->dropped)
		return drop(r, rec, e);
	return r->stream ? to_frames(r, rec, e) : 0;
}

static int use_batch(void *arg, struct tok_batch *b, struct err *e)
{
	struct run *r = arg;

	memcpy(r->input_hash, b->input_hash, sizeof(r->input_hash));
	for (size_t i = 0; i < b->n; i++)
		if (use_record(r, &b->recs[i], e))
			return -1;
	r->n_records += (int64_t)b->n;
	progress("%" PRId64 " records, %" PRIu64 " tokens", r->n_records, r->stats.tokens);
	return 0;
}

static int each_record(struct run *r, struct err *e)
{
	struct tok_pipe p = { r->records, &r->policy, (int)opt.threads, opt.limit, use_batch, r };
	int rc = tok_pipe_run(&p, e);

	progress_done();
	if (!rc && r->n_records == 0)
		rc = err_line(e, LP_DATA, in_name(jsonl_in(r->records)), 0, "no records in it");
	return rc;
}

static int put_text(const char *path, const struct sb *text, struct err *e)
{
	struct out *o = out_open(path, e);

	if (!o)
		return -1;
	if (out_write(o, text->s, text->len, e)) {
		out_abort(o);
		return -1;
	}
	return out_commit(o, e);
}

static int columns(void)
{
	struct winsize w;

	return !ioctl(1, TIOCGWINSZ, &w) && w.ws_col ? w.ws_col : 80;
}

static int finish_records(struct run *r, struct err *e)
{
	struct sb text = SB_INIT, picture = SB_INIT;
	int rc = opt.limit ? 0 : tok_sidecar_check(&r->side, jsonl_in(r->records), e);

	in_hash(jsonl_in(r->records), r->input_hash);
	if (!rc && r->stream)
		rc = write_frame(r, e) || st_writer_end(r->stream, e) ? -1 : 0;
	if (opt.stats && !opt_common.output && isatty(1)) /* for people; --stats-file has the figures */
		tok_stats_picture(&r->stats, columns(), &picture);
	tok_stats_json(&r->stats, (uint64_t)opt.max_len, opt.pack ? r->frames.rows : 0, r->frames.tokens, &text);
	if (!rc && opt.stats)
		rc = picture.len ? out_write(r->out, picture.s, picture.len, e) : out_write(r->out, text.s, text.len, e);
	if (!rc && opt.stats_file)
		rc = put_text(opt.stats_file, &text, e);
	if (!rc && r->rejects) {
		rc = out_commit(r->rejects, e);
		r->rejects = NULL;
	}
	if (!rc)
		rc = log_metric("done", e, "\"records\":%" PRId64 ",\"tokens\":%" PRIu64 ",\"targets\":%" PRIu64 ",\"truncated\":%" PRIu64 ",\"dropped\":%" PRIu64,
		                r->n_records, r->stats.tokens, r->stats.targets, r->stats.truncated, r->stats.dropped);
	if (!rc && r->stats.truncated && !opt.stats)
		warn("%" PRIu64 " sequences were cut at %" PRId64 " tokens, %" PRIu64 " tokens lost", r->stats.truncated, opt.max_len, r->stats.cut_tokens);
	if (!rc && r->stats.dropped && !opt.stats)
		warn("%" PRIu64 " records longer than %" PRId64 " tokens were left out", r->stats.dropped, opt.max_len);
	sb_release(&text);
	sb_release(&picture);
	return rc;
}

static int from_records(struct run *r, struct in *in, const char *path, struct err *e)
{
	if (opt.decode) {
		in_close(in);
		return err_line(e, LP_DATA, path, 0, "not a token stream; --decode reads what tokenize writes");
	}
	r->records = jsonl_open_take(in, opt.format, e);
	if (!r->records)
		return -1;
	tok_sidecar_read(&r->side, path, opt.template_hash);
	if (opt.rejects && !(r->rejects = out_open(opt.rejects, e)))
		return -1;
	r->pairs = -1;
	r->policy = (struct tok_policy){ r->tok, opt.stats || opt.count ? 0 : (size_t)opt.max_len, opt.over, opt.train, opt.double_bos,
		opt.masked || opt.stats || opt.count || opt.show_mask, opt.add_bos, opt.add_eos };
	if (opt.show_mask && opt.over == TOK_REFUSE)
		r->policy.max_len = 0; /* a look changes nothing */
	if (!opt.stats && !opt.count && !opt.show_mask) {
		r->stream = st_writer_new(r->out, "tokens");
		tok_frames_init(&r->frames, r->stream);
		r->frames.pack = opt.pack;
		r->frames.max_len = (uint32_t)opt.max_len;
		r->frames.window = opt.pack || opt.shuffle ? (size_t)opt.window : 0;
		r->frames.shuffle = opt.shuffle;
		r->frames.seed = (uint64_t)opt.seed;
		r->frames.records = (size_t)opt.split_frames;
	}
	return each_record(r, e) || finish_records(r, e) ? -1 : 0;
}

/* --- from a token stream --- */

static int use_frame(struct run *r, const struct st_blob *b, const char *path, struct err *e)
{
	const char *made_by = st_meta(b, "tokenizer_hash");
	struct token_frame f;

	if (made_by && know_tokenizer(r, e))
		return -1;
	if (made_by && strcmp(made_by, r->tok_hash) != 0)
		return err_line(e, LP_USAGE, path, 0, "it was made with another tokenizer (%s, not %s); give that model", made_by, r->tok_hash);
	if (token_frame_view(b, &f, e))
		return -1;
	for (int64_t s = 0; s < f.n_seqs && (!opt.limit || r->n_records < opt.limit); s++, r->n_records++) {
		int64_t at = f.seq_start[s], n = f.seq_start[s + 1] - at;
		const char *side = !f.pair_side ? NULL : f.pair_side[s] ? "chosen" : "rejected";

		if (show(r, f.input_ids + at, f.loss_mask + at, (size_t)n, f.seq_record[s], side, e))
			return -1;
	}
	return 0;
}

static int from_stream(struct run *r, struct in *in, const char *path, struct err *e)
{
	struct st_reader *s = st_reader_open_take(in, e);
	const struct st_blob *b;
	int rc = -1;

	if (!opt.decode && !opt.show_mask)
		err_line(e, LP_DATA, path, 0, "already a token stream; --decode and --show-mask read it");
	else
		while (s && (rc = st_reader_next(s, &b, FRAME_BYTES_MAX, e)) == 1)
			if ((rc = use_frame(r, b, path, e)) < 0)
				break;
	st_reader_close(s);
	return rc;
}

/* A blob begins with its header's length, whose high bytes are zero; JSON has no zero bytes. */
static int is_stream(struct in *in, bool *yes, struct err *e)
{
	const void *p;
	int64_t n = in_peek(in, &p, 9, e);

	*yes = n >= 9 && !memcmp((const char *)p + 4, "\0\0\0\0", 4);
	return n < 0 ? -1 : 0;
}

static int convert(struct run *r, const char *path, struct err *e)
{
	struct in *in = in_open(path, e);
	bool stream;

	if (!in)
		return -1;
	if (is_stream(in, &stream, e)) {
		in_close(in);
		return -1;
	}
	r->out = out_open(opt_common.output, e);
	if (!r->out) {
		in_close(in);
		return -1;
	}
	return stream ? from_stream(r, in, path, e) : from_records(r, in, path, e);
}

static void release(struct run *r)
{
	jsonl_close(r->records);
	out_abort(r->rejects);
	tok_frames_release(&r->frames);
	if (r->stream)
		st_writer_free(r->stream);
	tok_stats_release(&r->stats);
	sb_release(&r->line);
	tok_sidecar_release(&r->side);
	tok_free(r->tok);
}

int main(int argc, char **argv)
{
	struct run r = { .pairs = -1 };
	struct err e = ERR_INIT;
	int rc;

	tool_init(&spec, &argc, &argv);
	rc = argc > 2 ? err_set(&e, LP_USAGE, "one input at a time, not %d; join files with cat or ds-mix", argc - 1) : check_options(&e);
	if (!rc)
		rc = load_tokenizer(&r, &e);
	if (!rc)
		rc = convert(&r, argc > 1 ? argv[1] : "-", &e);
	if (!rc) {
		rc = out_commit(r.out, &e);
		r.out = NULL;
	}
	out_abort(r.out);
	release(&r);
	return rc ? tool_fail(&e) : tool_done(LP_OK);
}

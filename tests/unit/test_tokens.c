/* fmt/tokens.c: a frame there and back, and each rule of the header broken once. */
#include "fmt/tokens.h"
#include "scratch.h"

struct cols {
	int32_t ids[6];
	uint8_t mask[6];
	int64_t rows[3], seqs[4], recs[3], pair[3];
	uint8_t side[3];
	struct token_frame f;
};

/* Two rows of 4 and 2 tokens; the first packs two sequences. */
static struct cols good(void)
{
	return (struct cols){ .ids = { 1, 5, 9, 2, 1, 7 },     .mask = { 0, 1, 0, 1, 0, 1 }, .rows = { 0, 4, 6 }, .seqs = { 0, 2, 4, 6 },
			      .recs = { 4, 0, 2 },             .pair = { 0, 0, 1 },          .side = { 1, 0, 1 },
			      .f = { .n_rows = 2, .n_seqs = 3, .n_tokens = 6 } };
}

static const struct token_frame *frame(struct cols *c, bool pairs)
{
	c->f.input_ids = c->ids, c->f.loss_mask = c->mask, c->f.row_start = c->rows;
	c->f.seq_start = c->seqs, c->f.seq_record = c->recs;
	c->f.pair_id = pairs ? c->pair : NULL;
	c->f.pair_side = pairs ? c->side : NULL;
	return &c->f;
}

static int write_frame(const struct token_frame *f, struct err *e)
{
	const struct st_kv meta[] = { { "vocab_size", "10" }, { "max_len", "4" } };
	struct out *o = out_open(at("t.lps"), e);
	struct st_writer *w = st_writer_new(o, "tokens");
	int rc = token_frame_write(w, f, meta, 2, e);

	if (!rc)
		rc = st_writer_end(w, e);
	st_writer_free(w);
	if (rc) {
		out_abort(o);
		return -1;
	}
	return out_commit(o, e);
}

START_TEST(round_trip)
{
	for (int pairs = 0; pairs < 2; pairs++) {
		struct cols c = good();
		struct st_reader *r;
		const struct st_blob *b;
		struct token_frame f;

		OK(write_frame(frame(&c, pairs), &er));
		r = st_reader_open_take(in_open(at("t.lps"), &er), &er);
		ck_assert_int_eq(st_reader_next(r, &b, 1000, &er), 1);
		OK(token_frame_view(b, &f, &er));
		ck_assert_int_eq(f.n_rows, 2);
		ck_assert_int_eq(f.n_seqs, 3);
		ck_assert_int_eq(f.n_tokens, 6);
		ck_assert_mem_eq(f.input_ids, c.ids, sizeof(c.ids));
		ck_assert_mem_eq(f.loss_mask, c.mask, sizeof(c.mask));
		ck_assert_mem_eq(f.row_start, c.rows, sizeof(c.rows));
		ck_assert_mem_eq(f.seq_start, c.seqs, sizeof(c.seqs));
		ck_assert_mem_eq(f.seq_record, c.recs, sizeof(c.recs));
		ck_assert_int_eq(f.pair_id != NULL, pairs);
		if (pairs) {
			ck_assert_mem_eq(f.pair_id, c.pair, sizeof(c.pair));
			ck_assert_mem_eq(f.pair_side, c.side, sizeof(c.side));
		}
		ck_assert_int_eq(st_reader_next(r, &b, 1000, &er), 0);
		ck_assert_uint_eq(st_reader_records(r), 3);
		ck_assert_uint_eq(st_reader_tokens(r), 6);
		st_reader_close(r);
	}
}
END_TEST

/* Breaks one thing in a copy of the good frame. */
#define BROKEN(change, says)                                     \
	do {                                                     \
		struct cols c = good();                          \
		change;                                          \
		BAD(write_frame(frame(&c, true), &er), LP_DATA, says); \
	} while (0)

START_TEST(rules)
{
	BROKEN(c.ids[3] = 10, "outside the vocabulary");
	BROKEN(c.ids[0] = -1, "outside the vocabulary");
	BROKEN(c.mask[2] = 2, "loss_mask");
	BROKEN(c.rows[0] = 1, "row_start");
	BROKEN(c.rows[1] = 6, "row_start");
	BROKEN(c.rows[1] = -3, "row_start");
	BROKEN(c.rows[2] = 5, "row_start");
	BROKEN(c.seqs[1] = 4, "seq_start");
	BROKEN(c.seqs[3] = INT64_MAX, "seq_start");
	BROKEN(c.rows[1] = 3, "inside a sequence");
	BROKEN(c.recs[2] = -1, "record");
	BROKEN(c.side[0] = 3, "pair_side");
}
END_TEST

/* A view of hand-made tensors: wrong types, lengths and absences. */
START_TEST(shapes)
{
	struct cols c = good();
	struct tensor t[] = {
		{ .name = "input_ids", .dtype = DT_I32, .n_dims = 1, .shape = { 6 }, .bytes = 24, .data = c.ids },
		{ .name = "loss_mask", .dtype = DT_U8, .n_dims = 1, .shape = { 6 }, .bytes = 6, .data = c.mask },
		{ .name = "row_start", .dtype = DT_I64, .n_dims = 1, .shape = { 3 }, .bytes = 24, .data = c.rows },
		{ .name = "seq_start", .dtype = DT_I64, .n_dims = 1, .shape = { 4 }, .bytes = 32, .data = c.seqs },
		{ .name = "seq_record", .dtype = DT_I64, .n_dims = 1, .shape = { 3 }, .bytes = 24, .data = c.recs },
		{ .name = "pair_id", .dtype = DT_I64, .n_dims = 1, .shape = { 3 }, .bytes = 24, .data = c.pair },
	};
	struct st_blob b = { .meta = { .type = JSON_OBJ }, .tensors = t, .n_tensors = 5 };
	struct token_frame f;

	OK(token_frame_view(&b, &f, &er));
	b.n_tensors = 6;
	BAD(token_frame_view(&b, &f, &er), LP_DATA, "go together");
	b.n_tensors = 4;
	BAD(token_frame_view(&b, &f, &er), LP_DATA, "not a token frame");
	b.n_tensors = 5;
	t[0].dtype = DT_I64;
	BAD(token_frame_view(&b, &f, &er), LP_DATA, "one-dimensional");
	t[0].dtype = DT_I32;
	t[1].shape[0] = 5;
	BAD(token_frame_view(&b, &f, &er), LP_DATA, "length");
	t[1].shape[0] = 6;
	t[2].shape[0] = 0;
	BAD(token_frame_view(&b, &f, &er), LP_DATA, "length");
	t[2].shape[0] = 3;
	t[3].data = (char *)c.seqs + 1;
	BAD(token_frame_view(&b, &f, &er), LP_DATA, "aligned");
}
END_TEST

int main(void)
{
	Suite *s = suite_create("tokens");
	TCase *c = tcase_create("all");
	int rc;

	scratch_open();
	tcase_set_timeout(c, 120);
	tcase_add_test(c, round_trip);
	tcase_add_test(c, rules);
	tcase_add_test(c, shapes);
	suite_add_tcase(s, c);
	rc = run_tests(s);
	scratch_close();
	return rc;
}

/* The order of rows, mixed and not, streams laid one behind the other, and preferences: pairs are rows, taken apart, mismatched. */
#include <check.h>
#include <stdlib.h>
#include <string.h>

#include "base/rng.h"
#include "base/xalloc.h"
#include "scratch.h"
#include "stream_fix.h"

enum { A = 5, B = 40, C = 12, ALL = A + B + C, EPOCHS = 30, SEED = 9 };

static const struct order_part parts[] = { { 0, A, 20 }, { A, B, 30 }, { A + B, C, 7 } };

/* Every epoch has what each part is to have, each part's rows come equally often, and in an order that is another each time. */
START_TEST(test_mixed)
{
	struct order o;
	int64_t seen[ALL] = { 0 }, of[3], last[ALL] = { 0 }, moved = 0;

	order_init(&o, SEED, ALL);
	order_mix(&o, parts, 3);
	for (int64_t e = 0; e < EPOCHS; e++) {
		memset(of, 0, sizeof(of));
		for (int64_t i = 0; i < ALL; i++) {
			int64_t row = order_row(&o, e, i);

			ck_assert(row >= 0 && row < ALL);
			seen[row]++;
			of[row < A ? 0 : row < A + B ? 1 : 2]++;
			moved += last[i] != row;
			last[i] = row;
		}
		for (int k = 0; k < 3; k++)
			ck_assert_int_eq(of[k], parts[k].take);
		for (int k = 0; k < 3; k++)
			for (int64_t i = parts[k].first; i < parts[k].first + parts[k].n_rows; i++) {
				int64_t passes = (e + 1) * parts[k].take / parts[k].n_rows;

				ck_assert(seen[i] == passes || seen[i] == passes + 1);
			}
	}
	ck_assert_int_gt(moved, EPOCHS * ALL * 8 / 10);
	order_release(&o);
}
END_TEST

/* A place is found without those before it: what resuming needs. */
START_TEST(test_any_place)
{
	struct order walked, jumped;

	order_init(&walked, SEED, ALL);
	order_init(&jumped, SEED, ALL);
	order_mix(&walked, parts, 3);
	order_mix(&jumped, parts, 3);
	for (int64_t e = 0; e < EPOCHS; e++)
		order_row(&walked, e, 0);
	for (int64_t e = EPOCHS - 1; e >= 0; e -= 7)
		for (int64_t i = 0; i < ALL; i++)
			ck_assert_int_eq(order_row(&walked, e, i), order_row(&jumped, e, i));
	order_release(&jumped);
	order_init(&jumped, SEED, ALL);
	order_mix(&jumped, parts, 3);
	for (int64_t i = 0; i < ALL; i++)
		ck_assert_int_eq(order_row(&walked, 3, i), order_row(&jumped, 3, i));
	order_release(&walked);
	order_release(&jumped);
}
END_TEST

START_TEST(test_plain)
{
	uint32_t want[ALL];
	struct order o;

	order_init(&o, SEED, ALL);
	for (int64_t e = 0; e < 3; e++) {
		rng_permutation(SEED, rng_stream("order") + (uint64_t)e, ALL, want);
		for (int64_t i = 0; i < ALL; i++)
			ck_assert_int_eq(order_row(&o, e, i), want[i]);
	}
	order_release(&o);
}
END_TEST

static void add(struct dataset *d, int32_t id, int64_t len, int64_t cut, int64_t record)
{
	int32_t ids[16];
	uint8_t mask[16];
	const int64_t start[] = { 0, cut, len }, records[] = { record, record + 1 };

	for (int i = 0; i < 16; i++)
		ids[i] = id + i;
	memset(mask, 1, sizeof(mask));
	dataset_add_row(d, ids, mask, start, records, 2);
}

START_TEST(test_append)
{
	struct dataset a = { 0 }, b = { 0 }, both = { 0 };

	add(&a, 100, 9, 4, 3);
	add(&a, 200, 6, 2, 0);
	add(&b, 300, 16, 7, 0);
	add(&b, 400, 5, 3, 2);
	add(&both, 100, 9, 4, 3);
	add(&both, 200, 6, 2, 0);
	add(&both, 300, 16, 7, 5);
	add(&both, 400, 5, 3, 7);
	ck_assert_int_eq(dataset_append(&a, &b), 5);
	ck_assert_int_eq(a.n_rows, both.n_rows);
	ck_assert_int_eq(a.n_seqs, both.n_seqs);
	ck_assert_int_eq(a.n_targets, both.n_targets);
	ck_assert_int_eq(a.longest_row, 16);
	ck_assert_mem_eq(a.ids, both.ids, (size_t)both.n_tokens * sizeof(*a.ids));
	ck_assert_mem_eq(a.row_start, both.row_start, (size_t)(both.n_rows + 1) * sizeof(*a.row_start));
	ck_assert_mem_eq(a.row_seq, both.row_seq, (size_t)(both.n_rows + 1) * sizeof(*a.row_seq));
	ck_assert_mem_eq(a.seq_start, both.seq_start, (size_t)(both.n_seqs + 1) * sizeof(*a.seq_start));
	ck_assert_mem_eq(a.seq_record, both.seq_record, (size_t)both.n_seqs * sizeof(*a.seq_record));
	dataset_release(&a);
	dataset_release(&b);
	dataset_release(&both);
}
END_TEST

/* Sequences of 4 tokens each in a stream: ids 10 s .. 10 s + 3, two of the prompt and two of the answer. */
enum { SEQS = 6 };

static int load(struct dataset *d, const int64_t *pair, const uint8_t *side, int64_t cut, struct err *e)
{
	int32_t ids[4 * SEQS];
	uint8_t mask[4 * SEQS];
	int64_t start[SEQS + 1];
	struct token_frame t = { .n_rows = SEQS, .n_seqs = SEQS, .n_tokens = 4 * SEQS, .input_ids = ids, .loss_mask = mask, .row_start = start, .seq_start = start,
		                 .seq_record = pair, .pair_id = pair, .pair_side = side };
	struct in *in;

	for (int64_t i = 0; i < 4 * SEQS; i++) {
		ids[i] = (int32_t)(10 * (i / 4) + i % 4);
		mask[i] = i % 4 > 1 && i / 4 != cut;
	}
	for (int64_t i = 0; i <= SEQS; i++)
		start[i] = 4 * i;
	write_frame(at("pairs.lps"), &t);
	in = in_open(at("pairs.lps"), e);
	ck_assert_ptr_nonnull(in);
	return dataset_load_take(d, in, 100, 100, e);
}

static const int64_t pairs[SEQS] = { 0, 0, 1, 1, 2, 2 };

START_TEST(test_pairs)
{
	static const uint8_t side[SEQS] = { 1, 0, 0, 1, 1, 0 }, good[] = { 0, 1, 1, 0 };
	static const int32_t mate[] = { 1, 0, 3, 2 }, tgt_start[] = { 0, 2, 4, 6, 8 }, ends[] = { 3, 7 };
	struct dataset d, mis;
	struct microbatch b;
	struct err e = ERR_INIT;

	ck_assert_msg(load(&d, pairs, side, -1, &e) == 0, "%s", e.msg);
	ck_assert(d.kind == DATA_PAIRS && d.n_rows == 3 && d.n_seqs == SEQS && d.longest_row == 8);
	microbatch_init(&b, 16);
	microbatch_clear(&b);
	microbatch_add(&b, &d, 1);
	microbatch_add(&b, &d, 2);
	for (int i = 0; i < 4; i++)
		ck_assert(b.mate[i] == mate[i] && b.good[i] == good[i] && b.ref[i] == 0);
	ck_assert_mem_eq(b.tgt_start, tgt_start, sizeof(tgt_start));
	b.ends = true;
	microbatch_clear(&b);
	d.ref = xcalloc(SEQS, sizeof(*d.ref));
	d.ref[3] = -7;
	microbatch_add(&b, &d, 1);
	ck_assert_int_eq(b.n_targets, 2);
	ck_assert_mem_eq(b.tgt_row, ends, sizeof(ends));
	ck_assert(b.ref[1] == -7);
	microbatch_release(&b);

	dataset_unpair(&d);
	ck_assert(d.n_rows == SEQS && d.longest_row == 4 && d.row_start[5] == 20 && d.row_seq[6] == 6);
	ck_assert_msg(dataset_mismatch(&d, &mis, &e) == 0, "%s", e.msg);
	ck_assert_int_eq(mis.n_rows, SEQS);
	/* the chosen answer of the next record, the rejected one, and round the end */
	ck_assert(mis.ids[1] == 1 && mis.ids[2] == 32 && mis.ids[6] == 22 && mis.ids[4 * 5 + 2] == 12);
	ck_assert(mis.n_targets == d.n_targets && mis.good[3] == 1);
	dataset_release(&mis);
	dataset_release(&d);
}
END_TEST

START_TEST(test_labels)
{
	static const int64_t each[SEQS] = { 0, 1, 2, 3, 4, 5 };
	static const uint8_t side[SEQS] = { 1, 1, 0, 1, 0, 0 };
	struct dataset d, mis;
	struct err e = ERR_INIT;

	ck_assert_msg(load(&d, each, side, -1, &e) == 0, "%s", e.msg);
	ck_assert(d.kind == DATA_LABELS && d.n_rows == SEQS);
	ck_assert_msg(dataset_mismatch(&d, &mis, &e) == 0, "%s", e.msg);
	for (int i = 0; i < SEQS; i++)
		ck_assert(mis.ids[4 * i + 2] == 10 * ((i + 1) % SEQS) + 2 && mis.ids[4 * i] == 10 * i && mis.good[i] == side[i]);
	dataset_release(&mis);
	d.seq_record[0] = 5, d.seq_record[1] = 5, d.seq_record[2] = 5, d.seq_record[3] = 5, d.seq_record[4] = 5;
	ck_assert(dataset_mismatch(&d, &mis, &e) < 0 && e.code == LP_DATA);
	dataset_release(&d);
}
END_TEST

/* What is no pair. */
START_TEST(test_no_pairs)
{
	static const struct {
		int64_t pair[SEQS];
		uint8_t side[SEQS];
		int64_t cut;
		const char *says;
	} bad[] = { { { 0, 0, 0, 1, 1, 1 }, { 1, 0, 0, 1, 0, 0 }, -1, "record 1 of '%s' is no pair: it has 3 answers, not two" },
		    { { 0, 0, 1, 1, 2, 2 }, { 1, 0, 1, 1, 1, 0 }, -1, "record 2 of '%s' is no pair: it has 2 answers, of one side" },
		    { { 0, 0, 1, 2, 2, 3 }, { 1, 0, 1, 1, 0, 1 }, -1, "record 2 of '%s' has one answer alone, and those before it have not" },
		    { { 0, 1, 2, 2, 3, 4 }, { 1, 0, 1, 0, 0, 1 }, -1, "record 3 of '%s' has two answers" },
		    { { 0, 0, 1, 1, 2, 2 }, { 1, 0, 1, 0, 1, 0 }, 3, "record 2 of '%s' has an answer without a token to learn from" } };
	struct dataset d;
	struct err e = ERR_INIT;
	char says[300];

	ck_assert_int_eq(load(&d, bad[_i].pair, bad[_i].side, bad[_i].cut, &e), -1);
	snprintf(says, sizeof(says), bad[_i].says, at("pairs.lps"));
	ck_assert_msg(e.code == LP_DATA && strstr(e.msg, says), "%s", e.msg);
	dataset_release(&d);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("data");
	TCase *t = tcase_create("data");
	SRunner *r = srunner_create(s);
	int failed;

	tcase_add_test(t, test_mixed);
	tcase_add_test(t, test_any_place);
	tcase_add_test(t, test_plain);
	tcase_add_test(t, test_append);
	tcase_add_test(t, test_pairs);
	tcase_add_test(t, test_labels);
	tcase_add_loop_test(t, test_no_pairs, 0, 5);
	suite_add_tcase(s, t);
	scratch_open();
	srunner_run_all(r, CK_NORMAL);
	scratch_close();
	failed = srunner_ntests_failed(r);
	srunner_free(r);
	return failed ? 1 : 0;
}

/* The order of rows, mixed and not, and streams laid one behind the other. */
#include <check.h>
#include <stdlib.h>
#include <string.h>

#include "base/rng.h"
#include "train/data.h"

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
	suite_add_tcase(s, t);
	srunner_run_all(r, CK_NORMAL);
	failed = srunner_ntests_failed(r);
	srunner_free(r);
	return failed ? 1 : 0;
}

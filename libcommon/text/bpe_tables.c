/* A model's tables, as they are kept: see bpe.h. */
#include <string.h>

#include "base/compiler.h"
#include "text/bpe_int.h"

#define FIRST_BYTES (256 * 256 * sizeof(struct bpe_first))
#define JOINED_BYTES ((1u << BPE_JOINED_BITS) / 8)
#define DIRECT_BYTES (BPE_DIRECT * sizeof(int32_t))

void bpe_tables_of(const struct bpe *b, struct bpe_tables *t)
{
	*t = (struct bpe_tables){ .raw = b->raw, .merges = b->merges, .first = b->first, .joined = b->joined, .direct = b->direct,
		.merges_bytes = (b->mask + 1) * sizeof(*b->merges), .first_bytes = b->first ? FIRST_BYTES : 0,
		.joined_bytes = b->joined ? JOINED_BYTES : 0, .direct_bytes = b->direct ? DIRECT_BYTES : 0 };
}

/* A look-up ends at a bucket that nothing was spilt from, and finds tokens of the vocabulary only. */
/* Tens of megabytes at every start: no branch, and a largest id for each place of a bucket. */
LP_CLONES
static bool merges_ok(const struct bpe_tables *t, size_t n_ids)
{
	const struct bpe_bucket *m = t->merges;
	size_t n = t->merges_bytes / sizeof(*m), spilt = 0;
	uint32_t most[BPE_BUCKET] = { 0 }, all = 0;

	if (t->merges_bytes % sizeof(*m) || n < 4 || (n & (n - 1)))
		return false;
	for (size_t i = 0; i < n; i++) {
		spilt += m[i].id[0] >> 31;
		for (int k = 0; k < BPE_BUCKET; k++) {
			uint32_t id = (k ? m[i].id[k] : m[i].id[k] & ~BPE_SPILT) & (0u - (m[i].pair[k] != 0));

			most[k] = id > most[k] ? id : most[k];
		}
	}
	for (int k = 0; k < BPE_BUCKET; k++)
		all = most[k] > all ? most[k] : all;
	return spilt < n && (all < n_ids || !all);
}

bool bpe_tables_ok(const struct bpe_tables *t, size_t n_ids)
{
	const struct bpe_first *first = t->first;
	const int32_t *direct = t->direct;
	bool ok = t->first_bytes == (first ? FIRST_BYTES : 0) && t->joined_bytes == (t->joined ? JOINED_BYTES : 0) &&
		  t->direct_bytes == (direct ? DIRECT_BYTES : 0) && merges_ok(t, n_ids);

	for (size_t i = 0; ok && first && i < 256 * 256; i++)
		ok = first[i].rank == BPE_NO_RANK || (first[i].id >= 0 && (size_t)first[i].id < n_ids);
	for (size_t i = 0; ok && direct && i < BPE_DIRECT; i++)
		ok = direct[i] >= -1 && direct[i] < (int64_t)n_ids;
	return ok && !first == !!direct && t->raw.n_ids <= n_ids;
}

int bpe_borrow(struct bpe *b, const struct bpe_tables *t, struct err *e)
{
	size_t n = t->merges_bytes / sizeof(*b->merges);

	b->borrowed = true;
	if (!t->first == b->bytes || !t->direct == !b->bytes || (b->bytes && b->ignore_merges && b->whole == &b->raw && !t->raw.slots))
		return err_set(e, LP_DATA, "the tables are another model's");
	b->raw = t->raw;
	b->merges = (struct bpe_bucket *)t->merges;
	b->first = (struct bpe_first *)t->first;
	b->joined = (uint64_t *)t->joined;
	b->direct = (int32_t *)t->direct;
	b->mask = n - 1;
	b->shift = 64 - (unsigned)__builtin_ctzll(n);
	return 0;
}

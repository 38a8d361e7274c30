/* Packing: longest first, each into the fullest row that still takes it. */
#include "text/pack.h"

#include <stdlib.h>
#include <string.h>

#include "base/xalloc.h"

struct fit {
	uint32_t cap, *room; /* by bin: tokens left */
	int32_t *head;       /* (cap + 1) by room: a bin with exactly that left; -1: none */
	int32_t *next;       /* by bin: the next with the same room */
	uint64_t *set;       /* which rooms have a bin */
	size_t n_bins;
};

static void put(struct fit *f, int32_t bin)
{
	uint32_t r = f->room[bin];

	f->next[bin] = f->head[r];
	f->head[r] = bin;
	f->set[r >> 6] |= 1ull << (r & 63);
}

/* A bin with the least room of at least want; -1: none. Taken out. */
static int32_t take(struct fit *f, uint32_t want)
{
	size_t words = f->cap / 64 + 1;
	uint64_t w = f->set[want >> 6] >> (want & 63) << (want & 63);
	int32_t bin;

	for (size_t i = want >> 6; i < words; i++, w = i < words ? f->set[i] : 0) {
		uint32_t r;

		if (!w)
			continue;
		r = (uint32_t)(i * 64) + (uint32_t)__builtin_ctzll(w);
		bin = f->head[r];
		f->head[r] = f->next[bin];
		if (f->head[r] < 0)
			f->set[r >> 6] &= ~(1ull << (r & 63));
		return bin;
	}
	return -1;
}

/* Indices by length, longest first; equal lengths in input order. */
static void order_by_length(const uint32_t *len, size_t n, uint32_t cap, uint32_t *count, uint32_t *order)
{
	uint32_t sum = 0;

	memset(count, 0, (cap + 1) * sizeof(*count));
	for (size_t i = 0; i < n; i++)
		count[len[i]]++;
	for (uint32_t l = cap; l > 0; l--) {
		uint32_t c = count[l];

		count[l] = sum;
		sum += c;
	}
	for (size_t i = 0; i < n; i++)
		order[count[len[i]]++] = (uint32_t)i;
}

/* Bins renumbered by their first sequence. */
static void renumber(uint32_t *bin, size_t n, uint32_t *map, size_t n_bins)
{
	uint32_t k = 0;

	memset(map, 0xFF, n_bins * sizeof(*map));
	for (size_t i = 0; i < n; i++) {
		if (map[bin[i]] == UINT32_MAX)
			map[bin[i]] = k++;
		bin[i] = map[bin[i]];
	}
}

int pack_best_fit(const uint32_t *len, size_t n, uint32_t cap, uint32_t *bin, size_t *n_bins, struct err *e)
{
	struct fit f = { .cap = cap };
	uint32_t *order = NULL, *count = NULL;
	int rc = -1;

	*n_bins = 0;
	if (n >= INT32_MAX || cap >= INT32_MAX)
		return err_set(e, LP_USAGE, "packing takes fewer than 2^31 sequences and tokens a row");
	for (size_t i = 0; i < n; i++)
		if (!len[i] || len[i] > cap)
			return err_set(e, LP_DATA, "a sequence of %u tokens does not fit into rows of %u", len[i], cap);
	f.room = lp_try_alloc(n + 1, sizeof(*f.room), "packing", e);
	f.next = lp_try_alloc(n + 1, sizeof(*f.next), "packing", e);
	f.head = lp_try_alloc((size_t)cap + 1, sizeof(*f.head), "packing", e);
	f.set = lp_try_alloc(cap / 64 + 1, sizeof(*f.set), "packing", e);
	order = lp_try_alloc(n + 1, sizeof(*order), "packing", e);
	count = lp_try_alloc((size_t)cap + 1, sizeof(*count), "packing", e);
	if (!f.room || !f.next || !f.head || !f.set || !order || !count)
		goto out;
	memset(f.head, 0xFF, ((size_t)cap + 1) * sizeof(*f.head));
	memset(f.set, 0, (cap / 64 + 1) * sizeof(*f.set));
	order_by_length(len, n, cap, count, order);
	for (size_t i = 0; i < n; i++) {
		uint32_t l = len[order[i]];
		int32_t b = take(&f, l);

		if (b < 0) {
			b = (int32_t)f.n_bins++;
			f.room[b] = cap;
		}
		f.room[b] -= l;
		bin[order[i]] = (uint32_t)b;
		put(&f, b);
	}
	renumber(bin, n, order, f.n_bins);
	*n_bins = f.n_bins;
	rc = 0;
out:
	free(f.room);
	free(f.next);
	free(f.head);
	free(f.set);
	free(order);
	free(count);
	return rc;
}

/* How many records of each file make up a mixture, and in which order they
 * come. Ratios are shares of the whole; every choice is a function of the
 * seed, so that the mixture is the same on every machine. */
#ifndef LP_DATA_MIX_H
#define LP_DATA_MIX_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"

#define MIX_MAX_SOURCES 64

struct mix_source {
	char *path;
	uint64_t ratio;   /* share of the mixture in 1e-9; 0: the base, whose share is what the others leave */
	bool has_ratio;
	uint64_t have;    /* records in it */
	uint64_t take;    /* records to write: mix_plan */
	uint64_t written; /* so far: mix_pick, mix_wants */
	uint64_t seen;    /* records looked at, over all passes */
};
struct mix {
	struct mix_source src[MIX_MAX_SOURCES];
	size_t n;
	uint64_t seed;
	uint64_t total; /* records of the mixture */
	uint64_t step;
};

/* "FILE", "FILE:0.15" or "FILE:15%"; a file of exactly that name wins. */
int mix_add(struct mix *m, const char *arg, struct err *e) LP_MUST_USE;
void mix_release(struct mix *m);

/* Fills take from have. Base files are taken whole, and the others added in their ratio; size (0: none) asks for
 * that many records in all, drawn from the base too. Without a base the ratios add up to 1 and the
 * mixture is as large as the files allow. More than a file has needs repeat. LP_USAGE. */
int mix_plan(struct mix *m, uint64_t size, bool repeat, struct err *e) LP_MUST_USE;

/* The source that the next record of the mixture comes from; SIZE_MAX at the end. Each order of the sources
 * is equally likely; within a source the order is the file's. */
size_t mix_pick(struct mix *m);
/* Whether the next record of source i belongs to the mixture; call until true. Whole passes come first,
 * then a random part of one (each subset equally likely). */
bool mix_wants(struct mix *m, size_t i);

#endif

/* Small host allocations that die when memory is gone (exit LP_DEVICE).
 * Anything whose size comes from data or a model uses lp_try_alloc. */
#ifndef LP_BASE_XALLOC_H
#define LP_BASE_XALLOC_H

#include <stdbool.h>
#include <stddef.h>

#include "base/err.h"

void *xmalloc(size_t bytes);
void *xcalloc(size_t n, size_t size);
void *xrealloc(void *p, size_t bytes);
/* Grows *p (element size given) so that it holds n elements; doubles *cap. */
void *xgrow(void *p, size_t *cap, size_t n, size_t size);
char *xstrdup(const char *s);
char *xmemdup0(const char *s, size_t n); /* copy with a NUL behind it */
char *xasprintf(const char *fmt, ...) LP_PRINTF(1, 2);

/* n * size bytes, 64-byte aligned, not cleared; NULL and *e (LP_DEVICE) when
 * the product overflows or memory is short. what names it. Free with free(). */
void *lp_try_alloc(size_t n, size_t size, const char *what, struct err *e) LP_MUST_USE;

/* Zeroed memory in pages of its own, large ones where the system has them: for tables whose look-ups go
 * everywhere. NULL when memory is short. Free with lp_pages_free and the same size. */
void *lp_pages(size_t bytes);
void lp_pages_free(void *p, size_t bytes); /* NULL is fine */
/* As xgrow, of such memory: what is new is zero. For what grows large within one run of a loop. */
void *lp_pages_grow(void *p, size_t *cap, size_t n, size_t size);

bool lp_mul_overflows(size_t a, size_t b, size_t *product);
bool lp_add_overflows(size_t a, size_t b, size_t *sum);

#endif

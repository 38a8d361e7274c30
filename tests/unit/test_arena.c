/* base/arena.c and base/xalloc.c. */
#include "scratch.h"

#include <stdint.h>
#include <sys/wait.h>

#include "base/arena.h"
#include "base/xalloc.h"

START_TEST(pieces_are_aligned_and_apart)
{
	struct arena a = ARENA_INIT;
	unsigned char *p[2000];

	for (size_t i = 0; i < 2000; i++) {
		p[i] = arena_alloc(&a, i % 97);
		ck_assert_uint_eq((uintptr_t)p[i] % 16, 0);
		memset(p[i], (int)(i & 255), i % 97);
	}
	for (size_t i = 0; i < 2000; i++)
		for (size_t k = 0; k < i % 97; k++)
			ck_assert_uint_eq(p[i][k], i & 255);
	arena_release(&a);
	ck_assert_uint_eq(a.total, 0);
}
END_TEST

START_TEST(calloc_clears_and_strndup_ends)
{
	struct arena a = ARENA_INIT;
	unsigned char *p;

	memset(arena_alloc(&a, 4096), 0xff, 4096);
	arena_reset(&a);
	p = arena_calloc(&a, 64, 64);
	for (int i = 0; i < 4096; i++)
		ck_assert_uint_eq(p[i], 0);
	ck_assert_str_eq(arena_strndup(&a, "abcdef", 3), "abc");
	ck_assert_str_eq(arena_strndup(&a, NULL, 0), "");
	arena_release(&a);
}
END_TEST

/* A million rounds must not grow, and a giant one must not be kept. */
START_TEST(reset_bounds_memory)
{
	struct arena a = ARENA_INIT;

	for (int i = 0; i < 100000; i++) {
		arena_reset(&a);
		for (int k = 0; k < 10; k++)
			arena_alloc(&a, 1000);
	}
	ck_assert_uint_le(a.total, 64 << 10);
	arena_alloc(&a, 100 << 20);
	arena_reset(&a);
	ck_assert_uint_le(a.total, 16 << 20);
	arena_release(&a);
}
END_TEST

/* The sanitiser must let malloc fail as it does without it. */
const char *__asan_default_options(void);
const char *__asan_default_options(void)
{
	return "allocator_may_return_null=1";
}

static int status_of(void (*fn)(void))
{
	pid_t pid = fork();
	int st;

	if (!pid) {
		ck_assert_ptr_nonnull(freopen("/dev/null", "w", stderr));
		fn();
		_exit(0);
	}
	waitpid(pid, &st, 0);
	return WIFEXITED(st) ? WEXITSTATUS(st) : -1;
}

static volatile size_t huge = SIZE_MAX / 2 + 2; /* hidden from the compiler's own checks */

static void over_malloc(void) { xmalloc(huge); }
static void over_calloc(void) { xcalloc(huge, 2); }
static void over_arena(void)
{
	struct arena a = ARENA_INIT;

	arena_alloc(&a, SIZE_MAX - (huge & 2));
}
static void over_arena_product(void)
{
	struct arena a = ARENA_INIT;

	arena_calloc(&a, huge, 2);
}

START_TEST(too_much_is_status_5)
{
	ck_assert_int_eq(status_of(over_malloc), LP_DEVICE);
	ck_assert_int_eq(status_of(over_calloc), LP_DEVICE);
	ck_assert_int_eq(status_of(over_arena), LP_DEVICE);
	ck_assert_int_eq(status_of(over_arena_product), LP_DEVICE);
}
END_TEST

START_TEST(try_alloc)
{
	struct err e = ERR_INIT;
	void *p = lp_try_alloc(3, 5, "x", &e);

	ck_assert_ptr_nonnull(p);
	ck_assert_uint_eq((uintptr_t)p % 64, 0);
	free(p);
	p = lp_try_alloc(0, 8, "nothing", &e);
	ck_assert_ptr_nonnull(p);
	free(p);
	ck_assert_ptr_null(lp_try_alloc(huge, 2, "the logits", &e));
	ck_assert_int_eq(e.code, LP_DEVICE);
	ck_assert_ptr_nonnull(strstr(e.msg, "the logits"));
	ck_assert_ptr_null(lp_try_alloc(SIZE_MAX - 8, 1, "padding overflows", &e));
}
END_TEST

START_TEST(overflow_checks)
{
	size_t r;

	ck_assert(!lp_mul_overflows(1 << 16, 1 << 16, &r));
	ck_assert_uint_eq(r, (size_t)1 << 32);
	ck_assert(lp_mul_overflows(SIZE_MAX, 2, &r));
	ck_assert(!lp_mul_overflows(SIZE_MAX, 0, &r));
	ck_assert(lp_add_overflows(SIZE_MAX, 1, &r));
	ck_assert(!lp_add_overflows(SIZE_MAX - 1, 1, &r));
}
END_TEST

START_TEST(growth)
{
	size_t cap = 0;
	int *v = NULL;

	for (size_t i = 0; i < 10000; i++) {
		v = xgrow(v, &cap, i + 1, sizeof(*v));
		v[i] = (int)i;
	}
	ck_assert_uint_ge(cap, 10000);
	for (int i = 0; i < 10000; i++)
		ck_assert_int_eq(v[i], i);
	free(v);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("arena");
	TCase *c = tcase_create("all");

	tcase_add_test(c, pieces_are_aligned_and_apart);
	tcase_add_test(c, calloc_clears_and_strndup_ends);
	tcase_add_test(c, reset_bounds_memory);
	tcase_add_test(c, too_much_is_status_5);
	tcase_add_test(c, try_alloc);
	tcase_add_test(c, overflow_checks);
	tcase_add_test(c, growth);
	suite_add_tcase(s, c);
	return run_tests(s);
}

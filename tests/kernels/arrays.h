/* What the suites of kernels share: two devices, arrays on them, comparisons. Included once, by a suite. */
#ifndef LP_TEST_KN_ARRAYS_H
#define LP_TEST_KN_ARRAYS_H

#include <check.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/rng.h"
#include "base/xalloc.h"
#include "kernels/device.h"

static struct device dev, again;
static double ulp; /* half a unit in the last place of an activation, relative; 0 for fp32 */
static double tiny; /* half of the smallest step that activations have: fp16 has no finer one below 2^-14 */

static void setup(void)
{
	struct err e = ERR_INIT;
	const char *spec = getenv("LP_DEVICE") ? getenv("LP_DEVICE") : "cpu";

	if (dev.k.alloc)
		return;
	ck_assert_msg(device_open(&dev, spec, getenv("LP_COMPUTE"), 1, &e) == 0, "%s", e.msg);
	ck_assert_msg(device_open(&again, spec, getenv("LP_COMPUTE"), 3, &e) == 0, "%s", e.msg);
	ulp = dev.act == DT_F32 ? 0 : dev.act == DT_F16 ? 0x1p-11 : 0x1p-8;
	tiny = dev.act == DT_F16 ? 0x1p-25 : 0;
}

/* --- arrays on the device --- */

#define GAP 77.0f /* what lies between rows, and in results before they are written */

/* n numbers of N(0, sd); a few of them large, some zero; as the activation type holds them. They come again after PERIOD, which divides no
 * row's length. */
static float *noise(int64_t n, double sd, uint64_t stream)
{
	enum { PERIOD = 1048583 };
	float *x = xcalloc((size_t)n + 1, sizeof(*x));
	uint16_t *h = xcalloc((size_t)n + 1, sizeof(*h));

	for (int64_t i = 0; i < n; i++) {
		if (i >= PERIOD) {
			x[i] = x[i - PERIOD];
			continue;
		}
		x[i] = (float)(sd * rng_normal(11, stream, (uint64_t)i));
		if (i % 97 == 13)
			x[i] *= 8;
		if (i % 89 == 7)
			x[i] = 0;
	}
	if (dev.act != DT_F32) {
		from_f32(dev.act, x, h, (size_t)n);
		to_f32(dev.act, h, x, (size_t)n);
	}
	free(h);
	return x;
}

static void *room(struct device *d, uint64_t bytes)
{
	struct err e = ERR_INIT;
	void *p = device_alloc(d, bytes + 64, "a test", &e);

	ck_assert_msg(p != NULL, "%s", e.msg);
	return p;
}

/* (t, c) values as activations with row stride ld; x NULL: the gap's value everywhere. */
static void *up(struct device *d, const float *x, int64_t t, int64_t c, int64_t ld)
{
	float *wide = xcalloc((size_t)(t * ld) + 1, sizeof(*wide));
	void *half = xcalloc((size_t)(t * ld) + 1, sizeof(*wide)), *p = room(d, (uint64_t)(t * ld) * dtype_bytes(d->act));

	for (int64_t i = 0; i < t; i++)
		for (int64_t j = 0; j < ld; j++)
			wide[i * ld + j] = x && j < c ? x[i * c + j] : GAP;
	from_f32(d->act, wide, half, (size_t)(t * ld));
	device_upload(d, p, half, (uint64_t)(t * ld) * dtype_bytes(d->act));
	free(wide);
	free(half);
	return p;
}

static inline void *up_raw(struct device *d, const void *x, uint64_t bytes)
{
	void *p = room(d, bytes);

	device_upload(d, p, x, bytes);
	return p;
}

static void must_sync(struct device *d)
{
	struct err e = ERR_INIT;

	ck_assert_msg(device_sync(d, &e) == 0, "%s", e.msg);
}

/* (t, c) of rows ld apart; the gaps must be as they were. */
static inline float *down(struct device *d, const void *p, int64_t t, int64_t c, int64_t ld)
{
	float *wide = xcalloc((size_t)(t * ld) + 1, sizeof(*wide)), *x = xcalloc((size_t)(t * c) + 1, sizeof(*x));

	d->k.to_host(d, wide, p, t * ld);
	must_sync(d);
	for (int64_t i = 0; i < t; i++)
		for (int64_t j = 0; j < ld; j++)
			if (j < c)
				x[i * c + j] = wide[i * ld + j];
			else
				ck_assert_msg(wide[i * ld + j] == GAP, "row %lld: column %lld was written", (long long)i, (long long)j);
	free(wide);
	return x;
}

static inline float *down_f32(struct device *d, const void *p, int64_t n)
{
	float *x = xcalloc((size_t)n + 1, sizeof(*x));

	device_download(d, x, p, (uint64_t)n * sizeof(*x));
	must_sync(d);
	return x;
}

static inline void same_bytes(struct device *d1, const void *p1, struct device *d2, const void *p2, uint64_t bytes)
{
	char *a = xmalloc(bytes + 1), *b = xmalloc(bytes + 1);

	device_download(d1, a, p1, bytes);
	device_download(d2, b, p2, bytes);
	must_sync(d1);
	must_sync(d2);
	ck_assert_mem_eq(a, b, bytes);
	free(a);
	free(b);
}

static inline void same_raw(struct device *d, const void *p, const void *want, uint64_t bytes)
{
	char *a = xmalloc(bytes + 1);

	device_download(d, a, p, bytes);
	must_sync(d);
	ck_assert_mem_eq(a, want, bytes);
	free(a);
}

static inline uint64_t act_bytes(int64_t n)
{
	return (uint64_t)n * dtype_bytes(dev.act);
}

static void near(double got, double want, double bound, const char *what, int64_t i)
{
	ck_assert_msg(fabs(got - want) <= bound, "%s[%lld]: %.9g, not %.9g (bound %.3g)", what, (long long)i, got, want, bound);
}

/* The suite of the tests that add adds; what main returns. */
static int run_suite(const char *name, void (*add)(TCase *t))
{
	Suite *s = suite_create(name);
	TCase *t = tcase_create(name);
	SRunner *r = srunner_create(s);
	int failed;

	tcase_set_timeout(t, 60);
	tcase_add_checked_fixture(t, setup, NULL);
	add(t);
	suite_add_tcase(s, t);
	srunner_run_all(r, CK_NORMAL);
	failed = srunner_ntests_failed(r);
	srunner_free(r);
	return failed ? 1 : 0;
}

#endif

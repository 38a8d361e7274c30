/* fmt/dtype.c against a slow reference: every bf16 and f16 value, every
 * midpoint between neighbours, and the doubles just beside each of them. */
#include <float.h>
#include <math.h>

#include "fmt/dtype.h"
#include "scratch.h"

/* Rounds v to p bits of mantissa, exponents emin..emax: exact arithmetic and one rint. */
static double slow_round(double v, int p, int emin, int emax)
{
	int e;
	double r;

	if (v == 0 || !isfinite(v))
		return v;
	e = ilogb(v);
	if (e < emin)
		e = emin;
	r = ldexp(rint(ldexp(v, p - 1 - e)), e - (p - 1));
	return fabs(r) >= ldexp(1, emax + 1) ? copysign(INFINITY, v) : copysign(r, v);
}

static double slow_value(uint16_t h, int mant, int bias)
{
	int exp = (h & 0x7fff) >> mant, frac = h & ((1 << mant) - 1), top = (1 << (15 - mant)) - 1;
	double sign = h & 0x8000 ? -1 : 1;

	if (exp == top)
		return frac ? (double)NAN : sign * INFINITY;
	if (!exp)
		return sign * ldexp(frac, 1 - bias - mant);
	return sign * ldexp(frac + (1 << mant), exp - bias - mant);
}

/* Check's own assertions write a mark each time: only failures reach them here. */
static void check_f64(double v)
{
	double want_b = slow_round(v, 8, -126, 127), got_b = (double)bf16_to_f32(f64_to_bf16(v));
	double want_h = slow_round(v, 11, -14, 15), got_h = (double)f16_to_f32(f64_to_f16(v));

	if (memcmp(&want_b, &got_b, 8))
		ck_abort_msg("bf16 of %a: %a, not %a", v, got_b, want_b);
	if (memcmp(&want_h, &got_h, 8))
		ck_abort_msg("f16 of %a: %a, not %a", v, got_h, want_h);
	if ((double)(float)v == v && (f32_to_bf16((float)v) != f64_to_bf16(v) || f32_to_f16((float)v) != f64_to_f16(v)))
		ck_abort_msg("%a: from fp32 it gives other bits than from fp64", v);
}

static void check_around(double v)
{
	float f = (float)v;

	check_f64(v);
	check_f64(nextafter(v, INFINITY));
	check_f64(nextafter(v, -INFINITY));
	check_f64((double)f);
	check_f64((double)nextafterf(f, INFINITY));
	check_f64((double)nextafterf(f, -INFINITY));
}

START_TEST(widening_is_exact)
{
	for (uint32_t h = 0; h < 65536; h++) {
		double b = slow_value((uint16_t)h, 7, 127), f = slow_value((uint16_t)h, 10, 15);

		if (isnan(b))
			ck_assert(isnan(bf16_to_f32((uint16_t)h)));
		else
			ck_assert((double)bf16_to_f32((uint16_t)h) == b && !signbit(b) == !signbit(bf16_to_f32((uint16_t)h)));
		if (isnan(f))
			ck_assert(isnan(f16_to_f32((uint16_t)h)));
		else
			ck_assert((double)f16_to_f32((uint16_t)h) == f && !signbit(f) == !signbit(f16_to_f32((uint16_t)h)));
	}
}
END_TEST

START_TEST(narrowing_is_one_rounding)
{
	static const int kinds[2][2] = { { 7, 127 }, { 10, 15 } };

	for (int k = 0; k < 2; k++)
		for (uint32_t h = 0; h < 65536; h++) {
			double v = slow_value((uint16_t)h, kinds[k][0], kinds[k][1]);
			double next = slow_value((uint16_t)(h + 1), kinds[k][0], kinds[k][1]);

			if (!isfinite(v))
				continue;
			if (!isfinite(next)) /* the largest: the next would be a power of two */
				next = v * (1 + ldexp(1, -kinds[k][0]) / (2 - ldexp(1, -kinds[k][0])));
			check_around(v);
			check_around((v + next) / 2);
		}
	check_around(DBL_MAX);
	check_around(-DBL_MAX);
	check_around(FLT_MAX);
	check_around(5e-324);
	check_f64(INFINITY);
	check_f64(-INFINITY);
}
END_TEST

START_TEST(nan_stays_quiet)
{
	static const uint32_t nans[] = { 0x7f800001, 0x7fc00000, 0xffffffff, 0xff800001 };

	for (size_t i = 0; i < 4; i++) {
		float f;

		memcpy(&f, &nans[i], 4);
		ck_assert_uint_eq(f32_to_bf16(f) & 0x7fc0, 0x7fc0);
		ck_assert_uint_eq(f32_to_f16(f) & 0x7e00, 0x7e00);
		ck_assert_uint_eq(f64_to_bf16((double)f) & 0x7fc0, 0x7fc0);
		ck_assert_uint_eq(f64_to_f16((double)f) & 0x7e00, 0x7e00);
		ck_assert_uint_eq(f32_to_f16(f) >> 15, nans[i] >> 31);
	}
}
END_TEST

START_TEST(arrays_and_odd_addresses)
{
	static const enum dtype kinds[] = { DT_F32, DT_F16, DT_BF16, DT_F64 };
	float in[1003], out[1003];
	uint8_t mid[1003 * 8 + 1];

	for (int i = 0; i < 1003; i++)
		in[i] = (float)(i - 500) / 8; /* exact in all of them */
	for (size_t k = 0; k < 4; k++) {
		from_f32(kinds[k], in, mid + 1, 1003);
		to_f32(kinds[k], mid + 1, out, 1003);
		if (kinds[k] == DT_BF16)
			for (int i = 0; i < 1003; i++)
				ck_assert(out[i] == bf16_to_f32(f32_to_bf16(in[i])));
		else
			ck_assert_mem_eq(in, out, sizeof(in));
	}
}
END_TEST

START_TEST(the_first_that_is_not_finite)
{
	static float f[9000];
	static uint16_t h[9000];
	static unsigned char odd[2 * 9000 + 1];
	struct tensor t = { "t", DT_F32, 2, { 90, 100 }, sizeof(f), f };
	const uint16_t f16_max = 0x7bff, bf16_max = 0x7f7f;

	for (size_t i = 0; i < 9000; i++)
		f[i] = i % 2 ? FLT_MAX : -FLT_TRUE_MIN;
	ck_assert_int_eq(tensor_find_nonfinite(&t), -1);
	f[8999] = NAN;
	ck_assert_int_eq(tensor_find_nonfinite(&t), 8999);
	f[4096] = -INFINITY;
	ck_assert_int_eq(tensor_find_nonfinite(&t), 4096);
	for (int type = 0; type < 2; type++) {
		t = (struct tensor){ "t", type ? DT_BF16 : DT_F16, 1, { 9000 }, sizeof(h), odd + 1 };
		for (size_t i = 0; i < 9000; i++)
			h[i] = type ? bf16_max : f16_max;
		memcpy(odd + 1, h, sizeof(h));
		ck_assert_int_eq(tensor_find_nonfinite(&t), -1);
		h[5000] = type ? 0xff80 : 0xfc01; /* minus infinity, a NaN */
		memcpy(odd + 1, h, sizeof(h));
		ck_assert_int_eq(tensor_find_nonfinite(&t), 5000);
	}
	t = (struct tensor){ "t", DT_F32, 1, { 0 }, 0, NULL };
	ck_assert_int_eq(tensor_find_nonfinite(&t), -1);
}
END_TEST

START_TEST(the_first_beyond_fp16)
{
	static float f[5000];
	static uint16_t h[5000];
	struct tensor t = { "t", DT_F32, 1, { 5000 }, sizeof(f), f };

	for (size_t i = 0; i < 5000; i++)
		f[i] = i % 2 ? 65504 : -65504;
	ck_assert_int_eq(tensor_find_beyond_f16(&t), -1);
	f[4999] = nextafterf(-65504, -INFINITY);
	ck_assert_int_eq(tensor_find_beyond_f16(&t), 4999);
	f[4098] = 1e30f;
	ck_assert_int_eq(tensor_find_beyond_f16(&t), 4098);
	t = (struct tensor){ "t", DT_BF16, 1, { 5000 }, sizeof(h), h };
	for (size_t i = 0; i < 5000; i++)
		h[i] = 0xc77f; /* -65280: the next is 65536 */
	ck_assert_int_eq(tensor_find_beyond_f16(&t), -1);
	h[4500] = 0xc780;
	ck_assert_int_eq(tensor_find_beyond_f16(&t), 4500);
	t.dtype = DT_F16;
	for (size_t i = 0; i < 5000; i++)
		h[i] = 0xfbff;
	ck_assert_int_eq(tensor_find_beyond_f16(&t), -1);
}
END_TEST

START_TEST(names)
{
	enum dtype t;

	for (int i = 0; i < DT_N; i++) {
		ck_assert(dtype_from_st(dtype_st_name((enum dtype)i), &t) && t == (enum dtype)i);
		ck_assert(dtype_from_hf(dtype_hf_name((enum dtype)i), &t) && t == (enum dtype)i);
		ck_assert_uint_gt(dtype_bytes((enum dtype)i), 0);
	}
	ck_assert(dtype_from_hf("torch.bfloat16", &t) && t == DT_BF16);
	ck_assert(!dtype_from_st("F8_E4M3", &t) && !dtype_from_hf("float8", &t) && !dtype_from_st("", &t));
}
END_TEST

int main(void)
{
	Suite *s = suite_create("dtype");
	TCase *c = tcase_create("all");

	tcase_set_timeout(c, 120);
	tcase_add_test(c, widening_is_exact);
	tcase_add_test(c, narrowing_is_one_rounding);
	tcase_add_test(c, nan_stays_quiet);
	tcase_add_test(c, arrays_and_odd_addresses);
	tcase_add_test(c, the_first_that_is_not_finite);
	tcase_add_test(c, the_first_beyond_fp16);
	tcase_add_test(c, names);
	suite_add_tcase(s, c);
	return run_tests(s);
}

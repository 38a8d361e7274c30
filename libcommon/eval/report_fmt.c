/* Figures for people. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "eval/report.h"

#define SIZE 32

char *fmt_count(double v, char buf[SIZE])
{
	char digits[SIZE];
	size_t n, out = 0;

	if (isnan(v) || fabs(v) >= 1e15) {
		snprintf(buf, SIZE, isnan(v) ? "-" : "%.3g", v);
		return buf;
	}
	snprintf(digits, sizeof(digits), "%.0f", v);
	n = strlen(digits);
	for (size_t i = 0; i < n && out + 2 < SIZE; i++) {
		buf[out++] = digits[i];
		if ((n - i) % 3 == 1 && i + 1 < n && digits[i] != '-')
			buf[out++] = ',';
	}
	buf[out] = '\0';
	return buf;
}

char *fmt_bytes(double v, char buf[SIZE])
{
	static const char *const units[] = { "B", "KiB", "MiB", "GiB", "TiB" };
	int u = 0;

	if (isnan(v)) {
		snprintf(buf, SIZE, "-");
		return buf;
	}
	for (; v >= 1024 && u < 4; u++)
		v /= 1024;
	snprintf(buf, SIZE, u && v < 100 ? "%.1f %s" : "%.0f %s", v, units[u]);
	return buf;
}

char *fmt_seconds(double v, char buf[SIZE])
{
	if (isnan(v) || v < 0 || v > 1e9)
		snprintf(buf, SIZE, "-");
	else if (v < 60)
		snprintf(buf, SIZE, v < 9.95 ? "%.1f s" : "%.0f s", v);
	else if (v < 3600)
		snprintf(buf, SIZE, "%d min %02d s", (int)(v / 60), (int)v % 60);
	else
		snprintf(buf, SIZE, "%d h %02d min", (int)(v / 3600), (int)v % 3600 / 60);
	return buf;
}

char *fmt_loss(double v, char buf[SIZE])
{
	if (isnan(v))
		snprintf(buf, SIZE, "-");
	else
		snprintf(buf, SIZE, fabs(v) >= 1000 ? "%.3g" : fabs(v) >= 10 ? "%.2f" : "%.4f", v);
	return buf;
}

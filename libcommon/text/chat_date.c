#include <stdio.h>
#include <time.h>

#include "text/tmpl.h"

int chat_set_date(struct chat_render_opts *o, const char *date, bool pin, char date_string[32], struct err *e)
{
	struct tm tm = { 0 }, back;
	char rest;
	int y, m, d;
	time_t t;

	if (sscanf(date, "%4d-%2d-%2d%c", &y, &m, &d, &rest) != 3)
		return err_set(e, LP_USAGE, "--date '%s' is not YYYY-MM-DD", date);
	tm.tm_year = y - 1900;
	tm.tm_mon = m - 1;
	tm.tm_mday = d;
	t = timegm(&tm);
	gmtime_r(&t, &back);
	if (back.tm_mday != d || back.tm_mon != m - 1)
		return err_set(e, LP_USAGE, "--date '%s' is no day of the calendar", date);
	o->now = (int64_t)t;
	/* as Llama's templates write it */
	strftime(date_string, 32, "%d %b %Y", &back);
	if (pin)
		o->date_string = date_string;
	return 0;
}

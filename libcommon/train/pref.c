#include "train/pref.h"

#include <string.h>

/* Which options each has, and what they are when nobody says: those of its paper. */
static const struct {
	const char *name;
	enum kn_pref_method method;
	bool reference, smoothing;
	double beta, gamma, weight; /* 0: it has none */
} methods[] = {
	{ "dpo", KN_PREF_DPO, true, true, 0.1, 0, 0 },     { "ipo", KN_PREF_IPO, true, false, 0.1, 0, 0 },  { "orpo", KN_PREF_ORPO, false, false, 0.1, 0, 0 },
	{ "simpo", KN_PREF_SIMPO, false, true, 2, 1, 0 }, { "kto", KN_PREF_KTO, true, false, 0.1, 0, 1 }, { "reward", KN_PREF_REWARD, false, false, 0, 0, 0 },
};
enum { METHODS = sizeof(methods) / sizeof(*methods) };

static int of(enum kn_pref_method m)
{
	int i = 0;

	while (methods[i].method != m)
		i++;
	return i;
}

const char *pref_name(enum kn_pref_method m)
{
	return methods[of(m)].name;
}

bool pref_has_reference(enum kn_pref_method m)
{
	return methods[of(m)].reference;
}

/* The value given, or the method's own; one that it has not must not be given. */
static int take(const char *method, const char *option, bool has, double given, double own, double *to, struct err *e)
{
	*to = given < 0 ? own : given;
	return given < 0 || has ? 0 : err_set(e, LP_USAGE, "--%s is no option of --method %s; leave it out", option, method);
}

int pref_parse(const char *method, const struct pref_options *o, struct kn_pref_rule *r, bool *on, struct err *e)
{
	int i = 0;

	while (i < METHODS && strcmp(methods[i].name, method) != 0)
		i++;
	*on = i < METHODS;
	*r = (struct kn_pref_rule){ .method = *on ? methods[i].method : KN_PREF_DPO };
	if (take(method, "beta", *on && methods[i].beta > 0, o->beta, *on ? methods[i].beta : 0, &r->beta, e) < 0 ||
	    take(method, "label-smoothing", *on && methods[i].smoothing, o->smoothing, 0, &r->smoothing, e) < 0 ||
	    take(method, "margin", *on && methods[i].gamma > 0, o->gamma, *on ? methods[i].gamma : 0, &r->gamma, e) < 0 ||
	    take(method, "desirable-weight", *on && methods[i].weight > 0, o->desirable, 1, &r->desirable, e) < 0 ||
	    take(method, "undesirable-weight", *on && methods[i].weight > 0, o->undesirable, 1, &r->undesirable, e) < 0)
		return -1;
	if (o->reference && !(*on && methods[i].reference))
		return err_set(e, LP_USAGE, "--reference is no option of --method %s, which looks at no other model; leave it out", method);
	return 0;
}

void pref_describe(const struct kn_pref_rule *r, bool started, struct sb *out)
{
	const int i = of(r->method);

	sb_addf(out, "method     %s", methods[i].name);
	if (methods[i].beta > 0)
		sb_addf(out, ", beta %g", r->beta);
	if (r->smoothing > 0)
		sb_addf(out, ", label smoothing %g", r->smoothing);
	if (methods[i].gamma > 0)
		sb_addf(out, ", margin %g", r->gamma);
	if (methods[i].weight > 0)
		sb_addf(out, ", weights %g and %g", r->desirable, r->undesirable);
	if (methods[i].reference)
		sb_addf(out, "; the reference is the model %s", started ? "with the adapter that the run starts from" : "without adapter");
	sb_addc(out, '\n');
}

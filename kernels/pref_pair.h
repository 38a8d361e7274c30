/* What each preference method makes of a pair, or of one answer: its loss, the loss's derivatives and the rewards, from what the model
 * and its reference give the answers. Nothing but these numbers goes in, so a loss cannot depend on what else a batch holds. In fp64.
 * Compiled for the host by pref.c and for the device by pref.cu, which says so in KN_PREF_FN. */
#ifndef LP_KERNELS_PREF_PAIR_H
#define LP_KERNELS_PREF_PAIR_H

#include <math.h>

#include "kernels/pref.h"

#ifndef KN_PREF_FN
#define KN_PREF_FN static inline
#endif

struct kn_pref_answer {
	double value, ref; /* log-probability, or score; the reference's */
	double n;          /* target tokens */
};
struct kn_pref_out { /* of the chosen answer, of the rejected one */
	double loss, d[2], reward[2];
};

KN_PREF_FN double pref_log_sigmoid(double x)
{
	return x < 0 ? x - log1p(exp(x)) : -log1p(exp(-x));
}

KN_PREF_FN double pref_sigmoid(double x)
{
	return x < 0 ? exp(x) / (1 + exp(x)) : 1 / (1 + exp(-x));
}

/* -(1 - eps) log sigmoid(z) - eps log sigmoid(-z): labels are wrong with probability eps (Mitchell's conservative DPO). */
KN_PREF_FN double pref_smooth(double z, double eps, double *d)
{
	*d = eps * pref_sigmoid(z) - (1 - eps) * pref_sigmoid(-z);
	return -(1 - eps) * pref_log_sigmoid(z) - eps * pref_log_sigmoid(-z);
}

/* Rafailov et al. 2023. */
KN_PREF_FN void pref_dpo(const struct kn_pref_rule *r, const struct kn_pref_answer *w, const struct kn_pref_answer *l, struct kn_pref_out *o)
{
	double d;

	o->reward[0] = r->beta * (w->value - w->ref);
	o->reward[1] = r->beta * (l->value - l->ref);
	o->loss = pref_smooth(o->reward[0] - o->reward[1], r->smoothing, &d);
	o->d[0] = r->beta * d;
	o->d[1] = -r->beta * d;
}

/* Azar et al. 2023, of means over tokens, as its authors and TRL have it. */
KN_PREF_FN void pref_ipo(const struct kn_pref_rule *r, const struct kn_pref_answer *w, const struct kn_pref_answer *l, struct kn_pref_out *o)
{
	double h = (w->value - w->ref) / w->n - (l->value - l->ref) / l->n - 1 / (2 * r->beta);

	o->reward[0] = r->beta * (w->value - w->ref);
	o->reward[1] = r->beta * (l->value - l->ref);
	o->loss = h * h;
	o->d[0] = 2 * h / w->n;
	o->d[1] = -2 * h / l->n;
}

/* Meng et al. 2024: no reference, means over tokens, a margin. */
KN_PREF_FN void pref_simpo(const struct kn_pref_rule *r, const struct kn_pref_answer *w, const struct kn_pref_answer *l, struct kn_pref_out *o)
{
	double d;

	o->reward[0] = r->beta * w->value / w->n;
	o->reward[1] = r->beta * l->value / l->n;
	o->loss = pref_smooth(o->reward[0] - o->reward[1] - r->gamma, r->smoothing, &d);
	o->d[0] = r->beta * d / w->n;
	o->d[1] = -r->beta * d / l->n;
}

/* A mean log-probability that has odds: a certain answer has none. */
KN_PREF_FN double pref_mean(const struct kn_pref_answer *a)
{
	double x = a->value / a->n;

	return x > -1e-9 ? -1e-9 : x;
}

/* Hong et al. 2024: the likelihood of the chosen answer, and beta times the logarithm of the odds' ratio. */
KN_PREF_FN void pref_orpo(const struct kn_pref_rule *r, const struct kn_pref_answer *w, const struct kn_pref_answer *l, struct kn_pref_out *o)
{
	double a = pref_mean(w), b = pref_mean(l), odds = a - b - log(-expm1(a)) + log(-expm1(b));
	double d = -r->beta * pref_sigmoid(-odds); /* of the loss by odds; and odds by a: 1 / (1 - e^a) */

	o->reward[0] = r->beta * a;
	o->reward[1] = r->beta * b;
	o->loss = -a - r->beta * pref_log_sigmoid(odds);
	o->d[0] = (-1 - d / expm1(a)) / w->n;
	o->d[1] = d / expm1(b) / l->n;
}

/* Bradley and Terry, of two scores. */
KN_PREF_FN void pref_scores(const struct kn_pref_answer *w, const struct kn_pref_answer *l, struct kn_pref_out *o)
{
	double d;

	o->reward[0] = w->value;
	o->reward[1] = l->value;
	o->loss = pref_smooth(w->value - l->value, 0, &d);
	o->d[0] = d;
	o->d[1] = -d;
}

KN_PREF_FN void pref_pair(const struct kn_pref_rule *r, const struct kn_pref_answer *w, const struct kn_pref_answer *l, struct kn_pref_out *o)
{
	switch (r->method) {
	case KN_PREF_IPO:
		pref_ipo(r, w, l, o);
		break;
	case KN_PREF_SIMPO:
		pref_simpo(r, w, l, o);
		break;
	case KN_PREF_ORPO:
		pref_orpo(r, w, l, o);
		break;
	case KN_PREF_REWARD:
		pref_scores(w, l, o);
		break;
	default:
		pref_dpo(r, w, l, o);
	}
}

/* Ethayarajh et al. 2024: one answer, good or not; z0 says how far the model has gone from its reference on answers that do not
 * belong to the prompt, and is no function of this one. Into o's first places. */
KN_PREF_FN void pref_kto(const struct kn_pref_rule *r, const struct kn_pref_answer *a, int good, double z0, struct kn_pref_out *o)
{
	double x = a->value - a->ref - z0, weight = good ? r->desirable : r->undesirable, p = pref_sigmoid(r->beta * x), q = pref_sigmoid(-r->beta * x);

	o->reward[0] = r->beta * (a->value - a->ref);
	o->loss = weight * (good ? q : p);
	o->d[0] = weight * r->beta * p * q * (good ? -1 : 1);
}

#endif

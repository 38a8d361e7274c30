#include "kernels/pref.h"

#include "kernels/device.h"
#include "kernels/pref_pair.h"

void kn_pref_values_cpu(struct device *d, const struct kn_pref *p, const double *nll)
{
	(void)d;
	for (int64_t s = 0; s < p->n_seqs; s++) {
		double sum = 0;

		for (int64_t i = p->tgt_start[s]; i < p->tgt_start[s + 1]; i++)
			sum += nll[i];
		p->value[s] = -sum;
	}
}

static struct kn_pref_answer answer(const struct kn_pref *p, int64_t s)
{
	return (struct kn_pref_answer){ p->value[s], p->ref[s], (double)(p->tgt_start[s + 1] - p->tgt_start[s]) };
}

/* What one answer adds to the sums: k 0, chosen; 1, rejected. */
static void tell(const struct kn_pref *p, int k, double reward, double value)
{
	p->sums[KN_PREF_REWARD_CHOSEN + k] += reward;
	p->sums[KN_PREF_VALUE_CHOSEN + k] += value;
}

static void one_pair(const struct kn_pref *p, int64_t s)
{
	struct kn_pref_answer w = answer(p, s), l = answer(p, p->mate[s]);
	struct kn_pref_out o;

	pref_pair(&p->rule, &w, &l, &o);
	p->factor[s] = o.d[0];
	p->factor[p->mate[s]] = o.d[1];
	*p->loss += o.loss;
	tell(p, 0, o.reward[0], w.value);
	tell(p, 1, o.reward[1], l.value);
	p->sums[KN_PREF_RIGHT] += o.reward[0] > o.reward[1];
}

static void one_answer(const struct kn_pref *p, int64_t s)
{
	struct kn_pref_answer a = answer(p, s);
	double z0 = p->sums[KN_PREF_DRIFT] / (double)*p->drift_of;
	struct kn_pref_out o;

	pref_kto(&p->rule, &a, p->good[s], z0 < 0 ? 0 : z0, &o);
	p->factor[s] = o.d[0];
	*p->loss += o.loss;
	tell(p, !p->good[s], o.reward[0], a.value);
}

void kn_pref_loss_cpu(struct device *d, const struct kn_pref *p)
{
	(void)d;
	for (int64_t s = 0; s < p->n_seqs; s++) {
		if (p->rule.method == KN_PREF_KTO)
			one_answer(p, s);
		else if (p->good[s])
			one_pair(p, s);
	}
}

void kn_pref_rows_cpu(struct device *d, const struct kn_pref *p, void *x, int64_t ldx, const int32_t *row, int64_t c)
{
	(void)d;
	for (int64_t s = 0; s < p->n_seqs; s++)
		for (int64_t i = p->tgt_start[s]; i < p->tgt_start[s + 1]; i++) {
			float *y = (float *)x + row[i] * ldx, by = (float)-p->factor[s];

			for (int64_t j = 0; j < c; j++)
				y[j] *= by;
		}
}

void kn_pref_drift_cpu(struct device *d, const struct kn_pref *p)
{
	(void)d;
	for (int64_t s = 0; s < p->n_seqs; s++)
		p->sums[KN_PREF_DRIFT] += p->value[s] - p->ref[s];
}

void kn_score_fwd_cpu(struct device *d, double *value, const void *h, const float *w, int64_t n, int64_t c)
{
	(void)d;
	for (int64_t i = 0; i < n; i++) {
		const float *x = (const float *)h + i * c;
		double sum = 0;

		for (int64_t j = 0; j < c; j++)
			sum += (double)x[j] * (double)w[j];
		value[i] = sum;
	}
}

void kn_score_bwd_cpu(struct device *d, void *dh, float *dw, const double *factor, const void *h, const float *w, const float *scale, int64_t n, int64_t c)
{
	(void)d;
	for (int64_t j = 0; j < c; j++) {
		double sum = 0;

		for (int64_t i = 0; i < n; i++) {
			double f = (double)*scale * factor[i];

			sum += f * (double)((const float *)h)[i * c + j];
			((float *)dh)[i * c + j] = (float)(f * (double)w[j]);
		}
		dw[j] += (float)sum;
	}
}

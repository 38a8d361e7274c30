#include "train/grpo.h"

#include <math.h>
#include <string.h>

#include "base/num.h"

static const char *const losses[] = { "dapo", "grpo", "dr_grpo" }, *const scales[] = { "group", "batch", "none" };

static int find(const char *const *names, const char *name)
{
	int i = 0;

	while (strcmp(names[i], name) != 0)
		i++;
	return i;
}

/* "1,0.5": a number for each command. */
static int parse_weights(struct grpo_config *c, const char *text, struct err *e)
{
	size_t n = 0;

	for (size_t i = 0; i < c->n_rewards; i++)
		c->weights[i] = 1;
	for (const char *p = text; p && *p; n++) {
		size_t len = strcspn(p, ",");
		char number[40];

		if (len < sizeof(number))
			memcpy(number, p, len);
		number[len < sizeof(number) ? len : 0] = 0;
		if (n < c->n_rewards && !parse_f64(number, &c->weights[n]))
			return err_set(e, LP_USAGE, "--reward-weights takes numbers as in 1,0.5, not '%s'", text);
		p += len + (p[len] == ',');
	}
	return !text || n == c->n_rewards ? 0 : err_set(e, LP_USAGE, "--reward-weights has %zu numbers for %zu rewards", n, c->n_rewards);
}

int grpo_parse(struct grpo_config *c, const struct grpo_options *o, int64_t step, struct err *e)
{
	c->loss = (enum grpo_loss)find(losses, o->loss_type);
	c->scale = (enum grpo_scale)find(scales, o->scale_rewards);
	c->rule.unbiased = strcmp(o->kl, "unbiased") == 0;
	c->rule.high = o->epsilon_high < 0 ? c->rule.low : o->epsilon_high;
	c->rule.on_policy = c->updates == 1;
	if (c->n_rewards == 0)
		return err_set(e, LP_USAGE, "--method grpo needs a reward; give --reward 'COMMAND' that reads completion records and writes a number a line");
	if (c->n_rewards > GRPO_REWARDS)
		return err_set(e, LP_USAGE, "at most %d rewards, not %zu", GRPO_REWARDS, c->n_rewards);
	if (step % c->group)
		return err_set(e, LP_USAGE, "a step has %lld completions (--batch times --accumulate), and they have to be whole groups of %lld (--group)", (long long)step,
		               (long long)c->group);
	return parse_weights(c, o->reward_weights, e);
}

void grpo_describe(const struct grpo_config *c, bool started, struct sb *out)
{
	sb_addf(out, "method     grpo, groups of %lld, at most %lld new tokens, temperature %g, top-p %g, %lld update%s; loss %s, advantages by %s, epsilon %g and %g",
	        (long long)c->group, (long long)c->max_new, c->rule.temperature, c->top_p, (long long)c->updates, c->updates == 1 ? "" : "s", losses[c->loss],
	        scales[c->scale], c->rule.low, c->rule.high);
	if (c->rule.beta > 0)
		sb_addf(out, "; beta %g, the reference is the model %s", c->rule.beta, started ? "with the adapter that the run starts from" : "without adapter");
	sb_addc(out, '\n');
	for (size_t i = 0; i < c->n_rewards; i++)
		sb_addf(out, "reward     %g of %s\n", c->weights[i], c->rewards[i]);
}

struct grpo_stats grpo_stats(const double *x, int64_t n)
{
	struct grpo_stats s = { 0, 0 };

	for (int64_t i = 0; i < n; i++)
		s.mean += x[i];
	s.mean /= (double)n;
	for (int64_t i = 0; i < n; i++)
		s.std += (x[i] - s.mean) * (x[i] - s.mean);
	s.std = n > 1 ? sqrt(s.std / (double)(n - 1)) : 0;
	return s;
}

int64_t grpo_advantages(const double *reward, int64_t n, int64_t group, enum grpo_scale scale, double *adv)
{
	double all = grpo_stats(reward, n).std;
	int64_t flat = 0;

	for (int64_t i = 0; i < n; i += group) {
		struct grpo_stats g = grpo_stats(reward + i, group);
		double by = scale == GRPO_SCALE_NONE ? 1 : (scale == GRPO_SCALE_GROUP ? g.std : all) + 1e-4;

		for (int64_t j = i; j < i + group; j++)
			adv[j] = (reward[j] - g.mean) / by;
		flat += g.std < 1e-8;
	}
	return flat;
}

/* GRPO's options, and what a group's rewards make of its completions. The names are TRL's. */
#ifndef LP_TRAIN_GRPO_H
#define LP_TRAIN_GRPO_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "base/sb.h"
#include "kernels/grpo.h"

/* What the loss of a step is divided by: its tokens; each completion's tokens, then its completions; its completions, all as long as may be. */
enum grpo_loss { GRPO_DAPO, GRPO_GRPO, GRPO_DR_GRPO };
/* What advantages are divided by: the deviation of the group's rewards, of the step's, or nothing. */
enum grpo_scale { GRPO_SCALE_GROUP, GRPO_SCALE_BATCH, GRPO_SCALE_NONE };
enum { GRPO_REWARDS = 8 }; /* commands at most */

struct grpo_config {
	const char *const *rewards;   /* (n_rewards) commands (reward.h) */
	size_t n_rewards;
	double weights[GRPO_REWARDS]; /* of their sum */
	double timeout;               /* seconds of a command for a step's completions, 0: any */
	int64_t group;                /* completions of a prompt */
	int64_t max_new, top_k;       /* of the sampling, like top_p and the rule's temperature */
	double top_p;
	int64_t at_once;              /* completions that are made at once, 0: a step's, at most 64 */
	int64_t updates;              /* steps that see the same completions */
	bool raw;                     /* {"prompt"} is the text itself */
	bool mask_truncated;          /* completions without an end token are not learnt from */
	enum grpo_loss loss;
	enum grpo_scale scale;
	struct kn_grpo_rule rule;
};

/* As a user gave them, where they are text. */
struct grpo_options {
	const char *loss_type, *scale_rewards, *kl, *reward_weights;
	double epsilon_high; /* below 0: as epsilon */
};
/* Fills in what is text, and checks what has to go together; a step has `step` completions. LP_USAGE. */
int grpo_parse(struct grpo_config *c, const struct grpo_options *o, int64_t step, struct err *e) LP_MUST_USE;
/* A line for people. */
void grpo_describe(const struct grpo_config *c, bool started, struct sb *out);

/* What is told of n numbers; the deviation is the sample's, 0 of one alone. */
struct grpo_stats {
	double mean, std;
};
struct grpo_stats grpo_stats(const double *x, int64_t n);
/* Of n rewards, group after group: adv (n). Returns how many of the groups have rewards that do not differ: these teach nothing. */
int64_t grpo_advantages(const double *reward, int64_t n, int64_t group, enum grpo_scale scale, double *adv);

#endif

/* Answers to given prompts while a run goes on, greedy, to the log: what loss
 * curves do not show. They take no random numbers, and change no bit of the run. */
#ifndef LP_TRAIN_SAMPLE_H
#define LP_TRAIN_SAMPLE_H

#include "train/run_int.h"

/* Reads the prompts of config.prompts with the model's tokenizer and template (without one they are raw text); sets
 * r->sampler, or nothing when config asks for no samples. Before the plan. */
int sampler_open(struct run *r, struct err *e) LP_MUST_USE;
/* What the plan has to hold: tokens of the longest prompt with its answer; 0 without a sampler. */
int64_t sampler_context(const struct run *r);
int64_t sampler_batch(const struct run *r); /* prompts at once */
/* Device memory of its key-value cache. */
uint64_t sampler_bytes(const struct run *r);
/* Takes that memory; the engine is loaded. */
int sampler_start(struct run *r, struct err *e) LP_MUST_USE;
/* Answers all prompts: a "sample" record each. */
int sampler_run(struct run *r, struct err *e) LP_MUST_USE;
void sampler_close(struct run *r);

#endif

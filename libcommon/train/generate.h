/* Decoding with a key-value cache: a batch of prompts is read in one forward
 * pass, then grows token by token. */
#ifndef LP_TRAIN_GENERATE_H
#define LP_TRAIN_GENERATE_H

#include "train/engine.h"

struct gen_options {
	int64_t max_new;
	double temperature;   /* 0: greedy, the lowest id among equals */
	double top_p;         /* (0, 1]: smallest set of tokens with this probability */
	int64_t top_k;        /* 0: all */
	uint64_t seed;        /* a draw is keyed by (seed, stream, position): batches change nothing */
	const int32_t *stop;  /* tokens that end a response */
	int64_t n_stop;
};

enum gen_finish { GEN_STOP, GEN_LENGTH, GEN_CONTEXT };

struct gen_seq {
	/* in */
	const int32_t *prompt;
	int64_t n_prompt;
	uint64_t stream;
	/* out: n_new tokens at out (caller's room: max_new), the stop token, which is in end, not among them */
	int32_t *out, end;
	int64_t n_new;
	enum gen_finish finish;
	double logprob; /* sum over the new tokens, the stop token's too */
};

enum { GEN_RECORDINGS = 16 };

/* What a device that decodes by itself needs (engine_decode): the tokens of a burst of steps, and the recording of a
 * step for each number of rows that was met. */
struct gen_steps {
	int32_t *count, *out; /* (batch), (batch, burst): device memory */
	double *logprob;      /* (batch, burst): device memory */
	int32_t *out_host;
	double *logprob_host;
	struct {
		int64_t rows;
		void *recording;
		bool seen;    /* once without a recording: what is made at first use is there */
	} rec[GEN_RECORDINGS];
};

struct generator {
	struct engine *g;
	int64_t batch, context;
	struct kn_kv_cache cache; /* slots of (layers, context, NKV * D) */
	void *memory;
	struct microbatch mb; /* its rec: which slot each token belongs to */
	int32_t *slot;        /* (batch): the sequence of each row that predicts */
	float *logits;        /* (chunk, V) host copy */
	struct chosen *chosen; /* (chunk) */
	int threads;
	uint32_t *idx;        /* (threads, V) sampling scratch */
	double *prob;         /* (threads, V) */
	struct gen_steps steps;
};
/* g: planned with train = false, max_tokens >= context and >= batch, and loaded.
 * context: most tokens of prompt and response together. */
int generator_init(struct generator *n, struct engine *g, int64_t batch, int64_t context, struct err *e) LP_MUST_USE;
void generator_release(struct generator *n);
uint64_t generator_bytes(const struct device *d, const struct model_desc *m, int64_t batch, int64_t context);
/* Completes up to n->batch sequences. A prompt of context tokens or more is LP_DATA. */
int generator_run(struct generator *n, struct gen_seq *s, int64_t count, const struct gen_options *o, struct err *e) LP_MUST_USE;

#endif

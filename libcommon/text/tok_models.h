/* The models other than BPE: Unigram, WordPiece, WordLevel. */
#ifndef LP_TEXT_TOK_MODELS_H
#define LP_TEXT_TOK_MODELS_H

#include "text/bpe.h"

struct unigram;
/* vocab: [["piece", score], ...] by id; fills v. */
struct unigram *unigram_new(const struct json *model, struct vocab *v, struct err *e) LP_MUST_USE;
/* SentencePiece's own arithmetic, in single precision: the pieces that v holds,
 * unknown characters a token each. */
struct unigram_scores {
	const float *score;   /* by id of v */
	const bool *chosen;   /* by id: user-defined, preferred to all others */
	const bool *unused;   /* by id: never taken */
	float min, max;       /* of normal pieces */
	int32_t unk;
};
struct unigram *unigram_from_scores(const struct vocab *v, const struct unigram_scores *s, struct err *e) LP_MUST_USE;
void unigram_free(struct unigram *u);
struct unigram_mem;
struct unigram_mem *unigram_mem_new(void);
void unigram_mem_free(struct unigram_mem *m);
int unigram_encode(const struct unigram *u, struct unigram_mem *m, const char *s, size_t n, struct mtoks *out, struct err *e) LP_MUST_USE;

struct wordpiece; /* WordLevel too: whole words only */
struct wordpiece *wordpiece_new(const struct json *model, const struct vocab *v, bool whole_words, struct err *e) LP_MUST_USE;
void wordpiece_free(struct wordpiece *w);
int wordpiece_encode(const struct wordpiece *w, const char *s, size_t n, struct mtoks *out, struct err *e) LP_MUST_USE;

#endif

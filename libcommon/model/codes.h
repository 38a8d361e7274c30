/* What a base in 4 bits shares with the 16-bit model that it was made from: the
 * codes. An adapter that was trained on the former carries their digests, and so fits
 * any model whose projections quantise to them. */
#ifndef LP_MODEL_CODES_H
#define LP_MODEL_CODES_H

#include "fmt/peft.h"
#include "model/arch.h"
#include "model/source.h"

/* {"PATH":HEX,...}: the SHA-256 of the codes of each projection of s that is in 4 bits, PATH as "model.layers.0.self_attn.q_proj".
 * Empty when there is none. The source has been read. */
void codes_json(struct model_source *s, const struct model_desc *m, struct sb *out);
/* 1: every projection of that object is in s, a directory, in 16 or 32 bits, and quantises to its codes; 0: not so, and *first
 * (ARCH_NAME bytes) is the first that does not; -1: the text is no such object (LP_DATA), or memory is short. */
int codes_match(struct model_source *s, const char *codes, char *first, struct err *e) LP_MUST_USE;
/* LP_USAGE when the adapter p was trained on another base than s, whose identity is given: neither the same nor one that has
 * the codes of it. An adapter that does not say its base fits. */
int codes_check_base(const struct peft *p, const char *adapter, struct model_source *s, const char *identity, struct err *e) LP_MUST_USE;

#endif

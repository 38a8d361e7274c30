/* SentencePiece: its normaliser, and the tokeniser that it and the pieces make,
 * equal to SentencePiece 0.2.3 id for id. */
#ifndef LP_TEXT_SPM_H
#define LP_TEXT_SPM_H

#include "text/bpe.h"
#include "text/spm_file.h"

/* --- the precompiled character map --- */
struct charsmap {
	uint32_t *units;  /* double array */
	size_t n_units;
	char *texts;      /* replacements, NUL between them */
	size_t n_texts;
};
int charsmap_load(struct charsmap *c, const unsigned char *blob, size_t n, struct err *e) LP_MUST_USE;
void charsmap_release(struct charsmap *c);
/* The rule for the beginning of s[0..n): the longest, or the shortest. NULL:
 * none; else its replacement (NUL-terminated) with the bytes used in *used. */
const char *charsmap_find(const struct charsmap *c, const char *s, size_t n, bool shortest, size_t *used);

bool charsmap_begins(const struct charsmap *c, unsigned char byte); /* does any rule? */

/* --- the tokeniser --- */
struct spm;
struct spm *spm_new(const struct spm_file *f, struct vocab *names, struct err *e) LP_MUST_USE; /* names: every piece by id */
void spm_free(struct spm *s);
struct spm_mem;
struct spm_mem *spm_mem_new(const struct spm *s);
void spm_mem_free(struct spm_mem *m);
/* Appends the ids of text[off..off + len), which is valid UTF-8; offsets are of text. */
int spm_encode(const struct spm *s, struct spm_mem *m, const char *text, size_t off, size_t len, struct tok_out *out, struct err *e) LP_MUST_USE;
/* control: the pieces of control symbols are text too. */
void spm_decode(const struct spm *s, const int32_t *ids, size_t n, bool control, struct sb *out);
enum spm_type spm_type_of(const struct spm *s, int32_t id); /* SPM_UNUSED when there is no such piece */

#endif

/* The SentencePiece model file, a protocol buffer. */
#ifndef LP_TEXT_SPM_FILE_H
#define LP_TEXT_SPM_FILE_H

#include <stdbool.h>
#include <stddef.h>

#include "base/arena.h"
#include "base/err.h"

enum spm_type { SPM_NORMAL = 1, SPM_UNKNOWN, SPM_CONTROL, SPM_USER, SPM_UNUSED, SPM_BYTE };
enum spm_model { SPM_UNIGRAM = 1, SPM_BPE, SPM_WORD, SPM_CHAR };
struct spm_piece {
	const char *s; /* into the file's bytes; no NUL behind it */
	size_t len;
	float score;
	enum spm_type type;
};
struct spm_rules {
	const unsigned char *charsmap; /* precompiled; NULL: none */
	size_t charsmap_len;
	bool dummy_prefix;             /* a space goes before the text */
	bool remove_extra;             /* white space at the ends, and repeated */
	bool escape;                   /* spaces become U+2581 */
	bool suffix;                   /* the dummy space goes behind the text */
};
struct spm_file {
	struct spm_piece *pieces;      /* in the arena */
	size_t n;
	enum spm_model model;
	struct spm_rules rules;
	bool byte_fallback;
	int64_t bos, eos;              /* piece numbers; -1: none */
	const char *unk_surface;       /* what an unknown piece decodes to */
	size_t unk_surface_len;
	bool denormalizes;             /* rules for decoding: not followed */
};
/* Strict: any damage is LP_DATA. name is for errors. */
int spm_parse(const unsigned char *bytes, size_t n, const char *name, struct arena *a, struct spm_file *out, struct err *e) LP_MUST_USE;

#endif

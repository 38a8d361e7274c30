/* Pre-tokenisers of tokenizer.json: cut a text into the pieces that the model
 * sees. Known patterns run as hand-written scanners (pretok_scan.c), any other
 * through PCRE2; tests/unit/test_pretok.c compares both. */
#ifndef LP_TEXT_PRETOK_H
#define LP_TEXT_PRETOK_H

#include "json/json.h"
#include "text/tok_re.h"
#include "text/tok_str.h"

/* The ends of the pieces from byte i of s[0..n) on, at most max (> 0) of them; how many there are, 0 only
 * when i is n. uni: tok_uni.h's table. */
typedef size_t pretok_scan_fn(const uint8_t *uni, const char *s, size_t i, size_t n, uint32_t *end, size_t max);
pretok_scan_fn *pretok_scan_for(const char *pattern, size_t len); /* NULL: not a known pattern */
extern const char pretok_gpt2_pattern[], pretok_llama3_pattern[], pretok_qwen2_pattern[], pretok_o200k_pattern[];
extern const char pretok_cl100k_pattern[]; /* as tiktoken has it: Rust's syntax, never compiled */

enum { PRETOK_SEQ_MAX = 64, TOK_DEPTH_MAX = 8 };
enum split_behavior { SPLIT_REMOVED, SPLIT_ISOLATED, SPLIT_MERGED_PREVIOUS, SPLIT_MERGED_NEXT, SPLIT_CONTIGUOUS };

struct pretok;
int pretok_new(const struct json *v, const uint8_t *uni, struct pretok **out, struct err *e) LP_MUST_USE;
void pretok_free(struct pretok *p);
/* True when the last step is ByteLevel: pieces are bytes, nothing is mapped. */
bool pretok_is_byte_level(const struct pretok *p);
/* The one scanner that does all of it on unchanged text, or NULL. */
pretok_scan_fn *pretok_single(const struct pretok *p);
/* How text becomes marked, and no more: its spaces are U+2581 (by a normaliser that does so when normalised,
 * else by p), and one may stand before it. False: there is more to do. */
struct marking {
	bool prefix, only_first; /* of every part of a text, or of the one that begins it */
	bool unless_space;       /* not before a space or a mark */
};
bool pretok_marks(const struct pretok *p, bool normalised, struct marking *m);
/* Cuts the pieces of l (ids >= 0 stay) further; a and l are replaced. With a final
 * ByteLevel the bytes are left as they are unless map is set. */
struct pretok_mem {
	struct astr tmp;
	struct pieces tmp_l, cuts;
	struct tok_re_mem *re;
};
void pretok_mem_init(struct pretok_mem *m);
void pretok_mem_release(struct pretok_mem *m);
int pretok_apply(const struct pretok *p, struct pretok_mem *m, struct astr *a, struct pieces *l, bool map, struct err *e) LP_MUST_USE;

/* The 256 characters that stand for bytes in byte-level vocabularies. */
uint32_t byte_to_char(unsigned char b);
int char_to_byte(uint32_t cp); /* -1: none */

#endif

/* Added tokens: found in the text before anything else happens to it. */
#ifndef LP_TEXT_TOK_ADDED_H
#define LP_TEXT_TOK_ADDED_H

#include "text/tok_norm.h"
#include "text/tok_vocab.h"

struct added_token {
	char *text; /* content */
	size_t len;
	char *shown; /* as ids decode: normalised content for normalized tokens, as in the reference */
	size_t shown_len;
	int32_t id;
	bool special, normalized, lstrip, rstrip, single_word;
};
struct added_node {
	int32_t child, next; /* first child; next sibling; -1: none */
	int32_t tok;         /* index of the token that ends here; -1: none */
	unsigned char byte;
};
/* One matcher: leftmost, longest. */
struct added_set {
	struct added_node *nodes;
	size_t n, cap;
	bool first[256];
	int n_first;         /* bytes that begin one */
	unsigned char any;   /* the last of them: the only one when n_first is 1 */
};
struct added {
	struct added_token *t;
	size_t n;
	struct vocab names; /* content to index in t */
	int32_t *by_id;     /* id to index, -1: none; n_ids of them */
	int32_t n_ids;
	const uint8_t *uni;
	struct added_set raw;  /* matched in the input */
	struct added_set norm; /* matched in normalised text */
};
/* list: tokenizer.json's added_tokens, or NULL. Ids are given as the reference
 * gives them: the model's, else counted on behind it. */
int added_load(struct added *a, const struct json *list, const struct vocab *v, const struct tok_norm *norm, const uint8_t *uni, struct err *e) LP_MUST_USE;
/* Or one by one: at most max tokens, each with its id, matched as it stands;
 * added_index when all are there, added_match when texts are to be searched. */
int added_init(struct added *a, const uint8_t *uni, size_t max, struct err *e) LP_MUST_USE;
int added_put(struct added *a, const char *s, size_t n, int32_t id, bool special, struct err *e) LP_MUST_USE; /* a text that is there already stays */
void added_index(struct added *a);
void added_match(struct added *a);
void added_release(struct added *a);
const struct added_token *added_by_id(const struct added *a, int32_t id);
const struct added_token *added_by_text(const struct added *a, const char *s, size_t n);
/* Bytes of the longest raw token at the beginning of s[0..n); 0: none. */
size_t added_longest(const struct added *a, const char *s, size_t n);
/* Cuts s[0..n) into out: pieces with id >= 0 are added tokens. */
void added_split(const struct added *a, const struct added_set *set, const char *s, size_t n, struct pieces *out);

#endif

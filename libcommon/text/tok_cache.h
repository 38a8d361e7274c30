/* What reading a large tokenizer.json, tekken.json or file of ranks makes, kept from one run to the next: one
 * file a tokenizer in $XDG_CACHE_HOME/lorapipe (else ~/.cache/lorapipe), named by
 * the hash of the tokenizer file's bytes. It is made whole and renamed, checked by
 * hash each time it is used, and may be deleted at any time: whatever is wrong
 * with it only means that the tokenizer is read again. */
#ifndef LP_TEXT_TOK_CACHE_H
#define LP_TEXT_TOK_CACHE_H

#include "text/bpe.h"

#define TOK_CACHE_LEAST (1u << 20) /* bytes of a file that is worth it */

struct tok_cache {
	void *map;             /* what all of it points into */
	size_t map_len;
	const char *rest;      /* the JSON without vocabulary and merges, nothing for ranks; JSON_PADDING bytes behind */
	size_t rest_len;
	struct vocab vocab;    /* borrowed from the map */
	struct bpe_tables tables;
	char sha256[65];       /* of the tokenizer file */
};
/* Where the tables of the file text[0..len) are kept; NULL: nowhere. Free it. */
char *tok_cache_path(const char *text, size_t len);
bool tok_cache_open(struct tok_cache *c, const char *path, size_t source_len);
void tok_cache_close(struct tok_cache *c);
/* Best effort: no error when it cannot be written. */
void tok_cache_write(const char *path, size_t source_len, const char sha256[65], const char *rest, size_t rest_len, const struct vocab *v, const struct bpe_tables *t);

#endif

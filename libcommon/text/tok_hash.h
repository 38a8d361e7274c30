/* The SHA-256 of a tokenizer's file: for a large one as long as much of its reading,
 * so a thread of its own may work on it meanwhile. */
#ifndef LP_TEXT_TOK_HASH_H
#define LP_TEXT_TOK_HASH_H

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>

struct tok_hash {
	const char *text;
	size_t len;
	int threads;    /* 1: nothing is done before it is asked for */
	pthread_t thread;
	bool begun;
	char hex[65];   /* "": not known yet */
};
void tok_hash_begin(struct tok_hash *h);
const char *tok_hash_hex(struct tok_hash *h);
void tok_hash_end(struct tok_hash *h); /* nothing works on it any more; what is known stays */

#endif

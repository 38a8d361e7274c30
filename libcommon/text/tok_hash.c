/* A file's hash beside its reading: see tok_hash.h. */
#include "text/tok_hash.h"

#include "base/hash.h"

static void *work(void *arg)
{
	struct tok_hash *h = arg;

	sha_once(h->text, h->len, h->hex);
	return NULL;
}

void tok_hash_begin(struct tok_hash *h)
{
	if (h->threads > 1 && !h->begun && !*h->hex)
		h->begun = !pthread_create(&h->thread, NULL, work, h); /* without it, later */
}

void tok_hash_end(struct tok_hash *h)
{
	if (h->begun)
		pthread_join(h->thread, NULL);
	h->begun = false;
}

const char *tok_hash_hex(struct tok_hash *h)
{
	tok_hash_end(h);
	if (!*h->hex)
		sha_once(h->text, h->len, h->hex);
	return h->hex;
}

#include "base/hash.h"

#include <errno.h>
#include <fcntl.h>
#include <openssl/evp.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <xxhash.h>

#include "base/xalloc.h"

struct xxh {
	XXH3_state_t *state;
};
struct sha {
	EVP_MD_CTX *ctx;
};

static void to_hex(const unsigned char *p, size_t n, char *hex)
{
	static const char digit[] = "0123456789abcdef";

	for (size_t i = 0; i < n; i++) {
		hex[2 * i] = digit[p[i] >> 4];
		hex[2 * i + 1] = digit[p[i] & 15];
	}
	hex[2 * n] = 0;
}

static void xxh_to_hex(XXH128_hash_t h, char hex[33])
{
	XXH128_canonical_t c;

	XXH128_canonicalFromHash(&c, h);
	to_hex(c.digest, 16, hex);
}

struct xxh *xxh_new(void)
{
	struct xxh *h = xmalloc(sizeof(*h));

	h->state = XXH3_createState();
	if (!h->state)
		xmalloc(SIZE_MAX); /* says that memory is gone, and ends */
	XXH3_128bits_reset(h->state);
	return h;
}

struct xxh *xxh_copy(const struct xxh *h)
{
	struct xxh *c = xxh_new();

	XXH3_copyState(c->state, h->state);
	return c;
}

void xxh_add(struct xxh *h, const void *p, size_t n)
{
	if (n)
		XXH3_128bits_update(h->state, p, n);
}

void xxh_hex(const struct xxh *h, char hex[33])
{
	xxh_to_hex(XXH3_128bits_digest(h->state), hex);
}

void xxh_free(struct xxh *h)
{
	if (!h)
		return;
	XXH3_freeState(h->state);
	free(h);
}

void xxh_once(const void *p, size_t n, char hex[33])
{
	xxh_to_hex(XXH3_128bits(p, n), hex);
}

uint64_t xxh_u64(const void *p, size_t n, uint64_t seed)
{
	return XXH3_64bits_withSeed(p, n, seed);
}

struct sha *sha_new(void)
{
	struct sha *h = xmalloc(sizeof(*h));

	h->ctx = EVP_MD_CTX_new();
	if (!h->ctx || !EVP_DigestInit_ex(h->ctx, EVP_sha256(), NULL))
		xmalloc(SIZE_MAX);
	return h;
}

void sha_add(struct sha *h, const void *p, size_t n)
{
	if (n)
		EVP_DigestUpdate(h->ctx, p, n);
}

void sha_hex(struct sha *h, char hex[65])
{
	unsigned char md[EVP_MAX_MD_SIZE] = { 0 };
	unsigned n = 0;

	EVP_DigestFinal_ex(h->ctx, md, &n);
	to_hex(md, 32, hex);
}

void sha_free(struct sha *h)
{
	if (!h)
		return;
	EVP_MD_CTX_free(h->ctx);
	free(h);
}

void sha_once(const void *p, size_t n, char hex[65])
{
	struct sha *h = sha_new();

	sha_add(h, p, n);
	sha_hex(h, hex);
	sha_free(h);
}

int sha_file(const char *path, char hex[65], struct err *e)
{
	enum { CHUNK = 1 << 20 };
	int fd = open(path, O_RDONLY | O_CLOEXEC), bad = 0;
	struct sha *h;
	char *buf;
	ssize_t n;

	if (fd < 0)
		return err_sys(e, path, "open");
	posix_fadvise(fd, 0, 0, POSIX_FADV_SEQUENTIAL);
	h = sha_new();
	buf = xmalloc(CHUNK);
	while ((n = read(fd, buf, CHUNK)) != 0) {
		if (n > 0)
			sha_add(h, buf, (size_t)n);
		else if (errno != EINTR) {
			bad = err_sys(e, path, "read");
			break;
		}
	}
	sha_hex(h, hex);
	sha_free(h);
	free(buf);
	close(fd);
	return bad;
}

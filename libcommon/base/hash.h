/* XXH3-128 for streams, SHA-256 for artefacts at rest. Hex is lower case. */
#ifndef LP_BASE_HASH_H
#define LP_BASE_HASH_H

#include <stddef.h>
#include <stdint.h>

#include "base/err.h"

struct xxh;
struct xxh *xxh_new(void);
struct xxh *xxh_copy(const struct xxh *h);
void xxh_add(struct xxh *h, const void *p, size_t n);
void xxh_hex(const struct xxh *h, char hex[33]);
void xxh_free(struct xxh *h);
void xxh_once(const void *p, size_t n, char hex[33]);
uint64_t xxh_u64(const void *p, size_t n, uint64_t seed); /* XXH3-64 */

struct sha;
struct sha *sha_new(void);
void sha_add(struct sha *h, const void *p, size_t n);
void sha_hex(struct sha *h, char hex[65]); /* ends h; free it still */
void sha_free(struct sha *h);
void sha_once(const void *p, size_t n, char hex[65]);
int sha_file(const char *path, char hex[65], struct err *e) LP_MUST_USE;

#endif

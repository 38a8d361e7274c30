/* The known patterns over 64 bytes of ASCII at once: private to pretok_*.c. */
#ifndef LP_TEXT_PRETOK_BLOCK_H
#define LP_TEXT_PRETOK_BLOCK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define PRETOK_BLOCK 64 /* bytes that are looked at; ends that there may be */

/* Ends of the pieces from byte i on, which a match begins at, PRETOK_BLOCK bytes being
 * there; as many as are certain from these bytes alone. 0: the scanner must find the next one. */
size_t pretok_block_cl100k(const char *s, size_t i, unsigned digits, uint32_t *end);
/* joined: short forms belong to the word before them. */
size_t pretok_block_o200k(const char *s, size_t i, unsigned digits, bool joined, uint32_t *end);
size_t pretok_block_gpt2(const char *s, size_t i, uint32_t *end);

#endif

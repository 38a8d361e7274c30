/* Whether s.lower() contains one of a few phrases, as Python 3 has it, at the
 * speed of one table look-up for every few bytes. */
#ifndef LP_TEXT_PYFIND_H
#define LP_TEXT_PYFIND_H

#include <stddef.h>

struct pyfind;
/* The phrases are lower-cased here; n may be 0. */
struct pyfind *pyfind_new(const char *const *phrases, size_t n);
/* Index of a phrase that is in it, the first of those given that is; -1 when there is none. Valid UTF-8. */
int pyfind_any(struct pyfind *f, const char *s, size_t n);
const char *pyfind_phrase(const struct pyfind *f, int i); /* lower case */
void pyfind_free(struct pyfind *f);

#endif

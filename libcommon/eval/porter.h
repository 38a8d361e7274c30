/* The Porter stemmer with NLTK's extensions: what rouge-score stems with.
 * Not Martin Porter's frozen algorithm, which differs on short words and on
 * -alli, -fulli, -logi and a list of irregular forms. */
#ifndef LP_EVAL_PORTER_H
#define LP_EVAL_PORTER_H

#include <stddef.h>

/* Stems w[0..n) in place and returns the new length, never above n. The word
 * holds lower-case letters and digits only (a digit counts as a consonant). */
size_t porter_stem(char *w, size_t n);

#endif

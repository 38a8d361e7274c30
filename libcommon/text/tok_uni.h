/* What the reference's regular expressions and character tests say of a code
 * point. One byte of class each: bits 0-4 general category, and three tests
 * that differ from plain categories in the reference. */
#ifndef LP_TEXT_TOK_UNI_H
#define LP_TEXT_TOK_UNI_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum uni_cat {
	UC_CN, UC_LU, UC_LL, UC_LT, UC_LM, UC_LO, UC_MN, UC_MC, UC_ME, UC_ND, UC_NL, UC_NO, UC_PC, UC_PD, UC_PS,
	UC_PE, UC_PI, UC_PF, UC_PO, UC_SM, UC_SC, UC_SK, UC_SO, UC_ZS, UC_ZL, UC_ZP, UC_CC, UC_CF, UC_CO, UC_CS
};
#define UNI_CAT 31u
#define UNI_PUNCT 32u   /* the Punctuation pre-tokeniser's test */
#define UNI_WORD 64u    /* \w */
#define UNI_NUMERIC 128u /* the Digits pre-tokeniser's test */

#define UM_L (1u << UC_LU | 1u << UC_LL | 1u << UC_LT | 1u << UC_LM | 1u << UC_LO)
#define UM_M (1u << UC_MN | 1u << UC_MC | 1u << UC_ME)
#define UM_N (1u << UC_ND | 1u << UC_NL | 1u << UC_NO)
#define UM_P (1u << UC_PC | 1u << UC_PD | 1u << UC_PS | 1u << UC_PE | 1u << UC_PI | 1u << UC_PF | 1u << UC_PO)
#define UM_S (1u << UC_SM | 1u << UC_SC | 1u << UC_SK | 1u << UC_SO)

#define UNI_FLAT 0xE0200u /* above: private use, or unassigned */

/* UNI_FLAT classes; NULL when memory is short. Free with free(). */
uint8_t *uni_table_new(void);

static inline uint8_t uni_class(const uint8_t *t, uint32_t cp)
{
	return cp < UNI_FLAT ? t[cp] : (uint8_t)(cp >= 0xF0000 && (cp & 0xFFFF) < 0xFFFE ? UC_CO : UC_CN);
}
static inline uint32_t uni_mask(const uint8_t *t, uint32_t cp)
{
	return 1u << (uni_class(t, cp) & UNI_CAT);
}

/* White_Space: \s, and Rust's char::is_whitespace. */
static inline bool uni_is_space(uint32_t c)
{
	if (c < 0x80)
		return c == ' ' || (c >= 9 && c <= 13);
	return c == 0x85 || c == 0xA0 || c == 0x1680 || (c >= 0x2000 && c <= 0x200A) || c == 0x2028 || c == 0x2029 ||
	       c == 0x202F || c == 0x205F || c == 0x3000;
}

/* \w of Rust's regex, which some parts of the reference use instead: join
 * controls are words, the fractions and powers of Latin-1 are not. */
static inline bool uni_is_word_rust(const uint8_t *t, uint32_t c)
{
	uint8_t k = uni_class(t, c);

	if (c == 0x200C || c == 0x200D)
		return true;
	return (k & UNI_WORD) && ((k & UNI_CAT) != UC_NO || c > 0xFF);
}

/* The i-th run of the table in order, for translating properties: code points
 * [*lo, *hi] alternate classes a and b (b 0: all are a). False past the end. */
bool uni_run(size_t i, uint32_t *lo, uint32_t *hi, uint8_t *a, uint8_t *b);

#endif

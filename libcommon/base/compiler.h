/* Attributes that the code relies on, and nothing else. */
#ifndef LP_BASE_COMPILER_H
#define LP_BASE_COMPILER_H

#define LP_MUST_USE __attribute__((warn_unused_result))
#define LP_PRINTF(fmt_arg, first_arg) __attribute__((format(printf, fmt_arg, first_arg)))
#define LP_NORETURN __attribute__((noreturn))

/* Element-wise loops compiled for any x86-64, for AVX2 and for AVX-512, chosen
 * when the program loads (x86-64-v3 and -v4 are feature levels; a processor name such
 * as haswell would match that one model only). -ffp-contract=off keeps all of them
 * to the same bits. */
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__) && !defined(LP_NO_CLONES)
#define LP_CLONES __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define LP_CLONES
#endif

/* A function whose products may be fused into its sums: one where that changes no bit. */
#if defined(__GNUC__) && !defined(__clang__)
#define LP_FUSED __attribute__((optimize("fp-contract=fast")))
#else
#define LP_FUSED
#endif

#endif

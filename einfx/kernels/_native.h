/* What the C extensions have in common: instruction sets, threads, and arithmetic of indices.
 *
 * Functions are written once and compiled for every instruction set; which of them runs is decided when they
 * are called. Threads are those of the OpenMP library that the caller has running already: others would wait
 * for it to stop spinning.
 */
#ifndef EINFX_NATIVE_H
#define EINFX_NATIVE_H

#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#if defined(__x86_64__) && defined(__GNUC__)
#define HAVE_X86 1
#include <immintrin.h>
#define TARGET_AVX2 __attribute__((target("avx2")))
#define TARGET_AVX512 __attribute__((target("avx512f,avx512dq,avx512bw,avx512vl,prefer-vector-width=512")))
#endif

#define INLINE static inline __attribute__((always_inline))

enum level { BASELINE, AVX2, AVX512 };

/* GOMP_parallel of libgomp, which other OpenMP libraries offer as well. */
typedef void (*parallel_function)(void (*)(void *), void *, unsigned, unsigned);

/* The best instruction set of this machine. */
static inline int best_level(void)
{
#ifdef HAVE_X86
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
        __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl"))
        return AVX512;
    if (__builtin_cpu_supports("avx2")) return AVX2;
#endif
    return BASELINE;
}

static inline int64_t least(int64_t x, int64_t y) { return x < y ? x : y; }
static inline int64_t most(int64_t x, int64_t y) { return x > y ? x : y; }
static inline int64_t floor_div(int64_t x, int64_t y) { return x / y - (x % y != 0 && (x < 0) != (y < 0)); }

#endif

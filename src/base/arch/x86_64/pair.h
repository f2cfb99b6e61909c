/*
 * base/pair.h by SSE2, which every such processor has: one load, one comparison.
 */
#ifndef MT_BASE_ARCH_X86_64_PAIR_H
#define MT_BASE_ARCH_X86_64_PAIR_H

#include <emmintrin.h>
#include <stdbool.h>
#include <stdint.h>

#define MT_HAS_PAIR

static inline __attribute__((always_inline)) bool mt_arch_pair_equal(const uint64_t *words, const uint64_t *to)
{
    __m128i equal = _mm_cmpeq_epi32(_mm_loadu_si128((const __m128i *)(const void *)words), _mm_loadu_si128((const __m128i *)(const void *)to));

    return _mm_movemask_epi8(equal) == 0xffff;
}

#endif

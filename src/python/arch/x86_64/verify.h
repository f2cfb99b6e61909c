/*
 * Kept frames of 3.11 compared with the frames themselves by AVX2, where the processor has it: one load and one comparison each.
 */
#ifndef MT_PYTHON_ARCH_X86_64_VERIFY_H
#define MT_PYTHON_ARCH_X86_64_VERIFY_H

#include <immintrin.h>

#include "python/python.h"

#define MT_HAS_WIDE_VERIFY

static inline bool mt_arch_has_wide_verify(void)
{
    __builtin_cpu_init();
    return __builtin_cpu_supports("avx2") != 0;
}

/* 0 if the frame at place[1].previous is what the place says, but for its note and what is not asked of its state. */
#define MT_DIFFERS_(place)                                                                                                              \
    (!_mm256_testz_si256(asked, _mm256_xor_si256(_mm256_load_si256((const __m256i *)(const void *)(place)),                             \
                                    _mm256_loadu_si256((const __m256i *)(const void *)((place)[1].previous + frame_bytes)))))

/*
 * The frames outwards from the one before `place`. Returns how many are left from the first one that differs, that included; 0: all hold. frame_bytes: where in a
 * frame that lies which is a place's beginning.
 */
static __attribute__((noinline, target("avx2"))) size_t mt_arch_verify_wide(
    const struct mt_python_place *place, const struct mt_python_place *end, size_t frame_bytes, uint64_t state_mask)
{
    const __m256i asked = _mm256_set_epi64x((int64_t)state_mask, -1, -1, 0);

    for (; place - end >= 4; place -= 4) {
        if (MT_DIFFERS_(place - 1))
            return (size_t)(place - end);
        if (MT_DIFFERS_(place - 2))
            return (size_t)(place - end) - 1;
        if (MT_DIFFERS_(place - 3))
            return (size_t)(place - end) - 2;
        if (MT_DIFFERS_(place - 4))
            return (size_t)(place - end) - 3;
    }
    for (; place != end; place--)
        if (MT_DIFFERS_(place - 1))
            break;
    return (size_t)(place - end);
}
#undef MT_DIFFERS_

#endif

/*
 * Two neighbouring words compared with two others.
 */
#ifndef MT_BASE_PAIR_H
#define MT_BASE_PAIR_H

#include <stdbool.h>
#include <stdint.h>

#include "base/compiler.h"

#if defined(__x86_64__)
#include "base/arch/x86_64/pair.h"
#endif

/* Both aligned to 8. */
static MT_ALWAYS_INLINE bool mt_pair_equal(const uint64_t *words, const uint64_t *to)
{
#ifdef MT_HAS_PAIR
    return mt_arch_pair_equal(words, to);
#else
    return !((words[0] ^ to[0]) | (words[1] ^ to[1]));
#endif
}

#endif

/*
 * Compiler spellings used throughout, and the helpers that need them.
 */
#ifndef MT_BASE_COMPILER_H
#define MT_BASE_COMPILER_H

#include <stddef.h>
#include <stdint.h>

#define MT_EXPORT __attribute__((visibility("default")))
#define MT_HIDDEN __attribute__((visibility("hidden")))
#define MT_ALWAYS_INLINE inline __attribute__((always_inline))
#define MT_NOINLINE __attribute__((noinline))
#define MT_COLD __attribute__((cold, noinline))
#define MT_LIKELY(x) __builtin_expect(!!(x), 1)
#define MT_UNLIKELY(x) __builtin_expect(!!(x), 0)
#define MT_CACHE_LINE 64
#define MT_ALIGNED(n) __attribute__((aligned(n)))
#define MT_PRINTF(fmt, args) __attribute__((format(printf, fmt, args)))
#define MT_ARRAY_LEN(a) (sizeof(a) / sizeof((a)[0]))

/*
 * Asks for a cache line that will be written to or read. To gcc a function that does nothing but __builtin_prefetch() has no effect, and calls of it
 * are left out; the empty statement says that it has.
 */
static MT_ALWAYS_INLINE void mt_prefetch(const void *line)
{
    __builtin_prefetch(line, 1);
    __asm__ volatile("");
}

/* Rounds up to a multiple of a power of two. */
static inline uint64_t mt_round_up(uint64_t value, uint64_t power_of_two)
{
    return (value + power_of_two - 1) & ~(power_of_two - 1);
}

#endif

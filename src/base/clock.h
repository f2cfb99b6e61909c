/*
 * Clocks of both sides.
 *
 * mt_clock_tsc() is the stamp that orders events between threads. The ordered form does not
 * execute before earlier loads have completed, so that a stamp taken after a real allocation is
 * later than the stamp taken before the free which made that address available.
 */
#ifndef MT_BASE_CLOCK_H
#define MT_BASE_CLOCK_H

#include <stdint.h>
#include <time.h>

/* Monotonic nanoseconds (CLOCK_MONOTONIC; comparable between processes of one boot). */
static inline uint64_t mt_clock_monotonic_ns(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (uint64_t)ts.tv_sec * UINT64_C(1000000000) + (uint64_t)ts.tv_nsec;
}

/* Wall-clock nanoseconds since 1970 (CLOCK_REALTIME). */
static inline uint64_t mt_clock_realtime_ns(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_REALTIME, &ts);
    return (uint64_t)ts.tv_sec * UINT64_C(1000000000) + (uint64_t)ts.tv_nsec;
}

#if defined(__x86_64__)
/* Reads the time-stamp counter; may execute early or late by the processor's own reordering. */
static inline uint64_t mt_clock_tsc(void)
{
    return __builtin_ia32_rdtsc();
}
/* Reads the counter after all earlier loads have completed. */
static inline uint64_t mt_clock_tsc_ordered(void)
{
    unsigned aux;

    return __builtin_ia32_rdtscp(&aux);
}
#define MT_CLOCK_HAS_TSC 1
#elif defined(__aarch64__)
static inline uint64_t mt_clock_tsc(void)
{
    uint64_t v;

    __asm__ volatile("mrs %0, cntvct_el0" : "=r"(v));
    return v;
}
static inline uint64_t mt_clock_tsc_ordered(void)
{
    uint64_t v;

    __asm__ volatile("isb; mrs %0, cntvct_el0" : "=r"(v)::"memory");
    return v;
}
/* Many processors count at 24 to 100 MHz: a block can be freed by one thread and had by another between two ticks. */
static inline int mt_clock_tsc_is_fine(void)
{
    uint64_t hz;

    __asm__("mrs %0, cntfrq_el0" : "=r"(hz));
    return hz >= UINT64_C(1000000000);
}
#define MT_CLOCK_HAS_TSC 1
#else
static inline uint64_t mt_clock_tsc(void)
{
    return mt_clock_monotonic_ns();
}
static inline uint64_t mt_clock_tsc_ordered(void)
{
    return mt_clock_monotonic_ns();
}
static inline int mt_clock_tsc_is_fine(void)
{
    return 0;
}
#define MT_CLOCK_HAS_TSC 0
#endif

#endif

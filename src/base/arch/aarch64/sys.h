/* System calls and signal-safe read-modify-write of aarch64. See base/sys.h. */
#ifndef MT_BASE_ARCH_AARCH64_SYS_H
#define MT_BASE_ARCH_AARCH64_SYS_H

#include <stdint.h>

static inline long mt_sys6(long number, long a, long b, long c, long d, long e, long f)
{
    register long x8 __asm__("x8") = number;
    register long x0 __asm__("x0") = a;
    register long x1 __asm__("x1") = b;
    register long x2 __asm__("x2") = c;
    register long x3 __asm__("x3") = d;
    register long x4 __asm__("x4") = e;
    register long x5 __asm__("x5") = f;

    __asm__ volatile("svc #0" : "+r"(x0) : "r"(x8), "r"(x1), "r"(x2), "r"(x3), "r"(x4), "r"(x5) : "memory");
    return x0;
}

static inline uint64_t mt_local_fetch_add(uint64_t *p, uint64_t value)
{
    return __atomic_fetch_add(p, value, __ATOMIC_RELAXED);
}

static inline int mt_local_cas_release(uint64_t *p, uint64_t expected, uint64_t value)
{
    return __atomic_compare_exchange_n(p, &expected, value, 0, __ATOMIC_RELEASE, __ATOMIC_RELAXED);
}

#endif

/* System calls and single-thread read-modify-write instructions of x86-64. See base/sys.h. */
#ifndef MT_BASE_ARCH_X86_64_SYS_H
#define MT_BASE_ARCH_X86_64_SYS_H

#include <stdint.h>

static inline long mt_sys6(long number, long a, long b, long c, long d, long e, long f)
{
    long ret;
    register long r10 __asm__("r10") = d;
    register long r8 __asm__("r8") = e;
    register long r9 __asm__("r9") = f;

    __asm__ volatile("syscall"
                     : "=a"(ret)
                     : "a"(number), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
                     : "rcx", "r11", "memory");
    return ret;
}

/* Adds and returns the old value in one instruction: atomic against signals of this thread, not against other threads. */
static inline uint64_t mt_local_fetch_add(uint64_t *p, uint64_t value)
{
    __asm__ volatile("xaddq %0, %1" : "+r"(value), "+m"(*p) : : "memory", "cc");
    return value;
}

/* Compare-and-swap of the same kind; the store is a release store (all stores are, on x86-64). */
static inline int mt_local_cas_release(uint64_t *p, uint64_t expected, uint64_t value)
{
    unsigned char done;

    __asm__ volatile("cmpxchgq %3, %1; sete %0" : "=q"(done), "+m"(*p), "+a"(expected) : "r"(value) : "memory", "cc");
    return done;
}

#endif

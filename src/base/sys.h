/*
 * Raw system calls for the preloaded side: they return -errno, leave errno alone, cannot be interposed (the target's
 * or memtrace's own mmap hook) and are safe in signal handlers and between fork and exec.
 */
#ifndef MT_BASE_SYS_H
#define MT_BASE_SYS_H

#include <errno.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <signal.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>

#include "base/atomics.h"
#include "base/compiler.h"

#if defined(__x86_64__)
#include "base/arch/x86_64/sys.h"
#elif defined(__aarch64__)
#include "base/arch/aarch64/sys.h"
#else
#error "memtrace's library needs src/base/arch/<cpu>/sys.h"
#endif

#define mt_sys0(n) mt_sys6((n), 0, 0, 0, 0, 0, 0)
#define mt_sys1(n, a) mt_sys6((n), (long)(a), 0, 0, 0, 0, 0)
#define mt_sys2(n, a, b) mt_sys6((n), (long)(a), (long)(b), 0, 0, 0, 0)
#define mt_sys3(n, a, b, c) mt_sys6((n), (long)(a), (long)(b), (long)(c), 0, 0, 0)
#define mt_sys4(n, a, b, c, d) mt_sys6((n), (long)(a), (long)(b), (long)(c), (long)(d), 0, 0)
#define mt_sys5(n, a, b, c, d, e) mt_sys6((n), (long)(a), (long)(b), (long)(c), (long)(d), (long)(e), 0)

static inline int mt_sys_getpid(void)
{
    return (int)mt_sys0(SYS_getpid);
}

static inline int mt_sys_gettid(void)
{
    return (int)mt_sys0(SYS_gettid);
}

static inline int mt_sys_close(int fd)
{
    return (int)mt_sys1(SYS_close, fd);
}

static inline int mt_sys_open(const char *path, int flags)
{
    return (int)mt_sys4(SYS_openat, AT_FDCWD, path, flags | O_CLOEXEC, 0);
}

static inline long mt_sys_read(int fd, void *buf, size_t size_bytes)
{
    return mt_sys3(SYS_read, fd, buf, size_bytes);
}

static inline long mt_sys_write(int fd, const void *buf, size_t size_bytes)
{
    return mt_sys3(SYS_write, fd, buf, size_bytes);
}

static inline bool mt_sys_is_error(const void *mapping)
{
    return (uintptr_t)mapping >= (uintptr_t)-4095;
}

/* Anonymous private pages, zeroed; MAP_FAILED-like values are turned into NULL. */
static inline void *mt_sys_pages(size_t size_bytes)
{
    void *p = (void *)mt_sys6(
        SYS_mmap, 0, (long)size_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

    return mt_sys_is_error(p) ? NULL : p;
}

static inline void mt_sys_unmap(void *p, size_t size_bytes)
{
    mt_sys2(SYS_munmap, p, size_bytes);
}

static inline int mt_sys_madvise(void *p, size_t size_bytes, int advice)
{
    return (int)mt_sys3(SYS_madvise, p, size_bytes, advice);
}

/* shared: the word lies in memory shared with the reader. timeout_ns = 0: no time-out. */
static inline int mt_sys_futex_wait(uint32_t *word, uint32_t expected, uint64_t timeout_ns, bool shared)
{
    struct timespec ts = {(time_t)(timeout_ns / 1000000000u), (long)(timeout_ns % 1000000000u)};

    return (int)mt_sys4(SYS_futex, word, shared ? FUTEX_WAIT : FUTEX_WAIT_PRIVATE, expected, timeout_ns ? &ts : NULL);
}

static inline void mt_sys_futex_wake(uint32_t *word, int count, bool shared)
{
    mt_sys3(SYS_futex, word, shared ? FUTEX_WAKE : FUTEX_WAKE_PRIVATE, count);
}

static inline uint64_t mt_sys_clock_ns(clockid_t clock)
{
    struct timespec ts = {0, 0};

    mt_sys2(SYS_clock_gettime, clock, &ts);
    return (uint64_t)ts.tv_sec * UINT64_C(1000000000) + (uint64_t)ts.tv_nsec;
}

/* Blocks every signal of the calling thread; *ret_old is the kernel's 64-bit mask to give back to mt_sys_signals_restore(). */
static inline void mt_sys_signals_block(uint64_t *ret_old)
{
    uint64_t all = ~UINT64_C(0);

    mt_sys4(SYS_rt_sigprocmask, SIG_SETMASK, &all, ret_old, sizeof all);
}

static inline void mt_sys_signals_restore(const uint64_t *old)
{
    mt_sys4(SYS_rt_sigprocmask, SIG_SETMASK, old, NULL, sizeof *old);
}

/*
 * Whether 8 bytes at p can be read, asked of the kernel without touching them: rt_sigprocmask copies the set in before it
 * rejects the made-up `how`. No side effect, allowed by every seccomp filter that lets programs run. Source of the idea: the
 * stack walker of Abseil documents this property of the call.
 */
static inline bool mt_sys_readable(const void *p)
{
    return mt_sys4(SYS_rt_sigprocmask, ~0L, p, NULL, 8) != -EFAULT;
}

#endif

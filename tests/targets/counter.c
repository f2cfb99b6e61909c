/*
 * An independent count, to compare memtrace's totals with: a preloaded library that counts what the program asks of the
 * allocator and nothing else, by the rules that memtrace documents. It shares no code and no idea with src/hook: the real
 * functions are reached under glibc's own second names, so there is nothing to look up and nothing to recurse into.
 *
 * At the end of each process a line is appended to the file named by COUNTER_FILE:
 *     pid allocated_blocks allocated_bytes freed_blocks
 * A successful realloc of a block is one free and one allocation of the new size; free(NULL) and failures are nothing.
 */
#include <errno.h>
#include <fcntl.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

extern void *__libc_malloc(size_t);
extern void *__libc_calloc(size_t, size_t);
extern void *__libc_realloc(void *, size_t);
extern void __libc_free(void *);
extern void *__libc_memalign(size_t, size_t);
extern void *__libc_valloc(size_t);
extern void *__libc_pvalloc(size_t);

static uint64_t blocks, bytes, frees;

static void add(const void *p, size_t size)
{
    if (!p)
        return;
    __atomic_fetch_add(&blocks, 1, __ATOMIC_RELAXED);
    __atomic_fetch_add(&bytes, size, __ATOMIC_RELAXED);
}

static void drop(const void *p)
{
    if (p)
        __atomic_fetch_add(&frees, 1, __ATOMIC_RELAXED);
}

void *malloc(size_t size)
{
    void *p = __libc_malloc(size);

    add(p, size);
    return p;
}

void *calloc(size_t n, size_t size)
{
    void *p = __libc_calloc(n, size);

    add(p, n * size);
    return p;
}

/* The functions below call no exported one: such a call would go to whatever library is loaded before this one. */
static void *resize(void *old, size_t size)
{
    void *p = __libc_realloc(old, size);

    if (p || (old && size == 0))
        drop(old);
    add(p, size);
    return p;
}

void *realloc(void *old, size_t size)
{
    return resize(old, size);
}

void *reallocarray(void *old, size_t n, size_t size)
{
    size_t total;

    if (__builtin_mul_overflow(n, size, &total)) {
        errno = ENOMEM;
        return NULL;
    }
    return resize(old, total);
}

void free(void *p)
{
    drop(p);
    __libc_free(p);
}

static void *align(size_t alignment, size_t size)
{
    void *p = __libc_memalign(alignment, size);

    add(p, size);
    return p;
}

void *memalign(size_t alignment, size_t size)
{
    return align(alignment, size);
}

void *aligned_alloc(size_t alignment, size_t size)
{
    return align(alignment, size);
}

void *valloc(size_t size)
{
    void *p = __libc_valloc(size);

    add(p, size);
    return p;
}

void *pvalloc(size_t size)
{
    void *p = __libc_pvalloc(size);

    add(p, size);
    return p;
}

int posix_memalign(void **ret, size_t alignment, size_t size)
{
    void *p;

    if (alignment % sizeof(void *) || (alignment & (alignment - 1)) || alignment == 0)
        return EINVAL;
    p = align(alignment, size);
    if (!p)
        return ENOMEM;
    *ret = p;
    return 0;
}

static void report(void)
{
    const char *path = getenv("COUNTER_FILE");
    char line[128];
    int fd, n;

    if (!path)
        return;
    n = snprintf(line, sizeof line, "%ld %llu %llu %llu\n", (long)getpid(), (unsigned long long)blocks,
        (unsigned long long)bytes, (unsigned long long)frees);
    fd = open(path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600);
    if (fd >= 0) {
        if (write(fd, line, (size_t)n) != n)
            (void)0;
        close(fd);
    }
}

/* The last words: after the program's own atexit handlers and destructors, before the buffers are flushed. */
__attribute__((destructor(101))) static void finish(void)
{
    report();
}

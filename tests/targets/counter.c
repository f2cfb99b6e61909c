/*
 * An independent count, to compare memtrace's totals with: a preloaded library that counts what the program asks of the
 * allocator and nothing else, by the rules that memtrace documents. It shares no code and no idea with src/hook: the real
 * functions are reached under glibc's own second names, so there is nothing to look up and nothing to recurse into.
 *
 * At the end of each process a line is appended to the file named by COUNTER_FILE:
 *     pid allocated_blocks allocated_bytes freed_blocks, then the same three of Python's objects, then of all that malloc was asked for
 * A successful realloc of a block is one free and one allocation of the new size; free(NULL) and failures are nothing.
 *
 * With COUNTER_PYTHON set, Python's object allocators (domains MEM and OBJ) are counted, too. What they ask of malloc in turn is not what
 * the program asked for, and is only in the last three figures, which without COUNTER_PYTHON are the first three.
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

struct count {
    uint64_t blocks, bytes, frees;
};
static struct count asked, objects, all;
static __thread unsigned inside __attribute__((tls_model("initial-exec"))); /* calls of Python's allocators under way */

static void more(struct count *c, size_t size)
{
    __atomic_fetch_add(&c->blocks, 1, __ATOMIC_RELAXED);
    __atomic_fetch_add(&c->bytes, size, __ATOMIC_RELAXED);
}

static void less(struct count *c)
{
    __atomic_fetch_add(&c->frees, 1, __ATOMIC_RELAXED);
}

static void add(const void *p, size_t size)
{
    if (!p)
        return;
    more(&all, size);
    if (!inside)
        more(&asked, size);
}

static void drop(const void *p)
{
    if (!p)
        return;
    less(&all);
    if (!inside)
        less(&asked);
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

/* ---- Python's objects: as PyMem_SetAllocator's documentation has it ---------------------------------------------- */

struct allocator {
    void *context;
    void *(*malloc)(void *, size_t);
    void *(*calloc)(void *, size_t, size_t);
    void *(*realloc)(void *, void *, size_t);
    void (*free)(void *, void *);
};
extern void PyMem_GetAllocator(int domain, struct allocator *) __attribute__((weak));
extern void PyMem_SetAllocator(int domain, struct allocator *) __attribute__((weak));
static struct allocator served[3]; /* by domain: raw (not counted here: it is malloc), mem, obj */

/* One of Python's domains may be served by another: what is handed out once is counted once. */
static void add_object(const void *p, size_t size)
{
    if (!p || inside)
        return;
    more(&objects, size);
    more(&asked, size);
}

static void drop_object(const void *p)
{
    if (!p || inside)
        return;
    less(&objects);
    less(&asked);
}

static void *object_malloc(void *context, size_t size)
{
    const struct allocator *a = context;
    void *p;

    inside++;
    p = a->malloc(a->context, size);
    inside--;
    add_object(p, size);
    return p;
}

static void *object_calloc(void *context, size_t n, size_t size)
{
    const struct allocator *a = context;
    void *p;

    inside++;
    p = a->calloc(a->context, n, size);
    inside--;
    add_object(p, n * size);
    return p;
}

static void *object_realloc(void *context, void *old, size_t size)
{
    const struct allocator *a = context;
    void *p;

    inside++;
    p = a->realloc(a->context, old, size);
    inside--;
    if (p)
        drop_object(old);
    add_object(p, size);
    return p;
}

static void object_free(void *context, void *p)
{
    const struct allocator *a = context;

    drop_object(p);
    inside++;
    a->free(a->context, p);
    inside--;
}

__attribute__((constructor)) static void watch_python(void)
{
    if (!getenv("COUNTER_PYTHON") || !PyMem_SetAllocator)
        return;
    for (int domain = 1; domain <= 2; domain++) {
        struct allocator mine = {&served[domain], object_malloc, object_calloc, object_realloc, object_free};

        PyMem_GetAllocator(domain, &served[domain]);
        PyMem_SetAllocator(domain, &mine);
    }
}

/*
 * What the interpreter says of its arenas, on stderr. It says nothing while its own allocator is not the one that is set, so that is for a moment; nothing is
 * allocated in between. The context of a wrapper, the counter's as memtrace's, begins with what it wraps; the interpreter's own has none.
 */
extern int _PyObject_DebugMallocStats(FILE *) __attribute__((weak));
void counter_python_statistics(void);
void counter_python_statistics(void)
{
    struct allocator now, own;

    if (!PyMem_SetAllocator || !_PyObject_DebugMallocStats)
        return;
    PyMem_GetAllocator(2, &now);
    for (own = now; own.context;)
        own = *(const struct allocator *)own.context;
    PyMem_SetAllocator(2, &own);
    _PyObject_DebugMallocStats(stderr);
    PyMem_SetAllocator(2, &now);
}

static void report(void)
{
    const struct count *counts[] = {&asked, &objects, &all};
    const char *path = getenv("COUNTER_FILE");
    char line[256];
    int fd, n;

    if (!path)
        return;
    n = snprintf(line, sizeof line, "%ld", (long)getpid());
    for (unsigned i = 0; i < 3; i++)
        n += snprintf(line + n, sizeof line - (size_t)n, " %llu %llu %llu", (unsigned long long)counts[i]->blocks,
            (unsigned long long)counts[i]->bytes, (unsigned long long)counts[i]->frees);
    line[n++] = '\n';
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

/*
 * The floor: hooks that only call through. What it costs is what any interposer pays before it does anything.
 */
#include <dlfcn.h>
#include <stddef.h>

static void *(*real_malloc)(size_t), *(*real_calloc)(size_t, size_t), *(*real_realloc)(void *, size_t);
static void (*real_free)(void *);
static char early[65536];
static size_t early_used;

static void *early_alloc(size_t size)
{
    void *p = early + early_used;

    early_used += (size + 15) & ~(size_t)15;
    return early_used <= sizeof early ? p : NULL;
}

static void resolve(void)
{
    static int busy;

    if (busy)
        return;
    busy = 1;
    *(void **)&real_free = dlsym(RTLD_NEXT, "free");
    *(void **)&real_calloc = dlsym(RTLD_NEXT, "calloc");
    *(void **)&real_realloc = dlsym(RTLD_NEXT, "realloc");
    *(void **)&real_malloc = dlsym(RTLD_NEXT, "malloc");
    busy = 0;
}

void *malloc(size_t size)
{
    if (__builtin_expect(!real_malloc, 0)) {
        resolve();
        if (!real_malloc)
            return early_alloc(size);
    }
    return real_malloc(size);
}

void *calloc(size_t count, size_t size)
{
    if (__builtin_expect(!real_calloc, 0)) {
        resolve();
        if (!real_calloc)
            return early_alloc(count * size);
    }
    return real_calloc(count, size);
}

void *realloc(void *p, size_t size)
{
    if (__builtin_expect(!real_realloc, 0))
        resolve();
    return real_realloc(p, size);
}

void free(void *p)
{
    if ((char *)p >= early && (char *)p < early + sizeof early)
        return;
    if (__builtin_expect(!real_free, 0))
        resolve();
    real_free(p);
}

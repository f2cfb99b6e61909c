/*
 * A program with a malloc of its own, which hands out blocks of a static pool and traps on others: memtrace sees none of it, and
 * what the C library does over it (reallocarray) must reach the program's realloc.
 */
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static _Alignas(16) char pool[4 << 20];
static size_t used;

static void check(const void *p)
{
    if ((const char *)p < pool || (const char *)p >= pool + sizeof pool)
        __builtin_trap();
}

void *malloc(size_t size)
{
    size_t *header = (size_t *)(pool + used);

    used += (size + 31) & ~(size_t)15;
    if (used > sizeof pool)
        return NULL;
    header[0] = size;
    return header + 2;
}

void free(void *p)
{
    if (p)
        check(p);
}

void *calloc(size_t count, size_t size)
{
    return malloc(count * size);
}

void *realloc(void *old, size_t size)
{
    void *p = malloc(size);

    if (old && p) {
        check(old);
        memcpy(p, old, ((size_t *)old)[-2] < size ? ((size_t *)old)[-2] : size);
    }
    return p;
}

int main(void)
{
    char *text = malloc(10), *copy;

    strcpy(text, "kept");
    text = reallocarray(text, 10, 100);
    check(text);
    copy = strdup(text);
    check(copy);
    puts(copy);
    free(copy);
    free(text);
    return 3;
}

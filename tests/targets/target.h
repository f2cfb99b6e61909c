/*
 * What the targets share. A target does a known number of allocations in functions whose names the tests look for, so: no
 * inlining (see meson.build), no stdio (it allocates), and a sink that keeps the compiler from dropping anything.
 */
#ifndef MT_TESTS_TARGET_H
#define MT_TESTS_TARGET_H

#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define NOINLINE __attribute__((noinline))

static void *volatile target_sink;

/* Uses p such that the compiler cannot tell what becomes of it; gives it back. */
static inline void *keep(void *p)
{
    target_sink = p;
    __asm__ volatile("" : : "r"(p) : "memory");
    return p;
}

/* printf without allocations. */
static inline __attribute__((format(printf, 1, 2))) void say(const char *format, ...)
{
    char text[512];
    va_list args;
    int n;

    va_start(args, format);
    n = vsnprintf(text, sizeof text, format, args);
    va_end(args);
    if (n > 0 && write(1, text, (size_t)n) != n)
        _exit(99);
}

/* The target's own checks: a wrong answer of the C library as seen by the program. */
#define CHECK(condition)                                                                                               \
    do {                                                                                                               \
        if (!(condition)) {                                                                                            \
            say("%s:%d: not so: %s\n", __FILE__, __LINE__, #condition);                                                \
            _exit(98);                                                                                                 \
        }                                                                                                              \
    } while (0)

#endif

/*
 * libiberty expands names through a callback, so that nothing is allocated and an expansion that grows out of all proportion (a
 * few hundred bytes of substitutions can ask for gigabytes) can be left in the middle.
 */
#include "symbol/symbol.h"

#include <setjmp.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#include <libiberty/demangle.h>

enum { MANGLED_MAX_BYTES = 16384 };

struct sink {
    char *buffer;
    size_t size, used;
    jmp_buf too_long;
};

static void take(const char *text, size_t bytes, void *opaque)
{
    struct sink *sink = opaque;

    if (bytes >= sink->size - sink->used)
        longjmp(sink->too_long, 1);
    memcpy(sink->buffer + sink->used, text, bytes);
    sink->used += bytes;
}

static bool expand(const char *name, struct sink *sink)
{
    if (setjmp(sink->too_long))
        return false;
    /* Both callbacks work on the stack alone: leaving them by longjmp leaks nothing. */
    if (!rust_demangle_callback(name, DMGL_RUST, take, sink)) {
        sink->used = 0;
        if (!cplus_demangle_v3_callback(name, DMGL_ANSI, take, sink))
            return false;
    }
    sink->buffer[sink->used] = '\0';
    return sink->used > 0;
}

char *mt_symbol_demangle(const char *name, char *buffer, size_t size)
{
    struct sink sink = {.buffer = buffer, .size = size};

    if (name[0] != '_' || (name[1] != 'Z' && name[1] != 'R' && strncmp(name, "__Z", 3) != 0) ||
        strlen(name) > MANGLED_MAX_BYTES || !expand(name, &sink))
        snprintf(buffer, size, "%s", name);
    return buffer;
}

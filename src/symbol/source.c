/*
 * Names of source files as DWARF has them: "/build/../src/x.c" becomes "/src/x.c". Done on the text alone; the folders need
 * not exist here. libdw has already put the compiler's folder in front of what was relative to it.
 */
#include "symbol/internal.h"

#include <stdio.h>
#include <string.h>

char *source_tidy(const char *path, char *buffer, size_t size)
{
    char whole[SYMBOL_NAME_MAX_BYTES], *save = NULL, *to = buffer;
    bool absolute;

    snprintf(whole, sizeof(whole), "%s", path);
    absolute = whole[0] == '/';
    buffer[0] = '\0';
    for (char *part = strtok_r(whole, "/", &save); part; part = strtok_r(NULL, "/", &save)) {
        size_t n = strlen(part);
        char *last = memrchr(buffer, '/', (size_t)(to - buffer));

        if (strcmp(part, ".") == 0)
            continue;
        if (strcmp(part, "..") == 0 && to > buffer && strcmp(last ? last + 1 : buffer, "..") != 0) {
            to = last ? last : buffer;
            *to = '\0';
            continue;
        }
        if (strcmp(part, "..") == 0 && absolute && to == buffer)
            continue;
        if (n + 2 > size - (size_t)(to - buffer))
            break;
        if (to > buffer || absolute)
            *to++ = '/';
        memcpy(to, part, n + 1);
        to += n;
    }
    return buffer;
}

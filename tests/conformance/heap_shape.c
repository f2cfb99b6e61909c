/*
 * The heap that is measured is the heap that would have been: no headers, no trailers. Prints the usable size of blocks of
 * every size and the distance of each block to the one before. Compared with the output of a plain run.
 */
#include <malloc.h>

#include "target.h"

static char line[1 << 16];

int main(void)
{
    char *before = malloc(1);
    size_t used = 0;

    for (size_t size = 0; size < 2000; size += 13) {
        char *p = malloc(size);

        used += (size_t)snprintf(line + used, sizeof line - used, "%zu %zu %td %d\n", size, malloc_usable_size(p), p - before,
            (int)((uintptr_t)p & 15));
        before = p;
    }
    CHECK(write(1, line, used) == (ssize_t)used);
    return 0;
}

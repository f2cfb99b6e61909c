/* Allocates and frees long enough that a profiler's file outgrows any buffer on the way; then says that it has come to its end. */
#include "target.h"

#define PLACES 4096

static NOINLINE void *fill(size_t size)
{
    return keep(malloc(size));
}

int main(void)
{
    static void *places[PLACES];
    unsigned seed = 1;

    for (int i = 0; i < 3000000; i++) {
        void **place = &places[(seed >> 8) % PLACES];

        free(*place);
        seed = seed * 1103515245u + 12345u;
        *place = fill(1 + (seed >> 16) % 2000);
    }
    for (int i = 0; i < PLACES; i++)
        free(places[i]);
    say("done\n");
    return 0;
}

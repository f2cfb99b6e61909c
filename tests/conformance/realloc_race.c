/*
 * Two threads that move and free blocks of the same size classes: an old address may be handed out again
 * before realloc has returned. Everything is freed in the end. heaptrack 1.4 reports some hundred leaks here.
 */
#include <malloc.h>
#include <pthread.h>

#include "target.h"

enum { ROUNDS = 300000 };

static NOINLINE void race(unsigned seed)
{
    for (int i = 0; i < ROUNDS; i++) {
        void *p = malloc(1040);

        seed = seed * 1103515245u + 12345u;
        p = keep(realloc(p, 1040 + (seed >> 20)));
        free(keep(malloc(1040)));
        free(p);
    }
}

static void *work(void *arg)
{
    race((unsigned)(uintptr_t)arg);
    return NULL;
}

int main(void)
{
    pthread_t t;

    /* One arena for both, and sizes beyond the per-thread cache: addresses must wander. */
    CHECK(mallopt(M_ARENA_MAX, 1) == 1);
    CHECK(pthread_create(&t, NULL, work, (void *)1) == 0);
    race(2);
    pthread_join(t, NULL);
    return 0;
}

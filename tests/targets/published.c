/*
 * Publishes the number of its finished allocations in a shared file, for ever, until it is killed. argv: the file, threads.
 * Every block is kept for a while in a table and freed at random, so that the live set stays bounded.
 */
#include <fcntl.h>
#include <pthread.h>
#include <sys/mman.h>

#include "target.h"

struct counters {
    volatile uint64_t allocated, freed;
    char pad[112];
};
static struct counters *counters;

static void *work(void *arg)
{
    struct counters *mine = arg;
    unsigned seed = (unsigned)(mine - counters) + 1;
    void *table[256] = {NULL};

    for (;;) {
        void **slot;

        seed = seed * 1103515245u + 12345u;
        slot = &table[seed >> 16 & 255];
        if (*slot) {
            free(*slot);
            mine->freed++;
        }
        *slot = keep(malloc(16 + (seed >> 24)));
        mine->allocated++;
    }
    return NULL;
}

int main(int argc, char **argv)
{
    int fd = open(argv[1], O_RDWR);
    long threads = argc > 2 ? atol(argv[2]) : 1;
    pthread_t t;

    CHECK(fd >= 0);
    counters = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    CHECK(counters != MAP_FAILED);
    close(fd);
    for (long i = 1; i < threads; i++)
        CHECK(pthread_create(&t, NULL, work, &counters[i]) == 0);
    work(&counters[0]);
    return 0;
}

/*
 * 8 threads that allocate, and free what other threads allocated: in rounds behind barriers, then through shared
 * slots without any order, so that addresses wander between threads as fast as the machine allows.
 */
#include <pthread.h>

#include "target.h"

enum { THREADS = 8, BLOCKS = 20000, SLOTS = 64, SWAPS = 50000 };

static pthread_barrier_t barrier;
static void *blocks[THREADS][BLOCKS];
static void *slots[SLOTS];

static NOINLINE void produce(long self)
{
    for (int i = 0; i < BLOCKS; i++)
        blocks[self][i] = keep(malloc((size_t)(16 + self)));
}

static NOINLINE void consume(long other)
{
    for (int i = 0; i < BLOCKS; i++)
        free(blocks[other][i]);
}

static NOINLINE void swap(unsigned seed)
{
    for (int i = 0; i < SWAPS; i++) {
        seed = seed * 1103515245u + 12345u;
        free(__atomic_exchange_n(&slots[seed >> 16 & (SLOTS - 1)], malloc(40), __ATOMIC_ACQ_REL));
    }
}

static NOINLINE void regrow(unsigned seed)
{
    for (int i = 0; i < SWAPS; i++) {
        void *p;

        seed = seed * 1103515245u + 12345u;
        p = __atomic_exchange_n(&slots[seed >> 16 & (SLOTS - 1)], NULL, __ATOMIC_ACQ_REL);
        p = realloc(p, 24 + (seed & 255));
        free(__atomic_exchange_n(&slots[seed >> 8 & (SLOTS - 1)], p, __ATOMIC_ACQ_REL));
    }
}

static void *work(void *arg)
{
    long self = (long)arg;

    produce(self);
    pthread_barrier_wait(&barrier);
    consume((self + 1) % THREADS);
    pthread_barrier_wait(&barrier);
    swap((unsigned)self + 1);
    regrow((unsigned)self + 100);
    return NULL;
}

static NOINLINE void start(pthread_t *threads)
{
    for (long i = 0; i < THREADS; i++)
        CHECK(pthread_create(&threads[i], NULL, work, (void *)i) == 0);
}

int main(void)
{
    pthread_t threads[THREADS];

    pthread_barrier_init(&barrier, NULL, THREADS);
    start(threads);
    for (int i = 0; i < THREADS; i++)
        pthread_join(threads[i], NULL);
    for (int i = 0; i < SLOTS; i++)
        free(slots[i]);
    return 0;
}

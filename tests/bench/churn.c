/*
 * Allocations and frees at a steady rate, for the cost of one event.
 *
 *   churn THREADS EVENTS DEPTH local|cross|grow
 *
 * EVENTS (allocations and frees together) are shared out among THREADS, made at DEPTH frames below the thread's entry. local: each thread frees what it
 * allocated, at some distance; cross: every block is freed by the next thread; grow: one block in 1,024 is kept. Prints events a second.
 */
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define WINDOW 64

static long threads, events, depth;
static int cross, grow;
static struct {
    _Alignas(64) _Atomic(void *) slots[WINDOW];
} boxes[64];
static pthread_barrier_t barrier;

static void churn(long thread)
{
    void *kept[WINDOW] = {0};
    long pairs = events / threads / 2, next = (thread + 1) % threads;

    for (long i = 0; i < pairs; i++) {
        void *p = malloc(16 + (size_t)(i * 37 % 240)), *old;

        if (cross) {
            old = atomic_exchange_explicit(&boxes[next].slots[i % WINDOW], p, memory_order_acq_rel);
        } else {
            old = kept[i % WINDOW];
            kept[i % WINDOW] = p;
        }
        if (!(grow && i % 1024 == 0))
            free(old);
    }
    for (int i = 0; i < WINDOW; i++)
        free(kept[i]);
}

__attribute__((noinline)) static long descend(long thread, long left)
{
    if (left <= 0)
        churn(thread);
    else
        left += descend(thread, left - 1);
    return left;
}

static void *run(void *context)
{
    pthread_barrier_wait(&barrier);
    descend((long)context, depth);
    return NULL;
}

int main(int argc, char **argv)
{
    pthread_t ids[64];
    struct timespec a, b;
    double s;

    threads = argc > 1 ? atol(argv[1]) : 1;
    events = argc > 2 ? atol(argv[2]) : 2000000;
    depth = argc > 3 ? atol(argv[3]) : 20;
    cross = argc > 4 && !strcmp(argv[4], "cross");
    grow = argc > 4 && !strcmp(argv[4], "grow");
    if (threads < 1 || threads > 64)
        return 2;
    pthread_barrier_init(&barrier, NULL, (unsigned)threads + 1);
    for (long i = 0; i < threads; i++)
        pthread_create(&ids[i], NULL, run, (void *)i);
    clock_gettime(CLOCK_MONOTONIC, &a);
    pthread_barrier_wait(&barrier);
    for (long i = 0; i < threads; i++)
        pthread_join(ids[i], NULL);
    clock_gettime(CLOCK_MONOTONIC, &b);
    s = (double)(b.tv_sec - a.tv_sec) + (double)(b.tv_nsec - a.tv_nsec) * 1e-9;
    printf("%.0f events/s\n", (double)events / s);
    return 0;
}

/*
 * Allocations and frees at a steady rate, for the cost of one event.
 *
 *   churn THREADS EVENTS DEPTH local|cross|grow|split [idle|alone]
 *
 * EVENTS (allocations and frees together) are shared out among THREADS, made at DEPTH frames below the thread's entry. local: each thread frees
 * what it allocated, at some distance; cross: every block is freed by the next thread; grow: one block in 1,024 is kept; split: batches of
 * allocations, then batches of frees, timed apart, with pauses in which a reader can keep up. idle: one more thread, which allocates
 * once and then sleeps. alone: no thread but the process's first, THREADS being 1; else that one only waits.
 *
 * Prints a line of `name value` pairs: events a second; the CPU time of an event in its own thread, in ns (mean over the threads); split: of an
 * allocation and of a free (elapsed time, medians of the batches).
 */
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define WINDOW 64
#define BATCH 90 /* 15 sizes, 6 blocks of each: glibc's thread cache serves them all */
#define PAUSE_S 10e-6

static long threads, events, depth;
static int cross, grow, split;
static double cpu_s[64], alloc_ns, free_ns;
static struct {
    _Alignas(64) _Atomic(void *) slots[WINDOW];
} boxes[64];
static pthread_barrier_t barrier;

static double seconds(clockid_t clock)
{
    struct timespec t;

    clock_gettime(clock, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

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

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;

    return (x > y) - (x < y);
}

static void batches(void)
{
    static void *blocks[BATCH];
    long count = events / 2 / BATCH + 1;
    double *allocs = calloc((size_t)count, sizeof *allocs), *frees = calloc((size_t)count, sizeof *frees);

    for (long n = 0; n < count; n++) {
        double a = seconds(CLOCK_MONOTONIC), b, c;

        for (int i = 0; i < BATCH; i++)
            blocks[i] = malloc(16 + (size_t)(i % 15) * 16);
        b = seconds(CLOCK_MONOTONIC);
        for (int i = 0; i < BATCH; i++)
            free(blocks[i]);
        c = seconds(CLOCK_MONOTONIC);
        allocs[n] = b - a;
        frees[n] = c - b;
        while (seconds(CLOCK_MONOTONIC) - c < PAUSE_S)
            ;
    }
    qsort(allocs, (size_t)count, sizeof *allocs, by_value);
    qsort(frees, (size_t)count, sizeof *frees, by_value);
    alloc_ns = allocs[count / 2] * 1e9 / BATCH;
    free_ns = frees[count / 2] * 1e9 / BATCH;
}

__attribute__((noinline)) static long descend(long thread, long left)
{
    if (left > 0)
        left += descend(thread, left - 1);
    else if (split)
        batches();
    else
        churn(thread);
    return left;
}

static void *run(void *context)
{
    double start;

    pthread_barrier_wait(&barrier);
    start = seconds(CLOCK_THREAD_CPUTIME_ID);
    descend((long)context, depth);
    cpu_s[(long)context] = seconds(CLOCK_THREAD_CPUTIME_ID) - start;
    return NULL;
}

static void *sleep_for_ever(void *context)
{
    free(malloc(16));
    *(atomic_int *)context = 1;
    for (;;)
        pause();
    return NULL;
}

int main(int argc, char **argv)
{
    pthread_t ids[64], idle;
    atomic_int idle_runs = 0;
    double start, cpu = 0;
    int alone;

    threads = argc > 1 ? atol(argv[1]) : 1;
    events = argc > 2 ? atol(argv[2]) : 2000000;
    depth = argc > 3 ? atol(argv[3]) : 20;
    cross = argc > 4 && !strcmp(argv[4], "cross");
    grow = argc > 4 && !strcmp(argv[4], "grow");
    split = argc > 4 && !strcmp(argv[4], "split");
    alone = argc > 5 && !strcmp(argv[5], "alone");
    if (threads < 1 || threads > 64 || ((split || alone) && threads > 1))
        return 2;
    if (argc > 5 && !strcmp(argv[5], "idle")) {
        pthread_create(&idle, NULL, sleep_for_ever, &idle_runs);
        while (!idle_runs)
            usleep(1000);
    }
    pthread_barrier_init(&barrier, NULL, (unsigned)threads + !alone);
    start = seconds(CLOCK_MONOTONIC);
    if (alone) {
        run(NULL);
    } else {
        for (long i = 0; i < threads; i++)
            pthread_create(&ids[i], NULL, run, (void *)i);
        start = seconds(CLOCK_MONOTONIC);
        pthread_barrier_wait(&barrier);
        for (long i = 0; i < threads; i++)
            pthread_join(ids[i], NULL);
    }
    for (long i = 0; i < threads; i++)
        cpu += cpu_s[i];
    printf("events/s %.0f thread-ns/event %.2f", (double)events / (seconds(CLOCK_MONOTONIC) - start), cpu / (double)events * 1e9);
    if (split)
        printf(" alloc-ns %.2f free-ns %.2f", alloc_ns, free_ns);
    printf("\n");
    return 0;
}

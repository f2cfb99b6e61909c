/*
 * src/stack alone, for counting its instructions: captures at a depth, with one to four frames at the top that are not those of the capture
 * before.
 *
 *   micro_capture DEPTH COUNT
 *
 * Prints what a capture costs, how many frames it has and how many of them are new. What it would tell a reader goes nowhere (the writer below
 * only numbers frames), so that it runs under valgrind, which knows no mremap() of length 0. Compiled without frame pointers, as most
 * programs are.
 */
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "stack/stack.h"

static struct mt_writer writer;
static struct mt_lock lock;
static struct mt_stack stack;
static struct mt_stack_thread thread;
static uint64_t pushed, frames_seen;
static volatile int sink;

int mt_writer_add_frame(struct mt_writer *w, const struct mt_frame *frame, uint32_t *ret_id)
{
    static uint32_t frames;

    (void)w;
    (void)frame;
    *ret_id = frames++;
    return 0;
}

int mt_writer_add_module(struct mt_writer *w, const struct mt_module *module, const char *path, size_t path_bytes, uint32_t *ret_id)
{
    static uint32_t modules = 1;

    (void)w;
    (void)module;
    (void)path;
    (void)path_bytes;
    *ret_id = modules++;
    return 0;
}

static MT_NOINLINE void hooked(void)
{
    const struct mt_registers caller = MT_CALLER_REGISTERS();
    struct mt_stack_change change = mt_stack_capture(&stack, &thread, &caller);

    pushed += change.push;
    frames_seen += thread.frame_count;
}

#define LEVEL(name, next)                                                                                              \
    static MT_NOINLINE void name(int frames)                                                                           \
    {                                                                                                                  \
        if (frames > 1)                                                                                                \
            next(frames - 1);                                                                                          \
        else                                                                                                           \
            hooked();                                                                                                  \
        sink = frames;                                                                                                 \
    }
#define LEAF(name)                                                                                                     \
    static MT_NOINLINE void name(int frames)                                                                           \
    {                                                                                                                  \
        hooked();                                                                                                      \
        sink = frames;                                                                                                 \
    }
#define PATH(n) LEAF(d##n) LEVEL(c##n, d##n) LEVEL(b##n, c##n) LEVEL(a##n, b##n)
PATH(0)
PATH(1)
PATH(2)
PATH(3)
PATH(4)
PATH(5)
PATH(6)

static MT_NOINLINE void work(long count)
{
    static void (*const paths[])(int) = {a0, a1, a2, a3, a4, a5, a6};

    for (long i = 0; i < count; i++)
        paths[i % 7](1 + (int)(i % 4));
}

static MT_NOINLINE void descend(long frames, long count)
{
    if (frames > 0)
        descend(frames - 1, count);
    else
        work(count);
    sink = (int)frames;
}

int main(int argc, char **argv)
{
    long depth = argc > 1 ? atol(argv[1]) : 30, count = argc > 2 ? atol(argv[2]) : 100000;
    struct timespec a, b;
    double ns;

    if (mt_stack_load_unwinder() < 0 || mt_stack_init(&stack, &writer, &lock, false) < 0 || mt_stack_thread_init(&thread, &stack, 10) < 0)
        return 1;
    /* main(), its callers, work() and the paths are some 8 frames already; the rest is descend()'s. */
    descend(depth > 8 ? depth - 8 : 0, 1000);
    pushed = frames_seen = 0;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &a);
    descend(depth > 8 ? depth - 8 : 0, count);
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &b);
    ns = (double)(b.tv_sec - a.tv_sec) * 1e9 + (double)(b.tv_nsec - a.tv_nsec);
    printf("ns %.2f frames %.2f pushed %.2f\n", ns / (double)count, (double)frames_seen / (double)count, (double)pushed / (double)count);
    return 0;
}

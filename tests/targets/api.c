/* memtrace.h in a program of phases, iterations, marks, snapshots, pauses and a heap of its own. */
#include "memtrace.h"

#include "target.h"

static char pool[4096];

static NOINLINE void hold(int blocks, size_t bytes)
{
    for (int i = 0; i < blocks; i++)
        keep(malloc(bytes));
}

static NOINLINE void iterate(void) /* leaks 2 blocks of 50 each time */
{
    void *p = keep(malloc(10000));

    hold(2, 50);
    free(p);
}

static NOINLINE void unseen(void)
{
    hold(100, 100);
}

static NOINLINE void use_pool(memtrace_heap_t heap)
{
    for (int i = 0; i < 8; i++)
        memtrace_heap_alloc(heap, pool + i * 100, 100);
    for (int i = 0; i < 3; i++)
        memtrace_heap_free(heap, pool + i * 100);
}

int main(void)
{
    memtrace_heap_t heap;
    void *p;

    memtrace_phase_begin("outer");
    hold(3, 1000);
    memtrace_phase_begin("inner");
    p = keep(malloc(5000));
    hold(1, 70);
    free(p);
    memtrace_phase_end("inner");
    memtrace_phase_end("outer");
    memtrace_mark("halfway");
    for (int i = 0; i < 6; i++) {
        memtrace_iteration(i == 2 ? "third" : "");
        iterate();
    }
    p = keep(malloc(333));
    memtrace_pause();
    unseen();
    free(p);
    memtrace_resume();
    hold(1, 44);
    memtrace_snapshot("late");
    heap = memtrace_heap_create("pool");
    use_pool(heap);
    memtrace_heap_alloc(0, pool, 1);
    memtrace_heap_free(0, pool);
    say("%s\n", heap ? "traced" : "untraced");
    return 0;
}

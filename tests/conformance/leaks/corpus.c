/*
 * Callsites that leak and callsites that do not, in one loop over real allocations: corpus MODE SEED ITERATIONS, with MODE
 * `bounded` (none leaks), `leaks` (all do, some by chance), `fragments` (resident memory grows, live bytes do not), `freed` (a leak that
 * is freed before the end), `lossy` (all leak, but the last events cannot be recorded). test_leaks.py knows the right answers.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <linux/seccomp.h>
#include <unistd.h>

#include "memtrace.h"

#define NOINLINE __attribute__((noinline))
enum { SIZE = 1000, MANY = 4096 };

static unsigned long long state;
static int now, iterations;

static unsigned below(unsigned n)
{
    state ^= state >> 12;
    state ^= state << 25;
    state ^= state >> 27;
    return (unsigned)((state * 0x2545f4914f6cdd1dULL >> 33) % n);
}

static void *use(void *p)
{
    __asm__ volatile("" : : "r"(p) : "memory");
    return p;
}

struct slot {
    void *block;
    int until; /* iteration in which it goes */
};

struct slots {
    struct slot slot[MANY];
    int count;
};

/* The block stays in the callsite's own table until its iteration comes. */
static void hold(struct slots *s, void *block, int until)
{
    if (s->count < MANY)
        s->slot[s->count++] = (struct slot){use(block), until};
}

static void let_go(struct slots *s)
{
    int kept = 0;

    for (int i = 0; i < s->count; i++) {
        if (s->slot[i].until <= now)
            free(s->slot[i].block);
        else
            s->slot[kept++] = s->slot[i];
    }
    s->count = kept;
}

static int lifetime(unsigned mean) /* geometric */
{
    int n = 1;

    while (below(mean) != 0)
        n++;
    return n;
}

/* ---- none of these leaks ---------------------------------------------------------------------------------------------- */

static NOINLINE void turnover_3(void)
{
    static struct slots s;

    let_go(&s);
    for (int i = 0; i < 20; i++)
        hold(&s, malloc(SIZE), now + lifetime(3));
}

static NOINLINE void pool_25(void)
{
    static struct slots s;

    let_go(&s);
    for (int i = now == 1 ? -480 : 0; i < 20; i++)
        hold(&s, malloc(SIZE), now + lifetime(25));
}

static NOINLINE void warm_up(void)
{
    for (int i = 200 >> now; i > 0; i--)
        use(malloc(SIZE));
}

static NOINLINE void cache_4(void)
{
    if (now <= 4)
        use(malloc(SIZE));
}

static NOINLINE void cache_8(void)
{
    if (now <= 8)
        use(malloc(SIZE));
}

static NOINLINE void fifo_4(void)
{
    static struct slots s;

    let_go(&s);
    hold(&s, malloc(SIZE), now + 4);
}

static NOINLINE void lazy(void)
{
    static void *things[6];
    unsigned i = below(12);

    if (i < 6 && !things[i])
        things[i] = use(malloc(SIZE));
}

static NOINLINE void pool_that_doubles(void)
{
    static int capacity, used;

    for (int i = 0; i < 8; i++, used++)
        if (used == capacity) {
            capacity = capacity ? capacity * 2 : 16;
            use(malloc((size_t)capacity * 100));
        }
}

static NOINLINE void interned(void) /* 40 words, the rarer the later */
{
    static void *words[40];

    for (int i = 0; i < 60; i++) {
        unsigned word = below(40);
        if (!words[word])
            words[word] = use(malloc(SIZE));
    }
}

static NOINLINE void grown_then_freed(void)
{
    static struct slots s;
    static int until;

    let_go(&s);
    if (now >= until)
        until = now + 3 + (int)below(5);
    hold(&s, malloc(SIZE), until);
}

static NOINLINE void lru(void) /* 30 of 50 keys */
{
    static void *entry[50];
    static int used[50], clock, held;

    for (int i = 0; i < 15; i++) {
        unsigned key = below(50);
        used[key] = ++clock;
        if (entry[key])
            continue;
        if (held == 30) {
            int oldest = -1;
            for (int k = 0; k < 50; k++)
                if (entry[k] && (oldest < 0 || used[k] < used[oldest]))
                    oldest = k;
            free(entry[oldest]);
            entry[oldest] = NULL;
            held--;
        }
        entry[key] = use(malloc(SIZE));
        held++;
    }
}

static NOINLINE void flush_every_5(void)
{
    static struct slots s;

    let_go(&s);
    for (unsigned i = 1 + below(5); i > 0; i--)
        hold(&s, malloc(SIZE), now / 5 * 5 + 5);
}

static NOINLINE void vector(void)
{
    static void **items;
    static int count, capacity;

    for (int i = 0; i < 5; i++, count++)
        if (count == capacity) {
            capacity = capacity ? capacity * 2 : 8;
            items = use(realloc(items, (size_t)capacity * sizeof(*items)));
        }
}

static NOINLINE void borrowed(void)
{
    for (int i = 0; i < 300; i++)
        free(use(malloc(SIZE + below(100))));
}

static NOINLINE void mapped(void) /* a window that is moved on */
{
    static void *window;

    if (window)
        munmap(window, 1 << 16);
    window = mmap(NULL, 1 << 16, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
}

static NOINLINE void constant(void)
{
    if (now == 1)
        use(malloc(50 * SIZE));
}

static void bounded(void)
{
    turnover_3();
    pool_25();
    warm_up();
    cache_4();
    cache_8();
    fifo_4();
    lazy();
    pool_that_doubles();
    interned();
    grown_then_freed();
    lru();
    flush_every_5();
    vector();
    borrowed();
    mapped();
    constant();
}

/* ---- all of these do --------------------------------------------------------------------------------------------------- */

static NOINLINE void leak_one(void)
{
    use(malloc(SIZE));
}

static NOINLINE void leak_two_in_noise(void)
{
    static struct slots s;
    unsigned noise = 80 + below(40);

    let_go(&s);
    for (unsigned i = 0; i < noise; i++)
        hold(&s, malloc(SIZE), i < 2 ? iterations + 1 : now + 1);
}

static NOINLINE void leak_in_turnover(void)
{
    for (int i = 0; i < 2000; i++) {
        void *p = use(malloc(SIZE));
        if (i != 1000)
            free(p);
    }
}

static NOINLINE void leak_larger(void)
{
    use(malloc((size_t)SIZE * (size_t)now));
}

static NOINLINE void leak_mapping(void)
{
    use(mmap(NULL, 1 << 14, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
}

static NOINLINE void leak_reachable(void) /* a list that only grows */
{
    static struct node {
        struct node *next;
        char data[488];
    } *list;

    for (int i = 0; i < 3; i++) {
        struct node *node = use(malloc(sizeof(*node)));
        node->next = list;
        list = node;
    }
}

static NOINLINE void leak_half(void)
{
    if (below(2))
        use(malloc(SIZE));
}

static NOINLINE void leak_fifth(void)
{
    if (below(5) == 0)
        use(malloc(SIZE));
}

static NOINLINE void leak_by_realloc(void)
{
    static char *text;

    text = use(realloc(text, (size_t)now * SIZE));
}

static void leaks(void)
{
    leak_one();
    leak_two_in_noise();
    leak_in_turnover();
    leak_larger();
    leak_mapping();
    leak_reachable();
    leak_half();
    leak_fifth();
    leak_by_realloc();
}

/* ---- resident memory --------------------------------------------------------------------------------------------------- */

/* Ever more is borrowed in an iteration, and one block behind it all keeps the heap from shrinking. */
static NOINLINE void fragments(void)
{
    static void *pin;
    void *old;
    static void *block[MANY];
    int count = 100 * now;

    for (int i = 0; i < count; i++) {
        block[i] = use(malloc(10000));
        memset(block[i], 1, 10000);
    }
    old = pin;
    pin = use(malloc(30000)); /* behind all of them: there is no hole of that size */
    free(old);
    for (int i = 0; i < count; i++)
        free(block[i]);
}

int main(int argc, char **argv)
{
    static void *all[64];
    const char *mode = argc > 3 ? argv[1] : "";

    state = argc > 3 ? strtoull(argv[2], NULL, 10) * 0x9e3779b97f4a7c15ULL + 1 : 1;
    iterations = argc > 3 ? atoi(argv[3]) : 0;
    for (now = 1; now <= iterations; now++) {
        memtrace_iteration("");
        if (strcmp(mode, "bounded") == 0)
            bounded();
        else if (strcmp(mode, "leaks") == 0 || strcmp(mode, "lossy") == 0)
            leaks();
        else if (strcmp(mode, "fragments") == 0)
            fragments();
        else if (strcmp(mode, "freed") == 0)
            all[now % 64] = use(malloc(SIZE));
        else
            return 2;
    }
    if (strcmp(mode, "lossy") == 0 && prctl(PR_SET_SECCOMP, SECCOMP_MODE_STRICT, 0, 0, 0) == 0) {
        free(use(malloc(1)));
        syscall(SYS_exit, 0); /* exit_group is not allowed */
    }
    if (strcmp(mode, "freed") == 0)
        for (int i = 0; i < 64; i++)
            free(all[i]);
    return 0;
}

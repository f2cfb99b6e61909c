/*
 * What share of simulated callsites gets which verdict: generators that leak and generators that do not, among them all of those
 * the method was tuned on, and others. usage: leak_simulation [REPETITIONS [SEED]]; prints a table for each number of
 * iterations. Exit status 1 if at N >= 12 a generator without a leak was called one more than 5 times in 10,000. A queue or a cache whose
 * bound lies beyond N looks like a leak and cannot be told from one: those rows do not count.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "stats/stats.h"

enum { ENDS_MAX = 20, SIZE = 1000, NEVER = 1 << 30 };

static uint64_t state;
static int ends;
/* survivors: [birth][end] */
static double blocks[ENDS_MAX + 1][ENDS_MAX + 1], bytes[ENDS_MAX + 1][ENDS_MAX + 1];

static double uniform(void)
{
    state ^= state >> 12;
    state ^= state << 25;
    state ^= state >> 27;
    return ((double)(state * UINT64_C(0x2545f4914f6cdd1d) >> 11) + 0.5) / 0x1p53;
}

static int below(int n)
{
    return (int)(uniform() * n);
}

static int poisson(double mean)
{
    double limit = exp(-mean), product = uniform();
    int n = 0;

    for (; product > limit; n++)
        product *= uniform();
    return n;
}

/* Born in iteration b, freed in iteration d (before its end). */
static void sized(int b, int d, double size)
{
    for (int i = b ? b : 1; i <= ends && i < d; i++) {
        blocks[b][i] += 1;
        bytes[b][i] += size;
    }
}

static void block(int b, int d)
{
    sized(b, d, SIZE);
}

/* ---- without a leak */

static void turnover(double residence)
{
    for (int b = 1 - 8 * (int)residence; b <= ends; b++)
        for (int n = poisson(20); n > 0; n--) {
            int d = b + 1;
            while (uniform() > 1 / residence)
                d++;
            if (d > 1)
                block(b < 0 ? 0 : b, d);
        }
}

static void turnover_3(void)
{
    turnover(3);
}

static void pool_25(void)
{
    turnover(25);
}

static void falling(double first, double tau)
{
    for (int b = 1; b <= ends; b++)
        for (int n = poisson(first * exp(-(b - 1) / tau)); n > 0; n--)
            block(b, NEVER);
}

static void warm_up(void)
{
    falling(100, 1.5);
}

static void interned_3(void)
{
    falling(50, 3);
}

static void interned_6(void)
{
    falling(50, 6);
}

static void capped(int last)
{
    for (int b = 1; b <= last && b <= ends; b++)
        block(b, NEVER);
}

static void cap_4(void)
{
    capped(4);
}

static void cap_8(void)
{
    capped(8);
}

static void cap_last_but_one(void)
{
    capped(ends - 2);
}

static void cap_noisy(void)
{
    for (int b = 1, left = 25; b <= ends && left > 0; b++)
        for (int n = poisson(5); n > 0 && left > 0; n--, left--)
            block(b, NEVER);
}

static void fifo(int depth)
{
    for (int b = 1; b <= ends; b++)
        block(b, b + depth);
}

static void fifo_4(void)
{
    fifo(4);
}

static void fifo_8(void)
{
    fifo(8);
}

static void fifo_12(void)
{
    fifo(12);
}

static void lazy(void)
{
    for (int n = 0; n < 6; n++)
        block(1 + (int)(uniform() * uniform() * ends), NEVER);
}

static void lazy_late(void)
{
    for (int n = 0; n < 4; n++)
        block(1 + below(ends), NEVER);
}

/* A cache of 40 entries, keys at random out of 60: what is not used for long goes. */
static void lru(void)
{
    int born[60], used[60], clock = 0, held = 0;

    memset(born, 0, sizeof(born));
    for (int b = 1; b <= ends; b++)
        for (int n = 0; n < 12; n++) {
            int key = below(60), oldest = -1;
            used[key] = ++clock;
            if (born[key])
                continue;
            if (held == 40) {
                for (int k = 0; k < 60; k++)
                    if (born[k] && k != key && (oldest < 0 || used[k] < used[oldest]))
                        oldest = k;
                block(born[oldest], b);
                born[oldest] = 0;
                held--;
            }
            born[key] = b;
            held++;
        }
    for (int k = 0; k < 60; k++)
        if (born[k])
            block(born[k], NEVER);
}

static void flush_every(int period, int at)
{
    for (int b = 1; b <= ends; b++)
        for (int n = 1 + poisson(3); n > 0; n--)
            block(b, b + period - (b + at) % period);
}

static void flush_5(void)
{
    flush_every(5, 0);
}

static void sawtooth(void)
{
    int period = 3 + below(6);

    flush_every(period, below(period));
}

static void grown_then_freed(void)
{
    int d = 2 + below(ends - 1);

    for (int b = 1; b < d; b++)
        block(b, d);
}

static void two_steps(void)
{
    for (int b = 1; b <= 2; b++)
        block(b, NEVER);
    for (int n = 0; n < 10; n++)
        block(ends / 2, NEVER);
}

static void two_caches(void) /* each in one callsite, filled one after the other */
{
    for (int b = 1; b <= ends; b++)
        for (int n = b <= 3 ? 4 : b >= 5 && b <= 7 ? 3 : 0; n > 0; n--)
            block(b, NEVER);
}

static void vector(void) /* grows by an item each iteration; its storage doubles */
{
    int capacity = 4, born = 1;

    for (int items = 1, b = 1; b <= ends; b++, items += 3) {
        if (items <= capacity)
            continue;
        sized(born, b, SIZE * capacity);
        while (capacity < items)
            capacity *= 2;
        born = b;
    }
    sized(born, NEVER, SIZE * capacity);
}

static void borrowed(void) /* freed in the next iteration */
{
    for (int b = 1; b <= ends; b++)
        for (int n = poisson(100); n > 0; n--)
            block(b, b + 1 + (uniform() < 0.3));
}

static void drift(void) /* the size of a steady buffer wanders */
{
    double size = 50 * SIZE;

    for (int b = 1; b <= ends; b++) {
        size += (uniform() - 0.5) * 10 * SIZE;
        sized(b, b + 1, size);
    }
}

static void rare_turnover(void) /* one block, replaced now and then */
{
    int born = 0;

    for (int b = 1; b <= ends; b++)
        if (uniform() < 0.4) {
            block(born, b);
            born = b;
        }
    block(born, NEVER);
}

/* ---- with one */

static void leak_one(void)
{
    for (int b = 1; b <= ends; b++)
        block(b, NEVER);
}

static void leak_two_in_noise(void)
{
    for (int b = 1; b <= ends; b++) {
        block(b, NEVER);
        block(b, NEVER);
        for (int n = poisson(100); n > 0; n--)
            block(b, b + 1);
    }
}

static void leak_larger(void)
{
    for (int b = 1; b <= ends; b++)
        sized(b, NEVER, SIZE * b);
}

static void leak_poisson_3(void)
{
    for (int b = 1; b <= ends; b++)
        for (int n = poisson(3); n > 0; n--)
            block(b, NEVER);
}

static void leak_poisson_10(void)
{
    for (int b = 1; b <= ends; b++)
        for (int n = poisson(10); n > 0; n--)
            block(b, NEVER);
}

static void leak_by_chance(double chance)
{
    for (int b = 1; b <= ends; b++)
        if (uniform() < chance)
            block(b, NEVER);
}

static void leak_half(void)
{
    leak_by_chance(0.5);
}

static void leak_fifth(void)
{
    leak_by_chance(0.2);
}

static void leak_after_warm_up(void)
{
    falling(100, 1.5);
    leak_one();
}

static void leak_late(void) /* begins in iteration 4 */
{
    for (int b = 4; b <= ends; b++)
        block(b, NEVER);
}

static void leak_by_growing(void) /* one block, reallocated larger each time */
{
    for (int b = 1; b <= ends; b++)
        sized(b, b + 1, SIZE * b);
}

static const struct generator {
    const char *name;
    void (*generate)(void);
    bool leaks, hidden; /* hidden: its bound lies beyond some of the numbers of iterations */
} generators[] = {
    {"turnover, 3 iterations' residence", turnover_3, false, false},
    {"steady pool, 25 iterations' residence", pool_25, false, false},
    {"warm-up, tau 1.5", warm_up, false, false},
    {"interned strings, novelty tau 3", interned_3, false, false},
    {"interned strings, novelty tau 6", interned_6, false, false},
    {"cache capped at iteration 4", cap_4, false, false},
    {"cache capped at iteration 8", cap_8, false, false},
    {"cache capped at iteration N - 2", cap_last_but_one, false, false},
    {"cache of 25, 5 a time", cap_noisy, false, false},
    {"FIFO of 4", fifo_4, false, false},
    {"FIFO of 8", fifo_8, false, true},
    {"FIFO of 12", fifo_12, false, true},
    {"lazy initialisation, early", lazy, false, false},
    {"lazy initialisation, any time", lazy_late, false, false},
    {"LRU of 40, random keys of 60", lru, false, false},
    {"flush every 5", flush_5, false, false},
    {"sawtooth buffer", sawtooth, false, false},
    {"grown, then freed", grown_then_freed, false, false},
    {"cache in two steps", two_steps, false, false},
    {"two caches, one after the other", two_caches, false, false},
    {"vector that doubles", vector, false, false},
    {"borrowed for 1 or 2 iterations", borrowed, false, false},
    {"buffer of wandering size", drift, false, false},
    {"one block, now and then replaced", rare_turnover, false, false},
    {"leak, 1 block an iteration", leak_one, true, false},
    {"leak, 2 in Poisson(100)", leak_two_in_noise, true, false},
    {"leak, ever larger blocks", leak_larger, true, false},
    {"leak, Poisson(10) an iteration", leak_poisson_10, true, false},
    {"leak, Poisson(3) an iteration", leak_poisson_3, true, false},
    {"leak behind a warm-up", leak_after_warm_up, true, false},
    {"leak that begins in iteration 4", leak_late, true, false},
    {"leak with probability 0.5", leak_half, true, false},
    {"leak with probability 0.2", leak_fifth, true, false},
    {"leak by reallocation", leak_by_growing, true, false},
};

static enum mt_verdict verdict_of(void)
{
    double live_bytes[ENDS_MAX + 1] = {0}, live_blocks[ENDS_MAX + 1] = {0}, aged_bytes[ENDS_MAX + 1] = {0};
    double aged_blocks[ENDS_MAX + 1] = {0}, left_bytes[ENDS_MAX + 1], left_blocks[ENDS_MAX + 1];
    double at_risk[ENDS_MAX + 1] = {0}, deaths[ENDS_MAX + 1] = {0}, death_bytes[ENDS_MAX + 1] = {0};
    struct mt_finding f;

    for (int b = 0; b <= ends; b++) {
        left_bytes[b] = bytes[b][ends];
        left_blocks[b] = blocks[b][ends];
        for (int i = 1; i <= ends; i++) {
            live_bytes[i] += bytes[b][i];
            live_blocks[i] += blocks[b][i];
            aged_bytes[i] += b < i ? bytes[b][i] : 0;
            aged_blocks[i] += b < i ? blocks[b][i] : 0;
            if (i < ends && i >= (b <= MT_STATS_WARM_UP ? MT_STATS_WARM_UP + 1 : b + 1)) {
                at_risk[b] += blocks[b][i];
                deaths[b] += blocks[b][i] - blocks[b][i + 1];
                death_bytes[b] += bytes[b][i] - bytes[b][i + 1];
            }
        }
    }
    f = mt_stats_verdict(&(struct mt_cohorts){(unsigned)ends, live_bytes, live_blocks, aged_bytes, aged_blocks, left_bytes,
        left_blocks, at_risk, deaths, death_bytes, mt_stats_floor(0)});
    mt_stats_settle(&f, 1, false);
    return f.verdict;
}

int main(int argc, char **argv)
{
    static const int iterations[] = {10, 12, 20};
    int repetitions = argc > 1 ? atoi(argv[1]) : 20000, wrong = 0, all = 0;
    bool too_often = false;
    uint64_t seed = argc > 2 ? strtoull(argv[2], NULL, 10) : 1;

    for (size_t k = 0; k < 3; k++) {
        ends = iterations[k];
        printf("N = %-35d %8s %8s %8s %8s %8s\n", ends, "leak", "suspect", "warm-up", "bounded", "noise");
        for (size_t g = 0; g < sizeof(generators) / sizeof(generators[0]); g++) {
            int share[5] = {0};

            state = seed * UINT64_C(0x9e3779b97f4a7c15) + g + 1;
            for (int i = 0; i < repetitions; i++) {
                memset(blocks, 0, sizeof(blocks));
                memset(bytes, 0, sizeof(bytes));
                generators[g].generate();
                share[verdict_of()]++;
            }
            printf("%-39s", generators[g].name);
            for (int v = MT_VERDICT_LEAK; v >= 0; v--)
                printf(" %8.4f", (double)share[v] / repetitions);
            putchar('\n');
            if (!generators[g].leaks && !generators[g].hidden && ends >= 12) {
                all += repetitions;
                wrong += share[MT_VERDICT_LEAK];
                too_often |= share[MT_VERDICT_LEAK] * 10000.0 > 5.0 * repetitions;
            }
        }
        putchar('\n');
    }
    printf("At N >= 12, %d of %d verdicts on callsites without a leak were `leak`.\n", wrong, all);
    return too_often;
}

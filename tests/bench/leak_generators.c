/*
 * Callsites for leak_simulation.c: what is born in which iteration, and when it goes. The first set is what the method's gates were chosen
 * on; the second (leak_validation.c) was written afterwards, from other families, and no gate was moved to please it.
 */
#include <math.h>
#include <string.h>

#include "leak_generators.h"

uint64_t random_state;
int ends;
double blocks[ENDS_MAX + 1][ENDS_MAX + 1], bytes[ENDS_MAX + 1][ENDS_MAX + 1];

double uniform(void)
{
    random_state ^= random_state >> 12;
    random_state ^= random_state << 25;
    random_state ^= random_state >> 27;
    return ((double)(random_state * UINT64_C(0x2545f4914f6cdd1d) >> 11) + 0.5) / 0x1p53;
}

int below(int n)
{
    return (int)(uniform() * n);
}

int poisson(double mean)
{
    double limit = exp(-mean), product = uniform();
    int n = 0;

    for (; product > limit; n++)
        product *= uniform();
    return n;
}

void sized(int b, int d, double size)
{
    for (int i = b > 1 ? b : 1; i <= ends && i < d; i++) {
        blocks[b][i] += 1;
        bytes[b][i] += size;
    }
}

void block(int b, int d)
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

const struct generator generators_chosen_on[] = {
    {"turnover, 3 iterations' residence", turnover_3, false, 0},
    {"steady pool, 25 iterations' residence", pool_25, false, 0},
    {"warm-up, tau 1.5", warm_up, false, 0},
    {"interned strings, novelty tau 3", interned_3, false, 0},
    {"interned strings, novelty tau 6", interned_6, false, 0},
    {"cache capped at iteration 4", cap_4, false, 0},
    {"cache capped at iteration 8", cap_8, false, 0},
    {"cache capped at iteration N - 2", cap_last_but_one, false, 0},
    {"cache of 25, 5 a time", cap_noisy, false, 0},
    {"FIFO of 4", fifo_4, false, 0},
    {"FIFO of 8", fifo_8, false, 0},
    {"FIFO of 12", fifo_12, false, 0},
    {"lazy initialisation, early", lazy, false, 0},
    {"lazy initialisation, any time", lazy_late, false, 0},
    {"LRU of 40, random keys of 60", lru, false, 0},
    {"flush every 5", flush_5, false, 0},
    {"sawtooth buffer", sawtooth, false, 0},
    {"grown, then freed", grown_then_freed, false, 0},
    {"cache in two steps", two_steps, false, 0},
    {"two caches, one after the other", two_caches, false, 0},
    {"vector that doubles", vector, false, 0},
    {"borrowed for 1 or 2 iterations", borrowed, false, 0},
    {"buffer of wandering size", drift, false, 0},
    {"one block, now and then replaced", rare_turnover, false, 0},
    {"leak, 1 block an iteration", leak_one, true, 0},
    {"leak, 2 in Poisson(100)", leak_two_in_noise, true, 0},
    {"leak, ever larger blocks", leak_larger, true, 0},
    {"leak, Poisson(10) an iteration", leak_poisson_10, true, 0},
    {"leak, Poisson(3) an iteration", leak_poisson_3, true, 0},
    {"leak behind a warm-up", leak_after_warm_up, true, 0},
    {"leak that begins in iteration 4", leak_late, true, 0},
    {"leak with probability 0.5", leak_half, true, 0},
    {"leak with probability 0.2", leak_fifth, true, 0},
    {"leak by reallocation", leak_by_growing, true, 0},
    {0},
};

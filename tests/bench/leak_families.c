/*
 * A second set: other families of growth that ends, of turnover and of leaks. Written before their figures were seen, they showed what the
 * gates of then could not tell: an end that noise hides, older memory that goes while younger stays, a leak behind a warm-up. The method was
 * mended by them, and so there is a third set.
 */
#include <math.h>
#include <string.h>

#include "leak_generators.h"

/* ---- growth that ends, or gets ever slower */

static void kept(double (*rate)(int iteration))
{
    for (int b = 1; b <= ends; b++)
        for (int n = poisson(rate(b)); n > 0; n--)
            block(b, NEVER);
}

static double rate_power_1(int i)
{
    return 40.0 / i;
}

static void power_1(void)
{
    kept(rate_power_1);
}

static double rate_power_1_5(int i)
{
    return 80 / pow(i, 1.5);
}

static void power_1_5(void)
{
    kept(rate_power_1_5);
}

static double rate_power_2_few(int i)
{
    return 20.0 / (i * i);
}

static void power_2_few(void)
{
    kept(rate_power_2_few);
}

static double rate_stretched(int i)
{
    return 60 * exp(-pow(i / 3.0, 0.7));
}

static void stretched(void)
{
    kept(rate_stretched);
}

static double rate_tau_4_few(int i)
{
    return 6 * exp(-(i - 1) / 4.0);
}

static void tau_4_few(void)
{
    kept(rate_tau_4_few);
}

static double logistic(double i, double middle, double scale, double all)
{
    return all * (1 / (1 + exp(-(i - middle) / scale)) - 1 / (1 + exp(-(i - 1 - middle) / scale)));
}

static double rate_logistic_early(int i)
{
    return logistic(i, 3, 1.5, 120);
}

static void logistic_early(void)
{
    kept(rate_logistic_early);
}

static double rate_logistic_middle(int i)
{
    return logistic(i, 6, 1.2, 120);
}

static void logistic_middle(void)
{
    kept(rate_logistic_middle);
}

static double rate_linear_end(int i) /* falls in a straight line to nothing at 11 */
{
    return i < 11 ? 4.0 * (11 - i) : 0;
}

static void linear_end(void)
{
    kept(rate_linear_end);
}

static void coupons(int kinds, int draws, bool zipf)
{
    bool known[400] = {false};
    double whole = 0;

    for (int k = 0; k < kinds; k++)
        whole += zipf ? 1.0 / (k + 1) : 1;
    for (int b = 1; b <= ends; b++)
        for (int n = 0; n < draws; n++) {
            double at = uniform() * whole;
            int k = 0;
            while (k < kinds - 1 && (at -= zipf ? 1.0 / (k + 1) : 1) > 0)
                k++;
            if (!known[k])
                block(b, NEVER);
            known[k] = true;
        }
}

static void memo_30(void)
{
    coupons(30, 8, false);
}

static void words_60(void)
{
    coupons(60, 60, true);
}

static void words_400(void)
{
    coupons(400, 60, true);
}

static void two_stage(void) /* the first cache fills in 4 iterations, then another, larger one until 9 */
{
    for (int b = 1; b <= ends && b <= 9; b++)
        for (int n = b <= 4 ? 3 : 5; n > 0; n--)
            block(b, NEVER);
}

static void three_pools(void) /* each grows until a moment of its own */
{
    for (int pool = 0; pool < 3; pool++)
        for (int b = 1, last = 2 + below(5); b <= last && b <= ends; b++)
            for (int n = 1 + poisson(4); n > 0; n--)
                block(b, NEVER);
}

static void record_pool(void) /* as many connections as were ever needed at once */
{
    for (int b = 1, most = 0; b <= ends; b++)
        for (int need = poisson(20); most < need; most++)
            block(b, NEVER);
}

static void threads_first_use(void) /* 16 threads, each keeps a buffer from its first task on */
{
    bool used[16] = {false};

    for (int b = 1; b <= ends; b++)
        for (int n = 0; n < 6; n++) {
            int thread = below(16);
            if (!used[thread])
                sized(b, NEVER, SIZE * (1 + thread % 3));
            used[thread] = true;
        }
}

static void heavy_novelty(void) /* few, of very different sizes */
{
    for (int b = 1; b <= ends; b++)
        for (int n = poisson(12 * exp(-(b - 1) / 3.0)); n > 0; n--)
            sized(b, NEVER, 100 * pow(uniform(), -1 / 1.2));
}

/* ---- turnover */

struct held {
    int born[4000], count;
};

static void hold(struct held *h, int b)
{
    if (h->count < 4000)
        h->born[h->count++] = b;
}

static void drop(struct held *h, int at, int now)
{
    block(h->born[at], now);
    h->born[at] = h->born[--h->count];
}

static void settle(struct held *h)
{
    while (h->count > 0)
        drop(h, h->count - 1, NEVER);
}

static void evict_half_at_random(void)
{
    struct held h = {.count = 0};

    for (int b = 1; b <= ends; b++) {
        for (int n = poisson(6); n > 0; n--)
            hold(&h, b);
        if (h.count > 40)
            while (h.count > 20)
                drop(&h, below(h.count), b);
    }
    settle(&h);
}

static void evict_oldest_batch(void)
{
    int born[400], first = 0, count = 0;

    for (int b = 1; b <= ends; b++) {
        for (int n = poisson(5); n > 0 && count < 400; n--)
            born[count++] = b;
        if (count - first > 30)
            for (int n = 0; n < 15; n++)
                block(born[first++], b);
    }
    while (first < count)
        block(born[first++], NEVER);
}

static void random_walk(bool newest_first)
{
    struct held h = {.count = 0};

    for (int n = 0; n < 50; n++)
        hold(&h, 0);
    for (int b = 1; b <= ends; b++) {
        for (int n = 0; n < 30; n++) {
            if (uniform() < 0.5)
                hold(&h, b);
            else if (h.count > 0)
                drop(&h, newest_first ? h.count - 1 : below(h.count), b);
        }
    }
    settle(&h);
}

static void walk_any(void)
{
    random_walk(false);
}

static void walk_newest(void)
{
    random_walk(true);
}

static void walk_slow(void) /* one step an iteration, the oldest goes first */
{
    int born[ENDS_MAX + 8], first = 0, count = 6;

    memset(born, 0, sizeof(born));
    for (int b = 1; b <= ends; b++) {
        if (uniform() < 0.5)
            born[count++] = b;
        else if (first < count)
            block(born[first++], b);
    }
    while (first < count)
        block(born[first++], NEVER);
}

static void sawtooth_of(int period)
{
    for (int b = 1, at = below(period); b <= ends; b++)
        for (int n = 2; n > 0; n--)
            block(b, b + period - (b + at) % period);
}

static void sawtooth_9(void)
{
    sawtooth_of(9);
}

static void sawtooth_16(void)
{
    sawtooth_of(16);
}

static void long_lives(void) /* survival 1 / age: the heaviest tail that has no mean */
{
    for (int b = 1 - 60; b <= ends; b++)
        for (int n = poisson(15); n > 0; n--) {
            int d = b + (int)ceil(1 / uniform());
            if (d > 1)
                block(b < 0 ? 0 : b, d);
        }
}

static void heavy_turnover(void)
{
    for (int b = -11; b <= ends; b++)
        for (int n = poisson(8); n > 0; n--) {
            int d = b + 1;
            while (uniform() > 0.4)
                d++;
            if (d > 1)
                sized(b < 0 ? 0 : b, d, 100 * pow(uniform(), -1 / 1.1));
        }
}

static void time_to_live(void)
{
    for (int b = 1; b <= ends; b++)
        for (int n = 4; n > 0; n--)
            block(b, b + 2 + below(5));
}

static void two_generations(void) /* a cache that is swapped for an empty one every 4 iterations; the one before is kept */
{
    int shift = below(4);

    for (int b = 1; b <= ends; b++)
        for (int n = 1 + poisson(2); n > 0; n--)
            block(b, (b + shift) / 4 * 4 + 8 - shift);
}

static void every_third(void)
{
    for (int b = 1 + below(3); b <= ends; b += 3)
        for (int n = 0; n < 6; n++)
            block(b, b + 6);
}

static void larger_in_between(void) /* steady buffers, of a size that comes and goes */
{
    int shift = below(10);

    for (int b = 1; b <= ends; b++)
        sized(b, b + 2, SIZE * (20 + 10 * sin((b + shift) * 0.628)));
}

/* ---- leaks */

static void leak_of_two_or_four(void)
{
    for (int b = 1; b <= ends; b++)
        for (int n = 2 + below(3); n > 0; n--)
            block(b, NEVER);
}

static void leak_uneven(void) /* mean 10, variance 60 */
{
    for (int b = 1; b <= ends; b++) {
        double mean = -5 * log(uniform() * uniform());
        for (int n = poisson(mean); n > 0; n--)
            block(b, NEVER);
    }
}

static void leak_poisson_30(void)
{
    for (int b = 1; b <= ends; b++)
        for (int n = poisson(30); n > 0; n--)
            block(b, NEVER);
}

static void leak_heavy(void) /* one an iteration, of very different sizes */
{
    for (int b = 1; b <= ends; b++)
        sized(b, NEVER, 200 * pow(uniform(), -1 / 1.5));
}

static void leak_faster(void) /* one more each time */
{
    for (int b = 1; b <= ends; b++)
        for (int n = 0; n < b; n++)
            block(b, NEVER);
}

static void leak_and_fall(void) /* 3 an iteration, beside novelty that ends soon */
{
    for (int b = 1; b <= ends; b++)
        for (int n = 3 + poisson(20 * exp(-(b - 1) / 0.8)); n > 0; n--)
            block(b, NEVER);
}

static void leak_in_turnover(void)
{
    for (int b = 1; b <= ends; b++) {
        block(b, NEVER);
        for (int n = 40; n > 0; n--)
            block(b, b + 1);
    }
}

static void leak_every_other(void)
{
    for (int b = 1; b <= ends; b += 2)
        block(b, NEVER);
}

static void leak_chance_90(void)
{
    for (int b = 1; b <= ends; b++)
        if (uniform() < 0.9)
            block(b, NEVER);
}

static void leak_binomial(void) /* each of 20 requests leaks with 0.5 */
{
    for (int b = 1; b <= ends; b++)
        for (int n = 0; n < 20; n++)
            if (uniform() < 0.5)
                block(b, NEVER);
}

const struct generator generators_mended_by[] = {
    {"novelty 40 / i", power_1, false, 0},
    {"novelty 80 / i^1.5", power_1_5, false, 0},
    {"novelty 20 / i^2", power_2_few, false, 0},
    {"novelty, stretched exponential", stretched, false, 0},
    {"novelty 6 exp(-i / 4)", tau_4_few, false, 0},
    {"logistic, middle 3", logistic_early, false, 0},
    {"logistic, middle 6", logistic_middle, false, 0},
    {"novelty falls to 0 in a line", linear_end, false, 0},
    {"memo of 30 keys, 8 calls", memo_30, false, 0},
    {"60 words by Zipf's law, 60 drawn", words_60, false, 0},
    {"400 words by Zipf's law, 60 drawn", words_400, false, 0},
    {"caches of two stages, until 9", two_stage, false, 0},
    {"three pools, each to its own end", three_pools, false, 0},
    {"pool of record size", record_pool, false, 0},
    {"16 threads' first use", threads_first_use, false, 0},
    {"novelty, heavy-tailed sizes", heavy_novelty, false, 0},
    {"evicts half, at random", evict_half_at_random, false, 0},
    {"evicts the oldest half", evict_oldest_batch, false, 0},
    {"random walk, any goes", walk_any, false, 0},
    {"random walk, the newest goes", walk_newest, false, 0},
    {"random walk, one step, oldest goes", walk_slow, false, 0},
    {"sawtooth of 9", sawtooth_9, false, 0},
    {"sawtooth of 16", sawtooth_16, false, 20},
    {"lives of 1 / age", long_lives, false, 0},
    {"turnover, heavy-tailed sizes", heavy_turnover, false, 0},
    {"lives of 2 to 6", time_to_live, false, 0},
    {"two generations of a cache", two_generations, false, 0},
    {"batches every third iteration", every_third, false, 0},
    {"buffer that breathes", larger_in_between, false, 0},
    {"leak, 2 to 4 an iteration", leak_of_two_or_four, true, 0},
    {"leak, uneven, mean 10", leak_uneven, true, 0},
    {"leak, Poisson(30)", leak_poisson_30, true, 0},
    {"leak, heavy-tailed sizes", leak_heavy, true, 0},
    {"leak, one more each time", leak_faster, true, 0},
    {"leak beside novelty that ends", leak_and_fall, true, 0},
    {"leak of 1 among 41", leak_in_turnover, true, 0},
    {"leak, binomial(20, 0.5)", leak_binomial, true, 0},
    {"leak with probability 0.9", leak_chance_90, true, 0},
    {"leak every other iteration", leak_every_other, true, 0},
    {0},
};

/*
 * A third set, written after the method had been mended and before its figures were seen; no gate was moved for it.
 */
#include <math.h>
#include <string.h>

#include "leak_generators.h"

/* ---- growth that ends, or gets ever slower */

static int geometric(double mean)
{
    int n = 0;

    while (uniform() < mean / (1 + mean))
        n++;
    return n;
}

static void gompertz(void)
{
    for (int b = 1; b <= ends; b++) {
        double rate = 150 * (exp(-4 * exp(-0.5 * b)) - exp(-4 * exp(-0.5 * (b - 1))));
        for (int n = poisson(rate); n > 0; n--)
            block(b, NEVER);
    }
}

static void hyperbola(void) /* 100 t / (t + 3) in all */
{
    for (int b = 1; b <= ends; b++)
        for (int n = poisson(300.0 / ((b + 2) * (b + 3))); n > 0; n--)
            block(b, NEVER);
}

static void uneven_novelty(void)
{
    for (int b = 1; b <= ends; b++)
        for (int n = geometric(25 * exp(-(b - 1) / 4.0)); n > 0; n--)
            block(b, NEVER);
}

static void first_uses(void) /* each of 50 is used with 0.2 in an iteration */
{
    for (int n = 0; n < 50; n++) {
        int b = 1;
        while (uniform() > 0.2)
            b++;
        if (b <= ends)
            block(b, NEVER);
    }
}

static void restaurant(void) /* new kinds get rarer as known ones get popular: log growth */
{
    for (int b = 1, guests = 0; b <= ends; b++)
        for (int n = 0; n < 20; n++, guests++)
            if (uniform() < 6.0 / (6 + guests))
                block(b, NEVER);
}

static void chunks(void) /* an arena of chunks, each twice as large as the one before */
{
    for (int b = 1, used = 0, room = 4; b <= ends; b++)
        for (used += 3 + below(3); used > room; room *= 2)
            sized(b, NEVER, SIZE * room);
}

static void two_workloads(void) /* by turns, each with a cache that fills in its first three */
{
    for (int b = 1; b <= ends && b <= 6; b++)
        for (int n = 4; n > 0; n--)
            block(b, NEVER);
}

static void topics(void) /* 30 topics, three an iteration, each brings 5 words when it is new */
{
    bool known[30] = {false};

    for (int b = 1; b <= ends; b++)
        for (int n = 0; n < 3; n++) {
            int topic = (int)(30 * uniform() * uniform());
            for (int words = known[topic] ? 0 : 5; words > 0; words--)
                block(b, NEVER);
            known[topic] = true;
        }
}

/* ---- turnover */

struct entry {
    int born, uses;
};

static void least_used(void) /* of 25 entries the least used goes; keys by Zipf's law of 80 */
{
    struct entry entry[80] = {{0, 0}};

    for (int b = 1, held = 0; b <= ends; b++)
        for (int n = 0; n < 15; n++) {
            int key = (int)pow(81, uniform()) - 1, least = -1;
            if (entry[key].born) {
                entry[key].uses++;
                continue;
            }
            for (int k = 0; held == 25 && k < 80; k++)
                if (entry[k].born && (least < 0 || entry[k].uses < entry[least].uses))
                    least = k;
            if (least >= 0) {
                block(entry[least].born, b);
                entry[least].born = 0;
                held--;
            }
            entry[key] = (struct entry){b, 1};
            held++;
        }
    for (int k = 0; k < 80; k++)
        if (entry[k].born)
            block(entry[k].born, NEVER);
}

static void ring_of_bytes(void) /* records of any size; the oldest go when 30 are full */
{
    int born[400], first = 0, count = 0;
    double size[400], held = 0;

    for (int b = 1; b <= ends; b++)
        for (int n = 0; n < 6; n++) {
            born[count] = b;
            size[count] = SIZE * (0.2 + 2 * uniform());
            held += size[count++];
            for (; held > 30 * SIZE; first++) {
                sized(born[first], b, size[first]);
                held -= size[first];
            }
        }
    for (; first < count; first++)
        sized(born[first], NEVER, size[first]);
}

/* All garbage at once, now and then: not at all in 9 iterations with 0.65 ^ 9 = 0.02, and then it looks like a leak. */
static void collected_by_chance(void)
{
    int since = 1;

    for (int b = 1; b <= ends; b++)
        if (b == ends || uniform() < 0.35) {
            bool last = b == ends && uniform() >= 0.35;
            for (; since <= b; since++)
                for (int n = 3; n > 0; n--)
                    block(since, last ? NEVER : b + (since == b));
        }
}

static void collected_at_a_quarter(void) /* when what is new is a quarter of what was there */
{
    int since = 1, fresh = 0;

    for (int n = 0; n < 60; n++)
        block(0, NEVER);
    for (int b = 1; b <= ends; b++) {
        fresh += 4;
        if (fresh > 15) {
            for (; since < b; since++)
                for (int n = 4; n > 0; n--)
                    block(since, b);
            fresh = 4;
        }
    }
    for (; since <= ends; since++)
        for (int n = 4; n > 0; n--)
            block(since, NEVER);
}

static void queue_behind(void) /* a consumer that is now faster, now slower, with room for 20 */
{
    int born[1200], first = 0, count = 0;

    for (int b = 1; b <= ends; b++) {
        for (int n = poisson(10); n > 0 && count - first < 20; n--)
            born[count++] = b;
        for (int n = poisson(10); n > 0 && first < count; n--)
            block(born[first++], b);
    }
    while (first < count)
        block(born[first++], NEVER);
}

static void last_six(void) /* what the last six iterations used */
{
    for (int b = 1; b <= ends; b++)
        for (int n = 2 + below(3); n > 0; n--)
            block(b, b + 6);
}

static void idle_shrink(void) /* a pool for the need of the moment, which gives back what three iterations did not need */
{
    int born[200], held = 0, need[4] = {0};

    for (int b = 1; b <= ends; b++) {
        int most = 0;
        need[b % 4] = poisson(30);
        for (int k = 0; k < 4; k++)
            most = need[k] > most ? need[k] : most;
        while (held < need[b % 4])
            born[held++] = b;
        while (held > most)
            block(born[--held], b);
    }
    while (held > 0)
        block(born[--held], NEVER);
}

static void weekly(void) /* every fifth iteration a lot, for two iterations; a few each time, for one */
{
    int day = below(5);

    for (int b = 1; b <= ends; b++)
        for (int n = (b + day) % 5 ? 2 : 20; n > 0; n--)
            block(b, b + ((b + day) % 5 ? 2 : 3));
}

/* ---- leaks */

static void leak_geometric(void)
{
    for (int b = 1; b <= ends; b++)
        for (int n = geometric(5); n > 0; n--)
            block(b, NEVER);
}

static void leak_six_or_seven(void)
{
    for (int b = 1; b <= ends; b++)
        for (int n = 6 + below(2); n > 0; n--)
            block(b, NEVER);
}

static void leak_hundred(void) /* mean 100, Poisson */
{
    for (int b = 1; b <= ends; b++)
        for (int n = poisson(50) + poisson(50); n > 0; n--)
            block(b, NEVER);
}

static void leak_doubles(void) /* 2 until the middle, then 5 */
{
    for (int b = 1; b <= ends; b++)
        for (int n = b <= ends / 2 ? 2 : 5; n > 0; n--)
            block(b, NEVER);
}

static void leak_with_burst(void)
{
    int burst = 3 + below(ends - 3);

    for (int b = 1; b <= ends; b++)
        for (int n = b == burst ? 30 : 3; n > 0; n--)
            block(b, NEVER);
}

static void leak_in_pool(void) /* 1 of each iteration's 20 stays, the others live on for 5 at the most */
{
    for (int b = 1; b <= ends; b++) {
        block(b, NEVER);
        for (int n = 19; n > 0; n--)
            block(b, b + 1 + below(5));
    }
}

static void leak_nine_in_ten(void) /* of 5 blocks each is freed with 0.1 */
{
    for (int b = 1; b <= ends; b++)
        for (int n = 0; n < 5; n++)
            block(b, uniform() < 0.1 ? b + 1 : NEVER);
}

static void leak_smaller(void) /* one an iteration, of ever smaller size, down to a half */
{
    for (int b = 1; b <= ends; b++)
        sized(b, NEVER, SIZE * (1 - 0.5 * b / ends));
}

const struct generator generators_held_out[] = {
    {"Gompertz growth", gompertz, false, 0},
    {"hyperbola, half at 3", hyperbola, false, 0},
    {"novelty tau 4, geometric", uneven_novelty, false, 0},
    {"first uses of 50", first_uses, false, 0},
    {"ever fewer new kinds, log growth", restaurant, false, 0},
    {"arena of doubling chunks", chunks, false, 0},
    {"two workloads, a cache each", two_workloads, false, 0},
    {"topics that bring words", topics, false, 0},
    {"cache, the least used goes", least_used, false, 0},
    {"ring of records", ring_of_bytes, false, 0},
    {"garbage, collected by chance", collected_by_chance, false, 20},
    {"garbage, collected at a quarter", collected_at_a_quarter, false, 0},
    {"queue behind a slow consumer", queue_behind, false, 0},
    {"what the last six used", last_six, false, 0},
    {"pool that shrinks when idle", idle_shrink, false, 0},
    {"every fifth iteration a lot", weekly, false, 0},
    {"leak, geometric, mean 5", leak_geometric, true, 0},
    {"leak of 6 or 7", leak_six_or_seven, true, 0},
    {"leak, Poisson(100)", leak_hundred, true, 0},
    {"leak, 2 and later 5", leak_doubles, true, 0},
    {"leak with one burst", leak_with_burst, true, 0},
    {"leak in a pool", leak_in_pool, true, 0},
    {"leak of nine in ten of 5", leak_nine_in_ten, true, 0},
    {"leak, ever smaller blocks", leak_smaller, true, 0},
    {0},
};

/*
 * What share of simulated callsites gets which verdict, after 12, 24 and 48 iterations: those that the method's gates were chosen on, and
 * others (leak_generators.h). usage: leak_simulation [REPETITIONS [SEED [N]]], or leak_simulation --predict CHANCE N
 *
 * Exit status 1 if a callsite without a leak is called one more often than in 0.2 % (99.9 % one-sided), or if leaks by chance are not found at
 * the rates that the method predicts.
 *
 * A queue or a cache whose bound lies beyond N looks like a leak, and no method can tell. `beyond` marks these rows by what the callsites
 * did, not by their verdicts: over all repetitions, what was left behind by the last quarter of the judged iterations is at least half as much as by
 * those before, and next to nothing of it was freed.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "leak_generators.h"
#include "stats/stats.h"

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


/* What the repetitions of a generator came to. */
struct row {
    int share[5];
    double left[ENDS_MAX + 1], risk, deaths; /* of judged cohorts */
};

static bool is_beyond(const struct row *row)
{
    int first = MT_STATS_WARM_UP + 1, count = ends - first, last = count / 4;
    double early = 0, late = 0;

    for (int b = first; b < ends; b++)
        *(b < ends - last ? &early : &late) += row->left[b];
    return early > 0 && late / last >= 0.5 * early / (count - last) && row->deaths <= 0.01 * row->risk;
}

static struct row simulate(const struct generator *g, int repetitions, uint64_t seed)
{
    struct row row = {{0}, {0}, 0, 0};

    random_state = seed;
    for (int i = 0; i < repetitions; i++) {
        memset(blocks, 0, sizeof(blocks));
        memset(bytes, 0, sizeof(bytes));
        g->generate();
        row.share[verdict_of()]++;
        for (int b = MT_STATS_WARM_UP + 1; b < ends; b++) {
            row.left[b] += blocks[b][ends];
            for (int k = b + 1; k < ends; k++) {
                row.risk += blocks[b][k];
                row.deaths += blocks[b][k] - blocks[b][k + 1];
            }
        }
    }
    return row;
}

/* ---- what the method itself predicts ------------------------------------------------------------------------------------ */

/*
 * How many patterns of judged iterations, of those in which so many leave a block, are a `leak`: all of them, through the method. The
 * other iterations change nothing: those of the warm-up are there all the while, the last is not judged.
 */
static void count_patterns(double *ret_leaks)
{
    unsigned count = (unsigned)ends - 1 - MT_STATS_WARM_UP;

    memset(ret_leaks, 0, (count + 1) * sizeof(*ret_leaks));
    for (unsigned long pattern = 0; pattern < 1ul << count; pattern++) {
        unsigned with = (unsigned)__builtin_popcountl(pattern);
        if (mt_stats_binomial_tail(with, count, 0.25) > 1e-3) /* the first gate, for speed */
            continue;
        memset(blocks, 0, sizeof(blocks));
        memset(bytes, 0, sizeof(bytes));
        for (unsigned i = 0; i < count; i++)
            if (pattern >> i & 1)
                block(MT_STATS_WARM_UP + 1 + (int)i, NEVER);
        ret_leaks[with] += verdict_of() == MT_VERDICT_LEAK;
    }
}

/* The rate of `leak` on a callsite that leaks a block with this chance in an iteration, exactly. */
static double predicted(const double *leaks, double chance)
{
    unsigned count = (unsigned)ends - 1 - MT_STATS_WARM_UP;
    double rate = 0;

    for (unsigned with = 0; with <= count; with++)
        rate += leaks[with] * pow(chance, with) * pow(1 - chance, count - with);
    return rate;
}

/* Is so many of n what a rate of p gives, at 99.9 %? */
static bool is_likely(int k, int n, double p)
{
    return mt_stats_proportion_lower(k, n, 0.9995) <= p && p <= mt_stats_proportion_upper(k, n, 0.9995);
}

static bool compare_predictions(int repetitions, uint64_t seed, int only)
{
    static const struct {
        double chance;
        const char *name;
    } chances[] = {{0.2, "leak with probability 0.2"}, {0.5, "leak with probability 0.5"}, {0.9, "leak with probability 0.9"}};
    double leaks[ENDS_MAX];
    bool fine = true;

    puts("leak by chance: the method's prediction, and what was found (99.9 % interval)");
    for (ends = 12; ends <= 24; ends *= 2) {
        if (only && only != ends)
            continue;
        count_patterns(leaks);
        for (size_t k = 0; k < sizeof(chances) / sizeof(chances[0]); k++) {
            const struct generator *g = k < 2 ? generators_chosen_on : generators_mended_by;
            double p = predicted(leaks, chances[k].chance);
            struct row row;
            int found;

            while (strcmp(g->name, chances[k].name) != 0)
                g++;
            row = simulate(g, repetitions, seed + k);
            found = row.share[MT_VERDICT_LEAK];
            printf("  N = %d, chance %.1f: %.5f, found %.5f (%.5f to %.5f)%s\n", ends, chances[k].chance, p, (double)found / repetitions,
                mt_stats_proportion_lower(found, repetitions, 0.9995), mt_stats_proportion_upper(found, repetitions, 0.9995),
                is_likely(found, repetitions, p) ? "" : "  WRONG");
            fine &= is_likely(found, repetitions, p);
        }
    }
    return fine;
}

/* ---- tables ------------------------------------------------------------------------------------------------------------- */

/* A chance of a half leaves something in all of the 9 judged iterations once in 2^9 = 512 times, and is then a leak's very image. */
#define WRONG_MOST 0.002

struct told {
    int wrong, all; /* `leak` where there is none */
    bool too_often;
};

static void table(const char *title, const struct generator *g, int repetitions, uint64_t seed, struct told *told)
{
    printf("N = %d, %-32s %8s %8s %8s %8s %8s\n", ends, title, "leak", "suspect", "warm-up", "bounded", "noise");
    for (int k = 0; g[k].name; k++) {
        struct row row = simulate(&g[k], repetitions, seed * UINT64_C(0x9e3779b97f4a7c15) + (uint64_t)k + 1);
        bool beyond = !g[k].leaks && (ends < g[k].least || is_beyond(&row)), too_often;

        printf("%-39s", g[k].name);
        for (int v = MT_VERDICT_LEAK; v >= 0; v--)
            printf(" %8.4f", (double)row.share[v] / repetitions);
        too_often = !g[k].leaks && !beyond && mt_stats_proportion_lower(row.share[MT_VERDICT_LEAK], repetitions, 0.999) > WRONG_MOST;
        puts(beyond ? "  beyond" : too_often ? "  TOO OFTEN" : "");
        if (g[k].leaks || beyond)
            continue;
        told->all += repetitions;
        told->wrong += row.share[MT_VERDICT_LEAK];
        told->too_often |= too_often;
    }
    putchar('\n');
    fflush(stdout);
}

int main(int argc, char **argv)
{
    static const struct {
        const char *title;
        const struct generator *generators;
    } sets[] = {{"the gates were chosen on", generators_chosen_on}, {"mended by", generators_mended_by}, {"held out", generators_held_out}};
    static const int iterations[] = {12, 24, 48};
    int repetitions = argc > 1 ? atoi(argv[1]) : 20000;
    uint64_t seed = argc > 2 ? strtoull(argv[2], NULL, 10) : 1;
    struct told told[3] = {{0}};
    bool fine;

    if (argc == 4 && strcmp(argv[1], "--predict") == 0) { /* CHANCE N */
        double leaks[ENDS_MAX];
        ends = atoi(argv[3]);
        if (ends < 4 || ends > 24)
            return 2;
        count_patterns(leaks);
        printf("%.9f\n", predicted(leaks, atof(argv[2])));
        return 0;
    }
    if (repetitions < 1)
        return 2;
    for (size_t k = 0; k < 3; k++)
        for (size_t set = 0; set < 3; set++) {
            ends = iterations[k];
            if (argc > 3 && atoi(argv[3]) != ends)
                continue;
            table(sets[set].title, sets[set].generators, repetitions, seed + set, &told[set]);
        }
    fine = compare_predictions(repetitions, seed * 77, argc > 3 ? atoi(argv[3]) : 0);
    puts("\n`leak` without a leak:");
    for (size_t set = 0; set < 3; set++) {
        printf("  %-28s %d of %d\n", sets[set].title, told[set].wrong, told[set].all);
        fine &= !told[set].too_often;
    }
    return fine ? 0 : 1;
}

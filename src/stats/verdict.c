/*
 * The cohort method: growth is a leak if what an iteration leaves behind stays, iteration after iteration, without an end in
 * sight. Totals cannot tell (a cache that fills up, a queue, a warm-up all grow); who was born when can.
 *
 * With w = MT_STATS_WARM_UP and a lag of one iteration the cohorts w + 1 .. N - 1 are judged, at the end of iteration N. Gates, in their order:
 *   cohorts    those with survivors: binomial tail at 0.25 (a callsite without a leak has some in a cohort now and then), <= 0.001
 *   retention  deaths / at risk <= 1 %, its upper 95 % bound <= 15 %; or as little of the bytes, where it is small blocks that go (the storage
 *              of a list that grows, beside what is put into it)
 *   net        what older cohorts lost meanwhile is at most a tenth of what survived
 *   plateau    the last cohort has survivors, the last quarter is not below the earlier ones by more than 2.33 standard errors,
 *              nor do survivors get fewer from cohort to cohort (Mann-Kendall or least squares, one-sided 0.05); a decline of less
 *              than a tenth is none, however sure it is: work that is the same each time may have one block less now and then
 *   halves     the younger half left at least half as much as the older one, and the total grew by at least half as much
 *   slows      surely (0.01) the last cohorts leave at least half as much as the first, in blocks or in bytes
 *   effect     Theil-Sen's lower 95 % bound of aged bytes per iteration is worth a line
 *
 * The gates before `slows` look for signs of an end, and noise can hide them: novelty that dies out slowly has few and uneven cohorts, and passes
 * for a leak at any rate that is not tested against it. So the burden of proof lies with the leak. Where the counts are the same
 * each time that is no burden; where they scatter it takes more iterations, and until then the verdict is `suspect`.
 *
 * A callsite that has both a warm-up and a leak slows down for ever. Where the younger half is as long as all that 12 iterations have, it
 * is judged by itself, too; that being a second look, `slows` asks for 0.0001 there.
 */
#include "stats/stats.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define CHANCE 0.25
#define FALLING_P 0.05
#define MATERIAL 0.1
#define COHORTS_P 1e-3
#define SUSPECT_P 0.25
#define DEATHS_SHARE 0.01
#define DEATHS_UPPER 0.15
#define FAMILY_Q 0.01
#define NET_SHARE 0.9
#define NET_SUSPECT 0.5
#define SLOWS_P 0.01
#define SLOWS_AGAIN_P 1e-4
enum { ALONE = 9 }; /* cohorts that may be judged by themselves */

static const struct {
    const char *name, *text;
} gates[MT_GATE_COUNT] = {
#define GATE_ROW_(symbol, name, text) {name, text},
    MT_GATES(GATE_ROW_)
#undef GATE_ROW_
};

const char *mt_stats_gate_name(enum mt_gate gate)
{
    return gates[gate].name;
}

const char *mt_stats_gate_text(enum mt_gate gate)
{
    return gates[gate].text;
}

enum mt_gate mt_stats_gate_of(const char *name)
{
    for (unsigned i = 1; name && i < MT_GATE_COUNT; i++)
        if (strcmp(gates[i].name, name) == 0)
            return (enum mt_gate)i;
    return MT_GATE_NONE;
}

const char *mt_stats_verdict_name(enum mt_verdict verdict)
{
    static const char *const names[] = {"noise", "bounded", "warm-up", "suspect", "leak"};

    return names[verdict];
}

double mt_stats_floor(double heap_bytes)
{
    double part = heap_bytes / 10000;

    return part > MT_STATS_FLOOR_BYTES ? part : MT_STATS_FLOOR_BYTES;
}

static double sum(const double *values, unsigned from, unsigned to) /* both included */
{
    double total = 0;

    for (unsigned i = from; i <= to; i++)
        total += values[i];
    return total;
}

static double range(const double *values, unsigned from, unsigned to)
{
    double low = values[from], high = values[from];

    for (unsigned i = from + 1; i <= to; i++) {
        low = values[i] < low ? values[i] : low;
        high = values[i] > high ? values[i] : high;
    }
    return high - low;
}

struct line { /* through cohorts 0, 1, .. */
    double mean, slope;
    double variance, x_squares; /* about the line; of x about its mean */
    double degrees;
};

static struct line line_of(const double *left, unsigned count)
{
    struct line line = {.degrees = count - 2.0};
    double middle = (count - 1) / 2.0;

    for (unsigned i = 0; i < count; i++)
        line.mean += left[i] / count;
    for (unsigned i = 0; i < count; i++) {
        line.x_squares += (i - middle) * (i - middle);
        line.slope += (i - middle) * (left[i] - line.mean);
    }
    line.slope /= line.x_squares;
    for (unsigned i = 0; i < count; i++) {
        double off = left[i] - line.mean - line.slope * (i - middle);
        line.variance += off * off / line.degrees;
    }
    return line;
}

/* One-sided p of an estimate that is no larger than 0, whose standard error has the line's degrees of freedom. */
static double p_above(double estimate, double error, const struct line *line)
{
    if (error <= 1e-12 * line->mean)
        return estimate > 1e-12 * line->mean ? 0 : 1;
    return mt_stats_t_cdf(-estimate / error, line->degrees);
}

/* The line sees a steady decline in noise that ranks do not. */
static bool falls(const struct line *line)
{
    return p_above(-line->slope, sqrt(line->variance / line->x_squares), line) <= FALLING_P;
}

/*
 * Is it not sure that the line's last point is above half of its first? Where an iteration leaves all or nothing there is no rate that could
 * fall, only a chance, and that is what the gate `cohorts` tests; but not of a part that was looked at for how it looks.
 */
static bool may_slow(const double *left, unsigned count, double p)
{
    struct line line = line_of(left, count);
    double most = 0, reach = 0.75 * (count - 1), above, error;
    bool uneven = false;

    for (unsigned i = 0; i < count; i++)
        most = left[i] > most ? left[i] : most;
    for (unsigned i = 0; i < count; i++)
        uneven |= left[i] < most && (left[i] > 0 || p < SLOWS_P);
    above = 0.5 * line.mean + reach * line.slope;
    error = sqrt(line.variance * (0.25 / count + reach * reach / line.x_squares));
    return uneven && p_above(above, error, &line) > p;
}

/* Aged bytes that rise much less in the second half of the iterations from `from` on than in the first. */
static bool total_levels_off(const struct mt_cohorts *c, unsigned from)
{
    unsigned middle = (from + c->ends) / 2;
    double first = (c->aged_bytes[middle] - c->aged_bytes[from]) / (middle - from);

    return (c->aged_bytes[c->ends] - c->aged_bytes[middle]) / (c->ends - middle) < 0.5 * first;
}

/* Are the last cohorts below the earlier ones, or do they get ever smaller? */
static bool levels_off(const double *left, unsigned count)
{
    unsigned last = count / 4 ? count / 4 : 1, first = count - last;
    double early = 0, late = 0, squares = 0, error;
    struct line line;

    if (count < 3)
        return false;
    if (left[count - 1] <= 0)
        return true;
    for (unsigned i = 0; i < first; i++)
        early += left[i] / first;
    for (unsigned i = first; i < count; i++)
        late += left[i] / last;
    for (unsigned i = 0; i < first; i++)
        squares += (left[i] - early) * (left[i] - early);
    error = sqrt(squares / (first - 1) * (1.0 / first + 1.0 / last));
    if (late < early - 2.33 * error && late < (1 - MATERIAL) * early)
        return true;
    line = line_of(left, count);
    if (-line.slope * (count - 1) < MATERIAL * line.mean)
        return false;
    return falls(&line) || mt_stats_mann_kendall(left, count, -1) <= FALLING_P;
}

static double younger_share(const double *left, unsigned count) /* of the older half */
{
    double older = 0, younger = 0;

    for (unsigned i = 0; i < count / 2; i++) {
        older += left[i];
        younger += left[count - 1 - i];
    }
    return older > 0 ? younger / older : INFINITY;
}

/* Live bytes that rise at every single end, and no slower than before, although the blocks are not the same ones. */
static bool grows_by_replacing(const struct mt_cohorts *c, double floor_bytes)
{
    unsigned from = MT_STATS_WARM_UP + 1, middle = (from + c->ends) / 2;
    double first, second;

    if (c->ends < from + 6)
        return false;
    for (unsigned i = from; i < c->ends; i++)
        if (c->live_bytes[i + 1] < c->live_bytes[i] + floor_bytes)
            return false;
    first = (c->live_bytes[middle] - c->live_bytes[from]) / (middle - from);
    second = (c->live_bytes[c->ends] - c->live_bytes[middle]) / (c->ends - middle);
    return second >= 0.5 * first;
}

struct judged { /* what the gates look at */
    unsigned first, last, count; /* cohorts */
    unsigned with_survivors;
    double gross, net_share, younger;
    double risk, death_share;
    double slows_p;
    bool levels_off;
};

static struct judged judge(const struct mt_cohorts *c, unsigned first, double slows_p)
{
    struct judged j = {.first = first, .last = c->ends - 1, .slows_p = slows_p};

    j.count = j.last - j.first + 1;
    j.risk = sum(c->at_risk, j.first, j.last);
    for (unsigned i = j.first; i <= j.last; i++)
        j.with_survivors += c->survivor_blocks[i] > 0;
    j.gross = sum(c->survivor_bytes, j.first, j.last);
    j.death_share = j.risk > 0 ? sum(c->deaths, j.first, j.last) / j.risk : 0;
    if (j.gross > 0) {
        double went = sum(c->death_bytes, j.first, j.last);
        j.death_share = fmin(j.death_share, went / (went + j.gross));
    }
    j.net_share = j.gross > 0 ? 1 - sum(c->death_bytes, 0, first - 1) / j.gross : 0;
    j.levels_off = levels_off(c->survivor_blocks + j.first, j.count) || levels_off(c->survivor_bytes + j.first, j.count);
    j.younger = fmin(younger_share(c->survivor_blocks + j.first, j.count),
        younger_share(c->survivor_bytes + j.first, j.count));
    return j;
}

static enum mt_gate first_gate(const struct mt_cohorts *c, const struct judged *j, const struct mt_finding *f)
{
    if (mt_stats_binomial_tail(j->count, j->count, CHANCE) > COHORTS_P)
        return MT_GATE_FEW;
    if (f->p > COHORTS_P)
        return MT_GATE_COHORTS;
    if (f->retention_deaths > DEATHS_SHARE || f->retention_upper > DEATHS_UPPER)
        return MT_GATE_RETENTION;
    if (j->net_share < NET_SHARE)
        return MT_GATE_NET;
    if (j->levels_off)
        return MT_GATE_PLATEAU;
    if (j->younger < 0.5 || total_levels_off(c, j->first))
        return MT_GATE_HALVES;
    if (may_slow(c->survivor_blocks + j->first, j->count, j->slows_p) && may_slow(c->survivor_bytes + j->first, j->count, j->slows_p))
        return MT_GATE_SLOWS;
    if (!(f->bytes_per_iteration.low >= c->floor_bytes))
        return MT_GATE_EFFECT;
    return MT_GATE_NONE;
}

/* What the gates say of these cohorts, and the figures that go with it. */
static void pass_gates(const struct mt_cohorts *c, const struct judged *j, struct mt_finding *f)
{
    f->p = mt_stats_binomial_tail(j->with_survivors, j->count, CHANCE);
    f->retention_deaths = j->death_share;
    f->retention_upper = mt_stats_proportion_upper(j->death_share * j->risk, j->risk, 0.95);
    f->gate = first_gate(c, j, f);
}

static bool has_gap(const struct mt_cohorts *c, const struct judged *j, unsigned last)
{
    for (unsigned i = j->first; i <= j->last - last; i++)
        if (c->survivor_blocks[i] <= 0)
            return true;
    return false;
}

/* The younger half by itself: a leak behind a warm-up that is much larger. */
static bool goes_on(const struct mt_cohorts *c, const struct judged *j)
{
    unsigned half = j->count / 2;
    const double *left = c->survivor_blocks + j->last + 1 - half;

    for (unsigned i = 0; i < half; i++)
        if (left[i] <= 0)
            return false;
    return half >= 4 && !levels_off(left, half);
}

/* Growth that goes on, but was not seen often enough, or gets slower: one cannot say. */
static bool is_suspect(const struct mt_cohorts *c, const struct judged *j, const struct mt_finding *f)
{
    unsigned last = j->count / 4 ? j->count / 4 : 1;

    if (f->retention_deaths > DEATHS_SHARE || j->net_share < NET_SUSPECT || j->with_survivors < 3)
        return false;
    switch (f->gate) {
    case MT_GATE_FEW:
    case MT_GATE_COHORTS:
        return f->p <= SUSPECT_P && sum(c->survivor_blocks, j->last - last + 1, j->last) > 0 && j->younger >= 0.5;
    case MT_GATE_RETENTION: /* the bound alone */
    case MT_GATE_NET:
    case MT_GATE_SLOWS:
        return true;
    case MT_GATE_PLATEAU:
    case MT_GATE_HALVES:
        if (goes_on(c, j))
            return true;
        if (c->survivor_blocks[j->last] > 0 && c->survivor_blocks[j->last - 1] > 0)
            return j->younger >= 0.25;
        /* Where cohorts before it left nothing, one at the end that did not is no plateau. */
        return j->younger >= 0.5 && sum(c->survivor_blocks, j->last - last + 1, j->last) > 0 && has_gap(c, j, last);
    default:
        return false;
    }
}

/* Most of what is left was left by the first iterations. */
static bool is_warm_up(const struct mt_cohorts *c)
{
    double all = sum(c->survivor_bytes, 0, c->ends - 1), early = sum(c->survivor_bytes, 0, MT_STATS_WARM_UP + 1);

    return early > 0 && early >= 0.5 * all;
}

static enum mt_verdict otherwise(const struct mt_cohorts *c, const struct mt_finding *f)
{
    return f->retention_deaths <= DEATHS_SHARE && is_warm_up(c) ? MT_VERDICT_WARM_UP : MT_VERDICT_BOUNDED;
}

static struct mt_finding untested(const struct mt_cohorts *c)
{
    struct mt_finding f = {.verdict = MT_VERDICT_NOISE, .gate = MT_GATE_RANGE, .p = NAN, .q = NAN,
        .bytes_per_iteration = {0, NAN, NAN}};
    unsigned from = MT_STATS_WARM_UP + 1;

    if (c->ends <= MT_STATS_WARM_UP) {
        f.gate = MT_GATE_FEW;
        f.bytes_per_iteration.estimate = NAN;
        f.blocks_per_iteration = NAN;
        return f;
    }
    if (grows_by_replacing(c, c->floor_bytes)) {
        f.verdict = MT_VERDICT_SUSPECT;
        f.gate = MT_GATE_REPLACED;
    } else if (range(c->live_bytes, from, c->ends) >= c->floor_bytes) {
        f.verdict = MT_VERDICT_BOUNDED;
        f.gate = MT_GATE_RETENTION;
    } else if (is_warm_up(c)) {
        f.verdict = MT_VERDICT_WARM_UP;
    }
    return f;
}

static void measure(const struct mt_cohorts *c, unsigned from, struct mt_finding *f)
{
    unsigned points = c->ends - from + 1;
    const double *bytes = (f->gate == MT_GATE_REPLACED ? c->live_bytes : c->aged_bytes) + from;
    double *x = malloc(points * sizeof(*x));

    if (!x)
        return;
    for (unsigned i = 0; i < points; i++)
        x[i] = i;
    f->bytes_per_iteration = mt_stats_theil_sen(x, bytes, points, 0.95);
    f->blocks_per_iteration = mt_stats_theil_sen(x, c->aged_blocks + from, points, 0.95).estimate;
    free(x);
}

/* The younger half by itself, where what was left behind gets less but for that. */
static bool leaks_alone(const struct mt_cohorts *c, const struct judged *all, struct mt_finding *f)
{
    struct mt_finding alone = *f;
    struct judged j;

    if (all->count / 2 < ALONE || (f->gate != MT_GATE_PLATEAU && f->gate != MT_GATE_HALVES && f->gate != MT_GATE_SLOWS))
        return false;
    j = judge(c, all->last + 1 - all->count / 2, SLOWS_AGAIN_P);
    measure(c, j.first, &alone);
    pass_gates(c, &j, &alone);
    if (alone.gate != MT_GATE_NONE)
        return false;
    *f = alone;
    return true;
}

struct mt_finding mt_stats_verdict(const struct mt_cohorts *c)
{
    struct mt_finding f = untested(c);
    struct judged j;

    if (c->ends <= MT_STATS_WARM_UP + 1)
        return f;
    measure(c, MT_STATS_WARM_UP + 1, &f);
    if (range(c->aged_bytes, MT_STATS_WARM_UP + 1, c->ends) < c->floor_bytes)
        return f;
    j = judge(c, MT_STATS_WARM_UP + 1, SLOWS_P);
    f.tested = true;
    for (unsigned i = j.last; i >= 1 && c->survivor_blocks[i] > 0; i--)
        f.since = i;
    pass_gates(c, &j, &f);
    if (f.gate == MT_GATE_NONE || leaks_alone(c, &j, &f)) {
        f.verdict = MT_VERDICT_LEAK;
    } else if (is_suspect(c, &j, &f)) {
        f.verdict = MT_VERDICT_SUSPECT;
    } else if (grows_by_replacing(c, c->floor_bytes)) {
        f.verdict = MT_VERDICT_SUSPECT;
        if (j.gross < 0.5 * (c->live_bytes[c->ends] - c->live_bytes[MT_STATS_WARM_UP + 1])) {
            f.gate = MT_GATE_REPLACED;
            measure(c, MT_STATS_WARM_UP + 1, &f);
        }
    } else {
        f.verdict = otherwise(c, &f);
    }
    return f;
}

int mt_stats_settle(struct mt_finding *findings, size_t count, bool lossy)
{
    double *p = calloc(count ? count : 1, 2 * sizeof(*p));
    int err;

    if (!p)
        return -ENOMEM;
    for (size_t i = 0; i < count; i++)
        p[i] = findings[i].tested ? findings[i].p : NAN;
    err = mt_stats_adjust(p, count, p + count);
    for (size_t i = 0; i < count && err == 0; i++) {
        struct mt_finding *f = &findings[i];
        f->q = p[count + i];
        if (f->verdict != MT_VERDICT_LEAK)
            continue;
        if (lossy)
            f->gate = MT_GATE_LOSS;
        else if (f->q > FAMILY_Q)
            f->gate = MT_GATE_FAMILY;
        else
            continue;
        f->verdict = MT_VERDICT_SUSPECT;
    }
    free(p);
    return err;
}

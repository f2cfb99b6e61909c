/*
 * Two samples of runs: which is larger, by how much, and what could have been seen. Mann-Whitney in its exact permutation form:
 * the number of ways to draw b's rank sum or a larger one, ranks doubled so that the mean ranks of ties are whole numbers.
 */
#include "stats/stats.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

struct value {
    double value;
    unsigned rank; /* doubled */
    bool second;
};

static int by_value(const void *a, const void *b)
{
    double x = ((const struct value *)a)->value, y = ((const struct value *)b)->value;

    return (x > y) - (x < y);
}

static int by_number(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;

    return (x > y) - (x < y);
}

static struct value *ranked(const double *a, size_t a_count, const double *b, size_t b_count)
{
    size_t count = a_count + b_count;
    struct value *values = malloc(count * sizeof(*values));

    if (!values)
        return NULL;
    for (size_t i = 0; i < count; i++)
        values[i] = i < a_count ? (struct value){a[i], 0, false} : (struct value){b[i - a_count], 0, true};
    qsort(values, count, sizeof(*values), by_value);
    for (size_t begin = 0, end; begin < count; begin = end) {
        for (end = begin + 1; end < count && values[end].value == values[begin].value;)
            end++;
        for (size_t i = begin; i < end; i++)
            values[i].rank = (unsigned)(begin + 1 + end);
    }
    return values;
}

/* P(doubled rank sum of a draw of `drawn` >= sum) and P(<= sum). False: no memory. */
static bool permutation_tails(
    const struct value *values, size_t count, size_t drawn, size_t sum, double *ret_above, double *ret_below)
{
    size_t most = 0, width;
    double *ways, all = 0, above = 0, below = 0;

    for (size_t i = 0; i < count; i++)
        most += values[i].rank;
    width = most + 1;
    ways = calloc((drawn + 1) * width, sizeof(*ways)); /* [how many drawn][sum of ranks] */
    if (!ways)
        return false;
    ways[0] = 1;
    for (size_t i = 0; i < count; i++)
        for (size_t k = i + 1 < drawn ? i + 1 : drawn; k > 0; k--)
            for (size_t s = most; s >= values[i].rank; s--)
                ways[k * width + s] += ways[(k - 1) * width + s - values[i].rank];
    for (size_t s = 0; s <= most; s++) {
        double w = ways[drawn * width + s];
        all += w;
        above += s >= sum ? w : 0;
        below += s <= sum ? w : 0;
    }
    free(ways);
    *ret_above = above / all;
    *ret_below = below / all;
    return true;
}

static void normal_tails(
    const struct value *values, size_t count, size_t drawn, double sum, double *ret_above, double *ret_below)
{
    double n = (double)count, m = (double)drawn, ties = 0, mean = m * (n + 1), sd;

    for (size_t begin = 0, end; begin < count; begin = end) {
        for (end = begin + 1; end < count && values[end].value == values[begin].value;)
            end++;
        double t = (double)(end - begin);
        ties += t * t * t - t;
    }
    /* in doubled ranks: twice the standard deviation, and 1 for the continuity */
    sd = 2 * sqrt(m * (n - m) / 12 * (n + 1 - ties / (n * (n - 1))));
    *ret_above = sd > 0 ? mt_stats_normal_cdf(-(sum - mean - 1) / sd) : 1;
    *ret_below = sd > 0 ? mt_stats_normal_cdf((sum - mean + 1) / sd) : 1;
}

/* P(U <= k) for k = 0, 1, ... while at most `tail`: how many, which is the rank of the interval's lower end, from 1. */
static size_t difference_rank(size_t m, size_t n, double tail)
{
    double *probability, sum = 0;
    size_t rank = 0;

    if (m + n > MT_STATS_COMPARE_MAX) {
        double mean = (double)m * (double)n / 2, sd = sqrt((double)m * (double)n * (double)(m + n + 1) / 12);
        double low = mean + mt_stats_normal_quantile(tail) * sd;
        return low >= 1 ? (size_t)low : 0;
    }
    probability = malloc((m * n + 1) * sizeof(*probability));
    if (!probability)
        return 0;
    mt_stats_pairs_distribution((unsigned)m, (unsigned)n, probability);
    while (rank <= m * n && sum + probability[rank] <= tail)
        sum += probability[rank++];
    free(probability);
    return rank;
}

static struct mt_interval hodges_lehmann(const double *a, size_t a_count, const double *b, size_t b_count)
{
    struct mt_interval result = {NAN, -INFINITY, INFINITY};
    size_t count = a_count * b_count, rank;
    double *difference = malloc(count * sizeof(*difference));

    if (!difference)
        return result;
    for (size_t i = 0; i < a_count; i++)
        for (size_t k = 0; k < b_count; k++)
            difference[i * b_count + k] = b[k] - a[i];
    qsort(difference, count, sizeof(*difference), by_number);
    result.estimate = (difference[(count - 1) / 2] + difference[count / 2]) / 2;
    rank = difference_rank(a_count, b_count, 0.025);
    if (rank > 0) {
        result.low = difference[rank - 1];
        result.high = difference[count - rank];
    }
    free(difference);
    return result;
}

struct mt_comparison mt_stats_compare(const double *a, size_t a_count, const double *b, size_t b_count)
{
    struct mt_comparison result = {{NAN, -INFINITY, INFINITY}, NAN, NAN, NAN};
    size_t count = a_count + b_count, sum = 0;
    struct value *values;

    if (a_count == 0 || b_count == 0)
        return result;
    values = ranked(a, a_count, b, b_count);
    if (!values)
        return result;
    for (size_t i = 0; i < count; i++)
        sum += values[i].second ? values[i].rank : 0;
    if (count > MT_STATS_COMPARE_MAX ||
        !permutation_tails(values, count, b_count, sum, &result.p, &result.p_smaller))
        normal_tails(values, count, b_count, (double)sum, &result.p, &result.p_smaller);
    free(values);
    result.difference = hodges_lehmann(a, a_count, b, b_count);
    result.smallest_p = 1;
    for (size_t i = 1; i <= b_count; i++)
        result.smallest_p *= (double)i / (double)(a_count + i);
    return result;
}

bool mt_stats_is_regression(const struct mt_comparison *comparison, double p, double baseline)
{
    return p <= MT_STATS_GATE_P && comparison->difference.low > fmax(MT_STATS_GATE_SHARE * baseline, MT_STATS_GATE_BYTES);
}

/* ---- what could have been seen ---------------------------------------------------------------------------------- */

struct random {
    uint64_t state;
};

static double uniform(struct random *random) /* in (0, 1); xorshift64* */
{
    random->state ^= random->state >> 12;
    random->state ^= random->state << 25;
    random->state ^= random->state >> 27;
    return ((double)(random->state * UINT64_C(0x2545f4914f6cdd1d) >> 11) + 0.5) / 0x1p53;
}

static double normal(struct random *random)
{
    double radius = sqrt(-2 * log(uniform(random)));

    return radius * cos(6.283185307179586 * uniform(random));
}

enum { TRIALS = 4000 };

/* The share of trials whose U is at least the critical one, with b shifted. */
static double power_at(double shift, size_t a_count, size_t b_count, size_t critical, double *values)
{
    struct random random = {UINT64_C(0x9e3779b97f4a7c15)};
    size_t found = 0;

    for (int trial = 0; trial < TRIALS; trial++) {
        size_t u = 0;
        for (size_t i = 0; i < a_count + b_count; i++)
            values[i] = normal(&random) + (i < a_count ? 0 : shift);
        for (size_t i = 0; i < a_count; i++)
            for (size_t k = a_count; k < a_count + b_count; k++)
                u += values[k] > values[i];
        found += u >= critical;
    }
    return (double)found / TRIALS;
}

double mt_stats_smallest_effect(size_t a_count, size_t b_count, double alpha, double power)
{
    size_t rank;
    double low = 0, high = 20, *values;

    if (a_count == 0 || b_count == 0)
        return INFINITY;
    if (a_count + b_count > MT_STATS_COMPARE_MAX) /* Noether 1987, by the asymptotic efficiency 3 / pi */
        return (mt_stats_normal_quantile(1 - alpha) + mt_stats_normal_quantile(power)) *
               sqrt((1 / (double)a_count + 1 / (double)b_count) / 0.954929658551372);
    rank = difference_rank(a_count, b_count, alpha);
    values = rank > 0 ? malloc((a_count + b_count) * sizeof(*values)) : NULL;
    if (!values)
        return INFINITY;
    for (int i = 0; i < 16; i++) {
        double middle = (low + high) / 2;
        if (power_at(middle, a_count, b_count, a_count * b_count - (rank - 1), values) < power)
            low = middle;
        else
            high = middle;
    }
    free(values);
    return (low + high) / 2;
}

/* ---- many tests ----------------------------------------------------------------------------------------------------- */

struct ordered_p {
    double p;
    size_t index;
};

static int by_p(const void *a, const void *b)
{
    double x = ((const struct ordered_p *)a)->p, y = ((const struct ordered_p *)b)->p;

    return (x > y) - (x < y);
}

int mt_stats_adjust(const double *p, size_t count, double *ret_q)
{
    struct ordered_p *ordered = malloc((count ? count : 1) * sizeof(*ordered));
    size_t family = 0;
    double least = 1;

    if (!ordered)
        return -ENOMEM;
    for (size_t i = 0; i < count; i++) {
        ret_q[i] = NAN;
        if (!isnan(p[i]))
            ordered[family++] = (struct ordered_p){p[i], i};
    }
    qsort(ordered, family, sizeof(*ordered), by_p);
    for (size_t i = family; i-- > 0;) {
        double q = ordered[i].p * (double)family / (double)(i + 1);
        least = q < least ? q : least;
        ret_q[ordered[i].index] = least;
    }
    free(ordered);
    return 0;
}

/*
 * One series of values: order statistics, trend, fits.
 *
 * Kendall's distribution (of the number of inversions of a random order) is a product: values are put in place group by
 * group of equal ones, and a group of t among m others adds as many inversions as Mann-Whitney's U of (m, t) has. That is exact
 * with ties, which the usual tables are not.
 */
#include "stats/stats.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;

    return (x > y) - (x < y);
}

static double *sorted(const double *values, size_t count)
{
    double *copy = count ? malloc(count * sizeof(*copy)) : NULL;

    if (copy) {
        memcpy(copy, values, count * sizeof(*copy));
        qsort(copy, count, sizeof(*copy), by_value);
    }
    return copy;
}

static double percentile_of(const double *ordered, size_t count, double q)
{
    double at = q * (double)(count - 1);
    size_t below = (size_t)at;

    if (below + 1 >= count)
        return ordered[count - 1];
    return ordered[below] + (at - (double)below) * (ordered[below + 1] - ordered[below]);
}

double mt_stats_percentile(const double *values, size_t count, double q)
{
    double *ordered = q >= 0 && q <= 1 ? sorted(values, count) : NULL, result;

    if (!ordered)
        return NAN;
    result = percentile_of(ordered, count, q);
    free(ordered);
    return result;
}

double mt_stats_median(const double *values, size_t count)
{
    return mt_stats_percentile(values, count, 0.5);
}

size_t mt_stats_outliers(const double *values, size_t count, bool *ret_flags)
{
    double low = mt_stats_percentile(values, count, 0.25), high = mt_stats_percentile(values, count, 0.75);
    double reach = 1.5 * (high - low);
    size_t found = 0;

    for (size_t i = 0; i < count; i++) {
        ret_flags[i] = values[i] < low - reach || values[i] > high + reach;
        found += ret_flags[i];
    }
    return found;
}

/* ---- trend ------------------------------------------------------------------------------------------------------- */

/* The distribution of the number of inversions, group by group of equal values (sorted). Returns how many there can be. */
static size_t inversions(const double *ordered, size_t count, double **ret_probability)
{
    size_t all = count * (count - 1) / 2, top = 0;
    double *sum = calloc(all + 1, sizeof(*sum)), *next = calloc(all + 1, sizeof(*next));
    double *group = calloc(all + 1, sizeof(*group));

    *ret_probability = NULL;
    if (!sum || !next || !group)
        goto out;
    sum[0] = 1;
    for (size_t begin = 0, end; begin < count; begin = end) {
        for (end = begin + 1; end < count && ordered[end] == ordered[begin];)
            end++;
        if (begin == 0)
            continue;
        mt_stats_pairs_distribution((unsigned)begin, (unsigned)(end - begin), group);
        memset(next, 0, (all + 1) * sizeof(*next));
        for (size_t i = 0; i <= top; i++)
            for (size_t k = 0; k <= begin * (end - begin); k++)
                next[i + k] += sum[i] * group[k];
        top += begin * (end - begin);
        memcpy(sum, next, (top + 1) * sizeof(*sum));
    }
    *ret_probability = sum;
    sum = NULL;
out:
    free(sum);
    free(next);
    free(group);
    return top;
}

static double trend_normal(const double *ordered, size_t count, double s)
{
    double n = (double)count, variance = n * (n - 1) * (2 * n + 5);

    for (size_t begin = 0, end; begin < count; begin = end) {
        for (end = begin + 1; end < count && ordered[end] == ordered[begin];)
            end++;
        double t = (double)(end - begin);
        variance -= t * (t - 1) * (2 * t + 5);
    }
    return variance > 0 ? mt_stats_normal_cdf(-(s - 1) / sqrt(variance / 18)) : 1; /* 1: continuity */
}

double mt_stats_mann_kendall(const double *y, size_t count, int sign)
{
    double *ordered = count >= 2 ? sorted(y, count) : NULL, *probability = NULL, p = 0;
    int64_t s = 0;
    size_t top;

    if (!ordered)
        return NAN;
    for (size_t i = 0; i < count; i++)
        for (size_t k = i + 1; k < count; k++)
            s += (y[k] > y[i]) - (y[k] < y[i]);
    if (sign < 0 || (sign == 0 && s < 0))
        s = -s; /* the distribution is symmetric */
    if (count > MT_STATS_EXACT_MAX) {
        p = trend_normal(ordered, count, (double)s);
    } else {
        top = inversions(ordered, count, &probability);
        /* S = top - 2 * inversions */
        for (size_t d = 0; probability && d <= top && (int64_t)top - 2 * (int64_t)d >= s; d++)
            p += probability[d];
        p = probability ? p : NAN;
        free(probability);
    }
    free(ordered);
    if (sign == 0)
        p *= 2;
    return p > 1 ? 1 : p;
}

/* Which of the sorted slopes, from 1, is the lower end of the interval; 0: none is low enough. */
static size_t slope_rank(const double *x, size_t count, size_t slopes, double tail)
{
    double *ordered, *probability = NULL, sum = 0;
    size_t top, rank = 0;

    if (count > MT_STATS_EXACT_MAX) {
        double n = (double)count, reach = -mt_stats_normal_quantile(tail) * sqrt(n * (n - 1) * (2 * n + 5) / 18);
        double low = ((double)slopes - reach) / 2;
        return low >= 1 ? (size_t)low : 0;
    }
    ordered = sorted(x, count);
    if (!ordered)
        return 0;
    top = inversions(ordered, count, &probability);
    while (probability && rank <= top && sum + probability[rank] <= tail)
        sum += probability[rank++];
    free(probability);
    free(ordered);
    return rank;
}

struct mt_interval mt_stats_theil_sen(const double *x, const double *y, size_t count, double confidence)
{
    struct mt_interval result = {NAN, -INFINITY, INFINITY};
    size_t slopes = 0, rank, pairs = count * (count - 1) / 2;
    double *slope = count >= 2 ? malloc(pairs * sizeof(*slope)) : NULL;

    if (!slope)
        return result;
    for (size_t i = 0; i < count; i++)
        for (size_t k = i + 1; k < count; k++)
            if (x[k] != x[i])
                slope[slopes++] = (y[k] - y[i]) / (x[k] - x[i]);
    if (slopes > 0) {
        qsort(slope, slopes, sizeof(*slope), by_value);
        result.estimate = percentile_of(slope, slopes, 0.5);
        rank = slope_rank(x, count, slopes, (1 - confidence) / 2);
        if (rank > 0 && rank <= slopes) {
            result.low = slope[rank - 1];
            result.high = slope[slopes - rank];
        }
    }
    free(slope);
    return result;
}

/* ---- fits --------------------------------------------------------------------------------------------------------- */

struct mt_fit mt_stats_linear(const double *x, const double *y, size_t count, double confidence)
{
    struct mt_fit fit = {{NAN, -INFINITY, INFINITY}, NAN, NAN};
    double mx = 0, my = 0, sxx = 0, sxy = 0, syy = 0, rest = 0, slope, reach;

    for (size_t i = 0; i < count; i++) {
        mx += x[i] / (double)count;
        my += y[i] / (double)count;
    }
    for (size_t i = 0; i < count; i++) {
        sxx += (x[i] - mx) * (x[i] - mx);
        sxy += (x[i] - mx) * (y[i] - my);
        syy += (y[i] - my) * (y[i] - my);
    }
    if (count < 2 || !(sxx > 0))
        return fit;
    slope = sxy / sxx;
    for (size_t i = 0; i < count; i++) {
        double off = y[i] - my - slope * (x[i] - mx);
        rest += off * off;
    }
    fit.slope.estimate = slope;
    fit.intercept = my - slope * mx;
    fit.r_squared = syy > 0 ? 1 - rest / syy : 1;
    if (count > 2) {
        reach = mt_stats_t_quantile((1 + confidence) / 2, (double)count - 2) * sqrt(rest / ((double)count - 2) / sxx);
        fit.slope.low = slope - reach;
        fit.slope.high = slope + reach;
    }
    return fit;
}

struct mt_fit mt_stats_power(const double *x, const double *y, size_t count, double confidence)
{
    struct mt_fit fit = {{NAN, -INFINITY, INFINITY}, NAN, NAN};
    double *logs = count ? malloc(2 * count * sizeof(*logs)) : NULL;
    size_t kept = 0;

    if (!logs)
        return fit;
    for (size_t i = 0; i < count; i++) {
        if (x[i] > 0 && y[i] > 0) {
            logs[kept] = log(x[i]);
            logs[count + kept++] = log(y[i]);
        }
    }
    fit = mt_stats_linear(logs, logs + count, kept, confidence);
    free(logs);
    return fit;
}

enum { GROWTH_FIRST = 20, GROWTH_LAST = 800 }; /* in 1/200 */

struct mt_fit mt_stats_growth(const double *x, const double *y, size_t count, double confidence)
{
    struct mt_fit result = {{NAN, -INFINITY, INFINITY}, NAN, NAN};
    double rest[GROWTH_LAST + 1], least = INFINITY, limit, whole = 0, mean = 0, t;
    double *raised;

    for (size_t i = 0; i < count; i++)
        mean += y[i] / (double)count;
    for (size_t i = 0; i < count; i++)
        whole += (y[i] - mean) * (y[i] - mean);
    raised = count >= 4 && whole > 1e-24 * mean * mean ? malloc(count * sizeof(*raised)) : NULL;
    if (!raised)
        return result;
    for (int k = GROWTH_FIRST; k <= GROWTH_LAST; k++) {
        struct mt_fit line;
        for (size_t i = 0; i < count; i++)
            raised[i] = pow(x[i], k / 200.0);
        line = mt_stats_linear(raised, y, count, confidence);
        rest[k] = line.slope.estimate > 0 ? whole * (1 - line.r_squared) : INFINITY;
        if (rest[k] < least) {
            least = rest[k];
            result = (struct mt_fit){{k / 200.0, -INFINITY, INFINITY}, line.intercept, line.r_squared};
        }
    }
    free(raised);
    if (!isfinite(least))
        return result;
    t = mt_stats_t_quantile((1 + confidence) / 2, (double)count - 3);
    limit = fmax(least, 0) * (1 + t * t / ((double)count - 3)) + 1e-12 * whole;
    for (int k = GROWTH_FIRST; k <= GROWTH_LAST; k++)
        if (rest[k] <= limit) {
            result.slope.low = isinf(result.slope.low) ? (k == GROWTH_FIRST ? 0 : k / 200.0) : result.slope.low;
            result.slope.high = k == GROWTH_LAST ? INFINITY : k / 200.0;
        }
    return result;
}

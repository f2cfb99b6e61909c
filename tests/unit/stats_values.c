/*
 * Not a test by itself: prints what stats/ makes of made-up numbers, a JSON object a line, for a second implementation to check
 * (tests/integration/test_statistics.py).
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "stats/stats.h"

static uint64_t state = 42;

static unsigned below(unsigned n)
{
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return (unsigned)((state >> 11) % n);
}

static void list(const char *name, const double *values, size_t count)
{
    printf("\"%s\": [", name);
    for (size_t i = 0; i < count; i++)
        printf("%s%.17g", i ? ", " : "", values[i]);
    printf("], ");
}

static void number(const char *name, double value, const char *end)
{
    if (isfinite(value))
        printf("\"%s\": %.17g%s", name, value, end);
    else
        printf("\"%s\": null%s", name, end);
}

static void interval(const char *name, struct mt_interval i, const char *end)
{
    printf("\"%s\": {", name);
    number("estimate", i.estimate, ", ");
    number("low", i.low, ", ");
    number("high", i.high, "}");
    fputs(end, stdout);
}

int main(void)
{
    for (int round = 0; round < 200; round++) {
        double x[80], y[80], z[80], q[80];
        size_t n = 4 + below(40), m = 2 + below(30);
        unsigned grain = round % 2 ? 1000000 : 9; /* without ties, and with */
        struct mt_comparison c;
        struct mt_fit f;

        for (size_t i = 0; i < n; i++) {
            x[i] = 1 + (double)i;
            y[i] = below(grain) + 1 + (round % 3 ? 0 : (double)i * grain / 50);
        }
        for (size_t i = 0; i < m; i++)
            z[i] = below(grain) + 1 + grain / 5;
        for (size_t i = 0; i < n; i++)
            q[i] = below(1000) / 1000.0;
        putchar('{');
        list("y", y, n);
        list("z", z, m);
        list("p", q, n);
        mt_stats_adjust(q, n, q + 40);
        list("q", q + 40, n < 40 ? n : 40);
        number("median", mt_stats_median(y, n), ", ");
        number("percentile", mt_stats_percentile(y, n, 0.9), ", ");
        interval("theil_sen", mt_stats_theil_sen(x, y, n, 0.95), ", ");
        number("kendall", mt_stats_mann_kendall(y, n, 0), ", ");
        number("rises", mt_stats_mann_kendall(y, n, 1), ", ");
        c = mt_stats_compare(y, n, z, m);
        number("larger", c.p, ", ");
        number("smaller", c.p_smaller, ", ");
        interval("difference", c.difference, ", ");
        f = mt_stats_linear(x, y, n, 0.95);
        interval("slope", f.slope, ", ");
        number("intercept", f.intercept, ", ");
        f = mt_stats_power(x, y, n, 0.95);
        interval("exponent", f.slope, ", ");
        number("tail", mt_stats_binomial_tail((unsigned)m, (unsigned)n + 10, 0.25), ", ");
        number("upper", mt_stats_proportion_upper((double)m, (double)(m + n), 0.95), ", ");
        number("lower", mt_stats_proportion_lower((double)m, (double)(m + n), 0.95), ", ");
        number("normal", mt_stats_normal_quantile(q[0] / 2 + 0.001), ", ");
        number("normal_p", q[0] / 2 + 0.001, ", ");
        number("student", mt_stats_t_quantile(0.975, (double)m), "}\n");
    }
    return 0;
}

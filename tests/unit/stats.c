/*
 * stats/ against values that are known exactly: tables of the literature, small cases counted by hand, and symmetry. The comparison with
 * a second implementation is tests/integration/test_statistics.py.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "stats/stats.h"

static void near_to(double found, double wanted, double error)
{
    if (!(fabs(found - wanted) <= error * (fabs(wanted) > 1 ? fabs(wanted) : 1)))
        fail_msg("%.17g, not %.17g", found, wanted);
}

static void binomial(void **state)
{
    (void)state;
    near_to(mt_stats_binomial_tail(7, 7, 0.25), pow(0.25, 7), 1e-18);
    near_to(mt_stats_binomial_tail(9, 9, 0.25), pow(0.25, 9), 1e-18);
    near_to(mt_stats_binomial_tail(6, 7, 0.25), 22 * pow(0.25, 7), 1e-15);
    near_to(mt_stats_binomial_tail(1, 3, 0.5), 0.875, 1e-14);
    assert_true(mt_stats_binomial_tail(0, 5, 0.1) == 1);
    assert_true(mt_stats_binomial_tail(6, 5, 0.1) == 0);
    near_to(mt_stats_proportion_upper(0, 21, 0.95), 1 - pow(0.05, 1 / 21.0), 1e-12);
    near_to(mt_stats_proportion_lower(21, 21, 0.95), pow(0.05, 1 / 21.0), 1e-12);
    near_to(mt_stats_proportion_upper(1, 10, 0.975), 0.44501611702, 1e-9); /* Clopper and Pearson's table */
    near_to(mt_stats_proportion_lower(1, 10, 0.975), 0.00252857854, 1e-9);
}

static void quantiles(void **state)
{
    (void)state;
    near_to(mt_stats_normal_quantile(0.975), 1.959963984540054, 1e-12);
    near_to(mt_stats_normal_quantile(0.01), -2.3263478740408408, 1e-12);
    near_to(mt_stats_t_quantile(0.975, 1), 12.706204736432095, 1e-9);
    near_to(mt_stats_t_quantile(0.975, 10), 2.2281388519649385, 1e-9);
    near_to(mt_stats_normal_cdf(1.6448536269514722), 0.95, 1e-14);
    assert_true(isinf(mt_stats_normal_quantile(1)));
}

static void pairs(void **state)
{
    double p[101];
    double below = 0;

    (void)state;
    mt_stats_pairs_distribution(3, 2, p); /* 1 1 2 2 2 1 1 of 10 orders */
    for (int i = 0; i < 7; i++)
        near_to(p[i], (int[]){1, 1, 2, 2, 2, 1, 1}[i] / 10.0, 1e-15);
    mt_stats_pairs_distribution(10, 10, p);
    for (int u = 0; u <= 23; u++)
        below += p[u];
    assert_true(below <= 0.025 && below + p[24] > 0.025); /* the table's critical value */
    near_to(p[0], 1 / 184756.0, 1e-18);
}

static void order_statistics(void **state)
{
    static const double v[] = {4, 1, 3, 2};
    bool out[8];

    (void)state;
    near_to(mt_stats_median(v, 4), 2.5, 0);
    near_to(mt_stats_percentile(v, 4, 0.25), 1.75, 0);
    near_to(mt_stats_percentile(v, 4, 1), 4, 0);
    near_to(mt_stats_percentile(v, 4, 0), 1, 0);
    assert_true(isnan(mt_stats_median(v, 0)));
    assert_int_equal(mt_stats_outliers((const double[]){10, 11, 10, 12, 11, 10, 40, 11}, 8, out), 1);
    assert_true(out[6]);
}

/* Facts: the 6th of 28 slopes with 8 points, the 12th of 45 with 10. */
static void theil_sen_rank(void **state)
{
    (void)state;
    for (int points = 8; points <= 10; points += 2) {
        double x[10], y[10], slope[45];
        int count = 0, rank = points == 8 ? 6 : 12;
        struct mt_interval f;

        for (int i = 0; i < points; i++) {
            x[i] = i;
            y[i] = i * i * i + 7 * (i % 3);
        }
        for (int i = 0; i < points; i++)
            for (int k = i + 1; k < points; k++)
                slope[count++] = (y[k] - y[i]) / (x[k] - x[i]);
        for (int i = 0; i < count; i++) /* as slow as it is plain */
            for (int k = i + 1; k < count; k++)
                if (slope[k] < slope[i]) {
                    double swap = slope[i];
                    slope[i] = slope[k];
                    slope[k] = swap;
                }
        f = mt_stats_theil_sen(x, y, (size_t)points, 0.95);
        near_to(f.low, slope[rank - 1], 0);
        near_to(f.high, slope[count - rank], 0);
        near_to(f.estimate, (slope[(count - 1) / 2] + slope[count / 2]) / 2, 1e-15);
    }
}

static void theil_sen_edges(void **state)
{
    static const double x[] = {1, 2, 3, 4}, y[] = {5, 7, 9, 11};
    struct mt_interval f = mt_stats_theil_sen(x, y, 4, 0.95);

    (void)state;
    near_to(f.estimate, 2, 0);
    assert_true(isinf(f.low) && f.low < 0 && isinf(f.high)); /* 1/24 is above 0.025 */
    near_to(mt_stats_theil_sen(x, y, 4, 0.9).low, 2, 0);
    assert_true(isnan(mt_stats_theil_sen(x, y, 1, 0.95).estimate));
    assert_true(isnan(mt_stats_theil_sen((const double[]){1, 1}, y, 2, 0.95).estimate));
}

static int cmp(const void *a, const void *b)
{
    return *(const int *)a - *(const int *)b;
}

static bool next_order(int *v, int n) /* lexicographic, equal values once */
{
    int i = n - 2, k = n - 1, swap;

    while (i >= 0 && v[i] >= v[i + 1])
        i--;
    if (i < 0)
        return false;
    while (v[k] <= v[i])
        k--;
    swap = v[i];
    v[i] = v[k];
    v[k] = swap;
    qsort(v + i + 1, (size_t)(n - i - 1), sizeof(*v), cmp);
    return true;
}

static int trend_of(const int *v, int n)
{
    int s = 0;

    for (int i = 0; i < n; i++)
        for (int k = i + 1; k < n; k++)
            s += (v[k] > v[i]) - (v[k] < v[i]);
    return s;
}

/* Every order of a series of 7 with ties, enumerated. */
static void mann_kendall_enumerated(void **state)
{
    int v[7] = {1, 1, 2, 3, 3, 3, 4}, w[7];
    double y[7];

    (void)state;
    memcpy(w, v, sizeof(v));
    for (int probe = 0; probe < 60; probe++) {
        int all = 0, above = 0;
        for (int i = 0; i < 5 && next_order(w, 7); i++)
            ;
        for (int i = 0; i < 7; i++)
            y[i] = w[i];
        memcpy(v, (int[]){1, 1, 2, 3, 3, 3, 4}, sizeof(v));
        do {
            all++;
            above += trend_of(v, 7) >= trend_of(w, 7);
        } while (next_order(v, 7));
        near_to(mt_stats_mann_kendall(y, 7, 1), (double)above / all, 1e-13);
    }
    assert_true(mt_stats_mann_kendall((const double[]){1, 2, 3, 4}, 4, 1) == 1 / 24.0);
    near_to(mt_stats_mann_kendall((const double[]){1, 2, 3, 4}, 4, 0), 2 / 24.0, 1e-15);
    assert_true(mt_stats_mann_kendall((const double[]){5, 5, 5, 5}, 4, 0) == 1);
}

static void fits(void **state)
{
    double x[5] = {100, 200, 400, 800, 1600}, y[5];
    struct mt_fit f;

    (void)state;
    for (int i = 0; i < 5; i++)
        y[i] = 3 * pow(x[i], 1.5);
    f = mt_stats_power(x, y, 5, 0.95);
    near_to(f.slope.estimate, 1.5, 1e-12);
    near_to(exp(f.intercept), 3, 1e-10);
    f = mt_stats_linear((const double[]){1, 2, 3, 4}, (const double[]){2, 4, 5, 9}, 4, 0.95);
    near_to(f.slope.estimate, 2.2, 1e-12);
    near_to(f.intercept, -0.5, 1e-12);
    near_to(f.slope.low, 2.2 - 4.302652729911275 * sqrt(1.8 / 2 / 5), 1e-9);
}

static void growth(void **state)
{
    double x[6] = {100, 200, 300, 500, 800, 1600}, y[6];
    struct mt_fit f;

    (void)state;
    for (int i = 0; i < 6; i++)
        y[i] = 1e6 + 5000 * x[i];
    f = mt_stats_growth(x, y, 6, 0.95);
    near_to(f.slope.estimate, 1, 1e-12);
    near_to(f.slope.low, 1, 0.01);
    near_to(f.slope.high, 1, 0.01);
    near_to(f.intercept, 1e6, 1e-6);
    for (int i = 0; i < 6; i++)
        y[i] = 1e6 + 5 * x[i] * x[i] + (i % 2 ? 3000 : -3000);
    f = mt_stats_growth(x, y, 6, 0.95);
    assert_true(f.slope.low > 1.9 && f.slope.low < 2 && f.slope.high > 2 && f.slope.high < 2.1);
    assert_true(isnan(mt_stats_growth(x, y, 3, 0.95).slope.estimate));
    for (int i = 0; i < 6; i++)
        y[i] = 7;
    assert_true(isnan(mt_stats_growth(x, y, 6, 0.95).slope.estimate));
}

static void mann_whitney(void **state)
{
    static const double a[] = {1, 2, 3, 4, 5}, b[] = {6, 7, 8, 9, 10};
    struct mt_comparison c = mt_stats_compare(a, 5, b, 5);
    double many[10], more[10];

    (void)state;
    near_to(c.p, 1 / 252.0, 1e-15);
    near_to(c.smallest_p, 1 / 252.0, 1e-15);
    near_to(c.p_smaller, 1, 1e-15);
    near_to(c.difference.estimate, 5, 0);
    for (int i = 0; i < 10; i++) {
        many[i] = i;
        more[i] = i * i;
    }
    near_to(mt_stats_compare(many, 10, more, 10).smallest_p, 1 / 184756.0, 1e-15);
    c = mt_stats_compare(a, 5, a, 5);
    near_to(c.p, c.p_smaller, 1e-15);
    near_to(c.difference.estimate, 0, 0);
    near_to(mt_stats_compare((const double[]){2, 2, 2}, 3, (const double[]){2, 2, 2}, 3).p, 1, 0);
    /* one a, one b: no interval */
    assert_true(isinf(mt_stats_compare(a, 1, b, 1).difference.low));
}

/* Facts: the 24th and the 77th of the 100 differences. */
static void hodges_lehmann_rank(void **state)
{
    double a[10], b[10], d[100];
    struct mt_comparison c;

    (void)state;
    for (int i = 0; i < 10; i++) {
        a[i] = i * 10;
        b[i] = 500 + i; /* differences all differ, in order of i and k */
    }
    for (int i = 0; i < 10; i++)
        for (int k = 0; k < 10; k++)
            d[i * 10 + k] = 500 + k - 10 * (9 - i);
    c = mt_stats_compare(a, 10, b, 10);
    near_to(c.difference.low, d[23], 0);
    near_to(c.difference.high, d[76], 0);
}

static void smallest_effect(void **state)
{
    (void)state;
    near_to(mt_stats_smallest_effect(5, 5, 0.01, 0.8), 2.66, 0.03);
    near_to(mt_stats_smallest_effect(10, 10, 0.01, 0.8), 1.59, 0.03);
    near_to(mt_stats_smallest_effect(20, 20, 0.01, 0.8), 1.07, 0.03);
    assert_true(isinf(mt_stats_smallest_effect(3, 3, 0.01, 0.8)));
}

static uint64_t random_state = 11;

static double noise(double spread) /* about normal: a sum of twelve */
{
    double sum = -6;

    for (int i = 0; i < 12; i++) {
        random_state ^= random_state << 13;
        random_state ^= random_state >> 7;
        random_state ^= random_state << 17;
        sum += (double)(random_state >> 11) / 0x1p53;
    }
    return sum * spread;
}

/* 1,000 gates of 10 against 10: at most 1 % without a difference, however noisy; a planted 3 % is found where it can be. */
static void gates(void **state)
{
    static const double spreads[] = {0.001, 0.01, 0.1};

    (void)state;
    for (int k = 0; k < 3; k++) {
        int by_p = 0, alarms = 0, found = 0;
        for (int i = 0; i < 1000; i++) {
            double a[10], b[10], more[10];
            struct mt_comparison c;
            for (int n = 0; n < 10; n++) {
                a[n] = 1e8 * (1 + noise(spreads[k]));
                b[n] = 1e8 * (1 + noise(spreads[k]));
                more[n] = 1.03e8 * (1 + noise(spreads[k]));
            }
            c = mt_stats_compare(a, 10, b, 10);
            by_p += c.p <= MT_STATS_GATE_P;
            alarms += mt_stats_is_regression(&c, c.p, mt_stats_median(a, 10));
            c = mt_stats_compare(a, 10, more, 10);
            found += mt_stats_is_regression(&c, c.p, mt_stats_median(a, 10));
        }
        assert_in_range(by_p, 0, 16); /* 10 are expected; 17 have a chance of 1 in 40 */
        assert_in_range(alarms, 0, 10);
        if (k < 2)
            assert_in_range(found, k == 0 ? 1000 : 900, 1000);
    }
}

/* The same where noise is skewed with a long tail, and where it is of whole pages with many ties. */
static void gates_of_other_noise(void **state)
{
    (void)state;
    for (int k = 0; k < 2; k++) {
        int by_p = 0, alarms = 0;
        for (int i = 0; i < 1000; i++) {
            double v[20];
            struct mt_comparison c;
            for (int n = 0; n < 20; n++)
                v[n] = k == 0 ? 1e8 * exp(noise(0.5)) : 4096 * floor(25000 + noise(2));
            c = mt_stats_compare(v, 10, v + 10, 10);
            by_p += c.p <= MT_STATS_GATE_P;
            alarms += mt_stats_is_regression(&c, c.p, mt_stats_median(v, 10));
        }
        assert_in_range(by_p, 0, 16);
        assert_in_range(alarms, 0, 10);
    }
}

static void benjamini_hochberg(void **state)
{
    double q[5];

    (void)state;
    assert_int_equal(mt_stats_adjust((const double[]){0.01, NAN, 0.04, 0.03, 0.005}, 5, q), 0);
    near_to(q[0], 0.02, 1e-15);
    assert_true(isnan(q[1]));
    near_to(q[2], 0.04, 1e-15);
    near_to(q[3], 0.04, 1e-15);
    near_to(q[4], 0.02, 1e-15);
}

/* ---- verdicts */

struct site {
    double live_bytes[13], live_blocks[13], aged_bytes[13], aged_blocks[13];
    double left_bytes[13], left_blocks[13], at_risk[13], deaths[13], death_bytes[13];
};

static struct mt_finding judged(const struct site *s, unsigned ends)
{
    return mt_stats_verdict(&(struct mt_cohorts){ends, s->live_bytes, s->live_blocks, s->aged_bytes, s->aged_blocks,
        s->left_bytes, s->left_blocks, s->at_risk, s->deaths, s->death_bytes, 64});
}

static struct site leaking(unsigned ends, double size)
{
    struct site s = {0};

    for (unsigned i = 1; i <= ends; i++) {
        s.live_blocks[i] = i;
        s.live_bytes[i] = size * i;
        s.aged_blocks[i] = i - 1;
        s.aged_bytes[i] = size * (i - 1);
        s.left_blocks[i] = 1;
        s.left_bytes[i] = size;
        s.at_risk[i] = i < ends ? ends - 1 - i : 0;
    }
    return s;
}

static void verdict_leak(void **state)
{
    struct site s = leaking(12, 100);
    struct mt_finding f = judged(&s, 12), all[3000];

    (void)state;
    assert_int_equal(f.verdict, MT_VERDICT_LEAK);
    near_to(f.p, pow(0.25, 9), 1e-18);
    near_to(f.bytes_per_iteration.estimate, 100, 0);
    near_to(f.bytes_per_iteration.low, 100, 0);
    near_to(f.blocks_per_iteration, 1, 0);
    assert_int_equal(f.since, 1);
    near_to(f.retention_upper, 1 - pow(0.05, 1 / 36.0), 1e-12);
    f = judged(&s, 7);
    assert_int_equal(f.verdict, MT_VERDICT_SUSPECT);
    assert_int_equal(f.gate, MT_GATE_FEW);
    s = leaking(12, 63); /* not worth a line */
    assert_int_equal(judged(&s, 12).verdict == MT_VERDICT_LEAK, 0);
    /* One among 2,600 is found, one among 3,000 is not. */
    s = leaking(12, 100);
    for (int count = 2600; count <= 3000; count += 400) {
        for (int i = 0; i < count; i++)
            all[i] = i == 7 ? judged(&s, 12) : (struct mt_finding){.tested = true, .p = 0.9};
        assert_int_equal(mt_stats_settle(all, (size_t)count, false), 0);
        assert_int_equal(all[7].verdict, count == 2600 ? MT_VERDICT_LEAK : MT_VERDICT_SUSPECT);
        near_to(all[7].q, all[7].p * count, 1e-15);
    }
    all[0] = judged(&s, 12);
    assert_int_equal(mt_stats_settle(all, 1, true), 0);
    assert_int_equal(all[0].verdict, MT_VERDICT_SUSPECT);
    assert_int_equal(all[0].gate, MT_GATE_LOSS);
}

static void verdict_others(void **state)
{
    struct site s = leaking(12, 100);

    (void)state;
    s.deaths[5] = 1; /* of 36 at risk: 2.8 % */
    s.death_bytes[5] = 100;
    assert_int_equal(judged(&s, 12).gate, MT_GATE_RETENTION);
    s.death_bytes[5] = 8; /* a list's storage: next to nothing of the bytes */
    assert_int_equal(judged(&s, 12).verdict, MT_VERDICT_LEAK);
    s = leaking(12, 100);
    s.death_bytes[0] = 91; /* a tenth of 900 is 90 */
    assert_int_equal(judged(&s, 12).gate, MT_GATE_NET);
    assert_int_equal(judged(&s, 12).verdict, MT_VERDICT_SUSPECT);
    s.death_bytes[0] = 500;
    assert_int_equal(judged(&s, 12).gate, MT_GATE_NET);
    s = leaking(12, 100);
    s.left_blocks[11] = s.left_bytes[11] = 0; /* a cache that is full */
    s.live_bytes[12] = s.live_bytes[11];
    assert_int_equal(judged(&s, 12).gate, MT_GATE_PLATEAU);
    assert_int_equal(judged(&s, 12).verdict, MT_VERDICT_BOUNDED);
    for (unsigned i = 3; i <= 12; i++) {
        s.left_blocks[i] = s.left_bytes[i] = 0;
        s.aged_bytes[i] = 200;
        s.live_bytes[i] = 200;
    }
    assert_int_equal(judged(&s, 12).verdict, MT_VERDICT_WARM_UP);
    assert_int_equal(judged(&s, 12).gate, MT_GATE_RANGE);
    assert_int_equal(judged(&s, 1).gate, MT_GATE_FEW);
    assert_int_equal(judged(&s, 0).verdict, MT_VERDICT_NOISE);
    assert_int_equal(mt_stats_gate_of("plateau"), MT_GATE_PLATEAU);
    assert_int_equal(mt_stats_gate_of("?"), MT_GATE_NONE);
}

static struct site counted(const double *blocks) /* by cohort 1 .. 11 */
{
    struct site s = leaking(12, 100);

    for (unsigned i = 1; i < 12; i++) {
        s.left_blocks[i] = blocks[i - 1];
        s.left_bytes[i] = 100 * blocks[i - 1];
        s.aged_bytes[i + 1] = s.live_bytes[i + 1] = s.aged_bytes[i] + s.left_bytes[i];
    }
    return s;
}

/* What counts that scatter can prove, and what those that do not. */
static void verdict_slows(void **state)
{
    struct site s = counted((double[]){9, 9, 9, 14, 5, 12, 7, 10, 13, 4, 9});

    (void)state;
    assert_int_equal(judged(&s, 12).verdict, MT_VERDICT_SUSPECT);
    assert_int_equal(judged(&s, 12).gate, MT_GATE_SLOWS);
    s = counted((double[]){9, 9, 9, 10, 9, 8, 9, 10, 9, 8, 9});
    assert_int_equal(judged(&s, 12).verdict, MT_VERDICT_LEAK);
    s = counted((double[]){0, 0, 1, 1, 0, 1, 1, 1, 1, 1, 1}); /* all or nothing */
    assert_int_equal(judged(&s, 12).verdict, MT_VERDICT_LEAK);
    s = counted((double[]){9, 88, 88, 88, 88, 88, 87, 87, 88, 87, 87}); /* one less: no decline */
    assert_int_equal(judged(&s, 12).verdict, MT_VERDICT_LEAK);
    s = counted((double[]){9, 20, 18, 16, 14, 12, 11, 10, 9, 8, 8});
    assert_int_equal(judged(&s, 12).gate, MT_GATE_PLATEAU);
}

static void student(void **state)
{
    (void)state;
    near_to(mt_stats_t_cdf(12.706204736432095, 1), 0.975, 1e-12);
    near_to(mt_stats_t_cdf(-2.2281388519649385, 10), 0.025, 1e-12);
    near_to(mt_stats_t_cdf(0, 3), 0.5, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(student), cmocka_unit_test(verdict_slows), cmocka_unit_test(binomial), cmocka_unit_test(quantiles), cmocka_unit_test(pairs),
        cmocka_unit_test(order_statistics), cmocka_unit_test(theil_sen_rank), cmocka_unit_test(theil_sen_edges),
        cmocka_unit_test(mann_kendall_enumerated), cmocka_unit_test(fits), cmocka_unit_test(growth), cmocka_unit_test(mann_whitney),
        cmocka_unit_test(hodges_lehmann_rank), cmocka_unit_test(smallest_effect), cmocka_unit_test(gates), cmocka_unit_test(gates_of_other_noise), cmocka_unit_test(benjamini_hochberg),
        cmocka_unit_test(verdict_leak), cmocka_unit_test(verdict_others)};

    return cmocka_run_group_tests(tests, NULL, NULL);
}

/*
 * Distributions. The incomplete beta function by its continued fraction (modified Lentz; DLMF 8.17.22), quantiles by bisection of a
 * monotone function: 200 halvings leave nothing to choose, and no start value to go wrong.
 */
#include "stats/stats.h"

#include <math.h>
#include <string.h>

static double beta_fraction(double a, double b, double x)
{
    const double tiny = 1e-300;
    double c = 1, d = 1 - (a + b) * x / (a + 1), result;

    d = 1 / (fabs(d) < tiny ? tiny : d);
    result = d;
    for (int m = 1; m < 100000; m++) {
        double even = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m));
        double odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1)), step;

        d = 1 + even * d;
        d = 1 / (fabs(d) < tiny ? tiny : d);
        c = 1 + even / c;
        c = fabs(c) < tiny ? tiny : c;
        result *= d * c;
        d = 1 + odd * d;
        d = 1 / (fabs(d) < tiny ? tiny : d);
        c = 1 + odd / c;
        c = fabs(c) < tiny ? tiny : c;
        step = d * c;
        result *= step;
        if (fabs(step - 1) < 1e-15)
            break;
    }
    return result;
}

double mt_stats_incomplete_beta(double a, double b, double x)
{
    double front;
    int sign;

    if (!(a > 0) || !(b > 0) || isnan(x))
        return NAN;
    if (x <= 0)
        return 0;
    if (x >= 1)
        return 1;
    front = exp(lgamma_r(a + b, &sign) - lgamma_r(a, &sign) - lgamma_r(b, &sign) + a * log(x) + b * log1p(-x));
    if (x < (a + 1) / (a + b + 2))
        return front * beta_fraction(a, b, x) / a;
    return 1 - front * beta_fraction(b, a, 1 - x) / b;
}

double mt_stats_binomial_tail(unsigned k, unsigned n, double p)
{
    if (k == 0)
        return 1;
    return k > n ? 0 : mt_stats_incomplete_beta(k, n - k + 1.0, p);
}

/* The x in (low, high) at which the growing function f reaches `wanted`. */
static double solve(double (*f)(double x, const double *with), const double *with, double wanted, double low, double high)
{
    for (int i = 0; i < 200 && low < high; i++) {
        double middle = low + (high - low) / 2;
        if (f(middle, with) < wanted)
            low = middle;
        else
            high = middle;
    }
    return low + (high - low) / 2;
}

static double beta_at(double x, const double *with)
{
    return mt_stats_incomplete_beta(with[0], with[1], x);
}

double mt_stats_proportion_upper(double k, double n, double confidence)
{
    if (n <= 0 || k >= n)
        return 1;
    return solve(beta_at, (double[]){k + 1, n - k}, confidence, 0, 1);
}

double mt_stats_proportion_lower(double k, double n, double confidence)
{
    if (n <= 0 || k <= 0)
        return 0;
    return solve(beta_at, (double[]){k, n - k + 1}, 1 - confidence, 0, 1);
}

double mt_stats_normal_cdf(double z)
{
    return 0.5 * erfc(-z / sqrt(2));
}

static double normal_at(double z, const double *with)
{
    (void)with;
    return mt_stats_normal_cdf(z);
}

double mt_stats_normal_quantile(double p)
{
    if (!(p > 0) || !(p < 1))
        return p <= 0 ? -INFINITY : p >= 1 ? INFINITY : NAN;
    return p > 0.5 ? -solve(normal_at, NULL, 1 - p, -40, 0) : solve(normal_at, NULL, p, -40, 0);
}

double mt_stats_t_cdf(double t, double degrees)
{
    double tail = 0.5 * mt_stats_incomplete_beta(degrees / 2, 0.5, degrees / (degrees + t * t));

    return t < 0 ? tail : 1 - tail;
}

static double student_at(double t, const double *with)
{
    return mt_stats_t_cdf(t, with[0]);
}

double mt_stats_t_quantile(double p, double degrees)
{
    if (!(p > 0) || !(p < 1) || !(degrees > 0))
        return NAN;
    return solve(student_at, &degrees, p, -1e8, 1e8);
}

/*
 * The Gaussian binomial coefficient (m + n over n), by one factor (1 - q^(m + i)) / (1 - q^i) after the other. Small counts are made
 * of small ones only, so the lower half is as exact as a double is; the upper half is its mirror image.
 */
void mt_stats_pairs_distribution(unsigned m, unsigned n, double *ret_probability)
{
    size_t last = (size_t)m * n;
    double *p = ret_probability, sum = 0;

    memset(p, 0, (last + 1) * sizeof(*p));
    p[0] = 1;
    for (unsigned i = 1; i <= n; i++) {
        size_t top = (size_t)m * i;

        for (size_t u = top; u >= m + i; u--)
            p[u] -= p[u - m - i];
        for (size_t u = i; u <= top; u++)
            p[u] += p[u - i];
    }
    for (size_t u = 0; u <= last / 2; u++)
        p[last - u] = p[u];
    for (size_t u = 0; u <= last; u++)
        sum += p[u];
    for (size_t u = 0; u <= last; u++)
        p[u] /= sum;
}

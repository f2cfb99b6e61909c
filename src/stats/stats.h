/*
 * stats: when growth is a leak, and when a difference is real. Pure functions over arrays: no input, no output, no state, and
 * no memory but their own. Where a distribution is known exactly it is used exactly; n says up to where.
 *
 * Nouns:
 *   cohort     the blocks of a callsite that were born in one iteration
 *   survivors  what of a cohort is alive at an iteration's end
 *   aged       alive at the end of an iteration and born before it: what an iteration only borrowed is not in it
 *
 * Functions that give an interval set both ends; an end that the data say nothing of is -INFINITY or INFINITY. NAN where there is
 * nothing to compute. Memory that cannot be had gives NAN, or the verdict MT_VERDICT_NOISE.
 */
#ifndef MT_STATS_STATS_H
#define MT_STATS_STATS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct mt_interval {
    double estimate, low, high;
};

/* ---- distributions: distribution.c */

double mt_stats_binomial_tail(unsigned k, unsigned n, double p); /* P(X >= k) */
/* One-sided Clopper-Pearson bounds on a proportion of k in n, at this confidence. */
double mt_stats_proportion_upper(double k, double n, double confidence);
double mt_stats_proportion_lower(double k, double n, double confidence);
double mt_stats_normal_cdf(double z);
double mt_stats_normal_quantile(double p);
double mt_stats_t_quantile(double p, double degrees);
double mt_stats_t_cdf(double t, double degrees);
double mt_stats_incomplete_beta(double a, double b, double x); /* regularized */

/*
 * Distribution of the number of pairs (a from m, b from n) with a before b, all orders being equally likely: Mann-Whitney's U.
 * Fills m * n + 1 probabilities.
 */
void mt_stats_pairs_distribution(unsigned m, unsigned n, double *ret_probability);

/* ---- one series: series.c */

/* Sorts a copy. q in [0, 1], linear between order statistics (type 7 of Hyndman and Fan). */
double mt_stats_percentile(const double *values, size_t count, double q);
double mt_stats_median(const double *values, size_t count);

/*
 * Theil-Sen: the median slope of all pairs, y against x; the interval at `confidence` is exact by Kendall's distribution for up to
 * MT_STATS_EXACT_MAX points (Sen 1968), normal beyond.
 */
enum { MT_STATS_EXACT_MAX = 64 };
struct mt_interval mt_stats_theil_sen(const double *x, const double *y, size_t count, double confidence);

/* Mann-Kendall: sign > 0: p that a series without trend rises as much; < 0: falls; 0: either. Exact, ties included, up to
 * MT_STATS_EXACT_MAX points, normal with the correction for ties beyond. */
double mt_stats_mann_kendall(const double *y, size_t count, int sign);

/* y = intercept + slope * x by least squares, Student's interval on the slope. */
struct mt_fit {
    struct mt_interval slope;
    double intercept, r_squared;
};
struct mt_fit mt_stats_linear(const double *x, const double *y, size_t count, double confidence);
/* y = c * x ^ slope, through logarithms; points that are not above 0 are left out. intercept is ln c. */
struct mt_fit mt_stats_power(const double *x, const double *y, size_t count, double confidence);

/* y = base + c * x ^ exponent, of at least 4 points: least squares for exponents from 0.1 to 4 in steps of 0.005; the interval is that of the profile
 * (Bates and Watts 1988, 6.1). slope is the exponent's, intercept the base. */
struct mt_fit mt_stats_growth(const double *x, const double *y, size_t count, double confidence);

/* Tukey's rule: outside of 1.5 interquartile ranges beyond the quartiles. Sets flags, returns how many. */
size_t mt_stats_outliers(const double *values, size_t count, bool *ret_flags);

/* ---- two samples: compare.c */

struct mt_comparison {
    struct mt_interval difference; /* b - a: Hodges-Lehmann and its interval at 95 %, exact */
    double p;                      /* one-sided Mann-Whitney: b is larger */
    double p_smaller;              /* b is smaller */
    double smallest_p;             /* that samples of these sizes could have given */
};
/* Exact, ties included, up to MT_STATS_COMPARE_MAX values in both together; normal beyond. */
enum { MT_STATS_COMPARE_MAX = 100 };
struct mt_comparison mt_stats_compare(const double *a, size_t a_count, const double *b, size_t b_count);

/* The rule of a gate: p (or q) at most 0.01, and the increase surely above 1 % of the baseline and 64 KiB. */
#define MT_STATS_GATE_P 0.01
#define MT_STATS_GATE_SHARE 0.01
#define MT_STATS_GATE_BYTES 65536.0
bool mt_stats_is_regression(const struct mt_comparison *comparison, double p, double baseline);

/* The shift, in standard deviations of one value, that a one-sided test at alpha finds with the given power where both samples are
 * normal; INFINITY where no result could be significant. By simulation with a fixed seed. */
double mt_stats_smallest_effect(size_t a_count, size_t b_count, double alpha, double power);

/* Benjamini-Hochberg: q of each p; NAN stays out of the family. */
int mt_stats_adjust(const double *p, size_t count, double *ret_q);

/* ---- leaks: verdict.c */

enum mt_verdict { MT_VERDICT_NOISE, MT_VERDICT_BOUNDED, MT_VERDICT_WARM_UP, MT_VERDICT_SUSPECT, MT_VERDICT_LEAK };
const char *mt_stats_verdict_name(enum mt_verdict verdict);

/* X(symbol, name, what it says of a callsite that did not pass it) */
#define MT_GATES(X)                                                                                                    \
    X(NONE, "", "")                                                                                                    \
    X(RANGE, "range", "it hardly changes from one iteration to the next")                                              \
    X(FEW, "few", "too few iterations to be sure")                                                                     \
    X(COHORTS, "cohorts", "too few iterations left something behind")                                                  \
    X(RETENTION, "retention", "what is left behind is freed in later iterations")                                      \
    X(REPLACED, "replaced", "one block takes the place of another, each larger than the one before")                   \
    X(NET, "net", "as much of the older memory goes as younger memory stays")                                          \
    X(PLATEAU, "plateau", "the last iterations left less behind than those before")                                    \
    X(HALVES, "halves", "the younger half of the iterations left much less behind than the older half")                \
    X(SLOWS, "slows", "it may be slowing down: the iterations are too few, or too unlike each other, to rule that out")   \
    X(EFFECT, "effect", "the growth is too small, or not sure to be there")                                            \
    X(FAMILY, "family", "among as many callsites, one like it may be chance")                                          \
    X(LOSS, "loss", "the run lost events")
enum mt_gate {
#define MT_GATE_SYMBOL_(symbol, name, text) MT_GATE_##symbol,
    MT_GATES(MT_GATE_SYMBOL_)
#undef MT_GATE_SYMBOL_
        MT_GATE_COUNT
};
const char *mt_stats_gate_name(enum mt_gate gate);
const char *mt_stats_gate_text(enum mt_gate gate);
/* By name; MT_GATE_NONE if there is no such. */
enum mt_gate mt_stats_gate_of(const char *name);

enum {
    MT_STATS_WARM_UP = 2, /* iterations that are not judged */
    MT_STATS_FLOOR_BYTES = 64,
};

/*
 * What is known of one callsite after `ends` iterations. Arrays by birth have ends + 1 entries, [0] for what was born before the first
 * iteration; arrays by end have ends + 1 entries, [0] unused.
 *   survivors  at the last end
 *   at_risk    sum over ends i from born + 1 to ends - 1 of what was alive at i
 *   deaths     what of that was not alive at i + 1; for cohorts of the warm-up, from end MT_STATS_WARM_UP + 1 on
 */
struct mt_cohorts {
    unsigned ends;
    const double *live_bytes, *live_blocks, *aged_bytes, *aged_blocks;  /* by end */
    const double *survivor_bytes, *survivor_blocks, *at_risk, *deaths, *death_bytes; /* by birth; blocks where not said */
    double floor_bytes; /* from mt_stats_floor() */
};
/* What growth is worth a line in a heap of that size: bytes per iteration. */
double mt_stats_floor(double heap_bytes);

struct mt_finding {
    enum mt_verdict verdict;
    enum mt_gate gate; /* the first that failed */
    bool tested;       /* past the filter that is blind to order: of the family that p is corrected for */
    double p, q;
    struct mt_interval bytes_per_iteration;
    double blocks_per_iteration;
    double retention_deaths, retention_upper; /* shares */
    unsigned since; /* first judged iteration that left something behind; 0: none */
};
struct mt_finding mt_stats_verdict(const struct mt_cohorts *cohorts);

/* Corrects a process's findings for their number (q), and takes `leak` back where q is above 0.01 or the run lost events. */
int mt_stats_settle(struct mt_finding *findings, size_t count, bool lossy);

#endif

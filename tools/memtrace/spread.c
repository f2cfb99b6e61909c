/*
 * memtrace spread: how alike are runs of the same thing? Medians with exact intervals, the range, and runs that stand out by Tukey's rule: more
 * than 1.5 interquartile ranges beyond the quartiles. Outliers are shown and stay in: only loss or failure takes a run out.
 */
#include <json-c/json.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "series.h"
#include "stats/stats.h"

static const char help[] =
    "Shows how much runs of the same thing differ: RUNS is a label, label:NAME, or numbers as in 1-10\n"
    "(default: the label of the last run). Medians with their 95 % interval; the range, also as a part of\n"
    "the median; runs more than 1.5 interquartile ranges beyond the quartiles are outliers, and stay in.\n"
    "Runs that lost events or failed are left out.\n\n"
    "  -n, --rows N        callsites that differ most (default 10; 0: all)\n" READ_HELP READ_HELP_END;

struct spread {
    double median, low, high, least, most;
    size_t outliers;
    bool *is_outlier; /* by run */
};

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;

    return (x > y) - (x < y);
}

static struct spread spread_of(const double *values, size_t count)
{
    struct spread s = {.low = -INFINITY, .high = INFINITY, .is_outlier = calloc(count, sizeof(bool))};
    double *ordered = malloc(count * sizeof(*ordered));
    size_t rank = 0;

    if (!ordered || !s.is_outlier)
        abort();
    memcpy(ordered, values, count * sizeof(*ordered));
    qsort(ordered, count, sizeof(*ordered), by_value);
    s.median = mt_stats_median(values, count);
    s.least = ordered[0];
    s.most = ordered[count - 1];
    /* The interval of a median is between two order statistics: binomial. */
    while (rank < count / 2 && mt_stats_binomial_tail((unsigned)(count - rank), (unsigned)count, 0.5) <= 0.025)
        rank++;
    if (rank > 0) {
        s.low = ordered[rank - 1];
        s.high = ordered[count - rank];
    }
    s.outliers = mt_stats_outliers(values, count, s.is_outlier);
    free(ordered);
    return s;
}

static double part(double range, double median)
{
    return median > 0 ? 100 * range / median : 0;
}

struct varied { /* a callsite */
    const struct site_series *site;
    double median, range;
};

static int by_range(const void *a, const void *b)
{
    const struct varied *x = a, *y = b;

    return (x->range < y->range) - (x->range > y->range);
}

static struct varied *vary(const struct site_table *table, size_t runs, size_t *ret_count)
{
    struct varied *v = calloc(table->count + 1, sizeof(*v));
    size_t count = 0;

    if (!v)
        abort();
    for (size_t i = 0; i < table->count; i++) {
        const double *values = table->sites[i].values;
        double range = mt_stats_percentile(values, runs, 1) - mt_stats_percentile(values, runs, 0);
        if (range > 0)
            v[count++] = (struct varied){&table->sites[i], mt_stats_median(values, runs), range};
    }
    qsort(v, count, sizeof(*v), by_range);
    *ret_count = count;
    return v;
}

static void print_outliers(const struct spread *s, const struct run_list *runs)
{
    if (s->outliers == 0)
        return;
    printf("  outliers: run");
    for (size_t i = 0; i < runs->count; i++)
        if (s->is_outlier[i])
            printf(" %lld", (long long)runs->ids[i]);
    putchar('\n');
}

static void print_metric(enum metric metric, const struct spread *s, const struct run_list *runs)
{
    char median[32], low[32], high[32], range[32];

    printf("%-10s %10s", metric_name(metric), mt_format_bytes((int64_t)s->median, median, sizeof(median)));
    if (isfinite(s->low))
        printf(" (95 %%: %s to %s)", mt_format_bytes((int64_t)s->low, low, sizeof(low)),
            mt_format_bytes((int64_t)s->high, high, sizeof(high)));
    printf(", range %s, %.2f %%\n", mt_format_bytes((int64_t)(s->most - s->least), range, sizeof(range)),
        part(s->most - s->least, s->median));
    print_outliers(s, runs);
}

static struct json_object *number(double value)
{
    return isfinite(value) ? json_object_new_double(value) : NULL;
}

static struct json_object *metric_json(enum metric metric, const struct spread *s, const struct run_list *runs)
{
    struct json_object *row = json_object_new_object(), *outliers = json_object_new_array();

    json_object_object_add(row, "scope", json_object_new_string("total"));
    json_object_object_add(row, "metric", json_object_new_string(metric_name(metric)));
    json_object_object_add(row, "runs", json_object_new_int64((int64_t)runs->count));
    json_object_object_add(row, "excluded_runs", json_object_new_int64(runs->excluded));
    json_object_object_add(row, "median_bytes", number(s->median));
    json_object_object_add(row, "ci_low", number(s->low));
    json_object_object_add(row, "ci_high", number(s->high));
    json_object_object_add(row, "min_bytes", number(s->least));
    json_object_object_add(row, "max_bytes", number(s->most));
    for (size_t i = 0; i < runs->count; i++)
        if (s->is_outlier[i])
            json_object_array_add(outliers, json_object_new_int64(runs->ids[i]));
    json_object_object_add(row, "outliers", outliers);
    return row;
}

static struct json_object *site_json(const struct varied *v)
{
    struct json_object *row = json_object_new_object();

    json_object_object_add(row, "scope", json_object_new_string("site"));
    json_object_object_add(row, "metric", json_object_new_string("peak"));
    json_object_object_add(row, "function", mt_json_text(v->site->function, strlen(v->site->function)));
    json_object_object_add(row, "file", v->site->file ? mt_json_text(v->site->file, strlen(v->site->file)) : NULL);
    json_object_object_add(row, "median_bytes", number(v->median));
    json_object_object_add(row, "range_bytes", number(v->range));
    return row;
}

static int show(struct mt_store *store, const struct run_list *runs, const struct varied *varied, size_t count, bool json)
{
    double *values = calloc(runs->count, sizeof(*values));
    char median[32], range[32];
    struct mt_json to;
    int status = 0;

    if (!values)
        abort();
    if (json)
        mt_json_begin(&to, stdout);
    else
        printf("%zu runs%s\n\n", runs->count, runs->excluded ? " (others lost events or failed, and are left out)" : "");
    for (int m = 0; m < METRIC_COUNT && status == 0; m++) {
        struct spread s;
        status = runs_metric(store, runs, (enum metric)m, values);
        s = spread_of(values, runs->count);
        if (json)
            mt_json_row(&to, metric_json((enum metric)m, &s, runs));
        else
            print_metric((enum metric)m, &s, runs);
        free(s.is_outlier);
    }
    if (!json && count > 0)
        puts("\nCallsites that differ most at the peak:");
    for (size_t i = 0; i < count; i++) {
        if (json)
            mt_json_row(&to, site_json(&varied[i]));
        else
            printf("  %10s, range %10s  %s  %s\n", mt_format_bytes((int64_t)varied[i].median, median, sizeof(median)),
                mt_format_bytes((int64_t)varied[i].range, range, sizeof(range)), varied[i].site->function,
                varied[i].site->file ? varied[i].site->file : "");
    }
    if (json)
        mt_json_end(&to);
    free(values);
    return status;
}

/* The label of the last run; NULL: it has none, or there is no run. */
static char *last_label(struct mt_store *store, int *ret_status)
{
    struct mt_query *q;
    char *label = NULL;
    int r;

    q = ask(store, "SELECT label FROM runs ORDER BY run_id DESC LIMIT 1", ret_status);
    if (!q)
        return NULL;
    r = mt_query_step(q);
    if (r == 1 && mt_query_text(q, 0, NULL) && asprintf(&label, "label:%s", mt_query_text(q, 0, NULL)) < 0)
        abort();
    mt_query_destroy(q);
    *ret_status = finish_rows(store, r);
    return label;
}

static int spread(struct mt_store *store, const char *what, int64_t rows, bool json)
{
    struct site_table table = {0};
    struct run_list runs = {0};
    struct varied *varied;
    size_t count;
    int status = 0;
    char *label = what ? strdup(what) : last_label(store, &status);

    if (status == 0 && !label)
        status = complain(STATUS_USAGE, "the last run has no label: say which runs, as in 1-10");
    if (status == 0)
        status = runs_select(store, label, true, &runs);
    free(label);
    if (status == 0 && runs.count < 2)
        status = complain(STATUS_INPUT, "one run has no spread; `memtrace run --label NAME --repeat 10 -- COMMAND` makes ten");
    if (status == 0)
        status = sites_load(store, &runs, METRIC_PEAK, &table);
    if (status == 0) {
        varied = vary(&table, runs.count, &count);
        if (rows && count > (size_t)rows)
            count = (size_t)rows;
        status = show(store, &runs, varied, count, json);
        free(varied);
    }
    sites_finish(&table);
    runs_finish(&runs);
    return status;
}

int command_spread(int argc, char **argv)
{
    static const struct option options[] = {READ_OPTIONS, {"rows", required_argument, NULL, 'n'}, {0}};
    struct read_options read = {0};
    struct mt_store *store;
    int64_t rows = 10;
    int c, status;

    while ((c = getopt_long(argc, argv, "d:n:h", options, NULL)) != -1) {
        if (c == 'n' && number_option(optarg, 0, INT32_MAX, &rows) < 0)
            return complain(STATUS_USAGE, "-n %s: not a number of rows", optarg);
        if (c != 'n' && !read_option(&read, c, optarg))
            return usage_hint(argv);
    }
    if (read.help)
        return print_help("spread", help);
    if (argv[optind] && argv[optind + 1])
        return complain(STATUS_USAGE, "one argument too many: %s", argv[optind + 1]);
    status = open_database(&read, &store, NULL);
    if (status != 0)
        return status;
    status = spread(store, argv[optind], rows, read.json);
    mt_store_close(store);
    return status;
}

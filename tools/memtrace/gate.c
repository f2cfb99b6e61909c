/*
 * memtrace gate: does the candidate need more memory than the baseline? Totals first, then callsites corrected for their number. A
 * regression is a one-sided exact Mann-Whitney p (callsites: q) of at most 0.01 and an increase whose lower 95 % bound is above 1 % and 64 KiB.
 */
#include <json-c/json.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "series.h"
#include "stats/stats.h"

static const char help[] =
    "Compares the runs of two labels (or numbers, as in 1-10 or 3,4,7) and gives status 1 if the\n"
    "candidate needs more. Take at least 5 runs of each, in turn, 10 are better:\n\n"
    "  for i in 1 2 3 4 5 6 7 8 9 10; do\n"
    "      memtrace run --label before -- ./before; memtrace run --label after -- ./after\n"
    "  done\n"
    "  memtrace gate --baseline before --candidate after\n\n"
    "Runs that lost events or failed are left out. A difference counts if chance would show it in at\n"
    "most 1 of 100 comparisons and if it is surely (95 %) above 1 % and 64 KiB.\n\n"
    "      --baseline A    runs to compare with\n"
    "      --candidate B   runs to judge\n"
    "      --metric NAME   peak (default), live, allocated or rss\n"
    "  -n, --rows N        callsites shown (default 10; 0: all)\n" READ_HELP READ_HELP_END;

enum { BASELINE = OPTION_FIRST_FREE, CANDIDATE, METRIC };

struct gate_options {
    struct read_options read;
    const char *baseline, *candidate;
    enum metric metric;
    int64_t rows;
};

struct judged {
    double before, after; /* medians */
    struct mt_comparison c;
    double q;
    bool regression;
    const struct site_series *site; /* NULL: the total */
};

struct gate {
    struct run_list before, after, both;
    double *values; /* of both: the baseline's first */
    struct judged total;
    struct judged *sites;
    size_t site_count, tested;
    double smallest_bytes; /* that would have been found in 80 of 100 cases */
};

static struct judged judge(const double *values, size_t before, size_t after)
{
    return (struct judged){.before = mt_stats_median(values, before),
        .after = mt_stats_median(values + before, after),
        .c = mt_stats_compare(values, before, values + before, after),
        .q = NAN};
}

static double deviation(const double *values, size_t count)
{
    double mean = 0, squares = 0;

    for (size_t i = 0; i < count; i++)
        mean += values[i] / (double)count;
    for (size_t i = 0; i < count; i++)
        squares += (values[i] - mean) * (values[i] - mean);
    return squares;
}

static int by_increase(const void *a, const void *b)
{
    const struct judged *x = a, *y = b;
    double p = fabs(x->c.difference.estimate), q = fabs(y->c.difference.estimate);

    if (x->regression != y->regression)
        return x->regression ? -1 : 1;
    return (p < q) - (p > q);
}

/* Filter blind to the order of runs: callsites that are the same in all runs are no tests. */
static int judge_sites(struct gate *g, const struct site_table *table)
{
    size_t runs = g->both.count, before = g->before.count;
    double *p = calloc(table->count + 1, 2 * sizeof(*p));

    g->sites = calloc(table->count + 1, sizeof(*g->sites));
    if (!p || !g->sites)
        abort();
    for (size_t i = 0; i < table->count; i++) {
        const double *v = table->sites[i].values;
        double low = v[0], high = v[0];

        for (size_t k = 1; k < runs; k++) {
            low = fmin(low, v[k]);
            high = fmax(high, v[k]);
        }
        if (high - low < MT_STATS_GATE_BYTES)
            continue;
        g->sites[g->tested] = judge(v, before, runs - before);
        g->sites[g->tested].site = &table->sites[i];
        p[g->tested] = g->sites[g->tested].c.p;
        g->tested++;
    }
    if (mt_stats_adjust(p, g->tested, p + table->count + 1) < 0)
        abort();
    for (size_t i = 0; i < g->tested; i++) {
        g->sites[i].q = p[table->count + 1 + i];
        g->sites[i].regression = mt_stats_is_regression(&g->sites[i].c, g->sites[i].q, g->sites[i].before);
    }
    if (g->tested)
        qsort(g->sites, g->tested, sizeof(*g->sites), by_increase);
    free(p);
    return 0;
}

static int compare(struct mt_store *store, const struct gate_options *o, struct gate *g, struct site_table *table)
{
    size_t n, m;
    int status = runs_select(store, o->baseline, true, &g->before);

    if (status == 0)
        status = runs_select(store, o->candidate, true, &g->after);
    if (status != 0)
        return status;
    n = g->before.count;
    m = g->after.count;
    g->both.count = n + m;
    g->both.ids = calloc(n + m, sizeof(*g->both.ids));
    g->values = calloc(n + m, sizeof(*g->values));
    if (!g->both.ids || !g->values)
        abort();
    memcpy(g->both.ids, g->before.ids, n * sizeof(*g->both.ids));
    memcpy(g->both.ids + n, g->after.ids, m * sizeof(*g->both.ids));
    status = runs_metric(store, &g->both, o->metric, g->values);
    if (status != 0)
        return status;
    g->total = judge(g->values, n, m);
    if (g->total.c.smallest_p > MT_STATS_GATE_P)
        return complain(STATUS_USAGE, "%zu runs against %zu cannot show anything at p = 0.01; take at least 5 of each", n, m);
    g->total.regression = mt_stats_is_regression(&g->total.c, g->total.c.p, g->total.before);
    g->smallest_bytes = mt_stats_smallest_effect(n, m, MT_STATS_GATE_P, 0.8) *
                        sqrt((deviation(g->values, n) + deviation(g->values + n, m)) / (double)(n + m - 2));
    g->smallest_bytes = fmax(g->smallest_bytes, fmax(MT_STATS_GATE_SHARE * g->total.before, MT_STATS_GATE_BYTES));
    if (!metric_has_sites(o->metric))
        return 0;
    status = sites_load(store, &g->both, o->metric, table);
    return status ? status : judge_sites(g, table);
}

/* ---- output ------------------------------------------------------------------------------------------------------------ */

static struct json_object *number(double value)
{
    return isfinite(value) ? json_object_new_double(value) : NULL;
}

static struct json_object *json_of(const struct judged *j, const struct gate *g, const struct gate_options *o)
{
    struct json_object *row = json_object_new_object();

    json_object_object_add(row, "scope", json_object_new_string(j->site ? "site" : "total"));
    json_object_object_add(row, "metric", json_object_new_string(metric_name(o->metric)));
    json_object_object_add(row, "regression", json_object_new_boolean(j->regression));
    if (j->site) {
        json_object_object_add(row, "heap", mt_json_text(j->site->heap, strlen(j->site->heap)));
        json_object_object_add(row, "function", mt_json_text(j->site->function, strlen(j->site->function)));
        json_object_object_add(row, "file", j->site->file ? mt_json_text(j->site->file, strlen(j->site->file)) : NULL);
        json_object_object_add(row, "q_value", number(j->q));
    } else {
        json_object_object_add(row, "baseline_runs", json_object_new_int64((int64_t)g->before.count));
        json_object_object_add(row, "candidate_runs", json_object_new_int64((int64_t)g->after.count));
        json_object_object_add(row, "excluded_runs", json_object_new_int64(g->before.excluded + g->after.excluded));
        json_object_object_add(row, "smallest_effect_bytes", number(g->smallest_bytes));
    }
    json_object_object_add(row, "baseline_bytes", number(j->before));
    json_object_object_add(row, "candidate_bytes", number(j->after));
    json_object_object_add(row, "difference_bytes", number(j->c.difference.estimate));
    json_object_object_add(row, "ci_low", number(j->c.difference.low));
    json_object_object_add(row, "ci_high", number(j->c.difference.high));
    json_object_object_add(row, "p_value", number(j->c.p));
    return row;
}

static size_t limit_of(const struct gate *g, const struct gate_options *o)
{
    return o->rows && (size_t)o->rows < g->tested ? (size_t)o->rows : g->tested;
}

static void print_gate_json(const struct gate *g, const struct gate_options *o)
{
    struct mt_json json;

    mt_json_begin(&json, stdout);
    mt_json_row(&json, json_of(&g->total, g, o));
    for (size_t i = 0; i < limit_of(g, o); i++)
        mt_json_row(&json, json_of(&g->sites[i], g, o));
    mt_json_end(&json);
}

static void add_site(struct mt_table *table, const struct judged *j)
{
    char text[64];

    mt_table_add(table, j->regression ? "more" : "");
    mt_table_add(table, change_text(j->c.difference.estimate, text, sizeof(text)));
    mt_table_add(table, mt_format_bytes((int64_t)j->before, text, sizeof(text)));
    mt_table_add(table, mt_format_bytes((int64_t)j->after, text, sizeof(text)));
    snprintf(text, sizeof(text), "%.2g", j->q);
    mt_table_add(table, text);
    mt_table_add(table, j->site->heap);
    mt_table_add(table, j->site->function);
    mt_table_add(table, j->site->file);
}

static void print_sites(const struct gate *g, const struct gate_options *o)
{
    struct mt_table *table = mt_table_create();

    if (!table)
        abort();
    mt_table_column(table, "", MT_CELL_LEFT);
    mt_table_column(table, "CHANGE", MT_CELL_RIGHT);
    mt_table_column(table, "BASELINE", MT_CELL_RIGHT);
    mt_table_column(table, "CANDIDATE", MT_CELL_RIGHT);
    mt_table_column(table, "Q", MT_CELL_RIGHT);
    mt_table_column(table, "HEAP", MT_CELL_LEFT);
    mt_table_column(table, "FUNCTION", MT_CELL_CUT_END);
    mt_table_column(table, "FILE", MT_CELL_CUT_START);
    for (size_t i = 0; i < limit_of(g, o); i++)
        add_site(table, &g->sites[i]);
    putchar('\n');
    mt_table_print(table, stdout);
    mt_table_destroy(table);
}

static void print_gate(const struct gate *g, const struct gate_options *o)
{
    const struct judged *t = &g->total;
    char before[32], after[32], change[64], low[64], high[64], smallest[32];

    printf("%s: %s in %zu runs of %s, %s in %zu runs of %s (medians)\n", metric_text(o->metric),
        mt_format_bytes((int64_t)t->before, before, sizeof(before)), g->before.count, o->baseline,
        mt_format_bytes((int64_t)t->after, after, sizeof(after)), g->after.count, o->candidate);
    printf("difference %s (95 %%: %s to %s), %+.2f %%, p = %.2g\n", change_text(t->c.difference.estimate, change, sizeof(change)),
        change_text(t->c.difference.low, low, sizeof(low)), change_text(t->c.difference.high, high, sizeof(high)),
        t->before > 0 ? 100 * t->c.difference.estimate / t->before : 0, t->c.p);
    if (g->before.excluded + g->after.excluded)
        printf("%lld runs left out: they lost events or did not end with status 0\n",
            (long long)(g->before.excluded + g->after.excluded));
    printf("%s; as many runs find an increase of %s in 80 of 100 cases\n",
        t->regression ? "REGRESSION: the candidate needs more" : "no increase shown",
        mt_format_bytes((int64_t)g->smallest_bytes, smallest, sizeof(smallest)));
    if (g->tested)
        print_sites(g, o);
}

static int parse(int argc, char **argv, struct gate_options *o)
{
    static const struct option options[] = {READ_OPTIONS, {"baseline", required_argument, NULL, BASELINE},
        {"candidate", required_argument, NULL, CANDIDATE}, {"metric", required_argument, NULL, METRIC},
        {"rows", required_argument, NULL, 'n'}, {0}};
    int c;

    while ((c = getopt_long(argc, argv, "d:n:h", options, NULL)) != -1) {
        if (c == BASELINE)
            o->baseline = optarg;
        else if (c == CANDIDATE)
            o->candidate = optarg;
        else if (c == METRIC && !metric_of(optarg, &o->metric))
            return complain(STATUS_USAGE, "--metric %s: not one of peak, live, allocated, rss", optarg);
        else if (c == 'n' && number_option(optarg, 0, INT32_MAX, &o->rows) < 0)
            return complain(STATUS_USAGE, "-n %s: not a number of rows", optarg);
        else if (c != METRIC && c != 'n' && !read_option(&o->read, c, optarg))
            return usage_hint(argv);
    }
    if (argv[optind])
        return complain(STATUS_USAGE, "one argument too many: %s", argv[optind]);
    if (!o->read.help && (!o->baseline || !o->candidate))
        return complain(STATUS_USAGE, "--baseline RUNS and --candidate RUNS are needed");
    return 0;
}

int command_gate(int argc, char **argv)
{
    struct gate_options o = {.metric = METRIC_PEAK, .rows = 10};
    struct site_table table = {0};
    struct gate gate = {0};
    struct mt_store *store;
    int status = parse(argc, argv, &o);
    bool regression = false;

    if (status != 0)
        return status;
    if (o.read.help)
        return print_help("gate", help);
    status = open_database(&o.read, &store, NULL);
    if (status != 0)
        return status;
    status = compare(store, &o, &gate, &table);
    if (status == 0) {
        regression = gate.total.regression;
        for (size_t i = 0; i < gate.tested; i++)
            regression |= gate.sites[i].regression;
        if (o.read.json)
            print_gate_json(&gate, &o);
        else
            print_gate(&gate, &o);
    }
    runs_finish(&gate.before);
    runs_finish(&gate.after);
    runs_finish(&gate.both);
    free(gate.values);
    free(gate.sites);
    sites_finish(&table);
    mt_store_close(store);
    return status == 0 && regression ? STATUS_FINDING : status;
}

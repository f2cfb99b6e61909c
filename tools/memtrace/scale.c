/*
 * memtrace scale: how memory grows with the size of the work, from runs labelled with it.
 */
#include <errno.h>
#include <json-c/json.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "series.h"
#include "stats/stats.h"

static const char help[] =
    "Fits how memory grows with the size of the work, over runs whose label is NAME=NUMBER:\n\n"
    "  for n in 100 200 400 800; do memtrace run --label pages=$n -- ./build --pages $n; done\n"
    "  memtrace scale\n\n"
    "First what is needed whatever the size (base) and how the rest grows: exponent 1 is linear. Then the\n"
    "straight line: bytes for one more. The order is the exponent with no base: 1 is proportional.\n"
    "Take at least 5 sizes, each more than once; 3 give no interval.\n\n"
    "      --name NAME     of the labels (default: that of the last labelled run)\n"
    "  -n, --rows N        callsites shown that grow faster than the whole (default 10; 0: all)\n" READ_HELP READ_HELP_END;

enum { NAME = OPTION_FIRST_FREE, PLOT_COLUMNS = 50 };

struct scale_options {
    struct read_options read;
    const char *name;
    int64_t rows;
};

struct scale {
    char *name;
    struct run_list runs;
    double *sizes, *values[METRIC_COUNT];
    struct mt_fit power[METRIC_COUNT], line[METRIC_COUNT], growth[METRIC_COUNT];
};

struct steep { /* a callsite that grows faster */
    const struct site_series *site;
    struct mt_fit power;
    double largest;
};

/* The runs whose label is name=number; name NULL: the last run that has such a label says it. */
static int find_runs(struct mt_store *store, const char *name, struct scale *s)
{
    struct mt_query *q;
    int status, r;

    q = ask(store, "SELECT run_id, label FROM runs WHERE label LIKE '%=%' AND status = 'complete' AND coalesce(exit_status, 0) = 0 "
                   "ORDER BY run_id DESC",
        &status);
    if (!q)
        return status;
    s->name = name ? strdup(name) : NULL;
    while ((r = mt_query_step(q)) == 1) {
        const char *label = mt_query_text(q, 1, NULL), *equals = label ? strchr(label, '=') : NULL;
        double size;
        char *end;

        if (!equals)
            continue;
        errno = 0;
        size = strtod(equals + 1, &end);
        if (errno || end == equals + 1 || *end || !(size > 0) || !isfinite(size))
            continue;
        if (!s->name)
            s->name = strndup(label, (size_t)(equals - label));
        if (!s->name || strlen(s->name) != (size_t)(equals - label) || strncmp(s->name, label, (size_t)(equals - label)) != 0)
            continue;
        s->runs.ids = reallocarray(s->runs.ids, s->runs.count + 1, sizeof(*s->runs.ids));
        s->sizes = reallocarray(s->sizes, s->runs.count + 1, sizeof(*s->sizes));
        if (!s->runs.ids || !s->sizes)
            abort();
        s->sizes[s->runs.count] = size;
        s->runs.ids[s->runs.count++] = mt_query_integer(q, 0);
    }
    mt_query_destroy(q);
    return finish_rows(store, r);
}

static int fit(struct mt_store *store, struct scale *s)
{
    double least = INFINITY, most = 0;
    int status = 0;

    for (size_t i = 0; i < s->runs.count; i++) {
        least = fmin(least, s->sizes[i]);
        most = fmax(most, s->sizes[i]);
    }
    if (s->runs.count < 3 || !(most > least))
        return complain(STATUS_INPUT, "at least 3 complete runs of different sizes are needed, labelled as pages=100; there are %zu",
            s->runs.count);
    for (int m = 0; m < METRIC_COUNT && status == 0; m++) {
        s->values[m] = calloc(s->runs.count, sizeof(double));
        if (!s->values[m])
            abort();
        status = runs_metric(store, &s->runs, (enum metric)m, s->values[m]);
        s->power[m] = mt_stats_power(s->sizes, s->values[m], s->runs.count, 0.95);
        s->growth[m] = mt_stats_growth(s->sizes, s->values[m], s->runs.count, 0.95);
        s->line[m] = mt_stats_linear(s->sizes, s->values[m], s->runs.count, 0.95);
    }
    return status;
}

static int by_size_at_most(const void *a, const void *b)
{
    const struct steep *x = a, *y = b;

    return (x->largest < y->largest) - (x->largest > y->largest);
}

/* Callsites whose exponent is surely above that of the whole. */
static struct steep *find_steep(const struct scale *s, const struct site_table *table, size_t *ret_count)
{
    struct steep *steep = calloc(table->count + 1, sizeof(*steep));
    double whole = s->power[METRIC_PEAK].slope.estimate, most = mt_stats_percentile(s->values[METRIC_PEAK], s->runs.count, 1);
    size_t count = 0;

    if (!steep)
        abort();
    for (size_t i = 0; i < table->count; i++) {
        const double *v = table->sites[i].values;
        double largest = mt_stats_percentile(v, s->runs.count, 1);
        struct mt_fit f;
        size_t there = 0;

        for (size_t k = 0; k < s->runs.count; k++)
            there += v[k] > 0;
        if (there < 3 || largest < most / 1000)
            continue;
        f = mt_stats_power(s->sizes, v, s->runs.count, 0.95);
        if (f.slope.low > whole + 0.02)
            steep[count++] = (struct steep){&table->sites[i], f, largest};
    }
    qsort(steep, count, sizeof(*steep), by_size_at_most);
    *ret_count = count;
    return steep;
}

/* ---- output ------------------------------------------------------------------------------------------------------------ */

static const char *shape_of(const struct mt_fit *growth)
{
    if (isnan(growth->slope.estimate))
        return "no growth";
    if (!(growth->slope.high - growth->slope.low <= 0.5))
        return "not sure";
    if (growth->slope.low <= 1.005 && growth->slope.high >= 0.995)
        return "linear";
    return growth->slope.low > 1 ? "faster than linear" : "slower than linear";
}

static void plot(const struct scale *s)
{
    size_t *order = calloc(s->runs.count, sizeof(*order));
    double most = mt_stats_percentile(s->values[METRIC_PEAK], s->runs.count, 1);
    char text[32];

    if (!order)
        abort();
    for (size_t i = 0; i < s->runs.count; i++) { /* insertion: runs are few */
        size_t k = i;
        for (; k > 0 && s->sizes[order[k - 1]] > s->sizes[i]; k--)
            order[k] = order[k - 1];
        order[k] = i;
    }
    printf("\npeak live bytes by %s\n", s->name);
    for (size_t i = 0; i < s->runs.count; i++) {
        double value = s->values[METRIC_PEAK][order[i]];
        int bar = most > 0 ? (int)lround(value / most * PLOT_COLUMNS) : 0;
        printf("%10.6g  ", s->sizes[order[i]]);
        for (int c = 0; c < bar; c++)
            putchar('#');
        printf(" %s\n", mt_format_bytes((int64_t)value, text, sizeof(text)));
    }
    free(order);
}

static void print_scale(const struct scale *s, const struct steep *steep, size_t count)
{
    char cost[32], base[32];

    printf("%zu runs by %s\n\n", s->runs.count, s->name);
    for (int m = 0; m < METRIC_COUNT; m++) {
        const struct mt_fit *p = &s->power[m], *l = &s->line[m], *g = &s->growth[m];
        if (isfinite(g->slope.estimate))
            printf("%-10s %s: base %s, exponent %.2f (95 %%: %.2f to %.2f)", metric_name((enum metric)m), shape_of(g),
                mt_format_bytes((int64_t)llround(g->intercept), base, sizeof(base)), g->slope.estimate, g->slope.low, g->slope.high);
        else
            printf("%-10s %s", metric_name((enum metric)m), shape_of(g));
        printf("; %s for one more; order %.2f (%.2f to %.2f)\n",
            mt_format_bytes((int64_t)llround(l->slope.estimate), cost, sizeof(cost)), p->slope.estimate, p->slope.low, p->slope.high);
    }
    plot(s);
    if (count > 0)
        puts("\nCallsites that grow faster than the whole:");
    for (size_t i = 0; i < count; i++)
        printf("  exponent %.2f (%.2f to %.2f), %s at most: %s  %s\n", steep[i].power.slope.estimate, steep[i].power.slope.low,
            steep[i].power.slope.high, mt_format_bytes((int64_t)steep[i].largest, cost, sizeof(cost)), steep[i].site->function,
            steep[i].site->file ? steep[i].site->file : "");
}

static struct json_object *number(double value)
{
    return isfinite(value) ? json_object_new_double(value) : NULL;
}

static struct json_object *json_of(const char *scope, const struct mt_fit *p)
{
    struct json_object *row = json_object_new_object();

    json_object_object_add(row, "scope", json_object_new_string(scope));
    json_object_object_add(row, "exponent", number(p->slope.estimate));
    json_object_object_add(row, "ci_low", number(p->slope.low));
    json_object_object_add(row, "ci_high", number(p->slope.high));
    return row;
}

static void print_scale_json(const struct scale *s, const struct steep *steep, size_t count)
{
    struct mt_json json;

    mt_json_begin(&json, stdout);
    for (int m = 0; m < METRIC_COUNT; m++) {
        struct json_object *row = json_of("total", &s->power[m]);
        json_object_object_add(row, "metric", json_object_new_string(metric_name((enum metric)m)));
        json_object_object_add(row, "name", mt_json_text(s->name, strlen(s->name)));
        json_object_object_add(row, "runs", json_object_new_int64((int64_t)s->runs.count));
        json_object_object_add(row, "shape", json_object_new_string(shape_of(&s->growth[m])));
        json_object_object_add(row, "growth_exponent", number(s->growth[m].slope.estimate));
        json_object_object_add(row, "growth_ci_low", number(s->growth[m].slope.low));
        json_object_object_add(row, "growth_ci_high", number(s->growth[m].slope.high));
        json_object_object_add(row, "growth_base_bytes", number(s->growth[m].intercept));
        json_object_object_add(row, "bytes_each", number(s->line[m].slope.estimate));
        json_object_object_add(row, "base_bytes", number(s->line[m].intercept));
        json_object_object_add(row, "r_squared", number(s->line[m].r_squared));
        mt_json_row(&json, row);
    }
    for (size_t i = 0; i < count; i++) {
        struct json_object *row = json_of("site", &steep[i].power);
        json_object_object_add(row, "metric", json_object_new_string("peak"));
        json_object_object_add(row, "function", mt_json_text(steep[i].site->function, strlen(steep[i].site->function)));
        json_object_object_add(row, "file", steep[i].site->file ? mt_json_text(steep[i].site->file, strlen(steep[i].site->file)) : NULL);
        json_object_object_add(row, "largest_bytes", number(steep[i].largest));
        mt_json_row(&json, row);
    }
    mt_json_end(&json);
}

int command_scale(int argc, char **argv)
{
    static const struct option options[] = {
        READ_OPTIONS, {"name", required_argument, NULL, NAME}, {"rows", required_argument, NULL, 'n'}, {0}};
    struct scale_options o = {.rows = 10};
    struct site_table table = {0};
    struct steep *steep = NULL;
    struct scale s = {0};
    struct mt_store *store;
    size_t count = 0;
    int c, status;

    while ((c = getopt_long(argc, argv, "d:n:h", options, NULL)) != -1) {
        if (c == NAME)
            o.name = optarg;
        else if (c == 'n' && number_option(optarg, 0, INT32_MAX, &o.rows) < 0)
            return complain(STATUS_USAGE, "-n %s: not a number of rows", optarg);
        else if (c != 'n' && !read_option(&o.read, c, optarg))
            return usage_hint(argv);
    }
    if (o.read.help)
        return print_help("scale", help);
    if (argv[optind])
        return complain(STATUS_USAGE, "one argument too many: %s", argv[optind]);
    status = open_database(&o.read, &store, NULL);
    if (status != 0)
        return status;
    status = find_runs(store, o.name, &s);
    if (status == 0)
        status = fit(store, &s);
    if (status == 0)
        status = sites_load(store, &s.runs, METRIC_PEAK, &table);
    if (status == 0) {
        steep = find_steep(&s, &table, &count);
        if (o.rows && count > (size_t)o.rows)
            count = (size_t)o.rows;
        if (o.read.json)
            print_scale_json(&s, steep, count);
        else
            print_scale(&s, steep, count);
    }
    free(steep);
    sites_finish(&table);
    for (int m = 0; m < METRIC_COUNT; m++)
        free(s.values[m]);
    free(s.sizes);
    free(s.name);
    runs_finish(&s.runs);
    mt_store_close(store);
    return status;
}

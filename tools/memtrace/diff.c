/*
 * memtrace diff: which callsites changed from A to B.
 */
#include <json-c/json.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "series.h"
#include "stats/stats.h"

static const char help[] =
    "Shows how callsites differ between A and B, what changed most first. A and B are runs: a number,\n"
    "numbers as in 3,5-8, a label, or label:NAME; of several runs the medians are compared. Or moments\n"
    "of one run (live bytes then): RUN@NAME is its mark or snapshot NAME, RUN@phase:NAME the end of a\n"
    "phase, RUN@iteration:N that of an iteration, of which callsites are known that iterations change.\n"
    "A callsite is a function in a file, which a rebuild does not change; whether a difference is more\n"
    "than chance is what `memtrace gate` tells.\n\n"
    "      --by NAME       peak (default), live or allocated\n"
    "  -n, --rows N        rows (default 20; 0: all)\n" READ_HELP READ_HELP_END;

enum { BY = OPTION_FIRST_FREE };

struct diff_options {
    struct read_options read;
    enum metric by;
    int64_t rows;
    const char *sides[2];
};

struct change {
    const char *heap, *function, *file;
    double before, after;
};

struct side {
    struct run_list runs;
    struct site_table table;
    double total;
};

static int load_side(struct mt_store *store, const char *what, enum metric by, struct side *side)
{
    const char *at = strchr(what, '@');
    char *run = at ? strndup(what, (size_t)(at - what)) : strdup(what);
    int status;

    if (!run)
        abort();
    status = runs_select(store, run, false, &side->runs);
    free(run);
    if (status != 0)
        return status;
    if (at && side->runs.count != 1)
        return complain(STATUS_USAGE, "%s: a moment is looked up in one run, not in %zu", what, side->runs.count);
    status = at ? sites_load_snapshot(store, &side->runs, at + 1, &side->table)
                : sites_load(store, &side->runs, by, &side->table);
    return status;
}

static int key_order(const struct site_series *a, const struct site_series *b)
{
    int order = strcmp(a->function ? a->function : "", b->function ? b->function : "");

    if (!order)
        order = strcmp(a->file ? a->file : "", b->file ? b->file : "");
    return order ? order : strcmp(a->heap ? a->heap : "", b->heap ? b->heap : "");
}

/* Both tables are sorted by key. */
static struct change *merge(const struct side *a, const struct side *b, size_t *ret_count)
{
    struct change *changes = calloc(a->table.count + b->table.count + 1, sizeof(*changes));
    size_t i = 0, k = 0, count = 0;

    if (!changes)
        abort();
    while (i < a->table.count || k < b->table.count) {
        const struct site_series *x = i < a->table.count ? &a->table.sites[i] : NULL;
        const struct site_series *y = k < b->table.count ? &b->table.sites[k] : NULL;
        int order = !x ? 1 : !y ? -1 : key_order(x, y);
        const struct site_series *any = order <= 0 ? x : y;

        changes[count++] = (struct change){.heap = any->heap,
            .function = any->function,
            .file = any->file,
            .before = order <= 0 ? mt_stats_median(x->values, a->runs.count) : 0,
            .after = order >= 0 ? mt_stats_median(y->values, b->runs.count) : 0};
        i += order <= 0;
        k += order >= 0;
    }
    *ret_count = count;
    return changes;
}

static int by_change(const void *a, const void *b)
{
    const struct change *x = a, *y = b;
    double p = fabs(x->after - x->before), q = fabs(y->after - y->before);

    return (p < q) - (p > q);
}

static const char *state_of(const struct change *c)
{
    if (c->before == c->after)
        return "same";
    return c->before == 0 ? "added" : c->after == 0 ? "gone" : "changed";
}

static struct json_object *text(const char *value)
{
    return value ? mt_json_text(value, strlen(value)) : NULL;
}

static void print_diff_json(const struct change *changes, size_t count)
{
    struct mt_json json;

    mt_json_begin(&json, stdout);
    for (size_t i = 0; i < count; i++) {
        const struct change *c = &changes[i];
        struct json_object *row = json_object_new_object();
        json_object_object_add(row, "state", text(state_of(c)));
        json_object_object_add(row, "change_bytes", json_object_new_int64(llround(c->after - c->before)));
        json_object_object_add(row, "a_bytes", json_object_new_int64(llround(c->before)));
        json_object_object_add(row, "b_bytes", json_object_new_int64(llround(c->after)));
        json_object_object_add(row, "heap", text(c->heap));
        json_object_object_add(row, "function", text(c->function));
        json_object_object_add(row, "file", text(c->file));
        mt_json_row(&json, row);
    }
    mt_json_end(&json);
}

static void print_diff(const struct change *changes, size_t shown, size_t count, const struct diff_options *o)
{
    struct mt_table *table = mt_table_create();
    double before = 0, after = 0;
    char a[64], b[64], c[64];

    if (!table)
        abort();
    for (size_t i = 0; i < count; i++) {
        before += changes[i].before;
        after += changes[i].after;
    }
    printf("%s: %s in %s, %s in %s: %s over all callsites, mappings too\n",
        strchr(o->sides[0], '@') && strchr(o->sides[1], '@') ? "live bytes" : metric_text(o->by),
        mt_format_bytes((int64_t)before, a, sizeof(a)), o->sides[0], mt_format_bytes((int64_t)after, b, sizeof(b)), o->sides[1],
        change_text(after - before, c, sizeof(c)));
    mt_table_column(table, "CHANGE", MT_CELL_RIGHT);
    mt_table_column(table, "A", MT_CELL_RIGHT);
    mt_table_column(table, "B", MT_CELL_RIGHT);
    mt_table_column(table, "", MT_CELL_LEFT);
    mt_table_column(table, "HEAP", MT_CELL_LEFT);
    mt_table_column(table, "FUNCTION", MT_CELL_CUT_END);
    mt_table_column(table, "FILE", MT_CELL_CUT_START);
    for (size_t i = 0; i < shown; i++) {
        mt_table_add(table, change_text(changes[i].after - changes[i].before, a, sizeof(a)));
        mt_table_add(table, mt_format_bytes((int64_t)changes[i].before, a, sizeof(a)));
        mt_table_add(table, mt_format_bytes((int64_t)changes[i].after, a, sizeof(a)));
        mt_table_add(table, state_of(&changes[i]));
        mt_table_add(table, changes[i].heap);
        mt_table_add(table, changes[i].function);
        mt_table_add(table, changes[i].file);
    }
    putchar('\n');
    mt_table_print(table, stdout);
    mt_table_destroy(table);
}

static int parse(int argc, char **argv, struct diff_options *o)
{
    static const struct option options[] = {
        READ_OPTIONS, {"by", required_argument, NULL, BY}, {"rows", required_argument, NULL, 'n'}, {0}};
    int c;

    while ((c = getopt_long(argc, argv, "d:n:h", options, NULL)) != -1) {
        if (c == BY && (!metric_of(optarg, &o->by) || !metric_has_sites(o->by)))
            return complain(STATUS_USAGE, "--by %s: not one of peak, live, allocated", optarg);
        else if (c == 'n' && number_option(optarg, 0, INT32_MAX, &o->rows) < 0)
            return complain(STATUS_USAGE, "-n %s: not a number of rows", optarg);
        else if (c != BY && c != 'n' && !read_option(&o->read, c, optarg))
            return usage_hint(argv);
    }
    if (o->read.help)
        return 0;
    if (argc - optind != 2)
        return complain(STATUS_USAGE, "two sides are needed: memtrace diff A B");
    o->sides[0] = argv[optind];
    o->sides[1] = argv[optind + 1];
    return 0;
}

int command_diff(int argc, char **argv)
{
    struct diff_options o = {.by = METRIC_PEAK, .rows = 20};
    struct side a = {0}, b = {0};
    struct change *changes;
    struct mt_store *store;
    size_t count, shown;
    int status = parse(argc, argv, &o);

    if (status != 0)
        return status;
    if (o.read.help)
        return print_help("diff", help);
    status = open_database(&o.read, &store, NULL);
    if (status != 0)
        return status;
    status = load_side(store, o.sides[0], o.by, &a);
    if (status == 0)
        status = load_side(store, o.sides[1], o.by, &b);
    if (status == 0) {
        changes = merge(&a, &b, &count);
        qsort(changes, count, sizeof(*changes), by_change);
        for (shown = 0; shown < count && changes[shown].before != changes[shown].after; shown++)
            ;
        if (o.rows && (size_t)o.rows < shown)
            shown = (size_t)o.rows;
        if (o.read.json)
            print_diff_json(changes, shown);
        else
            print_diff(changes, shown, count, &o);
        free(changes);
    }
    runs_finish(&a.runs);
    runs_finish(&b.runs);
    sites_finish(&a.table);
    sites_finish(&b.table);
    mt_store_close(store);
    return status;
}

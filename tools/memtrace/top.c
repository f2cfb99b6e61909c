/*
 * memtrace top: callsites by what they hold or did. Rows are responsible frames (function, file, line), or with --stacks
 * single callsites. The rows that are shown are chosen first, stacks are looked up for those alone.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "sites.h"

static const char help[] =
    "Shows who allocated what: the innermost function outside the C library, the C++ runtime and\n"
    "allocators.\n\n"
    "      --by ORDER      peak: live when the process's heap was largest (default); live: at the end;\n"
    "                      total: bytes ever allocated; count: allocations; temporary: freed before\n"
    "                      their thread's next allocation but one\n"
    "  -n, --rows N        rows (default 20; 0: all)\n"
    "      --heap NAME     malloc, mmap, python or a custom heap's name; all: also file mappings and\n"
    "                      an allocator's own (default: all heaps but those)\n"
    "      --stacks        a row a callsite, with its stack\n" READ_HELP RUN_HELP READ_HELP_END;

enum { BY = OPTION_FIRST_FREE, HEAP, STACKS };

static const struct order {
    const char *name, *heading, *column;
    bool bytes;
} orders[] = {
    {"peak", "PEAK", "peak_bytes", true},
    {"live", "LIVE", "live_bytes", true},
    {"total", "TOTAL", "allocated_bytes", true},
    {"count", "COUNT", "allocated_blocks", false},
    {"temporary", "TEMPORARY", "temporary_blocks", false},
};
enum { ORDERS = sizeof(orders) / sizeof(orders[0]) };

struct top_options {
    struct read_options read;
    const struct order *order;
    const char *heap; /* NULL: the default, "all" */
    int64_t rows;
    bool stacks;
};

/* %1$s: the order's column; %2$s: stack, for single callsites; %3$s: what makes a row */
static const char sql_format[] =
    "WITH t AS MATERIALIZED (SELECT v.site_id, sum(v.peak_bytes) AS peak_bytes, sum(v.peak_blocks) AS peak_blocks, "
    "sum(v.live_bytes) AS live_bytes, sum(v.live_blocks) AS live_blocks, sum(v.allocated_bytes) AS allocated_bytes, "
    "sum(v.allocated_blocks) AS allocated_blocks, sum(v.temporary_blocks) AS temporary_blocks "
    "FROM process AS p JOIN site_totals AS v USING (process_id) WHERE p.run_id = ?1 GROUP BY v.site_id), "
    "g AS MATERIALIZED (SELECT min(s.site_id) AS site_id, count(*) AS sites, s.heap, s.kind, s.function, s.file, s.line, "
    "s.module, sum(peak_bytes) AS peak_bytes, sum(peak_blocks) AS peak_blocks, sum(live_bytes) AS live_bytes, "
    "sum(live_blocks) AS live_blocks, sum(allocated_bytes) AS allocated_bytes, sum(allocated_blocks) AS allocated_blocks, "
    "sum(temporary_blocks) AS temporary_blocks FROM t JOIN sites AS s USING (site_id) "
    "WHERE CASE WHEN ?2 = '' THEN s.kind NOT IN ('file', 'backing') ELSE ?2 IN ('all', s.heap) END "
    "GROUP BY %3$s HAVING sum(%1$s) > 0 "
    "ORDER BY sum(%1$s) DESC, sum(allocated_bytes) DESC, min(s.site_id) LIMIT ?3) "
    "SELECT ?1 AS run_id, g.*%2$s FROM g%4$s ORDER BY %1$s DESC, g.allocated_bytes DESC, g.site_id";

static struct mt_query *top_query(struct mt_store *store, const struct top_options *o, int64_t run_id, int *ret_status)
{
    char sql[4096];
    struct mt_query *query;

    snprintf(sql, sizeof(sql), sql_format, o->order->column, o->stacks && o->read.json ? ", sites.stack" : "",
        o->stacks ? "s.site_id" : "s.heap, s.kind, s.function, s.file, s.line, s.module",
        o->stacks && o->read.json ? " JOIN sites ON sites.site_id = g.site_id" : "");
    query = ask(store, sql, ret_status);
    if (!query)
        return NULL;
    mt_query_bind_integer(query, 1, run_id);
    mt_query_bind_text(query, 2, o->heap ? o->heap : "");
    mt_query_bind_integer(query, 3, o->rows ? o->rows : -1);
    return query;
}

/* Columns of sql_format. */
enum { C_SITE = 1, C_SITES, C_HEAP, C_KIND, C_FUNCTION, C_FILE, C_LINE, C_MODULE, C_PEAK, C_PEAK_BLOCKS, C_LIVE,
    C_LIVE_BLOCKS, C_TOTAL, C_COUNT, C_TEMPORARY };
static const int order_columns[ORDERS] = {C_PEAK, C_LIVE, C_TOTAL, C_COUNT, C_TEMPORARY};

static void make_columns(struct mt_table *table, const struct order *order)
{
    mt_table_column(table, order->heading, MT_CELL_RIGHT);
    mt_table_column(table, "%", MT_CELL_RIGHT);
    for (size_t i = 0; i < ORDERS; i++) {
        if (&orders[i] != order)
            mt_table_column(table, i == ORDERS - 1 ? "TEMP" : orders[i].heading, MT_CELL_RIGHT_OPTIONAL);
    }
    mt_table_column(table, "HEAP", MT_CELL_LEFT);
    mt_table_column(table, "FUNCTION", MT_CELL_CUT_END);
    mt_table_column(table, "WHERE", MT_CELL_CUT_START);
}

static const char *order_text(struct mt_query *q, size_t order, char *text, size_t size)
{
    int64_t value = mt_query_integer(q, order_columns[order]);

    return orders[order].bytes ? mt_format_bytes(value, text, size) : mt_format_count(value, text, size);
}

static void add_row(struct mt_table *table, struct mt_query *q, const struct order *order, int64_t whole)
{
    size_t main_order = (size_t)(order - orders);
    char text[4300];

    mt_table_add(table, order_text(q, main_order, text, sizeof(text)));
    if (is_proper_heap(mt_query_text(q, C_HEAP, NULL)))
        mt_table_add(table, percent_text(mt_query_integer(q, order_columns[main_order]), whole, text, sizeof(text)));
    else
        mt_table_add(table, "-");
    for (size_t i = 0; i < ORDERS; i++) {
        if (i == main_order)
            continue;
        if (i == ORDERS - 1) {
            percent_text(mt_query_integer(q, C_TEMPORARY), mt_query_integer(q, C_COUNT), text, sizeof(text) - 2);
            mt_table_add(table, strcat(text, "%"));
        } else {
            mt_table_add(table, order_text(q, i, text, sizeof(text)));
        }
    }
    mt_table_add(table, heap_text(mt_query_text(q, C_HEAP, NULL), mt_query_text(q, C_KIND, NULL), text, sizeof(text)));
    mt_table_add(table, mt_query_text(q, C_FUNCTION, NULL));
    mt_table_add(table, place_text(mt_query_text(q, C_FILE, NULL), mt_query_integer(q, C_LINE),
                            mt_query_text(q, C_MODULE, NULL), text, sizeof(text)));
}

/* The sum over the heap proper that the shares are of; ret_sites: how many rows there could be. */
static int whole_of(struct mt_store *store, int64_t run_id, const struct order *order, int64_t *ret_whole)
{
    char sql[512];
    struct mt_query *q;
    int status = 0, r;

    snprintf(sql, sizeof(sql),
        "SELECT sum(v.%s) FROM process JOIN site_totals AS v USING (process_id) JOIN site USING (site_id) JOIN heap USING (heap_id) "
        "WHERE run_id = ?1 AND heap.name IN ('malloc', 'python')",
        order->column);
    q = ask(store, sql, &status);
    if (!q)
        return status;
    mt_query_bind_integer(q, 1, run_id);
    r = mt_query_step(q);
    *ret_whole = r == 1 ? mt_query_integer(q, 0) : 0;
    mt_query_destroy(q);
    return finish_rows(store, r);
}

static int print_table(struct mt_store *store, struct mt_query *query, const struct top_options *o, int64_t run_id)
{
    struct mt_table *table = mt_table_create();
    int64_t whole = 0;
    int status = print_run_title(store, run_id), r = 0;

    if (!table)
        abort();
    make_columns(table, o->order);
    if (status == 0)
        status = whole_of(store, run_id, o->order, &whole);
    while (status == 0 && (r = mt_query_step(query)) == 1) {
        add_row(table, query, o->order, whole);
        if (o->stacks)
            status = note_stack(store, table, mt_query_integer(query, C_SITE));
    }
    if (status == 0)
        status = finish_rows(store, r);
    if (status == 0 && mt_table_rows(table) > 0) {
        putchar('\n');
        mt_table_print(table, stdout);
    } else if (status == 0) {
        printf("\nNothing to show by %s%s%s.\n", o->order->name, o->heap ? " in the heap " : "", o->heap ? o->heap : "");
    }
    if (status == 0 && o->stacks)
        status = print_folded(store, run_id);
    if (status == 0)
        status = print_loss(store, run_id);
    mt_table_destroy(table);
    mt_query_destroy(query);
    return status;
}

static int parse(int argc, char **argv, struct top_options *o)
{
    static const struct option options[] = {READ_OPTIONS, {"by", required_argument, NULL, BY},
        {"rows", required_argument, NULL, 'n'}, {"heap", required_argument, NULL, HEAP},
        {"stacks", no_argument, NULL, STACKS}, {0}};
    int c;

    while ((c = getopt_long(argc, argv, "d:n:h", options, NULL)) != -1) {
        switch (c) {
        case BY:
            o->order = NULL;
            for (size_t i = 0; i < ORDERS; i++) {
                if (strcmp(orders[i].name, optarg) == 0)
                    o->order = &orders[i];
            }
            if (!o->order)
                return complain(STATUS_USAGE, "--by %s: not one of peak, live, total, count, temporary", optarg);
            break;
        case 'n':
            if (number_option(optarg, 0, INT32_MAX, &o->rows) < 0)
                return complain(STATUS_USAGE, "-n %s: not a number of rows", optarg);
            break;
        case HEAP:
            o->heap = optarg;
            break;
        case STACKS:
            o->stacks = true;
            break;
        default:
            if (!read_option(&o->read, c, optarg))
                return usage_hint(argv);
        }
    }
    return argv[optind] ? complain(STATUS_USAGE, "one argument too many: %s", argv[optind]) : 0;
}

int command_top(int argc, char **argv)
{
    struct top_options o = {.order = &orders[0], .rows = 20};
    struct mt_store *store;
    struct mt_query *query;
    int64_t run_id;
    int status = parse(argc, argv, &o);

    if (status != 0)
        return status;
    if (o.read.help)
        return print_help("top", help);
    status = open_database(&o.read, &store, &run_id);
    if (status != 0)
        return status;
    query = top_query(store, &o, run_id, &status);
    if (query)
        status = o.read.json ? print_json(store, query) : print_table(store, query, &o, run_id);
    mt_store_close(store);
    return status;
}

/*
 * memtrace leaks: what was never freed. Without iterations that is all one can say: whether it grows takes repetition.
 */
#include <stdio.h>
#include <stdlib.h>

#include "sites.h"

static const char help[] = "Shows which callsites still held memory when the program ended. A row is a function, file\n"
                           "and line, or with --stacks a single callsite.\n\n"
                           "  -n, --rows N        rows (default 20; 0: all)\n"
                           "      --stacks        a row a callsite, with its stack\n" READ_HELP RUN_HELP READ_HELP_END;

enum { STACKS = OPTION_FIRST_FREE };
enum { C_SITE = 1, C_SITES, C_HEAP, C_KIND, C_VERDICT, C_LIVE, C_BLOCKS, C_ALLOCATED, C_FUNCTION, C_FILE, C_LINE, C_MODULE };

struct leaks_options {
    struct read_options read;
    int64_t rows;
    bool stacks;
};

/* %1$s: what makes a row; the rest as in top.c */
static const char sql_format[] =
    "WITH g AS MATERIALIZED (SELECT min(site_id) AS site_id, count(DISTINCT site_id) AS sites, heap, kind, verdict, "
    "sum(live_bytes) AS live_bytes, sum(live_blocks) AS live_blocks, sum(allocated_blocks) AS allocated_blocks, function, "
    "file, line, module FROM leaks WHERE run_id = ?1 GROUP BY %1$s "
    "ORDER BY sum(live_bytes) DESC, sum(live_blocks) DESC, min(site_id) LIMIT ?2) "
    "SELECT ?1 AS run_id, g.*%2$s FROM g%3$s ORDER BY g.live_bytes DESC, g.live_blocks DESC, g.site_id";

static int sum_of(struct mt_store *store, int64_t run_id, int64_t *ret_bytes)
{
    struct mt_query *q;
    int status = 0, r;

    q = ask(store, "SELECT sum(live_bytes) FROM leaks WHERE run_id = ?1 AND heap IN ('malloc', 'python')", &status);
    if (!q)
        return status;
    mt_query_bind_integer(q, 1, run_id);
    r = mt_query_step(q);
    *ret_bytes = r == 1 ? mt_query_integer(q, 0) : 0;
    mt_query_destroy(q);
    return finish_rows(store, r);
}

static void add_row(struct mt_table *table, struct mt_query *q, int64_t whole)
{
    char text[4300];

    mt_table_add(table, mt_format_bytes(mt_query_integer(q, C_LIVE), text, sizeof(text)));
    mt_table_add(table, is_proper_heap(mt_query_text(q, C_HEAP, NULL)) ?
                            percent_text(mt_query_integer(q, C_LIVE), whole, text, sizeof(text)) : "-");
    mt_table_add(table, mt_format_count(mt_query_integer(q, C_BLOCKS), text, sizeof(text)));
    mt_table_add(table, mt_format_count(mt_query_integer(q, C_ALLOCATED), text, sizeof(text)));
    mt_table_add(table, mt_query_text(q, C_VERDICT, NULL));
    mt_table_add(table, heap_text(mt_query_text(q, C_HEAP, NULL), mt_query_text(q, C_KIND, NULL), text, sizeof(text)));
    mt_table_add(table, mt_query_text(q, C_FUNCTION, NULL));
    mt_table_add(table, place_text(mt_query_text(q, C_FILE, NULL), mt_query_integer(q, C_LINE),
                            mt_query_text(q, C_MODULE, NULL), text, sizeof(text)));
}

static int print_table(struct mt_store *store, struct mt_query *query, const struct leaks_options *o, int64_t run_id)
{
    struct mt_table *table = mt_table_create();
    int64_t whole = 0;
    int status = print_run_title(store, run_id), r = 0;

    if (!table)
        abort();
    mt_table_column(table, "LIVE", MT_CELL_RIGHT);
    mt_table_column(table, "%", MT_CELL_RIGHT);
    mt_table_column(table, "BLOCKS", MT_CELL_RIGHT);
    mt_table_column(table, "ALLOCATED", MT_CELL_RIGHT_OPTIONAL);
    mt_table_column(table, "VERDICT", MT_CELL_LEFT);
    mt_table_column(table, "HEAP", MT_CELL_LEFT);
    mt_table_column(table, "FUNCTION", MT_CELL_CUT_END);
    mt_table_column(table, "WHERE", MT_CELL_CUT_START);
    if (status == 0)
        status = sum_of(store, run_id, &whole);
    while (status == 0 && (r = mt_query_step(query)) == 1) {
        add_row(table, query, whole);
        if (o->stacks)
            status = note_stack(store, table, mt_query_integer(query, C_SITE));
    }
    if (status == 0)
        status = finish_rows(store, r);
    if (status == 0 && mt_table_rows(table) > 0) {
        putchar('\n');
        mt_table_print(table, stdout);
    } else if (status == 0) {
        puts("\nNothing was left at the end.");
    }
    if (status == 0 && o->stacks)
        status = print_folded(store, run_id);
    if (status == 0)
        status = print_loss(store, run_id);
    mt_table_destroy(table);
    mt_query_destroy(query);
    return status;
}

static int parse(int argc, char **argv, struct leaks_options *o)
{
    static const struct option options[] = {
        READ_OPTIONS, {"rows", required_argument, NULL, 'n'}, {"stacks", no_argument, NULL, STACKS}, {0}};
    int c;

    while ((c = getopt_long(argc, argv, "d:n:h", options, NULL)) != -1) {
        if (c == STACKS)
            o->stacks = true;
        else if (c == 'n' && number_option(optarg, 0, INT32_MAX, &o->rows) < 0)
            return complain(STATUS_USAGE, "-n %s: not a number of rows", optarg);
        else if (c != 'n' && !read_option(&o->read, c, optarg))
            return usage_hint(argv);
    }
    return argv[optind] ? complain(STATUS_USAGE, "one argument too many: %s", argv[optind]) : 0;
}

int command_leaks(int argc, char **argv)
{
    struct leaks_options o = {.rows = 20};
    bool with_stack;
    struct mt_store *store;
    struct mt_query *query;
    char sql[2048];
    int64_t run_id;
    int status = parse(argc, argv, &o);

    if (status != 0)
        return status;
    if (o.read.help)
        return print_help("leaks", help);
    status = open_database(&o.read, &store, &run_id);
    if (status != 0)
        return status;
    with_stack = o.stacks && o.read.json;
    snprintf(sql, sizeof(sql), sql_format, o.stacks ? "site_id" : "heap, kind, verdict, function, file, line, module",
        with_stack ? ", sites.stack" : "", with_stack ? " JOIN sites ON sites.site_id = g.site_id" : "");
    query = ask(store, sql, &status);
    if (query) {
        mt_query_bind_integer(query, 1, run_id);
        mt_query_bind_integer(query, 2, o.rows ? o.rows : -1);
        status = o.read.json ? print_json(store, query) : print_table(store, query, &o, run_id);
    }
    mt_store_close(store);
    return status;
}

/*
 * memtrace phases
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "command.h"

static const char help[] = "Shows memory by phase, as the program named them with memtrace_phase_begin() of memtrace.h.\n\n" READ_HELP
    RUN_HELP READ_HELP_END;

static const char json_sql[] = "SELECT * FROM phases WHERE run_id = ?1 ORDER BY process_id, started_ns, ended_ns DESC";
static const char table_sql[] =
    "SELECT phase, parent, ended_ns - started_ns, live_bytes_before, live_bytes_after, peak_live_bytes, allocated_bytes, "
    "allocated_blocks, rss_before, rss_after, process_id, (SELECT count(DISTINCT process_id) FROM phases WHERE run_id = ?1) "
    "FROM phases WHERE run_id = ?1 ORDER BY process_id, started_ns, ended_ns DESC";

static const char *change_text(int64_t before, int64_t after, char *text, size_t size)
{
    text[0] = '+';
    mt_format_bytes(after - before, text + (after >= before), size - 1);
    return text;
}

static void add_row(struct mt_table *table, struct mt_query *q)
{
    char text[512];
    const char *parent = mt_query_text(q, 1, NULL);

    mt_table_add(table, mt_query_text(q, 0, NULL));
    mt_table_add(table, parent);
    mt_table_add(table,
        mt_query_kind(q, 2) == MT_VALUE_NULL ? "no end" : mt_format_duration(mt_query_integer(q, 2), text, sizeof(text)));
    mt_table_add(table, mt_format_bytes(mt_query_integer(q, 3), text, sizeof(text)));
    mt_table_add(table, mt_format_bytes(mt_query_integer(q, 4), text, sizeof(text)));
    mt_table_add(table, change_text(mt_query_integer(q, 3), mt_query_integer(q, 4), text, sizeof(text)));
    mt_table_add(table, mt_format_bytes(mt_query_integer(q, 5), text, sizeof(text)));
    mt_table_add(table, mt_format_bytes(mt_query_integer(q, 6), text, sizeof(text)));
    mt_table_add(table, mt_format_count(mt_query_integer(q, 7), text, sizeof(text)));
    mt_table_add(table, mt_format_bytes(mt_query_integer(q, 9), text, sizeof(text)));
    mt_table_add(table, change_text(mt_query_integer(q, 8), mt_query_integer(q, 9), text, sizeof(text)));
}

static int print_table(struct mt_store *store, struct mt_query *query, int64_t run_id)
{
    struct mt_table *table = mt_table_create();
    int status = print_run_title(store, run_id), r = 0;

    if (!table)
        abort();
    mt_table_column(table, "PHASE", MT_CELL_CUT_END);
    mt_table_column(table, "IN", MT_CELL_CUT_END);
    mt_table_column(table, "TOOK", MT_CELL_RIGHT);
    mt_table_column(table, "BEFORE", MT_CELL_RIGHT_OPTIONAL);
    mt_table_column(table, "AFTER", MT_CELL_RIGHT);
    mt_table_column(table, "CHANGE", MT_CELL_RIGHT);
    mt_table_column(table, "PEAK", MT_CELL_RIGHT);
    mt_table_column(table, "ALLOCATED", MT_CELL_RIGHT_OPTIONAL);
    mt_table_column(table, "COUNT", MT_CELL_RIGHT_OPTIONAL);
    mt_table_column(table, "RSS", MT_CELL_RIGHT);
    mt_table_column(table, "CHANGE", MT_CELL_RIGHT);
    while (status == 0 && (r = mt_query_step(query)) == 1)
        add_row(table, query);
    if (status == 0)
        status = finish_rows(store, r);
    if (status == 0 && mt_table_rows(table) > 0) {
        putchar('\n');
        mt_table_print(table, stdout);
    } else if (status == 0) {
        puts("\nThis run has no phases: a program names them with memtrace_phase_begin(\"...\") of memtrace.h.");
    }
    if (status == 0)
        status = print_loss(store, run_id);
    mt_table_destroy(table);
    mt_query_destroy(query);
    return status;
}

int command_phases(int argc, char **argv)
{
    static const struct option options[] = {READ_OPTIONS, {0}};
    struct read_options read = {0};
    struct mt_store *store;
    struct mt_query *query;
    int64_t run_id;
    int c, status;

    while ((c = getopt_long(argc, argv, "d:h", options, NULL)) != -1) {
        if (!read_option(&read, c, optarg))
            return usage_hint(argv);
    }
    if (read.help)
        return print_help("phases", help);
    if (argv[optind])
        return complain(STATUS_USAGE, "one argument too many: %s", argv[optind]);
    status = open_database(&read, &store, &run_id);
    if (status != 0)
        return status;
    query = ask(store, read.json ? json_sql : table_sql, &status);
    if (query) {
        mt_query_bind_integer(query, 1, run_id);
        status = read.json ? print_json(store, query) : print_table(store, query, run_id);
    }
    mt_store_close(store);
    return status;
}

/*
 * memtrace runs
 */
#include <stdio.h>
#include <stdlib.h>

#include "command.h"

static const char help[] = "Lists the runs in a database, the oldest first.\n\n" READ_HELP
                           "      --run N         that run alone: its number or its label\n" READ_HELP_END;

#define WHICH " FROM runs WHERE ?1 = 0 OR run_id = ?1 ORDER BY run_id"
static const char json_sql[] = "SELECT *" WHICH;
static const char table_sql[] = "SELECT run_id, label, status, exit_status, peak_live_bytes, live_bytes, allocated_blocks, wall_ns, "
                                "peak_rss_bytes, processes, started_at, command" WHICH;

static void add_row(struct mt_table *table, struct mt_query *q)
{
    char text[64];

    mt_table_add(table, mt_query_text(q, 0, NULL));
    mt_table_add(table, mt_query_text(q, 1, NULL));
    mt_table_add(table, mt_query_text(q, 2, NULL));
    mt_table_add(table, mt_query_kind(q, 3) == MT_VALUE_NULL ? "-" : mt_query_text(q, 3, NULL));
    mt_table_add(table, mt_format_bytes(mt_query_integer(q, 4), text, sizeof(text)));
    mt_table_add(table, mt_format_bytes(mt_query_integer(q, 5), text, sizeof(text)));
    mt_table_add(table, mt_format_count(mt_query_integer(q, 6), text, sizeof(text)));
    mt_table_add(table,
        mt_query_kind(q, 7) == MT_VALUE_NULL ? "-" : mt_format_duration(mt_query_integer(q, 7), text, sizeof(text)));
    mt_table_add(table, mt_format_bytes(mt_query_integer(q, 8), text, sizeof(text)));
    mt_table_add(table, mt_format_count(mt_query_integer(q, 9), text, sizeof(text)));
    mt_table_add(table, mt_format_time(mt_query_integer(q, 10), text, sizeof(text)));
    mt_table_add(table, mt_query_text(q, 11, NULL));
}

static int print_table(struct mt_store *store, struct mt_query *query)
{
    struct mt_table *table = mt_table_create();
    int r;

    if (!table)
        abort();
    mt_table_column(table, "RUN", MT_CELL_RIGHT);
    mt_table_column(table, "LABEL", MT_CELL_CUT_END);
    mt_table_column(table, "STATUS", MT_CELL_LEFT);
    mt_table_column(table, "EXIT", MT_CELL_RIGHT);
    mt_table_column(table, "PEAK", MT_CELL_RIGHT);
    mt_table_column(table, "AT END", MT_CELL_RIGHT_OPTIONAL);
    mt_table_column(table, "ALLOCS", MT_CELL_RIGHT_OPTIONAL);
    mt_table_column(table, "WALL", MT_CELL_RIGHT_OPTIONAL);
    mt_table_column(table, "RSS", MT_CELL_RIGHT_OPTIONAL);
    mt_table_column(table, "PROCS", MT_CELL_RIGHT_OPTIONAL);
    mt_table_column(table, "STARTED", MT_CELL_RIGHT_OPTIONAL);
    mt_table_column(table, "COMMAND", MT_CELL_CUT_END);
    while ((r = mt_query_step(query)) == 1)
        add_row(table, query);
    mt_table_print(table, stdout);
    mt_table_destroy(table);
    mt_query_destroy(query);
    return finish_rows(store, r);
}

int command_runs(int argc, char **argv)
{
    static const struct option options[] = {READ_OPTIONS, {0}};
    struct read_options read = {0};
    struct mt_store *store;
    struct mt_query *query;
    int64_t run_id = 0; /* all */
    int c, status;

    while ((c = getopt_long(argc, argv, "d:h", options, NULL)) != -1) {
        if (!read_option(&read, c, optarg))
            return usage_hint(argv);
    }
    if (read.help)
        return print_help("runs", help);
    if (argv[optind])
        return complain(STATUS_USAGE, "one argument too many: %s", argv[optind]);
    status = open_database(&read, &store, read.run ? &run_id : NULL);
    if (status != 0)
        return status;
    query = ask(store, read.json ? json_sql : table_sql, &status);
    if (query) {
        mt_query_bind_integer(query, 1, run_id);
        status = read.json ? print_json(store, query) : print_table(store, query);
    }
    mt_store_close(store);
    return status;
}

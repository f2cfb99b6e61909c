/*
 * memtrace sql: a query, read-only, as a table, JSON or CSV.
 */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "command.h"

static const char help[] =
    "Runs one SQL query; nothing can be changed. QUERY `-` is read from the standard input. The\n"
    "views are:\n\n"
    "  runs, processes, top_allocators, leaks, iterations, phases, marks, memory_samples,\n"
    "  snapshot_sites, sites, site_iterations, cohorts, loss\n"
    "  (`memtrace sql 'PRAGMA table_info(runs)'` lists columns)\n\n"
    "and there are median(x), percentile(x, q), theil_sen(x, y), theil_sen_low, theil_sen_high,\n"
    "mann_kendall_p(x, y), human_size(bytes) and stack(site_id), or stack(site_id, n) for n frames.\n\n" READ_HELP
    "      --json          an array of objects\n"
    "      --csv           comma-separated values with a heading (RFC 4180)\n"
    "      --table         a table, the default\n"
    "      --no-wait       do not wait for runs that are still being written\n";

enum { CSV = OPTION_FIRST_FREE, TABLE };
enum form { FORM_TABLE, FORM_JSON, FORM_CSV };

static void csv_cell(const char *text, size_t bytes)
{
    if (!text)
        return;
    if (!memchr(text, ',', bytes) && !memchr(text, '"', bytes) && !memchr(text, '\n', bytes) && !memchr(text, '\r', bytes)) {
        fwrite(text, 1, bytes, stdout);
        return;
    }
    putchar('"');
    for (size_t i = 0; i < bytes; i++) {
        if (text[i] == '"')
            putchar('"');
        putchar(text[i]);
    }
    putchar('"');
}

static int print_csv(struct mt_query *query)
{
    int columns = mt_query_columns(query), r;

    for (int c = 0; c < columns; c++) {
        if (c > 0)
            putchar(',');
        csv_cell(mt_query_name(query, c), strlen(mt_query_name(query, c)));
    }
    fputs("\r\n", stdout);
    while ((r = mt_query_step(query)) == 1) {
        for (int c = 0; c < columns; c++) {
            size_t bytes;
            const char *text = mt_query_text(query, c, &bytes);
            if (c > 0)
                putchar(',');
            csv_cell(text, bytes);
        }
        fputs("\r\n", stdout);
    }
    return r;
}

/* A column is a column of numbers if the first row says so. */
static int print_table(struct mt_query *query)
{
    struct mt_table *table = mt_table_create();
    int columns = mt_query_columns(query), r = mt_query_step(query);

    if (!table)
        return -ENOMEM;
    for (int c = 0; c < columns; c++) {
        bool number = r == 1 && (mt_query_kind(query, c) == MT_VALUE_INTEGER || mt_query_kind(query, c) == MT_VALUE_REAL);
        mt_table_column(table, mt_query_name(query, c), number ? MT_CELL_RIGHT : MT_CELL_CUT_END);
    }
    for (; r == 1; r = mt_query_step(query)) {
        for (int c = 0; c < columns; c++)
            mt_table_add(table, mt_query_text(query, c, NULL));
    }
    if (r == 0)
        r = mt_table_print(table, stdout);
    if (r == 0 && mt_table_beyond(table, stdout) > 0)
        printf("(columns beyond the terminal's edge: %d; --csv or --json shows all)\n", mt_table_beyond(table, stdout));
    mt_table_destroy(table);
    return r;
}

static int sql_trouble(struct mt_store *store, int r)
{
    switch (r) {
    case -EPERM:
        return complain(STATUS_USAGE, "the query was refused: it would write, or reach other files; only reading is allowed");
    case -EINVAL:
        return complain(STATUS_USAGE, "%s", mt_store_error(store));
    case -E2BIG:
        return complain(STATUS_USAGE, "one statement at a time");
    default:
        return complain(STATUS_INPUT, "the database cannot be read (%s)", r == -ENOMEM ? "no memory" : mt_store_error(store));
    }
}

static char *read_query(void)
{
    char *text = NULL;
    size_t size = 0;
    ssize_t n = getdelim(&text, &size, '\0', stdin);

    if (n < 0) {
        free(text);
        return strdup("");
    }
    return text;
}

static int answer(struct mt_store *store, const char *sql, enum form form)
{
    struct mt_query *query;
    int r = mt_query_create(store, sql, &query);

    if (r < 0)
        return sql_trouble(store, r);
    if (form == FORM_JSON)
        return print_json(store, query);
    r = form == FORM_CSV ? print_csv(query) : print_table(query);
    if (r < 0)
        r = sql_trouble(store, r);
    mt_query_destroy(query);
    return r;
}

int command_sql(int argc, char **argv)
{
    static const struct option options[] = {
        READ_OPTIONS, {"csv", no_argument, NULL, CSV}, {"table", no_argument, NULL, TABLE}, {0}};
    struct read_options read = {0};
    enum form form = FORM_TABLE;
    struct mt_store *store;
    char *sql;
    int c, status;

    while ((c = getopt_long(argc, argv, "d:h", options, NULL)) != -1) {
        if (c == CSV)
            form = FORM_CSV;
        else if (c == TABLE)
            form = FORM_TABLE;
        else if (!read_option(&read, c, optarg))
            return usage_hint(argv);
        if (c == OPTION_JSON)
            form = FORM_JSON;
    }
    if (read.help)
        return print_help("sql", help);
    if (read.run)
        return complain(STATUS_USAGE, "--run: the query itself chooses: SELECT ... WHERE run_id = %s", read.run);
    if (!argv[optind] || argv[optind + 1])
        return complain(STATUS_USAGE, "one query is needed, in quotes: memtrace sql 'SELECT * FROM runs'");
    status = open_database(&read, &store, NULL);
    if (status != 0)
        return status;
    sql = strcmp(argv[optind], "-") == 0 ? read_query() : strdup(argv[optind]);
    if (!sql)
        abort();
    status = answer(store, sql, form);
    free(sql);
    mt_store_close(store);
    return status;
}

/*
 * Rows on their way into a table: whole numbers in memory as a table `rows` (c0, c1, ...), which statements insert from. However many there are it
 * is one step of one statement, at two thirds of what it costs to bind each value.
 */
#include "store/internal.h"

#include <stdlib.h>

struct rows_table {
    sqlite3_vtab base;
    const struct rows *rows;
};

struct rows_cursor {
    sqlite3_vtab_cursor base;
    const struct rows *rows;
    size_t at;
};

static int rows_connect(sqlite3 *db, void *rows, int argc, const char *const *argv, sqlite3_vtab **ret_table, char **ret_error)
{
    struct rows_table *table;
    int rc = sqlite3_declare_vtab(db, "CREATE TABLE x (c0 INTEGER, c1 INTEGER, c2 INTEGER, c3 INTEGER, c4 INTEGER, c5 INTEGER, c6 INTEGER, "
                                      "c7 INTEGER, c8 INTEGER, c9 INTEGER, c10 INTEGER, c11 INTEGER, c12 INTEGER)");

    (void)argc;
    (void)argv;
    (void)ret_error;
    if (rc != SQLITE_OK)
        return rc;
    table = calloc(1, sizeof(*table));
    if (!table)
        return SQLITE_NOMEM;
    sqlite3_vtab_config(db, SQLITE_VTAB_DIRECTONLY);
    table->rows = rows;
    *ret_table = &table->base;
    return SQLITE_OK;
}

static int rows_disconnect(sqlite3_vtab *table)
{
    free(table);
    return SQLITE_OK;
}

static int rows_best_index(sqlite3_vtab *table, sqlite3_index_info *info)
{
    (void)table;
    info->estimatedCost = 1;
    return SQLITE_OK;
}

static int rows_open(sqlite3_vtab *table, sqlite3_vtab_cursor **ret_cursor)
{
    struct rows_cursor *cursor = calloc(1, sizeof(*cursor));

    if (!cursor)
        return SQLITE_NOMEM;
    cursor->rows = ((struct rows_table *)table)->rows;
    *ret_cursor = &cursor->base;
    return SQLITE_OK;
}

static int rows_close(sqlite3_vtab_cursor *cursor)
{
    free(cursor);
    return SQLITE_OK;
}

static int rows_filter(sqlite3_vtab_cursor *cursor, int number, const char *text, int argc, sqlite3_value **argv)
{
    (void)number;
    (void)text;
    (void)argc;
    (void)argv;
    ((struct rows_cursor *)cursor)->at = 0;
    return SQLITE_OK;
}

static int rows_next(sqlite3_vtab_cursor *cursor)
{
    ((struct rows_cursor *)cursor)->at++;
    return SQLITE_OK;
}

static int rows_eof(sqlite3_vtab_cursor *cursor)
{
    const struct rows_cursor *c = (struct rows_cursor *)cursor;

    return c->at >= c->rows->count;
}

static int rows_column(sqlite3_vtab_cursor *cursor, sqlite3_context *context, int column)
{
    const struct rows_cursor *c = (struct rows_cursor *)cursor;
    int64_t value;

    if (column < 0 || (unsigned)column >= c->rows->columns)
        return SQLITE_OK; /* NULL */
    value = c->rows->values[c->at * c->rows->columns + (unsigned)column];
    sqlite3_result_int64(context, value < 0 && c->rows->is_unsigned ? INT64_MAX : value);
    return SQLITE_OK;
}

static int rows_rowid(sqlite3_vtab_cursor *cursor, sqlite3_int64 *ret_id)
{
    *ret_id = (sqlite3_int64)((struct rows_cursor *)cursor)->at;
    return SQLITE_OK;
}

int store_rows_module(struct mt_store *store)
{
    /* Without xCreate: it is there by its name alone, and nowhere in the file. */
    static const sqlite3_module module = {.xConnect = rows_connect,
        .xDisconnect = rows_disconnect,
        .xBestIndex = rows_best_index,
        .xOpen = rows_open,
        .xClose = rows_close,
        .xFilter = rows_filter,
        .xNext = rows_next,
        .xEof = rows_eof,
        .xColumn = rows_column,
        .xRowid = rows_rowid};

    return store_error_of(store, sqlite3_create_module(store->db, "rows", &module, &store->rows));
}

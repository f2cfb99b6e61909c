/*
 * Reading: a handle that cannot write, and cursors.
 *
 * Read-only is enforced three times: the file is opened so, only statements that SQLite calls read-only run, and an
 * authorizer refuses ATTACH (hence VACUUM INTO), functions that touch files, and every pragma that sets something.
 */
#include "store/internal.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>

struct mt_query {
    struct mt_store *store;
    sqlite3_stmt *statement;
};

static int authorize(void *argument, int action, const char *a, const char *b, const char *database, const char *trigger)
{
    static const char *const pragmas[] = {"table_info", "table_xinfo", "table_list", "index_list", "index_info",
        "index_xinfo", "foreign_key_list", "user_version", "application_id", "schema_version", "page_count", "page_size",
        "freelist_count", "integrity_check", "quick_check", "journal_mode", "compile_options", "database_list", "encoding",
        "function_list", "pragma_list"};

    (void)argument;
    (void)database;
    (void)trigger;
    switch (action) {
    case SQLITE_SELECT:
    case SQLITE_READ:
    case SQLITE_RECURSIVE:
        return SQLITE_OK;
    case SQLITE_FUNCTION:
        return b && strcasecmp(b, "load_extension") == 0 ? SQLITE_DENY : SQLITE_OK;
    case SQLITE_PRAGMA:
        for (size_t i = 0; a && i < sizeof(pragmas) / sizeof(pragmas[0]); i++) {
            bool takes_name = i < 7 || strstr(a, "_check");
            if (strcasecmp(a, pragmas[i]) == 0 && (!b || takes_name))
                return SQLITE_OK;
        }
        return SQLITE_DENY;
    default:
        return SQLITE_DENY;
    }
}

/* Views of this connection alone, in front of those of the file: runs that nobody will ever finish are shown as what they are. */
static int hide_dead_runs(struct mt_store *store)
{
    static const char dead[] = "SELECT run_id FROM main.run WHERE status = 'running' AND NOT "
                               "mt_reader_alive(reader_pid, reader_start_ticks)";
    char sql[4096];
    sqlite3_str *columns = sqlite3_str_new(store->db);
    sqlite3_stmt *s = NULL;
    char *list;
    int r;

    r = store_error_of(store, sqlite3_prepare_v2(store->db, "SELECT name FROM pragma_table_info('runs')", -1, &s, NULL));
    while (r == 0 && sqlite3_step(s) == SQLITE_ROW) {
        const char *name = (const char *)sqlite3_column_text(s, 0);
        if (name && strcmp(name, "status") == 0)
            sqlite3_str_appendf(columns, ", CASE WHEN run_id IN (%s) THEN 'lossy' ELSE status END AS status", dead);
        else
            sqlite3_str_appendf(columns, "%s\"%w\"", sqlite3_str_length(columns) ? ", " : "", name ? name : "");
    }
    sqlite3_finalize(s);
    list = sqlite3_str_finish(columns);
    if (r == 0 && list) {
        snprintf(sql, sizeof(sql),
            "CREATE TEMP VIEW runs AS SELECT %s FROM main.runs;"
            "CREATE TEMP VIEW loss AS SELECT * FROM main.loss UNION ALL SELECT run_id, NULL, 'reader-gone', 1 FROM (%s)",
            list, dead);
        r = store_exec(store, sql);
    }
    sqlite3_free(list);
    return r;
}

static void reader_alive_sql(sqlite3_context *context, int count, sqlite3_value **values)
{
    (void)count;
    sqlite3_result_int(
        context, mt_store_reader_alive(sqlite3_value_int(values[0]), (uint64_t)sqlite3_value_int64(values[1])));
}

static int any_dead(struct mt_store *store, int64_t *ret_count)
{
    sqlite3_stmt *s = NULL;
    int r = store_error_of(store,
        sqlite3_prepare_v2(store->db,
            "SELECT count(*) FROM run WHERE status = 'running' AND NOT mt_reader_alive(reader_pid, reader_start_ticks)", -1,
            &s, NULL));

    if (r == 0 && sqlite3_step(s) == SQLITE_ROW)
        *ret_count = sqlite3_column_int64(s, 0);
    sqlite3_finalize(s);
    return r;
}

static char *uri_of(const char *path)
{
    sqlite3_str *text = sqlite3_str_new(NULL);

    sqlite3_str_appendall(text, "file:");
    for (; *path; path++) {
        if (strchr("?#%", *path))
            sqlite3_str_appendf(text, "%%%02X", (unsigned char)*path);
        else
            sqlite3_str_appendchar(text, 1, *path);
    }
    sqlite3_str_appendall(text, "?immutable=1");
    return sqlite3_str_finish(text);
}

/* A file in WAL mode in a directory that cannot be written to can be read only as one that nobody changes. */
static int open_file(struct mt_store *store, const char *path, bool immutable)
{
    int64_t version = 0;
    char *uri = uri_of(path);
    int r;

    if (!uri)
        return -ENOMEM;
    r = store_error_of(store,
        sqlite3_open_v2(immutable ? uri : path, &store->db,
            SQLITE_OPEN_READONLY | SQLITE_OPEN_NOMUTEX | SQLITE_OPEN_EXRESCODE | (immutable ? SQLITE_OPEN_URI : 0), NULL));
    sqlite3_free(uri);
    if (r == 0) {
        sqlite3_busy_timeout(store->db, 10000);
        r = store_check(store, &version);
    }
    if (r == 0 && version == 0) {
        snprintf(store->error, sizeof(store->error), "no runs in it");
        r = -ENODATA;
    }
    return r;
}

static void repair_file(const char *path)
{
    struct mt_store *writer;

    if (mt_store_open(path, &writer) == 0)
        mt_store_close(writer);
}

static int prepare_handle(struct mt_store *store, const char *path, bool immutable)
{
    int64_t dead = 0;
    int r = store_error_of(store,
        sqlite3_create_function_v2(
            store->db, "mt_reader_alive", 2, SQLITE_UTF8 | SQLITE_INNOCUOUS, NULL, reader_alive_sql, NULL, NULL, NULL));

    if (r == 0)
        r = store_error_of(store, store_functions(store->db));
    sqlite3_db_config(store->db, SQLITE_DBCONFIG_DEFENSIVE, 1, (int *)NULL);
    sqlite3_db_config(store->db, SQLITE_DBCONFIG_TRUSTED_SCHEMA, 0, (int *)NULL);
    sqlite3_exec(store->db, "PRAGMA temp_store = MEMORY; PRAGMA cell_size_check = 1", NULL, NULL, NULL);
    if (r == 0)
        r = any_dead(store, &dead);
    if (r == 0 && dead > 0) {
        if (!immutable)
            repair_file(path); /* may fail: then they are only shown so */
        r = hide_dead_runs(store);
    }
    if (r == 0)
        r = store_error_of(store, sqlite3_set_authorizer(store->db, authorize, NULL));
    return r;
}

int mt_store_open_read(const char *path, struct mt_store **ret_store)
{
    struct mt_store *store;
    bool immutable = false;
    struct stat st;
    int r;

    if (stat(path, &st) < 0)
        return -errno;
    if (!S_ISREG(st.st_mode))
        return S_ISDIR(st.st_mode) ? -EISDIR : -EBADMSG;
    store = calloc(1, sizeof(*store));
    if (!store)
        return -ENOMEM;
    store->read_only = true;
    r = open_file(store, path, false);
    if (r == -EACCES || r == -EROFS || r == -EPERM) {
        sqlite3_close_v2(store->db);
        store->db = NULL;
        immutable = true;
        r = open_file(store, path, true);
    }
    if (r == 0)
        r = prepare_handle(store, path, immutable);
    if (r < 0) {
        sqlite3_close_v2(store->db);
        free(store);
        return r;
    }
    *ret_store = store;
    return 0;
}

/* ---- cursors -------------------------------------------------------------------------------------------------------- */

int mt_query_create(struct mt_store *store, const char *sql, struct mt_query **ret_query)
{
    struct mt_query *query;
    sqlite3_stmt *s = NULL;
    const char *tail = NULL;
    int rc = sqlite3_prepare_v2(store->db, sql, -1, &s, &tail);

    if (rc != SQLITE_OK) {
        int r = store_error_of(store, rc);
        return (rc & 0xff) == SQLITE_ERROR ? -EINVAL : r;
    }
    if (!s) {
        snprintf(store->error, sizeof(store->error), "no statement");
        return -EINVAL;
    }
    if (store->read_only && !sqlite3_stmt_readonly(s)) {
        sqlite3_finalize(s);
        return -EPERM;
    }
    if (tail && tail[strspn(tail, " \t\r\n;")]) {
        sqlite3_finalize(s);
        return -E2BIG;
    }
    query = calloc(1, sizeof(*query));
    if (!query) {
        sqlite3_finalize(s);
        return -ENOMEM;
    }
    query->store = store;
    query->statement = s;
    *ret_query = query;
    return 0;
}

void mt_query_destroy(struct mt_query *query)
{
    if (!query)
        return;
    sqlite3_finalize(query->statement);
    free(query);
}

void mt_query_bind_integer(struct mt_query *query, int index, int64_t value)
{
    sqlite3_bind_int64(query->statement, index, value);
}

void mt_query_bind_text(struct mt_query *query, int index, const char *value)
{
    sqlite3_bind_text(query->statement, index, value, -1, SQLITE_TRANSIENT);
}

int mt_query_step(struct mt_query *query)
{
    int rc = sqlite3_step(query->statement);

    if (rc == SQLITE_ROW)
        return 1;
    if ((rc & 0xff) == SQLITE_ERROR) {
        store_error_of(query->store, rc);
        return -EINVAL; /* an error of the query itself, such as abs() of the smallest integer */
    }
    return store_error_of(query->store, rc);
}

void mt_query_reset(struct mt_query *query)
{
    sqlite3_reset(query->statement);
}

int mt_query_columns(const struct mt_query *query)
{
    return sqlite3_column_count(query->statement);
}

const char *mt_query_name(const struct mt_query *query, int column)
{
    const char *name = sqlite3_column_name(query->statement, column);

    return name ? name : "";
}

enum mt_value_kind mt_query_kind(struct mt_query *query, int column)
{
    switch (sqlite3_column_type(query->statement, column)) {
    case SQLITE_INTEGER:
        return MT_VALUE_INTEGER;
    case SQLITE_FLOAT:
        return MT_VALUE_REAL;
    case SQLITE_TEXT:
        return MT_VALUE_TEXT;
    case SQLITE_BLOB:
        return MT_VALUE_BLOB;
    default:
        return MT_VALUE_NULL;
    }
}

int64_t mt_query_integer(struct mt_query *query, int column)
{
    return sqlite3_column_int64(query->statement, column);
}

double mt_query_real(struct mt_query *query, int column)
{
    return sqlite3_column_double(query->statement, column);
}

const char *mt_query_text(struct mt_query *query, int column, size_t *ret_bytes)
{
    const char *text = (const char *)sqlite3_column_text(query->statement, column);

    if (ret_bytes)
        *ret_bytes = text ? (size_t)sqlite3_column_bytes(query->statement, column) : 0;
    return text;
}

bool mt_query_is_explain(const struct mt_query *query)
{
    return sqlite3_stmt_isexplain(query->statement) != 0;
}

void mt_store_interrupt(struct mt_store *store)
{
    sqlite3_interrupt(store->db);
}

/*
 * Prepared statements with bound values, and what SQLite's results mean in errno's terms.
 */
#include "store/internal.h"

#include <errno.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char *const statement_text[S_COUNT] = {
#define STORE_STATEMENT_TEXT_(symbol, sql) [S_##symbol] = sql,
    STORE_STATEMENTS(STORE_STATEMENT_TEXT_)
#undef STORE_STATEMENT_TEXT_
};

static int system_error_or(struct mt_store *store, int fallback)
{
    int error = store->db ? sqlite3_system_errno(store->db) : 0;

    return error > 0 ? -error : fallback;
}

int store_error_of(struct mt_store *store, int rc)
{
    store->error[0] = '\0'; /* SQLite's own words are better */
    switch (rc & 0xff) {
    case SQLITE_OK:
    case SQLITE_ROW:
    case SQLITE_DONE:
        return 0;
    case SQLITE_BUSY:
    case SQLITE_LOCKED:
        return -EBUSY;
    case SQLITE_FULL:
        return -ENOSPC;
    case SQLITE_READONLY:
        return -EROFS;
    case SQLITE_PERM:
        return -EACCES;
    case SQLITE_CANTOPEN:
        return system_error_or(store, -EACCES);
    case SQLITE_IOERR:
        return system_error_or(store, -EIO);
    case SQLITE_CORRUPT:
    case SQLITE_NOTADB:
    case SQLITE_FORMAT:
        return -EBADMSG;
    case SQLITE_NOMEM:
        return -ENOMEM;
    case SQLITE_AUTH:
        return -EPERM;
    case SQLITE_INTERRUPT:
        return -EINTR;
    case SQLITE_TOOBIG:
        return -EFBIG;
    default:
        return -EIO;
    }
}

int store_exec(struct mt_store *store, const char *sql)
{
    return store_error_of(store, sqlite3_exec(store->db, sql, NULL, NULL, NULL));
}

static int prepared(struct mt_store *store, enum store_statement which, sqlite3_stmt **ret)
{
    if (!store->statements[which]) {
        int rc = sqlite3_prepare_v3(
            store->db, statement_text[which], -1, SQLITE_PREPARE_PERSISTENT, &store->statements[which], NULL);
        if (rc != SQLITE_OK)
            return store_error_of(store, rc);
    }
    *ret = store->statements[which];
    return 0;
}

static int bind_all(struct mt_store *store, sqlite3_stmt *s, const char *types, va_list values)
{
    for (int i = 1; *types; types++, i++) {
        uint64_t u;
        double real;
        int rc;

        switch (*types) {
        case 'i':
            rc = sqlite3_bind_int64(s, i, va_arg(values, int64_t));
            break;
        case 'u':
            u = va_arg(values, uint64_t);
            rc = sqlite3_bind_int64(s, i, u > INT64_MAX ? INT64_MAX : (int64_t)u);
            break;
        case 'd':
            real = va_arg(values, double);
            rc = isfinite(real) ? sqlite3_bind_double(s, i, real) : sqlite3_bind_null(s, i);
            break;
        case 'n':
            rc = sqlite3_bind_int(s, i, va_arg(values, int));
            break;
        default:
            rc = sqlite3_bind_text(s, i, va_arg(values, const char *), -1, SQLITE_STATIC);
            break;
        }
        if (rc != SQLITE_OK)
            return store_error_of(store, rc);
    }
    return 0;
}

/* ret_id NULL: no row is expected. */
static int run(struct mt_store *store, int64_t *ret_id, enum store_statement which, const char *types, va_list values)
{
    sqlite3_stmt *s = NULL;
    int r = prepared(store, which, &s);

    if (r < 0)
        return r;
    r = bind_all(store, s, types, values);
    if (r == 0) {
        int rc = sqlite3_step(s);
        if (ret_id && (rc == SQLITE_ROW || rc == SQLITE_DONE))
            *ret_id = rc == SQLITE_ROW ? sqlite3_column_int64(s, 0) : 0;
        r = store_error_of(store, rc);
    }
    sqlite3_reset(s);
    if (strchr(types, 't'))
        sqlite3_clear_bindings(s); /* the texts are the caller's */
    return r;
}

int store_run(struct mt_store *store, enum store_statement which, const char *types, ...)
{
    va_list values;
    int r;

    va_start(values, types);
    r = run(store, NULL, which, types, values);
    va_end(values);
    return r;
}

int store_find(struct mt_store *store, int64_t *ret_id, enum store_statement which, const char *types, ...)
{
    va_list values;
    int r;

    va_start(values, types);
    r = run(store, ret_id, which, types, values);
    va_end(values);
    return r;
}

int store_insert(struct mt_store *store, const struct rows *rows, enum store_statement which, const char *types, ...)
{
    va_list values;
    int r;

    if (rows->count == 0)
        return 0;
    store->rows = *rows;
    va_start(values, types);
    r = run(store, NULL, which, types, values);
    va_end(values);
    store->rows = (struct rows){0};
    return r;
}

int store_scan(struct mt_store *store, enum store_statement which, int64_t after,
    int (*row)(struct mt_store *store, sqlite3_stmt *statement))
{
    sqlite3_stmt *s = NULL;
    int r = prepared(store, which, &s), rc = SQLITE_ROW;

    if (r == 0)
        r = store_error_of(store, sqlite3_bind_int64(s, 1, after));
    while (r == 0 && (rc = sqlite3_step(s)) == SQLITE_ROW)
        r = row(store, s);
    if (r == 0)
        r = store_error_of(store, rc);
    sqlite3_reset(s);
    return r;
}

int store_enter(struct mt_store *store, bool *ret_own)
{
    bool own = sqlite3_get_autocommit(store->db) != 0;

    if (own) {
        int r = mt_store_begin(store);
        if (r < 0)
            return r;
    }
    *ret_own = own;
    return 0;
}

int store_leave(struct mt_store *store, bool own, int result)
{
    if (own && result >= 0)
        return mt_store_commit(store);
    if (result < 0) {
        ids_forget(&store->ids);
        if (own)
            mt_store_rollback(store);
    }
    return result;
}

void store_finish_statements(struct mt_store *store)
{
    for (int i = 0; i < S_COUNT; i++) {
        sqlite3_finalize(store->statements[i]);
        store->statements[i] = NULL;
    }
}

const char *mt_store_error(const struct mt_store *store)
{
    if (store->error[0] || !store->db)
        return store->error;
    return sqlite3_errmsg(store->db);
}

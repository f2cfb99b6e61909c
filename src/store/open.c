/*
 * Opening, creating, migrating and closing.
 *
 * While it is written the file is in WAL mode with synchronous=NORMAL: a killed writer loses at most its open
 * transaction, and so does a power failure. The last one to close puts it back into the plain journal mode, so that what is
 * left is one file that can be read from a directory that cannot be written to.
 */
#include "store/internal.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/clock.h"

enum { BUSY_TIMEOUT_MS = 10000, MODE_RETRY_US = 2000 };

static int pragma_integer(struct mt_store *store, const char *sql, int64_t *ret_value)
{
    sqlite3_stmt *s = NULL;
    int rc = sqlite3_prepare_v2(store->db, sql, -1, &s, NULL);

    if (rc == SQLITE_OK) {
        rc = sqlite3_step(s);
        if (rc == SQLITE_ROW)
            *ret_value = sqlite3_column_int64(s, 0);
    }
    if (rc != SQLITE_ROW) {
        int r = store_error_of(store, rc);
        sqlite3_finalize(s);
        return r < 0 ? r : -EIO;
    }
    sqlite3_finalize(s);
    return 0;
}

int store_check(struct mt_store *store, int64_t *ret_version)
{
    int64_t id = 0, version = 0, tables = 0;
    bool alone = sqlite3_get_autocommit(store->db);
    /* All of one moment: another writer may be making the schema. */
    int r = alone ? store_exec(store, "BEGIN") : 0;

    if (r == 0)
        r = pragma_integer(store, "PRAGMA application_id", &id);
    if (r == 0)
        r = pragma_integer(store, "PRAGMA user_version", &version);
    if (r == 0)
        r = pragma_integer(store, "SELECT count(*) FROM sqlite_schema", &tables);
    if (alone)
        sqlite3_exec(store->db, "ROLLBACK", NULL, NULL, NULL); /* nothing was written, or there was no beginning */
    if (r < 0)
        return r;
    if (id == 0 && version == 0 && tables == 0) {
        *ret_version = 0; /* new, or an empty file */
        return 0;
    }
    if (id != STORE_APPLICATION_ID) {
        snprintf(store->error, sizeof(store->error), "not a memtrace database");
        return -EBADMSG;
    }
    if (version < STORE_SCHEMA_OLDEST || version > STORE_SCHEMA_VERSION) {
        snprintf(store->error, sizeof(store->error), "schema version %lld, this memtrace has %d", (long long)version,
            STORE_SCHEMA_VERSION);
        return version < 1 ? -EBADMSG : -EPROTO;
    }
    *ret_version = version;
    return 0;
}

/* Makes the schema, or brings an older one up to date. Version 1 was never released. */
static int create(struct mt_store *store)
{
    int64_t version = 0;
    char text[96];
    int r = store_check(store, &version);

    if (r < 0 || version == STORE_SCHEMA_VERSION)
        return r;
    r = mt_store_begin(store);
    if (r == 0)
        r = store_check(store, &version); /* another writer may have been first */
    if (r == 0 && version == 0)
        r = store_exec(store, mt_store_schema);
    else if (r == 0 && version == 2)
        r = store_exec(store, mt_store_migration_3);
    if (r == 0) {
        snprintf(text, sizeof(text), "PRAGMA application_id = %d; PRAGMA user_version = %d", STORE_APPLICATION_ID,
            STORE_SCHEMA_VERSION);
        r = store_exec(store, text);
    }
    if (r == 0)
        return mt_store_commit(store);
    mt_store_rollback(store);
    return r;
}

/* Changing the mode does not wait for other connections by itself. */
static int enter_wal(struct mt_store *store)
{
    uint64_t deadline_ns = mt_clock_monotonic_ns() + BUSY_TIMEOUT_MS * UINT64_C(1000000);
    int r;

    while ((r = store_exec(store, "PRAGMA journal_mode = WAL")) == -EBUSY && mt_clock_monotonic_ns() < deadline_ns)
        usleep(MODE_RETRY_US);
    return r;
}

int mt_store_open(const char *path, struct mt_store **ret_store)
{
    struct mt_store *store = calloc(1, sizeof(*store));
    struct stat st;
    int64_t version;
    int rc, r;

    if (!store)
        return -ENOMEM;
    /* SQLite would wait on a FIFO and trust a device. */
    if (stat(path, &st) == 0 && !S_ISREG(st.st_mode)) {
        r = S_ISDIR(st.st_mode) ? -EISDIR : -EBADMSG;
        goto fail;
    }
    rc = sqlite3_open_v2(
        path, &store->db, SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_NOMUTEX | SQLITE_OPEN_EXRESCODE, NULL);
    if (rc != SQLITE_OK) {
        r = store_error_of(store, rc);
        goto fail;
    }
    sqlite3_busy_timeout(store->db, BUSY_TIMEOUT_MS);
    sqlite3_db_config(store->db, SQLITE_DBCONFIG_DEFENSIVE, 1, (int *)NULL);
    sqlite3_db_config(store->db, SQLITE_DBCONFIG_TRUSTED_SCHEMA, 0, (int *)NULL);
    r = store_check(store, &version); /* before the mode of a stranger's file is changed */
    if (r == 0 && version == 0) /* there is nothing to lose in a file that is being made: no waiting for the disk */
        r = store_exec(store, "PRAGMA synchronous = OFF");
    if (r == 0)
        r = enter_wal(store);
    if (r == 0)
        r = store_rows_module(store);
    if (r == 0)
        r = store_exec(store, "PRAGMA wal_autocheckpoint = 4000; PRAGMA cache_size = -8192; PRAGMA temp_store = MEMORY;"
                              "PRAGMA cell_size_check = 1");
    if (r == 0)
        r = create(store);
    if (r == 0)
        r = store_exec(store, "PRAGMA synchronous = NORMAL");
    if (r == 0)
        r = mt_store_repair(store);
    if (r < 0)
        goto fail;
    *ret_store = store;
    return 0;
fail:
    if (store->db)
        sqlite3_close_v2(store->db);
    free(store);
    return r;
}

void mt_store_close(struct mt_store *store)
{
    if (!store)
        return;
    store_finish_statements(store);
    store_close_symbols(store);
    ids_forget(&store->ids);
    if (!store->read_only) {
        mt_store_rollback(store);
        sqlite3_busy_timeout(store->db, 0);
        /* On disk first, in two waits for it; then the mode, which needs none. Refused while anyone else has it open; that one
         * will do it, or the next. */
        if (sqlite3_wal_checkpoint_v2(store->db, NULL, SQLITE_CHECKPOINT_TRUNCATE, NULL, NULL) == SQLITE_OK)
            sqlite3_exec(store->db, "PRAGMA synchronous = OFF", NULL, NULL, NULL);
        sqlite3_exec(store->db, "PRAGMA journal_mode = DELETE", NULL, NULL, NULL);
    }
    sqlite3_close_v2(store->db);
    free(store);
}

void mt_store_set_busy_timeout(struct mt_store *store, unsigned timeout_ms)
{
    sqlite3_busy_timeout(store->db, timeout_ms > 0x7fffffff ? 0x7fffffff : (int)timeout_ms);
}

int mt_store_begin(struct mt_store *store)
{
    return store_exec(store, "BEGIN IMMEDIATE");
}

int mt_store_commit(struct mt_store *store)
{
    int r = store_exec(store, "COMMIT");

    if (r < 0)
        mt_store_rollback(store);
    return r;
}

void mt_store_rollback(struct mt_store *store)
{
    ids_forget(&store->ids);
    if (!sqlite3_get_autocommit(store->db))
        sqlite3_exec(store->db, "ROLLBACK", NULL, NULL, NULL);
}

/*
 * functions.c for any program with SQLite: `.load ./memtrace_sql` in sqlite3, load_extension("./memtrace_sql") in Python.
 */
#include <sqlite3ext.h>
SQLITE_EXTENSION_INIT1

#define STORE_EXTENSION
static int store_functions(sqlite3 *db);
#include "store/functions.c"

int __attribute__((visibility("default"))) sqlite3_memtracesql_init(
    sqlite3 *db, char **error, const sqlite3_api_routines *api);

/* The name that SQLite makes of the file's: letters only. */
int __attribute__((visibility("default"))) sqlite3_memtracesql_init(
    sqlite3 *db, char **error, const sqlite3_api_routines *api)
{
    (void)error;
    SQLITE_EXTENSION_INIT2(api);
    return store_functions(db);
}

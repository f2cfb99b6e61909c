/*
 * What the files of store/ share: the handle, its statements, its memory of ids.
 *
 *   open.c       opening, schema and migrations, batches, closing
 *   statement.c  prepared statements and SQLite's errors
 *   run.c        runs, processes, the ledger of losses, repair
 *   ids.c        the ids that the database has, in memory
 *   memory.c     what a process's tables have become, from one call to the next
 *   intern.c     modules and frames: each once per database
 *   stack.c      stacks, whole and folded, and their responsible frame
 *   site.c       sites
 *   series.c     samples, phases, iterations, marks, snapshots
 *   cohort.c     verdicts over iterations
 *   runtime.c    which modules and functions are never responsible
 *   query.c      reading, for the commands
 *   functions.c  statistics as SQL functions; also extension.c, which sqlite3 and Python can load
 *   map.c        a hash table of ids
 *   rows.c       many rows at a time
 */
#ifndef MT_STORE_INTERNAL_H
#define MT_STORE_INTERNAL_H

#include <sqlite3.h>

#include "store/store.h"

#define STORE_APPLICATION_ID 0x6d747261 /* "mtra" */
#define STORE_SCHEMA_VERSION 3
#define STORE_SCHEMA_OLDEST 2 /* that can be read, and written after a migration */

extern const char mt_store_schema[];
extern const char mt_store_migration_3[];

/* A pair of numbers -> an id that is not 0. */
struct id_map {
    struct id_entry {
        uint64_t a, b;
        int64_t id;
    } *entries;
    size_t count, capacity;
    uint64_t *slots; /* 0: free; else the upper half of the hash, and entry + 1 */
    size_t mask;
};
int64_t id_map_get(const struct id_map *map, uint64_t a, uint64_t b); /* 0: not there */
int id_map_put(struct id_map *map, uint64_t a, uint64_t b, int64_t id);
int id_map_reserve(struct id_map *map, size_t more); /* room for so many more without growing */
void id_map_clear(struct id_map *map);

enum { PENDING_ROWS = 256, PENDING_COLUMNS = 6, KEPT_SYMBOLS = 16 };
enum pending_table { PENDING_FRAME, PENDING_LINE, PENDING_STACK, PENDING_SITE, PENDING_TABLES };

/*
 * ids.c: what the database has, in memory. Rows of these tables are only ever added, each with the next id, and inside of a
 * transaction for writing: what is not known yet lies behind the last id that is. A failure empties it, since it may take rows back.
 */
struct ids {
    struct id_map frames;  /* (module_id, offset) -> frame_id */
    struct id_map users;   /* (frame_id, 0) -> depth of its first function that may be responsible + 2, 1: none */
    struct id_map stacks;  /* (parent_id, frame_id) -> stack_id */
    struct id_map sites;   /* (stack_id, heap_id) -> site_id */
    struct id_map symbols; /* (hash, other hash) -> symbol_id, to be compared with the row */
    struct symbol_text {   /* the row, of symbols met lately, by their hash */
        int64_t id;
        char *function, *file;
    } *texts;
    int64_t last_frame, last_stack, last_site, last_symbol;
    unsigned generation; /* grows whenever it is emptied */
    /* Rows of those tables that are in these maps and not yet in the database: written many at a time, and before the transaction ends. */
    struct pending_rows {
        unsigned count;
        int64_t values[PENDING_ROWS * PENDING_COLUMNS];
    } pending[PENDING_TABLES];
    bool symbols_known; /* in this transaction; read only when the first one is to be written */
};
/* Learns what others have added. Inside of a transaction for writing it is then complete. */
int ids_learn(struct mt_store *store); /* not while rows are pending */
int ids_add_row(struct mt_store *store, enum pending_table table, const int64_t *values);
int ids_flush(struct mt_store *store);
int ids_symbol(struct mt_store *store, const char *function, const char *file, int64_t *ret_id);
void ids_forget(struct ids *ids);

/* X(symbol, SQL): every statement that is run more than once. */
#define STORE_STATEMENTS(X)                                                                                            \
    X(RUN_BEGIN, "INSERT INTO run (label, command, cwd, started_at, reader_pid, reader_start_ticks) "                  \
                 "VALUES (?1, ?2, ?3, ?4, ?5, ?6)")                                                                    \
    X(RUN_END, "UPDATE run SET status = ?2, wall_ns = nullif(?3, -1), exit_status = nullif(?4, -1), allocated_blocks = ?5, "                   \
               "allocated_bytes = ?6, freed_blocks = ?7, freed_bytes = ?8, peak_live_bytes = ?9, "                     \
               "peak_live_blocks = ?10, live_bytes = ?11, live_blocks = ?12, mapped_blocks = ?13, mapped_bytes = ?14, " \
               "unmapped_bytes = ?15, peak_mapped_bytes = ?16, live_mapped_bytes = ?17, unmatched_frees = ?18, "       \
               "peak_rss_bytes = ?19, overhead_bytes = ?20, lost_events = ?21, python_bytes = ?22, threads = ?23, "    \
               "verified_stacks = ?24, thread_waits = ?25 "                                                            \
               "WHERE run_id = ?1")                                                                                    \
    X(PROCESS_BEGIN, "INSERT INTO process (run_id, parent_process_id, pid, exe, command, started_ns, allocator, "      \
                     "python_version) VALUES (?1, nullif(?2, 0), ?3, ?4, ?5, ?6, ?7, ?8)")                             \
    X(PROCESS_UPDATE, "UPDATE process SET exe = coalesce(?2, exe), command = coalesce(?3, command), "                  \
                      "allocator = coalesce(?4, allocator), python_version = coalesce(?5, python_version), "           \
                      "parent_process_id = coalesce(nullif(?6, 0), parent_process_id) WHERE process_id = ?1")          \
    X(PROCESS_TOTALS, "UPDATE process SET allocated_blocks = ?2, allocated_bytes = ?3, freed_blocks = ?4, "            \
                      "freed_bytes = ?5, peak_live_bytes = ?6, peak_live_blocks = ?7, live_bytes = ?8, "               \
                      "live_blocks = ?9, mapped_blocks = ?10, mapped_bytes = ?11, unmapped_bytes = ?12, "              \
                      "peak_mapped_bytes = ?13, live_mapped_bytes = ?14, unmatched_frees = ?15, peak_rss_bytes = ?16, " \
                      "overhead_bytes = ?17, lost_events = ?18, python_bytes = ?19, threads = ?20, "                   \
                      "verified_stacks = ?21, thread_waits = ?22 "                                                     \
                      "WHERE process_id = ?1")                                                                         \
    X(PROCESS_END, "UPDATE process SET ended_ns = nullif(?2, -1), end_kind = ?3, exit_status = nullif(?4, -1) WHERE process_id = ?1")          \
    X(MODULE_FIND, "SELECT module_id FROM module WHERE identity = ?1")                                                 \
    X(MODULE_ADD, "INSERT INTO module (identity, path, name) VALUES (?1, ?2, ?3)")                                     \
    X(FRAME_ADD, "INSERT INTO frame (frame_id, module_id, offset) SELECT c0, c1, c2 FROM rows")                        \
    X(FRAME_SCAN, "SELECT f.frame_id, f.module_id, f.offset, "                                                         \
                  "(SELECT min(depth) FROM frame_line AS l WHERE l.frame_id = f.frame_id AND runtime = 0) "             \
                  "FROM frame AS f WHERE frame_id > ?1")                                                               \
    X(LINE_ADD, "INSERT INTO frame_line (frame_id, depth, symbol_id, line, runtime) "                                  \
                "SELECT c0, c1, nullif(c2, 0), nullif(c3, 0), c4 FROM rows")                                           \
    X(SYMBOL_SCAN, "SELECT symbol_id, function, file FROM symbol WHERE symbol_id > ?1")                                \
    X(SYMBOL_IS, "SELECT symbol_id FROM symbol WHERE symbol_id = ?1 AND function IS ?2 AND file IS ?3")                \
    X(SYMBOL_ADD, "INSERT INTO symbol (symbol_id, function, file) VALUES (?1, ?2, ?3)")                                \
    X(STACK_SCAN, "SELECT stack_id, up, frame_id FROM stack WHERE stack_id > ?1")                                      \
    X(STACK_LAST, "SELECT max(stack_id) FROM stack")                                                                   \
    X(STACK_ADD, "INSERT INTO stack (stack_id, up, frame_id) SELECT c0, c1, c2 FROM rows")                             \
    X(HEAP_FIND, "SELECT heap_id FROM heap WHERE name = ?1 AND kind = ?2")                                             \
    X(HEAP_ADD, "INSERT INTO heap (name, kind) VALUES (?1, ?2)")                                                       \
    X(SITE_SCAN, "SELECT site_id, stack_id, heap_id FROM site WHERE site_id > ?1")                                     \
    X(SITE_LAST, "SELECT max(site_id) FROM site")                                                                      \
    X(SITE_ADD, "INSERT INTO site (site_id, stack_id, heap_id, frame_id, depth, folded) "                              \
                "SELECT c0, c1, c2, nullif(c3, 0), c4, c5 FROM rows")                                                  \
    X(FOLDED_SET, "UPDATE process SET folded_sites = ?2, folded_blocks = ?3, folded_bytes = ?4 WHERE process_id = ?1") \
    X(TOTALS_CLEAR, "DELETE FROM site_totals WHERE process_id = ?1")                                                   \
    X(TOTALS_NEW, "INSERT INTO site_totals SELECT ?1, c0, c1, c2, c3, c4, c5, c6, c7, c8, c9, c10, c11, c12 FROM rows") \
    X(TOTALS_ADD, "INSERT INTO site_totals VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14) "      \
                  "ON CONFLICT DO UPDATE SET peak_bytes = peak_bytes + ?3, peak_blocks = peak_blocks + ?4, "           \
                  "live_bytes = live_bytes + ?5, live_blocks = live_blocks + ?6, "                                     \
                  "allocated_bytes = allocated_bytes + ?7, allocated_blocks = allocated_blocks + ?8, "                 \
                  "lifetime_ns_min = CASE WHEN ?9 = 0 THEN lifetime_ns_min WHEN freed_blocks = 0 THEN ?12 "            \
                  "ELSE min(lifetime_ns_min, ?12) END, "                                                               \
                  "freed_blocks = freed_blocks + ?9, temporary_blocks = temporary_blocks + ?10, "                      \
                  "lifetime_ns_sum = lifetime_ns_sum + ?11, lifetime_ns_max = max(lifetime_ns_max, ?13), "             \
                  "own_peak_bytes = own_peak_bytes + ?14")                                                             \
    X(SAMPLE_ADD, "INSERT OR REPLACE INTO sample VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)")                    \
    X(PHASE_ADD, "INSERT OR REPLACE INTO phase VALUES (?1, ?2, ?3, ?4, nullif(?5, -1), ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, "  \
                 "?15, ?16)")                                                                                          \
    X(ITERATION_ADD, "INSERT OR REPLACE INTO iteration VALUES (?1, ?2, ?3, ?4, nullif(?5, -1), ?6, ?7, ?8, ?9, ?10)")              \
    X(MARK_ADD, "INSERT INTO mark (process_id, at_ns, name, live_bytes, rss_bytes) VALUES (?1, ?2, ?3, ?4, ?5)")       \
    X(SNAPSHOT_ADD, "INSERT INTO snapshot (process_id, kind, label, at_ns) VALUES (?1, ?2, ?3, ?4)")                   \
    X(SNAPSHOT_PYTHON, "UPDATE snapshot SET object_bytes = ?1, object_blocks = ?2, arena_object_bytes = ?3, "                \
                       "arena_object_blocks = ?4, arena_bytes = ?5 WHERE snapshot_id = ?6")                                  \
    X(SNAPSHOT_SITES_ADD, "INSERT INTO snapshot_site SELECT ?1, c0, c1, c2, c3, c4 FROM rows WHERE true "              \
                          "ON CONFLICT DO UPDATE SET live_bytes = live_bytes + excluded.live_bytes, "                  \
                          "live_blocks = live_blocks + excluded.live_blocks, "                                         \
                          "allocated_bytes = allocated_bytes + excluded.allocated_bytes, "                             \
                          "allocated_blocks = allocated_blocks + excluded.allocated_blocks")                           \
    X(JUDGED_SET, "INSERT OR REPLACE INTO judged VALUES (?1, ?2, ?3, ?4, ?5, ?6)")                                     \
    X(VERDICT_CLEAR, "DELETE FROM verdict WHERE process_id = ?1")                                                      \
    X(VERDICT_ADD, "INSERT OR REPLACE INTO verdict VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, nullif(?11, 0))")   \
    X(COHORT_CLEAR, "DELETE FROM cohort WHERE process_id = ?1")                                                        \
    X(COHORT_ADD, "INSERT OR REPLACE INTO cohort VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)")                             \
    X(LOSS_SET, "INSERT OR REPLACE INTO loss_count VALUES (?1, ?2, ?3, ?4)")                                           \
    X(LOSS_NOT_DEAD, "DELETE FROM loss_count WHERE run_id = ?1 AND process_id = 0 AND reason = 'reader-gone'")

enum store_statement {
#define STORE_STATEMENT_SYMBOL_(symbol, sql) S_##symbol,
    STORE_STATEMENTS(STORE_STATEMENT_SYMBOL_)
#undef STORE_STATEMENT_SYMBOL_
        S_COUNT
};

struct rows { /* rows.c: the table `rows` */
    const int64_t *values; /* row after row */
    unsigned columns;
    size_t count;
    bool is_unsigned; /* cut at INT64_MAX */
};

struct mt_symbol_module;
struct mt_store {
    sqlite3 *db;
    bool read_only;
    char error[256]; /* when it is not SQLite's */
    sqlite3_stmt *statements[S_COUNT];
    struct rows rows; /* of the statement at hand that inserts from them */
    struct ids ids;
    struct kept_symbols { /* modules with little in them, of any process, open for the next frames (intern.c) */
        char identity[80];
        bool names_only;
        struct mt_symbol_module *module; /* NULL: none */
    } kept_symbols[KEPT_SYMBOLS];
    unsigned kept_next; /* to make room */
};

/* statement.c. Each returns 0 or -errno. */
int store_error_of(struct mt_store *store, int sqlite_rc);
int store_exec(struct mt_store *store, const char *sql);
/*
 * Runs a statement with the values bound by `types`: i int64_t, u uint64_t (cut at INT64_MAX), n int, d double (NULL if it is not
 * finite), t const char * (NULL allowed). store_run expects no row; store_find sets ret_id to column 0 of the first row, or to 0.
 */
int store_run(struct mt_store *store, enum store_statement which, const char *types, ...);
int store_find(struct mt_store *store, int64_t *ret_id, enum store_statement which, const char *types, ...);
/* Runs a statement that inserts from `rows`; its parameters as those of store_run. */
int store_insert(struct mt_store *store, const struct rows *rows, enum store_statement which, const char *types, ...);
/* Calls `row` for each row of a statement whose one parameter is `after`; it returns 0 or -errno. */
int store_scan(struct mt_store *store, enum store_statement which, int64_t after,
    int (*row)(struct mt_store *store, sqlite3_stmt *statement));
/* A transaction of the call's own, unless the caller has one. store_leave ends it: result < 0 takes it back. */
int store_enter(struct mt_store *store, bool *ret_own);
int store_leave(struct mt_store *store, bool own, int result);
void store_finish_statements(struct mt_store *store);

/* rows.c */
int store_rows_module(struct mt_store *store);

/* intern.c */
void store_close_symbols(struct mt_store *store);

/* runtime.c */
bool runtime_module(const char *path, uint32_t flags);
bool runtime_function(const char *function, const char *file);

/* functions.c: median() and the like, for queries. */
int store_functions(sqlite3 *db);

/* open.c: what a database is; -EBADMSG, -EPROTO. */
int store_check(struct mt_store *store, int64_t *ret_version);

#endif

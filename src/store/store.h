/*
 * store: the SQLite database. The only folder that includes sqlite3.h. Schema in schema.sql, migrations numbered,
 * statements prepared, values bound, writes in batches.
 *
 * Units: sizes in bytes; times in ns. started_at is since 1970; every other time (_ns) counts from the start of the run.
 * Identity: a module is (build-id, or path where there is none), a frame is (module, offset), a stack is (parent stack,
 * frame), a site is (stack, heap). Each exists once per database, whatever number of runs mention it.
 *
 * All functions return 0 or -errno (-EBUSY: another writer held the database for longer than the time-out;
 * -ENOSPC, -EROFS, -EACCES, -EIO as SQLite reports them; -EBADMSG: not a memtrace database or damaged;
 * -EPROTO: made by another version of memtrace) and leave ret_ arguments untouched on failure.
 * Not thread-safe: one handle belongs to one thread. Several processes may write to one database.
 */
#ifndef MT_STORE_STORE_H
#define MT_STORE_STORE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct mt_store;

/* Opens for writing; creates the file and the schema. The caller closes with mt_store_close(). */
int mt_store_open(const char *path, struct mt_store **ret_store);

/* Checkpoints, removes -wal and -shm where no one else has the file open, frees. Accepts NULL. */
void mt_store_close(struct mt_store *store);

/* How long a call may wait for another writer before it gives -EBUSY. Default 10 s. */
void mt_store_set_busy_timeout(struct mt_store *store, unsigned timeout_ms);

/* Last error in words, for a log line; owned by the store. */
const char *mt_store_error(const struct mt_store *store);

/* A batch is one transaction (BEGIN IMMEDIATE). Calls outside of a batch commit by themselves. */
int mt_store_begin(struct mt_store *store);
int mt_store_commit(struct mt_store *store);
void mt_store_rollback(struct mt_store *store);

/* ---- runs and processes ------------------------------------------------------------------------------------ */

struct mt_store_run {
    const char *label;   /* NULL: none */
    const char *command; /* the root's command line, words separated by blanks, quoted as a shell needs */
    const char *cwd;
    int64_t started_at_ns;
    int32_t reader_pid; /* who writes: commands that read wait for it (see mt_store_reader_alive) */
    uint64_t reader_start_ticks; /* field 22 of /proc/<pid>/stat, against reused pids */
};

/* Totals of a process or of a whole run. Block and byte totals are of the heaps `malloc` and `python`; mappings and custom
 * heaps are apart (address space is not memory, and a custom heap lies inside other blocks). */
struct mt_store_totals {
    uint64_t allocated_blocks, allocated_bytes, freed_blocks, freed_bytes;
    uint64_t peak_live_bytes, peak_live_blocks;
    uint64_t live_bytes, live_blocks;
    uint64_t mapped_blocks, mapped_bytes, unmapped_bytes, peak_mapped_bytes, live_mapped_bytes;
    uint64_t unmatched_frees; /* frees of blocks that this process did not allocate while traced */
    uint64_t peak_rss_bytes;
    uint64_t overhead_bytes; /* memory that the library itself held in the process */
    uint64_t lost_events;
    uint64_t python_bytes;
    uint64_t threads; /* threads that allocated or freed */
    uint64_t verified_stacks; /* compared with libunwind's */
    uint64_t thread_waits; /* times that a thread waited for room in its ring */
};

enum mt_store_end_kind { /* text in processes.end_kind: running, exit, _exit, abort, signal, exec, lost */
    MT_END_RUNNING = 0,
    MT_END_EXIT,
    MT_END_QUICK_EXIT,
    MT_END_ABORT,
    MT_END_SIGNAL,
    MT_END_EXEC,
    MT_END_UNKNOWN, /* the process is gone, nobody could say how */
};

struct mt_store_process {
    int64_t parent_process_id; /* 0: none */
    int32_t pid;
    const char *exe;
    const char *command;
    int64_t started_ns; /* since the run's start */
    const char *allocator; /* module that serves malloc: libc, jemalloc, ...; NULL: not known */
    const char *python_version;
};

struct mt_store_end {
    int64_t ended_ns;
    enum mt_store_end_kind kind;
    int exit_status; /* 0-255, or 128 + signal; -1: not known */
};

/* The run is written with status `running` until mt_store_run_end(). */
int mt_store_run_begin(struct mt_store *store, const struct mt_store_run *run, int64_t *ret_run_id);

/* status becomes `lossy` if totals->lost_events > 0, else `killed` if the root ended by a signal, else `complete`. */
int mt_store_run_end(
    struct mt_store *store, int64_t run_id, const struct mt_store_totals *totals, const struct mt_store_end *root_end);

int mt_store_process_begin(
    struct mt_store *store, int64_t run_id, const struct mt_store_process *process, int64_t *ret_process_id);

/* exe and command may be NULL (kept). Totals and end may be written more than once: the last one counts. */
int mt_store_process_update(struct mt_store *store, int64_t process_id, const struct mt_store_process *process,
    const struct mt_store_totals *totals, const struct mt_store_end *end);

/* ---- stacks and sites --------------------------------------------------------------------------------------- */

/* A process's modules, frames and nodes, validated by the reader (wire/segment.h says what they mean): parent < node,
 * frame < frame_count, module < module_count. */
struct mt_store_module {
    const char *path; /* "[unknown]" for module 0, "[vdso]" */
    const uint8_t *build_id;
    size_t build_id_bytes; /* 0: none */
    uint32_t flags;        /* enum mt_module_flags */
};

struct mt_store_frame {
    uint64_t offset;
    uint32_t module;
    uint32_t flags; /* enum mt_frame_flags */
};

struct mt_store_node {
    uint32_t parent;
    uint32_t frame;
};

/* What a frame with MT_FRAME_PYTHON means; its module is the file, its offset a hash of function and line. */
struct mt_store_python_line {
    const char *function;
    uint32_t line;
};

struct mt_store_stacks {
    const struct mt_store_module *modules;
    size_t module_count;
    const struct mt_store_frame *frames;
    size_t frame_count;
    const struct mt_store_node *nodes;
    size_t node_count;
    const struct mt_store_python_line *python_lines; /* by frame; NULL: there are no Python frames */
    const uint32_t *python_frames; /* by node: its innermost Python frame + 1, 0: none. With python_lines */
};

/*
 * Gives each of `count` leaf nodes its site in the database, creating modules, frames (resolved to function, file
 * and line through symbol/), stacks and sites that are new. heap is the site's heap: "malloc", "mmap", "python" or a custom name;
 * kind is NULL or tells rows of one heap apart ("file" for file mappings, "backing" for an allocator's own mappings).
 * ret_site_ids has room for count ids. Reading debug information can take seconds: called outside of a batch, that part runs
 * without a lock, so that other writers need not wait for it.
 */
struct mt_store_site_key {
    uint32_t node;
    /* In: the stack need be kept only up to its responsible frame (schema.sql says what folding is). Out: nothing more was kept,
     * because the database does not have the whole stack already, and there are callers. Several keys may then have one site. */
    bool fold;
    const char *heap;
    const char *kind;
};
int mt_store_sites(struct mt_store *store, const struct mt_store_stacks *stacks, struct mt_store_site_key *keys, size_t count,
    int64_t *ret_site_ids);

/*
 * The same for a process that is written more than once: the intern remembers what its tables have become in the database, and a call works
 * on what is new. The tables only grow: nodes, frames and modules keep their numbers (modules may also be put between others, whose paths, told apart
 * as pointers, keep their order; frames then follow). For other tables, another intern; and it goes before its store.
 *
 * Ahead of the process's end a few keys at a time can be given, each with `fold` set. Then nothing is written that would not be at the end where the
 * site is folded; and modules with much debug information are left for the end, with the sites that need it, whose ret_site_ids are left alone.
 */
struct mt_store_intern;
int mt_store_intern_create(struct mt_store *store, struct mt_store_intern **ret_intern);
void mt_store_intern_destroy(struct mt_store_intern *intern); /* accepts NULL */

/* Grows when a transaction is taken back: ids from before may mean nothing. */
unsigned mt_store_generation(const struct mt_store *store);
/* Whether anyone but the intern has added rows since its last call: a site that it was told to be folded may be there whole. */
int mt_store_intern_is_behind(struct mt_store_intern *intern, bool *ret);

enum mt_store_extent {
    MT_STORE_WHOLLY, /* as mt_store_sites() */
    MT_STORE_FRAMES, /* ahead: frames alone, those that are needed whether a site is folded or not */
    MT_STORE_FOLDED, /* ahead: sites, too */
};
int mt_store_sites_with(struct mt_store_intern *intern, const struct mt_store_stacks *stacks, enum mt_store_extent extent,
    struct mt_store_site_key *keys, size_t count, int64_t *ret_site_ids);

struct mt_store_site_totals {
    int64_t site_id;
    uint64_t peak_bytes, peak_blocks; /* live at the process's global peak */
    uint64_t live_bytes, live_blocks;
    uint64_t allocated_bytes, allocated_blocks;
    uint64_t freed_blocks;
    uint64_t temporary_blocks;
    uint64_t lifetime_ns_sum, lifetime_ns_min, lifetime_ns_max; /* of freed blocks; 0 where freed_blocks is 0 */
    uint64_t own_peak_bytes; /* the site's own maximum, whenever it was */
};

/* Replaces what an earlier call wrote for this process. */
int mt_store_site_totals(
    struct mt_store *store, int64_t run_id, int64_t process_id, const struct mt_store_site_totals *rows, size_t count);

/* How many callsites of the process are folded, and what was allocated there. */
struct mt_store_folded {
    uint64_t sites, blocks, bytes;
};
int mt_store_folded(struct mt_store *store, int64_t process_id, const struct mt_store_folded *folded);

/* ---- along the time ------------------------------------------------------------------------------------------ */

struct mt_store_sample { /* memory_samples */
    int64_t at_ns;
    uint64_t live_bytes, python_bytes, mapped_bytes;
    uint64_t rss_bytes, rss_anon_bytes, rss_file_bytes, vms_bytes, overhead_bytes;
};
int mt_store_samples(
    struct mt_store *store, int64_t run_id, int64_t process_id, const struct mt_store_sample *rows, size_t count);

struct mt_store_phase {
    const char *phase, *parent; /* parent NULL: none */
    int64_t started_ns, ended_ns; /* ended_ns -1: never ended */
    uint64_t live_bytes_before, live_bytes_after, peak_live_bytes, allocated_bytes, allocated_blocks;
    uint64_t rss_before, rss_after, vms_before, vms_after, python_bytes_before, python_bytes_after;
};
int mt_store_phase(struct mt_store *store, int64_t run_id, int64_t process_id, const struct mt_store_phase *phase);

struct mt_store_iteration {
    int64_t iteration; /* from 1 */
    const char *label;
    int64_t started_ns, ended_ns;
    uint64_t live_bytes, live_blocks, peak_live_bytes, rss_bytes, vms_bytes; /* at its end */
};
int mt_store_iteration(struct mt_store *store, int64_t run_id, int64_t process_id, const struct mt_store_iteration *row);

/* ---- leaks: cohort.c */

struct mt_store_judged { /* a process whose iterations have been looked at */
    unsigned ends, period;
    bool torn_down;
    size_t tested;
    double floor_bytes;
};

struct mt_store_verdict {
    int64_t site_id;
    const char *verdict, *gate;
    double bytes_per_iteration, ci_low, ci_high, blocks_per_iteration, p_value, q_value; /* not finite: NULL */
    int64_t since; /* 0: NULL */
    /* Arrays of ends + 1 as in live/live.h, or NULL: not worth keeping. */
    const double *live_bytes, *live_blocks, *survivor_bytes, *survivor_blocks, *at_risk, *deaths;
};

/* Replaces what an earlier call wrote for this process, and begins anew; then a call for each verdict. */
int mt_store_judged(struct mt_store *store, int64_t process_id, const struct mt_store_judged *judged);
int mt_store_verdict(struct mt_store *store, int64_t process_id, unsigned ends, const struct mt_store_verdict *verdict);

/* A named instant: memtrace_mark() or `memtrace mark`. Table `marks`. */
int mt_store_mark(struct mt_store *store, int64_t run_id, int64_t process_id, int64_t at_ns, const char *name,
    uint64_t live_bytes, uint64_t rss_bytes);

struct mt_store_snapshot_site {
    int64_t site_id;
    uint64_t live_bytes, live_blocks, allocated_bytes, allocated_blocks;
};
struct mt_store_snapshot_python { /* the view python_heap */
    uint64_t object_bytes, object_blocks, arena_object_bytes, arena_object_blocks, arena_bytes;
};
/* kind: "interval", "mark" or "snapshot" (the kinds "peak" and "exit" of the view come from the site totals). */
int mt_store_snapshot(struct mt_store *store, int64_t run_id, int64_t process_id, const char *kind, const char *label,
    int64_t at_ns, const struct mt_store_snapshot_python *python, const struct mt_store_snapshot_site *rows, size_t count);

/* Adds to the ledger; reason is a name of MT_LOSS_REASONS. Replaces the count of that process and reason. */
int mt_store_loss(struct mt_store *store, int64_t run_id, int64_t process_id, const char *reason, uint64_t count);

/* ---- for commands ------------------------------------------------------------------------------------------------ */

/*
 * Opens an existing database for reading: -ENOENT where there is none. Nothing is ever written through this handle. Runs
 * whose reader is dead appear as `lossy` with the loss reason `reader-gone`, whether or not the file could be repaired.
 */
int mt_store_open_read(const char *path, struct mt_store **ret_store);

/* Ends the runs that are `running` but whose reader is dead: status `lossy`, loss `reader-gone`. mt_store_open() does this. */
int mt_store_repair(struct mt_store *store);

/* Whether the process that wrote these two numbers is still the one with that pid. ticks 0: the pid alone decides. */
bool mt_store_reader_alive(int32_t pid, uint64_t start_ticks);

/* Sets ret_count to the number of runs being written by a living reader; run_id 0: of all runs. */
int mt_store_running(struct mt_store *store, int64_t run_id, int64_t *ret_count);

/*
 * A query, and a cursor over its rows. On a handle for reading, everything but a plain read is refused with -EPERM. A statement
 * that SQLite cannot understand gives -EINVAL; mt_store_error() has SQLite's words. More than one statement: -E2BIG.
 */
struct mt_query;
enum mt_value_kind { MT_VALUE_NULL, MT_VALUE_INTEGER, MT_VALUE_REAL, MT_VALUE_TEXT, MT_VALUE_BLOB };

int mt_query_create(struct mt_store *store, const char *sql, struct mt_query **ret_query);
void mt_query_destroy(struct mt_query *query); /* accepts NULL */
void mt_query_bind_integer(struct mt_query *query, int index, int64_t value); /* index from 1 */
void mt_query_bind_text(struct mt_query *query, int index, const char *value); /* copied */
/* 1: a row; 0: no more; or -errno (-EINTR after mt_store_interrupt()). */
int mt_query_step(struct mt_query *query);
void mt_query_reset(struct mt_query *query); /* to be stepped again, with the values bound */
int mt_query_columns(const struct mt_query *query);
const char *mt_query_name(const struct mt_query *query, int column);
enum mt_value_kind mt_query_kind(struct mt_query *query, int column);
int64_t mt_query_integer(struct mt_query *query, int column);
double mt_query_real(struct mt_query *query, int column);
/* Text of the value as SQLite writes it; NULL for NULL. Valid until the next step. ret_bytes may be NULL. */
const char *mt_query_text(struct mt_query *query, int column, size_t *ret_bytes);
bool mt_query_is_explain(const struct mt_query *query);
/* Makes the call that runs end with -EINTR. The only function that another thread or a signal handler may call. */
void mt_store_interrupt(struct mt_store *store);

#endif

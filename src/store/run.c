/*
 * Runs, processes, the ledger of losses; and the repair of runs whose reader died.
 */
#include "store/internal.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const char *const end_names[] = {[MT_END_RUNNING] = "running",
    [MT_END_EXIT] = "exit",
    [MT_END_QUICK_EXIT] = "_exit",
    [MT_END_ABORT] = "abort",
    [MT_END_SIGNAL] = "signal",
    [MT_END_EXEC] = "exec",
    [MT_END_UNKNOWN] = "lost"};

/* The columns of both tables, in the order of the statements RUN_END and PROCESS_TOTALS. */
#define TOTALS_TYPES "uuuuuuuuuuuuuuuuuuuuu"
#define TOTALS_VALUES(t)                                                                                               \
    (t)->allocated_blocks, (t)->allocated_bytes, (t)->freed_blocks, (t)->freed_bytes, (t)->peak_live_bytes,            \
        (t)->peak_live_blocks, (t)->live_bytes, (t)->live_blocks, (t)->mapped_blocks, (t)->mapped_bytes,               \
        (t)->unmapped_bytes, (t)->peak_mapped_bytes, (t)->live_mapped_bytes, (t)->unmatched_frees,                     \
        (t)->peak_rss_bytes, (t)->overhead_bytes, (t)->lost_events, (t)->python_bytes, (t)->threads,  \
        (t)->verified_stacks, (t)->thread_waits

int mt_store_run_begin(struct mt_store *store, const struct mt_store_run *run, int64_t *ret_run_id)
{
    int r = store_run(store, S_RUN_BEGIN, "tttinu", run->label, run->command, run->cwd, run->started_at_ns,
        (int)run->reader_pid, run->reader_start_ticks);

    if (r == 0)
        *ret_run_id = sqlite3_last_insert_rowid(store->db);
    return r;
}

int mt_store_run_end(
    struct mt_store *store, int64_t run_id, const struct mt_store_totals *totals, const struct mt_store_end *root_end)
{
    const char *status = "complete";
    int r;

    if (root_end->kind == MT_END_RUNNING)
        status = "running";
    else if (totals->lost_events > 0)
        status = "lossy";
    else if (root_end->kind == MT_END_SIGNAL || root_end->kind == MT_END_ABORT)
        status = "killed";
    /* A reader that could not be seen from another pid namespace has been taken for dead there (end_dead()). */
    if (root_end->kind != MT_END_RUNNING && (r = store_run(store, S_LOSS_NOT_DEAD, "i", run_id)) < 0)
        return r;
    /* -1, "not known", becomes NULL in the statements */
    return store_run(store, S_RUN_END, "itin" TOTALS_TYPES, run_id, status, root_end->ended_ns, root_end->exit_status,
        TOTALS_VALUES(totals));
}

int mt_store_process_begin(
    struct mt_store *store, int64_t run_id, const struct mt_store_process *process, int64_t *ret_process_id)
{
    int r = store_run(store, S_PROCESS_BEGIN, "iinttitt", run_id, process->parent_process_id, (int)process->pid,
        process->exe, process->command, process->started_ns, process->allocator, process->python_version);

    if (r == 0)
        *ret_process_id = sqlite3_last_insert_rowid(store->db);
    return r;
}

int mt_store_process_update(struct mt_store *store, int64_t process_id, const struct mt_store_process *process,
    const struct mt_store_totals *totals, const struct mt_store_end *end)
{
    bool own;
    int r = store_enter(store, &own);

    if (r < 0)
        return r;
    if (process)
        r = store_run(store, S_PROCESS_UPDATE, "itttti", process_id, process->exe, process->command, process->allocator,
            process->python_version, process->parent_process_id);
    if (r == 0 && totals)
        r = store_run(store, S_PROCESS_TOTALS, "i" TOTALS_TYPES, process_id, TOTALS_VALUES(totals));
    if (r == 0 && end) {
        unsigned kind = end->kind <= MT_END_UNKNOWN ? end->kind : MT_END_UNKNOWN;
        bool running = kind == MT_END_RUNNING;
        r = store_run(store, S_PROCESS_END, "iitn", process_id, running ? INT64_C(-1) : end->ended_ns, end_names[kind],
            running ? -1 : end->exit_status);
    }
    return store_leave(store, own, r);
}

int mt_store_loss(struct mt_store *store, int64_t run_id, int64_t process_id, const char *reason, uint64_t count)
{
    return store_run(store, S_LOSS_SET, "iitu", run_id, process_id, reason, count);
}

/* ---- dead readers ----------------------------------------------------------------------------------------------- */

bool mt_store_reader_alive(int32_t pid, uint64_t start_ticks)
{
    char path[40], text[1024], *p;
    ssize_t n;
    int fd;

    if (pid <= 0 || (kill(pid, 0) < 0 && errno == ESRCH))
        return false;
    snprintf(path, sizeof(path), "/proc/%d/stat", (int)pid);
    fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return false;
    n = read(fd, text, sizeof(text) - 1);
    close(fd);
    if (n <= 0)
        return false;
    text[n] = '\0';
    p = strrchr(text, ')'); /* behind the name, which may hold anything */
    if (!p || p[1] != ' ' || p[2] == 'Z' || p[2] == 'X')
        return false;
    p += 2;
    for (int field = 3; field < 22 && p; field++)
        p = strchr(p + 1, ' ');
    return p && (start_ticks == 0 || strtoull(p, NULL, 10) == start_ticks);
}

/* Calls `each` for every run with status `running`, with whether its reader lives. */
static int for_running(struct mt_store *store, int64_t run_id,
    int (*each)(struct mt_store *store, int64_t run_id, bool alive, void *argument), void *argument)
{
    sqlite3_stmt *s = NULL;
    int rc, r;

    rc = sqlite3_prepare_v2(store->db,
        "SELECT run_id, reader_pid, reader_start_ticks FROM main.run WHERE status = 'running' AND ?1 IN (0, run_id)", -1,
        &s, NULL);
    r = store_error_of(store, rc);
    if (r < 0)
        return r;
    sqlite3_bind_int64(s, 1, run_id);
    while (r == 0 && (rc = sqlite3_step(s)) == SQLITE_ROW)
        r = each(store, sqlite3_column_int64(s, 0),
            mt_store_reader_alive(sqlite3_column_int(s, 1), (uint64_t)sqlite3_column_int64(s, 2)), argument);
    if (r == 0)
        r = store_error_of(store, rc);
    sqlite3_finalize(s);
    return r;
}

static int count_alive(struct mt_store *store, int64_t run_id, bool alive, void *argument)
{
    (void)store;
    (void)run_id;
    *(int64_t *)argument += alive;
    return 0;
}

int mt_store_running(struct mt_store *store, int64_t run_id, int64_t *ret_count)
{
    int64_t count = 0;
    int r = for_running(store, run_id, count_alive, &count);

    if (r == 0)
        *ret_count = count;
    return r;
}

struct dead_runs {
    int64_t *ids;
    size_t count;
};

static int collect_dead(struct mt_store *store, int64_t run_id, bool alive, void *argument)
{
    struct dead_runs *dead = argument;
    int64_t *bigger;

    (void)store;
    if (alive)
        return 0;
    bigger = reallocarray(dead->ids, dead->count + 1, sizeof(*bigger));
    if (!bigger)
        return -ENOMEM;
    dead->ids = bigger;
    dead->ids[dead->count++] = run_id;
    return 0;
}

/* What happened to the processes is not known; how many events were lost neither, hence a count of 1. */
static int end_dead(struct mt_store *store, int64_t run_id)
{
    char sql[512];

    snprintf(sql, sizeof(sql),
        "UPDATE run SET status = 'lossy' WHERE run_id = %1$lld AND status = 'running';"
        "UPDATE process SET end_kind = 'lost' WHERE run_id = %1$lld AND end_kind = 'running';"
        "INSERT OR IGNORE INTO loss_count VALUES (%1$lld, 0, 'reader-gone', 1);",
        (long long)run_id);
    return store_exec(store, sql);
}

int mt_store_repair(struct mt_store *store)
{
    struct dead_runs dead = {0};
    bool own = false;
    int r = for_running(store, 0, collect_dead, &dead);

    if (r == 0 && dead.count > 0)
        r = store_enter(store, &own);
    for (size_t i = 0; i < dead.count && r == 0; i++)
        r = end_dead(store, dead.ids[i]);
    if (own)
        r = store_leave(store, own, r);
    free(dead.ids);
    return r;
}

/*
 * Everything into the database. A write is one transaction over one or all targets; what it covers is marked as written
 * only after the commit, so a failed one is simply tried again later.
 */
#include "reader/state.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { QUICK_TIMEOUT_MS = 200, END_PATIENCE_MS = 10000, FAULT_PATIENCE_MS = 500, SITES_AT_A_TIME = 256 };

struct loss_name {
    const char *name;
    bool loses; /* events, not only detail */
};
#define KIND_L true
#define KIND_D false
static const struct loss_name loss_names[MT_LOSS_COUNT] = {
#define NAME_(symbol, text, kind, meaning) [MT_LOSS_##symbol] = {text, KIND_##kind},
    MT_LOSS_REASONS(NAME_)
#undef NAME_
};

/* ---- totals ------------------------------------------------------------------------------------------------------ */

static uint64_t lost_by(const struct target *target, unsigned reason)
{
    uint64_t lost = target->header ? mt_load_relaxed(&target->header->lost[reason]) : target->lost[reason];

    if (reason == MT_LOSS_DECODE)
        lost += target->lost_decode + (target->live ? mt_live_totals(target->live)->dropped : 0);
    return lost;
}

static void process_totals(const struct target *target, struct mt_store_totals *ret)
{
    static const struct mt_live_totals none;
    const struct mt_live_totals *t = target->live ? mt_live_totals(target->live) : &none;

    *ret = (struct mt_store_totals){.allocated_blocks = t->allocated_blocks,
        .allocated_bytes = t->allocated_bytes,
        .freed_blocks = t->freed_blocks,
        .freed_bytes = t->freed_bytes,
        .peak_live_bytes = t->peak_live_bytes,
        .peak_live_blocks = t->peak_live_blocks,
        .live_bytes = t->live_bytes,
        .live_blocks = t->live_blocks,
        .mapped_blocks = t->mapped_blocks,
        .mapped_bytes = t->mapped_bytes,
        .unmapped_bytes = t->unmapped_bytes,
        .peak_mapped_bytes = t->peak_mapped_bytes,
        .live_mapped_bytes = t->live_mapped_bytes,
        .unmatched_frees = t->unmatched_frees,
        .peak_rss_bytes = target->peak_rss_bytes,
        .overhead_bytes = target->overhead_bytes,
        .python_bytes = t->python_bytes,
        .threads = t->threads};
    for (unsigned i = 0; i < MT_LOSS_COUNT; i++)
        if (loss_names[i].loses)
            ret->lost_events += lost_by(target, i);
}

static void add_totals(struct mt_store_totals *sum, const struct mt_store_totals *t)
{
    sum->allocated_blocks += t->allocated_blocks;
    sum->allocated_bytes += t->allocated_bytes;
    sum->freed_blocks += t->freed_blocks;
    sum->freed_bytes += t->freed_bytes;
    sum->live_bytes += t->live_bytes;
    sum->live_blocks += t->live_blocks;
    sum->mapped_blocks += t->mapped_blocks;
    sum->mapped_bytes += t->mapped_bytes;
    sum->unmapped_bytes += t->unmapped_bytes;
    sum->live_mapped_bytes += t->live_mapped_bytes;
    sum->unmatched_frees += t->unmatched_frees;
    sum->lost_events += t->lost_events;
    sum->python_bytes += t->python_bytes;
    sum->threads += t->threads;
    /* Maxima of processes that need not have been at the same time: the largest one, a lower bound. */
    if (t->peak_live_bytes > sum->peak_live_bytes) {
        sum->peak_live_bytes = t->peak_live_bytes;
        sum->peak_live_blocks = t->peak_live_blocks;
    }
    if (t->peak_mapped_bytes > sum->peak_mapped_bytes)
        sum->peak_mapped_bytes = t->peak_mapped_bytes;
    if (t->peak_rss_bytes > sum->peak_rss_bytes)
        sum->peak_rss_bytes = t->peak_rss_bytes;
    if (t->overhead_bytes > sum->overhead_bytes)
        sum->overhead_bytes = t->overhead_bytes;
}

static int write_run(struct reader *reader, const struct mt_store_end *end)
{
    struct mt_store_totals sum = reader->done, one;

    for (struct target *t = reader->targets; t; t = t->next) {
        process_totals(t, &one);
        add_totals(&sum, &one);
    }
    if (reader->run_peak_bytes > sum.peak_live_bytes)
        sum.peak_live_bytes = reader->run_peak_bytes;
    if (reader->run_peak_rss_bytes > sum.peak_rss_bytes)
        sum.peak_rss_bytes = reader->run_peak_rss_bytes;
    return mt_store_run_end(reader->store, reader->run_id, &sum, end);
}

/* Which module serves malloc, as far as names tell. NULL: not known (yet). */
static const char *allocator_of(const struct target *target)
{
    static const struct {
        const char *file, *name;
    } known[] = {{"libjemalloc", "jemalloc"}, {"libtcmalloc", "tcmalloc"}, {"libmimalloc", "mimalloc"},
        {"libsnmalloc", "snmalloc"}, {"libhoard", "hoard"}, {"ld-musl", "musl"}, {"libc.so", "libc"}, {"libc-", "libc"}};

    for (size_t k = 0; k < MT_ARRAY_LEN(known); k++) {
        for (size_t i = 0; i < target->tables.module_count; i++) {
            const char *path = target->tables.modules[i].path, *slash = strrchr(path, '/');
            if (!strncmp(slash ? slash + 1 : path, known[k].file, strlen(known[k].file)))
                return known[k].name;
        }
    }
    return NULL;
}

/* ---- one process --------------------------------------------------------------------------------------------------- */

static int begin_process(struct reader *reader, struct target *target)
{
    struct mt_store_process row = {.parent_process_id = target->parent_process_id,
        .pid = target->pid_there,
        .exe = target->exe,
        .command = target->command,
        .started_ns = target->started_ns};
    int err;

    if (target->process_id)
        return 0;
    if (target->parent)
        row.parent_process_id = target->parent->process_id;
    err = mt_store_process_begin(reader->store, reader->run_id, &row, &target->process_id);
    if (err == 0)
        target->begun_now = true;
    return err;
}

/*
 * Database ids for the sites that have none yet, some at a time and each time in a transaction of its own: looking up functions and
 * lines takes long, and other runs want to write, too.
 */
static int find_site_ids(struct reader *reader, struct target *target)
{
    size_t count = mt_live_site_count(target->live), known = 0;
    struct mt_store_site_key *keys;
    int64_t *ids;
    int err;

    if (count > target->site_id_capacity) {
        size_t capacity = count + count / 2;
        ids = reallocarray(target->site_ids, capacity, sizeof(*ids));
        if (!ids)
            return -ENOMEM;
        memset(ids + target->site_id_capacity, 0, (capacity - target->site_id_capacity) * sizeof(*ids));
        target->site_ids = ids;
        target->site_id_capacity = capacity;
    }
    err = tables_update(target);
    if (err < 0)
        return err;
    while (known < count && target->site_ids[known])
        known++;
    keys = calloc(SITES_AT_A_TIME, sizeof(*keys));
    if (!keys)
        return -ENOMEM;
    while (known < count && err == 0) {
        size_t wanted = count - known < SITES_AT_A_TIME ? count - known : SITES_AT_A_TIME;

        for (size_t i = 0; i < wanted; i++) {
            const struct mt_live_site *site = mt_live_site(target->live, known + i);
            keys[i] = (struct mt_store_site_key){.node = site->node < target->tables.node_count ? site->node : 0,
                .heap = mt_live_heap_name(target->live, site->heap),
                .kind = mt_live_kind_name(site->kind)};
        }
        err = mt_store_sites(reader->store,
            &(struct mt_store_stacks){.modules = target->tables.modules,
                .module_count = target->tables.module_count,
                .frames = target->tables.frames,
                .frame_count = target->tables.frame_count,
                .nodes = target->tables.nodes,
                .node_count = target->tables.node_count},
            keys, wanted, target->site_ids + known);
        if (err < 0)
            memset(target->site_ids + known, 0, wanted * sizeof(*target->site_ids));
        known += wanted;
    }
    free(keys);
    return err;
}

static int by_site_id(const void *a, const void *b)
{
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b; /* site_id is the first field of both kinds of row */

    return (x > y) - (x < y);
}
static_assert(offsetof(struct mt_store_site_totals, site_id) == 0, "by_site_id");
static_assert(offsetof(struct mt_store_snapshot_site, site_id) == 0, "by_site_id");

/* Nodes that differ only in which load of a library they saw are one site in the database: their rows are added up. */
static size_t merge_totals(struct mt_store_site_totals *rows, size_t count)
{
    size_t kept = 0;

    qsort(rows, count, sizeof(*rows), by_site_id);
    for (size_t i = 0; i < count; i++) {
        struct mt_store_site_totals *to = kept ? &rows[kept - 1] : NULL, *from = &rows[i];

        if (!to || to->site_id != from->site_id) {
            rows[kept++] = *from;
            continue;
        }
        if (from->freed_blocks && (!to->freed_blocks || from->lifetime_ns_min < to->lifetime_ns_min))
            to->lifetime_ns_min = from->lifetime_ns_min;
        if (from->lifetime_ns_max > to->lifetime_ns_max)
            to->lifetime_ns_max = from->lifetime_ns_max;
        if (from->own_peak_bytes > to->own_peak_bytes)
            to->own_peak_bytes = from->own_peak_bytes;
        to->peak_bytes += from->peak_bytes;
        to->peak_blocks += from->peak_blocks;
        to->live_bytes += from->live_bytes;
        to->live_blocks += from->live_blocks;
        to->allocated_bytes += from->allocated_bytes;
        to->allocated_blocks += from->allocated_blocks;
        to->freed_blocks += from->freed_blocks;
        to->temporary_blocks += from->temporary_blocks;
        to->lifetime_ns_sum += from->lifetime_ns_sum;
    }
    return kept;
}

static int write_site_totals(struct reader *reader, struct target *target)
{
    size_t count = mt_live_site_count(target->live);
    struct mt_store_site_totals *rows = calloc(count ? count : 1, sizeof(*rows));
    int err;

    if (!rows)
        return -ENOMEM;
    for (size_t i = 0; i < count; i++) {
        const struct mt_live_site *site = mt_live_site(target->live, i);
        rows[i] = (struct mt_store_site_totals){.site_id = target->site_ids[i],
            .live_bytes = site->live_bytes,
            .live_blocks = site->live_blocks,
            .allocated_bytes = site->allocated_bytes,
            .allocated_blocks = site->allocated_blocks,
            .freed_blocks = site->freed_blocks,
            .temporary_blocks = site->temporary_blocks,
            .lifetime_ns_sum = ticks_to_ns(reader, target, site->lifetime_sum),
            .lifetime_ns_min = ticks_to_ns(reader, target, site->lifetime_min),
            .lifetime_ns_max = ticks_to_ns(reader, target, site->lifetime_max),
            .own_peak_bytes = site->own_peak_bytes};
        mt_live_site_at_peak(target->live, i, &rows[i].peak_bytes, &rows[i].peak_blocks);
    }
    count = merge_totals(rows, count);
    err = mt_store_site_totals(reader->store, reader->run_id, target->process_id, rows, count);
    free(rows);
    return err;
}

static int write_snapshot(struct reader *reader, struct target *target, const char *kind, const char *label,
    uint64_t stamp, const struct mt_live_row *from, size_t count)
{
    struct mt_store_snapshot_site *rows = calloc(count ? count : 1, sizeof(*rows));
    size_t kept = 0;
    int err;

    if (!rows)
        return -ENOMEM;
    for (size_t i = 0; i < count; i++)
        rows[i] = (struct mt_store_snapshot_site){.site_id = target->site_ids[from[i].site],
            .live_bytes = from[i].live_bytes,
            .live_blocks = from[i].live_blocks,
            .allocated_bytes = from[i].allocated_bytes,
            .allocated_blocks = from[i].allocated_blocks};
    qsort(rows, count, sizeof(*rows), by_site_id);
    for (size_t i = 0; i < count; i++) {
        if (kept && rows[kept - 1].site_id == rows[i].site_id) {
            rows[kept - 1].live_bytes += rows[i].live_bytes;
            rows[kept - 1].live_blocks += rows[i].live_blocks;
            rows[kept - 1].allocated_bytes += rows[i].allocated_bytes;
            rows[kept - 1].allocated_blocks += rows[i].allocated_blocks;
        } else {
            rows[kept++] = rows[i];
        }
    }
    err = mt_store_snapshot(reader->store, reader->run_id, target->process_id, kind, label,
        stamp_to_run_ns(reader, target, stamp), rows, kept);
    free(rows);
    return err;
}

static int write_note(struct reader *reader, struct target *target, const struct mt_live_note *note)
{
    int64_t started = stamp_to_run_ns(reader, target, note->started);
    int64_t ended = note->ended == MT_LIVE_NEVER ? -1 : stamp_to_run_ns(reader, target, note->ended);
    const char *name = note->name ? note->name : "";
    int err;

    switch (note->type) {
    case MT_RECORD_PHASE_END:
        return mt_store_phase(reader->store, reader->run_id, target->process_id,
            &(struct mt_store_phase){.phase = name,
                .parent = note->parent,
                .started_ns = started,
                .ended_ns = ended,
                .live_bytes_before = note->live_before,
                .live_bytes_after = note->live_after,
                .peak_live_bytes = note->peak_live_bytes,
                .allocated_bytes = note->allocated_bytes,
                .allocated_blocks = note->allocated_blocks,
                .rss_before = note->rss_before,
                .rss_after = note->rss_after,
                .vms_before = note->vms_before,
                .vms_after = note->vms_after,
                .python_bytes_before = note->python_before,
                .python_bytes_after = note->python_after});
    case MT_RECORD_ITERATION:
        return mt_store_iteration(reader->store, reader->run_id, target->process_id,
            &(struct mt_store_iteration){.iteration = (int64_t)note->iteration,
                .label = name,
                .started_ns = started,
                .ended_ns = ended,
                .live_bytes = note->live_after,
                .live_blocks = note->live_blocks,
                .peak_live_bytes = note->peak_live_bytes,
                .rss_bytes = note->rss_after,
                .vms_bytes = note->vms_after});
    case MT_RECORD_MARK:
        err = mt_store_mark(reader->store, reader->run_id, target->process_id, started, name, note->live_after,
            note->rss_after);
        if (err < 0)
            return err;
        return write_snapshot(reader, target, "mark", name, note->started, note->rows, note->row_count);
    default:
        return write_snapshot(reader, target, "snapshot", name, note->started, note->rows, note->row_count);
    }
}

/* Adds what live/ has gathered to the notes that wait. */
static int gather_notes(struct target *target)
{
    struct mt_live_note *more, *all;
    size_t count = mt_live_take_notes(target->live, &more);

    if (count == 0)
        return 0;
    all = reallocarray(target->notes, target->note_count + count, sizeof(*all));
    if (!all) {
        mt_live_notes_free(more, count);
        return -ENOMEM;
    }
    memcpy(all + target->note_count, more, count * sizeof(*all));
    free(more);
    target->notes = all;
    target->note_count += count;
    return 0;
}

static int write_along(struct reader *reader, struct target *target)
{
    int err = gather_notes(target);

    for (size_t i = 0; i < target->note_count && err == 0; i++)
        err = write_note(reader, target, &target->notes[i]);
    for (size_t i = 0; i < target->snapshot_count && err == 0; i++) {
        const struct snapshot *s = &target->snapshots[i];
        if (!s->written)
            err = write_snapshot(reader, target, "interval", NULL, s->at, s->rows, s->count);
    }
    return err;
}

static int write_target(struct reader *reader, struct target *target, bool with_sites)
{
    struct mt_store_totals totals;
    struct mt_store_process row = {.parent_process_id = target->parent_process_id,
        .pid = target->pid_there,
        .exe = target->exe,
        .command = target->command,
        .started_ns = target->started_ns};
    int err = 0;

    if (target->parent)
        row.parent_process_id = target->parent->process_id;
    if (target->live && with_sites) {
        target->writing_events = mt_live_totals(target->live)->events;
        if (target->writing_events != target->written_events)
            err = write_site_totals(reader, target);
        if (err == 0)
            err = write_along(reader, target);
    }
    row.allocator = allocator_of(target);
    if (target->samples && err == 0)
        err = mt_store_samples(reader->store, reader->run_id, target->process_id,
            target->samples->rows + target->samples->written, target->samples->count - target->samples->written);
    for (unsigned i = 0; i < MT_LOSS_COUNT && err == 0; i++) {
        uint64_t lost = target->live ? lost_by(target, i) : 0;
        if (lost)
            err = mt_store_loss(reader->store, reader->run_id, target->process_id, loss_names[i].name, lost);
    }
    process_totals(target, &totals);
    if (err == 0)
        err = mt_store_process_update(reader->store, target->process_id, &row, &totals, &target->end);
    return err;
}

/* ---- transactions ---------------------------------------------------------------------------------------------------- */

static void acknowledge(struct target *target, bool with_sites)
{
    if (target->samples)
        target->samples->written = target->samples->count;
    if (!with_sites)
        return;
    target->written_events = target->writing_events;
    mt_live_notes_free(target->notes, target->note_count);
    target->notes = NULL;
    target->note_count = 0;
    for (size_t i = 0; i < target->snapshot_count; i++)
        target->snapshots[i].written = true;
}

static void forget(struct reader *reader, struct target *target)
{
    struct forgotten *f = calloc(1, sizeof(*f));
    struct mt_store_totals totals;

    process_totals(target, &totals);
    add_totals(&reader->done, &totals);
    for (struct target *t = reader->targets; t; t = t->next) {
        if (t->parent == target) {
            t->parent_process_id = target->process_id;
            t->parent = NULL;
        }
    }
    if (f) {
        *f = (struct forgotten){.next = reader->forgotten,
            .process_id = target->process_id,
            .pid_there = target->pid_there,
            .parent_there = target->parent_there,
            .fork_seen = target->fork_seen};
        reader->forgotten = f;
    }
    life_free(target);
}

static void forget_finished(struct reader *reader)
{
    struct target **link = &reader->targets;

    reader->last_target = NULL;
    while (*link) {
        struct target *target = *link;
        if (target->finished) {
            *link = target->next;
            forget(reader, target);
        } else {
            reader->last_target = target;
            link = &target->next;
        }
    }
    reader->finished_since_ns = 0;
}

static int transaction(struct reader *reader, struct target *only, bool with_sites)
{
    static const struct mt_store_end running = {.ended_ns = -1, .kind = MT_END_RUNNING, .exit_status = -1};
    int err = 0;

    for (struct target *t = reader->targets; t && err == 0; t = t->next)
        if ((!only || t == only) && t->live && (with_sites || t->finished))
            err = find_site_ids(reader, t);
    if (err == 0)
        err = mt_store_begin(reader->store);
    if (err < 0)
        return err;
    for (struct target *t = reader->targets; t && err == 0; t = t->next)
        err = begin_process(reader, t);
    for (struct target *t = reader->targets; t && err == 0; t = t->next)
        if (!only || t == only)
            err = write_target(reader, t, with_sites || t->finished);
    if (err == 0)
        err = write_run(reader, reader->root_ended && (reader->expect_end || !life_any_alive(reader)) ? &reader->root_end : &running);
    if (err == 0)
        err = mt_store_commit(reader->store);
    if (err < 0)
        mt_store_rollback(reader->store);
    for (struct target *t = reader->targets; t; t = t->next) {
        if (err < 0) {
            if (t->begun_now)
                t->process_id = 0;
        } else if (!only || t == only) {
            acknowledge(t, with_sites || t->finished);
        }
        t->begun_now = false;
    }
    return err;
}

int write_all(struct reader *reader, struct target *only, bool with_sites, unsigned patience_ms)
{
    uint64_t start = mt_clock_monotonic_ns(), waited_ms;
    int err;

    err = open_wait(reader, patience_ms);
    if (err < 0)
        return err;
    mt_store_set_busy_timeout(reader->store, patience_ms < QUICK_TIMEOUT_MS ? patience_ms : QUICK_TIMEOUT_MS);
    for (;;) {
        err = transaction(reader, only, with_sites);
        waited_ms = (mt_clock_monotonic_ns() - start) / 1000000;
        /* Another writer ends; a full or read-only disk rarely does. */
        if (err == 0 || waited_ms >= (err == -EBUSY || patience_ms < FAULT_PATIENCE_MS ? patience_ms : FAULT_PATIENCE_MS))
            break;
        if (err != -EBUSY)
            usleep(50000);
        mt_fetch_add_relaxed(&reader->doorbell->progress, 1); /* alive, only waiting */
    }
    reader->last_write_ns = mt_clock_monotonic_ns();
    if (err < 0) {
        reader_log(reader, "%s: %s (%s)", reader->database, mt_store_error(reader->store), strerror(-err));
        return err;
    }
    if (!only)
        forget_finished(reader);
    return 0;
}

/* What is not yet written goes to a database of its own, in a place that can be expected to have room. */
static int fall_back(struct reader *reader)
{
    const char *dir = getenv("TMPDIR");
    char *path;
    int err;

    if (asprintf(&path, "%s/memtrace-%d-%d.db", dir && *dir == '/' ? dir : "/tmp", (int)getuid(), (int)getpid()) < 0)
        return -ENOMEM;
    (void)open_wait(reader, END_PATIENCE_MS); /* the thread that opens must have ended */
    mt_store_close(reader->store);
    reader->store = NULL;
    err = mt_store_open(path, &reader->store);
    if (err == 0) {
        for (struct target *t = reader->targets; t; t = t->next) {
            t->process_id = t->parent_process_id = 0;
            t->written_events = UINT64_MAX;
            if (t->samples)
                t->samples->written = 0;
            if (t->site_ids)
                memset(t->site_ids, 0, t->site_id_capacity * sizeof(*t->site_ids));
        }
        err = open_run(reader, reader->store, &reader->run_id);
        if (err == 0)
            err = write_all(reader, NULL, true, 1000);
    }
    if (err == 0)
        reader_log(reader, "the run is in %s instead", path);
    else
        reader_log(reader, "%s: cannot be written either: %s; the run is lost", path, strerror(-err));
    free(path);
    return err;
}

int write_end(struct reader *reader)
{
    int err;

    if (!reader->root_ended) {
        reader->root_ended = true;
        reader->root_end = (struct mt_store_end){
            .ended_ns = (int64_t)(mt_clock_monotonic_ns() - reader->run_start_monotonic_ns),
            .kind = MT_END_UNKNOWN,
            .exit_status = -1};
    }
    err = write_all(reader, NULL, true, END_PATIENCE_MS);
    if (err < 0 && reader->targets)
        err = fall_back(reader);
    mt_store_close(reader->store);
    reader->store = NULL;
    return err;
}

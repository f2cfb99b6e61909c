/*
 * What one process is in the database: its row, sites, samples, phases, snapshots and losses. Called inside of a transaction
 * (commit.c).
 */
#include "reader/groups.h"
#include "reader/python.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

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

const char *loss_name(enum mt_loss_reason reason)
{
    return loss_names[reason].name;
}

static uint64_t lost_by(const struct target *target, unsigned reason)
{
    uint64_t lost = target->header ? mt_load_relaxed(&target->header->lost[reason]) : target->lost[reason];

    if (reason == MT_LOSS_DECODE)
        lost += target->lost_decode + (target->live ? mt_live_totals(target->live)->dropped : 0);
    if (reason == MT_LOSS_STACK_MEMORY)
        lost += target->tables.nodes_lost;
    return lost;
}

void write_totals(const struct target *target, struct mt_store_totals *ret)
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
        .threads = t->threads,
        .verified_stacks = target->header ? mt_load_relaxed(&target->header->captures) : target->captures,
        .thread_waits = target->header ? mt_load_relaxed(&target->header->thread_waits) : target->thread_waits};
    for (unsigned i = 0; i < MT_LOSS_COUNT; i++)
        if (loss_names[i].loses)
            ret->lost_events += lost_by(target, i);
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

int write_begin(struct reader *reader, struct target *target)
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

static int by_site_id(const void *a, const void *b)
{
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b; /* the first field */

    return (x > y) - (x < y);
}
static_assert(offsetof(struct mt_store_snapshot_site, site_id) == 0, "by_site_id");

static int write_snapshot(struct reader *reader, struct target *target, const char *kind, const char *label,
    uint64_t stamp, const struct mt_live_row *from, size_t count, const struct mt_live_python *python)
{
    struct mt_store_snapshot_python heap = {.object_bytes = python->object_bytes,
        .object_blocks = python->object_blocks,
        .arena_object_bytes = python->arena_object_bytes,
        .arena_object_blocks = python->arena_object_blocks,
        .arena_bytes = python->arena_bytes};
    struct mt_store_snapshot_site *rows = calloc(count ? count : 1, sizeof(*rows));
    size_t kept = 0;
    int err;

    if (!rows)
        return -ENOMEM;
    for (size_t i = 0; i < count; i++)
        rows[i] = (struct mt_store_snapshot_site){.site_id = groups_id(target->groups, from[i].site),
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
        stamp_to_run_ns(reader, target, stamp), python->object_blocks ? &heap : NULL, rows, kept);
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
        err = mt_store_phase(reader->store, reader->run_id, target->process_id,
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
        if (err < 0 || !note->row_count)
            return err;
        return write_snapshot(reader, target, "phase", name, note->ended, note->rows, note->row_count, &note->python);
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
        return write_snapshot(reader, target, "mark", name, note->started, note->rows, note->row_count, &note->python);
    default:
        return write_snapshot(reader, target, "snapshot", name, note->started, note->rows, note->row_count, &note->python);
    }
}

int write_gather(struct target *target)
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
    int err = 0;

    for (size_t i = 0; i < target->note_count && err == 0; i++)
        err = write_note(reader, target, &target->notes[i]);
    for (size_t i = 0; i < target->snapshot_count && err == 0; i++) {
        const struct snapshot *s = &target->snapshots[i];
        if (!s->written)
            err = write_snapshot(reader, target, "interval", NULL, s->at, s->rows, s->count, &s->python);
    }
    return err;
}

int write_process(struct reader *reader, struct target *target, bool with_sites)
{
    struct mt_store_totals totals;
    struct mt_store_process row = {.parent_process_id = target->parent_process_id,
        .pid = target->pid_there,
        .exe = target->exe,
        .command = target->command,
        .started_ns = target->started_ns};
    char version[32];
    int err = 0;

    if (target->parent)
        row.parent_process_id = target->parent->process_id;
    if (target->live && with_sites) {
        target->writing_events = mt_live_totals(target->live)->events;
        if (target->writing_events != target->written_events)
            err = sites_write_totals(reader, target);
        if (err == 0)
            err = write_along(reader, target);
        if (err == 0 && write_judges(target) && (!target->judged || target->writing_events != target->written_events))
            err = write_cohorts(reader, target);
    }
    row.allocator = allocator_of(target);
    python_version_text(target, version, sizeof(version));
    row.python_version = version[0] ? version : NULL;
    if (target->samples && err == 0)
        err = mt_store_samples(reader->store, reader->run_id, target->process_id,
            target->samples->rows + target->samples->written, target->samples->count - target->samples->written);
    for (unsigned i = 0; i < MT_LOSS_COUNT && err == 0; i++) {
        uint64_t lost = target->live ? lost_by(target, i) : 0;
        if (lost)
            err = mt_store_loss(reader->store, reader->run_id, target->process_id, loss_names[i].name, lost);
    }
    write_totals(target, &totals);
    if (err == 0)
        err = mt_store_process_update(reader->store, target->process_id, &row, &totals, &target->end);
    return err;
}

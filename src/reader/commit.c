/*
 * Transactions: which processes are written together, what happens when the database will not have them, and the end. What a
 * transaction covers is marked as written only after its commit, so a failed one is simply tried again.
 */
#include "reader/groups.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { QUICK_TIMEOUT_MS = 200, END_PATIENCE_MS = 10000, FAULT_PATIENCE_MS = 500 };

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
    sum->verified_stacks += t->verified_stacks;
    sum->thread_waits += t->thread_waits;
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
    int err = 0;

    for (struct target *t = reader->targets; t; t = t->next) {
        write_totals(t, &one);
        add_totals(&sum, &one);
    }
    sum.lost_events += reader->unattached; /* how many they had is not known */
    if (reader->run_peak_bytes > sum.peak_live_bytes)
        sum.peak_live_bytes = reader->run_peak_bytes;
    if (reader->run_peak_rss_bytes > sum.peak_rss_bytes)
        sum.peak_rss_bytes = reader->run_peak_rss_bytes;
    if (reader->unattached)
        err = mt_store_loss(reader->store, reader->run_id, 0, loss_name(MT_LOSS_ATTACH), reader->unattached);
    return err < 0 ? err : mt_store_run_end(reader->store, reader->run_id, &sum, end);
}

static void acknowledge(struct target *target, bool with_sites)
{
    if (target->samples)
        target->samples->written = target->samples->count;
    if (!with_sites)
        return;
    target->written_events = target->writing_events;
    target->judged = write_judges(target);
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

    write_totals(target, &totals);
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
            err = sites_prepare(reader, t);
    if (err == 0)
        err = mt_store_begin(reader->store);
    if (err < 0)
        return err;
    for (struct target *t = reader->targets; t && err == 0; t = t->next)
        err = write_begin(reader, t);
    for (struct target *t = reader->targets; t && err == 0; t = t->next)
        if (!only || t == only)
            err = write_process(reader, t, with_sites || t->finished);
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
    for (struct target *t = reader->targets; t; t = t->next)
        groups_forget_ids(t);
    mt_store_close(reader->store);
    reader->store = NULL;
    err = mt_store_open(path, &reader->store);
    if (err == 0) {
        for (struct target *t = reader->targets; t; t = t->next) {
            t->process_id = t->parent_process_id = 0;
            t->written_events = t->site_id_events = UINT64_MAX;
            if (t->samples)
                t->samples->written = 0;
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

/*
 * Along the time: what /proc says about a process's memory, beside what the model says; snapshots of the larger sites.
 * Both at an interval that doubles, so that a long run has no more of them than a short one.
 */
#include "reader/state.h"

#include <stdlib.h>
#include <sys/stat.h>

#define FIRST_SAMPLE_NS UINT64_C(10000000)
#define FIRST_SNAPSHOT_NS UINT64_C(1000000000)
enum { PEAK_RSS_EVERY = 16 };

static double tick_ns(const struct reader *reader, const struct target *target)
{
    uint64_t ticks, ns;

    if (!(target->layout.flags & MT_SEGMENT_STAMP_TSC))
        return 1.0;
    ticks = mt_clock_tsc_ordered() - reader->tsc_base;
    ns = mt_clock_monotonic_ns() - reader->tsc_base_ns;
    return ticks > 0 ? (double)ns / (double)ticks : 1.0;
}

uint64_t ticks_to_ns(const struct reader *reader, const struct target *target, uint64_t ticks)
{
    return (uint64_t)((double)ticks * tick_ns(reader, target));
}

uint64_t stamp_now(const struct target *target)
{
    if (target->layout.flags & MT_SEGMENT_STAMP_TSC)
        return mt_clock_tsc_ordered() - target->layout.base_stamp;
    return mt_clock_monotonic_ns() - target->layout.base_monotonic_ns;
}

int64_t stamp_to_run_ns(const struct reader *reader, const struct target *target, uint64_t stamp)
{
    uint64_t limit = mt_clock_monotonic_ns() - reader->run_start_monotonic_ns;
    uint64_t at = target->layout.base_monotonic_ns + ticks_to_ns(reader, target, stamp);

    /* A stamp is what the target says it is: keep it inside of the run. */
    at = at > reader->run_start_monotonic_ns ? at - reader->run_start_monotonic_ns : 0;
    return (int64_t)(at < limit ? at : limit);
}

/* What the target's window on a table has left behind: in the segment, but no longer resident in the target. */
static uint64_t left_behind(uint64_t used_bytes)
{
    return used_bytes > MT_TABLE_WINDOW_BYTES ? used_bytes - MT_TABLE_WINDOW_BYTES : 0;
}

uint64_t sample_overhead(const struct target *target)
{
    const struct mt_segment_header *h = target->header;
    uint64_t bytes = 0, elsewhere;
    struct stat st;

    if (!h)
        return 0;
    if (fstat(target->segment_fd, &st) == 0)
        bytes = (uint64_t)st.st_blocks * 512;
    elsewhere = left_behind(mt_load_relaxed(&h->module_count) * sizeof(struct mt_module)) +
                left_behind(mt_load_relaxed(&h->string_used)) +
                left_behind(mt_load_relaxed(&h->frame_count) * sizeof(struct mt_frame)) +
                left_behind(mt_load_relaxed(&h->code_count) * sizeof(struct mt_code)) + left_behind(mt_load_relaxed(&h->text_used));
    return (bytes > elsewhere ? bytes - elsewhere : 0) + mt_load_relaxed(&h->private_bytes);
}

/* Makes room by dropping every second row that is not in the database yet, and halves the rate. */
static void thin_out(struct samples *s)
{
    size_t keep = s->written;

    if (s->written > SAMPLES_MAX / 2) { /* those can be forgotten: the database has them */
        for (size_t i = s->written; i < s->count; i++)
            s->rows[i - s->written] = s->rows[i];
        s->count -= s->written;
        s->written = 0;
    } else {
        for (size_t i = s->written; i < s->count; i += 2)
            s->rows[keep++] = s->rows[i];
        s->count = keep;
    }
    s->interval_ns *= 2;
}

/* What memtrace_current() waits for. */
static void publish_figures(struct target *target, const struct mt_live_totals *totals, const struct decoded *record)
{
    struct mt_segment_header *header = target->header;
    uint64_t question = record->event.type == MT_RECORD_PHASE_END ? record->event.address : 0;

    if (!header || question <= mt_load_relaxed(&header->figures_sequence))
        return;
    mt_store_relaxed(&header->figures_native, totals->live_bytes - totals->python_bytes);
    mt_store_relaxed(&header->figures_python, totals->python_bytes);
    mt_store_release(&header->figures_sequence, question);
}

void sample_take(struct reader *reader, struct target *target, uint64_t at_stamp, const struct decoded *record)
{
    const struct mt_live_totals *totals = mt_live_totals(target->live);
    struct proc_memory memory = {0};
    struct samples *s = target->samples;

    if (record)
        publish_figures(target, totals, record);
    if (!s)
        return;
    if (proc_memory(target->proc_fd, &memory) < 0 && !(record && record->resident))
        return;
    if (record && record->resident) { /* the target's own reading, at that very moment */
        memory.rss_bytes = record->resident;
        memory.vms_bytes = record->virtual_bytes;
    }
    if (s->taken++ % PEAK_RSS_EVERY == 0) {
        uint64_t peak = proc_peak_rss(target->proc_fd);
        if (peak > target->peak_rss_bytes)
            target->peak_rss_bytes = peak;
    }
    if (memory.rss_bytes > target->peak_rss_bytes)
        target->peak_rss_bytes = memory.rss_bytes;
    target->rss_bytes = memory.rss_bytes;
    target->vms_bytes = memory.vms_bytes;
    target->overhead_bytes = sample_overhead(target);
    if (s->count == SAMPLES_MAX)
        thin_out(s);
    s->rows[s->count++] = (struct mt_store_sample){.at_ns = stamp_to_run_ns(reader, target, at_stamp),
        .live_bytes = totals->live_bytes,
        .python_bytes = totals->python_bytes,
        .mapped_bytes = totals->live_mapped_bytes,
        .rss_bytes = memory.rss_bytes,
        .rss_anon_bytes = memory.rss_anon_bytes,
        .rss_file_bytes = memory.rss_file_bytes,
        .vms_bytes = memory.vms_bytes,
        .overhead_bytes = target->overhead_bytes};
}

static void snapshot_take(struct target *target)
{
    struct snapshot *snapshot;
    uint64_t least = mt_live_totals(target->live)->live_bytes / 1000;

    if (target->snapshot_count == SNAPSHOTS_MAX) {
        /* Every second one goes; a written one stays in the database all the same. */
        size_t keep = 0;
        for (size_t i = 0; i < SNAPSHOTS_MAX; i++) {
            if (i % 2)
                target->snapshots[keep++] = target->snapshots[i];
            else
                free(target->snapshots[i].rows);
        }
        target->snapshot_count = keep;
        target->snapshot_interval_ns *= 2;
    }
    snapshot = &target->snapshots[target->snapshot_count];
    *snapshot = (struct snapshot){.at = target->newest};
    mt_live_python(target->live, &snapshot->python);
    snapshot->rows = mt_live_rows(target->live, least ? least : 1, &snapshot->count);
    if (snapshot->rows)
        target->snapshot_count++;
}

void sample_due(struct reader *reader, struct target *target, uint64_t now_ns)
{
    if (!target->samples) {
        target->samples = calloc(1, sizeof(*target->samples));
        if (!target->samples)
            return;
        target->samples->interval_ns = FIRST_SAMPLE_NS;
        target->snapshot_interval_ns = FIRST_SNAPSHOT_NS;
        target->snapshot_next_ns = now_ns + FIRST_SNAPSHOT_NS;
    }
    if (now_ns >= target->samples->next_ns) {
        sample_take(reader, target, stamp_now(target), NULL);
        target->samples->next_ns = now_ns + target->samples->interval_ns;
    }
    if (now_ns >= target->snapshot_next_ns) {
        snapshot_take(target);
        target->snapshot_next_ns = now_ns + target->snapshot_interval_ns;
    }
}

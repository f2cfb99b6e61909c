/*
 * Phases, iterations, marks and snapshots. The highest total inside of each open phase costs nothing an event: one running
 * maximum is kept, and folded into all that are open whenever one begins or ends.
 */
#include "live/model.h"

#include <stdlib.h>
#include <string.h>

static void fold_window(struct mt_live *live)
{
    for (size_t i = 0; i < live->phase_count; i++)
        if (live->window_peak > live->phases[i].note.peak_live_bytes)
            live->phases[i].note.peak_live_bytes = live->window_peak;
    if (live->iterating && live->window_peak > live->iteration.note.peak_live_bytes)
        live->iteration.note.peak_live_bytes = live->window_peak;
    if (live->window_peak > live->reader_window_peak)
        live->reader_window_peak = live->window_peak;
    live->window_peak = live->totals.live_bytes;
}

uint64_t mt_live_take_window_peak(struct mt_live *live)
{
    uint64_t peak;

    fold_window(live);
    peak = live->reader_window_peak;
    live->reader_window_peak = live->totals.live_bytes;
    return peak;
}

static char *copy_text(const char *text, size_t bytes)
{
    return strndup(text ? text : "", text ? bytes : 0);
}

/* Takes over the note's strings and rows. */
static void note_add(struct mt_live *live, const struct mt_live_note *note)
{
    struct mt_live_note *notes = mt_live_grow(live->notes, live->note_count, &live->note_capacity, sizeof(*notes));

    if (!notes) {
        free(note->name);
        free(note->parent);
        free(note->rows);
        live->totals.dropped++;
        return;
    }
    live->notes = notes;
    notes[live->note_count++] = *note;
}

static void open_begin(struct mt_live *live, struct open_phase *open, const struct mt_live_text_event *event)
{
    *open = (struct open_phase){
        .note = {.type = event->type,
            .name = copy_text(event->text, event->text_bytes),
            .started = event->stamp,
            .ended = MT_LIVE_NEVER,
            .live_before = live->totals.live_bytes,
            .peak_live_bytes = live->totals.live_bytes,
            .python_before = live->totals.python_bytes,
            .rss_before = event->rss_bytes,
            .vms_before = event->vms_bytes},
        .allocated_bytes = live->totals.allocated_bytes,
        .allocated_blocks = live->totals.allocated_blocks};
}

/* The caller has folded the window. */
static void open_end(struct mt_live *live, struct open_phase *open, const struct mt_live_text_event *event)
{
    struct mt_live_note *note = &open->note;

    note->ended = event->stamp;
    note->live_after = live->totals.live_bytes;
    note->live_blocks = live->totals.live_blocks;
    note->python_after = live->totals.python_bytes;
    note->allocated_bytes = live->totals.allocated_bytes - open->allocated_bytes;
    note->allocated_blocks = live->totals.allocated_blocks - open->allocated_blocks;
    note->rss_after = event->rss_bytes;
    note->vms_after = event->vms_bytes;
    note_add(live, note);
}

static void phase_begin(struct mt_live *live, const struct mt_live_text_event *event)
{
    struct open_phase *phases =
        mt_live_grow(live->phases, live->phase_count, &live->phase_capacity, sizeof(*phases));
    struct mt_live_text_event as_phase = *event;

    if (!phases) {
        live->totals.dropped++;
        return;
    }
    live->phases = phases;
    as_phase.type = MT_RECORD_PHASE_END;
    open_begin(live, &phases[live->phase_count], &as_phase);
    if (live->phase_count > 0 && phases[live->phase_count - 1].note.name)
        phases[live->phase_count].note.parent = strdup(phases[live->phase_count - 1].note.name);
    live->phase_count++;
}

/* What the larger callsites hold at the end of a phase: of so many phases, for a program may have any number. */
static void phase_snapshot(struct mt_live *live, struct mt_live_note *note)
{
    uint64_t least = live->totals.live_bytes / 1000;

    if (live->phase_snapshots == PHASE_SNAPSHOTS_MAX)
        return;
    live->phase_snapshots++;
    mt_live_python(live, &note->python);
    note->rows = mt_live_rows(live, least ? least : 1, &note->row_count);
}

/* Ends the innermost open phase of that name; phases of other threads may interleave. An end without a beginning is ignored. */
static void phase_end(struct mt_live *live, const struct mt_live_text_event *event)
{
    size_t bytes = event->text ? strnlen(event->text, event->text_bytes) : 0;

    for (size_t i = live->phase_count; i-- > 0;) {
        const char *name = live->phases[i].note.name;
        if (!name || strlen(name) != bytes || memcmp(name, event->text, bytes) != 0)
            continue;
        phase_snapshot(live, &live->phases[i].note);
        open_end(live, &live->phases[i], event);
        memmove(&live->phases[i], &live->phases[i + 1], (live->phase_count - i - 1) * sizeof(live->phases[0]));
        live->phase_count--;
        return;
    }
}

static void iteration_next(struct mt_live *live, const struct mt_live_text_event *event)
{
    if (live->iterating)
        open_end(live, &live->iteration, event);
    mt_live_cohorts_next(live);
    open_begin(live, &live->iteration, event);
    live->iteration.note.iteration = ++live->iterations;
    live->iterating = true;
}

static void instant(struct mt_live *live, const struct mt_live_text_event *event)
{
    struct mt_live_note note = {.type = event->type,
        .name = copy_text(event->text, event->text_bytes),
        .started = event->stamp,
        .ended = event->stamp,
        .live_before = live->totals.live_bytes,
        .live_after = live->totals.live_bytes,
        .live_blocks = live->totals.live_blocks,
        .peak_live_bytes = live->totals.live_bytes,
        .python_before = live->totals.python_bytes,
        .python_after = live->totals.python_bytes,
        .rss_before = event->rss_bytes,
        .rss_after = event->rss_bytes,
        .vms_before = event->vms_bytes,
        .vms_after = event->vms_bytes};

    mt_live_python(live, &note.python);
    note.rows = mt_live_rows(live, 0, &note.row_count);
    note_add(live, &note);
}

void mt_live_text(struct mt_live *live, const struct mt_live_text_event *event)
{
    fold_window(live);
    switch (event->type) {
    case MT_RECORD_PHASE_BEGIN:
        phase_begin(live, event);
        break;
    case MT_RECORD_PHASE_END:
        phase_end(live, event);
        break;
    case MT_RECORD_ITERATION:
        iteration_next(live, event);
        break;
    case MT_RECORD_MARK:
    case MT_RECORD_SNAPSHOT:
        instant(live, event);
        break;
    default:
        break;
    }
}

void mt_live_finish(struct mt_live *live, uint64_t stamp, uint64_t rss_bytes, uint64_t vms_bytes)
{
    struct mt_live_text_event event = {.stamp = stamp, .rss_bytes = rss_bytes, .vms_bytes = vms_bytes};

    fold_window(live);
    if (live->iterating) {
        mt_live_cohorts_finish(live);
        open_end(live, &live->iteration, &event);
        live->iteration.note.name = NULL;
        live->iterating = false;
    }
    for (size_t i = 0; i < live->phase_count; i++) {
        open_end(live, &live->phases[i], &event);
        if (live->note_count)
            live->notes[live->note_count - 1].ended = MT_LIVE_NEVER;
    }
    live->phase_count = 0;
}

size_t mt_live_take_notes(struct mt_live *live, struct mt_live_note **ret_notes)
{
    size_t count = live->note_count;

    *ret_notes = live->notes;
    live->notes = NULL;
    live->note_count = live->note_capacity = 0;
    return count;
}

void mt_live_notes_free(struct mt_live_note *notes, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        free(notes[i].name);
        free(notes[i].parent);
        free(notes[i].rows);
    }
    free(notes);
}

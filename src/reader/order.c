/*
 * Rings to records in their true order. wire/ring.h explains the horizon and its proof; in short: records below it, merged
 * by stamp, are in the order in which things happened to every address.
 *
 * Records are copied out of the ring before they are decoded, so that what was checked is what is used, and so that room is given
 * back early.
 */
#include "reader/batch.h"

#include <linux/futex.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#define STAMP_MAX (UINT64_MAX >> 8) /* a target could claim any: differences and sums must not overflow */

static void give_back(struct ring *ring)
{
    mt_store_release(&ring->shared->tail, ring->tail); /* R2 */
    mt_fence_seq_cst(); /* R4: the store of tail before the load of waiting, against the writer's opposite order */
    if (MT_UNLIKELY(mt_load_relaxed(&ring->shared->waiting))) {
        mt_fetch_add_acq_rel(&ring->shared->tail_signal, 1);
        syscall(SYS_futex, &ring->shared->tail_signal, FUTEX_WAKE, INT32_MAX, NULL, NULL, 0);
    }
}

/* Copies the next words of [tail, limit) behind those not yet decoded. */
static void refill(struct ring *ring)
{
    uint64_t left = ring->used - ring->at, wanted = ring->limit - ring->tail, at, first;

    if (!ring->buffer) {
        ring->buffer = malloc(CHUNK_WORDS * sizeof(uint64_t));
        if (!ring->buffer)
            return; /* the records stay in the ring: tried again in the next round */
    }
    memmove(ring->buffer, ring->buffer + ring->at, left * sizeof(uint64_t));
    ring->at = 0;
    if (wanted > CHUNK_WORDS - left)
        wanted = CHUNK_WORDS - left;
    at = ring->tail & (ring->capacity - 1);
    first = wanted < ring->capacity - at ? wanted : ring->capacity - at;
    memcpy(ring->buffer + left, ring->words + at, first * sizeof(uint64_t));
    memcpy(ring->buffer + left + first, ring->words, (wanted - first) * sizeof(uint64_t));
    ring->used = (uint32_t)(left + wanted);
    ring->tail += wanted;
    give_back(ring);
}

/* What cannot be understood cannot be skipped by a length either: everything the ring holds so far is given up. */
static void give_up(struct drain *d, struct ring *ring)
{
    d->target->lost_decode++;
    ring->at = ring->used = 0;
    ring->record_words = 0;
    ring->tail = ring->limit;
    give_back(ring);
}

/* decode_length() of the kinds of records that nearly all are, without a call; 0: of others, or where there are too few words. */
static MT_ALWAYS_INLINE uint32_t length_of(const uint64_t *words, uint64_t left)
{
    uint32_t type, stamped, push, length;

    if (MT_UNLIKELY(left < 3))
        return 0;
    type = (uint32_t)(words[0] & MT_RECORD_TYPE_MASK);
    stamped = !!(words[0] & MT_RECORD_STAMPED);
    if (type == MT_RECORD_FREE || type == MT_RECORD_OBJECT_FREE || type == MT_RECORD_PYTHON_STEP)
        return 1 + stamped;
    if (type == MT_RECORD_OBJECT_ALLOC)
        return 2 + stamped;
    if (type == MT_RECORD_ALLOC)
        push = words[1 + stamped] & UINT16_MAX;
    else if (type == MT_RECORD_PYTHON_STACK)
        push = (uint32_t)words[1 + stamped];
    else
        return 0;
    length = 2 + stamped + (push + 1) / 2;
    return push <= MT_RECORD_PUSH_MAX && length <= left ? length : 0;
}

/* The length of a record of which not all is in the buffer yet, or which is a rare one; 0: there is none up to the ring's limit. */
static MT_NOINLINE uint32_t length_of_next(struct drain *d, struct ring *ring)
{
    uint64_t left;
    uint32_t length;

    for (;;) {
        left = ring->used - ring->at;
        length = left ? decode_length(ring->buffer + ring->at, left) : 0;
        if (length)
            return length;
        if (ring->tail == ring->limit || left == CHUNK_WORDS) {
            if (left)
                give_up(d, ring);
            return 0;
        }
        refill(ring);
        if (ring->used == ring->at)
            return 0;
    }
}

/* Finds the ring's next record; false if there is none up to its limit. */
static MT_ALWAYS_INLINE bool next_record(struct drain *d, struct ring *ring)
{
    uint64_t stamp;

    ring->record_words = length_of(ring->buffer + ring->at, ring->used - ring->at);
    if (MT_UNLIKELY(!ring->record_words)) {
        ring->record_words = length_of_next(d, ring);
        if (!ring->record_words)
            return false;
    }
    if (MT_LIKELY(!(ring->buffer[ring->at] & MT_RECORD_STAMPED)))
        stamp = ring->empty_at; /* it was published after that */
    else
        stamp = ring->buffer[ring->at + 1] & STAMP_MAX;
    ring->record_stamp = stamp > ring->newest ? stamp : ring->newest;
    return true;
}

static void apply_special(struct drain *d, struct ring *ring, struct decoded *record)
{
    struct target *target = d->target;
    uint32_t type = record->event.type;

    batch_flush(d);
    switch (type) {
    case MT_RECORD_HEAP_CREATE:
        mt_live_heap_create(target->live, record->event.address, record->text, record->text_bytes);
        break;
    case MT_RECORD_MARK:
    case MT_RECORD_PHASE_BEGIN:
    case MT_RECORD_PHASE_END:
    case MT_RECORD_ITERATION:
    case MT_RECORD_SNAPSHOT:
        mt_live_text(target->live,
            &(struct mt_live_text_event){.type = type,
                .stamp = record->event.stamp,
                .text = record->text,
                .text_bytes = record->text_bytes,
                .rss_bytes = record->resident,
                .vms_bytes = record->virtual_bytes});
        sample_take(d->reader, target, record->event.stamp, record);
        break;
    case MT_RECORD_THREAD: {
        uint32_t thread = mt_live_thread(target->live);
        if (thread != UINT32_MAX)
            ring->thread = thread;
        break;
    }
    default:
        life_record(d->reader, target, ring, record);
        break;
    }
}

static enum ring_stack_kind stack_of(uint32_t type)
{
    return type == MT_RECORD_PYTHON_STACK || type == MT_RECORD_PYTHON_STEP ? STACK_PYTHON : type == MT_RECORD_INNER_STACK ? STACK_INNER : STACK_NATIVE;
}

static bool is_plain(uint32_t type)
{
    return (type >= MT_RECORD_ALLOC && type <= MT_RECORD_HEAP_FREE);
}

static bool is_no_event(uint32_t type)
{
    switch (type) {
    case MT_RECORD_STACK:
    case MT_RECORD_PYTHON_STACK:
    case MT_RECORD_PYTHON_STEP:
    case MT_RECORD_INNER_STACK:
    case MT_RECORD_TIME:
        return true;
    default:
        return false;
    }
}

/* Records that are rarer than blocks coming and going. */
static MT_NOINLINE void take_other(struct drain *d, struct ring *ring, uint64_t stamp)
{
    struct decoded record;
    bool understood = decode_record(ring->buffer + ring->at, ring->record_words, &record), plain;

    plain = understood && is_plain(record.event.type);
    if (MT_UNLIKELY(!understood)) {
        d->target->lost_decode++;
        if (!record.frames || record.event.type == MT_RECORD_INNER_STACK)
            return; /* else the change is good, whatever the event is */
    }
    if (record.event.type == MT_RECORD_OBJECT_REALLOC_END)
        use_inner(d, ring, record.number);
    else if (record.frames && (record.event.type != MT_RECORD_INNER_STACK || ring->inner || batch_make_inner(d, ring)))
        change_stack(d, ring, stack_of(record.event.type), record.number, record.keep, record.push, record.frames, plain);
    if (MT_UNLIKELY(!understood))
        return;
    record.event.thread = ring->thread;
    record.event.stamp = stamp;
    if (plain)
        d->events[d->event_count++] = record.event;
    else if (!is_no_event(record.event.type))
        apply_special(d, ring, &record);
}

static MT_ALWAYS_INLINE bool is_frequent(uint32_t type)
{
    return type == MT_RECORD_ALLOC || type == MT_RECORD_FREE || type == MT_RECORD_OBJECT_ALLOC || type == MT_RECORD_OBJECT_FREE;
}

/* Applies the record at hand and moves on behind it. */
static MT_ALWAYS_INLINE void take_record(struct drain *d, struct ring *ring)
{
    struct target *target = d->target;
    const uint64_t *words = ring->buffer + ring->at;
    uint64_t stamp = d->stamps_are_times ? ring->record_stamp : d->now_stamp, address = words[0] >> MT_RECORD_OPERAND_SHIFT;
    uint32_t type = (uint32_t)(words[0] & MT_RECORD_TYPE_MASK);
    struct mt_event *event;

    if (MT_UNLIKELY(target->exec_ring == ring)) { /* the thread lives on: its exec failed */
        target->exec_seen = false;
        target->exec_ring = NULL;
    }
    if (stamp > target->newest)
        target->newest = stamp;
    if (MT_LIKELY(is_frequent(type)) && MT_LIKELY(address)) {
        uint64_t what = 0;

        if (type == MT_RECORD_ALLOC || type == MT_RECORD_OBJECT_ALLOC) {
            const uint64_t *fixed = words + 1 + !!(words[0] & MT_RECORD_STAMPED);

            what = *fixed;
            if (type == MT_RECORD_OBJECT_ALLOC)
                use_inner(d, ring, (uint32_t)what);
            else
                change_stack(d, ring, STACK_NATIVE, 0, (uint32_t)(what >> 16) & UINT16_MAX, (uint32_t)what & UINT16_MAX, fixed + 1, true);
        }
        event = &d->events[d->event_count++];
        event->stamp = stamp;
        event->address = address;
        event->size = what >> 32;
        event->node = 0;
        event->extra = 0;
        event->thread = ring->thread;
        event->type = type;
    } else if (MT_LIKELY(type == MT_RECORD_PYTHON_STEP)) {
        uint64_t step = words[0] >> MT_RECORD_OPERAND_SHIFT, frame = step >> 16 & UINT32_MAX;

        change_stack(d, ring, STACK_PYTHON, 0, (uint32_t)step & UINT16_MAX, 1, &frame, false);
    } else if (MT_LIKELY(type == MT_RECORD_PYTHON_STACK)) {
        const uint64_t *change = words + 1 + !!(words[0] & MT_RECORD_STAMPED);

        change_stack(d, ring, STACK_PYTHON, 0, (uint32_t)(*change >> 32), (uint32_t)*change, change + 1, false);
    } else {
        take_other(d, ring, stamp);
    }
    if (MT_UNLIKELY(d->event_count == BATCH_EVENTS))
        batch_flush(d);
    ring->newest = ring->record_stamp;
    ring->at += ring->record_words;
    ring->record_words = 0;
    d->applied++;
}

/* ---- merge ----------------------------------------------------------------------------------------------------- */

static bool takes_away(const struct ring *ring)
{
    switch (ring->buffer[ring->at] & MT_RECORD_TYPE_MASK) {
    case MT_RECORD_FREE:
    case MT_RECORD_REALLOC_BEGIN:
    case MT_RECORD_OBJECT_FREE:
    case MT_RECORD_OBJECT_REALLOC_BEGIN:
    case MT_RECORD_UNMAP_BEGIN:
    case MT_RECORD_REMAP_BEGIN:
    case MT_RECORD_HEAP_FREE:
        return true;
    default:
        return false;
    }
}

/* Of two equal stamps a free comes first: an address is free before it is handed out again. */
static bool before(const struct ring *a, const struct ring *b)
{
    if (a->record_stamp != b->record_stamp)
        return a->record_stamp < b->record_stamp;
    return takes_away(a) && !takes_away(b);
}

static void sift_down(struct drain *d, size_t i)
{
    struct ring *ring = d->heap[i];

    for (;;) {
        size_t child = 2 * i + 1;
        if (child >= d->heap_count)
            break;
        if (child + 1 < d->heap_count && before(d->heap[child + 1], d->heap[child]))
            child++;
        if (!before(d->heap[child], ring))
            break;
        d->heap[i] = d->heap[child];
        i = child;
    }
    d->heap[i] = ring;
}

/*
 * A ring of which everything published has been applied, with a record in flight: that record's stamp is above the last
 * published one, and not below the time at which the ring was last seen idle. So much is certain up to there.
 */
static void ring_is_empty(struct drain *d, const struct ring *ring)
{
    uint64_t certain = ring->idle_at > ring->newest ? ring->idle_at - 1 : ring->newest;

    if (ring->busy && certain < d->horizon)
        d->horizon = certain;
}

static void merge(struct drain *d)
{
    for (size_t i = d->heap_count; i-- > 0;)
        sift_down(d, i);
    while (d->heap_count > 0 && d->applied < d->budget) {
        struct ring *ring = d->heap[0];
        const struct ring *second = NULL;

        if (ring->record_stamp > d->horizon)
            break;
        if (d->heap_count > 1) {
            second = d->heap[1];
            if (d->heap_count > 2 && before(d->heap[2], second))
                second = d->heap[2];
        }
        /* As long as this ring is first, no other needs to be looked at. */
        do {
            take_record(d, ring);
            if (!next_record(d, ring)) {
                ring_is_empty(d, ring);
                d->heap[0] = d->heap[--d->heap_count];
                break;
            }
        } while (ring->record_stamp <= d->horizon && (!second || before(ring, second)) && d->applied < d->budget);
        if (d->heap_count > 0)
            sift_down(d, 0);
    }
}

/* ---- rounds ---------------------------------------------------------------------------------------------------- */

bool order_pending(const struct target *target)
{
    if (!target->header)
        return false;
    for (size_t i = 0; i < target->ring_count; i++) {
        const struct ring *ring = target->rings[i];
        if (!ring->bad && (ring->at != ring->used || ring->tail != mt_load_acquire(&ring->shared->head)))
            return true;
    }
    return mt_load_acquire(&target->header->ring_count) > target->ring_count;
}

static bool events_are_missing(const struct target *target)
{
    const uint64_t *lost = target->header->lost;

    return mt_load_relaxed(&lost[MT_LOSS_READER_GONE]) + mt_load_relaxed(&lost[MT_LOSS_RING_MEMORY]) +
               mt_load_relaxed(&lost[MT_LOSS_NESTED]) >
           0;
}

size_t order_drain(struct reader *reader, struct target *target, size_t budget)
{
    struct ring *few[16];
    struct drain d; /* 60 KiB: not worth clearing every round */

    if (!target->header)
        return 0;
    if (events_are_missing(target))
        mt_live_distrust(target->live, target->newest);
    d.reader = reader;
    d.target = target;
    d.budget = budget;
    d.applied = d.event_count = d.heap_count = d.change_count = d.pair_count = d.frame_count = 0;
    if (stacks_init(&target->tables) < 0)
        return 0;
    d.now_stamp = 0;
    d.horizon = horizon_find(target);
    d.stamps_are_times = target->layout.flags & MT_SEGMENT_STAMP_TSC;
    if (!d.stamps_are_times)
        d.now_stamp = stamp_now(target);
    d.heap = target->ring_count <= MT_ARRAY_LEN(few) ? few : malloc(target->ring_count * sizeof(*d.heap));
    if (!d.heap)
        return 0;
    for (size_t i = 0; i < target->ring_count; i++) {
        struct ring *ring = target->rings[i];
        if (ring->bad)
            continue;
        if ((ring->at != ring->used || ring->tail != ring->limit) && next_record(&d, ring))
            d.heap[d.heap_count++] = ring;
        else
            ring_is_empty(&d, ring);
    }
    merge(&d);
    batch_flush(&d);
    if (d.heap != few)
        free(d.heap);
    return d.applied;
}

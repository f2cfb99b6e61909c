/*
 * A batch of decoded records, on the way from their order to live/: what it costs to find the nodes of their stacks is mostly waiting for memory, so it is done in
 * steps for many at once (stacks.c).
 */
#ifndef MT_READER_BATCH_H
#define MT_READER_BATCH_H

#include "reader/python.h"

struct drain {
    struct reader *reader;
    struct target *target;
    uint64_t horizon; /* records up to this stamp, inclusive, are in order */
    uint64_t now_stamp; /* for segments whose stamps are not times */
    bool stamps_are_times;
    size_t applied, budget;
    struct mt_event events[BATCH_EVENTS];
    size_t event_count;
    struct stack_change changes[BATCH_CHANGES];
    size_t change_count;
    struct pair {
        uint64_t hash;
        uint32_t native, python, event;
    } pairs[BATCH_EVENTS];
    size_t pair_count;
    uint32_t frames[BATCH_FRAMES];
    size_t frame_count;
    struct ring **heap; /* rings with a record at hand, least stamp first */
    size_t heap_count;
};

/* Finds the nodes of the batch's stacks and applies its events. */
void batch_flush(struct drain *d);

/* A ring's inner stacks are empty until they are told. False: no memory. */
bool batch_make_inner(struct drain *d, struct ring *ring);

static MT_ALWAYS_INLINE uint32_t alike(struct target *target, uint32_t frame)
{
    const struct tables *t = &target->tables;

    if (MT_UNLIKELY(frame >= t->alike_count) && (python_alike_update(target) < 0 || frame >= t->alike_count))
        return frame;
    return t->alike[frame];
}

/* The record's change to its ring's stack; the node is found when the batch is applied. */
static MT_ALWAYS_INLINE void change_stack(struct drain *d, struct ring *ring, enum ring_stack_kind kind, uint32_t number, uint32_t keep, uint32_t push,
    const uint64_t *words, bool has_event)
{
    struct stack_change *change;
    uint64_t frame_capacity = d->target->layout.frame_capacity;
    uint32_t *frames;
    int err;

    if (MT_UNLIKELY(d->frame_count + push > BATCH_FRAMES || d->change_count == BATCH_CHANGES))
        batch_flush(d);
    frames = d->frames + d->frame_count;
    for (uint32_t i = 0; i < push; i++) {
        frames[i] = (uint32_t)(words[i / 2] >> (i % 2 * 32));
        if (MT_UNLIKELY(frames[i] >= frame_capacity)) {
            frames[i] = 0;
            d->target->lost_decode++;
        }
        if (kind != STACK_NATIVE)
            frames[i] = alike(d->target, frames[i]);
    }
    change = &d->changes[d->change_count];
    *change = (struct stack_change){.stack = &ring->stacks[kind],
        .ring = ring,
        .kind = kind,
        .number = number,
        .keep = keep,
        .push = push,
        .frames = (uint32_t)d->frame_count,
        .event = has_event ? (uint32_t)d->event_count : BATCH_EVENTS};
    err = stacks_change(&d->target->tables, &ring->stacks[kind], change, frames);
    if (MT_UNLIKELY(err < 0)) {
        d->target->lost_decode++; /* the event has the empty stack */
        return;
    }
    d->frame_count += push;
    d->change_count++;
}

/* The event that comes next has the inner stack of this number. */
static MT_ALWAYS_INLINE void use_inner(struct drain *d, struct ring *ring, uint32_t number)
{
    if (MT_UNLIKELY(number >= MT_RECORD_INNER_STACKS)) {
        d->target->lost_decode++; /* the event has the empty stack */
        return;
    }
    if (MT_UNLIKELY(!ring->inner) && !batch_make_inner(d, ring))
        return;
    if (MT_UNLIKELY(d->change_count == BATCH_CHANGES))
        batch_flush(d);
    d->changes[d->change_count++] =
        (struct stack_change){.stack = NULL, .ring = ring, .number = number, .event = (uint32_t)d->event_count};
}

#endif

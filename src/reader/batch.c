/*
 * The steps of a batch (batch.h): the stacks in the order of their records, then the pairs of a native and a Python stack, then the events.
 */
#include "reader/batch.h"

#include <stdlib.h>

enum { NODE_AHEAD = 6 }; /* changes between asking for a node and comparing its frames */

static void found_node(struct drain *d, uint32_t event, uint32_t node)
{
    d->events[event].node = node;
    mt_live_prefetch_node(d->target->live, d->events[event].type, node);
}

/* Callsites with a Python stack, too: the same two steps as for their stacks. */
static void flush_pairs(struct drain *d)
{
    struct tables *tables = &d->target->tables;

    for (size_t i = 0; i < d->pair_count; i++) {
        const struct pair *pair = &d->pairs[i];

        if (i + NODE_AHEAD < d->pair_count)
            stacks_prefetch(tables, pair[NODE_AHEAD].hash);
        found_node(d, pair->event, stacks_pair(tables, pair->hash, pair->native, pair->python));
    }
    d->pair_count = 0;
}

/* The node of an event's native or inner stack is found; if there is a Python stack, too, the pair's is to be. */
static MT_ALWAYS_INLINE void found_stack(struct drain *d, const struct stack_change *change, uint64_t hash, uint32_t node)
{
    const struct tables *tables = &d->target->tables;
    uint32_t python = change->ring->python_node;

    if (MT_LIKELY(!python)) {
        found_node(d, change->event, node);
        return;
    }
    hash = stacks_pair_hash(hash, python);
    d->pairs[d->pair_count++] = (struct pair){hash, node, python, change->event};
    mt_prefetch(&tables->slots[hash & tables->slot_mask]);
}

void batch_flush(struct drain *d)
{
    struct tables *tables = &d->target->tables;

    mt_live_expect(d->target->live, d->events, d->event_count);
    for (size_t i = 0; i < d->change_count; i++) {
        const struct stack_change *change = &d->changes[i];
        struct inner_stack *inner;
        uint32_t node;

        if (i + NODE_AHEAD < d->change_count && change[NODE_AHEAD].stack)
            stacks_prefetch(tables, change[NODE_AHEAD].hash);
        if (!change->stack) {
            inner = &change->ring->inner[change->number];
            found_stack(d, change, inner->node ? inner->hash : EMPTY_HASH, inner->node);
            continue;
        }
        node = stacks_resolve(tables, change->stack, change, d->frames + change->frames);
        if (change->kind == STACK_PYTHON)
            change->ring->python_node = node;
        else if (MT_UNLIKELY(change->kind == STACK_INNER))
            change->ring->inner[change->number] = (struct inner_stack){change->hash, node};
        else if (MT_LIKELY(change->event < BATCH_EVENTS))
            found_stack(d, change, change->hash, node);
    }
    flush_pairs(d);
    mt_live_apply(d->target->live, d->events, d->event_count);
    d->event_count = d->change_count = d->frame_count = 0;
}

bool batch_make_inner(struct drain *d, struct ring *ring)
{
    ring->inner = calloc(MT_RECORD_INNER_STACKS, sizeof(*ring->inner));
    if (!ring->inner)
        d->target->lost_decode++;
    return ring->inner != NULL;
}

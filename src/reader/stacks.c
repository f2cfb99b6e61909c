/*
 * Stacks: what rings say as changes (wire/record.h) becomes nodes of a prefix tree, (parent, frame) -> node. parent(node) < node.
 *
 * In two steps, so that the misses in the processor's caches of many events overlap. stacks_change(), as records are decoded, works out a hash of
 * the whole stack from the one kept for each depth, and asks for the slot where its node would be. stacks_resolve(), a batch later, finds the
 * node there. The hash only says where to look: a node is the right one if its frames and its ancestor at `keep` are those of the ring's stack.
 */
#include "reader/state.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum {
    FIRST_SLOTS = 1024,
    FIRST_DEPTH = 64,
    DEPTH_MAX = 1 << 20,  /* a target could claim any */
    NODES_MAX = 1 << 28,
};

static MT_ALWAYS_INLINE uint64_t mix(uint64_t hash, uint32_t frame)
{
    hash = (hash + frame + 1) * UINT64_C(0x9e3779b97f4a7c15);
    return hash ^ hash >> 29;
}

static int grow_depth(struct ring_stack *stack, uint32_t depth)
{
    uint32_t capacity = stack->capacity ? stack->capacity : FIRST_DEPTH;
    uint64_t *hashes;
    uint32_t *nodes;

    if (depth > DEPTH_MAX)
        return -E2BIG;
    while (capacity <= depth)
        capacity *= 2;
    hashes = reallocarray(stack->hashes, capacity, sizeof(*hashes));
    if (hashes)
        stack->hashes = hashes;
    nodes = reallocarray(stack->nodes, capacity, sizeof(*nodes));
    if (nodes)
        stack->nodes = nodes;
    if (!hashes || !nodes)
        return -ENOMEM;
    hashes[0] = EMPTY_HASH;
    nodes[0] = 0;
    stack->capacity = capacity;
    return 0;
}

int stacks_change(const struct tables *tables, struct ring_stack *stack, struct stack_change *change, const uint32_t *frames)
{
    uint64_t hash;

    if (MT_UNLIKELY(change->keep > stack->depth))
        return -EBADMSG;
    if (MT_UNLIKELY(change->keep + change->push >= stack->capacity)) {
        int err = grow_depth(stack, change->keep + change->push);
        if (err < 0)
            return err;
    }
    hash = change->base_hash = stack->hashes[change->keep];
    for (uint32_t i = 0; i < change->push; i++) {
        if (MT_LIKELY(frames[i] != FRAME_LEFT_OUT))
            hash = mix(hash, frames[i]);
        stack->hashes[change->keep + 1 + i] = hash;
    }
    stack->depth = change->keep + change->push;
    change->hash = hash;
    if (MT_LIKELY(tables->slots != NULL))
        mt_prefetch(&tables->slots[hash & tables->slot_mask]);
    return 0;
}

static void slot_put(struct stack_slot *slots, size_t mask, uint64_t hash, uint32_t node)
{
    size_t i = hash & mask;

    while (slots[i].node)
        i = (i + 1) & mask;
    slots[i] = (struct stack_slot){.tag = (uint32_t)(hash >> 32), .node = node};
}

static int grow_slots(struct tables *t)
{
    size_t count = t->slots ? (t->slot_mask + 1) * 2 : FIRST_SLOTS;
    struct stack_slot *slots = calloc(count, sizeof(*slots));
    uint64_t *hashes = malloc((t->node_count ? t->node_count : 1) * sizeof(*hashes));

    if (!slots || !hashes) {
        free(slots);
        free(hashes);
        return -ENOMEM;
    }
    hashes[0] = EMPTY_HASH;
    for (size_t n = 1; n < t->node_count; n++) {
        hashes[n] = mix(hashes[t->nodes[n].parent], t->nodes[n].frame);
        slot_put(slots, count - 1, hashes[n], (uint32_t)n);
    }
    free(hashes);
    free(t->slots);
    t->slots = slots;
    t->slot_mask = count - 1;
    return 0;
}

int stacks_init(struct tables *t)
{
    if (t->slots)
        return 0;
    t->nodes = reallocarray(NULL, FIRST_SLOTS, sizeof(*t->nodes));
    if (!t->nodes)
        return -ENOMEM;
    t->node_capacity = FIRST_SLOTS;
    t->nodes[0] = (struct mt_store_node){0};
    t->node_count = 1;
    return grow_slots(t);
}

/* 0 where there is no memory. */
static uint32_t add_node(struct tables *t, uint64_t hash, uint32_t parent, uint32_t frame)
{
    if (t->node_count >= NODES_MAX)
        return 0;
    if (t->node_count == t->node_capacity) {
        struct mt_store_node *nodes = reallocarray(t->nodes, t->node_capacity * 2, sizeof(*nodes));

        if (!nodes)
            return 0;
        t->nodes = nodes;
        t->node_capacity *= 2;
    }
    /* Two thirds full at most, or, without memory for more, nearly full: one slot must stay empty. */
    if (t->node_count * 3 > (t->slot_mask + 1) * 2 && grow_slots(t) < 0 && t->node_count >= t->slot_mask)
        return 0;
    t->nodes[t->node_count] = (struct mt_store_node){.parent = parent, .frame = frame};
    slot_put(t->slots, t->slot_mask, hash, (uint32_t)t->node_count);
    return (uint32_t)t->node_count++;
}

static uint32_t find_node(const struct tables *t, uint64_t hash, uint32_t parent, uint32_t frame)
{
    for (size_t i = hash & t->slot_mask; t->slots[i].node; i = (i + 1) & t->slot_mask) {
        const struct mt_store_node *n = &t->nodes[t->slots[i].node];

        if (t->slots[i].tag == (uint32_t)(hash >> 32) && n->parent == parent && n->frame == frame)
            return t->slots[i].node;
    }
    return 0;
}

static MT_NOINLINE uint32_t make_nodes(
    struct tables *t, struct ring_stack *stack, const struct stack_change *change, const uint32_t *frames)
{
    uint32_t node = stack->nodes[change->keep];
    uint64_t hash = change->base_hash;

    for (uint32_t i = 0; i < change->push; i++) {
        uint32_t child;

        if (MT_UNLIKELY(frames[i] == FRAME_LEFT_OUT)) {
            stack->nodes[change->keep + 1 + i] = node;
            continue;
        }
        hash = mix(hash, frames[i]);
        child = find_node(t, hash, node, frames[i]);
        if (!child)
            child = add_node(t, hash, node, frames[i]);
        if (!child)
            t->nodes_lost++; /* the stack ends here: it stays with its caller's node */
        else
            node = child;
        stack->nodes[change->keep + 1 + i] = node;
    }
    return node;
}

uint32_t stacks_resolve(
    struct tables *t, struct ring_stack *stack, const struct stack_change *change, const uint32_t *frames)
{
    uint32_t tag = (uint32_t)(change->hash >> 32), *nodes = stack->nodes + change->keep, base = nodes[0];

    if (change->hash == change->base_hash) { /* nothing pushed, or nothing that is part of it */
        for (uint32_t i = 0; i < change->push; i++)
            nodes[1 + i] = base;
        return base;
    }
    for (size_t i = change->hash & t->slot_mask; t->slots[i].node; i = (i + 1) & t->slot_mask) {
        uint32_t node = t->slots[i].node, k = change->push;

        if (t->slots[i].tag != tag)
            continue;
        while (k && (frames[k - 1] == FRAME_LEFT_OUT || (node && t->nodes[node].frame == frames[k - 1]))) {
            nodes[k] = node;
            if (MT_LIKELY(frames[--k] != FRAME_LEFT_OUT))
                node = t->nodes[node].parent;
        }
        if (MT_LIKELY(!k && node == base))
            return nodes[change->push];
    }
    return make_nodes(t, stack, change, frames);
}

uint64_t stacks_pair_hash(uint64_t native_hash, uint32_t python)
{
    return mix(native_hash, MT_NODE_PAIR | python);
}

uint32_t stacks_pair(struct tables *t, uint64_t hash, uint32_t native, uint32_t python)
{
    uint32_t node = find_node(t, hash, native, MT_NODE_PAIR | python);

    if (MT_LIKELY(node))
        return node;
    t->has_python = true;
    node = add_node(t, hash, native, MT_NODE_PAIR | python);
    if (!node)
        t->nodes_lost++;
    return node ? node : native;
}

void stacks_finish(struct ring_stack *stack)
{
    free(stack->hashes);
    free(stack->nodes);
    *stack = (struct ring_stack){0};
}

/*
 * Interning: (parent, frame) -> node. The index is private memory of the target, read without a lock, written under
 * mt_stack.lock; it grows like the rule cache (rule.c). The nodes themselves go to the segment and are never read here.
 *
 * Labels: I1 the table pointer (release in grow, acquire in mt_nodes_intern); I2 an entry's key is released after its id.
 */
#include "stack/internal.h"

struct entry {
    uint64_t key; /* parent << 32 | frame + 1; 0: empty */
    uint32_t id;
    uint32_t pad;
};

struct mt_node_table {
    uint64_t mask;
    uint64_t used;
    struct entry entries[];
};

#define FIRST_ENTRIES 16384u

static struct mt_node_table *new_table(struct mt_stack *stack, uint64_t entries)
{
    struct mt_node_table *t = mt_stack_pages(stack, sizeof *t + entries * sizeof(struct entry));

    if (t)
        t->mask = entries - 1;
    return t;
}

int mt_nodes_init(struct mt_stack *stack)
{
    struct mt_node_table *t = new_table(stack, FIRST_ENTRIES);

    if (!t)
        return -ENOMEM;
    mt_store_release(&stack->nodes, t); /* I1 */
    return 0;
}

static MT_ALWAYS_INLINE uint64_t key_of(uint32_t parent, uint32_t frame)
{
    return (uint64_t)parent << 32 | (frame + 1);
}

static MT_ALWAYS_INLINE uint64_t slot_of(uint64_t key)
{
    return mt_hash_u64(key);
}

static MT_ALWAYS_INLINE uint32_t find(const struct mt_node_table *t, uint64_t key)
{
    for (uint64_t i = slot_of(key);; i++) {
        const struct entry *e = &t->entries[i & t->mask];
        uint64_t k = mt_load_acquire(&e->key); /* I2 */

        if (k == key)
            return e->id;
        if (k == 0)
            return 0;
    }
}

static void put(struct mt_node_table *t, uint64_t key, uint32_t id)
{
    uint64_t i = slot_of(key);

    while (t->entries[i & t->mask].key)
        i++;
    t->entries[i & t->mask].id = id;
    mt_store_release(&t->entries[i & t->mask].key, key); /* I2 */
    t->used++;
}

static int grow(struct mt_stack *stack)
{
    struct mt_node_table *old = stack->nodes, *t = new_table(stack, (old->mask + 1) * 2);
    size_t old_bytes;

    if (!t)
        return -ENOMEM;
    for (uint64_t i = 0; i <= old->mask; i++)
        if (old->entries[i].key)
            put(t, old->entries[i].key, old->entries[i].id);
    mt_store_release(&stack->nodes, t); /* I1 */
    old_bytes = sizeof *old + (old->mask + 1) * sizeof(struct entry);
    mt_sys_madvise((char *)old + MT_PAGE_BYTES, mt_round_up(old_bytes, MT_PAGE_BYTES) - MT_PAGE_BYTES, MADV_DONTNEED);
    stack->private_bytes -= old_bytes;
    return 0;
}

static const uint32_t *frame_at(const uint32_t *frames, size_t stride, size_t at)
{
    return (const uint32_t *)((const char *)frames + at * stride);
}

uint32_t MT_COLD mt_nodes_add(struct mt_stack *stack, uint32_t parent, const uint32_t *frames, size_t stride, size_t count)
{
    uint64_t signals;

    mt_sys_signals_block(&signals);
    mt_lock_acquire(stack->lock);
    while (count-- > 0) {
        uint32_t frame = *frame_at(frames, stride, count), id;
        uint64_t key = key_of(parent, frame);

        id = find(stack->nodes, key);
        if (!id) {
            if ((stack->nodes->used * 8 > stack->nodes->mask * 5 && grow(stack) < 0) ||
                mt_writer_add_node(stack->writer, parent, frame, &id) < 0) {
                mt_writer_lost(stack->writer, MT_LOSS_STACK_MEMORY, 1);
                break;
            }
            put(stack->nodes, key, id);
        }
        parent = id;
    }
    mt_lock_release(stack->lock);
    mt_sys_signals_restore(&signals);
    return parent;
}

uint32_t mt_nodes_find(struct mt_stack *stack, uint32_t parent, uint32_t frame)
{
    return find(mt_load_acquire(&stack->nodes), key_of(parent, frame)); /* I1 */
}

uint32_t mt_nodes_intern(struct mt_stack *stack, const uint32_t *frames, size_t count)
{
    const struct mt_node_table *t = mt_load_acquire(&stack->nodes); /* I1 */
    uint32_t node = 0;

    for (size_t i = count; i-- > 0;) {
        uint32_t id = find(t, key_of(node, frames[i]));

        if (MT_UNLIKELY(!id))
            return mt_nodes_add(stack, node, frames, sizeof *frames, i + 1);
        node = id;
    }
    return node;
}

/*
 * The memory of a thread's kept frames, and of what it knows of instructions.
 */
#include <string.h>

#include "python/frames.h"

#define FIRST_CAPACITY 1024u
#define CAPACITY_MAX (1u << 18)
#define HITS_BYTES (sizeof(struct mt_python_hits) << MT_PYTHON_HIT_BITS)

static size_t bytes_of(size_t capacity)
{
    return mt_round_up(
        (2 * capacity + 1) * sizeof(struct mt_python_place) + capacity * (sizeof(uint32_t) + 2 * sizeof(struct mt_python_state)), MT_PAGE_BYTES);
}

static MT_COLD struct mt_python_hits *make_hits(void)
{
    struct mt_python_hits *hits = mt_sys_pages(HITS_BYTES);

    if (hits) {
        mt_sys_madvise(hits, HITS_BYTES, MADV_DONTFORK);
        mt_sys_madvise(hits, HITS_BYTES, MADV_DONTDUMP);
    }
    return hits;
}

MT_COLD bool mt_python_grow(struct mt_stack *stack, struct mt_python_thread *thread, size_t fresh_count)
{
    size_t before = thread->capacity, capacity = before ? before * 2 : FIRST_CAPACITY, bytes = bytes_of(capacity);
    struct mt_python_place *places = capacity <= CAPACITY_MAX ? mt_sys_pages(bytes) : NULL;
    struct mt_python_place *fresh = places + capacity + 1;
    struct mt_python_state *states = (struct mt_python_state *)(fresh + capacity), *fresh_states = states + capacity;
    uint32_t *frames = (uint32_t *)(fresh_states + capacity);

    if (!places)
        return false;
    mt_sys_madvise(places, bytes, MADV_DONTFORK);
    mt_sys_madvise(places, bytes, MADV_DONTDUMP);
    if (before) {
        memcpy(places, thread->places, (before + 1) * sizeof *places);
        memcpy(states, thread->states, before * sizeof *states);
        memcpy(fresh_states, thread->fresh_states, fresh_count * sizeof *fresh_states);
        memcpy(fresh, thread->fresh, fresh_count * sizeof *fresh);
        memcpy(frames, thread->frames, thread->frame_count * sizeof *frames);
        mt_sys_unmap(thread->places, bytes_of(before));
        mt_fetch_add_relaxed(&stack->private_bytes, bytes - bytes_of(before));
    } else {
        thread->hits = make_hits();
        /* what is touched of it, and around it */
        mt_fetch_add_relaxed(&stack->private_bytes, 4 * MT_PAGE_BYTES + (thread->hits ? HITS_BYTES : 0) +
                (mt_python_here.mode == MT_PYTHON_MODE_OBJECTS ? sizeof thread->rules : 0));
    }
    thread->places = places;
    thread->states = states;
    thread->fresh_states = fresh_states;
    thread->fresh = fresh;
    thread->frames = frames;
    thread->capacity = capacity;
    return true;
}

/*
 * What a thread has of its own for captures: buffers that grow, the stack that was sent last, and the memory that was found readable.
 */
#include "stack/internal.h"

#include <string.h>

#include "base/slow_stack.h"

__thread uint32_t mt_stack_internal;
_Alignas(4096) char mt_slow_stack[MT_SLOW_STACK_BYTES];

#define FIRST_CAPACITY 4096u
/* Resident of the library, libunwind and liblzma as the kernel maps them from their files, as measured. */
#define OWN_FILES_BYTES (UINT64_C(320) << 10)
#define PROBE_SPAN (1u << 20)
#define PAGE_OF(address) ((address) & ~(uintptr_t)(MT_PAGE_BYTES - 1))

void *mt_stack_pages(struct mt_stack *stack, size_t size_bytes)
{
    size_t bytes = mt_round_up(size_bytes, MT_PAGE_BYTES);
    void *p = mt_sys_pages(bytes);

    if (p) {
        mt_sys_madvise(p, bytes, MADV_DONTFORK);
        mt_sys_madvise(p, bytes, MADV_DONTDUMP);
        mt_fetch_add_relaxed(&stack->private_bytes, bytes);
    }
    return p;
}

int mt_stack_init(struct mt_stack *stack, struct mt_writer *writer, struct mt_lock *lock, bool verify)
{
    int r;

    stack->writer = writer;
    stack->lock = lock;
    stack->verify = verify;
    stack->private_bytes = OWN_FILES_BYTES;
    r = mt_rules_init(stack);
    if (r == 0)
        r = mt_modules_init(stack);
    return r;
}

int mt_stack_thread_init(struct mt_stack_thread *thread, struct mt_stack *stack, unsigned chain_bits)
{
    uint64_t before = mt_load_relaxed(&stack->private_bytes);

    memset(thread, 0, sizeof *thread);
    thread->walked.frames = mt_stack_pages(stack, FIRST_CAPACITY * sizeof(uint32_t));
    thread->walked.capacity = FIRST_CAPACITY;
    thread->frames = mt_stack_pages(stack, FIRST_CAPACITY * sizeof(uint32_t));
    thread->frame_capacity = FIRST_CAPACITY;
    if (!thread->walked.frames || !thread->frames || mt_memo_init(stack, thread, chain_bits) < 0)
        return -ENOMEM;
    /* Address space; resident are the first pages of the memo's arrays and of the frames, with the structure around this. */
    mt_store_relaxed(&stack->private_bytes, before + 7 * MT_PAGE_BYTES + (sizeof(struct mt_chain) << chain_bits));
    return 0;
}

void mt_stack_thread_finish(struct mt_stack_thread *thread)
{
    if (thread->walked.frames)
        mt_sys_unmap(thread->walked.frames, thread->walked.capacity * sizeof(uint32_t));
    if (thread->frames)
        mt_sys_unmap(thread->frames, thread->frame_capacity * sizeof(uint32_t));
    mt_memo_finish(thread);
    memset(thread, 0, sizeof *thread);
}

bool MT_COLD mt_stack_grow_frames(struct mt_stack *stack, struct mt_stack_thread *thread, size_t count)
{
    size_t capacity = thread->frame_capacity;
    uint32_t *frames;

    while (capacity < count)
        capacity *= 2;
    frames = capacity <= UINT32_MAX / 8 ? mt_stack_pages(stack, capacity * sizeof(uint32_t)) : NULL;
    if (!frames)
        return false;
    memcpy(frames, thread->frames, thread->frame_count * sizeof(uint32_t));
    mt_sys_unmap(thread->frames, thread->frame_capacity * sizeof(uint32_t));
    mt_fetch_add_relaxed(&stack->private_bytes, -(uint64_t)thread->frame_capacity * sizeof(uint32_t));
    thread->frames = frames;
    thread->frame_capacity = (uint32_t)capacity;
    return true;
}

bool MT_COLD mt_stack_grow_buffer(struct mt_stack *stack, struct mt_stack_buffer *buffer)
{
    size_t capacity = buffer->capacity * 2;
    uint32_t *frames = capacity ? mt_stack_pages(stack, capacity * sizeof(uint32_t)) : NULL;

    if (!frames)
        return false;
    memcpy(frames, buffer->frames, buffer->capacity * sizeof(uint32_t));
    mt_sys_unmap(buffer->frames, buffer->capacity * sizeof(uint32_t));
    buffer->frames = frames;
    buffer->capacity = capacity;
    return true;
}

/* Asks the kernel for each page from `from` to `to`, upwards; returns the end of the readable part. */
static uintptr_t probe_up(uintptr_t from, uintptr_t to)
{
    while (from <= to && mt_sys_readable((void *)from))
        from += MT_PAGE_BYTES;
    return from;
}

bool MT_COLD mt_stack_extend_ranges(struct mt_stack *stack, struct mt_stack_thread *thread, uintptr_t address)
{
    uint32_t generation = mt_load_relaxed(&stack->unmap_generation);
    uintptr_t page = PAGE_OF(address);
    struct mt_stack_range *range;

    for (unsigned i = 0; i < MT_STACK_RANGES; i++) {
        range = &thread->ranges[i];
        if (range->high && range->generation == generation && address >= range->low && address < range->high) {
            struct mt_stack_range swap = thread->ranges[0];

            thread->ranges[0] = *range;
            *range = swap;
            return true;
        }
    }
    /* A neighbour is stretched, unless there is a gap (the guard page of another stack) between. */
    for (unsigned i = 0; i < MT_STACK_RANGES; i++) {
        range = &thread->ranges[i];
        if (!range->high || range->generation != generation)
            continue;
        if (address >= range->high && address - range->high < PROBE_SPAN) {
            range->high = probe_up(range->high, page);
            if (address < range->high)
                return true;
            break;
        }
        if (address < range->low && range->low - address < PROBE_SPAN / 4) {
            if (probe_up(page, range->low - MT_PAGE_BYTES) != range->low)
                break;
            range->low = page;
            return true;
        }
    }
    if (!mt_sys_readable((void *)page))
        return false;
    range = &thread->ranges[thread->range_next++ % MT_STACK_RANGES];
    range->low = page;
    range->high = page + MT_PAGE_BYTES;
    range->generation = generation;
    return true;
}

struct mt_stack_change mt_stack_change_to(struct mt_stack *stack, struct mt_stack_thread *thread, uint32_t count)
{
    const uint32_t *innermost_first = thread->walked.frames;
    uint32_t keep = 0;

    if (count > thread->frame_capacity && !mt_stack_grow_frames(stack, thread, count)) {
        mt_writer_lost(stack->writer, MT_LOSS_STACK_MEMORY, 1);
        count = 0;
    }
    while (keep < count && keep < thread->frame_count && thread->frames[keep] == innermost_first[count - 1 - keep])
        keep++;
    for (uint32_t i = keep; i < count; i++)
        thread->frames[i] = innermost_first[count - 1 - i];
    thread->frame_count = count;
    return (struct mt_stack_change){keep, count - keep};
}

void mt_stack_objects_changed(struct mt_stack *stack)
{
    uint64_t signals;

    mt_sys_signals_block(&signals);
    mt_lock_acquire(stack->lock);
    mt_modules_sweep(stack, mt_rules_forget);
    mt_unwind_forget();
    mt_lock_release(stack->lock);
    mt_sys_signals_restore(&signals);
}

/*
 * Blocks: alloc, free, realloc and custom heaps. The hot path of the reader.
 */
#include "live/model.h"

#include <stdlib.h>

enum {
    GROUP = 16, /* events whose blocks are asked for at once, and before the group ahead of them is applied */
    PAGES_AHEAD = 2 * GROUP, /* events between asking for a block's page and using it, at least */
    SITE_AHEAD = 8, /* events between asking for an allocation's site and using it */
    /* Tables up to these sizes are in the processor's caches: asking for what is there costs more than it gains. */
    NEAR_BLOCKS = 1 << 16,
    NEAR_SITES = 1 << 10,
    BIRTH_STEP_BITS = 4,
};

static MT_ALWAYS_INLINE void thread_remember(struct thread *thread, uint64_t address)
{
    thread->last[1] = thread->last[0];
    thread->last[0] = address;
}

/* Freed by the thread that allocated it, which has had at most one more block since. */
static MT_ALWAYS_INLINE bool is_temporary(const struct mt_live *live, const struct mt_block *block, uint32_t thread)
{
    const struct thread *t = &live->threads[thread];

    return block->thread == (uint8_t)thread && (block->address == t->last[0] || block->address == t->last[1]);
}

/* The unit of births grows whenever they would not fit. */
static MT_ALWAYS_INLINE uint32_t birth_of(struct mt_live *live, uint64_t stamp)
{
    while (MT_UNLIKELY(stamp >> live->birth_shift > UINT32_MAX)) {
        for (size_t i = 0; i < live->heap_count; i++)
            mt_blocks_shift_births(&live->heaps[i].blocks, BIRTH_STEP_BITS);
        live->birth_shift += BIRTH_STEP_BITS;
    }
    return (uint32_t)(stamp >> live->birth_shift);
}

/* Takes a block out of the counts: the last thing that happens to it. */
static MT_ALWAYS_INLINE void count_freed(
    struct mt_live *live, const struct heap *heap, const struct mt_block *block, bool temporary, uint64_t now)
{
    struct mt_live_site *site = &live->sites[block->site];

    site_touch(live, site);
    site->live_bytes -= block->size;
    site->live_blocks--;
    site->temporary_blocks += temporary;
    site_lifetime(site, (uint64_t)block->birth << live->birth_shift, now);
    if (MT_LIKELY(heap->memory)) {
        live->totals.freed_blocks++;
        live->totals.freed_bytes += block->size;
        live->totals.live_blocks--;
        live->totals.live_bytes -= block->size;
        if (MT_UNLIKELY(heap->python))
            live->totals.python_bytes -= block->size;
    }
}

static MT_ALWAYS_INLINE void count_allocated(struct mt_live *live, const struct heap *heap, uint32_t site_id, uint64_t size)
{
    struct mt_live_site *site = &live->sites[site_id];

    site_touch(live, site);
    site->live_bytes += size;
    site->live_blocks++;
    site->allocated_bytes += size;
    site->allocated_blocks++;
    if (site->live_bytes > site->own_peak_bytes)
        site->own_peak_bytes = site->live_bytes;
    if (MT_LIKELY(heap->memory)) {
        live->totals.allocated_blocks++;
        live->totals.allocated_bytes += size;
        live->totals.live_blocks++;
        live->totals.live_bytes += size;
        if (MT_UNLIKELY(heap->python))
            live->totals.python_bytes += size;
    }
}

struct replaced_in {
    struct mt_live *live;
    const struct heap *heap;
    uint64_t now;
};

/* Its free was lost: the address could not have been handed out otherwise. */
static void assume_freed(void *context, const struct mt_block *block)
{
    const struct replaced_in *in = context;

    count_freed(in->live, in->heap, block, false, in->now);
    in->live->totals.assumed_frees++;
}

void mt_live_distrust(struct mt_live *live, uint64_t now)
{
    live->distrust = true;
    for (size_t i = 0; i < live->heap_count; i++) {
        struct replaced_in in = {live, &live->heaps[i], now};

        (void)mt_blocks_distrust(&live->heaps[i].blocks, assume_freed, &in); /* without memory things stay as they are */
    }
}

static MT_ALWAYS_INLINE void alloc(struct mt_live *live, size_t heap_index, const struct mt_event *event)
{
    struct heap *heap = &live->heaps[heap_index];
    struct thread *thread = &live->threads[event->thread];
    uint32_t site = mt_live_site_of(live, event->node, (unsigned)heap_index, MT_LIVE_PLAIN);
    struct mt_block block = {.address = event->address,
        .size = event->size,
        .site = site,
        .birth = birth_of(live, event->stamp),
        .iteration = live->iterations < MT_BLOCKS_ITERATION_MAX ? (uint16_t)live->iterations : MT_BLOCKS_ITERATION_MAX,
        .thread = (uint8_t)event->thread};
    struct mt_block replaced;

    thread_counts(live, thread);
    if (MT_UNLIKELY(site == NO_SITE || mt_blocks_insert(&heap->blocks, &block, &replaced) < 0)) {
        live->totals.dropped++;
        return;
    }
    if (MT_UNLIKELY(replaced.address)) {
        assume_freed(&(struct replaced_in){live, heap, event->stamp}, &replaced);
        mt_live_distrust(live, event->stamp);
    }
    if (heap->memory)
        thread_remember(thread, event->address);
    count_allocated(live, heap, site, event->size);
}

/*
 * What Python's object allocators take back may be malloc's: where the interpreter is told to take others (PYTHONMALLOC), those serve for a
 * moment before they are wrapped. NULL: the block is not known.
 */
static MT_COLD struct heap *take_as_malloc(
    struct mt_live *live, const struct heap *heap, const struct mt_event *event, struct mt_block *ret)
{
    struct heap *other = &live->heaps[MT_LIVE_HEAP_MALLOC];

    return heap->python && mt_blocks_remove(&other->blocks, event->address, ret) ? other : NULL;
}

static MT_ALWAYS_INLINE void release(struct mt_live *live, struct heap *heap, const struct mt_event *event)
{
    struct mt_block block;

    thread_counts(live, &live->threads[event->thread]);
    if (MT_UNLIKELY(!mt_blocks_remove(&heap->blocks, event->address, &block))) {
        heap = take_as_malloc(live, heap, event, &block);
        if (!heap) {
            live->totals.unmatched_frees++;
            return;
        }
    }
    count_freed(live, heap, &block, heap->memory && is_temporary(live, &block, event->thread), event->stamp);
}

static void realloc_begin(struct mt_live *live, size_t heap_index, const struct mt_event *event)
{
    struct thread *thread = &live->threads[event->thread];
    struct heap *heap = &live->heaps[heap_index];
    struct limbo_block limbo = {.block = {.address = event->address, .site = NO_SITE}, .heap = (uint32_t)heap_index};
    struct heap *found;

    if (thread->block_count == thread->block_capacity) {
        uint32_t capacity = thread->block_capacity ? thread->block_capacity * 2 : 1;
        struct limbo_block *bigger =
            capacity <= LIMBO_MAX ? realloc(thread->blocks, capacity * sizeof(*bigger)) : NULL;
        if (!bigger) {
            if (mt_blocks_remove(&heap->blocks, event->address, &limbo.block))
                live->totals.dropped++; /* the block stays counted as live */
            return;
        }
        thread->blocks = bigger;
        thread->block_capacity = capacity;
    }
    found = mt_blocks_remove(&heap->blocks, event->address, &limbo.block) ? heap : take_as_malloc(live, heap, event, &limbo.block);
    if (MT_LIKELY(found)) {
        limbo.heap = (uint32_t)(found - live->heaps);
        limbo.birth = (uint64_t)limbo.block.birth << live->birth_shift;
        limbo.temporary = is_temporary(live, &limbo.block, event->thread);
    }
    thread->blocks[thread->block_count++] = limbo;
}

/* Births in limbo are kept in stamps, out of reach of a unit that changes meanwhile. */
static struct mt_block out_of_limbo(struct mt_live *live, const struct limbo_block *limbo)
{
    struct mt_block block = limbo->block;

    block.birth = birth_of(live, limbo->birth);
    return block;
}

static void realloc_end(struct mt_live *live, size_t heap_index, const struct mt_event *event)
{
    struct thread *thread = &live->threads[event->thread];

    if (thread->block_count > 0) {
        struct limbo_block *limbo = &thread->blocks[--thread->block_count];
        struct mt_block block = out_of_limbo(live, limbo);

        if (limbo->block.site != NO_SITE)
            count_freed(live, &live->heaps[limbo->heap], &block, limbo->temporary, event->stamp);
        else if (limbo->block.address != 0)
            live->totals.unmatched_frees++;
    }
    if (event->address != 0)
        alloc(live, heap_index, event);
    else
        thread_counts(live, thread);
}

static void realloc_failed(struct mt_live *live, const struct mt_event *event)
{
    struct thread *thread = &live->threads[event->thread];
    struct mt_block block, replaced;
    struct limbo_block *limbo;
    struct heap *heap;

    if (thread->block_count == 0)
        return;
    limbo = &thread->blocks[--thread->block_count];
    if (limbo->block.site == NO_SITE)
        return;
    block = out_of_limbo(live, limbo);
    heap = &live->heaps[limbo->heap];
    if (mt_blocks_insert(&heap->blocks, &block, &replaced) < 0) {
        count_freed(live, heap, &block, false, event->stamp);
        live->totals.dropped++;
    } else if (replaced.address) {
        /* Someone else has the address now: the block is no more. */
        mt_blocks_insert(&heap->blocks, &replaced, &block);
        count_freed(live, heap, &block, false, event->stamp);
        live->totals.assumed_frees++;
    }
}

static void heap_event(struct mt_live *live, const struct mt_event *event)
{
    struct heap *heap = mt_live_heap_of(live, event->extra);

    if (!heap)
        live->totals.dropped++;
    else if (event->type == MT_RECORD_HEAP_ALLOC)
        alloc(live, (size_t)(heap - live->heaps), event);
    else
        release(live, heap, event);
}

static void apply(struct mt_live *live, const struct mt_event *event)
{
    switch (event->type) {
    case MT_RECORD_ALLOC:
    case MT_RECORD_ALLOC_LARGE:
        alloc(live, MT_LIVE_HEAP_MALLOC, event);
        break;
    case MT_RECORD_FREE:
        release(live, &live->heaps[MT_LIVE_HEAP_MALLOC], event);
        return; /* cannot raise the total */
    case MT_RECORD_REALLOC_BEGIN:
        realloc_begin(live, MT_LIVE_HEAP_MALLOC, event);
        return;
    case MT_RECORD_REALLOC_END:
        realloc_end(live, MT_LIVE_HEAP_MALLOC, event);
        break;
    case MT_RECORD_OBJECT_ALLOC:
        alloc(live, MT_LIVE_HEAP_PYTHON, event);
        break;
    case MT_RECORD_OBJECT_FREE:
        release(live, &live->heaps[MT_LIVE_HEAP_PYTHON], event);
        return;
    case MT_RECORD_OBJECT_REALLOC_BEGIN:
        realloc_begin(live, MT_LIVE_HEAP_PYTHON, event);
        return;
    case MT_RECORD_OBJECT_REALLOC_END:
        realloc_end(live, MT_LIVE_HEAP_PYTHON, event);
        break;
    case MT_RECORD_REALLOC_FAILED:
        realloc_failed(live, event);
        return;
    case MT_RECORD_HEAP_ALLOC:
    case MT_RECORD_HEAP_FREE:
        heap_event(live, event);
        break;
    default:
        mt_live_map_event(live, event);
        return;
    }
    total_raised(live);
}

/* ---- asking for memory ahead ------------------------------------------------------------------------------------------ */

/* The address that the table will be asked for, as things are; 0: none. */
static MT_ALWAYS_INLINE uint64_t table_address(const struct mt_blocks *blocks, const struct mt_event *event)
{
    uint64_t young;

    if (!blocks->young)
        return event->address;
    young = mt_blocks_young(blocks, event->address)->address;
    if (event->type == MT_RECORD_ALLOC || event->type == MT_RECORD_OBJECT_ALLOC) /* it comes: the one that has its place has to make room */
        return young;
    return young == event->address ? 0 : event->address;
}

static MT_ALWAYS_INLINE const struct mt_blocks *blocks_of(const struct mt_live *live, const struct mt_event *event)
{
    return &live->heaps[mt_live_block_heap(event->type)].blocks;
}

static MT_ALWAYS_INLINE size_t group(size_t from, size_t count)
{
    return from >= count ? 0 : count - from < GROUP ? count - from : GROUP;
}

/*
 * In groups, and each in two steps: while the processor looks up where an address is in memory, which for one that was not touched lately takes as long as
 * fetching it, nothing behind that ends; but it does several such look-ups at a time if the next ones are only an instruction or two away.
 */
static void ask_pages(const struct mt_live *live, const struct mt_event *events, size_t from, size_t count)
{
    uint64_t addresses[GROUP];
    size_t n = group(from, count);

    for (size_t i = 0; i < n; i++)
        addresses[i] = table_address(blocks_of(live, &events[from + i]), &events[from + i]);
    for (size_t i = 0; i < n; i++)
        mt_blocks_prefetch_page(blocks_of(live, &events[from + i]), addresses[i]);
}

static void ask_blocks(const struct mt_live *live, const struct mt_event *events, size_t from, size_t count)
{
    const void *lines[GROUP];
    size_t n = group(from, count);

    for (size_t i = 0; i < n; i++) {
        const struct mt_blocks *blocks = blocks_of(live, &events[from + i]);

        lines[i] = mt_blocks_expected(blocks, table_address(blocks, &events[from + i]));
    }
    for (size_t i = 0; i < n; i++)
        mt_prefetch(lines[i]);
}

static MT_ALWAYS_INLINE void ask_site(const struct mt_live *live, const struct mt_event *event)
{
    if (event->type == MT_RECORD_ALLOC || event->type == MT_RECORD_OBJECT_ALLOC)
        mt_live_prefetch_site(live, mt_live_block_heap(event->type), event->node);
}

static MT_ALWAYS_INLINE void apply_known_thread(struct mt_live *live, const struct mt_event *event)
{
    if (MT_UNLIKELY(event->thread >= live->thread_count))
        live->totals.dropped++;
    else
        apply(live, event);
}

static MT_ALWAYS_INLINE bool are_far(const struct mt_live *live)
{
    return live->heaps[MT_LIVE_HEAP_MALLOC].blocks.count + live->heaps[MT_LIVE_HEAP_PYTHON].blocks.count > NEAR_BLOCKS;
}

void mt_live_expect(const struct mt_live *live, const struct mt_event *events, size_t count)
{
    if (are_far(live))
        for (size_t i = 0; i < PAGES_AHEAD; i += GROUP)
            ask_pages(live, events, i, count);
}

void mt_live_apply(struct mt_live *live, const struct mt_event *events, size_t count)
{
    bool far_blocks = are_far(live), far_sites = live->site_count > NEAR_SITES;

    live->totals.events += count;
    if (far_blocks)
        ask_blocks(live, events, 0, count);
    for (size_t i = 0, end; i < count; i = end) {
        end = i + group(i, count);
        if (far_blocks) {
            ask_pages(live, events, i + PAGES_AHEAD, count);
            ask_blocks(live, events, i + GROUP, count);
        }
        for (; i < end; i++) {
            if (far_sites && i + SITE_AHEAD < count)
                ask_site(live, &events[i + SITE_AHEAD]);
            apply_known_thread(live, &events[i]);
        }
    }
}

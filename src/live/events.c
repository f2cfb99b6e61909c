/*
 * Blocks: alloc, free, realloc and custom heaps. The hot path of the reader.
 */
#include "live/model.h"

#include <stdlib.h>

enum { AHEAD = 8 }; /* events between asking for a block's cache line and using it */

static void thread_remember(struct thread *thread, uint64_t address)
{
    thread->last[1] = thread->last[0];
    thread->last[0] = address;
}

static bool is_temporary(const struct mt_live *live, const struct mt_block *block)
{
    const struct thread *thread = &live->threads[block->thread];

    return block->address == thread->last[0] || block->address == thread->last[1];
}

/* Takes a block out of the counts: the last thing that happens to it. */
static void count_freed(
    struct mt_live *live, const struct heap *heap, const struct mt_block *block, bool temporary, uint64_t now)
{
    struct mt_live_site *site = &live->sites[block->site];

    site_touch(live, site);
    site->live_bytes -= block->size;
    site->live_blocks--;
    site->temporary_blocks += temporary;
    site_lifetime(site, block->birth, now);
    if (heap->memory) {
        live->totals.freed_blocks++;
        live->totals.freed_bytes += block->size;
        live->totals.live_blocks--;
        live->totals.live_bytes -= block->size;
        if (heap->python)
            live->totals.python_bytes -= block->size;
    }
}

static void count_allocated(struct mt_live *live, const struct heap *heap, uint32_t site_id, uint64_t size)
{
    struct mt_live_site *site = &live->sites[site_id];

    site_touch(live, site);
    site->live_bytes += size;
    site->live_blocks++;
    site->allocated_bytes += size;
    site->allocated_blocks++;
    if (site->live_bytes > site->own_peak_bytes)
        site->own_peak_bytes = site->live_bytes;
    if (heap->memory) {
        live->totals.allocated_blocks++;
        live->totals.allocated_bytes += size;
        live->totals.live_blocks++;
        live->totals.live_bytes += size;
        if (heap->python)
            live->totals.python_bytes += size;
    }
}

static void alloc(struct mt_live *live, size_t heap_index, const struct mt_event *event)
{
    struct heap *heap = &live->heaps[heap_index];
    struct thread *thread = &live->threads[event->thread];
    uint32_t site = mt_live_site_of(live, event->node, (unsigned)heap_index, MT_LIVE_PLAIN);
    struct mt_block *block;
    bool existing;

    thread_counts(live, thread);
    block = site != NO_SITE ? mt_blocks_insert(&heap->blocks, event->address, &existing) : NULL;
    if (MT_UNLIKELY(!block)) {
        live->totals.dropped++;
        return;
    }
    if (MT_UNLIKELY(existing)) {
        /* Its free was lost: the address could not have been handed out otherwise. */
        count_freed(live, heap, block, false, event->stamp);
        live->totals.assumed_frees++;
    }
    block->size = event->size;
    block->birth = event->stamp;
    block->site = site;
    block->thread = event->thread;
    if (heap->memory)
        thread_remember(thread, event->address);
    count_allocated(live, heap, site, event->size);
}

static void release(struct mt_live *live, struct heap *heap, const struct mt_event *event)
{
    struct mt_block *block = mt_blocks_find(&heap->blocks, event->address);

    thread_counts(live, &live->threads[event->thread]);
    if (MT_UNLIKELY(!block)) {
        live->totals.unmatched_frees++;
        return;
    }
    count_freed(live, heap, block, heap->memory && is_temporary(live, block), event->stamp);
    mt_blocks_remove(&heap->blocks, block);
}

static void realloc_begin(struct mt_live *live, const struct mt_event *event)
{
    struct thread *thread = &live->threads[event->thread];
    struct mt_blocks *blocks = &live->heaps[MT_LIVE_HEAP_MALLOC].blocks;
    struct mt_block *block = mt_blocks_find(blocks, event->address);
    struct limbo_block limbo = {.block = {.address = event->address, .site = NO_SITE}};

    if (block) {
        limbo.block = *block;
        limbo.temporary = is_temporary(live, block);
        mt_blocks_remove(blocks, block);
    }
    if (thread->block_count == thread->block_capacity) {
        uint32_t capacity = thread->block_capacity ? thread->block_capacity * 2 : 1;
        struct limbo_block *bigger =
            capacity <= LIMBO_MAX ? realloc(thread->blocks, capacity * sizeof(*bigger)) : NULL;
        if (!bigger) {
            live->totals.dropped++; /* the block stays counted as live */
            return;
        }
        thread->blocks = bigger;
        thread->block_capacity = capacity;
    }
    thread->blocks[thread->block_count++] = limbo;
}

static void realloc_end(struct mt_live *live, const struct mt_event *event)
{
    struct thread *thread = &live->threads[event->thread];
    struct heap *heap = &live->heaps[MT_LIVE_HEAP_MALLOC];

    if (thread->block_count > 0) {
        struct limbo_block *limbo = &thread->blocks[--thread->block_count];
        if (limbo->block.site != NO_SITE)
            count_freed(live, heap, &limbo->block, limbo->temporary, event->stamp);
        else if (limbo->block.address != 0)
            live->totals.unmatched_frees++;
    }
    if (event->address != 0)
        alloc(live, MT_LIVE_HEAP_MALLOC, event);
    else
        thread_counts(live, thread);
}

static void realloc_failed(struct mt_live *live, const struct mt_event *event)
{
    struct thread *thread = &live->threads[event->thread];
    struct heap *heap = &live->heaps[MT_LIVE_HEAP_MALLOC];
    struct limbo_block *limbo;
    struct mt_block *block;
    bool existing;

    if (thread->block_count == 0)
        return;
    limbo = &thread->blocks[--thread->block_count];
    if (limbo->block.site == NO_SITE)
        return;
    block = mt_blocks_insert(&heap->blocks, limbo->block.address, &existing);
    if (block && !existing) {
        *block = limbo->block;
        return;
    }
    /* Someone else has the address now (or there is no memory for the entry): the block is no more. */
    count_freed(live, heap, &limbo->block, false, event->stamp);
    if (block)
        live->totals.assumed_frees++;
    else
        live->totals.dropped++;
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
        realloc_begin(live, event);
        return;
    case MT_RECORD_REALLOC_END:
        realloc_end(live, event);
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

void mt_live_apply(struct mt_live *live, const struct mt_event *events, size_t count)
{
    live->totals.events += count;
    for (size_t i = 0; i < count; i++) {
        if (i + AHEAD < count)
            mt_blocks_prefetch(&live->heaps[MT_LIVE_HEAP_MALLOC].blocks, events[i + AHEAD].address);
        if (MT_UNLIKELY(events[i].thread >= live->thread_count)) {
            live->totals.dropped++;
            continue;
        }
        apply(live, &events[i]);
    }
}

/*
 * Mappings: map, unmap, remap. What a munmap or mremap will remove is taken out of the map before the call, so
 * that another thread's mapping at the same place can never be confused with it, and stays counted until the call is over.
 */
#include "live/model.h"

#include <stdlib.h>

static uint64_t page_up(uint64_t address)
{
    uint64_t up = mt_round_up(address, MT_PAGE_BYTES);

    return up < address ? ~(uint64_t)(MT_PAGE_BYTES - 1) : up;
}

/* Both borders go up: starts are page-aligned by contract, except the program break, whose last page stays mapped. */
static void page_range(uint64_t address, uint64_t length, uint64_t *ret_start, uint64_t *ret_end)
{
    uint64_t end = address + length < address ? UINT64_MAX : address + length;

    *ret_start = page_up(address);
    *ret_end = page_up(end);
}

static unsigned kind_of(uint32_t flags)
{
    if (flags & MT_MAP_BACKING)
        return MT_LIVE_BACKING;
    if (flags & MT_MAP_FILE)
        return MT_LIVE_FILE;
    return flags & MT_MAP_NO_ACCESS ? MT_LIVE_RESERVED : MT_LIVE_PLAIN;
}

static bool is_mapped(const struct mt_live_site *site)
{
    return site->kind == MT_LIVE_PLAIN || site->kind == MT_LIVE_RESERVED;
}

/* A piece is gone for good. Gives up its reference to the origin. */
static void piece_gone(struct mt_live *live, const struct mt_map_piece *piece, uint64_t now)
{
    struct mt_live_site *site = &live->sites[piece->origin->site];
    uint64_t bytes = piece->end - piece->start;

    site_touch(live, site);
    site->live_bytes -= bytes;
    if (is_mapped(site)) {
        live->totals.unmapped_bytes += bytes;
        live->totals.live_mapped_bytes -= bytes;
    }
    if (--piece->origin->pieces == 0) {
        site->live_blocks--;
        site_lifetime(site, piece->origin->birth, now);
        free(piece->origin);
    }
}

bool mt_live_python(const struct mt_live *live, struct mt_live_python *ret)
{
    const struct mt_blocks *blocks = &live->heaps[MT_LIVE_HEAP_PYTHON].blocks;
    struct mt_blocks_cursor cursor = {0};
    struct mt_live_python space = {0};
    struct mt_block block;
    uint64_t page = 0;
    bool in_arena = false;

    for (size_t i = 0; i < live->maps.count; i++)
        if (live->maps.pieces[i].origin->flags & MT_MAP_BACKING)
            space.arena_bytes += live->maps.pieces[i].end - live->maps.pieces[i].start;
    while (mt_blocks_next(blocks, &cursor, &block)) {
        if (block.address >> MT_BLOCKS_PAGE_BITS != page) { /* blocks come by pages, and no page is both */
            size_t at = mt_maps_above(&live->maps, block.address);

            page = block.address >> MT_BLOCKS_PAGE_BITS;
            in_arena = at < live->maps.count && live->maps.pieces[at].start <= block.address &&
                       live->maps.pieces[at].origin->flags & MT_MAP_BACKING;
        }
        space.object_blocks++;
        space.object_bytes += block.size;
        space.arena_object_blocks += in_arena;
        space.arena_object_bytes += in_arena ? block.size : 0;
    }
    if (!space.object_blocks)
        return false;
    *ret = space;
    return true;
}

static void cut(struct mt_live *live, uint64_t start, uint64_t end, uint64_t now)
{
    live->scratch.count = 0;
    if (mt_maps_cut(&live->maps, start, end, &live->scratch) < 0)
        live->totals.dropped++;
    for (size_t i = 0; i < live->scratch.count; i++)
        piece_gone(live, &live->scratch.pieces[i], now);
    live->scratch.count = 0;
}

static void map(struct mt_live *live, const struct mt_event *event, uint32_t flags)
{
    struct mt_map_origin *origin;
    struct mt_map_piece piece;
    struct mt_live_site *site;
    uint32_t site_id;

    page_range(event->address, event->size, &piece.start, &piece.end);
    if (piece.start >= piece.end)
        return;
    cut(live, piece.start, piece.end, event->stamp);
    site_id = mt_live_site_of(live, event->node, MT_LIVE_HEAP_MMAP, kind_of(flags));
    origin = site_id != NO_SITE ? malloc(sizeof(*origin)) : NULL;
    if (!origin)
        goto dropped;
    *origin = (struct mt_map_origin){.site = site_id, .flags = flags, .pieces = 1, .birth = event->stamp, .iteration = live->iterations};
    piece.origin = origin;
    if (mt_maps_insert(&live->maps, piece) < 0)
        goto dropped;
    site = &live->sites[site_id];
    site_touch(live, site);
    site->live_bytes += piece.end - piece.start;
    site->live_blocks++;
    site->allocated_bytes += piece.end - piece.start;
    site->allocated_blocks++;
    if (site->live_bytes > site->own_peak_bytes)
        site->own_peak_bytes = site->live_bytes;
    if (is_mapped(site)) {
        live->totals.mapped_blocks++;
        live->totals.mapped_bytes += piece.end - piece.start;
        live->totals.live_mapped_bytes += piece.end - piece.start;
        if (live->totals.live_mapped_bytes > live->totals.peak_mapped_bytes)
            live->totals.peak_mapped_bytes = live->totals.live_mapped_bytes;
    }
    return;
dropped:
    free(origin);
    live->totals.dropped++;
}

static void limbo_push(struct mt_live *live, const struct mt_event *event)
{
    struct thread *thread = &live->threads[event->thread];
    struct mt_maps removed = {0};
    uint64_t start, end;

    if (thread->map_count == thread->map_capacity) {
        uint32_t capacity = thread->map_capacity ? thread->map_capacity * 2 : 1;
        struct limbo_maps *bigger = capacity <= LIMBO_MAX ? realloc(thread->maps, capacity * sizeof(*bigger)) : NULL;
        if (!bigger) {
            live->totals.dropped++;
            return;
        }
        thread->maps = bigger;
        thread->map_capacity = capacity;
    }
    page_range(event->address, event->size, &start, &end);
    if (mt_maps_cut(&live->maps, start, end, &removed) < 0)
        live->totals.dropped++;
    thread->maps[thread->map_count++].removed = removed;
}

/* Puts a removed piece back where nothing else has been mapped meanwhile; the rest of it is gone. */
static void restore(struct mt_live *live, struct mt_map_piece piece, uint64_t now)
{
    struct mt_map_origin *origin = piece.origin;

    while (piece.start < piece.end) {
        size_t at = mt_maps_above(&live->maps, piece.start);
        struct mt_map_piece part = piece;
        bool covered = at < live->maps.count && live->maps.pieces[at].start <= piece.start;

        if (covered && live->maps.pieces[at].end < part.end)
            part.end = live->maps.pieces[at].end;
        if (!covered && at < live->maps.count && live->maps.pieces[at].start < part.end)
            part.end = live->maps.pieces[at].start;
        origin->pieces++;
        if (covered || mt_maps_insert(&live->maps, part) < 0)
            piece_gone(live, &part, now);
        piece.start = part.end;
    }
    /* The removed piece's own reference. An origin none of whose parts came back ends here, without bytes. */
    piece_gone(live, &piece, now);
}

static void limbo_pop(struct mt_live *live, const struct mt_event *event, bool undo)
{
    struct thread *thread = &live->threads[event->thread];
    struct mt_maps removed;

    if (thread->map_count == 0)
        return;
    removed = thread->maps[--thread->map_count].removed;
    for (size_t i = 0; i < removed.count; i++) {
        if (undo)
            restore(live, removed.pieces[i], event->stamp);
        else
            piece_gone(live, &removed.pieces[i], event->stamp);
    }
    mt_maps_finish(&removed);
}

static void remap_end(struct mt_live *live, const struct mt_event *event)
{
    const uint32_t nature = MT_MAP_ANONYMOUS | MT_MAP_FILE | MT_MAP_BRK | MT_MAP_BACKING | MT_MAP_NO_ACCESS;
    struct thread *thread = &live->threads[event->thread];
    uint32_t flags = event->extra;

    if (event->address == 0) {
        limbo_pop(live, event, true);
        return;
    }
    /* mremap does not say what it moves: the new mapping is of the old one's nature. */
    if (!(flags & nature)) {
        struct mt_maps *removed = thread->map_count ? &thread->maps[thread->map_count - 1].removed : NULL;
        if (removed && removed->count)
            flags |= removed->pieces[0].origin->flags & nature;
    }
    limbo_pop(live, event, flags & (MT_MAP_DONTUNMAP | MT_MAP_DUPLICATE));
    map(live, event, flags);
}

void mt_live_map_event(struct mt_live *live, const struct mt_event *event)
{
    switch (event->type) {
    case MT_RECORD_MAP:
        map(live, event, event->extra);
        break;
    case MT_RECORD_UNMAP_BEGIN:
    case MT_RECORD_REMAP_BEGIN:
        limbo_push(live, event);
        break;
    case MT_RECORD_UNMAP_END:
        limbo_pop(live, event, event->address != 0);
        break;
    case MT_RECORD_REMAP_END:
        remap_end(live, event);
        break;
    default:
        break;
    }
}

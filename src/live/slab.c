/*
 * Invariants (slab.h): a span is in the list of its size if 0 < used < all of its items, in its region's list of empty ones if used == 0; a region is
 * `open` while spans_used < SPANS, else `full`. Headers are at the beginnings of regions, so that an item leads to its own.
 */
#include "live/slab.h"

#include <assert.h>
#include <stdlib.h>

#include "base/base.h"

enum { SPAN_BYTES = 12288, HEADER_BYTES = 8192, SPANS = (MT_PAGES_HUGE_BYTES - HEADER_BYTES) / SPAN_BYTES };

struct span {
    struct mt_slab_link link;
    void *given; /* items that came back: each begins with the address of the next */
    uint16_t used, made; /* items: handed out; handed out at some time */
};

struct region {
    struct mt_slab_link link;
    struct mt_slab_link *empty; /* spans that were in use */
    uint32_t spans_used, spans_made;
    struct span spans[SPANS];
};

static_assert(sizeof(struct region) <= HEADER_BYTES, "a region's header has room before its first span");
static_assert(SPAN_BYTES % MT_SLAB_ITEM_MAX == 0, "the largest items fill a span");

static void link_push(struct mt_slab_link **list, struct mt_slab_link *link)
{
    *link = (struct mt_slab_link){.next = *list};
    if (*list)
        (*list)->previous = link;
    *list = link;
}

static void link_drop(struct mt_slab_link **list, const struct mt_slab_link *link)
{
    if (link->previous)
        link->previous->next = link->next;
    else
        *list = link->next;
    if (link->next)
        link->next->previous = link->previous;
}

static struct region *region_of(const void *inside)
{
    return (struct region *)((uintptr_t)inside & ~(uintptr_t)(MT_PAGES_HUGE_BYTES - 1));
}

static char *items_of(struct region *region, const struct span *span)
{
    return (char *)region + HEADER_BYTES + (size_t)(span - region->spans) * SPAN_BYTES;
}

static struct span *span_of(const void *item)
{
    struct region *region = region_of(item);

    return &region->spans[((uintptr_t)item - (uintptr_t)region - HEADER_BYTES) / SPAN_BYTES];
}

/* 1, 2, 3, 4, 6, 8, ... units to 0, 2, 3, 4, 5, 6, ... */
static unsigned size_index(size_t bytes)
{
    unsigned units = (unsigned)(bytes / MT_SLAB_UNIT), bits = 31u - (unsigned)__builtin_clz(units);

    return bits * 2 + !!(units & (units - 1));
}

/* ---- regions ----------------------------------------------------------------------------------------------------- */

static struct region *region_make(struct mt_slab *slab)
{
    struct region *region = mt_pages_aligned(MT_PAGES_HUGE_BYTES);

    if (!region)
        return NULL;
    slab->region_count++;
    mt_pages_advise_huge(region, MT_PAGES_HUGE_BYTES, false); /* small tables are to stay small */
    link_push(&slab->open, &region->link); /* else it is zero */
    slab->empty_count++;
    return region;
}

static struct span *span_make(struct mt_slab *slab)
{
    struct region *region = (struct region *)slab->open;
    struct span *span;

    if (!region) {
        region = region_make(slab);
        if (!region)
            return NULL;
    }
    span = (struct span *)region->empty;
    if (span)
        link_drop(&region->empty, &span->link);
    else
        span = &region->spans[region->spans_made++];
    slab->empty_count -= region->spans_used == 0;
    if (++region->spans_used == SPANS) {
        link_drop(&slab->open, &region->link);
        link_push(&slab->full, &region->link);
    }
    return span;
}

/* It has no items any more, and is in no list. */
static void span_is_empty(struct mt_slab *slab, struct region *region, struct span *span)
{
    span->given = NULL;
    span->made = 0;
    link_push(&region->empty, &span->link);
    if (region->spans_used-- == SPANS) {
        link_drop(&slab->full, &region->link);
        link_push(&slab->open, &region->link);
    }
    if (region->spans_used)
        return;
    if (++slab->empty_count > 1) {
        link_drop(&slab->open, &region->link);
        mt_pages_free(region, MT_PAGES_HUGE_BYTES);
        slab->region_count--;
        slab->empty_count--;
    }
}

/* ---- items ------------------------------------------------------------------------------------------------------- */

void *mt_slab_take(struct mt_slab *slab, size_t bytes)
{
    struct mt_slab_link **spans;
    struct span *span;
    void *item;

    if (bytes > MT_SLAB_ITEM_MAX)
        return aligned_alloc(MT_SLAB_UNIT, bytes);
    spans = &slab->spans[size_index(bytes)];
    span = (struct span *)*spans;
    if (!span) {
        span = span_make(slab);
        if (!span)
            return NULL;
        link_push(spans, &span->link);
    }
    item = span->given;
    if (item)
        span->given = *(void **)item;
    else
        item = items_of(region_of(span), span) + span->made++ * bytes;
    if (++span->used == SPAN_BYTES / bytes)
        link_drop(spans, &span->link);
    return item;
}

void mt_slab_give(struct mt_slab *slab, void *item, size_t bytes)
{
    struct mt_slab_link **spans;
    struct span *span;

    if (!item || bytes > MT_SLAB_ITEM_MAX) {
        free(item);
        return;
    }
    span = span_of(item);
    spans = &slab->spans[size_index(bytes)];
    *(void **)item = span->given;
    span->given = item;
    if (span->used-- == SPAN_BYTES / bytes)
        link_push(spans, &span->link);
    if (span->used)
        return;
    link_drop(spans, &span->link);
    span_is_empty(slab, region_of(item), span);
}

void mt_slab_expect(const void *item, size_t bytes)
{
    if (item && bytes <= MT_SLAB_ITEM_MAX)
        mt_prefetch(span_of(item));
}

static void regions_free(struct mt_slab_link *region)
{
    while (region) {
        struct mt_slab_link *next = region->next;

        mt_pages_free(region, MT_PAGES_HUGE_BYTES);
        region = next;
    }
}

void mt_slab_finish(struct mt_slab *slab)
{
    regions_free(slab->open);
    regions_free(slab->full);
    *slab = (struct mt_slab){0};
}

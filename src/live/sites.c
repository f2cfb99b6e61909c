/*
 * Sites, heaps and threads: the tables that events refer to, and what the reader asks of them.
 */
#include "live/model.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    BY_NODE_MAX = 1 << 24, /* nodes above go through the index: a target could claim any number */
    HEAP_NAME_MAX_BYTES = 255,
    FIRST_SITES = 32,   /* a page */
    FIRST_NODES = 1024, /* a page */
};

void *mt_live_grow(void *items, size_t count, size_t *capacity, size_t item_bytes)
{
    size_t wanted = *capacity ? *capacity * 2 : 8;
    void *bigger;

    if (count < *capacity)
        return items;
    bigger = reallocarray(items, wanted, item_bytes);
    if (bigger)
        *capacity = wanted;
    return bigger;
}

static uint32_t site_make(struct mt_live *live, uint32_t node, unsigned heap, unsigned kind)
{
    struct mt_live_site *sites = live->sites;

    if (live->site_count >= NO_SITE - 1)
        return NO_SITE;
    if (live->site_count == live->site_capacity) {
        size_t capacity = live->site_capacity ? live->site_capacity * 2 : FIRST_SITES;

        sites = mt_pages_grow(sites, live->site_capacity * sizeof(*sites), capacity * sizeof(*sites));
        if (!sites)
            return NO_SITE;
        live->sites = sites;
        live->site_capacity = capacity;
    }
    /* At the last peak it held nothing: that is what "saved in this epoch" says. */
    sites[live->site_count] = (struct mt_live_site){
        .epoch = live->epoch, .node = node, .heap = (uint16_t)heap, .kind = (uint16_t)kind};
    return (uint32_t)live->site_count++;
}

static uint64_t site_hash(uint32_t node, unsigned heap, unsigned kind)
{
    return mt_hash_u64((uint64_t)node << 32 | heap << 8 | kind);
}

static uint32_t *index_probe(const struct site_index *index, const struct mt_live_site *sites, uint32_t node,
    unsigned heap, unsigned kind)
{
    size_t i = site_hash(node, heap, kind) & index->mask;

    while (index->slots[i] != 0) {
        const struct mt_live_site *site = &sites[index->slots[i] - 1];
        if (site->node == node && site->heap == heap && site->kind == kind)
            break;
        i = (i + 1) & index->mask;
    }
    return &index->slots[i];
}

static bool index_grow(struct mt_live *live)
{
    struct site_index bigger = {.mask = live->index.mask * 2 + 1, .count = live->index.count};

    bigger.slots = calloc(bigger.mask + 1, sizeof(*bigger.slots));
    if (!bigger.slots)
        return false;
    for (size_t i = 0; i <= live->index.mask; i++) {
        if (live->index.slots[i] == 0)
            continue;
        const struct mt_live_site *site = &live->sites[live->index.slots[i] - 1];
        *index_probe(&bigger, live->sites, site->node, site->heap, site->kind) = live->index.slots[i];
    }
    free(live->index.slots);
    live->index = bigger;
    return true;
}

static bool by_node_grow(struct node_sites *by_node, uint32_t node)
{
    size_t wanted = by_node->capacity ? by_node->capacity : FIRST_NODES;
    uint32_t *bigger;

    while (wanted <= node)
        wanted *= 2;
    bigger = mt_pages_grow(by_node->sites, by_node->capacity * sizeof(*bigger), wanted * sizeof(*bigger));
    if (!bigger)
        return false;
    *by_node = (struct node_sites){bigger, wanted};
    return true;
}

uint32_t mt_live_site_make(struct mt_live *live, uint32_t node, unsigned heap, unsigned kind)
{
    uint32_t *slot, site;

    if ((heap == MT_LIVE_HEAP_MALLOC || heap == MT_LIVE_HEAP_PYTHON) && node < BY_NODE_MAX) {
        if (MT_UNLIKELY(node >= live->by_node[heap].capacity) && !by_node_grow(&live->by_node[heap], node))
            return NO_SITE;
        slot = &live->by_node[heap].sites[node];
        if (MT_LIKELY(*slot != 0))
            return *slot - 1;
        site = site_make(live, node, heap, kind);
        if (site != NO_SITE)
            *slot = site + 1;
        return site;
    }
    slot = index_probe(&live->index, live->sites, node, heap, kind);
    if (*slot != 0)
        return *slot - 1;
    if ((live->index.count + 1) * 4 > (live->index.mask + 1) * 3) {
        if (!index_grow(live))
            return NO_SITE;
    }
    site = site_make(live, node, heap, kind);
    if (site == NO_SITE)
        return NO_SITE;
    *index_probe(&live->index, live->sites, node, heap, kind) = site + 1;
    live->index.count++;
    return site;
}

void mt_live_prefetch_node(const struct mt_live *live, uint32_t type, uint32_t node)
{
    const struct node_sites *by_node = &live->by_node[mt_live_block_heap(type)];

    if (node < by_node->capacity)
        mt_prefetch(&by_node->sites[node]);
}

/* ---- heaps and threads -------------------------------------------------------------------------------------- */

static struct heap *heap_make(struct mt_live *live, uint64_t id, char *name)
{
    struct heap *heaps, *heap;

    if (!name || live->heap_count >= MT_LIVE_HEAPS_MAX)
        goto fail;
    heaps = mt_live_grow(live->heaps, live->heap_count, &live->heap_capacity, sizeof(*heaps));
    if (!heaps)
        goto fail;
    live->heaps = heaps;
    heap = &heaps[live->heap_count];
    *heap = (struct heap){.name = name, .id = id};
    if (mt_blocks_init(&heap->blocks) < 0)
        goto fail;
    if (live->distrust)
        (void)mt_blocks_distrust(&heap->blocks, NULL, NULL); /* it is empty */
    live->heap_count++;
    return heap;
fail:
    free(name);
    return NULL;
}

static struct heap *heap_find(struct mt_live *live, uint64_t id)
{
    for (size_t i = MT_LIVE_HEAP_PYTHON; i < live->heap_count; i++)
        if (live->heaps[i].id == id)
            return &live->heaps[i];
    return NULL;
}

struct heap *mt_live_heap_of(struct mt_live *live, uint64_t id)
{
    struct heap *heap = heap_find(live, id);
    char name[64];

    if (heap)
        return heap;
    snprintf(name, sizeof(name), "heap-%llu", (unsigned long long)id);
    return heap_make(live, id, strdup(name));
}

/* Sites are keyed by name in the database: a program's heap must not pass for malloc, mmap or Python's, nor for its other heap. */
static bool name_taken(const struct mt_live *live, const char *name)
{
    for (size_t i = 0; i < live->heap_count; i++)
        if (!strcmp(live->heaps[i].name, name))
            return true;
    return false;
}

void mt_live_heap_create(struct mt_live *live, uint64_t id, const char *name, size_t name_bytes)
{
    char copy[HEAP_NAME_MAX_BYTES + 32];

    if (heap_find(live, id))
        return;
    if (name_bytes > HEAP_NAME_MAX_BYTES)
        name_bytes = HEAP_NAME_MAX_BYTES;
    snprintf(copy, sizeof(copy), "%.*s", (int)name_bytes, name);
    if (copy[0] == '\0' || name_taken(live, copy))
        snprintf(copy, sizeof(copy), "%.*s-%llu", (int)name_bytes, name, (unsigned long long)id);
    if (!heap_make(live, id, strdup(copy)))
        live->totals.dropped++;
}

uint32_t mt_live_thread(struct mt_live *live)
{
    struct thread *threads = mt_live_grow(live->threads, live->thread_count, &live->thread_capacity, sizeof(*threads));

    if (!threads || live->thread_count >= UINT32_MAX)
        return UINT32_MAX;
    live->threads = threads;
    threads[live->thread_count] = (struct thread){0};
    return (uint32_t)live->thread_count++;
}

/* ---- life ----------------------------------------------------------------------------------------------------- */

struct mt_live *mt_live_create(void)
{
    struct mt_live *live = calloc(1, sizeof(*live));

    if (!live)
        return NULL;
    live->epoch = 1;
    live->index.mask = 63;
    live->index.slots = calloc(live->index.mask + 1, sizeof(*live->index.slots));
    if (!live->index.slots || !heap_make(live, UINT64_MAX, strdup("malloc")) ||
        !heap_make(live, UINT64_MAX, strdup("mmap")) || !heap_make(live, MT_HEAP_PYTHON, strdup("python"))) {
        mt_live_destroy(live);
        return NULL;
    }
    live->heaps[MT_LIVE_HEAP_MALLOC].memory = true;
    live->heaps[MT_LIVE_HEAP_PYTHON].memory = live->heaps[MT_LIVE_HEAP_PYTHON].python = true;
    return live;
}

static void maps_destroy(struct mt_maps *maps)
{
    for (size_t i = 0; i < maps->count; i++)
        if (--maps->pieces[i].origin->pieces == 0)
            free(maps->pieces[i].origin);
    mt_maps_finish(maps);
}

void mt_live_destroy(struct mt_live *live)
{
    if (!live)
        return;
    for (size_t i = 0; i < live->thread_count; i++) {
        free(live->threads[i].blocks);
        for (size_t k = 0; k < live->threads[i].map_count; k++)
            maps_destroy(&live->threads[i].maps[k].removed);
        free(live->threads[i].maps);
    }
    maps_destroy(&live->maps);
    maps_destroy(&live->scratch);
    for (size_t i = 0; i < live->heap_count; i++) {
        free(live->heaps[i].name);
        mt_blocks_finish(&live->heaps[i].blocks);
    }
    for (size_t i = 0; i < live->phase_count; i++) {
        free(live->phases[i].note.name);
        free(live->phases[i].note.parent);
    }
    free(live->iteration.note.name);
    mt_live_cohorts_destroy(live->cohorts);
    mt_live_notes_free(live->notes, live->note_count);
    free(live->phases);
    free(live->threads);
    free(live->heaps);
    mt_pages_free(live->sites, live->site_capacity * sizeof(*live->sites));
    for (size_t i = 0; i <= MT_LIVE_HEAP_PYTHON; i++)
        mt_pages_free(live->by_node[i].sites, live->by_node[i].capacity * sizeof(*live->by_node[i].sites));
    free(live->index.slots);
    free(live);
}

/* ---- questions ------------------------------------------------------------------------------------------------- */

const struct mt_live_totals *mt_live_totals(const struct mt_live *live)
{
    return &live->totals;
}

size_t mt_live_site_count(const struct mt_live *live)
{
    return live->site_count;
}

const struct mt_live_site *mt_live_site(const struct mt_live *live, size_t site)
{
    return &live->sites[site];
}

struct mt_live_sites mt_live_sites(const struct mt_live *live)
{
    return (struct mt_live_sites){.sites = live->sites, .epoch = live->epoch};
}

void mt_live_site_at_peak(const struct mt_live *live, size_t site, uint64_t *ret_bytes, uint64_t *ret_blocks)
{
    struct mt_live_sites all = mt_live_sites(live);

    *ret_bytes = mt_live_peak_bytes(&all, site);
    *ret_blocks = mt_live_peak_blocks(&all, site);
}

const char *mt_live_heap_name(const struct mt_live *live, unsigned heap)
{
    return live->heaps[heap].name;
}

const char *mt_live_kind_name(unsigned kind)
{
    static const char *const names[] = {NULL, "file", "backing", "reserved"};

    return kind < MT_ARRAY_LEN(names) ? names[kind] : NULL;
}

struct mt_live_row *mt_live_rows(const struct mt_live *live, uint64_t min_bytes, size_t *ret_count)
{
    struct mt_live_row *rows;
    size_t count = 0;

    for (size_t i = 0; i < live->site_count; i++)
        count += live->sites[i].live_blocks != 0 && live->sites[i].live_bytes >= min_bytes;
    *ret_count = 0;
    rows = count ? calloc(count, sizeof(*rows)) : NULL;
    if (!rows)
        return NULL;
    for (size_t i = 0; i < live->site_count; i++) {
        const struct mt_live_site *site = &live->sites[i];
        if (site->live_blocks != 0 && site->live_bytes >= min_bytes)
            rows[(*ret_count)++] = (struct mt_live_row){.site = (uint32_t)i,
                .live_bytes = site->live_bytes,
                .live_blocks = site->live_blocks,
                .allocated_bytes = site->allocated_bytes,
                .allocated_blocks = site->allocated_blocks};
    }
    return rows;
}

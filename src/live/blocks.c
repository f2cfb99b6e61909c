/*
 * Invariants (blocks.h): for every entry, all places from its home to its own, cyclically, are occupied; a page with blocks has an array with at
 * least one empty place; the table of pages has at least one empty slot.
 */
#include "live/blocks.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum { FIRST_BITS = 6, FIRST_ENTRIES = 4, DOUBLED_ENTRIES = 32 };

#define SIZE_LIMIT UINT32_MAX
#define YOUNG ((size_t)1 << MT_BLOCKS_YOUNG_BITS)

int mt_blocks_init(struct mt_blocks *blocks)
{
    struct mt_block_page *pages = calloc((size_t)1 << FIRST_BITS, sizeof(*pages));

    if (!pages)
        return -ENOMEM;
    *blocks = (struct mt_blocks){.young = calloc(YOUNG, sizeof(struct mt_block)),
        .pages = pages,
        .page_mask = ((size_t)1 << FIRST_BITS) - 1,
        .page_shift = 64 - FIRST_BITS};
    return 0;
}

void mt_blocks_finish(struct mt_blocks *blocks)
{
    for (size_t i = 0; blocks->pages && i <= blocks->page_mask; i++)
        free(blocks->pages[i].entries);
    free(blocks->pages);
    free(blocks->large);
    free(blocks->young);
    *blocks = (struct mt_blocks){0};
}

/* ---- sizes that do not fit ------------------------------------------------------------------------------------- */

static int large_put(struct mt_blocks *blocks, uint64_t address, uint64_t size)
{
    if (blocks->large_count == blocks->large_capacity) {
        size_t capacity = blocks->large_capacity ? blocks->large_capacity * 2 : 4;
        struct mt_large_block *large = reallocarray(blocks->large, capacity, sizeof(*large));

        if (!large)
            return -ENOMEM;
        blocks->large = large;
        blocks->large_capacity = capacity;
    }
    blocks->large[blocks->large_count++] = (struct mt_large_block){address, size};
    return 0;
}

static size_t large_find(const struct mt_blocks *blocks, uint64_t address)
{
    for (size_t i = 0; i < blocks->large_count; i++)
        if (blocks->large[i].address == address)
            return i;
    return SIZE_MAX;
}

/* The block of an entry. take: it leaves the table. */
static MT_ALWAYS_INLINE struct mt_block block_of(struct mt_blocks *blocks, uint64_t number, const struct mt_block_entry *e, bool take)
{
    struct mt_block block = {.address = ((number - 1) << MT_BLOCKS_PAGE_BITS) + e->place - 1,
        .size = e->size,
        .site = e->site_thread >> 8,
        .birth = e->birth,
        .iteration = e->iteration,
        .thread = (uint8_t)e->site_thread};

    if (MT_UNLIKELY(e->size == SIZE_LIMIT)) {
        size_t i = large_find(blocks, block.address);

        if (i != SIZE_MAX) {
            block.size = blocks->large[i].size;
            if (take)
                blocks->large[i] = blocks->large[--blocks->large_count];
        }
    }
    return block;
}

/* ---- pages ------------------------------------------------------------------------------------------------------- */

static MT_ALWAYS_INLINE struct mt_block_page *page_probe(const struct mt_blocks *blocks, uint64_t number)
{
    size_t i = mt_blocks_page_home(blocks, number);

    while (blocks->pages[i].number != number && blocks->pages[i].number != 0)
        i = (i + 1) & blocks->page_mask;
    return &blocks->pages[i];
}

/* A table for the pages that have blocks, at most half full. */
static int pages_anew(struct mt_blocks *blocks)
{
    struct mt_blocks fresh = *blocks;
    size_t used = 0, bits = FIRST_BITS;

    for (size_t i = 0; i <= blocks->page_mask; i++)
        used += blocks->pages[i].count != 0;
    while (used * 2 + 2 > (size_t)1 << bits)
        bits++;
    fresh.page_mask = ((size_t)1 << bits) - 1;
    fresh.page_shift = (unsigned)(64 - bits);
    fresh.pages = calloc(fresh.page_mask + 1, sizeof(*fresh.pages));
    if (!fresh.pages)
        return -ENOMEM;
    for (size_t i = 0; i <= blocks->page_mask; i++) {
        if (blocks->pages[i].count)
            *page_probe(&fresh, blocks->pages[i].number) = blocks->pages[i];
        else
            free(blocks->pages[i].entries);
    }
    fresh.page_count = used;
    free(blocks->pages);
    *blocks = fresh;
    return 0;
}

static MT_NOINLINE struct mt_block_page *page_make(struct mt_blocks *blocks, uint64_t number)
{
    struct mt_block_page *page;

    if ((blocks->page_count + 1) * 4 > (blocks->page_mask + 1) * 3 && pages_anew(blocks) < 0 &&
        blocks->page_count >= blocks->page_mask)
        return NULL;
    page = page_probe(blocks, number);
    page->number = number;
    blocks->page_count++;
    return page;
}

/* ---- entries of a page ------------------------------------------------------------------------------------------- */

static MT_ALWAYS_INLINE uint32_t next_place(const struct mt_block_page *page, uint32_t i)
{
    return i + 1 < page->capacity ? i + 1 : 0;
}

/* The entry of an address, or the empty one where it belongs. */
static MT_ALWAYS_INLINE struct mt_block_entry *probe(const struct mt_block_page *page, uint64_t address)
{
    uint32_t place = (uint32_t)(address & ((1u << MT_BLOCKS_PAGE_BITS) - 1)) + 1, i = mt_blocks_home(page, address);

    while (page->entries[i].place != place && page->entries[i].place != 0)
        i = next_place(page, i);
    return &page->entries[i];
}

static MT_NOINLINE int resize(struct mt_block_page *page, uint32_t capacity)
{
    struct mt_block_page fresh = *page;

    fresh.capacity = capacity;
    fresh.entries = calloc(capacity, sizeof(*fresh.entries));
    if (!fresh.entries)
        return -ENOMEM;
    for (uint32_t i = 0; i < page->capacity; i++)
        if (page->entries[i].place)
            *probe(&fresh, page->entries[i].place - 1u) = page->entries[i];
    free(page->entries);
    *page = fresh;
    return 0;
}

/* Capacities are powers of two, and of large ones those times one and a half, too. */
static uint32_t next_capacity(uint32_t capacity)
{
    if (capacity < FIRST_ENTRIES)
        return FIRST_ENTRIES;
    if (capacity < DOUBLED_ENTRIES)
        return capacity * 2;
    return capacity & (capacity - 1) ? capacity / 3 * 4 : capacity / 2 * 3;
}

/* Has few entries for its array. Without memory it stays large. */
static MT_NOINLINE void shrink(struct mt_block_page *page)
{
    uint32_t capacity = FIRST_ENTRIES;

    while (capacity < page->count * 2)
        capacity = next_capacity(capacity);
    resize(page, capacity);
}

static MT_ALWAYS_INLINE uint32_t home_of(const struct mt_block_page *page, uint32_t i)
{
    return mt_blocks_home(page, page->entries[i].place - 1u);
}

static MT_ALWAYS_INLINE bool table_remove(struct mt_blocks *blocks, uint64_t address, struct mt_block *ret_block)
{
    struct mt_block_page *page = page_probe(blocks, (address >> MT_BLOCKS_PAGE_BITS) + 1);
    struct mt_block_entry *e;
    uint32_t hole, i;

    if (MT_UNLIKELY(!page->count))
        return false;
    e = probe(page, address);
    if (MT_UNLIKELY(!e->place))
        return false;
    *ret_block = block_of(blocks, page->number, e, true);
    hole = i = (uint32_t)(e - page->entries);
    for (;;) {
        i = next_place(page, i);
        if (MT_LIKELY(!page->entries[i].place))
            break;
        /* It may move into the hole unless its home lies cyclically in (hole, i]. */
        uint32_t home = home_of(page, i), from_home = i >= home ? i - home : i + page->capacity - home;
        if (from_home >= (i >= hole ? i - hole : i + page->capacity - hole)) {
            page->entries[hole] = page->entries[i];
            hole = i;
        }
    }
    page->entries[hole].place = 0;
    page->count--;
    blocks->count--;
    if (MT_UNLIKELY(page->count * 6 < page->capacity && page->capacity > FIRST_ENTRIES * 2))
        shrink(page);
    return true;
}

static MT_ALWAYS_INLINE int table_insert(struct mt_blocks *blocks, const struct mt_block *block, struct mt_block *ret_replaced)
{
    uint64_t number = (block->address >> MT_BLOCKS_PAGE_BITS) + 1;
    uint32_t size = block->size < SIZE_LIMIT ? (uint32_t)block->size : SIZE_LIMIT;
    struct mt_block_page *page = page_probe(blocks, number);
    struct mt_block_entry *e;

    if (MT_UNLIKELY(!page->number)) {
        page = page_make(blocks, number);
        if (!page)
            return -ENOMEM;
    }
    if (MT_UNLIKELY((page->count + 1) * 8 > page->capacity * 7)) {
        if (resize(page, next_capacity(page->capacity)) < 0 && page->count + 1 >= page->capacity)
            return -ENOMEM;
    }
    if (MT_UNLIKELY(size == SIZE_LIMIT) && large_put(blocks, block->address, block->size) < 0)
        return -ENOMEM;
    e = probe(page, block->address);
    if (MT_UNLIKELY(e->place)) {
        *ret_replaced = block_of(blocks, number, e, true);
        page->count--;
        blocks->count--;
    }
    *e = (struct mt_block_entry){.place = (uint16_t)((block->address & ((1u << MT_BLOCKS_PAGE_BITS) - 1)) + 1),
        .iteration = block->iteration,
        .site_thread = block->site << 8 | block->thread,
        .birth = block->birth,
        .size = size};
    page->count++;
    blocks->count++;
    return 0;
}

/* ---- the young ones in front ---------------------------------------------------------------------------------------- */

bool mt_blocks_remove(struct mt_blocks *blocks, uint64_t address, struct mt_block *ret_block)
{
    if (MT_LIKELY(blocks->young)) {
        struct mt_block *young = mt_blocks_young(blocks, address);

        if (young->address == address && address) {
            *ret_block = *young;
            young->address = 0;
            blocks->count--;
            return true;
        }
    }
    return table_remove(blocks, address, ret_block);
}

/* A young one goes into the table: it is counted already. */
static MT_ALWAYS_INLINE int grow_old(struct mt_blocks *blocks, struct mt_block *young, struct mt_block *ret_replaced)
{
    int r = table_insert(blocks, young, ret_replaced);

    if (r < 0)
        return r;
    blocks->count--;
    young->address = 0;
    return 0;
}

int mt_blocks_insert(struct mt_blocks *blocks, const struct mt_block *block, struct mt_block *ret_replaced)
{
    struct mt_block *young;

    ret_replaced->address = 0;
    if (MT_UNLIKELY(block->site >= MT_BLOCKS_SITE_MAX))
        return -ERANGE;
    if (MT_UNLIKELY(!blocks->young))
        return table_insert(blocks, block, ret_replaced);
    young = mt_blocks_young(blocks, block->address);
    if (MT_UNLIKELY(young->address == block->address)) {
        *ret_replaced = *young;
        blocks->count--;
    } else if (young->address && grow_old(blocks, young, ret_replaced) < 0) {
        return -ENOMEM;
    }
    *young = *block;
    blocks->count++;
    return 0;
}

int mt_blocks_distrust(struct mt_blocks *blocks, void (*replaced)(void *context, const struct mt_block *block), void *context)
{
    for (size_t i = 0; blocks->young && i < YOUNG; i++) {
        struct mt_block *young = &blocks->young[i], other = {0};

        if (young->address && grow_old(blocks, young, &other) < 0)
            return -ENOMEM;
        if (other.address)
            replaced(context, &other);
    }
    free(blocks->young);
    blocks->young = NULL;
    return 0;
}

bool mt_blocks_next(const struct mt_blocks *blocks, struct mt_blocks_cursor *cursor, struct mt_block *ret_block)
{
    while (blocks->young && cursor->young < YOUNG) {
        *ret_block = blocks->young[cursor->young++];
        if (ret_block->address)
            return true;
    }
    for (; cursor->page <= blocks->page_mask; cursor->page++, cursor->entry = 0) {
        const struct mt_block_page *page = &blocks->pages[cursor->page];

        for (; page->count && cursor->entry < page->capacity; cursor->entry++) {
            if (!page->entries[cursor->entry].place)
                continue;
            *ret_block = block_of((struct mt_blocks *)blocks, page->number, &page->entries[cursor->entry], false);
            cursor->entry++;
            return true;
        }
    }
    return false;
}

void mt_blocks_shift_births(struct mt_blocks *blocks, unsigned bits)
{
    for (size_t i = 0; blocks->young && i < YOUNG; i++)
        blocks->young[i].birth >>= bits;
    for (size_t i = 0; i <= blocks->page_mask; i++)
        for (uint32_t k = 0; k < blocks->pages[i].capacity; k++)
            blocks->pages[i].entries[k].birth >>= bits;
}

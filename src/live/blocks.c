/*
 * Invariants (blocks.h): for every entry, all lines from its home to before its own, cyclically, are full; a page with blocks has an array with at
 * least one empty place; the table of pages has at least one empty slot.
 */
#include "live/blocks.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum { FIRST_BITS = 6, FIRST_ENTRIES = MT_BLOCKS_UNIT, DOUBLED_ENTRIES = 32 };

#define COUNT_MASK ((UINT64_C(1) << MT_BLOCKS_COUNT_BITS) - 1)

#define SIZE_LIMIT UINT32_MAX
#define YOUNG ((size_t)1 << MT_BLOCKS_YOUNG_BITS)

static size_t array_bytes(uint32_t capacity)
{
    return capacity * sizeof(struct mt_block_entry);
}

static void array_free(struct mt_blocks *blocks, const struct mt_block_page *page)
{
    mt_slab_give(&blocks->slab, mt_blocks_entries(page), array_bytes(mt_blocks_capacity(page)));
}

/* A large table is touched in no order: in huge pages. */
static struct mt_block_page *pages_make(size_t count)
{
    size_t bytes = count * sizeof(struct mt_block_page);
    void *pages;

    if (bytes < MT_PAGES_HUGE_BYTES)
        return calloc(1, bytes);
    pages = mt_pages_aligned(bytes);
    if (pages)
        mt_pages_advise_huge(pages, bytes, true);
    return pages;
}

static void pages_free(struct mt_block_page *pages, size_t count)
{
    size_t bytes = count * sizeof(*pages);

    if (bytes < MT_PAGES_HUGE_BYTES)
        free(pages);
    else
        mt_pages_free(pages, bytes);
}

int mt_blocks_init(struct mt_blocks *blocks)
{
    struct mt_block_page *pages = pages_make((size_t)1 << FIRST_BITS);

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
        if (array_bytes(mt_blocks_capacity(&blocks->pages[i])) > MT_SLAB_ITEM_MAX)
            array_free(blocks, &blocks->pages[i]);
    mt_slab_finish(&blocks->slab);
    if (blocks->pages)
        pages_free(blocks->pages, blocks->page_mask + 1);
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

static MT_ALWAYS_INLINE uint32_t count_of(const struct mt_block_page *page)
{
    return (uint32_t)(page->array & COUNT_MASK);
}

static MT_ALWAYS_INLINE uint64_t number_of(const struct mt_block_page *page)
{
    return page->key >> MT_BLOCKS_UNITS_BITS;
}

/* A table for the pages that have blocks, at most half full. */
static int pages_anew(struct mt_blocks *blocks)
{
    struct mt_blocks fresh = *blocks;
    size_t used = 0, bits = FIRST_BITS;

    for (size_t i = 0; i <= blocks->page_mask; i++)
        used += count_of(&blocks->pages[i]) != 0;
    while (used * 2 + 2 > (size_t)1 << bits)
        bits++;
    fresh.page_mask = ((size_t)1 << bits) - 1;
    fresh.page_shift = (unsigned)(64 - bits);
    fresh.pages = pages_make(fresh.page_mask + 1);
    if (!fresh.pages)
        return -ENOMEM;
    for (size_t i = 0; i <= blocks->page_mask; i++) {
        if (count_of(&blocks->pages[i]))
            *mt_blocks_page(&fresh, number_of(&blocks->pages[i])) = blocks->pages[i];
        else
            array_free(&fresh, &blocks->pages[i]);
    }
    fresh.page_count = used;
    pages_free(blocks->pages, blocks->page_mask + 1);
    *blocks = fresh;
    return 0;
}

/* ---- entries of a page ------------------------------------------------------------------------------------------- */

static MT_ALWAYS_INLINE uint32_t next_line(uint32_t capacity, uint32_t line)
{
    return line + MT_BLOCKS_UNIT < capacity ? line + MT_BLOCKS_UNIT : 0;
}

/* Which entries of a line have this place, as bits; 0: the empty ones. Without a branch: where in a line a block is cannot be foretold. */
static MT_ALWAYS_INLINE unsigned with_place(const struct mt_block_entry *line, uint32_t place)
{
    return (unsigned)(line[0].place == place) | (unsigned)(line[1].place == place) << 1 | (unsigned)(line[2].place == place) << 2 |
           (unsigned)(line[3].place == place) << 3;
}

/* An empty entry where an address belongs. */
static MT_ALWAYS_INLINE uint32_t probe_empty(const struct mt_block_entry *entries, uint32_t capacity, uint64_t address)
{
    uint32_t line = mt_blocks_home(capacity, address);
    unsigned found;

    for (;; line = next_line(capacity, line)) {
        found = with_place(entries + line, 0);
        if (MT_LIKELY(found))
            return line + (unsigned)__builtin_ctz(found);
    }
}

/* The entry of an address, or an empty one where it belongs. */
static MT_ALWAYS_INLINE uint32_t probe(const struct mt_block_entry *entries, uint32_t capacity, uint64_t address)
{
    uint32_t place = (uint32_t)(address & ((1u << MT_BLOCKS_PAGE_BITS) - 1)) + 1, line = mt_blocks_home(capacity, address);
    unsigned found;

    for (;; line = next_line(capacity, line)) {
        found = with_place(entries + line, place);
        if (!found)
            found = with_place(entries + line, 0);
        if (MT_LIKELY(found))
            return line + (unsigned)__builtin_ctz(found);
    }
}

/* An entry of what was a full line has become empty: one of the lines behind it may belong there, and so on. */
static MT_NOINLINE void close_hole(struct mt_block_entry *entries, uint32_t capacity, uint32_t hole)
{
    uint32_t line = hole - hole % MT_BLOCKS_UNIT, at = line;
    bool full;

    do {
        at = next_line(capacity, at);
        full = !with_place(entries + at, 0);
        for (uint32_t i = at; i < at + MT_BLOCKS_UNIT; i++) {
            uint32_t home = mt_blocks_home(capacity, entries[i].place - 1u);

            /* It may move unless its home lies cyclically in (line, at]. */
            if (!entries[i].place || (at >= home ? at - home : at + capacity - home) < (at >= line ? at - line : at + capacity - line))
                continue;
            entries[hole] = entries[i];
            entries[i].place = 0;
            hole = i;
            line = at;
            break;
        }
    } while (full);
}

/* MT_BLOCKS_MOVED, if an address's entry is not in its home. */
static MT_ALWAYS_INLINE uint64_t is_moved(uint32_t capacity, uint32_t at, uint64_t address)
{
    return at - mt_blocks_home(capacity, address) < MT_BLOCKS_UNIT ? 0 : MT_BLOCKS_MOVED;
}

static MT_NOINLINE int resize(struct mt_blocks *blocks, struct mt_block_page *page, uint32_t capacity)
{
    struct mt_block_entry *old = mt_blocks_entries(page), *fresh;
    uint64_t moved = 0;
    uint32_t at;

    for (uint32_t i = 0; i < mt_blocks_capacity(page); i += MT_BLOCKS_UNIT)
        mt_prefetch(old + i);
    mt_slab_expect(old, array_bytes(mt_blocks_capacity(page)));
    fresh = mt_slab_take(&blocks->slab, array_bytes(capacity));
    if (!fresh)
        return -ENOMEM;
    memset(fresh, 0, array_bytes(capacity));
    for (uint32_t i = 0, left = count_of(page); left; i++) {
        if (!old[i].place)
            continue;
        at = probe_empty(fresh, capacity, old[i].place - 1u);
        fresh[at] = old[i];
        moved |= is_moved(capacity, at, old[i].place - 1u);
        left--;
    }
    array_free(blocks, page);
    page->key = number_of(page) << MT_BLOCKS_UNITS_BITS | capacity / MT_BLOCKS_UNIT;
    page->array = (uint64_t)(uintptr_t)fresh << MT_BLOCKS_COUNT_BITS | moved | count_of(page);
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
static MT_NOINLINE void shrink(struct mt_blocks *blocks, struct mt_block_page *page)
{
    uint32_t capacity = FIRST_ENTRIES;

    while (capacity < count_of(page) * 2)
        capacity = next_capacity(capacity);
    resize(blocks, page, capacity);
}

static MT_ALWAYS_INLINE bool has_room(uint32_t count, uint32_t capacity)
{
    return count * 8 <= capacity * 7;
}

/* Programs that grow fill page after page in the same way: room for as many as are in pages made a while ago. */
static uint32_t first_capacity(const struct mt_blocks *blocks)
{
    uint32_t count = UINT32_MAX, capacity = FIRST_ENTRIES;

    for (unsigned i = 0; i < 2; i++) {
        uint32_t elder = count_of(mt_blocks_page(blocks, blocks->elders[(blocks->next_elder + i) % MT_BLOCKS_ELDERS]));

        if (elder < count)
            count = elder;
    }
    while (!has_room(count, capacity))
        capacity = next_capacity(capacity);
    return capacity;
}

static MT_NOINLINE struct mt_block_page *page_make(struct mt_blocks *blocks, uint64_t number)
{
    struct mt_block_page *page;
    uint32_t capacity;

    if ((blocks->page_count + 1) * 4 > (blocks->page_mask + 1) * 3 && pages_anew(blocks) < 0 &&
        blocks->page_count >= blocks->page_mask)
        return NULL;
    capacity = first_capacity(blocks);
    page = mt_blocks_page(blocks, number);
    page->key = number << MT_BLOCKS_UNITS_BITS;
    blocks->page_count++;
    blocks->elders[blocks->next_elder++ % MT_BLOCKS_ELDERS] = number;
    resize(blocks, page, capacity); /* without memory it has no entries yet */
    return page;
}

bool mt_blocks_remove_old(struct mt_blocks *blocks, uint64_t address, struct mt_block *ret_block)
{
    struct mt_block_page *page = mt_blocks_page(blocks, mt_blocks_number(address));
    struct mt_block_entry *entries = mt_blocks_entries(page);
    uint32_t capacity = mt_blocks_capacity(page), hole;
    bool full;

    if (MT_UNLIKELY(!count_of(page)))
        return false;
    hole = probe(entries, capacity, address);
    if (MT_UNLIKELY(!entries[hole].place))
        return false;
    *ret_block = block_of(blocks, number_of(page), &entries[hole], true);
    full = page->array & MT_BLOCKS_MOVED && !with_place(entries + (hole - hole % MT_BLOCKS_UNIT), 0);
    entries[hole].place = 0;
    if (MT_UNLIKELY(full))
        close_hole(entries, capacity, hole);
    page->array--;
    blocks->count--;
    if (MT_UNLIKELY(count_of(page) * 6 < capacity && capacity > FIRST_ENTRIES * 2))
        shrink(blocks, page);
    return true;
}

int mt_blocks_insert_old(struct mt_blocks *blocks, const struct mt_block *block, struct mt_block *ret_replaced)
{
    uint64_t number = mt_blocks_number(block->address);
    uint32_t size = block->size < SIZE_LIMIT ? (uint32_t)block->size : SIZE_LIMIT;
    struct mt_block_page *page = mt_blocks_page(blocks, number);
    struct mt_block_entry *e;
    uint32_t at;

    if (MT_UNLIKELY(!page->key)) {
        page = page_make(blocks, number);
        if (!page)
            return -ENOMEM;
    }
    if (MT_UNLIKELY(!has_room(count_of(page) + 1, mt_blocks_capacity(page)))) {
        if (resize(blocks, page, next_capacity(mt_blocks_capacity(page))) < 0 && count_of(page) + 1 >= mt_blocks_capacity(page))
            return -ENOMEM;
    }
    if (MT_UNLIKELY(size == SIZE_LIMIT) && large_put(blocks, block->address, block->size) < 0)
        return -ENOMEM;
    at = probe(mt_blocks_entries(page), mt_blocks_capacity(page), block->address);
    page->array |= is_moved(mt_blocks_capacity(page), at, block->address);
    e = &mt_blocks_entries(page)[at];
    if (MT_UNLIKELY(e->place)) {
        *ret_replaced = block_of(blocks, number, e, true);
        page->array--;
        blocks->count--;
    }
    *e = (struct mt_block_entry){.place = (uint16_t)((block->address & ((1u << MT_BLOCKS_PAGE_BITS) - 1)) + 1),
        .iteration = block->iteration,
        .site_thread = block->site << 8 | block->thread,
        .birth = block->birth,
        .size = size};
    page->array++;
    blocks->count++;
    return 0;
}

/* ---- the young ones in front ---------------------------------------------------------------------------------------- */

int mt_blocks_distrust(struct mt_blocks *blocks, void (*replaced)(void *context, const struct mt_block *block), void *context)
{
    for (size_t i = 0; blocks->young && i < YOUNG; i++) {
        struct mt_block *young = &blocks->young[i], other = {0};

        if (young->address && mt_blocks_grow_old(blocks, young, &other) < 0)
            return -ENOMEM;
        if (other.address)
            replaced(context, &other);
    }
    free(blocks->young);
    blocks->young = NULL;
    return 0;
}

/* Whoever looks at all blocks has everything wait meanwhile, and their arrays lie anywhere: one is asked for some pages before. */
static MT_ALWAYS_INLINE void ask_ahead(const struct mt_blocks *blocks, size_t page)
{
    enum { AHEAD = 6, LINES = 6 };
    const char *line = (const char *)mt_blocks_entries(&blocks->pages[(page + AHEAD) & blocks->page_mask]);

    for (unsigned i = 0; line && i < LINES; i++)
        mt_prefetch(line + i * (size_t)64);
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

        if (cursor->entry == 0)
            ask_ahead(blocks, cursor->page);
        for (; count_of(page) && cursor->entry < mt_blocks_capacity(page); cursor->entry++) {
            const struct mt_block_entry *e = &mt_blocks_entries(page)[cursor->entry];

            if (!e->place)
                continue;
            *ret_block = block_of((struct mt_blocks *)blocks, number_of(page), e, false);
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
    for (size_t i = 0; i <= blocks->page_mask; i++) {
        struct mt_block_entry *entries = mt_blocks_entries(&blocks->pages[i]);
        uint32_t capacity = mt_blocks_capacity(&blocks->pages[i]);

        ask_ahead(blocks, i);
        for (uint32_t k = 0; k < capacity; k++)
            entries[k].birth >>= bits;
    }
}

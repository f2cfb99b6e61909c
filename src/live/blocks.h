/*
 * The table of live blocks, by address: what the reader spends most of its time in, and most of its memory on.
 *
 * Two levels, because programs work on neighbouring blocks at a time, and so the table's memory should be touched as theirs is: a hash table
 * of the pages (4 KiB of the target's memory) that have blocks, and for each page an array of entries. Blocks do not overlap, so those
 * of a page are spread over it: a block's home is that cache line of the array at which its address is in the page; where that is full it is in the first
 * one behind it that is not, with no tombstones. A sequence of blocks is then a walk through the array, and a single one is in one line.
 *
 * 16 bytes an entry, arrays between a sixth and seven eighths full, but for new ones, which have room for as many as there are in the pages that
 * were made a while ago. A page without blocks may stay in the table until that is made anew. The arrays are in a slab (slab.h), a large table of
 * pages is in huge pages. A free in no order costs a line of memory in each of the two, which are asked for many events before.
 *
 * In front of it is a small array for the youngest blocks: most die young, and never see the table. A block is in one of the two. That another block
 * with its address is still in the table is only found when it goes there: where frees may have been missed, mt_blocks_distrust() leaves
 * the array out.
 */
#ifndef MT_LIVE_BLOCKS_H
#define MT_LIVE_BLOCKS_H

#include <assert.h>
#include <errno.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/base.h"
#include "live/slab.h"

#define MT_BLOCKS_SITE_MAX (UINT32_C(1) << 24)
#define MT_BLOCKS_ITERATION_MAX UINT16_MAX
#define MT_BLOCKS_PAGE_BITS 12
#define MT_BLOCKS_UNIT 4 /* entries, those of a cache line: capacities are multiples */
#define MT_BLOCKS_UNITS_BITS 11
#define MT_BLOCKS_COUNT_BITS 16
#define MT_BLOCKS_MOVED (UINT64_C(1) << MT_BLOCKS_COUNT_BITS) /* an entry is, or was, not in its home; arrays are aligned to lines */

struct mt_block {
    uint64_t address; /* not 0 */
    uint64_t size;
    uint32_t site;
    uint32_t birth; /* in whatever unit the caller uses; see mt_blocks_shift_births() */
    uint16_t iteration;
    uint8_t thread;
};

struct mt_block_entry {
    uint16_t place; /* in the page, in bytes, plus one; 0: empty */
    uint16_t iteration;
    uint32_t site_thread; /* site << 8 | thread */
    uint32_t birth;
    uint32_t size; /* UINT32_MAX: in the list of large blocks */
};

struct mt_block_page {
    uint64_t key;   /* number << MT_BLOCKS_UNITS_BITS | capacity in units; 0: empty slot. The number: address >> MT_BLOCKS_PAGE_BITS, plus one */
    uint64_t array; /* address of the entries << MT_BLOCKS_COUNT_BITS | MT_BLOCKS_MOVED | how many are in use */
};

struct mt_large_block { /* whose size does not fit */
    uint64_t address, size;
};

#define MT_BLOCKS_YOUNG_BITS 9
#define MT_BLOCKS_ELDERS 64

struct mt_blocks {
    struct mt_block *young; /* by hash of the address; address 0: no block. NULL: not in use */
    struct mt_block_page *pages;
    size_t page_mask, page_count; /* slots in use, those of pages without blocks included */
    unsigned page_shift;
    size_t count; /* blocks */
    struct mt_slab slab; /* the pages' arrays */
    uint64_t elders[MT_BLOCKS_ELDERS]; /* numbers of the pages made last, cyclically */
    unsigned next_elder;
    struct mt_large_block *large;
    size_t large_count, large_capacity;
};

int mt_blocks_init(struct mt_blocks *blocks);
void mt_blocks_finish(struct mt_blocks *blocks);

/* From now on a block is found to be replaced at once. Calls replaced() for those that already were. Returns 0 or -ENOMEM (try again). */
int mt_blocks_distrust(struct mt_blocks *blocks, void (*replaced)(void *context, const struct mt_block *block), void *context);

/* The table behind the young ones: the same as mt_blocks_remove() and mt_blocks_insert() below. ret_replaced is left alone unless there is one. */
bool mt_blocks_remove_old(struct mt_blocks *blocks, uint64_t address, struct mt_block *ret_block);
int mt_blocks_insert_old(struct mt_blocks *blocks, const struct mt_block *block, struct mt_block *ret_replaced);

/* Where a walk through all blocks is; begins as zeroes. */
struct mt_blocks_cursor {
    size_t young, page;
    uint32_t entry;
};

/* The next block, in no order. False: there are no more. Nothing may change in between. */
bool mt_blocks_next(const struct mt_blocks *blocks, struct mt_blocks_cursor *cursor, struct mt_block *ret_block);

/* Shifts all births right: the unit becomes longer. */
void mt_blocks_shift_births(struct mt_blocks *blocks, unsigned bits);

static inline uint64_t mt_blocks_number(uint64_t address)
{
    return (address >> MT_BLOCKS_PAGE_BITS) + 1;
}

static inline uint32_t mt_blocks_capacity(const struct mt_block_page *page)
{
    return (uint32_t)(page->key & ((1u << MT_BLOCKS_UNITS_BITS) - 1)) * MT_BLOCKS_UNIT;
}

static inline struct mt_block_entry *mt_blocks_entries(const struct mt_block_page *page)
{
    return (struct mt_block_entry *)(uintptr_t)(page->array >> MT_BLOCKS_COUNT_BITS & ~UINT64_C(1)); /* user addresses have 48 bits, or fewer */
}

/* Multiplicative hashing (Knuth, TAOCP 6.4). */
static inline size_t mt_blocks_page_home(const struct mt_blocks *blocks, uint64_t number)
{
    return (size_t)((number * UINT64_C(0x9e3779b97f4a7c15)) >> blocks->page_shift);
}

static inline struct mt_block *mt_blocks_young(const struct mt_blocks *blocks, uint64_t address)
{
    return &blocks->young[(address * UINT64_C(0x9e3779b97f4a7c15)) >> (64 - MT_BLOCKS_YOUNG_BITS)];
}

/* The slot of a page, or the empty one where it belongs: first those of its home's cache line, then those of the next ones. */
static MT_ALWAYS_INLINE struct mt_block_page *mt_blocks_page(const struct mt_blocks *blocks, uint64_t number)
{
    size_t i = mt_blocks_page_home(blocks, number);

    for (unsigned tried = 1;; tried++) {
        struct mt_block_page *page = &blocks->pages[i];

        if (MT_LIKELY(page->key >> MT_BLOCKS_UNITS_BITS == number) || page->key == 0)
            return page;
        i = tried % MT_BLOCKS_UNIT ? (i & ~(size_t)(MT_BLOCKS_UNIT - 1)) | ((i + 1) & (MT_BLOCKS_UNIT - 1)) : (i + MT_BLOCKS_UNIT) & blocks->page_mask;
    }
}

/* The first entry of the line that is an address's home. */
static MT_ALWAYS_INLINE uint32_t mt_blocks_home(uint32_t capacity, uint64_t address)
{
    uint32_t lines = capacity / MT_BLOCKS_UNIT, offset = address & ((1u << MT_BLOCKS_PAGE_BITS) - 1);

    return (offset * lines >> MT_BLOCKS_PAGE_BITS) * MT_BLOCKS_UNIT;
}

/* A block at this address is about to be asked for in the table: first its page; when that has come, the line where it should be is known. */
static MT_ALWAYS_INLINE void mt_blocks_prefetch_page(const struct mt_blocks *blocks, uint64_t address)
{
    mt_prefetch(&blocks->pages[mt_blocks_page_home(blocks, mt_blocks_number(address))]);
}

static MT_ALWAYS_INLINE const void *mt_blocks_expected(const struct mt_blocks *blocks, uint64_t address)
{
    const struct mt_block_page *page = mt_blocks_page(blocks, mt_blocks_number(address));

    /* of an empty slot, no address at all: to be asked for does no harm */
    return (const void *)((uintptr_t)mt_blocks_entries(page) +
        mt_blocks_home(mt_blocks_capacity(page), address) * sizeof(struct mt_block_entry));
}

/* Takes the block at an address out. False: there is none. */
static MT_ALWAYS_INLINE bool mt_blocks_remove(struct mt_blocks *blocks, uint64_t address, struct mt_block *ret_block)
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
    return mt_blocks_remove_old(blocks, address, ret_block);
}

/* A young one goes into the table: it is counted already. */
static MT_ALWAYS_INLINE int mt_blocks_grow_old(struct mt_blocks *blocks, struct mt_block *young, struct mt_block *ret_replaced)
{
    int r = mt_blocks_insert_old(blocks, young, ret_replaced);

    if (MT_UNLIKELY(r < 0))
        return r;
    blocks->count--;
    young->address = 0;
    return 0;
}

/*
 * Puts a block in. Where one is found to be replaced (see above: mostly one of the same address), it is given in *ret_replaced, else its address is 0.
 * -ENOMEM; -ERANGE for a site that does not fit.
 */
static MT_ALWAYS_INLINE int mt_blocks_insert(struct mt_blocks *blocks, const struct mt_block *block, struct mt_block *ret_replaced)
{
    struct mt_block *young;

    ret_replaced->address = 0;
    if (MT_UNLIKELY(block->site >= MT_BLOCKS_SITE_MAX))
        return -ERANGE;
    if (MT_UNLIKELY(!blocks->young))
        return mt_blocks_insert_old(blocks, block, ret_replaced);
    young = mt_blocks_young(blocks, block->address);
    if (MT_UNLIKELY(young->address == block->address)) {
        *ret_replaced = *young;
        blocks->count--;
    } else if (young->address && MT_UNLIKELY(mt_blocks_grow_old(blocks, young, ret_replaced) < 0)) {
        return -ENOMEM;
    }
    *young = *block;
    blocks->count++;
    return 0;
}

static_assert(sizeof(struct mt_block_entry) * MT_BLOCKS_UNIT == MT_SLAB_UNIT && MT_BLOCKS_UNIT == 4, "four entries a cache line");
static_assert(sizeof(struct mt_block_page) == 16, "four pages a cache line");
static_assert(64 - MT_BLOCKS_PAGE_BITS + 1 + MT_BLOCKS_UNITS_BITS <= 64, "a page's number and its capacity fit a word");

#endif

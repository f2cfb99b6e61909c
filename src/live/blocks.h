/*
 * The table of live blocks, by address: what the reader spends most of its time in, and most of its memory on.
 *
 * Buckets of three blocks, one cache line each; a block is in its home bucket or in the next ones, as long as those before it are full. There
 * are no tombstones (a removal from a full bucket pulls a later block back), so a table that has seen 10^9 blocks is as quick as a
 * new one. At most four fifths full.
 *
 * An entry has 48 bits of address, 36 of size, 28 of site, 32 of birth, 16 of iteration and 8 of thread. Larger sizes are in a list beside it;
 * addresses of more than 48 bits cannot be kept.
 */
#ifndef MT_LIVE_BLOCKS_H
#define MT_LIVE_BLOCKS_H

#include <assert.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/base.h"

#define MT_BLOCKS_ADDRESS_MAX (UINT64_C(1) << 48)
#define MT_BLOCKS_SITE_MAX (UINT32_C(1) << 28)
#define MT_BLOCKS_ITERATION_MAX UINT16_MAX

struct mt_block {
    uint64_t address; /* not 0 */
    uint64_t size;
    uint32_t site;
    uint32_t birth; /* in whatever unit the caller uses; see mt_blocks_halve_births() */
    uint16_t iteration;
    uint8_t thread;
};

enum { MT_BUCKET_BLOCKS = 3 };

struct mt_bucket {
    uint64_t address[MT_BUCKET_BLOCKS]; /* address << 16 | iteration; 0: empty. Filled from the front */
    uint64_t what[MT_BUCKET_BLOCKS];    /* size << 28 | site */
    uint32_t birth[MT_BUCKET_BLOCKS];
    uint8_t thread[MT_BUCKET_BLOCKS];
    uint8_t pad;
};

struct mt_large_block { /* whose size does not fit */
    uint64_t address, size;
};

struct mt_blocks {
    struct mt_bucket *buckets;
    size_t mask;
    size_t count;
    unsigned shift;
    struct mt_large_block *large;
    size_t large_count, large_capacity;
};

int mt_blocks_init(struct mt_blocks *blocks);
void mt_blocks_finish(struct mt_blocks *blocks);

/* Takes the block at an address out. False: there is none. */
bool mt_blocks_remove(struct mt_blocks *blocks, uint64_t address, struct mt_block *ret_block);

/*
 * Puts a block in; another one at the same address is replaced, and given in *ret_replaced (else its address is 0). -ENOMEM; -ERANGE for an
 * address or site that does not fit.
 */
int mt_blocks_insert(struct mt_blocks *blocks, const struct mt_block *block, struct mt_block *ret_replaced);

/* The next block from *cursor on, which begins with 0 and is moved; in no order. False: there are no more. Nothing may change in between. */
bool mt_blocks_next(const struct mt_blocks *blocks, size_t *cursor, struct mt_block *ret_block);

/* Halves all births: the unit becomes twice as long. */
void mt_blocks_halve_births(struct mt_blocks *blocks);

/* Multiplicative hashing (Knuth, TAOCP 6.4); blocks are mostly 16-byte aligned. */
static inline size_t mt_blocks_home(const struct mt_blocks *blocks, uint64_t address)
{
    return (size_t)((address * UINT64_C(0x9e3779b97f4a7c15)) >> blocks->shift);
}

static inline void mt_blocks_prefetch(const struct mt_blocks *blocks, uint64_t address)
{
    __builtin_prefetch(&blocks->buckets[mt_blocks_home(blocks, address)], 1);
}

static_assert(sizeof(struct mt_bucket) == 64, "a bucket is a cache line");

#endif

/*
 * The table of live blocks: open addressing by address, linear probing, no tombstones (a removal moves
 * later entries of the cluster back), so that a table that has seen 10^9 blocks is as quick as a new one. 32 bytes an
 * entry, half of a cache line.
 */
#ifndef MT_LIVE_BLOCKS_H
#define MT_LIVE_BLOCKS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct mt_block {
    uint64_t address; /* 0: empty slot */
    uint64_t size;
    uint64_t birth; /* stamp */
    uint32_t site;
    uint32_t thread; /* that allocated it */
};

struct mt_blocks {
    struct mt_block *slots;
    size_t mask;
    size_t count;
    unsigned shift;
};

int mt_blocks_init(struct mt_blocks *blocks);
void mt_blocks_finish(struct mt_blocks *blocks);

/* The entry of an address, or NULL. */
struct mt_block *mt_blocks_find(const struct mt_blocks *blocks, uint64_t address);

/*
 * The entry of an address: the existing one (its address is set and *ret_existing true), or a new one with only its
 * address set. NULL if out of memory. Valid until the next call.
 */
struct mt_block *mt_blocks_insert(struct mt_blocks *blocks, uint64_t address, bool *ret_existing);

/* Removes an entry that find or insert returned. */
void mt_blocks_remove(struct mt_blocks *blocks, struct mt_block *block);

/* Multiplicative hashing (Knuth, TAOCP 6.4); blocks are 16-byte aligned, so the low bits carry nothing. */
static inline size_t mt_blocks_home(const struct mt_blocks *blocks, uint64_t address)
{
    return (size_t)(((address >> 4) * UINT64_C(0x9e3779b97f4a7c15)) >> blocks->shift);
}

static inline void mt_blocks_prefetch(const struct mt_blocks *blocks, uint64_t address)
{
    __builtin_prefetch(&blocks->slots[mt_blocks_home(blocks, address)], 1);
}

#endif

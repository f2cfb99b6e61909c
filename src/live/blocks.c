/*
 * Invariant: for every entry, all slots from its home to its place are occupied (blocks.h).
 */
#include "live/blocks.h"

#include <errno.h>
#include <stdlib.h>

enum { FIRST_BITS = 7 };

int mt_blocks_init(struct mt_blocks *blocks)
{
    struct mt_block *slots = calloc((size_t)1 << FIRST_BITS, sizeof(*slots));

    if (!slots)
        return -ENOMEM;
    *blocks = (struct mt_blocks){
        .slots = slots, .mask = ((size_t)1 << FIRST_BITS) - 1, .count = 0, .shift = 64 - FIRST_BITS};
    return 0;
}

void mt_blocks_finish(struct mt_blocks *blocks)
{
    free(blocks->slots);
    blocks->slots = NULL;
}

/* The entry of the address, or the empty slot where it belongs. */
static struct mt_block *probe(const struct mt_blocks *blocks, uint64_t address)
{
    size_t i = mt_blocks_home(blocks, address);

    while (blocks->slots[i].address != 0 && blocks->slots[i].address != address)
        i = (i + 1) & blocks->mask;
    return &blocks->slots[i];
}

struct mt_block *mt_blocks_find(const struct mt_blocks *blocks, uint64_t address)
{
    struct mt_block *block = probe(blocks, address);

    return block->address ? block : NULL;
}

static int grow(struct mt_blocks *blocks)
{
    struct mt_blocks bigger = {
        .mask = blocks->mask * 2 + 1, .count = blocks->count, .shift = blocks->shift - 1};

    bigger.slots = calloc(bigger.mask + 1, sizeof(*bigger.slots));
    if (!bigger.slots)
        return -ENOMEM;
    for (size_t i = 0; i <= blocks->mask; i++)
        if (blocks->slots[i].address)
            *probe(&bigger, blocks->slots[i].address) = blocks->slots[i];
    free(blocks->slots);
    *blocks = bigger;
    return 0;
}

struct mt_block *mt_blocks_insert(struct mt_blocks *blocks, uint64_t address, bool *ret_existing)
{
    struct mt_block *block = probe(blocks, address);

    if (block->address) {
        *ret_existing = true;
        return block;
    }
    /* At most 5/8 full: linear probing is short up to there. */
    if ((blocks->count + 1) * 8 > (blocks->mask + 1) * 5) {
        if (grow(blocks) < 0) {
            if (blocks->count + 1 > blocks->mask) /* one slot must stay empty: it ends every probe */
                return NULL;
        } else {
            block = probe(blocks, address);
        }
    }
    block->address = address;
    blocks->count++;
    *ret_existing = false;
    return block;
}

void mt_blocks_remove(struct mt_blocks *blocks, struct mt_block *block)
{
    size_t hole = (size_t)(block - blocks->slots);
    size_t i = hole;

    for (;;) {
        i = (i + 1) & blocks->mask;
        if (!blocks->slots[i].address)
            break;
        /* The entry may move into the hole unless its home lies cyclically in (hole, i]. */
        size_t home = mt_blocks_home(blocks, blocks->slots[i].address);
        if (((i - home) & blocks->mask) >= ((i - hole) & blocks->mask)) {
            blocks->slots[hole] = blocks->slots[i];
            hole = i;
        }
    }
    blocks->slots[hole].address = 0;
    blocks->count--;
}

/*
 * Invariants (blocks.h): a bucket's blocks are its first entries; for every block, all buckets from its home to the one before its own
 * are full.
 */
#include "live/blocks.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/mman.h>

enum { FIRST_BITS = 5, SITE_BITS = 28, ITERATION_BITS = 16 };

#define SIZE_LIMIT ((UINT64_C(1) << 36) - 1) /* stands for "in the list of large blocks" */
#define HUGE_FROM_BYTES (UINT64_C(4) << 20)

/* Straight from the kernel: pages of zeroes cost nothing before they are touched, and large tables want large pages. */
static struct mt_bucket *new_buckets(size_t count)
{
    size_t bytes = count * sizeof(struct mt_bucket);
    void *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    if (p == MAP_FAILED)
        return NULL;
    if (bytes >= HUGE_FROM_BYTES)
        madvise(p, bytes, MADV_HUGEPAGE);
    return p;
}

int mt_blocks_init(struct mt_blocks *blocks)
{
    size_t count = (size_t)1 << FIRST_BITS;
    struct mt_bucket *buckets = new_buckets(count);

    if (!buckets)
        return -ENOMEM;
    *blocks = (struct mt_blocks){.buckets = buckets, .mask = count - 1, .shift = 64 - FIRST_BITS};
    return 0;
}

void mt_blocks_finish(struct mt_blocks *blocks)
{
    if (blocks->buckets)
        munmap(blocks->buckets, (blocks->mask + 1) * sizeof(*blocks->buckets));
    free(blocks->large);
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

static uint64_t large_size(const struct mt_blocks *blocks, uint64_t address, size_t *ret_index)
{
    for (size_t i = 0; i < blocks->large_count; i++) {
        if (blocks->large[i].address == address) {
            *ret_index = i;
            return blocks->large[i].size;
        }
    }
    return SIZE_LIMIT;
}

static uint64_t large_take(struct mt_blocks *blocks, uint64_t address)
{
    size_t i = SIZE_MAX;
    uint64_t size = large_size(blocks, address, &i);

    if (i != SIZE_MAX)
        blocks->large[i] = blocks->large[--blocks->large_count];
    return size;
}

/* ---- entries ----------------------------------------------------------------------------------------------------- */

static MT_ALWAYS_INLINE struct mt_block entry_get(const struct mt_bucket *b, unsigned i)
{
    return (struct mt_block){.address = b->address[i] >> ITERATION_BITS,
        .iteration = (uint16_t)b->address[i],
        .size = b->what[i] >> SITE_BITS,
        .site = (uint32_t)b->what[i] & (MT_BLOCKS_SITE_MAX - 1),
        .birth = b->birth[i],
        .thread = b->thread[i]};
}

static MT_ALWAYS_INLINE void entry_move(struct mt_bucket *to, unsigned i, const struct mt_bucket *from, unsigned k)
{
    to->address[i] = from->address[k];
    to->what[i] = from->what[k];
    to->birth[i] = from->birth[k];
    to->thread[i] = from->thread[k];
}

static MT_ALWAYS_INLINE unsigned used(const struct mt_bucket *b)
{
    return b->address[2] ? 3 : b->address[1] ? 2 : b->address[0] ? 1 : 0;
}

/* The entry of an address: its bucket, and its index in it. NULL: there is none. */
static MT_ALWAYS_INLINE struct mt_bucket *find(const struct mt_blocks *blocks, uint64_t address, unsigned *ret_index)
{
    for (size_t i = mt_blocks_home(blocks, address);; i = (i + 1) & blocks->mask) {
        struct mt_bucket *b = &blocks->buckets[i];

        for (unsigned k = 0; k < MT_BUCKET_BLOCKS; k++) {
            if (b->address[k] >> ITERATION_BITS == address) {
                *ret_index = k;
                return b;
            }
        }
        if (MT_LIKELY(!b->address[MT_BUCKET_BLOCKS - 1]))
            return NULL;
    }
}

static void put_new(struct mt_blocks *blocks, const struct mt_bucket *from, unsigned k)
{
    size_t i = mt_blocks_home(blocks, from->address[k] >> ITERATION_BITS);

    while (blocks->buckets[i].address[MT_BUCKET_BLOCKS - 1])
        i = (i + 1) & blocks->mask;
    entry_move(&blocks->buckets[i], used(&blocks->buckets[i]), from, k);
}

static int grow(struct mt_blocks *blocks)
{
    struct mt_blocks bigger = *blocks;

    bigger.mask = blocks->mask * 2 + 1;
    bigger.shift = blocks->shift - 1;
    bigger.buckets = new_buckets(bigger.mask + 1);
    if (!bigger.buckets)
        return -ENOMEM;
    for (size_t i = 0; i <= blocks->mask; i++) {
        if (i + 8 <= blocks->mask) /* the home of a later one: both halves of the new table are walked in order, mostly */
            __builtin_prefetch(&bigger.buckets[i * 2 + 16 <= bigger.mask ? i * 2 + 16 : 0], 1);
        for (unsigned k = 0; k < used(&blocks->buckets[i]); k++)
            put_new(&bigger, &blocks->buckets[i], k);
    }
    munmap(blocks->buckets, (blocks->mask + 1) * sizeof(*blocks->buckets));
    *blocks = bigger;
    return 0;
}

/* A full bucket has lost its last block: pulls back what lies beyond and belongs here or before, bucket by bucket. */
static MT_NOINLINE void close_hole(struct mt_blocks *blocks, size_t hole)
{
    for (size_t i = (hole + 1) & blocks->mask;; i = (i + 1) & blocks->mask) {
        struct mt_bucket *b = &blocks->buckets[i];
        unsigned n = used(b);

        for (unsigned k = n; k-- > 0;) {
            size_t home = mt_blocks_home(blocks, b->address[k] >> ITERATION_BITS);

            /* It may move unless its home lies cyclically in (hole, i]. */
            if (((i - home) & blocks->mask) < ((i - hole) & blocks->mask))
                continue;
            entry_move(&blocks->buckets[hole], MT_BUCKET_BLOCKS - 1, b, k);
            entry_move(b, k, b, n - 1);
            b->address[n - 1] = 0;
            if (n < MT_BUCKET_BLOCKS)
                return;
            hole = i;
            break;
        }
        if (n < MT_BUCKET_BLOCKS)
            return;
    }
}

bool mt_blocks_remove(struct mt_blocks *blocks, uint64_t address, struct mt_block *ret_block)
{
    struct mt_bucket *b;
    unsigned i, last;

    if (MT_UNLIKELY(address >= MT_BLOCKS_ADDRESS_MAX || !address))
        return false;
    b = find(blocks, address, &i);
    if (MT_UNLIKELY(!b))
        return false;
    *ret_block = entry_get(b, i);
    if (MT_UNLIKELY(ret_block->size == SIZE_LIMIT))
        ret_block->size = large_take(blocks, address);
    last = used(b) - 1;
    entry_move(b, i, b, last);
    b->address[last] = 0;
    blocks->count--;
    if (MT_UNLIKELY(last == MT_BUCKET_BLOCKS - 1))
        close_hole(blocks, (size_t)(b - blocks->buckets));
    return true;
}

int mt_blocks_insert(struct mt_blocks *blocks, const struct mt_block *block, struct mt_block *ret_replaced)
{
    struct mt_bucket *b = NULL;
    uint64_t size = block->size < SIZE_LIMIT ? block->size : SIZE_LIMIT;
    unsigned at = 0;
    size_t i;

    ret_replaced->address = 0;
    if (MT_UNLIKELY(block->address >= MT_BLOCKS_ADDRESS_MAX || !block->address || block->site >= MT_BLOCKS_SITE_MAX))
        return -ERANGE;
    if (MT_UNLIKELY((blocks->count + 1) * 5 > (blocks->mask + 1) * MT_BUCKET_BLOCKS * 4) && grow(blocks) < 0 &&
        blocks->count + MT_BUCKET_BLOCKS > (blocks->mask + 1) * MT_BUCKET_BLOCKS) /* one entry must stay empty: it ends every search */
        return -ENOMEM;
    if (MT_UNLIKELY(size == SIZE_LIMIT) && large_put(blocks, block->address, block->size) < 0)
        return -ENOMEM;
    for (i = mt_blocks_home(blocks, block->address);; i = (i + 1) & blocks->mask) {
        b = &blocks->buckets[i];
        for (at = 0; at < MT_BUCKET_BLOCKS && b->address[at]; at++) {
            if (MT_UNLIKELY(b->address[at] >> ITERATION_BITS == block->address)) {
                *ret_replaced = entry_get(b, at);
                if (ret_replaced->size == SIZE_LIMIT)
                    ret_replaced->size = large_take(blocks, block->address);
                blocks->count--;
                goto found;
            }
        }
        if (MT_LIKELY(at < MT_BUCKET_BLOCKS))
            break;
    }
found:
    b->address[at] = block->address << ITERATION_BITS | block->iteration;
    b->what[at] = size << SITE_BITS | block->site;
    b->birth[at] = block->birth;
    b->thread[at] = block->thread;
    blocks->count++;
    return 0;
}

bool mt_blocks_next(const struct mt_blocks *blocks, size_t *cursor, struct mt_block *ret_block)
{
    for (; *cursor < (blocks->mask + 1) * MT_BUCKET_BLOCKS; ++*cursor) {
        const struct mt_bucket *b = &blocks->buckets[*cursor / MT_BUCKET_BLOCKS];
        size_t large;

        if (!b->address[*cursor % MT_BUCKET_BLOCKS])
            continue;
        *ret_block = entry_get(b, *cursor % MT_BUCKET_BLOCKS);
        if (ret_block->size == SIZE_LIMIT)
            ret_block->size = large_size(blocks, ret_block->address, &large);
        ++*cursor;
        return true;
    }
    return false;
}

void mt_blocks_halve_births(struct mt_blocks *blocks)
{
    for (size_t i = 0; i <= blocks->mask; i++)
        for (unsigned k = 0; k < MT_BUCKET_BLOCKS; k++)
            blocks->buckets[i].birth[k] >>= 1;
}

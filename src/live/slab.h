/*
 * Memory for arrays that come in few sizes, are aligned to cache lines and lie anywhere: those of the table of live blocks (blocks.h). Whoever frees
 * blocks in no order has them shrink in no order: what is empty stays at hand for the next one, without the kernel's taking it back and clearing it again.
 *
 *   region  2 MiB, aligned: a header, then spans
 *   span    12 KiB: items of one size. The sizes are powers of two and one and a half times those, times 64, so that items fill it
 *   item    what is handed out, aligned to 64 bytes
 *
 * What was never handed out is not resident. An empty span serves items of any size; of the regions without items at most one is kept. Items too
 * large for a span are malloc's.
 *
 * Not in huge pages: with lines asked for in groups (events.c) those made frees no faster where it was measured, and growth slower by a fifth, for
 * a machine that has to find 2 MiB to clear.
 */
#ifndef MT_LIVE_SLAB_H
#define MT_LIVE_SLAB_H

#include <stddef.h>
#include <stdint.h>

#define MT_SLAB_UNIT 64 /* bytes */
#define MT_SLAB_ITEM_MAX 6144
#define MT_SLAB_SIZES 16

struct mt_slab_link { /* in a list: NULL at both ends */
    struct mt_slab_link *next, *previous;
};

struct mt_slab { /* may be copied by whoever then forgets the original */
    struct mt_slab_link *spans[MT_SLAB_SIZES]; /* by size: those with items and with room */
    struct mt_slab_link *open, *full;          /* regions: with an empty span, and without */
    size_t region_count, empty_count;          /* of the latter those without items */
};

/* Memory as it comes, not zeroed. bytes: 64 times a power of two, or times one and a half of one. Returns NULL if out of memory. */
void *mt_slab_take(struct mt_slab *slab, size_t bytes);

/* `bytes` as they were. Accepts NULL. */
void mt_slab_give(struct mt_slab *slab, void *item, size_t bytes);

/* An item is about to be given back: what is known about it is asked for. Accepts NULL. */
void mt_slab_expect(const void *item, size_t bytes);

/* All items of up to MT_SLAB_ITEM_MAX bytes end with it. */
void mt_slab_finish(struct mt_slab *slab);

#endif

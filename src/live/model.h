/*
 * What the files of this folder share: the state behind struct mt_live and its accounting.
 */
#ifndef MT_LIVE_MODEL_H
#define MT_LIVE_MODEL_H

#include "live/blocks.h"
#include "live/live.h"
#include "live/maps.h"

#define NO_SITE UINT32_MAX

enum { PHASE_SNAPSHOTS_MAX = 256 };
enum { LIMBO_MAX = 64 }; /* nested realloc or munmap calls (signal handlers); deeper ones stay in limbo for good */

struct limbo_block { /* between REALLOC_BEGIN and REALLOC_END */
    struct mt_block block; /* site NO_SITE: not a block that was seen allocated */
    uint64_t birth;        /* stamp */
    uint32_t heap;         /* index */
    bool temporary;
};

struct limbo_maps { /* between UNMAP_BEGIN or REMAP_BEGIN and its end */
    struct mt_maps removed;
};

struct thread {
    /* The thread's last two blocks. A live block of this thread whose address is here had at most one allocation of
     * its thread after it: an older block at the same address is dead, or this one could not have been had. (A block knows its
     * thread by the low byte of its number: enough to tell it from a block that another thread got at the same address.) */
    uint64_t last[2];
    struct limbo_block *blocks;
    struct limbo_maps *maps;
    uint32_t block_count, block_capacity;
    uint32_t map_count, map_capacity;
    bool counted; /* in totals.threads */
};

struct heap {
    char *name;
    uint64_t id; /* the target's */
    struct mt_blocks blocks;
    bool memory; /* part of the memory totals */
    bool python;
};

struct open_phase {
    struct mt_live_note note; /* as far as known */
    uint64_t allocated_bytes, allocated_blocks; /* totals when it began */
};

struct node_sites { /* of plain blocks of one heap, by node: site + 1 */
    uint32_t *sites;
    size_t capacity;
};

struct site_index { /* (heap, kind, node) -> site: open addressing, site + 1, 0 = empty */
    uint32_t *slots;
    size_t mask, count;
};

struct cohorts; /* cohorts.c */

struct mt_live {
    struct mt_live_totals totals;
    uint64_t epoch;
    bool distrust;        /* frees are missing: mt_live_distrust() */
    unsigned birth_shift; /* births are stamps >> this */
    uint64_t window_peak; /* highest total since the last fold_window() */
    uint64_t reader_window_peak;

    struct mt_live_site *sites;
    size_t site_count, site_capacity;
    struct node_sites by_node[MT_LIVE_HEAP_PYTHON + 1]; /* of malloc and of Python's objects: those come in numbers */
    struct site_index index; /* all other sites */

    struct heap *heaps;
    size_t heap_count, heap_capacity;
    struct thread *threads;
    size_t thread_count, thread_capacity;

    struct mt_maps maps;
    struct mt_maps scratch; /* what a cut removed */

    struct open_phase *phases; /* open ones, in the order of their beginnings */
    size_t phase_count, phase_capacity;
    unsigned phase_snapshots;
    struct open_phase iteration;
    bool iterating;
    uint64_t iterations;
    struct cohorts *cohorts; /* NULL: no iteration yet, or no memory */
    struct mt_live_note *notes;
    size_t note_count, note_capacity;
};

/* Grows an array of `capacity` items so that `count` + 1 fit. Returns NULL (and changes nothing) if out of memory. */
void *mt_live_grow(void *items, size_t count, size_t *capacity, size_t item_bytes);

/* The site of a key, made if new; NO_SITE if out of memory. */
uint32_t mt_live_site_make(struct mt_live *live, uint32_t node, unsigned heap, unsigned kind);

static MT_ALWAYS_INLINE uint32_t mt_live_site_of(struct mt_live *live, uint32_t node, unsigned heap, unsigned kind)
{
    if (heap <= MT_LIVE_HEAP_PYTHON && MT_LIKELY(node < live->by_node[heap].capacity && live->by_node[heap].sites[node]))
        return live->by_node[heap].sites[node] - 1;
    return mt_live_site_make(live, node, heap, kind);
}

static MT_ALWAYS_INLINE void mt_live_prefetch_site(const struct mt_live *live, unsigned heap, uint32_t node)
{
    const struct node_sites *by_node = &live->by_node[heap];

    if (MT_LIKELY(node < by_node->capacity && by_node->sites[node]))
        mt_prefetch(&live->sites[by_node->sites[node] - 1]);
}

/* The heap in which a block's event looks for it; meaningless for other events. */
static MT_ALWAYS_INLINE unsigned mt_live_block_heap(uint32_t type)
{
    return type - MT_RECORD_OBJECT_ALLOC <= MT_RECORD_OBJECT_REALLOC_END - MT_RECORD_OBJECT_ALLOC ? MT_LIVE_HEAP_PYTHON : MT_LIVE_HEAP_MALLOC;
}

/* The heap of the target's id, made if new; NULL if out of memory or there are too many. */
struct heap *mt_live_heap_of(struct mt_live *live, uint64_t id);

/* cohorts.c: before `iterating` is set; the process's end; accepts NULL. */
void mt_live_cohorts_next(struct mt_live *live);
void mt_live_cohorts_finish(struct mt_live *live);
void mt_live_cohorts_destroy(struct cohorts *cohorts);

void mt_live_map_event(struct mt_live *live, const struct mt_event *event);

/* Saves a site's value at the peak before its first change in this epoch. */
static inline void site_touch(const struct mt_live *live, struct mt_live_site *site)
{
    if (site->epoch != live->epoch) {
        site->saved_bytes = site->live_bytes;
        site->saved_blocks = site->live_blocks;
        site->epoch = live->epoch;
    }
}

static inline void site_lifetime(struct mt_live_site *site, uint64_t birth, uint64_t now)
{
    uint64_t age = now > birth ? now - birth : 0;

    site->lifetime_sum += age;
    if (site->freed_blocks == 0 || age < site->lifetime_min)
        site->lifetime_min = age;
    if (age > site->lifetime_max)
        site->lifetime_max = age;
    site->freed_blocks++;
}

/* After an event that may have raised the total. */
static inline void total_raised(struct mt_live *live)
{
    uint64_t total = live->totals.live_bytes;

    if (total > live->window_peak) {
        live->window_peak = total;
        if (total > live->totals.peak_live_bytes) {
            live->totals.peak_live_bytes = total;
            live->totals.peak_live_blocks = live->totals.live_blocks;
            live->epoch++;
        }
    }
}

static inline void thread_counts(struct mt_live *live, struct thread *thread)
{
    if (!thread->counted) {
        thread->counted = true;
        live->totals.threads++;
    }
}

#endif

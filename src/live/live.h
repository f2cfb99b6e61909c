/*
 * live: the model of one traced process, fed with its events in their true order. No input or output.
 *
 * Nouns:
 *   block    what malloc (or a custom heap) handed out and has not taken back
 *   mapping  address space that the process mapped itself: a set of page ranges with one origin
 *   site     (node, heap, kind): everything a callsite did, with what it held at the process's global peak
 *   note     a phase, iteration, mark or snapshot that is over and waits to be written down
 *
 * Invariants, after every event:
 *   site.live_bytes = sum of the sizes of its blocks, those in limbo between REALLOC_BEGIN and _END included
 *   totals.live_bytes = sum of live_bytes over the sites of memory heaps (malloc, python)
 *   totals.allocated_blocks - totals.freed_blocks = totals.live_blocks
 *
 * Exact bytes at the peak, O(1) an event: the peak has an epoch, which grows when the total exceeds the peak. A site
 * that changes for the first time in an epoch saves what it held, which is what it held at the peak. At the end a site's
 * value at the peak is what it saved, if it saved in the last epoch, else what it holds now.
 *
 * Units: bytes; stamps are in whatever unit the caller uses, growing. Not thread-safe. Memory is of order live blocks,
 * sites and notes not yet taken. Out of memory drops the event and counts it in totals.dropped.
 */
#ifndef MT_LIVE_LIVE_H
#define MT_LIVE_LIVE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "wire/wire.h"

struct mt_live;

/* One event without text. `type` is an enum mt_record_type; fields that a type has no use for are ignored. */
struct mt_event {
    uint64_t stamp;
    uint64_t address; /* UNMAP_END: the errno */
    uint64_t size;
    uint32_t node;
    uint32_t extra;  /* MAP, REMAP_END: enum mt_map_flags; HEAP_*: the target's heap id */
    uint32_t thread; /* from mt_live_thread() */
    uint32_t type;
};

enum mt_live_kind { /* rows of one heap told apart */
    MT_LIVE_PLAIN = 0,
    MT_LIVE_FILE,     /* a file mapping */
    MT_LIVE_BACKING,  /* an allocator's own mapping */
    MT_LIVE_RESERVED, /* PROT_NONE: address space only */
};

enum {
    MT_LIVE_HEAP_MALLOC = 0,
    MT_LIVE_HEAP_MMAP = 1,
    MT_LIVE_HEAP_PYTHON = 2, /* Python's objects, also MT_HEAP_PYTHON's */
    MT_LIVE_HEAP_CUSTOM = 3, /* the first of the program's own */
    MT_LIVE_HEAPS_MAX = 1024,
};

struct mt_live_site {
    /* One cache line for an allocation, two for a free. */
    uint64_t live_bytes, live_blocks;
    uint64_t saved_bytes, saved_blocks; /* at the peak, if epoch is the current one */
    uint64_t epoch;
    uint64_t allocated_bytes, allocated_blocks;
    uint64_t own_peak_bytes;

    uint64_t freed_blocks, temporary_blocks;
    uint64_t lifetime_sum, lifetime_min, lifetime_max; /* stamps, of freed blocks */
    uint32_t node;
    uint16_t heap; /* index for mt_live_heap_name() */
    uint16_t kind; /* enum mt_live_kind */
    uint64_t reserved[2];
};

struct mt_live_totals {
    /* Memory heaps: malloc and python. */
    uint64_t allocated_blocks, allocated_bytes, freed_blocks, freed_bytes;
    uint64_t live_blocks, live_bytes, peak_live_bytes, peak_live_blocks;
    uint64_t python_bytes; /* the part of live_bytes in the heap `python` */
    /* Mappings by the program itself, file mappings and an allocator's backing not counted. */
    uint64_t mapped_blocks, mapped_bytes, unmapped_bytes, live_mapped_bytes, peak_mapped_bytes;
    uint64_t unmatched_frees; /* frees of blocks not seen allocated */
    uint64_t assumed_frees;   /* blocks whose address was handed out again without a free: counted as freed */
    uint64_t dropped;         /* events lost for want of memory */
    uint64_t threads;         /* threads that allocated or freed */
    uint64_t events;          /* applied */
};

struct mt_live_row { /* of a snapshot: a site that holds something */
    uint32_t site;
    uint64_t live_bytes, live_blocks, allocated_bytes, allocated_blocks;
};

/* What Python's object allocators hold at one moment, and how much of it in the mappings that they made for it (arenas): the rest are blocks of malloc's. */
struct mt_live_python {
    uint64_t object_bytes, object_blocks;             /* the heap `python` */
    uint64_t arena_object_bytes, arena_object_blocks; /* the part of it in arenas */
    uint64_t arena_bytes;                             /* mapped (of a program with a Python: all mappings of kind `backing`) */
};
/* Walks through all of Python's blocks. False: there are none. */
bool mt_live_python(const struct mt_live *live, struct mt_live_python *ret);

struct mt_live_note {
    enum mt_record_type type; /* PHASE_END: a phase; ITERATION; MARK; SNAPSHOT */
    char *name;
    char *parent; /* phase: the innermost one open when it began; NULL: none */
    uint64_t iteration;
    uint64_t started, ended; /* stamps; marks: both the same; a phase that never ended: MT_LIVE_NEVER */
    uint64_t live_before, live_after, live_blocks, peak_live_bytes, allocated_bytes, allocated_blocks;
    uint64_t rss_before, rss_after, vms_before, vms_after, python_before, python_after;
    struct mt_live_row *rows; /* MARK, SNAPSHOT, the end of one of the first phases */
    size_t row_count;
    struct mt_live_python python; /* likewise; zeroes: no Python */
};
#define MT_LIVE_NEVER UINT64_MAX

/* Returns NULL if out of memory. destroy accepts NULL. */
struct mt_live *mt_live_create(void);
void mt_live_destroy(struct mt_live *live);

/* A thread of the target that starts to send events; UINT32_MAX if out of memory. */
uint32_t mt_live_thread(struct mt_live *live);

/* Applies events in order. Types with text and unknown types are ignored. */
void mt_live_apply(struct mt_live *live, const struct mt_event *events, size_t count);

/* These events are about to be applied; their nodes may not be known yet. Worth calling some time before. */
void mt_live_expect(const struct mt_live *live, const struct mt_event *events, size_t count);

/* An event of this type with this node is about to come. */
void mt_live_prefetch_node(const struct mt_live *live, uint32_t type, uint32_t node);

/* The program's heap `id` gets a name (copied, cut at 255 bytes); a heap never named is called heap-<id>. */
void mt_live_heap_create(struct mt_live *live, uint64_t id, const char *name, size_t name_bytes);

/* MARK, PHASE_BEGIN, PHASE_END, ITERATION, SNAPSHOT. `text` is copied. */
struct mt_live_text_event {
    enum mt_record_type type;
    uint64_t stamp;
    const char *text;
    size_t text_bytes;
    uint64_t rss_bytes, vms_bytes;
};
void mt_live_text(struct mt_live *live, const struct mt_live_text_event *event);

/* Events were lost, frees among them perhaps: from now on it is found at once when an address is handed out a second time. Cheap if repeated. */
void mt_live_distrust(struct mt_live *live, uint64_t now_stamp);

/* Ends the process: the running iteration ends at `stamp`, open phases become notes that never ended. */
void mt_live_finish(struct mt_live *live, uint64_t stamp, uint64_t rss_bytes, uint64_t vms_bytes);

/* Hands over the notes gathered so far; the caller frees them with mt_live_notes_free(). */
size_t mt_live_take_notes(struct mt_live *live, struct mt_live_note **ret_notes);
void mt_live_notes_free(struct mt_live_note *notes, size_t count);

const struct mt_live_totals *mt_live_totals(const struct mt_live *live);
/* The highest live_bytes since the last call (or the start). */
uint64_t mt_live_take_window_peak(struct mt_live *live);

/* Sites are numbered from 0 in order of appearance and stay valid; pointers only until the next event. */
size_t mt_live_site_count(const struct mt_live *live);
const struct mt_live_site *mt_live_site(const struct mt_live *live, size_t site);
void mt_live_site_at_peak(const struct mt_live *live, size_t site, uint64_t *ret_bytes, uint64_t *ret_blocks);
/* The same for whoever looks at each; valid until the next event. */
struct mt_live_sites {
    const struct mt_live_site *sites;
    uint64_t epoch; /* of the peak */
};
struct mt_live_sites mt_live_sites(const struct mt_live *live);
static inline uint64_t mt_live_peak_bytes(const struct mt_live_sites *all, size_t site)
{
    const struct mt_live_site *s = &all->sites[site];

    return s->epoch == all->epoch ? s->saved_bytes : s->live_bytes;
}
static inline uint64_t mt_live_peak_blocks(const struct mt_live_sites *all, size_t site)
{
    const struct mt_live_site *s = &all->sites[site];

    return s->epoch == all->epoch ? s->saved_blocks : s->live_blocks;
}
const char *mt_live_heap_name(const struct mt_live *live, unsigned heap);
const char *mt_live_kind_name(unsigned kind); /* NULL for MT_LIVE_PLAIN */

/* ---- iterations: cohorts.c */

enum {
    MT_LIVE_PERIODS_MAX = 64, /* then neighbours are put together */
    MT_LIVE_WARM_UP = 2,      /* periods whose blocks are followed only from the end of the next one on */
};

struct mt_live_iterations {
    unsigned ends;     /* periods that ended and are kept */
    unsigned period;   /* iterations in each */
    bool torn_down;    /* the last iteration ended with the process, which freed most before: not among the ends */
    double heap_bytes; /* live and mapped, the highest at an end */
};
/* False: the program has not called memtrace_iteration(). */
bool mt_live_iterations(const struct mt_live *live, struct mt_live_iterations *ret);

/* What became of each period's blocks at a site: arrays of ends + 1, by end (from 1) or by birth (0: before the first iteration). Blocks
 * where not said. Counts are whole but for mappings in several pieces. Valid until the next event. */
struct mt_live_site_cohorts {
    const double *live_bytes, *live_blocks; /* by end */
    const double *aged_bytes, *aged_blocks; /* by end: born before that period */
    const double *survivor_bytes, *survivor_blocks; /* by birth: alive at the last end */
    const double *at_risk, *deaths, *death_bytes; /* by birth: sums over the ends from birth + 1 on (stats/stats.h) */
};
/* False: at no end did the site hold anything that was born in an iteration. */
bool mt_live_site_cohorts(const struct mt_live *live, size_t site, struct mt_live_site_cohorts *ret);
/* Does it hold something from half of the iterations after the warm-up? Such a site must not be added up with others. */
bool mt_live_site_grows(const struct mt_live *live, size_t site);

/* Rows of all sites that hold at least min_bytes and one block; NULL if there are none or no memory. */
struct mt_live_row *mt_live_rows(const struct mt_live *live, uint64_t min_bytes, size_t *ret_count);

#endif

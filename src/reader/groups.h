/*
 * What is one callsite to the database. Of a Python program's sites many differ only by functions of the interpreter's own: merged (python.h) they are
 * one group. Groups are numbered in the order in which their first sites appeared, whenever they are made: all at the end, or some ahead of it.
 */
#ifndef MT_READER_GROUPS_H
#define MT_READER_GROUPS_H

#include "reader/state.h"

struct groups {
    uint32_t *of; /* by site of live/ */
    struct group {
        uint32_t node; /* of groups_stacks() */
        uint32_t first; /* one of its sites */
        uint16_t heap, kind;
    } *items;
    size_t count, sites; /* sites: that are in one */
    size_t of_capacity, item_capacity;
    uint32_t *slots; /* (node, heap, kind) -> group + 1; 0: empty */
    size_t mask;
    unsigned merges;  /* as of target->merges */
    bool provisional; /* made before there was a frame */
    struct mt_store_site_key *keys; /* by group, while sites.c decides */
};

struct slice { /* of time; over at the end or when the bell is rung */
    uint64_t end_ns;
    const uint32_t *bell;
    uint32_t value;
};
static inline bool slice_is_over(const struct slice *slice)
{
    return mt_load_relaxed(slice->bell) != slice->value || mt_clock_monotonic_ns() >= slice->end_ns;
}

/* Brings target->groups up to the sites that there are, or a part of the way; slice NULL: however long that takes. 0 or -ENOMEM. */
int groups_update(struct target *target, const struct slice *slice);
/* What the keys' nodes are nodes of; valid until the next update. */
struct mt_store_stacks groups_stacks(const struct target *target);
/* The keys of groups [from, to), as they are to be given to the store now: names of heaps may change. */
void groups_make_keys(const struct target *target, size_t from, size_t to, bool fold, struct mt_store_site_key *ret_keys);
/* Has the store write sites; makes target->intern if there is none. */
int groups_store(struct reader *reader, struct target *target, enum mt_store_extent extent, struct mt_store_site_key *keys, size_t count,
    int64_t *ret_ids);
void groups_free(struct groups *groups); /* accepts NULL */

#endif

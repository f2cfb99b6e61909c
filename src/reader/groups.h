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
        uint32_t shared; /* of several sites: a number from 1 on */
    } *items;
    /* By group, as the store said last. A row stays for ever; what is folded may have become whole, if somebody else has written it. */
    int64_t *ids; /* 0: not asked yet */
    bool *folded;
    bool complete; /* all have ids */
    unsigned generation; /* of the store, as of the ids */
    size_t count, sites; /* sites: that are in one */
    size_t of_capacity, item_capacity, id_capacity, folded_capacity;
    uint32_t shared; /* groups of several sites */
    uint32_t *slots; /* (node, heap, kind) -> group + 1; 0: empty */
    size_t mask;
    unsigned merges;  /* as of target->merges */
    bool provisional; /* made before there was a frame */
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
/* The key of a group, as it is to be given to the store now: names of heaps may change. */
struct mt_store_site_key groups_key(const struct target *target, size_t group, bool fold);
/* Has the store write sites; makes target->intern if there is none. */
int groups_ask(struct reader *reader, struct target *target, enum mt_store_extent extent, struct mt_store_site_key *keys, size_t count,
    int64_t *ret_ids);
/* Remembers what it said of one. */
void groups_keep(struct groups *groups, size_t group, const struct mt_store_site_key *key, int64_t id);
/* The id of a site of live/ in the database, once all have one. */
static inline int64_t groups_id(const struct groups *groups, size_t site)
{
    return groups->ids[groups->of[site]];
}
/* Forgets ids that a rollback may have taken back: before ids are used, or asked for. */
void groups_check_ids(struct reader *reader, struct target *target);
/* For another database. */
void groups_forget_ids(struct target *target);
void groups_free(struct groups *groups); /* accepts NULL */

/* choose.c. Which groups are kept whole, once all sites are in one: sets ret_whole[group]. early: the process runs on. 0 or -ENOMEM. */
int choose_whole(const struct reader *reader, const struct target *target, bool early, bool *ret_whole);

/* totals.c. NULL: no memory. The list is of groups without an id, in their order. */
struct totals *totals_make(const struct target *target, const uint32_t *list, size_t count);
void totals_gather(void *totals); /* as an aside; what goes wrong totals_settle() says */
/* Once all groups have ids; 0 or -errno. Does nothing when called again. */
int totals_settle(struct totals *totals);
/* In the order of the table, lifetimes in stamps; to be changed as the caller likes. */
struct mt_store_site_totals *totals_rows(struct totals *totals, size_t *ret_count, struct mt_store_folded *ret_folded);
void totals_free(struct totals *totals); /* accepts NULL */

#endif

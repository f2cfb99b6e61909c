/*
 * The ids of callsites in the database, and the totals of all (totals.c). Totals are rewritten as one set only: which callsites are kept
 * whole (choose.c) may be others each time.
 */
#include "reader/groups.h"

#include <errno.h>
#include <stdlib.h>

#include "reader/aside.h"

enum { BESIDE_SITES = 1 << 14, BESIDE_LIST_MAX = 1 << 14 }; /* fewer are added up before another thread has begun */

static bool is_ending(const struct target *target)
{
    return target->finished || target->exit_seen;
}

/* ---- ids ---------------------------------------------------------------------------------------------------------------- */

/* The groups that the store has to be asked for: new ones, those to be kept whole from now on, and what somebody else may have whole. Returns how
 * many, in ret_list. */
static size_t list_groups(const struct groups *g, const bool *whole, bool behind, uint32_t *ret_list)
{
    size_t n = 0;

    for (size_t i = 0; i < g->count; i++) {
        if (!g->ids[i] || (g->folded[i] && (behind || whole[i])))
            ret_list[n++] = (uint32_t)i;
    }
    return n;
}

/* The store is asked, and meanwhile the figures are added up, if there are enough of them. */
static int ask(struct reader *reader, struct target *target, const uint32_t *list, struct mt_store_site_key *keys, size_t count)
{
    struct groups *g = target->groups;
    bool beside = g->sites >= BESIDE_SITES && count <= BESIDE_LIST_MAX;
    struct totals *totals = beside ? totals_make(target, list, count) : NULL;
    int64_t *ids = calloc(count, sizeof(*ids));
    struct aside aside = {0};
    int err = ids ? 0 : -ENOMEM;

    for (size_t i = 0; i < count; i++)
        g->ids[list[i]] = 0; /* not known until there is an answer */
    g->complete = false;
    if (totals)
        aside_start(&aside, totals_gather, totals);
    if (err == 0)
        err = groups_ask(reader, target, MT_STORE_WHOLLY, keys, count, ids);
    aside_wait(&aside);
    for (size_t i = 0; i < count && err == 0; i++)
        groups_keep(g, list[i], &keys[i], ids[i]);
    if (totals && (err < 0 || totals_settle(totals) < 0)) {
        totals_free(totals); /* sites_write_totals() makes others */
        totals = NULL;
    }
    target->totals = totals;
    free(ids);
    return err;
}

static int find_ids(struct reader *reader, struct target *target, const bool *whole)
{
    struct groups *g = target->groups;
    uint32_t *list = calloc(g->count + 1, sizeof(*list));
    struct mt_store_site_key *keys = NULL;
    size_t count = 0;
    bool behind = true;
    int err = list ? 0 : -ENOMEM;

    groups_check_ids(reader, target);
    if (err == 0 && target->intern)
        err = mt_store_intern_is_behind(target->intern, &behind);
    if (err == 0) {
        count = list_groups(g, whole, behind, list);
        keys = calloc(count + 1, sizeof(*keys));
        err = keys ? 0 : -ENOMEM;
    }
    for (size_t i = 0; i < count && err == 0; i++)
        keys[i] = groups_key(target, list[i], !whole[list[i]]);
    if (err == 0 && count)
        err = ask(reader, target, list, keys, count);
    if (err == 0) {
        g->complete = true;
        target->ahead_frames = target->ahead_sites = g->count;
    }
    free(keys);
    free(list);
    return err;
}

static bool any_folded(const struct groups *g)
{
    for (size_t i = 0; i < g->count; i++)
        if (g->folded[i])
            return true;
    return false;
}

/*
 * The ids are had in a transaction of their own, before the one that writes the figures: looking up functions and lines takes
 * long, and other runs want to write, too.
 */
int sites_prepare(struct reader *reader, struct target *target)
{
    uint64_t events = mt_live_totals(target->live)->events;
    bool known = target->site_id_events == events && target->groups && target->groups->complete, *whole;
    int err = write_gather(target);

    if (err < 0 || (known && (target->site_ids_final || !is_ending(target))))
        return err;
    totals_free(target->totals);
    target->totals = NULL;
    err = groups_update(target, NULL);
    if (err < 0)
        return err;
    whole = calloc(target->groups->count + 1, sizeof(*whole));
    if (!whole)
        return -ENOMEM;
    err = choose_whole(reader, target, !is_ending(target), whole);
    if (err == 0)
        err = find_ids(reader, target, whole);
    free(whole);
    target->site_id_events = err == 0 ? events : UINT64_MAX;
    target->written_events = UINT64_MAX; /* the ids in the database may be others */
    target->site_ids_final = is_ending(target) || !any_folded(target->groups);
    return err;
}

int sites_write_totals(struct reader *reader, struct target *target)
{
    static const uint64_t many_ticks = UINT64_C(1) << 40;
    double tick_ns = (double)ticks_to_ns(reader, target, many_ticks) / (double)many_ticks;
    struct totals *totals = target->totals;
    struct mt_store_site_totals *rows;
    struct mt_store_folded folded;
    size_t count = 0;
    int err;

    target->totals = NULL;
    if (!totals) {
        totals = totals_make(target, NULL, 0);
        if (!totals)
            return -ENOMEM;
        totals_gather(totals);
    }
    err = totals_settle(totals);
    rows = totals_rows(totals, &count, &folded);
    for (size_t i = 0; i < count && err == 0; i++) { /* lifetimes were in stamps */
        rows[i].lifetime_ns_sum = (uint64_t)((double)rows[i].lifetime_ns_sum * tick_ns);
        rows[i].lifetime_ns_min = (uint64_t)((double)rows[i].lifetime_ns_min * tick_ns);
        rows[i].lifetime_ns_max = (uint64_t)((double)rows[i].lifetime_ns_max * tick_ns);
    }
    if (err == 0)
        err = mt_store_site_totals(reader->store, reader->run_id, target->process_id, rows, count);
    if (err == 0)
        err = mt_store_folded(reader->store, target->process_id, &folded);
    totals_free(totals);
    return err;
}

/*
 * What a process's end would have to wait for, done before: while there is nothing to drain, a few milliseconds at a time.
 *
 *   groups     sites that are new are merged and grouped (groups.c); kept until the process is written
 *   frames     those up to the responsible frame, which every site needs, are looked up and written
 *   folded     of a process with far more callsites than are kept whole, the rows of the stacks and sites that they fold into: only which few are
 *              kept whole is known at the end, and the rest is what there is to write
 *
 * All of this comes to the same rows at the end, and costs the same; rows of sites that all turn out to be worth keeping whole are left over, a few
 * per cent at most, and mean nothing: a site without totals. What goes wrong here goes wrong silently, for the end does it all again.
 * A transaction is short, and is not waited for: another writer is first.
 */
#include "reader/groups.h"

#include <errno.h>

#define MS UINT64_C(1000000)
#define SLICE_NS (4 * MS)
#define GATHER_NS (100 * MS) /* a batch that is not full waits so long */
#define LOCKED_NS (100 * MS) /* another one writes */
enum { SITES = 4096, BATCH = 1024, MERGES_MAX = 8 };

static int store_part(
    struct reader *reader, struct target *target, enum mt_store_extent extent, size_t *done, const struct slice *slice)
{
    struct mt_store_site_key keys[BATCH];
    int64_t ids[BATCH];
    int r = 0;

    while (*done < target->groups->count && r == 0 && !slice_is_over(slice)) {
        size_t left = target->groups->count - *done, count = left < BATCH ? left : BATCH;

        for (size_t i = 0; i < count; i++) {
            keys[i] = groups_key(target, *done + i, true);
            ids[i] = 0;
        }
        r = groups_ask(reader, target, extent, keys, count, ids);
        for (size_t i = 0; i < count && r == 0; i++)
            if (ids[i]) /* else left for the end */
                groups_keep(target->groups, *done + i, &keys[i], ids[i]);
        if (r == 0)
            *done += count;
    }
    return r;
}

/* Of how many groups the store has had its share. */
static size_t *done_of(const struct reader *reader, struct target *target, enum mt_store_extent *ret_extent)
{
    bool many = reader->sites_whole < target->groups->count / 2;

    *ret_extent = many ? MT_STORE_FOLDED : MT_STORE_FRAMES;
    return many ? &target->ahead_sites : &target->ahead_frames;
}

static int work_on(struct reader *reader, struct target *target, const struct slice *slice, uint64_t now)
{
    enum mt_store_extent extent;
    size_t *done;
    int r = tables_update(target);

    if (r == 0 && target->tables.frame_count)
        r = groups_update(target, slice);
    if (r < 0 || !target->groups)
        return r;
    done = done_of(reader, target, &extent);
    if (now < target->ahead_locked_ns || (target->groups->count - *done < BATCH && now < target->ahead_next_ns))
        return 0;
    target->ahead_next_ns = now + GATHER_NS;
    r = open_wait(reader, 0);
    if (r < 0)
        return r;
    mt_store_set_busy_timeout(reader->store, 0);
    groups_check_ids(reader, target);
    return store_part(reader, target, extent, done, slice);
}

static bool has_work(const struct reader *reader, struct target *target, uint64_t now)
{
    size_t ungrouped, unwritten;
    enum mt_store_extent extent;

    /* The interpreter that turns out to be another one, again and again, is a target that lies. */
    if (target->finished || !target->header || !target->live || target->ahead_off || target->merges > MERGES_MAX)
        return false;
    ungrouped = mt_live_site_count(target->live);
    if (!target->groups)
        return ungrouped && now >= target->ahead_next_ns;
    ungrouped -= target->groups->sites;
    unwritten = now < target->ahead_locked_ns ? 0 : target->groups->count - *done_of(reader, target, &extent);
    return ungrouped >= SITES || unwritten >= BATCH || (ungrouped + unwritten && now >= target->ahead_next_ns);
}

bool ahead_work(struct reader *reader, uint32_t bell, uint64_t now)
{
    struct slice slice = {.end_ns = now + SLICE_NS, .bell = &reader->doorbell->bell, .value = bell};
    bool any = false;

    for (struct target *t = reader->targets; t && !slice_is_over(&slice); t = t->next) {
        int r;

        if (!has_work(reader, t, now))
            continue;
        any = true;
        r = work_on(reader, t, &slice, now);
        if (r == -EBUSY)
            t->ahead_locked_ns = now + LOCKED_NS;
        else if (r < 0)
            t->ahead_off = true;
        if (now >= t->ahead_next_ns)
            t->ahead_next_ns = now + GATHER_NS;
    }
    return any;
}

/*
 * Leaf nodes -> sites. What takes long (debug information) comes first and only reads, so that with no batch open other
 * writers are not kept waiting; what it found out is then written in one transaction, where every row is looked for once more, since
 * another writer may have added it meanwhile.
 *
 * Of a site that may be folded only the frames up to the responsible one are looked up, and stay the only ones that are, unless
 * the database has the site whole already: a callsite that an earlier run kept is the same row in this one.
 */
#include "store/intern.h"

#include <errno.h>
#include <stdlib.h>

enum { LOOK_AHEAD_FIRST = 1, LOOK_AHEAD_MAX = 4096, WHOLE_STACKS = 1 << 14 };

struct site_work {
    int64_t heap_id; /* 0: not in the database when we looked */
    uint32_t responsible;
    bool open; /* the responsible node is not known yet */
    bool folded;
    bool postponed; /* not ahead of the end */
};

struct heap_ids { /* of one call: names are compared as pointers, the same name has the same one nearly always */
    struct heap_entry {
        const char *name, *kind;
        int64_t id;
        bool looked_for;
    } *entries;
    size_t count;
};

static struct heap_entry *heap_entry_of(struct heap_ids *heaps, const struct mt_store_site_key *key)
{
    struct heap_entry *bigger;

    for (size_t i = heaps->count; i > 0; i--) {
        if (heaps->entries[i - 1].name == key->heap && heaps->entries[i - 1].kind == key->kind)
            return &heaps->entries[i - 1];
    }
    bigger = reallocarray(heaps->entries, heaps->count + 1, sizeof(*bigger));
    if (!bigger)
        return NULL;
    heaps->entries = bigger;
    bigger[heaps->count] = (struct heap_entry){.name = key->heap, .kind = key->kind};
    return &bigger[heaps->count++];
}

static int heap_id_of(
    struct mt_store *store, struct heap_ids *heaps, const struct mt_store_site_key *key, bool add, int64_t *ret_id)
{
    struct heap_entry *entry = heap_entry_of(heaps, key);
    const char *name = key->heap ? key->heap : "malloc", *kind = key->kind ? key->kind : "";
    int r = 0;

    if (!entry)
        return -ENOMEM;
    if (!entry->id && (add || !entry->looked_for))
        r = store_find(store, &entry->id, S_HEAP_FIND, "tt", name, kind);
    entry->looked_for = true;
    if (r == 0 && !entry->id && add) {
        r = store_run(store, S_HEAP_ADD, "tt", name, kind);
        entry->id = sqlite3_last_insert_rowid(store->db);
    }
    if (r == 0)
        *ret_id = entry->id;
    return r;
}

/* ---- what can be found out without writing --------------------------------------------------------------------------- */

static bool is_known_whole(const struct mt_store_intern *n, uint32_t node, int64_t heap_id)
{
    return n->node_stack[node] && heap_id && id_map_get(&n->store->ids.sites, (uint64_t)n->node_stack[node], (uint64_t)heap_id);
}

static void want_inner(struct mt_store_intern *n, uint32_t node, uint32_t responsible)
{
    for (;; node = n->stacks->nodes[node].parent) {
        intern_want_one(n, n->stacks->nodes[node].frame);
        if (node == responsible)
            break;
    }
}

/* Rounds: each looks up the frames in question, of all sites together, and as many again behind them as the one before. */
static int find_responsible(struct mt_store_intern *n, struct mt_store_site_key *keys, struct site_work *sites, size_t count)
{
    unsigned ahead = LOOK_AHEAD_FIRST;
    bool unknown = true;
    int r = 0;

    while (unknown && r == 0) {
        unknown = false;
        for (size_t i = 0; i < count && r == 0; i++) {
            bool this_one = false;
            if (!sites[i].open)
                continue;
            n->postponed = false;
            r = stack_responsible(n, keys[i].node, ahead, &sites[i].responsible, &this_one);
            sites[i].postponed = n->postponed;
            sites[i].open = this_one;
            unknown |= this_one;
        }
        if (r == 0 && unknown)
            r = intern_resolve(n);
        if (ahead < LOOK_AHEAD_MAX)
            ahead *= 4;
    }
    return r;
}

static int prepare(struct mt_store_intern *n, struct heap_ids *heaps, struct mt_store_site_key *keys, struct site_work *sites, size_t count)
{
    int r = intern_known(n);

    if (r == 0)
        r = stack_known(n);
    for (size_t i = 0; i < count && r == 0; i++) {
        if (keys[i].node >= n->stacks->node_count)
            return -EINVAL;
        if (keys[i].fold)
            r = heap_id_of(n->store, heaps, &keys[i], false, &sites[i].heap_id);
        sites[i].folded = keys[i].fold && !is_known_whole(n, keys[i].node, sites[i].heap_id);
        sites[i].open = sites[i].folded;
        if (!sites[i].folded)
            intern_want(n, keys[i].node);
    }
    if (r == 0)
        r = find_responsible(n, keys, sites, count);
    for (size_t i = 0; i < count && r == 0; i++) {
        if (!sites[i].folded || sites[i].postponed)
            continue;
        sites[i].folded = stack_has_callers(n, sites[i].responsible);
        if (sites[i].folded)
            want_inner(n, keys[i].node, sites[i].responsible);
        else
            intern_want(n, keys[i].node); /* nothing to leave out */
    }
    return r == 0 ? intern_resolve(n) : r;
}

/* ---- writing ------------------------------------------------------------------------------------------------------------ */

static int add_site(struct mt_store_intern *n, const struct mt_store_site_key *key, const struct site_work *site, int64_t stack_id,
    int64_t heap_id, int64_t *ret_id)
{
    struct ids *ids = &n->store->ids;
    uint32_t responsible = 0;
    int64_t frame_id = 0;
    bool unknown = false;
    int depth = 0, r;

    if (ids->last_site == INT64_MAX)
        return -EFBIG;
    r = stack_responsible(n, key->node, 0, &responsible, &unknown);
    if (r == 0 && responsible) {
        const struct frame_work *f = &n->frames[n->stacks->nodes[responsible].frame];
        frame_id = f->frame_id;
        depth = f->user >= 0 ? f->user : 0;
    }
    *ret_id = ids->last_site + 1;
    if (r == 0)
        r = ids_add_row(n->store, PENDING_SITE, (int64_t[]){*ret_id, stack_id, heap_id, frame_id, depth, site->folded});
    if (r == 0)
        r = id_map_put(&ids->sites, (uint64_t)stack_id, (uint64_t)heap_id, *ret_id);
    if (r == 0)
        ids->last_site = *ret_id;
    return r;
}

static int write_site(struct mt_store_intern *n, struct heap_ids *heaps, const struct mt_store_site_key *key,
    const struct site_work *site, int64_t *ret_id)
{
    int64_t heap_id = 0, stack_id = 0;
    int r = heap_id_of(n->store, heaps, key, true, &heap_id);

    if (r == 0)
        r = site->folded ? stack_write_folded(n, key->node, site->responsible, &stack_id) : stack_write(n, key->node, &stack_id);
    if (r < 0)
        return r;
    *ret_id = id_map_get(&n->store->ids.sites, (uint64_t)stack_id, (uint64_t)heap_id);
    return *ret_id ? 0 : add_site(n, key, site, stack_id, heap_id, ret_id);
}

/* Of a site to be written ahead, whether all frames that its row needs are in the database. */
static bool has_frames(const struct mt_store_intern *n, uint32_t node, uint32_t end)
{
    for (; node != 0 && node != end; node = n->stacks->nodes[node].parent) {
        if (!n->frames[n->stacks->nodes[node].frame].frame_id && !intern_is_self(n, node))
            return false;
    }
    return true;
}

static bool is_ready(const struct mt_store_intern *n, const struct mt_store_site_key *key, const struct site_work *site)
{
    uint32_t end = site->folded && site->responsible ? n->stacks->nodes[site->responsible].parent : 0;

    return !n->ahead || (!site->postponed && has_frames(n, key->node, end));
}

int mt_store_sites_with(struct mt_store_intern *n, const struct mt_store_stacks *stacks, enum mt_store_extent extent,
    struct mt_store_site_key *keys, size_t count, int64_t *ret_site_ids)
{
    struct site_work *sites = calloc(count ? count : 1, sizeof(*sites));
    struct heap_ids heaps = {0};
    bool own = false;
    int r = sites ? intern_take(n, stacks) : -ENOMEM;

    if (r < 0) {
        free(sites);
        return r;
    }
    n->ahead = extent != MT_STORE_WHOLLY;
    r = prepare(n, &heaps, keys, sites, count);
    if (r == 0)
        r = store_enter(n->store, &own);
    if (r < 0)
        goto out;
    r = ids_learn(n->store);
    if (r == 0)
        r = intern_write(n);
    if (r == 0 && extent == MT_STORE_FOLDED) /* whoever waits at the end is not to wait for a larger table, too */
        r = id_map_reserve(&n->store->ids.stacks, WHOLE_STACKS);
    for (size_t i = 0; i < count && r == 0 && extent != MT_STORE_FRAMES; i++) {
        if (!is_ready(n, &keys[i], &sites[i]))
            continue;
        keys[i].fold = sites[i].folded;
        r = write_site(n, &heaps, &keys[i], &sites[i], &ret_site_ids[i]);
    }
    if (r == 0)
        r = ids_flush(n->store);
    r = store_leave(n->store, own, r);
out:
    intern_leave(n);
    free(heaps.entries);
    free(sites);
    return r;
}

int mt_store_sites(struct mt_store *store, const struct mt_store_stacks *stacks, struct mt_store_site_key *keys, size_t count,
    int64_t *ret_site_ids)
{
    struct mt_store_intern *intern = NULL;
    int r = mt_store_intern_create(store, &intern);

    if (r == 0)
        r = mt_store_sites_with(intern, stacks, MT_STORE_WHOLLY, keys, count, ret_site_ids);
    mt_store_intern_destroy(intern);
    return r;
}

/*
 * From the sites of live/ to the keys that the store is given: nodes checked, stacks merged, and what has been done kept for the next time.
 */
#include "reader/groups.h"

#include <errno.h>
#include <stdlib.h>

#include "reader/python.h"

enum { SITES_A_LOOK = 64 }; /* between two looks at the clock */

static bool is_pair(const struct tables *t, const struct mt_store_node *n)
{
    return t->has_python && n->frame & MT_NODE_PAIR && (n->frame & ~MT_NODE_PAIR) < t->nodes_checked;
}

/* Which frames a stack has is what the target says. One that is not in the table, when all those are that were published before
 * it, is a lie: a stack of the first frame is as good as any. */
static void check_nodes(struct target *target)
{
    struct tables *t = &target->tables;

    for (; t->frame_count && t->nodes_checked < t->node_count; t->nodes_checked++) {
        struct mt_store_node *n = &t->nodes[t->nodes_checked];
        if (t->nodes_checked == 0 || (n->parent < t->nodes_checked && (n->frame < t->frame_count || is_pair(t, n))))
            continue;
        *n = (struct mt_store_node){0};
        target->lost_decode++;
    }
}

static size_t usable_nodes(const struct tables *t)
{
    return t->frame_count ? t->node_count : t->node_count ? 1 : 0;
}

static void begin_anew(struct target *target)
{
    struct groups *g = target->groups;

    g->count = g->sites = g->shared = 0;
    free(g->slots);
    g->slots = NULL;
    g->merges = target->merges;
    g->provisional = target->tables.frame_count == 0;
    groups_forget_ids(target);
}

static uint32_t *slot_of(const struct groups *g, uint32_t node, unsigned heap, unsigned kind)
{
    size_t at = mt_hash_u64((uint64_t)node << 32 | heap << 16 | kind) & g->mask;

    while (g->slots[at]) {
        const struct group *item = &g->items[g->slots[at] - 1];
        if (item->node == node && item->heap == heap && item->kind == kind)
            break;
        at = (at + 1) & g->mask;
    }
    return &g->slots[at];
}

/* Room for one group more; slots are for those that sites are looked for in. */
static int make_room(struct groups *g, bool with_slots)
{
    size_t wanted = g->slots ? g->mask + 1 : 256;

    if (!reserve((void **)&g->items, &g->item_capacity, g->count + 1, sizeof(*g->items)) ||
        !reserve((void **)&g->ids, &g->id_capacity, g->count + 1, sizeof(*g->ids)) ||
        !reserve((void **)&g->folded, &g->folded_capacity, g->count + 1, sizeof(*g->folded)))
        return -ENOMEM;
    while ((g->count + 1) * 3 > wanted * 2)
        wanted *= 2;
    if (!with_slots || (g->slots && wanted == g->mask + 1))
        return 0;
    free(g->slots);
    g->slots = calloc(wanted, sizeof(*g->slots));
    if (!g->slots)
        return -ENOMEM;
    g->mask = wanted - 1;
    for (uint32_t i = 0; i < g->count; i++)
        *slot_of(g, g->items[i].node, g->items[i].heap, g->items[i].kind) = i + 1;
    return 0;
}

static int add_site(struct target *target, struct merger *merger, size_t nodes)
{
    struct groups *g = target->groups;
    const struct mt_live_site *site = mt_live_site(target->live, g->sites);
    uint32_t node = site->node < nodes ? site->node : 0, *slot = NULL;
    int r = make_room(g, merger != NULL);

    if (r == 0 && merger) {
        r = python_merge(merger, node, &node);
        slot = r == 0 ? slot_of(g, node, site->heap, site->kind) : NULL;
    }
    if (r < 0)
        return r;
    if (slot && *slot) {
        struct group *item = &g->items[*slot - 1];
        if (!item->shared)
            item->shared = ++g->shared;
        g->of[g->sites++] = *slot - 1;
        return 0;
    }
    g->ids[g->count] = 0;
    g->folded[g->count] = false;
    g->complete = false;
    g->items[g->count] = (struct group){.node = node, .first = (uint32_t)g->sites, .heap = site->heap, .kind = site->kind};
    g->of[g->sites++] = (uint32_t)g->count++;
    if (slot)
        *slot = (uint32_t)g->count;
    return 0;
}

int groups_update(struct target *target, const struct slice *slice)
{
    size_t count = mt_live_site_count(target->live), nodes;
    struct merger *merger = NULL;
    struct groups *g;
    int r;

    if (!target->groups)
        target->groups = calloc(1, sizeof(*target->groups));
    g = target->groups;
    if (!g || !reserve((void **)&g->of, &g->of_capacity, count, sizeof(*g->of)))
        return -ENOMEM;
    r = tables_update(target);
    if (r < 0)
        return r;
    check_nodes(target);
    nodes = usable_nodes(&target->tables);
    if (target->tables.has_python)
        r = python_merger_update(target, &merger);
    if (r == 0 && (g->provisional || g->merges != target->merges || g->sites == 0))
        begin_anew(target);
    while (g->sites < count && r == 0) {
        if (slice && g->sites % SITES_A_LOOK == 0 && slice_is_over(slice))
            break;
        r = add_site(target, merger, nodes);
    }
    return r;
}

struct mt_store_stacks groups_stacks(const struct target *target)
{
    const struct tables *t = &target->tables;

    if (target->merger)
        return python_stacks(target->merger);
    return (struct mt_store_stacks){.modules = t->modules,
        .module_count = t->module_count,
        .frames = t->frames,
        .frame_count = t->frame_count,
        .nodes = t->nodes,
        .node_count = usable_nodes(t)};
}

struct mt_store_site_key groups_key(const struct target *target, size_t group, bool fold)
{
    const struct group *item = &target->groups->items[group];

    return (struct mt_store_site_key){.node = item->node,
        .fold = fold,
        .heap = mt_live_heap_name(target->live, item->heap),
        .kind = mt_live_kind_name(item->kind)};
}

int groups_ask(struct reader *reader, struct target *target, enum mt_store_extent extent, struct mt_store_site_key *keys, size_t count,
    int64_t *ret_ids)
{
    struct mt_store_stacks stacks = groups_stacks(target);
    int r = target->intern ? 0 : mt_store_intern_create(reader->store, &target->intern);

    return r < 0 ? r : mt_store_sites_with(target->intern, &stacks, extent, keys, count, ret_ids);
}

void groups_keep(struct groups *g, size_t group, const struct mt_store_site_key *key, int64_t id)
{
    g->ids[group] = id;
    g->folded[group] = key->fold;
}

static void clear_ids(struct target *target)
{
    struct groups *g = target->groups;

    for (size_t i = 0; i < g->count; i++)
        g->ids[i] = 0;
    g->complete = false;
    target->ahead_frames = target->ahead_sites = 0;
}

void groups_check_ids(struct reader *reader, struct target *target)
{
    unsigned generation = mt_store_generation(reader->store);

    if (target->groups->generation != generation)
        clear_ids(target);
    target->groups->generation = generation;
}

void groups_forget_ids(struct target *target)
{
    mt_store_intern_destroy(target->intern);
    target->intern = NULL;
    if (target->groups)
        clear_ids(target);
}

void groups_free(struct groups *g)
{
    if (!g)
        return;
    free(g->of);
    free(g->items);
    free(g->slots);
    free(g->ids);
    free(g->folded);
    free(g);
}

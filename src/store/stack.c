/*
 * Stacks: whole ones, from the root down, and folded ones, which end behind their responsible frame.
 *
 * A folded stack is a whole stack of other frames: the innermost ones up to the responsible frame, called by the pseudo frame
 * [other callers]. So everything that reads stacks reads them, and two callsites fold into one row exactly if those frames are the same.
 */
#include "store/intern.h"

#include <errno.h>
#include <stdlib.h>

#include "wire/wire.h"

static uint32_t parent_of(const struct mt_store_intern *n, uint32_t node)
{
    return n->stacks->nodes[node].parent;
}

static struct frame_work *frame_of(const struct mt_store_intern *n, uint32_t node)
{
    return &n->frames[n->stacks->nodes[node].frame];
}

int stack_known(struct mt_store_intern *n)
{
    const struct id_map *stacks = &n->store->ids.stacks;

    if (stacks->count == 0 || n->node_count == 0)
        return 0;
    for (uint32_t node = n->nodes_known ? (uint32_t)n->nodes_known : 1; node < n->node_count; node++) {
        uint32_t parent = parent_of(n, node);
        if (n->node_stack[node])
            continue;
        int64_t above = n->node_stack[parent], frame_id = frame_of(n, node)->frame_id;
        if (intern_is_self(n, node))
            n->node_stack[node] = above;
        else if (frame_id && (above || parent == 0))
            n->node_stack[node] = id_map_get(stacks, (uint64_t)above, (uint64_t)frame_id);
    }
    n->nodes_known = n->node_count;
    return 0;
}

/* ---- the responsible frame -------------------------------------------------------------------------------------------- */

static int want_ahead(struct mt_store_intern *n, uint32_t node, unsigned count)
{
    int r = 0;

    for (; node != 0 && count > 0 && r == 0; node = parent_of(n, node), count--)
        r = intern_want_frame(n, n->stacks->nodes[node].frame);
    return r;
}

int stack_responsible(struct mt_store_intern *n, uint32_t node, unsigned ahead, uint32_t *ret_node, bool *ret_unknown)
{
    uint32_t innermost = 0;

    if (n->stacks->python_frames && n->stacks->python_frames[node]) {
        while (!(n->stacks->frames[n->stacks->nodes[node].frame].flags & MT_FRAME_PYTHON))
            node = parent_of(n, node);
        *ret_node = node;
        return 0;
    }
    for (; node != 0; node = parent_of(n, node)) {
        if (intern_is_self(n, node))
            continue;
        if (frame_of(n, node)->user == USER_UNKNOWN) {
            if (n->ahead && n->modules[n->stacks->frames[n->stacks->nodes[node].frame].module].heavy) {
                n->postponed = true;
                *ret_node = 0;
                return 0;
            }
            *ret_unknown = true;
            return want_ahead(n, node, ahead);
        }
        if (frame_of(n, node)->user != USER_NONE) {
            *ret_node = node;
            return 0;
        }
        if (!innermost)
            innermost = node;
    }
    *ret_node = innermost;
    return 0;
}

bool stack_has_callers(const struct mt_store_intern *n, uint32_t node)
{
    if (node == 0)
        return false;
    for (node = parent_of(n, node); node != 0; node = parent_of(n, node)) {
        if (!intern_is_self(n, node))
            return true;
    }
    return false;
}

/* ---- writing ----------------------------------------------------------------------------------------------------------- */

static int child_of(struct mt_store *store, int64_t parent_id, int64_t frame_id, int64_t *ret_id)
{
    struct ids *ids = &store->ids;
    int64_t id = id_map_get(&ids->stacks, (uint64_t)parent_id, (uint64_t)frame_id);
    int r = 0;

    if (!id) {
        if (ids->last_stack == INT64_MAX)
            return -EFBIG;
        id = ids->last_stack + 1;
        r = ids_add_row(store, PENDING_STACK, (int64_t[]){id, id - parent_id, frame_id});
        if (r == 0)
            r = id_map_put(&ids->stacks, (uint64_t)parent_id, (uint64_t)frame_id, id);
        if (r == 0)
            ids->last_stack = id;
    }
    *ret_id = id;
    return r;
}

/*
 * Collects the nodes from `node` on up to, and without, the first one that `done` has an id for, or `end`. Returns that one's id
 * (`id` for `end`) or -errno.
 */
static int64_t collect(struct mt_store_intern *n, uint32_t node, uint32_t end, const int64_t *done, int64_t id, size_t *ret_depth)
{
    size_t depth = 0;

    for (; node != end && !done[node]; node = parent_of(n, node)) {
        if (depth == n->path_capacity) {
            size_t capacity = depth ? depth * 2 : 256;
            uint32_t *path = reallocarray(n->path, capacity, sizeof(*path));
            if (!path)
                return -ENOMEM;
            n->path = path;
            n->path_capacity = capacity;
        }
        n->path[depth++] = node;
    }
    *ret_depth = depth;
    return node == end ? id : done[node];
}

/* Adds what was collected, callers first. */
static int descend(struct mt_store_intern *n, size_t depth, int64_t *done, int64_t *id)
{
    while (depth > 0) {
        uint32_t node = n->path[--depth];
        if (!intern_is_self(n, node)) {
            int r = child_of(n->store, *id, frame_of(n, node)->frame_id, id);
            if (r < 0)
                return r;
        }
        done[node] = *id;
    }
    return 0;
}

int stack_write(struct mt_store_intern *n, uint32_t node, int64_t *ret_stack_id)
{
    size_t depth;
    int64_t id = collect(n, node, 0, n->node_stack, 0, &depth);
    int r = id < 0 ? (int)id : descend(n, depth, n->node_stack, &id);

    if (r == 0)
        *ret_stack_id = id;
    return r;
}

int stack_write_folded(struct mt_store_intern *n, uint32_t node, uint32_t responsible, int64_t *ret_stack_id)
{
    int64_t other = 0, root = 0, id;
    size_t depth;
    int r = 0;

    if (n->node_folded[node]) {
        *ret_stack_id = n->node_folded[node];
        return 0;
    }
    r = intern_other_frame(n, &other);
    if (r == 0)
        r = child_of(n->store, 0, other, &root);
    if (r < 0)
        return r;
    id = collect(n, node, parent_of(n, responsible), n->node_folded, root, &depth);
    r = id < 0 ? (int)id : descend(n, depth, n->node_folded, &id);
    if (r == 0)
        *ret_stack_id = id;
    return r;
}

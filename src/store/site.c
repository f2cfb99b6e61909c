/*
 * Leaf nodes -> sites. What takes long (debug information) comes first and only reads, so that with no batch open other
 * writers are not kept waiting; what it found out is then written in one transaction, where every row is looked for once more, since
 * another writer may have added it meanwhile.
 */
#include "store/internal.h"

#include <errno.h>

static int heap_id_of(struct mt_store *store, const char *name, const char *kind, int64_t *ret_id)
{
    int r = store_find(store, ret_id, S_HEAP_FIND, "tt", name, kind);

    if (r < 0 || *ret_id)
        return r;
    r = store_run(store, S_HEAP_ADD, "tt", name, kind);
    *ret_id = sqlite3_last_insert_rowid(store->db);
    return r;
}

static int write_site(
    struct mt_store *store, struct intern *intern, const struct mt_store_site_key *key, int64_t *ret_id)
{
    int64_t heap_id = 0, stack_id = 0, frame_id = 0;
    int depth = 0;
    int r = heap_id_of(store, key->heap ? key->heap : "malloc", key->kind ? key->kind : "", &heap_id);

    if (r == 0)
        r = intern_stack(intern, key->node, &stack_id);
    if (r == 0)
        r = store_find(store, ret_id, S_SITE_FIND, "ii", stack_id, heap_id);
    if (r < 0 || *ret_id)
        return r;
    r = intern_responsible(intern, key->node, &frame_id, &depth);
    if (r == 0)
        r = store_run(store, S_SITE_ADD, "iiin", stack_id, heap_id, frame_id, depth);
    *ret_id = sqlite3_last_insert_rowid(store->db);
    return r;
}

int mt_store_sites(struct mt_store *store, const struct mt_store_stacks *stacks, const struct mt_store_site_key *keys,
    size_t count, int64_t *ret_site_ids)
{
    struct intern *intern = NULL;
    bool own = false;
    int r = intern_create(store, stacks, &intern);

    for (size_t i = 0; i < count && r == 0; i++)
        r = intern_want(intern, keys[i].node);
    if (r == 0)
        r = intern_resolve(intern);
    if (r == 0)
        r = store_enter(store, &own);
    if (r < 0)
        goto out;
    r = intern_write(intern);
    for (size_t i = 0; i < count && r == 0; i++)
        r = write_site(store, intern, &keys[i], &ret_site_ids[i]);
    r = store_leave(store, own, r);
out:
    intern_destroy(intern);
    return r;
}

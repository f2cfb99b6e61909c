/*
 * Everything that belongs to a process: its sites' totals, and what happened along its time.
 */
#include "store/internal.h"

#include <assert.h>

int mt_store_folded(struct mt_store *store, int64_t process_id, const struct mt_store_folded *folded)
{
    return store_run(store, S_FOLDED_SET, "iuuu", process_id, folded->sites, folded->blocks, folded->bytes);
}

#define COLUMNS_OF(row) (sizeof(row) / sizeof(int64_t)) /* of structs in the order of their tables */
static_assert(COLUMNS_OF(struct mt_store_site_totals) == 13, "site_totals");
static_assert(COLUMNS_OF(struct mt_store_snapshot_site) == 5, "snapshot_site");

/* No two of one site, in the order of the table. */
static int add_ordered(struct mt_store *store, int64_t process_id, const struct mt_store_site_totals *totals, size_t count)
{
    struct rows rows = {.values = (const int64_t *)totals, .columns = COLUMNS_OF(*totals), .count = count, .is_unsigned = true};

    return store_insert(store, &rows, S_TOTALS_NEW, "i", process_id);
}

int mt_store_site_totals(
    struct mt_store *store, int64_t run_id, int64_t process_id, const struct mt_store_site_totals *rows, size_t count)
{
    bool own, ordered = true;
    int r = store_enter(store, &own);

    (void)run_id;
    if (r < 0)
        return r;
    r = store_run(store, S_TOTALS_CLEAR, "i", process_id);
    for (size_t i = 1; i < count && ordered; i++)
        ordered = rows[i - 1].site_id < rows[i].site_id;
    if (r == 0 && ordered) {
        r = add_ordered(store, process_id, rows, count);
        return store_leave(store, own, r);
    }
    /* Two rows of one site are added up: a library that was loaded twice has its sites once. */
    for (size_t i = 0; i < count && r == 0; i++) {
        const struct mt_store_site_totals *t = &rows[i];
        r = store_run(store, S_TOTALS_ADD, "iiuuuuuuuuuuuu", process_id, t->site_id, t->peak_bytes, t->peak_blocks,
            t->live_bytes, t->live_blocks, t->allocated_bytes, t->allocated_blocks, t->freed_blocks, t->temporary_blocks,
            t->lifetime_ns_sum, t->lifetime_ns_min, t->lifetime_ns_max, t->own_peak_bytes);
    }
    return store_leave(store, own, r);
}

int mt_store_samples(
    struct mt_store *store, int64_t run_id, int64_t process_id, const struct mt_store_sample *rows, size_t count)
{
    bool own;
    int r = store_enter(store, &own);

    (void)run_id;
    if (r < 0)
        return r;
    for (size_t i = 0; i < count && r == 0; i++) {
        const struct mt_store_sample *s = &rows[i];
        r = store_run(store, S_SAMPLE_ADD, "iiuuuuuuuu", process_id, s->at_ns, s->live_bytes, s->python_bytes,
            s->mapped_bytes, s->rss_bytes, s->rss_anon_bytes, s->rss_file_bytes, s->vms_bytes, s->overhead_bytes);
    }
    return store_leave(store, own, r);
}

int mt_store_phase(struct mt_store *store, int64_t run_id, int64_t process_id, const struct mt_store_phase *h)
{
    (void)run_id;
    return store_run(store, S_PHASE_ADD, "iittiuuuuuuuuuuu", process_id, h->started_ns, h->phase, h->parent, h->ended_ns,
        h->live_bytes_before, h->live_bytes_after, h->peak_live_bytes, h->allocated_bytes, h->allocated_blocks,
        h->rss_before, h->rss_after, h->vms_before, h->vms_after, h->python_bytes_before, h->python_bytes_after);
}

int mt_store_iteration(struct mt_store *store, int64_t run_id, int64_t process_id, const struct mt_store_iteration *row)
{
    (void)run_id;
    return store_run(store, S_ITERATION_ADD, "iitiiuuuuu", process_id, row->iteration, row->label, row->started_ns,
        row->ended_ns, row->live_bytes, row->live_blocks, row->peak_live_bytes, row->rss_bytes, row->vms_bytes);
}

int mt_store_mark(struct mt_store *store, int64_t run_id, int64_t process_id, int64_t at_ns, const char *name,
    uint64_t live_bytes, uint64_t rss_bytes)
{
    (void)run_id;
    return store_run(store, S_MARK_ADD, "iituu", process_id, at_ns, name, live_bytes, rss_bytes);
}

int mt_store_snapshot(struct mt_store *store, int64_t run_id, int64_t process_id, const char *kind, const char *label,
    int64_t at_ns, const struct mt_store_snapshot_python *python, const struct mt_store_snapshot_site *sites, size_t count)
{
    int64_t snapshot_id;
    bool own;
    int r = store_enter(store, &own);

    (void)run_id;
    if (r < 0)
        return r;
    r = store_run(store, S_SNAPSHOT_ADD, "itti", process_id, kind, label, at_ns);
    snapshot_id = sqlite3_last_insert_rowid(store->db);
    if (python && r == 0)
        r = store_run(store, S_SNAPSHOT_PYTHON, "uuuuui", python->object_bytes, python->object_blocks, python->arena_object_bytes,
            python->arena_object_blocks, python->arena_bytes, snapshot_id);
    if (r == 0)
        r = store_insert(store,
            &(struct rows){.values = (const int64_t *)sites, .columns = COLUMNS_OF(*sites), .count = count, .is_unsigned = true},
            S_SNAPSHOT_SITES_ADD, "i", snapshot_id);
    return store_leave(store, own, r);
}

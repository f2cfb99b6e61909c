/*
 * The totals of a process's callsites, as rows in the order of their table. Several sites have one row if they are folded, or differ only in which
 * load of a library they saw.
 *
 *   totals_make()    with a list of the groups whose ids are not known yet
 *   totals_gather()  adds up all sites: reads only what does not change while the process is written, so it may run beside the store's search for ids
 *   totals_settle()  when they are known: puts the groups of the list in their places
 */
#include "reader/groups.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/pages.h"

struct pending { /* a group of the list */
    struct mt_store_site_totals row;
    uint64_t sites;
};

struct totals {
    const struct target *target;
    struct mt_store_site_totals *rows;
    size_t count, capacity;
    /* Ids are found by their rank, in a map of bits as wide as they are apart; or, in a database that is very large or damaged, by searching the rows. */
    int64_t first;
    uint64_t width;
    uint64_t *bits; /* NULL: searched */
    uint32_t *before; /* by word of bits: ids in those before */
    uint32_t *list;
    struct pending *pending; /* by place in the list */
    size_t pending_count;
    struct mt_store_folded folded;
    int error;
};

#define WIDTH_MAX (UINT64_C(1) << 26)
enum { WORD = 64, PREFETCHED = 8 };

/* ---- rows by id ----------------------------------------------------------------------------------------------------- */

static size_t rank(const struct totals *t, int64_t id)
{
    uint64_t at = (uint64_t)id - (uint64_t)t->first, low = 0, high = t->count;

    if (t->bits)
        return t->before[at / WORD] + (size_t)__builtin_popcountll(t->bits[at / WORD] & ((UINT64_C(1) << at % WORD) - 1));
    while (high - low > 1) {
        uint64_t middle = (low + high) / 2;
        if (t->rows[middle].site_id <= id)
            low = middle;
        else
            high = middle;
    }
    return low;
}

static struct mt_store_site_totals *row_of(const struct totals *t, int64_t id)
{
    uint64_t at = (uint64_t)id - (uint64_t)t->first;
    size_t place;

    if (t->count == 0 || id < t->first || at >= t->width)
        return NULL;
    place = rank(t, id);
    return place < t->count && t->rows[place].site_id == id ? &t->rows[place] : NULL;
}

static int make_room(struct totals *t, size_t count)
{
    t->capacity = count + t->pending_count + 1;
    t->rows = mt_pages_filled(t->capacity * sizeof(*t->rows));
    return t->rows ? 0 : -ENOMEM;
}

static int make_bits(struct totals *t, const struct groups *g)
{
    size_t words = t->width / WORD + 1, count = 0;
    int err;

    t->bits = calloc(words, sizeof(*t->bits));
    t->before = calloc(words, sizeof(*t->before));
    if (!t->bits || !t->before)
        return -ENOMEM;
    for (size_t i = 0; i < g->count; i++) {
        uint64_t at = (uint64_t)g->ids[i] - (uint64_t)t->first;
        if (g->ids[i])
            t->bits[at / WORD] |= UINT64_C(1) << at % WORD;
    }
    for (size_t i = 0; i < words; i++) {
        t->before[i] = (uint32_t)count;
        count += (size_t)__builtin_popcountll(t->bits[i]);
    }
    err = make_room(t, count);
    for (size_t i = 0; i < words && err == 0; i++)
        for (uint64_t bits = t->bits[i]; bits; bits &= bits - 1)
            t->rows[t->count++].site_id = t->first + (int64_t)(i * WORD) + __builtin_ctzll(bits);
    return err;
}

static int by_id(const void *a, const void *b)
{
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b; /* the first field of a row, and of what begins with one */

    return (x > y) - (x < y);
}

static int make_searched(struct totals *t, const struct groups *g)
{
    int64_t *ids = calloc(g->count, sizeof(*ids));
    size_t count = 0;
    int err = ids ? make_room(t, g->count) : -ENOMEM;

    for (size_t i = 0; i < g->count && err == 0; i++)
        if (g->ids[i])
            ids[count++] = g->ids[i];
    if (err == 0)
        qsort(ids, count, sizeof(*ids), by_id);
    for (size_t i = 0; i < count && err == 0; i++) {
        if (i == 0 || ids[i] != ids[i - 1])
            t->rows[t->count++].site_id = ids[i];
    }
    free(ids);
    return err;
}

static int make_rows(struct totals *t)
{
    const struct groups *g = t->target->groups;
    int64_t first = INT64_MAX, last = 0;

    for (size_t i = 0; i < g->count; i++) {
        if (!g->ids[i])
            continue;
        first = g->ids[i] < first ? g->ids[i] : first;
        last = g->ids[i] > last ? g->ids[i] : last;
    }
    if (first > last)
        return make_room(t, 0);
    t->first = first;
    t->width = (uint64_t)last - (uint64_t)first + 1;
    return t->width <= WIDTH_MAX ? make_bits(t, g) : make_searched(t, g);
}

/* ---- sums ------------------------------------------------------------------------------------------------------------- */

static MT_ALWAYS_INLINE void add_row(struct mt_store_site_totals *to, const struct mt_store_site_totals *from)
{
    if (from->freed_blocks && (!to->freed_blocks || from->lifetime_ns_min < to->lifetime_ns_min))
        to->lifetime_ns_min = from->lifetime_ns_min;
    if (from->lifetime_ns_max > to->lifetime_ns_max)
        to->lifetime_ns_max = from->lifetime_ns_max;
    if (from->own_peak_bytes > to->own_peak_bytes)
        to->own_peak_bytes = from->own_peak_bytes;
    to->peak_bytes += from->peak_bytes;
    to->peak_blocks += from->peak_blocks;
    to->live_bytes += from->live_bytes;
    to->live_blocks += from->live_blocks;
    to->allocated_bytes += from->allocated_bytes;
    to->allocated_blocks += from->allocated_blocks;
    to->freed_blocks += from->freed_blocks;
    to->temporary_blocks += from->temporary_blocks;
    to->lifetime_ns_sum += from->lifetime_ns_sum;
}

/* Lifetimes still in stamps. */
static void add_site(struct mt_store_site_totals *to, const struct mt_live_sites *all, size_t site)
{
    const struct mt_live_site *from = &all->sites[site];

    add_row(to,
        &(struct mt_store_site_totals){.peak_bytes = mt_live_peak_bytes(all, site),
            .peak_blocks = mt_live_peak_blocks(all, site),
            .live_bytes = from->live_bytes,
            .live_blocks = from->live_blocks,
            .allocated_bytes = from->allocated_bytes,
            .allocated_blocks = from->allocated_blocks,
            .freed_blocks = from->freed_blocks,
            .temporary_blocks = from->temporary_blocks,
            .lifetime_ns_sum = from->lifetime_sum,
            .lifetime_ns_min = from->lifetime_min,
            .lifetime_ns_max = from->lifetime_max,
            .own_peak_bytes = from->own_peak_bytes});
}

static void add_folded(struct mt_store_folded *folded, uint64_t sites, uint64_t blocks, uint64_t bytes)
{
    folded->sites += sites;
    folded->blocks += blocks;
    folded->bytes += bytes;
}

static int by_number(const void *a, const void *b)
{
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;

    return (x > y) - (x < y);
}

/* Where the site's figures go. NULL: nowhere, the list is not what it should be. */
static struct mt_store_site_totals *place_of(const struct totals *t, size_t site)
{
    uint32_t group = t->target->groups->of[site];
    const uint32_t *found;

    if (t->target->groups->ids[group])
        return &t->rows[rank(t, t->target->groups->ids[group])];
    found = t->list ? bsearch(&group, t->list, t->pending_count, sizeof(*t->list), by_number) : NULL;
    if (!found)
        return NULL;
    t->pending[found - t->list].sites++;
    return &t->pending[found - t->list].row;
}

static void add_sites(struct totals *t)
{
    struct mt_live_sites all = mt_live_sites(t->target->live);
    const struct groups *g = t->target->groups;
    struct mt_store_site_totals *next[PREFETCHED];

    for (size_t i = 0; i < g->sites + PREFETCHED && t->error == 0; i++) {
        if (i >= PREFETCHED) {
            size_t site = i - PREFETCHED;
            const struct mt_live_site *s = &all.sites[site];
            add_site(next[i % PREFETCHED], &all, site);
            if (g->ids[g->of[site]] && g->folded[g->of[site]])
                add_folded(&t->folded, 1, s->allocated_blocks, s->allocated_bytes);
        }
        if (i < g->sites) {
            next[i % PREFETCHED] = place_of(t, i);
            if (!next[i % PREFETCHED])
                t->error = -EINVAL;
            mt_prefetch(next[i % PREFETCHED]);
            mt_prefetch((const char *)next[i % PREFETCHED] + MT_CACHE_LINE);
        }
    }
}

/* ---- from one step to the next ------------------------------------------------------------------------------------------ */

struct totals *totals_make(const struct target *target, const uint32_t *list, size_t count)
{
    struct totals *t = calloc(1, sizeof(*t));

    if (!t)
        return NULL;
    t->target = target;
    t->pending_count = count;
    t->list = calloc(count + 1, sizeof(*t->list));
    t->pending = calloc(count + 1, sizeof(*t->pending));
    if (!t->list || !t->pending) {
        totals_free(t);
        return NULL;
    }
    if (count)
        memcpy(t->list, list, count * sizeof(*list));
    return t;
}

void totals_gather(void *argument)
{
    struct totals *t = argument;

    t->error = make_rows(t);
    if (t->error == 0)
        add_sites(t);
}

int totals_settle(struct totals *t)
{
    const struct groups *g = t->target->groups;
    size_t left = 0, from, to;

    if (t->error < 0)
        return t->error;
    for (size_t i = 0; i < t->pending_count; i++) {
        struct pending *p = &t->pending[i];
        struct mt_store_site_totals *row = row_of(t, p->row.site_id = g->ids[t->list[i]]);

        if (g->folded[t->list[i]])
            add_folded(&t->folded, p->sites, p->row.allocated_blocks, p->row.allocated_bytes);
        if (row)
            add_row(row, &p->row);
        else
            t->pending[left++] = *p;
    }
    qsort(t->pending, left, sizeof(*t->pending), by_id);
    for (size_t i = 0, all = left, kept = left = 0; i < all; i++, kept = left) {
        if (kept && t->pending[kept - 1].row.site_id == t->pending[i].row.site_id)
            add_row(&t->pending[kept - 1].row, &t->pending[i].row);
        else
            t->pending[left++] = t->pending[i];
    }
    /* From behind, so that each row moves once, if at all. */
    for (from = t->count, to = t->count + left; left; to--) {
        if (from && t->rows[from - 1].site_id > t->pending[left - 1].row.site_id) {
            t->rows[to - 1] = t->rows[from - 1];
            from--;
        } else {
            t->rows[to - 1] = t->pending[--left].row;
            t->count++;
        }
    }
    t->pending_count = 0;
    return 0;
}

struct mt_store_site_totals *totals_rows(struct totals *t, size_t *ret_count, struct mt_store_folded *ret_folded)
{
    *ret_count = t->error < 0 ? 0 : t->count;
    *ret_folded = t->folded;
    return t->rows;
}

void totals_free(struct totals *t)
{
    if (!t)
        return;
    mt_pages_free(t->rows, t->capacity * sizeof(*t->rows));
    free(t->bits);
    free(t->before);
    free(t->list);
    free(t->pending);
    free(t);
}

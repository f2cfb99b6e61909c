/*
 * The ids of callsites in the database, and the totals of all. Totals are rewritten as one set only: which callsites are kept whole (choose.c) may be
 * others each time.
 */
#include "reader/groups.h"

#include <errno.h>
#include <stdlib.h>

#include "base/pages.h"

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
        err = groups_store(reader, target, MT_STORE_WHOLLY, keys, 0, list, count);
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

/* ---- rows, in the order of the table -------------------------------------------------------------------------------------- */

/* Several sites have one id if they are folded, or differ only in which load of a library they saw. */
struct rows {
    struct mt_store_site_totals *rows;
    size_t count, capacity;
    /* Ids are found by their rank, in a map of bits as wide as they are apart; or, in a database that is very large or damaged, by searching the rows. */
    int64_t first;
    uint64_t *bits; /* NULL: searched */
    uint32_t *before; /* by word of bits: ids in those before */
};

#define WIDTH_MAX (UINT64_C(1) << 26)
enum { WORD = 64, PREFETCHED = 8 };

static size_t rank(const struct rows *r, int64_t id)
{
    uint64_t at = (uint64_t)(id - r->first), low = 0, high = r->count;

    if (r->bits)
        return r->before[at / WORD] + (size_t)__builtin_popcountll(r->bits[at / WORD] & ((UINT64_C(1) << at % WORD) - 1));
    while (high - low > 1) {
        uint64_t middle = (low + high) / 2;
        if (r->rows[middle].site_id <= id)
            low = middle;
        else
            high = middle;
    }
    return low;
}

static int make_bits(struct rows *r, const struct groups *g, uint64_t width)
{
    size_t words = width / WORD + 1, count = 0;

    r->bits = calloc(words, sizeof(*r->bits));
    r->before = calloc(words, sizeof(*r->before));
    if (!r->bits || !r->before)
        return -ENOMEM;
    for (size_t i = 0; i < g->count; i++)
        r->bits[(uint64_t)(g->ids[i] - r->first) / WORD] |= UINT64_C(1) << (uint64_t)(g->ids[i] - r->first) % WORD;
    for (size_t i = 0; i < words; i++) {
        r->before[i] = (uint32_t)count;
        count += (size_t)__builtin_popcountll(r->bits[i]);
    }
    r->rows = mt_pages_filled(count * sizeof(*r->rows));
    if (!r->rows)
        return -ENOMEM;
    r->count = r->capacity = count;
    for (size_t i = 0, at = 0; i < words; i++)
        for (uint64_t bits = r->bits[i]; bits; bits &= bits - 1)
            r->rows[at++].site_id = r->first + (int64_t)(i * WORD) + __builtin_ctzll(bits);
    return 0;
}

static int by_id(const void *a, const void *b)
{
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;

    return (x > y) - (x < y);
}

static int make_searched(struct rows *r, const struct groups *g)
{
    int64_t *ids = calloc(g->count, sizeof(*ids));

    r->rows = mt_pages_filled(g->count * sizeof(*r->rows));
    r->capacity = g->count;
    for (size_t i = 0; i < g->count && ids && r->rows; i++)
        ids[i] = g->ids[i];
    if (ids && r->rows)
        qsort(ids, g->count, sizeof(*ids), by_id);
    for (size_t i = 0; i < g->count && ids && r->rows; i++) {
        if (i == 0 || ids[i] != ids[i - 1])
            r->rows[r->count++].site_id = ids[i];
    }
    free(ids);
    return r->count ? 0 : -ENOMEM;
}

static int make_rows(struct rows *r, const struct groups *g)
{
    int64_t first = g->count ? g->ids[0] : 0, last = first;

    for (size_t i = 1; i < g->count; i++) {
        first = g->ids[i] < first ? g->ids[i] : first;
        last = g->ids[i] > last ? g->ids[i] : last;
    }
    r->first = first;
    if (g->count == 0 || (uint64_t)last - (uint64_t)first >= WIDTH_MAX)
        return g->count ? make_searched(r, g) : 0;
    return make_bits(r, g, (uint64_t)last - (uint64_t)first + 1);
}

static void free_rows(struct rows *r)
{
    mt_pages_free(r->rows, r->capacity * sizeof(*r->rows));
    free(r->bits);
    free(r->before);
}

/* ---- totals -------------------------------------------------------------------------------------------------------------- */

/* Lifetimes still in stamps. */
static void add_site(struct mt_store_site_totals *to, const struct mt_live_sites *all, size_t site)
{
    const struct mt_live_site *from = &all->sites[site];

    if (from->freed_blocks && (!to->freed_blocks || from->lifetime_min < to->lifetime_ns_min))
        to->lifetime_ns_min = from->lifetime_min;
    if (from->lifetime_max > to->lifetime_ns_max)
        to->lifetime_ns_max = from->lifetime_max;
    if (from->own_peak_bytes > to->own_peak_bytes)
        to->own_peak_bytes = from->own_peak_bytes;
    to->peak_bytes += mt_live_peak_bytes(all, site);
    to->peak_blocks += mt_live_peak_blocks(all, site);
    to->live_bytes += from->live_bytes;
    to->live_blocks += from->live_blocks;
    to->allocated_bytes += from->allocated_bytes;
    to->allocated_blocks += from->allocated_blocks;
    to->freed_blocks += from->freed_blocks;
    to->temporary_blocks += from->temporary_blocks;
    to->lifetime_ns_sum += from->lifetime_sum;
}

static void add_sites(struct rows *r, const struct target *target, struct mt_store_folded *folded)
{
    struct mt_live_sites all = mt_live_sites(target->live);
    const struct groups *g = target->groups;
    struct mt_store_site_totals *next[PREFETCHED];

    for (size_t i = 0; i < g->sites + PREFETCHED; i++) {
        if (i >= PREFETCHED) {
            size_t site = i - PREFETCHED;
            const struct mt_live_site *s = &all.sites[site];
            add_site(next[i % PREFETCHED], &all, site);
            if (g->folded[g->of[site]]) {
                folded->sites++;
                folded->blocks += s->allocated_blocks;
                folded->bytes += s->allocated_bytes;
            }
        }
        if (i < g->sites) {
            next[i % PREFETCHED] = &r->rows[rank(r, groups_id(g, i))];
            mt_prefetch(next[i % PREFETCHED]);
            mt_prefetch((const char *)next[i % PREFETCHED] + MT_CACHE_LINE);
        }
    }
}

int sites_write_totals(struct reader *reader, struct target *target)
{
    static const uint64_t many_ticks = UINT64_C(1) << 40;
    double tick_ns = (double)ticks_to_ns(reader, target, many_ticks) / (double)many_ticks;
    struct mt_store_folded folded = {0};
    struct rows r = {0};
    int err = make_rows(&r, target->groups);

    if (err == 0)
        add_sites(&r, target, &folded);
    /* Lifetimes were in stamps. */
    for (size_t i = 0; i < r.count && err == 0; i++) {
        r.rows[i].lifetime_ns_sum = (uint64_t)((double)r.rows[i].lifetime_ns_sum * tick_ns);
        r.rows[i].lifetime_ns_min = (uint64_t)((double)r.rows[i].lifetime_ns_min * tick_ns);
        r.rows[i].lifetime_ns_max = (uint64_t)((double)r.rows[i].lifetime_ns_max * tick_ns);
    }
    if (err == 0)
        err = mt_store_site_totals(reader->store, reader->run_id, target->process_id, r.rows, r.count);
    if (err == 0)
        err = mt_store_folded(reader->store, target->process_id, &folded);
    free_rows(&r);
    return err;
}

/*
 * Which callsites are kept whole, and the totals of all.
 *
 * A large program has a hundred thousand callsites, of which a few thousand hold or allocate nearly all there is. Those are kept with all
 * of their callers; the rest is folded (store/schema.sql): exact by function, file and line, without the callers. What matters is decided
 * anew each time the process is written, by shares of what its heap did as a whole, so it may be rewritten as one set only.
 */
#include "reader/groups.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define SHARE_MIN 0.0003f /* of any of the figures below */
/* While the process runs fewer are kept, and larger ones: most of what matters at its beginning does not at its end, and what a
 * checkpoint has once put into the tables of stacks and sites stays there. */
#define EARLY_SHARE_MIN 0.005f
enum { EARLY_PART = 8 };

enum { PEAK_BYTES, LIVE_BYTES, LIVE_BLOCKS, ALLOCATED_BYTES, ALLOCATED_BLOCKS, TEMPORARY_BLOCKS, FIGURES };

struct choice {
    const struct mt_live *live;
    const struct groups *groups;
    float *scores; /* by group: its largest share of any figure */
    uint64_t (*figures)[FIGURES];
    uint64_t *own_peaks;
    uint64_t (*whole)[FIGURES]; /* by heap */
    uint64_t *row_whole; /* by heap: of the snapshot at hand */
};

struct ranked {
    float score;
    uint32_t group;
};

static void figures_of(const struct mt_live *live, size_t site, uint64_t figures[FIGURES])
{
    const struct mt_live_site *s = mt_live_site(live, site);
    uint64_t blocks;

    mt_live_site_at_peak(live, site, &figures[PEAK_BYTES], &blocks);
    figures[LIVE_BYTES] = s->live_bytes;
    figures[LIVE_BLOCKS] = s->live_blocks;
    figures[ALLOCATED_BYTES] = s->allocated_bytes;
    figures[ALLOCATED_BLOCKS] = s->allocated_blocks;
    figures[TEMPORARY_BLOCKS] = s->temporary_blocks;
}

static void raise_score(float *score, uint64_t part, uint64_t whole)
{
    float share = whole ? (float)part / (float)whole : 0;

    if (share > *score)
        *score = share;
}

static void score_sites(struct choice *c, size_t count)
{
    const struct groups *g = c->groups;
    uint64_t f[FIGURES];

    for (size_t i = 0; i < count; i++) {
        const struct mt_live_site *site = mt_live_site(c->live, i);
        uint64_t *whole = c->whole[site->heap], *figures = c->figures[g->of[i]], *own_peak = &c->own_peaks[g->of[i]];
        figures_of(c->live, i, f);
        for (unsigned k = 0; k < FIGURES; k++) {
            whole[k] += f[k];
            figures[k] += f[k];
        }
        if (site->own_peak_bytes > *own_peak)
            *own_peak = site->own_peak_bytes;
    }
    for (size_t i = 0; i < g->count; i++) {
        const uint64_t *whole = c->whole[mt_live_site(c->live, g->items[i].first)->heap];
        for (unsigned k = 0; k < FIGURES; k++)
            raise_score(&c->scores[i], c->figures[i][k], whole[k]);
        raise_score(&c->scores[i], c->own_peaks[i], whole[PEAK_BYTES]);
    }
}

static void score_rows(struct choice *c, const struct mt_live_row *rows, size_t count)
{
    const uint32_t *of = c->groups->of;

    memset(c->row_whole, 0, MT_LIVE_HEAPS_MAX * sizeof(*c->row_whole));
    for (size_t i = 0; i < count; i++)
        c->own_peaks[of[rows[i].site]] = 0;
    for (size_t i = 0; i < count; i++) {
        c->row_whole[mt_live_site(c->live, rows[i].site)->heap] += rows[i].live_bytes;
        c->own_peaks[of[rows[i].site]] += rows[i].live_bytes; /* of the snapshot: what was there has been made use of */
    }
    for (size_t i = 0; i < count; i++) {
        uint32_t group = of[rows[i].site];
        raise_score(&c->scores[group], c->own_peaks[group], c->row_whole[mt_live_site(c->live, rows[i].site)->heap]);
    }
}

static int by_score(const void *a, const void *b)
{
    const struct ranked *x = a, *y = b;

    if (x->score != y->score)
        return x->score > y->score ? -1 : 1;
    return (x->group > y->group) - (x->group < y->group);
}

/* Clears `fold` of those that matter most. */
static int choose(const struct choice *c, size_t most, float least)
{
    size_t n = 0, count = c->groups->count;
    struct ranked *ranked;

    for (size_t i = 0; i < count; i++)
        n += c->scores[i] >= least;
    ranked = calloc(n ? n : 1, sizeof(*ranked));
    if (!ranked)
        return -ENOMEM;
    n = 0;
    for (size_t i = 0; i < count; i++) {
        if (c->scores[i] >= least)
            ranked[n++] = (struct ranked){c->scores[i], (uint32_t)i};
    }
    if (n > most)
        qsort(ranked, n, sizeof(*ranked), by_score);
    for (size_t i = 0; i < n && i < most; i++)
        c->groups->keys[ranked[i].group].fold = false;
    free(ranked);
    return 0;
}

static bool is_ending(const struct target *target)
{
    return target->finished || target->exit_seen;
}

static int decide(const struct reader *reader, const struct target *target, const struct groups *groups, size_t count)
{
    bool early = !is_ending(target);
    size_t most = early && reader->sites_whole != SIZE_MAX ? reader->sites_whole / EARLY_PART : reader->sites_whole;
    struct choice c = {.live = target->live, .groups = groups};
    int err = -ENOMEM;

    if (groups->count <= most)
        return 0;
    c.scores = calloc(groups->count, sizeof(*c.scores));
    c.figures = calloc(groups->count, sizeof(*c.figures));
    c.own_peaks = calloc(groups->count, sizeof(*c.own_peaks));
    c.whole = calloc(MT_LIVE_HEAPS_MAX, sizeof(*c.whole));
    c.row_whole = calloc(MT_LIVE_HEAPS_MAX, sizeof(*c.row_whole));
    if (c.scores && c.figures && c.own_peaks && c.whole && c.row_whole) {
        for (size_t i = 0; i < groups->count; i++)
            groups->keys[i].fold = true;
        score_sites(&c, count);
        for (size_t i = 0; i < target->note_count; i++)
            score_rows(&c, target->notes[i].rows, target->notes[i].row_count);
        for (size_t i = 0; i < target->snapshot_count; i++)
            score_rows(&c, target->snapshots[i].rows, target->snapshots[i].count);
        err = choose(&c, most, early ? EARLY_SHARE_MIN : SHARE_MIN);
        for (size_t i = 0; i < count && err == 0 && !early; i++) /* what may be called a leak is called so by its callers, too */
            if (mt_live_site_grows(target->live, i))
                groups->keys[groups->of[i]].fold = false;
    }
    free(c.scores);
    free(c.figures);
    free(c.own_peaks);
    free(c.whole);
    free(c.row_whole);
    return err;
}

/* ---- ids ---------------------------------------------------------------------------------------------------------------- */

static int reserve_ids(struct target *target, size_t count)
{
    size_t capacity = count + count / 2;
    int64_t *ids;

    if (count <= target->site_id_capacity)
        return 0;
    ids = reallocarray(target->site_ids, capacity, sizeof(*ids));
    if (!ids)
        return -ENOMEM;
    target->site_ids = ids;
    target->site_id_capacity = capacity;
    return 0;
}

static void count_folded(struct target *target, const struct groups *groups, size_t count)
{
    target->folded = (struct mt_store_folded){0};
    for (size_t i = 0; i < count; i++) {
        const struct mt_live_site *site = mt_live_site(target->live, i);
        if (!groups->keys[groups->of[i]].fold)
            continue;
        target->folded.sites++;
        target->folded.blocks += site->allocated_blocks;
        target->folded.bytes += site->allocated_bytes;
    }
}

/* Asks the store for the groups' ids. */
static int groups_ids(struct reader *reader, struct target *target, size_t count)
{
    struct groups *groups = target->groups;
    int64_t *ids = calloc(groups->count + 1, sizeof(*ids));
    int err = ids ? groups_store(reader, target, MT_STORE_WHOLLY, groups->keys, groups->count, ids) : -ENOMEM;

    for (size_t i = 0; i < count && err == 0; i++)
        target->site_ids[i] = ids[groups->of[i]];
    free(ids);
    return err;
}

/*
 * The ids are had in a transaction of their own, before the one that writes the figures: looking up functions and lines takes
 * long, and other runs want to write, too.
 */
int sites_prepare(struct reader *reader, struct target *target)
{
    uint64_t events = mt_live_totals(target->live)->events;
    size_t count = mt_live_site_count(target->live);
    int err = write_gather(target);

    if (err < 0 || (target->site_id_events == events && (target->site_ids_final || !is_ending(target))))
        return err;
    err = reserve_ids(target, count);
    if (err == 0)
        err = groups_update(target, NULL);
    if (err < 0)
        return err;
    target->groups->keys = calloc(target->groups->count + 1, sizeof(*target->groups->keys));
    if (!target->groups->keys)
        return -ENOMEM;
    groups_make_keys(target, 0, target->groups->count, false, target->groups->keys);
    err = decide(reader, target, target->groups, count);
    if (err == 0)
        err = groups_ids(reader, target, count);
    target->site_id_events = err == 0 ? events : UINT64_MAX;
    target->written_events = UINT64_MAX; /* the ids in the database may be others */
    if (err == 0)
        count_folded(target, target->groups, count);
    target->site_ids_final = is_ending(target) || target->folded.sites == 0;
    free(target->groups->keys);
    target->groups->keys = NULL;
    return err;
}

/* ---- totals -------------------------------------------------------------------------------------------------------------- */

/* Rows by site id: several sites have one id if they are folded, or differ only in which load of a library they saw. */
struct merged {
    struct mt_store_site_totals *rows;
    size_t count, capacity;
    uint32_t *slots; /* row + 1, 0: empty */
    size_t mask;
};

static struct mt_store_site_totals *row_of(struct merged *m, int64_t site_id)
{
    size_t at = mt_hash_u64((uint64_t)site_id) & m->mask;

    while (m->slots[at] && m->rows[m->slots[at] - 1].site_id != site_id)
        at = (at + 1) & m->mask;
    if (!m->slots[at]) {
        if (m->count == m->capacity) {
            size_t capacity = m->capacity ? m->capacity * 2 : 256;
            struct mt_store_site_totals *bigger = reallocarray(m->rows, capacity, sizeof(*bigger));
            if (!bigger)
                return NULL;
            m->rows = bigger;
            m->capacity = capacity;
        }
        m->rows[m->count] = (struct mt_store_site_totals){.site_id = site_id};
        m->slots[at] = (uint32_t)++m->count;
    }
    return &m->rows[m->slots[at] - 1];
}

/* Lifetimes still in stamps. */
static void add_site(struct mt_store_site_totals *to, const struct mt_live *live, size_t site)
{
    const struct mt_live_site *from = mt_live_site(live, site);
    uint64_t peak_bytes, peak_blocks;

    mt_live_site_at_peak(live, site, &peak_bytes, &peak_blocks);
    if (from->freed_blocks && (!to->freed_blocks || from->lifetime_min < to->lifetime_ns_min))
        to->lifetime_ns_min = from->lifetime_min;
    if (from->lifetime_max > to->lifetime_ns_max)
        to->lifetime_ns_max = from->lifetime_max;
    if (from->own_peak_bytes > to->own_peak_bytes)
        to->own_peak_bytes = from->own_peak_bytes;
    to->peak_bytes += peak_bytes;
    to->peak_blocks += peak_blocks;
    to->live_bytes += from->live_bytes;
    to->live_blocks += from->live_blocks;
    to->allocated_bytes += from->allocated_bytes;
    to->allocated_blocks += from->allocated_blocks;
    to->freed_blocks += from->freed_blocks;
    to->temporary_blocks += from->temporary_blocks;
    to->lifetime_ns_sum += from->lifetime_sum;
}

static int by_site_id(const void *a, const void *b)
{
    const struct mt_store_site_totals *x = a, *y = b;

    return (x->site_id > y->site_id) - (x->site_id < y->site_id);
}

int sites_write_totals(struct reader *reader, struct target *target)
{
    size_t count = mt_live_site_count(target->live);
    static const uint64_t many_ticks = UINT64_C(1) << 40;
    double tick_ns = (double)ticks_to_ns(reader, target, many_ticks) / (double)many_ticks;
    struct merged m = {.mask = 255};
    int err = 0;

    while (m.mask < count * 2)
        m.mask = m.mask * 2 + 1;
    m.slots = calloc(m.mask + 1, sizeof(*m.slots));
    if (!m.slots)
        return -ENOMEM;
    for (size_t i = 0; i < count && err == 0; i++) {
        struct mt_store_site_totals *row = row_of(&m, target->site_ids[i]);
        if (row)
            add_site(row, target->live, i);
        else
            err = -ENOMEM;
    }
    for (size_t i = 0; i < m.count; i++) {
        m.rows[i].lifetime_ns_sum = (uint64_t)((double)m.rows[i].lifetime_ns_sum * tick_ns);
        m.rows[i].lifetime_ns_min = (uint64_t)((double)m.rows[i].lifetime_ns_min * tick_ns);
        m.rows[i].lifetime_ns_max = (uint64_t)((double)m.rows[i].lifetime_ns_max * tick_ns);
    }
    if (m.count) /* in the order of the table */
        qsort(m.rows, m.count, sizeof(*m.rows), by_site_id);
    if (err == 0)
        err = mt_store_site_totals(reader->store, reader->run_id, target->process_id, m.rows, m.count);
    if (err == 0)
        err = mt_store_folded(reader->store, target->process_id, &target->folded);
    free(m.rows);
    free(m.slots);
    return err;
}

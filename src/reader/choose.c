/*
 * Which callsites are kept whole.
 *
 * A large program has a hundred thousand callsites, of which a few thousand hold or allocate nearly all there is. Those are kept with all
 * of their callers; the rest is folded (store/schema.sql): exact by function, file and line, without the callers. What matters is decided
 * anew each time the process is written, by shares of what its heap did as a whole.
 *
 * A target waits for it, so there is one pass over all sites, and a closer look only at those that had a share worth a look in what had been added up
 * by then: the sums grow, so no other can have one in the end.
 */
#include "reader/groups.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/pages.h"

#define SHARE_MIN 0.0003f /* of any of the figures below */
/* While the process runs fewer are kept, and larger ones: most of what matters at its beginning does not at its end, and what a
 * checkpoint has once put into the tables of stacks and sites stays there. */
#define EARLY_SHARE_MIN 0.005f
#define CAUTION 0.999 /* shares are floats */
enum { EARLY_PART = 8, SITES_A_THRESHOLD = 64 };

enum { PEAK_BYTES, LIVE_BYTES, LIVE_BLOCKS, ALLOCATED_BYTES, ALLOCATED_BLOCKS, TEMPORARY_BLOCKS, FIGURES };

struct heap_sums {
    uint64_t whole[FIGURES];
    uint64_t least[FIGURES]; /* less is no share worth a look */
    uint64_t sites;
};

struct group_sums { /* of a group of several sites */
    uint64_t figures[FIGURES], own_peak;
    bool seen;
};

struct choice {
    const struct mt_live *live;
    struct mt_live_sites all;
    const struct groups *groups;
    float least;
    struct heap_sums *heaps;
    struct group_sums *shared; /* by item->shared - 1 */
    uint32_t *candidates;      /* groups */
    size_t candidate_count, candidate_capacity;
    float *scores;       /* by group: its largest share of any figure, of candidates and of what is in a snapshot */
    uint64_t *row_bytes; /* by group: in the snapshot at hand */
    uint64_t *row_whole; /* by heap: of the snapshot at hand */
};

struct ranked {
    float score;
    uint32_t group;
};

/* Returns the site's own peak. */
static uint64_t figures_of(const struct mt_live_sites *all, size_t site, uint64_t figures[FIGURES])
{
    const struct mt_live_site *s = &all->sites[site];

    figures[PEAK_BYTES] = mt_live_peak_bytes(all, site);
    figures[LIVE_BYTES] = s->live_bytes;
    figures[LIVE_BLOCKS] = s->live_blocks;
    figures[ALLOCATED_BYTES] = s->allocated_bytes;
    figures[ALLOCATED_BLOCKS] = s->allocated_blocks;
    figures[TEMPORARY_BLOCKS] = s->temporary_blocks;
    return s->own_peak_bytes;
}

/* ---- one pass over all -------------------------------------------------------------------------------------------- */

static void set_thresholds(struct heap_sums *heap, float least)
{
    for (unsigned k = 0; k < FIGURES; k++) {
        uint64_t part = (uint64_t)((double)heap->whole[k] * (double)least * CAUTION);
        heap->least[k] = part ? part : 1;
    }
}

static bool is_worth_a_look(const struct heap_sums *heap, const uint64_t figures[FIGURES], uint64_t own_peak)
{
    bool worth = own_peak >= heap->least[PEAK_BYTES];

    for (unsigned k = 0; k < FIGURES; k++)
        worth |= figures[k] >= heap->least[k];
    return worth;
}

static int add_candidate(struct choice *c, uint32_t group)
{
    if (!reserve((void **)&c->candidates, &c->candidate_capacity, c->candidate_count + 1, sizeof(*c->candidates)))
        return -ENOMEM;
    c->candidates[c->candidate_count++] = group;
    return 0;
}

static int look_at(struct choice *c, size_t site)
{
    uint32_t group = c->groups->of[site], shared = c->groups->items[group].shared;
    struct heap_sums *heap = &c->heaps[c->all.sites[site].heap];
    uint64_t f[FIGURES], own_peak = figures_of(&c->all, site, f);
    struct group_sums *sums;

    for (unsigned k = 0; k < FIGURES; k++)
        heap->whole[k] += f[k];
    if (heap->sites++ % SITES_A_THRESHOLD == 0)
        set_thresholds(heap, c->least);
    if (!shared)
        return is_worth_a_look(heap, f, own_peak) ? add_candidate(c, group) : 0;
    sums = &c->shared[shared - 1];
    for (unsigned k = 0; k < FIGURES; k++)
        sums->figures[k] += f[k];
    if (own_peak > sums->own_peak)
        sums->own_peak = own_peak;
    if (sums->seen)
        return 0;
    sums->seen = true;
    return add_candidate(c, group);
}

/* ---- scores ------------------------------------------------------------------------------------------------------- */

static void raise_score(float *score, uint64_t part, uint64_t whole)
{
    float share = whole ? (float)part / (float)whole : 0;

    if (share > *score)
        *score = share;
}

static void score_candidates(struct choice *c)
{
    for (size_t i = 0; i < c->candidate_count; i++) {
        const struct group *item = &c->groups->items[c->candidates[i]];
        float *score = &c->scores[c->candidates[i]];
        uint64_t f[FIGURES], own_peak = figures_of(&c->all, item->first, f);
        const uint64_t *whole = c->heaps[item->heap].whole, *figures = f;

        if (item->shared) {
            figures = c->shared[item->shared - 1].figures;
            own_peak = c->shared[item->shared - 1].own_peak;
        }
        for (unsigned k = 0; k < FIGURES; k++)
            raise_score(score, figures[k], whole[k]);
        raise_score(score, own_peak, whole[PEAK_BYTES]);
    }
}

static void score_rows(struct choice *c, const struct mt_live_row *rows, size_t count)
{
    const uint32_t *of = c->groups->of;

    memset(c->row_whole, 0, MT_LIVE_HEAPS_MAX * sizeof(*c->row_whole));
    for (size_t i = 0; i < count; i++)
        c->row_bytes[of[rows[i].site]] = 0;
    for (size_t i = 0; i < count; i++) {
        c->row_whole[c->all.sites[rows[i].site].heap] += rows[i].live_bytes;
        c->row_bytes[of[rows[i].site]] += rows[i].live_bytes;
    }
    for (size_t i = 0; i < count; i++) {
        uint32_t group = of[rows[i].site];
        raise_score(&c->scores[group], c->row_bytes[group], c->row_whole[c->all.sites[rows[i].site].heap]);
    }
}

/* ---- the choice ----------------------------------------------------------------------------------------------------- */

static int by_score(const void *a, const void *b)
{
    const struct ranked *x = a, *y = b;

    if (x->score != y->score)
        return x->score > y->score ? -1 : 1;
    return (x->group > y->group) - (x->group < y->group);
}

static int choose(const struct choice *c, size_t most, bool *ret_whole)
{
    size_t n = 0, count = c->groups->count;
    struct ranked *ranked;

    for (size_t i = 0; i < count; i++)
        n += c->scores[i] >= c->least;
    ranked = calloc(n ? n : 1, sizeof(*ranked));
    if (!ranked)
        return -ENOMEM;
    n = 0;
    for (size_t i = 0; i < count; i++) {
        if (c->scores[i] >= c->least)
            ranked[n++] = (struct ranked){c->scores[i], (uint32_t)i};
    }
    if (n > most)
        qsort(ranked, n, sizeof(*ranked), by_score);
    for (size_t i = 0; i < n && i < most; i++)
        ret_whole[ranked[i].group] = true;
    free(ranked);
    return 0;
}

/* What may be called a leak is called so by its callers, too. */
static void add_growing(const struct choice *c, bool *ret_whole)
{
    struct mt_live_iterations iterations;

    if (!mt_live_iterations(c->live, &iterations))
        return;
    for (size_t i = 0; i < c->groups->sites; i++)
        if (mt_live_site_grows(c->live, i))
            ret_whole[c->groups->of[i]] = true;
}

int choose_whole(const struct reader *reader, const struct target *target, bool early, bool *ret_whole)
{
    const struct groups *groups = target->groups;
    size_t most = early && reader->sites_whole != SIZE_MAX ? reader->sites_whole / EARLY_PART : reader->sites_whole;
    struct choice c = {.live = target->live, .all = mt_live_sites(target->live), .groups = groups, .least = early ? EARLY_SHARE_MIN : SHARE_MIN};
    int err = -ENOMEM;

    if (groups->count <= most) {
        memset(ret_whole, true, groups->count * sizeof(*ret_whole));
        return 0;
    }
    c.heaps = calloc(MT_LIVE_HEAPS_MAX, sizeof(*c.heaps));
    c.shared = calloc(groups->shared + 1, sizeof(*c.shared));
    c.scores = mt_pages_filled(groups->count * sizeof(*c.scores));
    c.row_bytes = calloc(groups->count, sizeof(*c.row_bytes));
    c.row_whole = calloc(MT_LIVE_HEAPS_MAX, sizeof(*c.row_whole));
    if (c.heaps && c.shared && c.scores && c.row_bytes && c.row_whole) {
        err = 0;
        for (size_t i = 0; i < groups->sites && err == 0; i++)
            err = look_at(&c, i);
        score_candidates(&c);
        for (size_t i = 0; i < target->note_count; i++)
            score_rows(&c, target->notes[i].rows, target->notes[i].row_count);
        for (size_t i = 0; i < target->snapshot_count; i++)
            score_rows(&c, target->snapshots[i].rows, target->snapshots[i].count);
        if (err == 0)
            err = choose(&c, most, ret_whole);
        if (err == 0 && !early)
            add_growing(&c, ret_whole);
    }
    free(c.heaps);
    free(c.shared);
    free(c.candidates);
    mt_pages_free(c.scores, groups->count * sizeof(*c.scores));
    free(c.row_bytes);
    free(c.row_whole);
    return err;
}

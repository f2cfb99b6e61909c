/*
 * Leak verdicts: the cohorts of live/ through the method of stats/ into the database, once a process has ended. Sites of live/ that are one
 * callsite in the database (a library that was loaded twice) are judged as one.
 */
#include "reader/groups.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "stats/stats.h"

static_assert((int)MT_STATS_WARM_UP == (int)MT_LIVE_WARM_UP, "the deaths that live/ counts are those that stats/ judges");

enum { ARRAYS = 9 };

struct candidate {
    int64_t site_id;
    uint32_t site;
    struct mt_live_site_cohorts cohorts;
    double *sums; /* NULL: the arrays are those of live/ */
    struct mt_finding finding;
};
static_assert(sizeof(struct mt_live_site_cohorts) == ARRAYS * sizeof(const double *), "a struct of arrays only");

static int by_site_id(const void *a, const void *b)
{
    const struct candidate *x = a, *y = b;

    return x->site_id != y->site_id ? (x->site_id > y->site_id) - (x->site_id < y->site_id) : (x->site > y->site) - (x->site < y->site);
}

/* Adds what `from` has to `to`. */
static int add_up(struct candidate *to, const struct candidate *from, unsigned ends)
{
    const double *from_arrays[ARRAYS], *to_arrays[ARRAYS];
    size_t length = ends + 1;

    memcpy(from_arrays, &from->cohorts, sizeof(from_arrays));
    memcpy(to_arrays, &to->cohorts, sizeof(to_arrays));
    if (!to->sums) {
        to->sums = calloc(ARRAYS * length, sizeof(*to->sums));
        if (!to->sums)
            return -ENOMEM;
        for (size_t a = 0; a < ARRAYS; a++) {
            memcpy(to->sums + a * length, to_arrays[a], length * sizeof(*to->sums));
            to_arrays[a] = to->sums + a * length;
        }
        memcpy(&to->cohorts, to_arrays, sizeof(to_arrays));
    }
    for (size_t a = 0; a < ARRAYS; a++)
        for (size_t i = 0; i < length; i++)
            to->sums[a * length + i] += from_arrays[a][i];
    return 0;
}

/* Sorted by site_id, each once. Returns how many; -ENOMEM. */
static int merge(struct candidate *candidates, size_t count, unsigned ends, size_t *ret_count)
{
    size_t kept = 0;
    int err = 0;

    qsort(candidates, count, sizeof(*candidates), by_site_id);
    for (size_t i = 0; i < count && err == 0; i++) {
        if (kept && candidates[kept - 1].site_id == candidates[i].site_id)
            err = add_up(&candidates[kept - 1], &candidates[i], ends);
        else
            candidates[kept++] = candidates[i];
    }
    *ret_count = kept;
    return err;
}

static void judge(struct candidate *c, const struct mt_live_iterations *its, double floor_bytes)
{
    const struct mt_live_site_cohorts *s = &c->cohorts;

    c->finding = mt_stats_verdict(&(struct mt_cohorts){.ends = its->ends,
        .live_bytes = s->live_bytes,
        .live_blocks = s->live_blocks,
        .aged_bytes = s->aged_bytes,
        .aged_blocks = s->aged_blocks,
        .survivor_bytes = s->survivor_bytes,
        .survivor_blocks = s->survivor_blocks,
        .at_risk = s->at_risk,
        .deaths = s->deaths,
        .death_bytes = s->death_bytes,
        .floor_bytes = floor_bytes});
}

static int write_one(
    struct reader *reader, const struct target *target, const struct candidate *c, const struct mt_live_iterations *its)
{
    const struct mt_finding *f = &c->finding;
    double period = its->period;
    struct mt_store_verdict row = {.site_id = c->site_id,
        .verdict = mt_stats_verdict_name(f->verdict),
        .gate = mt_stats_gate_name(f->gate),
        .bytes_per_iteration = f->bytes_per_iteration.estimate / period,
        .ci_low = f->bytes_per_iteration.low / period,
        .ci_high = f->bytes_per_iteration.high / period,
        .blocks_per_iteration = f->blocks_per_iteration / period,
        .p_value = f->p,
        .q_value = f->q,
        .since = f->since ? (int64_t)(f->since - 1) * its->period + 1 : 0};

    if (f->verdict == MT_VERDICT_NOISE && !f->tested)
        return 0;
    if (f->tested || f->verdict >= MT_VERDICT_SUSPECT) {
        row.live_bytes = c->cohorts.live_bytes;
        row.live_blocks = c->cohorts.live_blocks;
        row.survivor_bytes = c->cohorts.survivor_bytes;
        row.survivor_blocks = c->cohorts.survivor_blocks;
        row.at_risk = c->cohorts.at_risk;
        row.deaths = c->cohorts.deaths;
    }
    return mt_store_verdict(reader->store, target->process_id, its->ends, &row);
}

static int settle(struct candidate *candidates, size_t count, bool lossy, size_t *ret_tested)
{
    struct mt_finding *findings = calloc(count ? count : 1, sizeof(*findings));
    int err = findings ? 0 : -ENOMEM;

    for (size_t i = 0; i < count && err == 0; i++)
        findings[i] = candidates[i].finding;
    if (err == 0)
        err = mt_stats_settle(findings, count, lossy);
    *ret_tested = 0;
    for (size_t i = 0; i < count && err == 0; i++) {
        candidates[i].finding = findings[i];
        *ret_tested += findings[i].tested;
    }
    free(findings);
    return err;
}

static struct candidate *collect(const struct target *target, size_t *ret_count)
{
    size_t sites = mt_live_site_count(target->live), count = 0;
    struct candidate *candidates = calloc(sites ? sites : 1, sizeof(*candidates));

    for (size_t i = 0; i < sites && candidates; i++)
        if (mt_live_site_cohorts(target->live, i, &candidates[count].cohorts)) {
            candidates[count].site_id = groups_id(target->groups, i);
            candidates[count++].site = (uint32_t)i;
        }
    *ret_count = count;
    return candidates;
}

bool write_judges(const struct target *target)
{
    return target->live && (target->finished || target->exit_seen);
}

int write_cohorts(struct reader *reader, const struct target *target)
{
    struct mt_store_totals totals;
    struct mt_live_iterations its;
    struct candidate *candidates;
    double floor_bytes;
    size_t count, tested = 0;
    int err;

    if (!mt_live_iterations(target->live, &its))
        return 0;
    candidates = collect(target, &count);
    if (!candidates)
        return -ENOMEM;
    floor_bytes = mt_stats_floor(its.heap_bytes);
    write_totals(target, &totals);
    err = merge(candidates, count, its.ends, &count);
    for (size_t i = 0; i < count && err == 0; i++)
        judge(&candidates[i], &its, floor_bytes);
    if (err == 0)
        err = settle(candidates, count, totals.lost_events > 0, &tested);
    if (err == 0)
        err = mt_store_judged(reader->store, target->process_id,
            &(struct mt_store_judged){.ends = its.ends,
                .period = its.period,
                .torn_down = its.torn_down,
                .tested = tested,
                .floor_bytes = floor_bytes});
    for (size_t i = 0; i < count && err == 0; i++)
        err = write_one(reader, target, &candidates[i], &its);
    for (size_t i = 0; i < count; i++)
        free(candidates[i].sums);
    free(candidates);
    return err;
}

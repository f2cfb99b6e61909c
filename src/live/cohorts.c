/*
 * Cohorts: what each iteration's blocks come to. Nothing is done per event: a block knows the iteration it was born in, and one pass over
 * the live blocks at an iteration's end gives the survivors of every cohort at every site.
 *
 * Bounded: a process has at most MT_LIVE_PERIODS_MAX periods. A period is one iteration at first; when all are used up,
 * neighbours are put together and a period becomes twice as long, so a loop of a million iterations costs a few hundred
 * passes. A site has a record from the first end at which it holds something that was born in an iteration; what it holds from before
 * is the rest of its live blocks, and need not be looked at.
 *
 * The last iteration ends with the process, which may have torn down before. If much more of the older memory went in it
 * than in any iteration before, that end is not evidence, and is left out (torn_down); so is the end of a last iteration
 * whose label is "exit".
 */
#include "live/model.h"

#include <stdlib.h>
#include <string.h>

enum { FIRST_CAPACITY = 16, BY_BIRTH = 5, BY_END = 4, NEXT = 2 };
#define RECORD_BYTES_MAX ((size_t)512 << 20) /* of all records together */
#define TORN_DOWN_SHARE 0.9

struct record {
    uint32_t site;
    unsigned capacity; /* the arrays have one more */
    unsigned first;    /* end at which it was made */
    double *numbers;   /* the arrays below, one behind the other */
};

/* Arrays of a record, in the order of their places. */
enum array { LEFT_BYTES, LEFT_BLOCKS, AT_RISK, DEATHS, DEATH_BYTES, LIVE_BYTES, LIVE_BLOCKS, AGED_BYTES, AGED_BLOCKS,
    NEXT_BYTES, NEXT_BLOCKS, ARRAYS };

struct cohorts {
    unsigned ends;       /* periods that are over */
    unsigned period;     /* iterations in one */
    bool torn_down;
    double kept_least; /* least share of an end's blocks that was there at the next end; 2: not known yet */
    double live_blocks; /* of all sites, at the last end */
    double heap_bytes; /* highest at an end */
    struct record *records;
    size_t count, capacity, bytes;
    uint32_t *by_site; /* record + 1 */
    size_t by_site_capacity;
};

static double *array_of(const struct record *record, enum array which)
{
    return record->numbers + (size_t)which * (record->capacity + 1);
}

static bool record_reserve(struct cohorts *c, struct record *record, unsigned ends)
{
    struct record bigger = *record;

    if (ends <= record->capacity)
        return true;
    bigger.capacity = record->capacity ? record->capacity * 2 : FIRST_CAPACITY;
    while (bigger.capacity < ends)
        bigger.capacity *= 2;
    if (c->bytes > RECORD_BYTES_MAX)
        return false;
    bigger.numbers = calloc((size_t)ARRAYS * (bigger.capacity + 1), sizeof(*bigger.numbers));
    if (!bigger.numbers)
        return false;
    for (int a = 0; record->capacity && a < ARRAYS; a++)
        memcpy(array_of(&bigger, (enum array)a), array_of(record, (enum array)a),
            (record->capacity + 1) * sizeof(*bigger.numbers));
    c->bytes += (bigger.capacity - record->capacity) * ARRAYS * sizeof(*bigger.numbers);
    free(record->numbers);
    *record = bigger;
    return true;
}

/* The site's record, made if new; NULL: no memory. */
static struct record *record_of(struct mt_live *live, uint32_t site)
{
    struct cohorts *c = live->cohorts;
    struct record *records;

    if (c->by_site[site])
        return &c->records[c->by_site[site] - 1];
    records = mt_live_grow(c->records, c->count, &c->capacity, sizeof(*records));
    if (!records)
        return NULL;
    c->records = records;
    records[c->count] = (struct record){.site = site, .first = c->ends + 1};
    if (!record_reserve(c, &records[c->count], c->ends + 1))
        return NULL;
    c->by_site[site] = (uint32_t)++c->count;
    return &records[c->count - 1];
}

/* ---- the pass ------------------------------------------------------------------------------------------------------ */

/* Period k has the iterations (k - 1) * period + 1 .. k * period; 0: before the first. */
static unsigned period_of(const struct cohorts *c, uint64_t iteration)
{
    return iteration ? (unsigned)((iteration - 1) / c->period) + 1 : 0;
}

static bool count_in(struct mt_live *live, uint32_t site, uint64_t iteration, double blocks, double bytes, double *young)
{
    struct cohorts *c = live->cohorts;
    struct record *record;
    unsigned period = period_of(c, iteration);

    if (period == 0)
        return true;
    record = record_of(live, site);
    if (!record || !record_reserve(c, record, c->ends + 1))
        return false;
    array_of(record, NEXT_BYTES)[period] += bytes;
    array_of(record, NEXT_BLOCKS)[period] += blocks;
    if (period == c->ends + 1)
        *young += blocks;
    return true;
}

static bool count_pieces(struct mt_live *live, const struct mt_maps *maps, double *young)
{
    for (size_t i = 0; i < maps->count; i++) {
        const struct mt_map_origin *origin = maps->pieces[i].origin;
        unsigned kind = live->sites[origin->site].kind;

        if (kind == MT_LIVE_FILE || kind == MT_LIVE_BACKING)
            continue;
        if (!count_in(live, origin->site, origin->iteration, 1.0 / origin->pieces,
                (double)(maps->pieces[i].end - maps->pieces[i].start), young))
            return false;
    }
    return true;
}

/* Everything that is live, by site and period. young: blocks born in the running period. */
static bool pass(struct mt_live *live, double *young)
{
    struct mt_block block;
    bool fine = true;

    for (size_t h = 0; h < live->heap_count && fine; h++) {
        struct mt_blocks_cursor cursor = {0};
        while (fine && mt_blocks_next(&live->heaps[h].blocks, &cursor, &block))
            fine = count_in(live, block.site, block.iteration, 1, (double)block.size, young);
    }
    fine = fine && count_pieces(live, &live->maps, young);
    for (size_t t = 0; t < live->thread_count && fine; t++) {
        const struct thread *thread = &live->threads[t];
        for (uint32_t i = 0; i < thread->block_count && fine; i++) {
            const struct mt_block *limbo = &thread->blocks[i].block;
            if (limbo->site != NO_SITE)
                fine = count_in(live, limbo->site, limbo->iteration, 1, (double)limbo->size, young);
        }
        for (uint32_t i = 0; i < thread->map_count && fine; i++)
            fine = count_pieces(live, &thread->maps[i].removed, young);
    }
    return fine;
}

/* ---- an end --------------------------------------------------------------------------------------------------------- */

static double not_below_0(double value)
{
    return value > 1e-9 ? value : 0; /* thirds of a mapping do not add up to a whole one exactly */
}

static void fold(const struct mt_live *live, struct record *record, unsigned end)
{
    const struct mt_live_site *site = &live->sites[record->site];
    double *left_bytes = array_of(record, LEFT_BYTES), *left_blocks = array_of(record, LEFT_BLOCKS);
    double *next_bytes = array_of(record, NEXT_BYTES), *next_blocks = array_of(record, NEXT_BLOCKS);
    double bytes = (double)site->live_bytes, blocks = (double)site->live_blocks;

    for (unsigned i = 1; i <= end; i++) {
        bytes -= next_bytes[i];
        blocks -= next_blocks[i];
    }
    next_bytes[0] = not_below_0(bytes);
    next_blocks[0] = not_below_0(blocks);
    if (record->first == end) { /* what it held before is taken for as much as now */
        for (unsigned i = 1; i < end; i++) {
            array_of(record, LIVE_BYTES)[i] = array_of(record, AGED_BYTES)[i] = next_bytes[0];
            array_of(record, LIVE_BLOCKS)[i] = array_of(record, AGED_BLOCKS)[i] = next_blocks[0];
        }
        left_bytes[0] = next_bytes[0];
        left_blocks[0] = next_blocks[0];
    }
    for (unsigned i = 0; i < end; i++) {
        if (end - 1 < (i <= MT_LIVE_WARM_UP ? MT_LIVE_WARM_UP + 1 : i + 1))
            continue;
        array_of(record, AT_RISK)[i] += left_blocks[i];
        array_of(record, DEATHS)[i] += not_below_0(left_blocks[i] - next_blocks[i]);
        array_of(record, DEATH_BYTES)[i] += not_below_0(left_bytes[i] - next_bytes[i]);
    }
    array_of(record, LIVE_BYTES)[end] = (double)site->live_bytes;
    array_of(record, LIVE_BLOCKS)[end] = (double)site->live_blocks;
    array_of(record, AGED_BYTES)[end] = not_below_0((double)site->live_bytes - next_bytes[end]);
    array_of(record, AGED_BLOCKS)[end] = not_below_0((double)site->live_blocks - next_blocks[end]);
    for (unsigned i = 0; i <= end; i++) {
        left_bytes[i] = next_bytes[i];
        left_blocks[i] = next_blocks[i];
        next_bytes[i] = next_blocks[i] = 0;
    }
}

static void unfold(struct record *record) /* the pass is not used */
{
    memset(array_of(record, NEXT_BYTES), 0, (size_t)NEXT * (record->capacity + 1) * sizeof(double));
}

/* Two periods become one. The ends in between are forgotten. */
static void halve(struct cohorts *c)
{
    unsigned half = c->ends / 2;

    for (size_t r = 0; r < c->count; r++) {
        for (int a = 0; a < BY_BIRTH + BY_END; a++) {
            double *numbers = array_of(&c->records[r], (enum array)a);
            for (unsigned i = 1; i <= half; i++) {
                if (a >= BY_BIRTH)
                    numbers[i] = numbers[2 * i];
                else
                    numbers[i] = (numbers[2 * i - 1] + numbers[2 * i]) / (a == AT_RISK ? 2 : 1);
            }
            memset(numbers + half + 1, 0, (c->records[r].capacity - half) * sizeof(*numbers));
        }
    }
    c->ends = half;
    c->period *= 2;
}

static bool by_site_reserve(struct mt_live *live)
{
    struct cohorts *c = live->cohorts;
    size_t wanted = live->site_count + live->site_count / 2 + 1;
    uint32_t *bigger;

    if (live->site_count <= c->by_site_capacity)
        return true;
    bigger = realloc(c->by_site, wanted * sizeof(*bigger));
    if (!bigger)
        return false;
    memset(bigger + c->by_site_capacity, 0, (wanted - c->by_site_capacity) * sizeof(*bigger));
    c->by_site = bigger;
    c->by_site_capacity = wanted;
    return true;
}

/* The running period is over. at_exit: with the process. */
static void period_end(struct mt_live *live, bool at_exit)
{
    struct cohorts *c = live->cohorts;
    double young = 0, blocks = 0, heap = (double)(live->totals.live_bytes + live->totals.live_mapped_bytes), kept;
    bool fine = by_site_reserve(live) && pass(live, &young);

    for (size_t i = 0; i < live->site_count; i++)
        blocks += (double)live->sites[i].live_blocks;
    kept = c->ends > 0 && c->live_blocks > 0 ? (blocks - young) / c->live_blocks : 2;
    c->torn_down = at_exit && c->kept_least < 2 && kept < TORN_DOWN_SHARE * c->kept_least;
    for (size_t r = 0; r < c->count; r++) {
        if (!fine || c->torn_down || !record_reserve(c, &c->records[r], c->ends + 1))
            unfold(&c->records[r]);
        else
            fold(live, &c->records[r], c->ends + 1);
    }
    if (!fine) { /* an end that is not known: without it nothing that follows could be told */
        live->totals.dropped++;
        mt_live_cohorts_destroy(c);
        live->cohorts = NULL;
        return;
    }
    if (c->torn_down)
        return;
    c->ends++;
    c->live_blocks = blocks;
    if (kept < c->kept_least)
        c->kept_least = kept;
    if (heap > c->heap_bytes)
        c->heap_bytes = heap;
    if (c->ends == MT_LIVE_PERIODS_MAX)
        halve(c);
}

/* Is the iteration that ends the last one of a period? Blocks of later iterations than that cannot be told apart. */
static bool is_end(const struct mt_live *live)
{
    return live->cohorts && live->iterations < MT_BLOCKS_ITERATION_MAX && live->iterations % live->cohorts->period == 0;
}

void mt_live_cohorts_next(struct mt_live *live)
{
    if (live->iterations == 0) {
        live->cohorts = calloc(1, sizeof(*live->cohorts));
        if (live->cohorts) {
            live->cohorts->kept_least = 2;
            live->cohorts->period = 1;
        }
    } else if (live->iterating && is_end(live)) {
        period_end(live, false);
    }
}

void mt_live_cohorts_finish(struct mt_live *live)
{
    const char *label = live->iteration.note.name;

    /* A loop that calls what comes behind its last iteration "exit" has nothing in it that could leak. */
    if (is_end(live) && !(label && strcmp(label, "exit") == 0))
        period_end(live, true);
}

void mt_live_cohorts_destroy(struct cohorts *c)
{
    if (!c)
        return;
    for (size_t r = 0; r < c->count; r++)
        free(c->records[r].numbers);
    free(c->records);
    free(c->by_site);
    free(c);
}

/* ---- questions ------------------------------------------------------------------------------------------------------- */

bool mt_live_iterations(const struct mt_live *live, struct mt_live_iterations *ret)
{
    const struct cohorts *c = live->cohorts;

    if (!c)
        return false;
    *ret = (struct mt_live_iterations){
        .ends = c->ends, .period = c->period, .torn_down = c->torn_down, .heap_bytes = c->heap_bytes};
    return true;
}

bool mt_live_site_cohorts(const struct mt_live *live, size_t site, struct mt_live_site_cohorts *ret)
{
    const struct cohorts *c = live->cohorts;
    const struct record *record;

    if (!c || site >= c->by_site_capacity || !c->by_site[site])
        return false;
    record = &c->records[c->by_site[site] - 1];
    if (record->capacity < c->ends)
        return false;
    *ret = (struct mt_live_site_cohorts){.live_bytes = array_of(record, LIVE_BYTES),
        .live_blocks = array_of(record, LIVE_BLOCKS),
        .aged_bytes = array_of(record, AGED_BYTES),
        .aged_blocks = array_of(record, AGED_BLOCKS),
        .survivor_bytes = array_of(record, LEFT_BYTES),
        .survivor_blocks = array_of(record, LEFT_BLOCKS),
        .at_risk = array_of(record, AT_RISK),
        .deaths = array_of(record, DEATHS),
        .death_bytes = array_of(record, DEATH_BYTES)};
    return true;
}

bool mt_live_site_grows(const struct mt_live *live, size_t site)
{
    struct mt_live_site_cohorts s;
    unsigned judged = 0, left = 0;

    if (!mt_live_site_cohorts(live, site, &s))
        return false;
    for (unsigned i = MT_LIVE_WARM_UP + 1; i < live->cohorts->ends; i++, judged++)
        left += s.survivor_blocks[i] > 0;
    return judged > 0 && 2 * left >= judged;
}

/*
 * Verdicts over iterations, and the numbers that they rest on.
 */
#include "store/internal.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

int mt_store_judged(struct mt_store *store, int64_t process_id, const struct mt_store_judged *j)
{
    bool own;
    int r = store_enter(store, &own);

    if (r < 0)
        return r;
    r = store_run(store, S_VERDICT_CLEAR, "i", process_id);
    if (r == 0)
        r = store_run(store, S_COHORT_CLEAR, "i", process_id);
    if (r == 0)
        r = store_run(store, S_JUDGED_SET, "innnid", process_id, (int)j->ends, (int)j->period, (int)j->torn_down,
            (int64_t)j->tested, j->floor_bytes);
    return store_leave(store, own, r);
}

/* The numbers from..to as a JSON array; whole ones without a point. */
static char *json_of(const double *numbers, unsigned from, unsigned to)
{
    char *text = malloc((size_t)(to - from + 1) * 26 + 3), *at = text;

    if (!text)
        return NULL;
    *at++ = '[';
    for (unsigned i = from; i <= to; i++) {
        if (i > from)
            *at++ = ',';
        if (numbers[i] == rint(numbers[i]) && fabs(numbers[i]) < 1e15)
            at += sprintf(at, "%.0f", numbers[i]);
        else
            at += sprintf(at, "%.9g", numbers[i]);
    }
    *at++ = ']';
    *at = '\0';
    return text;
}

static int add_cohort(struct mt_store *store, int64_t process_id, unsigned ends, const struct mt_store_verdict *v)
{
    const double *const arrays[] = {v->live_bytes, v->live_blocks, v->survivor_bytes, v->survivor_blocks, v->at_risk, v->deaths};
    char *text[6] = {0};
    int r = 0;

    for (int i = 0; i < 6 && r == 0; i++) {
        text[i] = json_of(arrays[i], i < 2, ends);
        if (!text[i])
            r = -ENOMEM;
    }
    if (r == 0)
        r = store_run(store, S_COHORT_ADD, "iitttttt", process_id, v->site_id, text[0], text[1], text[2], text[3], text[4],
            text[5]);
    for (int i = 0; i < 6; i++)
        free(text[i]);
    return r;
}

int mt_store_verdict(struct mt_store *store, int64_t process_id, unsigned ends, const struct mt_store_verdict *v)
{
    bool own;
    int r = store_enter(store, &own);

    if (r < 0)
        return r;
    r = store_run(store, S_VERDICT_ADD, "iittddddddi", process_id, v->site_id, v->verdict, v->gate, v->bytes_per_iteration,
        v->ci_low, v->ci_high, v->blocks_per_iteration, v->p_value, v->q_value, v->since);
    if (r == 0 && v->live_bytes && ends > 0)
        r = add_cohort(store, process_id, ends, v);
    return store_leave(store, own, r);
}

/*
 * Totals of callsites whose ids come late end up where they would have been: in rows of others, in rows of their own, and where ids are too far
 * apart for a map of bits.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include <stdlib.h>
#include <string.h>

#include "reader/aside.h"
#include "reader/groups.h"

enum { SITES = 300, GROUPS = 200, EVENTS = 3000 };

static void setup(struct target *t, struct groups *g)
{
    uint32_t thread;

    *t = (struct target){.live = mt_live_create(), .groups = g};
    *g = (struct groups){.count = GROUPS, .sites = SITES * 3 / 4}; /* every fourth only frees */
    g->of = calloc(SITES, sizeof(*g->of));
    g->ids = calloc(GROUPS, sizeof(*g->ids));
    g->folded = calloc(GROUPS, sizeof(*g->folded));
    thread = mt_live_thread(t->live);
    for (uint32_t i = 0; i < EVENTS; i++) {
        struct mt_event e = {.stamp = 10 + 3 * i, .address = 4096 * (1 + i % 700), .size = 16 + i % 31, .node = 1 + i % SITES, .thread = thread,
            .type = i % 4 == 3 ? MT_RECORD_FREE : MT_RECORD_ALLOC};
        mt_live_apply(t->live, &e, 1);
    }
    assert_int_equal(mt_live_site_count(t->live), SITES * 3 / 4);
    for (uint32_t i = 0; i < SITES; i++)
        g->of[i] = i % GROUPS;
}

static void teardown(struct target *t, struct groups *g)
{
    mt_live_destroy(t->live);
    free(g->of);
    free(g->ids);
    free(g->folded);
}

static void give_ids(struct groups *g, int64_t apart)
{
    for (size_t i = 0; i < g->count; i++) {
        g->folded[i] = i % 5 != 0;
        g->ids[i] = (g->folded[i] ? (int64_t)(10 + i % 7) : (int64_t)(1000 - i / 2)) + (i % 4 == 0 ? apart : 0);
    }
}

static void compare(struct totals *late, struct totals *at_once, uint64_t blocks)
{
    struct mt_store_folded folded, folded_late;
    struct mt_store_site_totals *rows, *rows_late;
    size_t count, count_late;
    uint64_t sum = 0;

    rows = totals_rows(at_once, &count, &folded);
    rows_late = totals_rows(late, &count_late, &folded_late);
    assert_int_equal(count_late, count);
    assert_memory_equal(rows_late, rows, count * sizeof(*rows));
    assert_memory_equal(&folded_late, &folded, sizeof(folded));
    for (size_t i = 0; i < count; i++) {
        sum += rows[i].allocated_blocks;
        assert_true(i == 0 || rows[i - 1].site_id < rows[i].site_id);
    }
    assert_int_equal(sum, blocks);
}

static void settle(struct target *t, int64_t apart, unsigned step)
{
    struct groups *g = t->groups;
    struct totals *at_once, *late;
    uint32_t list[GROUPS];
    struct aside aside;
    size_t listed = 0;

    give_ids(g, apart);
    at_once = totals_make(t, NULL, 0);
    totals_gather(at_once);
    assert_int_equal(totals_settle(at_once), 0);
    for (uint32_t i = 0; i < g->count; i += 1 + i % step) {
        list[listed++] = i;
        g->ids[i] = 0;
    }
    late = totals_make(t, list, listed);
    aside_start(&aside, totals_gather, late);
    aside_wait(&aside);
    give_ids(g, apart);
    assert_int_equal(totals_settle(late), 0);
    assert_int_equal(totals_settle(late), 0);
    compare(late, at_once, mt_live_totals(t->live)->allocated_blocks);
    totals_free(at_once);
    totals_free(late);
}

static void test_late_ids(void **state)
{
    static const int64_t apart[] = {0, 1 << 20, INT64_C(1) << 40, INT64_MAX - 2000};
    struct groups g;
    struct target t;

    (void)state;
    setup(&t, &g);
    for (size_t i = 0; i < MT_ARRAY_LEN(apart); i++)
        for (unsigned step = 1; step <= 5; step++) /* 1: all of them */
            settle(&t, apart[i], step);
    teardown(&t, &g);
}

/* A group without an id that is on no list is an error, and no row is lost silently. */
static void test_no_id(void **state)
{
    struct groups g;
    struct target t;
    struct totals *totals;

    (void)state;
    setup(&t, &g);
    give_ids(&g, 0);
    g.ids[17] = 0;
    totals = totals_make(&t, NULL, 0);
    totals_gather(totals);
    assert_true(totals_settle(totals) < 0);
    totals_free(totals);
    teardown(&t, &g);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_late_ids),
        cmocka_unit_test(test_no_id),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}

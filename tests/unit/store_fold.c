/*
 * Folded sites: where their stacks end, which are one, which stay whole, and what two writers make of them.
 */
#include "store_fixture.h"

#include <errno.h>

#include "store/internal.h"

static const struct mt_store_module modules[] = {
    {"[unknown]", NULL, 0, MT_MODULE_UNKNOWN},
    {"/nowhere/app", (const uint8_t *)"\x01\x02\x03\x04", 4, MT_MODULE_MAIN},
    {"/nowhere/libc.so.6", (const uint8_t *)"\x05\x06", 2, 0},
    {"/nowhere/libmemtrace.so", (const uint8_t *)"\x07\x08", 2, MT_MODULE_SELF},
};
static const struct mt_store_frame frames[] = {
    {0x10, 1, 0}, {0x20, 1, 0}, {0x30, 1, 0}, {0x40, 1, 0}, /* 0 to 3: the program */
    {0x50, 2, 0}, {0x60, 2, 0},                             /* 4, 5: libc */
    {0x70, 3, 0},                                           /* 6: memtrace */
    {0x7f0000, 0, 0},                                       /* 7: code of no module */
};
static const struct mt_store_node nodes[] = {
    {0, 0},
    {0, 0},  /* 1: main */
    {1, 1},  /* 2: a < main */
    {1, 2},  /* 3: b < main */
    {2, 3},  /* 4: f < a < main */
    {3, 3},  /* 5: f < b < main */
    {4, 4},  /* 6: libc < f < a < main */
    {5, 4},  /* 7: libc < f < b < main */
    {7, 6},  /* 8: memtrace < libc < f < b < main */
    {1, 4},  /* 9: libc < main */
    {0, 6},  /* 10: memtrace alone */
    {10, 0}, /* 11: main < memtrace */
    {0, 5},  /* 12: libc */
    {12, 4}, /* 13: libc < libc */
    {4, 7},  /* 14: unknown < f < a < main */
    {14, 5}, /* 15: libc < unknown < f < a < main */
    {5, 7},  /* 16: unknown < f < b < main */
    {16, 5}, /* 17: libc < unknown < f < b < main */
};
static const struct mt_store_stacks stacks = {modules, 4, frames, 8, nodes, sizeof(nodes) / sizeof(nodes[0]), NULL, NULL};

static int64_t site_of(struct mt_store *store, uint32_t node, const char *heap, bool fold, bool folded)
{
    struct mt_store_site_key key = {.node = node, .heap = heap, .fold = fold};
    int64_t id = 0;

    assert_int_equal(mt_store_sites(store, &stacks, &key, 1, &id), 0);
    assert_true(id > 0);
    assert_int_equal(key.fold, folded);
    return id;
}

static void assert_site(struct mt_store *store, int64_t id, const char *expected)
{
    char sql[160];

    snprintf(sql, sizeof(sql), "SELECT function || ' ' || folded || ' ' || stack FROM sites WHERE site_id = %lld", (long long)id);
    assert_text(store, sql, expected);
}

static void test_where_stacks_end(void **state)
{
    struct fixture *f = *state;
    struct mt_store *store;

    assert_int_equal(mt_store_open(f->path, &store), 0);
    assert_site(store, site_of(store, 6, "malloc", true, true), "app+0x40 1 libc.so.6+0x50;app+0x40;[other callers]");
    assert_site(store, site_of(store, 4, "malloc", true, true), "app+0x40 1 app+0x40;[other callers]");
    assert_site(store, site_of(store, 15, "malloc", true, true), "app+0x40 1 libc.so.6+0x60;[unknown];app+0x40;[other callers]");
    /* nothing is responsible but the innermost one */
    assert_site(store, site_of(store, 13, "malloc", true, true), "libc.so.6+0x50 1 libc.so.6+0x50;[other callers]");
    /* nobody called the responsible one, or only memtrace itself */
    assert_site(store, site_of(store, 9, "malloc", true, false), "app+0x10 0 libc.so.6+0x50;app+0x10");
    assert_site(store, site_of(store, 11, "malloc", true, false), "app+0x10 0 app+0x10");
    assert_site(store, site_of(store, 10, "malloc", true, false), "[unknown] 0 ");
    assert_site(store, site_of(store, 0, "malloc", true, false), "[unknown] 0 ");
    assert_site(store, site_of(store, 12, "malloc", true, false), "libc.so.6+0x60 0 libc.so.6+0x60");
    mt_store_close(store);
}

static void test_which_are_one(void **state)
{
    struct fixture *f = *state;
    struct mt_store *store;
    int64_t a;

    assert_int_equal(mt_store_open(f->path, &store), 0);
    a = site_of(store, 6, "malloc", true, true);
    assert_int_equal(site_of(store, 7, "malloc", true, true), a);
    assert_int_equal(site_of(store, 8, "malloc", true, true), a);
    assert_int_not_equal(site_of(store, 5, "malloc", true, true), a);
    assert_int_not_equal(site_of(store, 7, "python", true, true), a);
    assert_int_equal(site_of(store, 15, "malloc", true, true), site_of(store, 17, "malloc", true, true));
    /* in one call, too */
    struct mt_store_site_key keys[] = {{.node = 6, .heap = "malloc", .fold = true}, {.node = 7, .heap = "malloc", .fold = true},
        {.node = 7, .heap = "malloc", .fold = false}, {.node = 7, .heap = "malloc", .kind = "x", .fold = true}};
    int64_t ids[4];
    assert_int_equal(mt_store_sites(store, &stacks, keys, 4, ids), 0);
    assert_int_equal(ids[0], a);
    assert_int_equal(ids[1], a);
    assert_int_not_equal(ids[2], a);
    assert_int_not_equal(ids[3], a);
    assert_site(store, ids[2], "app+0x40 0 libc.so.6+0x50;app+0x40;app+0x30;app+0x10");
    mt_store_close(store);
}

/* What an earlier run kept whole stays whole, in another handle, too; the same stack in another heap is another site. */
static void test_whole_stays_whole(void **state)
{
    struct fixture *f = *state;
    struct mt_store *a, *b;
    int64_t whole;

    assert_int_equal(mt_store_open(f->path, &a), 0);
    whole = site_of(a, 7, "malloc", false, false);
    assert_int_equal(site_of(a, 7, "malloc", true, false), whole);
    assert_int_equal(site_of(a, 8, "malloc", true, false), whole);
    assert_int_equal(mt_store_open(f->path, &b), 0);
    assert_int_equal(site_of(b, 7, "malloc", true, false), whole);
    site_of(b, 7, "python", true, true);
    site_of(b, 6, "malloc", true, true);
    assert_int_not_equal(site_of(b, 6, "malloc", false, false), whole);
    site_of(a, 6, "malloc", true, false); /* b has made it whole meanwhile */
    mt_store_close(b);
    mt_store_close(a);
}

/* Two writers in turn: each learns what the other one has added, and no id is given twice. */
static void test_two_writers(void **state)
{
    struct fixture *f = *state;
    struct mt_store *stores[2];
    int64_t ids[2][18];

    assert_int_equal(mt_store_open(f->path, &stores[0]), 0);
    assert_int_equal(mt_store_open(f->path, &stores[1]), 0);
    for (uint32_t node = 0; node < 18; node++) {
        ids[node % 2][node] = site_of(stores[node % 2], node, "malloc", false, false);
        ids[!(node % 2)][node] = site_of(stores[!(node % 2)], node, "malloc", false, false);
        assert_int_equal(ids[0][node], ids[1][node]);
    }
    assert_int_equal(number(stores[0], "SELECT count(*) - count(DISTINCT (stack_id - up) || ' ' || frame_id) FROM stack"), 0);
    assert_int_equal(number(stores[0], "SELECT count(*) - count(DISTINCT stack_id || ' ' || heap_id) FROM site"), 0);
    assert_int_equal(number(stores[0], "SELECT count(*) - count(DISTINCT module_id || ' ' || offset) FROM frame"), 0);
    assert_int_equal(number(stores[0], "SELECT count(*) - count(DISTINCT function) FROM symbol"), 0);
    mt_store_close(stores[0]);
    mt_store_close(stores[1]);
}

/* What a transaction that was taken back had added is not remembered, neither are its ids. */
static void test_rollback(void **state)
{
    struct fixture *f = *state;
    struct mt_store *store;
    int64_t id;

    assert_int_equal(mt_store_open(f->path, &store), 0);
    assert_int_equal(mt_store_begin(store), 0);
    site_of(store, 6, "malloc", true, true);
    mt_store_rollback(store);
    assert_int_equal(number(store, "SELECT (SELECT count(*) FROM site) + (SELECT count(*) FROM stack) + (SELECT count(*) FROM frame)"), 0);
    id = site_of(store, 7, "malloc", true, true);
    assert_int_equal(id, 1);
    assert_site(store, id, "app+0x40 1 libc.so.6+0x50;app+0x40;[other callers]");
    mt_store_close(store);
}

/* A damaged file may hold any ids. */
static void test_hostile_ids(void **state)
{
    struct fixture *f = *state;
    struct mt_store *store, *other;
    struct mt_store_site_key key = {.node = 6, .heap = "malloc", .fold = true};
    int64_t id;

    assert_int_equal(mt_store_open(f->path, &store), 0);
    site_of(store, 4, "malloc", false, false);
    struct mt_query *q;
    /* a stack that calls itself has an end all the same */
    assert_int_equal(mt_query_create(store, "INSERT INTO stack SELECT 100, 0, frame_id FROM frame LIMIT 1", &q), 0);
    assert_int_equal(mt_query_step(q), 0);
    mt_query_destroy(q);
    assert_int_equal(mt_query_create(store, "UPDATE site SET stack_id = 100", &q), 0);
    assert_int_equal(mt_query_step(q), 0);
    mt_query_destroy(q);
    assert_text(store, "SELECT stack FROM sites", "app+0x10");
    assert_int_equal(mt_query_create(store, "INSERT INTO stack VALUES (9223372036854775807, -5, -1)", &q), 0);
    assert_int_equal(mt_query_step(q), 0);
    mt_query_destroy(q);
    assert_int_equal(mt_store_open(f->path, &other), 0);
    assert_int_equal(mt_store_sites(other, &stacks, &key, 1, &id), -EFBIG);
    mt_store_close(other);
    mt_store_close(store);
}

static void test_map(void **state)
{
    struct id_map map = {0};

    (void)state;
    assert_int_equal(id_map_get(&map, 0, 0), 0);
    for (uint64_t i = 0; i < 100000; i++)
        assert_int_equal(id_map_put(&map, i / 7, i << 40 | i, (int64_t)i + 1), 0);
    assert_int_equal(id_map_reserve(&map, 50000), 0);
    for (uint64_t i = 0; i < 100000; i++)
        assert_int_equal(id_map_get(&map, i / 7, i << 40 | i), i + 1);
    assert_int_equal(id_map_get(&map, 1, 1), 0);
    assert_int_equal(id_map_put(&map, 0, 0, 4711), 0); /* in the place of what was there */
    assert_int_equal(id_map_get(&map, 0, 0), 4711);
    assert_int_equal(map.count, 100000);
    id_map_clear(&map);
    assert_int_equal(id_map_get(&map, 0, 0), 0);
    id_map_clear(&map);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_where_stacks_end, fixture_setup, fixture_teardown),
        cmocka_unit_test_setup_teardown(test_which_are_one, fixture_setup, fixture_teardown),
        cmocka_unit_test_setup_teardown(test_whole_stays_whole, fixture_setup, fixture_teardown),
        cmocka_unit_test_setup_teardown(test_two_writers, fixture_setup, fixture_teardown),
        cmocka_unit_test_setup_teardown(test_rollback, fixture_setup, fixture_teardown),
        cmocka_unit_test_setup_teardown(test_hostile_ids, fixture_setup, fixture_teardown),
        cmocka_unit_test(test_map),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}

/*
 * Modules, frames, stacks and sites: identity across runs, the text of a stack, the responsible frame; and the numbers behind the
 * views.
 */
#include "store_fixture.h"

#include <errno.h>

/* Modules without files: functions are called module+0xoffset. */
static const struct mt_store_module modules[] = {
    {"[unknown]", NULL, 0, MT_MODULE_UNKNOWN},
    {"/nowhere/app", (const uint8_t *)"\x01\x02\x03\x04", 4, MT_MODULE_MAIN},
    {"/nowhere/libc.so.6", (const uint8_t *)"\x05\x06", 2, 0},
    {"/nowhere/libmemtrace.so", (const uint8_t *)"\x07\x08", 2, MT_MODULE_SELF},
    {"/nowhere/libstdc++.so.6", NULL, 0, 0},
    {"/elsewhere/app", (const uint8_t *)"\x01\x02\x03\x04", 4, 0}, /* the same file, loaded again */
};
static const struct mt_store_frame frames[] = {
    {0x10, 1, 0}, {0x20, 1, 0},     /* 0, 1: the program */
    {0x30, 2, 0},                   /* 2: libc */
    {0x40, 3, 0},                   /* 3: memtrace */
    {0x50, 4, 0},                   /* 4: libstdc++ */
    {0x7f1234, 0, 0}, {0x7f9999, 0, 0}, /* 5, 6: code of no module */
    {0x10, 5, 0},                   /* 7: frame 0 again */
    {0, 0, MT_FRAME_CUT},           /* 8 */
};
static const struct mt_store_node nodes[] = {
    {0, 0},
    {0, 0},  /* 1: app+0x10 */
    {1, 1},  /* 2: app+0x20 < app+0x10 */
    {2, 2},  /* 3: libc < 2 */
    {3, 3},  /* 4: memtrace < libc < 2 */
    {2, 4},  /* 5: libstdc++ < 2 */
    {0, 2},  /* 6: libc alone */
    {1, 5},  /* 7: unknown < app+0x10 */
    {1, 6},  /* 8: another address, the same stack */
    {0, 7},  /* 9: stack 1 again */
    {9, 1},  /* 10: app+0x20 < the app loaded again: stack 2 */
    {8, 2},  /* 11: libc < unknown < app */
    {0, 8},  /* 12: cut */
};
static const struct mt_store_stacks stacks = {modules, 6, frames, 9, nodes, 13, NULL, NULL};

static int64_t site_of(struct mt_store *store, uint32_t node, const char *heap, const char *kind)
{
    struct mt_store_site_key key = {.node = node, .heap = heap, .kind = kind};
    int64_t id = 0;

    assert_int_equal(mt_store_sites(store, &stacks, &key, 1, &id), 0);
    assert_true(id > 0);
    return id;
}

static void assert_site(struct mt_store *store, uint32_t node, const char *function, const char *stack)
{
    char sql[128];
    int64_t id = site_of(store, node, "malloc", NULL);

    snprintf(sql, sizeof(sql), "SELECT function FROM sites WHERE site_id = %lld", (long long)id);
    assert_text(store, sql, function);
    snprintf(sql, sizeof(sql), "SELECT stack FROM sites WHERE site_id = %lld", (long long)id);
    assert_text(store, sql, stack);
}

static void test_stacks_and_responsible_frames(void **state)
{
    struct fixture *f = *state;
    struct mt_store *store;

    assert_int_equal(mt_store_open(f->path, &store), 0);
    assert_site(store, 0, "[unknown]", "");
    assert_site(store, 1, "app+0x10", "app+0x10");
    assert_site(store, 2, "app+0x20", "app+0x20;app+0x10");
    assert_site(store, 3, "app+0x20", "libc.so.6+0x30;app+0x20;app+0x10");
    assert_site(store, 4, "app+0x20", "libc.so.6+0x30;app+0x20;app+0x10");
    assert_site(store, 5, "app+0x20", "libstdc++.so.6+0x50;app+0x20;app+0x10");
    assert_site(store, 6, "libc.so.6+0x30", "libc.so.6+0x30");
    assert_site(store, 7, "app+0x10", "[unknown];app+0x10");
    assert_site(store, 11, "app+0x10", "libc.so.6+0x30;[unknown];app+0x10");
    assert_site(store, 12, "[cut]", "[cut]");
    mt_store_close(store);
}

static void test_identity(void **state)
{
    struct fixture *f = *state;
    struct mt_store *a, *b;
    int64_t site;

    assert_int_equal(mt_store_open(f->path, &a), 0);
    site = site_of(a, 2, "malloc", NULL);
    assert_int_equal(site_of(a, 2, "malloc", ""), site);
    assert_int_equal(site_of(a, 10, "malloc", NULL), site);
    assert_int_equal(site_of(a, 7, "malloc", NULL), site_of(a, 8, "malloc", NULL));
    assert_int_equal(site_of(a, 3, "malloc", NULL), site_of(a, 4, "malloc", NULL));
    assert_int_not_equal(site_of(a, 2, "mmap", NULL), site);
    assert_int_not_equal(site_of(a, 2, "mmap", NULL), site_of(a, 2, "mmap", "file"));
    assert_int_equal(mt_store_open(f->path, &b), 0);
    assert_int_equal(site_of(b, 2, "malloc", NULL), site); /* another handle, another run */
    assert_int_equal(number(b, "SELECT count(*) FROM module WHERE name = 'app'"), 1);
    mt_store_close(b);
    mt_store_close(a);
}

/* What a transaction that was taken back had added is not remembered. */
static void test_rollback(void **state)
{
    struct fixture *f = *state;
    struct mt_store *store;

    assert_int_equal(mt_store_open(f->path, &store), 0);
    assert_int_equal(mt_store_begin(store), 0);
    site_of(store, 4, "malloc", NULL);
    mt_store_rollback(store);
    assert_int_equal(number(store, "SELECT count(*) FROM site"), 0);
    assert_site(store, 4, "app+0x20", "libc.so.6+0x30;app+0x20;app+0x10");
    assert_int_equal(number(store, "SELECT count(*) FROM stack"), 3);
    mt_store_close(store);
}

static void test_bad_tables(void **state)
{
    static const struct mt_store_node bad[] = {{0, 0}, {5, 0}, {0, 77}};
    const struct mt_store_stacks wrong = {modules, 6, frames, 9, bad, 3, NULL, NULL};
    struct fixture *f = *state;
    struct mt_store *store;
    int64_t id = 4711;

    assert_int_equal(mt_store_open(f->path, &store), 0);
    for (uint32_t node = 1; node < 5; node++) {
        struct mt_store_site_key key = {.node = node, .heap = "malloc"};
        assert_int_equal(mt_store_sites(store, &wrong, &key, 1, &id), -EINVAL);
    }
    mt_store_close(store);
}

static void test_totals(void **state)
{
    struct fixture *f = *state;
    struct mt_store *store;
    int64_t run, process, site, other;

    assert_int_equal(mt_store_open(f->path, &store), 0);
    run = begin_run(store, "t");
    process = begin_process(store, run);
    site = site_of(store, 3, "malloc", NULL);
    other = site_of(store, 1, "mmap", "backing");
    const struct mt_store_site_totals rows[] = {
        {.site_id = site, .peak_bytes = 10, .peak_blocks = 1, .live_bytes = 7, .live_blocks = 1, .allocated_bytes = 100,
            .allocated_blocks = 9, .freed_blocks = 8, .temporary_blocks = 2, .lifetime_ns_sum = 80, .lifetime_ns_min = 5,
            .lifetime_ns_max = 20, .own_peak_bytes = 12},
        {.site_id = site, .peak_bytes = 5, .peak_blocks = 1, .allocated_bytes = UINT64_MAX / 4, .allocated_blocks = 2, .freed_blocks = 2,
            .lifetime_ns_sum = 20, .lifetime_ns_min = 3, .lifetime_ns_max = 17, .own_peak_bytes = 5},
        {.site_id = other, .live_bytes = 4096, .live_blocks = 1, .allocated_bytes = 4096, .allocated_blocks = 1},
    };
    for (int twice = 0; twice < 2; twice++) /* the second call replaces the first */
        assert_int_equal(mt_store_site_totals(store, run, process, rows, 3), 0);
    assert_text(store,
        "SELECT printf('%s %d %d %d %d %d %d %d %d %d', heap, peak_bytes, peak_blocks, live_bytes, live_blocks, allocated_blocks, "
        "freed_blocks, lifetime_ns_mean, lifetime_ns_min, lifetime_ns_max) FROM top_allocators WHERE kind = ''",
        "malloc 15 2 7 1 11 10 10 3 20");
    assert_int_equal(number(store, "SELECT count(*) FROM top_allocators"), 2);
    assert_int_equal(number(store, "SELECT count(*) FROM leaks"), 1); /* an allocator's own mapping is no leak */
    assert_text(store, "SELECT verdict FROM leaks", "live-at-exit");
    assert_int_equal(number(store, "SELECT sum(live_bytes) FROM snapshot_sites WHERE kind = 'peak'"), 15);
    assert_int_equal(number(store, "SELECT sum(live_bytes) FROM snapshot_sites WHERE kind = 'exit'"), 4103);
    mt_store_close(store);
}

static void test_ends_and_ledger(void **state)
{
    struct fixture *f = *state;
    struct mt_store *store;
    struct mt_store_totals totals = {.allocated_blocks = 3, .live_bytes = UINT64_MAX};
    struct mt_store_end end = {.ended_ns = 50, .kind = MT_END_SIGNAL, .exit_status = 137};
    int64_t run, process;

    assert_int_equal(mt_store_open(f->path, &store), 0);
    run = begin_run(store, "e");
    process = begin_process(store, run);
    assert_text(store, "SELECT status FROM runs", "running");
    assert_text(store, "SELECT end_kind || ' ' || (ended_at IS NULL) FROM processes", "running 1");
    assert_int_equal(mt_store_process_update(store, process, NULL, &totals, &end), 0);
    assert_int_equal(number(store, "SELECT allocated_blocks FROM runs"), 3); /* of its processes, until it has ended */
    assert_int_equal(number(store, "SELECT live_bytes FROM processes"), INT64_MAX);
    assert_int_equal(mt_store_run_end(store, run, &totals, &end), 0);
    assert_text(store, "SELECT status || exit_status || ' ' || wall_ns FROM runs", "killed137 50");
    assert_text(store, "SELECT end_kind || ended_at FROM processes", "signal1050");
    totals.lost_events = 2;
    assert_int_equal(mt_store_run_end(store, run, &totals, &end), 0);
    assert_text(store, "SELECT status FROM runs", "lossy");
    assert_int_equal(mt_store_loss(store, run, process, "decode", 5), 0);
    assert_int_equal(mt_store_loss(store, run, process, "decode", 2), 0);
    assert_int_equal(number(store, "SELECT count FROM loss WHERE reason = 'decode'"), 2);
    mt_store_close(store);
}

static void test_views(void **state)
{
    static const char *const queries[] = {
        "SELECT run_id, label, command, cwd, started_at, wall_ns, exit_status, processes, allocated_blocks, allocated_bytes, "
        "freed_blocks, peak_live_bytes, live_bytes, live_blocks, peak_rss_bytes, overhead_bytes, lost_events, status FROM runs",
        "SELECT run_id, process_id, parent_process_id, pid, exe, command, started_at, ended_at, end_kind, exit_status, allocator, "
        "python_version, allocated_blocks, allocated_bytes, freed_blocks, peak_live_bytes, live_bytes, live_blocks, "
        "peak_rss_bytes FROM processes",
        "SELECT run_id, process_id, site_id, heap, function, file, line, module, peak_bytes, peak_blocks, live_bytes, "
        "live_blocks, allocated_bytes, allocated_blocks, temporary_blocks, stack FROM top_allocators",
        "SELECT run_id, process_id, site_id, heap, verdict, bytes_per_iteration, ci_low, ci_high, blocks_per_iteration, p_value, "
        "q_value, live_bytes, live_blocks, function, file, line, module, stack FROM leaks",
        "SELECT run_id, process_id, iteration, label, started_ns, ended_ns, live_bytes, live_blocks, peak_live_bytes, "
        "rss_bytes, vms_bytes FROM iterations",
        "SELECT run_id, process_id, phase, parent, started_ns, ended_ns, live_bytes_before, live_bytes_after, peak_live_bytes, "
        "allocated_bytes, allocated_blocks, rss_before, rss_after, vms_before, vms_after, python_bytes_before, "
        "python_bytes_after FROM phases",
        "SELECT run_id, process_id, at_ns, live_bytes, python_bytes, rss_bytes, rss_anon_bytes, rss_file_bytes, vms_bytes, "
        "overhead_bytes FROM memory_samples",
        "SELECT run_id, process_id, snapshot_id, kind, label, at_ns, site_id, live_bytes, live_blocks, allocated_bytes, "
        "allocated_blocks FROM snapshot_sites",
        "SELECT run_id, process_id, reason, count FROM loss",
    };
    struct fixture *f = *state;
    struct mt_store *store;
    struct mt_query *query;
    int64_t run, process, site;

    assert_int_equal(mt_store_open(f->path, &store), 0);
    run = begin_run(store, "v");
    process = begin_process(store, run);
    site = site_of(store, 2, "malloc", NULL);
    assert_int_equal(mt_store_site_totals(store, run, process,
                         &(struct mt_store_site_totals){.site_id = site, .live_blocks = 1, .peak_blocks = 1}, 1), 0);
    assert_int_equal(mt_store_samples(store, run, process, &(struct mt_store_sample){.at_ns = 4, .rss_bytes = 9}, 1), 0);
    assert_int_equal(mt_store_phase(store, run, process, &(struct mt_store_phase){.phase = "p", .ended_ns = -1}), 0);
    assert_int_equal(mt_store_iteration(store, run, process, &(struct mt_store_iteration){.iteration = 1}), 0);
    assert_int_equal(mt_store_mark(store, run, process, 6, "m", 1, 2), 0);
    assert_int_equal(mt_store_snapshot(store, run, process, "mark", "m", 6,
                         &(struct mt_store_snapshot_python){.object_bytes = 9, .arena_object_bytes = 8, .arena_bytes = 16},
                         &(struct mt_store_snapshot_site){.site_id = site, .live_bytes = 3}, 1), 0);
    assert_int_equal(mt_store_loss(store, run, process, "decode", 1), 0);
    for (size_t i = 0; i < sizeof(queries) / sizeof(queries[0]); i++) {
        assert_int_equal(mt_query_create(store, queries[i], &query), 0);
        assert_int_equal(mt_query_step(query), 1);
        assert_int_equal(mt_query_integer(query, 0), run);
        mt_query_destroy(query);
    }
    assert_int_equal(number(store, "SELECT ended_ns IS NULL FROM phases"), 1);
    assert_int_equal(number(store, "SELECT count(*) FROM snapshot_sites"), 3); /* mark, peak, exit */
    assert_int_equal(number(store, "SELECT arena_bytes - arena_object_bytes FROM python_heap"), 8);
    assert_int_equal(mt_store_snapshot(store, run, process, "mark", "no Python", 7, NULL, NULL, 0), 0);
    assert_int_equal(number(store, "SELECT count(*) FROM python_heap"), 1);
    mt_store_close(store);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_stacks_and_responsible_frames, fixture_setup, fixture_teardown),
        cmocka_unit_test_setup_teardown(test_identity, fixture_setup, fixture_teardown),
        cmocka_unit_test_setup_teardown(test_rollback, fixture_setup, fixture_teardown),
        cmocka_unit_test_setup_teardown(test_bad_tables, fixture_setup, fixture_teardown),
        cmocka_unit_test_setup_teardown(test_totals, fixture_setup, fixture_teardown),
        cmocka_unit_test_setup_teardown(test_ends_and_ledger, fixture_setup, fixture_teardown),
        cmocka_unit_test_setup_teardown(test_views, fixture_setup, fixture_teardown),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}

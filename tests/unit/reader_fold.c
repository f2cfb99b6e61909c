/*
 * Folding from the model to the database: which callsites are kept whole, and that no sum changes by it.
 */
#include "store_fixture.h"

#include "reader/groups.h"

enum { FUNCTIONS = 7, CALLERS = 300, MAIN = 0, FRAMES = 2 + CALLERS + FUNCTIONS };

/* Callsite i: libc < one of 7 functions < caller i < main. */
static void make_tables(struct tables *t)
{
    static const char *const paths[] = {"[unknown]", "/nowhere/app", "/nowhere/libc.so.6"};
    static const uint32_t flags[] = {MT_MODULE_UNKNOWN, MT_MODULE_MAIN, 0};

    *t = (struct tables){.module_count = 3, .frame_count = FRAMES, .node_count = 2};
    t->modules = calloc(3, sizeof(*t->modules));
    t->frames = calloc(FRAMES, sizeof(*t->frames));
    t->nodes = calloc(2 + 3 * CALLERS, sizeof(*t->nodes));
    for (unsigned i = 0; i < 3; i++)
        t->modules[i] = (struct mt_store_module){.path = strdup(paths[i]), .flags = flags[i]};
    for (uint32_t i = 0; i < FRAMES; i++)
        t->frames[i] = (struct mt_store_frame){.offset = 0x100 + i, .module = i == 1 ? 2 : 1};
    t->nodes[1] = (struct mt_store_node){0, MAIN};
    for (uint32_t i = 0; i < CALLERS; i++) {
        uint32_t n = (uint32_t)t->node_count;
        t->nodes[n] = (struct mt_store_node){1, 2 + i};
        t->nodes[n + 1] = (struct mt_store_node){n, 2 + CALLERS + i % FUNCTIONS};
        t->nodes[n + 2] = (struct mt_store_node){n + 1, 1};
        t->node_count += 3;
    }
}

static uint32_t leaf(unsigned site)
{
    return 4 + 3 * site;
}

struct played {
    struct reader reader;
    struct target *targets[2];
    uint32_t threads[2];
    uint64_t stamp, address;
};

static struct target *add_target(struct played *p, unsigned which)
{
    struct target *t = calloc(1, sizeof(*t));

    t->pid = t->pid_there = 100 + (int)which;
    t->pidfd = t->proc_fd = t->segment_fd = -1;
    t->written_events = t->site_id_events = UINT64_MAX;
    t->live = mt_live_create();
    t->end = (struct mt_store_end){.kind = MT_END_RUNNING, .exit_status = -1};
    t->is_root = which == 0;
    make_tables(&t->tables);
    p->threads[which] = mt_live_thread(t->live);
    p->targets[which] = t;
    if (p->reader.last_target)
        p->reader.last_target->next = t;
    else
        p->reader.targets = t;
    p->reader.last_target = t;
    return t;
}

static struct played *start(const char *path, size_t whole, unsigned targets)
{
    static struct mt_doorbell doorbell;
    struct played *p = calloc(1, sizeof(*p));

    p->reader.database = path;
    p->reader.sites_whole = whole;
    p->reader.doorbell = &doorbell;
    p->reader.run_start_monotonic_ns = mt_clock_monotonic_ns();
    p->reader.tsc_base_ns = p->reader.run_start_monotonic_ns;
    assert_int_equal(mt_store_open(path, &p->reader.store), 0);
    assert_int_equal(open_run(&p->reader, p->reader.store, &p->reader.run_id), 0);
    for (unsigned i = 0; i < targets; i++)
        add_target(p, i);
    return p;
}

static uint64_t allocate(struct played *p, unsigned which, unsigned site, uint64_t size)
{
    struct mt_event e = {.stamp = ++p->stamp, .address = p->address += 4096, .size = size, .node = leaf(site),
        .thread = p->threads[which], .type = MT_RECORD_ALLOC};

    mt_live_apply(p->targets[which]->live, &e, 1);
    return e.address;
}

static void release_block(struct played *p, unsigned which, uint64_t address)
{
    struct mt_event e = {.stamp = ++p->stamp, .address = address, .thread = p->threads[which], .type = MT_RECORD_FREE};

    mt_live_apply(p->targets[which]->live, &e, 1);
}

/* Site 290 holds most at the peak, 291 at the end, 292 allocates most in all, 293 most often and always temporarily. */
static void work(struct played *p, unsigned which)
{
    uint64_t blocks[CALLERS], large;

    for (unsigned i = 0; i < CALLERS; i++)
        blocks[i] = allocate(p, which, i, 16 + i % 13);
    large = allocate(p, which, 290, 5000000);
    release_block(p, which, large);
    for (unsigned i = 0; i < CALLERS; i += 3)
        release_block(p, which, blocks[i]);
    allocate(p, which, 291, 400000);
    large = allocate(p, which, 292, 3000000);
    release_block(p, which, large);
    large = allocate(p, which, 292, 3000000);
    release_block(p, which, large);
    for (unsigned i = 0; i < 40000; i++)
        release_block(p, which, allocate(p, which, 293, 24));
}

static void mark(struct played *p, unsigned which, const char *name)
{
    mt_live_text(p->targets[which]->live,
        &(struct mt_live_text_event){.type = MT_RECORD_MARK, .stamp = ++p->stamp, .text = name, .text_bytes = strlen(name)});
}

static void end(struct played *p)
{
    for (unsigned i = 0; i < 2 && p->targets[i]; i++) {
        p->targets[i]->finished = true;
        p->targets[i]->end = (struct mt_store_end){.ended_ns = 1, .kind = MT_END_EXIT};
    }
    p->reader.root_ended = true;
    p->reader.root_end = (struct mt_store_end){.ended_ns = 1, .kind = MT_END_EXIT};
    assert_int_equal(write_all(&p->reader, NULL, true, 1000), 0);
    assert_null(p->reader.targets);
    mt_store_close(p->reader.store);
    while (p->reader.forgotten) {
        struct forgotten *f = p->reader.forgotten;
        p->reader.forgotten = f->next;
        free(f);
    }
    free(p);
}

/* Everything that must be exact by function, in one text. */
static const char by_function[] =
    "SELECT group_concat(t, ';') FROM (SELECT process_id || ' ' || function || ' ' || heap || ' ' || sum(peak_bytes) || ' ' || "
    "sum(peak_blocks) || ' ' || sum(live_bytes) || ' ' || sum(live_blocks) || ' ' || sum(allocated_bytes) || ' ' || "
    "sum(allocated_blocks) || ' ' || sum(temporary_blocks) || ' ' || sum(freed_blocks) || ' ' || min(lifetime_ns_min) || ' ' || "
    "max(lifetime_ns_max) || ' ' || max(own_peak_bytes) AS t FROM top_allocators GROUP BY process_id, function, heap ORDER BY 1)";
static const char by_snapshot[] =
    "SELECT group_concat(t, ';') FROM (SELECT s.process_id || ' ' || s.kind || ' ' || coalesce(label, '') || ' ' || function || ' ' "
    "|| sum(s.live_bytes) || ' ' || sum(s.live_blocks) || ' ' || sum(CASE s.kind WHEN 'mark' THEN s.allocated_bytes ELSE 0 END) AS t FROM snapshot_sites AS s "
    "JOIN sites AS v USING (site_id) GROUP BY s.process_id, s.kind, label, function ORDER BY 1)";
static const char off_totals[] =
    "SELECT count(*) FROM processes AS p WHERE allocated_blocks > 0 AND (SELECT sum(allocated_bytes) || ' ' || sum(allocated_blocks) || ' ' || "
    "sum(peak_bytes) || ' ' || sum(live_bytes) || ' ' || sum(live_blocks) || ' ' || sum(freed_blocks) FROM top_allocators AS t "
    "WHERE t.process_id = p.process_id) IS NOT p.allocated_bytes || ' ' || p.allocated_blocks || ' ' || p.peak_live_bytes || ' ' "
    "|| p.live_bytes || ' ' || p.live_blocks || ' ' || p.freed_blocks";

static struct mt_store *open_read(const struct fixture *f)
{
    struct mt_store *store;

    assert_int_equal(mt_store_open_read(f->path, &store), 0);
    return store;
}

static char *ask_once(const struct fixture *f, const char *sql)
{
    struct mt_store *store = open_read(f);
    char *value = text(store, sql);

    mt_store_close(store);
    return value;
}

static int64_t number_once(const struct fixture *f, const char *sql)
{
    char *value = ask_once(f, sql);
    int64_t n = strtoll(value, NULL, 10);

    free(value);
    return n;
}

static void two_processes(const struct fixture *f, size_t whole)
{
    struct played *p = start(f->path, whole, 2);

    work(p, 0);
    mark(p, 0, "middle");
    work(p, 1);
    work(p, 0);
    mark(p, 1, "late");
    end(p);
}

static void test_sums_are_the_same(void **state)
{
    struct fixture *f = *state;
    char *whole_functions, *whole_snapshots, *functions, *snapshots;

    two_processes(f, SIZE_MAX);
    assert_int_equal(number_once(f, "SELECT sum(folded_sites) FROM processes"), 0);
    assert_int_equal(number_once(f, "SELECT count(*) FROM top_allocators"), 2 * CALLERS);
    assert_int_equal(number_once(f, off_totals), 0);
    whole_functions = ask_once(f, by_function);
    whole_snapshots = ask_once(f, by_snapshot);
    assert_int_equal(unlink(f->path), 0);
    two_processes(f, 20);
    assert_int_equal(number_once(f, off_totals), 0);
    functions = ask_once(f, by_function);
    snapshots = ask_once(f, by_snapshot);
    assert_string_equal(functions, whole_functions);
    assert_string_equal(snapshots, whole_snapshots);
    assert_non_null(strstr(snapshots, "middle"));
    free(whole_functions);
    free(whole_snapshots);
    free(functions);
    free(snapshots);
    /* whole ones, and one for each function */
    assert_int_equal(number_once(f, "SELECT count(*) FROM top_allocators WHERE folded"), 2 * FUNCTIONS);
    assert_in_range(number_once(f, "SELECT count(*) FROM top_allocators WHERE NOT folded"), 8, 40);
    assert_int_equal(number_once(f, "SELECT sum(folded_sites) + (SELECT count(*) FROM top_allocators WHERE NOT folded) FROM processes"),
        2 * CALLERS);
    assert_int_equal(number_once(f, "SELECT sum(folded_blocks) - (SELECT sum(allocated_blocks) FROM top_allocators WHERE folded) "
                                    "FROM processes"), 0);
    assert_int_equal(number_once(f, "SELECT sum(folded_bytes) - (SELECT sum(allocated_bytes) FROM top_allocators WHERE folded) "
                                    "FROM processes"), 0);
    assert_int_equal(number_once(f, "SELECT folded_sites - (SELECT sum(folded_sites) FROM processes) FROM runs"), 0);
}

/* Each of the four that matter has its whole stack; the limit takes those with the largest shares. */
static void test_which_are_kept(void **state)
{
    static const char whole[] = "SELECT group_concat(t, ' ') FROM (SELECT replace(substr(stack, instr(stack, 'app+')), "
                                "';app+0x100', '') AS t FROM top_allocators WHERE NOT folded ORDER BY 1)";
    struct fixture *f = *state;
    struct played *p;
    char *kept;

    p = start(f->path, 4, 1);
    work(p, 0);
    end(p);
    kept = ask_once(f, whole);
    /* functions 0x22e + i % 7, callers 0x102 + i, of the sites 290 to 293 */
    assert_string_equal(kept, "app+0x231;app+0x224 app+0x232;app+0x225 app+0x233;app+0x226 app+0x234;app+0x227");
    free(kept);
    assert_int_equal(number_once(f, "SELECT count(*) FROM stack"), 1 + 2 * FUNCTIONS + 1 + 3 * 4);
    assert_int_equal(number_once(f, "SELECT count(*) FROM top_allocators WHERE stack LIKE '%;[other callers]'"), FUNCTIONS);
}

static void test_small_ones_are_whole(void **state)
{
    struct fixture *f = *state;
    struct played *p = start(f->path, CALLERS, 1);

    work(p, 0);
    end(p);
    assert_int_equal(number_once(f, "SELECT count(*) FROM top_allocators WHERE NOT folded"), CALLERS);
    assert_int_equal(number_once(f, "SELECT sum(folded_sites) FROM processes"), 0);
}

/* What matters at a mark alone is whole, too. */
static void test_marks_count(void **state)
{
    struct fixture *f = *state;
    struct played *p = start(f->path, 20, 1);
    uint64_t a;

    a = allocate(p, 0, 7, 64);
    mark(p, 0, "small");
    release_block(p, 0, a);
    work(p, 0);
    end(p);
    assert_int_equal(number_once(f, "SELECT v.folded FROM snapshot_sites JOIN sites AS v USING (site_id) WHERE label = 'small'"), 0);
    assert_int_equal(number_once(f, off_totals), 0);
}

static void test_sites_of_two_runs(void **state)
{
    struct fixture *f = *state;

    two_processes(f, 20);
    two_processes(f, 20);
    assert_int_equal(number_once(f, "SELECT count(*) FROM (SELECT site_id FROM top_allocators WHERE run_id = 1 EXCEPT SELECT site_id "
                                    "FROM top_allocators WHERE run_id = 2)"), 0);
    assert_int_equal(number_once(f, "SELECT count(*) FROM (SELECT site_id FROM top_allocators GROUP BY site_id HAVING "
                                    "count(DISTINCT run_id) = 1)"), 0);
    two_processes(f, SIZE_MAX); /* whole from now on */
    two_processes(f, 20);
    assert_int_equal(number_once(f, "SELECT sum(folded_sites) FROM processes WHERE run_id = 4"), 0);
    assert_int_equal(number_once(f, "SELECT count(*) FROM (SELECT site_id FROM top_allocators WHERE run_id = 3 EXCEPT SELECT site_id "
                                    "FROM top_allocators WHERE run_id = 4)"), 0);
    assert_int_equal(number_once(f, off_totals), 0);
}

/* A checkpoint's rows are one set, and the last one's are all there is. */
static void test_checkpoints(void **state)
{
    struct fixture *f = *state;
    struct played *p = start(f->path, 24, 2);

    for (unsigned i = 0; i < 3; i++) {
        work(p, 0);
        mark(p, 0, "again");
        assert_int_equal(write_all(&p->reader, NULL, true, 1000), 0);
        assert_int_equal(number_once(f, off_totals), 0);
        assert_in_range(number_once(f, "SELECT count(*) FROM top_allocators WHERE process_id = 1 AND NOT folded"), 1, 3);
    }
    work(p, 1);
    end(p);
    assert_int_equal(number_once(f, off_totals), 0);
    assert_int_equal(number_once(f, "SELECT count(*) FROM snapshot WHERE kind = 'mark'"), 3);
    assert_in_range(number_once(f, "SELECT count(*) FROM top_allocators WHERE process_id = 1 AND NOT folded"), 4, 24);
}

/* ---- ahead of the end --------------------------------------------------------------------------------------------------- */

static const char by_row[] =
    "SELECT group_concat(t, ';') FROM (SELECT process_id || ' ' || folded || ' ' || stack || ' ' || heap || ' ' || peak_bytes || ' ' || "
    "live_bytes || ' ' || live_blocks || ' ' || allocated_bytes || ' ' || allocated_blocks || ' ' || freed_blocks || ' ' || "
    "own_peak_bytes AS t FROM top_allocators ORDER BY 1)";

/* As ahead.c does it, a few groups at a time. */
static void go_ahead(struct played *p, unsigned which, enum mt_store_extent extent)
{
    struct target *t = p->targets[which];
    struct mt_store_site_key keys[7];
    int64_t ids[7];

    assert_int_equal(groups_update(t, NULL), 0);
    groups_check_ids(&p->reader, t);
    for (size_t at = 0; at < t->groups->count; at += 7) {
        size_t end = at + 7 < t->groups->count ? at + 7 : t->groups->count;
        for (size_t i = at; i < end; i++)
            keys[i - at] = groups_key(t, i, true);
        memset(ids, 0, sizeof(ids));
        assert_int_equal(groups_ask(&p->reader, t, extent, keys, end - at, ids), 0);
        for (size_t i = at; i < end; i++)
            if (ids[i - at])
                groups_keep(t->groups, i, &keys[i - at], ids[i - at]);
    }
}

/* Half of the tables first, then all; and a rollback in between, which takes everything back. */
static void work_ahead(const struct fixture *f, bool ahead)
{
    struct played *p = start(f->path, 20, 2);
    struct tables *t = &p->targets[0]->tables;
    size_t nodes = t->node_count;

    t->node_count = leaf(CALLERS / 2);
    for (unsigned i = 0; i < CALLERS / 2; i++)
        allocate(p, 0, i, 100 + i);
    if (ahead) {
        go_ahead(p, 0, MT_STORE_FRAMES);
        go_ahead(p, 0, MT_STORE_FOLDED);
    }
    t->node_count = nodes;
    work(p, 1);
    work(p, 0);
    if (ahead) {
        go_ahead(p, 1, MT_STORE_FOLDED);
        assert_int_equal(mt_store_begin(p->reader.store), 0);
        go_ahead(p, 0, MT_STORE_FOLDED);
        mt_store_rollback(p->reader.store);
        go_ahead(p, 1, MT_STORE_FOLDED);
        mark(p, 0, "middle");
        assert_int_equal(write_all(&p->reader, NULL, true, 1000), 0);
        go_ahead(p, 0, MT_STORE_FOLDED);
    } else {
        mark(p, 0, "middle");
    }
    work(p, 0);
    end(p);
}

static void test_ahead(void **state)
{
    struct fixture *f = *state;
    char *rows, *rows_ahead;
    int64_t sites;

    work_ahead(f, false);
    assert_int_equal(number_once(f, off_totals), 0);
    rows = ask_once(f, by_row);
    sites = number_once(f, "SELECT count(*) FROM site");
    assert_int_equal(unlink(f->path), 0);
    work_ahead(f, true);
    assert_int_equal(number_once(f, off_totals), 0);
    rows_ahead = ask_once(f, by_row);
    assert_string_equal(rows_ahead, rows);
    free(rows);
    free(rows_ahead);
    assert_in_range(number_once(f, "SELECT count(*) FROM site"), sites, sites + 20);
    assert_int_equal(number_once(f, "SELECT count(*) - count(DISTINCT module_id || ' ' || offset) FROM frame"), 0);
    assert_int_equal(number_once(f, "SELECT count(*) - count(DISTINCT (stack_id - up) || ' ' || frame_id) FROM stack"), 0);
    assert_int_equal(number_once(f, "SELECT count(*) - count(DISTINCT stack_id || ' ' || heap_id) FROM site"), 0);
}

/* Killed at that point: there are rows of frames and sites, and they mean nothing. */
static void test_ahead_alone(void **state)
{
    struct fixture *f = *state;
    struct played *p = start(f->path, 20, 1);

    work(p, 0);
    go_ahead(p, 0, MT_STORE_FRAMES);
    assert_int_equal(number_once(f, "SELECT count(*) FROM site"), 0);
    assert_in_range(number_once(f, "SELECT count(*) FROM frame"), FUNCTIONS + 1, FUNCTIONS + 2); /* and none of the callers */
    go_ahead(p, 0, MT_STORE_FOLDED);
    assert_int_equal(number_once(f, "SELECT count(*) FROM site WHERE folded"), FUNCTIONS);
    assert_int_equal(number_once(f, "SELECT count(*) FROM top_allocators"), 0);
    assert_int_equal(number_once(f, "SELECT count(*) FROM leaks"), 0);
    end(p);
    assert_int_equal(number_once(f, off_totals), 0);
}

/* Frames that are in no table: the run is written all the same, and it is said. */
static void test_lies(void **state)
{
    struct fixture *f = *state;

    for (unsigned with_frames = 0; with_frames < 2; with_frames++) {
        struct played *p = start(f->path, 20, 1);
        struct tables *t = &p->targets[0]->tables;
        work(p, 0);
        t->nodes[leaf(3)].frame = UINT32_MAX;
        t->nodes[leaf(4)].frame = FRAMES;
        if (!with_frames)
            t->frame_count = 0;
        end(p);
        assert_int_equal(number_once(f, off_totals), 0);
    }
    assert_int_equal(number_once(f, "SELECT sum(allocated_blocks) FROM top_allocators WHERE run_id = 1 AND stack = ''"),
        CALLERS + 40004);
    assert_int_equal(number_once(f, "SELECT count(*) FROM top_allocators WHERE run_id = 2 AND stack = 'app+0x100'"), 1);
    assert_int_equal(number_once(f, "SELECT count FROM loss WHERE run_id = 2 AND reason = 'decode'"), 2);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_sums_are_the_same, fixture_setup, fixture_teardown),
        cmocka_unit_test_setup_teardown(test_which_are_kept, fixture_setup, fixture_teardown),
        cmocka_unit_test_setup_teardown(test_small_ones_are_whole, fixture_setup, fixture_teardown),
        cmocka_unit_test_setup_teardown(test_marks_count, fixture_setup, fixture_teardown),
        cmocka_unit_test_setup_teardown(test_sites_of_two_runs, fixture_setup, fixture_teardown),
        cmocka_unit_test_setup_teardown(test_checkpoints, fixture_setup, fixture_teardown),
        cmocka_unit_test_setup_teardown(test_ahead, fixture_setup, fixture_teardown),
        cmocka_unit_test_setup_teardown(test_ahead_alone, fixture_setup, fixture_teardown),
        cmocka_unit_test_setup_teardown(test_lies, fixture_setup, fixture_teardown),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}

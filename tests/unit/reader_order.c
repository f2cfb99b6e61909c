/*
 * Order between rings: the horizon, the merge, positions near 2^63, and threads that hand blocks to each other for real.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include <linux/membarrier.h>
#include <pthread.h>
#include <sched.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "segment_fixture.h"

static struct reader reader;

struct played {
    struct mt_writer writer;
    struct target *target;
    struct fixture_ring rings[8];
};

static struct played *play(unsigned rings, uint32_t flags, uint64_t capacity, uint64_t start)
{
    struct played *p = calloc(1, sizeof(*p));
    int fd;

    assert_int_equal(mt_writer_create(&p->writer, flags, &fd), 0);
    p->target = calloc(1, sizeof(*p->target));
    p->target->pidfd = p->target->proc_fd = -1;
    p->target->live = mt_live_create();
    assert_int_equal(attach_segment(p->target, fd), 0);
    for (unsigned i = 0; i < rings; i++) {
        assert_int_equal(mt_writer_add_ring(&p->writer, 1 + (int)i, capacity, &p->rings[i].shared, &p->rings[i].words), 0);
        p->rings[i].shared->head = p->rings[i].shared->tail = start;
    }
    return p;
}

static void end_play(struct played *p)
{
    life_free(p->target);
    mt_writer_destroy(&p->writer);
    free(p);
}

static const struct mt_live_totals *totals(const struct played *p)
{
    return mt_live_totals(p->target->live);
}

static void test_records_of_two_rings_are_applied_by_stamp(void **state)
{
    struct played *p = play(2, MT_SEGMENT_STAMP_TSC, 4096, 0);

    (void)state;
    /* The address wanders: freed by one thread, handed out to the other. In ring order this would be nonsense. */
    for (unsigned i = 0; i < 100; i++) {
        fixture_alloc(&p->rings[i % 2], 10 * i + 1, 0x1000, 8 + i);
        fixture_free(&p->rings[(i + 1) % 2], 10 * i + 5, 0x1000);
    }
    assert_int_equal(order_drain(&reader, p->target, SIZE_MAX), 200);
    assert_int_equal(totals(p)->unmatched_frees, 0);
    assert_int_equal(totals(p)->assumed_frees, 0);
    assert_int_equal(totals(p)->live_blocks, 0);
    assert_int_equal(totals(p)->peak_live_bytes, 107);
    end_play(p);
}

static void test_a_free_goes_before_an_allocation_of_the_same_stamp(void **state)
{
    struct played *p = play(2, MT_SEGMENT_STAMP_TSC, 4096, 0);

    (void)state;
    fixture_alloc(&p->rings[0], 1, 0x1000, 8);
    fixture_alloc(&p->rings[0], 5, 0x1000, 9);
    fixture_free(&p->rings[1], 5, 0x1000);
    order_drain(&reader, p->target, SIZE_MAX);
    assert_int_equal(totals(p)->assumed_frees, 0);
    assert_int_equal(totals(p)->live_bytes, 9);
    end_play(p);
}

static void test_a_record_in_flight_holds_the_others_back(void **state)
{
    struct played *p = play(2, MT_SEGMENT_STAMP_TSC, 4096, 0);

    (void)state;
    fixture_alloc(&p->rings[1], 10, 0x1000, 1);
    mt_store_release(&p->rings[1].shared->busy, 1); /* its next record has a stamp above 10 */
    fixture_alloc(&p->rings[0], 9, 0x2000, 1);
    fixture_alloc(&p->rings[0], 11, 0x3000, 1);
    fixture_alloc(&p->rings[0], 12, 0x4000, 1);
    assert_int_equal(order_drain(&reader, p->target, SIZE_MAX), 2);
    assert_true(order_pending(p->target));
    assert_int_equal(order_drain(&reader, p->target, SIZE_MAX), 0);
    fixture_free(&p->rings[1], 11, 0x2000);
    assert_int_equal(order_drain(&reader, p->target, SIZE_MAX), 2);
    mt_store_release(&p->rings[1].shared->busy, 0);
    assert_int_equal(order_drain(&reader, p->target, SIZE_MAX), 1);
    assert_false(order_pending(p->target));
    assert_int_equal(totals(p)->live_blocks, 3);
    /* Idle just now: what comes next is younger than that, however old its last record is. */
    fixture_alloc(&p->rings[0], 20, 0x5000, 1);
    mt_store_release(&p->rings[1].shared->busy, 1);
    assert_int_equal(order_drain(&reader, p->target, SIZE_MAX), 1);
    end_play(p);
}

static void test_a_dead_process_has_nothing_in_flight(void **state)
{
    struct played *p = play(3, MT_SEGMENT_STAMP_TSC, 4096, 0);

    (void)state;
    for (unsigned i = 0; i < 3; i++) {
        mt_store_release(&p->rings[i].shared->busy, 1);
        fixture_alloc(&p->rings[i], 100 - i, 0x1000 + 0x1000 * i, 1);
    }
    p->target->gone = true;
    assert_int_equal(order_drain(&reader, p->target, SIZE_MAX), 3);
    end_play(p);
}

/* Whatever stamps a target makes up, a ring's records stay in their order. */
static void test_stamps_that_go_back_keep_the_order_of_the_ring(void **state)
{
    struct played *p = play(2, MT_SEGMENT_STAMP_TSC, 4096, 0);

    (void)state;
    fixture_alloc(&p->rings[0], 10, 0x1000, 1);
    fixture_free(&p->rings[0], 8, 0x1000);
    fixture_alloc(&p->rings[1], 9, 0x2000, 2);
    order_drain(&reader, p->target, SIZE_MAX);
    assert_int_equal(totals(p)->unmatched_frees, 0);
    assert_int_equal(totals(p)->live_bytes, 2);
    end_play(p);
}

/* The first thread has not seen yet that there is a second one: what it does is older than all that the second one builds on it. */
static void test_records_without_stamps_come_first(void **state)
{
    struct played *p = play(2, MT_SEGMENT_STAMP_TSC, 4096, 0);

    (void)state;
    fixture_alloc(&p->rings[0], 5, 0x1000, 1);
    fixture_plain_free(&p->rings[0], 0x1000);
    fixture_plain_alloc(&p->rings[0], 0x2000, 2);
    fixture_alloc(&p->rings[1], 7, 0x1000, 4);
    fixture_free(&p->rings[1], 8, 0x2000);
    fixture_alloc(&p->rings[0], 9, 0x2000, 8);
    assert_int_equal(order_drain(&reader, p->target, SIZE_MAX), 6);
    assert_int_equal(totals(p)->unmatched_frees, 0);
    assert_int_equal(totals(p)->assumed_frees, 0);
    assert_int_equal(totals(p)->live_bytes, 12);
    end_play(p);
}

static void expect_site(const struct played *p, size_t site, unsigned heap, uint32_t native_depth, uint32_t native_frame,
    uint32_t python_depth, uint32_t python_frame, uint64_t blocks)
{
    const struct tables *t = &p->target->tables;
    const struct mt_live_site *s = mt_live_site(p->target->live, site);
    uint32_t native = s->node, python = 0, depth = 0;

    assert_int_equal(s->heap, heap);
    assert_int_equal(s->live_blocks, blocks);
    if (t->nodes[native].frame & MT_NODE_PAIR) {
        python = t->nodes[native].frame & ~MT_NODE_PAIR;
        native = t->nodes[native].parent;
    }
    assert_int_equal(native ? t->nodes[native].frame : 0, native_frame);
    assert_int_equal(python ? t->nodes[python].frame : 0, python_frame);
    for (; native; native = t->nodes[native].parent)
        depth++;
    assert_int_equal(depth, native_depth);
    for (depth = 0; python; python = t->nodes[python].parent)
        depth++;
    assert_int_equal(depth, python_depth);
}

/* A ring's stacks change on their own; a callsite is what they are at its record, in its own ring. */
static void test_three_stacks(void **state)
{
    struct played *p = play(2, MT_SEGMENT_STAMP_TSC, 65536, 0);
    uint32_t many[64];

    (void)state;
    fixture_stack_alloc(&p->rings[0], 0x1000, 0, (uint32_t[]){1, 2}, 2);
    fixture_python_stack(&p->rings[0], 0, (uint32_t[]){11, 12}, 2);
    fixture_stack_alloc(&p->rings[0], 0x1010, 2, NULL, 0);
    fixture_inner_stack(&p->rings[0], 7, (uint32_t[]){21}, 1);
    fixture_inner_stack(&p->rings[0], MT_RECORD_INNER_STACKS - 1, (uint32_t[]){21, 22}, 2);
    fixture_object(&p->rings[0], 0x1010, 7); /* the same address: another heap */
    fixture_python_stack(&p->rings[0], 1, (uint32_t[]){13}, 1);
    fixture_object(&p->rings[0], 0x1020, MT_RECORD_INNER_STACKS - 1);
    fixture_stack_alloc(&p->rings[0], 0x1030, 1, (uint32_t[]){3}, 1);
    fixture_stack_alloc(&p->rings[1], 0x2000, 0, (uint32_t[]){1, 2}, 2);
    fixture_python_stack(&p->rings[0], 0, NULL, 0);
    fixture_stack_alloc(&p->rings[0], 0x1040, 0, (uint32_t[]){1, 2}, 2);
    assert_int_equal(order_drain(&reader, p->target, SIZE_MAX), 12);
    assert_int_equal(p->target->lost_decode, 0);
    assert_int_equal(mt_live_site_count(p->target->live), 5);
    expect_site(p, 0, MT_LIVE_HEAP_MALLOC, 2, 2, 0, 0, 3);
    expect_site(p, 1, MT_LIVE_HEAP_MALLOC, 2, 2, 2, 12, 1);
    expect_site(p, 2, MT_LIVE_HEAP_PYTHON, 1, 21, 2, 12, 1);
    expect_site(p, 3, MT_LIVE_HEAP_PYTHON, 2, 22, 2, 13, 1);
    expect_site(p, 4, MT_LIVE_HEAP_MALLOC, 2, 3, 2, 13, 1);
    /* Over many batches, and through the growth of the table of stacks: the pairs are found again. */
    for (uint32_t i = 0; i < 64; i++)
        many[i] = 100 + i;
    for (unsigned twice = 0; twice < 2; twice++) {
        for (uint32_t i = 0; i < 3000; i++) {
            if (i % 3 && i)
                fixture_python_step(&p->rings[0], 1, 1000 + i);
            else
                fixture_python_stack(&p->rings[0], 0, (uint32_t[]){11, 1000 + i}, 2);
            if (i % 3 == 0) /* numbers are given to others, in the middle of batches, too */
                fixture_inner_stack(&p->rings[0], i % 7, many, 1 + i % 5);
            fixture_object(&p->rings[0], 0x10000 + 16 * i + twice, i / 3 * 3 % 7);
        }
        order_drain(&reader, p->target, SIZE_MAX);
    }
    assert_int_equal(p->target->lost_decode, 0);
    assert_int_equal(mt_live_site_count(p->target->live), 5 + 3000);
    for (size_t site = 5; site < 5 + 3000; site++)
        assert_int_equal(mt_live_site(p->target->live, site)->live_blocks, 2);
    for (size_t site = 5; site < 5 + 3000; site += 500) {
        uint32_t i = (uint32_t)site - 5;

        expect_site(p, site, MT_LIVE_HEAP_PYTHON, 1 + i / 3 * 3 % 5, 100 + i / 3 * 3 % 5, 2, 1000 + i, 2);
    }
    end_play(p);
}

/* Numbers of inner stacks that were not told, are none, or are told wrongly: the object counts, with what there is. */
static void test_numbers_of_no_stack(void **state)
{
    struct played *p = play(1, MT_SEGMENT_STAMP_TSC, 4096, 0);

    (void)state;
    fixture_python_stack(&p->rings[0], 0, (uint32_t[]){11}, 1);
    fixture_object(&p->rings[0], 0x1000, 3);
    assert_int_equal(order_drain(&reader, p->target, SIZE_MAX), 2);
    assert_int_equal(p->target->lost_decode, 0);
    fixture_object(&p->rings[0], 0x1010, MT_RECORD_INNER_STACKS);
    fixture_inner_stack(&p->rings[0], MT_RECORD_INNER_STACKS, (uint32_t[]){21}, 1);
    fixture_change(&p->rings[0], UINT64_C(3) << MT_RECORD_OPERAND_SHIFT | MT_RECORD_INNER_STACK, UINT64_C(1) << 32 | 1, (uint32_t[]){21}, 1);
    fixture_object(&p->rings[0], 0x1020, 3);
    assert_int_equal(order_drain(&reader, p->target, SIZE_MAX), 4);
    assert_int_equal(p->target->lost_decode, 3);
    assert_int_equal(mt_live_totals(p->target->live)->live_blocks, 3);
    end_play(p);
}

/* Stacks of two rings, interleaved in one batch: each ring's changes apply to its own stack. */
static void test_changes_of_stacks(void **state)
{
    struct played *p = play(2, MT_SEGMENT_STAMP_TSC, 4096, 0);
    const struct tables *t;
    uint32_t expected[][4] = {{1, 2, 3, 0}, {1, 2, 4, 0}, {1, 2, 4, 0}, {1, 2, 0, 0}, {1, 2, 3, 0}, {7, 2, 3, 0}, {1, 2, 3, 0}};

    (void)state;
    fixture_stack_alloc(&p->rings[0], 0x1000, 0, (uint32_t[]){1, 2, 3}, 3);
    fixture_stack_alloc(&p->rings[0], 0x1010, 2, (uint32_t[]){4}, 1);
    fixture_stack_alloc(&p->rings[0], 0x1020, 3, NULL, 0);
    fixture_stack_alloc(&p->rings[0], 0x1030, 2, NULL, 0);
    fixture_stack_alloc(&p->rings[1], 0x2000, 0, (uint32_t[]){1, 2, 3}, 3);
    fixture_stack_alloc(&p->rings[1], 0x2010, 0, (uint32_t[]){7, 2, 3}, 3);
    fixture_stack_alloc(&p->rings[0], 0x1040, 1, (uint32_t[]){2, 3}, 2);
    assert_int_equal(order_drain(&reader, p->target, SIZE_MAX), 7);
    assert_int_equal(p->target->lost_decode, 0);
    t = &p->target->tables;
    assert_int_equal(t->node_count, 1 + 4 + 3); /* 1, 1-2, 1-2-3, 1-2-4, 7, 7-2, 7-2-3: each once */
    /* Blocks by stack: 123 three times, 124 twice, 12 once, 723 once. */
    for (size_t site = 0; site < mt_live_site_count(p->target->live); site++) {
        const struct mt_live_site *s = mt_live_site(p->target->live, site);
        uint32_t path[4] = {0}, depth = 0, blocks = 0, reversed[4] = {0};

        for (uint32_t n = s->node; n; n = t->nodes[n].parent)
            reversed[depth++] = t->nodes[n].frame;
        for (uint32_t i = 0; i < depth; i++)
            path[i] = reversed[depth - 1 - i];
        for (size_t e = 0; e < MT_ARRAY_LEN(expected); e++)
            blocks += !memcmp(path, expected[e], sizeof(path));
        assert_int_equal(s->live_blocks, blocks);
    }
    /* More than there is to keep: the event counts, with the empty stack. */
    fixture_stack_alloc(&p->rings[1], 0x2020, 9, (uint32_t[]){1}, 1);
    fixture_stack_alloc(&p->rings[1], 0x2030, 0, (uint32_t[]){UINT32_MAX}, 1);
    assert_int_equal(order_drain(&reader, p->target, SIZE_MAX), 2);
    assert_int_equal(p->target->lost_decode, 2);
    assert_int_equal(totals(p)->live_blocks, 9);
    end_play(p);
}

/* A tree that grows, and stacks deeper than one record may say. */
static void test_many_and_deep_stacks(void **state)
{
    struct played *p = play(1, MT_SEGMENT_STAMP_TSC, 65536, 0);
    uint32_t frames[64];

    (void)state;
    for (uint32_t i = 0; i < 64; i++)
        frames[i] = i;
    for (uint32_t depth = 0; depth < 5000; depth += 50)
        fixture_stack_alloc(&p->rings[0], 0x1000 + depth * 16, depth, frames, 50);
    order_drain(&reader, p->target, SIZE_MAX);
    assert_int_equal(p->target->tables.node_count, 5001);
    for (uint32_t i = 0; i < 20000; i++) {
        fixture_stack_alloc(&p->rings[0], 0x1000000 + i * 16, 1, (uint32_t[]){i % 100, i / 100}, 2);
        if (i % 1000 == 999)
            order_drain(&reader, p->target, SIZE_MAX);
    }
    /* 100 below the first frame, one of which was there, and 200 below each of them, one of which was there. */
    assert_int_equal(p->target->tables.node_count, 5001 + 100 - 1 + 20000 - 1);
    assert_int_equal(mt_live_site_count(p->target->live), 100 + 20000);
    assert_int_equal(p->target->lost_decode, 0);
    end_play(p);
}

static void test_positions_near_the_end_of_their_range(void **state)
{
    static const uint64_t starts[] = {(UINT64_C(1) << 63) - 100, UINT64_MAX - 99, (UINT64_C(1) << 32) - 7, 511};

    (void)state;
    for (size_t s = 0; s < MT_ARRAY_LEN(starts); s++) {
        struct played *p = play(2, MT_SEGMENT_STAMP_TSC, 512, starts[s]);
        uint64_t stamp = 1, sent = 0, applied = 0;

        for (unsigned i = 0; i < 5000; i++) {
            struct fixture_ring *ring = &p->rings[i % 2];
            while (!fixture_has_room(ring, 6)) {
                applied += order_drain(&reader, p->target, 64);
            }
            fixture_alloc(ring, stamp++, 0x1000 + 16 * i, 16);
            fixture_free(ring, stamp++, 0x1000 + 16 * i);
            sent += 2;
        }
        fixture_text(&p->rings[0], stamp++, MT_RECORD_MARK, "a text that straddles the end of the ring, or not");
        while (order_pending(p->target))
            applied += order_drain(&reader, p->target, SIZE_MAX);
        assert_int_equal(applied, sent + 1);
        assert_int_equal(totals(p)->allocated_blocks, 5000);
        assert_int_equal(totals(p)->freed_blocks, 5000);
        assert_int_equal(p->target->lost_decode, 0);
        assert_int_equal(p->rings[0].shared->tail, p->rings[0].shared->head);
        end_play(p);
    }
}

static void test_a_budget_only_postpones(void **state)
{
    struct played *p = play(3, MT_SEGMENT_STAMP_TSC, 65536, 0);
    size_t applied = 0, n;

    (void)state;
    for (unsigned i = 0; i < 9000; i++)
        fixture_alloc(&p->rings[i % 3], i + 1, 0x1000 + 16 * i, 1);
    while ((n = order_drain(&reader, p->target, 100)) > 0) {
        assert_true(n <= 100);
        applied += n;
    }
    assert_int_equal(applied, 9000);
    assert_int_equal(totals(p)->live_blocks, 9000);
    end_play(p);
}

/* ---- for real -------------------------------------------------------------------------------------------------- */

/* Rings of threads that do nothing lie between those in use, so that much can happen while the reader looks at one after the other. */
enum { WRITERS = 3, SLOTS = 4, HANDOVERS = 60000, IDLE_RINGS = 1500 };

struct writer_thread {
    struct played *play;
    struct fixture_ring *ring;
    unsigned seed;
};

static uint64_t free_addresses[SLOTS];  /* exchanged by the threads: an "allocator" with 16 addresses */
static uint32_t writers_left;

static void record(struct writer_thread *w, uint32_t type, uint64_t address)
{
    struct mt_ring *ring = w->ring->shared;
    uint64_t base = w->play->target->layout.base_stamp, stamp;

    while (!fixture_has_room(w->ring, 3))
        sched_yield();
    mt_store_relaxed(&ring->busy, 1);
    mt_compiler_fence(); /* R3: the reader's membarrier() does the rest */
    stamp = mt_clock_tsc_ordered() - base;
    if (stamp % 64 == 0)
        sched_yield(); /* a thread that loses its processor with a record in flight */
    if (type == MT_RECORD_FREE)
        fixture_free(w->ring, stamp, address);
    else
        fixture_alloc(w->ring, stamp, address, 16);
    mt_store_release(&ring->busy, 0);
}

static void *writer_main(void *argument)
{
    struct writer_thread *w = argument;
    unsigned rng = w->seed;

    for (unsigned i = 0; i < HANDOVERS; i++) {
        uint64_t address = 0;
        unsigned slot;

        for (; !address; rng = rng * 1103515245 + 12345) {
            slot = (rng >> 16) % SLOTS;
            address = mt_exchange_acquire(&free_addresses[slot], 0);
        }
        record(w, MT_RECORD_ALLOC, address); /* after it was had */
        record(w, MT_RECORD_FREE, address);  /* before it is given back */
        mt_store_release(&free_addresses[slot], address);
        if (rng >> 16 & 1) /* so that the reader often finds it idle, and two writers take turns while it looks */
            sched_yield();
    }
    mt_fetch_add_acq_rel(&writers_left, -1u);
    return NULL;
}

static void test_threads_that_hand_addresses_to_each_other(void **state)
{
    struct played *p = play(0, MT_SEGMENT_STAMP_TSC | MT_SEGMENT_ASYMMETRIC_FENCE, 0, 0);
    struct writer_thread writers[WRITERS];
    pthread_t threads[WRITERS];
    struct fixture_ring idle;

    (void)state;
    syscall(SYS_membarrier, MEMBARRIER_CMD_REGISTER_GLOBAL_EXPEDITED, 0, 0);
    for (unsigned i = 0; i < WRITERS; i++) {
        assert_int_equal(mt_writer_add_ring(&p->writer, 1, 2048, &p->rings[i].shared, &p->rings[i].words), 0);
        for (unsigned k = 0; k < IDLE_RINGS; k++)
            assert_int_equal(mt_writer_add_ring(&p->writer, 1, 512, &idle.shared, &idle.words), 0);
    }
    for (unsigned i = 0; i < SLOTS; i++)
        free_addresses[i] = 0x1000 + 64 * i;
    writers_left = WRITERS;
    for (unsigned i = 0; i < WRITERS; i++) {
        writers[i] = (struct writer_thread){.play = p, .ring = &p->rings[i], .seed = i + 1};
        pthread_create(&threads[i], NULL, writer_main, &writers[i]);
    }
    while (mt_load_acquire(&writers_left) > 0)
        if (order_drain(&reader, p->target, 5000) == 0)
            sched_yield();
    for (unsigned i = 0; i < WRITERS; i++)
        pthread_join(threads[i], NULL);
    while (order_pending(p->target))
        order_drain(&reader, p->target, SIZE_MAX);
    assert_int_equal(totals(p)->allocated_blocks, WRITERS * HANDOVERS);
    assert_int_equal(totals(p)->freed_blocks, WRITERS * HANDOVERS);
    assert_int_equal(totals(p)->unmatched_frees, 0);
    assert_int_equal(totals(p)->assumed_frees, 0);
    assert_int_equal(p->target->lost_decode, 0);
    end_play(p);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_records_of_two_rings_are_applied_by_stamp),
        cmocka_unit_test(test_a_free_goes_before_an_allocation_of_the_same_stamp),
        cmocka_unit_test(test_a_record_in_flight_holds_the_others_back),
        cmocka_unit_test(test_a_dead_process_has_nothing_in_flight),
        cmocka_unit_test(test_stamps_that_go_back_keep_the_order_of_the_ring),
        cmocka_unit_test(test_records_without_stamps_come_first),
        cmocka_unit_test(test_changes_of_stacks),
        cmocka_unit_test(test_three_stacks),
        cmocka_unit_test(test_numbers_of_no_stack),
        cmocka_unit_test(test_many_and_deep_stacks),
        cmocka_unit_test(test_positions_near_the_end_of_their_range),
        cmocka_unit_test(test_a_budget_only_postpones),
        cmocka_unit_test(test_threads_that_hand_addresses_to_each_other),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}

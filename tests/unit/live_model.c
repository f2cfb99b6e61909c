/*
 * live/ against a model that is too simple to be wrong: every block in an array, every total summed up anew, and a copy of all
 * sites taken whenever the total exceeds the peak.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "rng.h"
#include "live/live.h"

enum { SITES = 12, ADDRESSES = 300, THREADS = 3 };

struct plain_block {
    bool live, limbo;
    uint64_t size, birth;
    unsigned site, thread, sequence;
};

struct plain_site {
    uint64_t bytes, blocks, peak_bytes, peak_blocks, allocated_bytes, allocated_blocks, freed, temporary, own_peak;
    uint64_t life_sum;
};

struct plain {
    struct plain_block blocks[ADDRESSES];
    struct plain_site sites[SITES];
    uint64_t peak, peak_blocks;
    unsigned sequence[THREADS];
};

static uint64_t plain_total(const struct plain *p, uint64_t *ret_blocks)
{
    uint64_t total = 0;

    *ret_blocks = 0;
    for (unsigned i = 0; i < SITES; i++) {
        total += p->sites[i].bytes;
        *ret_blocks += p->sites[i].blocks;
    }
    return total;
}

static void plain_peak(struct plain *p)
{
    uint64_t blocks, total = plain_total(p, &blocks);

    if (total <= p->peak)
        return;
    p->peak = total;
    p->peak_blocks = blocks;
    for (unsigned i = 0; i < SITES; i++) {
        p->sites[i].peak_bytes = p->sites[i].bytes;
        p->sites[i].peak_blocks = p->sites[i].blocks;
    }
}

static void plain_free(struct plain *p, struct plain_block *b, uint64_t now, bool temporary)
{
    struct plain_site *s = &p->sites[b->site];

    s->bytes -= b->size;
    s->blocks--;
    s->freed++;
    s->temporary += temporary;
    s->life_sum += now - b->birth;
    b->live = b->limbo = false;
}

static bool plain_is_temporary(const struct plain *p, const struct plain_block *b, unsigned by)
{
    return b->thread == by && p->sequence[b->thread] - b->sequence <= 1;
}

static void plain_alloc(struct plain *p, unsigned address, unsigned site, unsigned thread, uint64_t size, uint64_t now)
{
    struct plain_site *s = &p->sites[site];

    p->blocks[address] = (struct plain_block){
        .live = true, .size = size, .birth = now, .site = site, .thread = thread, .sequence = ++p->sequence[thread]};
    s->bytes += size;
    s->blocks++;
    s->allocated_bytes += size;
    s->allocated_blocks++;
    if (s->bytes > s->own_peak)
        s->own_peak = s->bytes;
}

static uint64_t address_of(unsigned index)
{
    return 0x10000 + (uint64_t)index * 48;
}

static unsigned pick(const struct plain *p, bool live)
{
    for (;;) {
        unsigned i = (unsigned)rng(ADDRESSES);
        if (p->blocks[i].limbo)
            continue;
        if (p->blocks[i].live == live)
            return i;
    }
}

static void compare(struct mt_live *live, const struct plain *p)
{
    const struct mt_live_totals *t = mt_live_totals(live);
    uint64_t blocks, total = plain_total(p, &blocks), allocated = 0, freed = 0;
    bool seen[SITES] = {false};

    assert_int_equal(t->live_bytes, total);
    assert_int_equal(t->live_blocks, blocks);
    assert_int_equal(t->peak_live_bytes, p->peak);
    assert_int_equal(t->peak_live_blocks, p->peak_blocks);
    for (size_t i = 0; i < mt_live_site_count(live); i++) {
        const struct mt_live_site *s = mt_live_site(live, i);
        const struct plain_site *q = &p->sites[s->node - 1];
        uint64_t peak_bytes, peak_blocks;

        mt_live_site_at_peak(live, i, &peak_bytes, &peak_blocks);
        assert_int_equal(s->live_bytes, q->bytes);
        assert_int_equal(s->live_blocks, q->blocks);
        assert_int_equal(peak_bytes, q->peak_bytes);
        assert_int_equal(peak_blocks, q->peak_blocks);
        assert_int_equal(s->allocated_bytes, q->allocated_bytes);
        assert_int_equal(s->allocated_blocks, q->allocated_blocks);
        assert_int_equal(s->freed_blocks, q->freed);
        assert_int_equal(s->temporary_blocks, q->temporary);
        assert_int_equal(s->own_peak_bytes, q->own_peak);
        assert_int_equal(s->lifetime_sum, q->life_sum);
        seen[s->node - 1] = true;
        allocated += q->allocated_blocks;
        freed += q->freed;
    }
    for (unsigned i = 0; i < SITES; i++)
        assert_true(seen[i] || p->sites[i].allocated_blocks == 0);
    assert_int_equal(t->allocated_blocks, allocated);
    assert_int_equal(t->freed_blocks, freed);
    assert_int_equal(t->unmatched_frees, 0);
    assert_int_equal(t->dropped, 0);
}

/* A realloc under way, at most one a thread. */
struct pending {
    bool on, temporary;
    struct plain_block block; /* its address may belong to someone else meanwhile */
    unsigned address;
};

static void finish_realloc(struct mt_live *live, struct plain *p, struct pending *pending, unsigned thread, uint64_t now)
{
    struct mt_event e = {.stamp = now, .thread = thread};
    bool taken = p->blocks[pending->address].live;
    unsigned how = (unsigned)rng(taken ? 2 : 3), site = (unsigned)rng(SITES);

    pending->on = false;
    if (how == 2) { /* fails: can only happen while nobody else has the address */
        e.type = MT_RECORD_REALLOC_FAILED;
        mt_live_apply(live, &e, 1);
        pending->block.limbo = false;
        p->blocks[pending->address] = pending->block;
        return;
    }
    e.type = MT_RECORD_REALLOC_END;
    plain_free(p, &pending->block, now, pending->temporary);
    if (how == 0) {
        unsigned to = pick(p, false);
        e.address = address_of(to);
        e.size = rng(1000);
        e.node = site + 1;
        plain_alloc(p, to, site, thread, e.size, now);
    }
    mt_live_apply(live, &e, 1);
    plain_peak(p);
}

static void run_stream(uint64_t seed, unsigned steps)
{
    struct mt_live *live = mt_live_create();
    struct plain *p = calloc(1, sizeof(*p));
    struct pending pending[THREADS] = {{0}};

    rng_state = seed * UINT64_C(0x9e3779b97f4a7c15) + 1;
    for (unsigned i = 0; i < THREADS; i++)
        assert_int_equal(mt_live_thread(live), i);
    for (unsigned step = 0; step < steps; step++) {
        unsigned thread = (unsigned)rng(THREADS), choice = (unsigned)rng(10);
        unsigned live_count = 0;
        struct mt_event e = {.stamp = step + 1, .thread = thread};

        for (unsigned i = 0; i < ADDRESSES; i++)
            live_count += p->blocks[i].live;
        if (pending[thread].on) {
            finish_realloc(live, p, &pending[thread], thread, step + 1);
        } else if (live_count == 0 || (choice < 5 && live_count < ADDRESSES - 20)) {
            unsigned at = pick(p, false), site = (unsigned)rng(SITES);
            e.type = rng(2) ? MT_RECORD_ALLOC : MT_RECORD_ALLOC_LARGE;
            e.address = address_of(at);
            e.size = rng(1000);
            e.node = site + 1;
            mt_live_apply(live, &e, 1);
            plain_alloc(p, at, site, thread, e.size, step + 1);
            plain_peak(p);
        } else if (choice < 8) {
            unsigned at = pick(p, true);
            e.type = MT_RECORD_FREE;
            e.address = address_of(at);
            mt_live_apply(live, &e, 1);
            plain_free(p, &p->blocks[at], step + 1, plain_is_temporary(p, &p->blocks[at], thread));
        } else {
            unsigned at = pick(p, true);
            e.type = MT_RECORD_REALLOC_BEGIN;
            e.address = address_of(at);
            mt_live_apply(live, &e, 1);
            pending[thread] = (struct pending){.on = true,
                .temporary = plain_is_temporary(p, &p->blocks[at], thread),
                .block = p->blocks[at],
                .address = at};
            p->blocks[at].live = false; /* the address may be handed out again from now on */
        }
        if (step % 64 == 0 || step + 1 == steps)
            compare(live, p);
    }
    mt_live_destroy(live);
    free(p);
}

static void test_streams_equal_the_plain_model(void **state)
{
    (void)state;
    for (uint64_t seed = 1; seed <= 40; seed++)
        run_stream(seed, 3000);
}

static struct mt_event event(uint32_t type, uint64_t address, uint64_t size, uint32_t node)
{
    static uint64_t stamp;

    return (struct mt_event){.type = type, .stamp = ++stamp, .address = address, .size = size, .node = node};
}

static void send(struct mt_live *live, uint32_t thread, uint32_t type, uint64_t address, uint64_t size, uint32_t node)
{
    struct mt_event e = event(type, address, size, node);

    e.thread = thread;
    mt_live_apply(live, &e, 1);
}

/* Another thread gets the old address before the realloc that moved it has told of its end. */
static void test_realloc_whose_old_address_is_reused(void **state)
{
    struct mt_live *live = mt_live_create();
    const struct mt_live_totals *t = mt_live_totals(live);

    (void)state;
    mt_live_thread(live);
    mt_live_thread(live);
    send(live, 0, MT_RECORD_ALLOC, 0x1000, 100, 1);
    send(live, 0, MT_RECORD_REALLOC_BEGIN, 0x1000, 0, 0);
    assert_int_equal(t->live_bytes, 100);
    send(live, 1, MT_RECORD_ALLOC, 0x1000, 7, 2);
    assert_int_equal(t->live_bytes, 107);
    send(live, 0, MT_RECORD_REALLOC_END, 0x2000, 300, 3);
    assert_int_equal(t->live_bytes, 307);
    assert_int_equal(t->live_blocks, 2);
    assert_int_equal(t->assumed_frees, 0);
    send(live, 0, MT_RECORD_FREE, 0x1000, 0, 0);
    send(live, 0, MT_RECORD_FREE, 0x2000, 0, 0);
    assert_int_equal(t->live_blocks, 0);
    assert_int_equal(t->unmatched_frees, 0);
    assert_int_equal(t->peak_live_bytes, 307);
    mt_live_destroy(live);
}

static void test_realloc_of_what_was_never_seen(void **state)
{
    struct mt_live *live = mt_live_create();
    const struct mt_live_totals *t = mt_live_totals(live);

    (void)state;
    mt_live_thread(live);
    send(live, 0, MT_RECORD_REALLOC_BEGIN, 0x9000, 0, 0);
    send(live, 0, MT_RECORD_REALLOC_FAILED, 0, 0, 0);
    assert_int_equal(t->unmatched_frees, 0);
    send(live, 0, MT_RECORD_REALLOC_BEGIN, 0x9000, 0, 0);
    send(live, 0, MT_RECORD_REALLOC_END, 0x9000, 64, 1);
    assert_int_equal(t->unmatched_frees, 1);
    assert_int_equal(t->live_bytes, 64);
    send(live, 0, MT_RECORD_FREE, 0xdead0, 0, 0);
    assert_int_equal(t->unmatched_frees, 2);
    assert_int_equal(t->freed_blocks, 0);
    mt_live_destroy(live);
}

/* Objects have addresses of their own heap's; a resize that fails leaves the block in the heap that it is of. */
static void test_objects(void **state)
{
    struct mt_live *live = mt_live_create();
    const struct mt_live_totals *t = mt_live_totals(live);

    (void)state;
    mt_live_thread(live);
    send(live, 0, MT_RECORD_ALLOC, 0x1000, 100, 1);
    send(live, 0, MT_RECORD_OBJECT_ALLOC, 0x1000, 7, 1);
    send(live, 0, MT_RECORD_OBJECT_REALLOC_BEGIN, 0x1000, 0, 0);
    assert_int_equal(t->python_bytes, 7);
    send(live, 0, MT_RECORD_REALLOC_FAILED, 0, 0, 0);
    assert_int_equal(t->python_bytes, 7);
    send(live, 0, MT_RECORD_OBJECT_REALLOC_BEGIN, 0x1000, 0, 0);
    send(live, 0, MT_RECORD_OBJECT_REALLOC_END, 0x2000, 9, 2);
    assert_int_equal(t->python_bytes, 9);
    assert_int_equal(t->live_bytes, 109);
    send(live, 0, MT_RECORD_OBJECT_FREE, 0x4000, 0, 0);
    assert_int_equal(t->unmatched_frees, 1);
    send(live, 0, MT_RECORD_OBJECT_FREE, 0x2000, 0, 0);
    assert_int_equal(t->python_bytes, 0);
    send(live, 0, MT_RECORD_OBJECT_ALLOC, 0x3000, 5, 1);
    send(live, 0, MT_RECORD_OBJECT_REALLOC_BEGIN, 0x3000, 0, 0);
    send(live, 0, MT_RECORD_OBJECT_REALLOC_END, 0, 0, 0);
    assert_int_equal(t->live_bytes, 100);
    assert_int_equal(mt_live_site_count(live), 3);
    for (size_t i = 0; i < 3; i++)
        assert_string_equal(mt_live_heap_name(live, mt_live_site(live, i)->heap), i == 0 ? "malloc" : "python");
    /* Handed out before the allocators were wrapped: malloc's, and resized into an object or freed as one. */
    send(live, 0, MT_RECORD_OBJECT_REALLOC_BEGIN, 0x1000, 0, 0);
    send(live, 0, MT_RECORD_REALLOC_FAILED, 0, 0, 0);
    assert_int_equal(t->live_bytes, 100);
    assert_int_equal(t->python_bytes, 0);
    send(live, 0, MT_RECORD_OBJECT_REALLOC_BEGIN, 0x1000, 0, 0);
    send(live, 0, MT_RECORD_OBJECT_REALLOC_END, 0x1000, 90, 1);
    assert_int_equal(t->live_bytes, 90);
    assert_int_equal(t->python_bytes, 90);
    send(live, 0, MT_RECORD_ALLOC, 0x5000, 30, 1);
    send(live, 0, MT_RECORD_OBJECT_FREE, 0x5000, 0, 0);
    assert_int_equal(t->live_bytes, 90);
    assert_int_equal(t->unmatched_frees, 1);
    mt_live_destroy(live);
}

/* A signal handler reallocates while the interrupted code is inside realloc: ends belong to the last beginning. */
static void test_realloc_nested_in_realloc(void **state)
{
    struct mt_live *live = mt_live_create();
    const struct mt_live_totals *t = mt_live_totals(live);

    (void)state;
    mt_live_thread(live);
    send(live, 0, MT_RECORD_ALLOC, 0x1000, 10, 1);
    send(live, 0, MT_RECORD_ALLOC, 0x2000, 20, 1);
    send(live, 0, MT_RECORD_REALLOC_BEGIN, 0x1000, 0, 0);
    send(live, 0, MT_RECORD_REALLOC_BEGIN, 0x2000, 0, 0);
    send(live, 0, MT_RECORD_REALLOC_END, 0, 0, 0);
    assert_int_equal(t->live_bytes, 10);
    send(live, 0, MT_RECORD_REALLOC_FAILED, 0, 0, 0);
    send(live, 0, MT_RECORD_FREE, 0x1000, 0, 0);
    assert_int_equal(t->live_blocks, 0);
    assert_int_equal(t->allocated_blocks, 2);
    assert_int_equal(t->freed_blocks, 2);
    mt_live_destroy(live);
}

static void test_address_handed_out_twice(void **state)
{
    struct mt_live *live = mt_live_create();
    const struct mt_live_totals *t = mt_live_totals(live);

    (void)state;
    mt_live_thread(live);
    send(live, 0, MT_RECORD_ALLOC, 0x1000, 10, 1);
    send(live, 0, MT_RECORD_ALLOC, 0x1000, 30, 2);
    assert_int_equal(t->assumed_frees, 1);
    assert_int_equal(t->live_bytes, 30);
    assert_int_equal(t->allocated_blocks - t->freed_blocks, t->live_blocks);
    mt_live_destroy(live);
}

static void test_custom_heaps_are_apart(void **state)
{
    struct mt_live *live = mt_live_create();
    const struct mt_live_totals *t = mt_live_totals(live);
    struct mt_event e;

    (void)state;
    mt_live_thread(live);
    mt_live_heap_create(live, 5, "pool", 4);
    mt_live_heap_create(live, 6, "malloc", 6); /* must not pass for the real one */
    /* Python's own heap is there from the beginning. */
    send(live, 0, MT_RECORD_ALLOC, 0x1000, 100, 1);
    e = event(MT_RECORD_HEAP_ALLOC, 0x1000, 40, 1);
    e.extra = 5;
    mt_live_apply(live, &e, 1);
    assert_int_equal(t->live_bytes, 100);
    assert_int_equal(mt_live_site(live, 1)->live_bytes, 40);
    assert_string_equal(mt_live_heap_name(live, mt_live_site(live, 1)->heap), "pool");
    e.extra = 6;
    mt_live_apply(live, &e, 1);
    assert_string_equal(mt_live_heap_name(live, mt_live_site(live, 2)->heap), "malloc-6");
    e.extra = MT_HEAP_PYTHON;
    mt_live_apply(live, &e, 1);
    assert_int_equal(t->live_bytes, 140);
    assert_int_equal(t->python_bytes, 40);
    e = event(MT_RECORD_HEAP_FREE, 0x1000, 0, 0);
    e.extra = 5;
    mt_live_apply(live, &e, 1);
    assert_int_equal(mt_live_site(live, 1)->live_bytes, 0);
    assert_int_equal(t->live_bytes, 140);
    mt_live_destroy(live);
}

static void note(struct mt_live *live, enum mt_record_type type, const char *name, uint64_t stamp)
{
    mt_live_text(live, &(struct mt_live_text_event){.type = type, .stamp = stamp, .text = name, .text_bytes = strlen(name)});
}

static void test_phases_and_iterations(void **state)
{
    struct mt_live *live = mt_live_create();
    struct mt_live_note *notes;
    size_t count;

    (void)state;
    mt_live_thread(live);
    send(live, 0, MT_RECORD_ALLOC, 0x1000, 1000, 1);
    send(live, 0, MT_RECORD_FREE, 0x1000, 0, 0);
    note(live, MT_RECORD_PHASE_BEGIN, "outer", 10);
    send(live, 0, MT_RECORD_ALLOC, 0x1000, 100, 1);
    note(live, MT_RECORD_PHASE_BEGIN, "inner", 20);
    send(live, 0, MT_RECORD_ALLOC, 0x2000, 500, 1);
    send(live, 0, MT_RECORD_FREE, 0x2000, 0, 0);
    note(live, MT_RECORD_PHASE_END, "nonsense", 25);
    note(live, MT_RECORD_PHASE_END, "inner", 30);
    note(live, MT_RECORD_ITERATION, "one", 40);
    send(live, 0, MT_RECORD_ALLOC, 0x3000, 50, 1);
    note(live, MT_RECORD_ITERATION, "two", 50);
    note(live, MT_RECORD_MARK, "here", 55);
    mt_live_finish(live, 60, 0, 0);
    count = mt_live_take_notes(live, &notes);
    assert_int_equal(count, 5);
    assert_string_equal(notes[0].name, "inner");
    assert_string_equal(notes[0].parent, "outer");
    assert_int_equal(notes[0].live_before, 100);
    assert_int_equal(notes[0].live_after, 100);
    assert_int_equal(notes[0].peak_live_bytes, 600);
    assert_int_equal(notes[0].allocated_bytes, 500);
    assert_int_equal(notes[0].allocated_blocks, 1);
    assert_int_equal(notes[0].started, 20);
    assert_int_equal(notes[0].ended, 30);
    assert_int_equal(notes[1].type, MT_RECORD_ITERATION);
    assert_int_equal(notes[1].iteration, 1);
    assert_int_equal(notes[1].live_after, 150);
    assert_int_equal(notes[2].type, MT_RECORD_MARK);
    assert_int_equal(notes[2].row_count, 1);
    assert_int_equal(notes[2].rows[0].live_bytes, 150);
    assert_int_equal(notes[3].iteration, 2);
    assert_int_equal(notes[3].ended, 60);
    assert_string_equal(notes[4].name, "outer");
    assert_true(notes[4].ended == MT_LIVE_NEVER);
    assert_int_equal(notes[4].peak_live_bytes, 600);
    mt_live_notes_free(notes, count);
    mt_live_destroy(live);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_streams_equal_the_plain_model),
        cmocka_unit_test(test_realloc_whose_old_address_is_reused),
        cmocka_unit_test(test_realloc_of_what_was_never_seen),
        cmocka_unit_test(test_objects),
        cmocka_unit_test(test_realloc_nested_in_realloc),
        cmocka_unit_test(test_address_handed_out_twice),
        cmocka_unit_test(test_custom_heaps_are_apart),
        cmocka_unit_test(test_phases_and_iterations),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}

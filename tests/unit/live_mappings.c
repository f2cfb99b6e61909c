/*
 * The interval map of mappings against an array with one entry a page.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "rng.h"
#include "live/live.h"

enum { PAGES = 200, SITES = 6, CALLS_MAX = 20000, THREADS = 2 };
#define PAGE UINT64_C(4096)
#define BASE UINT64_C(0x700000000000)

/* Which call mapped each page; 0: nobody. A call has a site and is over when none of its pages is left. */
struct plain {
    uint32_t page[PAGES];
    uint32_t removed[THREADS][PAGES]; /* taken out by a munmap or mremap under way */
    bool pending[THREADS];
    uint32_t pending_type[THREADS];
    uint32_t site_of[CALLS_MAX], calls;
};

static void compare(struct mt_live *live, const struct plain *p)
{
    uint64_t bytes[SITES] = {0}, blocks[SITES] = {0}, total = 0;
    bool *alive = calloc(CALLS_MAX, sizeof(*alive));

    for (unsigned i = 0; i < PAGES; i++) {
        uint32_t calls[1 + THREADS] = {p->page[i]};
        for (unsigned t = 0; t < THREADS; t++)
            calls[1 + t] = p->pending[t] ? p->removed[t][i] : 0;
        for (unsigned k = 0; k < 1 + THREADS; k++) {
            if (!calls[k])
                continue;
            bytes[p->site_of[calls[k]]] += PAGE;
            blocks[p->site_of[calls[k]]] += !alive[calls[k]];
            alive[calls[k]] = true;
            total += PAGE;
        }
    }
    for (size_t i = 0; i < mt_live_site_count(live); i++) {
        const struct mt_live_site *s = mt_live_site(live, i);
        assert_int_equal(s->live_bytes, bytes[s->node - 1]);
        assert_int_equal(s->live_blocks, blocks[s->node - 1]);
        assert_int_equal(s->allocated_blocks - s->freed_blocks, s->live_blocks);
    }
    assert_int_equal(mt_live_totals(live)->live_mapped_bytes, total);
    assert_int_equal(mt_live_totals(live)->live_bytes, 0);
    free(alive);
}

static void plain_map(struct plain *p, unsigned first, unsigned count, unsigned site)
{
    p->site_of[++p->calls] = site;
    for (unsigned i = first; i < first + count; i++)
        p->page[i] = p->calls;
}

static void finish_pending(struct mt_live *live, struct plain *p, unsigned thread, uint64_t now)
{
    struct mt_event e = {.stamp = now, .thread = thread};
    bool fails = rng(3) == 0, is_remap = p->pending_type[thread] == MT_RECORD_REMAP_BEGIN;

    p->pending[thread] = false;
    if (fails)
        for (unsigned i = 0; i < PAGES; i++)
            if (!p->page[i])
                p->page[i] = p->removed[thread][i];
    if (!is_remap) {
        e.type = MT_RECORD_UNMAP_END;
        e.address = fails ? 22 : 0;
    } else {
        unsigned first = (unsigned)rng(PAGES - 40), count = 1 + (unsigned)rng(30), site = (unsigned)rng(SITES);
        e.type = MT_RECORD_REMAP_END;
        e.extra = MT_MAP_ANONYMOUS;
        e.node = site + 1;
        if (!fails) {
            e.address = BASE + first * PAGE;
            e.size = count * PAGE - rng(PAGE);
            plain_map(p, first, count, site);
        }
    }
    mt_live_apply(live, &e, 1);
}

static void run_stream(uint64_t seed, unsigned steps)
{
    struct mt_live *live = mt_live_create();
    struct plain *p = calloc(1, sizeof(*p));

    rng_state = seed * UINT64_C(0x9e3779b97f4a7c15) + 1;
    for (unsigned t = 0; t < THREADS; t++)
        mt_live_thread(live);
    for (unsigned step = 1; step <= steps; step++) {
        unsigned thread = (unsigned)rng(THREADS), first = (unsigned)rng(PAGES - 40), count = 1 + (unsigned)rng(30);
        struct mt_event e = {
            .stamp = step, .thread = thread, .address = BASE + first * PAGE, .size = count * PAGE - rng(PAGE)};

        if (p->pending[thread]) {
            finish_pending(live, p, thread, step);
        } else if (rng(2)) {
            unsigned site = (unsigned)rng(SITES);
            e.type = MT_RECORD_MAP;
            e.extra = MT_MAP_ANONYMOUS;
            e.node = site + 1;
            mt_live_apply(live, &e, 1);
            plain_map(p, first, count, site);
        } else {
            e.type = rng(2) ? MT_RECORD_UNMAP_BEGIN : MT_RECORD_REMAP_BEGIN;
            mt_live_apply(live, &e, 1);
            p->pending[thread] = true;
            p->pending_type[thread] = e.type;
            memset(p->removed[thread], 0, sizeof(p->removed[thread]));
            for (unsigned i = first; i < first + count; i++) {
                p->removed[thread][i] = p->page[i];
                p->page[i] = 0;
            }
        }
        compare(live, p);
    }
    mt_live_destroy(live);
    free(p);
}

static void test_streams_equal_the_page_array(void **state)
{
    (void)state;
    for (uint64_t seed = 1; seed <= 30; seed++)
        run_stream(seed, 1500);
}

static void send(struct mt_live *live, uint32_t type, uint64_t address, uint64_t size, uint32_t flags)
{
    static uint64_t stamp;
    struct mt_event e = {.type = type, .stamp = ++stamp, .address = address, .size = size, .extra = flags, .node = 1};

    mt_live_apply(live, &e, 1);
}

static void test_program_break_in_small_steps(void **state)
{
    struct mt_live *live = mt_live_create();

    (void)state;
    mt_live_thread(live);
    for (uint64_t at = BASE; at < BASE + 3 * PAGE; at += 100)
        send(live, MT_RECORD_MAP, at, 100, MT_MAP_BRK);
    assert_int_equal(mt_live_totals(live)->live_mapped_bytes, 4 * PAGE);
    send(live, MT_RECORD_UNMAP_BEGIN, BASE + 50, 3 * PAGE + 100, 0);
    send(live, MT_RECORD_UNMAP_END, 0, 0, 0);
    assert_int_equal(mt_live_totals(live)->live_mapped_bytes, PAGE);
    mt_live_destroy(live);
}

static void test_kinds(void **state)
{
    struct mt_live *live = mt_live_create();
    const struct mt_live_totals *t = mt_live_totals(live);

    (void)state;
    mt_live_thread(live);
    send(live, MT_RECORD_MAP, BASE, PAGE, MT_MAP_ANONYMOUS);
    send(live, MT_RECORD_MAP, BASE + PAGE, PAGE, MT_MAP_FILE);
    send(live, MT_RECORD_MAP, BASE + 2 * PAGE, PAGE, MT_MAP_ANONYMOUS | MT_MAP_BACKING);
    assert_int_equal(mt_live_site_count(live), 3);
    assert_null(mt_live_kind_name(mt_live_site(live, 0)->kind));
    assert_string_equal(mt_live_kind_name(mt_live_site(live, 1)->kind), "file");
    assert_string_equal(mt_live_kind_name(mt_live_site(live, 2)->kind), "backing");
    assert_int_equal(t->mapped_blocks, 1);
    assert_int_equal(t->live_mapped_bytes, PAGE);
    /* A file mapping that moves stays one, though mremap does not say so. */
    send(live, MT_RECORD_REMAP_BEGIN, BASE + PAGE, PAGE, 0);
    send(live, MT_RECORD_REMAP_END, BASE + 8 * PAGE, 2 * PAGE, 0);
    assert_int_equal(mt_live_site(live, 1)->live_bytes, 2 * PAGE);
    assert_int_equal(mt_live_site(live, 1)->freed_blocks, 1);
    assert_int_equal(t->live_mapped_bytes, PAGE);
    mt_live_destroy(live);
}

static void test_remap_that_keeps_the_old_one(void **state)
{
    struct mt_live *live = mt_live_create();
    const struct mt_live_totals *t = mt_live_totals(live);

    (void)state;
    mt_live_thread(live);
    send(live, MT_RECORD_MAP, BASE, 4 * PAGE, MT_MAP_ANONYMOUS);
    send(live, MT_RECORD_REMAP_BEGIN, BASE, 0, 0);
    send(live, MT_RECORD_REMAP_END, BASE + 16 * PAGE, 4 * PAGE, MT_MAP_ANONYMOUS | MT_MAP_DUPLICATE);
    assert_int_equal(t->live_mapped_bytes, 8 * PAGE);
    send(live, MT_RECORD_REMAP_BEGIN, BASE, 4 * PAGE, 0);
    send(live, MT_RECORD_REMAP_END, BASE + 32 * PAGE, 4 * PAGE, MT_MAP_ANONYMOUS | MT_MAP_DONTUNMAP);
    assert_int_equal(t->live_mapped_bytes, 12 * PAGE);
    assert_int_equal(mt_live_site(live, 0)->live_blocks, 3);
    assert_int_equal(t->peak_mapped_bytes, 12 * PAGE);
    mt_live_destroy(live);
}

static void test_absurd_ranges(void **state)
{
    struct mt_live *live = mt_live_create();

    (void)state;
    mt_live_thread(live);
    send(live, MT_RECORD_MAP, UINT64_MAX - 10, UINT64_MAX, MT_MAP_ANONYMOUS);
    send(live, MT_RECORD_MAP, 0, UINT64_MAX, MT_MAP_ANONYMOUS);
    send(live, MT_RECORD_UNMAP_END, 0, 0, 0);
    send(live, MT_RECORD_REMAP_END, 0, 0, 0);
    send(live, MT_RECORD_UNMAP_BEGIN, 1, UINT64_MAX, 0);
    send(live, MT_RECORD_UNMAP_END, 0, 0, 0);
    assert_int_equal(mt_live_totals(live)->dropped, 0);
    mt_live_destroy(live);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_streams_equal_the_page_array),
        cmocka_unit_test(test_program_break_in_small_steps),
        cmocka_unit_test(test_kinds),
        cmocka_unit_test(test_remap_that_keeps_the_old_one),
        cmocka_unit_test(test_absurd_ranges),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}

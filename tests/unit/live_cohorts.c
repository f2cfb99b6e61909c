/*
 * Cohorts of live/ against a model that keeps every block and looks at all of them at every end.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "live/live.h"

enum { BLOCKS = 4000, SITES = 5, ENDS = 64 };

struct plain {
    uint64_t address, size, birth;
    unsigned iteration, site;
    bool live, mapped;
};

static uint64_t state = 7, stamp;
static struct plain blocks[BLOCKS];
static unsigned count;
static double held[SITES][ENDS + 2][ENDS + 2], bytes[SITES][ENDS + 2][ENDS + 2]; /* [birth][end] */

static unsigned below(unsigned n)
{
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return (unsigned)((state >> 11) % n);
}

static void apply(struct mt_live *live, uint32_t type, uint64_t address, uint64_t size, uint32_t node, uint32_t extra)
{
    mt_live_apply(live,
        &(struct mt_event){.type = type, .stamp = ++stamp, .address = address, .size = size, .node = node, .extra = extra}, 1);
}

static void iteration(struct mt_live *live)
{
    mt_live_text(live, &(struct mt_live_text_event){.type = MT_RECORD_ITERATION, .stamp = ++stamp, .text = ""});
}

static void allocate(struct mt_live *live, unsigned now)
{
    struct plain *b = &blocks[count];

    if (count == BLOCKS)
        return;
    *b = (struct plain){.address = (uint64_t)(0x10000 + count) << 16, .size = 4096 * (1 + below(5)), .iteration = now, .live = true,
        .site = below(SITES)};
    b->mapped = b->site == SITES - 1;
    count++;
    if (b->mapped)
        apply(live, MT_RECORD_MAP, b->address, b->size, b->site, MT_MAP_ANONYMOUS);
    else
        apply(live, MT_RECORD_ALLOC, b->address, b->size, b->site, 0);
}

static void release(struct mt_live *live, struct plain *b)
{
    if (!b->live)
        return;
    b->live = false;
    if (b->mapped) {
        apply(live, MT_RECORD_UNMAP_BEGIN, b->address, b->size, 0, 0);
        apply(live, MT_RECORD_UNMAP_END, 0, 0, 0, 0);
    } else {
        apply(live, MT_RECORD_FREE, b->address, 0, 0, 0);
    }
}

static void look(unsigned end)
{
    for (unsigned i = 0; i < count; i++) {
        if (blocks[i].live) {
            held[blocks[i].site][blocks[i].iteration][end] += 1;
            bytes[blocks[i].site][blocks[i].iteration][end] += (double)blocks[i].size;
        }
    }
}

static void same(double found, double wanted, const char *what, unsigned site, unsigned at)
{
    if (found != wanted)
        fail_msg("%s of site %u at %u: %g, not %g", what, site, at, found, wanted);
}

static void compare(const struct mt_live *live, unsigned ends)
{
    struct mt_live_iterations its;
    struct mt_live_site_cohorts s;
    unsigned compared = 0;

    assert_true(mt_live_iterations(live, &its));
    assert_int_equal(its.ends, ends);
    assert_int_equal(its.period, 1);
    for (size_t k = 0; k < mt_live_site_count(live); k++) {
        unsigned site = mt_live_site(live, k)->node;
        if (!mt_live_site_cohorts(live, k, &s))
            continue;
        compared++;
        assert_true(mt_live_site_grows(live, k));
        for (unsigned b = 0; b <= ends; b++) {
            double risk = 0, deaths = 0, death_bytes = 0;
            for (unsigned i = b <= 2 ? 3 : b + 1; i < ends; i++) {
                risk += held[site][b][i];
                deaths += held[site][b][i] - held[site][b][i + 1];
                death_bytes += bytes[site][b][i] - bytes[site][b][i + 1];
            }
            same(s.survivor_blocks[b], held[site][b][ends], "survivors", site, b);
            same(s.survivor_bytes[b], bytes[site][b][ends], "surviving bytes", site, b);
            same(s.at_risk[b], risk, "at risk", site, b);
            same(s.deaths[b], deaths, "deaths", site, b);
            same(s.death_bytes[b], death_bytes, "dead bytes", site, b);
        }
        for (unsigned i = 1; i <= ends; i++) {
            double all = 0, old = 0;
            for (unsigned b = 0; b <= i; b++) {
                all += bytes[site][b][i];
                old += b < i ? bytes[site][b][i] : 0;
            }
            same(s.live_bytes[i], all, "live bytes", site, i);
            same(s.aged_bytes[i], old, "aged bytes", site, i);
        }
    }
    assert_int_equal(compared, SITES);
}

static struct mt_live *run(unsigned iterations, bool teardown)
{
    struct mt_live *live = mt_live_create();

    memset(held, 0, sizeof(held));
    memset(bytes, 0, sizeof(bytes));
    count = 0;
    assert_int_equal(mt_live_thread(live), 0);
    for (unsigned now = 0; now <= iterations; now++) {
        if (now > 0)
            iteration(live);
        for (unsigned i = 0; i < 40; i++) {
            allocate(live, now);
            if (below(3) > 0)
                release(live, &blocks[below(count)]);
        }
        for (unsigned i = 0; teardown && now == iterations && i < count; i++)
            release(live, &blocks[i]);
        if (now > 0)
            look(now);
    }
    mt_live_finish(live, ++stamp, 0, 0);
    return live;
}

static void against_the_model(void **context)
{
    (void)context;
    for (unsigned iterations = 12; iterations <= 40; iterations += 14) {
        struct mt_live *live = run(iterations, false);
        compare(live, iterations);
        mt_live_destroy(live);
    }
}

/* What goes with the process itself is not what the last iteration left. */
static void torn_down(void **context)
{
    struct mt_live *live = run(12, true);
    struct mt_live_iterations its;

    (void)context;
    assert_true(mt_live_iterations(live, &its));
    assert_true(its.torn_down);
    compare(live, 11);
    mt_live_destroy(live);
}

static void many_iterations(void **context)
{
    struct mt_live *live = mt_live_create();
    struct mt_live_iterations its;
    struct mt_live_site_cohorts s;

    (void)context;
    assert_int_equal(mt_live_thread(live), 0);
    for (unsigned i = 1; i <= 1000; i++) {
        iteration(live);
        apply(live, MT_RECORD_ALLOC, (uint64_t)i << 12, 10, 1, 0);
        apply(live, MT_RECORD_ALLOC, (uint64_t)1 << 40, 10, 2, 0);
        apply(live, MT_RECORD_FREE, (uint64_t)1 << 40, 0, 0, 0);
    }
    mt_live_finish(live, ++stamp, 0, 0);
    assert_true(mt_live_iterations(live, &its));
    assert_int_equal(its.period, 16); /* 1000 / 16 = 62.5: the last 8 are not a whole period */
    assert_int_equal(its.ends, 62);
    assert_true(mt_live_site_cohorts(live, 0, &s));
    for (unsigned i = 1; i <= its.ends; i++) {
        same(s.survivor_blocks[i], 16, "survivors", 0, i);
        same(s.live_blocks[i], 16 * i, "live blocks", 0, i);
        same(s.deaths[i], 0, "deaths", 0, i);
    }
    assert_false(mt_live_site_cohorts(live, 1, &s));
    mt_live_destroy(live);
}

/* An iteration called "exit" at the end does not count. */
static void exit_iteration(void **context)
{
    struct mt_live *live = mt_live_create();
    struct mt_live_iterations its;

    (void)context;
    assert_int_equal(mt_live_thread(live), 0);
    for (unsigned i = 1; i <= 12; i++) {
        iteration(live);
        apply(live, MT_RECORD_ALLOC, (uint64_t)i << 12, 10, 1, 0);
    }
    mt_live_text(live,
        &(struct mt_live_text_event){.type = MT_RECORD_ITERATION, .stamp = ++stamp, .text = "exit", .text_bytes = 4});
    mt_live_finish(live, ++stamp, 0, 0);
    assert_true(mt_live_iterations(live, &its));
    assert_int_equal(its.ends, 12);
    assert_false(its.torn_down);
    assert_true(mt_live_site_grows(live, 0));
    mt_live_destroy(live);
}

static void no_iterations(void **context)
{
    struct mt_live *live = mt_live_create();
    struct mt_live_iterations its;

    (void)context;
    assert_false(mt_live_iterations(live, &its));
    assert_false(mt_live_site_grows(live, 0));
    mt_live_finish(live, ++stamp, 0, 0);
    mt_live_destroy(live);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(against_the_model), cmocka_unit_test(torn_down),
        cmocka_unit_test(many_iterations), cmocka_unit_test(exit_iteration), cmocka_unit_test(no_iterations)};

    return cmocka_run_group_tests(tests, NULL, NULL);
}

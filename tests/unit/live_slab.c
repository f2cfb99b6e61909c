/*
 * The memory of the table of live blocks: items of all sizes that come and go, none of which touches another; what is empty serves other sizes, and is
 * given back; and no memory.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include <sys/resource.h>

#include "rng.h"
#include "base/base.h"
#include "live/slab.h"

enum { ITEMS = 20000 };

static const size_t all_sizes[] = {1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 1536};

struct item {
    unsigned char *bytes;
    size_t size;
    unsigned char fill;
};

static void assert_filled(const struct item *item)
{
    for (size_t i = 0; i < item->size; i += 61)
        assert_int_equal(item->bytes[i], item->fill);
    assert_int_equal(item->bytes[item->size - 1], item->fill);
}

static void take(struct mt_slab *slab, struct item *item, size_t size)
{
    item->bytes = mt_slab_take(slab, size);
    assert_non_null(item->bytes);
    assert_int_equal((uintptr_t)item->bytes % MT_SLAB_UNIT, 0);
    item->size = size;
    item->fill = (unsigned char)rng(256);
    memset(item->bytes, item->fill, size);
}

static void give(struct mt_slab *slab, struct item *item)
{
    assert_filled(item);
    memset(item->bytes, 0xa5, item->size);
    mt_slab_give(slab, item->bytes, item->size);
    item->bytes = NULL;
}

/* Grows and shrinks several times, each time with other sizes. */
static void test_items_do_not_touch(void **state)
{
    struct item *items = calloc(ITEMS, sizeof(*items));
    struct mt_slab slab = {0};

    (void)state;
    rng_state = 1;
    for (unsigned round = 0; round < 6; round++) {
        for (unsigned step = 0; step < ITEMS * 4; step++) {
            struct item *item = &items[rng(ITEMS)];

            if (item->bytes && rng(round % 2 ? 10 : 3))
                give(&slab, item);
            else if (!item->bytes && rng(round % 2 ? 3 : 10))
                take(&slab, item, all_sizes[rng(round < 3 ? 9 : MT_ARRAY_LEN(all_sizes))] * MT_SLAB_UNIT);
        }
    }
    for (size_t i = 0; i < ITEMS; i++)
        if (items[i].bytes)
            give(&slab, &items[i]);
    assert_true(slab.region_count <= 1);
    assert_null(slab.full);
    mt_slab_finish(&slab);
    free(items);
}

/* What was full of one size is full of the next. */
static void test_memory_serves_every_size(void **state)
{
    const size_t bytes = (size_t)12 * MT_PAGES_HUGE_BYTES;
    struct item *items = calloc(bytes / MT_SLAB_UNIT, sizeof(*items));
    struct mt_slab slab = {0};

    (void)state;
    for (size_t s = 0; all_sizes[s] * MT_SLAB_UNIT <= MT_SLAB_ITEM_MAX; s++) {
        size_t size = all_sizes[s] * MT_SLAB_UNIT, count = bytes / size;

        for (size_t i = 0; i < count; i++)
            take(&slab, &items[i], size);
        assert_int_equal(slab.region_count, 13); /* they have headers */
        for (size_t i = 0; i < count; i++)
            give(&slab, &items[i * 7919 % count]); /* a prime that divides none of the counts */
        assert_int_equal(slab.region_count, 1);
        assert_int_equal(slab.empty_count, 1);
    }
    mt_slab_finish(&slab);
    assert_int_equal(slab.region_count, 0);
    free(items);
}

static void test_no_memory(void **state)
{
    struct rlimit old, none = {.rlim_cur = 0};
    struct mt_slab slab = {0};
    struct item first, second, item;

    (void)state;
    assert_int_equal(getrlimit(RLIMIT_AS, &old), 0);
    none.rlim_max = old.rlim_max;
    assert_int_equal(setrlimit(RLIMIT_AS, &none), 0);
    item.bytes = mt_slab_take(&slab, MT_SLAB_UNIT);
    assert_int_equal(setrlimit(RLIMIT_AS, &old), 0);
    assert_null(item.bytes);
    assert_int_equal(slab.region_count, 0);
    take(&slab, &first, MT_SLAB_ITEM_MAX); /* two fill a span */
    take(&slab, &second, MT_SLAB_ITEM_MAX);
    assert_int_equal(setrlimit(RLIMIT_AS, &none), 0);
    do
        item.bytes = mt_slab_take(&slab, MT_SLAB_ITEM_MAX);
    while (item.bytes);
    give(&slab, &first);
    give(&slab, &second);
    take(&slab, &item, MT_SLAB_ITEM_MAX / 2);
    assert_int_equal(setrlimit(RLIMIT_AS, &old), 0);
    take(&slab, &first, MT_SLAB_ITEM_MAX);
    assert_filled(&item);
    assert_int_equal(slab.region_count, 2);
    mt_slab_give(&slab, NULL, 0);
    mt_slab_finish(&slab);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_items_do_not_touch),
        cmocka_unit_test(test_memory_serves_every_size),
        cmocka_unit_test(test_no_memory),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}

/*
 * The table of live blocks against an array: crowded pages, holes, growth, sizes and addresses at their limits, births whose unit grows.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include <errno.h>
#include <sys/resource.h>

#include "rng.h"
#include "live/blocks.h"

enum { ADDRESSES = 4000 };

static void assert_same(const struct mt_block *a, const struct mt_block *b)
{
    assert_int_equal(a->address, b->address);
    assert_int_equal(a->size, b->size);
    assert_int_equal(a->site, b->site);
    assert_int_equal(a->birth, b->birth);
    assert_int_equal(a->iteration, b->iteration);
    assert_int_equal(a->thread, b->thread);
}

static void compare(const struct mt_blocks *blocks, const struct mt_block *plain)
{
    struct mt_block block;
    struct mt_blocks_cursor cursor = {0};
    size_t seen = 0, expected = 0;

    while (mt_blocks_next(blocks, &cursor, &block)) {
        assert_same(&block, &plain[block.address / 16 - 1]);
        seen++;
    }
    for (size_t i = 0; i < ADDRESSES; i++)
        expected += plain[i].address != 0;
    assert_int_equal(seen, expected);
    assert_int_equal(blocks->count, expected);
}

static void never(void *context, const struct mt_block *block)
{
    (void)context;
    fail_msg("a block at %#llx", (unsigned long long)block->address);
}

/*
 * fill: how many of ten operations put a block in. Near 5 the table is small and crowded with holes; 9 makes it grow. trust: half of the
 * steps leave no block to be replaced; the others are run without the array of young ones.
 */
static void run(uint64_t seed, unsigned fill, unsigned steps, bool trust)
{
    struct mt_block *plain = calloc(ADDRESSES, sizeof(*plain)), block, other;
    struct mt_blocks blocks;

    rng_state = seed * UINT64_C(0x9e3779b97f4a7c15) + 1;
    assert_int_equal(mt_blocks_init(&blocks), 0);
    for (unsigned step = 0; step < steps; step++) {
        size_t at = rng(ADDRESSES);

        if (step == (trust ? steps / 2 : 0))
            assert_int_equal(mt_blocks_distrust(&blocks, never, NULL), 0);
        if (rng(10) < fill) {
            if (blocks.young && plain[at].address) {
                assert_true(mt_blocks_remove(&blocks, (at + 1) * 16, &block));
                assert_same(&block, &plain[at]);
                plain[at].address = 0;
            }
            block = (struct mt_block){.address = (at + 1) * 16,
                .size = rng(20) ? rng(1u << 20) : (UINT64_C(1) << 32) - 3 + rng(5),
                .site = (uint32_t)rng(MT_BLOCKS_SITE_MAX),
                .birth = (uint32_t)rng(UINT32_MAX),
                .iteration = (uint16_t)rng(1u << 16),
                .thread = (uint8_t)rng(256)};
            assert_int_equal(mt_blocks_insert(&blocks, &block, &other), 0);
            if (plain[at].address)
                assert_same(&other, &plain[at]);
            else
                assert_int_equal(other.address, 0);
            plain[at] = block;
        } else {
            assert_int_equal(mt_blocks_remove(&blocks, (at + 1) * 16, &block), plain[at].address != 0);
            if (plain[at].address)
                assert_same(&block, &plain[at]);
            plain[at].address = 0;
        }
        if (step % 1000 == 0) {
            compare(&blocks, plain);
            mt_blocks_shift_births(&blocks, 1);
            for (size_t i = 0; i < ADDRESSES; i++)
                plain[i].birth >>= 1;
        }
    }
    compare(&blocks, plain);
    for (size_t i = 0; i < ADDRESSES; i++)
        assert_int_equal(mt_blocks_remove(&blocks, (i + 1) * 16, &block), plain[i].address != 0);
    assert_int_equal(blocks.count, 0);
    assert_int_equal(blocks.large_count, 0);
    mt_blocks_finish(&blocks);
    free(plain);
}

static void test_against_an_array(void **state)
{
    (void)state;
    for (uint64_t seed = 1; seed <= 10; seed++) {
        run(seed, 3, 20000, seed % 2);
        run(seed, 5, 20000, seed % 2);
        run(seed, 9, 20000, seed % 2);
    }
}

static void test_limits(void **state)
{
    struct mt_block block = {.address = UINT64_MAX, .size = UINT64_MAX, .site = MT_BLOCKS_SITE_MAX}, other;
    struct mt_blocks blocks;

    (void)state;
    assert_int_equal(mt_blocks_init(&blocks), 0);
    assert_int_equal(mt_blocks_insert(&blocks, &block, &other), -ERANGE);
    block.site--;
    assert_int_equal(mt_blocks_insert(&blocks, &block, &other), 0);
    assert_false(mt_blocks_remove(&blocks, UINT64_MAX - 1, &other));
    assert_false(mt_blocks_remove(&blocks, 0, &other));
    assert_true(mt_blocks_remove(&blocks, UINT64_MAX, &other));
    assert_same(&other, &block);
    mt_blocks_finish(&blocks);
}

/* Blocks at every byte of a page, and a table of pages that does not keep those that are empty for ever. */
static void test_full_and_empty_pages(void **state)
{
    struct mt_block block = {.size = 1}, other;
    struct mt_blocks blocks;

    (void)state;
    assert_int_equal(mt_blocks_init(&blocks), 0);
    for (uint64_t i = 0; i < 4096; i++) {
        block.address = 0x5000 + (i * 1237) % 4096;
        assert_int_equal(mt_blocks_insert(&blocks, &block, &other), 0);
    }
    for (uint64_t i = 0; i < 4096; i++)
        assert_true(mt_blocks_remove(&blocks, 0x5000 + i, &other));
    for (uint64_t i = 0; i < 1000000; i++) {
        block.address = 0x100000 + i * 4096;
        assert_int_equal(mt_blocks_insert(&blocks, &block, &other), 0);
        assert_true(mt_blocks_remove(&blocks, block.address, &other));
    }
    assert_int_equal(blocks.count, 0);
    assert_true(blocks.page_mask < 1024);
    mt_blocks_finish(&blocks);
}

static uint32_t capacity_at(const struct mt_blocks *blocks, uint64_t address)
{
    return mt_blocks_capacity(mt_blocks_page(blocks, mt_blocks_number(address)));
}

/* Pages filled one after the other: the first grow step by step, the others have their room from the beginning, and less if fewer blocks come. */
static void test_room_like_the_elders(void **state)
{
    struct mt_block block = {.size = 1}, other;
    struct mt_blocks blocks;
    const uint64_t pages = 4 * MT_BLOCKS_ELDERS;

    (void)state;
    assert_int_equal(mt_blocks_init(&blocks), 0);
    assert_int_equal(mt_blocks_distrust(&blocks, never, NULL), 0);
    for (uint64_t page = 0; page < pages; page++) {
        for (uint64_t i = 0; i < 40; i++) {
            block.address = 0x100000 + page * 4096 + i * 96;
            assert_int_equal(mt_blocks_insert(&blocks, &block, &other), 0);
            if (i == 0)
                assert_int_equal(capacity_at(&blocks, block.address), page < MT_BLOCKS_ELDERS ? 4 : 48);
        }
        assert_int_equal(capacity_at(&blocks, block.address), 48);
    }
    for (uint64_t page = 0; page < pages; page++) {
        block.address = 0x10000000 + page * 4096;
        assert_int_equal(mt_blocks_insert(&blocks, &block, &other), 0);
        assert_int_equal(capacity_at(&blocks, block.address), page + 1 < MT_BLOCKS_ELDERS ? 48 : 4);
    }
    for (uint64_t page = 0; page < pages; page++)
        for (uint64_t i = 0; i < 40; i++)
            assert_true(mt_blocks_remove(&blocks, 0x100000 + page * 4096 + i * 96, &other));
    assert_int_equal(blocks.count, pages);
    mt_blocks_finish(&blocks);
}

static void note(void *context, const struct mt_block *block)
{
    *(struct mt_block *)context = *block;
}

/* A block whose free was missed is found when the next one at its address goes into the table: pushed there by others, or by distrust. */
static void test_a_missed_free(void **state)
{
    (void)state;
    for (unsigned pushed = 0; pushed < 2; pushed++) {
        struct mt_block first = {.address = 0x7000, .size = 1}, second = {.address = 0x7000, .size = 2}, other, found = {0};
        struct mt_blocks blocks;

        assert_int_equal(mt_blocks_init(&blocks), 0);
        assert_int_equal(mt_blocks_insert(&blocks, &first, &other), 0);
        for (uint64_t i = 0; i < 100000; i++) {
            struct mt_block block = {.address = 0x100000 + i * 16, .size = 3};

            if (i == 50000)
                assert_int_equal(mt_blocks_insert(&blocks, &second, &other), 0);
            if (i >= 50000 && !pushed)
                break;
            assert_int_equal(mt_blocks_insert(&blocks, &block, &other), 0);
            if (other.address)
                found = other;
        }
        assert_int_equal(found.address, pushed ? 0x7000 : 0);
        assert_int_equal(mt_blocks_distrust(&blocks, note, &found), 0);
        assert_same(&found, &first);
        assert_int_equal(blocks.count, pushed ? 100001 : 50001);
        assert_true(mt_blocks_remove(&blocks, 0x7000, &other));
        assert_same(&other, &second);
        assert_false(mt_blocks_remove(&blocks, 0x7000, &other));
        mt_blocks_finish(&blocks);
    }
}

#if defined(__SANITIZE_ADDRESS__)
#define SANITIZED 1 /* which ends the program where there is no memory */
#elif defined(__has_feature)
#define SANITIZED __has_feature(address_sanitizer)
#else
#define SANITIZED 0
#endif

/* Without memory blocks are refused, and those that were taken stay; with memory again all goes on. */
static void test_no_memory(void **state)
{
    struct rlimit old, none = {.rlim_cur = 0};
    struct mt_block block = {.size = 1}, other;
    struct mt_blocks blocks;
    const uint64_t count = 300000;
    uint64_t refused = 0;

    (void)state;
    if (SANITIZED)
        skip();
    assert_int_equal(mt_blocks_init(&blocks), 0);
    assert_int_equal(mt_blocks_distrust(&blocks, never, NULL), 0);
    assert_int_equal(getrlimit(RLIMIT_AS, &old), 0);
    none.rlim_max = old.rlim_max;
    for (uint64_t i = 0; i < count; i++) {
        block.address = 0x100000 + i * 48;
        if (i == count / 2)
            assert_int_equal(setrlimit(RLIMIT_AS, &none), 0);
        refused += mt_blocks_insert(&blocks, &block, &other) == -ENOMEM;
    }
    assert_int_equal(setrlimit(RLIMIT_AS, &old), 0);
    assert_in_range(refused, 1, count / 2);
    assert_int_equal(blocks.count, count - refused);
    for (uint64_t i = 0; i < count; i++) {
        block.address = 0x100000 + i * 48;
        assert_int_equal(mt_blocks_insert(&blocks, &block, &other), 0);
    }
    assert_int_equal(blocks.count, count);
    assert_int_equal(setrlimit(RLIMIT_AS, &none), 0);
    for (uint64_t i = 0; i < count; i++)
        assert_true(mt_blocks_remove(&blocks, 0x100000 + i * 7919 % count * 48, &other));
    assert_int_equal(setrlimit(RLIMIT_AS, &old), 0);
    assert_int_equal(blocks.count, 0);
    mt_blocks_finish(&blocks);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_against_an_array),
        cmocka_unit_test(test_limits),
        cmocka_unit_test(test_full_and_empty_pages),
        cmocka_unit_test(test_room_like_the_elders),
        cmocka_unit_test(test_a_missed_free),
        cmocka_unit_test(test_no_memory),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}

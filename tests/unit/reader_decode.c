/*
 * Records and segments as a hostile target would make them: refused or skipped, never believed, never read beyond their end.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "segment_fixture.h"

static uint64_t rng_state = 88172645463325252u;

static uint64_t rng(void)
{
    rng_state ^= rng_state << 13;
    rng_state ^= rng_state >> 7;
    rng_state ^= rng_state << 17;
    return rng_state;
}

static void test_lengths(void **state)
{
    uint64_t words[600] = {0};

    (void)state;
    assert_int_equal(decode_length(words, 600), 0);
    words[0] = MT_RECORD_ALLOC;
    assert_int_equal(decode_length(words, 2), 2);
    assert_int_equal(decode_length(words, 1), 0);
    assert_int_equal(decode_length(words, 0), 0);
    words[0] |= MT_RECORD_STAMPED;
    assert_int_equal(decode_length(words, 2), 0);
    assert_int_equal(decode_length(words, 3), 3);
    words[2] = 5; /* pushes five frames */
    assert_int_equal(decode_length(words, 5), 0);
    assert_int_equal(decode_length(words, 6), 6);
    words[2] = MT_RECORD_PUSH_MAX + 1;
    assert_int_equal(decode_length(words, 600), 0);
    words[0] = MT_RECORD_STACK;
    words[1] = UINT64_C(9) << 32 | MT_RECORD_PUSH_MAX;
    assert_int_equal(decode_length(words, 600), 2 + MT_RECORD_PUSH_MAX / 2);
    words[0] = MT_RECORD_TYPES;
    assert_int_equal(decode_length(words, 600), 0);
    words[0] = MT_RECORD_MARK;
    words[1] = UINT64_C(1) << 32 | 8;
    assert_int_equal(decode_length(words, 600), 2 + MT_RECORD_MARK_WORDS + 1);
    words[1] = UINT64_C(1) << 32 | 9; /* more bytes than words */
    assert_int_equal(decode_length(words, 600), 0);
    words[1] = UINT64_MAX;
    assert_int_equal(decode_length(words, 600), 0);
    words[1] = UINT64_C(512) << 32 | MT_RECORD_TEXT_MAX_BYTES;
    assert_int_equal(decode_length(words, 600), 2 + MT_RECORD_MARK_WORDS + 512);
    assert_true(MT_RECORD_WORDS_MAX <= CHUNK_WORDS);
}

static void test_fields(void **state)
{
    struct decoded d;
    uint64_t alloc[] = {UINT64_C(0x1230) << 8 | MT_RECORD_STAMPED | MT_RECORD_ALLOC, 77, UINT64_C(640) << 32 | 5 << 16 | 3,
        UINT64_C(2) << 32 | 1, 3};
    uint64_t large[] = {UINT64_C(0x1230) << 8 | MT_RECORD_ALLOC_LARGE, UINT64_C(1) << 40, UINT64_C(70000) << 32 | 1, 9};

    (void)state;
    assert_true(decode_record(alloc, 5, &d));
    assert_true(d.stamped);
    assert_int_equal(d.event.stamp, 77);
    assert_int_equal(d.event.address, 0x1230);
    assert_int_equal(d.event.size, 640);
    assert_int_equal(d.keep, 5);
    assert_int_equal(d.push, 3);
    assert_ptr_equal(d.frames, alloc + 3);
    assert_true(decode_record(large, 4, &d));
    assert_false(d.stamped);
    assert_int_equal(d.event.size, UINT64_C(1) << 40);
    assert_int_equal(d.keep, 70000);
    assert_int_equal(d.push, 1);
    alloc[0] &= UINT64_C(0xff);
    assert_false(decode_record(alloc, 5, &d)); /* no address; its change of the stack still holds */
    assert_int_equal(d.push, 3);
}

static struct target *target_of(struct mt_writer *writer)
{
    struct target *target = calloc(1, sizeof(*target));
    int fd;

    assert_int_equal(mt_writer_create(writer, MT_SEGMENT_STAMP_TSC, &fd), 0);
    target->segment_fd = target->pidfd = target->proc_fd = -1;
    target->live = mt_live_create();
    assert_int_equal(attach_segment(target, fd), 0);
    return target;
}

/* Rings full of noise, with types that are nearly right: the reader gets through, loses what it cannot read, and says so. */
static void test_noise(void **state)
{
    static struct reader reader;
    struct mt_writer writer;

    (void)state;
    for (unsigned round = 0; round < 200; round++) {
        struct target *target = target_of(&writer);
        struct fixture_ring ring;

        assert_int_equal(mt_writer_add_ring(&writer, 1, 4096, &ring.shared, &ring.words), 0);
        for (unsigned i = 0; i < 4096; i++)
            ring.words[i] = round % 2 && i % 3 == 0 ? (rng() << 8 | rng() % (MT_RECORD_TYPES + 1)) : rng() >> (rng() % 64);
        ring.shared->head = rng() % 4097;
        target->gone = true;
        while (order_drain(&reader, target, SIZE_MAX) > 0)
            ;
        assert_false(order_pending(target));
        life_free(target);
        while (reader.targets) { /* children that the noise told of */
            struct target *next = reader.targets->next;
            life_free(reader.targets);
            reader.targets = next;
        }
        reader.last_target = NULL;
        mt_writer_destroy(&writer);
    }
}

static void test_headers(void **state)
{
    struct mt_writer writer;
    struct mt_segment_header h, bad;
    struct layout layout;
    uint64_t *const fields[] = {&bad.ring_dir_offset, &bad.ring_dir_capacity, &bad.module_offset, &bad.module_capacity,
        &bad.string_offset, &bad.string_capacity, &bad.frame_offset, &bad.frame_capacity};
    int fd;

    (void)state;
    assert_int_equal(mt_writer_create(&writer, 0, &fd), 0);
    h = *writer.header;
    assert_int_equal(layout_check(&h, h.file_bytes, &layout), 0);
    for (size_t i = 0; i < MT_ARRAY_LEN(fields); i++) {
        bad = h;
        *fields[i] = UINT64_MAX - 7;
        assert_int_equal(layout_check(&bad, h.file_bytes, &layout), -EBADMSG);
        bad = h;
        *fields[i] += h.file_bytes & ~UINT64_C(7);
        assert_int_equal(layout_check(&bad, h.file_bytes, &layout), -EBADMSG);
    }
    bad = h;
    bad.magic++;
    assert_int_equal(layout_check(&bad, h.file_bytes, &layout), -EBADMSG);
    bad = h;
    bad.version++;
    assert_int_equal(layout_check(&bad, h.file_bytes, &layout), -EPROTO);
    assert_int_equal(layout_check(&h, h.file_bytes - 1, &layout), -EBADMSG);
    mt_writer_destroy(&writer);
    close(fd);
}

static void test_file_that_could_shrink_is_refused(void **state)
{
    struct target target = {.segment_fd = -1};
    int fd = memfd_create("test", MFD_CLOEXEC | MFD_ALLOW_SEALING);

    (void)state;
    assert_int_equal(ftruncate(fd, 1 << 20), 0);
    assert_int_equal(attach_segment(&target, fd), -EPERM);
    assert_int_equal(fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW), 0);
    assert_int_equal(attach_segment(&target, fd), -EBADMSG);
    close(fd);
}

static void test_rings_that_cannot_be(void **state)
{
    static struct reader reader;
    struct mt_writer writer;
    struct target *target = target_of(&writer);
    struct fixture_ring good, huge, ahead;

    (void)state;
    assert_int_equal(mt_writer_add_ring(&writer, 1, 4096, &good.shared, &good.words), 0);
    assert_int_equal(mt_writer_add_ring(&writer, 2, 4096, &huge.shared, &huge.words), 0);
    assert_int_equal(mt_writer_add_ring(&writer, 3, 4096, &ahead.shared, &ahead.words), 0);
    huge.shared->capacity_words = UINT64_C(1) << 60;
    ahead.shared->head = 4097;
    writer.ring_dir[3] = 12345;
    writer.ring_dir[4] = UINT64_MAX - 4095;
    writer.header->ring_count = 5;
    fixture_alloc(&good, 1, 0x1000, 10);
    target->gone = true;
    assert_int_equal(order_drain(&reader, target, SIZE_MAX), 1);
    assert_int_equal(target->lost_decode, 4);
    assert_int_equal(mt_live_totals(target->live)->live_bytes, 10);
    writer.header->ring_count = UINT32_MAX;
    order_drain(&reader, target, SIZE_MAX);
    assert_int_equal(target->ring_count, writer.header->ring_dir_capacity);
    life_free(target);
    mt_writer_destroy(&writer);
}

/* A module that does not exist: module 0. */
static void test_tables_that_cannot_be(void **state)
{
    struct mt_writer writer;
    struct target *target = target_of(&writer);
    struct mt_frame frame = {.offset = 5, .module = 99};
    uint32_t id;

    (void)state;
    assert_int_equal(mt_writer_add_frame(&writer, &frame, &id), 0);
    assert_int_equal(tables_update(target), 0);
    assert_int_equal(target->tables.frame_count, 1);
    assert_int_equal(target->tables.frames[0].module, 0);
    assert_string_equal(target->tables.modules[0].path, "[unknown]");
    life_free(target);
    mt_writer_destroy(&writer);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_lengths),
        cmocka_unit_test(test_fields),
        cmocka_unit_test(test_noise),
        cmocka_unit_test(test_headers),
        cmocka_unit_test(test_file_that_could_shrink_is_refused),
        cmocka_unit_test(test_rings_that_cannot_be),
        cmocka_unit_test(test_tables_that_cannot_be),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}

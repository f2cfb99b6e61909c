/* Kept frames of 3.11 compared with frames by the processor's wide instructions: what is asked of a frame, and which one is told. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#include "python/frames.h"

#if defined(__x86_64__)
#include "python/arch/x86_64/verify.h"

enum { FRAMES = 11, FRAME_BYTES = 88 }; /* of such a size that loads straddle the lines of the processor's cache */

static _Alignas(8) char frames[FRAMES][FRAME_BYTES];
static struct mt_python_place places[FRAMES + 1];

static uint64_t *word(size_t frame, size_t bytes)
{
    return (uint64_t *)(void *)(frames[frame] + bytes);
}

/* Frame 0 is the outermost. */
static void make(void)
{
    memset(places, 0, sizeof places);
    for (size_t i = 0; i < FRAMES; i++) {
        for (size_t b = 0; b < FRAME_BYTES; b++)
            frames[i][b] = (char)(i * 31 + b);
        *word(i, MT_PYTHON_PREVIOUS_3_11) = i ? (uintptr_t)frames[i - 1] : 0;
        places[i].note = (struct mt_python_note){77, 88};
        places[i].previous = i ? frames[i - 1] : NULL;
        places[i].instruction = *word(i, MT_PYTHON_INSTRUCTION_3_11);
        places[i].state = *word(i, MT_PYTHON_STATE_3_11);
        places[i + 1].previous = frames[i];
    }
}

static size_t verify(size_t count)
{
    return mt_arch_verify_wide(places + count, places, MT_PYTHON_PLACE_3_11, MT_PYTHON_STATE_ENTRY);
}

static void finds_the_innermost_that_differs(void **state)
{
    (void)state;
    if (!mt_arch_has_wide_verify())
        skip();
    make();
    for (size_t count = 0; count <= FRAMES; count++)
        assert_int_equal(verify(count), 0);
    for (size_t i = 0; i < FRAMES; i++) {
        for (unsigned bit = 0; bit < 64; bit++) {
            *word(i, MT_PYTHON_INSTRUCTION_3_11) ^= UINT64_C(1) << bit;
            assert_int_equal(verify(FRAMES), i + 1);
            assert_int_equal(verify(i), 0); /* outside of it nothing has changed */
            *word(i, MT_PYTHON_INSTRUCTION_3_11) ^= UINT64_C(1) << bit;
            *word(i, MT_PYTHON_PREVIOUS_3_11) ^= UINT64_C(1) << bit;
            assert_int_equal(verify(FRAMES), i + 1);
            *word(i, MT_PYTHON_PREVIOUS_3_11) ^= UINT64_C(1) << bit;
            *word(i, MT_PYTHON_STATE_3_11) ^= UINT64_C(1) << bit;
            assert_int_equal(verify(FRAMES), MT_PYTHON_STATE_ENTRY >> bit & 1 ? i + 1 : 0);
            *word(i, MT_PYTHON_STATE_3_11) ^= UINT64_C(1) << bit;
        }
    }
    assert_int_equal(verify(FRAMES), 0);
}

static void of_two_the_inner_one_is_told(void **state)
{
    (void)state;
    if (!mt_arch_has_wide_verify())
        skip();
    make();
    for (size_t i = 1; i < FRAMES; i++) {
        *word(i, MT_PYTHON_INSTRUCTION_3_11) ^= 1;
        *word(i - 1, MT_PYTHON_INSTRUCTION_3_11) ^= 1;
        assert_int_equal(verify(FRAMES), i + 1);
        *word(i, MT_PYTHON_INSTRUCTION_3_11) ^= 1;
        assert_int_equal(verify(FRAMES), i);
        *word(i - 1, MT_PYTHON_INSTRUCTION_3_11) ^= 1;
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(finds_the_innermost_that_differs),
        cmocka_unit_test(of_two_the_inner_one_is_told),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
#else
int main(void)
{
    return 0; /* there is no such comparison here */
}
#endif

/*
 * Python in the reader: line tables, well made and not; stacks of two kinds merged; a target that lies.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "reader/python.h"

/* Entries, each 1kkkklll, for the kinds there are. */
static void test_lines(void **state)
{
    static const uint8_t table[] = {
        0x80 | 0 << 3 | 1, 0x00,                         /* units 0-1: line 10, short */
        0x80 | 10 << 3 | 0, 0x00, 0x00,                  /* 2: one line, no change */
        0x80 | 12 << 3 | 2, 0x00, 0x00,                  /* 3-5: line 12 */
        0x80 | 13 << 3 | 0, 0x03,                        /* 6: line 11 (-1) */
        0x80 | 14 << 3 | 7, 0x40 | 8, 0x03, 0x41, 0x01, 0x02, 0x05, /* 7-14: + (8 | 3 << 6) / 2 = +100; three numbers, one of two bytes */
        0x80 | 15 << 3 | 0,                              /* 15: no line */
        0x80 | 11 << 3 | 0, 0x00, 0x00,                  /* 16: line 112 */
    };
    static const int64_t expected[] = {10, 10, 10, 12, 12, 12, 11, 111, 111, 111, 111, 111, 111, 111, 111, 0, 112, 0, 0};

    (void)state;
    for (uint64_t unit = 0; unit < sizeof(expected) / sizeof(expected[0]); unit++)
        assert_int_equal(python_line(table, sizeof(table), 10, unit), expected[unit]);
    assert_int_equal(python_line(NULL, 0, 10, 0), 0);
    assert_int_equal(python_line(table, sizeof(table), 10, UINT64_MAX), 0);
}

/* Any bytes end, and give no line or a line that can be. Exact buffers, for the sanitizers. */
static void test_lines_of_noise(void **state)
{
    uint32_t seed = 12345;

    (void)state;
    for (unsigned round = 0; round < 200000; round++) {
        size_t count = (seed >> 8) % 40;
        uint8_t *bytes = malloc(count + 1);
        int64_t line;

        for (size_t i = 0; i < count; i++) {
            seed = seed * 1664525 + 1013904223;
            bytes[i] = (uint8_t)(seed >> 24 | (round & 1 ? 0x80 : 0));
        }
        bytes = realloc(bytes, count ? count : 1);
        line = python_line(bytes, count, (int64_t)(seed >> 16), seed % 64);
        assert_true(line >= 0 && line <= INT32_MAX);
        free(bytes);
        seed = seed * 1664525 + 1013904223;
    }
}

/* ---- merging ------------------------------------------------------------------------------------------------------ */

enum { NATIVE = 0, PYTHON = MT_FRAME_PYTHON, ENTRY = MT_FRAME_PYTHON | MT_FRAME_ENTRY };
enum { EXTENSION = 1, INTERPRETER = 2 }; /* modules */

static struct mt_store_module modules[] = {{.path = "[unknown]", .flags = MT_MODULE_UNKNOWN}, {.path = "/ext.so"},
    {.path = "/python", .flags = READER_MODULE_PYTHON}};
static struct mt_store_frame frames[] = {
    {0x500, INTERPRETER, 0},   /* 0: in the loop */
    {0x100, INTERPRETER, 0},   /* 1: calls the loop */
    {0x20, EXTENSION, 0},      /* 2: an extension that calls back */
    {0x300, INTERPRETER, 0},   /* 3: something that allocates */
    {0, 0, ENTRY},             /* 4: <module>, line 1 */
    {1, 0, PYTHON},            /* 5: <module>, line 2: called from Python */
    {0, 1, ENTRY},             /* 6: callback, line 5 */
    {0, 99, PYTHON},           /* 7: a code that is not there */
    {0x900, INTERPRETER, 0},   /* 8: a part of the loop that the compiler put elsewhere */
};
static uint8_t two_lines[] = {0x80, 0x00, 0x80 | 11 << 3, 0x00, 0x00};
static struct code codes[] = {
    {.filename = (char *)"/m.py", .qualname = (char *)"<module>", .lines = two_lines, .lines_bytes = 5, .first_line = 1},
    {.filename = (char *)"/c.py", .qualname = (char *)"callback", .lines = two_lines, .lines_bytes = 5, .first_line = 5}};
static struct mt_store_node nodes[] = {
    {0, 0},
    {0, 1}, {1, 0}, {2, 2}, {3, 1}, {4, 0}, {5, 3}, /* 1-6: calls-loop, loop, extension, calls-loop, loop, allocates */
    {0, 4}, {7, 5}, {8, 6},                         /* 7-9: module, module, callback */
    {6, MT_NODE_PAIR | 9},                          /* 10: all of it */
    {2, MT_NODE_PAIR | 8},                          /* 11: one pass, one run */
    {5, MT_NODE_PAIR | 8},                          /* 12: two passes, one run: the inner function has not begun */
    {0, MT_NODE_PAIR | 9},                          /* 13: no native stack */
    {0, 7}, {0, MT_NODE_PAIR | 14},                 /* 14-15: a code that is not there */
    {4, 8}, {16, 3}, {17, MT_NODE_PAIR | 9},        /* 16-18: the inner pass in another part */
    {3, 4}, {0, 2}, {6, MT_NODE_PAIR | 20},         /* 19-21: a Python frame in a native stack, and the other way round */
    {8, 5}, {2, MT_NODE_PAIR | 9},                  /* 22-23: more runs than passes */
};

static struct merger *make(struct target *target)
{
    struct merger *m;

    memset(target, 0, sizeof(*target));
    target->tables = (struct tables){.modules = modules, .module_count = 3, .frames = frames, .frame_count = 9, .nodes = nodes,
        .node_count = sizeof(nodes) / sizeof(nodes[0]), .codes = codes, .code_count = 2, .has_python = true};
    target->tables.python_loop[0][0] = 0x500;
    target->tables.python_loop[0][1] = 0x600;
    assert_int_equal(python_merger_update(target, &m), 0);
    return m;
}

/* The merged stack in words, innermost first. */
static char *words(struct merger *m, uint32_t node)
{
    static char text[512];
    struct mt_store_stacks s;
    uint32_t at;

    assert_int_equal(python_merge(m, node, &at), 0);
    s = python_stacks(m);
    text[0] = '\0';
    for (; at; at = s.nodes[at].parent) {
        const struct mt_store_frame *f = &s.frames[s.nodes[at].frame];
        size_t n = strlen(text);

        assert_true(s.nodes[at].parent < at && s.nodes[at].frame < s.frame_count && f->module < s.module_count);
        if (f->flags & MT_FRAME_PYTHON)
            snprintf(text + n, sizeof(text) - n, "%s:%u ", s.python_lines[s.nodes[at].frame].function,
                s.python_lines[s.nodes[at].frame].line);
        else
            snprintf(text + n, sizeof(text) - n, "%s+%x ", s.modules[f->module].path, (unsigned)f->offset);
    }
    return text;
}

static void test_merge(void **state)
{
    struct target target;
    struct merger *m = make(&target);

    (void)state;
    for (unsigned twice = 0; twice < 2; twice++) {
        assert_string_equal(words(m, 10), "callback:5 /ext.so+20 <module>:2 <module>:1 ");
        assert_string_equal(words(m, 11), "<module>:2 <module>:1 ");
        assert_string_equal(words(m, 12), "/ext.so+20 <module>:2 <module>:1 ");
        assert_string_equal(words(m, 13), "callback:5 <module>:2 <module>:1 ");
        assert_string_equal(words(m, 15), "[python]:0 ");
        assert_string_equal(words(m, 18), "callback:5 /ext.so+20 <module>:2 <module>:1 ");
        assert_string_equal(words(m, 6), "/python+300 /python+500 /python+100 /ext.so+20 /python+500 /python+100 ");
        assert_string_equal(words(m, 19), "/ext.so+20 /python+500 /python+100 ");
        assert_string_equal(words(m, 21), "/ext.so+20 ");
        assert_string_equal(words(m, 23), "callback:5 <module>:2 <module>:1 ");
        assert_string_equal(words(m, 0), "");
        assert_string_equal(words(m, 4711), "");
    }
    python_merger_free(m);
}

/* A pass that could not be told from its frame alone, and only later by its caller: then what was merged before is merged again. */
static void test_learnt_later(void **state)
{
    static struct mt_store_node early[] = {
        {0, 0}, {0, 1}, {1, 8}, {2, 3}, {0, 4}, {3, MT_NODE_PAIR | 4}, /* 1-5: calls-loop, another part, allocates; module; both */
        {1, 0}}; /* 6: the caller does call the loop */
    struct target target;
    struct merger *m = make(&target);

    (void)state;
    python_merger_free(m);
    target.merger = NULL;
    target.tables.nodes = early;
    target.tables.node_count = 6;
    setenv("MEMTRACE_INTERNALS", "1", 1);
    assert_int_equal(python_merger_update(&target, &m), 0);
    assert_string_equal(words(m, 5), "/python+300 /python+900 /python+100 <module>:1 ");
    target.tables.node_count = 7;
    assert_int_equal(python_merger_update(&target, &m), 0);
    assert_string_equal(words(m, 5), "/python+300 <module>:1 /python+900 /python+100 ");
    assert_int_equal(target.merges, 3);
    target.tables.python_loop[1][0] = 0x900; /* and the part is told of */
    target.tables.python_loop[1][1] = 0xa00;
    assert_int_equal(python_merger_update(&target, &m), 0);
    assert_string_equal(words(m, 5), "/python+300 <module>:1 /python+900 /python+100 ");
    assert_int_equal(target.merges, 4);
    assert_int_equal(python_merger_update(&target, &m), 0);
    assert_int_equal(target.merges, 4);
    unsetenv("MEMTRACE_INTERNALS");
    python_merger_free(m);
}

/* The innermost Python frame is told for each merged node. */
static void test_responsible(void **state)
{
    struct target target;
    struct merger *m = make(&target);
    struct mt_store_stacks s;
    uint32_t node;

    (void)state;
    assert_int_equal(python_merge(m, 12, &node), 0);
    s = python_stacks(m);
    assert_true(s.python_frames[node] > 0);
    assert_string_equal(s.python_lines[s.python_frames[node] - 1].function, "<module>");
    assert_int_equal(s.python_lines[s.python_frames[node] - 1].line, 2);
    assert_int_equal(python_merge(m, 6, &node), 0);
    assert_int_equal(python_stacks(m).python_frames[node], 0);
    python_merger_free(m);
}

static void test_internals_kept(void **state)
{
    struct target target;
    struct merger *m;

    (void)state;
    setenv("MEMTRACE_INTERNALS", "1", 1);
    m = make(&target);
    assert_string_equal(words(m, 10), "/python+300 callback:5 /python+500 /python+100 /ext.so+20 <module>:2 <module>:1 /python+500 "
                                      "/python+100 ");
    python_merger_free(m);
    unsetenv("MEMTRACE_INTERNALS");
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_lines), cmocka_unit_test(test_lines_of_noise),
        cmocka_unit_test(test_merge), cmocka_unit_test(test_learnt_later),
        cmocka_unit_test(test_responsible), cmocka_unit_test(test_internals_kept)};

    return cmocka_run_group_tests(tests, NULL, NULL);
}

/*
 * CPython's line tables. A table is a row of entries, each for some code units. The first byte of an entry is 1kkkklll: its kind, and the number of code units less one;
 * behind it come, by kind, columns (not used here) and how the line changes. Variable numbers have six bits to a byte, low ones first, and 0x40 where there is more;
 * signed ones have the sign in bit 0.
 */
#include <errno.h>
#include <stdlib.h>

#include "reader/python.h"

enum { KIND_ONE_LINE = 10, KIND_NO_COLUMNS = 13, KIND_LONG = 14, KIND_NONE = 15 };

struct table {
    const uint8_t *at, *end;
};

static uint64_t number(struct table *t)
{
    uint64_t value = 0;

    for (unsigned shift = 0; t->at < t->end && shift < 60; shift += 6) {
        uint8_t byte = *t->at++;

        value |= (uint64_t)(byte & 0x3f) << shift;
        if (!(byte & 0x40))
            break;
    }
    return value;
}

static int64_t signed_number(struct table *t)
{
    uint64_t value = number(t);

    return value & 1 ? -(int64_t)(value >> 1) : (int64_t)(value >> 1);
}

static void skip(struct table *t, size_t bytes)
{
    t->at = bytes < (size_t)(t->end - t->at) ? t->at + bytes : t->end;
}

/* The next entry: how many units, and *line as of it. False: there is none, or what is there is none. */
static bool next_entry(struct table *t, int64_t *line, unsigned *ret_units, unsigned *ret_kind)
{
    uint8_t head;
    unsigned kind;

    if (t->at >= t->end)
        return false;
    head = *t->at++;
    kind = head >> 3 & 15;
    if (!(head & 0x80))
        return false;
    if (kind < KIND_ONE_LINE) {
        skip(t, 1);
    } else if (kind < KIND_NO_COLUMNS) {
        *line += kind - KIND_ONE_LINE;
        skip(t, 2);
    } else if (kind == KIND_NO_COLUMNS) {
        *line += signed_number(t);
    } else if (kind == KIND_LONG) {
        *line += signed_number(t);
        for (unsigned i = 0; i < 3; i++)
            number(t);
    }
    *ret_units = (head & 7) + 1u;
    *ret_kind = kind;
    return *line >= 0 && *line <= INT32_MAX;
}

int64_t python_line(const uint8_t *bytes, size_t count, int64_t first_line, uint64_t unit)
{
    struct table t = {bytes, bytes + count};
    int64_t line = first_line;
    unsigned units, kind;

    while (next_entry(&t, &line, &units, &kind)) {
        if (unit < units)
            return kind == KIND_NONE ? 0 : line;
        unit -= units;
    }
    return 0;
}

static int expand(struct code *code)
{
    struct table t = {code->lines, code->lines + code->lines_bytes};
    int64_t line = code->first_line;
    unsigned units, kind;
    uint64_t end = 0;
    /* An entry has two bytes or more, but for kinds without a line. */
    struct line_run *runs = calloc(code->lines_bytes + 1, sizeof(*runs));

    if (!runs)
        return -ENOMEM;
    while (next_entry(&t, &line, &units, &kind)) {
        uint32_t here = kind == KIND_NONE ? 0 : (uint32_t)line;

        end += units;
        if (!code->run_count || runs[code->run_count - 1].line != here)
            code->run_count++;
        runs[code->run_count - 1] = (struct line_run){(uint32_t)end, here};
    }
    code->runs = reallocarray(runs, code->run_count + 1, sizeof(*runs));
    if (!code->runs)
        code->runs = runs;
    return 0;
}

int64_t python_code_line(struct code *code, uint64_t unit)
{
    size_t low = 0, high;

    if (!code->runs && (!code->lines_bytes || expand(code) < 0))
        return python_line(code->lines, code->lines_bytes, code->first_line, unit);
    for (high = code->run_count; low < high;) {
        size_t middle = (low + high) / 2;

        if (unit < code->runs[middle].end)
            high = middle;
        else
            low = middle + 1;
    }
    return low < code->run_count ? code->runs[low].line : 0;
}

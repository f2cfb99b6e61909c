/*
 * CPython's line tables. A table is a row of entries, each for some code units. The first byte of an entry is 1kkkklll: its kind, and the number of code units less one;
 * behind it come, by kind, columns (not used here) and how the line changes. Variable numbers have six bits to a byte, low ones first, and 0x40 where there is more;
 * signed ones have the sign in bit 0.
 */
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

int64_t python_line(const uint8_t *bytes, size_t count, int64_t first_line, uint64_t unit)
{
    struct table t = {bytes, bytes + count};
    int64_t line = first_line;

    while (t.at < t.end) {
        uint8_t head = *t.at++;
        unsigned kind = head >> 3 & 15, units = (head & 7) + 1u;

        if (!(head & 0x80))
            return 0;
        if (kind < KIND_ONE_LINE) {
            skip(&t, 1);
        } else if (kind < KIND_NO_COLUMNS) {
            line += kind - KIND_ONE_LINE;
            skip(&t, 2);
        } else if (kind == KIND_NO_COLUMNS) {
            line += signed_number(&t);
        } else if (kind == KIND_LONG) {
            line += signed_number(&t);
            for (unsigned i = 0; i < 3; i++)
                number(&t);
        }
        if (line < 0 || line > INT32_MAX)
            return 0;
        if (unit < units)
            return kind == KIND_NONE ? 0 : line;
        unit -= units;
    }
    return 0;
}

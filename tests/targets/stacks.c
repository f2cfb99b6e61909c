/*
 * 20,000 ways to the same three functions: at each of 15 depths one of two callers, by the bits of a number. Every way allocates and
 * frees one block in passing(), every hundredth leaves 100 bytes in held(), way 12,345 a million in large().
 */
#include "target.h"

enum { WAYS = 20000, DEPTH = 15 };

static NOINLINE int step(unsigned depth, unsigned way);

static NOINLINE int passing(unsigned way)
{
    free(keep(malloc(16 + way % 8)));
    return 1;
}

static NOINLINE int held(void)
{
    keep(malloc(100));
    return 1;
}

static NOINLINE int large(void)
{
    keep(malloc(1000000));
    return 1;
}

static NOINLINE int left(unsigned depth, unsigned way)
{
    return step(depth, way) + 1;
}

static NOINLINE int right(unsigned depth, unsigned way)
{
    return step(depth, way) + 1;
}

static NOINLINE int step(unsigned depth, unsigned way)
{
    if (depth < DEPTH)
        return (way >> depth & 1 ? right(depth + 1, way) : left(depth + 1, way)) + 1;
    return passing(way) + (way % 100 == 0 ? held() : 0) + (way == 12345 ? large() : 0);
}

int main(void)
{
    int sum = 0;

    for (unsigned way = 0; way < WAYS; way++)
        sum += step(0, way);
    return sum == WAYS * (2 * DEPTH + 1) + WAYS / 100 + 1 ? 0 : 1;
}

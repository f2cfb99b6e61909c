/*
 * Built twice, with the same code layout but different frames (HOLE) and names (NAME): loaded at the same address after
 * one another, a stack walked by stale rules is wrong.
 */
#include <string.h>

typedef void callback(int count);
void NAME(callback *f, int count);

__attribute__((noinline)) void NAME(callback *f, int count)
{
    volatile char hole[HOLE];

    hole[0] = (char)count;
    hole[HOLE - 1] = 1;
    f(count);
    hole[1] = hole[0];
}

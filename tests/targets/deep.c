/* Recursion 500 deep with a block at every depth: every stack reaches main. */
#include "target.h"

static NOINLINE int recurse(int depth)
{
    keep(malloc((size_t)depth));
    if (depth == 500)
        return 0;
    return recurse(depth + 1) + 1;
}

int main(void)
{
    return recurse(1) == 499 ? 0 : 1;
}

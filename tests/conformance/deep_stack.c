/* Two callers of one recursion, 200 deep: profilers with 64 frames cut the root off and merge them. */
#include "target.h"

static NOINLINE int descend(int depth)
{
    if (depth == 0) {
        keep(malloc(10));
        return 0;
    }
    return descend(depth - 1) + 1;
}

static NOINLINE int caller_one(void)
{
    return descend(200) + 1;
}

static NOINLINE int caller_two(void)
{
    return descend(200) + descend(200) + descend(200);
}

int main(void)
{
    caller_one();
    caller_two();
    return 0;
}

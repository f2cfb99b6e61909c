/* memalign, valloc, pvalloc and reallocarray count: heaptrack does not see memalign and pvalloc, bytehound panics on valloc and pvalloc. */
#include <malloc.h>

#include "target.h"

static NOINLINE void by_memalign(void)
{
    for (int i = 0; i < 5; i++)
        keep(memalign(64, 100));
}

static NOINLINE void by_valloc(void)
{
    for (int i = 0; i < 5; i++)
        keep(valloc(200));
}

static NOINLINE void by_pvalloc(void)
{
    for (int i = 0; i < 5; i++)
        keep(pvalloc(4096));
}

static NOINLINE void by_reallocarray(void)
{
    for (int i = 0; i < 5; i++)
        keep(reallocarray(NULL, 10, 10));
}

int main(void)
{
    by_memalign();
    by_valloc();
    by_pvalloc();
    by_reallocarray();
    return 0;
}

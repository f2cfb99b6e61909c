/* jemalloc's own API, in a program linked with it. Sizes are counted as asked for. */
#include <jemalloc/jemalloc.h>

#include "target.h"

static NOINLINE void hold_mallocx(void) /* 5 of 100, live */
{
    for (int i = 0; i < 5; i++)
        keep(mallocx(100, i & 1 ? MALLOCX_ZERO : MALLOCX_ALIGN(64)));
}

static NOINLINE void move_rallocx(void) /* 10 then 5000: 2 blocks, 1 live */
{
    keep(rallocx(keep(mallocx(10, 0)), 5000, 0));
}

static NOINLINE void stay_xallocx(void) /* 1 of 100: cannot grow to 1,000,000 where it is; the block stays */
{
    void *p = keep(mallocx(100, 0));
    size_t real = sallocx(p, 0);

    CHECK(xallocx(p, 1000000, 0, 0) == real);
    CHECK(sallocx(p, 0) == real);
}

static NOINLINE void drop(void) /* 2 * 20 of 200, none live */
{
    for (int i = 0; i < 20; i++) {
        dallocx(keep(mallocx(200, 0)), 0);
        sdallocx(keep(mallocx(200, 0)), 200, 0);
    }
}

static NOINLINE void plain(void) /* 3 of 30 through malloc, 2 live */
{
    void *p = keep(malloc(30));

    keep(malloc(30));
    keep(malloc(30));
    free(p);
}

int main(void)
{
    hold_mallocx();
    move_rallocx();
    stay_xallocx();
    drop();
    plain();
    return 0;
}

/* The rules of realloc and of the rarer allocation functions, and what they do when they fail. */
#include <errno.h>
#include <malloc.h>

#include "target.h"

static volatile size_t huge = (size_t)-1 / 2; /* volatile: no warning, no folding */
static volatile size_t none = 0;
static char held[1];

static NOINLINE void grow(void) /* 1 + 20 blocks, 16 + 16 * (2 ... 21) bytes; 1 live */
{
    void *p = malloc(16);

    for (size_t i = 2; i <= 21; i++)
        p = keep(realloc(p, 16 * i));
}

static NOINLINE void shrink(void) /* 4000 + 40 */
{
    keep(realloc(keep(malloc(4000)), 40));
}

static NOINLINE void move(void) /* a neighbour in the way, 300,000 bytes: 2 + 1 blocks */
{
    void *p = malloc(100), *wall = malloc(200);

    keep(wall);
    keep(realloc(p, 300000));
}

static NOINLINE void fail(void) /* 1 block of 55 bytes, live */
{
    char *p = malloc(55);

    p[0] = 'x';
    errno = 0;
    CHECK(realloc(p, huge) == NULL);
    CHECK(errno == ENOMEM);
    CHECK(p[0] == 'x');
    keep(p);
}

static NOINLINE void to_zero(void) /* 10 blocks of 66 bytes, all freed by realloc(p, 0) */
{
    for (int i = 0; i < 10; i++)
        CHECK(realloc(keep(malloc(66)), none) == NULL);
}

static NOINLINE void from_null(void) /* 3 blocks of 44 */
{
    for (int i = 0; i < 3; i++)
        keep(realloc(NULL, 44));
}

static NOINLINE void overflow(void) /* nothing */
{
    errno = 0;
    CHECK(calloc(huge, 4) == NULL);
    CHECK(errno == ENOMEM);
    CHECK(malloc(huge + 2) == NULL);
    CHECK(reallocarray(NULL, huge, 4) == NULL);
}

static NOINLINE void array(void) /* 4 * 25 bytes, then 8 * 25: 2 blocks, 1 live */
{
    keep(reallocarray(keep(reallocarray(NULL, 4, 25)), 8, 25));
}

static NOINLINE void posix(void) /* 1 block of 500 at 128; the failures leave the pointer alone */
{
    void *untouched = held, *p = untouched;

    CHECK(posix_memalign(&p, 3, 10) == EINVAL);
    CHECK(p == untouched);
    CHECK(posix_memalign(&p, 64, huge) == ENOMEM);
    CHECK(p == untouched);
    CHECK(posix_memalign(&p, 128, 500) == 0);
    CHECK(((uintptr_t)p & 127) == 0);
    keep(p);
}

static NOINLINE void aligned(void) /* 64 + 100 + 200 + 300 bytes; pvalloc is counted as asked */
{
    void *p;

    p = keep(aligned_alloc(64, 64));
    CHECK(((uintptr_t)p & 63) == 0);
    p = keep(memalign(512, 100));
    CHECK(((uintptr_t)p & 511) == 0);
    p = keep(valloc(200));
    CHECK(((uintptr_t)p & 4095) == 0);
    p = keep(pvalloc(300));
    CHECK(((uintptr_t)p & 4095) == 0);
}

static NOINLINE void usable(void) /* 1 block of 25 bytes */
{
    void *p = keep(malloc(25));

    CHECK(malloc_usable_size(p) == 40);
    CHECK(malloc_usable_size(NULL) == 0);
}

static NOINLINE void errno_kept(void) /* 1 block */
{
    void *p;

    errno = 1234;
    p = keep(malloc(99));
    CHECK(errno == 1234);
    free(p);
    CHECK(errno == 1234);
    free(NULL);
    CHECK(errno == 1234);
}

int main(void)
{
    grow();
    shrink();
    move();
    fail();
    to_zero();
    from_null();
    overflow();
    array();
    posix();
    aligned();
    usable();
    errno_kept();
    return 0;
}

/* mmap64 is seen (MALT misses it, CPython uses it), and mremap leaves memory alone (MALT's wrapper writes over it). */
#include <sys/mman.h>

#include "target.h"

static NOINLINE unsigned char *by_mmap64(void)
{
    unsigned char *p = mmap64(NULL, 8 * 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    CHECK(p != MAP_FAILED);
    return p;
}

static NOINLINE void by_mremap(unsigned char *p)
{
    for (size_t i = 0; i < 8 * 4096; i++)
        p[i] = (unsigned char)(i * 7);
    p = mremap(p, 8 * 4096, 64 * 4096, MREMAP_MAYMOVE);
    CHECK((void *)p != MAP_FAILED);
    for (size_t i = 0; i < 8 * 4096; i++)
        CHECK(p[i] == (unsigned char)(i * 7));
    for (size_t i = 8 * 4096; i < 64 * 4096; i++)
        CHECK(p[i] == 0);
}

int main(void)
{
    by_mremap(by_mmap64());
    return 0;
}

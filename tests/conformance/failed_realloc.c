/* A realloc that fails leaves the block alone: MALT, bytehound and ddprof lose it. */
#include "target.h"

static volatile size_t huge = (size_t)-1 / 2;

static NOINLINE void survive(void)
{
    for (int i = 0; i < 10; i++) {
        void *p = keep(malloc(100));

        CHECK(realloc(p, huge) == NULL);
    }
}

int main(void)
{
    survive();
    return 0;
}

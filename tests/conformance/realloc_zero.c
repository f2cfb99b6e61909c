/* realloc(p, 0) frees. heaptrack 1.4 reports ten leaks here. */
#include "target.h"

static volatile size_t none = 0;

static NOINLINE void to_nothing(void)
{
    for (int i = 0; i < 10; i++)
        CHECK(realloc(keep(malloc(100)), none) == NULL);
}

int main(void)
{
    to_nothing();
    return 0;
}

/* A library whose constructor and destructor allocate. */
#include "target.h"

void early_library_touch(void);

__attribute__((constructor)) static NOINLINE void library_before_main(void)
{
    for (int i = 0; i < 4; i++)
        keep(malloc(70));
}

__attribute__((destructor)) static NOINLINE void library_after_main(void)
{
    for (int i = 0; i < 6; i++)
        keep(malloc(80));
}

void early_library_touch(void)
{
}

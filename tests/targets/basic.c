/* Known blocks and bytes per function, in one thread. */
#include "target.h"

static void *held[64];

static NOINLINE void hold_ten(void)
{
    for (int i = 0; i < 10; i++)
        held[i] = keep(malloc(100));
}

/* Each block is freed at once: temporary. */
static NOINLINE void churn(void)
{
    for (int i = 0; i < 1000; i++)
        free(keep(malloc(64)));
}

static NOINLINE void hold_zeroed(void)
{
    for (int i = 0; i < 7; i++)
        held[10 + i] = keep(calloc(3, 50));
}

static NOINLINE void hold_nothing(void)
{
    for (int i = 0; i < 5; i++)
        held[20 + i] = keep(malloc(0));
}

/* Not temporary: two further allocations are made before each free. */
static NOINLINE void lag_by_two(void)
{
    void *a = keep(malloc(24)), *b = keep(malloc(24));

    for (int i = 0; i < 100; i++) {
        void *c = keep(malloc(24));

        free(a);
        a = b;
        b = c;
    }
    held[30] = a;
    held[31] = b;
}

/* The peak of the process is reached at the end of raise_peak(): 3 MiB here, nothing yet in after_peak(). */
static NOINLINE void raise_peak(void **three)
{
    for (int i = 0; i < 3; i++)
        three[i] = keep(malloc(1 << 20));
}

static NOINLINE void after_peak(void)
{
    held[40] = keep(malloc(1 << 20));
    held[41] = keep(malloc(1 << 20));
}

int main(void)
{
    void *three[3];

    hold_ten();
    churn();
    hold_zeroed();
    hold_nothing();
    lag_by_two();
    raise_peak(three);
    for (int i = 0; i < 3; i++)
        free(three[i]);
    after_peak();
    free(NULL);
    return 7;
}

/* Threads that come and go: 300 one after the other, then 32 at once; each keeps one block, and some end in odd ways. */
#include <pthread.h>

#include "target.h"

static NOINLINE void once(void)
{
    void *a = keep(malloc(11)), *b = keep(malloc(22));

    keep(malloc(33));
    free(a);
    free(b);
}

static void *work(void *arg)
{
    once();
    if (arg)
        pthread_exit(NULL);
    return NULL;
}

static NOINLINE pthread_t start(long odd)
{
    pthread_t t;

    CHECK(pthread_create(&t, NULL, work, (void *)odd) == 0);
    return t;
}

int main(void)
{
    pthread_t many[32];

    for (long i = 0; i < 300; i++)
        pthread_join(start(i & 1), NULL);
    for (long i = 0; i < 32; i++)
        many[i] = start(i & 1);
    for (int i = 0; i < 32; i++)
        pthread_join(many[i], NULL);
    return 0;
}

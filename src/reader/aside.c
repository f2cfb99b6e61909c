/*
 * Work beside other work, while a target waits at its end: its processor has nothing to do then.
 */
#include "reader/aside.h"

static void *aside_main(void *argument)
{
    struct aside *aside = argument;

    aside->work(aside->argument);
    return NULL;
}

void aside_start(struct aside *aside, void (*work)(void *argument), void *argument)
{
    *aside = (struct aside){.work = work, .argument = argument};
    aside->has_thread = pthread_create(&aside->thread, NULL, aside_main, aside) == 0;
    if (!aside->has_thread)
        work(argument);
}

void aside_wait(struct aside *aside)
{
    if (aside->has_thread)
        pthread_join(aside->thread, NULL);
    aside->has_thread = false;
}

/*
 * Work beside other work (aside.c): on another thread, or at once where there is none to be had.
 */
#ifndef MT_READER_ASIDE_H
#define MT_READER_ASIDE_H

#include <pthread.h>
#include <stdbool.h>

struct aside {
    pthread_t thread;
    bool has_thread;
    void (*work)(void *argument);
    void *argument;
};

/* `aside` stays where it is until aside_wait(), behind which all of the work is done and seen. */
void aside_start(struct aside *aside, void (*work)(void *argument), void *argument);
void aside_wait(struct aside *aside);

#endif

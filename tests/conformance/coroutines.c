/* Stacks switched under the thread (ucontext): bytehound aborts. Coroutines allocate at several depths, in turn. */
#include <ucontext.h>

#include "target.h"

enum { COROUTINES = 4, STEPS = 100, STACK = 65536 };

static ucontext_t scheduler, contexts[COROUTINES];
static char stacks[COROUTINES][STACK];

static NOINLINE void step_and_switch(int self, int depth)
{
    if (depth) {
        step_and_switch(self, depth - 1);
        return;
    }
    keep(malloc((size_t)(10 + self)));
    CHECK(swapcontext(&contexts[self], &scheduler) == 0);
}

static NOINLINE void coroutine(int self)
{
    for (int i = 0; i < STEPS; i++)
        step_and_switch(self, i % 5);
}

int main(void)
{
    for (int i = 0; i < COROUTINES; i++) {
        CHECK(getcontext(&contexts[i]) == 0);
        contexts[i].uc_stack.ss_sp = stacks[i];
        contexts[i].uc_stack.ss_size = STACK;
        contexts[i].uc_link = &scheduler;
        makecontext(&contexts[i], (void (*)(void))coroutine, 1, i);
    }
    for (int round = 0; round <= STEPS; round++)
        for (int i = 0; i < COROUTINES; i++)
            CHECK(swapcontext(&scheduler, &contexts[i]) == 0);
    return 0;
}

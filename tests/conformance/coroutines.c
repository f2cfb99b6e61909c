/* Stacks switched under the thread (ucontext): bytehound aborts. Coroutines allocate at several depths, in turn. Their stacks
 * lie side by side with a guard page between. */
#include <sys/mman.h>
#include <ucontext.h>

#include "target.h"

enum { COROUTINES = 4, STEPS = 100, STACK = 65536 };

static ucontext_t scheduler, contexts[COROUTINES];
enum { GUARD = 4096 };
static char (*stacks)[STACK];

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
    stacks = mmap(NULL, sizeof stacks[0] * COROUTINES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(stacks != MAP_FAILED);
    for (int i = 0; i < COROUTINES; i++) {
        CHECK(mprotect(stacks[i], GUARD, PROT_NONE) == 0);
        CHECK(getcontext(&contexts[i]) == 0);
        contexts[i].uc_stack.ss_sp = stacks[i] + GUARD;
        contexts[i].uc_stack.ss_size = STACK - GUARD;
        contexts[i].uc_link = &scheduler;
        makecontext(&contexts[i], (void (*)(void))coroutine, 1, i);
    }
    for (int round = 0; round <= STEPS; round++)
        for (int i = 0; i < COROUTINES; i++)
            CHECK(swapcontext(&scheduler, &contexts[i]) == 0);
    return 0;
}

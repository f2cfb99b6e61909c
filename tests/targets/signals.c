/*
 * Signal handlers that allocate. on_raise() runs where malloc is legal. on_timer() runs anywhere, in the middle of malloc
 * and of the hooks too, and uses mmap, which is legal there; it counts what it did. on_jump() leaves by siglongjmp.
 */
#include <setjmp.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/time.h>

#include "target.h"

static volatile sig_atomic_t ticks, jumps, jump_allowed;
static sigjmp_buf back;

static NOINLINE void on_raise(int signal)
{
    (void)signal;
    for (int i = 0; i < 3; i++)
        keep(malloc(77));
}

static NOINLINE void on_timer(int signal)
{
    void *p = mmap(NULL, 4096, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    (void)signal;
    if (p != MAP_FAILED) {
        munmap(p, 4096);
        ticks++;
    }
}

static NOINLINE void on_jump(int signal)
{
    (void)signal;
    if (!jump_allowed)
        return;
    jumps++;
    siglongjmp(back, 1);
}

static NOINLINE void interrupted(void)
{
    while (ticks < 400)
        for (int i = 0; i < 1000; i++)
            free(keep(malloc(50)));
}

static NOINLINE void jumped_over(void)
{
    for (int i = 0; i < 20; i++) {
        if (sigsetjmp(back, 1) == 0) {
            jump_allowed = 1;
            raise(SIGUSR2);
        }
        jump_allowed = 0;
        keep(malloc(13));
    }
}

int main(void)
{
    struct itimerval timer = {{0, 500}, {0, 500}}, off = {{0, 0}, {0, 0}};

    signal(SIGUSR1, on_raise);
    for (int i = 0; i < 10; i++)
        raise(SIGUSR1);
    signal(SIGUSR2, on_jump);
    jumped_over();
    signal(SIGALRM, on_timer);
    setitimer(ITIMER_REAL, &timer, NULL);
    interrupted();
    setitimer(ITIMER_REAL, &off, NULL);
    say("%d %d\n", (int)ticks, (int)jumps);
    return 0;
}

/* A signal interrupts a function that calls nothing, and so may not have saved its return address; the handler allocates. */
#include <signal.h>
#include <stdlib.h>
#include <sys/time.h>

static volatile sig_atomic_t done;
void *kept[3];

static void on_alarm(int signal)
{
    (void)signal;
    kept[done] = malloc(33);
    done++;
}

unsigned spin(int until)
{
    unsigned n = 0;

    while (done < until)
        n++;
    return n;
}

unsigned wait_for(int until)
{
    return spin(until) | 1;
}

int main(void)
{
    struct itimerval soon = {{0, 0}, {0, 20000}};
    unsigned n = 0;

    signal(SIGALRM, on_alarm);
    for (int i = 1; i <= 3; i++) {
        setitimer(ITIMER_REAL, &soon, NULL);
        n |= wait_for(i);
    }
    return !n;
}

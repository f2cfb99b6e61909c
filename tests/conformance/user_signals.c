/* SIGUSR1, SIGUSR2 and SIGPROF belong to the program: bytehound takes the first two over. */
#include <signal.h>

#include "target.h"

static volatile sig_atomic_t seen;

static void on_signal(int signal)
{
    seen |= 1 << signal;
}

int main(void)
{
    int all[] = {SIGUSR1, SIGUSR2, SIGPROF, SIGPIPE, SIGCHLD, SIGSEGV, SIGBUS, SIGTRAP};

    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++) {
        struct sigaction old;

        CHECK(sigaction(all[i], NULL, &old) == 0);
        CHECK(old.sa_handler == SIG_DFL);
        CHECK(signal(all[i], on_signal) == SIG_DFL);
        keep(malloc(10));
        if (all[i] != SIGSEGV && all[i] != SIGBUS) {
            raise(all[i]);
            CHECK(seen & 1 << all[i]);
        }
        CHECK(signal(all[i], SIG_DFL) == on_signal);
    }
    return 0;
}

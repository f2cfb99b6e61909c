/* A preloaded library whose fork() returns to the parent half a second late: the child has long been at work. As on a busy machine. */
#include <errno.h>
#include <sys/types.h>
#include <time.h>
#include <unistd.h>

extern pid_t __libc_fork(void);

pid_t fork(void)
{
    struct timespec left = {.tv_nsec = 500 * 1000 * 1000};
    pid_t pid = __libc_fork();

    while (pid > 0 && nanosleep(&left, &left) < 0 && errno == EINTR)
        ;
    return pid;
}

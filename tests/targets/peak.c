/*
 * Runs a command, its output thrown away, and prints its exit status and peak resident bytes. A small program, since a child's peak
 * begins with what its parent had when it forked.
 */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

int main(int argc, char **argv)
{
    struct rusage usage;
    int status, null = open("/dev/null", O_RDWR);
    pid_t child = argc > 1 ? fork() : -1;

    if (child < 0)
        return 1;
    if (child == 0) {
        if (getenv("PRELOAD_CHILD"))
            setenv("LD_PRELOAD", getenv("PRELOAD_CHILD"), 1);
        dup2(null, 0);
        dup2(null, 1);
        execvp(argv[1], argv + 1);
        _exit(127);
    }
    if (wait4(child, &status, 0, &usage) != child)
        return 1;
    printf("%d %ld\n", WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status), usage.ru_maxrss * 1024);
    return 0;
}

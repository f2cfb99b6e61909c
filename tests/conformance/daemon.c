/* A daemon: forks, leaves its session and folder, closes every descriptor, allocates, ends. Nothing of it is lost. */
#include <fcntl.h>
#include <sys/resource.h>
#include <sys/stat.h>

#include "target.h"

static NOINLINE void in_daemon(void)
{
    for (int i = 0; i < 100; i++)
        keep(malloc(10));
}

int main(int argc, char **argv)
{
    pid_t pid = fork();

    if (pid > 0)
        _exit(0);
    setsid();
    if (fork() > 0)
        _exit(0);
    CHECK(chdir("/") == 0);
    for (int fd = 0; fd < 1024; fd++)
        close(fd);
    in_daemon();
    if (argc > 1)
        close(open(argv[1], O_WRONLY | O_CREAT, 0600));
    return 0;
}

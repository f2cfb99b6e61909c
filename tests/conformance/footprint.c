/*
 * What a program can see of itself: its threads, descriptors, children, signal handlers and blocked signals. Prints them, before
 * and after some work; compared with the output of a plain run.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "target.h"

static void list(const char *path)
{
    char buffer[8192], out[2048];
    size_t used = 0;
    int fd = open(path, O_RDONLY | O_DIRECTORY);
    long n;
    int entries = 0;

    while ((n = syscall(SYS_getdents64, fd, buffer, sizeof buffer)) > 0)
        for (long at = 0; at < n; at += *(unsigned short *)(buffer + at + 16))
            entries++;
    close(fd);
    used = (size_t)snprintf(out, sizeof out, "%s: %d entries\n", path, entries - 2);
    CHECK(write(1, out, used) == (ssize_t)used);
}

static void status(void)
{
    char text[8192];
    int fd = open("/proc/self/status", O_RDONLY);
    ssize_t n = read(fd, text, sizeof text - 1);

    close(fd);
    CHECK(n > 0);
    text[n] = 0;
    for (const char *name = "Threads:\0SigBlk:\0SigIgn:\0SigCgt:\0"; *name; name += strlen(name) + 1) {
        char *at = strstr(text, name);

        CHECK(at);
        say("%.*s\n", (int)strcspn(at, "\n"), at);
    }
}

static void look(void)
{
    int child;

    list("/proc/self/task");
    list("/proc/self/fd");
    status();
    CHECK(waitpid(-1, &child, WNOHANG) == -1 && errno == ECHILD);
    say("next descriptor: %d\n", open("/dev/null", O_RDONLY | O_CLOEXEC));
}

int main(void)
{
    look();
    for (int i = 0; i < 10000; i++)
        free(keep(malloc(100)));
    look();
    return 0;
}

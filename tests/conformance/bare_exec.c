/* exec with an environment of the program's own making: the child runs, traced or not. Then exec of a static program's kind: /bin/true. */
#include <sys/wait.h>

#include "target.h"

int main(int argc, char **argv)
{
    char *const arguments[] = {argv[0], (char *)"child", NULL};
    char *const none[] = {NULL};
    char *const some[] = {(char *)"A=1", NULL};
    char *const *environments[] = {none, some};

    if (argc > 1) {
        keep(malloc(10));
        say("child %s\n", getenv("A") ? getenv("A") : "-");
        return 5;
    }
    for (int i = 0; i < 2; i++) {
        int status;
        pid_t pid = fork();

        if (pid == 0) {
            execve("/proc/self/exe", arguments, environments[i]);
            _exit(127);
        }
        CHECK(waitpid(pid, &status, 0) == pid);
        CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 5);
    }
    return 0;
}

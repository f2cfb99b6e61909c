/*
 * The ways to start and to end a process. argv[1] says which; `leaf N STATUS` is what the others start: it allocates N
 * blocks of 10 bytes in leaf() and ends with STATUS.
 */
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>

#include "target.h"

extern char **environ;
static char *self;
static void *inherited[10];

static NOINLINE void leaf(int count)
{
    for (int i = 0; i < count; i++)
        keep(malloc(10));
}

static NOINLINE void parent_holds(void)
{
    for (int i = 0; i < 10; i++)
        inherited[i] = keep(malloc(200));
}

static NOINLINE int wait_for(pid_t pid)
{
    int status;

    CHECK(waitpid(pid, &status, 0) == pid);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

static NOINLINE void child_of_fork(void) /* frees what the parent allocated: 10 unmatched frees; 25 blocks of 10 */
{
    for (int i = 0; i < 10; i++)
        free(inherited[i]);
    leaf(25);
}

static void fork_once(void)
{
    pid_t pid;

    parent_holds();
    pid = fork();
    if (pid == 0) {
        child_of_fork();
        exit(3);
    }
    CHECK(pid > 0 && wait_for(pid) == 3);
    leaf(5);
}

static volatile int stop;
static void *busy(void *arg)
{
    (void)arg;
    while (!stop)
        free(keep(malloc(48)));
    return NULL;
}

/* 20 forks while 3 threads allocate: no child may hang, each counts 25 blocks in leaf(). */
static void fork_threads(void)
{
    pthread_t threads[3];

    parent_holds();
    for (int i = 0; i < 3; i++)
        CHECK(pthread_create(&threads[i], NULL, busy, NULL) == 0);
    for (int i = 0; i < 20; i++) {
        pid_t pid = fork();

        if (pid == 0) {
            leaf(25);
            exit(i);
        }
        CHECK(pid > 0 && wait_for(pid) == i);
    }
    stop = 1;
    for (int i = 0; i < 3; i++)
        pthread_join(threads[i], NULL);
}

/* Three generations: 1 + 2 + 4 processes with one leaf() each. */
static void fork_tree(void)
{
    for (int i = 0; i < 2; i++)
        fork();
    leaf(25);
    while (wait(NULL) > 0)
        ;
}

static void vfork_exec(void)
{
    pid_t pid = vfork();

    if (pid == 0) {
        execl(self, self, "leaf", "6", "4", (char *)NULL);
        _exit(127);
    }
    CHECK(pid > 0 && wait_for(pid) == 4);
    leaf(2);
}

static void spawn(void)
{
    char *const arguments[] = {self, (char *)"leaf", (char *)"7", (char *)"5", NULL};
    pid_t pid;

    CHECK(posix_spawn(&pid, self, NULL, NULL, arguments, environ) == 0);
    CHECK(wait_for(pid) == 5);
    CHECK(posix_spawn(&pid, "/nonexistent/program", NULL, NULL, arguments, environ) == ENOENT);
    leaf(2);
}

/* exec of exec: three images of one pid with 4, 3 and 9 blocks in leaf(). */
static void exec_chain(const char *step)
{
    if (step == NULL) {
        leaf(4);
        CHECK(execl("/nonexistent/program", "x", (char *)NULL) == -1 && errno == ENOENT);
        execl(self, self, "exec", "again", (char *)NULL);
    } else {
        leaf(3);
        execl(self, self, "leaf", "9", "11", (char *)NULL);
    }
    _exit(127);
}

static void shell(void)
{
    char command[512], text[8] = "";
    FILE *pipe;

    snprintf(command, sizeof command, "%s leaf 8 6", self);
    CHECK(WEXITSTATUS(system(command)) == 6);
    snprintf(command, sizeof command, "%s leaf 3 0; echo done", self);
    pipe = popen(command, "r");
    CHECK(pipe && fread(text, 1, 5, pipe) == 5 && memcmp(text, "done\n", 5) == 0);
    CHECK(pclose(pipe) == 0);
}

static void end(const char *how)
{
    leaf(1000);
    if (strcmp(how, "_exit") == 0)
        _exit(9);
    if (strcmp(how, "quick_exit") == 0)
        quick_exit(10);
    if (strcmp(how, "abort") == 0)
        abort();
    if (strcmp(how, "kill") == 0)
        raise(SIGKILL);
    if (strcmp(how, "segv") == 0)
        *(volatile int *)(uintptr_t)16 = 1;
    if (strcmp(how, "term") == 0)
        raise(SIGTERM);
}

int main(int argc, char **argv)
{
    const char *what = argc > 1 ? argv[1] : "";

    self = argv[0];
    if (strcmp(what, "leaf") == 0) {
        leaf(atoi(argv[2]));
        return atoi(argv[3]);
    }
    if (strcmp(what, "fork") == 0)
        fork_once();
    else if (strcmp(what, "fork-threads") == 0)
        fork_threads();
    else if (strcmp(what, "fork-tree") == 0)
        fork_tree();
    else if (strcmp(what, "vfork") == 0)
        vfork_exec();
    else if (strcmp(what, "spawn") == 0)
        spawn();
    else if (strcmp(what, "exec") == 0)
        exec_chain(argc > 2 ? argv[2] : NULL);
    else if (strcmp(what, "shell") == 0)
        shell();
    else
        end(what);
    return 0;
}

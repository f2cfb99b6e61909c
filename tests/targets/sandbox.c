/*
 * Puts a system call filter on itself that kills for a wrong call, and goes on allocating. argv: which
 *
 *   strict     read, write and exit only, by prctl()
 *   few        what malloc, output and the end need, by seccomp()
 *   harmless   all but ptrace, by seccomp(): recording can go on
 *   no-start   all but memfd_create, by prctl(): children cannot be traced
 */
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "target.h"

#define ALLOW(call) BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_##call, 0, 1), BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW)
#define LOAD_NUMBER BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr))
#define KILL BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS)

static struct sock_filter few[] = {LOAD_NUMBER, ALLOW(read), ALLOW(write), ALLOW(exit), ALLOW(exit_group), ALLOW(brk), ALLOW(mmap),
    ALLOW(munmap), KILL};
static struct sock_filter all_but[] = {LOAD_NUMBER, BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, 0, 0, 1), KILL,
    BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW)};

static void before(void)
{
    for (int i = 0; i < 10; i++)
        keep(malloc(100));
}

static void after(void)
{
    for (int i = 0; i < 1000; i++)
        free(keep(malloc((size_t)i)));
}

static void install(struct sock_filter *code, unsigned short count, int by_prctl)
{
    struct sock_fprog filter = {count, code};

    CHECK(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0);
    CHECK((by_prctl ? prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &filter) :
                      syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &filter)) == 0);
}

int main(int argc, char **argv)
{
    const char *which = argc > 1 ? argv[1] : "";

    before();
    if (strcmp(which, "strict") == 0) {
        CHECK(prctl(PR_SET_SECCOMP, SECCOMP_MODE_STRICT, 0, 0, 0) == 0);
    } else if (strcmp(which, "few") == 0) {
        install(few, sizeof few / sizeof few[0], 0);
    } else {
        all_but[1].k = strcmp(which, "harmless") == 0 ? SYS_ptrace : SYS_memfd_create;
        install(all_but, sizeof all_but / sizeof all_but[0], strcmp(which, "no-start") == 0);
    }
    after();
    if (strcmp(which, "no-start") == 0) {
        int status;
        pid_t pid = fork();

        if (pid == 0) {
            after();
            execl("/bin/echo", "echo", "child", (char *)NULL);
        }
        CHECK(waitpid(pid, &status, 0) == pid && status == 0);
    }
    CHECK(write(1, "done\n", 5) == 5);
    syscall(strcmp(which, "strict") == 0 ? SYS_exit : SYS_exit_group, 5);
}

/*
 * Runs a program with one system call refused: argv: which call, program ... REFUSE_PRELOAD becomes the program's LD_PRELOAD.
 */
#include <errno.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <sys/prctl.h>
#include <sys/syscall.h>

#include "target.h"

static const struct {
    const char *name;
    unsigned numbers[3];
} calls[] = {
    {"memfd_create", {SYS_memfd_create, SYS_memfd_create, SYS_memfd_create}},
    {"socket", {SYS_socket, SYS_socketpair, SYS_connect}},
    {"membarrier", {SYS_membarrier, SYS_membarrier, SYS_membarrier}},
#ifdef SYS_fork
    {"fork", {SYS_clone, SYS_fork, SYS_vfork}},
#else
    {"fork", {SYS_clone, SYS_clone, SYS_clone}},
#endif
};

static void refuse(const unsigned *numbers)
{
    struct sock_filter code[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, numbers[0], 3, 0),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, numbers[1], 2, 0),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, numbers[2], 1, 0),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM),
    };
    struct sock_fprog filter = {sizeof code / sizeof code[0], code};

    CHECK(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0);
    CHECK(prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &filter) == 0);
}

int main(int argc, char **argv)
{
    CHECK(argc > 2);
    for (size_t i = 0; i < sizeof calls / sizeof calls[0]; i++)
        if (strcmp(calls[i].name, argv[1]) == 0)
            refuse(calls[i].numbers);
    CHECK(setenv("LD_PRELOAD", getenv("REFUSE_PRELOAD"), 1) == 0);
    execv(argv[2], argv + 2);
    return 127;
}

/*
 * Finding or starting the reader (wire/message.h). All descriptors used here are closed before the target's next instruction: the target
 * may count them, close them, or expect the lowest free number.
 */
#include "hook/hook.h"

#include <linux/sched.h>
#include <poll.h>
#include <stddef.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>

#include <dlfcn.h>
#include <link.h>

#ifndef __WCLONE
#define __WALL 0x40000000
#endif
#define REPLY_TIMEOUT_MS 10000
#define PATH_BYTES 4096u

static socklen_t socket_address(const char *name, struct sockaddr_un *ret)
{
    size_t n = strlen(name);

    memset(ret, 0, sizeof *ret);
    ret->sun_family = AF_UNIX;
    memcpy(ret->sun_path + 1, name, n);
    return (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 1 + n);
}

/*
 * A connected socket, or -errno. A reader that does not get to accept (it is stopped, or overrun) has a backlog that fills: connecting then takes
 * no longer than a reply may, and with SOCK_NONBLOCK in flags is -EAGAIN at once.
 */
static int connect_to(const char *name, int flags)
{
    const struct timeval patience = {REPLY_TIMEOUT_MS / 1000, 0};
    struct sockaddr_un address;
    socklen_t bytes = socket_address(name, &address);
    int fd = (int)mt_sys3(SYS_socket, AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | flags, 0);
    struct ucred peer;
    socklen_t peer_bytes = sizeof peer;
    long r;

    if (fd < 0)
        return fd;
    mt_sys5(SYS_setsockopt, fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof patience);
    r = mt_sys3(SYS_connect, fd, &address, bytes);
    if (r == 0)
        r = mt_sys5(SYS_getsockopt, fd, SOL_SOCKET, SO_PEERCRED, &peer, &peer_bytes);
    if (r == 0 && peer.uid != (uid_t)mt_sys0(SYS_geteuid))
        r = -EPERM;
    if (r < 0) {
        mt_sys_close(fd);
        return (int)r;
    }
    return fd;
}

bool mt_link_reader_alive(void)
{
    int fd = mt_settings.no_questions ? -EPERM : connect_to(mt_settings.socket, SOCK_NONBLOCK);

    if (fd >= 0)
        mt_sys_close(fd);
    /* Anything but a refusal (no descriptor left, a filter, a full backlog) says nothing about the reader. */
    return fd != -ECONNREFUSED;
}

static int send_hello(int fd, const struct mt_writer *writer, int memfd)
{
    struct mt_message message;
    struct iovec iov = {&message, sizeof message};
    union {
        struct cmsghdr header;
        char bytes[CMSG_SPACE(sizeof(int))];
    } control;
    struct msghdr msg;
    long r;

    memset(&message, 0, sizeof message);
    memset(&control, 0, sizeof control);
    memset(&msg, 0, sizeof msg);
    message.magic = MT_MESSAGE_MAGIC;
    message.version = MT_WIRE_VERSION;
    message.type = MT_MESSAGE_HELLO;
    message.pid = writer->header->pid;
    msg.msg_iov = &iov;
    msg.msg_iovlen = 1;
    msg.msg_control = control.bytes;
    msg.msg_controllen = sizeof control.bytes;
    control.header.cmsg_level = SOL_SOCKET;
    control.header.cmsg_type = SCM_RIGHTS;
    control.header.cmsg_len = CMSG_LEN(sizeof(int));
    memcpy(CMSG_DATA(&control.header), &memfd, sizeof memfd);
    do
        r = mt_sys3(SYS_sendmsg, fd, &msg, MSG_NOSIGNAL);
    while (r == -EINTR);
    return r < 0 ? (int)r : 0;
}

/* Waits for WELCOME; maps the doorbell that comes with it. */
static int receive_welcome(int fd, struct mt_message *ret, struct mt_doorbell **ret_doorbell)
{
    struct iovec iov = {ret, sizeof *ret};
    union {
        struct cmsghdr header;
        char bytes[CMSG_SPACE(sizeof(int))];
    } control;
    struct pollfd poll_fd = {fd, POLLIN, 0};
    struct timespec timeout = {REPLY_TIMEOUT_MS / 1000, 0};
    struct msghdr msg;
    int bell_fd = -1;
    void *page;
    long r;

    do
        r = mt_sys5(SYS_ppoll, &poll_fd, 1, &timeout, NULL, 8);
    while (r == -EINTR);
    if (r <= 0)
        return r == 0 ? -ETIMEDOUT : (int)r;
    memset(&msg, 0, sizeof msg);
    memset(&control, 0, sizeof control);
    msg.msg_iov = &iov;
    msg.msg_iovlen = 1;
    msg.msg_control = control.bytes;
    msg.msg_controllen = sizeof control.bytes;
    r = mt_sys3(SYS_recvmsg, fd, &msg, MSG_CMSG_CLOEXEC);
    if (r < 0)
        return (int)r;
    if (r == 0)
        return -ECONNRESET; /* the reader ended: it could not be executed, or died */
    if (msg.msg_controllen >= CMSG_LEN(sizeof(int)) && control.header.cmsg_type == SCM_RIGHTS)
        memcpy(&bell_fd, CMSG_DATA(&control.header), sizeof bell_fd);
    if (r < (long)sizeof *ret || ret->magic != MT_MESSAGE_MAGIC || ret->version != MT_WIRE_VERSION ||
        ret->type != MT_MESSAGE_WELCOME)
        r = -EPROTO;
    else
        r = ret->error ? -ret->error : bell_fd < 0 ? -EPROTO : 0;
    if (r == 0) {
        page = (void *)mt_sys6(SYS_mmap, 0, MT_PAGE_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, bell_fd, 0);
        if (mt_sys_is_error(page)) {
            r = (long)(intptr_t)page;
        } else {
            mt_sys_madvise(page, MT_PAGE_BYTES, MADV_DONTFORK);
            *ret_doorbell = page;
        }
    }
    if (bell_fd >= 0)
        mt_sys_close(bell_fd);
    return (int)r;
}

/* ---- starting the reader ------------------------------------------------------------------------------------- */

static bool executable(const char *path)
{
    return mt_sys3(SYS_faccessat, AT_FDCWD, path, 1 /* X_OK */) == 0;
}

static bool join(char *out, const char *directory, size_t directory_bytes, const char *rest)
{
    size_t n = strlen(rest);

    if (directory_bytes + n + 1 > PATH_BYTES)
        return false;
    memcpy(out, directory, directory_bytes);
    memcpy(out + directory_bytes, rest, n + 1);
    return executable(out);
}

/* MEMTRACE_READER; else next to the library, where an installation puts it; else PATH. */
static int find_reader(char *out)
{
    static const char *const beside[] = {"/memtrace", "/../bin/memtrace", "/../../bin/memtrace"};
    struct dl_find_object self;
    const char *p;

    if (mt_settings.reader_path && mt_settings.reader_path[0])
        return join(out, mt_settings.reader_path, strlen(mt_settings.reader_path), "") ? 0 : -ENOENT;
    if (_dl_find_object((void *)&mt_link_open, &self) == 0 && self.dlfo_link_map->l_name) {
        const char *name = self.dlfo_link_map->l_name, *slash = strrchr(name, '/');

        for (size_t i = 0; slash && i < MT_ARRAY_LEN(beside); i++)
            if (join(out, name, (size_t)(slash - name), beside[i]))
                return 0;
    }
    for (p = mt_settings.path; p && *p;) {
        const char *colon = strchr(p, ':');
        size_t n = colon ? (size_t)(colon - p) : strlen(p);

        if (n && join(out, p, n, "/memtrace"))
            return 0;
        p = colon ? colon + 1 : NULL;
    }
    return -ENOENT;
}

static bool is_variable(const char *entry, const char *name)
{
    size_t n = strlen(name);

    return strncmp(entry, name, n) == 0 && entry[n] == '=';
}

static void format_int(char *out, int value)
{
    char digits[12];
    unsigned n = 0;

    do
        digits[n++] = (char)('0' + value % 10);
    while ((value /= 10) != 0);
    while (n)
        *out++ = digits[--n];
    *out = 0;
}

/* In the grandchild: becomes the reader. Only returns to exit. */
static void exec_reader(const char *path, int fd, char **environment, char **scratch)
{
    char number[12];
    char *argv[] = {(char *)"memtrace", (char *)"--reader", number, NULL};
    uint64_t none = 0;
    size_t n = 0;

    for (char **e = environment; e && *e; e++)
        if (!is_variable(*e, "LD_PRELOAD") && !is_variable(*e, MT_ENV_SOCKET))
            scratch[n++] = *e;
    scratch[n] = NULL;
    format_int(number, fd);
    mt_sys3(SYS_fcntl, fd, F_SETFD, 0);
    mt_sys4(SYS_rt_sigprocmask, SIG_SETMASK, &none, NULL, sizeof none);
    mt_sys3(SYS_execve, path, argv, scratch);
}

static long raw_fork(unsigned long exit_signal)
{
    return mt_sys5(SYS_clone, exit_signal, 0, 0, 0, 0);
}

/*
 * Double fork: the reader is nobody's child. The child in between announces its end by no signal, and is waited for by its kind (__WALL), so
 * the target's own wait() never sees it. The parameters are on the stack: the state pages are wiped in the child.
 */
static int spawn_reader(int *ret_fd)
{
    char path[PATH_BYTES];
    char **scratch, **environment = mt_settings.environment;
    size_t count = 0, bytes;
    int pair[2], status = 0;
    long child, r;

    r = find_reader(path);
    if (r < 0) {
        mt_log("cannot find the reader", mt_settings.reader_path ? mt_settings.reader_path : "memtrace", ENOENT);
        return (int)r;
    }
    while (environment && environment[count])
        count++;
    bytes = mt_round_up((count + 1) * sizeof *scratch, MT_PAGE_BYTES);
    scratch = mt_sys_pages(bytes);
    if (!scratch)
        return -ENOMEM;
    r = mt_sys4(SYS_socketpair, AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair);
    if (r < 0) {
        mt_sys_unmap(scratch, bytes);
        return (int)r;
    }
    child = raw_fork(0);
    if (child == -EINVAL) /* a user-mode emulator, which knows no other fork: the target could see this one */
        child = raw_fork(SIGCHLD);
    if (child == 0) {
        if (raw_fork(SIGCHLD) == 0)
            exec_reader(path, pair[1], environment, scratch);
        mt_sys1(SYS_exit_group, 0);
    }
    mt_sys_close(pair[1]);
    if (child > 0)
        do
            r = mt_sys4(SYS_wait4, child, &status, (int)__WALL, NULL);
        while (r == -EINTR);
    mt_sys_unmap(scratch, bytes);
    if (child < 0) {
        mt_sys_close(pair[0]);
        return (int)child;
    }
    *ret_fd = pair[0];
    return 0;
}

static int shake_hands(
    int fd, const struct mt_writer *writer, int memfd, struct mt_doorbell **ret_doorbell, bool *ret_root)
{
    struct mt_message welcome;
    int r;

    memset(&welcome, 0, sizeof welcome);
    r = send_hello(fd, writer, memfd);
    if (r == 0)
        r = receive_welcome(fd, &welcome, ret_doorbell);
    mt_sys_close(fd);
    if (r < 0)
        return r;
    welcome.socket[sizeof welcome.socket - 1] = 0;
    memcpy(mt_settings.socket, welcome.socket, sizeof mt_settings.socket);
    *ret_root = welcome.value != 0;
    return 0;
}

int mt_link_open(struct mt_writer *ret_writer, struct mt_doorbell **ret_doorbell, uint32_t flags, bool *ret_root)
{
    struct mt_writer writer;
    int memfd, fd = -1, r;

    r = mt_writer_create(&writer, flags, &memfd);
    if (r < 0) {
        mt_log("cannot create the shared segment; running untraced", NULL, -r);
        return r;
    }
    if (mt_settings.socket[0])
        fd = connect_to(mt_settings.socket, 0);
    /* A socket that no longer answers was left in the environment by a run that is over: this is a run of its own. A forked
     * child's reader, though, died under it. */
    if (fd < 0 && !mt_settings.forked) {
        mt_settings.socket[0] = 0;
        r = spawn_reader(&fd);
    } else if (fd < 0) {
        r = fd;
    }
    if (r < 0 && r != -ENOENT) /* that one has been said */
        mt_log("cannot start or reach the reader; running untraced", NULL, -r);
    if (r == 0) {
        r = shake_hands(fd, &writer, memfd, ret_doorbell, ret_root);
        if (r < 0)
            mt_log("the reader cannot take this process; running untraced", NULL, -r);
    }
    mt_sys_close(memfd);
    if (r < 0) {
        mt_writer_destroy(&writer);
        return r;
    }
    *ret_writer = writer;
    return 0;
}

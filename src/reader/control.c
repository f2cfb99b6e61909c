/*
 * The socket: HELLO from targets, RUN and ROOT_STATUS from `memtrace run`, MARK from `memtrace mark` (wire/message.h).
 * Only processes of the reader's own uid are listened to, and what they say is bounded and checked.
 */
#include "reader/state.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#define CLIENT_PATIENCE_NS UINT64_C(3000000000)
#define OLDEST_START_NS UINT64_C(60000000000)
enum { HELLO_PATIENCE_MS = 300, RUN_PATIENCE_MS = 10000 };

struct packet {
    struct mt_message message;
    char text[MT_MESSAGE_TEXT_MAX_BYTES + 1]; /* terminated */
    int fd; /* -1: none; the handler that keeps it sets it to -1 */
};

static int peer_pid(int fd, int *ret_pid)
{
    struct ucred peer;
    socklen_t size = sizeof(peer);

    if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &size) < 0)
        return -errno;
    if (peer.uid != getuid() && peer.uid != geteuid())
        return -EPERM;
    *ret_pid = peer.pid;
    return 0;
}

static int client_add(struct reader *reader, int fd)
{
    struct client *client = calloc(1, sizeof(*client));
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = client};
    int err = client ? peer_pid(fd, &client->pid) : -ENOMEM;

    if (err == 0 && epoll_ctl(reader->epoll_fd, EPOLL_CTL_ADD, fd, &event) < 0)
        err = -errno;
    if (err < 0) {
        free(client);
        close(fd);
        return err;
    }
    client->source = SOURCE_CLIENT;
    client->fd = fd;
    client->since_ns = mt_clock_monotonic_ns();
    client->next = reader->clients;
    reader->clients = client;
    return 0;
}

static void client_drop(struct reader *reader, struct client *client)
{
    for (struct client **link = &reader->clients; *link; link = &(*link)->next) {
        if (*link == client) {
            *link = client->next;
            break;
        }
    }
    /* Closing alone would not do: a parent that did not exec the reader but started it (MEMTRACE_READER may be a script) has the socket, too. */
    epoll_ctl(reader->epoll_fd, EPOLL_CTL_DEL, client->fd, NULL);
    close(client->fd);
    free(client);
    reader->hello_deadline_ns = mt_clock_monotonic_ns() + UINT64_C(30000000000);
}

int control_start(struct reader *reader, int fd)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    uint64_t random = 0;
    int length;

    if (getrandom(&random, sizeof(random), GRND_NONBLOCK) < 0)
        random = mt_clock_tsc();
    length = snprintf(reader->socket_name, sizeof(reader->socket_name), "%s%d-%d-%llx", MT_SOCKET_PREFIX, (int)getuid(),
        (int)getpid(), (unsigned long long)random);
    memcpy(address.sun_path + 1, reader->socket_name, (size_t)length);
    reader->listen_fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (reader->listen_fd < 0)
        return -errno;
    if (bind(reader->listen_fd, (struct sockaddr *)&address,
            (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 1 + (size_t)length)) < 0 ||
        listen(reader->listen_fd, 1024) < 0)
        return -errno;
    if (epoll_ctl(reader->epoll_fd, EPOLL_CTL_ADD, reader->listen_fd,
            &(struct epoll_event){.events = EPOLLIN, .data.ptr = NULL}) < 0)
        return -errno;
    return client_add(reader, fd);
}

void control_finish(struct reader *reader)
{
    while (reader->clients)
        client_drop(reader, reader->clients);
    if (reader->listen_fd >= 0)
        close(reader->listen_fd);
    reader->listen_fd = -1;
}

/* Returns the number of bytes, 0 at the end, or -errno. */
static ssize_t receive(int fd, struct packet *packet)
{
    union {
        char bytes[CMSG_SPACE(4 * sizeof(int))];
        struct cmsghdr align;
    } control;
    struct iovec parts[2] = {{&packet->message, sizeof(packet->message)}, {packet->text, MT_MESSAGE_TEXT_MAX_BYTES}};
    struct msghdr header = {
        .msg_iov = parts, .msg_iovlen = 2, .msg_control = &control, .msg_controllen = sizeof(control)};
    ssize_t n = recvmsg(fd, &header, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);

    packet->fd = -1;
    if (n <= 0)
        return n < 0 ? -errno : 0;
    for (struct cmsghdr *c = CMSG_FIRSTHDR(&header); c; c = CMSG_NXTHDR(&header, c)) {
        size_t count = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
        if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS)
            continue;
        for (size_t i = 0; i < count; i++) {
            int got;
            memcpy(&got, CMSG_DATA(c) + i * sizeof(int), sizeof(got));
            if (packet->fd < 0)
                packet->fd = got;
            else
                close(got);
        }
    }
    packet->text[(size_t)n > sizeof(packet->message) ? (size_t)n - sizeof(packet->message) : 0] = '\0';
    if ((size_t)n < sizeof(packet->message) || packet->message.magic != MT_MESSAGE_MAGIC ||
        packet->message.text_bytes > (size_t)n - sizeof(packet->message)) {
        if (packet->fd >= 0)
            close(packet->fd);
        packet->fd = -1;
        return -EBADMSG;
    }
    packet->text[packet->message.text_bytes] = '\0';
    return n;
}

/* value: WELCOME to a HELLO: 1 to the root, which waits for its commit when it ends. */
static void answer(
    struct reader *reader, struct client *client, uint32_t type, int error, int value, bool with_doorbell)
{
    struct mt_message message = {.magic = MT_MESSAGE_MAGIC,
        .version = MT_WIRE_VERSION,
        .type = type,
        .error = error,
        .pid = getpid(),
        .value = value,
        .run_id = reader->run_id};
    union {
        char bytes[CMSG_SPACE(sizeof(int))];
        struct cmsghdr align;
    } control = {0};
    struct iovec part = {&message, sizeof(message)};
    struct msghdr header = {.msg_iov = &part, .msg_iovlen = 1};

    memcpy(message.socket, reader->socket_name, sizeof(message.socket));
    if (with_doorbell) {
        header.msg_control = &control;
        header.msg_controllen = sizeof(control);
        struct cmsghdr *c = CMSG_FIRSTHDR(&header);
        c->cmsg_level = SOL_SOCKET;
        c->cmsg_type = SCM_RIGHTS;
        c->cmsg_len = CMSG_LEN(sizeof(int));
        memcpy(CMSG_DATA(c), &reader->doorbell_fd, sizeof(int));
    }
    (void)!sendmsg(client->fd, &header, MSG_DONTWAIT | MSG_NOSIGNAL); /* a peer that is gone needs no answer */
}

/* The database is opened at the first word, so that a target learns at once whether tracing has a point. */
static int run_begin(struct reader *reader, int pid, uint64_t started_ns, const char *command, unsigned patience_ms)
{
    uint64_t now = mt_clock_monotonic_ns();
    int proc_fd = proc_open(pid);

    reader->run_start_monotonic_ns = started_ns <= now && now - started_ns < OLDEST_START_NS ? started_ns : now;
    reader->run_cwd = proc_link(proc_fd, "cwd");
    reader->run_command = command && *command ? strdup(command) : proc_command(proc_fd);
    if (proc_fd >= 0)
        close(proc_fd);
    open_start(reader);
    return open_wait(reader, patience_ms);
}

static void on_hello(struct reader *reader, struct client *client, struct packet *packet)
{
    struct mt_segment_header header;
    int error = 0, root = 0, err;

    if (packet->fd < 0) {
        error = EBADF;
    } else if (packet->message.version != MT_WIRE_VERSION) {
        error = EPROTO;
    } else {
        if (pread(packet->fd, &header, sizeof(header), 0) != (ssize_t)sizeof(header))
            header.base_monotonic_ns = UINT64_MAX;
        if (reader->run_start_monotonic_ns)
            err = open_wait(reader, 0);
        else
            err = run_begin(reader, client->pid, header.base_monotonic_ns, NULL, HELLO_PATIENCE_MS);
        error = err < 0 && err != -EBUSY ? -err : 0;
    }
    if (!error) {
        struct target *target = life_hello(reader, client->pid, packet->fd, &error);
        if (target) {
            packet->fd = -1;
            reader->started = true;
            root = target->is_root;
        } else {
            reader->unattached++;
        }
    }
    if (error)
        reader_log(reader, "process %d is not traced: %s", client->pid, strerror(error));
    answer(reader, client, MT_MESSAGE_WELCOME, error, root, error == 0);
}

static void on_run(struct reader *reader, struct client *client, const struct packet *packet)
{
    size_t label_bytes = strnlen(packet->text, packet->message.text_bytes);
    const char *command = label_bytes < packet->message.text_bytes ? packet->text + label_bytes + 1 : "";
    int err = -EALREADY;

    if (!reader->run_start_monotonic_ns) {
        if (label_bytes)
            reader->label = strdup(packet->text);
        err = run_begin(reader, client->pid, mt_clock_monotonic_ns(), command, RUN_PATIENCE_MS);
    }
    if (err == 0) {
        client->run = true;
        reader->started = true;
    }
    answer(reader, client, MT_MESSAGE_WELCOME, -err, 0, err == 0);
}

static void on_root_status(struct reader *reader, struct client *client, const struct packet *packet)
{
    int status = packet->message.value;
    bool seen = false;

    if (!client->run)
        return;
    reader->root_status_known = true;
    reader->root_status = status;
    reader->root_status_pid = packet->message.pid;
    for (struct target *t = reader->targets; t; t = t->next)
        seen |= !t->finished && t->pid == packet->message.pid;
    /* A root that was never traced, or that ended before anyone could ask how. */
    if (!seen && (!reader->root_ended || reader->root_end.exit_status < 0)) {
        reader->root_end =
            (struct mt_store_end){.ended_ns = (int64_t)(mt_clock_monotonic_ns() - reader->run_start_monotonic_ns),
                .kind = WIFSIGNALED(status) ? MT_END_SIGNAL : MT_END_EXIT,
                .exit_status = WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status)};
        reader->root_ended = true;
    }
    client->wants_done = true;
    client->since_ns = mt_clock_monotonic_ns();
}

static void on_mark(struct reader *reader, struct client *client, const struct packet *packet)
{
    struct target *target = life_find(reader, packet->message.pid);
    struct proc_memory memory = {0};

    if (target) {
        size_t bytes = packet->message.text_bytes;

        order_drain(reader, target, SIZE_MAX);
        (void)proc_memory(target->proc_fd, &memory);
        mt_live_text(target->live,
            &(struct mt_live_text_event){.type = MT_RECORD_MARK,
                .stamp = stamp_now(target),
                .text = packet->text,
                .text_bytes = bytes < MT_RECORD_TEXT_MAX_BYTES ? bytes : MT_RECORD_TEXT_MAX_BYTES,
                .rss_bytes = memory.rss_bytes,
                .vms_bytes = memory.vms_bytes});
        sample_take(reader, target, stamp_now(target), NULL);
    }
    answer(reader, client, MT_MESSAGE_WELCOME, target ? 0 : ESRCH, 0, false);
}

void control_event(struct reader *reader, struct client *client)
{
    static struct packet packet; /* 8 KiB, one thread */
    ssize_t n;

    if (!client) {
        int fd = accept4(reader->listen_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
        if (fd >= 0)
            (void)client_add(reader, fd);
        return;
    }
    n = receive(client->fd, &packet);
    if (n == -EAGAIN || n == -EINTR)
        return;
    if (n <= 0) {
        client_drop(reader, client);
        return;
    }
    switch (packet.message.type) {
    case MT_MESSAGE_HELLO:
        on_hello(reader, client, &packet);
        break;
    case MT_MESSAGE_RUN:
        on_run(reader, client, &packet);
        break;
    case MT_MESSAGE_ROOT_STATUS:
        on_root_status(reader, client, &packet);
        break;
    case MT_MESSAGE_MARK:
        on_mark(reader, client, &packet);
        break;
    default:
        break;
    }
    if (packet.fd >= 0)
        close(packet.fd);
}

bool control_done_wanted(const struct reader *reader, uint64_t before_ns)
{
    for (const struct client *c = reader->clients; c; c = c->next)
        if (c->wants_done && c->since_ns <= before_ns)
            return true;
    return false;
}

bool control_answer_done(struct reader *reader, uint64_t before_ns, int error)
{
    bool any = false;

    for (struct client *c = reader->clients; c; c = c->next) {
        if (c->wants_done && c->since_ns <= before_ns) {
            answer(reader, c, MT_MESSAGE_DONE, error, 0, false);
            c->wants_done = c->run = false;
            any = true;
        }
    }
    return any;
}

bool control_busy(const struct reader *reader, uint64_t now_ns)
{
    for (const struct client *c = reader->clients; c; c = c->next)
        if ((c->run && !c->wants_done) || (!c->run && now_ns - c->since_ns < CLIENT_PATIENCE_NS))
            return true;
    return false;
}

/*
 * Starting a reader, and finding the library.
 */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "command.h"
#include "reader/reader.h"
#include "tools/memtrace/config.h"
#include "wire/wire.h"

enum { WELCOME_TIMEOUT_MS = 30000, DONE_TICK_MS = 200 };

static bool is_plain(const char *word)
{
    return *word && !word[strspn(word, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-+=./:,@%^")];
}

char *quote_command(char **argv)
{
    size_t bytes = 1;
    char *text, *to;

    for (char **word = argv; *word; word++)
        bytes += strlen(*word) * 4 + 3;
    text = to = malloc(bytes);
    if (!text)
        return NULL;
    *to = '\0';
    for (char **word = argv; *word; word++) {
        bool plain = is_plain(*word);
        if (to != text)
            *to++ = ' ';
        if (!plain)
            *to++ = '\'';
        for (const char *p = *word; *p; p++) {
            if (*p == '\'')
                to = stpcpy(to, "'\\''");
            else
                *to++ = *p;
        }
        if (!plain)
            *to++ = '\'';
        *to = '\0';
    }
    return text;
}

/* What `memtrace run` does with signals is not what its reader does. */
static void no_handlers(void)
{
    struct sigaction action;

    for (int i = 1; i < NSIG; i++) {
        if (sigaction(i, NULL, &action) == 0 && action.sa_handler != SIG_IGN && action.sa_handler != SIG_DFL)
            signal(i, SIG_DFL);
    }
}

/* The reader is a grandchild in a session of its own: Ctrl-C is not meant for it, and nobody has to wait for it. */
static int spawn(int fd, const char *database, const char *label)
{
    bool preloaded = getenv("LD_PRELOAD") != NULL; /* into us, and not to stay in the reader: that takes a new image */
    int first = fork(), null;
    char number[16];

    if (first < 0)
        return -errno;
    if (first > 0) {
        while (waitpid(first, NULL, 0) < 0 && errno == EINTR)
            ;
        return 0;
    }
    setsid();
    if (fork() != 0)
        _exit(0);
    /* A pipe that the command's reader waits on must not stay open because of us. stderr is for MEMTRACE_LOG=1. */
    null = open("/dev/null", O_RDWR | O_CLOEXEC);
    if (null >= 0) {
        dup2(null, 0);
        dup2(null, 1);
    }
    if (database)
        setenv(MT_ENV_DB, database, 1);
    if (label)
        setenv(MT_ENV_LABEL, label, 1);
    unsetenv("LD_PRELOAD");
    fcntl(fd, F_SETFD, 0);
    if (!preloaded) {
        no_handlers();
        prctl(PR_SET_NAME, "memtrace-reader");
        _exit(mt_reader_main(&(struct mt_reader_options){.fd = fd}));
    }
    snprintf(number, sizeof(number), "%d", fd);
    execl("/proc/self/exe", "memtrace", "--reader", number, (char *)NULL);
    _exit(127);
}

static int receive(int fd, int timeout_ms, struct mt_message *message)
{
    struct pollfd poller = {.fd = fd, .events = POLLIN};
    ssize_t n;
    int ready = poll(&poller, 1, timeout_ms);

    if (ready < 0)
        return -errno;
    if (ready == 0)
        return -ETIMEDOUT;
    n = recv(fd, message, sizeof(*message), MSG_TRUNC); /* a doorbell that comes along is not needed: the kernel closes it */
    if (n < 0)
        return -errno;
    if (n == 0)
        return -EPIPE;
    return n >= (ssize_t)sizeof(*message) && message->magic == MT_MESSAGE_MAGIC ? 0 : -EBADMSG;
}

static int send_run(int fd, const char *label, const char *command)
{
    char packet[sizeof(struct mt_message) + MT_MESSAGE_TEXT_MAX_BYTES];
    struct mt_message message = {
        .magic = MT_MESSAGE_MAGIC, .version = MT_WIRE_VERSION, .type = MT_MESSAGE_RUN, .pid = getpid()};
    char *text = packet + sizeof(message);
    size_t label_bytes = label ? strnlen(label, MT_MESSAGE_TEXT_MAX_BYTES / 2) : 0;
    size_t command_bytes = strnlen(command, MT_MESSAGE_TEXT_MAX_BYTES / 2 - 2);

    if (label_bytes)
        memcpy(text, label, label_bytes);
    text[label_bytes] = '\0';
    memcpy(text + label_bytes + 1, command, command_bytes);
    text[label_bytes + 1 + command_bytes] = '\0';
    message.text_bytes = (uint32_t)(label_bytes + command_bytes + 2);
    memcpy(packet, &message, sizeof(message));
    return send(fd, packet, sizeof(message) + message.text_bytes, MSG_NOSIGNAL) < 0 ? -errno : 0;
}

int reader_start(struct reader_process *reader, const char *database, const char *label, char **command)
{
    struct mt_message message;
    char *text;
    int pair[2], r;

    *reader = (struct reader_process){.fd = -1};
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0)
        return -errno;
    text = quote_command(command);
    r = text ? spawn(pair[1], database, label) : -ENOMEM;
    close(pair[1]);
    if (r == 0)
        r = send_run(pair[0], label, text);
    if (r == 0)
        r = receive(pair[0], WELCOME_TIMEOUT_MS, &message);
    if (r == 0 && (message.type != MT_MESSAGE_WELCOME || message.error))
        r = message.error ? -message.error : -EBADMSG;
    free(text);
    if (r < 0) {
        close(pair[0]);
        return r;
    }
    reader->fd = pair[0];
    reader->pid = message.pid;
    reader->run_id = message.run_id;
    snprintf(reader->socket, sizeof(reader->socket), "%.*s", (int)sizeof(message.socket) - 1, message.socket);
    return 0;
}

int reader_finish(struct reader_process *reader, int root_pid, int wait_status, bool *ret_waiting)
{
    struct mt_message message = {.magic = MT_MESSAGE_MAGIC,
        .version = MT_WIRE_VERSION,
        .type = MT_MESSAGE_ROOT_STATUS,
        .pid = root_pid,
        .value = wait_status};
    int r = send(reader->fd, &message, sizeof(message), MSG_NOSIGNAL) < 0 ? -errno : 0;

    /* As long as the reader lives it is at work, or waits for a process that the command left behind. */
    while (r == 0) {
        r = receive(reader->fd, DONE_TICK_MS, &message);
        if (r == -ETIMEDOUT || r == -EINTR) {
            if (*ret_waiting && r == -EINTR)
                break;
            *ret_waiting = true;
            r = 0;
            continue;
        }
        if (r == 0 && message.type == MT_MESSAGE_DONE) {
            r = -message.error;
            break;
        }
    }
    close(reader->fd);
    reader->fd = -1;
    return r;
}

static bool usable(const char *path)
{
    return access(path, R_OK) == 0;
}

/* The first of the places, from the command's own folder, at which `file` can be read; its folder with_file or not. */
static char *find_beside(const char *const *places, size_t count, const char *file, bool with_file)
{
    char self[PATH_MAX], *path, *real;
    ssize_t n = readlink("/proc/self/exe", self, sizeof(self) - 1);

    if (n <= 0)
        return NULL;
    self[n] = '\0';
    strrchr(self, '/')[1] = '\0';
    for (size_t i = 0; i < count; i++) {
        bool there;

        if (asprintf(&path, "%s%s%s", self, places[i], file) < 0)
            return NULL;
        there = usable(path);
        if (!with_file)
            path[strlen(path) - strlen(file)] = '\0';
        real = there ? realpath(path, NULL) : NULL;
        free(path);
        if (real)
            return real;
    }
    return NULL;
}

char *find_library(void)
{
    static const char *const places[] = {"", "../lib/" MT_TRIPLET "/", "../lib/", "../lib64/"};
    char *found = find_beside(places, sizeof(places) / sizeof(places[0]), "libmemtrace.so", true);

    if (found)
        return found;
    return usable(MT_LIBRARY_FOLDER "/libmemtrace.so") ? strdup(MT_LIBRARY_FOLDER "/libmemtrace.so") : NULL;
}

char *find_python_folder(void)
{
    static const char *const places[] = {"python/", "../share/memtrace/python/"};

    return find_beside(places, sizeof(places) / sizeof(places[0]), "memtrace/__init__.py", false);
}

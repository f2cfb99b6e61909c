/*
 * memtrace mark: tells the reader of a running trace to write down this moment. Readers are found by their sockets, traced
 * processes by the library in their maps.
 */
#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <poll.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "command.h"
#include "wire/wire.h"

static const char help[] = "Writes a mark NAME, with a snapshot of all callsites, into the trace of a running program.\n\n"
                           "      --pid PID       the traced process (default: the one that is being traced)\n"
                           "      --json          say what was done as JSON\n";

enum { TRACED_MAX = 256, READERS_MAX = 256, ANSWER_SLICE_MS = 200, ANSWER_TIMEOUT_MS = 10000 };

struct traced {
    int pids[TRACED_MAX], parents[TRACED_MAX];
    size_t count;
};

static bool has_library(int pid)
{
    char path[40], *line = NULL;
    size_t size = 0;
    bool found = false;
    FILE *maps;

    snprintf(path, sizeof(path), "/proc/%d/maps", pid);
    maps = fopen(path, "re");
    if (!maps)
        return false;
    while (!found && getline(&line, &size, maps) > 0)
        found = strstr(line, "/libmemtrace.so") != NULL;
    free(line);
    fclose(maps);
    return found;
}

static int parent_of(int pid)
{
    char path[40], text[512], *p;
    size_t n;
    int parent = 0;
    FILE *stat;

    snprintf(path, sizeof(path), "/proc/%d/stat", pid);
    stat = fopen(path, "re");
    if (!stat)
        return 0;
    n = fread(text, 1, sizeof(text) - 1, stat);
    fclose(stat);
    text[n] = '\0';
    p = strrchr(text, ')');
    if (p)
        sscanf(p, ") %*c %d", &parent);
    return parent;
}

static void find_traced(struct traced *t)
{
    DIR *proc = opendir("/proc");
    struct dirent *entry;

    while (proc && t->count < TRACED_MAX && (entry = readdir(proc))) {
        int pid = isdigit((unsigned char)entry->d_name[0]) ? atoi(entry->d_name) : 0;
        if (pid > 0 && pid != getpid() && has_library(pid)) {
            t->parents[t->count] = parent_of(pid);
            t->pids[t->count++] = pid;
        }
    }
    if (proc)
        closedir(proc);
}

/* The one traced process whose parent is not traced. */
static int only_root(int *ret_pid)
{
    struct traced t = {0};
    char list[512] = "";
    int roots = 0;

    find_traced(&t);
    for (size_t i = 0; i < t.count; i++) {
        bool child = false;
        for (size_t k = 0; k < t.count; k++)
            child = child || t.pids[k] == t.parents[i];
        if (child)
            continue;
        roots++;
        *ret_pid = t.pids[i];
        if (strlen(list) < sizeof(list) - 16)
            snprintf(list + strlen(list), 16, " %d", t.pids[i]);
    }
    if (roots == 0)
        return complain(STATUS_INPUT, "nothing is being traced; start a program with `memtrace run -- COMMAND`");
    if (roots > 1)
        return complain(STATUS_USAGE, "several programs are being traced; name one with --pid:%s", list);
    return 0;
}

/* Asks one reader, without waiting. Returns the socket on which it will answer, or -errno. */
static int ask_reader(const char *socket_name, int pid, const char *name)
{
    char packet[sizeof(struct mt_message) + MT_MESSAGE_TEXT_MAX_BYTES];
    struct mt_message message = {
        .magic = MT_MESSAGE_MAGIC, .version = MT_WIRE_VERSION, .type = MT_MESSAGE_MARK, .pid = pid};
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    struct ucred peer;
    socklen_t size = sizeof(peer);
    size_t n = strlen(socket_name);
    int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0), r = 0;

    if (fd < 0)
        return -errno;
    memcpy(address.sun_path + 1, socket_name, n);
    message.text_bytes = (uint32_t)strnlen(name, MT_RECORD_TEXT_MAX_BYTES);
    memcpy(packet, &message, sizeof(message));
    memcpy(packet + sizeof(message), name, message.text_bytes);
    if (connect(fd, (struct sockaddr *)&address, (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 1 + n)) < 0 ||
        getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &size) < 0)
        r = -errno;
    else if (peer.uid != getuid())
        r = -EPERM;
    else if (send(fd, packet, sizeof(message) + message.text_bytes, MSG_NOSIGNAL) < 0)
        r = -errno;
    if (r == 0)
        return fd;
    close(fd);
    return r;
}

/* 0, -ESRCH: not this reader's process, or -errno. */
static int answer_of(int fd)
{
    struct mt_message message;

    if (recv(fd, &message, sizeof(message), 0) != (ssize_t)sizeof(message) || message.magic != MT_MESSAGE_MAGIC)
        return -EPROTO;
    return -message.error;
}

/* All readers are asked at once: one that hangs, or writes for long, does not keep the one whose process it is from answering. */
static size_t ask_all(int pid, const char *name, struct pollfd *ret_asked, int *ret_error)
{
    char *line = NULL, wanted[64];
    size_t size = 0, count = 0;
    FILE *sockets = fopen("/proc/net/unix", "re");

    *ret_error = sockets ? -ESRCH : -errno;
    snprintf(wanted, sizeof(wanted), " @" MT_SOCKET_PREFIX "%d-", (int)getuid());
    while (sockets && count < READERS_MAX && getline(&line, &size, sockets) > 0) {
        char *at = strstr(line, wanted);
        int fd;
        if (!at)
            continue;
        at += 2;
        at[strcspn(at, " \n")] = '\0';
        if (strlen(at) >= MT_SOCKET_NAME_MAX_BYTES)
            continue;
        fd = ask_reader(at, pid, name);
        if (fd >= 0)
            ret_asked[count++] = (struct pollfd){.fd = fd, .events = POLLIN};
        else if (fd != -ECONNREFUSED)
            *ret_error = fd;
    }
    free(line);
    if (sockets)
        fclose(sockets);
    return count;
}

static int mark_any(int pid, const char *name)
{
    struct pollfd asked[READERS_MAX];
    int r, waited_ms = 0;
    size_t count = ask_all(pid, name, asked, &r), silent = count;

    while (r != 0 && silent > 0) {
        int ready = poll(asked, count, ANSWER_SLICE_MS);

        if (ready == 0 && (waited_ms += ANSWER_SLICE_MS) >= ANSWER_TIMEOUT_MS) {
            r = -ETIMEDOUT;
            break;
        }
        for (size_t i = 0; ready > 0 && i < count; i++) {
            int one;
            if (asked[i].fd < 0 || !asked[i].revents)
                continue;
            one = answer_of(asked[i].fd);
            if (one == 0 || (one != -EPROTO && r == -ESRCH))
                r = one;
            close(asked[i].fd);
            asked[i].fd = -1; /* poll() passes over it */
            silent--;
        }
    }
    for (size_t i = 0; i < count; i++)
        if (asked[i].fd >= 0)
            close(asked[i].fd);
    return r;
}

int command_mark(int argc, char **argv)
{
    enum { PID = OPTION_FIRST_FREE };
    static const struct option options[] = {{"pid", required_argument, NULL, PID}, {"json", no_argument, NULL, OPTION_JSON},
        {"help", no_argument, NULL, 'h'}, {0}};
    int64_t number;
    bool json = false;
    int c, pid = 0, r;

    while ((c = getopt_long(argc, argv, "h", options, NULL)) != -1) {
        switch (c) {
        case PID:
            if (number_option(optarg, 1, INT32_MAX, &number) < 0)
                return complain(STATUS_USAGE, "--pid %s: not a process id", optarg);
            pid = (int)number;
            break;
        case OPTION_JSON:
            json = true;
            break;
        case 'h':
            return print_help("mark", help);
        default:
            return usage_hint(argv);
        }
    }
    if (!argv[optind] || !argv[optind][0] || argv[optind + 1])
        return complain(STATUS_USAGE, "one name is needed: memtrace mark [--pid PID] NAME");
    if (!pid) {
        r = only_root(&pid);
        if (r != 0)
            return r;
    }
    r = mark_any(pid, argv[optind]);
    if (r == -ESRCH)
        return complain(STATUS_INPUT, "process %d is not being traced", pid);
    if (r < 0)
        return complain(STATUS_INPUT, "process %d: its reader does not answer (%s)", pid, strerror(-r));
    if (json)
        printf("{\"pid\": %d}\n", pid);
    return STATUS_FINE;
}

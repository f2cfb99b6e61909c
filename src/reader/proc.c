/*
 * What the kernel says about a process. Everything is read through a descriptor of /proc/<pid> that was opened while the process was
 * known to be alive, so that a reused pid cannot pass for it.
 */
#include "reader/state.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { COMMAND_MAX_BYTES = 4096 };

int proc_pidfd_open(int pid)
{
    int fd = (int)syscall(SYS_pidfd_open, pid, 0);

    return fd < 0 ? -errno : fd;
}

int proc_open(int pid)
{
    char path[32];
    int fd;

    snprintf(path, sizeof(path), "/proc/%d", pid);
    fd = open(path, O_PATH | O_DIRECTORY | O_CLOEXEC);
    return fd < 0 ? -errno : fd;
}

/* At most size - 1 bytes, terminated. Returns the number of bytes or -errno. */
static ssize_t slurp(int proc_fd, const char *name, char *buffer, size_t size)
{
    size_t used = 0;
    int fd = openat(proc_fd, name, O_RDONLY | O_CLOEXEC);

    if (fd < 0)
        return -errno;
    while (used < size - 1) {
        ssize_t n = read(fd, buffer + used, size - 1 - used);
        if (n <= 0)
            break;
        used += (size_t)n;
    }
    close(fd);
    buffer[used] = '\0';
    return (ssize_t)used;
}

char *proc_link(int proc_fd, const char *name)
{
    char path[4096];
    ssize_t n = proc_fd >= 0 ? readlinkat(proc_fd, name, path, sizeof(path) - 1) : -1;

    if (n < 0)
        return NULL;
    return strndup(path, (size_t)n);
}

static bool is_plain_word(const char *word)
{
    return *word && word[strspn(word, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-+=./:,@%^")] == '\0';
}

char *proc_command(int proc_fd)
{
    char words[COMMAND_MAX_BYTES], *text, *to;
    ssize_t n = proc_fd >= 0 ? slurp(proc_fd, "cmdline", words, sizeof(words)) : -1;

    if (n <= 0)
        return NULL;
    text = malloc((size_t)n * 6 + 4); /* at worst every byte is a quote, and every word is empty */
    if (!text)
        return NULL;
    to = text;
    for (const char *word = words; word < words + n; word += strlen(word) + 1) {
        bool plain = is_plain_word(word);

        if (to != text)
            *to++ = ' ';
        if (!plain)
            *to++ = '\'';
        for (const char *p = word; *p; p++) {
            if (*p == '\'')
                to = stpcpy(to, "'\\''");
            else
                *to++ = *p;
        }
        if (!plain)
            *to++ = '\'';
    }
    *to = '\0';
    return text;
}

int proc_memory(int proc_fd, struct proc_memory *ret_memory)
{
    static uint64_t page;
    unsigned long long pages, resident, shared;
    char text[128];
    ssize_t n = proc_fd >= 0 ? slurp(proc_fd, "statm", text, sizeof(text)) : -ESRCH;

    if (n < 0)
        return (int)n;
    if (!page)
        page = (uint64_t)sysconf(_SC_PAGESIZE);
    if (sscanf(text, "%llu %llu %llu", &pages, &resident, &shared) != 3 || pages == 0)
        return -ESRCH; /* a zombie has no memory */
    *ret_memory = (struct proc_memory){.vms_bytes = pages * page,
        .rss_bytes = resident * page,
        .rss_file_bytes = shared * page,
        .rss_anon_bytes = (resident > shared ? resident - shared : 0) * page};
    return 0;
}

uint64_t proc_peak_rss(int proc_fd)
{
    char text[4096], *line;

    if (proc_fd < 0 || slurp(proc_fd, "status", text, sizeof(text)) < 0)
        return 0;
    line = strstr(text, "\nVmHWM:");
    return line ? strtoull(line + 7, NULL, 10) * 1024 : 0;
}

/* Field `number` (from 1) of /proc/<pid>/stat; the second one, the name, may hold anything. */
static bool stat_field(int proc_fd, int number, char *ret_state, unsigned long long *ret_value)
{
    char text[2048], *p;

    if (proc_fd < 0 || slurp(proc_fd, "stat", text, sizeof(text)) <= 0)
        return false;
    p = strrchr(text, ')');
    if (!p || p[1] != ' ')
        return false;
    p += 2;
    *ret_state = *p;
    for (int i = 3; i < number; i++) {
        p = strchr(p, ' ');
        if (!p)
            return false;
        p++;
    }
    *ret_value = strtoull(p, NULL, 10);
    return true;
}

uint64_t proc_start_ticks(int pid)
{
    unsigned long long ticks = 0;
    char state;
    int fd = proc_open(pid);

    if (fd < 0 || !stat_field(fd, 22, &state, &ticks))
        ticks = 0;
    if (fd >= 0)
        close(fd);
    return ticks;
}

/* linux/pidfd.h of kernel 6.15; older headers do not have it. */
struct pidfd_info_v0 {
    uint64_t mask, cgroup_id;
    uint32_t pid, tgid, ppid, ruid, rgid, euid, egid, suid, sgid, fsuid, fsgid;
    int32_t exit_code;
};
#define PIDFD_INFO_EXIT_BIT (UINT64_C(1) << 3)
#define PIDFD_GET_INFO_V0 _IOWR(0xFF, 11, struct pidfd_info_v0)
static_assert(sizeof(struct pidfd_info_v0) == 64, "PIDFD_INFO_SIZE_VER0");

static bool pidfd_exit_code(int pidfd, int *ret_status)
{
    struct pidfd_info_v0 info = {.mask = PIDFD_INFO_EXIT_BIT};

    if (pidfd < 0 || ioctl(pidfd, PIDFD_GET_INFO_V0, &info) < 0 || !(info.mask & PIDFD_INFO_EXIT_BIT))
        return false;
    *ret_status = info.exit_code;
    return true;
}

/* The kernel tells the pidfd once the process has been waited for, and /proc as long as it has not: ask both, and again. */
bool proc_wait_status(int pidfd, int proc_fd, int *ret_status)
{
    unsigned long long code;
    char state;

    if (pidfd_exit_code(pidfd, ret_status))
        return true;
    if (stat_field(proc_fd, 52, &state, &code) && (state == 'Z' || state == 'X')) {
        *ret_status = (int)code;
        return true;
    }
    return pidfd_exit_code(pidfd, ret_status);
}

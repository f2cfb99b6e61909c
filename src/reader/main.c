/*
 * Start and end of the reader. It comes into the world as a child of a traced program, with that program's descriptors,
 * directory, limits and signal mask, and keeps none of them.
 */
#include "reader/state.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

/*
 * jemalloc's own (jemalloc(3), TUNING): what is freed goes back to the kernel at once. Otherwise tables that have grown leave their old copies behind for
 * ten seconds, which is longer than most programs run.
 */
extern const char *malloc_conf;
const char *malloc_conf = "dirty_decay_ms:0,muzzy_decay_ms:0";

void reader_log(const struct reader *reader, const char *format, ...)
{
    char line[1024];
    va_list args;
    int n;

    if (!reader->log)
        return;
    va_start(args, format);
    n = vsnprintf(line, sizeof(line) - 1, format, args);
    va_end(args);
    if (n > (int)sizeof(line) - 2)
        n = (int)sizeof(line) - 2;
    if (n > 0)
        dprintf(STDERR_FILENO, "memtrace: %.*s\n", n, line);
}

static const char *environment(const char *name)
{
    const char *value = getenv(name);

    return value && *value ? value : NULL;
}

/* What cannot be read as a number is the default. */
static size_t sites_whole(const char *text)
{
    unsigned long n;
    char *end;

    if (!text)
        return SITES_WHOLE;
    if (strcmp(text, "all") == 0)
        return SIZE_MAX;
    errno = 0;
    n = strtoul(text, &end, 10);
    return errno || *end || *text < '0' || *text > '9' ? SITES_WHOLE : n;
}

/* The descriptor's new number, or -errno. All others are closed, 0 to 2 are /dev/null (stderr kept for the log). */
static int keep_only(int fd, bool keep_stderr)
{
    int null = open("/dev/null", O_RDWR | O_CLOEXEC), kept;

    kept = fcntl(fd, F_DUPFD_CLOEXEC, 3);
    if (kept < 0)
        return -errno;
    if (null >= 0) {
        dup2(null, STDIN_FILENO);
        dup2(null, STDOUT_FILENO);
        if (!keep_stderr)
            dup2(null, STDERR_FILENO);
    }
    if (kept != 3) {
        if (dup3(kept, 3, O_CLOEXEC) < 0)
            return -errno;
        kept = 3;
    }
    syscall(SYS_close_range, 4u, ~0u, 0u);
    return kept;
}

static void raise_limit(int resource)
{
    struct rlimit limit = {RLIM_INFINITY, RLIM_INFINITY};

    /* The hard limit is for root to lift, the soft one for anybody, up to that. */
    if (setrlimit(resource, &limit) < 0 && getrlimit(resource, &limit) == 0) {
        limit.rlim_cur = limit.rlim_max;
        setrlimit(resource, &limit);
    }
}

static void detach(void)
{
    static const int ignored[] = {SIGINT, SIGHUP, SIGPIPE, SIGQUIT, SIGTSTP, SIGTTIN, SIGTTOU, SIGXFSZ, SIGXCPU};
    sigset_t none;

    setsid();
    for (size_t i = 0; i < MT_ARRAY_LEN(ignored); i++)
        signal(ignored[i], SIG_IGN);
    signal(SIGCHLD, SIG_DFL);
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    /* The target's limits are not meant for its observer. */
    raise_limit(RLIMIT_AS);
    raise_limit(RLIMIT_DATA);
    raise_limit(RLIMIT_FSIZE);
    raise_limit(RLIMIT_NOFILE);
    raise_limit(RLIMIT_CPU);
    (void)!chdir("/");
}

static char *absolute(const char *path)
{
    char *cwd, *joined = NULL;

    if (path[0] == '/')
        return strdup(path);
    cwd = getcwd(NULL, 0);
    if (cwd && asprintf(&joined, "%s/%s", cwd, path) < 0)
        joined = NULL;
    free(cwd);
    return joined ? joined : strdup(path);
}

static int make_doorbell(struct reader *reader)
{
    void *map;

    reader->doorbell_fd = memfd_create("memtrace-doorbell", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (reader->doorbell_fd < 0)
        return -errno;
    if (ftruncate(reader->doorbell_fd, MT_PAGE_BYTES) < 0 ||
        fcntl(reader->doorbell_fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) < 0)
        return -errno;
    map = mmap(NULL, MT_PAGE_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, reader->doorbell_fd, 0);
    if (map == MAP_FAILED)
        return -errno;
    reader->doorbell = map;
    return 0;
}

static int start(struct reader *reader, int fd)
{
    int err;

    reader->listen_fd = reader->doorbell_fd = -1;
    reader->tsc_base = mt_clock_tsc_ordered();
    reader->tsc_base_ns = mt_clock_monotonic_ns();
    reader->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    if (reader->epoll_fd < 0)
        return -errno;
    err = make_doorbell(reader);
    if (err == 0)
        err = control_start(reader, fd);
    if (err == 0)
        err = loop_start_waker(reader);
    return err;
}

int mt_reader_main(const struct mt_reader_options *options)
{
    static struct reader reader; /* the waker may outlive this function by a moment */
    const char *database = options->database ? options->database : environment(MT_ENV_DB);
    const char *label = options->label ? options->label : environment(MT_ENV_LABEL);
    const char *log = environment(MT_ENV_LOG);
    int fd = options->fd, err;

    reader.log = options->keep_stderr || (log && strcmp(log, "0") != 0);
    reader.label = label ? strdup(label) : NULL;
    reader.sites_whole = sites_whole(environment(MT_ENV_SITES));
    reader.database = absolute(database ? database : "memtrace.db");
    if (!options->stay) {
        fd = keep_only(fd, reader.log);
        detach();
    }
    if (fd < 0 || !reader.database)
        return 1;
    err = start(&reader, fd);
    if (err < 0) {
        reader_log(&reader, "the reader cannot start: %s", strerror(-err));
        return 1;
    }
    loop_run(&reader);
    if (reader.started || open_wait(&reader, 0) == 0)
        err = write_end(&reader);
    control_answer_done(&reader, UINT64_MAX, err < 0 ? -err : 0);
    control_finish(&reader);
    return err < 0;
}

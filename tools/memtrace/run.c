/*
 * memtrace run: a reader first, so that the target finds it at once; then the command, with the library preloaded; then its
 * status, which is also ours.
 */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "command.h"
#include "wire/names.h"

static const char help[] =
    "Runs COMMAND with every allocation traced, and gives back its exit status, or 128 + the signal\n"
    "that ended it.\n\n"
    "  -o, --output DB     the database; every run adds to it (default: $MEMTRACE_DB, else memtrace.db)\n"
    "      --label TEXT    a name for the run, for --run and for queries\n"
    "      --repeat N      N runs, one after another; gives back the last status that is not 0\n"
    "      --python MODE   auto, objects, frames or off\n"
    "      --all-sites     keep the callers of every callsite, not only of the 1,500 that matter most\n"
    "      --no-follow     do not trace the processes that COMMAND starts\n";

struct run_options {
    const char *database, *label, *python;
    bool no_follow, all_sites;
    int64_t repeat;
    char **command;
};

static volatile sig_atomic_t child_pid, interrupted;
int64_t last_run_id;

/*
 * Signals from the terminal reach the command by themselves, being in the same process group; those sent to us alone are passed on. si_code
 * tells them apart: the kernel sends what is typed.
 */
static void pass_on(int number, siginfo_t *info, void *context)
{
    int saved = errno;

    (void)context;
    if (child_pid > 0 && info->si_code <= 0)
        kill(child_pid, number);
    interrupted = number;
    errno = saved;
}

static void catch_signals(bool on)
{
    static const int numbers[] = {SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGUSR1, SIGUSR2};
    static struct sigaction before[sizeof(numbers) / sizeof(numbers[0])];
    struct sigaction action = {.sa_sigaction = pass_on, .sa_flags = SA_SIGINFO};

    for (size_t i = 0; i < sizeof(numbers) / sizeof(numbers[0]); i++) {
        if (!on)
            sigaction(numbers[i], &before[i], NULL);
        else if (sigaction(numbers[i], NULL, &before[i]) == 0 && before[i].sa_handler != SIG_IGN)
            sigaction(numbers[i], &action, NULL);
    }
}

/* `import memtrace` works in what is run. Behind what is there: nothing of the program's own is hidden by it. */
static void add_python_folder(void)
{
    const char *before = getenv("PYTHONPATH");
    char *folder = find_python_folder(), *path = NULL;

    if (folder && asprintf(&path, "%s%s%s", before && *before ? before : "", before && *before ? ":" : "", folder) >= 0)
        setenv("PYTHONPATH", path, 1);
    free(folder);
    free(path);
}

/* In the child, between fork and exec. */
static void prepare_environment(const struct run_options *o, const struct reader_process *reader, const char *library)
{
    const char *before = getenv("LD_PRELOAD");
    char *preload = NULL;

    if (asprintf(&preload, "%s%s%s", library, before && *before ? ":" : "", before ? before : "") < 0)
        return;
    setenv("LD_PRELOAD", preload, 1);
    add_python_folder();
    setenv(MT_ENV_SOCKET, reader->socket, 1);
    if (o->database)
        setenv(MT_ENV_DB, o->database, 1);
    if (o->label)
        setenv(MT_ENV_LABEL, o->label, 1);
    if (o->python)
        setenv(MT_ENV_PYTHON, o->python, 1);
    if (o->no_follow)
        setenv(MT_ENV_FOLLOW, "0", 1);
}

/* Returns the wait status; a command that cannot be started has 126 or 127, as in a shell. */
static int run_command(
    const struct run_options *o, const struct reader_process *reader, const char *library, int *ret_pid)
{
    int failure[2], status = 0, error = 0, pid;
    sigset_t all, before;
    siginfo_t gone;

    if (pipe2(failure, O_CLOEXEC) < 0)
        return 126 << 8;
    fflush(NULL);
    /* A signal that comes before we know whom to pass it on to waits until we do. */
    sigfillset(&all);
    sigprocmask(SIG_SETMASK, &all, &before);
    pid = fork();
    if (pid == 0) {
        catch_signals(false);
        sigprocmask(SIG_SETMASK, &before, NULL);
        if (reader->fd >= 0)
            prepare_environment(o, reader, library);
        execvp(o->command[0], o->command);
        error = errno;
        (void)!write(failure[1], &error, sizeof(error));
        _exit(error == ENOENT ? 127 : 126);
    }
    child_pid = pid;
    sigprocmask(SIG_SETMASK, &before, NULL);
    close(failure[1]);
    if (pid < 0) {
        close(failure[0]);
        complain(0, "%s: %s", o->command[0], strerror(errno));
        return 126 << 8;
    }
    while (read(failure[0], &error, sizeof(error)) < 0 && errno == EINTR)
        ;
    close(failure[0]);
    /* Its number is its own until it has been waited for: no signal goes to another that gets it. */
    while (waitid(P_PID, (id_t)pid, &gone, WEXITED | WNOWAIT) < 0 && errno == EINTR)
        ;
    child_pid = 0;
    while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
        ;
    if (error)
        complain(0, "%s: %s", o->command[0], error == ENOENT ? "command not found" : strerror(error));
    *ret_pid = pid;
    return status;
}

static int status_of(int wait_status)
{
    return WIFSIGNALED(wait_status) ? 128 + WTERMSIG(wait_status) : WEXITSTATUS(wait_status);
}

static const char *database_name(const struct run_options *o)
{
    const char *name = o->database ? o->database : getenv(MT_ENV_DB);

    return name && *name ? name : "memtrace.db";
}

static void summarize(const struct run_options *o, int64_t run_id)
{
    char peak[32], blocks[32];
    struct mt_store *store;
    struct mt_query *query;
    int status;

    if (!isatty(STDERR_FILENO) || mt_store_open_read(database_name(o), &store) < 0)
        return;
    query = ask(store, "SELECT peak_live_bytes, allocated_blocks, live_bytes, status FROM runs WHERE run_id = ?1", &status);
    if (query) {
        mt_query_bind_integer(query, 1, run_id);
        if (mt_query_step(query) == 1)
            fprintf(stderr, "memtrace: run %lld in %s: peak %s, %s allocations, %s; see `memtrace top%s%s`\n",
                (long long)run_id, database_name(o), mt_format_bytes(mt_query_integer(query, 0), peak, sizeof(peak)),
                mt_format_count(mt_query_integer(query, 1), blocks, sizeof(blocks)), mt_query_text(query, 3, NULL),
                o->database ? " -d " : "", o->database ? o->database : "");
        mt_query_destroy(query);
    }
    mt_store_close(store);
}

static const char *reason_of(int error)
{
    return error == EBADMSG ? "not a memtrace database, or damaged"
           : error == EPROTO ? "written by another version of memtrace"
                             : strerror(error);
}

static int trace_once(const struct run_options *o, const char *library)
{
    struct reader_process reader = {.fd = -1};
    bool waiting = false;
    int wait_status, pid = 0, r;

    if (!library) {
        complain(0, "libmemtrace.so is not next to memtrace nor in ../lib: the command runs untraced");
    } else {
        r = reader_start(&reader, o->database, o->label, o->command);
        if (r < 0)
            complain(0, "%s: cannot be written (%s): the command runs untraced; name another database with -o",
                database_name(o), reason_of(-r));
    }
    interrupted = 0;
    wait_status = run_command(o, &reader, library, &pid);
    if (reader.fd >= 0) {
        int64_t run_id = last_run_id = reader.run_id;
        r = reader_finish(&reader, pid, wait_status, &waiting);
        if (r < 0)
            complain(0, "%s: the run could not be written in full (%s)", database_name(o), strerror(-r));
        else
            summarize(o, run_id);
    }
    return status_of(wait_status);
}

static int parse(int argc, char **argv, struct run_options *o, bool *ret_help)
{
    enum { LABEL = OPTION_FIRST_FREE, REPEAT, PYTHON, NO_FOLLOW, ALL_SITES };
    static const struct option options[] = {{"output", required_argument, NULL, 'o'}, {"label", required_argument, NULL, LABEL},
        {"repeat", required_argument, NULL, REPEAT}, {"python", required_argument, NULL, PYTHON},
        {"no-follow", no_argument, NULL, NO_FOLLOW}, {"all-sites", no_argument, NULL, ALL_SITES}, {"help", no_argument, NULL, 'h'}, {0}};
    int c;

    while ((c = getopt_long(argc, argv, "+o:d:h", options, NULL)) != -1) {
        switch (c) {
        case 'o':
        case 'd':
            o->database = optarg;
            break;
        case LABEL:
            o->label = optarg;
            break;
        case REPEAT:
            if (number_option(optarg, 1, 1000000, &o->repeat) < 0)
                return complain(STATUS_USAGE, "--repeat %s: not a number from 1", optarg);
            break;
        case PYTHON:
            if (strcmp(optarg, "auto") != 0 && strcmp(optarg, "objects") != 0 && strcmp(optarg, "frames") != 0 &&
                strcmp(optarg, "off") != 0)
                return complain(STATUS_USAGE, "--python %s: not one of auto, objects, frames, off", optarg);
            o->python = optarg;
            break;
        case NO_FOLLOW:
            o->no_follow = true;
            break;
        case ALL_SITES:
            o->all_sites = true;
            break;
        case 'h':
            *ret_help = true;
            return 0;
        default:
            return usage_hint(argv);
        }
    }
    o->command = argv + optind;
    return o->command[0] ? 0 : complain(STATUS_USAGE, "no command to run: memtrace run -- COMMAND...");
}

int command_run(int argc, char **argv)
{
    struct run_options o = {.repeat = 1};
    bool show_help = false;
    char *library;
    int status = parse(argc, argv, &o, &show_help);

    if (status != 0)
        return status;
    if (show_help)
        return print_help("run", help);
    if (o.all_sites) /* the reader inherits it */
        setenv(MT_ENV_SITES, "all", 1);
    library = find_library();
    last_run_id = 0;
    catch_signals(true);
    for (int64_t i = 0; i < o.repeat; i++) {
        int one = trace_once(&o, library);
        if (one != 0)
            status = one;
        if (interrupted) /* between two runs nobody else hears it */
            break;
    }
    free(library);
    return status;
}

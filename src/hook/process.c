/*
 * fork, exec, spawn, exit; dlclose.
 *
 * A forked child is a process of its own: its state pages come wiped from the kernel, so it starts anew at its first event. A vfork child
 * borrows this process's memory, rings included: it is told by its pid and records nothing. Every new image gets what it needs in its environment
 * (the preload and the reader's socket), even where the program made an environment of its own; with MEMTRACE_FOLLOW=0 it loses the preload.
 *
 * No memory is allocated here: new environments are on the stack, which also suits a vfork child.
 */
#include <alloca.h>
#include <dlfcn.h>
#include <errno.h>
#include <link.h>
#include <pthread.h>
#include <spawn.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "hook/emit.h"
#include "hook/hook.h"
#include "hook/real.h"

#define PRELOAD "LD_PRELOAD="
#define SOCKET "MEMTRACE_SOCKET="
#define PRELOAD_BYTES 4096u
/* An environment larger than this is passed on unchanged rather than doubled on the stack. */
#define ENVIRONMENT_MAX 16384u

struct passed {
    char preload[PRELOAD_BYTES];
    char socket[sizeof SOCKET + MT_SOCKET_NAME_MAX_BYTES];
};

static char own_path[PRELOAD_BYTES / 2];

/* The loader knows the library by the path it was given: a relative one leads nowhere once the program has changed its folder. */
static void find_own_path(void)
{
    struct dl_find_object self;
    const char *name;
    size_t at = 0;

    if (_dl_find_object((void *)&find_own_path, &self) != 0 || !self.dlfo_link_map->l_name)
        return;
    name = self.dlfo_link_map->l_name;
    if (name[0] != '/') {
        long n = mt_sys2(SYS_getcwd, own_path, sizeof own_path); /* counts the terminator */

        if (n > 1 && own_path[0] == '/') {
            at = (size_t)n;
            own_path[at - 1] = '/';
        }
    }
    if (at + strlen(name) < sizeof own_path)
        memcpy(own_path + at, name, strlen(name) + 1);
    else
        own_path[0] = 0;
}

/* Whether one of the entries of a preload list (separated by blanks or colons) is this library, by its file name. */
static const char *find_self(const char *list, size_t *ret_bytes)
{
    static const char file[] = "libmemtrace.so";

    while (*list) {
        size_t n = strcspn(list, " :");

        if (n >= sizeof file - 1 && memcmp(list + n - (sizeof file - 1), file, sizeof file - 1) == 0 &&
            (n == sizeof file - 1 || list[n - sizeof file] == '/')) {
            *ret_bytes = n;
            return list;
        }
        list += n + strspn(list + n, " :");
    }
    return NULL;
}

static bool starts_with(const char *text, const char *prefix)
{
    return strncmp(text, prefix, strlen(prefix)) == 0;
}

/*
 * The preload list of the new image, in `out` of PRELOAD_BYTES where it has to change: this library is taken out, or named first, or by its
 * full path where it was by a relative one.
 */
static const char *make_preload(const char *old, bool follow, char *out)
{
    size_t prefix = sizeof PRELOAD - 1, n = prefix, found_bytes = 0;
    const char *list = old ? old + prefix : "", *found = find_self(list, &found_bytes);
    size_t list_bytes = strlen(list), self_bytes = follow ? strlen(own_path) : 0, before_bytes = found ? (size_t)(found - list) : 0;
    bool is_relative = found && found[0] != '/' && memchr(found, '/', found_bytes);

    if (((found != NULL) == follow && !(is_relative && follow)) || (follow && !self_bytes) ||
        list_bytes + self_bytes + prefix + 2 > PRELOAD_BYTES)
        return old;
    memcpy(out, PRELOAD, prefix);
    memcpy(out + n, list, before_bytes);
    n += before_bytes;
    memcpy(out + n, own_path, self_bytes);
    n += self_bytes;
    if (!found && list_bytes)
        out[n++] = ':';
    memcpy(out + n, list + before_bytes + found_bytes, list_bytes - before_bytes - found_bytes);
    n += list_bytes - before_bytes - found_bytes;
    out[n] = 0;
    return out;
}

const char *mt_process_preload(const char *entry)
{
    static char room[PRELOAD_BYTES];

    return starts_with(entry, PRELOAD) ? make_preload(entry, mt_settings.follow, room) : entry;
}

static size_t count_of(char *const *list)
{
    size_t n = 0;

    while (list && list[n])
        n++;
    return n;
}

/* Not after a chroot(), or for a user who may not read it: the loader would then complain on the new image's stderr. */
static bool is_reachable(void)
{
    return !own_path[0] || mt_sys3(SYS_faccessat, AT_FDCWD, own_path, R_OK) == 0;
}

/* Whether the next image's environment has anything to change. Also true in a forked child that has had no event yet. */
static bool is_carried(void)
{
    return mt_settings.socket[0] && (mt_settings.follow ? !mt_settings.untraced : true);
}

/* Fills `fresh` (room for count + 3) with what `old` has, and what the new image needs. */
static void carry(char *const *old, char **fresh, struct passed *passed)
{
    bool follow = mt_settings.follow && is_reachable();
    const char *preload = NULL;
    size_t n = 0;

    for (; old && *old; old++) {
        if (starts_with(*old, PRELOAD))
            preload = *old;
        else if (!starts_with(*old, SOCKET))
            fresh[n++] = *old;
    }
    preload = make_preload(preload, follow, passed->preload);
    if (preload)
        fresh[n++] = (char *)preload;
    if (follow) {
        memcpy(passed->socket, SOCKET, sizeof SOCKET - 1);
        memcpy(passed->socket + sizeof SOCKET - 1, mt_settings.socket, strlen(mt_settings.socket) + 1);
        fresh[n++] = passed->socket;
    }
    fresh[n] = NULL;
}

/* Declares, on the stack, an environment for a new image made of `old`, as the variable `ret`. */
#define CARRIED(ret, old)                                                                                              \
    struct passed passed_;                                                                                             \
    char *const *ret = (old);                                                                                          \
    if (is_carried() && count_of(ret) < ENVIRONMENT_MAX) {                                                             \
        char **fresh_ = alloca((count_of(ret) + 3) * sizeof *fresh_);                                                  \
        carry(ret, fresh_, &passed_);                                                                                  \
        ret = fresh_;                                                                                                  \
    }

static void before_exec(const char *path)
{
    if (mt_is_own_process())
        mt_emit_text(MT_RECORD_EXEC, 0, NULL, 0, path);
}

static int after_failed_exec(void)
{
    int error = errno;

    if (mt_is_own_process())
        mt_emit_plain(MT_RECORD_EXEC_FAILED, (uint64_t)(unsigned)error, 0, 0);
    errno = error;
    return -1;
}

static int exec_path(const char *path, char *const argv[], char *const environment[])
{
    CARRIED(fresh, environment)
    before_exec(path);
    mt_real()->execve(path, argv, fresh);
    return after_failed_exec();
}

static int exec_search(const char *file, char *const argv[], char *const environment[])
{
    CARRIED(fresh, environment)
    before_exec(file);
    mt_real()->execvpe(file, argv, fresh);
    return after_failed_exec();
}

MT_EXPORT int execve(const char *path, char *const argv[], char *const envp[])
{
    return exec_path(path, argv, envp);
}

MT_EXPORT int execv(const char *path, char *const argv[])
{
    return exec_path(path, argv, environ);
}

MT_EXPORT int execvp(const char *file, char *const argv[])
{
    return exec_search(file, argv, environ);
}

MT_EXPORT int execvpe(const char *file, char *const argv[], char *const envp[])
{
    return exec_search(file, argv, envp);
}

MT_EXPORT int fexecve(int fd, char *const argv[], char *const envp[])
{
    CARRIED(fresh, envp)
    before_exec("");
    mt_real()->fexecve(fd, argv, fresh);
    return after_failed_exec();
}

MT_EXPORT int execveat(int directory, const char *path, char *const argv[], char *const envp[], int flags)
{
    CARRIED(fresh, envp)
    before_exec(path);
    if (mt_real()->execveat)
        mt_real()->execveat(directory, path, argv, fresh, flags);
    else
        errno = ENOSYS;
    return after_failed_exec();
}

/* Collects the arguments of execl, execlp, execle into argv, on the stack; `last` is the va_list past the terminating NULL. */
#define COLLECT(argv, first, args)                                                                                     \
    char **argv;                                                                                                       \
    {                                                                                                                  \
        size_t n_ = 1;                                                                                                 \
        va_list count_;                                                                                                \
        va_start(count_, first);                                                                                       \
        while (va_arg(count_, char *))                                                                                 \
            n_++;                                                                                                      \
        va_end(count_);                                                                                                \
        argv = alloca((n_ + 1) * sizeof *argv);                                                                        \
        argv[0] = (char *)(first);                                                                                     \
        for (size_t i_ = 1; i_ <= n_; i_++)                                                                            \
            argv[i_] = va_arg(args, char *);                                                                           \
    }

MT_EXPORT int execl(const char *path, const char *arg, ...)
{
    va_list args;
    va_start(args, arg);
    COLLECT(argv, arg, args)
    va_end(args);
    return exec_path(path, argv, environ);
}

MT_EXPORT int execlp(const char *file, const char *arg, ...)
{
    va_list args;
    va_start(args, arg);
    COLLECT(argv, arg, args)
    va_end(args);
    return exec_search(file, argv, environ);
}

MT_EXPORT int execle(const char *path, const char *arg, ...)
{
    va_list args;
    char *const *envp;

    va_start(args, arg);
    COLLECT(argv, arg, args)
    envp = va_arg(args, char *const *);
    va_end(args);
    return exec_path(path, argv, envp);
}

/*
 * Before this process has a child. One that was forked itself and has had no event yet must say hello now: else nobody would tell the reader of the
 * grandchild, and the run could be over before that one speaks.
 */
static void before_fork(void)
{
    if (MT_UNLIKELY(mt_load_relaxed(&mt_state.mode) == MT_MODE_NEW))
        mt_start();
}

static int after_spawn(int r, const pid_t *pid)
{
    if (r == 0 && mt_is_own_process())
        mt_emit_plain(MT_RECORD_FORK, (uint64_t)(unsigned)*pid, 0, 0);
    return r;
}

MT_EXPORT int posix_spawn(pid_t *pid, const char *path, const posix_spawn_file_actions_t *actions,
    const posix_spawnattr_t *attributes, char *const argv[], char *const envp[])
{
    pid_t child;
    int r;
    CARRIED(fresh, envp)
    before_fork();
    r = mt_real()->posix_spawn(&child, path, actions, attributes, argv, fresh);

    if (r == 0 && pid)
        *pid = child;
    return after_spawn(r, &child);
}

MT_EXPORT int posix_spawnp(pid_t *pid, const char *file, const posix_spawn_file_actions_t *actions,
    const posix_spawnattr_t *attributes, char *const argv[], char *const envp[])
{
    pid_t child;
    int r;
    CARRIED(fresh, envp)
    before_fork();
    r = mt_real()->posix_spawnp(&child, file, actions, attributes, argv, fresh);

    if (r == 0 && pid)
        *pid = child;
    return after_spawn(r, &child);
}

/*
 * No thread may be inside libunwind while its locks are copied, so mt_state.lock is held across a fork. It is taken by a prepare handler that was registered
 * before all others, hence runs after them: taken earlier, a handler that waits for a thread which waits for a rule would never return. In
 * the child the lock, like all state, comes wiped.
 */
static void prepare_fork(void)
{
    if (mt_is_own_process())
        mt_lock_acquire(&mt_state.lock);
}

static void parent_after_fork(void)
{
    if (mt_is_own_process())
        mt_lock_release(&mt_state.lock);
}

void mt_process_watch(void)
{
    find_own_path();
    pthread_atfork(prepare_fork, parent_after_fork, NULL);
}

static pid_t after_fork(pid_t pid)
{
    int error = errno;

    if (pid > 0 && mt_is_own_process())
        mt_emit_plain(MT_RECORD_FORK, (uint64_t)(unsigned)pid, 0, 0);
    errno = error;
    return pid;
}

MT_EXPORT pid_t fork(void)
{
    before_fork();
    return after_fork(mt_real()->fork());
}

/* Runs no handlers, so the lock is taken here. */
pid_t _Fork(void);
MT_EXPORT pid_t _Fork(void)
{
    struct mt_real *real = mt_real();
    pid_t pid;

    if (!real->_Fork) {
        errno = ENOSYS;
        return -1;
    }
    before_fork();
    prepare_fork();
    pid = real->_Fork();
    if (pid != 0)
        parent_after_fork();
    return after_fork(pid);
}

static void before_exit(int status)
{
    if (!mt_is_own_process())
        return;
    mt_emit_plain(MT_RECORD_EXIT, MT_EXIT_QUICK, 1, (uint64_t)(unsigned)status);
    if (mt_state.root)
        mt_wait_for_commit();
}

MT_EXPORT void _exit(int status)
{
    before_exit(status);
    for (;;)
        mt_sys1(SYS_exit_group, status);
}

MT_EXPORT void _Exit(int status)
{
    before_exit(status);
    for (;;)
        mt_sys1(SYS_exit_group, status);
}

/* at_quick_exit handlers run inside, then the C library's own _exit: what they do is recorded, and drained at the process's end. */
MT_EXPORT void quick_exit(int status)
{
    before_exit(status);
    mt_real()->quick_exit(status);
    __builtin_unreachable();
}

MT_EXPORT int dlclose(void *handle)
{
    int r;

    mt_python_before_unload();
    r = mt_real()->dlclose(handle);
    mt_python_after_unload();
    if (mt_state.mode == MT_MODE_ON && mt_is_own_process()) {
        mt_fetch_add_relaxed(&mt_state.stack.unmap_generation, 1u);
        mt_stack_objects_changed(&mt_state.stack);
    }
    return r;
}

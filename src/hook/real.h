/*
 * The real functions behind the wrappers.
 */
#ifndef MT_HOOK_REAL_H
#define MT_HOOK_REAL_H

#include <spawn.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/compiler.h"
#include "hook/functions.h"

/* Types are spelled out here: some of these functions are not declared by the C library at hand. */
struct mt_real {
    void *(*malloc)(size_t);
    void *(*calloc)(size_t, size_t);
    void *(*realloc)(void *, size_t);
    void *(*reallocarray)(void *, size_t, size_t);
    void (*free)(void *);
    void (*cfree)(void *);
    int (*posix_memalign)(void **, size_t, size_t);
    void *(*aligned_alloc)(size_t, size_t);
    void *(*memalign)(size_t, size_t);
    void *(*valloc)(size_t);
    void *(*pvalloc)(size_t);
    void (*free_sized)(void *, size_t);
    void (*free_aligned_sized)(void *, size_t, size_t);
    void *(*mallocx)(size_t, int);
    void *(*rallocx)(void *, size_t, int);
    size_t (*xallocx)(void *, size_t, size_t, int);
    size_t (*sallocx)(const void *, int);
    void (*dallocx)(void *, int);
    void (*sdallocx)(void *, size_t, int);
    void *(*_Znwm)(size_t);
    void *(*_Znam)(size_t);
    void *(*_ZnwmRKSt9nothrow_t)(size_t, const void *);
    void *(*_ZnamRKSt9nothrow_t)(size_t, const void *);
    void *(*_ZnwmSt11align_val_t)(size_t, size_t);
    void *(*_ZnamSt11align_val_t)(size_t, size_t);
    void *(*_ZnwmSt11align_val_tRKSt9nothrow_t)(size_t, size_t, const void *);
    void *(*_ZnamSt11align_val_tRKSt9nothrow_t)(size_t, size_t, const void *);
    void (*_ZdlPv)(void *);
    void (*_ZdaPv)(void *);
    void (*_ZdlPvm)(void *, size_t);
    void (*_ZdaPvm)(void *, size_t);
    void (*_ZdlPvRKSt9nothrow_t)(void *, const void *);
    void (*_ZdaPvRKSt9nothrow_t)(void *, const void *);
    void (*_ZdlPvSt11align_val_t)(void *, size_t);
    void (*_ZdaPvSt11align_val_t)(void *, size_t);
    void (*_ZdlPvmSt11align_val_t)(void *, size_t, size_t);
    void (*_ZdaPvmSt11align_val_t)(void *, size_t, size_t);
    void (*_ZdlPvSt11align_val_tRKSt9nothrow_t)(void *, size_t, const void *);
    void (*_ZdaPvSt11align_val_tRKSt9nothrow_t)(void *, size_t, const void *);
    void *(*mmap)(void *, size_t, int, int, int, off_t);
    void *(*mmap64)(void *, size_t, int, int, int, off64_t);
    int (*munmap)(void *, size_t);
    void *(*mremap)(void *, size_t, size_t, int, ...);
    int (*brk)(void *);
    void *(*sbrk)(intptr_t);
    pid_t (*fork)(void);
    pid_t (*_Fork)(void);
    int (*posix_spawn)(pid_t *, const char *, const posix_spawn_file_actions_t *, const posix_spawnattr_t *, char *const[],
        char *const[]);
    int (*posix_spawnp)(pid_t *, const char *, const posix_spawn_file_actions_t *, const posix_spawnattr_t *, char *const[],
        char *const[]);
    int (*execv)(const char *, char *const[]);
    int (*execve)(const char *, char *const[], char *const[]);
    int (*execvp)(const char *, char *const[]);
    int (*execvpe)(const char *, char *const[], char *const[]);
    int (*execl)(const char *, const char *, ...);
    int (*execlp)(const char *, const char *, ...);
    int (*execle)(const char *, const char *, ...);
    int (*fexecve)(int, char *const[], char *const[]);
    int (*execveat)(int, const char *, char *const[], char *const[], int);
    void (*_exit)(int);
    void (*_Exit)(int);
    void (*quick_exit)(int);
    int (*dlclose)(void *);
    int (*prctl)(int, ...);
    long (*syscall)(long, ...);

    /* realloc of an object that comes before libmemtrace (the program's own, or an earlier preload's): what callers get. Or NULL. */
    void *(*shadowing_realloc)(void *, size_t);
    bool resolved;
    bool foreign_allocator; /* malloc is not the C library's */
    /* By operator: it is defined by the object that defines malloc, hence does not go through the hooked malloc. */
#define MT_SERVED_(name) bool name##_is_allocator;
    MT_HOOKED_OPERATORS(MT_SERVED_)
#undef MT_SERVED_
};

extern struct mt_real mt_real_table;
extern void *mt_real_syscall MT_HIDDEN; /* for sandbox.c's assembly */

void mt_real_resolve(void);

/* For what a library loaded later (a C++ runtime by dlopen) may have brought by now. NULL: nowhere. */
void *mt_real_find_late(const char *name);

/* A symbol of one object (a struct link_map), or of any (NULL), with its size. NULL: nowhere. */
void *mt_real_find_sized(const void *object, const char *name, size_t *ret_size);

/* The table, resolved at first use: possible before any constructor ran, and without dlsym (which allocates). */
static inline struct mt_real *mt_real(void)
{
    if (__builtin_expect(!mt_real_table.resolved, 0))
        mt_real_resolve();
    return &mt_real_table;
}

#endif

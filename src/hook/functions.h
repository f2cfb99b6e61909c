/*
 * The one table of hooked functions. It drives the pointers to the real functions and their look-up (real.c), the version
 * script (memtrace.map.in) and the tests that compare the library's exports with it.
 *
 *   X(name)   an exported wrapper whose real function is looked up by the same name
 *
 * malloc_usable_size is deliberately absent: it is the real one's answer, untouched. dlopen is absent because the loader looks at its
 * caller's address for RUNPATH; modules are found when their code first shows up on a stack. vfork is absent because
 * a wrapper cannot return twice: a vfork child is recognised by its pid.
 */
#ifndef MT_HOOK_FUNCTIONS_H
#define MT_HOOK_FUNCTIONS_H

#define MT_HOOKED_MALLOC(X)                                                                                            \
    X(malloc)                                                                                                          \
    X(calloc)                                                                                                          \
    X(realloc)                                                                                                         \
    X(reallocarray)                                                                                                    \
    X(free)                                                                                                            \
    X(cfree)                                                                                                           \
    X(posix_memalign)                                                                                                  \
    X(aligned_alloc)                                                                                                   \
    X(memalign)                                                                                                        \
    X(valloc)                                                                                                          \
    X(pvalloc)                                                                                                         \
    X(free_sized)                                                                                                      \
    X(free_aligned_sized)

#define MT_HOOKED_JEMALLOC(X)                                                                                          \
    X(mallocx)                                                                                                         \
    X(rallocx)                                                                                                         \
    X(xallocx)                                                                                                         \
    X(sallocx)                                                                                                         \
    X(dallocx)                                                                                                         \
    X(sdallocx)

/* new, new[], their nothrow and aligned forms; delete, delete[], their sized, aligned and nothrow forms. */
#define MT_HOOKED_OPERATORS(X)                                                                                         \
    X(_Znwm)                                                                                                           \
    X(_Znam)                                                                                                           \
    X(_ZnwmRKSt9nothrow_t)                                                                                             \
    X(_ZnamRKSt9nothrow_t)                                                                                             \
    X(_ZnwmSt11align_val_t)                                                                                            \
    X(_ZnamSt11align_val_t)                                                                                            \
    X(_ZnwmSt11align_val_tRKSt9nothrow_t)                                                                              \
    X(_ZnamSt11align_val_tRKSt9nothrow_t)                                                                              \
    X(_ZdlPv)                                                                                                          \
    X(_ZdaPv)                                                                                                          \
    X(_ZdlPvm)                                                                                                         \
    X(_ZdaPvm)                                                                                                         \
    X(_ZdlPvRKSt9nothrow_t)                                                                                            \
    X(_ZdaPvRKSt9nothrow_t)                                                                                            \
    X(_ZdlPvSt11align_val_t)                                                                                           \
    X(_ZdaPvSt11align_val_t)                                                                                           \
    X(_ZdlPvmSt11align_val_t)                                                                                          \
    X(_ZdaPvmSt11align_val_t)                                                                                          \
    X(_ZdlPvSt11align_val_tRKSt9nothrow_t)                                                                             \
    X(_ZdaPvSt11align_val_tRKSt9nothrow_t)

#define MT_HOOKED_MAPPINGS(X)                                                                                          \
    X(mmap)                                                                                                            \
    X(mmap64)                                                                                                          \
    X(munmap)                                                                                                          \
    X(mremap)                                                                                                          \
    X(brk)                                                                                                             \
    X(sbrk)

#define MT_HOOKED_PROCESS(X)                                                                                           \
    X(fork)                                                                                                            \
    X(_Fork)                                                                                                           \
    X(posix_spawn)                                                                                                     \
    X(posix_spawnp)                                                                                                    \
    X(execv)                                                                                                           \
    X(execve)                                                                                                          \
    X(execvp)                                                                                                          \
    X(execvpe)                                                                                                         \
    X(execl)                                                                                                           \
    X(execlp)                                                                                                          \
    X(execle)                                                                                                          \
    X(fexecve)                                                                                                         \
    X(execveat)                                                                                                        \
    X(_exit)                                                                                                           \
    X(_Exit)                                                                                                           \
    X(quick_exit)                                                                                                      \
    X(dlclose)

/* How a program puts a system call filter on itself (sandbox.c). */
#define MT_HOOKED_SANDBOX(X)                                                                                           \
    X(prctl)                                                                                                           \
    X(syscall)

#define MT_HOOKED(X)                                                                                                   \
    MT_HOOKED_MALLOC(X)                                                                                                \
    MT_HOOKED_JEMALLOC(X)                                                                                              \
    MT_HOOKED_OPERATORS(X)                                                                                             \
    MT_HOOKED_MAPPINGS(X)                                                                                              \
    MT_HOOKED_PROCESS(X)                                                                                               \
    MT_HOOKED_SANDBOX(X)

/* The public functions of memtrace.h, exported for its weak look-up. */
#define MT_API(X)                                                                                                      \
    X(memtrace_mark)                                                                                                   \
    X(memtrace_phase_begin)                                                                                            \
    X(memtrace_phase_end)                                                                                              \
    X(memtrace_iteration)                                                                                              \
    X(memtrace_snapshot)                                                                                               \
    X(memtrace_pause)                                                                                                  \
    X(memtrace_resume)                                                                                                 \
    X(memtrace_current)                                                                                                \
    X(memtrace_heap_create)                                                                                            \
    X(memtrace_heap_alloc)                                                                                             \
    X(memtrace_heap_free)

#endif

/*
 * memtrace.h: tell memtrace what a program is doing. Copy this file or include it where it is; there is nothing to link. In a
 * program that is not run under memtrace (or is linked statically) every call does nothing.
 *
 *     memtrace_phase_begin("parse");
 *     ...
 *     memtrace_phase_end("parse");
 *
 * Names are copied; NULL counts as "". Calls may come from any thread and may nest, but not from a signal handler.
 * Works in C99 and later and in C++, with gcc and clang, on ELF systems; elsewhere the calls are empty.
 *
 * How it binds: a weak reference to the function of the same name in libmemtrace.so. Linkers settle such references to zero in
 * executables that are not position independent, so where it is zero a (weak) dlsym is asked, once per executable or library.
 */
#ifndef MEMTRACE_H
#define MEMTRACE_H

#include <stddef.h>

/* A custom heap; 0 is no heap, and calls with it do nothing. */
typedef unsigned memtrace_heap_t;

/*
 * X(return type, name, parameters, arguments, `return` where there is a value, the value without memtrace)
 *
 * memtrace_mark(name)             a named instant: totals, resident memory and a row per callsite (view snapshot_sites)
 * memtrace_phase_begin(name)      opens a phase, inside the one that is open (view phases)
 * memtrace_phase_end(name)        closes the innermost open phase of that name
 * memtrace_iteration(label)       ends the running iteration and begins the next one: call it at the top of the loop. The
 *                                 process's end ends the last one (views iterations, leaks); one more call with "exit" behind the
 *                                 loop keeps what the program does at its end out of the last one
 * memtrace_snapshot(label)        what every callsite holds now (view snapshot_sites)
 * memtrace_pause()                allocations of all threads are left out until memtrace_resume(); frees are still seen,
 * memtrace_resume()               and the two do not nest
 * memtrace_current(figures)       figures[0], figures[1]: bytes that the process holds now by malloc and in Python's objects, counted up to
 *                                 this call. Asks the reader and waits for it; returns 0 where there is none
 * memtrace_heap_create(name)      a heap of the program's own: a pool, an arena, device memory. Returns 0 if it cannot be had
 * memtrace_heap_alloc(heap, ptr, size)   the heap handed out `size` bytes at `ptr`; call it after the fact
 * memtrace_heap_free(heap, ptr)   the heap takes back what it handed out at `ptr`; call it before the fact
 */
#define MEMTRACE_FUNCTIONS(X)                                                                                          \
    X(void, memtrace_mark, (const char *name), (name), , )                                                             \
    X(void, memtrace_phase_begin, (const char *name), (name), , )                                                      \
    X(void, memtrace_phase_end, (const char *name), (name), , )                                                        \
    X(void, memtrace_iteration, (const char *label), (label), , )                                                      \
    X(void, memtrace_snapshot, (const char *label), (label), , )                                                       \
    X(void, memtrace_pause, (void), (), , )                                                                            \
    X(void, memtrace_resume, (void), (), , )                                                                           \
    X(int, memtrace_current, (unsigned long long *figures), (figures), return, 0)                                      \
    X(memtrace_heap_t, memtrace_heap_create, (const char *name), (name), return, 0)                                    \
    X(void, memtrace_heap_alloc, (memtrace_heap_t heap, const void *ptr, size_t size), (heap, ptr, size), , )          \
    X(void, memtrace_heap_free, (memtrace_heap_t heap, const void *ptr), (heap, ptr), , )

#ifdef __cplusplus
extern "C" {
#endif

#if defined(MEMTRACE_LIBRARY) /* the library itself: plain prototypes */

#define MEMTRACE_X_(type, name, parameters, arguments, give, none) type name parameters;
MEMTRACE_FUNCTIONS(MEMTRACE_X_)
#undef MEMTRACE_X_

#elif defined(__GNUC__) && defined(__ELF__)

/* The library's functions, under other names in C, since the wrappers below have theirs. */
#define MEMTRACE_X_(type, name, parameters, arguments, give, none)                                                     \
    extern type name##_weak_ parameters __asm__(#name) __attribute__((weak));
MEMTRACE_FUNCTIONS(MEMTRACE_X_)
#undef MEMTRACE_X_
extern void *memtrace_dlsym_weak_(void *handle, const char *name) __asm__("dlsym") __attribute__((weak));
extern char *memtrace_dlerror_weak_(void) __asm__("dlerror") __attribute__((weak));

struct memtrace_bindings_ {
    int state; /* 0: not asked yet, 1: bound, 2: no memtrace here */
#define MEMTRACE_X_(type, name, parameters, arguments, give, none) type(*name) parameters;
    MEMTRACE_FUNCTIONS(MEMTRACE_X_)
#undef MEMTRACE_X_
};

/* One copy for each executable or library, whatever number of its files include this. */
__attribute__((weak, visibility("hidden"))) struct memtrace_bindings_ memtrace_bindings_1_;

static __attribute__((unused, noinline, cold)) int memtrace_bind_(void)
{
    struct memtrace_bindings_ *b = &memtrace_bindings_1_;
    int state = 2;

    if (memtrace_mark_weak_) {
#define MEMTRACE_X_(type, name, parameters, arguments, give, none) b->name = name##_weak_;
        MEMTRACE_FUNCTIONS(MEMTRACE_X_)
#undef MEMTRACE_X_
        state = 1;
    } else if (memtrace_dlsym_weak_) {
        void *found = NULL;

        state = 1;
        /* Function pointers are set through an object pointer, as POSIX has it for dlsym. Handle 0 is RTLD_DEFAULT. */
#define MEMTRACE_X_(type, name, parameters, arguments, give, none)                                                     \
    if (state == 1) {                                                                                                  \
        found = memtrace_dlsym_weak_(NULL, #name);                                                                     \
        __builtin_memcpy(&b->name, &found, sizeof found);                                                              \
        state = found ? 1 : 2;                                                                                         \
    }
        MEMTRACE_FUNCTIONS(MEMTRACE_X_)
#undef MEMTRACE_X_
        /* A failed dlsym keeps a message in allocated memory: let it go. */
        if (state == 2 && memtrace_dlerror_weak_)
            (void)memtrace_dlerror_weak_();
    }
    /* Threads that race here store the same values; whoever sees the state sees the pointers. */
    __atomic_store_n(&b->state, state, __ATOMIC_RELEASE);
    return state;
}

static inline __attribute__((always_inline, artificial, unused)) int memtrace_bound_(void)
{
    int state = __atomic_load_n(&memtrace_bindings_1_.state, __ATOMIC_ACQUIRE);

    return (state ? state : memtrace_bind_()) == 1;
}

/* always_inline and artificial: the caller, not the wrapper, is the callsite of memtrace_heap_alloc(). */
#define MEMTRACE_X_(type, name, parameters, arguments, give, none)                                                     \
    static inline type name parameters __asm__(#name "_inline_");                                                      \
    static inline __attribute__((always_inline, artificial, unused)) type name parameters                              \
    {                                                                                                                  \
        if (memtrace_bound_())                                                                                         \
            give memtrace_bindings_1_.name arguments;                                                                  \
        give none;                                                                                                     \
    }
MEMTRACE_FUNCTIONS(MEMTRACE_X_)
#undef MEMTRACE_X_

#else

#define MEMTRACE_X_(type, name, parameters, arguments, give, none)                                                     \
    static inline type name parameters                                                                                 \
    {                                                                                                                  \
        give none;                                                                                                     \
    }
MEMTRACE_FUNCTIONS(MEMTRACE_X_)
#undef MEMTRACE_X_

#endif

#ifdef __cplusplus
}
#endif

#endif

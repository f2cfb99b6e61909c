/*
 * C++ operators. The usual ones (libstdc++, or the program's own) go through malloc and are seen there: the wrapper then only passes on. An allocator
 * that defines operators of its own (jemalloc, tcmalloc, mimalloc) serves them directly: only then they are recorded here. Which it is depends on the object
 * that defines that real operator, never on the call, so that each block has one record for its birth and one for its end. Such operators may still
 * call aligned_alloc or free by name (jemalloc 5.3 does): those calls are then told by the block.
 *
 * A throwing operator leaves through these frames: they hold nothing that would need undoing (the library is built with -fexceptions), and
 * mt_tls.real_sp is overwritten by the next call.
 */
#include <stdlib.h>

#include "hook/emit.h"
#include "hook/hook.h"
#include "hook/real.h"

/* A C++ runtime that was loaded after the start. */
static MT_COLD void *late(void *slot, const char *name)
{
    void *p = mt_real_find_late(name);

    *(void **)slot = p;
    return p;
}

#define REAL_OPERATOR(name) (MT_LIKELY(mt_real()->name != NULL) || late(&mt_real_table.name, #name))

#define OPERATOR_NEW(name, parameters, arguments)                                                                      \
    void *name parameters;                                                                                             \
    MT_EXPORT void *name parameters                                                                                    \
    {                                                                                                                  \
        void *p;                                                                                                       \
                                                                                                                       \
        if (!REAL_OPERATOR(name))                                                                                      \
            return malloc(size);                                                                                       \
        if (MT_LIKELY(!mt_real_table.name##_is_allocator))                                                             \
            return mt_real_table.name arguments;                                                                       \
        mt_tls.real_sp = (uintptr_t)__builtin_frame_address(0);                                                        \
        mt_tls.last_aligned = NULL;                                                                                    \
        p = mt_real_table.name arguments;                                                                              \
        mt_tls.real_sp = 0;                                                                                            \
        if (p && p != mt_tls.last_aligned) {                                                                           \
            struct mt_registers caller = MT_CALLER_REGISTERS();                                                        \
            mt_record_alloc(p, size, &caller);                                                                         \
        }                                                                                                              \
        return p;                                                                                                      \
    }

#define OPERATOR_DELETE(name, parameters, arguments)                                                                   \
    void name parameters;                                                                                              \
    MT_EXPORT void name parameters                                                                                     \
    {                                                                                                                  \
        if (!REAL_OPERATOR(name)) {                                                                                    \
            free(p);                                                                                                   \
            return;                                                                                                    \
        }                                                                                                              \
        if (MT_LIKELY(!mt_real_table.name##_is_allocator) || !p) {                                                     \
            mt_real_table.name arguments;                                                                              \
            return;                                                                                                    \
        }                                                                                                              \
        mt_record_free(p);                                                                                             \
        mt_tls.deleting = p;                                                                                           \
        mt_real_table.name arguments;                                                                                  \
        mt_tls.deleting = NULL;                                                                                        \
    }

OPERATOR_NEW(_Znwm, (size_t size), (size))
OPERATOR_NEW(_Znam, (size_t size), (size))
OPERATOR_NEW(_ZnwmRKSt9nothrow_t, (size_t size, const void *nothrow), (size, nothrow))
OPERATOR_NEW(_ZnamRKSt9nothrow_t, (size_t size, const void *nothrow), (size, nothrow))
OPERATOR_NEW(_ZnwmSt11align_val_t, (size_t size, size_t alignment), (size, alignment))
OPERATOR_NEW(_ZnamSt11align_val_t, (size_t size, size_t alignment), (size, alignment))
OPERATOR_NEW(_ZnwmSt11align_val_tRKSt9nothrow_t, (size_t size, size_t alignment, const void *nothrow),
    (size, alignment, nothrow))
OPERATOR_NEW(_ZnamSt11align_val_tRKSt9nothrow_t, (size_t size, size_t alignment, const void *nothrow),
    (size, alignment, nothrow))

OPERATOR_DELETE(_ZdlPv, (void *p), (p))
OPERATOR_DELETE(_ZdaPv, (void *p), (p))
OPERATOR_DELETE(_ZdlPvm, (void *p, size_t size), (p, size))
OPERATOR_DELETE(_ZdaPvm, (void *p, size_t size), (p, size))
OPERATOR_DELETE(_ZdlPvRKSt9nothrow_t, (void *p, const void *nothrow), (p, nothrow))
OPERATOR_DELETE(_ZdaPvRKSt9nothrow_t, (void *p, const void *nothrow), (p, nothrow))
OPERATOR_DELETE(_ZdlPvSt11align_val_t, (void *p, size_t alignment), (p, alignment))
OPERATOR_DELETE(_ZdaPvSt11align_val_t, (void *p, size_t alignment), (p, alignment))
OPERATOR_DELETE(_ZdlPvmSt11align_val_t, (void *p, size_t size, size_t alignment), (p, size, alignment))
OPERATOR_DELETE(_ZdaPvmSt11align_val_t, (void *p, size_t size, size_t alignment), (p, size, alignment))
OPERATOR_DELETE(_ZdlPvSt11align_val_tRKSt9nothrow_t, (void *p, size_t alignment, const void *nothrow),
    (p, alignment, nothrow))
OPERATOR_DELETE(_ZdaPvSt11align_val_tRKSt9nothrow_t, (void *p, size_t alignment, const void *nothrow),
    (p, alignment, nothrow))

/*
 * The malloc family. Order: an allocation is recorded after the real call, a free before it, a realloc on both sides.
 */
#include "hook/capture.h"
#include "hook/emit.h"
#include "hook/hook.h"
#include "hook/real.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* ---- records --------------------------------------------------------------------------------------------------- */

static MT_ALWAYS_INLINE void record_alloc(const void *p, size_t size_bytes, const struct mt_registers *caller, bool python)
{
    struct mt_stack_change change;
    struct mt_scope scope;

    if (!mt_scope_open_if(&scope, false))
        return;
    if (MT_LIKELY(!mt_load_relaxed(&mt_state.paused))) {
        change = python ? mt_capture(&scope, caller) : mt_stack_capture(&mt_state.stack, &scope.thread->stack, caller);
        if (MT_UNLIKELY(size_bytes > UINT32_MAX || change.keep > MT_RECORD_KEEP_MAX || change.push > MT_RECORD_PUSH_MAX)) {
            uint64_t size = size_bytes;

            mt_emit_change(scope.thread, MT_RECORD_ALLOC_LARGE, (uintptr_t)p, &size, 1, change);
        } else if (mt_reserve(scope.thread, 2 + mt_change_words(&change))) {
            uint64_t at = mt_begin(scope.thread, MT_RECORD_ALLOC, (uintptr_t)p);

            *mt_word_at(scope.thread, at++) = (uint64_t)size_bytes << 32 | change.keep << 16 | change.push;
            mt_publish(scope.thread, mt_put_frames(scope.thread, at, scope.thread->stack.frames, &change));
        } else {
            mt_stack_forget(&scope.thread->stack);
        }
    }
    mt_scope_close(&scope);
}

static MT_NOINLINE void record_alloc_python(const void *p, size_t size_bytes, const struct mt_registers *caller)
{
    record_alloc(p, size_bytes, caller, true);
}

void mt_record_alloc(const void *p, size_t size_bytes, const struct mt_registers *caller)
{
    if (MT_UNLIKELY(mt_load_relaxed(&mt_python_present)))
        record_alloc_python(p, size_bytes, caller);
    else
        record_alloc(p, size_bytes, caller, false);
}

static MT_ALWAYS_INLINE void record_free(const void *p)
{
    mt_emit_plain_if(false, MT_RECORD_FREE, (uintptr_t)p, 0, 0);
}

void mt_record_free(const void *p)
{
    record_free(p);
}

void mt_record_realloc_begin(const void *old)
{
    mt_emit_plain_if(false, MT_RECORD_REALLOC_BEGIN, (uintptr_t)old, 0, 0);
}

void mt_record_realloc_end(const void *p, size_t size_bytes, bool freed, const struct mt_registers *caller)
{
    struct mt_scope scope;
    uint64_t size = p ? size_bytes : 0;

    if (!p && !freed) {
        mt_emit_plain_if(false, MT_RECORD_REALLOC_FAILED, 0, 0, 0);
        return;
    }
    if (!mt_scope_open_if(&scope, false))
        return;
    mt_emit_change(scope.thread, MT_RECORD_REALLOC_END, (uintptr_t)p, &size, 1,
        p ? mt_capture(&scope, caller)
          : (struct mt_stack_change){scope.thread->stack.frame_count, 0});
    mt_scope_close(&scope);
}

/* ---- wrappers -------------------------------------------------------------------------------------------------- */

/* While the real call runs, the unwind rules of its caller and some more can come into the processor's cache. */
static MT_ALWAYS_INLINE void expect_capture(uintptr_t pc, uintptr_t sp)
{
    mt_prefetch(mt_chain_at(mt_tls.chains, mt_tls.chain_shift, pc, sp));
}
#define EXPECT_CAPTURE() expect_capture(MT_CALLER_PC(), MT_CALLER_SP())

/* A foreign allocator maps memory through the hooks of mapping.c: those mappings are its backing. The C library's own does not. */
#define REAL_CALL(real, call)                                                                                          \
    do {                                                                                                               \
        if (MT_UNLIKELY((real)->foreign_allocator)) {                                                                  \
            uintptr_t sp_ = (uintptr_t)__builtin_frame_address(0);                                                     \
            uintptr_t outer_sp = mt_tls.real_sp > sp_ ? mt_tls.real_sp : 0; /* else left by an exception */            \
            mt_tls.real_sp = sp_;                                                                                      \
            call;                                                                                                      \
            mt_tls.real_sp = outer_sp;                                                                                 \
        } else {                                                                                                       \
            call;                                                                                                      \
        }                                                                                                              \
    } while (0)

/* After a real call that gave p: record it as this function's caller's. */
#define RECORD(p, size_bytes)                                                                                          \
    do {                                                                                                               \
        if (MT_LIKELY(p)) {                                                                                            \
            struct mt_registers caller = MT_CALLER_REGISTERS();                                                        \
            mt_record_alloc((p), (size_bytes), &caller);                                                               \
        }                                                                                                              \
    } while (0)

MT_EXPORT void *malloc(size_t size)
{
    struct mt_real *real = mt_real();
    void *p;

    if (MT_UNLIKELY(mt_stack_internal || !real->malloc))
        return mt_arena_alloc(size, 16);
    EXPECT_CAPTURE();
    REAL_CALL(real, p = real->malloc(size));
    RECORD(p, size);
    return p;
}

MT_EXPORT void *calloc(size_t count, size_t size)
{
    struct mt_real *real = mt_real();
    void *p;

    if (MT_UNLIKELY(mt_stack_internal || !real->calloc)) {
        size_t bytes;

        return __builtin_mul_overflow(count, size, &bytes) ? NULL : mt_arena_alloc(bytes, 16);
    }
    EXPECT_CAPTURE();
    REAL_CALL(real, p = real->calloc(count, size));
    RECORD(p, count * size);
    return p;
}

/* A block of the arena that outlives its internal call (the loader's tables) and is resized by the target. */
static void *leave_arena(struct mt_real *real, const void *old, size_t size)
{
    size_t old_size = mt_arena_size(old);
    void *p = real->malloc(size);

    if (p)
        memcpy(p, old, old_size < size ? old_size : size);
    return p;
}

static MT_ALWAYS_INLINE void *resize(struct mt_real *real, void *old, size_t size, const struct mt_registers *caller)
{
    void *p;

    if (MT_UNLIKELY(mt_stack_internal || !real->realloc)) {
        p = mt_arena_alloc(size, 16);
        if (p && old)
            memcpy(p, old, mt_arena_owns(old) && mt_arena_size(old) < size ? mt_arena_size(old) : size);
        return p;
    }
    if (!old || MT_UNLIKELY(mt_arena_owns(old))) {
        if (old)
            p = leave_arena(real, old, size);
        else
            REAL_CALL(real, p = real->realloc(NULL, size));
        if (p)
            mt_record_alloc(p, size, caller);
        return p;
    }
    expect_capture(caller->pc, caller->sp);
    mt_record_realloc_begin(old);
    REAL_CALL(real, p = real->realloc(old, size));
    /* No block and no size asked for: the C library has freed it (an allocator that does not would have given a block). */
    mt_record_realloc_end(p, size, !p && size == 0, caller);
    return p;
}

MT_EXPORT void *realloc(void *old, size_t size)
{
    struct mt_registers caller = MT_CALLER_REGISTERS();

    return resize(mt_real(), old, size, &caller);
}

/* Not passed on: the C library's calls realloc, which would be seen as a second event. */
MT_EXPORT void *reallocarray(void *old, size_t count, size_t size)
{
    struct mt_registers caller = MT_CALLER_REGISTERS();
    size_t bytes;

    if (__builtin_mul_overflow(count, size, &bytes)) {
        errno = ENOMEM;
        return NULL;
    }
    /* The block is not the C library's, nor are its siblings seen here. */
    if (MT_UNLIKELY(mt_real()->shadowing_realloc))
        return mt_real()->shadowing_realloc(old, bytes);
    return resize(mt_real(), old, bytes, &caller);
}

MT_EXPORT void free(void *p)
{
    struct mt_real *real = mt_real();

    if (!p || MT_UNLIKELY(mt_arena_owns(p)))
        return;
    if (MT_LIKELY(!real->foreign_allocator) || mt_tls.deleting != p)
        record_free(p);
    REAL_CALL(real, real->free(p));
}

void cfree(void *p);
MT_EXPORT void cfree(void *p)
{
    struct mt_real *real = mt_real();

    if (!p || mt_arena_owns(p))
        return;
    mt_record_free(p);
    REAL_CALL(real, (real->cfree ? real->cfree : real->free)(p));
}

void free_sized(void *p, size_t size);
MT_EXPORT void free_sized(void *p, size_t size)
{
    struct mt_real *real = mt_real();

    if (!p || mt_arena_owns(p))
        return;
    mt_record_free(p);
    if (real->free_sized)
        REAL_CALL(real, real->free_sized(p, size));
    else
        REAL_CALL(real, real->free(p));
}

void free_aligned_sized(void *p, size_t alignment, size_t size);
MT_EXPORT void free_aligned_sized(void *p, size_t alignment, size_t size)
{
    struct mt_real *real = mt_real();

    if (!p || mt_arena_owns(p))
        return;
    mt_record_free(p);
    if (real->free_aligned_sized)
        REAL_CALL(real, real->free_aligned_sized(p, alignment, size));
    else
        REAL_CALL(real, real->free(p));
}

MT_EXPORT int posix_memalign(void **ret, size_t alignment, size_t size)
{
    struct mt_real *real = mt_real();
    void *p = NULL;
    int r;

    if (MT_UNLIKELY(mt_stack_internal)) {
        p = mt_arena_alloc(size, alignment);
        if (!p)
            return ENOMEM;
        *ret = p;
        return 0;
    }
    /* Straight into the caller's pointer: on failure it is the real function that leaves it alone. */
    REAL_CALL(real, r = real->posix_memalign(ret, alignment, size));
    if (r == 0) {
        RECORD(*ret, size);
        mt_tls.last_aligned = *ret;
    }
    return r;
}

#define ALIGNED_FUNCTION(name, parameters, arguments, alignment, size)                                                 \
    MT_EXPORT void *name parameters                                                                                    \
    {                                                                                                                  \
        struct mt_real *real = mt_real();                                                                              \
        void *p;                                                                                                       \
                                                                                                                       \
        if (MT_UNLIKELY(mt_stack_internal))                                                                            \
            return mt_arena_alloc(size, alignment);                                                                    \
        if (MT_UNLIKELY(!real->name)) {                                                                                \
            errno = ENOMEM;                                                                                            \
            return NULL;                                                                                               \
        }                                                                                                              \
        REAL_CALL(real, p = real->name arguments);                                                                     \
        RECORD(p, size);                                                                                               \
        mt_tls.last_aligned = p;                                                                                       \
        return p;                                                                                                      \
    }

void *aligned_alloc(size_t alignment, size_t size);
void *memalign(size_t alignment, size_t size);
void *valloc(size_t size);
void *pvalloc(size_t size);

ALIGNED_FUNCTION(aligned_alloc, (size_t alignment, size_t size), (alignment, size), alignment, size)
ALIGNED_FUNCTION(memalign, (size_t alignment, size_t size), (alignment, size), alignment, size)
ALIGNED_FUNCTION(valloc, (size_t size), (size), MT_PAGE_BYTES, size)
ALIGNED_FUNCTION(pvalloc, (size_t size), (size), MT_PAGE_BYTES, size)

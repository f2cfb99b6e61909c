/*
 * Python's objects: what the wrapped allocators (python/objects.c) hand out and take back, as blocks of the heap `python`.
 *
 * What an inner allocator asks of malloc and mmap to serve them is its backing: the mappings are marked (mt_tls.real_sp), and calls of malloc are not recorded at
 * all (serving, of mt_tls.gate), since a large block of Python's is malloc's own block: it is counted once, here.
 *
 * Order: as for malloc.
 */
#include "hook/capture.h"
#include "hook/emit.h"
#include "hook/hook.h"

/* The number of the inner stack, with Python's already told. MT_PYTHON_INNER_NONE: there is no such stack here. */
static MT_ALWAYS_INLINE uint32_t capture_inner(
    const struct mt_scope *scope, const struct mt_registers *caller, const struct mt_inner_guess *guess)
{
    struct mt_inner_rules *rules = &scope->thread->python.rules;
    uint32_t number;

    if (MT_UNLIKELY(mt_gate_depth(scope->gate) || mt_state.stack.verify))
        return MT_PYTHON_INNER_NONE;
    scope->thread->python.has_lock = true;
    mt_emit_python_stack(scope->thread, caller);
    scope->thread->python.has_lock = false;
    /* Of another thread it is where a signal handler forked in between, and this is the child. */
    if (MT_UNLIKELY((uintptr_t)guess - (uintptr_t)rules->guesses >= sizeof rules->guesses))
        guess = mt_inner_guess_at(rules, caller->pc, caller->sp);
    number = mt_python_inner(&mt_state.stack, &scope->thread->stack, &scope->thread->python, guess, caller);
    return MT_LIKELY(number != MT_PYTHON_INNER_NONE) ? number : mt_emit_inner_stack(scope->thread, caller);
}

static MT_COLD void record_whole(const struct mt_scope *scope, const void *p, size_t size_bytes, const struct mt_registers *caller)
{
    const uint64_t fixed[] = {size_bytes, MT_HEAP_PYTHON};

    mt_emit_change(scope->thread, MT_RECORD_HEAP_ALLOC, (uintptr_t)p, fixed, 2, mt_capture(scope, caller));
}

static MT_ALWAYS_INLINE void record(const void *p, size_t size_bytes, const struct mt_registers *caller, const struct mt_inner_guess *guess)
{
    struct mt_scope scope;
    uint32_t inner;

    if (!mt_scope_open(&scope))
        return;
    if (MT_LIKELY(!mt_load_relaxed(&mt_state.paused))) {
        if (MT_UNLIKELY(size_bytes > UINT32_MAX || (inner = capture_inner(&scope, caller, guess)) == MT_PYTHON_INNER_NONE)) {
            record_whole(&scope, p, size_bytes, caller);
        } else if (mt_reserve(scope.thread, 2)) {
            uint64_t at = mt_begin_object(scope.thread, MT_RECORD_OBJECT_ALLOC, (uintptr_t)p);

            *mt_word_at(scope.thread, at++) = (uint64_t)size_bytes << 32 | inner;
            mt_publish(scope.thread, at);
        } else {
            mt_python_forget(&scope.thread->python);
        }
    }
    mt_scope_close(&scope);
}

static MT_ALWAYS_INLINE void record_gone(enum mt_record_type type, const void *p)
{
    struct mt_scope scope;

    if (!mt_scope_open(&scope))
        return;
    if (mt_reserve(scope.thread, 1))
        mt_publish(scope.thread, mt_begin_object(scope.thread, type, (uintptr_t)p));
    mt_scope_close(&scope);
}

/* The end of a realloc, even while recording is paused. p NULL: it failed, and the old block is what it was. */
static MT_NOINLINE void record_resized(const void *p, size_t size_bytes, const struct mt_registers *caller)
{
    struct mt_scope scope;
    uint32_t inner;
    bool whole;

    if (!p) {
        mt_emit_plain(MT_RECORD_REALLOC_FAILED, 0, 0, 0);
        return;
    }
    if (!mt_scope_open(&scope))
        return;
    inner = capture_inner(&scope, caller, NULL);
    whole = inner == MT_PYTHON_INNER_NONE; /* the old block ends; the new one begins on its own */
    if (mt_reserve(scope.thread, 3)) {
        uint64_t at = mt_begin_object(scope.thread, MT_RECORD_OBJECT_REALLOC_END, whole ? 0 : (uintptr_t)p);

        *mt_word_at(scope.thread, at++) = whole ? 0 : size_bytes;
        *mt_word_at(scope.thread, at++) = whole ? 0 : inner;
        mt_publish(scope.thread, at);
    } else {
        mt_python_forget(&scope.thread->python);
    }
    if (whole)
        record_whole(&scope, p, size_bytes, caller);
    mt_scope_close(&scope);
}

/* While the real call runs, what is known of its caller's inner stack can come into the processor's cache. NULL: the thread has no ring yet, or another one for this. */
static MT_ALWAYS_INLINE const struct mt_inner_guess *expect_capture(uintptr_t pc, uintptr_t sp)
{
    const struct mt_inner_guess *guess;

    if (MT_UNLIKELY(mt_tls.gate != mt_load_relaxed(&mt_state.epoch)))
        return NULL;
    guess = mt_inner_guess_at(&mt_tls.thread->python.rules, pc, sp);
    mt_prefetch(&mt_tls.thread->python.rules.chains[guess->first]);
    return guess;
}
#define EXPECT_CAPTURE() expect_capture(MT_CALLER_PC(), MT_CALLER_SP())

#define SERVED(call)                                                                                                   \
    do {                                                                                                               \
        uintptr_t outer_sp_ = mt_tls.real_sp;                                                                          \
        mt_tls.real_sp = (uintptr_t)__builtin_frame_address(0);                                                        \
        mt_tls.gate += MT_GATE_SERVING;                                                                                              \
        call;                                                                                                          \
        mt_tls.gate -= MT_GATE_SERVING;                                                                                              \
        mt_tls.real_sp = outer_sp_;                                                                                    \
    } while (0)

static void *object_malloc(void *context, size_t size)
{
    const struct mt_python_slot *slot = context;
    const struct mt_inner_guess *guess = EXPECT_CAPTURE();
    void *p;

    SERVED(p = slot->inner.malloc(slot->inner.ctx, size));
    /* Inside of another wrapped call (MEM served by OBJ's allocator): one block. */
    if (MT_LIKELY(p && !mt_is_serving())) {
        struct mt_registers caller = MT_CALLER_REGISTERS();

        record(p, size, &caller, guess);
    }
    return p;
}

static void *object_calloc(void *context, size_t count, size_t size)
{
    const struct mt_python_slot *slot = context;
    const struct mt_inner_guess *guess = EXPECT_CAPTURE();
    void *p;

    SERVED(p = slot->inner.calloc(slot->inner.ctx, count, size));
    if (MT_LIKELY(p && !mt_is_serving())) {
        struct mt_registers caller = MT_CALLER_REGISTERS();

        record(p, count * size, &caller, guess);
    }
    return p;
}

static void *object_realloc(void *context, void *old, size_t size)
{
    const struct mt_python_slot *slot = context;
    bool outermost = !mt_is_serving();
    void *p;

    if (old && outermost)
        record_gone(MT_RECORD_OBJECT_REALLOC_BEGIN, old);
    SERVED(p = slot->inner.realloc(slot->inner.ctx, old, size));
    if (outermost && (p || old)) {
        struct mt_registers caller = MT_CALLER_REGISTERS();

        if (old)
            record_resized(p, size, &caller);
        else
            record(p, size, &caller, NULL);
    }
    return p;
}

static void object_free(void *context, void *p)
{
    const struct mt_python_slot *slot = context;

    if (p && MT_LIKELY(!mt_is_serving()))
        record_gone(MT_RECORD_OBJECT_FREE, p);
    SERVED(slot->inner.free(slot->inner.ctx, p));
}

const struct mt_python_allocator mt_object_allocator = {NULL, object_malloc, object_calloc, object_realloc, object_free};

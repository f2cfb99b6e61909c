/*
 * Python's objects: what the wrapped allocators (python/objects.c) hand out and take back, as blocks of the heap `python`.
 *
 * What an inner allocator asks of malloc and mmap to serve them is its backing: the mappings are marked (mt_tls.real_sp), and calls of malloc are not recorded at
 * all (mt_tls.serving), since a large block of Python's is malloc's own block: it is counted once, here.
 *
 * Order: as for malloc. Of a realloc the old block ends before and the new one begins after it; one that failed (no memory) begins anew without a
 * size, for nobody knows the old one.
 */
#include "hook/capture.h"
#include "hook/emit.h"
#include "hook/hook.h"

static MT_COLD void announce(void)
{
    const uint64_t id = MT_HEAP_PYTHON;

    mt_lock_acquire(&mt_state.lock);
    if (!mt_state.python_heap) {
        mt_emit_text(MT_RECORD_HEAP_CREATE, &id, MT_RECORD_HEAP_CREATE_WORDS, "python");
        mt_store_release(&mt_state.python_heap, 1u);
        mt_state.writer.header->python_flags |= MT_PYTHON_OBJECTS;
    }
    mt_lock_release(&mt_state.lock);
}

static MT_ALWAYS_INLINE uint32_t capture(struct mt_scope *scope, const struct mt_registers *caller)
{
    uint32_t node = 0;

    if (MT_LIKELY(!scope->nesting && !mt_state.stack.verify))
        node = mt_python_pair_inner(
            &mt_state.python, &mt_state.stack, &scope->thread->stack, &scope->thread->python, caller);
    return node ? node : mt_capture(scope, caller);
}

static MT_ALWAYS_INLINE void record(const void *p, size_t size_bytes, const struct mt_registers *caller)
{
    struct mt_scope scope;
    uint64_t stamp;
    uint32_t node;

    if (!mt_scope_open(&scope))
        return;
    if (MT_UNLIKELY(!mt_load_acquire(&mt_state.python_heap)))
        announce();
    if (MT_LIKELY(!mt_load_relaxed(&mt_state.paused))) {
        node = capture(&scope, caller);
        if (MT_LIKELY(mt_stamp(&scope, 4, &stamp)))
            mt_put4(scope.thread, stamp, MT_RECORD_HEAP_ALLOC, (uintptr_t)p, size_bytes, (uint64_t)MT_HEAP_PYTHON << 32 | node);
    }
    mt_scope_close(&scope);
}

static MT_ALWAYS_INLINE void record_gone(const void *p)
{
    struct mt_scope scope;
    uint64_t stamp;

    if (!mt_scope_open(&scope))
        return;
    if (MT_UNLIKELY(!mt_load_acquire(&mt_state.python_heap))) /* a forked child's first */
        announce();
    if (MT_LIKELY(mt_stamp(&scope, 3, &stamp)))
        mt_put3(scope.thread, stamp, MT_RECORD_HEAP_FREE, (uintptr_t)p, MT_HEAP_PYTHON);
    mt_scope_close(&scope);
}

#define SERVED(call)                                                                                                   \
    do {                                                                                                               \
        uintptr_t outer_sp_ = mt_tls.real_sp;                                                                          \
        mt_tls.real_sp = (uintptr_t)__builtin_frame_address(0);                                                        \
        mt_tls.serving++;                                                                                              \
        call;                                                                                                          \
        mt_tls.serving--;                                                                                              \
        mt_tls.real_sp = outer_sp_;                                                                                    \
    } while (0)

static void *object_malloc(void *context, size_t size)
{
    const struct mt_python_slot *slot = context;
    void *p;

    SERVED(p = slot->inner.malloc(slot->inner.ctx, size));
    /* Inside of another wrapped call (MEM served by OBJ's allocator): one block. */
    if (MT_LIKELY(p && !mt_tls.serving)) {
        struct mt_registers caller = MT_CALLER_REGISTERS();

        record(p, size, &caller);
    }
    return p;
}

static void *object_calloc(void *context, size_t count, size_t size)
{
    const struct mt_python_slot *slot = context;
    void *p;

    SERVED(p = slot->inner.calloc(slot->inner.ctx, count, size));
    if (MT_LIKELY(p && !mt_tls.serving)) {
        struct mt_registers caller = MT_CALLER_REGISTERS();

        record(p, count * size, &caller);
    }
    return p;
}

static void *object_realloc(void *context, void *old, size_t size)
{
    const struct mt_python_slot *slot = context;
    bool outermost = !mt_tls.serving;
    void *p;

    if (old && outermost)
        record_gone(old);
    SERVED(p = slot->inner.realloc(slot->inner.ctx, old, size));
    if (outermost && (p || old)) {
        struct mt_registers caller = MT_CALLER_REGISTERS();

        record(p ? p : old, p ? size : 0, &caller);
    }
    return p;
}

static void object_free(void *context, void *p)
{
    const struct mt_python_slot *slot = context;

    if (p && MT_LIKELY(!mt_tls.serving))
        record_gone(p);
    SERVED(slot->inner.free(slot->inner.ctx, p));
}

const struct mt_python_allocator mt_object_allocator = {NULL, object_malloc, object_calloc, object_realloc, object_free};

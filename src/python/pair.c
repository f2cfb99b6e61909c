/*
 * Two stacks of one callsite -> one node: a child of the native stack's node that names the Python stack's (wire/segment.h). And the small cache of nodes
 * that both kinds go through: a probe of the shared index is a miss in the processor's cache.
 */
#include "python/internal.h"

#define INNER_MAX 24u
#define LOOP_SEARCHES 4096u

static MT_ALWAYS_INLINE struct mt_python_path *path_of(struct mt_python_path *paths, uint32_t a, uint32_t b)
{
    uint64_t h = ((uint64_t)a << 32 | b) * UINT64_C(0x9e3779b97f4a7c15);

    return &paths[(h >> 40) % MT_PYTHON_PATHS];
}

uint32_t mt_python_node(struct mt_stack *stack, struct mt_python_path *paths, uint32_t parent, uint32_t frame)
{
    struct mt_python_path *path = path_of(paths, parent, frame);

    if (MT_LIKELY(path->node && path->a == parent && path->b == frame))
        return path->node;
    path->node = 0; /* a signal handler between two stores must not find half of each */
    mt_compiler_fence();
    path->a = parent;
    path->b = frame;
    mt_compiler_fence();
    path->node = mt_stack_child(stack, parent, frame);
    return path->node;
}

/* Tells the reader of the interpreter, or the run that nothing can be told of it. */
static MT_COLD void announce(struct mt_python *python, struct mt_stack *stack)
{
    struct mt_segment_header *header = stack->writer->header;
    uint32_t expected = 0;

    if (!mt_cas_acquire(&python->announced, &expected, 1u))
        return;
    if (!mt_python_here.known) {
        mt_writer_lost(stack->writer, MT_LOSS_PYTHON_VERSION, 1);
        return;
    }
    for (unsigned i = 0; i < MT_PYTHON_LOOP_PARTS; i++) {
        header->python_loop[i][0] = mt_python_here.loop[i].start;
        header->python_loop[i][1] = mt_python_here.loop[i].end;
    }
    header->python_flags |= mt_python_here.free_threaded ? MT_PYTHON_FREE_THREADED : 0;
    mt_store_release(&header->python_version, mt_python_here.version);
}

/* Once the interpreter runs, its allocators stay what they are. */
static MT_COLD void settle(struct mt_python *python)
{
    if (mt_python_wrap_again())
        mt_store_relaxed(&python->settled, 1u);
}

/* The first captures look whether the loop is where its symbol says. */
static MT_COLD void check_loop(struct mt_stack *stack, struct mt_stack_thread *stack_thread,
    const struct mt_python_thread *thread, const struct mt_registers *caller)
{
    uint32_t frames[INNER_MAX];

    mt_fetch_add_relaxed(&mt_python_here.loop_searches, 1u);
    if (!mt_stack_inner(stack, stack_thread, caller, mt_python_here.loop, frames, INNER_MAX))
        mt_python_find_loop(stack, stack_thread, thread, caller);
}

uint32_t mt_python_pair(struct mt_python *python, struct mt_stack *stack, struct mt_stack_thread *stack_thread,
    struct mt_python_thread *thread, const struct mt_registers *caller, uint32_t native)
{
    uint32_t node;

    if (MT_UNLIKELY(!mt_load_relaxed(&python->announced)))
        announce(python, stack);
    if (MT_UNLIKELY(!mt_load_relaxed(&python->settled)))
        settle(python);
    node = mt_python_capture(python, stack, thread);
    if (!node)
        return native;
    if (MT_UNLIKELY(mt_load_relaxed(&mt_python_here.loop_searches) < LOOP_SEARCHES))
        check_loop(stack, stack_thread, thread, caller);
    node = mt_python_node(stack, thread->pairs, native, MT_NODE_PAIR | node);
    return node ? node : native;
}


static uint32_t node_of(struct mt_stack *stack, struct mt_python_thread *thread, const uint32_t *frames, size_t count)
{
    struct mt_python_inner *inner;
    uint64_t h = count;
    uint32_t node = 0;

    for (size_t i = 0; i < count; i++) {
        h = (h ^ frames[i]) * UINT64_C(0x9e3779b97f4a7c15);
        h ^= h >> 32;
    }
    inner = &thread->inner[h % MT_PYTHON_INNERS];
    if (MT_LIKELY(inner->hash == h && inner->node))
        return inner->node;
    inner->node = 0;
    mt_compiler_fence();
    for (size_t i = count; i-- > 0;) {
        node = mt_stack_child(stack, node, frames[i]);
        if (!node)
            return 0;
    }
    inner->hash = h;
    mt_compiler_fence();
    inner->node = node;
    return node;
}

uint32_t mt_python_pair_inner(struct mt_python *python, struct mt_stack *stack, struct mt_stack_thread *stack_thread,
    struct mt_python_thread *thread, const struct mt_registers *caller)
{
    uint32_t frames[INNER_MAX], native, node;
    size_t count;

    if (MT_UNLIKELY(!mt_python_here.known || !mt_load_relaxed(&python->announced) || !thread->inner ||
                    !mt_load_relaxed(&python->settled)))
        return 0;
    count = mt_stack_inner(stack, stack_thread, caller, mt_python_here.loop, frames, INNER_MAX);
    if (MT_UNLIKELY(!count)) {
        if (mt_load_relaxed(&mt_python_here.loop_searches) < LOOP_SEARCHES)
            mt_python_find_loop(stack, stack_thread, thread, caller);
        return 0;
    }
    node = mt_python_capture(python, stack, thread);
    native = node ? node_of(stack, thread, frames, count) : 0;
    return native ? mt_python_node(stack, thread->pairs, native, MT_NODE_PAIR | node) : 0;
}

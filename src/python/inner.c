/*
 * The native stack of an object: what lies inside of the innermost Python frame, and the frame that runs it. Kept as the last one was sent, so that
 * only the difference need be.
 */
#include "python/internal.h"

bool mt_python_inner(struct mt_stack *stack, struct mt_stack_thread *stack_thread, struct mt_python_thread *thread,
    const struct mt_registers *caller, struct mt_stack_change *ret_change)
{
    const uint32_t *frames;
    uint32_t count, keep = 0;

    if (MT_UNLIKELY(!thread->frame_count))
        return false;
    thread->rules.ranges_known = mt_load_acquire(&mt_python_here.loop_parts);
    frames = mt_stack_inner(stack, stack_thread, caller, mt_python_here.loop, &thread->rules, &count);
    if (MT_UNLIKELY(!frames)) {
        mt_python_find_loop_if_new(stack, stack_thread, thread, caller);
        return false;
    }
    if (MT_LIKELY(frames == thread->inner_from && thread->rules.walks == thread->inner_walks && count == thread->inner_count)) {
        *ret_change = (struct mt_stack_change){count, 0};
        return true;
    }
    while (keep < count && keep < thread->inner_count && thread->inner[keep] == frames[count - 1 - keep])
        keep++;
    for (uint32_t i = keep; i < count; i++)
        thread->inner[i] = frames[count - 1 - i];
    thread->inner_count = count;
    thread->inner_from = frames;
    thread->inner_walks = thread->rules.walks;
    *ret_change = (struct mt_stack_change){keep, count - keep};
    return true;
}

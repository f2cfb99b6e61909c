/*
 * The native stack of an object: what lies inside of the innermost Python frame, and the frame that runs it.
 */
#include "python/internal.h"

uint32_t mt_python_walk_inner(struct mt_stack *stack, struct mt_stack_thread *stack_thread, struct mt_python_thread *thread,
    const struct mt_registers *caller, uint32_t *ret_number, bool *ret_is_new)
{
    uint32_t count;

    if (MT_UNLIKELY(!thread->frame_count))
        return 0;
    count = mt_stack_walk_inner(stack, stack_thread, caller, mt_python_here.loop, &thread->rules, ret_number, ret_is_new);
    if (MT_UNLIKELY(!count))
        mt_python_find_loop_if_new(stack, stack_thread, thread, caller);
    return count;
}

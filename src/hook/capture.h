/*
 * The callsite of an event: the native stack and, in a Python program, the Python stack, as one node.
 */
#ifndef MT_HOOK_CAPTURE_H
#define MT_HOOK_CAPTURE_H

#include "hook/emit.h"
#include "hook/hook.h"

static MT_ALWAYS_INLINE uint32_t mt_capture(struct mt_scope *scope, const struct mt_registers *caller)
{
    uint32_t node = mt_stack_capture(&mt_state.stack, &scope->thread->stack, caller, scope->nesting);

    /* A signal handler may find Python's structures half changed. */
    if (MT_UNLIKELY(mt_load_relaxed(&mt_python_present)) && MT_LIKELY(!scope->nesting))
        node = mt_python_pair(
            &mt_state.python, &mt_state.stack, &scope->thread->stack, &scope->thread->python, caller, node);
    return node;
}

#endif

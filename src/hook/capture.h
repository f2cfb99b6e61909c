/*
 * The callsite of an event: the native stack and, in a Python program, the Python stack.
 */
#ifndef MT_HOOK_CAPTURE_H
#define MT_HOOK_CAPTURE_H

#include "hook/emit.h"
#include "hook/hook.h"

/* Tells of a change of the Python stack, in front of the event's own record (python.c). */
void mt_emit_python_change(struct mt_thread *thread, struct mt_stack_change change);

/* Captures the caller's Python stack and, if it is another one than the ring's last, tells of it. */
static MT_ALWAYS_INLINE void mt_emit_python_stack(struct mt_thread *thread, const struct mt_registers *caller)
{
    struct mt_stack_change change;

    if (mt_python_capture(&mt_state.python, &mt_state.stack, &thread->stack, &thread->python, caller, &change))
        mt_emit_python_change(thread, change);
}

/* Walks the inner stack of one of Python's objects and tells it, in front of the event's own record (python.c). Its number; MT_PYTHON_INNER_NONE: take the whole stack. */
uint32_t mt_emit_inner_stack(struct mt_thread *thread, const struct mt_registers *caller);

/* A handler on top of another scope may find Python's structures half changed: there is no Python stack then, nor in any ring for handlers. */
static MT_ALWAYS_INLINE struct mt_stack_change mt_capture(const struct mt_scope *scope, const struct mt_registers *caller)
{
    if (MT_UNLIKELY(mt_load_relaxed(&mt_python_present)) && MT_LIKELY(!mt_gate_depth(scope->gate)))
        mt_emit_python_stack(scope->thread, caller);
    return mt_stack_capture(&mt_state.stack, &scope->thread->stack, caller);
}

#endif

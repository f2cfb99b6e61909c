/*
 * Capture without rules, for processors that have no folder in arch/: libunwind steps through each stack. Slow, about a microsecond a frame, but
 * exact, and with the same frames: what stands in for a rule here is a pc's frame id and whether the stack ends there.
 */
#include "stack/unwinder.h"

#include <string.h>

#include "base/slow_stack.h"

void mt_learn(struct mt_stack *stack, uintptr_t pc, struct mt_learnt *ret_learnt)
{
    memset(ret_learnt, 0, sizeof *ret_learnt);
    if (mt_unwind_knows(stack, pc))
        ret_learnt->kind = MT_RULE_COMPLEX;
    else /* The root of a made-up stack is the first byte of a function: see learn.c. */
        ret_learnt->kind = mt_unwind_knows(stack, pc + 1) ? MT_RULE_END : MT_RULE_CUT;
}

int mt_memo_init(struct mt_stack *stack, struct mt_stack_thread *thread, unsigned chain_bits)
{
    (void)stack;
    (void)chain_bits;
    memset(&thread->memo, 0, sizeof thread->memo);
    return 0;
}

void mt_memo_finish(struct mt_stack_thread *thread)
{
    memset(&thread->memo, 0, sizeof thread->memo);
}

struct collect {
    struct mt_stack *stack;
    struct mt_stack_buffer *buffer;
    size_t count;
    bool ended, cut;
};

static bool collect_frame(void *context, uintptr_t pc)
{
    struct collect *c = context;
    mt_rule rule = mt_rule_get(c->stack, pc);
    uint32_t frame = mt_rule_frame(rule);

    if (c->count == c->buffer->capacity && !mt_stack_grow_buffer(c->stack, c->buffer)) {
        mt_writer_lost(c->stack->writer, MT_LOSS_STACK_MEMORY, 1);
        c->ended = true;
        return false;
    }
    c->cut = mt_rule_kind(rule) == MT_RULE_CUT;
    c->ended = mt_rule_kind(rule) == MT_RULE_END;
    /* A run of frames without call frame information counts as one: their addresses differ from run to run. */
    if (!(c->cut && c->count && c->buffer->frames[c->count - 1] == frame))
        c->buffer->frames[c->count++] = frame;
    return !c->ended;
}

struct mt_stack_change mt_stack_capture(
    struct mt_stack *stack, struct mt_stack_thread *thread, const struct mt_registers *registers)
{
    struct collect c = {stack, &thread->walked, 0, false, false};
    uint64_t signals;
    int r;

    mt_sys_signals_block(&signals);
    mt_lock_acquire(stack->lock);
    mt_stack_internal++;
    r = mt_unwind_by_libunwind(registers, false, collect_frame, &c);
    mt_stack_internal--;
    if (!c.count)
        collect_frame(&c, registers->pc);
    mt_lock_release(stack->lock);
    mt_sys_signals_restore(&signals);
    if (r < 0 && r != -ENOENT && !c.ended)
        mt_writer_lost(stack->writer, MT_LOSS_STACK_RULE, 1);
    if (stack->verify)
        mt_fetch_add_relaxed(&stack->writer->header->captures, 1);
    return mt_stack_change_to(stack, thread, (uint32_t)c.count);
}

/* The inner part of a stack is not told apart: whoever asks takes the whole. */
uint32_t mt_stack_walk_inner(struct mt_stack *stack, struct mt_stack_thread *thread, const struct mt_registers *registers,
    const struct mt_code_range *ranges, struct mt_inner_rules *rules, uint32_t *ret_number, bool *ret_is_new)
{
    (void)stack;
    (void)thread;
    (void)registers;
    (void)ranges;
    (void)rules;
    (void)ret_number;
    (void)ret_is_new;
    return 0;
}

uintptr_t mt_stack_pc_at(
    struct mt_stack *stack, struct mt_stack_thread *thread, const struct mt_registers *registers, uintptr_t address)
{
    (void)stack;
    (void)thread;
    (void)registers;
    (void)address;
    return 0;
}

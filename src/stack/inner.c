/*
 * The inner part of a stack: from the hooked call out to the first frame in given stretches of code. For callers who know the rest by other means.
 */
#include "stack/internal.h"

#define DEPTH_MAX 64u

/* One plain frame outwards. False: it is not one, or cannot be read. */
static MT_ALWAYS_INLINE bool step(
    struct mt_stack *stack, struct mt_stack_thread *thread, mt_rule rule, struct mt_registers *r)
{
    uintptr_t cfa;
    int64_t bp_bytes;

    if (mt_rule_kind(rule) != MT_RULE_SP && mt_rule_kind(rule) != MT_RULE_BP)
        return false;
    cfa = (mt_rule_kind(rule) == MT_RULE_SP ? r->sp : r->bp) + (uintptr_t)mt_rule_cfa_bytes(rule);
    bp_bytes = mt_rule_bp_bytes(rule);
    if (MT_UNLIKELY(cfa <= r->sp || !mt_stack_readable(stack, thread, cfa - sizeof(uintptr_t))))
        return false;
    if (bp_bytes) {
        if (MT_UNLIKELY(!mt_stack_readable(stack, thread, cfa + (uintptr_t)bp_bytes)))
            return false;
        r->bp = *(const uintptr_t *)(cfa + (uintptr_t)bp_bytes);
    }
    r->sp = cfa;
    r->pc = *(const uintptr_t *)(cfa - sizeof(uintptr_t)) - 1;
    return true;
}

size_t mt_stack_inner(struct mt_stack *stack, struct mt_stack_thread *thread, const struct mt_registers *registers,
    const struct mt_code_range *ranges, uint32_t *ret_frames, size_t capacity)
{
    struct mt_registers r = *registers;

    for (size_t count = 0; count < capacity;) {
        mt_rule rule = mt_rule_get(stack, r.pc);

        ret_frames[count++] = mt_rule_frame(rule);
        for (const struct mt_code_range *range = ranges; range->end; range++)
            if (r.pc >= range->start && r.pc < range->end)
                return count;
        if (!step(stack, thread, rule, &r))
            return 0;
    }
    return 0;
}

uintptr_t mt_stack_pc_at(
    struct mt_stack *stack, struct mt_stack_thread *thread, const struct mt_registers *registers, uintptr_t address)
{
    struct mt_registers r = *registers;

    for (unsigned i = 0; i < DEPTH_MAX && address >= r.sp; i++) {
        uintptr_t pc = r.pc;

        if (!step(stack, thread, mt_rule_get(stack, pc), &r))
            return 0;
        if (address < r.sp)
            return pc;
    }
    return 0;
}

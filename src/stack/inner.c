/*
 * The inner part of a stack: from the hooked call out to the first frame in a given stretch of code. For callers who know the rest by other means.
 */
#include "stack/internal.h"

size_t mt_stack_inner(struct mt_stack *stack, struct mt_stack_thread *thread, const struct mt_registers *registers,
    uintptr_t low, uintptr_t high, uint32_t *ret_frames, size_t capacity)
{
    struct mt_registers r = *registers;

    for (size_t count = 0; count < capacity;) {
        mt_rule rule = mt_rule_get(stack, r.pc);
        uintptr_t cfa;
        int64_t bp_bytes;

        ret_frames[count++] = mt_rule_frame(rule);
        if (r.pc >= low && r.pc < high)
            return count;
        if (mt_rule_kind(rule) != MT_RULE_SP && mt_rule_kind(rule) != MT_RULE_BP)
            return 0;
        cfa = (mt_rule_kind(rule) == MT_RULE_SP ? r.sp : r.bp) + (uintptr_t)mt_rule_cfa_bytes(rule);
        bp_bytes = mt_rule_bp_bytes(rule);
        if (MT_UNLIKELY(cfa <= r.sp || !mt_stack_readable(stack, thread, cfa - sizeof(uintptr_t))))
            return 0;
        if (bp_bytes) {
            if (MT_UNLIKELY(!mt_stack_readable(stack, thread, cfa + (uintptr_t)bp_bytes)))
                return 0;
            r.bp = *(const uintptr_t *)(cfa + (uintptr_t)bp_bytes);
        }
        r.sp = cfa;
        r.pc = *(const uintptr_t *)(cfa - sizeof(uintptr_t)) - 1;
    }
    return 0;
}

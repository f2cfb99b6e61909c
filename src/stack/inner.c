/*
 * The inner part of a stack: from the hooked call out to the first frame in given stretches of code. For callers who know the rest by other means.
 */
#include "stack/internal.h"

#include <string.h>

#define DEPTH_MAX 64u

/* One plain frame outwards. False: it is not one, or cannot be read. */
static MT_ALWAYS_INLINE bool step(
    struct mt_stack *stack, struct mt_stack_thread *thread, mt_rule rule, struct mt_registers *r)
{
    uintptr_t cfa;
    int64_t ra_bytes = mt_rule_ra_bytes(rule), bp_bytes;

    if (mt_rule_kind(rule) != MT_RULE_SP && mt_rule_kind(rule) != MT_RULE_BP)
        return false;
    cfa = (mt_rule_kind(rule) == MT_RULE_SP ? r->sp : r->bp) + (uintptr_t)mt_rule_cfa_bytes(rule);
    bp_bytes = mt_rule_bp_bytes(rule);
    if (MT_UNLIKELY(!ra_bytes || cfa <= r->sp || !mt_stack_readable(stack, thread, cfa + (uintptr_t)ra_bytes)))
        return false;
    if (bp_bytes) {
        if (MT_UNLIKELY(!mt_stack_readable(stack, thread, cfa + (uintptr_t)bp_bytes)))
            return false;
        r->bp = *(const uintptr_t *)(cfa + (uintptr_t)bp_bytes);
    }
    r->sp = cfa;
    r->pc = mt_code_address(*(const uintptr_t *)(cfa + (uintptr_t)ra_bytes)) - 1;
    return true;
}

static bool is_in(const struct mt_code_range *ranges, uintptr_t pc)
{
    for (; ranges->end; ranges++)
        if (pc >= ranges->start && pc < ranges->end)
            return true;
    return false;
}

/* The rule of a pc, whether or not it lies in the ranges: kept, since such stacks are made of few pcs. */
static MT_NOINLINE void learn(
    struct mt_stack *stack, const struct mt_code_range *ranges, uintptr_t pc, struct mt_inner_rule *ret_rule)
{
    mt_rule rule = mt_rule_get(stack, pc);
    bool is_plain = mt_rule_kind(rule) == MT_RULE_SP || mt_rule_kind(rule) == MT_RULE_BP;

    *ret_rule = (struct mt_inner_rule){(uint64_t)pc << 1 | is_in(ranges, pc), rule};
    if (!is_plain) /* may become another one */
        ret_rule->key |= UINT64_C(1) << 63;
}

size_t mt_stack_inner(struct mt_stack *stack, struct mt_stack_thread *thread, const struct mt_registers *registers,
    const struct mt_code_range *ranges, struct mt_inner_rules *rules, uint32_t *ret_frames, size_t capacity)
{
    uint64_t generation = (uint64_t)mt_load_relaxed(&stack->rule_generation) << 32 | mt_load_relaxed(&rules->ranges_known);
    struct mt_registers r = *registers;

    if (MT_UNLIKELY(rules->generation != generation)) {
        memset(rules->entries, 0, sizeof rules->entries);
        rules->generation = generation;
    }
    for (size_t count = 0; count < capacity;) {
        struct mt_inner_rule *entry = &rules->entries[(r.pc * UINT64_C(0x9e3779b97f4a7c15)) >> (64 - MT_INNER_RULE_BITS)];

        if (MT_UNLIKELY((entry->key ^ (uint64_t)r.pc << 1) > 1))
            learn(stack, ranges, r.pc, entry);
        ret_frames[count++] = mt_rule_frame(entry->rule);
        if (entry->key & 1)
            return count;
        if (!step(stack, thread, entry->rule, &r))
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

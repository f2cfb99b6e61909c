/*
 * The inner part of a stack: from the hooked call out to the first frame in given stretches of code. For callers who know the rest by other means.
 *
 * Verified, not walked again, where it was met before, as in memo.c: rules are functions of the pc, so equal registers and equal words in the slots that
 * led from frame to frame give an equal stack. Many are kept, found by their pc and sp: a loop calls the same few functions from the same depth.
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

static MT_ALWAYS_INLINE struct mt_inner_stack *stack_of(struct mt_inner_rules *rules, const struct mt_registers *r)
{
    return &rules->stacks[((r->pc ^ r->sp << 20) * UINT64_C(0x9e3779b97f4a7c15)) >> (64 - MT_INNER_STACK_BITS)];
}

/* Whether this is the stack at hand. What lies between its first and its last word is one readable stretch. */
static MT_ALWAYS_INLINE bool stands(const struct mt_stack *stack, const struct mt_stack_thread *thread, const struct mt_inner_stack *s,
    const struct mt_registers *r)
{
    const struct mt_stack_range *range = &thread->ranges[0];
    const uintptr_t *words = (const uintptr_t *)r->sp;
    uintptr_t differs = (s->pc ^ r->pc) | (s->sp ^ r->sp);

    if (differs || (s->bp_matters && s->bp != r->bp) || r->sp < range->low || range->generation != mt_load_relaxed(&stack->unmap_generation))
        return false;
    if (MT_UNLIKELY(s->checks && (uintptr_t)(words + s->offsets[s->checks - 1]) >= range->high))
        return false;
    for (unsigned i = 0; i < s->checks; i++)
        differs |= words[s->offsets[i]] ^ s->values[i];
    return differs == 0;
}

/* The slots of a walk, as they are met. `sp` is where it began; more than fit: pc stays 0. */
struct notes {
    struct mt_inner_stack *to;
    uintptr_t sp;
    uintptr_t bp_slot; /* that the frame pointer came from; 0: it is as at the beginning */
    bool bp_checked, fits;
};

static MT_ALWAYS_INLINE void note_word(struct notes *n, uintptr_t slot)
{
    uintptr_t offset = (slot - n->sp) / sizeof(uintptr_t);

    if (MT_UNLIKELY(n->to->checks == MT_INNER_CHECKS || offset > UINT16_MAX || (slot - n->sp) % sizeof(uintptr_t))) {
        n->fits = false;
        return;
    }
    n->to->offsets[n->to->checks] = (uint16_t)offset;
    n->to->values[n->to->checks++] = *(const uintptr_t *)slot;
}

/* A step by this rule has led to the frame that begins at `cfa`. */
static MT_ALWAYS_INLINE void note_step(struct notes *n, mt_rule rule, uintptr_t cfa)
{
    if (MT_UNLIKELY(mt_rule_kind(rule) == MT_RULE_BP)) {
        if (!n->bp_slot)
            n->to->bp_matters = true;
        else if (!n->bp_checked)
            note_word(n, n->bp_slot);
        n->bp_checked = true;
    }
    if (mt_rule_bp_bytes(rule)) {
        n->bp_slot = cfa + (uintptr_t)mt_rule_bp_bytes(rule);
        n->bp_checked = false;
    }
    note_word(n, cfa + (uintptr_t)mt_rule_ra_bytes(rule));
}

static MT_ALWAYS_INLINE size_t walk(struct mt_stack *stack, struct mt_stack_thread *thread, struct mt_registers r,
    const struct mt_code_range *ranges, struct mt_inner_rules *rules, struct notes *n, uint32_t *ret_frames, size_t capacity)
{
    for (size_t count = 0; count < capacity;) {
        struct mt_inner_rule *entry = &rules->entries[(r.pc * UINT64_C(0x9e3779b97f4a7c15)) >> (64 - MT_INNER_RULE_BITS)];
        mt_rule rule;

        if (MT_UNLIKELY((entry->key ^ (uint64_t)r.pc << 1) > 1))
            learn(stack, ranges, r.pc, entry);
        rule = entry->rule;
        n->fits = n->fits && !(entry->key >> 63);
        ret_frames[count++] = mt_rule_frame(rule);
        if (entry->key & 1)
            return count;
        if (!step(stack, thread, rule, &r))
            return 0;
        note_step(n, rule, r.sp);
    }
    return 0;
}

size_t mt_stack_inner(struct mt_stack *stack, struct mt_stack_thread *thread, const struct mt_registers *registers,
    const struct mt_code_range *ranges, struct mt_inner_rules *rules, uint32_t *ret_frames, size_t capacity)
{
    uint64_t generation = (uint64_t)mt_load_relaxed(&stack->rule_generation) << 32 | mt_load_relaxed(&rules->ranges_known);
    struct mt_inner_stack *s = stack_of(rules, registers);
    struct notes n = {s, registers->sp, 0, false, true};
    size_t count;

    if (MT_UNLIKELY(rules->generation != generation)) {
        memset(rules->entries, 0, sizeof rules->entries);
        memset(rules->stacks, 0, sizeof rules->stacks);
        rules->generation = generation;
    }
    if (stands(stack, thread, s, registers) && MT_LIKELY(s->count <= capacity)) {
        for (unsigned i = 0; i < s->count; i++)
            ret_frames[i] = s->frames[i];
        return s->count;
    }
    s->pc = 0;
    s->checks = 0;
    s->bp_matters = false;
    count = walk(stack, thread, *registers, ranges, rules, &n, ret_frames, capacity);
    if (MT_LIKELY(count && count <= MT_ARRAY_LEN(s->frames) && n.fits)) {
        for (size_t i = 0; i < count; i++)
            s->frames[i] = ret_frames[i];
        s->count = (uint8_t)count;
        s->sp = registers->sp;
        s->bp = registers->bp;
        s->pc = registers->pc;
    }
    return count;
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

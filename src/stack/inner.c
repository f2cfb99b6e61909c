/*
 * The inner part of a stack: from the hooked call out to the first frame in given stretches of code. For callers who know the rest by other means.
 *
 * The walk is a function of where it begins (pc, sp, bp) and of the words of the stack that it reads, as long as rules are what they were. So it is
 * remembered by pc and sp, with these words: if they are the same, the stack is, which is exact, and needs no rule, and no waiting for one frame's
 * return address in order to find the next one's.
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

/* The words that a walk has read, as they go into its chain. */
struct reading {
    struct mt_inner_chain *chain;
    uintptr_t sp;
    const uintptr_t *bp_slot; /* where bp comes from; NULL: from the hooked call */
    uintptr_t span_bytes;
    unsigned words; /* more than there is room for: the chain is not for keeping */
    bool bp_matters;
};

static MT_ALWAYS_INLINE void note_word(struct reading *reading, const uintptr_t *slot)
{
    uintptr_t bytes = (uintptr_t)slot - reading->sp;
    unsigned i = reading->words++;
    struct mt_inner_words *w = &reading->chain->words[i / 4 % MT_INNER_CHAIN_GROUPS];

    w->offsets[i % 4] = (uint16_t)bytes;
    w->words[i % 4] = *slot;
    if (reading->span_bytes < bytes + sizeof *slot)
        reading->span_bytes = bytes + sizeof *slot;
}

/* After a step by this rule, to the frame at r. */
static MT_ALWAYS_INLINE void note_step(struct reading *reading, mt_rule rule, const struct mt_registers *r)
{
    int64_t bp_bytes = mt_rule_bp_bytes(rule);

    if (MT_UNLIKELY(mt_rule_kind(rule) == MT_RULE_BP)) {
        if (reading->bp_slot)
            note_word(reading, reading->bp_slot);
        else
            reading->bp_matters = true;
    }
    note_word(reading, (const uintptr_t *)(r->sp + (uintptr_t)mt_rule_ra_bytes(rule)));
    if (bp_bytes)
        reading->bp_slot = (const uintptr_t *)(r->sp + (uintptr_t)bp_bytes);
}

/* The chain is good from here on. */
static void keep_chain(struct reading *reading, const struct mt_registers *registers)
{
    struct mt_inner_chain *c = reading->chain;
    unsigned words = reading->words;

    for (; words % 4; words++)
        note_word(reading, (const uintptr_t *)(reading->sp + c->words[0].offsets[0]));
    c->sp = registers->sp;
    c->bp = registers->bp;
    c->groups = (uint8_t)(words / 4);
    c->bp_matters = reading->bp_matters;
    c->span_bytes = (uint16_t)reading->span_bytes;
    mt_compiler_fence();
    mt_store_relaxed(&c->pc, registers->pc);
}

uint32_t mt_stack_walk_inner(struct mt_stack *stack, struct mt_stack_thread *thread, const struct mt_registers *registers,
    const struct mt_code_range *ranges, struct mt_inner_rules *rules, const struct mt_inner_chain **ret_chain)
{
    struct mt_inner_chain *chain = mt_inner_chains_at(rules, registers->pc, registers->sp) + (rules->turn++ & 1);
    struct reading reading = {.chain = chain, .sp = registers->sp};
    struct mt_registers r = *registers;
    uint32_t generation = mt_load_relaxed(&stack->rule_generation) + 1;

    if (MT_UNLIKELY(rules->generation != generation)) {
        memset(rules->entries, 0, sizeof rules->entries);
        memset(rules->chains, 0, sizeof rules->chains);
        rules->generation = generation;
    }
    /* In between the chain is none: a signal handler may leave by longjmp. */
    mt_store_relaxed(&chain->pc, (uintptr_t)0);
    mt_compiler_fence();
    for (uint32_t count = 0; count < MT_INNER_MAX;) {
        struct mt_inner_rule *entry = &rules->entries[(r.pc * UINT64_C(0x9e3779b97f4a7c15)) >> (64 - MT_INNER_RULE_BITS)];

        if (MT_UNLIKELY((entry->key ^ (uint64_t)r.pc << 1) > 1))
            learn(stack, ranges, r.pc, entry);
        rules->frames[count++] = mt_rule_frame(entry->rule);
        if (entry->key & 1) {
            bool fits = reading.words && reading.words <= MT_INNER_CHAIN_WORDS && reading.span_bytes <= UINT16_MAX;

            if (fits)
                keep_chain(&reading, registers);
            *ret_chain = fits ? chain : NULL;
            return count;
        }
        if (!step(stack, thread, entry->rule, &r))
            return 0;
        note_step(&reading, entry->rule, &r);
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

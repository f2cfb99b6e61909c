/*
 * The inner part of a stack: from the hooked call out to the first frame in given stretches of code. For callers who know the rest by other means.
 *
 * The walk is a function of where it begins (pc, sp, bp) and of the words of the stack that it reads, as long as rules are what they were. So it is
 * remembered with these words: if they are the same, the stack is, which is exact, and needs no rule, and no waiting for one frame's
 * return address in order to find the next one's. Which of those remembered it is, is guessed by pc and sp.
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

bool mt_inner_distances_hold(const struct mt_inner_chain *chain, const struct mt_registers *registers)
{
    uintptr_t sp = registers->sp;

    if (chain->bp_matters && registers->bp - sp != chain->bp)
        return false;
    for (unsigned i = 0; i < chain->groups * 4u; i++) {
        const struct mt_inner_words *w = &chain->words[i / 4];
        uintptr_t base = chain->distances >> i & 1 ? sp : 0;

        if (*(const uintptr_t *)(sp + w->offsets[i % 4]) != w->words[i % 4] + base)
            return false;
    }
    return true;
}

/* The words that a walk has read, as they go into its chain. */
struct reading {
    struct mt_inner_chain *chain;
    const struct mt_registers *from;
    const uintptr_t *bp_slot; /* where bp comes from; NULL: from the hooked call */
    uintptr_t span_bytes;
    uint64_t hash;
    unsigned words; /* more than there is room for: the chain is not for keeping */
};

static MT_ALWAYS_INLINE void note_word(struct reading *reading, const uintptr_t *slot, bool is_distance)
{
    uintptr_t bytes = (uintptr_t)slot - reading->from->sp, word = *slot - (is_distance ? reading->from->sp : 0);
    unsigned i = reading->words++ % MT_INNER_CHAIN_WORDS;
    struct mt_inner_words *w = &reading->chain->words[i / 4];

    w->offsets[i % 4] = (uint16_t)bytes;
    w->words[i % 4] = word;
    reading->chain->distances = (uint16_t)(reading->chain->distances | is_distance << i);
    reading->hash = (reading->hash ^ word ^ bytes << 48) * UINT64_C(0x9e3779b97f4a7c15);
    reading->hash ^= reading->hash >> 32;
    if (reading->span_bytes < bytes + sizeof *slot)
        reading->span_bytes = bytes + sizeof *slot;
}

/* After a step by this rule, to the frame at r. */
static MT_ALWAYS_INLINE void note_step(struct reading *reading, mt_rule rule, const struct mt_registers *r)
{
    int64_t bp_bytes = mt_rule_bp_bytes(rule);

    if (MT_UNLIKELY(mt_rule_kind(rule) == MT_RULE_BP)) {
        if (reading->bp_slot) {
            note_word(reading, reading->bp_slot, true);
        } else {
            reading->chain->bp_matters = true;
            reading->chain->bp = reading->from->bp - reading->from->sp;
        }
    }
    note_word(reading, (const uintptr_t *)(r->sp + (uintptr_t)mt_rule_ra_bytes(rule)), false);
    if (bp_bytes)
        reading->bp_slot = (const uintptr_t *)(r->sp + (uintptr_t)bp_bytes);
}

static bool is_same(const struct mt_inner_chain *a, const struct mt_inner_chain *b)
{
    return a->pc == b->pc && a->groups == b->groups && a->distances == b->distances && a->bp_matters == b->bp_matters && a->bp == b->bp &&
           memcmp(a->words, b->words, a->groups * sizeof *a->words) == 0;
}

static void forget_chains(struct mt_inner_rules *rules)
{
    for (uint32_t i = 0; i <= rules->chain_count && i < MT_INNER_CHAINS; i++) /* and the one that was about to be */
        rules->chains[i].pc = 0;
    memset(rules->numbers, 0, sizeof rules->numbers);
    rules->chain_count = 0;
}

/* The number of the chain that has been read: its own, or that of one like it. */
static uint32_t keep_chain(struct mt_inner_rules *rules, struct reading *reading, bool *ret_is_new)
{
    struct mt_inner_chain *made = reading->chain, *chain;
    uint16_t *number;
    uintptr_t pc;

    while (reading->words % 4)
        note_word(reading, (const uintptr_t *)(reading->from->sp + made->words[0].offsets[0]), made->distances & 1);
    if (!reading->words) { /* something that can be read, and does not matter */
        made->words[0] = (struct mt_inner_words){0};
        reading->span_bytes = sizeof(uintptr_t);
    }
    made->pc = reading->from->pc;
    made->groups = (uint8_t)(reading->words / 4);
    made->span_bytes = (uint16_t)reading->span_bytes;
    for (uint64_t i = reading->hash ^ made->pc * UINT64_C(0x9e3779b97f4a7c15);; i++) {
        number = &rules->numbers[i & ((1u << MT_INNER_CHAIN_BITS) - 1)];
        if (!*number)
            break;
        if (is_same(&rules->chains[*number - 1], made))
            return *number - 1u;
    }
    *ret_is_new = true;
    if (MT_UNLIKELY(rules->chain_count == MT_INNER_CHAINS)) {
        forget_chains(rules);
        number = &rules->numbers[(reading->hash ^ made->pc * UINT64_C(0x9e3779b97f4a7c15)) & ((1u << MT_INNER_CHAIN_BITS) - 1)];
    }
    /* Until all of it is there it is none: a signal handler may leave by longjmp. */
    chain = &rules->chains[rules->chain_count];
    pc = made->pc;
    made->pc = 0;
    *chain = *made;
    mt_compiler_fence();
    mt_store_relaxed(&chain->pc, pc);
    *number = (uint16_t)++rules->chain_count;
    return *number - 1u;
}

uint32_t mt_stack_walk_inner(struct mt_stack *stack, struct mt_stack_thread *thread, const struct mt_registers *registers,
    const struct mt_code_range *ranges, struct mt_inner_rules *rules, uint32_t *ret_number, bool *ret_is_new)
{
    struct reading reading = {.chain = &rules->chains[MT_INNER_CHAINS], .from = registers};
    struct mt_inner_guess *guess = mt_inner_guess_at(rules, registers->pc, registers->sp);
    struct mt_registers r = *registers;
    uint32_t generation = mt_load_relaxed(&stack->rule_generation) + 1;

    if (MT_UNLIKELY(rules->generation != generation)) {
        memset(rules->entries, 0, sizeof rules->entries);
        forget_chains(rules);
        rules->generation = generation;
    }
    reading.chain->pc = reading.chain->bp = 0;
    reading.chain->distances = 0;
    reading.chain->bp_matters = false;
    for (uint32_t count = 0; count < MT_INNER_MAX;) {
        struct mt_inner_rule *entry = &rules->entries[(r.pc * UINT64_C(0x9e3779b97f4a7c15)) >> (64 - MT_INNER_RULE_BITS)];

        if (MT_UNLIKELY((entry->key ^ (uint64_t)r.pc << 1) > 1))
            learn(stack, ranges, r.pc, entry);
        rules->frames[count++] = mt_rule_frame(entry->rule);
        if (entry->key & 1) {
            *ret_is_new = false;
            *ret_number = MT_INNER_CHAINS;
            if (reading.words <= MT_INNER_CHAIN_WORDS && reading.span_bytes <= UINT16_MAX) {
                *ret_number = keep_chain(rules, &reading, ret_is_new);
                *guess = (struct mt_inner_guess){(uint16_t)*ret_number, guess->first};
            } else {
                *ret_is_new = true;
            }
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

/*
 * The rule cache: pc -> rule, an open-addressing table that any thread reads without a lock and that is written under
 * mt_stack.lock. It grows by building a larger table and publishing it; the old one is emptied in place (its pages
 * become zero), so a reader that still looks there finds nothing and takes the lock.
 *
 * Labels: U1 the table pointer (release here, acquire in mt_rule_get); U2 an entry's pc is released after its rule.
 */
#include "stack/internal.h"

#include <string.h>

#include "base/slow_stack.h"

struct entry {
    uint64_t pc;
    uint64_t rule;
};

struct mt_rule_table {
    uint64_t mask;
    uint64_t used;
    struct entry entries[];
};

#define FIRST_ENTRIES 8192u

static struct mt_rule_table *new_table(struct mt_stack *stack, uint64_t entries)
{
    struct mt_rule_table *t = mt_stack_pages(stack, sizeof *t + entries * sizeof(struct entry));

    if (t)
        t->mask = entries - 1;
    return t;
}

int mt_rules_init(struct mt_stack *stack)
{
    struct mt_rule_table *t = new_table(stack, FIRST_ENTRIES);

    if (!t)
        return -ENOMEM;
    stack->front = mt_stack_pages(stack, MT_FRONT_ENTRIES * sizeof *stack->front);
    if (!stack->front)
        return -ENOMEM;
    mt_store_release(&stack->rules, t); /* U1 */
    return 0;
}

static MT_ALWAYS_INLINE uint64_t slot_of(uintptr_t pc)
{
    return (pc * UINT64_C(0x9e3779b97f4a7c15)) >> 32;
}

static MT_ALWAYS_INLINE mt_rule find(const struct mt_rule_table *t, uintptr_t pc)
{
    for (uint64_t i = slot_of(pc);; i++) {
        const struct entry *e = &t->entries[i & t->mask];
        uint64_t key = mt_load_acquire(&e->pc); /* U2 */

        if (key == pc)
            return mt_load_relaxed(&e->rule);
        if (key == 0)
            return MT_RULE_NONE;
    }
}

static void put(struct mt_rule_table *t, uintptr_t pc, mt_rule rule)
{
    for (uint64_t i = slot_of(pc);; i++) {
        struct entry *e = &t->entries[i & t->mask];

        if (e->pc == pc) {
            mt_store_relaxed(&e->rule, rule);
            return;
        }
        if (e->pc == 0) {
            mt_store_relaxed(&e->rule, rule);
            mt_store_release(&e->pc, pc); /* U2 */
            t->used++;
            return;
        }
    }
}

static int grow(struct mt_stack *stack)
{
    struct mt_rule_table *old = stack->rules, *t = new_table(stack, (old->mask + 1) * 2);
    size_t old_bytes;

    if (!t)
        return -ENOMEM;
    for (uint64_t i = 0; i <= old->mask; i++)
        if (old->entries[i].pc && old->entries[i].rule)
            put(t, old->entries[i].pc, old->entries[i].rule);
    mt_store_release(&stack->rules, t); /* U1 */
    /* Whole pages behind the first: the header with the mask stays readable. */
    old_bytes = sizeof *old + (old->mask + 1) * sizeof(struct entry);
    mt_sys_madvise((char *)old + MT_PAGE_BYTES, mt_round_up(old_bytes, MT_PAGE_BYTES) - MT_PAGE_BYTES, MADV_DONTNEED);
    stack->private_bytes -= old_bytes;
    return 0;
}

/* The frame that stands for all code without call frame information: one, so that identities stay stable. */
static uint32_t cut_frame(struct mt_stack *stack)
{
    struct mt_frame frame = {0, 0, MT_FRAME_CUT};

    if (!stack->cut_frame_known && mt_writer_add_frame(stack->writer, &frame, &stack->cut_frame) == 0)
        stack->cut_frame_known = true;
    return stack->cut_frame;
}

/* Where there is no vdso (an emulated processor), the trampoline is in no object. */
bool mt_is_foreign_trampoline(uintptr_t pc)
{
    return mt_sys_readable((const void *)(pc + 1)) && mt_sys_readable((const void *)(pc + 9)) && mt_is_signal_trampoline(pc);
}

static mt_rule learn(struct mt_stack *stack, uintptr_t pc)
{
    struct mt_learnt learnt = MT_LEARNT_CUT;
    struct mt_frame frame = {0, 0, 0};
    uint32_t frame_id;
    uintptr_t bias;

    frame.module = mt_module_of(stack, pc, &bias);
    if (frame.module == 0) {
        /* No object: compiled at run time, or a wild pc. Most such code keeps frame pointers: the walk tries (walk.c). */
        if (mt_is_foreign_trampoline(pc))
            learnt.kind = MT_RULE_SIGNAL;
        return mt_rule_make(&learnt, cut_frame(stack));
    }
    frame.offset = pc - bias;
    if (!mt_stack_unwinder_loaded())
        learnt.kind = mt_unwinder_hopeless() ? MT_RULE_END : MT_RULE_ALONE;
    else if (mt_is_signal_trampoline(pc))
        learnt.kind = MT_RULE_SIGNAL;
    else
        mt_learn(stack, pc, &learnt);
    /* The loader's entry point has no call frame information, and nothing outside of it. */
    if (learnt.kind == MT_RULE_CUT && mt_is_loader(pc))
        learnt.kind = MT_RULE_END;
    /* Code without the information is mostly generated (V8's builtins), and keeps frame pointers: the walk tries. */
    if (learnt.kind == MT_RULE_CUT)
        learnt = MT_LEARNT_CUT;
    if (mt_writer_add_frame(stack->writer, &frame, &frame_id) < 0) {
        mt_writer_lost(stack->writer, MT_LOSS_STACK_MEMORY, 1);
        return mt_rule_make(&learnt, cut_frame(stack));
    }
    return mt_rule_make(&learnt, frame_id);
}

struct missed {
    struct mt_stack *stack;
    uintptr_t pc;
    mt_rule rule;
};

static void learn_missed(void *context)
{
    struct missed *m = context;
    struct mt_stack *stack = m->stack;

    mt_stack_internal++;
    m->rule = learn(stack, m->pc);
    mt_stack_internal--;
    if (mt_rule_kind(m->rule) != MT_RULE_ALONE && (stack->rules->used * 2 < stack->rules->mask || grow(stack) == 0))
        put(stack->rules, m->pc, m->rule);
    if (stack->writer->header)
        mt_store_relaxed(&stack->writer->header->private_bytes, mt_load_relaxed(&stack->private_bytes));
}

static MT_COLD mt_rule miss(struct mt_stack *stack, uintptr_t pc)
{
    struct missed m = {stack, pc, 0};
    uint64_t signals;

    mt_sys_signals_block(&signals);
    mt_lock_acquire(stack->lock);
    m.rule = find(stack->rules, pc);
    if (m.rule == MT_RULE_NONE)
        mt_on_slow_stack(learn_missed, &m);
    mt_lock_release(stack->lock);
    mt_sys_signals_restore(&signals);
    return m.rule;
}

/* Puts a rule into the cache in front of the table, if it fits. What was there before may be of code that ran once. */
static void put_in_front(struct mt_stack *stack, uintptr_t pc, mt_rule rule)
{
    uint64_t product = mt_front_product(pc), packed = mt_rule_pack(rule);

    if (packed && !(pc >> 48))
        mt_store_relaxed(&stack->front[product >> MT_FRONT_TAG_BITS], (product << (64 - MT_FRONT_TAG_BITS)) | packed);
}

mt_rule MT_NOINLINE mt_rule_get_slowly(struct mt_stack *stack, uintptr_t pc)
{
    mt_rule rule = find(mt_load_acquire(&stack->rules), pc); /* U1 */

    if (MT_UNLIKELY(rule == MT_RULE_NONE))
        rule = miss(stack, pc);
    put_in_front(stack, pc, rule);
    return rule;
}

void mt_rules_forget(struct mt_stack *stack, uintptr_t start, uintptr_t end)
{
    struct mt_rule_table *t = stack->rules;

    /* The pc stays as a tombstone with no rule: the chain behind it must stay connected. */
    for (uint64_t i = 0; i <= t->mask; i++)
        if (t->entries[i].pc >= start && t->entries[i].pc < end)
            mt_store_relaxed(&t->entries[i].rule, (uint64_t)MT_RULE_NONE);
    /* Few programs close libraries, and what is still good is soon here again. */
    for (uint32_t i = 0; i < MT_FRONT_ENTRIES; i++)
        mt_store_relaxed(&stack->front[i], UINT64_C(0));
    mt_fetch_add_relaxed(&stack->rule_generation, 1u);
}

/*
 * The verified memo: a thread's previous stack, kept as a list of states, so that a new capture walks only the frames that are new.
 *
 * A state is what the walk has at a frame: (pc, sp, bp), and the stack words from which the state of the next outer frame followed: the
 * return address and, where the frame saves it, the frame pointer. Rules are functions of the pc, so
 *
 *   equal state at a frame, and equal words in its slots  =>  equal state at the next outer frame.
 *
 * By induction, when a walk arrives at a kept state, and every slot of every older kept frame still holds what it held, the rest of the stack is
 * the kept one, and the node kept with the state is its node. That is exact. Where a slot differs, the walk goes on from there, and may
 * meet kept states again further out.
 *
 * Kept stacks are complete (they end at an END frame) and made of plain frames: with a signal frame, a frame without rule or a complex one the
 * whole stack is walked each time. The list is dropped when rules were forgotten (dlclose) or memory was unmapped.
 *
 * Layout: states[0] is the outermost frame; states[count - 1] the innermost. A capture replaces the inner part in place.
 */
#include "stack/internal.h"

#include <string.h>

#define FIRST_CAPACITY 512u
#define CAPACITY_MAX 16384u

int mt_memo_init(struct mt_stack *stack, struct mt_memo *memo)
{
    memset(memo, 0, sizeof *memo);
    memo->paths = mt_stack_pages(stack, MT_MEMO_PATHS * sizeof *memo->paths);
    if (!memo->paths)
        return -ENOMEM;
    memo->states = mt_stack_pages(stack, FIRST_CAPACITY * 2 * sizeof *memo->states);
    if (!memo->states)
        return -ENOMEM;
    memo->fresh = memo->states + FIRST_CAPACITY;
    memo->capacity = FIRST_CAPACITY;
    return 0;
}

void mt_memo_finish(struct mt_memo *memo)
{
    if (memo->paths)
        mt_sys_unmap(memo->paths, MT_MEMO_PATHS * sizeof *memo->paths);
    if (memo->states)
        mt_sys_unmap(memo->states, mt_round_up(memo->capacity * 2 * sizeof *memo->states, MT_PAGE_BYTES));
    memset(memo, 0, sizeof *memo);
}

static bool grow(struct mt_stack *stack, struct mt_memo *memo, size_t fresh)
{
    struct mt_memo_state *old = memo->fresh;
    size_t old_capacity = memo->capacity;
    struct mt_memo_state *states;

    if (old_capacity >= CAPACITY_MAX)
        return false;
    states = mt_stack_pages(stack, old_capacity * 4 * sizeof *states);
    if (!states)
        return false;
    memcpy(states, memo->states, old_capacity * sizeof *states);
    memcpy(states + old_capacity * 2, old, fresh * sizeof *states);
    mt_sys_unmap(memo->states, mt_round_up(old_capacity * 2 * sizeof *states, MT_PAGE_BYTES));
    mt_fetch_add_relaxed(&stack->private_bytes, -mt_round_up(old_capacity * 2 * sizeof *states, MT_PAGE_BYTES));
    memo->states = states;
    memo->fresh = states + old_capacity * 2;
    memo->capacity = old_capacity * 2;
    return true;
}

/* Follows the kept states outwards from `at` as long as their slots hold. Returns the frame where that ends; 0: all hold. */
static MT_ALWAYS_INLINE size_t verify(const struct mt_memo_state *states, size_t at)
{
    for (; at > 0; at--) {
        const struct mt_memo_state *s = &states[at];

        if (*s->ra_slot != s->ra || *s->bp_slot != s->bp_saved)
            break;
    }
    return at;
}

/* The state of the frame outside of s, read from its slots. */
static MT_ALWAYS_INLINE void outer_of(const struct mt_memo_state *s, struct mt_registers *r)
{
    r->pc = *s->ra_slot - 1;
    r->sp = (uintptr_t)(s->ra_slot + 1);
    if (s->bp_slot != s->ra_slot)
        r->bp = *s->bp_slot;
    else
        r->bp = s->bp;
}

/* Steps over a plain frame, noting its slots. False: not readable, or not rising. */
static MT_ALWAYS_INLINE bool step(struct mt_stack *stack, struct mt_stack_thread *thread, mt_rule rule,
    struct mt_registers *r, struct mt_memo_state *s)
{
    uintptr_t cfa = (mt_rule_kind(rule) == MT_RULE_SP ? r->sp : r->bp) + (uintptr_t)mt_rule_cfa_bytes(rule);
    int64_t bp_bytes = mt_rule_bp_bytes(rule);

    if (MT_UNLIKELY(cfa <= r->sp || !mt_stack_readable(stack, thread, cfa - sizeof(uintptr_t))))
        return false;
    s->ra_slot = (const uintptr_t *)(cfa - sizeof(uintptr_t));
    s->ra = *s->ra_slot;
    s->bp_slot = s->ra_slot;
    s->bp_saved = s->ra;
    if (bp_bytes) {
        if (MT_UNLIKELY(!mt_stack_readable(stack, thread, cfa + (uintptr_t)bp_bytes)))
            return false;
        s->bp_slot = (const uintptr_t *)(cfa + (uintptr_t)bp_bytes);
        s->bp_saved = *s->bp_slot;
        r->bp = s->bp_saved;
    }
    r->sp = cfa;
    r->pc = s->ra - 1;
    return s->ra != 0;
}

/* The nodes of the fresh frames, from the index: a miss in the processor's cache for each, in a program that uses its cache for itself. */
static bool find_nodes(struct mt_stack *stack, struct mt_memo *memo, uint32_t node, size_t fresh)
{
    for (size_t i = fresh; i-- > 0;) {
        uint32_t child = mt_nodes_find(stack, node, memo->fresh[i].frame);

        if (MT_UNLIKELY(!child)) {
            /* Once for all that are missing; what can be had is found from here on. */
            mt_nodes_add(stack, node, &memo->fresh[0].frame, sizeof memo->fresh[0], i + 1);
            child = mt_nodes_find(stack, node, memo->fresh[i].frame);
            if (!child)
                return false;
        }
        memo->fresh[i].node = node = child;
    }
    return true;
}

/* The same through the cache of paths, where the way is short. */
static MT_ALWAYS_INLINE bool find_path(struct mt_stack *stack, struct mt_memo *memo, uint32_t base, size_t fresh)
{
    struct mt_memo_path *path;
    uint64_t h = base;
    bool same;

    if (MT_UNLIKELY(fresh > MT_MEMO_PATH_FRAMES))
        return find_nodes(stack, memo, base, fresh);
    for (size_t i = 0; i < fresh; i++)
        h = (h ^ memo->fresh[i].frame) * UINT64_C(0x9e3779b97f4a7c15);
    path = &memo->paths[(h ^ h >> 29) % MT_MEMO_PATHS];
    same = path->base == base && path->count == fresh;
    for (size_t i = 0; i < fresh; i++)
        same &= path->frames[i] == memo->fresh[i].frame;
    if (MT_LIKELY(same)) {
        for (size_t i = 0; i < fresh; i++)
            memo->fresh[i].node = path->nodes[i];
        return true;
    }
    if (!find_nodes(stack, memo, base, fresh))
        return false;
    path->base = base;
    path->count = (uint32_t)fresh;
    for (size_t i = 0; i < fresh; i++) {
        path->frames[i] = memo->fresh[i].frame;
        path->nodes[i] = memo->fresh[i].node;
    }
    return true;
}

/* Puts the fresh frames behind the kept ones below `base`, with their nodes. Returns the innermost node; 0 where there is no memory. */
static MT_ALWAYS_INLINE uint32_t replace_inner(struct mt_stack *stack, struct mt_memo *memo, size_t base, size_t fresh)
{
    struct mt_memo_state *to = memo->states + base;

    if (!fresh) {
        memo->count = base;
        return memo->states[base - 1].node;
    }
    if (MT_UNLIKELY(!find_path(stack, memo, base ? memo->states[base - 1].node : 0, fresh)))
        return 0;
    for (size_t i = fresh; i-- > 0;)
        *to++ = memo->fresh[i];
    memo->count = base + fresh;
    return memo->fresh[0].node;
}

bool mt_memo_capture(struct mt_stack *stack, struct mt_stack_thread *thread, const struct mt_registers *registers,
    uint32_t *ret_node)
{
    struct mt_memo *memo = &thread->memo;
    struct mt_registers r = *registers;
    uint64_t generation = (uint64_t)mt_load_relaxed(&stack->rule_generation) << 32 | mt_load_relaxed(&stack->unmap_generation);
    size_t kept = memo->count, fresh = 0; /* kept: states[0 .. kept) may still be met */

    /* An interrupted capture that never comes back (longjmp) leaves no half-made list. */
    memo->count = 0;
    mt_compiler_fence();
    if (MT_UNLIKELY(memo->generation != generation)) {
        memo->generation = generation;
        kept = 0;
    }
    for (;;) {
        struct mt_memo_state *s;
        mt_rule rule;

        while (kept && memo->states[kept - 1].sp < r.sp)
            kept--;
        s = kept ? &memo->states[kept - 1] : NULL;
        if (s && s->sp == r.sp && s->pc == r.pc && s->bp == r.bp) {
            size_t stop = verify(memo->states, kept - 1);

            if (stop == 0) {
                if (MT_UNLIKELY(kept + fresh > memo->capacity) && !grow(stack, memo, fresh))
                    return false;
                *ret_node = replace_inner(stack, memo, kept, fresh);
                return true;
            }
            if (fresh + (kept - stop) > memo->capacity && !grow(stack, memo, fresh))
                return false;
            for (size_t i = kept; i-- > stop;)
                memo->fresh[fresh++] = memo->states[i];
            /* The frame at `stop` stands, but leads elsewhere now. */
            s = &memo->fresh[fresh - 1];
            outer_of(s, &r);
            s->ra = *s->ra_slot;
            s->bp_saved = *s->bp_slot;
            if (!s->ra)
                return false;
            kept = stop;
            continue;
        }
        rule = mt_rule_get(stack, r.pc);
        if (MT_UNLIKELY(fresh == memo->capacity) && !grow(stack, memo, fresh))
            return false;
        s = &memo->fresh[fresh];
        s->pc = r.pc;
        s->sp = r.sp;
        s->bp = r.bp;
        s->frame = mt_rule_frame(rule);
        if (MT_UNLIKELY(mt_rule_kind(rule) == MT_RULE_END)) {
            fresh++;
            *ret_node = replace_inner(stack, memo, 0, fresh);
            return true;
        }
        if (MT_UNLIKELY(mt_rule_kind(rule) != MT_RULE_SP && mt_rule_kind(rule) != MT_RULE_BP) ||
            MT_UNLIKELY(!step(stack, thread, rule, &r, s)))
            return false;
        fresh++;
    }
}

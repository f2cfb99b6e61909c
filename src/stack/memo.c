/*
 * The verified memo: a thread's previous stack, kept as a list of states, so that a new capture walks only the frames that are new.
 *
 * A state is what the walk has at a frame: (pc, sp, bp), and the stack words from which the state of the next outer frame followed: the
 * return address and, where the frame saves it, the frame pointer. Rules are functions of the pc, so
 *
 *   equal state at a frame, and equal words in its slots  =>  equal state at the next outer frame.
 *
 * By induction, when a walk arrives at a kept state, and every slot of every older kept frame still holds what it held, the rest of the stack is
 * the kept one. That is exact. Where a slot differs, the walk goes on from there, and may meet kept states again further out.
 *
 * bp is part of a state only where it matters: where a frame from there outwards is found by it before a frame restores it from a slot. In code
 * without frame pointers that is nowhere, and half of the words need not be looked at. Where it does not matter, the kept bp may be out of date.
 *
 * Kept stacks are complete (they end at an END frame) and made of plain frames: with a signal frame, a frame without rule or a complex one the
 * whole stack is walked each time. The list is dropped when rules were forgotten (dlclose) or memory was unmapped.
 *
 * Layout: states[0] is the outermost frame; states[count - 1] the innermost. A capture replaces the inner part in place.
 */
#include "stack/internal.h"

#include <string.h>

#define FIRST_CAPACITY 256u
#define CAPACITY_MAX (1u << 19) /* as many frames as 8 MiB of stack can be */
#define BYTES_A_FRAME (2 * sizeof(struct mt_memo_state) + 2 * sizeof(struct mt_memo_check) + sizeof(uint32_t))

static bool allocate(struct mt_stack *stack, struct mt_memo *memo, size_t capacity)
{
    char *p = mt_stack_pages(stack, capacity * BYTES_A_FRAME);

    if (!p)
        return false;
    memo->states = (struct mt_memo_state *)p;
    memo->fresh = memo->states + capacity;
    memo->return_slots = (struct mt_memo_check *)(memo->fresh + capacity);
    memo->bp_slots = memo->return_slots + capacity;
    memo->bp_owners = (uint32_t *)(memo->bp_slots + capacity);
    memo->capacity = capacity;
    return true;
}

int mt_memo_init(struct mt_stack *stack, struct mt_memo *memo)
{
    memset(memo, 0, sizeof *memo);
    return allocate(stack, memo, FIRST_CAPACITY) ? 0 : -ENOMEM;
}

void mt_memo_finish(struct mt_memo *memo)
{
    if (memo->states)
        mt_sys_unmap(memo->states, mt_round_up(memo->capacity * BYTES_A_FRAME, MT_PAGE_BYTES));
    memset(memo, 0, sizeof *memo);
}

static MT_COLD bool grow(struct mt_stack *stack, struct mt_memo *memo, size_t fresh)
{
    struct mt_memo old = *memo;

    if (old.capacity >= CAPACITY_MAX || !allocate(stack, memo, old.capacity * 2))
        return false;
    memcpy(memo->states, old.states, old.capacity * sizeof *old.states);
    memcpy(memo->fresh, old.fresh, fresh * sizeof *old.fresh);
    memcpy(memo->return_slots, old.return_slots, old.capacity * sizeof *old.return_slots);
    memcpy(memo->bp_slots, old.bp_slots, old.bp_count * sizeof *old.bp_slots);
    memcpy(memo->bp_owners, old.bp_owners, old.bp_count * sizeof *old.bp_owners);
    mt_fetch_add_relaxed(&stack->private_bytes, -mt_round_up(old.capacity * BYTES_A_FRAME, MT_PAGE_BYTES));
    mt_memo_finish(&old);
    return true;
}

/* Whether the slots of the frames from `at` outwards all hold what they held. */
static MT_ALWAYS_INLINE bool all_hold(const struct mt_memo *memo, size_t at)
{
    const struct mt_memo_check *check = memo->return_slots;
    uintptr_t differs = 0;

#pragma GCC unroll 4
    for (size_t i = 1; i <= at; i++)
        differs |= *check[i].slot ^ check[i].value;
    for (size_t i = 0; i < memo->bp_count && memo->bp_owners[i] <= at; i++)
        differs |= *memo->bp_slots[i].slot ^ memo->bp_slots[i].value;
    return differs == 0;
}

/* The first frame from `at` outwards of which a slot does not hold what it held: there is one. */
static size_t first_changed(const struct mt_memo *memo, size_t at)
{
    size_t i = memo->bp_count;

    for (;; at--) {
        if (*memo->return_slots[at].slot != memo->return_slots[at].value)
            return at;
        while (i && memo->bp_owners[i - 1] > at)
            i--;
        if (i && memo->bp_owners[i - 1] == at && *memo->bp_slots[i - 1].slot != memo->bp_slots[i - 1].value)
            return at;
    }
}

/* Steps over a plain frame, noting its slots. False: not readable, or not rising. */
static MT_ALWAYS_INLINE bool step(struct mt_stack *stack, struct mt_stack_thread *thread, mt_rule rule,
    struct mt_registers *r, struct mt_memo_state *s)
{
    uintptr_t cfa = (mt_rule_kind(rule) == MT_RULE_SP ? r->sp : r->bp) + (uintptr_t)mt_rule_cfa_bytes(rule);
    int64_t ra_bytes = mt_rule_ra_bytes(rule), bp_bytes = mt_rule_bp_bytes(rule);

    if (MT_UNLIKELY(!ra_bytes || cfa <= r->sp || !mt_stack_readable(stack, thread, cfa + (uintptr_t)ra_bytes)))
        return false;
    s->ra_slot = (const uintptr_t *)(cfa + (uintptr_t)ra_bytes);
    s->ra = *s->ra_slot;
    s->bp_slot = NULL;
    if (bp_bytes) {
        if (MT_UNLIKELY(!mt_stack_readable(stack, thread, cfa + (uintptr_t)bp_bytes)))
            return false;
        s->bp_slot = (const uintptr_t *)(cfa + (uintptr_t)bp_bytes);
        r->bp = *s->bp_slot;
    }
    r->sp = cfa;
    r->pc = mt_code_address(s->ra) - 1;
    return s->ra != 0;
}

/* Word by word: a fresh state was just written so, and a wider load would have to wait until that has left for the cache. */
static MT_ALWAYS_INLINE void copy_state(struct mt_memo_state *to, const struct mt_memo_state *from)
{
    uintptr_t *t = (uintptr_t *)to;
    const uintptr_t *f = (const uintptr_t *)from;

#pragma GCC unroll 8
    for (size_t i = 0; i < sizeof *to / sizeof *t; i++)
        mt_store_relaxed(&t[i], mt_load_relaxed(&f[i]));
}

/* Puts the fresh frames behind the kept ones below `base`. */
static MT_ALWAYS_INLINE bool replace_inner(struct mt_stack *stack, struct mt_stack_thread *thread, size_t base, size_t fresh,
    struct mt_stack_change *ret_change)
{
    struct mt_memo *memo = &thread->memo;
    size_t count = base + fresh, bps = memo->bp_count;
    uint32_t keep = (uint32_t)base;
    uint64_t matters = base ? memo->states[base - 1].bp_matters : 0;

    if (MT_UNLIKELY(count > memo->capacity) && !grow(stack, memo, fresh))
        return false;
    if (MT_UNLIKELY(count > thread->frame_capacity) && !mt_stack_grow_frames(stack, thread, count))
        return false;
    while (bps && memo->bp_owners[bps - 1] >= base)
        bps--;
    /* Of the memo's kept frames the reader knows; a memo that starts anew may still agree with what was sent last. */
    if (MT_UNLIKELY(!base))
        while (keep < fresh && keep < thread->frame_count && thread->frames[keep] == mt_rule_frame(memo->fresh[fresh - 1 - keep].rule))
            keep++;
    for (size_t i = base; i < count; i++) {
        struct mt_memo_state *s = &memo->states[i];

        copy_state(s, &memo->fresh[count - 1 - i]);
        thread->frames[i] = mt_rule_frame(s->rule);
        memo->return_slots[i] = (struct mt_memo_check){s->ra_slot, s->ra};
        if (MT_UNLIKELY(matters && s->bp_slot)) {
            memo->bp_slots[bps] = (struct mt_memo_check){s->bp_slot, *s->bp_slot};
            memo->bp_owners[bps++] = (uint32_t)i;
        }
        /* By a slot of its own an outer frame's bp does not hang on this one's. */
        matters = mt_rule_kind(s->rule) == MT_RULE_BP || (matters && !s->bp_slot);
        s->bp_matters = matters;
    }
    memo->bp_count = bps;
    memo->count = count;
    thread->frame_count = (uint32_t)count;
    ret_change->keep = keep;
    ret_change->push = (uint32_t)count - keep;
    return true;
}

bool mt_memo_capture(struct mt_stack *stack, struct mt_stack_thread *thread, const struct mt_registers *registers,
    struct mt_stack_change *ret_change)
{
    struct mt_memo *memo = &thread->memo;
    struct mt_registers r = *registers;
    uint64_t generation = (uint64_t)mt_load_relaxed(&stack->rule_generation) << 32 | mt_load_relaxed(&stack->unmap_generation);
    size_t last = memo->count;            /* of the previous stack */
    size_t kept = last, fresh = 0;        /* kept: states[0 .. kept) may still be met */

    /* An interrupted capture that never comes back (longjmp) leaves no half-made list. */
    memo->count = 0;
    mt_compiler_fence();
    if (MT_UNLIKELY(memo->generation != generation)) {
        memo->generation = generation;
        kept = last = 0;
    }
    for (;;) {
        struct mt_memo_state *s;
        mt_rule rule;

        while (kept && memo->states[kept - 1].sp < r.sp)
            kept--;
        s = kept ? &memo->states[kept - 1] : NULL;
        if (s && s->sp == r.sp && s->pc == r.pc && (s->bp == r.bp || !s->bp_matters)) {
            size_t stop;

            if (MT_LIKELY(all_hold(memo, kept - 1)))
                return replace_inner(stack, thread, kept, fresh, ret_change);
            stop = first_changed(memo, kept - 1);
            if (MT_UNLIKELY(fresh + (kept - stop) > memo->capacity) && !grow(stack, memo, fresh))
                return false;
            for (size_t i = kept; i-- > stop;) {
                s = &memo->fresh[fresh++];
                *s = memo->states[i];
                s->bp = r.bp;
                if (s->bp_slot)
                    r.bp = *s->bp_slot;
            }
            /* The frame at `stop` stands, but leads elsewhere now. */
            s->ra = *s->ra_slot;
            if (!s->ra)
                return false;
            r.pc = mt_code_address(s->ra) - 1;
            r.sp = (uintptr_t)s->ra_slot - (uintptr_t)mt_rule_ra_bytes(s->rule);
            kept = stop;
            continue;
        }
        /* Allocations come through the same few functions: as often as not this is the frame that was in this place last time. */
        if (fresh < last && memo->states[last - 1 - fresh].pc == r.pc)
            rule = memo->states[last - 1 - fresh].rule;
        else
            rule = mt_rule_get(stack, r.pc);
        if (MT_UNLIKELY(fresh == memo->capacity) && !grow(stack, memo, fresh))
            return false;
        s = &memo->fresh[fresh++];
        s->pc = r.pc;
        s->sp = r.sp;
        s->bp = r.bp;
        s->rule = rule;
        if (MT_UNLIKELY(mt_rule_kind(rule) == MT_RULE_END)) {
            s->ra_slot = NULL; /* no check of it: return_slots[0] is never looked at */
            s->bp_slot = NULL;
            return replace_inner(stack, thread, 0, fresh, ret_change);
        }
        if (MT_UNLIKELY(mt_rule_kind(rule) != MT_RULE_SP && mt_rule_kind(rule) != MT_RULE_BP) ||
            MT_UNLIKELY(!step(stack, thread, rule, &r, s)))
            return false;
    }
}

/*
 * The verified memo: a thread's previous stack, kept as a list of states, so that a new capture walks only the frames that are new.
 *
 * A state is what the walk has at a frame: (pc, sp, bp). That of the next outer frame follows from it and from words of the stack: the
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
 * Layout: index 0 is the outermost frame, count - 1 the innermost. A capture replaces the inner part in place. Where a frame is (its place) is looked
 * at each time, so places are apart from what is only asked of new frames.
 *
 * Rules of new frames come from the chain of the capture's pc and sp where it holds what is met: one line of the processor's cache, asked for
 * before the real allocation, and no waiting for one frame's return address in order to find the next one's rule.
 */
#include "stack/internal.h"

#include <string.h>

#define FIRST_CAPACITY 256u
#define CAPACITY_MAX (1u << 19) /* as many frames as 8 MiB of stack can be */
#define BYTES_A_FRAME                                                                                                  \
    (2 * (sizeof(struct mt_memo_place) + sizeof(struct mt_memo_frame)) + sizeof(struct mt_memo_check) + sizeof(uint32_t))
#define BP_MATTERS (UINT64_C(1) << 63) /* some frame from here outwards is found by this frame's bp; frame ids are smaller */

static bool allocate(struct mt_stack *stack, struct mt_memo *memo, size_t capacity)
{
    char *p = mt_stack_pages(stack, capacity * BYTES_A_FRAME);

    if (!p)
        return false;
    memo->places = (struct mt_memo_place *)p;
    memo->frames = (struct mt_memo_frame *)(memo->places + capacity);
    memo->fresh_places = (struct mt_memo_place *)(memo->frames + capacity);
    memo->fresh_frames = (struct mt_memo_frame *)(memo->fresh_places + capacity);
    memo->bp_slots = (struct mt_memo_check *)(memo->fresh_frames + capacity);
    memo->bp_owners = (uint32_t *)(memo->bp_slots + capacity);
    memo->capacity = capacity;
    return true;
}

int mt_memo_init(struct mt_stack *stack, struct mt_stack_thread *thread, unsigned chain_bits)
{
    memset(&thread->memo, 0, sizeof thread->memo);
    thread->chains = mt_stack_pages(stack, sizeof(struct mt_chain) << chain_bits);
    thread->chain_shift = 64 - chain_bits;
    return thread->chains && allocate(stack, &thread->memo, FIRST_CAPACITY) ? 0 : -ENOMEM;
}

static void release(struct mt_memo *memo)
{
    if (memo->places)
        mt_sys_unmap(memo->places, mt_round_up(memo->capacity * BYTES_A_FRAME, MT_PAGE_BYTES));
    memset(memo, 0, sizeof *memo);
}

static size_t chains_bytes(const struct mt_stack_thread *thread)
{
    return sizeof(struct mt_chain) << (64 - thread->chain_shift);
}

void mt_memo_finish(struct mt_stack_thread *thread)
{
    release(&thread->memo);
    if (thread->chains)
        mt_sys_unmap(thread->chains, mt_round_up(chains_bytes(thread), MT_PAGE_BYTES));
    thread->chains = NULL;
}

static MT_COLD bool grow(struct mt_stack *stack, struct mt_memo *memo, size_t fresh)
{
    struct mt_memo old = *memo;

    if (old.capacity >= CAPACITY_MAX || !allocate(stack, memo, old.capacity * 2))
        return false;
    memcpy(memo->places, old.places, old.capacity * sizeof *old.places);
    memcpy(memo->frames, old.frames, old.capacity * sizeof *old.frames);
    memcpy(memo->fresh_places, old.fresh_places, fresh * sizeof *old.fresh_places);
    memcpy(memo->fresh_frames, old.fresh_frames, fresh * sizeof *old.fresh_frames);
    memcpy(memo->bp_slots, old.bp_slots, old.bp_count * sizeof *old.bp_slots);
    memcpy(memo->bp_owners, old.bp_owners, old.bp_count * sizeof *old.bp_owners);
    mt_fetch_add_relaxed(&stack->private_bytes, -mt_round_up(old.capacity * BYTES_A_FRAME, MT_PAGE_BYTES));
    release(&old);
    return true;
}

/* ---- words of the stack -------------------------------------------------------------------------------------------- */

static MT_ALWAYS_INLINE const uintptr_t *slot_of(const struct mt_memo_place *place)
{
#if defined(MT_RA_BELOW_SP)
    return (const uintptr_t *)place->sp - 1;
#else
    return place->slot;
#endif
}

static MT_ALWAYS_INLINE uintptr_t word_of(const struct mt_memo_place *place)
{
#if defined(MT_RA_BELOW_SP)
    return place->ra;
#else
    return place->word;
#endif
}

/* Where a frame has saved the frame pointer, by its rule and the place of the next outer one; NULL: it has not. */
static MT_ALWAYS_INLINE const uintptr_t *bp_slot_of(const struct mt_memo_place *outer, mt_rule rule)
{
    int64_t bytes = mt_rule_bp_bytes(rule);

    return bytes ? (const uintptr_t *)(outer->sp + (uintptr_t)bytes) : NULL;
}

/* Whether the words that lead from the frame `at` outwards all hold what they held. */
static MT_ALWAYS_INLINE bool all_hold(const struct mt_memo *memo, size_t at)
{
    const struct mt_memo_place *place = memo->places, *end = place + at;
    uintptr_t differs = 0;

#pragma GCC unroll 4
    for (; place != end; place++)
        differs |= *slot_of(place) ^ word_of(place);
    for (size_t i = 0; i < memo->bp_count && memo->bp_owners[i] <= at; i++)
        differs |= *memo->bp_slots[i].slot ^ memo->bp_slots[i].value;
    return differs == 0;
}

/* The first frame from `at` outwards that leads elsewhere now: there is one. */
static size_t first_changed(const struct mt_memo *memo, size_t at)
{
    size_t i = memo->bp_count;

    for (;; at--) {
        if (*slot_of(&memo->places[at - 1]) != word_of(&memo->places[at - 1]))
            return at;
        while (i && memo->bp_owners[i - 1] > at)
            i--;
        if (i && memo->bp_owners[i - 1] == at && *memo->bp_slots[i - 1].slot != memo->bp_slots[i - 1].value)
            return at;
    }
}

/* ---- capture --------------------------------------------------------------------------------------------------------- */

/* What the walk has in hand. */
struct at {
    uintptr_t sp, ra, bp;
#if !defined(MT_RA_BELOW_SP)
    const uintptr_t *slot;
    uintptr_t word;
#endif
};

/* Word by word, here and below: what was just written so is read back soon, and a wider load would have to wait until it has left for the cache. */
static MT_ALWAYS_INLINE void write_place(struct mt_memo_place *place, const struct at *at)
{
    mt_store_relaxed(&place->sp, at->sp);
    mt_store_relaxed(&place->ra, at->ra);
#if !defined(MT_RA_BELOW_SP)
    place->slot = at->slot;
    place->word = at->word;
#endif
}

static MT_ALWAYS_INLINE void copy_place(struct mt_memo_place *to, const struct mt_memo_place *from)
{
    mt_store_relaxed(&to->sp, mt_load_relaxed(&from->sp));
    mt_store_relaxed(&to->ra, mt_load_relaxed(&from->ra));
#if !defined(MT_RA_BELOW_SP)
    to->slot = from->slot;
    to->word = from->word;
#endif
}

static MT_ALWAYS_INLINE void write_frame(struct mt_memo_frame *frame, uint64_t rule, uintptr_t bp)
{
    mt_store_relaxed(&frame->rule, rule);
    mt_store_relaxed(&frame->bp, bp);
}

/* Takes a return address from its slot. False: the stack does not go on there. */
static MT_ALWAYS_INLINE bool arrive(struct at *at, uintptr_t cfa, const uintptr_t *slot)
{
    uintptr_t word = *slot;

    at->sp = cfa;
    at->ra = mt_code_address(word);
#if !defined(MT_RA_BELOW_SP)
    at->slot = slot;
    at->word = word;
#endif
    return word != 0;
}

/* The stretch of the stack that was found readable, as the walk goes. */
struct readable {
    struct mt_stack *stack;
    struct mt_stack_thread *thread;
    uintptr_t low, bytes;
};

static MT_ALWAYS_INLINE struct readable readable_now(struct mt_stack *stack, struct mt_stack_thread *thread)
{
    const struct mt_stack_range *range = &thread->ranges[0];
    bool good = range->generation == mt_load_relaxed(&stack->unmap_generation);

    return (struct readable){stack, thread, range->low, good ? range->high - range->low : 0};
}

static MT_ALWAYS_INLINE bool is_readable(struct readable *readable, uintptr_t address)
{
    if (MT_LIKELY(address - readable->low < readable->bytes && !(address & (sizeof(uintptr_t) - 1))))
        return true;
    if (!mt_stack_readable(readable->stack, readable->thread, address))
        return false;
    *readable = readable_now(readable->stack, readable->thread);
    return true;
}

/* Steps over a plain frame. False: not readable, or not rising. */
static MT_ALWAYS_INLINE bool step(struct readable *readable, mt_rule rule, struct at *at)
{
    uintptr_t cfa = (MT_LIKELY(mt_rule_kind(rule) == MT_RULE_SP) ? at->sp : at->bp) + (uintptr_t)mt_rule_cfa_bytes(rule);
    int64_t ra_bytes = mt_rule_ra_bytes(rule), bp_bytes = mt_rule_bp_bytes(rule);

    if (MT_UNLIKELY(!ra_bytes || cfa <= at->sp || !is_readable(readable, cfa + (uintptr_t)ra_bytes)))
        return false;
    if (bp_bytes) {
        if (MT_UNLIKELY(!is_readable(readable, cfa + (uintptr_t)bp_bytes)))
            return false;
        at->bp = *(const uintptr_t *)(cfa + (uintptr_t)bp_bytes);
    }
    return arrive(at, cfa, (const uintptr_t *)(cfa + (uintptr_t)ra_bytes));
}

/* Puts the fresh frames behind the kept ones below `base`. */
static MT_ALWAYS_INLINE bool replace_inner(struct mt_stack *stack, struct mt_stack_thread *thread, size_t base, size_t fresh,
    struct mt_stack_change *ret_change)
{
    struct mt_memo *memo = &thread->memo;
    size_t count = base + fresh, bps = memo->bp_count;
    uint32_t keep = (uint32_t)base, *ids;
    uint64_t matters = base ? memo->frames[base - 1].rule & BP_MATTERS : 0;
    const struct mt_memo_place *fresh_places;
    const struct mt_memo_frame *fresh_frames;
    struct mt_memo_place *places;
    struct mt_memo_frame *frames;

    if (MT_UNLIKELY(count > memo->capacity) && !grow(stack, memo, fresh))
        return false;
    if (MT_UNLIKELY(count > thread->frame_capacity) && !mt_stack_grow_frames(stack, thread, count))
        return false;
    while (MT_UNLIKELY(bps && memo->bp_owners[bps - 1] >= base))
        bps--;
    places = memo->places + base;
    frames = memo->frames + base;
    fresh_places = memo->fresh_places + fresh;
    fresh_frames = memo->fresh_frames + fresh;
    ids = thread->frames + base;
    /* Of the memo's kept frames the reader knows; a memo that starts anew may still agree with what was sent last. */
    if (MT_UNLIKELY(!base))
        while (keep < fresh && keep < thread->frame_count && ids[keep] == mt_rule_frame(fresh_frames[-1 - (ptrdiff_t)keep].rule))
            keep++;
    for (; fresh_places-- != memo->fresh_places; places++, frames++) {
        mt_rule rule = mt_load_relaxed(&(--fresh_frames)->rule);

        copy_place(places, fresh_places);
        *ids++ = mt_rule_frame(rule);
        /* By a slot of its own an outer frame's bp does not hang on this one's. */
        if (MT_UNLIKELY(matters)) {
            const uintptr_t *slot = bp_slot_of(places - 1, rule);

            if (slot) {
                memo->bp_slots[bps] = (struct mt_memo_check){slot, *slot};
                memo->bp_owners[bps++] = (uint32_t)(frames - memo->frames);
                matters = 0;
            }
        }
        if (MT_UNLIKELY(mt_rule_kind(rule) == MT_RULE_BP))
            matters = BP_MATTERS;
        write_frame(frames, rule | matters, mt_load_relaxed(&fresh_frames->bp));
    }
    memo->bp_count = bps;
    memo->count = count;
    thread->frame_count = (uint32_t)count;
    ret_change->keep = keep;
    ret_change->push = (uint32_t)count - keep;
    return true;
}

static MT_ALWAYS_INLINE bool is_plain(mt_rule rule)
{
    return mt_rule_kind(rule) == MT_RULE_SP || mt_rule_kind(rule) == MT_RULE_BP || mt_rule_kind(rule) == MT_RULE_END;
}

/* Never the old pc beside the new rule, even if a signal handler leaves by longjmp from in between. */
static MT_ALWAYS_INLINE void remember(struct mt_chain_rule *place, uintptr_t pc, mt_rule rule)
{
    mt_store_relaxed(&place->pc, (uintptr_t)0);
    mt_compiler_fence();
    mt_store_relaxed(&place->rule, rule);
    mt_compiler_fence();
    mt_store_relaxed(&place->pc, pc);
}

/* The rule for the next frame of a chain, or for one of no chain (chain == end). */
static MT_ALWAYS_INLINE mt_rule next_rule(struct mt_stack *stack, struct mt_chain_rule **chain, const struct mt_chain_rule *end, uintptr_t pc)
{
    struct mt_chain_rule *place = *chain;
    mt_rule rule;

    if (MT_UNLIKELY(place == end))
        return mt_rule_get(stack, pc);
    ++*chain;
    if (MT_LIKELY(place->pc == pc))
        return place->rule;
    rule = mt_rule_get(stack, pc);
    if (MT_LIKELY(is_plain(rule)))
        remember(place, pc, rule);
    return rule;
}

static MT_COLD void begin_anew(struct mt_stack_thread *thread, uint64_t generation)
{
    if (thread->memo.generation >> 32 != generation >> 32)
        memset(thread->chains, 0, chains_bytes(thread));
    thread->memo.generation = generation;
}

/*
 * A kept frame is met, but on the way outwards from there something has changed: what stands becomes fresh, up to the frame that
 * leads elsewhere now. Gives the number of frames that are still kept; 0: this stack is not for the memo.
 */
static MT_NOINLINE size_t go_on_behind(struct mt_stack *stack, struct mt_memo *memo, size_t kept, size_t *fresh, struct at *at)
{
    size_t stop = first_changed(memo, kept - 1);

    if (MT_UNLIKELY(*fresh + (kept - stop) > memo->capacity) && !grow(stack, memo, *fresh))
        return 0;
    for (size_t i = kept; i-- > stop; ++*fresh) {
        const uintptr_t *slot = bp_slot_of(&memo->places[i - 1], memo->frames[i].rule);

        copy_place(&memo->fresh_places[*fresh], &memo->places[i]);
        write_frame(&memo->fresh_frames[*fresh], memo->frames[i].rule & ~BP_MATTERS, at->bp);
        if (slot)
            at->bp = *slot;
    }
    return arrive(at, memo->places[stop - 1].sp, slot_of(&memo->places[stop - 1])) ? stop : 0;
}

bool mt_memo_capture(struct mt_stack *stack, struct mt_stack_thread *thread, const struct mt_registers *registers,
    struct mt_stack_change *ret_change)
{
    struct mt_memo *memo = &thread->memo;
    struct at at = {.sp = registers->sp, .ra = registers->pc + 1, .bp = registers->bp};
    struct mt_chain_rule *chain = mt_chain_at(thread->chains, thread->chain_shift, registers->pc, registers->sp)->rules;
    const struct mt_chain_rule *chain_end = chain + MT_CHAIN_FRAMES;
    uint64_t generation = (uint64_t)mt_load_relaxed(&stack->rule_generation) << 32 | mt_load_relaxed(&stack->unmap_generation);
    size_t kept = memo->count, fresh = 0; /* kept: so many of the previous stack may still be met */
    struct readable readable = readable_now(stack, thread);
    const struct mt_memo_place *places;

    /* An interrupted capture that never comes back (longjmp) leaves no half-made list. */
    memo->count = 0;
    mt_compiler_fence();
    if (MT_UNLIKELY(memo->generation != generation)) {
        begin_anew(thread, generation);
        kept = 0;
    }
    places = memo->places - 1; /* of frame kept - 1: places[kept] */
    for (;;) {
        enum mt_rule_kind kind;
        mt_rule rule;

        while (kept && places[kept].sp < at.sp)
            kept--;
        if (kept && places[kept].sp == at.sp && places[kept].ra == at.ra &&
            (MT_LIKELY(!(memo->frames[kept - 1].rule & BP_MATTERS)) || memo->frames[kept - 1].bp == at.bp)) {
            struct at behind = at;
            size_t so_far = fresh;

#if !defined(MT_RA_BELOW_SP)
            write_place(&memo->places[kept - 1], &at); /* the frame inside of it may be another one, and have its slot elsewhere */
#endif
            if (MT_LIKELY(all_hold(memo, kept - 1)))
                return replace_inner(stack, thread, kept, fresh, ret_change);
            kept = go_on_behind(stack, memo, kept, &so_far, &behind);
            if (!kept)
                return false;
            at = behind;
            fresh = so_far;
            places = memo->places - 1;
            chain_end = chain; /* it would be another one's */
            continue;
        }
        rule = next_rule(stack, &chain, chain_end, at.ra - 1);
        kind = mt_rule_kind(rule);
        if (MT_UNLIKELY(fresh == memo->capacity)) {
            if (!grow(stack, memo, fresh))
                return false;
            places = memo->places - 1;
        }
        write_place(&memo->fresh_places[fresh], &at);
        write_frame(&memo->fresh_frames[fresh++], rule, at.bp);
        if (MT_UNLIKELY(kind == MT_RULE_END))
            return replace_inner(stack, thread, 0, fresh, ret_change);
        if (MT_UNLIKELY(kind != MT_RULE_SP && kind != MT_RULE_BP) || MT_UNLIKELY(!step(&readable, rule, &at)))
            return false;
    }
}

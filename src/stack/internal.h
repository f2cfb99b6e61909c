/*
 * What the files of stack/ share among themselves.
 */
#ifndef MT_STACK_INTERNAL_H
#define MT_STACK_INTERNAL_H

#include "stack/stack.h"

/* How the frame outside of this one is found. What does not fit into a rule (arch/rules.h) is COMPLEX. */
enum mt_rule_kind {
    MT_RULE_NONE = 0, /* not known: learn it */
    MT_RULE_SP,       /* CFA = sp + offset; this and the next two fit two bits */
    MT_RULE_BP,       /* CFA = bp + offset */
    MT_RULE_END,      /* outermost frame */
    MT_RULE_SIGNAL,   /* signal trampoline: the interrupted registers are in the frame */
    MT_RULE_COMPLEX,  /* libunwind steps through it each time */
    MT_RULE_CUT,      /* no call frame information; with an offset: try the frame pointer */
    MT_RULE_ALONE,    /* libunwind is not loaded (yet): one frame, not to be remembered */
};

typedef uint64_t mt_rule;

/* What learn.c finds out about a pc; the frame is added by rule.c. Words of 8 bytes. */
struct mt_learnt {
    enum mt_rule_kind kind;
    int64_t cfa_words; /* the CFA from its register */
    int64_t ra_words;  /* the return address from the CFA; 0: it is in the link register */
    int64_t bp_words;  /* the saved frame pointer from the CFA; 0: not saved */
};

#include "stack/arch/rules.h"

/* A frame record of the plain kind, at which step_by_frame_pointer() of walk.c looks. */
#define MT_LEARNT_CUT ((struct mt_learnt){MT_RULE_CUT, 2, -1, -2})

/* ---- rule.c: all but the look-up under the lock ---- */
int mt_rules_init(struct mt_stack *stack);
mt_rule mt_rule_get_slowly(struct mt_stack *stack, uintptr_t pc); /* what mt_rule_get does on a miss of its cache */
/* The same as mt_is_signal_trampoline(), where it is not known that the code can be read. */
bool mt_is_foreign_trampoline(uintptr_t pc);
void mt_rules_forget(struct mt_stack *stack, uintptr_t start, uintptr_t end);

/*
 * In front of the table: common rules in one word each, eight to a cache line, found by their only possible place. The pc, of 48 bits, times an
 * odd constant is a permutation: its upper bits are the place, and the lower ones, kept in the entry, tell the pc from all others. Any
 * thread writes what it missed over what was there; the table has them all.
 *   bits 0-29 the packed rule (kind SP, BP or END in bits 0-1), 30-63 lower bits of the product
 */
/* The rule of a pc; any thread; learns it on a miss. */
static MT_ALWAYS_INLINE mt_rule mt_rule_get(struct mt_stack *stack, uintptr_t pc)
{
    uint64_t product = mt_front_product(pc);
    uint64_t entry = mt_load_relaxed(&stack->front[product >> MT_FRONT_TAG_BITS]);

    if (MT_LIKELY((entry >> (64 - MT_FRONT_TAG_BITS)) == (product & (UINT64_MAX >> (64 - MT_FRONT_TAG_BITS))) && (entry & 3) && !(pc >> 48)))
        return mt_rule_unpack(entry);
    return mt_rule_get_slowly(stack, pc);
}

/* ---- learn.c: under the lock, with mt_stack_internal set ---- */
void mt_learn(struct mt_stack *stack, uintptr_t pc, struct mt_learnt *ret_learnt);

/* ---- libunwind.c: the same ---- */
/* libunwind was looked for and is not there: stacks stay one frame deep. */
bool mt_unwinder_hopeless(void);

/* Whether there is call frame information for a pc. */
bool mt_unwind_knows(struct mt_stack *stack, uintptr_t pc);

/*
 * Unwinds the calling thread's stack by libunwind alone, from here; calls visit for each frame outside of memtrace, beginning with the one
 * whose registers are `from` (the pc to look up, exact or return address - 1). visit returns false to stop. -ESRCH: it did not come to the
 * stack's end.
 */
typedef bool mt_unwind_visit(void *context, uintptr_t pc);
int mt_unwind_by_libunwind(const struct mt_registers *from, bool cached, mt_unwind_visit *visit, void *context);
/* After a dlclose: empties the cache that the above uses if it is to. */
void mt_unwind_forget(void);

/* ---- module.c: under the lock ---- */
int mt_modules_init(struct mt_stack *stack);
/* The module of pc; 0 where there is none. *ret_bias is its load bias. */
uint32_t mt_module_of(struct mt_stack *stack, uintptr_t pc, uintptr_t *ret_bias);
/* Whether pc lies in the dynamic loader. */
bool mt_is_loader(uintptr_t pc);
/* The whole address range of an object that the loader found for some pc. */
struct dl_find_object;
void mt_object_range(const struct dl_find_object *object, uintptr_t *ret_start, uintptr_t *ret_end);
/* Calls gone(start, end) for each module that is no longer mapped as it was, and drops it. */
void mt_modules_sweep(struct mt_stack *stack, void (*gone)(struct mt_stack *, uintptr_t, uintptr_t));

/* ---- memo.c ---- */
int mt_memo_init(struct mt_stack *stack, struct mt_stack_thread *thread, unsigned chain_bits);
void mt_memo_finish(struct mt_stack_thread *thread);
/* False: this stack is not for the memo (walk it). */
bool mt_memo_capture(struct mt_stack *stack, struct mt_stack_thread *thread, const struct mt_registers *registers,
    struct mt_stack_change *ret_change);

/* ---- thread.c ---- */
bool mt_stack_extend_ranges(struct mt_stack *stack, struct mt_stack_thread *thread, uintptr_t address);

/* Room for that many frames in thread->frames. */
bool mt_stack_grow_frames(struct mt_stack *stack, struct mt_stack_thread *thread, size_t count);

bool mt_stack_grow_buffer(struct mt_stack *stack, struct mt_stack_buffer *buffer);

/* Makes the first `count` frames of thread->walked the thread's last stack. */
struct mt_stack_change mt_stack_change_to(struct mt_stack *stack, struct mt_stack_thread *thread, uint32_t count);

/* Whether the aligned word at address may be read. */
static MT_ALWAYS_INLINE bool mt_stack_readable(struct mt_stack *stack, struct mt_stack_thread *thread, uintptr_t address)
{
    const struct mt_stack_range *range = &thread->ranges[0];

    if (MT_UNLIKELY(address & (sizeof(uintptr_t) - 1)))
        return false;
    if (MT_LIKELY(address >= range->low && address < range->high &&
                  range->generation == mt_load_relaxed(&stack->unmap_generation)))
        return true;
    return mt_stack_extend_ranges(stack, thread, address);
}

/* Anonymous memory that a forked child does not inherit. NULL where there is none. */
void *mt_stack_pages(struct mt_stack *stack, size_t size_bytes);

#endif

/*
 * The walk: rules applied from the hooked call outwards. Stack memory is read only where it was found readable, so wrong call frame
 * information (hand-written assembly) can cut a stack but not crash the target.
 */
#include "stack/internal.h"

#define FRAME_POINTER_SPAN (1u << 20)
#define VERIFY_UNCACHED 20000u /* comparisons at the start of a process without libunwind's cache */
#define VERIFY_UNCACHED_EVERY 256u

struct collect {
    struct mt_stack *stack;
    struct mt_stack_buffer *buffer;
    size_t count;
};

static bool collect_frame(void *context, uintptr_t pc)
{
    struct collect *c = context;

    if (c->count == c->buffer->capacity && !mt_stack_grow_buffer(c->stack, c->buffer))
        return false;
    c->buffer->frames[c->count++] = mt_rule_frame(mt_rule_get(c->stack, pc));
    return true;
}

/* libunwind for the whole stack: a frame on it hangs on registers that rules do not follow. */
static MT_COLD size_t walk_by_libunwind(
    struct mt_stack *stack, struct mt_stack_buffer *buffer, const struct mt_registers *registers)
{
    struct collect c = {stack, buffer, 0};
    uint64_t signals;

    mt_sys_signals_block(&signals);
    mt_lock_acquire(stack->lock);
    mt_stack_internal++;
    mt_unwind_by_libunwind(registers, false, collect_frame, &c);
    mt_stack_internal--;
    mt_lock_release(stack->lock);
    mt_sys_signals_restore(&signals);
    return c.count;
}

/*
 * Code that is in no object (compiled at run time) has no rules, but its frames are mostly chained by the frame pointer (V8's are). The chain is believed
 * while it rises within the stack; a stack that does not come to an end that way counts as cut.
 */
static MT_COLD int step_by_frame_pointer(
    struct mt_stack *stack, struct mt_stack_thread *thread, mt_rule rule, struct mt_registers *r)
{
    const uintptr_t *slot = (const uintptr_t *)r->bp;

    if (!mt_rule_cfa_bytes(rule) || r->bp < r->sp || r->bp - r->sp > FRAME_POINTER_SPAN ||
        !mt_stack_readable(stack, thread, r->bp) || !mt_stack_readable(stack, thread, r->bp + sizeof(uintptr_t)) || slot[1] < MT_PAGE_BYTES) {
        mt_writer_lost(stack->writer, MT_LOSS_STACK_RULE, 1);
        return -1;
    }
    r->sp = r->bp + 2 * sizeof(uintptr_t);
    r->bp = slot[0];
    r->pc = mt_code_address(slot[1]) - 1;
    return 1;
}

/* A frame that has not saved its return address: a signal has interrupted it. */
static MT_COLD int step_by_link_register(struct mt_stack *stack, uintptr_t cfa, struct mt_registers *r)
{
    uintptr_t ra = mt_take_link_register(r);

    if (!ra || cfa < r->sp) {
        mt_writer_lost(stack->writer, MT_LOSS_STACK_RULE, 1);
        return -1;
    }
    r->sp = cfa;
    r->pc = mt_code_address(ra) - 1;
    return 1;
}

/* One step outwards. Returns 1: *r is the outer frame, 0: the stack ends here, -1: cut. */
static MT_ALWAYS_INLINE int step(
    struct mt_stack *stack, struct mt_stack_thread *thread, mt_rule rule, struct mt_registers *r)
{
    uintptr_t cfa, ra;
    int64_t ra_bytes, bp_bytes;

    switch (mt_rule_kind(rule)) {
    case MT_RULE_SP:
        cfa = r->sp + (uintptr_t)mt_rule_cfa_bytes(rule);
        break;
    case MT_RULE_BP:
        cfa = r->bp + (uintptr_t)mt_rule_cfa_bytes(rule);
        break;
    case MT_RULE_SIGNAL:
        if (!mt_stack_readable(stack, thread, r->sp) || !mt_stack_readable(stack, thread, r->sp + MT_SIGNAL_FRAME_BYTES - 8)) {
            mt_writer_lost(stack->writer, MT_LOSS_STACK_READ, 1);
            return -1;
        } else {
            struct mt_registers trampoline = *r;

            mt_signal_registers(&trampoline, r);
            return 1;
        }
    case MT_RULE_CUT:
        return step_by_frame_pointer(stack, thread, rule, r);
    default:
        return 0;
    }
    ra_bytes = mt_rule_ra_bytes(rule);
    if (MT_UNLIKELY(ra_bytes == 0))
        return step_by_link_register(stack, cfa, r);
    if (MT_UNLIKELY(cfa <= r->sp || !mt_stack_readable(stack, thread, cfa + (uintptr_t)ra_bytes))) {
        mt_writer_lost(stack->writer, MT_LOSS_STACK_READ, 1);
        return -1;
    }
    ra = *(const uintptr_t *)(cfa + (uintptr_t)ra_bytes);
    bp_bytes = mt_rule_bp_bytes(rule);
    if (bp_bytes) {
        if (MT_UNLIKELY(!mt_stack_readable(stack, thread, cfa + (uintptr_t)bp_bytes))) {
            mt_writer_lost(stack->writer, MT_LOSS_STACK_READ, 1);
            return -1;
        }
        r->bp = *(const uintptr_t *)(cfa + (uintptr_t)bp_bytes);
    }
    r->sp = cfa;
    r->pc = mt_code_address(ra) - 1;
    mt_take_link_register(r);
    return ra != 0;
}

static size_t walk(struct mt_stack *stack, struct mt_stack_thread *thread, struct mt_stack_buffer *buffer,
    const struct mt_registers *registers)
{
    struct mt_registers r = *registers;
    bool chained = false; /* the stack pointer was lost, so frame pointers are followed to the end */
    bool interrupted = false;
    size_t count = 0;

    for (;;) {
        mt_rule rule = mt_rule_get(stack, r.pc);

        if (MT_UNLIKELY(mt_rule_kind(rule) == MT_RULE_COMPLEX) && (MT_FRAME_POINTER_GIVES_SP || !chained))
            return walk_by_libunwind(stack, buffer, registers);
        if (MT_UNLIKELY(count == buffer->capacity && !mt_stack_grow_buffer(stack, buffer))) {
            mt_writer_lost(stack->writer, MT_LOSS_STACK_MEMORY, 1);
            return count;
        }
        /* A run of frames without rules counts as one: their addresses differ from run to run. */
        if (!(mt_rule_kind(rule) == MT_RULE_CUT && count && buffer->frames[count - 1] == mt_rule_frame(rule)))
            buffer->frames[count++] = mt_rule_frame(rule);
        chained = chained || mt_rule_kind(rule) == MT_RULE_CUT || mt_rule_is_guess(rule, interrupted);
        interrupted = mt_rule_kind(rule) == MT_RULE_SIGNAL;
        if (!MT_FRAME_POINTER_GIVES_SP && chained && mt_rule_kind(rule) != MT_RULE_END) {
            if (step_by_frame_pointer(stack, thread, mt_rule_make(&MT_LEARNT_CUT, 0), &r) <= 0)
                return count;
        } else if (step(stack, thread, rule, &r) <= 0) {
            return count;
        }
    }
}

struct verify {
    struct mt_stack *stack;
    const uint32_t *frames; /* outermost first */
    size_t count, at;
    bool differs;
    bool cut; /* libunwind's guesses beyond are not compared */
    bool interrupted;
};

static bool verify_frame(void *context, uintptr_t pc)
{
    struct verify *v = context;
    mt_rule rule = mt_rule_get(v->stack, pc);

    if (v->at >= v->count || v->frames[v->count - 1 - v->at] != mt_rule_frame(rule)) {
        v->differs = true;
        return false;
    }
    v->at++;
    v->cut = mt_rule_kind(rule) == MT_RULE_CUT || (mt_rule_kind(rule) == MT_RULE_END && !mt_unwind_knows(NULL, pc)) ||
             mt_rule_is_guess(rule, v->interrupted);
    v->interrupted = mt_rule_kind(rule) == MT_RULE_SIGNAL;
    return !v->cut;
}

/*
 * The thread's frames against libunwind's. That remembers what it found out about a pc, but for the first comparisons of a process and some later ones: so
 * that many can be made, and what one of the two remembers wrongly comes out all the same.
 */
static MT_COLD void verify(struct mt_stack *stack, const struct mt_stack_thread *thread, const struct mt_registers *registers)
{
    struct verify v = {stack, thread->frames, thread->frame_count, 0, false, false, false};
    uint64_t signals, count = mt_fetch_add_relaxed(&stack->writer->header->captures, 1);

    mt_sys_signals_block(&signals);
    mt_lock_acquire(stack->lock);
    mt_stack_internal++;
    mt_unwind_by_libunwind(registers, count >= VERIFY_UNCACHED && count % VERIFY_UNCACHED_EVERY, verify_frame, &v);
    mt_stack_internal--;
    mt_lock_release(stack->lock);
    mt_sys_signals_restore(&signals);
    if (v.differs || (v.at != v.count && !v.cut))
        mt_writer_lost(stack->writer, MT_LOSS_STACK_VERIFY, 1);
}

/* The whole stack, frame by frame, and where it differs from the last one. */
static MT_NOINLINE struct mt_stack_change capture_by_walk(
    struct mt_stack *stack, struct mt_stack_thread *thread, const struct mt_registers *registers)
{
    uint32_t count = (uint32_t)walk(stack, thread, &thread->walked, registers);

    thread->memo.count = 0;
    return mt_stack_change_to(stack, thread, count);
}

struct mt_stack_change mt_stack_capture(
    struct mt_stack *stack, struct mt_stack_thread *thread, const struct mt_registers *registers)
{
    struct mt_stack_change change;

    if (MT_UNLIKELY(!mt_memo_capture(stack, thread, registers, &change)))
        change = capture_by_walk(stack, thread, registers);
    if (MT_UNLIKELY(stack->verify && mt_stack_unwinder_loaded()))
        verify(stack, thread, registers);
    return change;
}

/*
 * The walk: rules applied from the hooked call outwards. Stack memory is read only where it was found readable, so wrong call frame
 * information (hand-written assembly) can cut a stack but not crash the target.
 */
#include "stack/internal.h"

#include <string.h>

#include "base/slow_stack.h"
#include "stack/arch/x86_64/registers.h"

__thread uint32_t mt_stack_internal;
_Alignas(4096) char mt_slow_stack[MT_SLOW_STACK_BYTES];

#define FIRST_CAPACITY 4096u
#define PROBE_SPAN (1u << 20)
#define FRAME_POINTER_SPAN (1u << 20)
#define VERIFY_UNCACHED 20000u /* comparisons at the start of a process without libunwind's cache */
#define VERIFY_UNCACHED_EVERY 256u
#define PAGE_OF(address) ((address) & ~(uintptr_t)(MT_PAGE_BYTES - 1))

void *mt_stack_pages(struct mt_stack *stack, size_t size_bytes)
{
    size_t bytes = mt_round_up(size_bytes, MT_PAGE_BYTES);
    void *p = mt_sys_pages(bytes);

    if (p) {
        mt_sys_madvise(p, bytes, MADV_DONTFORK);
        mt_sys_madvise(p, bytes, MADV_DONTDUMP);
        mt_fetch_add_relaxed(&stack->private_bytes, bytes);
    }
    return p;
}

int mt_stack_init(struct mt_stack *stack, struct mt_writer *writer, struct mt_lock *lock, bool verify)
{
    int r;

    stack->writer = writer;
    stack->lock = lock;
    stack->verify = verify;
    r = mt_rules_init(stack);
    if (r == 0)
        r = mt_modules_init(stack);
    return r;
}

int mt_stack_thread_init(struct mt_stack_thread *thread, struct mt_stack *stack)
{
    uint64_t before = mt_load_relaxed(&stack->private_bytes);

    memset(thread, 0, sizeof *thread);
    thread->walked.frames = mt_stack_pages(stack, FIRST_CAPACITY * sizeof(uint32_t));
    thread->walked.capacity = FIRST_CAPACITY;
    thread->frames = mt_stack_pages(stack, FIRST_CAPACITY * sizeof(uint32_t));
    thread->frame_capacity = FIRST_CAPACITY;
    if (!thread->walked.frames || !thread->frames || mt_memo_init(stack, &thread->memo) < 0)
        return -ENOMEM;
    /* Address space; resident are the first pages of the memo's arrays and of the frames, with the structure around this. */
    mt_store_relaxed(&stack->private_bytes, before + 7 * MT_PAGE_BYTES);
    return 0;
}

void mt_stack_thread_finish(struct mt_stack_thread *thread)
{
    if (thread->walked.frames)
        mt_sys_unmap(thread->walked.frames, thread->walked.capacity * sizeof(uint32_t));
    if (thread->frames)
        mt_sys_unmap(thread->frames, thread->frame_capacity * sizeof(uint32_t));
    mt_memo_finish(&thread->memo);
    memset(thread, 0, sizeof *thread);
}

bool MT_COLD mt_stack_grow_frames(struct mt_stack *stack, struct mt_stack_thread *thread, size_t count)
{
    size_t capacity = thread->frame_capacity;
    uint32_t *frames;

    while (capacity < count)
        capacity *= 2;
    frames = capacity <= UINT32_MAX / 8 ? mt_stack_pages(stack, capacity * sizeof(uint32_t)) : NULL;
    if (!frames)
        return false;
    memcpy(frames, thread->frames, thread->frame_count * sizeof(uint32_t));
    mt_sys_unmap(thread->frames, thread->frame_capacity * sizeof(uint32_t));
    mt_fetch_add_relaxed(&stack->private_bytes, -(uint64_t)thread->frame_capacity * sizeof(uint32_t));
    thread->frames = frames;
    thread->frame_capacity = (uint32_t)capacity;
    return true;
}

static MT_COLD bool grow_buffer(struct mt_stack *stack, struct mt_stack_buffer *buffer)
{
    size_t capacity = buffer->capacity * 2;
    uint32_t *frames = capacity ? mt_stack_pages(stack, capacity * sizeof(uint32_t)) : NULL;

    if (!frames)
        return false;
    memcpy(frames, buffer->frames, buffer->capacity * sizeof(uint32_t));
    mt_sys_unmap(buffer->frames, buffer->capacity * sizeof(uint32_t));
    buffer->frames = frames;
    buffer->capacity = capacity;
    return true;
}

/* Asks the kernel for each page from `from` to `to`, upwards; returns the end of the readable part. */
static uintptr_t probe_up(uintptr_t from, uintptr_t to)
{
    while (from <= to && mt_sys_readable((void *)from))
        from += MT_PAGE_BYTES;
    return from;
}

bool MT_COLD mt_stack_extend_ranges(struct mt_stack *stack, struct mt_stack_thread *thread, uintptr_t address)
{
    uint32_t generation = mt_load_relaxed(&stack->unmap_generation);
    uintptr_t page = PAGE_OF(address);
    struct mt_stack_range *range;

    for (unsigned i = 0; i < MT_STACK_RANGES; i++) {
        range = &thread->ranges[i];
        if (range->high && range->generation == generation && address >= range->low && address < range->high) {
            struct mt_stack_range swap = thread->ranges[0];

            thread->ranges[0] = *range;
            *range = swap;
            return true;
        }
    }
    /* A neighbour is stretched, unless there is a gap (the guard page of another stack) between. */
    for (unsigned i = 0; i < MT_STACK_RANGES; i++) {
        range = &thread->ranges[i];
        if (!range->high || range->generation != generation)
            continue;
        if (address >= range->high && address - range->high < PROBE_SPAN) {
            range->high = probe_up(range->high, page);
            if (address < range->high)
                return true;
            break;
        }
        if (address < range->low && range->low - address < PROBE_SPAN / 4) {
            if (probe_up(page, range->low - MT_PAGE_BYTES) != range->low)
                break;
            range->low = page;
            return true;
        }
    }
    if (!mt_sys_readable((void *)page))
        return false;
    range = &thread->ranges[thread->range_next++ % MT_STACK_RANGES];
    range->low = page;
    range->high = page + MT_PAGE_BYTES;
    range->generation = generation;
    return true;
}

struct collect {
    struct mt_stack *stack;
    struct mt_stack_buffer *buffer;
    size_t count;
};

static bool collect_frame(void *context, uintptr_t pc)
{
    struct collect *c = context;

    if (c->count == c->buffer->capacity && !grow_buffer(c->stack, c->buffer))
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
    r->pc = slot[1] - 1;
    return 1;
}

/* One step outwards. Returns 1: *r is the outer frame, 0: the stack ends here, -1: cut. */
static MT_ALWAYS_INLINE int step(
    struct mt_stack *stack, struct mt_stack_thread *thread, mt_rule rule, struct mt_registers *r)
{
    uintptr_t cfa, ra;
    int64_t bp_bytes;

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
    if (MT_UNLIKELY(cfa <= r->sp || !mt_stack_readable(stack, thread, cfa - sizeof(uintptr_t)))) {
        mt_writer_lost(stack->writer, MT_LOSS_STACK_READ, 1);
        return -1;
    }
    ra = *(const uintptr_t *)(cfa - sizeof(uintptr_t));
    bp_bytes = mt_rule_bp_bytes(rule);
    if (bp_bytes) {
        if (MT_UNLIKELY(!mt_stack_readable(stack, thread, cfa + (uintptr_t)bp_bytes))) {
            mt_writer_lost(stack->writer, MT_LOSS_STACK_READ, 1);
            return -1;
        }
        r->bp = *(const uintptr_t *)(cfa + (uintptr_t)bp_bytes);
    }
    r->sp = cfa;
    r->pc = ra - 1;
    return ra != 0;
}

static size_t walk(struct mt_stack *stack, struct mt_stack_thread *thread, struct mt_stack_buffer *buffer,
    const struct mt_registers *registers)
{
    struct mt_registers r = *registers;
    size_t count = 0;

    for (;;) {
        mt_rule rule = mt_rule_get(stack, r.pc);

        if (MT_UNLIKELY(mt_rule_kind(rule) == MT_RULE_COMPLEX))
            return walk_by_libunwind(stack, buffer, registers);
        if (MT_UNLIKELY(count == buffer->capacity && !grow_buffer(stack, buffer))) {
            mt_writer_lost(stack->writer, MT_LOSS_STACK_MEMORY, 1);
            return count;
        }
        /* A run of frames without rules counts as one: their addresses differ from run to run. */
        if (!(mt_rule_kind(rule) == MT_RULE_CUT && count && buffer->frames[count - 1] == mt_rule_frame(rule)))
            buffer->frames[count++] = mt_rule_frame(rule);
        if (step(stack, thread, rule, &r) <= 0)
            return count;
    }
}

struct verify {
    struct mt_stack *stack;
    const uint32_t *frames; /* outermost first */
    size_t count, at;
    bool differs;
    bool cut; /* libunwind's guesses beyond are not compared */
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
    v->cut = mt_rule_kind(rule) == MT_RULE_CUT;
    return !v->cut;
}

/*
 * The thread's frames against libunwind's. That remembers what it found out about a pc, but for the first comparisons of a process and some later ones: so
 * that many can be made, and what one of the two remembers wrongly comes out all the same.
 */
static MT_COLD void verify(struct mt_stack *stack, const struct mt_stack_thread *thread, const struct mt_registers *registers)
{
    struct verify v = {stack, thread->frames, thread->frame_count, 0, false, false};
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
    uint32_t count = (uint32_t)walk(stack, thread, &thread->walked, registers), keep = 0;
    const uint32_t *innermost_first = thread->walked.frames;

    thread->memo.count = 0;
    if (count > thread->frame_capacity && !mt_stack_grow_frames(stack, thread, count)) {
        mt_writer_lost(stack->writer, MT_LOSS_STACK_MEMORY, 1);
        count = 0;
    }
    while (keep < count && keep < thread->frame_count && thread->frames[keep] == innermost_first[count - 1 - keep])
        keep++;
    for (uint32_t i = keep; i < count; i++)
        thread->frames[i] = innermost_first[count - 1 - i];
    thread->frame_count = count;
    return (struct mt_stack_change){keep, count - keep};
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

void mt_stack_objects_changed(struct mt_stack *stack)
{
    uint64_t signals;

    mt_sys_signals_block(&signals);
    mt_lock_acquire(stack->lock);
    mt_modules_sweep(stack, mt_rules_forget);
    mt_unwind_forget();
    mt_lock_release(stack->lock);
    mt_sys_signals_restore(&signals);
}

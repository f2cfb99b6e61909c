/*
 * A thread's Python stack, verified instead of walked again.
 *
 * The frames are a list, innermost first, linked by `previous`. Kept of the last capture is, for each of them, its instruction and `previous`, which is the
 * address of the next. A capture walks from the innermost frame outwards until it meets a kept one; if that one's `previous` is what it was, the next kept
 * frame is alive and may be looked at, and so on. By induction, where all hold, the rest of the stack is the kept one. The loads do not wait for one
 * another: the processor guesses that all holds. Where a frame differs, the walk goes on from there.
 *
 * An instruction lies in its code object, so it tells which that is, and with it the frame of the segment (its line), as long as it is heard of code objects
 * that are freed (freed.c). Where it is not, or instructions lie elsewhere, states.c captures.
 *
 * Frames of the interpreter's own (entries from C) are kept in the list, but are not part of the stack; nor are functions that have not begun.
 *
 * A capture that is interrupted for ever (longjmp) leaves an empty list. Captures on top of another one, in signal handlers, are not made.
 */
#include "python/frames.h"

#if defined(__x86_64__)
#include "python/arch/x86_64/verify.h"
#endif

#define NO_LINE UINT32_MAX /* of a frame that is no part of the stack */

/* A function that is made for each layout, called for the one that is here. */
#define BY_LAYOUT(function, ...)                                                                                        \
    (mt_python_here.layout == MT_PYTHON_LAYOUT_3_11     ? function(MT_PYTHON_LAYOUT_3_11, __VA_ARGS__)                  \
            : mt_python_here.layout == MT_PYTHON_LAYOUT_3_12 ? function(MT_PYTHON_LAYOUT_3_12, __VA_ARGS__)             \
                                                        : function(MT_PYTHON_LAYOUT_OTHER, __VA_ARGS__))

bool mt_python_verifies_wide(void)
{
#if defined(MT_HAS_WIDE_VERIFY)
    return mt_arch_has_wide_verify();
#else
    return false;
#endif
}

/* Another state than last time, or one that is not this thread's own: an interpreter within another's thread. */
static MT_NOINLINE const void *find_holder(struct mt_python_thread *thread, const void *running)
{
    const void *holder = mt_python_here.this_thread();

    thread->holder = holder == running ? holder : NULL;
    return holder;
}

/*
 * The thread's state. Where there is a lock, and the thread has it, a state that is running and was the thread's is the thread's: it is not another's in the same place, which
 * would have the lock.
 */
static MT_ALWAYS_INLINE const void *holder_of(struct mt_python_thread *thread)
{
    const void *running;

    if (!thread->has_lock || MT_UNLIKELY(!mt_python_here.running_thread))
        return mt_python_here.this_thread();
    running = mt_python_here.running_thread();
    return MT_LIKELY(running == thread->holder && running) ? running : find_holder(thread, running);
}

static MT_ALWAYS_INLINE const char *innermost(struct mt_python *python, struct mt_python_thread *thread, const struct mt_python_offsets *o)
{
    const char *runtime = mt_python_here.runtime, *holder;
    const void *finalizing;

    if (MT_UNLIKELY(!*(const volatile int *)(runtime + o->runtime_core_initialized))) {
        if (mt_load_relaxed(&python->settled))
            mt_python_unsettle(python);
        return NULL;
    }
    holder = holder_of(thread);
    if (!holder)
        return NULL;
    finalizing = *(const void *const volatile *)(runtime + o->runtime_finalizing);
    if (MT_UNLIKELY(finalizing && finalizing != holder))
        return NULL;
    if (o->tstate_cframe) {
        holder = mt_python_pointer(holder, o->tstate_cframe);
        if (!holder)
            return NULL;
    }
    return mt_python_pointer(holder, o->tstate_frame);
}

/* The oldest goes. */
static void put_hit(const struct mt_python_thread *thread, uintptr_t instruction, bool entry, uint32_t line)
{
    struct mt_python_hits *hits = mt_python_hits_of(thread, instruction);
    uint64_t key = (uint64_t)instruction << 1 | entry;
    unsigned i = 0;

    while (i < MT_PYTHON_HIT_WAYS - 1 && hits->keys[i] != key)
        i++;
    for (; i > 0; i--) {
        hits->keys[i] = hits->keys[i - 1];
        hits->lines[i] = hits->lines[i - 1];
        hits->codes_freed[i] = hits->codes_freed[i - 1];
    }
    hits->keys[0] = key;
    hits->lines[0] = line;
    hits->codes_freed[0] = thread->codes_freed;
}

#define FORGET_MAX 16u

/* Whether what is known of an instruction is still true, though code objects have been freed since it was put there. */
static MT_NOINLINE bool is_still_known(const struct mt_python_thread *thread, uint64_t key, uint32_t *codes_freed)
{
    uint32_t count = thread->codes_freed - *codes_freed;
    uintptr_t instruction = (uintptr_t)(key >> 1), start, end;

    if (count > FORGET_MAX)
        return false;
    for (uint32_t i = 0; i < count; i++)
        if (!mt_python_gone_code(*codes_freed + i, &start, &end) || instruction - start < end - start)
            return false;
    *codes_freed = thread->codes_freed;
    return true;
}

/* A frame whose instruction was not met before, or not lately. */
static MT_NOINLINE bool read_new_frame(struct mt_python *python, struct mt_stack *stack, const struct mt_python_thread *thread, const char *frame,
    bool entry, struct mt_python_place *ret)
{
    struct mt_python_state s;

    if (!mt_python_read_frame(python, stack, frame, &s))
        return false;
    ret->note.line = s.is_complete ? s.line : NO_LINE;
    if (s.is_lasting || (!s.is_code && s.instruction))
        put_hit(thread, ret->instruction, entry, ret->note.line);
    return true;
}

/* False: it is not a frame. */
static MT_ALWAYS_INLINE bool read_frame(enum mt_python_layout layout, struct mt_python *python, struct mt_stack *stack,
    const struct mt_python_thread *thread, const char *frame, struct mt_python_place *ret)
{
    const char *previous = mt_python_previous(layout, frame);
    uintptr_t instruction = mt_python_instruction(layout, frame);
    bool entry = mt_python_is_entry(layout, frame, previous);
    struct mt_python_hits *hits = mt_python_hits_of(thread, instruction);
    uint64_t key = (uint64_t)instruction << 1 | entry;
    unsigned i = (unsigned)(hits->keys[1] == key) | (unsigned)(hits->keys[2] == key) << 1 | (unsigned)(hits->keys[3] == key) * 3;

    ret->previous = previous;
    ret->instruction = instruction;
    ret->state = mt_python_state_of(layout, frame);
    ret->note.line = hits->lines[i];
    if (MT_LIKELY(hits->keys[i] == key) &&
        (MT_LIKELY(hits->codes_freed[i] == thread->codes_freed) || is_still_known(thread, key, &hits->codes_freed[i])))
        return true;
    return read_new_frame(python, stack, thread, frame, entry, ret);
}

static MT_ALWAYS_INLINE bool is_state(enum mt_python_layout layout, const char *frame, const struct mt_python_place *place)
{
    return layout == MT_PYTHON_LAYOUT_3_12 || !((mt_python_state_of(layout, frame) ^ place->state) & MT_PYTHON_STATE_ENTRY);
}

/* Whether a kept frame is what it was, but for where it stands on. */
static MT_ALWAYS_INLINE bool has_not_moved(enum mt_python_layout layout, const struct mt_python_place *place, const char *frame)
{
    return mt_python_instruction(layout, frame) == place->instruction && is_state(layout, frame, place);
}

/* Whether the frame whose place this is, its address being in the place behind, is what it was. This is most of what a capture does. */
static MT_ALWAYS_INLINE bool holds(enum mt_python_layout layout, const struct mt_python_place *place)
{
    const char *frame = place[1].previous;

    if (layout == MT_PYTHON_LAYOUT_3_11)
        return MT_LIKELY(mt_pair_equal((const uint64_t *)(const void *)(frame + MT_PYTHON_PREVIOUS_3_11), (const uint64_t *)(const void *)&place->previous)) &&
               MT_LIKELY(is_state(layout, frame, place));
    return MT_LIKELY(mt_python_previous(layout, frame) == place->previous) &&
           MT_LIKELY(mt_python_instruction(layout, frame) == place->instruction) && is_state(layout, frame, place);
}

/* Follows the kept frames outwards from the one below `at`. Returns where that ends; 0: all hold. */
static MT_ALWAYS_INLINE size_t verify(enum mt_python_layout layout, const struct mt_python_thread *thread, size_t at)
{
    const struct mt_python_place *place = thread->places + at, *end = thread->places;

#if defined(MT_HAS_WIDE_VERIFY)
    if (layout == MT_PYTHON_LAYOUT_3_11 && MT_LIKELY(mt_python_here.wide))
        return mt_arch_verify_wide(place, end, MT_PYTHON_PLACE_3_11, MT_PYTHON_STATE_ENTRY);
#endif
    for (; place - end >= 4; place -= 4)
        if (!holds(layout, place - 1) || !holds(layout, place - 2) || !holds(layout, place - 3) || !holds(layout, place - 4))
            break; /* which one, is found out below */
    for (; place != end && holds(layout, place - 1); place--)
        ;
    return (size_t)(place - end);
}

static MT_ALWAYS_INLINE uint32_t *where_is(struct mt_python_thread *thread, const char *frame)
{
    return &thread->where[((uintptr_t)frame * UINT64_C(0x9e3779b97f4a7c15)) >> (64 - MT_PYTHON_WHERE_BITS)];
}

/* How many kept frames there are up to the one at this address; 0: it is not among them, as far as is known. Then the next one will be. */
static MT_ALWAYS_INLINE size_t meet(struct mt_python_thread *thread, size_t kept, const char *frame)
{
    size_t at = *where_is(thread, frame);

    return at <= kept && thread->places[at].previous == frame ? at : 0;
}

/* The stack that is put together of kept frames and new lines. */
struct change {
    uint32_t keep, depth;
};

/* The line of a place goes on top. */
static MT_ALWAYS_INLINE void put_line(struct mt_python_thread *thread, struct mt_python_place *place, struct change *change)
{
    uint32_t depth = change->depth;

    if (MT_LIKELY(place->note.line != NO_LINE)) {
        if (change->keep == depth && depth < thread->frame_count && thread->frames[depth] == place->note.line)
            change->keep++;
        else
            thread->frames[depth] = place->note.line;
        change->depth++;
    }
    place->note.depth = change->depth;
}

/* True: the stack is not the one that was sent last. */
static MT_ALWAYS_INLINE bool finish(struct mt_python_thread *thread, size_t count, struct change change, struct mt_stack_change *ret_change)
{
    bool differs = change.depth != change.keep || change.depth != thread->frame_count || thread->unsure;

    thread->count = count;
    thread->frame_count = change.depth;
    thread->unsure = false;
    *ret_change = (struct mt_stack_change){change.keep, change.depth - change.keep};
    return differs;
}

/* Puts the fresh frames behind the kept ones. True: the stack is not the one that was sent last. */
static MT_ALWAYS_INLINE bool replace_inner(
    struct mt_python_thread *thread, size_t base, size_t fresh, const char *frame, struct mt_stack_change *ret_change)
{
    uint32_t depth = base ? thread->places[base - 1].note.depth : 0;
    struct change change = {depth, depth};

    for (const struct mt_python_place *f = thread->fresh + fresh; f-- != thread->fresh; base++) {
        struct mt_python_place *place = &thread->places[base];

        *where_is(thread, f != thread->fresh ? f[-1].previous : frame) = (uint32_t)(base + 1);
        /* Word by word: a wider load would have to wait until what was just written has left for the cache. */
        mt_store_relaxed(&place->note.line, f->note.line);
        mt_store_relaxed(&place->previous, f->previous);
        mt_store_relaxed(&place->instruction, f->instruction);
        mt_store_relaxed(&place->state, f->state);
        put_line(thread, place, &change);
    }
    if (MT_LIKELY(base))
        thread->places[base].previous = frame;
    return finish(thread, base, change, ret_change);
}

/*
 * Code objects were freed since the thread's last capture: forgets the kept frames whose instructions lay in them. Returns how many of the kept frames
 * remain. What is known of instructions is looked at when it is asked for.
 */
static MT_NOINLINE size_t forget_freed(struct mt_python_thread *thread, size_t kept, uint32_t codes_freed)
{
    uint32_t from = thread->codes_freed, count = codes_freed - from;
    uintptr_t start, end;

    thread->codes_freed = codes_freed;
    for (uint32_t i = 0; i < count; i++) {
        if (count > FORGET_MAX || !mt_python_gone_code(from + i, &start, &end))
            return 0;
        for (size_t at = 0; at < kept; at++)
            if (thread->places[at].instruction - start < end - start)
                kept = at;
    }
    return kept;
}

/* Kept frames that hold, but stand on others now, become fresh: those from index met - 1 down to `stop`. */
static MT_NOINLINE void take_up(struct mt_python_thread *thread, size_t met, size_t stop, size_t *fresh)
{
    for (size_t i = met; i > stop; i--)
        thread->fresh[(*fresh)++] = thread->places[i - 1];
}

/* Frame by frame outwards, as far as that must be. */
static MT_ALWAYS_INLINE bool walk(enum mt_python_layout layout, struct mt_python *python, struct mt_stack *stack,
    struct mt_python_thread *thread, size_t kept, const char *innermost_frame, struct mt_stack_change *ret_change)
{
    const char *frame = innermost_frame;
    size_t fresh = 0;

    while (frame) {
        size_t met = meet(thread, kept, frame), stop = 0;
        bool goes_on = met && mt_python_previous(layout, frame) == thread->places[met - 1].previous;

        if (MT_UNLIKELY(fresh + met >= thread->capacity) && !mt_python_grow(stack, thread, fresh))
            break;
        if (MT_LIKELY(goes_on)) {
            stop = verify(layout, thread, met - 1);
            if (!stop && has_not_moved(layout, &thread->places[met - 1], frame))
                return replace_inner(thread, met, fresh, innermost_frame, ret_change);
        }
        if (MT_UNLIKELY(!read_frame(layout, python, stack, thread, frame, &thread->fresh[fresh]))) {
            mt_python_distrust(python, stack);
            return replace_inner(thread, 0, 0, NULL, ret_change);
        }
        frame = thread->fresh[fresh++].previous;
        if (MT_LIKELY(goes_on)) {
            if (MT_LIKELY(!stop))
                return replace_inner(thread, met - 1, fresh, innermost_frame, ret_change);
            take_up(thread, met - 1, stop, &fresh);
            frame = thread->places[stop].previous;
            kept = stop;
        } else if (met) {
            kept = met - 1;
        }
    }
    if (frame) {
        mt_writer_lost(stack->writer, MT_LOSS_STACK_MEMORY, 1);
        fresh = 0;
    }
    return replace_inner(thread, 0, fresh, innermost_frame, ret_change);
}

static MT_NOINLINE bool walk_on(struct mt_python *python, struct mt_stack *stack, struct mt_python_thread *thread, size_t kept, const char *frame,
    struct mt_stack_change *ret_change)
{
    return BY_LAYOUT(walk, python, stack, thread, kept, frame, ret_change);
}

/*
 * Mostly the innermost frame is a kept one, which stands where it did or has moved on, or it is new and its caller is such a one. Places are written
 * where they are kept; what fails in between leaves an empty list.
 */
static MT_ALWAYS_INLINE bool capture_kept(enum mt_python_layout layout, struct mt_python *python, struct mt_stack *stack,
    struct mt_python_thread *thread, size_t kept, const char *innermost_frame, struct mt_stack_change *ret_change)
{
    const char *frame = innermost_frame;
    size_t met = MT_LIKELY(kept) && MT_LIKELY(frame) ? meet(thread, kept, frame) : 0;
    struct mt_python_place *place;
    struct change change = {0};
    bool is_new = !met && MT_LIKELY(kept) && MT_LIKELY(frame);

    if (is_new) {
        frame = mt_python_previous(layout, frame);
        met = MT_LIKELY(frame) ? meet(thread, kept, frame) : 0;
    }
    if (!met || MT_UNLIKELY(met + 1 >= thread->capacity))
        return walk_on(python, stack, thread, kept, innermost_frame, ret_change);
    place = &thread->places[met - 1];
    if (mt_python_previous(layout, frame) != place->previous || MT_UNLIKELY(verify(layout, thread, met - 1)))
        return walk_on(python, stack, thread, kept, innermost_frame, ret_change);
    if (has_not_moved(layout, place, frame)) {
        change.keep = change.depth = place->note.depth;
    } else {
        if (MT_UNLIKELY(!read_frame(layout, python, stack, thread, frame, place)))
            goto not_a_frame;
        change.keep = change.depth = met > 1 ? place[-1].note.depth : 0;
        put_line(thread, place, &change);
    }
    if (!is_new)
        return finish(thread, met, change, ret_change);
    place++;
    if (MT_UNLIKELY(!read_frame(layout, python, stack, thread, innermost_frame, place)))
        goto not_a_frame;
    put_line(thread, place, &change);
    *where_is(thread, innermost_frame) = (uint32_t)++met;
    place[1].previous = innermost_frame;
    return finish(thread, met, change, ret_change);
not_a_frame:
    mt_python_distrust(python, stack);
    return replace_inner(thread, 0, 0, NULL, ret_change);
}

/* The innermost frame, and how much of what is kept may still hold. */
static MT_ALWAYS_INLINE const char *begin(struct mt_python *python, struct mt_python_thread *thread, size_t *kept)
{
    uint32_t codes_freed = mt_load_acquire(&mt_python_codes_freed);
    const char *frame = innermost(python, thread, &mt_python_here.offsets);

    if (MT_UNLIKELY(thread->codes_freed != codes_freed))
        *kept = forget_freed(thread, *kept, codes_freed);
    thread->count = 0;
    mt_compiler_fence();
    return frame;
}

static MT_ALWAYS_INLINE bool capture_watched(struct mt_python *python, struct mt_stack *stack, struct mt_python_thread *thread, struct mt_stack_change *ret_change)
{
    size_t kept = thread->count;
    const char *frame = begin(python, thread, &kept);

    return BY_LAYOUT(capture_kept, python, stack, thread, kept, frame, ret_change);
}

/* Tells the reader of the interpreter, or the run that nothing can be told of it. */
static MT_COLD void announce(struct mt_python *python, struct mt_stack *stack)
{
    struct mt_segment_header *header = stack->writer->header;
    uint32_t expected = 0;

    if (!mt_cas_acquire(&python->announced, &expected, 1u))
        return;
    if (!mt_python_here.known) {
        mt_writer_lost(stack->writer, MT_LOSS_PYTHON_VERSION, 1);
        return;
    }
    for (unsigned i = 0; i < MT_PYTHON_LOOP_PARTS; i++) {
        header->python_loop[i][0] = mt_python_here.loop[i].start;
        header->python_loop[i][1] = mt_python_here.loop[i].end;
    }
    header->python_flags =
        (mt_python_here.free_threaded ? MT_PYTHON_FREE_THREADED : 0u) | (mt_python_is_wrapped() ? MT_PYTHON_OBJECTS : 0u);
    mt_store_release(&header->python_version, mt_python_here.version);
}

/* Once the interpreter runs, its allocators stay what they are. */
static MT_COLD void settle(struct mt_python *python)
{
    if (mt_python_wrap_again())
        mt_store_relaxed(&python->settled, 1u);
}

/* Whatever has still to be done, or looked at, in the first captures. */
static MT_NOINLINE bool capture_with_care(struct mt_python *python, struct mt_stack *stack, struct mt_stack_thread *stack_thread,
    struct mt_python_thread *thread, const struct mt_registers *caller, struct mt_stack_change *ret_change)
{
    uint32_t epoch = mt_load_acquire(&mt_python_epoch); /* P5 */
    bool changed, looks_for_loop;

    thread->ready = 0;
    if (mt_load_acquire(&mt_python_present) != MT_PYTHON_HERE)
        return replace_inner(thread, 0, 0, NULL, ret_change);
    if (!mt_load_relaxed(&python->announced))
        announce(python, stack);
    if (!mt_load_relaxed(&python->settled))
        settle(python);
    if (!mt_python_here.known || !mt_python_here.codes_watched || !thread->hits || mt_python_is_probing(python)) {
        const char *frame = mt_python_here.known ? innermost(python, thread, &mt_python_here.offsets) : NULL;

        changed = mt_python_capture_unwatched(python, stack, thread, frame, ret_change);
        thread->places_kept = false;
    } else {
        size_t kept = thread->places_kept ? thread->count : 0;
        const char *frame = begin(python, thread, &kept);

        changed = walk_on(python, stack, thread, kept, frame, ret_change);
        thread->places_kept = true;
    }
    /* Of objects' stacks mt_python_walk_inner() tells. */
    looks_for_loop = mt_python_here.mode != MT_PYTHON_MODE_OBJECTS && mt_load_relaxed(&mt_python_here.loop_searches) < MT_PYTHON_LOOP_SEARCHES;
    if (looks_for_loop && thread->frame_count)
        mt_python_check_loop(stack, stack_thread, thread, caller);
    if (thread->places_kept && mt_load_relaxed(&python->settled) && !looks_for_loop)
        thread->ready = epoch;
    return changed;
}

bool mt_python_capture(struct mt_python *python, struct mt_stack *stack, struct mt_stack_thread *stack_thread,
    struct mt_python_thread *thread, const struct mt_registers *caller, struct mt_stack_change *ret_change)
{
    if (MT_LIKELY(thread->ready == mt_load_acquire(&mt_python_epoch))) /* P5 */
        return capture_watched(python, stack, thread, ret_change);
    return capture_with_care(python, stack, stack_thread, thread, caller, ret_change);
}

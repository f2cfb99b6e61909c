/*
 * A thread's Python stack where the addresses of code objects do not tell them apart: before the interpreter runs, while it ends, and in free-threaded builds, whose
 * instructions lie outside of the code objects. As capture.c, but of each kept frame the code object, with a proof of it (internal.h), is compared, too.
 */
#include "python/frames.h"

#define SEARCH 12u /* kept frames that are looked at for a frame's address */

static MT_ALWAYS_INLINE bool holds(const struct mt_python_offsets *o, const struct mt_python_state *s)
{
    const char *frame = s->frame;

    if (mt_python_pointer(frame, o->frame_instruction) != s->instruction ||
        mt_python_pointer(frame, o->frame_previous) != s->previous || mt_python_pointer(frame, o->frame_code) != s->code)
        return false;
    return !s->is_code || mt_python_proof(o, mt_python_code_of(frame)) == s->proof;
}

/* Follows the kept frames outwards from the one below `at`. Returns where that ends; 0: all hold. */
static size_t verify(const struct mt_python_thread *thread, size_t at)
{
    const struct mt_python_offsets *o = &mt_python_here.offsets;

    while (at > 0 && holds(o, &thread->states[at - 1]))
        at--;
    return at;
}

/* How many kept frames there are up to the one at this address; 0: it is not among the innermost. */
static size_t meet(const struct mt_python_state *states, size_t kept, const char *frame)
{
    size_t last = kept > SEARCH ? kept - SEARCH : 0;

    for (size_t i = kept; i > last; i--)
        if (states[i - 1].frame == frame)
            return i;
    return 0;
}

/* Puts the fresh frames behind the kept ones. True: the stack is not the one that was sent last. */
static bool replace_inner(struct mt_python_thread *thread, size_t base, size_t fresh, struct mt_stack_change *ret_change)
{
    uint32_t depth = base ? thread->states[base - 1].depth : 0, keep = depth, before = thread->frame_count;
    bool was_unsure = thread->unsure;

    for (size_t i = fresh; i-- > 0;) {
        struct mt_python_state *s = &thread->fresh_states[i];

        if (s->is_complete) {
            if (keep == depth && depth < before && thread->frames[depth] == s->line)
                keep++;
            else
                thread->frames[depth] = s->line;
            depth++;
        }
        s->depth = depth;
        thread->states[base++] = *s;
    }
    thread->count = base;
    thread->frame_count = depth;
    thread->unsure = false;
    *ret_change = (struct mt_stack_change){keep, depth - keep};
    return depth != keep || depth != before || was_unsure;
}

bool mt_python_capture_unwatched(struct mt_python *python, struct mt_stack *stack, struct mt_python_thread *thread, const char *frame,
    struct mt_stack_change *ret_change)
{
    size_t kept = thread->places_kept ? 0 : thread->count, fresh = 0;

    thread->count = 0;
    mt_compiler_fence();
    while (frame) {
        size_t met = meet(thread->states, kept, frame), stop;

        if (met) {
            stop = verify(thread, met);
            if (stop == 0) {
                if (MT_UNLIKELY(met + fresh > thread->capacity) && !mt_python_grow(stack, thread, fresh))
                    break;
                return replace_inner(thread, met, fresh, ret_change);
            }
            if (MT_UNLIKELY(fresh + (met - stop) >= thread->capacity) && !mt_python_grow(stack, thread, fresh))
                break;
            /* Those that hold stand on others now. */
            for (size_t i = met; i > stop; i--)
                thread->fresh_states[fresh++] = thread->states[i - 1];
            if (stop < met)
                frame = thread->states[stop].previous;
            kept = stop - 1;
        }
        if (MT_UNLIKELY(fresh == thread->capacity) && !mt_python_grow(stack, thread, fresh))
            break;
        if (MT_UNLIKELY(!mt_python_read_frame(python, stack, frame, &thread->fresh_states[fresh]))) {
            mt_python_distrust(python, stack);
            return replace_inner(thread, 0, 0, ret_change);
        }
        frame = thread->fresh_states[fresh++].previous;
    }
    if (frame) {
        mt_writer_lost(stack->writer, MT_LOSS_STACK_MEMORY, 1);
        fresh = 0;
    }
    return replace_inner(thread, 0, fresh, ret_change);
}

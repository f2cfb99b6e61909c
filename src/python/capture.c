/*
 * A thread's Python stack, verified instead of walked again.
 *
 * The frames are a list, innermost first, linked by `previous`. Kept of the last capture is, for each of them: its address, code object, instruction and
 * `previous`, a proof of the code object (internal.h), and the depth. A capture walks from the innermost frame outwards until it meets a kept one
 * with the same contents. That frame's `previous` is the next kept frame, which therefore is alive and may be looked at; if its contents are the
 * same, so is the next. By induction, where all hold, the rest of the stack is the kept one. The loads do not wait for one another: the processor
 * guesses that all holds. Where a frame differs, the walk goes on from there.
 *
 * Frames of the interpreter's own (entries from C) are kept in the list, but are not part of the stack; nor are functions that have not begun.
 *
 * A capture that is interrupted for ever (longjmp) leaves an empty list. Captures on top of another one, in signal handlers, are not made.
 */
#include <string.h>

#include "python/internal.h"

#define FIRST_CAPACITY 1024u
#define CAPACITY_MAX (1u << 18)
#define SEARCH 12u /* kept frames that are looked at for a frame's address */
#define OWNER_GENERATOR 1
#define OWNER_INTERPRETER 3 /* from here on: no function's frame */
#define PROBE_FRAMES 512u
#define DISTRUST_MAX 16u
#define FRAME_BYTES 80u
#define CODE_BYTES 240u
#define HITS_BYTES (sizeof(struct mt_python_hit) << MT_PYTHON_HIT_BITS)

static size_t bytes_of(size_t capacity)
{
    return mt_round_up(capacity * (2 * sizeof(struct mt_python_state) + sizeof(uint32_t)) + (capacity + 1) * sizeof(struct mt_python_place), MT_PAGE_BYTES);
}

static MT_COLD struct mt_python_hit *make_hits(void)
{
    struct mt_python_hit *hits = mt_sys_pages(HITS_BYTES);

    if (hits) {
        mt_sys_madvise(hits, HITS_BYTES, MADV_DONTFORK);
        mt_sys_madvise(hits, HITS_BYTES, MADV_DONTDUMP);
    }
    return hits;
}

static MT_COLD bool grow(struct mt_stack *stack, struct mt_python_thread *thread, size_t fresh)
{
    size_t old = thread->capacity, capacity = old ? old * 2 : FIRST_CAPACITY, bytes = bytes_of(capacity);
    struct mt_python_state *states = capacity <= CAPACITY_MAX ? mt_sys_pages(bytes) : NULL;
    struct mt_python_place *places;
    uint32_t *frames;

    if (!states)
        return false;
    mt_sys_madvise(states, bytes, MADV_DONTFORK);
    mt_sys_madvise(states, bytes, MADV_DONTDUMP);
    places = (struct mt_python_place *)(states + 2 * capacity) + 1;
    frames = (uint32_t *)(places + capacity);
    if (old) {
        memcpy(states, thread->states, old * sizeof *states);
        memcpy(states + capacity, thread->fresh, fresh * sizeof *states);
        memcpy(places, thread->places, old * sizeof *places);
        memcpy(frames, thread->frames, thread->frame_count * sizeof *frames);
        mt_sys_unmap(thread->states, bytes_of(old));
        mt_fetch_add_relaxed(&stack->private_bytes, bytes - bytes_of(old));
    } else {
        thread->hits = make_hits();
        mt_fetch_add_relaxed(&stack->private_bytes, 3 * MT_PAGE_BYTES + (thread->hits ? HITS_BYTES : 0)); /* what is touched of it */
    }
    thread->states = states;
    thread->fresh = states + capacity;
    thread->places = places;
    thread->frames = frames;
    thread->capacity = capacity;
    return true;
}

static MT_ALWAYS_INLINE const char *innermost(struct mt_python *python, const struct mt_python_offsets *o)
{
    const char *runtime = mt_python_here.runtime, *holder;
    const void *finalizing;

    if (MT_UNLIKELY(!*(const volatile int *)(runtime + o->runtime_core_initialized))) {
        if (mt_load_relaxed(&python->settled))
            mt_python_unsettle(python);
        return NULL;
    }
    holder = mt_python_here.this_thread();
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

static MT_ALWAYS_INLINE const void *code_of(const struct mt_python_offsets *o, const char *frame)
{
    /* The low bits are a tag (3.14). */
    return (const void *)((uintptr_t)mt_python_pointer(frame, o->frame_code) & ~(uintptr_t)3);
}

static bool span_is_readable(const char *p, size_t bytes)
{
    return ((uintptr_t)p & (sizeof(void *) - 1)) == 0 && mt_sys_readable(p) &&
           mt_sys_readable((const char *)((uintptr_t)(p + bytes - 1) & ~(uintptr_t)7));
}

/* Whether a frame is what the offsets make of it, asked of the kernel pointer by pointer. */
static MT_COLD bool probe(struct mt_python *python, const char *frame)
{
    const struct mt_python_offsets *o = &mt_python_here.offsets;
    const char *code, *previous;

    mt_fetch_add_relaxed(&python->probed, 1u);
    if (!span_is_readable(frame, FRAME_BYTES))
        return false;
    previous = mt_python_pointer(frame, o->frame_previous);
    if (previous && !span_is_readable(previous, FRAME_BYTES))
        return false;
    if ((unsigned char)frame[o->frame_owner] >= OWNER_INTERPRETER)
        return true;
    code = code_of(o, frame);
    if (!span_is_readable(code, CODE_BYTES))
        return false;
    return span_is_readable(mt_python_pointer(code, o->code_lines), 48) &&
           span_is_readable(mt_python_pointer(code, o->code_filename), 64) &&
           span_is_readable(mt_python_pointer(code, o->code_qualname), 64);
}

static MT_COLD void distrust(struct mt_python *python, struct mt_stack *stack)
{
    if (mt_fetch_add_relaxed(&python->distrusted, 1u) + 1 < DISTRUST_MAX)
        mt_writer_lost(stack->writer, MT_LOSS_PYTHON_CODE, 1);
    else if (mt_python_here.known) {
        mt_python_here.known = false;
        mt_writer_lost(stack->writer, MT_LOSS_PYTHON_VERSION, 1);
    }
}

/* Called from C, not by the interpreter's loop itself. */
static MT_ALWAYS_INLINE bool is_entry(const struct mt_python_offsets *o, const char *frame, const void *previous)
{
    if (o->frame_is_entry)
        return frame[o->frame_is_entry] != 0;
    return !previous || ((const unsigned char *)previous)[o->frame_owner] >= OWNER_INTERPRETER;
}

/* The first of the two places for a key, side by side in a line of the processor's cache. */
static MT_ALWAYS_INLINE struct mt_python_hit *hits_of(const struct mt_python_thread *thread, uint64_t key)
{
    return &thread->hits[(key * UINT64_C(0x9e3779b97f4a7c15)) >> (64 - MT_PYTHON_HIT_BITS) & ~UINT64_C(1)];
}

/* Where a key is, if it is anywhere. */
static MT_ALWAYS_INLINE const struct mt_python_hit *hit_of(const struct mt_python_thread *thread, uint64_t key)
{
    const struct mt_python_hit *hits = hits_of(thread, key);

    return hits + (hits[1].key == key);
}

/* The older of the two goes. */
static MT_ALWAYS_INLINE void put_hit(const struct mt_python_thread *thread, uint64_t key, uint32_t line)
{
    struct mt_python_hit *hits = hits_of(thread, key);

    if (hits->key != key)
        hits[1] = hits[0];
    *hits = (struct mt_python_hit){key, line, thread->hits_generation};
}

/* Reads a frame whose instruction was met before into s. */
static MT_ALWAYS_INLINE bool read_known_frame(const struct mt_python_thread *thread, const char *frame, struct mt_python_state *s)
{
    const struct mt_python_offsets *o = &mt_python_here.offsets;
    const void *instruction = mt_python_pointer(frame, o->frame_instruction), *previous = mt_python_pointer(frame, o->frame_previous);
    bool entry = is_entry(o, frame, previous);
    uint64_t key = (uint64_t)(uintptr_t)instruction << 1 | entry;
    const struct mt_python_hit *hit = hit_of(thread, key);

    if (hit->key != key || hit->generation != thread->hits_generation)
        return false;
    s->frame = frame;
    s->instruction = instruction;
    s->previous = previous;
    s->code = NULL; /* not looked at: without a proof it does not hold */
    s->line = hit->line;
    s->is_code = s->is_complete = true;
    s->is_flagged = entry && o->frame_is_entry;
    return true;
}

/* Reads a frame into s. False: it is not one. */
static MT_NOINLINE bool read_frame(struct mt_python *python, struct mt_stack *stack, const struct mt_python_thread *thread,
    const char *frame, struct mt_python_state *s)
{
    const struct mt_python_offsets *o = &mt_python_here.offsets;
    unsigned owner;
    bool entry;

    if (MT_UNLIKELY(mt_load_relaxed(&python->probed) < PROBE_FRAMES) && !probe(python, frame))
        return false;
    owner = (unsigned char)frame[o->frame_owner];
    s->frame = frame;
    s->code = mt_python_pointer(frame, o->frame_code);
    s->instruction = mt_python_pointer(frame, o->frame_instruction);
    s->previous = mt_python_pointer(frame, o->frame_previous);
    s->is_code = owner < OWNER_INTERPRETER;
    s->is_complete = false;
    s->is_flagged = o->frame_is_entry && frame[o->frame_is_entry];
    if (s->is_code) {
        const char *code = code_of(o, frame);
        uint64_t first;

        if (MT_UNLIKELY(!code || mt_python_pointer(code, o->object_type) != mt_python_here.code_type))
            return false;
        s->proof = mt_python_proof(o, code);
        first = (uintptr_t)code + o->code_bytecode + 2 * (uintptr_t)*(const int *)(code + o->code_first_traceable);
        s->is_complete = owner == OWNER_GENERATOR || o->frame_tlbc || (uintptr_t)s->instruction >= first;
        if (!s->is_complete)
            return true;
        entry = is_entry(o, frame, s->previous);
        if (!mt_python_line(python, stack, code, s->proof, frame, s->instruction, entry, &s->line))
            return false;
        if (mt_python_here.codes_watched && thread->hits && (uintptr_t)s->instruction >= first) {
            uint64_t key = (uint64_t)(uintptr_t)s->instruction << 1 | entry;

            put_hit(thread, key, s->line);
        }
    }
    return true;
}

/* A frame's instruction as it is in its place. Instructions are even. */
static MT_ALWAYS_INLINE uintptr_t place_instruction(const struct mt_python_offsets *o, const char *frame, bool has_flag)
{
    uintptr_t instruction = (uintptr_t)mt_python_pointer(frame, o->frame_instruction);

    return has_flag ? instruction | (uintptr_t)(frame[o->frame_is_entry] != 0) : instruction;
}

/*
 * Whether the frame is the kept one; of a code object's address that is only so if it is still the object that it was. Where every code object that is freed is
 * heard of (mt_python_codes_freed) and none was since, that needs no proof; and the instruction, which lies in the code object, tells which that is.
 */
static MT_ALWAYS_INLINE bool holds_its_place(const struct mt_python_offsets *o, const struct mt_python_place *p, bool has_flag)
{
    uintptr_t differs = place_instruction(o, p->frame, has_flag) ^ p->instruction;

    /* One branch for both: this is most of what a capture does. */
    return !(differs | ((uintptr_t)mt_python_pointer(p->frame, o->frame_previous) ^ (uintptr_t)p[-1].frame));
}

/* Likewise, where instructions do not lie in code objects: in free-threaded builds. */
static MT_ALWAYS_INLINE bool holds(const struct mt_python_offsets *o, const struct mt_python_state *s)
{
    const char *frame = s->frame;

    if (mt_python_pointer(frame, o->frame_instruction) != s->instruction ||
        mt_python_pointer(frame, o->frame_previous) != s->previous || mt_python_pointer(frame, o->frame_code) != s->code)
        return false;
    return !s->is_code || mt_python_proof(o, code_of(o, frame)) == s->proof;
}

static MT_ALWAYS_INLINE size_t verify_places(
    const struct mt_python_offsets *o, const struct mt_python_thread *thread, size_t at, bool has_flag)
{
    const struct mt_python_place *p = thread->places + at, *end = thread->places;

#pragma GCC unroll 4
    while (p > end) {
        if (MT_UNLIKELY(!holds_its_place(o, p - 1, has_flag)))
            break;
        p--;
    }
    return (size_t)(p - end);
}

/* Follows the kept frames outwards from the one below `at`. Returns where that ends; 0: all hold. */
static MT_ALWAYS_INLINE size_t verify(
    const struct mt_python_offsets *o, const struct mt_python_thread *thread, size_t at, bool watched)
{
    if (MT_LIKELY(watched))
        return MT_LIKELY(!o->frame_is_entry) ? verify_places(o, thread, at, false) : verify_places(o, thread, at, true);
    while (at > 0 && holds(o, &thread->states[at - 1]))
        at--;
    return at;
}

/* How many kept frames there are up to the one at this address; 0: it is not among the innermost. */
static MT_ALWAYS_INLINE size_t meet(const struct mt_python_place *places, size_t kept, const char *frame)
{
    size_t last = kept > SEARCH ? kept - SEARCH : 0;

    for (size_t i = kept; i > last; i--)
        if (places[i - 1].frame == frame)
            return i;
    return 0;
}

/* Field by field: a fresh state was just written so, and a wider load would have to wait until that has left for the cache. */
static MT_ALWAYS_INLINE void copy_state(struct mt_python_state *to, const struct mt_python_state *from)
{
#define COPY(field) mt_store_relaxed(&to->field, mt_load_relaxed(&from->field))
    COPY(frame);
    COPY(instruction);
    COPY(previous);
    COPY(code);
    COPY(proof);
    COPY(line);
    COPY(depth);
    COPY(is_code);
    COPY(is_complete);
    COPY(is_flagged);
#undef COPY
}

/* Puts the fresh frames behind the kept ones. True: the stack is not the one that was sent last. */
static MT_ALWAYS_INLINE bool replace_inner(
    struct mt_python_thread *thread, size_t base, size_t fresh, struct mt_stack_change *ret_change)
{
    uint32_t depth = base ? thread->states[base - 1].depth : 0, keep = depth, before = thread->frame_count;
    bool was_unsure = thread->unsure;

    for (size_t i = fresh; i-- > 0;) {
        struct mt_python_state *s = &thread->fresh[i];

        if (s->is_complete) {
            if (keep == depth && depth < before && thread->frames[depth] == s->line)
                keep++;
            else
                thread->frames[depth] = s->line;
            depth++;
        }
        s->depth = depth;
        thread->places[base] = (struct mt_python_place){s->frame, (uintptr_t)s->instruction | s->is_flagged};
        copy_state(&thread->states[base++], s);
    }
    thread->count = base;
    thread->frame_count = depth;
    thread->unsure = false;
    *ret_change = (struct mt_stack_change){keep, depth - keep};
    return depth != keep || depth != before || was_unsure;
}

/*
 * The most frequent case: the innermost frame is the one that it was, and so are the others; it may have moved on to an instruction that was met before.
 * False: it is not so, and nothing was done.
 */
static MT_ALWAYS_INLINE bool capture_in_place(const struct mt_python_offsets *o, struct mt_python_thread *thread, size_t kept, const char *frame,
    struct mt_stack_change *ret_change, bool *ret_changed)
{
    struct mt_python_place *top = &thread->places[kept - 1];
    struct mt_python_state *s = &thread->states[kept - 1];
    const void *instruction, *previous;
    uintptr_t word;

    if (top->frame != frame || s->depth != thread->frame_count) /* of the frames some may have been forgotten */
        return false;
    instruction = mt_python_pointer(frame, o->frame_instruction);
    word = place_instruction(o, frame, o->frame_is_entry != 0);
    previous = mt_python_pointer(frame, o->frame_previous);
    if (previous != top[-1].frame)
        return false;
    *ret_change = (struct mt_stack_change){s->depth, 0};
    if (word != top->instruction) {
        uint64_t key = (uint64_t)(uintptr_t)instruction << 1 | is_entry(o, frame, previous);
        const struct mt_python_hit *hit = hit_of(thread, key);
        uint32_t line = hit->line;

        if (hit->key != key || hit->generation != thread->hits_generation || !s->is_complete || verify(o, thread, kept - 1, true))
            return false;
        top->instruction = word;
        s->instruction = instruction;
        s->is_flagged = word & 1;
        s->code = NULL;
        if (line != s->line) {
            s->line = thread->frames[s->depth - 1] = line;
            *ret_change = (struct mt_stack_change){s->depth - 1, 1};
        }
    } else if (verify(o, thread, kept - 1, true)) {
        return false;
    }
    *ret_changed = ret_change->push != 0;
    thread->count = kept;
    return true;
}

#define FORGET_MAX 8u

/*
 * Code objects were freed since the thread's last capture: forgets what it knows of the instructions that lay in them. Of many all of it is forgotten, which is
 * cheaper. Returns how many of the kept frames remain.
 */
static MT_NOINLINE size_t forget_freed(struct mt_python_thread *thread, size_t kept, uint32_t codes_freed)
{
    uint32_t from = thread->codes_freed, count = codes_freed - from;
    uintptr_t starts[FORGET_MAX], ends[FORGET_MAX], low = UINTPTR_MAX, high = 0;

    thread->codes_freed = codes_freed;
    for (uint32_t i = 0; i < count; i++) {
        if (count > FORGET_MAX || !mt_python_gone_code(from + i, &starts[i], &ends[i])) {
            thread->hits_generation++;
            return 0;
        }
        low = starts[i] < low ? starts[i] : low;
        high = ends[i] > high ? ends[i] : high;
        for (size_t at = 0; at < kept; at++)
            if ((uintptr_t)thread->places[at].instruction - starts[i] < ends[i] - starts[i])
                kept = at;
    }
    for (size_t at = 0; thread->hits && at < (size_t)1 << MT_PYTHON_HIT_BITS; at++) {
        uintptr_t instruction = thread->hits[at].key >> 1;

        if (MT_LIKELY(instruction - low >= high - low)) /* nearly all lie elsewhere */
            continue;
        for (uint32_t i = 0; i < count; i++)
            if (instruction - starts[i] < ends[i] - starts[i])
                thread->hits[at].key = 0;
    }
    return kept;
}

static bool capture(
    struct mt_python *python, struct mt_stack *stack, struct mt_python_thread *thread, struct mt_stack_change *ret_change)
{
    const struct mt_python_offsets *o = &mt_python_here.offsets;
    size_t kept = thread->count, fresh = 0;
    uint32_t codes_freed = mt_load_acquire(&mt_python_codes_freed);
    bool watched = mt_python_here.codes_watched, use_hits;
    const char *frame = MT_LIKELY(mt_python_here.known) ? innermost(python, o) : NULL;

    if (MT_UNLIKELY(thread->codes_freed != codes_freed)) {
        size_t left = forget_freed(thread, kept, codes_freed);

        kept = watched ? left : kept;
    }
    use_hits = watched && thread->hits;
    thread->count = 0;
    mt_compiler_fence();
    if (MT_LIKELY(use_hits && kept && frame)) {
        bool changed;

        if (MT_LIKELY(capture_in_place(o, thread, kept, frame, ret_change, &changed)))
            return changed;
    }
    while (frame) {
        size_t met = meet(thread->places, kept, frame), stop;

        if (met) {
            stop = verify(o, thread, met, watched);
            if (stop == 0) {
                if (MT_UNLIKELY(met + fresh > thread->capacity) && !grow(stack, thread, fresh))
                    break;
                return replace_inner(thread, met, fresh, ret_change);
            }
            if (MT_UNLIKELY(fresh + (met - stop) >= thread->capacity) && !grow(stack, thread, fresh))
                break;
            /* Those that hold stand on others now. */
            for (size_t i = met; i > stop; i--)
                thread->fresh[fresh++] = thread->states[i - 1];
            if (stop < met)
                frame = thread->states[stop].previous;
            kept = stop - 1;
        }
        if (MT_UNLIKELY(fresh == thread->capacity) && !grow(stack, thread, fresh))
            break;
        if (!(use_hits && read_known_frame(thread, frame, &thread->fresh[fresh])) &&
            MT_UNLIKELY(!read_frame(python, stack, thread, frame, &thread->fresh[fresh]))) {
            distrust(python, stack);
            return replace_inner(thread, 0, 0, ret_change);
        }
        frame = thread->fresh[fresh++].previous;
    }
    if (frame) {
        mt_writer_lost(stack->writer, MT_LOSS_STACK_MEMORY, 1);
        fresh = 0;
    }
    return replace_inner(thread, 0, fresh, ret_change);
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

bool mt_python_capture(struct mt_python *python, struct mt_stack *stack, struct mt_stack_thread *stack_thread,
    struct mt_python_thread *thread, const struct mt_registers *caller, struct mt_stack_change *ret_change)
{
    bool changed;

    if (MT_UNLIKELY(mt_load_acquire(&mt_python_present) != MT_PYTHON_HERE))
        return replace_inner(thread, 0, 0, ret_change);
    if (MT_UNLIKELY(!mt_load_relaxed(&python->announced)))
        announce(python, stack);
    if (MT_UNLIKELY(!mt_load_relaxed(&python->settled)))
        settle(python);
    changed = capture(python, stack, thread, ret_change);
    if (MT_UNLIKELY(mt_load_relaxed(&mt_python_here.loop_searches) < MT_PYTHON_LOOP_SEARCHES) && thread->frame_count)
        mt_python_check_loop(stack, stack_thread, thread, caller);
    return changed;
}

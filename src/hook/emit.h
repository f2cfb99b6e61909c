/*
 * Emission: how a record gets into the thread's ring.
 *
 *   struct mt_scope scope;
 *   if (mt_scope_open(&scope)) {
 *       ... capture ...
 *       if (mt_reserve(scope.thread, words))
 *           mt_begin(...), mt_word(...), mt_publish(...)
 *       mt_scope_close(&scope);
 *   }
 *
 * A signal handler may run between any two instructions and emit, too. Invariants that make this safe:
 *   - while a scope is open (depth in mt_tls.gate), the scopes of handlers on top of it use other rings, one for each level;
 *   - words are written behind head, and head moves over them by one store, when all of them are there (a PYTHON_STACK's with those of the
 *     event that it is for);
 *   - a thread's position, stack and memo change with its own scopes only.
 * A handler that leaves by longjmp abandons the scopes below it: mt_scope_open_slowly notices a depth whose guard frame is dead. What was written
 * and not published is overwritten; what the reader knows of the ring's stack is told anew.
 */
#ifndef MT_HOOK_EMIT_H
#define MT_HOOK_EMIT_H

#include <string.h>

#include "hook/hook.h"
#include "wire/wire.h"

struct mt_scope {
    struct mt_thread *thread;
    uint64_t gate; /* what mt_tls.gate is again when it is closed: with the depth of the scopes below */
};

/* A thread's first event of an epoch; on top of another scope; while serving. thread NULL: no scope. By value: the usual way keeps its in registers. */
struct mt_scope mt_scope_open_slowly(uintptr_t sp, bool even_serving);

/* even_serving: false for what is not recorded while one of Python's allocators is at work. */
static MT_ALWAYS_INLINE bool mt_scope_open_if(struct mt_scope *scope, bool even_serving)
{
    struct mt_tls *tls = &mt_tls;
    uintptr_t sp = (uintptr_t)__builtin_frame_address(0);
    uint64_t gate = tls->gate;

    if (MT_LIKELY(gate == mt_load_relaxed(&mt_state.epoch))) {
        *scope = (struct mt_scope){tls->thread, gate};
        tls->guard_sp = sp;
    } else {
        *scope = mt_scope_open_slowly(sp, even_serving);
        if (!scope->thread)
            return false;
    }
    mt_compiler_fence();
    tls->gate = scope->gate + MT_GATE_DEPTH;
    mt_compiler_fence();
    return true;
}

static MT_ALWAYS_INLINE bool mt_scope_open(struct mt_scope *scope)
{
    return mt_scope_open_if(scope, true);
}

static MT_ALWAYS_INLINE void mt_scope_close(const struct mt_scope *scope)
{
    mt_compiler_fence();
    mt_tls.gate = scope->gate;
}

/* Room for a record of so many words and its stamp. False: the event is lost (counted). */
static MT_ALWAYS_INLINE bool mt_reserve(struct mt_thread *thread, uint64_t words)
{
    return MT_LIKELY(thread->position + words + 1 <= thread->soft_end) || mt_thread_make_room(thread, words + 1);
}

static MT_ALWAYS_INLINE uint64_t *mt_word_at(struct mt_thread *thread, uint64_t position)
{
    return &thread->words[position & thread->mask];
}

/*
 * Writes the first word, and the stamp where the process needs stamps: the reader must be able to tell the order of records of different
 * rings. Called after the real allocation or before the real release (R7). Returns the position of the words that follow.
 */
static MT_ALWAYS_INLINE uint64_t mt_begin(struct mt_thread *thread, enum mt_record_type type, uint64_t operand)
{
    uint64_t at = thread->position, first = operand << MT_RECORD_OPERAND_SHIFT | type;

    if (MT_LIKELY(!mt_load_acquire(&mt_state.stamped))) { /* R7 */
        *mt_word_at(thread, at) = first;
        return at + 1;
    }
    if (MT_UNLIKELY(mt_state.full_fence))
        mt_store_seq_cst(&thread->ring->busy, 1u); /* R3 */
    else
        mt_store_relaxed(&thread->ring->busy, 1u); /* R3, ordered by the reader's membarrier */
    mt_compiler_fence();
    *mt_word_at(thread, at) = first | MT_RECORD_STAMPED;
    *mt_word_at(thread, at + 1) = mt_stamp();
    return at + 2;
}

/* mt_begin() where the thread has to take its turn (emit.c). */
uint64_t mt_begin_turn(struct mt_thread *thread, enum mt_record_type type, uint64_t operand);

/* mt_begin() for one of Python's objects: while no other thread has one, its records need no stamps (R8). */
static MT_ALWAYS_INLINE uint64_t mt_begin_object(struct mt_thread *thread, enum mt_record_type type, uint64_t operand)
{
    uint64_t at = thread->position;

    if (MT_UNLIKELY(mt_load_acquire(&mt_state.stamped)) && /* R7 */
        (mt_load_acquire(&mt_state.turn) != thread || MT_UNLIKELY(!thread->turn_left--))) /* R8 */
        return mt_begin_turn(thread, type, operand);
    *mt_word_at(thread, at) = operand << MT_RECORD_OPERAND_SHIFT | type;
    return at + 1;
}

/* The record that was begun, and has its stamp, is one that objects of other threads may come after: they are to be stamped. */
static MT_ALWAYS_INLINE void mt_end_turn(void)
{
    if (mt_load_relaxed(&mt_state.turn))
        mt_store_seq_cst(&mt_state.turn, (struct mt_thread *)NULL); /* R8 */
}

/* Publishes what was written up to `end`. */
static MT_ALWAYS_INLINE void mt_publish(struct mt_thread *thread, uint64_t end)
{
    thread->position = end;
    mt_store_release(&thread->ring->head, end); /* R1 */
    if (MT_UNLIKELY(mt_load_relaxed(&thread->ring->busy)))
        mt_store_release(&thread->ring->busy, 0u); /* R3 */
}

static MT_ALWAYS_INLINE uint64_t mt_change_words(const struct mt_stack_change *change)
{
    return (change->push + 1u) / 2;
}

/* The frames that a change of `stack` pushes, two to a word. Returns the position behind. */
static MT_ALWAYS_INLINE uint64_t mt_put_frames(
    struct mt_thread *thread, uint64_t at, const uint32_t *stack, const struct mt_stack_change *change)
{
    const uint32_t *frames = stack + change->keep;
    uint32_t i = 0;

    for (; i + 1 < change->push; i += 2)
        *mt_word_at(thread, at++) = frames[i] | (uint64_t)frames[i + 1] << 32;
    if (i < change->push)
        *mt_word_at(thread, at++) = frames[i];
    return at;
}

/* A record that changes the stack: fixed words, then the change. What cannot be sent is counted, and the stack is told anew next time. */
void mt_emit_change(struct mt_thread *thread, enum mt_record_type type, uint64_t operand, const uint64_t *fixed, unsigned fixed_words,
    struct mt_stack_change change);

/* Captures the caller's stack and emits. Nothing while recording is paused. */
void mt_emit_stack(enum mt_record_type type, uint64_t operand, const uint64_t *fixed, unsigned fixed_words,
    const struct mt_registers *caller);

/* Both stacks of the ring are told anew. */
static inline void mt_forget_stacks(struct mt_thread *thread)
{
    mt_stack_forget(&thread->stack);
    mt_python_forget(&thread->python);
}

/* A record with text: the words between the payload's length and the payload, then the text, cut to MT_RECORD_TEXT_MAX_BYTES. Stamped
 * whatever the process needs. */
void mt_emit_text(enum mt_record_type type, uint64_t operand, const uint64_t *figures, unsigned figure_count, const char *text);

/* A record of no word (words = 0) or one behind the first, with no stack. */
static MT_ALWAYS_INLINE void mt_emit_plain_if(bool even_serving, enum mt_record_type type, uint64_t operand, unsigned words, uint64_t word)
{
    struct mt_scope scope;

    if (!mt_scope_open_if(&scope, even_serving))
        return;
    if (mt_reserve(scope.thread, 1 + words)) {
        uint64_t at = mt_begin(scope.thread, type, operand);

        if (words)
            *mt_word_at(scope.thread, at++) = word;
        mt_publish(scope.thread, at);
    }
    mt_scope_close(&scope);
}

static MT_ALWAYS_INLINE void mt_emit_plain(enum mt_record_type type, uint64_t operand, unsigned words, uint64_t word)
{
    mt_emit_plain_if(true, type, operand, words, word);
}

#endif

/*
 * Emission: how a record gets into the thread's ring.
 *
 *   struct mt_scope scope;
 *   if (mt_scope_open(&scope)) {
 *       if (mt_stamp(&scope, words, &stamp)) mt_putN(...)
 *       mt_scope_close(&scope);
 *   }
 *
 * A signal handler may run between any two instructions and emit on the same ring. Invariants that make this safe:
 *   - words are handed out by one instruction (mt_local_fetch_add on reserved_words), so nested records never overlap;
 *   - only the outermost scope publishes: head moves to reserved_words when depth has become 0, by a compare-and-swap that fails
 *     if a handler published in between; hence head never covers an unfinished record, and never moves back;
 *   - room is checked with MT_ROOM_SLACK to spare, which covers the fixed records of the scopes that are suspended below;
 *   - busy (R3) is cleared by the outermost scope only, after its publication.
 * A handler that leaves by longjmp abandons the scopes below it: mt_scope_open notices a depth whose guard frame is dead, and takes back
 * what was reserved and not published.
 */
#ifndef MT_HOOK_EMIT_H
#define MT_HOOK_EMIT_H

#include "hook/hook.h"
#include "wire/wire.h"

#define MT_ROOM_SLACK 64u

struct mt_scope {
    struct mt_thread *thread;
    unsigned nesting;
};

/* The slow part of opening on top of another scope. */
void mt_scope_nested(uintptr_t sp);

static MT_ALWAYS_INLINE bool mt_scope_open(struct mt_scope *scope)
{
    struct mt_tls *tls = &mt_tls;
    uintptr_t sp = (uintptr_t)__builtin_frame_address(0);

    if (MT_UNLIKELY(tls->epoch != mt_load_relaxed(&mt_state.epoch) || !tls->thread)) {
        if (!mt_attach())
            return false;
    }
    if (MT_UNLIKELY(tls->depth))
        mt_scope_nested(sp);
    scope->nesting = tls->depth;
    if (!scope->nesting)
        tls->guard_sp = sp;
    mt_compiler_fence();
    tls->depth = scope->nesting + 1;
    mt_compiler_fence();
    scope->thread = tls->thread;
    return true;
}

static MT_ALWAYS_INLINE void mt_scope_close(struct mt_scope *scope)
{
    struct mt_ring *ring = scope->thread->ring;

    mt_compiler_fence();
    mt_tls.depth = scope->nesting;
    mt_compiler_fence();
    if (scope->nesting)
        return;
    for (;;) {
        uint64_t head = mt_load_relaxed(&ring->head), reserved = mt_load_relaxed(&ring->reserved_words);

        if (head == reserved || mt_local_cas_release(&ring->head, head, reserved)) /* R1 */
            break;
    }
    mt_store_release(&ring->busy, 0u); /* R3 */
}

/* Makes room, marks the ring busy and takes the stamp, already shifted. False: the event is lost (counted). */
static MT_ALWAYS_INLINE bool mt_stamp(struct mt_scope *scope, uint64_t words, uint64_t *ret_stamp)
{
    struct mt_thread *thread = scope->thread;
    struct mt_ring *ring = thread->ring;
    uint64_t stamp;

    if (MT_UNLIKELY(mt_load_relaxed(&ring->reserved_words) + words + MT_ROOM_SLACK > thread->soft_end) &&
        !mt_thread_make_room(thread, words + MT_ROOM_SLACK))
        return false;
    if (MT_UNLIKELY(mt_state.full_fence))
        mt_store_seq_cst(&ring->busy, 1u); /* R3 */
    else
        mt_store_relaxed(&ring->busy, 1u); /* R3, ordered by the reader's membarrier */
    mt_compiler_fence();
    if (MT_UNLIKELY(mt_state.sequence_stamps))
        stamp = mt_fetch_add_acq_rel(&mt_state.writer.header->sequence, 1);
    else
        stamp = mt_clock_tsc_ordered() - mt_state.writer.header->base_stamp;
    *ret_stamp = stamp << MT_RECORD_STAMP_SHIFT;
    return true;
}

static MT_ALWAYS_INLINE void mt_put1(struct mt_thread *t, uint64_t stamp, enum mt_record_type type)
{
    uint64_t at = mt_local_fetch_add(&t->ring->reserved_words, 1);

    t->words[at & t->mask] = stamp | type;
}

static MT_ALWAYS_INLINE void mt_put2(struct mt_thread *t, uint64_t stamp, enum mt_record_type type, uint64_t a)
{
    uint64_t at = mt_local_fetch_add(&t->ring->reserved_words, 2);

    t->words[at & t->mask] = stamp | type;
    t->words[(at + 1) & t->mask] = a;
}

static MT_ALWAYS_INLINE void mt_put3(struct mt_thread *t, uint64_t stamp, enum mt_record_type type, uint64_t a, uint64_t b)
{
    uint64_t at = mt_local_fetch_add(&t->ring->reserved_words, 3);

    t->words[at & t->mask] = stamp | type;
    t->words[(at + 1) & t->mask] = a;
    t->words[(at + 2) & t->mask] = b;
}

static MT_ALWAYS_INLINE void mt_put4(
    struct mt_thread *t, uint64_t stamp, enum mt_record_type type, uint64_t a, uint64_t b, uint64_t c)
{
    uint64_t at = mt_local_fetch_add(&t->ring->reserved_words, 4);

    t->words[at & t->mask] = stamp | type;
    t->words[(at + 1) & t->mask] = a;
    t->words[(at + 2) & t->mask] = b;
    t->words[(at + 3) & t->mask] = c;
}

/* A record with text (HEAP_CREATE, MARK ..., EXEC): extra words, then the text, cut to MT_RECORD_TEXT_MAX_BYTES. Blocks signals. */
void mt_emit_text(enum mt_record_type type, const uint64_t *extra, unsigned extra_words, const char *text);

/* A record of up to two words behind the first, with no stack. */
void mt_emit_plain(enum mt_record_type type, unsigned words, uint64_t a, uint64_t b);

#endif

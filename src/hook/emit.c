/*
 * Emission, the parts that are not short (emit.h).
 */
#include "hook/emit.h"

#include "hook/capture.h"

void mt_emit_change(struct mt_thread *thread, enum mt_record_type type, uint64_t operand, const uint64_t *fixed, unsigned fixed_words,
    struct mt_stack_change change)
{
    uint64_t at;

    while (MT_UNLIKELY(change.push > MT_RECORD_PUSH_MAX)) {
        struct mt_stack_change part = {change.keep, MT_RECORD_PUSH_MAX};

        if (!mt_reserve(thread, 2 + MT_RECORD_PUSH_MAX / 2))
            goto lost;
        at = mt_begin(thread, MT_RECORD_STACK, 0);
        *mt_word_at(thread, at++) = (uint64_t)part.keep << 32 | part.push;
        mt_publish(thread, mt_put_frames(thread, at, thread->stack.frames, &part));
        change.keep += part.push;
        change.push -= part.push;
    }
    if (!mt_reserve(thread, 2 + fixed_words + mt_change_words(&change)))
        goto lost;
    at = mt_begin(thread, type, operand);
    for (unsigned i = 0; i < fixed_words; i++)
        *mt_word_at(thread, at++) = fixed[i];
    *mt_word_at(thread, at++) = (uint64_t)change.keep << 32 | change.push;
    if (type == MT_RECORD_HEAP_ALLOC)
        mt_end_turn();
    mt_publish(thread, mt_put_frames(thread, at, thread->stack.frames, &change));
    return;
lost:
    mt_stack_forget(&thread->stack);
}

void mt_emit_stack(enum mt_record_type type, uint64_t operand, const uint64_t *fixed, unsigned fixed_words,
    const struct mt_registers *caller)
{
    struct mt_scope scope;

    if (!mt_scope_open(&scope))
        return;
    if (!mt_load_relaxed(&mt_state.paused))
        mt_emit_change(scope.thread, type, operand, fixed, fixed_words, mt_capture(&scope, caller));
    mt_scope_close(&scope);
}

void mt_emit_text(enum mt_record_type type, uint64_t operand, const uint64_t *figures, unsigned figure_count, const char *text)
{
    uint64_t bytes = text ? strlen(text) : 0, payload_words, signals, at;
    struct mt_scope scope;
    struct mt_thread *t;

    if (bytes > MT_RECORD_TEXT_MAX_BYTES)
        bytes = MT_RECORD_TEXT_MAX_BYTES;
    payload_words = (bytes + 7) / 8;
    mt_sys_signals_block(&signals);
    if (mt_scope_open(&scope)) {
        t = scope.thread;
        if (mt_reserve(t, 2 + figure_count + payload_words)) {
            at = mt_begin(t, type, operand);
            if (at == t->position + 1) { /* not stamped: this one is, for its time is asked for */
                *mt_word_at(t, t->position) |= MT_RECORD_STAMPED;
                *mt_word_at(t, at++) = mt_stamp();
            }
            mt_end_turn();
            *mt_word_at(t, at++) = payload_words << 32 | bytes;
            for (unsigned i = 0; i < figure_count; i++)
                *mt_word_at(t, at++) = figures[i];
            for (uint64_t i = 0; i < payload_words; i++) {
                uint64_t word = 0, n = bytes - i * 8 < 8 ? bytes - i * 8 : 8;

                memcpy(&word, text + i * 8, n);
                *mt_word_at(t, at++) = word;
            }
            mt_publish(t, at);
        }
        mt_scope_close(&scope);
    }
    mt_sys_signals_restore(&signals);
}

#define TURN_RECORDS 64u

uint64_t MT_NOINLINE mt_begin_turn(struct mt_thread *thread, enum mt_record_type type, uint64_t operand)
{
    uint64_t at;

    thread->turn_left = 0;
    if (mt_python_is_free_threaded())
        return mt_begin(thread, type, operand);
    do {
        mt_store_seq_cst(&mt_state.turn, thread); /* R8 */
        at = mt_begin(thread, type, operand);
        (void)mt_stamp(); /* not before the record's stamp was taken */
        mt_fence_seq_cst();
    } while (mt_load_acquire(&mt_state.turn) != thread); /* R8 */
    thread->turn_left = TURN_RECORDS;
    return at;
}

/* Opening on top of another scope: the ring for that level, or NULL (the event is counted as lost). *depth: scopes; those that are live. */
static struct mt_thread *open_nested(uintptr_t sp, unsigned *depth)
{
    struct mt_tls *tls = &mt_tls;
    struct mt_thread *t = tls->thread;
    stack_t alternate;

    /* A shallower frame than the outermost scope's: that one was left by longjmp. On the alternate stack addresses say nothing. */
    if (sp > tls->guard_sp &&
        !(mt_sys2(SYS_sigaltstack, NULL, &alternate) == 0 && (alternate.ss_flags & SS_ONSTACK))) {
        for (; t; t = t->nested)
            mt_forget_stacks(t);
        *depth = 0;
        return tls->thread;
    }
    for (unsigned i = 0; i < *depth; i++) {
        if (!t->nested)
            t->nested = mt_thread_get_nested();
        t = t->nested;
        if (!t) {
            mt_writer_lost(&mt_state.writer, MT_LOSS_NESTED, 1);
            return NULL;
        }
    }
    return t;
}

struct mt_scope mt_scope_open_slowly(uintptr_t sp, bool even_serving)
{
    struct mt_tls *tls = &mt_tls;
    struct mt_scope scope = {NULL, 0};
    unsigned depth;

    if (mt_is_serving() && !even_serving)
        return scope;
    if (mt_gate_epoch(tls->gate) != mt_load_relaxed(&mt_state.epoch) && !mt_attach())
        return scope;
    scope.thread = tls->thread;
    depth = mt_gate_depth(tls->gate);
    if (depth)
        scope.thread = open_nested(sp, &depth);
    if (!depth)
        tls->guard_sp = sp;
    scope.gate = (tls->gate & ~(MT_GATE_SERVING - MT_GATE_DEPTH)) | depth * MT_GATE_DEPTH;
    return scope;
}

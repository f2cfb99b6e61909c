/*
 * Rings and their threads.
 *
 * A thread gets its ring at its first event and keeps it until it is gone; nothing runs at thread exit (a destructor would miss the
 * events of later destructors). A new thread looks for a ring whose owner no longer exists (tgkill 0) before it makes one. An owner id
 * that was reused for another live thread only delays this.
 */
#include "hook/emit.h"
#include "hook/hook.h"

#include <string.h>

#define FIRST_RING_WORDS (256u << 10) /* 2 MiB: the main thread's */
#define RING_WORDS (64u << 10)        /* 512 KiB */
#define SMALL_RING_WORDS (16u << 10)  /* 128 KiB, from MANY_RINGS on */
#define MANY_RINGS 32u
#define STALL_PROBE_NS UINT64_C(300000000)
#define STALL_GIVE_UP_NS UINT64_C(30000000000)
#define WAIT_SLICE_NS UINT64_C(20000000)

/* Some rings are looked at for each new thread, in turn: thousands of live threads must not make every start slow. */
#define PROBES 16u

static struct mt_thread *take_over(int tid)
{
    struct mt_thread *t = mt_state.scan;

    for (unsigned i = 0; i < PROBES; i++, t = t->next) {
        int owner;

        if (!t)
            t = mt_state.threads;
        if (!t)
            break;
        owner = mt_load_relaxed(&t->ring->owner_tid);
        if (owner != tid && mt_sys3(SYS_tgkill, mt_state.pid, owner, 0) != -ESRCH)
            continue;
        mt_state.scan = t->next;
        /* The dead owner may have reserved and not published. */
        mt_store_relaxed(&t->ring->reserved_words, mt_load_relaxed(&t->ring->head));
        mt_store_relaxed(&t->ring->busy, 0u);
        mt_store_release(&t->ring->owner_tid, tid); /* R6 */
        memset(t->stack.ranges, 0, sizeof t->stack.ranges);
        t->stack.memo.count = 0;
        return t;
    }
    mt_state.scan = t;
    return NULL;
}

static struct mt_thread *create(int tid)
{
    uint32_t rings = mt_state.writer.header->ring_count;
    uint64_t words = rings == 0 ? FIRST_RING_WORDS : rings < MANY_RINGS ? RING_WORDS : SMALL_RING_WORDS;
    struct mt_thread *t = mt_sys_pages(mt_round_up(sizeof *t, MT_PAGE_BYTES));

    if (!t)
        return NULL;
    if (mt_stack_thread_init(&t->stack, &mt_state.stack) < 0 ||
        mt_writer_add_ring(&mt_state.writer, tid, words, &t->ring, &t->words) < 0) {
        mt_stack_thread_finish(&t->stack);
        return NULL;
    }
    t->mask = t->ring->capacity_words - 1;
    t->soft_end = t->ring->capacity_words / 2;
    t->next = mt_state.threads;
    mt_state.threads = t;
    return t;
}

struct mt_thread *mt_thread_get(void)
{
    int tid = mt_sys_gettid();
    struct mt_thread *t = take_over(tid);

    return t ? t : create(tid);
}

static void ring_the_bell(void)
{
    struct mt_doorbell *bell = mt_state.doorbell;

    if (!bell || !mt_load_relaxed(&bell->sleeping))
        return;
    mt_fetch_add_acq_rel(&bell->bell, 1u);
    mt_sys_futex_wake(&bell->bell, 1, true);
}

static MT_COLD void reader_is_gone(void)
{
    if (!mt_load_relaxed(&mt_state.writer.header->reader_gone)) {
        mt_store_relaxed(&mt_state.writer.header->reader_gone, 1u);
        mt_log("the reader is gone: events from here on are lost", NULL, 0);
    }
}

/* Waits until `words` fit, as long as the reader lives and moves. */
static MT_COLD bool wait_for_room(struct mt_thread *thread, uint64_t words)
{
    struct mt_ring *ring = thread->ring;
    uint64_t seen_progress = mt_load_relaxed(&mt_state.doorbell->progress), stalled_ns = 0;
    uint64_t last_ns = mt_sys_clock_ns(CLOCK_MONOTONIC);

    mt_fetch_add_relaxed(&mt_state.writer.header->thread_waits, 1);
    for (;;) {
        uint32_t signal = mt_load_acquire(&ring->tail_signal);
        uint64_t progress, now_ns;

        mt_store_seq_cst(&ring->waiting, 1u); /* R4 */
        if (ring->reserved_words + words <= mt_load_acquire(&ring->tail) + ring->capacity_words) { /* R2 */
            mt_store_relaxed(&ring->waiting, 0u);
            return true;
        }
        mt_fetch_add_acq_rel(&mt_state.doorbell->bell, 1u);
        mt_sys_futex_wake(&mt_state.doorbell->bell, 1, true);
        mt_sys_futex_wait(&ring->tail_signal, signal, WAIT_SLICE_NS, true);
        now_ns = mt_sys_clock_ns(CLOCK_MONOTONIC);
        progress = mt_load_relaxed(&mt_state.doorbell->progress);
        if (progress != seen_progress) {
            stalled_ns = 0;
            seen_progress = progress;
        } else {
            stalled_ns += now_ns - last_ns;
        }
        last_ns = now_ns;
        if (mt_load_relaxed(&mt_state.writer.header->reader_gone))
            return false;
        if (stalled_ns > STALL_GIVE_UP_NS || (stalled_ns > STALL_PROBE_NS && !mt_link_reader_alive())) {
            reader_is_gone();
            return false;
        }
    }
}

bool MT_COLD mt_thread_make_room(struct mt_thread *thread, uint64_t words)
{
    struct mt_ring *ring = thread->ring;
    uint64_t tail = mt_load_acquire(&ring->tail); /* R2 */
    uint64_t need = ring->reserved_words + words;

    ring->tail_seen = tail;
    if (need > tail + ring->capacity_words) {
        if (mt_load_relaxed(&mt_state.writer.header->reader_gone) || !wait_for_room(thread, words)) {
            mt_writer_lost(&mt_state.writer, MT_LOSS_READER_GONE, 1);
            return false;
        }
        tail = mt_load_acquire(&ring->tail); /* R2 */
    }
    if (need > tail + ring->capacity_words / 2)
        ring_the_bell();
    /* Look again when half of the ring is in use, or, beyond that, every eighth. */
    thread->soft_end = tail + ring->capacity_words / 2;
    if (thread->soft_end < need)
        thread->soft_end = need + ring->capacity_words / 8;
    if (thread->soft_end > tail + ring->capacity_words)
        thread->soft_end = tail + ring->capacity_words;
    return true;
}

void MT_COLD mt_scope_nested(uintptr_t sp)
{
    struct mt_tls *tls = &mt_tls;
    stack_t alternate;

    /* On the alternate stack the addresses say nothing: take the scope below for live. */
    if (sp <= tls->guard_sp ||
        (mt_sys2(SYS_sigaltstack, NULL, &alternate) == 0 && (alternate.ss_flags & SS_ONSTACK)))
        return;
    tls->depth = 0;
    tls->thread->ring->reserved_words = tls->thread->ring->head;
}

void mt_emit_plain(enum mt_record_type type, unsigned words, uint64_t a, uint64_t b)
{
    struct mt_scope scope;
    uint64_t stamp;

    if (!mt_scope_open(&scope))
        return;
    if (mt_stamp(&scope, words, &stamp)) {
        if (words == 1)
            mt_put1(scope.thread, stamp, type);
        else if (words == 2)
            mt_put2(scope.thread, stamp, type, a);
        else
            mt_put3(scope.thread, stamp, type, a, b);
    }
    mt_scope_close(&scope);
}

void mt_emit_text(enum mt_record_type type, const uint64_t *extra, unsigned extra_words, const char *text)
{
    uint64_t bytes = text ? strlen(text) : 0, payload_words, signals, stamp, at;
    struct mt_scope scope;
    struct mt_thread *t;

    if (bytes > MT_RECORD_TEXT_MAX_BYTES)
        bytes = MT_RECORD_TEXT_MAX_BYTES;
    payload_words = (bytes + 7) / 8;
    mt_sys_signals_block(&signals);
    if (mt_scope_open(&scope)) {
        t = scope.thread;
        if (mt_stamp(&scope, 2 + extra_words + payload_words, &stamp)) {
            at = mt_local_fetch_add(&t->ring->reserved_words, 2 + extra_words + payload_words);
            t->words[at++ & t->mask] = stamp | type;
            t->words[at++ & t->mask] = payload_words << 32 | bytes;
            for (unsigned i = 0; i < extra_words; i++)
                t->words[at++ & t->mask] = extra[i];
            for (uint64_t i = 0; i < payload_words; i++) {
                uint64_t word = 0, n = bytes - i * 8 < 8 ? bytes - i * 8 : 8;

                memcpy(&word, text + i * 8, n);
                t->words[at++ & t->mask] = word;
            }
        }
        mt_scope_close(&scope);
    }
    mt_sys_signals_restore(&signals);
}

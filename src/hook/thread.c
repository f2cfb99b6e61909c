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

#define FIRST_CHAIN_BITS 10 /* 64 KiB */
#define CHAIN_BITS 7
#define FIRST_RING_WORDS (512u << 10) /* 4 MiB: the main thread's */
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
        /* The dead owner may have written and not published. */
        t->position = mt_load_relaxed(&t->ring->head);
        mt_store_relaxed(&t->ring->busy, 0u);
        mt_store_release(&t->ring->owner_tid, tid); /* R6 */
        memset(t->stack.ranges, 0, sizeof t->stack.ranges);
        mt_forget_stacks(t);
        t->nested = NULL; /* like this one, its rings are found by their dead owner */
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
    if (mt_stack_thread_init(&t->stack, &mt_state.stack, rings == 0 ? FIRST_CHAIN_BITS : CHAIN_BITS) < 0 ||
        mt_writer_add_ring(&mt_state.writer, tid, words, &t->ring, &t->words) < 0) {
        mt_stack_thread_finish(&t->stack);
        return NULL;
    }
    t->mask = t->ring->capacity_words - 1;
    if (rings > 0)
        mt_store_release(&mt_state.stamped, 1u); /* R7 */
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

struct mt_thread *mt_thread_get_nested(void)
{
    struct mt_thread *t;
    uint64_t signals;

    mt_sys_signals_block(&signals);
    mt_lock_acquire(&mt_state.lock);
    t = create(mt_sys_gettid());
    mt_lock_release(&mt_state.lock);
    mt_sys_signals_restore(&signals);
    return t;
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
        if (thread->position + words <= mt_load_acquire(&ring->tail) + ring->capacity_words) { /* R2 */
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

/* With records that carry no stamps, one that does at the beginning of each so many words. */
#define TIME_WORDS 2048u

static void put_time(struct mt_thread *thread)
{
    uint64_t at = thread->position;

    *mt_word_at(thread, at++) = MT_RECORD_TIME | MT_RECORD_STAMPED;
    *mt_word_at(thread, at++) = mt_stamp();
    mt_publish(thread, at);
}

bool MT_COLD mt_thread_make_room(struct mt_thread *thread, uint64_t words)
{
    struct mt_ring *ring = thread->ring;
    uint64_t tail = mt_load_acquire(&ring->tail); /* R2 */
    uint64_t need;

    words += 2; /* TIME */
    need = thread->position + words;
    if (need > tail + ring->capacity_words) {
        if (mt_load_relaxed(&mt_state.writer.header->reader_gone) || !wait_for_room(thread, words)) {
            mt_writer_lost(&mt_state.writer, MT_LOSS_READER_GONE, 1);
            return false;
        }
        tail = mt_load_acquire(&ring->tail); /* R2 */
    }
    if (need > tail + ring->capacity_words / 2)
        ring_the_bell();
    /* Look again after a while; when half of the ring is in use; or, beyond that, every eighth. */
    thread->soft_end = tail + ring->capacity_words / 2;
    if (thread->soft_end < need)
        thread->soft_end = need + ring->capacity_words / 8;
    if (thread->soft_end > tail + ring->capacity_words)
        thread->soft_end = tail + ring->capacity_words;
    if (!mt_load_relaxed(&mt_state.stamped)) {
        if (thread->soft_end > need + TIME_WORDS)
            thread->soft_end = need + TIME_WORDS;
        put_time(thread);
    }
    return true;
}

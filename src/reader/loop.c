/*
 * The loop: drain, answer, sample, write, sleep. There is one place to sleep, the doorbell's futex, because targets can
 * ring it without a system call; a second thread, the waker, sleeps in epoll and rings it for sockets and pidfds. The
 * waker also keeps `progress` moving while the loop is in a long write, so that no target takes the reader for dead; but not for ever, so that
 * none waits for a reader that hangs.
 */
#include "reader/state.h"

#include <errno.h>
#include <linux/futex.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/syscall.h>
#include <unistd.h>

#define MS UINT64_C(1000000)
#define GATHER_NS (20 * MS)
#define FINISHED_WAIT_NS (50 * MS)      /* finished processes are written together */
#define DONE_WAIT_NS (300 * MS)         /* `memtrace run` waits so long for processes that outlive the root */
#define FIRST_CHECKPOINT_NS (1000 * MS)
#define LAST_CHECKPOINT_NS (60000 * MS)
#define SITES_CHECKPOINT_NS (8000 * MS)
#define LONGEST_ROUND_NS (180000 * MS)
#define COMMIT_DRAIN_NS (200 * MS)
#define LONG_NS (3 * MS)
enum { ROUND_EVENTS = 1 << 17, MANY_EVENTS = 1 << 16, COMMIT_PATIENCE_MS = 2000, CHECKPOINT_PATIENCE_MS = 50, HEARTBEAT_MS = 100 };

static void futex_wait(uint32_t *word, uint32_t value, uint64_t timeout_ns)
{
    struct timespec timeout = {
        .tv_sec = (time_t)(timeout_ns / UINT64_C(1000000000)), .tv_nsec = (long)(timeout_ns % UINT64_C(1000000000))};

    syscall(SYS_futex, word, FUTEX_WAIT, value, &timeout, NULL, 0);
}

static void futex_wake(uint32_t *word)
{
    syscall(SYS_futex, word, FUTEX_WAKE, INT32_MAX, NULL, NULL, 0);
}

struct pulse { /* of the loop, as the waker feels it */
    uint32_t rounds;
    uint64_t since_ns;
};

static void beat(struct reader *reader, struct pulse *pulse)
{
    uint32_t rounds = mt_load_relaxed(&reader->rounds);
    uint64_t now = mt_clock_monotonic_ns();

    if (rounds != pulse->rounds || !pulse->since_ns)
        *pulse = (struct pulse){rounds, now};
    if (now - pulse->since_ns < LONGEST_ROUND_NS)
        mt_fetch_add_relaxed(&reader->doorbell->progress, 1);
}

static void *waker_main(void *argument)
{
    struct reader *reader = argument;
    struct epoll_event event;
    struct pulse pulse = {0};

    for (;;) {
        beat(reader, &pulse);
        if (epoll_wait(reader->epoll_fd, &event, 1, HEARTBEAT_MS) <= 0)
            continue;
        mt_store_seq_cst(&reader->events_pending, 1);
        mt_fetch_add_acq_rel(&reader->doorbell->bell, 1);
        futex_wake(&reader->doorbell->bell);
        while (mt_load_acquire(&reader->events_pending)) {
            futex_wait(&reader->events_pending, 1, HEARTBEAT_MS * MS);
            beat(reader, &pulse);
        }
    }
    return NULL;
}

int loop_start_waker(struct reader *reader)
{
    pthread_attr_t attributes;
    int err;

    pthread_attr_init(&attributes);
    pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
    pthread_attr_setstacksize(&attributes, 64 << 10);
    err = pthread_create(&reader->waker, &attributes, waker_main, reader);
    pthread_attr_destroy(&attributes);
    return -err;
}

/* One event at a time: what handles one may free the object of another. */
static bool handle_events(struct reader *reader)
{
    struct epoll_event event;
    bool any = false;

    while (epoll_wait(reader->epoll_fd, &event, 1, 0) > 0) {
        any = true;
        if (!event.data.ptr)
            control_event(reader, NULL);
        else if (*(enum source *)event.data.ptr == SOURCE_CLIENT)
            control_event(reader, event.data.ptr);
        else
            life_pid_event(reader, event.data.ptr);
    }
    if (mt_load_acquire(&reader->events_pending)) {
        mt_store_release(&reader->events_pending, 0);
        futex_wake(&reader->events_pending);
    }
    return any;
}

void loop_account(struct reader *reader, struct target *target)
{
    uint64_t window = mt_live_take_window_peak(target->live);
    uint64_t now = mt_live_totals(target->live)->live_bytes;
    uint64_t others = reader->run_live_bytes - target->live_bytes_seen;

    if (others + window > reader->run_peak_bytes)
        reader->run_peak_bytes = others + window;
    reader->run_live_bytes = others + now;
    target->live_bytes_seen = now;
}

static size_t drain_all(struct reader *reader)
{
    size_t applied = 0;

    for (struct target *t = reader->targets; t; t = t->next) {
        size_t n;
        if (t->finished || !t->header)
            continue;
        n = order_drain(reader, t, ROUND_EVENTS);
        if (n)
            loop_account(reader, t);
        applied += n;
    }
    mt_fetch_add_relaxed(&reader->doorbell->progress, 1);
    return applied;
}

/* ---- commits ------------------------------------------------------------------------------------------------------- */

/* Everything published before the target asked. Threads that go on publishing are not waited for for ever. */
static void drain_for_commit(struct reader *reader, struct target *target)
{
    uint64_t deadline = mt_clock_monotonic_ns() + COMMIT_DRAIN_NS;

    while (order_drain(reader, target, SIZE_MAX) > 0 || order_pending(target))
        if (mt_clock_monotonic_ns() > deadline)
            break;
    loop_account(reader, target);
    sample_take(reader, target, stamp_now(target), NULL);
    target->overhead_bytes = sample_overhead(target);
    uint64_t peak = proc_peak_rss(target->proc_fd);
    if (peak > target->peak_rss_bytes)
        target->peak_rss_bytes = peak;
}

static bool others_alive(const struct reader *reader, const struct target *target)
{
    for (const struct target *t = reader->targets; t; t = t->next)
        if (t != target && !t->finished)
            return true;
    return false;
}

static void commit(struct reader *reader, struct target *target, uint32_t wanted)
{
    bool root_ended = reader->root_ended;

    drain_for_commit(reader, target);
    /* A process that waits at its exit: what it says about its end holds until the kernel says otherwise. */
    if (target->exit_seen) {
        life_expect_end(reader, target);
        mt_live_finish(target->live, target->newest, target->rss_bytes, target->vms_bytes);
        if (target->is_root && !others_alive(reader, target)) {
            reader->root_ended = true;
            reader->root_end = target->end;
            reader->expect_end = true;
        }
    }
    /* If the database cannot be had now, the target is not to be held up: the reader keeps what it knows and tries again. */
    (void)write_all(reader, target->is_root ? NULL : target, true, COMMIT_PATIENCE_MS);
    reader->expect_end = false;
    reader->root_ended = root_ended;
    mt_store_release(&target->header->commit_done, wanted);
    futex_wake(&target->header->commit_done);
}

/* Returns whether there was one; the list may have changed then. */
static bool answer_commits(struct reader *reader)
{
    for (struct target *t = reader->targets; t; t = t->next) {
        uint32_t wanted;
        if (t->finished || !t->header)
            continue;
        wanted = mt_load_acquire(&t->header->commit_wanted);
        if (wanted == mt_load_relaxed(&t->header->commit_done))
            continue;
        handle_events(reader); /* children that have ended belong to what the root wants to be written */
        if (!t->finished)
            commit(reader, t, wanted);
        return true;
    }
    return false;
}

/* ---- the clock ------------------------------------------------------------------------------------------------------- */

/* Returns the time until the next sample is due. */
static uint64_t on_clock(struct reader *reader, uint64_t now)
{
    uint64_t wait = GATHER_NS, rss = 0;

    for (struct target *t = reader->targets; t; t = t->next) {
        if (t->finished || !t->header)
            continue;
        sample_due(reader, t, now);
        rss += t->rss_bytes;
        if (t->samples && t->samples->next_ns > now && t->samples->next_ns - now < wait)
            wait = t->samples->next_ns - now;
    }
    if (rss > reader->run_peak_rss_bytes)
        reader->run_peak_rss_bytes = rss;
    if (reader->finished_since_ns && now - reader->finished_since_ns > FINISHED_WAIT_NS && life_any_alive(reader)) {
        if (write_all(reader, NULL, false, CHECKPOINT_PATIENCE_MS) < 0)
            reader->finished_since_ns = now; /* tried again after a while */
    }
    if (now >= reader->next_checkpoint_ns) {
        if (reader->next_checkpoint_ns && life_any_alive(reader)) {
            /* Callsites are many, and are written as a whole: not in the first seconds, which most programs do not outlive. */
            (void)write_all(reader, NULL, reader->checkpoint_interval_ns >= SITES_CHECKPOINT_NS, CHECKPOINT_PATIENCE_MS);
            if (reader->checkpoint_interval_ns < LAST_CHECKPOINT_NS)
                reader->checkpoint_interval_ns *= 2;
        } else {
            reader->checkpoint_interval_ns = FIRST_CHECKPOINT_NS;
        }
        reader->next_checkpoint_ns = mt_clock_monotonic_ns() + reader->checkpoint_interval_ns;
    }
    return wait;
}

static void sleep_until_rung(struct reader *reader, uint32_t bell, uint64_t wait_ns)
{
    mt_store_seq_cst(&reader->doorbell->sleeping, 1);
    futex_wait(&reader->doorbell->bell, bell, wait_ns);
    mt_store_relaxed(&reader->doorbell->sleeping, 0);
}

static bool is_over(struct reader *reader, uint64_t now)
{
    if (life_any_alive(reader) || control_busy(reader, now))
        return false;
    if (!reader->started)
        return !reader->clients || now > reader->hello_deadline_ns;
    /* `memtrace run` has gone before its program said HELLO: the program may still come. */
    if (!reader->root_ended && !reader->root_pid && now < reader->hello_deadline_ns)
        return false;
    return !handle_events(reader);
}

int loop_run(struct reader *reader)
{
    uint64_t now = mt_clock_monotonic_ns();

    reader->hello_deadline_ns = now + 30000 * MS;
    while (!is_over(reader, now)) {
        uint32_t bell = mt_load_acquire(&reader->doorbell->bell);
        uint64_t wait;
        size_t applied;
        bool busy = false;

        mt_store_relaxed(&reader->rounds, reader->rounds + 1);
        if (mt_load_acquire(&reader->events_pending))
            busy = handle_events(reader);
        applied = drain_all(reader);
        busy |= answer_commits(reader);
        now = mt_clock_monotonic_ns();
        wait = on_clock(reader, now);
        if (control_done_wanted(reader, now - DONE_WAIT_NS) && life_any_alive(reader)) {
            int err = write_all(reader, NULL, true, COMMIT_PATIENCE_MS);
            control_answer_done(reader, now, err < 0 ? -err : 0);
        }
        /* A round has its price, so it should find much to do: events gather for a while. Whoever cannot wait rings: a ring that is half full, too. */
        if (busy || applied >= MANY_EVENTS || ahead_work(reader, bell, now))
            continue;
        /* Nobody rings while nobody sleeps: what took long, a snapshot or a write, may have left rings that are nearly full. */
        if (mt_clock_monotonic_ns() - now < LONG_NS)
            sleep_until_rung(reader, bell, wait);
    }
    return 0;
}

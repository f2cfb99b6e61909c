/*
 * Opening the database, in a thread of its own: the first target waits for its WELCOME meanwhile, and another run may be
 * writing. A target is told at once when the database cannot be had; but when that takes long to find out, it is let go on,
 * and what it sends is kept until the database opens.
 */
#include "reader/state.h"

#include <errno.h>
#include <linux/futex.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { OPEN_TRIES = 3, OPEN_PAUSE_US = 20000 };

int open_run(struct reader *reader, struct mt_store *store, int64_t *ret_run_id)
{
    struct mt_store_run run = {.label = reader->label,
        .command = reader->run_command,
        .cwd = reader->run_cwd,
        .started_at_ns = (int64_t)(mt_clock_realtime_ns() - (mt_clock_monotonic_ns() - reader->run_start_monotonic_ns)),
        .reader_pid = getpid(),
        .reader_start_ticks = proc_start_ticks(getpid())};

    return mt_store_run_begin(store, &run, ret_run_id);
}

static void *opener_main(void *argument)
{
    struct reader *reader = argument;
    struct opener *opener = &reader->opener;

    /* A file that another reader is just making can look damaged for a moment. */
    for (unsigned i = 0; i < OPEN_TRIES; i++) {
        opener->error = mt_store_open(reader->database, &opener->store);
        if (opener->error != -EBADMSG)
            break;
        usleep(OPEN_PAUSE_US);
    }
    if (opener->error == 0)
        opener->error = open_run(reader, opener->store, &opener->run_id);
    mt_store_release(&opener->done, 1); /* -> open_wait() */
    syscall(SYS_futex, &opener->done, FUTEX_WAKE, INT32_MAX, NULL, NULL, 0);
    return NULL;
}

void open_start(struct reader *reader)
{
    int err = pthread_create(&reader->opener.thread, NULL, opener_main, reader);

    if (err) /* then without a thread */
        opener_main(reader);
    else
        reader->opener.has_thread = true;
    reader->opener.under_way = true;
}

int open_wait(struct reader *reader, unsigned patience_ms)
{
    struct opener *opener = &reader->opener;
    uint64_t deadline = mt_clock_monotonic_ns() + (uint64_t)patience_ms * 1000000;

    if (!opener->under_way)
        return reader->store ? 0 : (opener->error < 0 ? opener->error : -ENODEV);
    while (!mt_load_acquire(&opener->done)) {
        uint64_t now = mt_clock_monotonic_ns();
        struct timespec rest;

        if (now >= deadline)
            return -EBUSY;
        rest = (struct timespec){(time_t)((deadline - now) / 1000000000), (long)((deadline - now) % 1000000000)};
        syscall(SYS_futex, &opener->done, FUTEX_WAIT, 0, &rest, NULL, 0);
    }
    if (opener->has_thread)
        pthread_join(opener->thread, NULL);
    opener->under_way = false;
    if (opener->error < 0) {
        reader_log(reader, "%s: cannot be opened for writing: %s", reader->database, strerror(-opener->error));
        mt_store_close(opener->store);
        return opener->error;
    }
    reader->store = opener->store;
    reader->run_id = opener->run_id;
    return 0;
}

/*
 * The lives of processes: HELLO, fork, exec, end. A process is known by its pidfd from the moment it is heard of, so that a
 * reused pid is never taken for it. Processes written to the database are kept on a list of small ones, because the FORK
 * record of the parent may be drained after the child has come and gone.
 */
#include "reader/groups.h"
#include "reader/python.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/wait.h>
#include <unistd.h>

static struct target *target_make(struct reader *reader, int pid, int pid_there)
{
    struct target *target = calloc(1, sizeof(*target));

    if (!target)
        return NULL;
    target->source = SOURCE_TARGET;
    target->written_events = target->site_id_events = UINT64_MAX;
    target->pid = pid;
    target->pid_there = pid_there;
    target->segment_fd = -1;
    target->pidfd = proc_pidfd_open(pid);
    target->proc_fd = target->pidfd >= 0 ? proc_open(pid) : -1;
    target->started_ns = (int64_t)(mt_clock_monotonic_ns() - reader->run_start_monotonic_ns);
    target->end = (struct mt_store_end){.kind = MT_END_RUNNING, .exit_status = -1};
    return target;
}

static void target_describe(struct target *target)
{
    free(target->exe);
    free(target->command);
    free(target->cwd);
    target->exe = proc_link(target->proc_fd, "exe");
    target->command = proc_command(target->proc_fd);
    target->cwd = proc_link(target->proc_fd, "cwd");
}

static void target_add(struct reader *reader, struct target *target)
{
    if (reader->last_target)
        reader->last_target->next = target;
    else
        reader->targets = target;
    reader->last_target = target;
    if (target->pidfd >= 0) {
        struct epoll_event event = {.events = EPOLLIN, .data.ptr = target};
        epoll_ctl(reader->epoll_fd, EPOLL_CTL_ADD, target->pidfd, &event);
    }
}

static struct target *find_there(struct reader *reader, int pid_there)
{
    struct target *found = NULL;

    for (struct target *t = reader->targets; t; t = t->next)
        if (t->pid_there == pid_there)
            found = t;
    return found;
}

struct target *life_find(struct reader *reader, int pid)
{
    struct target *found = NULL;

    for (struct target *t = reader->targets; t; t = t->next)
        if (!t->finished && (t->pid == pid || pid == 0) && t->header)
            found = t;
    return found;
}

bool life_any_alive(const struct reader *reader)
{
    for (const struct target *t = reader->targets; t; t = t->next)
        if (!t->finished)
            return true;
    return false;
}

/* The pid speaks for a new image: what the old one published is all there is. */
static void replaced(struct reader *reader, struct target *old)
{
    old->gone = true;
    old->replaced = true;
    old->exec_seen = true;
    if (old->pidfd >= 0)
        epoll_ctl(reader->epoll_fd, EPOLL_CTL_DEL, old->pidfd, NULL);
    while (order_drain(reader, old, SIZE_MAX) > 0)
        ;
    old->exec_seen = true;
    life_finish(reader, old);
}

/* *ret_error stays untouched on success. The segment's descriptor is taken over on success. */
struct target *life_hello(struct reader *reader, int pid, int segment_fd, int *ret_error)
{
    struct target *old = NULL, *target = NULL;
    bool is_new = true;
    int err;

    for (struct target *t = reader->targets; t; t = t->next)
        if (t->pid == pid && !t->finished)
            old = t;
    if (old && !old->header) {
        target = old; /* the child that a FORK record told of */
        is_new = false;
    } else {
        target = target_make(reader, pid, pid);
    }
    if (!target) {
        *ret_error = ENOMEM;
        return NULL;
    }
    /* It did not live to see the answer, so it has recorded nothing; and nobody would ever tell of its end. */
    if (is_new && target->pidfd == -ESRCH) {
        life_free(target);
        *ret_error = ESRCH;
        return NULL;
    }
    target->live = mt_live_create();
    err = target->live ? attach_segment(target, segment_fd) : -ENOMEM;
    if (err < 0) {
        mt_live_destroy(target->live);
        target->live = NULL;
        if (is_new)
            life_free(target);
        *ret_error = -err;
        return NULL;
    }
    target->pid_there = target->layout.pid;
    target->parent_there = target->layout.parent_pid;
    target_describe(target);
    if (is_new && old) {
        target->parent = old->parent;
        target->parent_process_id = old->parent_process_id;
        target->fork_seen = true;
        replaced(reader, old);
    } else if (is_new) {
        target->parent = find_there(reader, target->parent_there);
        if (target->parent == NULL)
            for (struct forgotten *f = reader->forgotten; f; f = f->next)
                if (f->pid_there == target->parent_there && !target->parent_process_id)
                    target->parent_process_id = f->process_id;
    }
    if (is_new)
        target_add(reader, target);
    if (!reader->root_pid)
        reader->root_pid = target->pid_there;
    target->is_root = target->pid_there == reader->root_pid;
    sample_due(reader, target, mt_clock_monotonic_ns());
    return target;
}

/* Is this child known already? Each process is the child of one FORK record, whoever its parent is by now. */
static bool match_fork(struct reader *reader, struct target *parent, int pid_there)
{
    for (struct target *t = reader->targets; t; t = t->next) {
        if (t->pid_there == pid_there && !t->fork_seen && t != parent) {
            t->fork_seen = true;
            t->parent_there = parent->pid_there;
            t->parent = parent;
            return true;
        }
    }
    for (struct forgotten *f = reader->forgotten; f; f = f->next) {
        if (f->pid_there == pid_there && !f->fork_seen) {
            f->fork_seen = true;
            return true;
        }
    }
    return false;
}

void life_forked(struct reader *reader, struct target *parent, int pid_there)
{
    struct target *child;

    if (pid_there <= 0 || match_fork(reader, parent, pid_there))
        return;
    /* In another pid namespace the number means nothing here: -1 is no process. */
    child = target_make(reader, parent->pid == parent->pid_there ? pid_there : -1, pid_there);
    if (!child)
        return;
    child->parent = parent;
    child->parent_there = parent->pid_there;
    child->fork_seen = true;
    /* A number that now names an older process is not the child: the child is gone, and its pid is in use again. */
    if (child->pidfd >= 0 && proc_start_ticks(child->pid) < proc_start_ticks(parent->pid)) {
        close(child->pidfd);
        child->pidfd = -1;
    }
    target_describe(child);
    target_add(reader, child);
    if (child->pidfd < 0) {
        child->gone = true;
        life_finish(reader, child);
    }
}

void life_record(struct reader *reader, struct target *target, const struct ring *ring, const struct decoded *record)
{
    switch (record->event.type) {
    case MT_RECORD_FORK:
        life_forked(reader, target, (int)record->event.address);
        break;
    case MT_RECORD_EXEC:
        target->exec_seen = true;
        target->exec_ring = ring;
        target->exec_stamp = record->event.stamp;
        break;
    case MT_RECORD_EXEC_FAILED:
        target->exec_seen = false;
        target->exec_ring = NULL;
        break;
    case MT_RECORD_EXIT:
        target->exit_seen = true;
        target->exit_value = (int)(record->event.size & 0xff);
        target->exit_kind = (uint32_t)record->event.address;
        break;
    default:
        break;
    }
}

/* ---- the end ----------------------------------------------------------------------------------------------------- */

static enum mt_store_end_kind recorded_kind(const struct target *target)
{
    if (!target->exit_seen)
        return MT_END_QUICK_EXIT; /* exited without passing through any function that would have told */
    switch (target->exit_kind) {
    case MT_EXIT_EXIT:
        return MT_END_EXIT;
    case MT_EXIT_ABORT:
        return MT_END_ABORT;
    default:
        return MT_END_QUICK_EXIT;
    }
}

static void end_by_wait_status(const struct target *target, int status, struct mt_store_end *end)
{
    if (WIFSIGNALED(status)) {
        bool aborted = target->exit_seen && target->exit_kind == MT_EXIT_ABORT && WTERMSIG(status) == SIGABRT;
        end->kind = aborted ? MT_END_ABORT : MT_END_SIGNAL;
        end->exit_status = 128 + WTERMSIG(status);
    } else {
        end->kind = recorded_kind(target);
        end->exit_status = WEXITSTATUS(status);
    }
}

void life_expect_end(struct reader *reader, struct target *target)
{
    target->end = (struct mt_store_end){.ended_ns = (int64_t)(mt_clock_monotonic_ns() - reader->run_start_monotonic_ns),
        .kind = recorded_kind(target),
        .exit_status = target->exit_kind == MT_EXIT_ABORT ? 128 + SIGABRT : target->exit_value};
}

static void find_end(struct reader *reader, struct target *target)
{
    struct mt_store_end *end = &target->end;

    if (!target->wait_status_known && reader->root_status_known && target->pid == reader->root_status_pid) {
        target->wait_status_known = true;
        target->wait_status = reader->root_status;
    }
    end->ended_ns = (int64_t)(mt_clock_monotonic_ns() - reader->run_start_monotonic_ns);
    if (target->wait_status_known) {
        end_by_wait_status(target, target->wait_status, end);
    } else if (target->exit_seen) {
        life_expect_end(reader, target);
    } else {
        end->kind = MT_END_UNKNOWN;
        end->exit_status = -1;
    }
    if (target->is_root || target->pid == reader->root_status_pid) {
        reader->root_ended = true;
        reader->root_end = *end;
    }
    if (target->exec_seen) {
        end->kind = MT_END_EXEC;
        end->exit_status = -1;
        if (target->exec_stamp)
            end->ended_ns = stamp_to_run_ns(reader, target, target->exec_stamp);
    }
}

void life_finish(struct reader *reader, struct target *target)
{
    if (target->finished)
        return;
    find_end(reader, target);
    if (target->live) {
        if (!target->replaced) /* what /proc shows is the new image's */
            sample_take(reader, target, stamp_now(target), NULL);
        mt_live_finish(target->live, target->newest, target->rss_bytes, target->vms_bytes);
        if (tables_update(target) < 0)
            target->lost_decode++;
        target->overhead_bytes = sample_overhead(target);
        for (size_t i = 0; i < MT_ARRAY_LEN(target->lost); i++)
            target->lost[i] = mt_load_relaxed(&target->header->lost[i]);
        target->captures = mt_load_relaxed(&target->header->captures);
        target->thread_waits = mt_load_relaxed(&target->header->thread_waits);
        detach_segment(target);
        loop_account(reader, target);
        reader->run_live_bytes -= target->live_bytes_seen;
    }
    if (target->pidfd >= 0)
        close(target->pidfd); /* leaves epoll by that */
    if (target->proc_fd >= 0)
        close(target->proc_fd);
    target->pidfd = target->proc_fd = -1;
    target->finished = true;
    if (!reader->finished_since_ns)
        reader->finished_since_ns = mt_clock_monotonic_ns();
}

void life_pid_event(struct reader *reader, struct target *target)
{
    if (target->finished)
        return;
    target->wait_status_known = proc_wait_status(target->pidfd, target->proc_fd, &target->wait_status);
    target->gone = true;
    epoll_ctl(reader->epoll_fd, EPOLL_CTL_DEL, target->pidfd, NULL);
    while (order_drain(reader, target, SIZE_MAX) > 0)
        ;
    life_finish(reader, target);
}

void life_free(struct target *target)
{
    detach_segment(target);
    mt_live_destroy(target->live);
    tables_finish(&target->tables);
    python_merger_free(target->merger);
    totals_free(target->totals);
    groups_free(target->groups);
    mt_store_intern_destroy(target->intern);
    mt_live_notes_free(target->notes, target->note_count);
    for (size_t i = 0; i < target->snapshot_count; i++)
        free(target->snapshots[i].rows);
    if (target->pidfd >= 0)
        close(target->pidfd);
    if (target->proc_fd >= 0)
        close(target->proc_fd);
    free(target->samples);
    free(target->exe);
    free(target->command);
    free(target->cwd);
    free(target);
}

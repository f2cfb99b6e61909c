/*
 * Up to where the rings' records are certain (wire/ring.h has the proof).
 *
 * A process with a single ring needs none of it. That is decided after the ring's head was read: a record of another
 * ring which these records could depend on was published before them, and so was its ring (R5, seen through R1).
 */
#include "reader/state.h"

#include <linux/membarrier.h>
#include <sys/syscall.h>
#include <unistd.h>

/* A head that no writer could have made: the ring is not read any more. */
static bool read_head(struct target *target, struct ring *ring)
{
    uint64_t head = mt_load_acquire(&ring->shared->head); /* R1 */

    if (head - ring->tail > ring->capacity) {
        ring->bad = true;
        target->lost_decode++;
        return false;
    }
    ring->limit = head;
    return true;
}

static uint64_t stamp_horizon(const struct target *target)
{
    if (target->layout.flags & MT_SEGMENT_STAMP_TSC)
        return mt_clock_tsc_ordered() - target->layout.base_stamp;
    return mt_load_acquire(&target->header->sequence);
}

/* Sets every ring's limit; returns the stamp (inclusive) up to which idle rings are certain. */
uint64_t horizon_find(struct target *target)
{
    uint64_t now;

    attach_rings(target);
    for (size_t i = 0; i < target->ring_count; i++)
        target->rings[i]->busy = false;
    if (target->gone) { /* nobody writes any more, and what busy says is old */
        for (size_t i = 0; i < target->ring_count; i++)
            if (!target->rings[i]->bad)
                read_head(target, target->rings[i]);
        return UINT64_MAX;
    }
    if (target->ring_count == 1 && !target->rings[0]->bad) {
        struct ring *ring = target->rings[0];

        /* What is not there after the clock was read is not older. */
        now = stamp_horizon(target);
        if (ring->at == ring->used && ring->tail == mt_load_acquire(&ring->shared->head))
            ring->empty_at = now;
        read_head(target, ring);
        if (mt_load_acquire(&target->header->ring_count) == 1)
            return UINT64_MAX;
    }
    now = stamp_horizon(target);
    if (target->layout.flags & MT_SEGMENT_ASYMMETRIC_FENCE)
        syscall(SYS_membarrier, MEMBARRIER_CMD_GLOBAL_EXPEDITED, 0, 0); /* R3 */
    else
        mt_fence_seq_cst();
    attach_rings(target);
    for (size_t i = 0; i < target->ring_count; i++) {
        struct ring *ring = target->rings[i];

        if (ring->bad)
            continue;
        ring->busy = mt_load_acquire(&ring->shared->busy) != 0; /* R3, then R1 */
        if (read_head(target, ring) && !ring->busy)
            ring->idle_at = now;
    }
    return now ? now - 1 : 0;
}

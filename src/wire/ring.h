/*
 * One single-producer, single-consumer ring of 64-bit words for each thread, and one more for each level of signal handlers that ran on top
 * of its emission of a record: so a ring has one writer at a time that is never interrupted by another one.
 *
 * Positions (head, tail) are absolute word counts that never wrap in practice (2^64); the word at position p is
 * data[p & (capacity - 1)]; capacity is a power of two. 0 <= head - tail <= capacity. A record may straddle the end. head never
 * covers an unfinished record.
 *
 * Table of edges (label: writer side -> reader side):
 *   R1  head     store-release after the record's words  -> load-acquire before reading them
 *   R2  tail     (reader) store-release after the words were copied out -> load-acquire before overwriting them
 *   R3  busy     store 1 before the stamp is taken, store 0 (release) after R1
 *                -> read after the horizon stamp was taken and membarrier() done; see below
 *   R4  waiting  (target) set to 1 before re-checking tail, futex wait on tail_signal
 *                -> reader increments tail_signal and wakes after R2 if waiting was set
 *   R5  segment ring_count: release after ring header and directory entry are complete -> acquire
 *   R6  owner_tid: release store of the new owner, only by a thread that found the old owner dead
 *   R7  (target only) mt_state.stamped: stored 1 before a second ring is first written to
 *                -> read by each writer after its real allocation returned, or before its real free
 *   R8  (target only) mt_state.turn: a ring of Python's objects, stored before its stamp is taken and looked at once more after it
 *                -> read by each writer of such records, likewise; cleared where another kind of record is about objects, behind its stamp
 *
 * Order of one ring. Its records are in the order of their positions. The time of a record is the highest stamp up to it in its ring
 * (an unstamped record has the time of the one before).
 *
 * One ring. A process with one ring has no other order to keep: its records carry no stamps, except for a TIME record now and then.
 *
 * Horizon (why order between threads is exact). The reader takes a stamp H, then membarrier() (or relies on the
 * writer's fence), then for each ring reads busy, then head. With busy = 0 every stamped record of that ring with a stamp below
 * H is below head: a writer whose stamp is below H stored busy = 1 before, and that store is visible after the
 * barrier; so either busy is seen as 1 or the record is already published. With busy = 1 the record in flight has a
 * stamp not below the ring's last published one, so the horizon drops to that. Records below the
 * horizon, merged by stamp from all rings, are in their true order per address: a free is stamped before
 * the real free, an allocation after the real allocation.
 *
 * From one ring to two (R7). A writer that does not stamp has read stamped = 0. Let X be such a record and Y one of another ring, about the
 * same address. If Y comes before X, then X's thread had the address from Y's, so it saw all that Y's thread did before,
 * stamped = 1 included: X would be stamped. So X comes before Y; Y was emitted after X was published, hence above every horizon
 * taken before; and X's time, that of its predecessor, is below Y's stamp: X is merged first.
 *
 * Objects (R8). Python's objects come and go under the interpreter's lock, by one thread for a long time: a record of theirs needs no stamp if no other
 * ring has had one since this ring's last stamped one, S. Let Y be such a record without a stamp and X one of another ring, about the same address, that
 * happened before. If X came before S did, its time is below S's stamp. If not, X's ring was stored in turn after S's and before X was published, and
 * Y's thread saw that, as it saw all that happened before Y: so Y would be stamped. That holds wherever threads that share an address know of each other;
 * the lock only makes it cheap. Y is published before what happens after it, so it is never below a horizon that was taken.
 *
 * When the writer dies: head covers only complete records; busy may stay 1, which the reader ignores once
 * the process is known to be dead. When the thread dies its ring stays and is taken over by a later thread (R6).
 */
#ifndef MT_WIRE_RING_H
#define MT_WIRE_RING_H

#include <assert.h>
#include <stdint.h>

#include "base/base.h"

#define MT_RING_MAGIC 0x676e6972u

struct mt_ring {
    /* Line 0: read by both, written at creation and take-over. */
    uint32_t magic;
    int32_t owner_tid; /* kernel thread id in the target's pid namespace */
    uint64_t capacity_words;
    uint64_t data_offset; /* file offset of the words, = offset of this header + MT_PAGE_BYTES */

    /* Line 1: owned by the writer. */
    MT_ALIGNED(64) uint64_t head; /* R1 */
    uint32_t busy;                /* R3 */

    /* Line 2: owned by the reader. */
    MT_ALIGNED(64) uint64_t tail; /* R2 */

    /* Line 3: the slow path. */
    MT_ALIGNED(64) uint32_t waiting; /* R4 */
    uint32_t tail_signal;            /* R4, futex */
};

static_assert(offsetof(struct mt_ring, head) == 64, "writer line");
static_assert(offsetof(struct mt_ring, tail) == 128, "reader line");
static_assert(offsetof(struct mt_ring, waiting) == 192, "slow line");

#endif

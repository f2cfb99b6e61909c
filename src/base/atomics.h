/*
 * Atomic accesses named by their order. Each use that synchronises carries a label at the
 * call (see the table of edges in wire/ring.h) and names its partner.
 *
 * They work on plain integers so that the same structures can be laid out in shared memory
 * and inspected without atomics by tests.
 */
#ifndef MT_BASE_ATOMICS_H
#define MT_BASE_ATOMICS_H

#define mt_load_relaxed(p) __atomic_load_n((p), __ATOMIC_RELAXED)
#define mt_load_acquire(p) __atomic_load_n((p), __ATOMIC_ACQUIRE)
#define mt_store_relaxed(p, v) __atomic_store_n((p), (v), __ATOMIC_RELAXED)
#define mt_store_release(p, v) __atomic_store_n((p), (v), __ATOMIC_RELEASE)
#define mt_store_seq_cst(p, v) __atomic_store_n((p), (v), __ATOMIC_SEQ_CST)
#define mt_fetch_add_relaxed(p, v) __atomic_fetch_add((p), (v), __ATOMIC_RELAXED)
#define mt_fetch_add_acq_rel(p, v) __atomic_fetch_add((p), (v), __ATOMIC_ACQ_REL)
#define mt_exchange_acquire(p, v) __atomic_exchange_n((p), (v), __ATOMIC_ACQUIRE)
#define mt_exchange_release(p, v) __atomic_exchange_n((p), (v), __ATOMIC_RELEASE)
#define mt_cas_acquire(p, expected, v)                                                                                 \
    __atomic_compare_exchange_n((p), (expected), (v), 0, __ATOMIC_ACQUIRE, __ATOMIC_RELAXED)
#define mt_cas_acq_rel(p, expected, v)                                                                                 \
    __atomic_compare_exchange_n((p), (expected), (v), 0, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE)
#define mt_fence_seq_cst() __atomic_thread_fence(__ATOMIC_SEQ_CST)
#define mt_compiler_fence() __atomic_signal_fence(__ATOMIC_SEQ_CST)

#endif

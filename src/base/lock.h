/*
 * A recursive futex lock for the slow paths of the preloaded side. The holder must have all signals blocked.
 * States: 0 free, 1 held, 2 held with waiters. Lives in memory that is wiped at fork, so a child starts with it free.
 */
#ifndef MT_BASE_LOCK_H
#define MT_BASE_LOCK_H

#include "base/sys.h"

struct mt_lock {
    uint32_t word;
    uint32_t depth;
    uintptr_t owner; /* a thread is known by the address of its own copy of a thread-local variable */
};

/* Defined by the user of locks (initial-exec, so that its address is had without a call). */
extern __thread uint32_t mt_stack_internal __attribute__((tls_model("initial-exec")));

static inline void mt_lock_acquire(struct mt_lock *lock)
{
    uintptr_t self = (uintptr_t)&mt_stack_internal;
    uint32_t expected = 0;

    if (mt_load_relaxed(&lock->owner) == self) {
        lock->depth++;
        return;
    }
    if (!mt_cas_acquire(&lock->word, &expected, 1u)) {
        while (mt_exchange_acquire(&lock->word, 2u) != 0)
            mt_sys_futex_wait(&lock->word, 2, 0, false);
    }
    mt_store_relaxed(&lock->owner, self);
    lock->depth = 1;
}

static inline void mt_lock_release(struct mt_lock *lock)
{
    if (--lock->depth)
        return;
    mt_store_relaxed(&lock->owner, (uintptr_t)0);
    if (mt_exchange_release(&lock->word, 0u) == 2)
        mt_sys_futex_wake(&lock->word, 1, false);
}

#endif

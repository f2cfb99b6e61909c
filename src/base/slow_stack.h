/*
 * The slow paths' own stack. The target's stack may be tiny: a thread of PTHREAD_STACK_MIN, a signal handler on an alternate stack of 2 KiB. Fast
 * paths take a few hundred bytes of it; whatever calls libunwind, the loader or builds paths runs here instead.
 *
 * One stack for the process, so one user at a time: the caller holds the process's lock, with signals blocked. A call from the stack itself
 * (the lock is recursive) just calls. In a forked child it is used from its top again; what was on it belonged to another thread.
 */
#ifndef MT_BASE_SLOW_STACK_H
#define MT_BASE_SLOW_STACK_H

#include "base/compiler.h"

#if defined(__x86_64__)
#include "base/arch/x86_64/call_on.h"
#elif defined(__aarch64__)
#include "base/arch/aarch64/call_on.h"
#endif

#define MT_SLOW_STACK_BYTES 131072u

extern _Alignas(4096) char mt_slow_stack[MT_SLOW_STACK_BYTES] MT_HIDDEN;

static inline void mt_on_slow_stack(void (*function)(void *), void *argument)
{
#ifdef MT_HAS_CALL_ON
    uintptr_t here = (uintptr_t)__builtin_frame_address(0), base = (uintptr_t)mt_slow_stack;

    if (here - base >= MT_SLOW_STACK_BYTES) {
        mt_call_on(mt_slow_stack + MT_SLOW_STACK_BYTES, function, argument);
        return;
    }
#endif
    function(argument);
}

#endif

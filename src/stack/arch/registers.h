/*
 * What a processor's folder gives to the public side of stack/, in its registers.h:
 *
 *   struct mt_registers     pc, sp, bp, and what else a step outwards may need
 *   MT_CALLER_REGISTERS()   of the function in which it is used
 *   MT_CALLER_PC(), MT_CALLER_SP()   of the same, alone, for a prefetch
 *   MT_RA_BELOW_SP          defined where the return address always lies right below the sp that there is after the return
 *
 * The generic folder has no rules: stacks are stepped by libunwind (-Dunwinder=libunwind, or a processor without a folder).
 */
#ifndef MT_STACK_ARCH_REGISTERS_H
#define MT_STACK_ARCH_REGISTERS_H

#if defined(MT_UNWINDER_GENERIC)
#include "stack/arch/generic/registers.h"
#elif defined(__x86_64__)
#include "stack/arch/x86_64/registers.h"
#elif defined(__aarch64__)
#include "stack/arch/aarch64/registers.h"
#else
#error "no unwind rules for this processor: -Dunwinder=libunwind"
#endif

#endif

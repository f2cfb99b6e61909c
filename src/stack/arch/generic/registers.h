/* A caller's registers where nothing is known of the processor. See stack/arch/registers.h. */
#ifndef MT_STACK_ARCH_GENERIC_REGISTERS_H
#define MT_STACK_ARCH_GENERIC_REGISTERS_H

#include <stdint.h>

/* Which frame is the hooked function's caller: the first one with this pc whose stack pointer is not below. */
struct mt_registers {
    uintptr_t pc; /* the address to look up: return address - 1 */
    uintptr_t sp; /* a lower bound */
};

/* The caller of the function in which this is used. */
#define MT_CALLER_REGISTERS() ((struct mt_registers){MT_CALLER_PC(), (uintptr_t)__builtin_frame_address(0)})

#define MT_CALLER_SP() ((uintptr_t)__builtin_frame_address(0))
#define MT_CALLER_PC() ((uintptr_t)__builtin_extract_return_addr(__builtin_return_address(0)) - 1)

#endif

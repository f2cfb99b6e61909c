/* A caller's registers on x86-64. See stack/arch/registers.h. */
#ifndef MT_STACK_ARCH_X86_64_REGISTERS_H
#define MT_STACK_ARCH_X86_64_REGISTERS_H

#include <stdint.h>

/* Registers from which a stack is walked: of the hooked function's caller, right after its call instruction. */
struct mt_registers {
    uintptr_t pc; /* the address to look up: return address - 1 */
    uintptr_t sp; /* stack pointer after the return */
    uintptr_t bp; /* frame pointer register in the caller */
};

/* The caller of the function in which this is used; that function must keep a frame pointer. */
#define MT_CALLER_REGISTERS()                                                                                          \
    ((struct mt_registers){                                                                                            \
        ((uintptr_t *)__builtin_frame_address(0))[1] - 1,                                                              \
        (uintptr_t)__builtin_frame_address(0) + 2 * sizeof(uintptr_t),                                                 \
        ((uintptr_t *)__builtin_frame_address(0))[0],                                                                  \
    })

#define MT_CALLER_PC() (((uintptr_t *)__builtin_frame_address(0))[1] - 1)
#define MT_CALLER_SP() ((uintptr_t)__builtin_frame_address(0) + 2 * sizeof(uintptr_t))

/* A return address lies right below the stack pointer that there is after the return. */
#define MT_RA_BELOW_SP 1

#endif

/* A caller's registers on aarch64. See stack/arch/registers.h. */
#ifndef MT_STACK_ARCH_AARCH64_REGISTERS_H
#define MT_STACK_ARCH_AARCH64_REGISTERS_H

#include <stdint.h>

/* Registers from which a stack is walked: of the hooked function's caller, right after its call instruction. */
struct mt_registers {
    uintptr_t pc; /* the address to look up: return address - 1 */
    uintptr_t sp; /* stack pointer after the return */
    uintptr_t bp; /* x29 in the caller */
    uintptr_t lr; /* x30, where a signal interrupted a function that may not have saved it; 0: not known */
};

/* The stack pointer that the function was entered with; unlike on x86-64 it is at no fixed distance from the frame record. */
#if defined(__clang__)
#define MT_ENTRY_SP() ((uintptr_t)__builtin_sponentry())
#else
#define MT_ENTRY_SP() ((uintptr_t)__builtin_dwarf_cfa())
#endif

/* The caller of the function in which this is used; that function must keep a frame pointer. The compiler strips what signs the address. */
#define MT_CALLER_REGISTERS()                                                                                          \
    ((struct mt_registers){MT_CALLER_PC(), MT_ENTRY_SP(), ((uintptr_t *)__builtin_frame_address(0))[0], 0})

#define MT_CALLER_SP() MT_ENTRY_SP()
#define MT_CALLER_PC() ((uintptr_t)__builtin_extract_return_addr(__builtin_return_address(0)) - 1)

#endif

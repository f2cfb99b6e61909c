/* Registers, signal frames and the choice of libunwind's library for x86-64. */
#ifndef MT_STACK_ARCH_X86_64_REGISTERS_H
#define MT_STACK_ARCH_X86_64_REGISTERS_H

#include <string.h>
#include <ucontext.h>

#include "stack/stack.h"

#define MT_UNWIND_LIBRARY "libunwind-x86_64.so.8"
#define MT_UNWIND_SYMBOL(name) "_Ux86_64_" #name

/* All that unwinding may need, as it is in the calling function. */
struct mt_full_registers {
    uint64_t value[17]; /* by DWARF number: rax rdx rcx rbx rsi rdi rbp rsp r8-r15 rip */
};

#define MT_REG_RBX 3
#define MT_REG_RBP 6
#define MT_REG_RSP 7
#define MT_REG_RIP 16

#define MT_FULL_REGISTERS(out)                                                                                         \
    __asm__ volatile("movq %%rbx, 24(%0); movq %%rbp, 48(%0); movq %%rsp, 56(%0);"                                     \
                     "movq %%r12, 96(%0); movq %%r13, 104(%0); movq %%r14, 112(%0); movq %%r15, 120(%0);"              \
                     "leaq 0(%%rip), %%rax; movq %%rax, 128(%0)"                                                       \
                     :                                                                                                 \
                     : "r"((out)->value)                                                                               \
                     : "rax", "memory")

/* Whether pc + 1 is the kernel's signal return trampoline: mov $15, %rax; syscall (the ABI's rt_sigreturn). The return address of a
 * handler is the trampoline's first byte, so pc is one less. */
static inline bool mt_is_signal_trampoline(uintptr_t pc)
{
    static const unsigned char code[] = {0x48, 0xc7, 0xc0, 0x0f, 0x00, 0x00, 0x00, 0x0f, 0x05};

    return memcmp((const void *)(pc + 1), code, sizeof code) == 0;
}

/* In the trampoline's frame sp points to the ucontext; gives the interrupted registers (pc exact). */
static inline void mt_signal_registers(const struct mt_registers *trampoline, struct mt_registers *ret_interrupted)
{
    const ucontext_t *uc = (const ucontext_t *)trampoline->sp;

    ret_interrupted->pc = (uintptr_t)uc->uc_mcontext.gregs[REG_RIP];
    ret_interrupted->sp = (uintptr_t)uc->uc_mcontext.gregs[REG_RSP];
    ret_interrupted->bp = (uintptr_t)uc->uc_mcontext.gregs[REG_RBP];
}
#define MT_SIGNAL_FRAME_BYTES sizeof(ucontext_t)

#endif

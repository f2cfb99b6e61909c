/* Calling a function on another stack. See base/slow_stack.h. */
#ifndef MT_BASE_ARCH_X86_64_CALL_ON_H
#define MT_BASE_ARCH_X86_64_CALL_ON_H

/* top is aligned to 16. Everything that a call may clobber is; rbx keeps the stack pointer. */
static inline void mt_call_on(void *top, void (*function)(void *), void *argument)
{
    __asm__ volatile("movq %%rsp, %%rbx\n\t"
                     "movq %[top], %%rsp\n\t"
                     "callq *%[function]\n\t"
                     "movq %%rbx, %%rsp"
                     : "+D"(argument)
                     : [top] "r"(top), [function] "r"(function)
                     : "rax", "rbx", "rcx", "rdx", "rsi", "r8", "r9", "r10", "r11", "memory", "cc", "xmm0", "xmm1", "xmm2",
                     "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", "xmm10", "xmm11", "xmm12", "xmm13", "xmm14",
                     "xmm15");
}
#define MT_HAS_CALL_ON 1

#endif

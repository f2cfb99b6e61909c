/* Calling a function on another stack. See base/slow_stack.h. */
#ifndef MT_BASE_ARCH_AARCH64_CALL_ON_H
#define MT_BASE_ARCH_AARCH64_CALL_ON_H

/* top is aligned to 16. Everything that a call may clobber is; x19 keeps the stack pointer. */
static inline void mt_call_on(void *top, void (*function)(void *), void *argument)
{
    register void *x0 __asm__("x0") = argument;

    __asm__ volatile("mov x19, sp\n\t"
                     "mov sp, %[top]\n\t"
                     "blr %[function]\n\t"
                     "mov sp, x19"
                     : "+r"(x0)
                     : [top] "r"(top), [function] "r"(function)
                     : "x1", "x2", "x3", "x4", "x5", "x6", "x7", "x8", "x9", "x10", "x11", "x12", "x13", "x14", "x15", "x16", "x17",
                     "x18", "x19", "x30", "memory", "cc", "v0", "v1", "v2", "v3", "v4", "v5", "v6", "v7", "v8", "v9", "v10", "v11",
                     "v12", "v13", "v14", "v15", "v16", "v17", "v18", "v19", "v20", "v21", "v22", "v23", "v24", "v25", "v26", "v27",
                     "v28", "v29", "v30", "v31");
}
#define MT_HAS_CALL_ON 1

#endif

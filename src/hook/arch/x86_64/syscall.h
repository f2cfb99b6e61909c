/*
 * syscall(): only seccomp() is looked at. All others go on to the real one with registers and stack as they are, for some of them
 * (clone, vfork) return twice.
 */
#ifndef MT_HOOK_ARCH_X86_64_SYSCALL_H
#define MT_HOOK_ARCH_X86_64_SYSCALL_H

#include <sys/syscall.h>

#define MT_TEXT_(x) #x
#define MT_TEXT(x) MT_TEXT_(x)

#define MT_SYSCALL_STUB                                                                                                \
    MT_EXPORT __attribute__((naked)) long syscall(__attribute__((unused)) long number, ...)                            \
    {                                                                                                                  \
        __asm__("endbr64\n\t"                                                                                          \
                "cmpq $" MT_TEXT(__NR_seccomp) ", %rdi\n\t"                                                            \
                "je mt_syscall_here\n\t"                                                                               \
                "movq mt_real_syscall(%rip), %rax\n\t"                                                                 \
                "testq %rax, %rax\n\t"                                                                                 \
                "je mt_syscall_here\n\t"                                                                               \
                "jmp *%rax");                                                                                          \
    }

#endif

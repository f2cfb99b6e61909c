/* The signal return trampoline of x86-64. See stack/arch/rules.h. */
#ifndef MT_STACK_ARCH_X86_64_TRAMPOLINE_H
#define MT_STACK_ARCH_X86_64_TRAMPOLINE_H

#include <stdbool.h>
#include <stdint.h>
#include <string.h>

/* Whether pc + 1 is the kernel's signal return trampoline: mov $15, %rax; syscall (the ABI's rt_sigreturn). The return address of a
 * handler is the trampoline's first byte, so pc is one less. */
static inline bool mt_is_signal_trampoline(uintptr_t pc)
{
    static const unsigned char code[] = {0x48, 0xc7, 0xc0, 0x0f, 0x00, 0x00, 0x00, 0x0f, 0x05};

    return memcmp((const void *)(pc + 1), code, sizeof code) == 0;
}
#define MT_HAS_SIGNAL_TRAMPOLINE 1

#endif

/*
 * Where nothing is known of the processor a rule is the frame id, and of which kind the frame is. See stack/arch/rules.h.
 *   bits 0-2    kind: COMPLEX, END, CUT or ALONE
 *   bits 32-63  frame id
 */
#ifndef MT_STACK_ARCH_GENERIC_RULES_H
#define MT_STACK_ARCH_GENERIC_RULES_H

static inline mt_rule mt_rule_make(const struct mt_learnt *learnt, uint32_t frame)
{
    return (uint64_t)learnt->kind | (uint64_t)frame << 32;
}

static inline enum mt_rule_kind mt_rule_kind(mt_rule rule)
{
    return (enum mt_rule_kind)(rule & 7);
}

static inline uint32_t mt_rule_frame(mt_rule rule)
{
    return (uint32_t)(rule >> 32);
}

static inline uint64_t mt_rule_pack(mt_rule rule)
{
    (void)rule;
    return 0;
}

static inline mt_rule mt_rule_unpack(uint64_t packed)
{
    return packed & 0;
}

static inline uintptr_t mt_code_address(uintptr_t word)
{
    return (uintptr_t)__builtin_extract_return_addr((void *)word);
}

/* libunwind says of a frame that it is the trampoline's; on x86-64 it says so of the next one. */
#if defined(__x86_64__)
#include "stack/arch/x86_64/trampoline.h"
#else
static inline bool mt_is_signal_trampoline(uintptr_t pc)
{
    (void)pc;
    return false;
}
#endif

#endif

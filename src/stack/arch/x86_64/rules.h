/*
 * Rules, signal frames and registers of x86-64. See stack/arch/rules.h.
 *
 * The return address lies right below the CFA, always. A rule:
 *   bits 0-2    kind
 *   bits 3-12   where the frame pointer is saved, in words from the CFA (signed; 0: not saved, keep it)
 *   bits 13-31  offset of the CFA from its register, in words (signed)
 *   bits 32-63  frame id
 */
#ifndef MT_STACK_ARCH_X86_64_RULES_H
#define MT_STACK_ARCH_X86_64_RULES_H

#include <string.h>
#include <ucontext.h>

#include "stack/arch/x86_64/trampoline.h"

static MT_ALWAYS_INLINE mt_rule mt_rule_of_words(uint64_t kind, int64_t bp_words, int64_t cfa_words, uint32_t frame)
{
    return kind | ((uint64_t)(bp_words & 0x3ff) << 3) | ((uint64_t)(cfa_words & 0x7ffff) << 13) | ((uint64_t)frame << 32);
}

static inline mt_rule mt_rule_make(const struct mt_learnt *learnt, uint32_t frame)
{
    return mt_rule_of_words(learnt->kind, learnt->bp_words, learnt->cfa_words, frame);
}

static inline bool mt_rule_fits(const struct mt_learnt *learnt)
{
    return learnt->ra_words == -1 && learnt->bp_words >= -512 && learnt->bp_words < 512 && learnt->cfa_words >= -262144 &&
           learnt->cfa_words < 262144;
}

static MT_ALWAYS_INLINE enum mt_rule_kind mt_rule_kind(mt_rule rule)
{
    return (enum mt_rule_kind)(rule & 7);
}

static MT_ALWAYS_INLINE uint32_t mt_rule_frame(mt_rule rule)
{
    return (uint32_t)(rule >> 32);
}

static MT_ALWAYS_INLINE int64_t mt_rule_cfa_bytes(mt_rule rule)
{
    return ((int64_t)(rule << 32) >> 45) * (int64_t)sizeof(uintptr_t);
}

static MT_ALWAYS_INLINE int64_t mt_rule_ra_bytes(mt_rule rule)
{
    (void)rule;
    return -(int64_t)sizeof(uintptr_t);
}

static MT_ALWAYS_INLINE int64_t mt_rule_bp_bytes(mt_rule rule)
{
    return ((int64_t)(rule << 51) >> 54) * (int64_t)sizeof(uintptr_t);
}

/* Bits 0-1 kind, 2-5 bp words (negated), 6-14 CFA words, 15-29 frame. */
static inline uint64_t mt_rule_pack(mt_rule rule)
{
    int64_t bp_words = -mt_rule_bp_bytes(rule) / (int64_t)sizeof(uintptr_t), cfa_words = mt_rule_cfa_bytes(rule) / (int64_t)sizeof(uintptr_t);
    enum mt_rule_kind kind = mt_rule_kind(rule);

    if ((kind != MT_RULE_SP && kind != MT_RULE_BP && kind != MT_RULE_END) || bp_words < 0 || bp_words >= 16 || cfa_words < 0 ||
        cfa_words >= 512 || mt_rule_frame(rule) >= 0x8000)
        return 0;
    return (uint64_t)mt_rule_frame(rule) << 15 | (uint64_t)cfa_words << 6 | (uint64_t)bp_words << 2 | kind;
}

static MT_ALWAYS_INLINE mt_rule mt_rule_unpack(uint64_t packed)
{
    return mt_rule_of_words(
        packed & 3, -(int64_t)((packed >> 2) & 15), (int64_t)((packed >> 6) & 511), (uint32_t)(packed >> 15) & 0x7fff);
}

/* What a word that holds a return address says. */
static MT_ALWAYS_INLINE uintptr_t mt_code_address(uintptr_t word)
{
    return word;
}

static MT_ALWAYS_INLINE bool mt_rule_is_guess(mt_rule rule, bool interrupted)
{
    (void)rule;
    (void)interrupted;
    return false;
}

static MT_ALWAYS_INLINE uintptr_t mt_take_link_register(struct mt_registers *r)
{
    (void)r;
    return 0;
}

#define MT_FRAME_POINTER_GIVES_SP true

#define MT_REG_BP 6
#define MT_REG_SP 7
#define MT_REG_PC 16
#define MT_UNWIND_REGISTERS 17

/* All that unwinding may need, as it is in the calling function, by number: rax rdx rcx rbx rsi rdi rbp rsp r8-r15 rip. */
struct mt_full_registers {
    uint64_t value[MT_UNWIND_REGISTERS];
};

#define MT_FULL_REGISTERS(out)                                                                                         \
    __asm__ volatile("movq %%rbx, 24(%0); movq %%rbp, 48(%0); movq %%rsp, 56(%0);"                                     \
                     "movq %%r12, 96(%0); movq %%r13, 104(%0); movq %%r14, 112(%0); movq %%r15, 120(%0);"              \
                     "leaq 0(%%rip), %%rax; movq %%rax, 128(%0)"                                                       \
                     :                                                                                                 \
                     : "r"((out)->value)                                                                               \
                     : "rax", "memory")

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

/*
 * Rules, signal frames and registers of aarch64. See stack/arch/rules.h.
 *
 * The return address lies where the function put x30: mostly in a frame record {x29, x30} at the register that the CFA hangs on, or right
 * below the CFA. It is given from that register, so that it is a small number in either kind of frame. A rule:
 *   bits 0-2    kind
 *   bit  3      x29 is saved in the word below the return address
 *   bit  4      the return address is in x30
 *   bits 5-17   its slot, in words from the register that the CFA hangs on
 *   bits 18-31  offset of the CFA from that register, in words
 *   bits 32-63  frame id
 */
#ifndef MT_STACK_ARCH_AARCH64_RULES_H
#define MT_STACK_ARCH_AARCH64_RULES_H

#include <signal.h>
#include <string.h>
#include <ucontext.h>

#include "stack/arch/aarch64/trampoline.h"

#define MT_RULE_BP_SAVED (UINT64_C(1) << 3)
#define MT_RULE_LINK (UINT64_C(1) << 4)

static inline mt_rule mt_rule_make(const struct mt_learnt *learnt, uint32_t frame)
{
    uint64_t rule = (uint64_t)learnt->kind | (uint64_t)frame << 32 | (uint64_t)learnt->cfa_words << 18;

    if (learnt->ra_words)
        rule |= (uint64_t)(learnt->cfa_words + learnt->ra_words) << 5;
    else
        rule |= MT_RULE_LINK;
    return learnt->bp_words ? rule | MT_RULE_BP_SAVED : rule;
}

static inline bool mt_rule_fits(const struct mt_learnt *learnt)
{
    int64_t slot = learnt->cfa_words + learnt->ra_words;

    if (learnt->cfa_words < 0 || learnt->cfa_words >= 16384 || slot < 0)
        return false;
    if (!learnt->ra_words)
        return learnt->bp_words == 0;
    return learnt->ra_words < 0 && slot < 8192 && (learnt->bp_words == 0 || learnt->bp_words == learnt->ra_words - 1);
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
    return (int64_t)((rule >> 18) & 0x3fff) * (int64_t)sizeof(uintptr_t);
}

static MT_ALWAYS_INLINE int64_t mt_rule_ra_bytes(mt_rule rule)
{
    return rule & MT_RULE_LINK ? 0 : (int64_t)((rule >> 5) & 0x1fff) * (int64_t)sizeof(uintptr_t) - mt_rule_cfa_bytes(rule);
}

static MT_ALWAYS_INLINE int64_t mt_rule_bp_bytes(mt_rule rule)
{
    return rule & MT_RULE_BP_SAVED ? mt_rule_ra_bytes(rule) - (int64_t)sizeof(uintptr_t) : 0;
}

/* Bits 0-1 kind, 2 x29 is saved, 3-5 slot, 6-14 CFA words, 15-29 frame. */
static inline uint64_t mt_rule_pack(mt_rule rule)
{
    uint64_t slot = (rule >> 5) & 0x1fff, cfa_words = (rule >> 18) & 0x3fff;
    enum mt_rule_kind kind = mt_rule_kind(rule);

    if (kind == MT_RULE_END)
        return mt_rule_frame(rule) < 0x8000 ? (uint64_t)mt_rule_frame(rule) << 15 | kind : 0;
    if ((kind != MT_RULE_SP && kind != MT_RULE_BP) || (rule & MT_RULE_LINK) || slot >= 8 || cfa_words >= 512 || mt_rule_frame(rule) >= 0x8000)
        return 0;
    return (uint64_t)mt_rule_frame(rule) << 15 | cfa_words << 6 | slot << 3 | (rule & MT_RULE_BP_SAVED) >> 1 | kind;
}

static MT_ALWAYS_INLINE mt_rule mt_rule_unpack(uint64_t packed)
{
    return (packed & 3) | (packed & 4) << 1 | (packed & 0x38) << 2 | (packed & 0x7fc0) << 12 | ((packed >> 15) & 0x7fff) << 32;
}

/* What a word that holds a return address says: without the bits that sign it (xpaclri; a hint, so older processors pass over it). */
static MT_ALWAYS_INLINE uintptr_t mt_code_address(uintptr_t word)
{
    register uintptr_t x30 __asm__("x30") = word;

    __asm__("hint #7" : "+r"(x30));
    return x30;
}

/*
 * A function that has called another one has saved x30. Where libunwind says that it has not, it has not understood the function's call frame
 * information (1.6 does not know that return addresses can be signed), and guesses: the frame record is better.
 */
static MT_ALWAYS_INLINE bool mt_rule_is_guess(mt_rule rule, bool interrupted)
{
    return (mt_rule_kind(rule) == MT_RULE_SP || mt_rule_kind(rule) == MT_RULE_BP) && (rule & MT_RULE_LINK) && !interrupted;
}

/* It is good once: for the function that was interrupted. */
static MT_ALWAYS_INLINE uintptr_t mt_take_link_register(struct mt_registers *r)
{
    uintptr_t lr = r->lr;

    r->lr = 0;
    return lr;
}

/* The frame record may be anywhere in its frame. */
#define MT_FRAME_POINTER_GIVES_SP false

#define MT_REG_BP 29
#define MT_REG_LINK 30
#define MT_REG_SP 31
#define MT_REG_PC 32
#define MT_UNWIND_REGISTERS 33

/* All that unwinding may need, as it is in the calling function, by number: x0-x30 sp pc. */
struct mt_full_registers {
    uint64_t value[MT_UNWIND_REGISTERS];
};

#define MT_FULL_REGISTERS(out)                                                                                         \
    __asm__ volatile("stp x19, x20, [%0, #152]\n\tstp x21, x22, [%0, #168]\n\tstp x23, x24, [%0, #184]\n\t"            \
                     "stp x25, x26, [%0, #200]\n\tstp x27, x28, [%0, #216]\n\tstp x29, x30, [%0, #232]\n\t"            \
                     "mov x9, sp\n\tadr x10, .\n\tstp x9, x10, [%0, #248]"                                             \
                     :                                                                                                 \
                     : "r"((out)->value)                                                                               \
                     : "x9", "x10", "memory")

/* In the trampoline's frame sp points to the siginfo, and behind it is the ucontext; gives the interrupted registers (pc exact). */
static inline void mt_signal_registers(const struct mt_registers *trampoline, struct mt_registers *ret_interrupted)
{
    const ucontext_t *uc = (const ucontext_t *)(trampoline->sp + sizeof(siginfo_t));

    ret_interrupted->pc = uc->uc_mcontext.pc;
    ret_interrupted->sp = uc->uc_mcontext.sp;
    ret_interrupted->bp = uc->uc_mcontext.regs[29];
    ret_interrupted->lr = uc->uc_mcontext.regs[30];
}
#define MT_SIGNAL_FRAME_BYTES (sizeof(siginfo_t) + offsetof(ucontext_t, uc_mcontext.pstate))

#endif

/*
 * What a processor's folder gives to the files of stack/, in its rules.h:
 *
 *   mt_rule_make, mt_rule_fits             a rule, packed so that it is read and replaced in one access; what does not fit is COMPLEX
 *   mt_rule_kind, mt_rule_frame            parts of it: the kind is in bits 0-2, the frame in bits 32-63
 *   mt_rule_cfa_bytes                      the CFA from its register
 *   mt_rule_ra_bytes                       the return address's slot from the CFA; 0: it is in the link register
 *   mt_rule_bp_bytes                       the frame pointer's slot from the CFA; 0: not saved
 *   mt_rule_pack, mt_rule_unpack           a common rule in 30 bits, its kind in bits 0-1; 0: not a common one
 *   mt_rule_is_guess                       follow the frame pointer instead; interrupted: a signal was next
 *   mt_code_address, mt_take_link_register
 *   MT_FRAME_POINTER_GIVES_SP              a chain of frame pointers tells the stack pointer too
 *   MT_UNWIND_REGISTERS, MT_REG_*          registers by libunwind's numbers; struct mt_full_registers, MT_FULL_REGISTERS
 *   mt_is_signal_trampoline, mt_signal_registers, MT_SIGNAL_FRAME_BYTES
 *
 * The generic folder has of these only mt_rule_make, _kind, _frame, _pack and _unpack, mt_code_address and mt_is_signal_trampoline.
 */
#ifndef MT_STACK_ARCH_RULES_H
#define MT_STACK_ARCH_RULES_H

#if defined(MT_UNWINDER_GENERIC)
#include "stack/arch/generic/rules.h"
#elif defined(__x86_64__)
#include "stack/arch/x86_64/rules.h"
#elif defined(__aarch64__)
#include "stack/arch/aarch64/rules.h"
#endif

#endif

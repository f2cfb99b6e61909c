/*
 * Asking libunwind for the rule of a pc: a cursor is stepped from that pc. Registers are made up; words of the made-up stacks are
 * tokens, functions of their address; only the object's own bytes (unwind tables) are real. Made-up registers, and tokens, are so far apart that the
 * register that the CFA hangs on is the one that it is near: a rule's distances are small (mt_rule_fits). The return address must be the token of a
 * word at such a distance from the CFA, or what was in the link register, and the save location of bp tells its slot. Whatever does not fit this pattern
 * is COMPLEX.
 */
#include <stdlib.h>
#include <string.h>

#include "stack/unwinder.h"

#define SP UINT64_C(0x0000650000000000)
#define BP (SP + UINT64_C(0x100000000))

struct outcome {
    int step; /* > 0: there is an outer frame, 0: outermost, < 0: failed */
    bool found;
    uint64_t cfa, ip;
    unw_save_loc_t bp;
};

static uint64_t made_up_register(unsigned number)
{
    return UINT64_C(0x3300000000000000) + number * 0x1000003u;
}

static void step_made_up(struct mt_stack *stack, uintptr_t pc, struct outcome *ret)
{
    struct mt_unwind_target target;
    unw_cursor_t cursor;
    unw_word_t value;

    memset(&target, 0, sizeof target);
    memset(ret, 0, sizeof *ret);
    target.made_up = true;
    target.learns = stack;
    for (unsigned i = 0; i < MT_UNWIND_REGISTERS; i++)
        target.registers[i] = made_up_register(i);
    target.registers[MT_REG_PC] = pc;
    target.registers[MT_REG_SP] = target.sp_base = SP;
    target.registers[MT_REG_BP] = target.bp_base = BP;
    mt_unwind_open_object(&target, pc);
    ret->step = -1;
    if (mt_unwinder.init_remote(&cursor, mt_unwinder.space, &target) < 0)
        return;
    ret->step = mt_unwinder.step(&cursor);
    ret->found = target.found;
    if (ret->step <= 0)
        return;
    if (mt_unwinder.get_reg(&cursor, UNW_REG_SP, &value) < 0)
        ret->step = -1;
    ret->cfa = value;
    if (mt_unwinder.get_reg(&cursor, UNW_REG_IP, &value) < 0)
        ret->step = -1;
    ret->ip = mt_code_address(value);
    if (mt_unwinder.get_save_loc(&cursor, MT_REG_BP, &ret->bp) < 0)
        ret->step = -1;
}

#define ADDRESS_BITS (UINT64_MAX >> 16)

/* bp's slot relative to the CFA, in words; 0: kept in its register. False where it is neither. */
static bool bp_slot(const struct outcome *o, int64_t *ret_words)
{
    int64_t distance = (int64_t)(o->bp.u.addr - o->cfa);

    if (o->bp.type == UNW_SLT_NONE || o->bp.type == UNW_SLT_REG) {
        *ret_words = 0;
        return true;
    }
    if (distance % 8 || distance == 0)
        return false;
    *ret_words = distance / 8;
    return true;
}

/*
 * Where the return address was found: a word of the made-up stack tells its address, of which the upper bits are not all there where an
 * address can be signed. 0: in the link register. False where it is neither.
 */
static bool ra_slot(const struct outcome *o, int64_t *ret_words)
{
    int64_t distance = (int64_t)((mt_unwind_token(o->ip) & ADDRESS_BITS) - o->cfa);

#if defined(MT_REG_LINK)
    if (o->ip == mt_code_address(made_up_register(MT_REG_LINK))) {
        *ret_words = 0;
        return true;
    }
#endif
    if (distance % 8 || distance == 0 || o->ip != mt_code_address(mt_unwind_token(o->cfa + (uint64_t)distance)))
        return false;
    *ret_words = distance / 8;
    return true;
}

void mt_learn(struct mt_stack *stack, uintptr_t pc, struct mt_learnt *ret_learnt)
{
    struct outcome o;
    struct mt_learnt fits;
    int64_t from_sp, from_bp, offset;

    memset(ret_learnt, 0, sizeof *ret_learnt);
    step_made_up(stack, pc, &o);
    if (!o.found) {
        /*
         * No call returns to the first byte of a function with nothing known of the byte before it. The root of a made-up stack does: makecontext()'s
         * is __start_context.
         */
        step_made_up(stack, pc + 1, &o);
        ret_learnt->kind = o.found ? MT_RULE_END : MT_RULE_CUT;
        return;
    }
    if (o.step == 0) {
        ret_learnt->kind = MT_RULE_END;
        return;
    }
    ret_learnt->kind = MT_RULE_COMPLEX;
    if (o.step < 0 || !ra_slot(&o, &fits.ra_words) || !bp_slot(&o, &fits.bp_words))
        return;
    from_sp = (int64_t)(o.cfa - SP);
    from_bp = (int64_t)(o.cfa - BP);
    fits.kind = llabs(from_sp) < llabs(from_bp) ? MT_RULE_SP : MT_RULE_BP;
    offset = fits.kind == MT_RULE_SP ? from_sp : from_bp;
    fits.cfa_words = offset / 8;
    if (offset % 8 == 0 && mt_rule_fits(&fits))
        *ret_learnt = fits;
}

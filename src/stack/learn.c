/*
 * Asking libunwind for the rule of a pc: a cursor is stepped twice from that pc. Registers are made up; words of the made-up stacks are
 * tokens, functions of their address; only the object's own bytes (unwind tables) are real. The second run moves sp and bp by different
 * distances: what the new sp moved with is the register that the CFA hangs on. The return address must be the token of a word at a fixed
 * distance from the CFA, or what was in the link register, and the save location of bp tells its slot. Whatever does not fit this pattern
 * is COMPLEX.
 */
#include <string.h>

#include "stack/unwinder.h"

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

static void step_made_up(struct mt_stack *stack, uintptr_t pc, uintptr_t sp, uintptr_t bp, struct outcome *ret)
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
    target.registers[MT_REG_SP] = target.sp_base = sp;
    target.registers[MT_REG_BP] = target.bp_base = bp;
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

#define SP1 UINT64_C(0x0000650000000000)
#define SP2 (SP1 + UINT64_C(0x40000010))
#define BP1 (SP1 + UINT64_C(0x100000000))
#define BP2 (BP1 + UINT64_C(0x80000020))

#define ADDRESS_BITS (UINT64_MAX >> 16)

/* bp's slot relative to the CFA, in words; 0: kept in its register. False where it is neither. */
static bool bp_slot(const struct outcome *a, const struct outcome *b, int64_t *ret_words)
{
    int64_t da, db;

    if (a->bp.type != b->bp.type)
        return false;
    if (a->bp.type == UNW_SLT_NONE || a->bp.type == UNW_SLT_REG) {
        *ret_words = 0;
        return true;
    }
    da = (int64_t)(a->bp.u.addr - a->cfa);
    db = (int64_t)(b->bp.u.addr - b->cfa);
    if (da != db || da % 8 || da == 0)
        return false;
    *ret_words = da / 8;
    return true;
}

/*
 * Where the return address was found: a word of the made-up stack tells its address, of which the upper bits are not all there where an
 * address can be signed. 0: in the link register. False where it is neither.
 */
static bool ra_slot(const struct outcome *a, const struct outcome *b, int64_t *ret_words)
{
    int64_t da, db;

#if defined(MT_REG_LINK)
    if (a->ip == mt_code_address(made_up_register(MT_REG_LINK))) {
        *ret_words = 0;
        return b->ip == a->ip;
    }
#endif
    da = (int64_t)((mt_unwind_token(a->ip) & ADDRESS_BITS) - a->cfa);
    db = (int64_t)((mt_unwind_token(b->ip) & ADDRESS_BITS) - b->cfa);
    if (da != db || da % 8 || da == 0 || a->ip != mt_code_address(mt_unwind_token(a->cfa + (uint64_t)da)) ||
        b->ip != mt_code_address(mt_unwind_token(b->cfa + (uint64_t)db)))
        return false;
    *ret_words = da / 8;
    return true;
}

void mt_learn(struct mt_stack *stack, uintptr_t pc, struct mt_learnt *ret_learnt)
{
    struct outcome a, b;
    struct mt_learnt fits;
    int64_t offset;

    memset(ret_learnt, 0, sizeof *ret_learnt);
    step_made_up(stack, pc, SP1, BP1, &a);
    if (!a.found) {
        /*
         * No call returns to the first byte of a function with nothing known of the byte before it. The root of a made-up stack does: makecontext()'s
         * is __start_context.
         */
        step_made_up(stack, pc + 1, SP1, BP1, &a);
        ret_learnt->kind = a.found ? MT_RULE_END : MT_RULE_CUT;
        return;
    }
    if (a.step == 0) {
        ret_learnt->kind = MT_RULE_END;
        return;
    }
    ret_learnt->kind = MT_RULE_COMPLEX;
    if (a.step < 0)
        return;
    step_made_up(stack, pc, SP2, BP2, &b);
    if (b.step <= 0 || !ra_slot(&a, &b, &fits.ra_words) || !bp_slot(&a, &b, &fits.bp_words))
        return;
    if (a.cfa - SP1 == b.cfa - SP2) {
        fits.kind = MT_RULE_SP;
        offset = (int64_t)(a.cfa - SP1);
    } else if (a.cfa - BP1 == b.cfa - BP2) {
        fits.kind = MT_RULE_BP;
        offset = (int64_t)(a.cfa - BP1);
    } else {
        return;
    }
    fits.cfa_words = offset / 8;
    if (offset % 8 == 0 && mt_rule_fits(&fits))
        *ret_learnt = fits;
}

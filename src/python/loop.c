/*
 * Where the interpreter's loop is. The symbol _PyEval_EvalFrameDefault may be a small part of it: compilers put what they think unlikely elsewhere, and a loop of
 * tail calls is many functions.
 *
 * What the loop enters from C is a frame of its own on the native stack (3.13 on; before, a structure that the thread state points to), so the native
 * frame around that address is the loop, whatever its name. Its extent is told by the object's table of unwind information, where each
 * function, and each part of one, has an entry.
 */
#include <dlfcn.h>
#include <string.h>

#include "python/frames.h"

/* .eh_frame_hdr as linkers write it: version 1, encodings 1b 03 3b, then pairs of 32-bit offsets from the header, sorted. */
static bool part_of(uintptr_t pc, struct mt_code_range *ret)
{
    struct dl_find_object object;
    const unsigned char *header;
    uint32_t count, low = 0;
    const int32_t *table;

    if (_dl_find_object((void *)pc, &object) != 0 || !object.dlfo_eh_frame)
        return false;
    header = object.dlfo_eh_frame;
    if (header[0] != 1 || header[1] != 0x1b || header[2] != 0x03 || header[3] != 0x3b)
        return false;
    memcpy(&count, header + 8, sizeof count);
    table = (const int32_t *)(header + 12);
    for (uint32_t high = count; high - low > 1;) {
        uint32_t middle = low + (high - low) / 2;

        if ((uintptr_t)(header + table[2 * middle]) <= pc)
            low = middle;
        else
            high = middle;
    }
    if (low + 1 >= count)
        return false;
    ret->start = (uintptr_t)(header + table[2 * low]);
    ret->end = (uintptr_t)(header + table[2 * (low + 1)]);
    return pc >= ret->start && pc < ret->end;
}

static uintptr_t entry_address(const struct mt_python_thread *thread)
{
    const struct mt_python_offsets *o = &mt_python_here.offsets;
    const char *holder;

    if (o->tstate_cframe) {
        holder = mt_python_here.this_thread();
        return holder ? (uintptr_t)mt_python_pointer(holder, o->tstate_cframe) : 0;
    }
    for (size_t i = thread->count; i > 0; i--) {
        const char *frame = thread->places_kept ? thread->places[i].previous : thread->states[i - 1].frame;

        if ((unsigned char)frame[o->frame_owner] >= MT_PYTHON_OWNER_INTERPRETER)
            return (uintptr_t)frame;
    }
    return 0;
}

static bool same_object(uintptr_t a, uintptr_t b)
{
    struct dl_find_object x, y;

    return _dl_find_object((void *)a, &x) == 0 && _dl_find_object((void *)b, &y) == 0 && x.dlfo_link_map == y.dlfo_link_map;
}

bool MT_COLD mt_python_find_loop(struct mt_stack *stack, struct mt_stack_thread *stack_thread,
    const struct mt_python_thread *thread, const struct mt_registers *caller)
{
    struct mt_python_interpreter *here = &mt_python_here;
    uintptr_t address = entry_address(thread), pc;
    struct mt_code_range part;
    uint64_t signals;
    bool found = false;

    mt_fetch_add_relaxed(&here->loop_searches, 1u);
    pc = address ? mt_stack_pc_at(stack, stack_thread, caller, address) : 0;
    if (!pc || !same_object(pc, (uintptr_t)here->this_thread) || !part_of(pc, &part))
        return false;
    mt_sys_signals_block(&signals);
    mt_lock_acquire(stack->lock);
    for (unsigned i = 0; i < MT_PYTHON_LOOP_PARTS && !found; i++) {
        if (here->loop[i].end && pc >= here->loop[i].start && pc < here->loop[i].end)
            break;
        if (here->loop[i].end)
            continue;
        mt_store_relaxed(&here->loop[i].start, part.start);
        mt_store_release(&here->loop[i].end, part.end);
        stack->writer->header->python_loop[i][0] = part.start;
        mt_store_release(&stack->writer->header->python_loop[i][1], (uint64_t)part.end);
        mt_fetch_add_acq_rel(&stack->rule_generation, 1u); /* what is known of inner stacks is made anew */
        found = true;
    }
    mt_lock_release(stack->lock);
    mt_sys_signals_restore(&signals);
    return found;
}

void MT_COLD mt_python_find_loop_if_new(struct mt_stack *stack, struct mt_stack_thread *stack_thread,
    const struct mt_python_thread *thread, const struct mt_registers *caller)
{
    if (mt_load_relaxed(&mt_python_here.loop_searches) < MT_PYTHON_LOOP_SEARCHES)
        mt_python_find_loop(stack, stack_thread, thread, caller);
}

void MT_COLD mt_python_check_loop(struct mt_stack *stack, struct mt_stack_thread *stack_thread, struct mt_python_thread *thread,
    const struct mt_registers *caller)
{
    uint32_t number;
    bool is_new;

    mt_fetch_add_relaxed(&mt_python_here.loop_searches, 1u);
    if (!mt_stack_walk_inner(stack, stack_thread, caller, mt_python_here.loop, &thread->rules, &number, &is_new))
        mt_python_find_loop(stack, stack_thread, thread, caller);
}

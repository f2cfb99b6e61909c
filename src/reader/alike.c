/*
 * Frames that tell no callsites apart, told so before they become nodes: what a Python program does is seen at hundreds of thousands of places, of which
 * there are a few for each that a reader of the database could tell from another.
 *
 *   a Python frame    is the first one of its code with the same line
 *   an inner stack's  in the interpreter itself is left out (MEMTRACE_INTERNALS=1 keeps it), as merge.c would
 */
#include <errno.h>
#include <string.h>

#include "reader/map.h"
#include "reader/python.h"

static int python_frame(struct target *target, size_t frame)
{
    struct tables *t = &target->tables;
    const struct mt_store_frame *f = &t->frames[frame];
    bool has_line = f->module < t->code_count && f->offset != MT_FRAME_NO_INSTRUCTION;
    int64_t line = has_line ? python_code_line(&t->codes[f->module], f->offset) : 0;
    uint64_t key = (uint64_t)f->module << 33 | (uint64_t)line << 1 | !!(f->flags & MT_FRAME_ENTRY);
    struct slot *slot = map_slot(&t->lines, key);

    if (!slot)
        return -ENOMEM;
    if (!slot->value)
        fill(&t->lines, slot, key, frame);
    t->alike[frame] = slot->value - 1;
    return 0;
}

int python_alike_update(struct target *target)
{
    struct tables *t = &target->tables;
    int r = tables_update(target);

    if (r < 0 || !t->interpreter_known)
        return r;
    if (!reserve((void **)&t->alike, &t->alike_capacity, t->frame_count, sizeof(*t->alike)))
        return -ENOMEM;
    for (; t->alike_count < t->frame_count && r == 0; t->alike_count += r == 0) {
        size_t i = t->alike_count;
        const struct mt_store_frame *f = &t->frames[i];

        if (f->flags & MT_FRAME_PYTHON)
            r = python_frame(target, i);
        else
            t->alike[i] = t->modules[f->module].flags & READER_MODULE_PYTHON && !python_keeps_internals() ? FRAME_LEFT_OUT : (uint32_t)i;
    }
    return r;
}

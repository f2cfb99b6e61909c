/*
 * Reading a frame that was not met before, with what it takes to believe it.
 */
#include "python/frames.h"

#define DISTRUST_MAX 16u
#define FRAME_BYTES 80u
#define CODE_BYTES 240u

static bool span_is_readable(const char *p, size_t bytes)
{
    return ((uintptr_t)p & (sizeof(void *) - 1)) == 0 && mt_sys_readable(p) &&
           mt_sys_readable((const char *)((uintptr_t)(p + bytes - 1) & ~(uintptr_t)7));
}

/* Whether a frame is what the offsets make of it, asked of the kernel pointer by pointer. */
static MT_COLD bool probe(struct mt_python *python, const char *frame)
{
    const struct mt_python_offsets *o = &mt_python_here.offsets;
    const char *code, *previous;

    mt_fetch_add_relaxed(&python->probed, 1u);
    if (!span_is_readable(frame, FRAME_BYTES))
        return false;
    previous = mt_python_pointer(frame, o->frame_previous);
    if (previous && !span_is_readable(previous, FRAME_BYTES))
        return false;
    if ((unsigned char)frame[o->frame_owner] >= MT_PYTHON_OWNER_INTERPRETER)
        return true;
    code = mt_python_code_of(frame);
    if (!span_is_readable(code, CODE_BYTES))
        return false;
    return span_is_readable(mt_python_pointer(code, o->code_lines), 48) &&
           span_is_readable(mt_python_pointer(code, o->code_filename), 64) &&
           span_is_readable(mt_python_pointer(code, o->code_qualname), 64);
}

MT_COLD void mt_python_distrust(struct mt_python *python, struct mt_stack *stack)
{
    if (mt_fetch_add_relaxed(&python->distrusted, 1u) + 1 < DISTRUST_MAX)
        mt_writer_lost(stack->writer, MT_LOSS_PYTHON_CODE, 1);
    else if (mt_python_here.known) {
        mt_python_here.known = false;
        mt_fetch_add_acq_rel(&mt_python_epoch, 1u); /* P5 */
        mt_writer_lost(stack->writer, MT_LOSS_PYTHON_VERSION, 1);
    }
}

bool mt_python_read_frame(struct mt_python *python, struct mt_stack *stack, const char *frame, struct mt_python_state *s)
{
    const struct mt_python_offsets *o = &mt_python_here.offsets;
    unsigned owner;
    const char *code;
    uint64_t first;

    if (MT_UNLIKELY(mt_python_is_probing(python)) && !probe(python, frame))
        return false;
    owner = (unsigned char)frame[o->frame_owner];
    s->frame = frame;
    s->code = mt_python_pointer(frame, o->frame_code);
    s->instruction = mt_python_pointer(frame, o->frame_instruction);
    s->previous = mt_python_pointer(frame, o->frame_previous);
    s->is_code = owner < MT_PYTHON_OWNER_INTERPRETER;
    s->is_complete = s->is_lasting = false;
    if (!s->is_code)
        return true;
    code = mt_python_code_of(frame);
    if (MT_UNLIKELY(!code || mt_python_pointer(code, o->object_type) != mt_python_here.code_type))
        return false;
    s->proof = mt_python_proof(o, code);
    first = (uintptr_t)code + o->code_bytecode + 2 * (uintptr_t)*(const int *)(code + o->code_first_traceable);
    s->is_complete = owner == MT_PYTHON_OWNER_GENERATOR || o->frame_tlbc || (uintptr_t)s->instruction >= first;
    if (!s->is_complete)
        return true;
    s->is_lasting = (uintptr_t)s->instruction >= first;
    return mt_python_line(python, stack, code, s->proof, frame, s->instruction, mt_python_is_entry(MT_PYTHON_LAYOUT_OTHER, frame, s->previous), &s->line);
}

/*
 * How a frame of CPython's is looked at. What is asked most often is asked with offsets that the compiler knows: there are two layouts of what matters.
 */
#ifndef MT_PYTHON_FRAMES_H
#define MT_PYTHON_FRAMES_H

#include "base/pair.h"
#include "python/internal.h"

#define MT_PYTHON_OWNER_GENERATOR 1
#define MT_PYTHON_OWNER_INTERPRETER 3 /* from here on: no function's frame */

/* In 3.11 `previous`, the instruction and a word of small things are neighbours, as in a struct mt_python_place. */
enum {
    MT_PYTHON_PLACE_3_11 = 40,
    MT_PYTHON_PREVIOUS_3_11 = 48,
    MT_PYTHON_INSTRUCTION_3_11 = 56,
    MT_PYTHON_STATE_3_11 = 64,
    MT_PYTHON_IS_ENTRY_3_11 = 68,
    MT_PYTHON_PREVIOUS_3_12 = 8,
    MT_PYTHON_INSTRUCTION_3_12 = 56,
};

static MT_ALWAYS_INLINE const char *mt_python_previous(enum mt_python_layout layout, const char *frame)
{
    return mt_python_pointer(frame, layout == MT_PYTHON_LAYOUT_3_11 ? MT_PYTHON_PREVIOUS_3_11 :
                                    layout == MT_PYTHON_LAYOUT_3_12 ? MT_PYTHON_PREVIOUS_3_12 :
                                                                      mt_python_here.offsets.frame_previous);
}

static MT_ALWAYS_INLINE uintptr_t mt_python_instruction(enum mt_python_layout layout, const char *frame)
{
    return (uintptr_t)mt_python_pointer(frame, layout == MT_PYTHON_LAYOUT_3_11 ? MT_PYTHON_INSTRUCTION_3_11 :
                                               layout == MT_PYTHON_LAYOUT_3_12 ? MT_PYTHON_INSTRUCTION_3_12 :
                                                                                 mt_python_here.offsets.frame_instruction);
}

#define MT_PYTHON_STATE_ENTRY UINT64_C(0xff00000000) /* is_entry, a byte */

/* The word with 3.11's flag; 0 where there is none. */
static MT_ALWAYS_INLINE uint64_t mt_python_state_of(enum mt_python_layout layout, const char *frame)
{
    if (layout == MT_PYTHON_LAYOUT_3_11)
        return *(const uint64_t *)(const void *)(frame + MT_PYTHON_STATE_3_11);
    return layout == MT_PYTHON_LAYOUT_OTHER && mt_python_here.offsets.frame_is_entry && frame[mt_python_here.offsets.frame_is_entry] ?
        MT_PYTHON_STATE_ENTRY : 0;
}

/* Called from C, not by the interpreter's loop itself. */
static MT_ALWAYS_INLINE bool mt_python_is_entry(enum mt_python_layout layout, const char *frame, const char *previous)
{
    const struct mt_python_offsets *o = &mt_python_here.offsets;

    if (layout == MT_PYTHON_LAYOUT_3_11 || (layout == MT_PYTHON_LAYOUT_OTHER && o->frame_is_entry))
        return (mt_python_state_of(layout, frame) & MT_PYTHON_STATE_ENTRY) != 0;
    return !previous || (unsigned char)previous[o->frame_owner] >= MT_PYTHON_OWNER_INTERPRETER;
}

static MT_ALWAYS_INLINE const void *mt_python_code_of(const char *frame)
{
    /* The low bits are a tag (3.14). */
    return (const void *)((uintptr_t)mt_python_pointer(frame, mt_python_here.offsets.frame_code) & ~(uintptr_t)3);
}

static MT_ALWAYS_INLINE struct mt_python_hits *mt_python_hits_of(const struct mt_python_thread *thread, uintptr_t instruction)
{
    return &thread->hits[((instruction >> MT_PYTHON_HIT_SPAN_BITS) * UINT64_C(0x9e3779b97f4a7c15)) >> (64 - MT_PYTHON_HIT_BITS)];
}

/* ---- read.c ---- */

/* A frame as it is; of a code object's all that is to be known. */
struct mt_python_state {
    const char *frame;
    const void *instruction, *previous, *code;
    uint64_t proof;   /* that the code object is the one it was (internal.h) */
    uint32_t line;    /* frame of the segment */
    uint32_t depth;   /* states.c: frames of the stack up to this one, inclusive */
    bool is_code;     /* else a frame of the interpreter's own, which has no proof either */
    bool is_complete; /* else a function that has not begun: not part of the stack */
    bool is_lasting;  /* the line hangs on the instruction alone */
};

/* The first frames are read pointer by pointer, with the kernel's word for each that it can be. */
#define MT_PYTHON_PROBE_FRAMES 512u

static MT_ALWAYS_INLINE bool mt_python_is_probing(const struct mt_python *python)
{
    return mt_load_relaxed(&python->probed) < MT_PYTHON_PROBE_FRAMES;
}

/* False: it is not a frame. */
bool mt_python_read_frame(struct mt_python *python, struct mt_stack *stack, const char *frame, struct mt_python_state *ret_state);

/* There was something else than a frame. Often enough, and the interpreter is left alone. */
void mt_python_distrust(struct mt_python *python, struct mt_stack *stack);

/* ---- capture.c ---- */

/* Whether the processor compares whole places (3.11) at once. */
bool mt_python_verifies_wide(void);

/* ---- grow.c ---- */

/* Room for twice as many frames. */
bool mt_python_grow(struct mt_stack *stack, struct mt_python_thread *thread, size_t fresh);

/* ---- states.c: mt_python_capture() where not every code object that is freed is heard of ---- */
bool mt_python_capture_unwatched(struct mt_python *python, struct mt_stack *stack, struct mt_python_thread *thread, const char *frame,
    struct mt_stack_change *ret_change);

#endif

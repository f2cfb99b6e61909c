/*
 * What the files of python/ share among themselves.
 */
#ifndef MT_PYTHON_INTERNAL_H
#define MT_PYTHON_INTERNAL_H

#include "python/python.h"

#define MT_PYTHON_LOOP_SEARCHES 4096u

/* In bytes; 0: there is no such field, where 0 cannot be meant. */
struct mt_python_offsets {
    uint16_t tstate_cframe; /* 3.11, 3.12: the current frame hangs on this structure */
    uint16_t tstate_frame;
    uint16_t frame_code, frame_previous, frame_instruction, frame_owner;
    uint16_t frame_is_entry; /* 3.11: a flag; later an entry is a frame in front of one that the interpreter's loop owns */
    uint16_t frame_tlbc;     /* 3.14t: which copy of the bytecode this thread runs */
    uint16_t code_first_line, code_filename, code_qualname, code_lines, code_bytecode, code_first_traceable;
    uint16_t code_version; /* 3.12 on */
    uint16_t code_tlbc;
    uint16_t object_type, bytes_size, bytes_data;
    uint16_t string_length, string_state, string_ascii, string_compact;
    uint16_t runtime_finalizing, runtime_core_initialized;
    uint16_t string_kind_shift;
    uint32_t string_kind_mask, string_is_compact, string_is_ascii;
};

/* Where in a frame its previous one and its instruction are (frames.h). */
enum mt_python_layout {
    MT_PYTHON_LAYOUT_OTHER = 0, /* as the offsets say */
    MT_PYTHON_LAYOUT_3_11,
    MT_PYTHON_LAYOUT_3_12, /* to 3.14 */
};

/* The interpreter. Written once, before mt_python_present is released; kept across forks. */
struct mt_python_interpreter {
    const char *runtime;
    void *(*this_thread)(void);    /* the calling thread's state, whoever has the lock */
    void *(*running_thread)(void); /* the state of the one that has the lock; NULL: there is no such function. Cheaper */
    const void *code_type;
    void (*get_allocator)(int domain, struct mt_python_allocator *ret);
    void (*set_allocator)(int domain, struct mt_python_allocator *allocator);
    const struct mt_python_allocator *wrapper;
    struct mt_code_range loop[MT_PYTHON_LOOP_PARTS + 1]; /* the interpreter's loop (loop.c); the last is empty */
    uint32_t loop_searches;
    uint32_t version; /* PY_VERSION_HEX; 0: older than 3.11 */
    bool known;       /* offsets are good */
    bool late;        /* it came by a dlopen, and may go again */
    bool free_threaded;
    bool codes_watched; /* objects.c: mt_python_codes_freed tells of all */
    enum mt_python_mode mode;
    enum mt_python_layout layout;
    bool wide;          /* the processor can compare a whole struct mt_python_place at once */
    struct mt_python_offsets offsets;
};
extern struct mt_python_interpreter mt_python_here MT_HIDDEN;

/*
 * Counted up when what captures take for settled is not any more: the interpreter goes, ends, or is not believed. P5: after that has been written; a
 * thread reads it before it looks at any of that, and takes it for settled as long as the number is the same.
 */
extern uint32_t mt_python_epoch MT_HIDDEN;

/* offsets.c. False: not a version that is known. */
bool mt_python_offsets(
    uint32_t version, const char *runtime, struct mt_python_offsets *ret_offsets, bool *ret_free_threaded);

static MT_ALWAYS_INLINE const void *mt_python_pointer(const void *base, size_t offset)
{
    return *(const void *const *)((const char *)base + offset);
}

/* loop.c: the native stack passed no known part of the loop: finds the part. False: there is nothing new. */
bool mt_python_find_loop(struct mt_stack *stack, struct mt_stack_thread *stack_thread, const struct mt_python_thread *thread,
    const struct mt_registers *caller);

/* The first captures look whether the loop is where its symbol says. */
void mt_python_check_loop(struct mt_stack *stack, struct mt_stack_thread *stack_thread, struct mt_python_thread *thread,
    const struct mt_registers *caller);

/* mt_python_find_loop(), unless it was tried often. */
void mt_python_find_loop_if_new(struct mt_stack *stack, struct mt_stack_thread *stack_thread,
    const struct mt_python_thread *thread, const struct mt_registers *caller);

/*
 * freed.c: how many code objects were freed since that is heard of; and of those how many in each place, where an address has the same one always.
 */
#define MT_PYTHON_CODE_PLACES 4096u
extern uint32_t mt_python_codes_freed MT_HIDDEN;
extern uint32_t mt_python_codes_freed_at[MT_PYTHON_CODE_PLACES] MT_HIDDEN;

static MT_ALWAYS_INLINE uint32_t *mt_python_freed_at(const void *code)
{
    return &mt_python_codes_freed_at[((uintptr_t)code * UINT64_C(0x9e3779b97f4a7c15)) >> 32 & (MT_PYTHON_CODE_PLACES - 1)];
}

/*
 * freed.c: the code objects that were freed last, so that what is known of others can be kept. The number of one is what mt_python_codes_freed was before
 * it. False: it is not there (any more), or not yet, and may have been any.
 */
#define MT_PYTHON_GONE 64u
bool mt_python_gone_code(uint32_t number, uintptr_t *ret_start, uintptr_t *ret_end);

/* freed.c: the interpreter runs: from now on what is freed is heard of. */
void mt_python_watch_codes(void);

/* freed.c: something is about to be known of a code object, whose proof has been read. */
void mt_python_code_is_at(const void *code);

/* objects.c: the interpreter does not run (any more). */
void mt_python_unsettle(struct mt_python *python);

/* ---- code.c ---- */

/*
 * What another code object does not have: this address, and how many were freed there. What is in the object would not tell it from every other: 3.11 has
 * nothing but pointers, which are given again, even to the same contents; the version numbers of 3.12 on begin anew with each interpreter. That is
 * taken in for the moments in which nothing is heard of what is freed (while the interpreter ends).
 */
static MT_ALWAYS_INLINE uint64_t mt_python_proof(const struct mt_python_offsets *o, const void *code)
{
    uint64_t own = MT_LIKELY(o->code_version) ? *(const uint64_t *)((const char *)code + o->code_version) :
                                                (uint64_t)(uintptr_t)mt_python_pointer(code, o->code_lines);

    return (((uintptr_t)code * UINT64_C(0x9e3779b97f4a7c15)) ^ mt_load_relaxed(mt_python_freed_at(code))) * UINT64_C(0xff51afd7ed558ccd) + own;
}

/* The segment's code with these contents, added if new. Under the lock. 0 or -errno. */
int mt_python_code_id(struct mt_python *python, struct mt_stack *stack, const void *code, uint32_t *ret_id);

/* ---- lines.c ---- */

/* The segment's frame of an instruction; false: it could not be had (counted). */
bool mt_python_line(struct mt_python *python, struct mt_stack *stack, const void *code, uint64_t proof,
    const char *frame, const void *instruction, bool entry, uint32_t *ret_frame);

#endif

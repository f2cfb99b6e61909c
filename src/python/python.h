/*
 * python: Python's frames and objects, read by the traced thread itself. Nothing is imported, no interpreter lock taken, no function of Python
 * called that could allocate or run code.
 *
 *   detect.c   which interpreter is here, if any
 *   offsets.c  where in its structures things are, by version
 *   capture.c  a thread's frames, and where they differ from its last ones; the verified memo
 *   states.c   the same where code objects are not told apart by their addresses
 *   read.c     a frame that was not met before
 *   loop.c     the interpreter's loop, whose parts are told from other native code
 *   lines.c    (code object, instruction) -> frame of the segment
 *   code.c     code object -> entry of the segment's table of codes
 *   freed.c    code objects that are freed
 *   inner.c    the native stack of an object
 *   objects.c  the object allocators, wrapped in place; what they hand out is recorded by hook/
 *
 * A frame is its code and the index of its instruction; which line that is, the reader works out. Frames that were called from C are marked
 * (MT_FRAME_ENTRY): there the native and the Python stack interleave.
 *
 * What is believed. A thread reads its own thread state only, whose frames change by that thread's own doing; it is found through Python's thread-specific
 * storage. Before the first stacks are believed, every pointer on the way is asked of the kernel; a code object must have the type of
 * code objects. An interpreter whose structures do not look as its version says is left alone (loss `python-version`).
 *
 * Thread rules: as stack/: lock-free where everything is known, mt_stack.lock with signals blocked where not. What a process learnt is wiped at fork
 * by the caller (struct mt_python is zero again); where the interpreter is, is not.
 */
#ifndef MT_PYTHON_PYTHON_H
#define MT_PYTHON_PYTHON_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/base.h"
#include "stack/stack.h"
#include "wire/record.h"

enum mt_python_mode { /* MEMTRACE_PYTHON */
    MT_PYTHON_MODE_OBJECTS = 0, /* also `auto` */
    MT_PYTHON_MODE_FRAMES,
    MT_PYTHON_MODE_OFF,
};

struct mt_python_lines; /* lines.c */
struct mt_python_codes; /* code.c */

/* One per process; zero at start and wiped at fork. */
struct mt_python {
    struct mt_python_lines *lines;  /* published with release, read with acquire */
    struct mt_python_lines *frames; /* under the stack's lock */
    struct mt_python_codes *codes;  /* under the stack's lock */
    uint32_t announced;             /* the segment's header knows of the interpreter */
    uint32_t settled;               /* nothing more to be done about the object allocators */
    uint32_t probed;                /* frames whose every pointer was asked of the kernel */
    uint32_t distrusted;            /* frames that did not look like frames */
};

/* What a kept frame means. */
struct mt_python_note {
    uint32_t line;  /* frame of the segment */
    uint32_t depth; /* frames of the stack up to this one, inclusive */
};

/* A kept frame: what is compared at each capture, as it lies in the frames of 3.11, and what that means. */
struct mt_python_place {
    _Alignas(32) struct mt_python_note note;
    const char *previous; /* the address of the next outer frame */
    uintptr_t instruction;
    uint64_t state; /* of 3.11; of it MT_PYTHON_STATE_ENTRY differs where a caller's frame does not */
};

struct mt_python_state; /* states.c */

/*
 * Instructions that were met in a frame, and whether that was an entry -> frame of the segment. Good until its code object is freed. Neighbouring instructions share
 * a line of the processor's cache.
 */
#define MT_PYTHON_HIT_WAYS 4u
struct mt_python_hits {
    _Alignas(64) uint64_t keys[MT_PYTHON_HIT_WAYS]; /* address << 1 | entry; 0: none. The one that came last is first */
    uint32_t lines[MT_PYTHON_HIT_WAYS];
    uint32_t codes_freed[MT_PYTHON_HIT_WAYS]; /* as of this: code objects that were freed later are to be looked at (freed.c) */
};
#define MT_PYTHON_HIT_BITS 11
#define MT_PYTHON_HIT_SPAN_BITS 5 /* so many bytes of code go into one line */
#define MT_PYTHON_WHERE_BITS 8

/* One per ring; zero at start, then made by its first capture. */
struct mt_python_thread {
    /* The kept frames, outermost first. A frame's address is the `previous` of the place behind: there is one more. */
    struct mt_python_place *places;
    struct mt_python_place *fresh; /* scratch, innermost first */
    struct mt_python_state *states, *fresh_states; /* instead, for states.c */
    bool places_kept;              /* it is places that are kept, not states */
    uint32_t ready;                /* as of this epoch (internal.h) there is nothing to be done but the capture */
    /* The Python stack that the ring's reader has when it has read everything: frame ids, outermost first. Of kept frames it has those that are part of it. */
    uint32_t *frames;
    struct mt_python_hits *hits; /* NULL: no memory */
    size_t count, capacity; /* of kept frames */
    uint32_t frame_count;
    uint32_t codes_freed; /* mt_python_codes_freed as of the kept frames */
    uint32_t where[1u << MT_PYTHON_WHERE_BITS]; /* by a frame's address: the frames up to it, if it is kept at all */
    struct mt_inner_rules rules; /* the number of an inner stack is its chain's */
    const void *holder; /* the thread's state as of the last capture for one of its objects */
    bool has_lock;      /* what is captured is one of Python's objects, and so the thread has the interpreter's lock */
    bool unsure;                         /* of the stack that the reader has: the next is sent whole, even if it is empty */
};

/* Finds a symbol of a loaded object: its address, NULL if there is none, and its size. */
typedef void *mt_python_find(const void *context, const char *name, size_t *ret_size);

/* Looks for an interpreter. Once one is found nothing more is looked for. Not from inside a capture of the same thread. */
void mt_python_detect(mt_python_find *find, const void *context, enum mt_python_mode mode);

bool mt_python_is_known(void);
bool mt_python_is_free_threaded(void); /* there is no lock under which all objects come and go */

/*
 * Around a dlclose, where the interpreter came by a dlopen: it may go, and with it what captures look at. In between there are no Python stacks; if it is
 * gone it is forgotten.
 */
void mt_python_before_unload(void);
void mt_python_after_unload(void);

/* Whether there is an interpreter whose frames can be read, or of which the run must be told that they cannot. */
enum { MT_PYTHON_NONE = 0, MT_PYTHON_HERE, MT_PYTHON_GONE /* its last stacks are still to be taken back */ };
extern uint32_t mt_python_present MT_HIDDEN;

/* PyMemAllocatorEx of every version. */
struct mt_python_allocator {
    void *ctx;
    void *(*malloc)(void *ctx, size_t size);
    void *(*calloc)(void *ctx, size_t count, size_t size);
    void *(*realloc)(void *ctx, void *p, size_t size);
    void (*free)(void *ctx, void *p);
};

/* Memory is about to be unmapped. */
void mt_python_unmapped(uintptr_t start, uintptr_t end);

enum { MT_PYTHON_DOMAIN_MEM = 1, MT_PYTHON_DOMAIN_OBJ = 2 };

/* What a wrapping allocator has as its ctx. */
struct mt_python_slot {
    struct mt_python_allocator inner;
};

/*
 * Has `wrapper`'s functions serve the domains MEM and OBJ, where the mode says so and the interpreter does not run yet. True: done.
 * mt_python_wrap_again() is part of each capture until the interpreter runs.
 */
bool mt_python_wrap(const struct mt_python_allocator *wrapper);
bool mt_python_wrap_again(void); /* true: no more need to */
bool mt_python_is_wrapped(void);

/*
 * Captures the calling thread's Python stack and makes it the ring's last one. True: it has changed; the caller sends the change, from thread->frames, or calls
 * mt_python_forget().
 */
bool mt_python_capture(struct mt_python *python, struct mt_stack *stack, struct mt_stack_thread *stack_thread,
    struct mt_python_thread *thread, const struct mt_registers *caller, struct mt_stack_change *ret_change);

/*
 * The number of the native part of an object's stack, after mt_python_capture(): of what lies inside of the innermost Python frame. Programs make so many objects
 * that the rest, which Python's frames tell in their way, would cost more than it says. guess: mt_inner_guess_at(). MT_PYTHON_INNER_NONE: it must be walked.
 */
#define MT_PYTHON_INNER_NONE MT_INNER_NONE
static_assert(MT_INNER_CHAINS < MT_RECORD_INNER_STACKS, "those of the chains, and one for all that are too long");
static MT_ALWAYS_INLINE uint32_t mt_python_inner(const struct mt_stack *stack, const struct mt_stack_thread *stack_thread,
    const struct mt_python_thread *thread, const struct mt_inner_guess *guess, const struct mt_registers *caller)
{
    return MT_LIKELY(thread->frame_count) ? mt_stack_inner(stack, stack_thread, &thread->rules, guess, caller) : MT_PYTHON_INNER_NONE;
}

/*
 * Walks it: how many frames there are, in thread->rules.frames, innermost first, and the number that this stack has from now on. Where that is new, the caller tells
 * the frames, or calls mt_python_forget(). 0: take the whole stack.
 */
uint32_t mt_python_walk_inner(struct mt_stack *stack, struct mt_stack_thread *stack_thread, struct mt_python_thread *thread,
    const struct mt_registers *caller, uint32_t *ret_number, bool *ret_is_new);

/* The next changes will be whole stacks. */
static inline void mt_python_forget(struct mt_python_thread *thread)
{
    thread->count = 0;
    thread->frame_count = 0;
    thread->unsure = true;
    thread->has_lock = false;
    mt_inner_forget(&thread->rules);
}

#endif

/*
 * Records. The first word of each is (operand << 8) | stamped << 7 | type. With `stamped` the second word is the stamp, relative to the
 * segment's base_stamp; without, the record has the time of the record before it in its ring. Then come the words of the table. Sizes and
 * addresses are in bytes; addresses are cut to 56 bits, which is all that a processor has (what lies above are tags).
 *
 *   X(symbol, name, words, shape)   words: fixed ones behind the first word and the stamp. shape:
 *     P  no more words
 *     S  a stack change: the last fixed word is (keep << 32) | push, and (push + 1) / 2 words of frame ids come behind it
 *     A  the same, with the change in the low half of the word: (size << 32) | (keep << 16) | push
 *     T  text: the first fixed word is (payload words << 32) | payload bytes, and the payload comes behind the fixed words
 *
 * Stacks travel as changes. A ring has a stack, at first empty; a record with a change keeps the `keep` outermost frames of it, then pushes
 * `push` frames, outermost first: what is there then is the record's stack. Consecutive events of a thread share all but a few of their
 * innermost frames, so neither side works on the whole of it.
 *
 * A ring has two such stacks, each with its own changes: the native one, and Python's, which PYTHON_STACK changes. And it has inner stacks, of Python's
 * objects: the native frames inside of the innermost Python frame, and the one that runs it. They are few, and come again and again, so each is told once,
 * by INNER_STACK, and named by its number from then on, until that is given to another one. An event's callsite is the native or an inner stack and the
 * Python stack, as they are at its record.
 *
 * record         operand        words
 * ALLOC          address        size and change (A)                 a block of less than 4 GiB
 * ALLOC_LARGE    address        size, change
 * FREE           address                                            before the real free
 * REALLOC_BEGIN  old address                                        before the real realloc: the block is in limbo, counted live
 * REALLOC_END    new address    size, change                        ends the thread's last REALLOC_BEGIN. new address = 0 and size = 0: the
 *                                                                   block was freed; REALLOC_FAILED: it is back
 * REALLOC_FAILED                                                    the old block lives on, unchanged
 * OBJECT_ALLOC   address        (size << 32) | inner stack          an object of Python's, of less than 4 GiB: a block of the heap MT_HEAP_PYTHON
 * OBJECT_FREE    address                                            before the real free
 * OBJECT_REALLOC_BEGIN  old address                                 as for malloc; one that fails ends with REALLOC_FAILED, too
 * OBJECT_REALLOC_END    new address  size, inner stack
 * MAP            address        length, flags, change               after the real mmap; replaces what it overlaps
 * UNMAP_BEGIN    address        length                              before the real munmap
 * UNMAP_END      error                                              0, or the errno: what UNMAP_BEGIN removed is back
 * REMAP_BEGIN    old address    old length                          before the real mremap (old length 0: a second mapping)
 * REMAP_END      new address    new length, flags, change           new address = 0: failed, the old one is back
 * HEAP_ALLOC     pointer        size, heap, change
 * HEAP_FREE      pointer        heap
 * HEAP_CREATE    heap           payload = name
 * MARK ...                      payload = text; resident bytes, virtual bytes, python bytes     (read by the target at that point)
 * FORK           child pid
 * EXEC                          payload = path                      before the real exec
 * EXEC_FAILED    errno
 * EXIT           kind           status                              kind: enum mt_exit_kind
 * THREAD         tid                                                first record of a ring's (new) owner
 * PAUSE, RESUME                                                     allocations in between are not recorded, frees are
 * STACK                         change                              no event: a part of a change too long for one record
 * PYTHON_STACK                  change (Python stack)               no event
 * PYTHON_STEP    frame and keep                                     no event: PYTHON_STACK that pushes one frame: (frame << 16) | keep
 * INNER_STACK    number         change, which keeps nothing         no event
 * TIME                                                              no event: always stamped
 *
 * A thread that is killed between a BEGIN and its END leaves the block in limbo: it counts as live.
 */
#ifndef MT_WIRE_RECORD_H
#define MT_WIRE_RECORD_H

#include <assert.h>
#include <stdint.h>

#define MT_RECORDS(X)                                                                                                  \
    X(ALLOC, "alloc", 1, A)                                                                                            \
    X(ALLOC_LARGE, "alloc-large", 2, S)                                                                                \
    X(FREE, "free", 0, P)                                                                                              \
    X(REALLOC_BEGIN, "realloc-begin", 0, P)                                                                            \
    X(REALLOC_END, "realloc-end", 2, S)                                                                                \
    X(REALLOC_FAILED, "realloc-failed", 0, P)                                                                          \
    X(OBJECT_ALLOC, "object-alloc", 1, P)                                                                              \
    X(OBJECT_FREE, "object-free", 0, P)                                                                                \
    X(OBJECT_REALLOC_BEGIN, "object-realloc-begin", 0, P)                                                              \
    X(OBJECT_REALLOC_END, "object-realloc-end", 2, P)                                                                  \
    X(MAP, "map", 3, S)                                                                                                \
    X(UNMAP_BEGIN, "unmap-begin", 1, P)                                                                                \
    X(UNMAP_END, "unmap-end", 0, P)                                                                                    \
    X(REMAP_BEGIN, "remap-begin", 1, P)                                                                                \
    X(REMAP_END, "remap-end", 3, S)                                                                                    \
    X(HEAP_ALLOC, "heap-alloc", 3, S)                                                                                  \
    X(HEAP_FREE, "heap-free", 1, P)                                                                                    \
    X(HEAP_CREATE, "heap-create", 1, T)                                                                                \
    X(MARK, "mark", 4, T)                                                                                              \
    X(PHASE_BEGIN, "phase-begin", 4, T)                                                                                \
    X(PHASE_END, "phase-end", 4, T)                                                                                    \
    X(ITERATION, "iteration", 4, T)                                                                                    \
    X(SNAPSHOT, "snapshot", 4, T)                                                                                      \
    X(FORK, "fork", 0, P)                                                                                              \
    X(EXEC, "exec", 1, T)                                                                                              \
    X(EXEC_FAILED, "exec-failed", 0, P)                                                                                \
    X(EXIT, "exit", 1, P)                                                                                              \
    X(THREAD, "thread", 0, P)                                                                                          \
    X(PAUSE, "pause", 0, P)                                                                                            \
    X(RESUME, "resume", 0, P)                                                                                          \
    X(STACK, "stack", 1, S)                                                                                            \
    X(PYTHON_STACK, "python-stack", 1, S)                                                                              \
    X(PYTHON_STEP, "python-step", 0, P)                                                                                \
    X(INNER_STACK, "inner-stack", 1, S)                                                                                \
    X(TIME, "time", 0, P)

enum mt_record_type {
    MT_RECORD_NONE = 0,
#define MT_RECORD_SYMBOL_(symbol, name, words, shape) MT_RECORD_##symbol,
    MT_RECORDS(MT_RECORD_SYMBOL_)
#undef MT_RECORD_SYMBOL_
        MT_RECORD_TYPES
};

#define MT_RECORD_TYPE_MASK UINT64_C(0x7f)
#define MT_RECORD_STAMPED UINT64_C(0x80)
#define MT_RECORD_OPERAND_SHIFT 8

/* A longer change is sent in parts. keep of an ALLOC or PYTHON_STEP must fit 16 bits, that of other records 32. */
#define MT_RECORD_PUSH_MAX 1024u
#define MT_RECORD_KEEP_MAX 0xffffu
#define MT_RECORD_INNER_STACKS 1024u /* their numbers are below this */
#define MT_RECORD_TEXT_MAX_BYTES 4096u /* longer texts are cut by the library */
#define MT_RECORD_MARK_WORDS 3         /* figures of MARK, PHASE_BEGIN, PHASE_END, ITERATION, SNAPSHOT, behind the payload's length */

/* No record is longer than this. */
#define MT_RECORD_WORDS_MAX (2u + 4u + (MT_RECORD_PUSH_MAX > MT_RECORD_TEXT_MAX_BYTES / 4 ? MT_RECORD_PUSH_MAX / 2 : MT_RECORD_TEXT_MAX_BYTES / 8) + 1u)

#define MT_PHASE_FIGURES "\1figures" /* PHASE_END of this name only asks for figures (segment header); operand: the question's number */
#define MT_HEAP_PYTHON UINT32_MAX /* id of the heap `python`: what Python's object allocators hand out */

/* The operand of PYTHON_STEP. */
static inline uint64_t mt_record_step(uint32_t keep, uint32_t frame)
{
    return (uint64_t)frame << 16 | keep;
}

enum mt_exit_kind {
    MT_EXIT_EXIT = 0, /* exit(), or main returned */
    MT_EXIT_QUICK = 1, /* _exit, _Exit, quick_exit */
    MT_EXIT_ABORT = 2,
};

enum mt_map_flags {
    MT_MAP_ANONYMOUS = 1u << 0,
    MT_MAP_FILE = 1u << 1,
    MT_MAP_BRK = 1u << 2,     /* growth of the program break, by the program's own brk or sbrk */
    MT_MAP_BACKING = 1u << 3, /* made inside an allocator's call: its blocks are counted, not the mapping */
    MT_MAP_NO_ACCESS = 1u << 4, /* PROT_NONE: address space only */
    MT_MAP_DONTUNMAP = 1u << 5, /* REMAP_END: the old mapping stays */
    MT_MAP_DUPLICATE = 1u << 6, /* REMAP_END: old length was 0 */
};

static_assert(MT_RECORD_TYPES <= MT_RECORD_TYPE_MASK, "the type fits its bits");

#endif

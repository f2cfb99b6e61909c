/*
 * Records. The first word of each is (stamp << 8) | type, where stamp is relative to the segment's
 * base_stamp (56 bits); the words behind it are in the table. Sizes and addresses are in bytes.
 *
 *   X(symbol, name, words)  with words = 0: variable, word 1 is (payload words << 32) | payload bytes,
 *                           and comes before the record's own words
 *
 * ALLOC          address, (size << 32) | node             a block of less than 4 GiB
 * ALLOC_LARGE    address, node, size
 * FREE           address                                  before the real free
 * REALLOC_BEGIN  old address                              before the real realloc: the block is in limbo, counted live
 * REALLOC_END    new address, node, size                  ends the thread's last REALLOC_BEGIN. new address = 0 and
 *                                                         size = 0: the block was freed; REALLOC_FAILED: it is back
 * REALLOC_FAILED (no words)                               the old block lives on, unchanged
 * MAP            address, length, (flags << 32) | node    after the real mmap; replaces what it overlaps
 * UNMAP_BEGIN    address, length                          before the real munmap
 * UNMAP_END      error                                    0, or the errno: what UNMAP_BEGIN removed is back
 * REMAP_BEGIN    old address, old length                  before the real mremap (old length 0: a second mapping)
 * REMAP_END      new address, new length, (flags << 32) | node     new address = 0: failed, the old one is back
 * HEAP_ALLOC     pointer, size, (heap << 32) | node
 * HEAP_FREE      pointer, heap
 * HEAP_CREATE    payload = name; heap id
 * MARK ...       payload = text; resident bytes, virtual bytes, python bytes     (read by the target at that point)
 * FORK           child pid
 * EXEC           payload = path                           before the real exec
 * EXEC_FAILED    errno
 * EXIT           status, kind (enum mt_exit_kind)
 * THREAD         tid                                      first record of a ring's (new) owner
 * PAUSE, RESUME  (no words)                               allocations in between are not recorded, frees are
 *
 * A thread that is killed between a BEGIN and its END leaves the block in limbo: it counts as live.
 */
#ifndef MT_WIRE_RECORD_H
#define MT_WIRE_RECORD_H

#include <assert.h>
#include <stdint.h>

#define MT_RECORDS(X)                                                                                                  \
    X(ALLOC, "alloc", 3)                                                                                               \
    X(ALLOC_LARGE, "alloc-large", 4)                                                                                   \
    X(FREE, "free", 2)                                                                                                 \
    X(REALLOC_BEGIN, "realloc-begin", 2)                                                                               \
    X(REALLOC_END, "realloc-end", 4)                                                                                   \
    X(REALLOC_FAILED, "realloc-failed", 1)                                                                             \
    X(MAP, "map", 4)                                                                                                   \
    X(UNMAP_BEGIN, "unmap-begin", 3)                                                                                   \
    X(UNMAP_END, "unmap-end", 2)                                                                                       \
    X(REMAP_BEGIN, "remap-begin", 3)                                                                                   \
    X(REMAP_END, "remap-end", 4)                                                                                       \
    X(HEAP_ALLOC, "heap-alloc", 4)                                                                                     \
    X(HEAP_FREE, "heap-free", 3)                                                                                       \
    X(HEAP_CREATE, "heap-create", 0)                                                                                   \
    X(MARK, "mark", 0)                                                                                                 \
    X(PHASE_BEGIN, "phase-begin", 0)                                                                                   \
    X(PHASE_END, "phase-end", 0)                                                                                       \
    X(ITERATION, "iteration", 0)                                                                                       \
    X(SNAPSHOT, "snapshot", 0)                                                                                         \
    X(FORK, "fork", 2)                                                                                                 \
    X(EXEC, "exec", 0)                                                                                                 \
    X(EXEC_FAILED, "exec-failed", 2)                                                                                   \
    X(EXIT, "exit", 3)                                                                                                 \
    X(THREAD, "thread", 2)                                                                                             \
    X(PAUSE, "pause", 1)                                                                                               \
    X(RESUME, "resume", 1)

enum mt_record_type {
    MT_RECORD_NONE = 0,
#define MT_RECORD_SYMBOL_(symbol, name, words) MT_RECORD_##symbol,
    MT_RECORDS(MT_RECORD_SYMBOL_)
#undef MT_RECORD_SYMBOL_
        MT_RECORD_TYPES
};

/* Words behind a variable record's (type, length) pair, before its payload. */
#define MT_RECORD_MARK_WORDS 3 /* MARK, PHASE_BEGIN, PHASE_END, ITERATION, SNAPSHOT */
#define MT_RECORD_HEAP_CREATE_WORDS 1
#define MT_RECORD_EXEC_WORDS 0
#define MT_RECORD_TEXT_MAX_BYTES 4096u /* longer texts are cut by the library */

#define MT_RECORD_STAMP_SHIFT 8
#define MT_RECORD_TYPE_MASK UINT64_C(0xff)

#define MT_PHASE_FIGURES "\1figures" /* PHASE_END of this name only asks for figures (segment header) */
#define MT_HEAP_PYTHON UINT32_MAX /* id of the heap `python`: what Python's object allocators hand out */

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

static_assert(MT_RECORD_TYPES < 256, "the type fits its byte");

#endif

/*
 * The segment: a sparse memfd, created and sealed (F_SEAL_SHRINK|GROW|SEAL) by the traced process,
 * passed to the reader, mapped window by window in the target and as a whole in the reader.
 *
 * Four nouns:
 *   module  a loaded object: path, build-id, address range. Ids are dense, never reused; an object
 *           loaded again after dlclose gets a new id.
 *   frame   (module, offset of the instruction): what a return address means, free of
 *           addresses. offset = return address - 1 - module start, except where FRAME_EXACT is set.
 *           Stacks are lists of frames; the records say how each differs from the one before (record.h).
 *   ring    the records of one thread at a time (ring.h).
 *   code    a Python code object: file, qualified name, first line, line table. Equal contents are one code.
 *
 * Frames of Python's stacks have MT_FRAME_PYTHON.
 *
 * Invariants:
 *   module and frame tables are append-only: entry i is complete before the release store that
 *   makes count > i, or before the record that mentions i is published.
 *   All offsets are from the start of the file, inside [0, file_bytes), and fixed once
 *   the header is published.
 *
 * File:
 *   offset 0          struct mt_segment_header (one page)
 *   ring_dir_offset   uint64_t[ring_dir_capacity]: file offset of each ring's header page
 *   module_offset     struct mt_module[module_capacity]
 *   string_offset     char[string_capacity]: paths, not terminated, (offset, length) in the module
 *   frame_offset      struct mt_frame[frame_capacity]
 *   code_offset       struct mt_code[code_capacity]
 *   text_offset       bytes[text_capacity]: what codes consist of
 *   data_offset       rings, each a header page and its data, bump-allocated
 *
 * When the writer dies anywhere, what was published stays valid; nothing needs repair.
 */
#ifndef MT_WIRE_SEGMENT_H
#define MT_WIRE_SEGMENT_H

#include <assert.h>
#include <stdint.h>

#include "base/base.h"
#include "wire/names.h"

#define MT_SEGMENT_MAGIC UINT64_C(0x3165636172746d6d) /* "mmtrace1" */
#define MT_PAGE_BYTES 4096u
#define MT_TABLE_WINDOW_BYTES 65536u /* of a table, what the target has mapped at a time */
#define MT_PYTHON_LOOP_PARTS 4

enum mt_segment_flags {
    /* ring.busy is ordered by membarrier on the reader's side; else by a full fence in the writer. */
    MT_SEGMENT_ASYMMETRIC_FENCE = 1u << 0,
    /* Record stamps are time-stamp counter values; else they come from sequence, and are not times. */
    MT_SEGMENT_STAMP_TSC = 1u << 1,
    /* The process is the first of its run: it waits for the commit at exit. */
    MT_SEGMENT_ROOT = 1u << 2,
    /* This image replaced another one of the same pid. */
    MT_SEGMENT_AFTER_EXEC = 1u << 3,
};

enum mt_segment_state {
    MT_STATE_RUNNING = 0,
    /* The target asks for a commit: everything published before must be drained and on disk. */
    MT_STATE_COMMIT_WANTED = 1,
};

struct mt_segment_header {
    uint64_t magic;
    uint32_t version;
    uint32_t flags; /* enum mt_segment_flags */
    uint64_t file_bytes;
    uint64_t base_stamp;        /* record stamps are relative to this */
    uint64_t base_monotonic_ns; /* read together with base_stamp */
    uint64_t base_realtime_ns;
    int32_t pid; /* as the target sees it */
    int32_t parent_pid;

    uint64_t ring_dir_offset, ring_dir_capacity;
    uint64_t module_offset, module_capacity;
    uint64_t string_offset, string_capacity;
    uint64_t frame_offset, frame_capacity;
    uint64_t code_offset, code_capacity;
    uint64_t text_offset, text_capacity;
    uint64_t data_offset;

    /* Counts, released by the writer after the entries below them are complete. */
    MT_ALIGNED(64) uint32_t ring_count;
    uint32_t module_count;
    uint32_t frame_count;
    uint32_t reserved;
    uint64_t string_used;
    uint64_t data_used; /* bytes allocated behind data_offset */
    uint32_t code_count;
    uint32_t python_version; /* as Python's PY_VERSION_HEX; 0: no Python here, or not one that is known */
    uint64_t text_used;
    /* Addresses of the interpreter's loop, [start, end): the first set before python_version, more as parts that the compiler put elsewhere are met. */
    uint64_t python_loop[MT_PYTHON_LOOP_PARTS][2];
    uint32_t python_flags; /* enum mt_python_flags */

    /* Ledger, written with relaxed atomic adds by any thread of the target. */
    MT_ALIGNED(64) uint64_t lost[16]; /* by enum mt_loss_reason */
    uint64_t private_bytes;           /* resident memory of the library outside the segment, estimated */
    uint64_t captures;                /* stacks compared with libunwind's (MEMTRACE_VERIFY=1) */
    uint64_t thread_waits;            /* times a thread waited for room in its ring */
    uint64_t sequence;                /* stamp source without MT_SEGMENT_STAMP_TSC */

    /* Exit protocol. commit_wanted is bumped by the target, commit_done set to it by the reader (futex). */
    MT_ALIGNED(64) uint32_t commit_wanted;
    uint32_t commit_done;
    uint32_t reader_gone; /* latched by the target when it finds the reader dead */

    /* Bytes live as of the question (MT_PHASE_FIGURES) whose number is figures_sequence; written by the reader before that grows. */
    uint64_t figures_sequence, figures_native, figures_python;
};

enum mt_module_flags {
    MT_MODULE_MAIN = 1u << 0,    /* the program itself */
    MT_MODULE_UNKNOWN = 1u << 1, /* module 0: addresses in no known object; frame offsets are addresses */
    MT_MODULE_VDSO = 1u << 2,
    MT_MODULE_SELF = 1u << 3, /* the library itself */
};

/* Module 0 always exists and is MT_MODULE_UNKNOWN. */
struct mt_module {
    uint64_t start; /* first mapped address; frame offsets count from load_bias, see below */
    uint64_t end;
    uint64_t load_bias; /* address in memory - address in the ELF file; frame offset = address - load_bias */
    uint64_t string_offset;
    uint32_t path_bytes;
    uint32_t flags; /* enum mt_module_flags */
    uint32_t build_id_bytes;
    uint8_t build_id[32];
    uint8_t reserved[52];
};

enum mt_frame_flags {
    MT_FRAME_EXACT = 1u << 0, /* offset is the instruction itself (signal frame's interrupted pc), not the call before it */
    MT_FRAME_CUT = 1u << 1,   /* pseudo frame: the stack goes on, but could not be unwound here */
    MT_FRAME_PYTHON = 1u << 2, /* module is a code, offset the index of the code unit, MT_FRAME_NO_INSTRUCTION: not known */
    MT_FRAME_ENTRY = 1u << 3,  /* a Python frame that was called from C: outside of it the native stack goes on */
};
#define MT_FRAME_NO_INSTRUCTION UINT64_C(0xffffffff)

/* offset is the address to look up (return address - 1, or exact), as an ELF virtual address. */
struct mt_frame {
    uint64_t offset;
    uint32_t module;
    uint32_t flags; /* enum mt_frame_flags */
};

enum mt_python_flags {
    MT_PYTHON_FREE_THREADED = 1u << 0,
    MT_PYTHON_OBJECTS = 1u << 1, /* the object allocators are wrapped */
};

/* Offsets count from text_offset. The line table is CPython's own (co_linetable). */
struct mt_code {
    uint64_t filename_offset, qualname_offset, lines_offset;
    uint32_t filename_bytes, qualname_bytes, lines_bytes; /* names are UTF-8, cut at MT_CODE_NAME_MAX_BYTES */
    int32_t first_line;
};
#define MT_CODE_NAME_MAX_BYTES 2048u
#define MT_CODE_LINES_MAX_BYTES (1u << 20) /* a longer table is left out: then the first line stands for all */

static_assert(sizeof(struct mt_segment_header) <= MT_PAGE_BYTES, "the header fits its page");
static_assert(sizeof(struct mt_module) == 128, "module layout");
static_assert(sizeof(struct mt_frame) == 16, "frame layout");
static_assert(sizeof(struct mt_code) == 40, "code layout");
static_assert(MT_LOSS_COUNT <= 16, "the ledger has room");

/*
 * The doorbell: one page, created by the reader and passed to every target in the handshake.
 * The reader sleeps on `bell` (futex) with a bounded time-out while `sleeping` is 1; a target that wants it
 * awake increments bell and, if sleeping, calls FUTEX_WAKE. `progress` grows with each round of the reader:
 * a waiting thread that sees it stand still for long takes the reader for dead.
 */
struct mt_doorbell {
    uint32_t bell;
    uint32_t sleeping;
    uint64_t progress;
};

#endif

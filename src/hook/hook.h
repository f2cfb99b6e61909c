/*
 * hook: the traced side's entry. Wrappers around the allocator, mappings and process calls (malloc.c, jemalloc.c, operators.c, mapping.c,
 * process.c), system call filters (sandbox.c), the public API (api.c), and what they stand on: the real functions (real.c), the process's state and start (state.c),
 * the reader's finding or starting (link.c), Python's stacks and objects (python.c, objects.c, capture.h), memory for memtrace's own calls into libraries (arena.c), rings and threads (thread.c, emit.h).
 *
 * Order rules (they make the records race-free; wire/record.h):
 *   a free is recorded before the real free, an allocation after the real allocation, realloc as begin and end around it.
 *
 * Re-entrancy: a wrapper may run in a signal handler on top of any other wrapper of the same thread (emit.h). Slow paths block signals.
 * Nothing here exits, aborts, prints (but for MEMTRACE_LOG=1), changes errno, or allocates from the target's heap.
 */
#ifndef MT_HOOK_HOOK_H
#define MT_HOOK_HOOK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/base.h"
#include "base/lock.h"
#include "python/python.h"
#include "stack/stack.h"
#include "wire/writer.h"

enum mt_mode {
    MT_MODE_NEW = 0, /* nothing done yet: first event of the process, or of a forked child */
    MT_MODE_ON,
    MT_MODE_OFF, /* untraced, for ever (in this image) */
};

/* One per live thread that had an event; its ring is taken over by a later thread when it is gone. */
struct mt_thread {
    uint64_t *words;
    uint64_t mask;
    uint64_t position; /* = ring->head, but for a record that is being written */
    uint64_t soft_end; /* position up to which records may be written without a look at the reader's tail, or the clock */
    uint32_t turn_left; /* R8: records that may yet go without a stamp */
    struct mt_ring *ring;
    struct mt_stack_thread stack;
    struct mt_thread *nested; /* for signal handlers on top of this one's scopes; made when first needed */
    struct mt_python_thread python;
    struct mt_thread *next;
};

/*
 * The process's state: whole pages of their own, wiped by the kernel in a forked child (MADV_WIPEONFORK), however it was forked. What must
 * survive a fork is in struct mt_settings.
 */
struct mt_state {
    uint32_t epoch; /* unique to the image and to each forked child; a thread's cached pointers are good for one epoch */
    uint32_t mode;  /* enum mt_mode */
    uint32_t paused;
    uint32_t stamped; /* R7: there is more than one ring, so records carry stamps */
    int32_t pid;
    struct mt_thread *turn; /* R8: whose ring had the last event of Python's objects, if that is all that is to be ordered */
    bool root;
    bool full_fence; /* no membarrier for the reader: ring.busy needs a fence here */
    bool sequence_stamps;
    uint64_t base_stamp; /* a copy of the segment's */
    struct mt_lock lock;
    struct mt_writer writer;
    struct mt_doorbell *doorbell;
    struct mt_stack stack;
    struct mt_python python;
    struct mt_thread *threads; /* under lock, as is scan: where the search for a dead one's ring goes on */
    struct mt_thread *scan;
    uint32_t heaps;            /* custom heaps created */
    uint64_t figures_asked;    /* questions of memtrace_current() */
    uint32_t commit_sequence;
};

struct mt_state_pages {
    _Alignas(MT_PAGE_BYTES) struct mt_state state;
};
extern struct mt_state_pages mt_state_pages;
#define mt_state (mt_state_pages.state)

/* Read once, from the environment at the start of the image; kept by forked children. */
struct mt_settings {
    bool read;
    bool log, follow, verify;
    bool forked;   /* this is a forked child of a traced process */
    bool untraced; /* decided for this process and its forked children */
    bool no_questions, no_files; /* the program's system call filter forbids to ask the reader for life, to read /proc */
    uint32_t last_epoch;
    char socket[MT_SOCKET_NAME_MAX_BYTES]; /* the reader's; empty: none known */
    char **environment;                    /* at the start of the image */
    const char *reader_path;               /* MEMTRACE_READER or NULL */
    const char *path;                      /* PATH or NULL */
};
extern struct mt_settings mt_settings;

struct mt_tls {
    /*
     * In one word, so that one comparison tells the usual case: an epoch that is the present one, nothing open, nothing served. Read and written
     * whole: a load does not get what a narrower store has just written before that has left for the cache.
     *   bits 0-31   epoch for which thread is good; MT_GATE_NEW: none
     *   bits 32-47  depth: open scopes; more than one in signal handlers
     *   bits 48-63  serving: wrapped calls of Python's allocators under way; what they ask of malloc is their backing
     */
    uint64_t gate;
    uintptr_t guard_sp;  /* frame of the outermost scope: tells an abandoned one (longjmp) from a live one */
    uintptr_t real_sp;   /* frame of the allocator call under way: mappings made below it are its backing */
    struct mt_thread *thread;
    struct mt_chain *chains; /* the thread's, for a prefetch: may be out of date */
    unsigned chain_shift;
    /* An allocator's C++ operator may call its own malloc family through the hooks: one block, one record (operators.c). */
    const void *last_aligned; /* what an aligned allocation gave last */
    const void *deleting;     /* the block that an operator delete has recorded and is handing back */
};
extern __thread struct mt_tls mt_tls __attribute__((tls_model("initial-exec")));

#define MT_GATE_NEW UINT32_MAX
#define MT_GATE_DEPTH (UINT64_C(1) << 32)   /* one open scope */
#define MT_GATE_SERVING (UINT64_C(1) << 48) /* one call served */

static MT_ALWAYS_INLINE uint32_t mt_gate_epoch(uint64_t gate)
{
    return (uint32_t)gate;
}

static MT_ALWAYS_INLINE unsigned mt_gate_depth(uint64_t gate)
{
    return (unsigned)(gate >> 32 & 0xffff);
}

static MT_ALWAYS_INLINE bool mt_is_serving(void)
{
    return mt_tls.gate >= MT_GATE_SERVING;
}

/* ---- state.c ---- */

/* Makes mt_tls.thread good for the present epoch, starting the process's tracing if this is its first event. False: untraced. */
bool mt_attach(void);

/* Starts tracing if this process has not (first event, constructor, or a fork in a forked child). Once; any thread. */
void mt_start(void);

/* One line on stderr, prefixed, if MEMTRACE_LOG=1. error: 0 or an errno, put into words. */
void mt_log(const char *what, const char *which, int error);

/* Asks the reader to commit everything published so far and waits for it, within bounds. */
void mt_wait_for_commit(void);

/* Whether the caller is the traced process itself, not a vfork child that borrows its memory. */
bool mt_is_own_process(void);

/* ---- link.c: the reader ---- */

/* Creates the segment, finds or starts the reader, hands over. 0 or -errno; *ret_root: first process of the run. */
int mt_link_open(struct mt_writer *ret_writer, struct mt_doorbell **ret_doorbell, uint32_t flags, bool *ret_root);

/* Whether the reader's socket still answers. */
bool mt_link_reader_alive(void);

/* ---- process.c ---- */

/* Once, from the constructor. */
void mt_process_watch(void);

/* An entry of the environment as children that are started behind the hooks' back shall have it. Called once. */
const char *mt_process_preload(const char *entry);

/* ---- thread.c ---- */

/* A ring for the calling thread: a dead thread's, or a new one. NULL: no memory. */
struct mt_thread *mt_thread_get(void);

/* The same for a level of signal handlers of the calling thread. Blocks signals. */
struct mt_thread *mt_thread_get_nested(void);

/* The time, or a number that grows with it: what records are ordered by. Not before what the caller has read, not after what it writes next. */
static inline uint64_t mt_stamp(void)
{
    if (MT_UNLIKELY(mt_state.sequence_stamps))
        return mt_fetch_add_acq_rel(&mt_state.writer.header->sequence, 1);
    return mt_clock_tsc_ordered() - mt_state.base_stamp;
}

/*
 * Room for `words` more words, waiting for the reader if need be. Now and then puts a TIME record in front of them. False: the reader is gone, the
 * event is lost (and counted).
 */
bool mt_thread_make_room(struct mt_thread *thread, uint64_t words);

/* ---- python.c ---- */

/* Once, from the constructor: looks for an interpreter, as MEMTRACE_PYTHON says. */
void mt_python_start(void);

/* ---- objects.c ---- */
extern const struct mt_python_allocator mt_object_allocator MT_HIDDEN;

/* ---- arena.c ---- */

/* Memory for calls into libraries on memtrace's behalf: mapped, never returned; aligned to 16. NULL: none left. */
void *mt_arena_alloc(size_t size_bytes, size_t alignment);
extern char *mt_arena_base MT_HIDDEN; /* NULL: nothing allocated yet */
size_t mt_arena_size(const void *p);

#define MT_ARENA_BYTES (UINT64_C(8) << 20) /* address space, which a program may limit; pages come as they are touched, a dozen as a rule */

static MT_ALWAYS_INLINE bool mt_arena_owns(const void *p)
{
    const char *start = mt_load_relaxed(&mt_arena_base);

    return start && (uintptr_t)p - (uintptr_t)start < MT_ARENA_BYTES;
}

/* ---- malloc.c, shared with jemalloc.c and operators.c ---- */

void mt_record_alloc(const void *p, size_t size_bytes, const struct mt_registers *caller);
void mt_record_free(const void *p);
void mt_record_realloc_begin(const void *old);
/* p NULL with freed: the old block is gone; p NULL without: it failed. */
void mt_record_realloc_end(const void *p, size_t size_bytes, bool freed, const struct mt_registers *caller);

#endif

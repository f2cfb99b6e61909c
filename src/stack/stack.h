/*
 * stack: capture. Turns the registers of a hooked call into the calling thread's stack, as a list of frame ids and where it differs from
 * the thread's last one.
 *
 *   rule.c       pc -> unwind rule: the cache, and what happens on a miss
 *   module.c     pc -> module: the table in the segment, build-ids
 *   libunwind.c  loads it, and steps by it over the calling thread's stack
 *   thread.c     a thread's buffers, its last stack, and which memory may be read
 *   arch/        what hangs on the processor: registers, the packing of rules, signal frames
 *
 * Capture where the processor has a folder in arch/ (-Dunwinder=rules):
 *   learn.c      asks libunwind (made-up registers, token memory) for a rule, once per pc
 *   memo.c       a thread's previous stack, verified instead of walked again
 *   walk.c       applies rules from the innermost frame outwards, reading only verified stack memory
 *
 * Capture anywhere else (-Dunwinder=libunwind), at about a microsecond a frame:
 *   generic.c    libunwind steps through each stack; a rule is then no more than a pc's frame id
 *
 * Exactness: a rule is a function of the pc alone (that is what call frame information is), so a walk by cached rules
 * gives the stack that libunwind gives. MEMTRACE_VERIFY=1 checks it capture by capture.
 *
 * Thread rules: capture is lock-free where rules are known; a miss takes mt_stack.lock with signals blocked. Nothing
 * here takes the loader's lock (objects are found by _dl_find_object), or allocates from the target.
 * After fork the memory below is wiped (the caller arranges that) and everything is learnt anew.
 */
#ifndef MT_STACK_STACK_H
#define MT_STACK_STACK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/base.h"
#include "base/lock.h"
#include "stack/arch/registers.h"
#include "wire/writer.h"

struct mt_rule_table;
struct mt_module_table;

/* The kernel maps up to 64 KiB of a file around a page that is touched, fewer at the ends of a segment, and some that the program has touched anyway. */
#define MT_UNWIND_WINDOW_BYTES UINT64_C(16384)
#define MT_UNWIND_WINDOWS 2048u

/* One per process; lives in memory that is zero at start and wiped at fork. */
struct mt_stack {
    struct mt_writer *writer;
    struct mt_lock *lock;
    struct mt_rule_table *rules;   /* published with release, read with acquire */
    uint64_t *front;               /* a cache of rules (internal.h) */
    struct mt_module_table *modules; /* under lock */
    uint32_t cut_frame;            /* the frame that stands for code without a rule; valid if cut_frame_known */
    bool cut_frame_known;
    bool verify;
    uint32_t rule_generation;  /* bumped when rules are forgotten */
    uint32_t unmap_generation; /* bumped when the target unmaps memory: verified stack ranges are asked for again */
    uint64_t private_bytes;    /* memory held, for overhead_bytes */
    /* Stretches of objects' unwind tables that were read, and are resident since: a set, start + 1; under lock. */
    uintptr_t unwind_windows[MT_UNWIND_WINDOWS];
};

/* A stretch of stack memory that was found readable. */
struct mt_stack_range {
    uintptr_t low, high;
    uint32_t generation;
};

/* One walk's buffer: grows by doubling, never cuts a root off. */
struct mt_stack_buffer {
    uint32_t *frames; /* innermost first */
    size_t capacity;
};

/* Where a frame of a kept stack is (memo.c), and the word of the stack that says so. */
struct mt_memo_place {
    uintptr_t sp, ra; /* ra: its pc + 1 */
#if !defined(MT_RA_BELOW_SP)
    const uintptr_t *slot; /* in the frame inside of it */
    uintptr_t word;
#endif
};

struct mt_memo_frame {
    uint64_t rule; /* and BP_MATTERS (memo.c) */
    uintptr_t bp;
};

/* A word of the stack that must hold what it held. */
struct mt_memo_check {
    const uintptr_t *slot;
    uintptr_t value;
};

/* Arrays of `capacity` items, outermost frame first, in one mapping. */
struct mt_memo {
    struct mt_memo_place *places;
    struct mt_memo_frame *frames;
    struct mt_memo_place *fresh_places; /* scratch, innermost first */
    struct mt_memo_frame *fresh_frames;
    struct mt_memo_check *bp_slots;     /* of the frames where it matters */
    uint32_t *bp_owners;                /* index of the frame of each of bp_slots */
    size_t count, bp_count, capacity;
    uint64_t generation; /* of rules and mappings, when the list was made */
};

/* The rules of the frames that a capture at some pc and sp met last: it will mostly meet them again. A cache line. */
#define MT_CHAIN_FRAMES 4u
struct mt_chain {
    struct mt_chain_rule {
        uintptr_t pc;
        uint64_t rule;
    } rules[MT_CHAIN_FRAMES];
};

#define MT_STACK_RANGES 4u

/* One per ring: a thread, or a level of its signal handlers. */
struct mt_stack_thread {
    struct mt_stack_range ranges[MT_STACK_RANGES];
    unsigned range_next;
    /* The stack that the ring's reader has when it has read everything: frame ids, outermost first. Of a memo that is not empty it is the frames. */
    uint32_t *frames;
    uint32_t frame_count, frame_capacity;
    struct mt_memo memo;
    struct mt_chain *chains;
    unsigned chain_shift; /* 64 less the bits of its size; 0: no chains */
    struct mt_stack_buffer walked;
};

/* How a stack differs from the one before: its `keep` outermost frames are the same; then come `push` others, at mt_stack_thread.frames[keep]. */
struct mt_stack_change {
    uint32_t keep, push;
};

/* Returns 0 or -errno. Loads nothing from disk. */
int mt_stack_init(struct mt_stack *stack, struct mt_writer *writer, struct mt_lock *lock, bool verify);

/* Memory for a thread's buffers, with 2^chain_bits chains (1 or more); -ENOMEM leaves it unusable but harmless (captures give node 0). */
int mt_stack_thread_init(struct mt_stack_thread *thread, struct mt_stack *stack, unsigned chain_bits);
void mt_stack_thread_finish(struct mt_stack_thread *thread);

/*
 * Captures the calling stack, and makes it the thread's last one: the caller sends the change, or calls mt_stack_forget(). Never fails: degrades to a
 * shorter or empty stack and counts the reason.
 */
struct mt_stack_change mt_stack_capture(
    struct mt_stack *stack, struct mt_stack_thread *thread, const struct mt_registers *registers);

/* The next change will be a whole stack. */
static inline void mt_stack_forget(struct mt_stack_thread *thread)
{
    thread->frame_count = 0;
    thread->memo.count = 0;
}

/* The place of a pc in the cache of rules (internal.h). */
#define MT_FRONT_BITS 14
#define MT_FRONT_TAG_BITS (48 - MT_FRONT_BITS)
#define MT_FRONT_ENTRIES (UINT32_C(1) << MT_FRONT_BITS)

static MT_ALWAYS_INLINE uint64_t mt_front_product(uintptr_t pc)
{
    return (pc * UINT64_C(0x9e3779b97f4a7c15)) & (UINT64_MAX >> 16);
}

static MT_ALWAYS_INLINE struct mt_chain *mt_chain_at(struct mt_chain *chains, unsigned shift, uintptr_t pc, uintptr_t sp)
{
    return &chains[((pc * 5 ^ sp >> 4) * UINT64_C(0x9e3779b97f4a7c15)) >> shift];
}

struct mt_code_range {
    uintptr_t start, end;
};

#define MT_INNER_RULE_BITS 11

struct mt_inner_rule {
    uint64_t key; /* pc << 1 | whether it lies in a range; 0: none */
    uint64_t rule;
};

/*
 * An inner stack that was met: from this pc the walk read these words of the stack, so far from where it began. While they are the same, so is what it
 * finds, however deep that is: words that are addresses in the stack themselves (of frames that others are found by) are kept by their distance.
 * The first line of the processor's cache says all about a short one.
 */
#define MT_INNER_CHAIN_GROUPS 4u
#define MT_INNER_CHAIN_WORDS (4 * MT_INNER_CHAIN_GROUPS)
struct mt_inner_chain {
    _Alignas(64) uintptr_t pc; /* 0: none */
    uint8_t groups;            /* of four words; what is not needed of the last repeats the first. 0: a stack of one frame */
    bool bp_matters;
    uint16_t distances;        /* which of the words are kept by their distance from sp */
    uint16_t span_bytes;       /* the words lie so near to sp */
    uintptr_t bp;              /* its distance */
    struct mt_inner_words {
        uint16_t offsets[4]; /* from sp, in bytes */
        uintptr_t words[4];
    } words[MT_INNER_CHAIN_GROUPS];
};
static_assert(offsetof(struct mt_inner_chain, words[1]) == 64, "a short chain is one line of the cache");
static_assert(MT_INNER_CHAIN_WORDS == 16, "as many as there are bits in distances");
#define MT_INNER_CHAINS 1000u
#define MT_INNER_CHAIN_BITS 11 /* of the table that finds them by what they are */

/* The numbers of the chains that were met last at a pc and sp. */
struct mt_inner_guess {
    uint16_t first, second;
};
#define MT_INNER_GUESS_BITS 12

#define MT_INNER_MAX 24u

/* What is remembered of inner stacks for one thread and its ranges; zero at start. */
struct mt_inner_rules {
    uint32_t generation;           /* of the stack's rules + 1 */
    uint32_t chain_count;
    uint32_t frames[MT_INNER_MAX]; /* of the walk that was made last, innermost first */
    struct mt_inner_rule entries[1u << MT_INNER_RULE_BITS];
    struct mt_inner_guess guesses[1u << MT_INNER_GUESS_BITS];
    uint16_t numbers[1u << MT_INNER_CHAIN_BITS]; /* + 1, by a chain's hash; 0: none */
    struct mt_inner_chain chains[MT_INNER_CHAINS + 1]; /* and the one that is being made */
};

static MT_ALWAYS_INLINE struct mt_inner_guess *mt_inner_guess_at(struct mt_inner_rules *rules, uintptr_t pc, uintptr_t sp)
{
    return &rules->guesses[((pc * 5 ^ sp >> 4) * UINT64_C(0x9e3779b97f4a7c15)) >> (64 - MT_INNER_GUESS_BITS)];
}

/* The pc of the frame that the stack address lies in, at most 64 frames out. 0: none. */
uintptr_t mt_stack_pc_at(struct mt_stack *stack, struct mt_stack_thread *thread, const struct mt_registers *registers,
    uintptr_t address);

static MT_ALWAYS_INLINE uintptr_t mt_inner_differ(uintptr_t sp, const struct mt_inner_words *w)
{
    uintptr_t differs = 0;

#pragma GCC unroll 4
    for (unsigned i = 0; i < 4; i++)
        differs |= *(const uintptr_t *)(sp + w->offsets[i]) ^ w->words[i];
    return differs;
}

/* inner.c: the same where distances matter. */
bool mt_inner_distances_hold(const struct mt_inner_chain *chain, const struct mt_registers *registers);

static MT_ALWAYS_INLINE bool mt_inner_chain_holds(
    const struct mt_inner_chain *chain, const struct mt_stack_range *range, const struct mt_registers *registers)
{
    uintptr_t sp = registers->sp;

    if (chain->pc != registers->pc || MT_UNLIKELY(sp < range->low || sp + chain->span_bytes > range->high))
        return false;
#if !defined(MT_UNWINDER_GENERIC) /* which makes no chains */
    if (MT_UNLIKELY(chain->distances || chain->bp_matters))
        return mt_inner_distances_hold(chain, registers);
#endif
    if (mt_inner_differ(sp, &chain->words[0]))
        return chain->groups == 0;
    for (unsigned i = 1; MT_UNLIKELY(i < chain->groups); i++)
        if (mt_inner_differ(sp, &chain->words[i]))
            return false;
    return true;
}

#define MT_INNER_NONE UINT32_MAX

/* The number of the inner stack that a walk from here would find, guessed (by what mt_inner_guess_at() gives) and verified; MT_INNER_NONE: it must be walked. */
static MT_ALWAYS_INLINE uint32_t mt_stack_inner(const struct mt_stack *stack, const struct mt_stack_thread *thread,
    const struct mt_inner_rules *rules, const struct mt_inner_guess *guess, const struct mt_registers *registers)
{
    const struct mt_stack_range *range = &thread->ranges[0];

    if (MT_UNLIKELY(range->generation != mt_load_relaxed(&stack->unmap_generation) ||
                    rules->generation != mt_load_relaxed(&stack->rule_generation) + 1))
        return MT_INNER_NONE;
    if (MT_LIKELY(mt_inner_chain_holds(&rules->chains[guess->first], range, registers)))
        return guess->first;
    return mt_inner_chain_holds(&rules->chains[guess->second], range, registers) ? guess->second : MT_INNER_NONE;
}

/*
 * Walks up to the first frame with a pc in one of the ranges (the last one is empty). Returns how many frames there are, in rules->frames; 0: there is none so near, or a
 * frame on the way is not a plain one. *ret_number: what mt_stack_inner() will give, or MT_INNER_CHAINS, where the stack is too long for a chain. *ret_is_new: the
 * number was another stack's, or none's, before.
 */
uint32_t mt_stack_walk_inner(struct mt_stack *stack, struct mt_stack_thread *thread, const struct mt_registers *registers,
    const struct mt_code_range *ranges, struct mt_inner_rules *rules, uint32_t *ret_number, bool *ret_is_new);

/* The chains are made anew: what was known of them elsewhere is not any more. Also called where there is a new range. */
static inline void mt_inner_forget(struct mt_inner_rules *rules)
{
    rules->generation = 0;
}

/* Told of each object in which a rule is learnt for the first time, under the lock, while code of it runs. NULL: nobody cares. */
struct link_map;
extern void (*mt_stack_on_object)(const struct link_map *object) MT_HIDDEN;

/* After a dlclose: forgets rules and modules of objects that are no longer mapped. */
void mt_stack_objects_changed(struct mt_stack *stack);

/*
 * Loads libunwind privately (RTLD_LOCAL: libunwind-x86_64 drags libunwind.so in, which would otherwise take over the target's
 * C++ unwinding). Call once, from the library's constructor, never from inside a hook. Until then stacks are one frame
 * deep. Returns 0 or -ENOENT.
 */
int mt_stack_load_unwinder(void);
bool mt_stack_unwinder_loaded(void);

/*
 * Set while libunwind or the dynamic loader works on memtrace's behalf: the hooks then serve memory from memtrace's own arena and
 * record nothing. A counter, one per thread.
 */
extern __thread uint32_t mt_stack_internal __attribute__((tls_model("initial-exec")));

#endif

/*
 * libunwind, as libunwind.c has loaded it, for the files that ask it.
 */
#ifndef MT_STACK_UNWINDER_H
#define MT_STACK_UNWINDER_H

#include <libunwind.h>
#include <link.h>
#include <signal.h>

#include "stack/internal.h"

#ifndef MT_UNWIND_REGISTERS
#define MT_UNWIND_REGISTERS (UNW_TDEP_LAST_REG + 1)
#endif

/* What the accessors work on; `made_up` tells learning from real unwinding. */
struct mt_unwind_target {
    bool made_up;
    bool found; /* call frame information was there */
    struct mt_stack *learns; /* whose unwind_windows to keep; NULL: nobody's */
    uintptr_t last_window; /* that was noted last */
    uint64_t registers[MT_UNWIND_REGISTERS];
    uintptr_t sp_base, bp_base; /* made-up stacks are around these */
    uintptr_t object_start, object_end;
    uintptr_t pages[4]; /* found readable in this unwinding; + 1, so that 0 is none */
    unsigned next_page;
};

typedef int mt_search_table_fn(unw_addr_space_t, unw_word_t, unw_dyn_info_t *, unw_proc_info_t *, int, void *);

/* Not wiped at fork: the loaded code and the address space stay good in the child. */
struct mt_unwinder {
    int state; /* 0: not tried, 1: loaded, -1: cannot be loaded */
    unw_addr_space_t space, cached_space;
    int cached_pid; /* whose cached_space is */
    struct link_map *map;
    __typeof__(sigprocmask) *sigprocmask; /* what libunwind's calls would have led to */
    __typeof__(unw_create_addr_space) *create_addr_space;
    __typeof__(unw_set_caching_policy) *set_caching_policy;
    __typeof__(unw_init_remote) *init_remote;
    __typeof__(unw_step) *step;
    __typeof__(unw_get_reg) *get_reg;
    __typeof__(unw_get_save_loc) *get_save_loc;
    __typeof__(unw_is_signal_frame) *is_signal_frame;
    __typeof__(unw_flush_cache) *flush_cache;
    mt_search_table_fn *search_table;
#if defined(MT_UNWINDER_GENERIC)
    __typeof__(unw_init_local) *init_local;
    __typeof__(unw_get_reg) *get_local_reg;
#endif
};
extern struct mt_unwinder mt_unwinder;

/* What a word of a made-up stack holds. */
static inline uint64_t mt_unwind_token(uint64_t address)
{
    return address ^ UINT64_C(0x5a00000000000005);
}

/* Makes the object of a pc readable: libunwind may look at the code before it asks for unwind information. */
void mt_unwind_open_object(struct mt_unwind_target *target, uintptr_t pc);

#endif

/*
 * Asking libunwind. Its generic (remote) flavour steps a cursor through accessors, so it can be run over registers
 * and memory that do not exist:
 *
 *   To learn the rule of a pc, a cursor is stepped twice from that pc. Registers are made up; words of the made-up stacks are tokens,
 *   functions of their address; only the object's own bytes (unwind tables) are real. The second run moves sp and bp by different distances:
 *   what the new sp moved with is the register that the CFA hangs on. The return address must be the token of CFA - 8, and
 *   the save location of bp tells its slot. Whatever does not fit this pattern is COMPLEX.
 *
 * libunwind is loaded by dlopen and RTLD_LOCAL; see mt_stack_load_unwinder() in stack.h for why. Its caches are off: they would take
 * its locks, and every pc is asked once. Only MEMTRACE_VERIFY=1 has an address space with a cache, of its own for each process (a forked child may
 * find the lock of its parent's taken).
 */
#include "stack/internal.h"

#include <dlfcn.h>
#include <link.h>
#include <libunwind.h>
#include <signal.h>
#include <string.h>
#include <sys/stat.h>

#include "base/slow_stack.h"
#include "stack/arch/x86_64/registers.h"

typedef int search_table_fn(unw_addr_space_t, unw_word_t, unw_dyn_info_t *, unw_proc_info_t *, int, void *);

/* Not wiped at fork: the loaded code and the address space stay good in the child. */
static struct {
    int state; /* 0: not tried, 1: loaded, -1: cannot be loaded */
    unw_addr_space_t space, cached_space;
    int cached_pid; /* whose cached_space is */
    struct link_map *map;
    __typeof__(sigprocmask) *sigprocmask; /* what the calls would have led to */
    __typeof__(unw_create_addr_space) *create_addr_space;
    __typeof__(unw_set_caching_policy) *set_caching_policy;
    __typeof__(unw_init_remote) *init_remote;
    __typeof__(unw_step) *step;
    __typeof__(unw_get_reg) *get_reg;
    __typeof__(unw_get_save_loc) *get_save_loc;
    __typeof__(unw_flush_cache) *flush_cache;
    search_table_fn *search_table;
} unwinder;

/* What the accessors work on; `made_up` tells learning from real unwinding. */
struct target {
    bool made_up;
    bool found; /* call frame information was there */
    uint64_t registers[17];
    uintptr_t sp_base, bp_base;
    uintptr_t object_start, object_end;
    uintptr_t pages[4]; /* found readable in this unwinding; + 1, so that 0 is none */
    unsigned next_page;
};

#define MADE_UP_SPAN (UINT64_C(64) << 20)

static uint64_t token(uint64_t address)
{
    return address ^ UINT64_C(0x5a00000000000005);
}

static bool near(uintptr_t address, uintptr_t base)
{
    return address - (base - MADE_UP_SPAN) < 2 * MADE_UP_SPAN;
}

/* The search table of an object's .eh_frame_hdr: version 1, and the encodings that linkers write (pcrel sdata4 pointer, udata4
 * count, datarel sdata4 table). */
static int find_proc_info(unw_addr_space_t space, unw_word_t ip, unw_proc_info_t *ret_info, int need, void *context)
{
    struct target *target = context;
    struct dl_find_object object;
    const unsigned char *header;
    unw_dyn_info_t info;
    uint32_t count;
    int r;

    if (_dl_find_object((void *)ip, &object) != 0 || !object.dlfo_eh_frame)
        return -UNW_ENOINFO;
    header = object.dlfo_eh_frame;
    if (header[0] != 1 || header[1] != 0x1b || header[2] != 0x03 || header[3] != 0x3b)
        return -UNW_ENOINFO;
    memcpy(&count, header + 8, sizeof count);
    mt_object_range(&object, &target->object_start, &target->object_end);
    memset(&info, 0, sizeof info);
    info.format = UNW_INFO_FORMAT_REMOTE_TABLE;
    info.start_ip = target->object_start;
    info.end_ip = target->object_end;
    info.u.rti.segbase = (unw_word_t)header;
    info.u.rti.table_data = (unw_word_t)(header + 12);
    info.u.rti.table_len = (unw_word_t)count * 8 / sizeof(unw_word_t);
    r = unwinder.search_table(space, ip, &info, ret_info, need, context);
    if (r == 0)
        target->found = true;
    return r;
}

static void put_unwind_info(unw_addr_space_t space, unw_proc_info_t *info, void *context)
{
    (void)space;
    (void)info;
    (void)context;
}

static int get_dyn_info_list_addr(unw_addr_space_t space, unw_word_t *ret_address, void *context)
{
    (void)space;
    (void)ret_address;
    (void)context;
    return -UNW_ENOINFO;
}

static bool readable(struct target *target, uintptr_t address)
{
    uintptr_t page = address & ~(uintptr_t)(MT_PAGE_BYTES - 1);
    struct dl_find_object object;

    if (!page) /* a system call would take its address for none */
        return false;
    for (unsigned i = 0; i < MT_ARRAY_LEN(target->pages); i++)
        if (target->pages[i] == page + 1)
            return true;
    if (_dl_find_object((void *)address, &object) == 0) { /* code: libunwind may look whether it is a signal trampoline's */
        mt_object_range(&object, &target->object_start, &target->object_end);
        return address >= target->object_start && address < target->object_end;
    }
    if (!mt_sys_readable((const void *)page))
        return false;
    target->pages[target->next_page++ % MT_ARRAY_LEN(target->pages)] = page + 1;
    return true;
}

static int access_mem(unw_addr_space_t space, unw_word_t address, unw_word_t *value, int write, void *context)
{
    struct target *target = context;

    (void)space;
    if (write)
        return -UNW_EINVAL;
    if (address >= target->object_start && address + sizeof *value <= target->object_end) {
        memcpy(value, (const void *)address, sizeof *value);
        return 0;
    }
    if (target->made_up) {
        if (!near(address, target->sp_base) && !near(address, target->bp_base))
            return -UNW_EINVAL;
        *value = token(address);
        return 0;
    }
    if (!readable(target, address) || !readable(target, address + sizeof *value - 1))
        return -UNW_EINVAL;
    memcpy(value, (const void *)address, sizeof *value);
    return 0;
}

static int access_reg(unw_addr_space_t space, unw_regnum_t regnum, unw_word_t *value, int write, void *context)
{
    struct target *target = context;

    (void)space;
    if (write || regnum < 0 || regnum > MT_REG_RIP)
        return -UNW_EBADREG;
    *value = target->registers[regnum];
    return 0;
}

static int access_fpreg(unw_addr_space_t space, unw_regnum_t regnum, unw_fpreg_t *value, int write, void *context)
{
    (void)space;
    (void)regnum;
    (void)value;
    (void)write;
    (void)context;
    return -UNW_EBADREG;
}

static int resume(unw_addr_space_t space, unw_cursor_t *cursor, void *context)
{
    (void)space;
    (void)cursor;
    (void)context;
    return -UNW_EINVAL;
}

static int get_proc_name(
    unw_addr_space_t space, unw_word_t ip, char *name, size_t size, unw_word_t *ret_offset, void *context)
{
    (void)space;
    (void)ip;
    (void)name;
    (void)size;
    (void)ret_offset;
    (void)context;
    return -UNW_ENOINFO;
}

static unw_accessors_t accessors = {
    .find_proc_info = find_proc_info,
    .put_unwind_info = put_unwind_info,
    .get_dyn_info_list_addr = get_dyn_info_list_addr,
    .access_mem = access_mem,
    .access_reg = access_reg,
    .access_fpreg = access_fpreg,
    .resume = resume,
    .get_proc_name = get_proc_name,
};

static bool is_pipe(int fd, struct stat *ret_stat)
{
    return mt_sys2(SYS_fstat, fd, ret_stat) == 0 && S_ISFIFO(ret_stat->st_mode);
}

/*
 * libunwind's first use opens a pipe, with which its local flavour probes memory. The remote flavour never touches it, and a descriptor
 * of ours has no business in the target: it gets the two lowest free numbers, so they are found out before and closed after.
 */
static void first_use(void)
{
    int fds[2] = {mt_sys_open("/dev/null", O_RDONLY), mt_sys_open("/dev/null", O_RDONLY)};
    struct stat ends[2];

    for (int i = 0; i < 2; i++)
        if (fds[i] >= 0)
            mt_sys_close(fds[i]);
    unwinder.space = unwinder.create_addr_space(&accessors, 0);
    if (unwinder.space)
        unwinder.set_caching_policy(unwinder.space, UNW_CACHE_NONE);
    if (fds[0] >= 0 && fds[1] >= 0 && is_pipe(fds[0], &ends[0]) && is_pipe(fds[1], &ends[1]) &&
        ends[0].st_ino == ends[1].st_ino) {
        mt_sys_close(fds[0]);
        mt_sys_close(fds[1]);
    }
}

int mt_stack_load_unwinder(void)
{
    void *library;
    int ok;

    if (unwinder.state)
        return unwinder.state > 0 ? 0 : -ENOENT;
    library = dlopen(MT_UNWIND_LIBRARY, RTLD_NOW | RTLD_LOCAL);
    if (!library) {
        unwinder.state = -1;
        return -ENOENT;
    }
#define LOAD(field, name) ((*(void **)&unwinder.field = dlsym(library, MT_UNWIND_SYMBOL(name))) != NULL)
    ok = LOAD(create_addr_space, create_addr_space) && LOAD(set_caching_policy, set_caching_policy) &&
         LOAD(init_remote, init_remote) && LOAD(step, step) && LOAD(get_reg, get_reg) &&
         LOAD(get_save_loc, get_save_loc) && LOAD(flush_cache, flush_cache) && LOAD(search_table, dwarf_search_unwind_table);
#undef LOAD
    if (ok && dlinfo(library, RTLD_DI_LINKMAP, &unwinder.map) != 0)
        unwinder.map = NULL;
    if (ok)
        first_use();
    if (!unwinder.space) {
        unwinder.state = -1;
        return -ENOENT;
    }
    mt_store_release(&unwinder.state, 1);
    return 0;
}

bool mt_stack_unwinder_loaded(void)
{
    return mt_load_acquire(&unwinder.state) > 0;
}

bool mt_unwinder_hopeless(void)
{
    return unwinder.state < 0;
}

struct outcome {
    int step; /* > 0: there is an outer frame, 0: outermost, < 0: failed */
    bool found;
    uint64_t cfa, ip;
    unw_save_loc_t bp;
};

static void step_made_up(uintptr_t pc, uintptr_t sp, uintptr_t bp, struct outcome *ret)
{
    struct target target;
    unw_cursor_t cursor;
    unw_word_t value;

    memset(&target, 0, sizeof target);
    memset(ret, 0, sizeof *ret);
    target.made_up = true;
    for (unsigned i = 0; i < 17; i++)
        target.registers[i] = UINT64_C(0x3300000000000000) + i * 0x1000003u;
    target.registers[MT_REG_RIP] = pc;
    target.registers[MT_REG_RSP] = target.sp_base = sp;
    target.registers[MT_REG_RBP] = target.bp_base = bp;
    ret->step = -1;
    if (unwinder.init_remote(&cursor, unwinder.space, &target) < 0)
        return;
    ret->step = unwinder.step(&cursor);
    ret->found = target.found;
    if (ret->step <= 0)
        return;
    if (unwinder.get_reg(&cursor, UNW_REG_SP, &value) < 0)
        ret->step = -1;
    ret->cfa = value;
    if (unwinder.get_reg(&cursor, UNW_REG_IP, &value) < 0)
        ret->step = -1;
    ret->ip = value;
    if (unwinder.get_save_loc(&cursor, UNW_X86_64_RBP, &ret->bp) < 0)
        ret->step = -1;
}

#define SP1 UINT64_C(0x0000650000000000)
#define SP2 (SP1 + UINT64_C(0x40000010))
#define BP1 (SP1 + UINT64_C(0x100000000))
#define BP2 (BP1 + UINT64_C(0x80000020))

/* bp's slot relative to the CFA, in words; 0: kept in its register. False where it is neither. */
static bool bp_slot(const struct outcome *a, const struct outcome *b, int64_t *ret_words)
{
    int64_t da, db;

    if (a->bp.type != b->bp.type)
        return false;
    if (a->bp.type == UNW_SLT_NONE || a->bp.type == UNW_SLT_REG) {
        *ret_words = 0;
        return true;
    }
    da = (int64_t)(a->bp.u.addr - a->cfa);
    db = (int64_t)(b->bp.u.addr - b->cfa);
    if (da != db || da % 8 || da == 0)
        return false;
    *ret_words = da / 8;
    return true;
}

void mt_learn(uintptr_t pc, struct mt_learnt *ret_learnt)
{
    struct outcome a, b;
    int64_t offset, bp_words;

    memset(ret_learnt, 0, sizeof *ret_learnt);
    step_made_up(pc, SP1, BP1, &a);
    if (!a.found) {
        /*
         * No call returns to the first byte of a function with nothing known of the byte before it. The root of a made-up stack does: makecontext()'s
         * is __start_context.
         */
        step_made_up(pc + 1, SP1, BP1, &a);
        ret_learnt->kind = a.found ? MT_RULE_END : MT_RULE_CUT;
        return;
    }
    if (a.step == 0) {
        ret_learnt->kind = MT_RULE_END;
        return;
    }
    ret_learnt->kind = MT_RULE_COMPLEX;
    if (a.step < 0)
        return;
    step_made_up(pc, SP2, BP2, &b);
    if (b.step <= 0 || a.ip != token(a.cfa - 8) || b.ip != token(b.cfa - 8) || !bp_slot(&a, &b, &bp_words))
        return;
    if (a.cfa - SP1 == b.cfa - SP2)
        offset = (int64_t)(a.cfa - SP1);
    else if (a.cfa - BP1 == b.cfa - BP2)
        offset = (int64_t)(a.cfa - BP1);
    else
        return;
    if (offset % 8 || !mt_rule_fits(bp_words, offset / 8))
        return;
    ret_learnt->kind = a.cfa - SP1 == b.cfa - SP2 ? MT_RULE_SP : MT_RULE_BP;
    ret_learnt->cfa_words = offset / 8;
    ret_learnt->bp_words = bp_words;
}

struct unwinding {
    const struct mt_full_registers *here;
    const struct mt_registers *from;
    mt_unwind_visit *visit;
    void *context;
    unw_addr_space_t space;
    int result;
};

static void unwind_all(void *context)
{
    struct unwinding *u = context;
    struct target target;
    unw_cursor_t cursor;
    bool started = false, exact = false;
    struct dl_find_object object;
    int r;

    memset(&target, 0, sizeof target);
    memcpy(target.registers, u->here->value, sizeof target.registers);
    u->result = -EINVAL;
    r = unwinder.init_remote(&cursor, u->space, &target);
    while (r >= 0) {
        unw_word_t ip, sp;

        if (unwinder.get_reg(&cursor, UNW_REG_IP, &ip) < 0 || unwinder.get_reg(&cursor, UNW_REG_SP, &sp) < 0 || !ip)
            break;
        if (!started && sp == u->from->sp)
            started = true;
        else if (!started && sp > u->from->sp)
            return;
        if (started && !u->visit(u->context, exact ? ip : ip - 1))
            break;
        r = unwinder.step(&cursor);
        if (r == 0)
            break;
        /* unw_is_signal_frame() knows only of signal frames without call frame information. */
        exact = r > 0 && _dl_find_object((void *)ip, &object) == 0 && mt_is_signal_trampoline(ip - 1);
    }
    if (started)
        u->result = 0;
}

static int sigprocmask_unless_internal(int how, const sigset_t *set, sigset_t *old)
{
    return mt_stack_internal ? 0 : unwinder.sigprocmask(how, set, old);
}

/*
 * With its cache libunwind takes a lock in each step, and blocks signals around it: two system calls, two thirds of a comparison's time.
 * Signals are blocked already, so the calls are taken out of its jump table, if that can be written to.
 */
static void spare_signal_calls(void)
{
    const ElfW(Sym) *symbols = NULL;
    const ElfW(Rela) *slots = NULL;
    const char *strings = NULL;
    size_t slot_bytes = 0;

    for (const ElfW(Dyn) *d = unwinder.map ? unwinder.map->l_ld : NULL; d && d->d_tag != DT_NULL; d++) {
        if (d->d_tag == DT_SYMTAB)
            symbols = (const void *)d->d_un.d_ptr;
        else if (d->d_tag == DT_STRTAB)
            strings = (const void *)d->d_un.d_ptr;
        else if (d->d_tag == DT_JMPREL)
            slots = (const void *)d->d_un.d_ptr;
        else if (d->d_tag == DT_PLTRELSZ)
            slot_bytes = d->d_un.d_val;
        else if (d->d_tag == DT_BIND_NOW || (d->d_tag == DT_FLAGS && (d->d_un.d_val & DF_BIND_NOW)))
            return; /* read-only by now */
    }
    for (size_t i = 0; symbols && strings && slots && i < slot_bytes / sizeof *slots; i++) {
        uintptr_t *slot = (uintptr_t *)(unwinder.map->l_addr + slots[i].r_offset);

        if (strcmp(strings + symbols[ELF64_R_SYM(slots[i].r_info)].st_name, "sigprocmask") == 0 &&
            *slot != (uintptr_t)sigprocmask_unless_internal) {
            unwinder.sigprocmask = (__typeof__(sigprocmask) *)*slot;
            mt_store_release(slot, (uintptr_t)sigprocmask_unless_internal);
        }
    }
}

/* The address space with a cache; the one without if it cannot be had. */
static unw_addr_space_t cached_space(void)
{
    int pid = mt_sys_getpid();

    if (unwinder.cached_pid != pid) {
        unw_addr_space_t space = unwinder.create_addr_space(&accessors, 0);

        if (!space || unwinder.set_caching_policy(space, UNW_CACHE_GLOBAL) < 0)
            return unwinder.space;
        spare_signal_calls();
        unwinder.cached_space = space;
        unwinder.cached_pid = pid;
    }
    return unwinder.cached_space;
}

void mt_unwind_forget(void)
{
    if (mt_stack_unwinder_loaded() && unwinder.cached_space)
        unwinder.flush_cache(unwinder.cached_space, 0, 0);
}

int MT_NOINLINE mt_unwind_by_libunwind(
    const struct mt_registers *from, bool cached, mt_unwind_visit *visit, void *context)
{
    struct mt_full_registers here;
    struct unwinding u = {&here, from, visit, context, unwinder.space, 0};

    if (!mt_stack_unwinder_loaded())
        return -ENOENT;
    if (cached)
        u.space = cached_space();
    /* This frame stays while the cursor starts from it, on another stack. */
    memset(&here, 0, sizeof here);
    MT_FULL_REGISTERS(&here);
    mt_on_slow_stack(unwind_all, &u);
    return u.result;
}

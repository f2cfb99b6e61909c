/*
 * libunwind. Its generic (remote) flavour steps a cursor through accessors, so it can be run over registers and memory that do not exist
 * (learn.c), and over those of the calling thread, without the loader's lock: objects are found by _dl_find_object.
 *
 * It is loaded by dlopen and RTLD_LOCAL; see mt_stack_load_unwinder() in stack.h for why. Its caches are off: they would take
 * its locks, and every pc is asked once. Only MEMTRACE_VERIFY=1 has an address space with a cache, of its own for each process (a forked child may
 * find the lock of its parent's taken).
 */
#include "stack/unwinder.h"

#include <dlfcn.h>
#include <string.h>
#include <sys/stat.h>
#include <ucontext.h>

#include "base/slow_stack.h"

struct mt_unwinder mt_unwinder;

#define MADE_UP_SPAN (UINT64_C(64) << 20)

static bool near(uintptr_t address, uintptr_t base)
{
    return address - (base - MADE_UP_SPAN) < 2 * MADE_UP_SPAN;
}

/* A crowded set forgets: better too little than the same twice. */
static void note_window(struct mt_unwind_target *target, uintptr_t address)
{
    struct mt_stack *stack = target->learns;
    uintptr_t window = address / MT_UNWIND_WINDOW_BYTES, key = window + 1;

    if (!stack || key == target->last_window)
        return;
    target->last_window = key;
    for (unsigned i = 0; i < 4; i++) {
        uintptr_t *place = &stack->unwind_windows[(window + i) % MT_UNWIND_WINDOWS];

        if (*place == key)
            return;
        if (*place == 0) {
            *place = key;
            mt_fetch_add_relaxed(&stack->private_bytes, MT_UNWIND_WINDOW_BYTES);
            return;
        }
    }
}

/*
 * The entry of a search table, sorted pairs of offsets from the header, that a pc belongs to; NULL: it lies in front of all. libunwind would read each
 * word on the way by a call of access_mem().
 */
static const int32_t *entry_of(const unsigned char *header, uint32_t count, uintptr_t pc, struct mt_unwind_target *target)
{
    const int32_t *table = (const int32_t *)(header + 12);
    uint32_t low = 0;

    if (!count || (uintptr_t)(header + table[0]) > pc)
        return NULL;
    for (uint32_t high = count; high - low > 1;) {
        uint32_t middle = low + (high - low) / 2;

        note_window(target, (uintptr_t)&table[2 * middle]);
        if ((uintptr_t)(header + table[2 * middle]) <= pc)
            low = middle;
        else
            high = middle;
    }
    return &table[2 * low];
}

/* The search table of an object's .eh_frame_hdr: version 1, and the encodings that linkers write (pcrel sdata4 pointer, udata4
 * count, datarel sdata4 table). */
static int find_proc_info(unw_addr_space_t space, unw_word_t ip, unw_proc_info_t *ret_info, int need, void *context)
{
    struct mt_unwind_target *target = context;
    struct dl_find_object object;
    const unsigned char *header;
    const int32_t *entry;
    unw_dyn_info_t info;
    uint32_t count;
    int r;

    if (_dl_find_object((void *)ip, &object) != 0 || !object.dlfo_eh_frame)
        return -UNW_ENOINFO;
    header = object.dlfo_eh_frame;
    if (header[0] != 1 || header[1] != 0x1b || header[2] != 0x03 || header[3] != 0x3b)
        return -UNW_ENOINFO;
    memcpy(&count, header + 8, sizeof count);
    entry = entry_of(header, count, ip, target);
    if (!entry)
        return -UNW_ENOINFO;
    mt_object_range(&object, &target->object_start, &target->object_end);
    memset(&info, 0, sizeof info);
    info.format = UNW_INFO_FORMAT_REMOTE_TABLE;
    info.start_ip = target->object_start;
    info.end_ip = target->object_end;
    info.u.rti.segbase = (unw_word_t)header;
    info.u.rti.table_data = (unw_word_t)entry; /* a table of one */
    info.u.rti.table_len = 8 / sizeof(unw_word_t);
    r = mt_unwinder.search_table(space, ip, &info, ret_info, need, context);
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

static bool readable(struct mt_unwind_target *target, uintptr_t address)
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
    struct mt_unwind_target *target = context;

    (void)space;
    if (write)
        return -UNW_EINVAL;
    if (address >= target->object_start && address + sizeof *value <= target->object_end) {
        note_window(target, address);
        memcpy(value, (const void *)address, sizeof *value);
        return 0;
    }
    if (target->made_up) {
        if (!near(address, target->sp_base) && !near(address, target->bp_base))
            return -UNW_EINVAL;
        *value = mt_unwind_token(address);
        return 0;
    }
    if (!readable(target, address) || !readable(target, address + sizeof *value - 1))
        return -UNW_EINVAL;
    memcpy(value, (const void *)address, sizeof *value);
    return 0;
}

static int access_reg(unw_addr_space_t space, unw_regnum_t regnum, unw_word_t *value, int write, void *context)
{
    struct mt_unwind_target *target = context;

    (void)space;
    if (write || regnum < 0 || regnum >= (unw_regnum_t)MT_UNWIND_REGISTERS)
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

static void create_address_space(void)
{
    mt_unwinder.space = mt_unwinder.create_addr_space(&accessors, 0);
    if (mt_unwinder.space)
        mt_unwinder.set_caching_policy(mt_unwinder.space, UNW_CACHE_NONE);
}

static bool is_pipe(int fd, struct stat *ret_stat)
{
    return mt_sys2(SYS_fstat, fd, ret_stat) == 0 && S_ISFIFO(ret_stat->st_mode);
}

/*
 * libunwind's first use opens a pipe, with which its local flavour probes memory. The remote flavour never touches it, and a descriptor
 * of ours has no business in the target: it gets the two lowest free numbers, so they are found out before and closed after.
 */
static void first_use(void (*use)(void))
{
    int fds[2] = {mt_sys_open("/dev/null", O_RDONLY), mt_sys_open("/dev/null", O_RDONLY)};
    struct stat ends[2];

    for (int i = 0; i < 2; i++)
        if (fds[i] >= 0)
            mt_sys_close(fds[i]);
    use();
    if (fds[0] >= 0 && fds[1] >= 0 && is_pipe(fds[0], &ends[0]) && is_pipe(fds[1], &ends[1]) &&
        ends[0].st_ino == ends[1].st_ino) {
        mt_sys_close(fds[0]);
        mt_sys_close(fds[1]);
    }
}

/* By names that libunwind's header has for the processor. */
#define TEXT_(x) #x
#define TEXT(x) TEXT_(x)
#define LIBRARY "libunwind-" TEXT(UNW_TARGET) ".so.8"
#define LOAD(library, field, name) ((*(void **)&mt_unwinder.field = dlsym(library, name)) != NULL)
#define REMOTE(name) "_U" TEXT(UNW_TARGET) "_" #name

#if defined(MT_UNWINDER_GENERIC)
/*
 * The registers of the calling function in a form that libunwind's accessors can give out: its local flavour knows where in a ucontext they
 * are. It is never stepped: it would look for objects under the loader's lock.
 */
#define LOCAL_LIBRARY "libunwind.so.8"
#define LOCAL(name) "_UL" TEXT(UNW_TARGET) "_" #name

static ucontext_t here; /* under the lock */

static void read_registers(struct mt_unwind_target *target)
{
    unw_cursor_t cursor;
    unw_word_t value;

    if (mt_unwinder.init_local(&cursor, (unw_context_t *)&here) < 0)
        return;
    for (int i = 0; i < (int)MT_UNWIND_REGISTERS; i++)
        if (mt_unwinder.get_local_reg(&cursor, i, &value) == 0)
            target->registers[i] = value;
}

static void use_local(void)
{
    struct mt_unwind_target target = {.made_up = true};

    getcontext(&here);
    read_registers(&target);
}

static bool load_local(void)
{
    void *library = dlopen(LOCAL_LIBRARY, RTLD_NOW | RTLD_LOCAL);

    if (!library || !LOAD(library, init_local, LOCAL(init_local)) || !LOAD(library, get_local_reg, LOCAL(get_reg)))
        return false;
    first_use(use_local);
    return true;
}
#else
static bool load_local(void)
{
    return true;
}
#endif

static int sigprocmask_unless_internal(int how, const sigset_t *set, sigset_t *old)
{
    return mt_stack_internal ? 0 : mt_unwinder.sigprocmask(how, set, old);
}

/*
 * libunwind takes a lock for each piece of memory of its own and, with its cache, in each step, and blocks signals around that: two system calls each time,
 * six for a rule that is learnt, two thirds of a comparison's time. Signals are blocked already, so the calls are taken out of its jump table, if that can
 * be written to.
 */
static void spare_signal_calls(void)
{
    const struct link_map *map = mt_unwinder.map;
    const ElfW(Sym) *symbols = NULL;
    const ElfW(Rela) *slots = NULL;
    const char *strings = NULL;
    size_t slot_bytes = 0;

    for (const ElfW(Dyn) *d = map ? map->l_ld : NULL; d && d->d_tag != DT_NULL; d++) {
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
        uintptr_t *slot = (uintptr_t *)(map->l_addr + slots[i].r_offset);

        if (strcmp(strings + symbols[ELF64_R_SYM(slots[i].r_info)].st_name, "sigprocmask") == 0 &&
            *slot != (uintptr_t)sigprocmask_unless_internal) {
            mt_unwinder.sigprocmask = (__typeof__(sigprocmask) *)*slot;
            mt_store_release(slot, (uintptr_t)sigprocmask_unless_internal);
        }
    }
}

int mt_stack_load_unwinder(void)
{
    void *library;

    if (mt_unwinder.state)
        return mt_unwinder.state > 0 ? 0 : -ENOENT;
    library = dlopen(LIBRARY, RTLD_NOW | RTLD_LOCAL);
    if (library && LOAD(library, create_addr_space, REMOTE(create_addr_space)) &&
        LOAD(library, set_caching_policy, REMOTE(set_caching_policy)) && LOAD(library, init_remote, REMOTE(init_remote)) &&
        LOAD(library, step, REMOTE(step)) && LOAD(library, get_reg, REMOTE(get_reg)) &&
        LOAD(library, get_save_loc, REMOTE(get_save_loc)) && LOAD(library, is_signal_frame, REMOTE(is_signal_frame)) &&
        LOAD(library, flush_cache, REMOTE(flush_cache)) &&
        LOAD(library, search_table, REMOTE(dwarf_search_unwind_table)) && load_local())
        first_use(create_address_space);
    if (mt_unwinder.space && dlinfo(library, RTLD_DI_LINKMAP, &mt_unwinder.map) != 0)
        mt_unwinder.map = NULL;
    if (!mt_unwinder.space) {
        mt_unwinder.state = -1;
        return -ENOENT;
    }
    spare_signal_calls();
    mt_store_release(&mt_unwinder.state, 1);
    return 0;
}

bool mt_stack_unwinder_loaded(void)
{
    return mt_load_acquire(&mt_unwinder.state) > 0;
}

bool mt_unwinder_hopeless(void)
{
    return mt_unwinder.state < 0;
}

void mt_unwind_open_object(struct mt_unwind_target *target, uintptr_t pc)
{
    struct dl_find_object object;

    if (_dl_find_object((void *)pc, &object) == 0)
        mt_object_range(&object, &target->object_start, &target->object_end);
}

bool mt_unwind_knows(struct mt_stack *stack, uintptr_t pc)
{
    struct mt_unwind_target target = {.made_up = true, .learns = stack};
    unw_proc_info_t info;

    return find_proc_info(mt_unwinder.space, pc, &info, 0, &target) == 0;
}

struct unwinding {
#if !defined(MT_UNWINDER_GENERIC)
    const struct mt_full_registers *here;
#endif
    const struct mt_registers *from;
    mt_unwind_visit *visit;
    void *context;
    unw_addr_space_t space;
    int result;
};

/* Whether a frame of the calling thread is where the unwinding is to begin. */
static bool is_first(const struct unwinding *u, unw_word_t ip, unw_word_t sp)
{
#if defined(MT_UNWINDER_GENERIC)
    return mt_code_address(ip) - 1 == u->from->pc && sp >= u->from->sp;
#else
    (void)ip;
    return sp == u->from->sp;
#endif
}

#if defined(MT_HAS_SIGNAL_TRAMPOLINE)
/* Whether the frame that was just stepped over is a signal trampoline's: the next pc is then no return address. */
static bool was_trampoline(const struct mt_unwind_target *target, uintptr_t ip)
{
    if (ip < target->object_start || ip + 16 > target->object_end)
        return mt_is_foreign_trampoline(ip - 1);
    return mt_is_signal_trampoline(ip - 1);
}
#endif

#define OWN_FRAMES_MAX 64 /* memtrace's own, below the first */

static void unwind_all(void *context)
{
    struct unwinding *u = context;
    struct mt_unwind_target target;
    unw_cursor_t cursor;
    bool started = false, exact = false;
    unsigned own_frames = 0;
    int r;

    memset(&target, 0, sizeof target);
#if defined(MT_UNWINDER_GENERIC)
    read_registers(&target);
#else
    memcpy(target.registers, u->here->value, sizeof target.registers);
#endif
    u->result = -EINVAL;
    r = mt_unwinder.init_remote(&cursor, u->space, &target);
    while (r >= 0) {
        unw_word_t ip, sp;

        if (mt_unwinder.get_reg(&cursor, UNW_REG_IP, &ip) < 0 || mt_unwinder.get_reg(&cursor, UNW_REG_SP, &sp) < 0 || !ip)
            break;
        if (!started && is_first(u, ip, sp))
            started = true;
        else if (!started && own_frames++ == OWN_FRAMES_MAX)
            return;
        ip = mt_code_address(ip);
        if (started && !u->visit(u->context, exact ? ip : ip - 1))
            break;
#if defined(MT_HAS_SIGNAL_TRAMPOLINE)
        r = mt_unwinder.step(&cursor);
        exact = was_trampoline(&target, ip);
#else
        exact = mt_unwinder.is_signal_frame(&cursor) > 0;
        r = mt_unwinder.step(&cursor);
#endif
        if (r == 0)
            break;
    }
    if (started)
        u->result = r < 0 ? -ESRCH : 0;
}

/* The address space with a cache; the one without if it cannot be had. */
static unw_addr_space_t cached_space(void)
{
    int pid = mt_sys_getpid();

    if (mt_unwinder.cached_pid != pid) {
        unw_addr_space_t space = mt_unwinder.create_addr_space(&accessors, 0);

        if (!space || mt_unwinder.set_caching_policy(space, UNW_CACHE_GLOBAL) < 0)
            return mt_unwinder.space;
        mt_unwinder.cached_space = space;
        mt_unwinder.cached_pid = pid;
    }
    return mt_unwinder.cached_space;
}

void mt_unwind_forget(void)
{
    if (mt_stack_unwinder_loaded() && mt_unwinder.cached_space)
        mt_unwinder.flush_cache(mt_unwinder.cached_space, 0, 0);
}

int MT_NOINLINE mt_unwind_by_libunwind(
    const struct mt_registers *from, bool cached, mt_unwind_visit *visit, void *context)
{
    /* This frame stays while the cursor starts from it, on another stack. */
#if defined(MT_UNWINDER_GENERIC)
    struct unwinding u = {from, visit, context, NULL, 0};

    if (!mt_stack_unwinder_loaded())
        return -ENOENT;
    if (getcontext(&here) < 0)
        return -EINVAL;
#else
    struct mt_full_registers here;
    struct unwinding u = {&here, from, visit, context, NULL, 0};

    if (!mt_stack_unwinder_loaded())
        return -ENOENT;
    memset(&here, 0, sizeof here);
    MT_FULL_REGISTERS(&here);
#endif
    u.space = cached ? cached_space() : mt_unwinder.space;
    mt_on_slow_stack(unwind_all, &u);
    return u.result;
}

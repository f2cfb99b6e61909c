/*
 * Mappings that the program makes itself: mmap, munmap, mremap, brk, sbrk. The C library's own (malloc's arenas, thread stacks, the loader's)
 * do not come through here. Lengths are rounded to pages, as the kernel does.
 */
/* With 64-bit file offsets the C library would declare mmap under the name of mmap64; both are defined here. */
#undef _FILE_OFFSET_BITS
#include <errno.h>
#include <stdarg.h>
#include <sys/mman.h>
#include <unistd.h>

#include "hook/capture.h"
#include "hook/emit.h"
#include "hook/hook.h"
#include "hook/real.h"

static uint32_t flags_of(int prot, int flags)
{
    uintptr_t sp = (uintptr_t)__builtin_frame_address(0), real_sp = mt_tls.real_sp;
    uint32_t f = flags & MAP_ANONYMOUS ? MT_MAP_ANONYMOUS : MT_MAP_FILE;

    if (prot == PROT_NONE)
        f |= MT_MAP_NO_ACCESS;
    if (real_sp && sp < real_sp)
        f |= MT_MAP_BACKING;
    return f;
}

static void record_map(uintptr_t address, uint64_t bytes, uint32_t flags, const struct mt_registers *caller)
{
    mt_emit_stack(MT_RECORD_MAP, address, (const uint64_t[]){bytes, flags}, 2, caller);
}

static void record_unmap_begin(uintptr_t address, uint64_t bytes)
{
    mt_fetch_add_relaxed(&mt_state.stack.unmap_generation, 1u);
    if (mt_load_relaxed(&mt_python_present))
        mt_python_unmapped(address, address + bytes);
    mt_emit_plain(MT_RECORD_UNMAP_BEGIN, address, 1, bytes);
}

static void record_unmap_end(int error)
{
    mt_emit_plain(MT_RECORD_UNMAP_END, (uint64_t)(unsigned)error, 0, 0);
}

static uint64_t pages(size_t bytes)
{
    return mt_round_up(bytes, MT_PAGE_BYTES);
}

MT_EXPORT void *mmap(void *address, size_t length, int prot, int flags, int fd, off_t offset)
{
    struct mt_registers caller = MT_CALLER_REGISTERS();
    struct mt_real *real = mt_real();
    void *p;

    if (MT_UNLIKELY(!real->mmap)) {
        p = (void *)mt_sys6(SYS_mmap, (long)address, (long)length, prot, flags, fd, offset);
        if (!mt_sys_is_error(p))
            return p;
        errno = (int)-(intptr_t)p;
        return MAP_FAILED;
    }
    p = real->mmap(address, length, prot, flags, fd, offset);
    if (p != MAP_FAILED && !mt_stack_internal)
        record_map((uintptr_t)p, pages(length), flags_of(prot, flags), &caller);
    return p;
}

MT_EXPORT void *mmap64(void *address, size_t length, int prot, int flags, int fd, off64_t offset)
{
    struct mt_registers caller = MT_CALLER_REGISTERS();
    struct mt_real *real = mt_real();
    void *p;

    if (MT_UNLIKELY(!real->mmap64))
        return mmap(address, length, prot, flags, fd, offset);
    p = real->mmap64(address, length, prot, flags, fd, offset);
    if (p != MAP_FAILED && !mt_stack_internal)
        record_map((uintptr_t)p, pages(length), flags_of(prot, flags), &caller);
    return p;
}

MT_EXPORT int munmap(void *address, size_t length)
{
    struct mt_real *real = mt_real();
    int r;

    if (MT_UNLIKELY(mt_stack_internal || !real->munmap || !length || (uintptr_t)address % MT_PAGE_BYTES)) {
        if (real->munmap)
            return real->munmap(address, length);
        r = (int)mt_sys2(SYS_munmap, address, length);
        if (r < 0)
            errno = -r;
        return r < 0 ? -1 : 0;
    }
    record_unmap_begin((uintptr_t)address, pages(length));
    r = real->munmap(address, length);
    record_unmap_end(r == 0 ? 0 : errno);
    return r;
}

MT_EXPORT void *mremap(void *old, size_t old_length, size_t length, int flags, ...)
{
    struct mt_registers caller = MT_CALLER_REGISTERS();
    struct mt_real *real = mt_real();
    void *p, *wanted = NULL;
    struct mt_scope scope;
    uint64_t fixed[2];
    uint32_t f = 0;

    if (flags & MREMAP_FIXED) {
        va_list args;

        va_start(args, flags);
        wanted = va_arg(args, void *);
        va_end(args);
    }
    if (!mt_stack_internal) {
        mt_fetch_add_relaxed(&mt_state.stack.unmap_generation, 1u);
        mt_emit_plain(MT_RECORD_REMAP_BEGIN, (uintptr_t)old, 1, pages(old_length));
    }
    p = real->mremap(old, old_length, length, flags, wanted);
    if (mt_stack_internal || !mt_scope_open(&scope))
        return p;
#ifdef MREMAP_DONTUNMAP
    if (flags & MREMAP_DONTUNMAP)
        f |= MT_MAP_DONTUNMAP;
#endif
    if (!old_length)
        f |= MT_MAP_DUPLICATE;
    fixed[0] = p == MAP_FAILED ? 0 : pages(length);
    fixed[1] = f;
    /* Not mt_emit_stack(): an end is recorded even while recording is paused. */
    mt_emit_change(scope.thread, MT_RECORD_REMAP_END, p == MAP_FAILED ? 0 : (uintptr_t)p, fixed, 2,
        mt_capture(&scope, &caller));
    mt_scope_close(&scope);
    return p;
}

/* The break moves from old to new: growth is a mapping, recorded after; shrinking an unmapping, begun before by the callers. */
static void record_growth(uintptr_t old_break, uintptr_t new_break, const struct mt_registers *caller)
{
    uint32_t f = (flags_of(PROT_READ, MAP_ANONYMOUS) & MT_MAP_BACKING) | MT_MAP_ANONYMOUS | MT_MAP_BRK;

    if (new_break > old_break)
        record_map(old_break, new_break - old_break, f, caller);
}

MT_EXPORT void *sbrk(intptr_t increment)
{
    struct mt_registers caller = MT_CALLER_REGISTERS();
    struct mt_real *real = mt_real();
    uintptr_t now;
    void *old;

    if (increment >= 0 || mt_stack_internal) {
        old = real->sbrk(increment);
        if (increment && !mt_stack_internal && old != (void *)-1)
            record_growth((uintptr_t)old, (uintptr_t)old + (uintptr_t)increment, &caller);
        return old;
    }
    now = (uintptr_t)real->sbrk(0);
    record_unmap_begin(now + (uintptr_t)increment, (uint64_t)-increment);
    old = real->sbrk(increment);
    record_unmap_end(old == (void *)-1 ? errno : 0);
    return old;
}

MT_EXPORT int brk(void *address)
{
    struct mt_registers caller = MT_CALLER_REGISTERS();
    struct mt_real *real = mt_real();
    uintptr_t before = (uintptr_t)real->sbrk(0), wanted = (uintptr_t)address;
    int r;

    if (wanted && wanted < before)
        record_unmap_begin(wanted, before - wanted);
    r = real->brk(address);
    if (wanted && wanted < before)
        record_unmap_end(r == 0 ? 0 : errno);
    else if (r == 0)
        record_growth(before, wanted, &caller);
    return r;
}

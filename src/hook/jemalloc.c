/*
 * jemalloc's non-standard API. The library exports these names in every process, so a program that looks for them to find out whether jemalloc is there
 * finds them where it is not: then they work, over the malloc that is there. nallocx and mallctl are not exported, so whoever asks for the
 * whole API gets the right answer.
 */
#include <errno.h>
#include <malloc.h>
#include <string.h>

#include "hook/emit.h"
#include "hook/hook.h"
#include "hook/real.h"

/* jemalloc's flags: the alignment's logarithm in the low six bits, and zeroing. */
#define FLAG_ALIGNMENT(flags) ((size_t)1 << ((flags) & 0x3f))
#define FLAG_ZERO 0x40

void *mallocx(size_t size, int flags);
void *rallocx(void *old, size_t size, int flags);
size_t xallocx(void *p, size_t size, size_t extra, int flags);
size_t sallocx(const void *p, int flags);
void dallocx(void *p, int flags);
void sdallocx(void *p, size_t size, int flags);

static void *allocate_plainly(struct mt_real *real, size_t size, int flags)
{
    size_t alignment = FLAG_ALIGNMENT(flags);
    void *p = NULL;

    if (alignment <= 16)
        p = flags & FLAG_ZERO ? real->calloc(1, size) : real->malloc(size);
    else if (real->posix_memalign(&p, alignment, size) != 0)
        p = NULL;
    else if (flags & FLAG_ZERO)
        memset(p, 0, size);
    return p;
}

/* Mappings made below are jemalloc's backing. */
#define BACKED(call)                                                                                                   \
    do {                                                                                                               \
        uintptr_t outer_sp = mt_tls.real_sp;                                                                           \
        mt_tls.real_sp = (uintptr_t)__builtin_frame_address(0);                                                        \
        call;                                                                                                          \
        mt_tls.real_sp = outer_sp;                                                                                     \
    } while (0)

MT_EXPORT void *mallocx(size_t size, int flags)
{
    struct mt_registers caller = MT_CALLER_REGISTERS();
    struct mt_real *real = mt_real();
    void *p;

    if (real->mallocx)
        BACKED(p = real->mallocx(size, flags));
    else
        p = allocate_plainly(real, size, flags);
    if (p)
        mt_record_alloc(p, size, &caller);
    return p;
}

MT_EXPORT void *rallocx(void *old, size_t size, int flags)
{
    struct mt_registers caller = MT_CALLER_REGISTERS();
    struct mt_real *real = mt_real();
    void *p;

    mt_record_realloc_begin(old);
    if (real->rallocx) {
        BACKED(p = real->rallocx(old, size, flags));
    } else {
        size_t old_size = malloc_usable_size(old);

        p = allocate_plainly(real, size, flags);
        if (p) {
            memcpy(p, old, old_size < size ? old_size : size);
            real->free(old);
        }
    }
    mt_record_realloc_end(p, size, false, &caller);
    return p;
}

/* Resizes in place: the block stays, its size becomes what it really is now. */
MT_EXPORT size_t xallocx(void *p, size_t size, size_t extra, int flags)
{
    struct mt_registers caller = MT_CALLER_REGISTERS();
    struct mt_real *real = mt_real();
    size_t before, after;

    if (!real->xallocx)
        return malloc_usable_size(p);
    before = real->sallocx ? real->sallocx(p, flags) : 0;
    mt_record_realloc_begin(p);
    BACKED(after = real->xallocx(p, size, extra, flags));
    if (after == before)
        mt_record_realloc_end(NULL, 0, false, &caller); /* nothing happened */
    else
        mt_record_realloc_end(p, after < size ? after : size, false, &caller);
    return after;
}

MT_EXPORT size_t sallocx(const void *p, int flags)
{
    struct mt_real *real = mt_real();

    return real->sallocx ? real->sallocx(p, flags) : malloc_usable_size((void *)p);
}

MT_EXPORT void dallocx(void *p, int flags)
{
    struct mt_real *real = mt_real();

    mt_record_free(p);
    if (real->dallocx)
        BACKED(real->dallocx(p, flags));
    else
        real->free(p);
}

MT_EXPORT void sdallocx(void *p, size_t size, int flags)
{
    struct mt_real *real = mt_real();

    mt_record_free(p);
    if (real->sdallocx)
        BACKED(real->sdallocx(p, size, flags));
    else
        real->free(p);
}

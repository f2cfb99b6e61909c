/*
 * Arrays that grow large, in pages of their own: growing moves no bytes and leaves no old copy behind, and what has not been written to takes no memory.
 * And memory that is touched in no order, in huge pages: where the kernel has none to give, it does with small ones, and nobody is told.
 * For the reader's side: the preloaded side has sys.h.
 */
#ifndef MT_BASE_PAGES_H
#define MT_BASE_PAGES_H

#include <stddef.h>
#include <stdint.h>
#include <stdbool.h>
#include <sys/mman.h>

#define MT_PAGES_HUGE_BYTES (1 << 21)

/* `old`, of old_bytes bytes, made longer; NULL: there is none yet. What is new is zero. Returns NULL, and changes nothing, if out of memory. */
static inline void *mt_pages_grow(void *old, size_t old_bytes, size_t bytes)
{
    void *pages = old ? mremap(old, old_bytes, bytes, MREMAP_MAYMOVE)
                      : mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    return pages == MAP_FAILED ? NULL : pages;
}

/* Zeroes that are about to be written all over: to have memory put behind each page when it is touched costs several times as much. NULL: out of memory. */
static inline void *mt_pages_filled(size_t bytes)
{
    void *pages = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);

    return pages == MAP_FAILED ? NULL : pages;
}

static inline void mt_pages_free(void *pages, size_t bytes)
{
    if (pages)
        munmap(pages, bytes);
}

/* Zeroes, at a multiple of a huge page's size, as `bytes` is. Returns NULL if out of memory. Ends with mt_pages_free(). */
static inline void *mt_pages_aligned(size_t bytes)
{
    char *pages = mt_pages_grow(NULL, 0, bytes);
    size_t before;

    if (!pages || (uintptr_t)pages % MT_PAGES_HUGE_BYTES == 0)
        return pages;
    munmap(pages, bytes);
    pages = mt_pages_grow(NULL, 0, bytes + MT_PAGES_HUGE_BYTES);
    if (!pages)
        return NULL;
    before = MT_PAGES_HUGE_BYTES - (uintptr_t)pages % MT_PAGES_HUGE_BYTES;
    munmap(pages, before);
    if (before < MT_PAGES_HUGE_BYTES)
        munmap(pages + before + bytes, MT_PAGES_HUGE_BYTES - before);
    return pages + before;
}

/* Whether what is touched from now on may become resident by huge pages. */
static inline void mt_pages_advise_huge(void *pages, size_t bytes, bool huge)
{
    (void)madvise(pages, bytes, huge ? MADV_HUGEPAGE : MADV_NOHUGEPAGE);
}

#endif

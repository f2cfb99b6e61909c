/*
 * Arrays that grow large, in pages of their own: growing moves no bytes and leaves no old copy behind, and what has not been written to takes no memory.
 * For the reader's side: the preloaded side has sys.h.
 */
#ifndef MT_BASE_PAGES_H
#define MT_BASE_PAGES_H

#include <stddef.h>
#include <sys/mman.h>

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

#endif

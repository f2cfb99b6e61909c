/*
 * Memory for libunwind and the dynamic loader while they work for memtrace (mt_stack_internal): the target's heap must not see those
 * blocks. Bump-allocated from one reserved range, never returned; survives fork (a child goes on with its copy).
 */
#include "hook/hook.h"

#define HEADER_BYTES 16u

char *mt_arena_base;
static uint64_t arena_used;

static char *base(void)
{
    char *p = mt_load_acquire(&mt_arena_base), *expected = NULL;

    if (p)
        return p;
    p = mt_sys_pages(MT_ARENA_BYTES);
    if (!p)
        return NULL;
    if (!__atomic_compare_exchange_n(&mt_arena_base, &expected, p, 0, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE)) {
        mt_sys_unmap(p, MT_ARENA_BYTES);
        return expected;
    }
    return p;
}

void *mt_arena_alloc(size_t size_bytes, size_t alignment)
{
    char *start = base();
    uint64_t at, need;
    uintptr_t p;

    if (alignment < 16)
        alignment = 16;
    if (!start || size_bytes > MT_ARENA_BYTES / 2 || alignment > MT_ARENA_BYTES / 4)
        return NULL;
    need = mt_round_up(size_bytes, 16) + alignment + HEADER_BYTES;
    at = mt_fetch_add_relaxed(&arena_used, need);
    if (at + need > MT_ARENA_BYTES)
        return NULL;
    p = mt_round_up((uintptr_t)start + at + HEADER_BYTES, alignment);
    ((size_t *)p)[-1] = size_bytes;
    return (void *)p;
}

size_t mt_arena_size(const void *p)
{
    return ((const size_t *)p)[-1];
}

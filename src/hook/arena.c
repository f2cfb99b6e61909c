/*
 * Memory for libunwind and the dynamic loader while they work for memtrace (mt_stack_internal): the target's heap must not see those
 * blocks. Bump-allocated from one reserved range, never returned; survives fork (a child goes on with its copy).
 */
#include "hook/hook.h"

#define ARENA_BYTES (UINT64_C(8) << 20) /* address space, which a program may limit; pages come as they are touched, a dozen as a rule */
#define HEADER_BYTES 16u

static char *arena_base;
static uint64_t arena_used;

static char *base(void)
{
    char *p = mt_load_acquire(&arena_base), *expected = NULL;

    if (p)
        return p;
    p = mt_sys_pages(ARENA_BYTES);
    if (!p)
        return NULL;
    if (!__atomic_compare_exchange_n(&arena_base, &expected, p, 0, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE)) {
        mt_sys_unmap(p, ARENA_BYTES);
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
    if (!start || size_bytes > ARENA_BYTES / 2 || alignment > ARENA_BYTES / 4)
        return NULL;
    need = mt_round_up(size_bytes, 16) + alignment + HEADER_BYTES;
    at = mt_fetch_add_relaxed(&arena_used, need);
    if (at + need > ARENA_BYTES)
        return NULL;
    p = mt_round_up((uintptr_t)start + at + HEADER_BYTES, alignment);
    ((size_t *)p)[-1] = size_bytes;
    return (void *)p;
}

bool mt_arena_owns(const void *p)
{
    const char *start = mt_load_relaxed(&arena_base);

    return start && (uintptr_t)p - (uintptr_t)start < ARENA_BYTES;
}

size_t mt_arena_size(const void *p)
{
    return ((const size_t *)p)[-1];
}

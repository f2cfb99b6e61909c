/*
 * Finding the real functions without dlsym: dlsym allocates on failure, and its error string is freed by a later call, which recurses into
 * the hooks. The objects behind libmemtrace in the link map are searched through their own GNU hash tables, first those loaded behind
 * it (what RTLD_NEXT means), then all others (a C++ runtime that was loaded locally).
 */
#include "hook/real.h"

#include <dlfcn.h>
#include <elf.h>
#include <link.h>
#include <string.h>

#include "base/base.h"

struct mt_real mt_real_table;
void *mt_real_syscall;

static const ElfW(Dyn) *dynamic_entry(const struct link_map *map, ElfW(Sxword) tag)
{
    for (const ElfW(Dyn) *d = map->l_ld; d && d->d_tag != DT_NULL; d++)
        if (d->d_tag == tag)
            return d;
    return NULL;
}

/* The loader has relocated these pointers on most architectures, but not for objects it may not write to (the vdso). */
static const void *dynamic_pointer(const struct link_map *map, ElfW(Sxword) tag)
{
    const ElfW(Dyn) *d = dynamic_entry(map, tag);

    if (!d)
        return NULL;
    return (const void *)(d->d_un.d_ptr < map->l_addr ? d->d_un.d_ptr + map->l_addr : d->d_un.d_ptr);
}

static uint32_t gnu_hash(const char *name)
{
    uint32_t h = 5381;

    for (const unsigned char *p = (const unsigned char *)name; *p; p++)
        h = h * 33 + *p;
    return h;
}

static void *symbol_address(const struct link_map *map, const ElfW(Sym) *symbol)
{
    void *p = (void *)(map->l_addr + symbol->st_value);

    if (ELF64_ST_TYPE(symbol->st_info) == STT_GNU_IFUNC)
        p = ((void *(*)(void))p)();
    return p;
}

static const ElfW(Sym) *symbol_in(const struct link_map *map, const char *name)
{
    const uint32_t *hash = dynamic_pointer(map, DT_GNU_HASH);
    const ElfW(Sym) *symbols = dynamic_pointer(map, DT_SYMTAB);
    const char *strings = dynamic_pointer(map, DT_STRTAB);
    const uint16_t *versions = dynamic_pointer(map, DT_VERSYM);
    uint32_t h = gnu_hash(name), buckets, first, words, index;
    const uint32_t *bucket, *chain;

    if (!hash || !symbols || !strings)
        return NULL;
    buckets = hash[0];
    first = hash[1];
    words = hash[2];
    if (!buckets)
        return NULL;
    bucket = (const uint32_t *)((const ElfW(Addr) *)(hash + 4) + words);
    chain = bucket + buckets;
    index = bucket[h % buckets];
    if (index < first)
        return NULL;
    for (;; index++) {
        uint32_t c = chain[index - first];
        const ElfW(Sym) *s = &symbols[index];

        if ((c | 1) == (h | 1) && s->st_shndx != SHN_UNDEF && s->st_value != 0 &&
            strcmp(strings + s->st_name, name) == 0 && !(versions && (versions[index] & 0x8000)) &&
            ELF64_ST_TYPE(s->st_info) != STT_TLS)
            return s;
        if (c & 1)
            return NULL;
    }
}

static void *find_in(const struct link_map *map, const char *name)
{
    const ElfW(Sym) *s = symbol_in(map, name);

    return s ? symbol_address(map, s) : NULL;
}

static void *find(const struct link_map *self, const char *name)
{
    const struct link_map *map = self;
    void *p;

    for (map = self->l_next; map; map = map->l_next)
        if ((p = find_in(map, name)) != NULL)
            return p;
    for (map = self; map->l_prev; map = map->l_prev)
        ;
    for (; map && map != self; map = map->l_next)
        if ((p = find_in(map, name)) != NULL)
            return p;
    return NULL;
}

static void *find_before(const struct link_map *self, const char *name)
{
    const struct link_map *map = self;
    void *p = NULL;

    while (map->l_prev)
        map = map->l_prev;
    for (; !p && map && map != self; map = map->l_next)
        p = find_in(map, name);
    return p;
}

static const struct link_map *object_of(const void *p)
{
    struct dl_find_object object;

    return _dl_find_object((void *)p, &object) == 0 ? object.dlfo_link_map : NULL;
}

static const struct link_map *own_map(void)
{
    const struct link_map *map = object_of((const void *)&mt_real_resolve);

    if (!map)
        for (map = _r_debug.r_map; map; map = map->l_next)
            if (find_in(map, "memtrace_heap_create"))
                break;
    return map;
}

/* Idempotent: two threads that come here at once write the same values. */
void mt_real_resolve(void)
{
    const struct link_map *self = own_map();
    struct mt_real real;

    memset(&real, 0, sizeof real);
    if (!self)
        return;
#define RESOLVE(name) *(void **)&real.name = find(self, #name);
    MT_HOOKED(RESOLVE)
#undef RESOLVE
    if (real.malloc) {
        const struct link_map *allocator = object_of((const void *)real.malloc);

        real.foreign_allocator = allocator && allocator != object_of(find(self, "__libc_start_main"));
#define SERVED(name) real.name##_is_allocator = allocator && real.name && object_of((const void *)real.name) == allocator;
        MT_HOOKED_OPERATORS(SERVED)
#undef SERVED
    }
    *(void **)&real.shadowing_realloc = find_before(self, "realloc");
    real.resolved = false;
    mt_real_table = real;
    mt_real_syscall = *(void **)&real.syscall;
    mt_store_release(&mt_real_table.resolved, real.malloc != NULL);
}

void *mt_real_find_late(const char *name)
{
    const struct link_map *self = own_map();

    return self ? find(self, name) : NULL;
}

void *mt_real_find_sized(const void *object, const char *name, size_t *ret_size)
{
    const struct link_map *map = object;
    const ElfW(Sym) *s = NULL;

    if (map) {
        s = symbol_in(map, name);
    } else {
        for (map = own_map(); map && map->l_prev; map = map->l_prev)
            ;
        for (; map && !(s = symbol_in(map, name)); map = map->l_next)
            ;
    }
    if (!s)
        return NULL;
    *ret_size = s->st_size;
    return symbol_address(map, s);
}

/*
 * Modules: which loaded object a pc belongs to. The loader is asked through _dl_find_object (no lock, async-signal-safe; glibc 2.35) only
 * when a rule is learnt. A module is known by its address range and link map; one that took the place of another gets a new id, and the
 * old one's rules are forgotten.
 */
#include "stack/internal.h"

#include <dlfcn.h>
#include <elf.h>
#include <link.h>
#include <string.h>
#include <sys/auxv.h>

struct module {
    uintptr_t start, end, bias;
    uintptr_t probe; /* an address of its code, to ask the loader about */
    const struct link_map *map;
    uint32_t id;
    bool gone;
};

/* A variable of the loader's own: tells its object. */
extern void *__libc_stack_end;

void (*mt_stack_on_object)(const struct link_map *object);

#define MODULES_MAX 4096u

struct mt_module_table {
    size_t count;
    struct module modules[MODULES_MAX];
};

int mt_modules_init(struct mt_stack *stack)
{
    stack->modules = mt_stack_pages(stack, sizeof *stack->modules);
    return stack->modules ? 0 : -ENOMEM;
}

/*
 * The program headers of an object. dlfo_map_start .. dlfo_map_end is only one segment of an object whose segments are not contiguous, so the
 * headers are had from the auxiliary vector (the program) or from behind the ELF header at the load bias (libraries, the vdso).
 */
static const ElfW(Phdr) *program_headers(const struct link_map *map, const struct dl_find_object *object, size_t *ret_count)
{
    const ElfW(Ehdr) *ehdr = (const ElfW(Ehdr) *)object->dlfo_map_start;

    if (!map->l_name || !map->l_name[0]) {
        *ret_count = getauxval(AT_PHNUM);
        return (const ElfW(Phdr) *)getauxval(AT_PHDR);
    }
    if (map->l_addr >= (uintptr_t)object->dlfo_map_start || !mt_sys_readable((const void *)map->l_addr))
        ehdr = (const ElfW(Ehdr) *)object->dlfo_map_start;
    else
        ehdr = (const ElfW(Ehdr) *)map->l_addr;
    if (memcmp(ehdr->e_ident, ELFMAG, SELFMAG) != 0 ||
        ehdr->e_phoff + (size_t)ehdr->e_phnum * sizeof(ElfW(Phdr)) > MT_PAGE_BYTES)
        return NULL;
    *ret_count = ehdr->e_phnum;
    return (const ElfW(Phdr) *)((uintptr_t)ehdr + ehdr->e_phoff);
}

void mt_object_range(const struct dl_find_object *object, uintptr_t *ret_start, uintptr_t *ret_end)
{
    const struct link_map *map = object->dlfo_link_map;
    size_t count = 0;
    const ElfW(Phdr) *phdr = program_headers(map, object, &count);
    uintptr_t start = (uintptr_t)object->dlfo_map_start, end = (uintptr_t)object->dlfo_map_end;

    for (size_t i = 0; phdr && i < count; i++) {
        uintptr_t at = map->l_addr + phdr[i].p_vaddr;

        if (phdr[i].p_type != PT_LOAD)
            continue;
        if (at < start)
            start = at & ~(uintptr_t)(MT_PAGE_BYTES - 1);
        if (at + phdr[i].p_memsz > end)
            end = at + phdr[i].p_memsz;
    }
    *ret_start = start;
    *ret_end = end;
}

/* Finds the GNU build-id among an object's notes. */
static void read_build_id(const struct dl_find_object *object, struct mt_module *module)
{
    size_t count = 0;
    const ElfW(Phdr) *phdr = program_headers(object->dlfo_link_map, object, &count);

    for (size_t i = 0; phdr && i < count; i++) {
        uintptr_t at = module->load_bias + phdr[i].p_vaddr, stop = at + phdr[i].p_memsz;

        if (phdr[i].p_type != PT_NOTE || at < module->start || stop > module->end || stop < at)
            continue;
        while (at + sizeof(ElfW(Nhdr)) <= stop) {
            const ElfW(Nhdr) *note = (const ElfW(Nhdr) *)at;
            uintptr_t name = at + sizeof *note, desc = name + mt_round_up(note->n_namesz, 4);

            if (desc > stop || note->n_descsz > stop - desc)
                break;
            if (note->n_type == NT_GNU_BUILD_ID && note->n_namesz == 4 && memcmp((void *)name, "GNU", 4) == 0 &&
                note->n_descsz <= sizeof module->build_id) {
                module->build_id_bytes = note->n_descsz;
                memcpy(module->build_id, (void *)desc, note->n_descsz);
                return;
            }
            at = desc + mt_round_up(note->n_descsz, 4);
        }
    }
}

static size_t module_path(const struct link_map *map, char *buffer, size_t size, uint32_t *flags)
{
    const char *name = map->l_name;
    size_t n;

    if (!name || !name[0]) {
        long r = mt_sys4(SYS_readlinkat, AT_FDCWD, "/proc/self/exe", buffer, size);

        *flags |= MT_MODULE_MAIN;
        return r > 0 ? (size_t)r : 0;
    }
    n = strlen(name);
    if (n >= 10 && memcmp(name, "linux-vdso", 10) == 0) {
        *flags |= MT_MODULE_VDSO;
        name = "[vdso]";
        n = 6;
    }
    if (n > size)
        n = size;
    memcpy(buffer, name, n);
    if (name[0] != '/' && !(*flags & MT_MODULE_VDSO)) {
        /* Loaded by a relative path: make it absolute while the working directory may still be the right one. */
        char cwd[2048];
        long r = mt_sys2(SYS_getcwd, cwd, sizeof cwd);

        if (r > 1 && (size_t)r + n <= size) {
            memmove(buffer + r, buffer, n);
            memcpy(buffer, cwd, (size_t)r - 1);
            buffer[r - 1] = '/';
            n += (size_t)r;
        }
    }
    return n;
}

static uint32_t add(
    struct mt_stack *stack, const struct dl_find_object *object, uintptr_t start, uintptr_t end, uintptr_t pc)
{
    struct mt_module_table *table = stack->modules;
    struct module *m = NULL;
    struct mt_module record;
    char path[4096];
    uint32_t id;
    size_t n;

    for (size_t i = 0; i < table->count && !m; i++)
        if (table->modules[i].gone)
            m = &table->modules[i];
    if (!m) {
        if (table->count == MODULES_MAX)
            return 0;
        m = &table->modules[table->count];
    }
    memset(&record, 0, sizeof record);
    record.start = start;
    record.end = end;
    record.load_bias = object->dlfo_link_map->l_addr;
    if ((uintptr_t)&mt_module_of >= record.start && (uintptr_t)&mt_module_of < record.end)
        record.flags |= MT_MODULE_SELF;
    read_build_id(object, &record);
    n = module_path(object->dlfo_link_map, path, sizeof path, &record.flags);
    if (mt_writer_add_module(stack->writer, &record, path, n, &id) < 0)
        return 0;
    m->start = record.start;
    m->end = record.end;
    m->bias = record.load_bias;
    m->probe = pc;
    m->map = object->dlfo_link_map;
    m->id = id;
    m->gone = false;
    if (m == &table->modules[table->count])
        table->count++;
    if (mt_stack_on_object)
        mt_stack_on_object(m->map);
    return id;
}

bool mt_is_loader(uintptr_t pc)
{
    struct dl_find_object object;
    uintptr_t start, end;

    if (_dl_find_object(&__libc_stack_end, &object) != 0)
        return false;
    mt_object_range(&object, &start, &end);
    return pc >= start && pc < end;
}

uint32_t mt_module_of(struct mt_stack *stack, uintptr_t pc, uintptr_t *ret_bias)
{
    struct mt_module_table *table = stack->modules;
    struct dl_find_object object;
    uintptr_t start, end;

    *ret_bias = 0;
    if (_dl_find_object((void *)pc, &object) != 0)
        return 0;
    mt_object_range(&object, &start, &end);
    *ret_bias = object.dlfo_link_map->l_addr;
    for (size_t i = 0; i < table->count; i++) {
        struct module *m = &table->modules[i];

        if (m->gone || m->end <= start || m->start >= end)
            continue;
        if (m->start == start && m->end == end && m->map == object.dlfo_link_map)
            return m->id;
        m->gone = true;
        mt_rules_forget(stack, m->start, m->end);
    }
    return add(stack, &object, start, end, pc);
}

void mt_modules_sweep(struct mt_stack *stack, void (*gone)(struct mt_stack *, uintptr_t, uintptr_t))
{
    struct mt_module_table *table = stack->modules;

    for (size_t i = 0; i < table->count; i++) {
        struct module *m = &table->modules[i];
        struct dl_find_object object;

        if (m->gone)
            continue;
        if (_dl_find_object((void *)m->probe, &object) == 0 && object.dlfo_link_map == m->map) {
            uintptr_t start, end;

            mt_object_range(&object, &start, &end);
            if (start == m->start && end == m->end)
                continue;
        }
        m->gone = true;
        gone(stack, m->start, m->end);
    }
}

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

struct module {
    uintptr_t start, end, bias;
    const struct link_map *map;
    uint32_t id;
    bool gone;
};

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

/* Finds the GNU build-id among the notes of an object whose first page is its ELF header. */
static void read_build_id(uintptr_t start, uintptr_t end, uintptr_t bias, struct mt_module *module)
{
    const ElfW(Ehdr) *ehdr = (const ElfW(Ehdr) *)start;
    const ElfW(Phdr) *phdr;

    if (memcmp(ehdr->e_ident, ELFMAG, SELFMAG) != 0 ||
        start + ehdr->e_phoff + (size_t)ehdr->e_phnum * sizeof *phdr > end)
        return;
    phdr = (const ElfW(Phdr) *)(start + ehdr->e_phoff);
    for (unsigned i = 0; i < ehdr->e_phnum; i++) {
        uintptr_t at = bias + phdr[i].p_vaddr, stop = at + phdr[i].p_memsz;

        if (phdr[i].p_type != PT_NOTE || at < start || stop > end || stop < at)
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

static uint32_t add(struct mt_stack *stack, const struct dl_find_object *object)
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
    record.start = (uintptr_t)object->dlfo_map_start;
    record.end = (uintptr_t)object->dlfo_map_end;
    record.load_bias = object->dlfo_link_map->l_addr;
    if ((uintptr_t)&mt_module_of >= record.start && (uintptr_t)&mt_module_of < record.end)
        record.flags |= MT_MODULE_SELF;
    read_build_id(record.start, record.end, record.load_bias, &record);
    n = module_path(object->dlfo_link_map, path, sizeof path, &record.flags);
    if (mt_writer_add_module(stack->writer, &record, path, n, &id) < 0)
        return 0;
    m->start = record.start;
    m->end = record.end;
    m->bias = record.load_bias;
    m->map = object->dlfo_link_map;
    m->id = id;
    m->gone = false;
    if (m == &table->modules[table->count])
        table->count++;
    return id;
}

uint32_t mt_module_of(struct mt_stack *stack, uintptr_t pc, uintptr_t *ret_bias)
{
    struct mt_module_table *table = stack->modules;
    struct dl_find_object object;
    uintptr_t start, end;

    *ret_bias = 0;
    if (_dl_find_object((void *)pc, &object) != 0)
        return 0;
    start = (uintptr_t)object.dlfo_map_start;
    end = (uintptr_t)object.dlfo_map_end;
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
    return add(stack, &object);
}

void mt_modules_sweep(struct mt_stack *stack, void (*gone)(struct mt_stack *, uintptr_t, uintptr_t))
{
    struct mt_module_table *table = stack->modules;

    for (size_t i = 0; i < table->count; i++) {
        struct module *m = &table->modules[i];
        struct dl_find_object object;

        if (m->gone)
            continue;
        if (_dl_find_object((void *)m->start, &object) == 0 && object.dlfo_link_map == m->map &&
            (uintptr_t)object.dlfo_map_start == m->start && (uintptr_t)object.dlfo_map_end == m->end)
            continue;
        m->gone = true;
        gone(stack, m->start, m->end);
    }
}

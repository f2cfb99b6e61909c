/*
 * The symbol tables of a module (its own, its debug file's, the dynamic one: as libdwfl puts them together), ordered by address.
 * libdwfl's own look-up reads the whole table for each address.
 */
#include "symbol/internal.h"

#include <stdlib.h>
#include <string.h>

static int rank_of(const GElf_Sym *symbol, const char *name)
{
    int rank = GELF_ST_BIND(symbol->st_info) == STB_GLOBAL ? 4 : GELF_ST_BIND(symbol->st_info) == STB_WEAK ? 2 : 0;

    return rank + (name[0] != '_'); /* malloc rather than __libc_malloc */
}

static int by_address(const void *a, const void *b)
{
    const struct name_entry *x = a, *y = b;

    if (x->start != y->start)
        return x->start < y->start ? -1 : 1;
    if (x->sized != y->sized)
        return x->sized ? 1 : -1; /* those with a size last: the search ends on the last one */
    if (x->rank != y->rank)
        return x->rank - y->rank;
    return -strcmp(x->name, y->name);
}

/* End of the section that a symbol is in, if there is code in it; else 0. Addresses are the file's own (no bias). */
static uint64_t code_end(Elf *elf, GElf_Word section, uint64_t address)
{
    GElf_Shdr header;
    Elf_Scn *found = elf && section < SHN_LORESERVE ? elf_getscn(elf, section) : NULL;

    if (!found || !gelf_getshdr(found, &header) || !(header.sh_flags & SHF_EXECINSTR) || address < header.sh_addr ||
        address - header.sh_addr >= header.sh_size)
        return 0;
    return header.sh_addr + header.sh_size;
}

static void make(struct name_table *table, Dwfl_Module *module)
{
    int count = dwfl_module_getsymtab(module);

    table->made = true;
    if (count <= 0)
        return;
    table->entries = calloc((size_t)count, sizeof(*table->entries));
    if (!table->entries)
        return;
    for (int i = 1; i < count; i++) {
        GElf_Addr address;
        GElf_Sym symbol;
        GElf_Word section;
        Elf *elf;
        const char *name = dwfl_module_getsym_info(module, i, &symbol, &address, &section, &elf, NULL);
        int type = GELF_ST_TYPE(symbol.st_info);
        uint64_t end;

        if (!name || !*name || (type != STT_FUNC && type != STT_GNU_IFUNC && type != STT_NOTYPE))
            continue;
        end = code_end(elf, section, address);
        if (!end)
            continue;
        if (symbol.st_size > 0)
            end = symbol.st_size < UINT64_MAX - address ? address + symbol.st_size : address;
        table->entries[table->count++] =
            (struct name_entry){address, end, symbol.st_size > 0, name, rank_of(&symbol, name)};
    }
    qsort(table->entries, table->count, sizeof(*table->entries), by_address);
}

const char *name_find(struct name_table *table, Dwfl_Module *module, uint64_t address)
{
    size_t low = 0, high;

    if (!table->made)
        make(table, module);
    high = table->count;
    while (low < high) { /* the first entry that starts behind the address */
        size_t middle = low + (high - low) / 2;
        if (table->entries[middle].start <= address)
            low = middle + 1;
        else
            high = middle;
    }
    /* A symbol may lie inside another one (local labels): look back a little. */
    for (size_t i = low; i > 0 && low - i < 16; i--) {
        const struct name_entry *e = &table->entries[i - 1];
        if (address < e->end && (e->sized || i == low))
            return e->name;
    }
    return NULL;
}

void name_finish(struct name_table *table)
{
    free(table->entries);
    *table = (struct name_table){0};
}

/*
 * Functions of one compilation unit, by address. Asking libdw for the scopes of each address walks the unit's tree each time;
 * here it is walked once per unit, since addresses come in order.
 */
#include "symbol/internal.h"

#include <dwarf.h>
#include <stdlib.h>

enum { NESTING_MAX = 256, RANGES_MAX = 4 << 20 };

static void add_ranges(struct function_table *table, Dwarf_Die *die)
{
    Dwarf_Addr base, start, end;
    ptrdiff_t at = 0;

    while (table->count < RANGES_MAX && (at = dwarf_ranges(die, at, &base, &start, &end)) > 0) {
        if (end <= start)
            continue;
        if (table->count == table->capacity) {
            size_t capacity = table->capacity ? table->capacity * 2 : 256;
            struct function_range *bigger = reallocarray(table->ranges, capacity, sizeof(*bigger));
            if (!bigger)
                return;
            table->ranges = bigger;
            table->capacity = capacity;
        }
        table->ranges[table->count++] = (struct function_range){start, end, *die};
    }
}

/* Concrete functions stand in the unit, in namespaces and modules, sometimes in classes. */
static void collect(struct function_table *table, Dwarf_Die *parent, int nesting)
{
    Dwarf_Die die;

    if (nesting > NESTING_MAX || dwarf_child(parent, &die) != 0)
        return;
    do {
        switch (dwarf_tag(&die)) {
        case DW_TAG_subprogram:
            add_ranges(table, &die);
            break;
        case DW_TAG_namespace:
        case DW_TAG_module:
        case DW_TAG_class_type:
        case DW_TAG_structure_type:
            collect(table, &die, nesting + 1);
            break;
        default:
            break;
        }
    } while (dwarf_siblingof(&die, &die) == 0);
}

static int by_start(const void *a, const void *b)
{
    const struct function_range *x = a, *y = b;

    return x->start < y->start ? -1 : x->start > y->start;
}

static Dwarf_Die *find(struct function_table *table, Dwarf_Die *unit, uint64_t address)
{
    size_t low = 0, high;

    if (!table->made || table->unit != dwarf_dieoffset(unit)) {
        table->count = 0;
        table->made = true;
        table->unit = dwarf_dieoffset(unit);
        collect(table, unit, 0);
        if (table->count)
            qsort(table->ranges, table->count, sizeof(*table->ranges), by_start);
    }
    high = table->count;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (table->ranges[middle].start <= address)
            low = middle + 1;
        else
            high = middle;
    }
    return low > 0 && address < table->ranges[low - 1].end ? &table->ranges[low - 1].die : NULL;
}

static const char *name_of(Dwarf_Die *die)
{
    Dwarf_Attribute attribute;
    const char *name = dwarf_formstring(dwarf_attr_integrate(die, DW_AT_linkage_name, &attribute));

    if (!name)
        name = dwarf_formstring(dwarf_attr_integrate(die, DW_AT_MIPS_linkage_name, &attribute));
    return name ? name : dwarf_formstring(dwarf_attr_integrate(die, DW_AT_name, &attribute));
}

static void call_site(Dwarf_Die *unit, Dwarf_Die *inlined, struct mt_symbol *ret)
{
    Dwarf_Attribute attribute;
    Dwarf_Word value;
    Dwarf_Files *files;
    size_t count;

    if (dwarf_formudata(dwarf_attr(inlined, DW_AT_call_line, &attribute), &value) == 0 && value <= INT32_MAX)
        ret->line = (unsigned)value;
    if (dwarf_formudata(dwarf_attr(inlined, DW_AT_call_file, &attribute), &value) == 0 &&
        dwarf_getsrcfiles(unit, &files, &count) == 0 && value < count)
        ret->file = dwarf_filesrc(files, (size_t)value, NULL, NULL);
}

/* The child, at any depth of blocks, that is a function at this address: inlined, or nested. */
static bool descend(Dwarf_Die *parent, uint64_t address, int nesting, Dwarf_Die *ret_die)
{
    Dwarf_Die die;

    if (nesting > NESTING_MAX || dwarf_child(parent, &die) != 0)
        return false;
    do {
        int tag = dwarf_tag(&die);
        if (tag != DW_TAG_inlined_subroutine && tag != DW_TAG_lexical_block && tag != DW_TAG_subprogram &&
            tag != DW_TAG_try_block && tag != DW_TAG_catch_block)
            continue;
        if (dwarf_haspc(&die, address) <= 0)
            continue;
        if (tag == DW_TAG_inlined_subroutine || tag == DW_TAG_subprogram) {
            *ret_die = die;
            return true;
        }
        return descend(&die, address, nesting + 1, ret_die);
    } while (dwarf_siblingof(&die, &die) == 0);
    return false;
}

/* An inlined function that says of itself that its caller stands for it (attribute artificial): memtrace.h's, fortified libc's. */
static bool is_artificial(Dwarf_Die *die)
{
    Dwarf_Attribute attribute;
    bool artificial = false;

    return dwarf_formflag(dwarf_attr_integrate(die, DW_AT_artificial, &attribute), &artificial) == 0 && artificial;
}

size_t function_chain(struct function_table *table, Dwarf_Die *unit, uint64_t address, struct mt_symbol *chain)
{
    Dwarf_Die *function = find(table, unit, address), dies[SYMBOL_CHAIN_MAX];
    size_t count = 0, wrappers = 0;

    if (!function)
        return 0;
    dies[count++] = *function; /* outermost first, for now */
    while (count < SYMBOL_CHAIN_MAX && descend(&dies[count - 1], address, 0, &dies[count])) {
        if (dwarf_tag(&dies[count]) == DW_TAG_subprogram) {
            dies[0] = dies[count]; /* a nested function is a frame of its own: what is around it did not call it */
            count = 1;
        } else {
            count++;
        }
    }
    while (count - wrappers > 1 && is_artificial(&dies[count - 1 - wrappers]))
        wrappers++;
    for (size_t i = 0; i < count - wrappers; i++) {
        struct mt_symbol *s = &chain[i];
        size_t at = count - 1 - wrappers - i;
        *s = (struct mt_symbol){.function = name_of(&dies[at])};
        if (at + 1 < count)
            call_site(unit, &dies[at + 1], s);
    }
    return count - wrappers;
}

void function_finish(struct function_table *table)
{
    free(table->ranges);
    *table = (struct function_table){0};
}

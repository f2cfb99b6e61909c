/*
 * What the files of symbol/ share.
 *
 *   resolve.c    the module's file: finding it, checking it; addresses in order
 *   functions.c  DWARF: the functions of one compilation unit at a time, and what was inlined into them
 *   names.c      symbol tables, for what DWARF does not know
 *   source.c     names of source files
 *   demangle.c   C++ and Rust names, bounded
 */
#ifndef MT_SYMBOL_INTERNAL_H
#define MT_SYMBOL_INTERNAL_H

#include <stdbool.h>

#include <elfutils/libdw.h>
#include <elfutils/libdwelf.h>
#include <elfutils/libdwfl.h>

#include "symbol/symbol.h"

enum { SYMBOL_CHAIN_MAX = 64, SYMBOL_NAME_MAX_BYTES = 4096 };

/* ---- names.c: an ordered copy of the symbol tables, made when it is first needed */
struct name_table {
    struct name_entry {
        uint64_t start, end;
        bool sized; /* else it is good up to the next one, or the end of its section */
        const char *name;
        int rank;
    } *entries;
    size_t count;
    bool made;
};
/* NULL: none. The name is as in the file, mangled. */
const char *name_find(struct name_table *table, Dwfl_Module *module, uint64_t address);
void name_finish(struct name_table *table);

/* ---- functions.c: the ranges of the functions of one unit */
struct function_table {
    struct function_range {
        uint64_t start, end;
        Dwarf_Die die;
    } *ranges;
    size_t count, capacity;
    Dwarf_Off unit; /* of the unit that the table is for */
    bool made;
};
/* Fills chain[0..] with the functions at the address, innermost first, names mangled; the innermost has no file and line yet (they
 * come from the line table), unless artificial wrappers were left out there. Returns how many; 0: DWARF knows no function there. */
size_t function_chain(struct function_table *table, Dwarf_Die *unit, uint64_t address, struct mt_symbol *chain);
void function_finish(struct function_table *table);

/* ---- source.c: removes "." and ".." parts; returns buffer */
char *source_tidy(const char *path, char *buffer, size_t size);

#endif

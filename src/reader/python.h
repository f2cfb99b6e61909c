/*
 * Python in the reader: line tables, and stacks of two kinds made into one.
 */
#ifndef MT_READER_PYTHON_H
#define MT_READER_PYTHON_H

#include "reader/state.h"

/*
 * The line of a code unit, from CPython's line table (3.11 on; Objects/locations.md of its sources describes it). The table is what a target wrote: it may
 * be anything. 0: the table does not say.
 */
int64_t python_line(const uint8_t *table, size_t table_bytes, int64_t first_line, uint64_t unit);

/* The same by a list of runs, made at the first question: many instructions of one code are asked for. */
int64_t python_code_line(struct code *code, uint64_t unit);

/* Copies what is new of the segment's codes. 0 or -ENOMEM. */
int python_codes_update(struct target *target);
void python_codes_finish(struct tables *tables);

/*
 * The stacks of a target, merged: Python's frames where the interpreter's loop is on the native stack, innermost first, the interpreter's
 * own functions left out (MEMTRACE_INTERNALS=1 keeps them).
 */
struct merger;
int python_merger_update(struct target *target, struct merger **ret); /* after tables_update() */
int python_merge(struct merger *merger, uint32_t node, uint32_t *ret_node);
struct mt_store_stacks python_stacks(const struct merger *merger); /* what ret_node is a node of */
void python_merger_free(struct merger *merger); /* accepts NULL */

/* Brings tables.alike up to the frames there are. 0 or -ENOMEM. */
int python_alike_update(struct target *target);
bool python_keeps_internals(void);

/* "3.12.1", "3.13.0rc2", "3.14.0t"; "" where there is no Python. */
void python_version_text(const struct target *target, char *text, size_t size);

#endif

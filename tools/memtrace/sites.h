/*
 * What top and leaks share: how a callsite and its stack are shown.
 */
#ifndef MT_TOOL_SITES_H
#define MT_TOOL_SITES_H

#include "command.h"

/* "file:line", or "[module]" where the file is not known. Returns buffer. */
char *place_text(const char *file, int64_t line, const char *module, char *buffer, size_t size);
/* "mmap", or "mmap/file" with a kind */
char *heap_text(const char *heap, const char *kind, char *buffer, size_t size);
/* Shares are of malloc's and Python's blocks: mapped address space need not be memory. */
bool is_proper_heap(const char *heap);
/* "12.3" of 100; "-" of nothing */
char *percent_text(int64_t part, int64_t whole, char *buffer, size_t size);
/* Under a table of single callsites: how many of the run's are not among them. 0 or an exit status. */
int print_folded(struct mt_store *store, int64_t run_id);
/* Adds the stack of a site under the last row, a frame a line, innermost first. 0 or an exit status. */
int note_stack(struct mt_store *store, struct mt_table *table, int64_t site_id);

#endif

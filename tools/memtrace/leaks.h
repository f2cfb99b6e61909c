/*
 * What the files of `memtrace leaks` share: leaks.c prints, leaks_rows.c collects, suppresses and groups, leaks_process.c tells what the
 * process as a whole did.
 */
#ifndef MT_TOOL_LEAKS_H
#define MT_TOOL_LEAKS_H

#include "sites.h"

/* Verdicts by how sure they are. */
enum leak_rank { RANK_NOISE, RANK_BOUNDED, RANK_WARM_UP, RANK_LIVE_AT_EXIT, RANK_SUSPECT, RANK_LEAK };

struct leak_row {
    int64_t process_id, site_id, sites; /* the first one's; how many */
    enum leak_rank rank;
    char *heap, *kind, *verdict, *function, *file, *module, *gate;
    int64_t line, live_bytes, live_blocks, allocated_blocks, since;
    double per_iteration, low, high, blocks_per_iteration, p, q; /* NAN: none */
};

struct leak_rows {
    struct leak_row *rows;
    size_t count;
    bool judged; /* the run has iterations */
    struct suppression {
        char *pattern;
        int64_t sites, blocks, bytes; /* that it took out */
    } *suppressions;
    size_t suppression_count;
};

/* LeakSanitizer's format: `leak:PATTERN` a line, # comments. 0 or an exit status, having complained. */
int leaks_read_suppressions(struct leak_rows *leaks, const char *path);
/* One row a site, or a row a place (stacks false); the surest and largest first. 0 or an exit status. */
int leaks_collect(struct mt_store *store, int64_t run_id, bool stacks, struct leak_rows *leaks);
void leaks_finish(struct leak_rows *leaks);
const char *leaks_rank_name(enum leak_rank rank);
enum leak_rank leaks_rank_of(const char *verdict);
/* Does LeakSanitizer's pattern (* any text, ^ and $ at the ends) match the text? */
bool leaks_pattern_matches(const char *pattern, const char *text);

/* Live bytes against resident memory over the iterations of each process. json: rows, instead of a section. 0 or an exit status. */
int leaks_print_process(struct mt_store *store, int64_t run_id, bool json);

#endif

/*
 * What the commands that compare runs share: which runs are meant, a metric of each, and the same by callsite. A callsite is (heap,
 * function, file) here: that survives a rebuild and a change of lines, and all its stacks are one.
 */
#ifndef MT_TOOL_SERIES_H
#define MT_TOOL_SERIES_H

#include "command.h"

struct run_list {
    int64_t *ids;
    size_t count;
    int64_t excluded; /* runs of the selection that lost events or did not end with status 0 */
};

/* X(symbol, name, column of runs, column of top_allocators or NULL, in words) */
#define METRICS(X)                                                                                                     \
    X(PEAK, "peak", "peak_live_bytes", "peak_bytes", "peak live bytes")                                                \
    X(LIVE, "live", "live_bytes", "live_bytes", "bytes left at the end")                                               \
    X(ALLOCATED, "allocated", "allocated_bytes", "allocated_bytes", "bytes allocated in all")                          \
    X(RSS, "rss", "peak_rss_bytes", NULL, "peak resident bytes")
enum metric {
#define METRIC_SYMBOL_(symbol, name, run, site, text) METRIC_##symbol,
    METRICS(METRIC_SYMBOL_)
#undef METRIC_SYMBOL_
        METRIC_COUNT
};
const char *metric_name(enum metric metric);
const char *metric_text(enum metric metric);
bool metric_has_sites(enum metric metric);
bool metric_of(const char *name, enum metric *ret_metric);

/* NUMBER, NUMBERS with , and -, a label, or label:NAME. blind: leaves out what cannot be compared, for reasons that have nothing to do
 * with memory. 0 or an exit status, having complained. */
int runs_select(struct mt_store *store, const char *what, bool blind, struct run_list *ret_list);
void runs_finish(struct run_list *list);

/* The metric of each run; values has room for list->count. 0 or an exit status. */
int runs_metric(struct mt_store *store, const struct run_list *list, enum metric metric, double *values);

struct site_series {
    char *heap, *function, *file; /* file may be NULL */
    double *values; /* one a run */
};
struct site_table {
    struct site_series *sites;
    size_t count;
};
int sites_load(struct mt_store *store, const struct run_list *list, enum metric metric, struct site_table *ret_table);
/* The same, of the snapshot of that label in the only run of the list. */
int sites_load_snapshot(struct mt_store *store, const struct run_list *list, const char *label, struct site_table *ret_table);
void sites_finish(struct site_table *table);

/* 800M, 1.5GiB, 4096, 64K: powers of 1024. False: not a size. */
bool size_option(const char *text, double *ret_bytes);
/* "+1.5 MiB" */
char *change_text(double bytes, char *buffer, size_t size);

#endif

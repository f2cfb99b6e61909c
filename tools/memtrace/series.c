#include "series.h"

#include <ctype.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const struct {
    const char *name, *run, *site, *text;
} metrics[METRIC_COUNT] = {
#define METRIC_ROW_(symbol, name, run, site, text) {name, run, site, text},
    METRICS(METRIC_ROW_)
#undef METRIC_ROW_
};

const char *metric_name(enum metric metric)
{
    return metrics[metric].name;
}

const char *metric_text(enum metric metric)
{
    return metrics[metric].text;
}

bool metric_has_sites(enum metric metric)
{
    return metrics[metric].site != NULL;
}

bool metric_of(const char *name, enum metric *ret_metric)
{
    for (int i = 0; i < METRIC_COUNT; i++)
        if (strcmp(metrics[i].name, name) == 0) {
            *ret_metric = (enum metric)i;
            return true;
        }
    return false;
}

bool size_option(const char *text, double *ret_bytes)
{
    static const char units[] = "BKMGTP";
    char *end;
    double value = strtod(text, &end);
    const char *unit;

    if (end == text || !isfinite(value) || value < 0)
        return false;
    while (*end == ' ')
        end++;
    unit = *end ? strchr(units, toupper((unsigned char)*end)) : units;
    if (!unit)
        return false;
    for (const char *u = units; u < unit; u++)
        value *= 1024;
    if (*end)
        end++;
    if (unit > units && (*end == 'i' || *end == 'I'))
        end++;
    if (unit > units && (*end == 'b' || *end == 'B'))
        end++;
    *ret_bytes = value;
    return *end == '\0';
}

char *change_text(double bytes, char *buffer, size_t size)
{
    char text[48];

    snprintf(buffer, size, "%s%s", bytes > 0 ? "+" : "", mt_format_bytes((int64_t)llround(bytes), text, sizeof(text)));
    return buffer;
}

/* ---- runs --------------------------------------------------------------------------------------------------------------- */

static void keep_run(struct run_list *list, int64_t id)
{
    int64_t *ids;

    for (size_t i = 0; i < list->count; i++)
        if (list->ids[i] == id)
            return;
    ids = reallocarray(list->ids, list->count + 1, sizeof(*ids));
    if (!ids)
        abort();
    list->ids = ids;
    ids[list->count++] = id;
}

/* Runs low..high, or those of the label. */
static int add_runs(struct mt_store *store, const char *label, int64_t low, int64_t high, bool blind, struct run_list *list)
{
    struct mt_query *q;
    int status, r;

    q = ask(store, "SELECT run_id, status = 'complete' AND coalesce(exit_status, 0) = 0 FROM runs WHERE "
                   "(?1 IS NULL AND run_id BETWEEN ?2 AND ?3) OR label = ?1 ORDER BY run_id",
        &status);
    if (!q)
        return status;
    if (label)
        mt_query_bind_text(q, 1, label);
    mt_query_bind_integer(q, 2, low);
    mt_query_bind_integer(q, 3, high);
    while ((r = mt_query_step(q)) == 1) {
        if (blind && !mt_query_integer(q, 1))
            list->excluded++;
        else
            keep_run(list, mt_query_integer(q, 0));
    }
    mt_query_destroy(q);
    return finish_rows(store, r);
}

/* Next of "3,5-8"; false: not of that form. */
static bool next_range(const char **text, int64_t *ret_low, int64_t *ret_high)
{
    char *end;

    if (!isdigit((unsigned char)**text))
        return false;
    *ret_low = *ret_high = strtoll(*text, &end, 10);
    if (*end == '-' && isdigit((unsigned char)end[1]))
        *ret_high = strtoll(end + 1, &end, 10);
    if (*end != '\0' && *end != ',')
        return false;
    *text = *end ? end + 1 : end;
    return true;
}

static bool all_ranges(const char *text)
{
    int64_t low, high;

    if (!*text)
        return false;
    while (*text)
        if (!next_range(&text, &low, &high))
            return false;
    return true;
}

int runs_select(struct mt_store *store, const char *what, bool blind, struct run_list *ret_list)
{
    struct run_list list = {0};
    int64_t low, high;
    int status = 0;

    if (strncmp(what, "label:", 6) == 0) {
        status = add_runs(store, what + 6, 0, 0, blind, &list);
    } else {
        const char *at = what;
        if (all_ranges(what))
            while (status == 0 && *at && next_range(&at, &low, &high))
                status = add_runs(store, NULL, low, high, blind, &list);
        if (status == 0 && list.count == 0 && list.excluded == 0)
            status = add_runs(store, what, 0, 0, blind, &list);
    }
    if (status == 0 && list.count == 0)
        status = list.excluded ? complain(STATUS_INPUT, "%s: its runs lost events or did not end with status 0", what)
                               : complain(STATUS_INPUT, "%s: no such run or label; `memtrace runs` lists them", what);
    if (status != 0) {
        free(list.ids);
        return status;
    }
    *ret_list = list;
    return 0;
}

void runs_finish(struct run_list *list)
{
    free(list->ids);
}

int runs_metric(struct mt_store *store, const struct run_list *list, enum metric metric, double *values)
{
    char sql[128];
    struct mt_query *q;
    int status, r = 0;

    snprintf(sql, sizeof(sql), "SELECT %s FROM runs WHERE run_id = ?1", metrics[metric].run);
    q = ask(store, sql, &status);
    if (!q)
        return status;
    for (size_t i = 0; i < list->count && r >= 0; i++) {
        mt_query_reset(q);
        mt_query_bind_integer(q, 1, list->ids[i]);
        r = mt_query_step(q);
        values[i] = r == 1 ? mt_query_real(q, 0) : 0;
    }
    mt_query_destroy(q);
    return finish_rows(store, r);
}

/* ---- callsites --------------------------------------------------------------------------------------------------------- */

struct cell {
    char *heap, *function, *file;
    size_t run;
    double value;
};

static int by_text(const char *a, const char *b)
{
    return strcmp(a ? a : "", b ? b : "");
}

static int by_key(const void *a, const void *b)
{
    const struct cell *x = a, *y = b;
    int order = by_text(x->function, y->function);

    if (!order)
        order = by_text(x->file, y->file);
    return order ? order : by_text(x->heap, y->heap);
}

static char *copy_of(struct mt_query *q, int column)
{
    const char *text = mt_query_text(q, column, NULL);

    return text ? strdup(text) : NULL;
}

struct cells {
    struct cell *cells;
    size_t count, capacity;
};

static int read_cells(struct mt_store *store, struct mt_query *q, size_t run, struct cells *cells)
{
    int r;

    while ((r = mt_query_step(q)) == 1) {
        if (cells->count == cells->capacity) {
            cells->capacity = cells->capacity ? cells->capacity * 2 : 1024;
            cells->cells = reallocarray(cells->cells, cells->capacity, sizeof(*cells->cells));
            if (!cells->cells)
                abort();
        }
        cells->cells[cells->count++] =
            (struct cell){copy_of(q, 0), copy_of(q, 1), copy_of(q, 2), run, mt_query_real(q, 3)};
    }
    return finish_rows(store, r);
}

/* Cells of one key become one row; takes their texts over. */
static struct site_table table_of(struct cells *cells, size_t runs)
{
    struct site_table table = {0};
    struct site_series *to = NULL;

    if (cells->count)
        qsort(cells->cells, cells->count, sizeof(*cells->cells), by_key);
    table.sites = calloc(cells->count ? cells->count : 1, sizeof(*table.sites));
    if (!table.sites)
        abort();
    for (size_t i = 0; i < cells->count; i++) {
        struct cell *c = &cells->cells[i];
        if (!to || by_key(c, &(struct cell){to->heap, to->function, to->file, 0, 0}) != 0) {
            to = &table.sites[table.count++];
            *to = (struct site_series){c->heap, c->function, c->file, calloc(runs, sizeof(double))};
            if (!to->values)
                abort();
        } else {
            free(c->heap);
            free(c->function);
            free(c->file);
        }
        to->values[c->run] += c->value;
    }
    free(cells->cells);
    return table;
}

int sites_load(struct mt_store *store, const struct run_list *list, enum metric metric, struct site_table *ret_table)
{
    struct cells cells = {0};
    char sql[256];
    struct mt_query *q;
    int status;

    snprintf(sql, sizeof(sql), "SELECT heap, function, file, sum(%1$s) FROM top_allocators WHERE run_id = ?1 AND %1$s > 0 "
                               "AND kind NOT IN ('file', 'backing', 'reserved') GROUP BY heap, function, file",
        metrics[metric].site);
    q = ask(store, sql, &status);
    if (!q)
        return status;
    status = 0;
    for (size_t i = 0; i < list->count && status == 0; i++) {
        mt_query_reset(q);
        mt_query_bind_integer(q, 1, list->ids[i]);
        status = read_cells(store, q, i, &cells);
    }
    mt_query_destroy(q);
    *ret_table = table_of(&cells, list->count);
    return status;
}

#define BY_FUNCTION "AND s.kind NOT IN ('file', 'backing', 'reserved') GROUP BY s.heap, s.function, s.file"

/* Of several snapshots with one name the last one of each process. */
static const struct moment {
    const char *prefix, *what, *sql;
} moments[] = {
    {"iteration:", "an end of that iteration (the view site_iterations has what is kept)",
        "SELECT s.heap, s.function, s.file, sum(n.live_bytes) FROM site_iterations AS n JOIN sites AS s USING (site_id) "
        "WHERE run_id = ?1 AND iteration = CAST(?2 AS INTEGER) " BY_FUNCTION},
    {"phase:", "a phase of that name with a snapshot at its end",
        "SELECT s.heap, s.function, s.file, sum(n.live_bytes) FROM snapshot_sites AS n JOIN sites AS s USING (site_id) "
        "WHERE snapshot_id IN (SELECT max(snapshot_id) FROM snapshot_sites WHERE run_id = ?1 AND label = ?2 AND kind = 'phase' "
        "GROUP BY process_id) " BY_FUNCTION},
    {"", "a mark, a snapshot or a kind of snapshot of that name",
        "SELECT s.heap, s.function, s.file, sum(n.live_bytes) FROM snapshot_sites AS n JOIN sites AS s USING (site_id) "
        "WHERE run_id = ?1 AND snapshot_id IN (SELECT max(snapshot_id) FROM snapshot_sites WHERE run_id = ?1 AND "
        "(label = ?2 AND kind <> 'phase' OR label IS NULL AND kind = ?2) GROUP BY process_id) " BY_FUNCTION},
};

int sites_load_snapshot(struct mt_store *store, const struct run_list *list, const char *label, struct site_table *ret_table)
{
    const struct moment *moment = moments;
    struct cells cells = {0};
    struct mt_query *q;
    int status;

    while (strncmp(label, moment->prefix, strlen(moment->prefix)) != 0)
        moment++; /* the last one is anybody's */
    q = ask(store, moment->sql, &status);
    if (!q)
        return status;
    mt_query_bind_integer(q, 1, list->ids[0]);
    mt_query_bind_text(q, 2, label + strlen(moment->prefix));
    status = read_cells(store, q, 0, &cells);
    mt_query_destroy(q);
    if (status == 0 && cells.count == 0)
        status = complain(STATUS_INPUT, "%s: run %lld has not %s", label, (long long)list->ids[0], moment->what);
    *ret_table = table_of(&cells, 1);
    return status;
}

void sites_finish(struct site_table *table)
{
    for (size_t i = 0; i < table->count; i++) {
        free(table->sites[i].heap);
        free(table->sites[i].function);
        free(table->sites[i].file);
        free(table->sites[i].values);
    }
    free(table->sites);
}

/*
 * The rows of `memtrace leaks`.
 */
#include <ctype.h>
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "leaks.h"

static const char *const rank_names[] = {"noise", "bounded", "warm-up", "live-at-exit", "suspect", "leak"};

const char *leaks_rank_name(enum leak_rank rank)
{
    return rank_names[rank];
}

enum leak_rank leaks_rank_of(const char *verdict)
{
    for (int i = RANK_LEAK; verdict && i > 0; i--)
        if (strcmp(rank_names[i], verdict) == 0)
            return (enum leak_rank)i;
    return RANK_NOISE;
}

/* ---- suppressions ----------------------------------------------------------------------------------------------------- */

/* From here to a `*` or the end; `to_end`: the text must end with it. Greedy is not needed: the first place is the best one. */
static bool matches_from(const char *pattern, const char *text, bool anywhere)
{
    size_t n = strcspn(pattern, "*");
    bool to_end = n > 0 && pattern[n] == '\0' && pattern[n - 1] == '$';
    size_t length = n - to_end;

    for (;; text++) {
        if (strncmp(text, pattern, length) == 0 && (!to_end || text[length] == '\0') &&
            (pattern[n] == '\0' || matches_from(pattern + n + 1, text + length, true)))
            return true;
        if (!anywhere || *text == '\0')
            return false;
    }
}

bool leaks_pattern_matches(const char *pattern, const char *text)
{
    return *pattern == '^' ? matches_from(pattern + 1, text, false) : matches_from(pattern, text, true);
}

int leaks_read_suppressions(struct leak_rows *leaks, const char *path)
{
    FILE *from = fopen(path, "re");
    char *line = NULL;
    size_t size = 0, number = 0;
    int status = 0;

    if (!from)
        return complain(STATUS_INPUT, "%s: %s; name a file of `leak:PATTERN` lines", path, strerror(errno));
    while (status == 0 && getline(&line, &size, from) >= 0) {
        char *text = line + strspn(line, " \t\r\n");
        struct suppression *more;

        number++;
        for (size_t n = strlen(text); n > 0 && isspace((unsigned char)text[n - 1]);)
            text[--n] = '\0';
        if (*text == '\0' || *text == '#')
            continue;
        if (strncmp(text, "leak:", 5) != 0 || text[5] == '\0') {
            status = complain(STATUS_INPUT, "%s: line %zu is not `leak:PATTERN`", path, number);
            break;
        }
        more = reallocarray(leaks->suppressions, leaks->suppression_count + 1, sizeof(*more));
        if (!more)
            abort();
        leaks->suppressions = more;
        more[leaks->suppression_count++] = (struct suppression){.pattern = strdup(text + 5)};
    }
    free(line);
    fclose(from);
    return status;
}

/* Any frame's function, file or module; the first suppression that matches takes the row. */
static int suppress(struct mt_store *store, struct leak_rows *leaks, const struct leak_row *row, bool *ret_suppressed)
{
    static const char sql[] =
        "WITH RECURSIVE walk (frame_id, parent_id) AS ("
        "SELECT stack.frame_id, stack.stack_id - stack.up FROM site JOIN stack USING (stack_id) WHERE site_id = ?1 "
        "UNION ALL SELECT stack.frame_id, stack.stack_id - stack.up FROM walk JOIN stack ON stack_id = walk.parent_id "
        "WHERE stack.up > 0) "
        "SELECT function, file, module.path FROM walk CROSS JOIN frame USING (frame_id) CROSS JOIN module USING (module_id) "
        "CROSS JOIN frame_line USING (frame_id) LEFT JOIN symbol USING (symbol_id)";
    size_t best = leaks->suppression_count;
    struct mt_query *q;
    int status, r;

    q = ask(store, sql, &status);
    if (!q)
        return status;
    mt_query_bind_integer(q, 1, row->site_id);
    while ((r = mt_query_step(q)) == 1) {
        for (int c = 0; c < 3; c++) {
            const char *text = mt_query_text(q, c, NULL);
            for (size_t i = 0; text && i < best; i++)
                if (leaks_pattern_matches(leaks->suppressions[i].pattern, text))
                    best = i;
        }
    }
    mt_query_destroy(q);
    *ret_suppressed = best < leaks->suppression_count;
    if (*ret_suppressed) {
        leaks->suppressions[best].sites++;
        leaks->suppressions[best].blocks += row->live_blocks;
        leaks->suppressions[best].bytes += row->live_bytes;
    }
    return finish_rows(store, r);
}

/* ---- rows ---------------------------------------------------------------------------------------------------------------- */

static void row_finish(struct leak_row *row)
{
    free(row->heap);
    free(row->kind);
    free(row->verdict);
    free(row->function);
    free(row->file);
    free(row->module);
    free(row->gate);
}

static char *text_of(struct mt_query *q, int column)
{
    const char *text = mt_query_text(q, column, NULL);

    return text ? strdup(text) : NULL;
}

static double real_of(struct mt_query *q, int column)
{
    return mt_query_kind(q, column) == MT_VALUE_NULL ? NAN : mt_query_real(q, column);
}

static struct leak_row row_of(struct mt_query *q)
{
    struct leak_row row = {.process_id = mt_query_integer(q, 0),
        .site_id = mt_query_integer(q, 1),
        .sites = 1,
        .heap = text_of(q, 2),
        .verdict = text_of(q, 3),
        .function = text_of(q, 4),
        .file = text_of(q, 5),
        .line = mt_query_integer(q, 6),
        .module = text_of(q, 7),
        .gate = text_of(q, 8),
        .since = mt_query_integer(q, 9),
        .live_bytes = mt_query_integer(q, 10),
        .live_blocks = mt_query_integer(q, 11),
        .allocated_blocks = mt_query_integer(q, 12),
        .per_iteration = real_of(q, 13),
        .low = real_of(q, 14),
        .high = real_of(q, 15),
        .blocks_per_iteration = real_of(q, 16),
        .p = real_of(q, 17),
        .q = real_of(q, 18),
        .kind = text_of(q, 19)};

    row.rank = leaks_rank_of(row.verdict);
    return row;
}

static int by_text(const char *a, const char *b)
{
    return strcmp(a ? a : "", b ? b : "");
}

static int by_place(const struct leak_row *a, const struct leak_row *b)
{
    int order = by_text(a->verdict, b->verdict);

    if (!order)
        order = by_text(a->heap, b->heap);
    if (!order)
        order = by_text(a->kind, b->kind);
    if (!order)
        order = by_text(a->function, b->function);
    if (!order)
        order = by_text(a->file, b->file);
    if (!order)
        order = (a->line > b->line) - (a->line < b->line);
    if (!order)
        order = by_text(a->module, b->module);
    return order;
}

static int by_place_and_site(const void *a, const void *b)
{
    const struct leak_row *x = a, *y = b;
    int order = by_place(x, y);

    return order ? order : (x->site_id > y->site_id) - (x->site_id < y->site_id);
}

static int by_weight(const void *a, const void *b)
{
    const struct leak_row *x = a, *y = b;
    double p = x->rank >= RANK_SUSPECT && isfinite(x->per_iteration) ? x->per_iteration : 0;
    double q = y->rank >= RANK_SUSPECT && isfinite(y->per_iteration) ? y->per_iteration : 0;

    if (x->rank != y->rank)
        return x->rank < y->rank ? 1 : -1;
    if (p != q)
        return p < q ? 1 : -1;
    if (x->live_bytes != y->live_bytes)
        return x->live_bytes < y->live_bytes ? 1 : -1;
    if (x->live_blocks != y->live_blocks)
        return x->live_blocks < y->live_blocks ? 1 : -1;
    return (x->site_id > y->site_id) - (x->site_id < y->site_id);
}

static double plus(double a, double b)
{
    return isnan(a) ? b : isnan(b) ? a : a + b;
}

/* Rows of one place become one: sums; the least sure q and the earliest iteration count. */
static size_t group(struct leak_row *rows, size_t count)
{
    size_t kept = 0;

    qsort(rows, count, sizeof(*rows), by_place_and_site);
    for (size_t i = 0; i < count; i++) {
        struct leak_row *to = kept ? &rows[kept - 1] : NULL, *from = &rows[i];

        if (!to || by_place(to, from) != 0) {
            rows[kept++] = *from;
            continue;
        }
        to->sites += from->site_id != to->site_id;
        to->live_bytes += from->live_bytes;
        to->live_blocks += from->live_blocks;
        to->allocated_blocks += from->allocated_blocks;
        to->per_iteration = plus(to->per_iteration, from->per_iteration);
        to->low = plus(to->low, from->low);
        to->high = plus(to->high, from->high);
        to->blocks_per_iteration = plus(to->blocks_per_iteration, from->blocks_per_iteration);
        to->p = fmax(to->p, from->p);
        to->q = fmax(to->q, from->q);
        if (from->since && (!to->since || from->since < to->since))
            to->since = from->since;
        row_finish(from);
    }
    return kept;
}

static int is_judged(struct mt_store *store, int64_t run_id, bool *ret_judged)
{
    struct mt_query *q;
    int status, r;

    q = ask(store, "SELECT count(*) FROM judged JOIN process USING (process_id) WHERE run_id = ?1", &status);
    if (!q)
        return status;
    mt_query_bind_integer(q, 1, run_id);
    r = mt_query_step(q);
    *ret_judged = r == 1 && mt_query_integer(q, 0) > 0;
    mt_query_destroy(q);
    return finish_rows(store, r);
}

int leaks_collect(struct mt_store *store, int64_t run_id, bool stacks, struct leak_rows *leaks)
{
    static const char sql[] =
        "SELECT process_id, site_id, heap, verdict, function, file, line, module, gate, since, live_bytes, live_blocks, "
        "allocated_blocks, bytes_per_iteration, ci_low, ci_high, blocks_per_iteration, p_value, q_value, kind "
        "FROM leaks WHERE run_id = ?1";
    size_t capacity = 0;
    struct mt_query *q;
    int status = is_judged(store, run_id, &leaks->judged), r = 0;

    q = status == 0 ? ask(store, sql, &status) : NULL;
    if (!q)
        return status;
    mt_query_bind_integer(q, 1, run_id);
    while (status == 0 && (r = mt_query_step(q)) == 1) {
        struct leak_row row = row_of(q);
        bool suppressed = false;

        if (leaks->suppression_count > 0)
            status = suppress(store, leaks, &row, &suppressed);
        if (suppressed || status != 0) {
            row_finish(&row);
            continue;
        }
        if (leaks->count == capacity) {
            capacity = capacity ? capacity * 2 : 256;
            leaks->rows = reallocarray(leaks->rows, capacity, sizeof(*leaks->rows));
            if (!leaks->rows)
                abort();
        }
        leaks->rows[leaks->count++] = row;
    }
    mt_query_destroy(q);
    if (status == 0)
        status = finish_rows(store, r);
    if (!stacks && leaks->count)
        leaks->count = group(leaks->rows, leaks->count);
    if (leaks->count)
        qsort(leaks->rows, leaks->count, sizeof(*leaks->rows), by_weight);
    return status;
}

void leaks_finish(struct leak_rows *leaks)
{
    for (size_t i = 0; i < leaks->count; i++)
        row_finish(&leaks->rows[i]);
    for (size_t i = 0; i < leaks->suppression_count; i++)
        free(leaks->suppressions[i].pattern);
    free(leaks->rows);
    free(leaks->suppressions);
}

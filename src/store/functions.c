/*
 * Statistics as SQL functions. Values that are NULL do not count.
 *
 *   median(x)             percentile(x, q)      aggregates, and over windows too; q from 0 to 1
 *   theil_sen(x, y)       the median slope of y against x; theil_sen_low and theil_sen_high: its 95 % interval
 *   mann_kendall_p(x, y)  two-sided p of a trend in y, in the order of x
 *   human_size(bytes)     '1.5 MiB'
 *   stack(site_id)        functions from the innermost on, separated by `;`, in a memtrace database; stack(site_id, n): n of them at most
 *
 * Built twice: into memtrace, and as an extension that sqlite3 and Python load (extension.c includes this file).
 */
#ifndef STORE_EXTENSION
#include "store/internal.h"
#endif

#include <math.h>
#include <stdlib.h>

#include "stats/stats.h"

struct values { /* of an aggregate */
    double *x, *y; /* y NULL: one argument */
    size_t count, capacity, first; /* a window that moves forward drops from the front */
    double parameter;
};

static bool values_add(struct values *v, double x, double y)
{
    if (v->count == v->capacity) {
        size_t capacity = v->capacity ? v->capacity * 2 : 64;
        double *more_x = realloc(v->x, capacity * sizeof(double)), *more_y;

        if (!more_x)
            return false;
        v->x = more_x;
        more_y = realloc(v->y, capacity * sizeof(double));
        if (!more_y)
            return false;
        v->y = more_y;
        v->capacity = capacity;
    }
    v->x[v->count] = x;
    v->y[v->count++] = y;
    return true;
}

static void step(sqlite3_context *context, int count, sqlite3_value **arguments)
{
    struct values *v = sqlite3_aggregate_context(context, sizeof(*v));
    bool null = sqlite3_value_type(arguments[0]) == SQLITE_NULL || (count > 1 && sqlite3_value_type(arguments[1]) == SQLITE_NULL);

    if (!v) {
        sqlite3_result_error_nomem(context);
        return;
    }
    if (null)
        return;
    if (count > 1)
        v->parameter = sqlite3_value_double(arguments[1]);
    if (!values_add(v, sqlite3_value_double(arguments[0]), v->parameter))
        sqlite3_result_error_nomem(context);
}

/* The oldest row of the window goes. */
static void inverse(sqlite3_context *context, int count, sqlite3_value **arguments)
{
    struct values *v = sqlite3_aggregate_context(context, 0);

    if (v && v->first < v->count && sqlite3_value_type(arguments[0]) != SQLITE_NULL &&
        (count < 2 || sqlite3_value_type(arguments[1]) != SQLITE_NULL))
        v->first++;
}

static void give(sqlite3_context *context, double value)
{
    if (isfinite(value))
        sqlite3_result_double(context, value);
    else
        sqlite3_result_null(context);
}

enum what { MEDIAN, PERCENTILE, THEIL_SEN, THEIL_SEN_LOW, THEIL_SEN_HIGH, MANN_KENDALL_P };

struct pair {
    double x, y;
};

static int by_x(const void *a, const void *b)
{
    double x = ((const struct pair *)a)->x, y = ((const struct pair *)b)->x;

    return (x > y) - (x < y);
}

static double trend(const double *x, const double *y, size_t count)
{
    struct pair *pairs = malloc(count * sizeof(*pairs));
    double *ordered = malloc(count * sizeof(*ordered)), p = NAN;

    if (pairs && ordered) {
        for (size_t i = 0; i < count; i++)
            pairs[i] = (struct pair){x[i], y[i]};
        qsort(pairs, count, sizeof(*pairs), by_x);
        for (size_t i = 0; i < count; i++)
            ordered[i] = pairs[i].y;
        p = mt_stats_mann_kendall(ordered, count, 0);
    }
    free(pairs);
    free(ordered);
    return p;
}

enum { PAIRS_MAX = 5000 }; /* of which all slopes are made */

static void value(sqlite3_context *context)
{
    const struct values *v = sqlite3_aggregate_context(context, 0);
    enum what what = (enum what)(intptr_t)sqlite3_user_data(context);
    struct mt_interval slope;
    const double *x, *y;
    size_t count;

    if (!v || v->first == v->count) {
        sqlite3_result_null(context);
        return;
    }
    x = v->x + v->first;
    y = v->y + v->first;
    count = v->count - v->first;
    if (what == MEDIAN || what == PERCENTILE) {
        give(context, mt_stats_percentile(x, count, what == MEDIAN ? 0.5 : v->parameter));
    } else if (count > PAIRS_MAX) {
        sqlite3_result_error(context, "more than 5000 values", -1);
    } else if (what == MANN_KENDALL_P) {
        give(context, trend(x, y, count));
    } else {
        slope = mt_stats_theil_sen(x, y, count, 0.95);
        give(context, what == THEIL_SEN ? slope.estimate : what == THEIL_SEN_LOW ? slope.low : slope.high);
    }
}

static void finish(sqlite3_context *context)
{
    struct values *v = sqlite3_aggregate_context(context, 0);

    value(context);
    if (v) {
        free(v->x);
        free(v->y);
        v->x = v->y = NULL;
    }
}

static void human_size(sqlite3_context *context, int count, sqlite3_value **arguments)
{
    static const char *const units[] = {"B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};
    double bytes = sqlite3_value_double(arguments[0]), size = fabs(bytes);
    unsigned unit = 0;
    char text[48];

    (void)count;
    if (sqlite3_value_type(arguments[0]) == SQLITE_NULL)
        return;
    while (size >= (unit == 0 ? 1024 : 1023.95) && unit + 1 < sizeof(units) / sizeof(units[0])) {
        size /= 1024;
        unit++;
    }
    sqlite3_snprintf(sizeof(text), text, unit == 0 ? "%s%.0f %s" : "%s%.1f %s", bytes < 0 ? "-" : "", size, units[unit]);
    sqlite3_result_text(context, text, -1, SQLITE_TRANSIENT);
}

static size_t first_frames(const char *text, sqlite3_int64 frames)
{
    size_t length = 0;

    while (text[length] && (text[length] != ';' || --frames > 0))
        length++;
    return length;
}

/* The view has it for rows that name a callsite; this is for all that have but its number. */
static void stack(sqlite3_context *context, int count, sqlite3_value **arguments)
{
    sqlite3 *db = sqlite3_context_db_handle(context);
    sqlite3_int64 frames = count > 1 ? sqlite3_value_int64(arguments[1]) : INT64_MAX;
    sqlite3_stmt *statement;

    if (sqlite3_value_type(arguments[0]) == SQLITE_NULL || frames < 1)
        return;
    if (sqlite3_prepare_v2(db, "SELECT stack FROM sites WHERE site_id = ?1", -1, &statement, NULL) != SQLITE_OK) {
        sqlite3_result_error(context, "stack(): not a memtrace database", -1);
        return;
    }
    sqlite3_bind_value(statement, 1, arguments[0]);
    if (sqlite3_step(statement) == SQLITE_ROW) {
        const char *text = (const char *)sqlite3_column_text(statement, 0);
        if (text)
            sqlite3_result_text64(context, text, first_frames(text, frames), SQLITE_TRANSIENT, SQLITE_UTF8);
    }
    sqlite3_finalize(statement);
}

int store_functions(sqlite3 *db)
{
    static const struct {
        const char *name;
        int arguments;
        enum what what;
    } aggregates[] = {{"median", 1, MEDIAN}, {"percentile", 2, PERCENTILE}, {"theil_sen", 2, THEIL_SEN},
        {"theil_sen_low", 2, THEIL_SEN_LOW}, {"theil_sen_high", 2, THEIL_SEN_HIGH}, {"mann_kendall_p", 2, MANN_KENDALL_P}};
    const int flags = SQLITE_UTF8 | SQLITE_DETERMINISTIC | SQLITE_INNOCUOUS;
    int rc = sqlite3_create_function_v2(db, "human_size", 1, flags, NULL, human_size, NULL, NULL, NULL);

    for (int arguments = 1; arguments <= 2 && rc == SQLITE_OK; arguments++)
        rc = sqlite3_create_function_v2(db, "stack", arguments, SQLITE_UTF8, NULL, stack, NULL, NULL, NULL);
    for (size_t i = 0; i < sizeof(aggregates) / sizeof(aggregates[0]) && rc == SQLITE_OK; i++)
        rc = sqlite3_create_window_function(db, aggregates[i].name, aggregates[i].arguments, flags,
            (void *)(intptr_t)aggregates[i].what, step, finish, value, inverse, NULL);
    return rc;
}

/*
 * The last section of `memtrace leaks`: live bytes against resident memory over the iterations of each process. Resident memory that grows while
 * live bytes do not is fragmentation, or an allocator's free lists; both growing is a leak; neither, neither.
 */
#include <json-c/json.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "leaks.h"
#include "stats/stats.h"

enum { MINIMUM = 4, PAGE_BYTES = 4096 };

struct series {
    double *at, *live, *rss;
    size_t count, capacity;
};

static void keep(struct series *s, double at, double live, double rss)
{
    if (s->count == s->capacity) {
        s->capacity = s->capacity ? s->capacity * 2 : 64;
        s->at = reallocarray(s->at, s->capacity, sizeof(double));
        s->live = reallocarray(s->live, s->capacity, sizeof(double));
        s->rss = reallocarray(s->rss, s->capacity, sizeof(double));
        if (!s->at || !s->live || !s->rss)
            abort();
    }
    s->at[s->count] = at;
    s->live[s->count] = live;
    s->rss[s->count++] = rss;
}

/* Ends of iterations after the warm-up; memtrace's own part is taken out of resident memory. Long runs are thinned out. */
static int read_series(struct mt_store *store, int64_t process_id, struct series *s)
{
    static const char sql[] =
        "WITH i AS (SELECT iteration, live_bytes, rss_bytes, ended_ns FROM iterations WHERE process_id = ?1 AND ended_ns NOT NULL "
        "AND iteration > ?2 AND iteration % (SELECT 1 + count(*) / 500 FROM iterations WHERE process_id = ?1) = 0 "
        "AND iteration <= (SELECT max(iteration) FROM iterations WHERE process_id = ?1) "
        "- coalesce((SELECT torn_down FROM judged WHERE process_id = ?1), 0) "
        "AND NOT (label = 'exit' AND iteration = (SELECT max(iteration) FROM iterations WHERE process_id = ?1))) "
        "SELECT iteration, live_bytes, rss_bytes, (SELECT overhead_bytes FROM memory_samples AS m WHERE m.process_id = ?1 "
        "AND m.at_ns <= i.ended_ns ORDER BY m.at_ns DESC LIMIT 1), (SELECT mapped_bytes FROM memory_samples AS m "
        "WHERE m.process_id = ?1 AND m.at_ns <= i.ended_ns ORDER BY m.at_ns DESC LIMIT 1) FROM i ORDER BY iteration";
    struct mt_query *q;
    int status, r;

    q = ask(store, sql, &status);
    if (!q)
        return status;
    mt_query_bind_integer(q, 1, process_id);
    mt_query_bind_integer(q, 2, MT_STATS_WARM_UP);
    while ((r = mt_query_step(q)) == 1)
        keep(s, mt_query_real(q, 0), mt_query_real(q, 1) + mt_query_real(q, 4), mt_query_real(q, 2) - mt_query_real(q, 3));
    mt_query_destroy(q);
    return finish_rows(store, r);
}

/* A cache that is full by now grew, too: the second half must grow by itself. */
static bool still_grows(const double *at, const double *values, size_t count, double slope)
{
    size_t half = count / 2;

    return mt_stats_theil_sen(at + half, values + half, count - half, 0.95).estimate > slope / 2;
}

static const char *conclusion(
    const struct series *s, struct mt_interval live, struct mt_interval rss, bool lossy, const char **ret_text)
{
    if (live.low >= mt_stats_floor(s->live[s->count - 1]) && still_grows(s->at, s->live, s->count, live.estimate)) {
        if (lossy) {
            *ret_text = "What the program holds seems to grow; but the run lost events.";
            return "suspect";
        }
        *ret_text = "What the program holds grows: the growth is its own.";
        return "leak";
    }
    if (rss.low > PAGE_BYTES && live.low <= 0 && still_grows(s->at, s->rss, s->count, rss.estimate)) {
        *ret_text = "What the program holds does not grow, what is resident does: fragmentation, or memory that the allocator keeps.";
        return "fragmentation";
    }
    *ret_text = "Neither what the program holds nor what is resident is sure to grow by what is worth a line.";
    return "neither";
}

static void print_interval(const char *what, struct mt_interval i)
{
    char estimate[32], low[32], high[32];

    printf("  %-9s %s%s an iteration (95 %%: %s to %s)\n", what, i.estimate > 0 ? "+" : "",
        mt_format_bytes((int64_t)i.estimate, estimate, sizeof(estimate)),
        isfinite(i.low) ? mt_format_bytes((int64_t)i.low, low, sizeof(low)) : "?",
        isfinite(i.high) ? mt_format_bytes((int64_t)i.high, high, sizeof(high)) : "?");
}

static void add_interval(struct json_object *row, const char *name, struct mt_interval i)
{
    const double values[] = {i.estimate, i.low, i.high};
    static const char *const suffixes[] = {"bytes_per_iteration", "ci_low", "ci_high"};
    char key[64];

    for (int k = 0; k < 3; k++) {
        snprintf(key, sizeof(key), "%s_%s", name, suffixes[k]);
        json_object_object_add(row, key, isfinite(values[k]) ? json_object_new_double(values[k]) : NULL);
    }
}

static int one_process(struct mt_store *store, int64_t process_id, bool lossy, struct mt_json *json)
{
    struct series s = {0};
    struct mt_interval live, rss;
    const char *text, *verdict;
    int status = read_series(store, process_id, &s);

    if (status == 0 && s.count >= MINIMUM) {
        live = mt_stats_theil_sen(s.at, s.live, s.count, 0.95);
        rss = mt_stats_theil_sen(s.at, s.rss, s.count, 0.95);
        verdict = conclusion(&s, live, rss, lossy, &text);
        if (json) {
            struct json_object *row = json_object_new_object();
            json_object_object_add(row, "process_id", json_object_new_int64(process_id));
            json_object_object_add(row, "conclusion", json_object_new_string(verdict));
            add_interval(row, "live", live);
            add_interval(row, "rss", rss);
            mt_json_row(json, row);
        } else {
            printf("\nProcess %lld over %zu iterations: %s\n", (long long)process_id, s.count, verdict);
            print_interval("live", live);
            print_interval("resident", rss);
            printf("  %s\n", text);
        }
    }
    free(s.at);
    free(s.live);
    free(s.rss);
    return status;
}

int leaks_print_process(struct mt_store *store, int64_t run_id, bool as_json)
{
    struct mt_query *q;
    struct mt_json json;
    int status, r = 0;

    q = ask(store, "SELECT process_id, (SELECT status FROM runs WHERE run_id = ?1) = 'lossy' FROM judged JOIN process USING (process_id) "
                   "WHERE run_id = ?1 ORDER BY process_id LIMIT 20",
        &status);
    if (!q)
        return status;
    if (as_json)
        mt_json_begin(&json, stdout);
    status = 0;
    mt_query_bind_integer(q, 1, run_id);
    while (status == 0 && (r = mt_query_step(q)) == 1)
        status = one_process(store, mt_query_integer(q, 0), mt_query_integer(q, 1) == 1, as_json ? &json : NULL);
    if (as_json)
        mt_json_end(&json);
    mt_query_destroy(q);
    return status ? status : finish_rows(store, r);
}

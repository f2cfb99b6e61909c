/*
 * memtrace check: limits on a run or on a phase of it.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "series.h"

static const char help[] =
    "Gives status 1 if a run needed more than allowed, and names the callsites that hold most of it.\n"
    "Sizes are as in 800M, 1.5G, 64K or 4096.\n\n"
    "      --max-peak SIZE       live bytes at the peak of the run, or of the phase\n"
    "      --max-live SIZE       live bytes at its end\n"
    "      --max-allocated SIZE  bytes allocated in all\n"
    "      --max-rss SIZE        peak resident bytes of the run; resident bytes at the phase's end\n"
    "      --max-growth SIZE     live bytes an iteration: of the callsites that leak, or may\n"
    "      --phase NAME          look at that phase\n" READ_HELP RUN_HELP READ_HELP_END;

enum limit { LIMIT_PEAK, LIMIT_LIVE, LIMIT_ALLOCATED, LIMIT_RSS, LIMIT_GROWTH, LIMITS };
enum { FIRST_LIMIT = OPTION_FIRST_FREE, PHASE = FIRST_LIMIT + LIMITS };

static const struct {
    const char *name, *run, *phase, *order; /* order: what the responsible callsites have most of */
} limits[LIMITS] = {
    {"peak", "peak_live_bytes", "max(peak_live_bytes)", "peak_bytes"},
    {"live", "live_bytes", "max(live_bytes_after)", "live_bytes"},
    {"allocated", "allocated_bytes", "sum(allocated_bytes)", "allocated_bytes"},
    {"rss", "peak_rss_bytes", "max(rss_after)", "peak_bytes"},
    {"growth", NULL, NULL, NULL},
};

struct check_options {
    struct read_options read;
    const char *phase;
    double most[LIMITS]; /* NAN: no limit */
};

static int one_number(struct mt_store *store, const char *sql, int64_t run_id, const char *phase, double *ret_value)
{
    struct mt_query *q;
    int status, r;

    q = ask(store, sql, &status);
    if (!q)
        return status;
    mt_query_bind_integer(q, 1, run_id);
    if (phase)
        mt_query_bind_text(q, 2, phase);
    r = mt_query_step(q);
    *ret_value = r == 1 && mt_query_kind(q, 0) != MT_VALUE_NULL ? mt_query_real(q, 0) : NAN;
    mt_query_destroy(q);
    return finish_rows(store, r);
}

static int value_of(struct mt_store *store, enum limit limit, int64_t run_id, const char *phase, double *ret_value)
{
    char sql[256];
    int status;

    if (limit == LIMIT_GROWTH) {
        /* the largest of a run's processes: each has iterations of its own */
        status = one_number(store,
            "SELECT coalesce(max(growth), 0) FROM (SELECT sum(bytes_per_iteration) AS growth FROM verdict JOIN process "
            "USING (process_id) WHERE run_id = ?1 AND verdict IN ('leak', 'suspect') GROUP BY process_id)",
            run_id, NULL, ret_value);
        return status;
    }
    if (phase)
        snprintf(sql, sizeof(sql), "SELECT %s FROM phases WHERE run_id = ?1 AND phase = ?2", limits[limit].phase);
    else
        snprintf(sql, sizeof(sql), "SELECT %s FROM runs WHERE run_id = ?1", limits[limit].run);
    status = one_number(store, sql, run_id, phase, ret_value);
    if (status == 0 && isnan(*ret_value))
        status = complain(STATUS_INPUT, "run %lld has no phase %s", (long long)run_id, phase ? phase : "");
    return status;
}

static int print_responsible(struct mt_store *store, enum limit limit, int64_t run_id)
{
    char sql[512], text[32];
    struct mt_query *q;
    int status, r;

    if (limit == LIMIT_GROWTH)
        snprintf(sql, sizeof(sql), "SELECT sum(bytes_per_iteration), function, file, line FROM leaks WHERE run_id = ?1 AND "
                                   "verdict IN ('leak', 'suspect') GROUP BY function, file, line ORDER BY 1 DESC LIMIT 5");
    else
        snprintf(sql, sizeof(sql), "SELECT sum(%1$s), function, file, line FROM top_allocators WHERE run_id = ?1 "
                                   "AND heap IN ('malloc', 'python') GROUP BY function, file, line HAVING sum(%1$s) > 0 ORDER BY 1 DESC LIMIT 5",
            limits[limit].order);
    q = ask(store, sql, &status);
    if (!q)
        return status;
    mt_query_bind_integer(q, 1, run_id);
    while ((r = mt_query_step(q)) == 1) {
        const char *file = mt_query_text(q, 2, NULL);
        printf("  %10s  %s", mt_format_bytes(mt_query_integer(q, 0), text, sizeof(text)), mt_query_text(q, 1, NULL));
        if (file)
            printf("  %s:%lld", file, (long long)mt_query_integer(q, 3));
        putchar('\n');
    }
    mt_query_destroy(q);
    return finish_rows(store, r);
}

static int check(struct mt_store *store, const struct check_options *o, int64_t run_id, bool *ret_over)
{
    char found[32], most[32];
    bool first = true;
    int status = 0;

    *ret_over = false;
    if (o->read.json)
        putchar('[');
    for (int i = 0; i < LIMITS && status == 0; i++) {
        double value;
        bool over;

        if (isnan(o->most[i]))
            continue;
        status = value_of(store, (enum limit)i, run_id, o->phase, &value);
        if (status != 0)
            break;
        over = value > o->most[i];
        *ret_over |= over;
        if (o->read.json) {
            printf("%s\n  {\"run_id\": %lld, \"limit\": \"%s\", \"bytes\": %.0f, \"max_bytes\": %.0f, \"exceeded\": %s}", first ? "" : ",",
                (long long)run_id, limits[i].name, value, o->most[i], over ? "true" : "false");
            first = false;
            continue;
        }
        printf("%-9s %10s of %10s  %s\n", limits[i].name, mt_format_bytes((int64_t)value, found, sizeof(found)),
            mt_format_bytes((int64_t)o->most[i], most, sizeof(most)), over ? "EXCEEDED" : "fine");
        if (over)
            status = print_responsible(store, (enum limit)i, run_id);
    }
    if (o->read.json)
        puts(first ? "]" : "\n]");
    return status;
}

static int parse(int argc, char **argv, struct check_options *o)
{
    static const struct option options[] = {READ_OPTIONS, {"max-peak", required_argument, NULL, FIRST_LIMIT + LIMIT_PEAK},
        {"max-live", required_argument, NULL, FIRST_LIMIT + LIMIT_LIVE},
        {"max-allocated", required_argument, NULL, FIRST_LIMIT + LIMIT_ALLOCATED},
        {"max-rss", required_argument, NULL, FIRST_LIMIT + LIMIT_RSS},
        {"max-growth", required_argument, NULL, FIRST_LIMIT + LIMIT_GROWTH}, {"phase", required_argument, NULL, PHASE}, {0}};
    bool any = false;
    int c;

    for (int i = 0; i < LIMITS; i++)
        o->most[i] = NAN;
    while ((c = getopt_long(argc, argv, "d:h", options, NULL)) != -1) {
        if (c >= FIRST_LIMIT && c < FIRST_LIMIT + LIMITS) {
            if (!size_option(optarg, &o->most[c - FIRST_LIMIT]))
                return complain(STATUS_USAGE, "%s: not a size such as 800M", optarg);
            any = true;
        } else if (c == PHASE) {
            o->phase = optarg;
        } else if (!read_option(&o->read, c, optarg)) {
            return usage_hint(argv);
        }
    }
    if (argv[optind])
        return complain(STATUS_USAGE, "one argument too many: %s", argv[optind]);
    return any || o->read.help ? 0 : complain(STATUS_USAGE, "no limit: --max-peak SIZE, for example");
}

int command_check(int argc, char **argv)
{
    struct check_options o = {0};
    struct mt_store *store;
    int64_t run_id;
    bool over = false;
    int status = parse(argc, argv, &o);

    if (status != 0)
        return status;
    if (o.read.help)
        return print_help("check", help);
    status = open_database(&o.read, &store, &run_id);
    if (status != 0)
        return status;
    status = check(store, &o, run_id, &over);
    mt_store_close(store);
    return status == 0 && over ? STATUS_FINDING : status;
}

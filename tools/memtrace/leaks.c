/*
 * memtrace leaks: what grows from one iteration to the next, and how sure that is; without iterations, what was never freed.
 */
#include <json-c/json.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "leaks.h"
#include "stats/stats.h"

static const char help[] =
    "Shows which callsites grow with every iteration of the program (memtrace_iteration() of memtrace.h,\n"
    "or `memtrace loop`), the surest and largest first:\n\n"
    "  leak     every iteration leaves blocks behind that stay, with no end in sight\n"
    "  suspect  some of that; more iterations would tell\n"
    "  warm-up  grew in the first iterations only\n"
    "  bounded  came to a standstill, or is freed later\n"
    "  noise    hardly changes\n\n"
    "Without iterations: what was still there when the program ended (live-at-exit).\n\n"
    "  -n, --rows N        rows (default 20; 0: all)\n"
    "      --stacks        a row a callsite, with its stack\n"
    "      --fail-on WHAT  status 1 if there is a `leak`, a `suspect` or leak, or `live-at-exit`\n"
    "      --suppress FILE leave out what matches; a line is leak:PATTERN, as for LeakSanitizer\n"
    "      --process       only what the process as a whole did\n" READ_HELP RUN_HELP READ_HELP_END;

enum { STACKS = OPTION_FIRST_FREE, FAIL_ON, SUPPRESS, PROCESS };

struct leaks_options {
    struct read_options read;
    const char *suppress;
    enum leak_rank fail_on; /* RANK_NOISE: never */
    int64_t rows;
    bool stacks, process;
};

/* ---- text --------------------------------------------------------------------------------------------------------------- */

/* The series of the row's first site, as bars. */
static int trend(struct mt_store *store, const struct leak_row *row, char *buffer, size_t size)
{
    double values[64];
    size_t count = 0;
    struct mt_query *q;
    int status, r;

    q = ask(store, "SELECT live_bytes FROM site_iterations WHERE process_id = ?1 AND site_id = ?2 ORDER BY iteration LIMIT 64",
        &status);
    if (!q)
        return status;
    mt_query_bind_integer(q, 1, row->process_id);
    mt_query_bind_integer(q, 2, row->site_id);
    while ((r = mt_query_step(q)) == 1 && count < MT_ARRAY_LEN(values))
        values[count++] = mt_query_real(q, 0);
    mt_query_destroy(q);
    mt_format_bars(values, count, buffer, size);
    return finish_rows(store, r);
}

/* "born in parse, called by build, main": what the C library does before main is of no interest. */
static char *path_text(struct mt_store *store, int64_t site_id, int *ret_status)
{
    char *text = NULL, *frames[4] = {0}, *save = NULL, *copy = NULL;
    struct mt_query *q;
    int count = 0, r;

    q = ask(store, "SELECT stack FROM sites WHERE site_id = ?1", ret_status);
    if (!q)
        return NULL;
    mt_query_bind_integer(q, 1, site_id);
    r = mt_query_step(q);
    if (r == 1 && mt_query_text(q, 0, NULL))
        copy = strdup(mt_query_text(q, 0, NULL));
    for (char *f = copy ? strtok_r(copy, ";", &save) : NULL; f && count < 4; f = strtok_r(NULL, ";", &save)) {
        if (strncmp(f, "__libc_start", 12) == 0 || strcmp(f, "_start") == 0)
            break;
        frames[count++] = f;
    }
    if (count > 0 && asprintf(&text, "born in %s%s%s%s%s%s%s", frames[0], count > 1 ? ", called by " : "", count > 1 ? frames[1] : "",
                         count > 2 ? ", " : "", count > 2 ? frames[2] : "", count > 3 ? ", " : "", count > 3 ? frames[3] : "") < 0)
        text = NULL;
    free(copy);
    mt_query_destroy(q);
    *ret_status = finish_rows(store, r);
    return text;
}

/* "2,400", "0.5" */
static char *blocks_text(double blocks, char *buffer, size_t size)
{
    if (fabs(blocks) >= 100)
        mt_format_count(llround(blocks), buffer, size);
    else
        snprintf(buffer, size, "%.3g", blocks);
    return buffer;
}

static void sentence(const struct leak_row *row, int64_t ends, FILE *to)
{
    char per[32], low[32], high[32];
    double blocks = row->blocks_per_iteration;

    mt_format_bytes((int64_t)llround(row->per_iteration), per, sizeof(per));
    fprintf(to, "%s %s", row->function, row->rank == RANK_LEAK ? "keeps" : "may keep");
    fprintf(to, " %s of each iteration", per);
    if (isfinite(blocks) && blocks > 0)
        fprintf(to, " in %s block%s", blocks_text(blocks, low, sizeof(low)), blocks == 1 ? "" : "s");
    if (isfinite(row->low) && isfinite(row->high))
        fprintf(to, " (95 %%: %s to %s)", mt_format_bytes((int64_t)llround(row->low), low, sizeof(low)),
            mt_format_bytes((int64_t)llround(row->high), high, sizeof(high)));
    if (row->since > 0)
        fprintf(to, ", every one since iteration %lld of %lld", (long long)row->since, (long long)ends);
    fputs(".\n", to);
    if (row->gate)
        fprintf(to, "Not sure: %s.\n", mt_stats_gate_text(mt_stats_gate_of(row->gate)));
    else if (row->rank == RANK_LEAK)
        fprintf(to, "Chance of this without a leak: %.1g after correction. A cache that fills up beyond iteration %lld would look the same.\n",
            row->q, (long long)ends);
}

static int note_row(struct mt_store *store, struct mt_table *table, const struct leak_row *row, int64_t ends)
{
    char *text = NULL, *path;
    size_t size = 0;
    FILE *to = open_memstream(&text, &size);
    int status = 0;

    if (!to)
        abort();
    sentence(row, ends, to);
    path = path_text(store, row->site_id, &status);
    if (path)
        fprintf(to, "%s%s\n", path, row->sites > 1 ? ", and other ways" : "");
    free(path);
    fclose(to);
    mt_table_note(table, text);
    free(text);
    return status;
}

static void add_judged(struct mt_table *table, const struct leak_row *row, const char *bars)
{
    char text[64];

    mt_table_add(table, row->verdict);
    if (isfinite(row->per_iteration) && row->rank != RANK_NOISE) {
        mt_table_add(table, mt_format_bytes((int64_t)llround(row->per_iteration), text, sizeof(text)));
        mt_table_add(table, blocks_text(row->blocks_per_iteration, text, sizeof(text)));
    } else {
        mt_table_add(table, "");
        mt_table_add(table, "");
    }
    mt_table_add(table, bars);
    mt_table_add(table, mt_format_bytes(row->live_bytes, text, sizeof(text)));
    mt_table_add(table, mt_format_count(row->live_blocks, text, sizeof(text)));
}

static void add_unjudged(struct mt_table *table, const struct leak_row *row, int64_t whole)
{
    char text[64];

    mt_table_add(table, mt_format_bytes(row->live_bytes, text, sizeof(text)));
    mt_table_add(table, is_proper_heap(row->heap) ? percent_text(row->live_bytes, whole, text, sizeof(text)) : "-");
    mt_table_add(table, mt_format_count(row->live_blocks, text, sizeof(text)));
    mt_table_add(table, mt_format_count(row->allocated_blocks, text, sizeof(text)));
    mt_table_add(table, row->verdict);
}

static void add_columns(struct mt_table *table, bool judged)
{
    if (judged) {
        mt_table_column(table, "VERDICT", MT_CELL_LEFT);
        mt_table_column(table, "AN ITERATION", MT_CELL_RIGHT);
        mt_table_column(table, "BLOCKS", MT_CELL_RIGHT_OPTIONAL);
        mt_table_column(table, "TREND", MT_CELL_LEFT);
        mt_table_column(table, "LIVE", MT_CELL_RIGHT);
        mt_table_column(table, "IN BLOCKS", MT_CELL_RIGHT_OPTIONAL);
    } else {
        mt_table_column(table, "LIVE", MT_CELL_RIGHT);
        mt_table_column(table, "%", MT_CELL_RIGHT);
        mt_table_column(table, "BLOCKS", MT_CELL_RIGHT);
        mt_table_column(table, "ALLOCATED", MT_CELL_RIGHT_OPTIONAL);
        mt_table_column(table, "VERDICT", MT_CELL_LEFT);
    }
    mt_table_column(table, "HEAP", MT_CELL_LEFT);
    mt_table_column(table, "FUNCTION", MT_CELL_CUT_END);
    mt_table_column(table, "WHERE", MT_CELL_CUT_START);
}

/* Iterations that were looked at, and how many of the callsites were tested; of all processes of the run the most. */
static int judged_numbers(struct mt_store *store, int64_t run_id, int64_t *ret_ends, int64_t *ret_tested, int64_t *ret_torn)
{
    struct mt_query *q;
    int status, r;

    q = ask(store, "SELECT max(ends * period), sum(tested), max(torn_down) FROM judged JOIN process USING (process_id) WHERE run_id = ?1",
        &status);
    if (!q)
        return status;
    mt_query_bind_integer(q, 1, run_id);
    r = mt_query_step(q);
    if (r == 1) {
        *ret_ends = mt_query_integer(q, 0);
        *ret_tested = mt_query_integer(q, 1);
        *ret_torn = mt_query_integer(q, 2);
    }
    mt_query_destroy(q);
    return finish_rows(store, r);
}

static void print_summary(const struct leak_rows *leaks, int64_t ends, int64_t tested, int64_t torn_down)
{
    size_t by_rank[RANK_LEAK + 1] = {0};

    for (size_t i = 0; i < leaks->count; i++)
        by_rank[leaks->rows[i].rank]++;
    printf("%lld iteration%s looked at, %lld callsite%s tested: %zu leak, %zu suspect, %zu warm-up, %zu bounded, %zu noise\n",
        (long long)ends, ends == 1 ? "" : "s", (long long)tested, tested == 1 ? "" : "s", by_rank[RANK_LEAK], by_rank[RANK_SUSPECT], by_rank[RANK_WARM_UP],
        by_rank[RANK_BOUNDED], by_rank[RANK_NOISE]);
    if (torn_down)
        puts("The last iteration ended with the process, which freed most of its memory first; it is not one of them.");
    if (ends < 8)
        puts("Fewer than 8 iterations cannot make a leak sure; 12 are a good number.");
}

static int add_rows(struct mt_store *store, struct mt_table *table, const struct leak_rows *leaks, const struct leaks_options *o,
    int64_t ends)
{
    size_t limit = o->rows && (size_t)o->rows < leaks->count ? (size_t)o->rows : leaks->count;
    char text[4300], bars[256];
    int64_t whole = 0;
    int status = 0;

    for (size_t i = 0; i < leaks->count; i++)
        whole += is_proper_heap(leaks->rows[i].heap) ? leaks->rows[i].live_bytes : 0;
    for (size_t i = 0; i < limit && status == 0; i++) {
        const struct leak_row *row = &leaks->rows[i];
        if (leaks->judged) {
            status = trend(store, row, bars, sizeof(bars));
            add_judged(table, row, bars);
        } else {
            add_unjudged(table, row, whole);
        }
        mt_table_add(table, heap_text(row->heap, row->kind, text, sizeof(text)));
        mt_table_add(table, row->function);
        mt_table_add(table, place_text(row->file, row->line, row->module, text, sizeof(text)));
        if (status == 0 && row->rank >= RANK_SUSPECT)
            status = note_row(store, table, row, ends);
        if (status == 0 && o->stacks)
            status = note_stack(store, table, row->site_id);
    }
    return status;
}

static void print_suppressions(const struct leak_rows *leaks)
{
    bool first = true;

    for (size_t i = 0; i < leaks->suppression_count; i++) {
        const struct suppression *s = &leaks->suppressions[i];
        if (s->sites == 0)
            continue;
        if (first)
            puts("\nSuppressions used:\n  sites      blocks          bytes  pattern");
        first = false;
        printf("%7lld %11lld %14lld  %s\n", (long long)s->sites, (long long)s->blocks, (long long)s->bytes, s->pattern);
    }
}

static int print_text(struct mt_store *store, const struct leak_rows *leaks, const struct leaks_options *o, int64_t run_id)
{
    struct mt_table *table = mt_table_create();
    int64_t ends = 0, tested = 0, torn_down = 0;
    int status = print_run_title(store, run_id);

    if (!table)
        abort();
    add_columns(table, leaks->judged);
    if (status == 0 && leaks->judged) {
        status = judged_numbers(store, run_id, &ends, &tested, &torn_down);
        print_summary(leaks, ends, tested, torn_down);
    }
    if (status == 0)
        status = add_rows(store, table, leaks, o, ends);
    if (status == 0 && mt_table_rows(table) > 0) {
        putchar('\n');
        mt_table_print(table, stdout);
    } else if (status == 0) {
        puts("\nNothing was left at the end.");
    }
    mt_table_destroy(table);
    print_suppressions(leaks);
    if (status == 0 && o->stacks)
        status = print_folded(store, run_id);
    if (status == 0 && leaks->judged)
        status = leaks_print_process(store, run_id, false);
    return status ? status : print_loss(store, run_id);
}

/* ---- JSON ---------------------------------------------------------------------------------------------------------------- */

static struct json_object *text_value(const char *text)
{
    return text ? mt_json_text(text, strlen(text)) : NULL;
}

static struct json_object *number_value(double number)
{
    return isfinite(number) ? json_object_new_double(number) : NULL;
}

static int print_rows_json(struct mt_store *store, const struct leak_rows *leaks, const struct leaks_options *o, int64_t run_id)
{
    size_t limit = o->rows && (size_t)o->rows < leaks->count ? (size_t)o->rows : leaks->count;
    struct mt_query *stack = NULL;
    struct mt_json json;
    int status = 0, r = 0;

    if (o->stacks && !(stack = ask(store, "SELECT stack FROM sites WHERE site_id = ?1", &status)))
        return status;
    mt_json_begin(&json, stdout);
    for (size_t i = 0; i < limit && r >= 0; i++) {
        const struct leak_row *row = &leaks->rows[i];
        struct json_object *to = json_object_new_object();

        json_object_object_add(to, "run_id", json_object_new_int64(run_id));
        json_object_object_add(to, "process_id", json_object_new_int64(row->process_id));
        json_object_object_add(to, "site_id", json_object_new_int64(row->site_id));
        json_object_object_add(to, "sites", json_object_new_int64(row->sites));
        json_object_object_add(to, "heap", text_value(row->heap));
        json_object_object_add(to, "kind", text_value(row->kind));
        json_object_object_add(to, "verdict", text_value(row->verdict));
        json_object_object_add(to, "gate", text_value(row->gate));
        json_object_object_add(to, "bytes_per_iteration", number_value(row->per_iteration));
        json_object_object_add(to, "ci_low", number_value(row->low));
        json_object_object_add(to, "ci_high", number_value(row->high));
        json_object_object_add(to, "blocks_per_iteration", number_value(row->blocks_per_iteration));
        json_object_object_add(to, "p_value", number_value(row->p));
        json_object_object_add(to, "q_value", number_value(row->q));
        json_object_object_add(to, "since", row->since ? json_object_new_int64(row->since) : NULL);
        json_object_object_add(to, "live_bytes", json_object_new_int64(row->live_bytes));
        json_object_object_add(to, "live_blocks", json_object_new_int64(row->live_blocks));
        json_object_object_add(to, "allocated_blocks", json_object_new_int64(row->allocated_blocks));
        json_object_object_add(to, "function", text_value(row->function));
        json_object_object_add(to, "file", text_value(row->file));
        json_object_object_add(to, "line", row->line ? json_object_new_int64(row->line) : NULL);
        json_object_object_add(to, "module", text_value(row->module));
        if (stack) {
            mt_query_reset(stack);
            mt_query_bind_integer(stack, 1, row->site_id);
            r = mt_query_step(stack);
            json_object_object_add(to, "stack", r == 1 ? text_value(mt_query_text(stack, 0, NULL)) : NULL);
        }
        mt_json_row(&json, to);
    }
    mt_json_end(&json);
    mt_query_destroy(stack);
    return finish_rows(store, r);
}

/* ---- command ------------------------------------------------------------------------------------------------------------- */

static int parse(int argc, char **argv, struct leaks_options *o)
{
    static const struct option options[] = {READ_OPTIONS, {"rows", required_argument, NULL, 'n'},
        {"stacks", no_argument, NULL, STACKS}, {"fail-on", required_argument, NULL, FAIL_ON},
        {"suppress", required_argument, NULL, SUPPRESS}, {"process", no_argument, NULL, PROCESS}, {0}};
    int c;

    while ((c = getopt_long(argc, argv, "d:n:h", options, NULL)) != -1) {
        if (c == STACKS) {
            o->stacks = true;
        } else if (c == PROCESS) {
            o->process = true;
        } else if (c == SUPPRESS) {
            o->suppress = optarg;
        } else if (c == FAIL_ON) {
            o->fail_on = leaks_rank_of(optarg);
            if (o->fail_on < RANK_LIVE_AT_EXIT)
                return complain(STATUS_USAGE, "--fail-on %s: not one of leak, suspect, live-at-exit", optarg);
        } else if (c == 'n') {
            if (number_option(optarg, 0, INT32_MAX, &o->rows) < 0)
                return complain(STATUS_USAGE, "-n %s: not a number of rows", optarg);
        } else if (!read_option(&o->read, c, optarg)) {
            return usage_hint(argv);
        }
    }
    return argv[optind] ? complain(STATUS_USAGE, "one argument too many: %s", argv[optind]) : 0;
}

static bool is_finding(const struct leak_rows *leaks, enum leak_rank fail_on)
{
    for (size_t i = 0; i < leaks->count && fail_on != RANK_NOISE; i++)
        if (leaks->rows[i].rank >= fail_on)
            return true;
    return false;
}

int command_leaks(int argc, char **argv)
{
    struct leaks_options o = {.rows = 20};
    struct leak_rows leaks = {0};
    struct mt_store *store;
    int64_t run_id;
    int status = parse(argc, argv, &o);

    if (status != 0)
        return status;
    if (o.read.help)
        return print_help("leaks", help);
    if (o.suppress)
        status = leaks_read_suppressions(&leaks, o.suppress);
    if (status == 0)
        status = open_database(&o.read, &store, &run_id);
    if (status != 0) {
        leaks_finish(&leaks);
        return status;
    }
    if (o.process)
        status = leaks_print_process(store, run_id, o.read.json);
    else
        status = leaks_collect(store, run_id, o.stacks, &leaks);
    if (status == 0 && !o.process)
        status = o.read.json ? print_rows_json(store, &leaks, &o, run_id) : print_text(store, &leaks, &o, run_id);
    if (status == 0 && is_finding(&leaks, o.fail_on))
        status = STATUS_FINDING;
    leaks_finish(&leaks);
    mt_store_close(store);
    return status;
}

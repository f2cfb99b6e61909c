/*
 * Options, complaints, opening and waiting: what the reading commands have in common.
 */
#include <errno.h>
#include <json-c/json.h>
#include <math.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "command.h"
#include "wire/names.h"

const char *command_name = "";

int complain(int status, const char *format, ...)
{
    va_list values;
    char text[1024];

    va_start(values, format);
    vsnprintf(text, sizeof(text), format, values);
    va_end(values);
    for (char *p = text; *p; p++) { /* one line, whatever the names in it */
        if ((unsigned char)*p < ' ' || *p == 0x7f)
            *p = ' ';
    }
    fflush(stdout);
    fprintf(stderr, "memtrace%s%s: %s\n", *command_name ? " " : "", command_name, text);
    return status;
}

int usage_hint(char **argv)
{
    /* optopt is the letter or number of a known option whose argument is missing or unwanted */
    const char *what = optopt > ' ' && optopt < 0x7f && argv[optind - 1][1] != '-' ? (char[]){'-', (char)optopt, '\0'}
                                                                                  : argv[optind - 1];

    return complain(STATUS_USAGE, "%s: no such option, or its value is wrong; `memtrace %s --help` tells more", what,
        command_name);
}

int number_option(const char *text, int64_t low, int64_t high, int64_t *ret_number)
{
    char *end;
    long long value;

    errno = 0;
    value = strtoll(text, &end, 10);
    if (errno || end == text || *end || value < low || value > high)
        return -EINVAL;
    *ret_number = value;
    return 0;
}

bool read_option(struct read_options *options, int option, const char *argument)
{
    switch (option) {
    case 'd':
        options->database = argument;
        return true;
    case OPTION_RUN:
        options->run = argument;
        return true;
    case OPTION_JSON:
        options->json = true;
        return true;
    case OPTION_NO_WAIT:
        options->no_wait = true;
        return true;
    case 'h':
        options->help = true;
        return true;
    default:
        return false;
    }
}

/* ---- the database ------------------------------------------------------------------------------------------------ */

static const char *name_of(const struct read_options *options)
{
    const char *name = options->database ? options->database : getenv(MT_ENV_DB);

    return name && *name ? name : "memtrace.db";
}

static int open_named(const char *name, struct mt_store **ret_store)
{
    int r = mt_store_open_read(name, ret_store);

    switch (-r) {
    case 0:
        return 0;
    case ENOENT:
    case ENODATA:
        return complain(STATUS_INPUT, "%s: %s; `memtrace run -o %s -- COMMAND` records one", name,
            r == -ENOENT ? "there is no such database" : "there are no runs in it", name);
    case EBADMSG:
        return complain(STATUS_INPUT, "%s: not a memtrace database, or damaged; name another one with -d", name);
    case EPROTO:
        return complain(STATUS_INPUT, "%s: written by another version of memtrace; read it with that one, or name another database", name);
    case EBUSY:
        return complain(STATUS_INPUT, "%s: locked by another program; try again later", name);
    default:
        return complain(STATUS_INPUT, "%s: cannot be read (%s); name another one with -d", name, strerror(-r));
    }
}

static volatile sig_atomic_t stop_waiting;

static void on_interrupt(int number)
{
    (void)number;
    stop_waiting = 1;
}

/* Ctrl-C ends the wait and goes on with what there is. */
static void wait_for_writers(struct mt_store *store, int64_t run_id)
{
    struct sigaction action = {.sa_handler = on_interrupt}, before;
    int64_t running = 0;
    bool said = false;

    sigaction(SIGINT, &action, &before);
    while (!stop_waiting && mt_store_running(store, run_id, &running) == 0 && running > 0) {
        if (!said)
            fprintf(stderr, "memtrace: %s %lld still being written; waiting (Ctrl-C: show what there is)\n",
                run_id ? "run" : "runs:", (long long)(run_id ? run_id : running));
        said = true;
        nanosleep(&(struct timespec){.tv_nsec = 50000000}, NULL);
    }
    sigaction(SIGINT, &before, NULL);
}

static int find_run(struct mt_store *store, const char *wanted, const char *name, int64_t *ret_run_id)
{
    static const char sql[] = "SELECT max(run_id) FROM runs WHERE ?1 IS NULL OR label = ?1";
    struct mt_query *query;
    int64_t number = 0, found = 0;
    int status;
    bool is_number = wanted && number_option(wanted, 1, INT64_MAX, &number) == 0;

    query = ask(store, is_number ? "SELECT coalesce((SELECT run_id FROM runs WHERE run_id = ?2), (SELECT max(run_id) FROM runs "
                                   "WHERE label = ?1))"
                                 : sql,
        &status);
    if (!query)
        return status;
    if (wanted)
        mt_query_bind_text(query, 1, wanted);
    if (is_number)
        mt_query_bind_integer(query, 2, number);
    status = mt_query_step(query);
    if (status == 1)
        found = mt_query_integer(query, 0);
    mt_query_destroy(query);
    if (status < 0)
        return finish_rows(store, status);
    if (!found)
        return wanted ? complain(STATUS_INPUT, "%s: no run %s in it; `memtrace runs -d %s` lists them", name, wanted, name)
                      : complain(STATUS_INPUT, "%s: there are no runs in it; `memtrace run -o %s -- COMMAND` records one",
                            name, name);
    *ret_run_id = found;
    return 0;
}

int open_database(const struct read_options *options, struct mt_store **ret_store, int64_t *ret_run_id)
{
    const char *name = name_of(options);
    struct mt_store *store;
    int64_t run_id = 0;
    int status = open_named(name, &store);

    if (status != 0)
        return status;
    if (ret_run_id)
        status = find_run(store, options->run, name, &run_id);
    if (status != 0) {
        mt_store_close(store);
        return status;
    }
    if (!options->no_wait)
        wait_for_writers(store, run_id);
    if (ret_run_id)
        *ret_run_id = run_id;
    *ret_store = store;
    return 0;
}

struct mt_query *ask(struct mt_store *store, const char *sql, int *ret_status)
{
    struct mt_query *query = NULL;
    int r = mt_query_create(store, sql, &query);

    if (r == 0)
        return query;
    *ret_status = finish_rows(store, r);
    return NULL;
}

int finish_rows(struct mt_store *store, int step)
{
    if (step >= 0)
        return STATUS_FINE;
    return complain(STATUS_INPUT, "the database cannot be read (%s)", mt_store_error(store));
}

/* ---- JSON ------------------------------------------------------------------------------------------------------------ */

static struct json_object *json_value(struct mt_query *query, int column)
{
    const char *text;
    size_t bytes;
    double real;

    switch (mt_query_kind(query, column)) {
    case MT_VALUE_NULL:
        return NULL;
    case MT_VALUE_INTEGER:
        return json_object_new_int64(mt_query_integer(query, column));
    case MT_VALUE_REAL:
        real = mt_query_real(query, column);
        return isfinite(real) ? json_object_new_double(real) : NULL;
    default:
        text = mt_query_text(query, column, &bytes);
        return mt_json_text(text ? text : "", bytes);
    }
}

int print_json(struct mt_store *store, struct mt_query *query)
{
    struct mt_json json;
    int r;

    mt_json_begin(&json, stdout);
    while ((r = mt_query_step(query)) == 1) {
        struct json_object *row = json_object_new_object();
        for (int c = 0; c < mt_query_columns(query); c++)
            json_object_object_add(row, mt_query_name(query, c), json_value(query, c));
        mt_json_row(&json, row);
    }
    mt_json_end(&json);
    r = finish_rows(store, r);
    mt_query_destroy(query);
    return r;
}

/* ---- above and below a report ------------------------------------------------------------------------------------------- */

int print_run_title(struct mt_store *store, int64_t run_id)
{
    static const char sql[] = "SELECT run_id, label, command, status, exit_status, wall_ns, peak_live_bytes, live_bytes, "
                              "live_blocks, allocated_blocks, processes FROM runs WHERE run_id = ?1";
    char peak[32], live[32], blocks[32], allocated[32], wall[32], text[2048];
    struct mt_query *q;
    const char *label, *command, *state;
    int status;

    q = ask(store, sql, &status);
    if (!q)
        return status;
    mt_query_bind_integer(q, 1, run_id);
    status = mt_query_step(q);
    if (status == 1) {
        label = mt_query_text(q, 1, NULL);
        command = mt_query_text(q, 2, NULL);
        state = mt_query_text(q, 3, NULL);
        snprintf(text, sizeof(text), "Run %lld%s%s%s: %s", (long long)run_id, label ? " (" : "", label ? label : "",
            label ? ")" : "", command ? command : "?");
        mt_text_print(stdout, text, mt_report_width(stdout), false);
        snprintf(text, sizeof(text), "%s, %s, peak %s, end %s in %s blocks, %s allocations", state,
            mt_query_kind(q, 5) == MT_VALUE_NULL ? "no end" : mt_format_duration(mt_query_integer(q, 5), wall, sizeof(wall)),
            mt_format_bytes(mt_query_integer(q, 6), peak, sizeof(peak)),
            mt_format_bytes(mt_query_integer(q, 7), live, sizeof(live)),
            mt_format_count(mt_query_integer(q, 8), blocks, sizeof(blocks)),
            mt_format_count(mt_query_integer(q, 9), allocated, sizeof(allocated)));
        if (mt_query_integer(q, 10) > 1)
            snprintf(text + strlen(text), sizeof(text) - strlen(text), ", %lld processes",
                (long long)mt_query_integer(q, 10));
        putchar('\n');
        mt_text_print(stdout, text, mt_report_width(stdout), false);
        putchar('\n');
    }
    mt_query_destroy(q);
    return finish_rows(store, status);
}

/* "Lost: 12: no ring could be had for a thread (ring-memory)": what was lost, and what is less than complete. */
static void print_reason(const char *reason, const char *count)
{
    static const struct {
        const char *name, *meaning;
        bool lost;
    } reasons[] = {
#define L true
#define D false
#define REASON_(symbol, name, kind, meaning) {name, meaning, kind},
        MT_LOSS_REASONS(REASON_)
#undef REASON_
#undef L
#undef D
    };
    char text[256];

    snprintf(text, sizeof(text), "Incomplete: %s: %s", count, reason); /* of a later version */
    for (size_t i = 0; i < sizeof(reasons) / sizeof(reasons[0]); i++) {
        if (strcmp(reasons[i].name, reason) == 0)
            snprintf(text, sizeof(text), "%s: %s: %s (%s)", reasons[i].lost ? "Lost" : "Incomplete", count,
                reasons[i].meaning, reason);
    }
    mt_text_print(stdout, text, mt_report_width(stdout), false);
    putchar('\n');
}

int print_loss(struct mt_store *store, int64_t run_id)
{
    static const char sql[] = "SELECT reason, sum(count) FROM loss WHERE run_id = ?1 AND count > 0 GROUP BY reason";
    struct mt_query *q;
    int status, r;
    bool first = true;
    char count[32];

    q = ask(store, sql, &status);
    if (!q)
        return status;
    mt_query_bind_integer(q, 1, run_id);
    while ((r = mt_query_step(q)) == 1) {
        if (first)
            putchar('\n');
        print_reason(mt_query_text(q, 0, NULL), mt_format_count(mt_query_integer(q, 1), count, sizeof(count)));
        first = false;
    }
    mt_query_destroy(q);
    return finish_rows(store, r);
}

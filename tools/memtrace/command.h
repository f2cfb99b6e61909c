/*
 * What the subcommands share. Each is in a file of its own: int command_<name>(int argc, char **argv), argv[0] its name, and
 * gives back an exit status.
 */
#ifndef MT_TOOL_COMMAND_H
#define MT_TOOL_COMMAND_H

#include <getopt.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/base.h"
#include "report/report.h"
#include "store/store.h"

enum {
    STATUS_FINE = 0,
    STATUS_FINDING = 1,
    STATUS_USAGE = 2,
    STATUS_INPUT = 3, /* cannot be read */
};

/* X(name, usage, summary) */
#define COMMANDS(X)                                                                                                    \
    X(run, "[-o DB] [--label TEXT] [--repeat N] [--python MODE] [--no-follow] -- COMMAND...", "trace a command")       \
    X(runs, "[-d DB] [--run N] [--json]", "list the runs in a database")                                                         \
    X(top, "[-d DB] [--run N] [--by ORDER] [-n ROWS] [--heap NAME] [--stacks] [--json]", "who allocated what")         \
    X(leaks, "[-d DB] [--run N] [-n ROWS] [--stacks] [--fail-on WHAT] [--suppress FILE] [--json]",                     \
        "what grows with every iteration, or was never freed")                                                         \
    X(diff, "[-d DB] [--by METRIC] [-n ROWS] [--json] A B", "which callsites changed from A to B")                    \
    X(gate, "[-d DB] --baseline A --candidate B [--metric METRIC] [-n ROWS] [--json]", "fail if B needs more than A")  \
    X(check, "[-d DB] [--run N] [--phase NAME] --max-peak SIZE ... [--json]", "fail if a run needs more than allowed") \
    X(spread, "[-d DB] [-n ROWS] [--json] [RUNS]", "how alike runs of the same thing are")                             \
    X(scale, "[-d DB] [--name NAME] [-n ROWS] [--json]", "how memory grows with the size of the work")                 \
    X(phases, "[-d DB] [--run N] [--json]", "memory by phase of the program")                                          \
    X(loop, "[-n N] [-o DB] -- COMMAND...", "run a program again and again, to see what grows")                          \
    X(mark, "[--pid PID] NAME", "name this moment in a running trace")                                                 \
    X(sql, "[-d DB] [--json | --csv | --table] QUERY", "ask the database anything")                                    \
    X(version, "[--json]", "print the version")

#define COMMAND_DECLARE_(name, usage, summary) int command_##name(int argc, char **argv);
COMMANDS(COMMAND_DECLARE_)
#undef COMMAND_DECLARE_

/* ---- common.c */

/* "memtrace top: ..." on stderr, one line. Returns status. */
int complain(int status, const char *format, ...) MT_PRINTF(2, 3);
/* The usage of a command with the options that `more` describes, on stdout. Returns STATUS_FINE. */
int print_help(const char *command, const char *more);
/* For an option that getopt_long refused. Returns STATUS_USAGE. */
int usage_hint(char **argv);
extern const char *command_name;

/* -d, --run, --json, --no-wait, --help: every reading command's. */
struct read_options {
    const char *database; /* NULL: $MEMTRACE_DB, else memtrace.db */
    const char *run;      /* number or label; NULL: the last */
    bool json, no_wait, help;
};
enum { OPTION_RUN = 1000, OPTION_JSON, OPTION_NO_WAIT, OPTION_FIRST_FREE };
#define READ_OPTIONS                                                                                                   \
    {"database", required_argument, NULL, 'd'}, {"run", required_argument, NULL, OPTION_RUN},                          \
        {"json", no_argument, NULL, OPTION_JSON}, {"no-wait", no_argument, NULL, OPTION_NO_WAIT},                      \
        {"help", no_argument, NULL, 'h'}
#define READ_HELP                                                                                                      \
    "  -d, --database DB   the database (default: $MEMTRACE_DB, else memtrace.db)\n"
#define RUN_HELP                                                                                                       \
    "      --run N         the run: its number or its label (default: the last)\n"
#define READ_HELP_END                                                                                                  \
    "      --json          machine-readable: bytes and nanoseconds\n"                                                  \
    "      --no-wait       do not wait for a run that is still being written\n"
/* Returns true if the option was one of them. */
bool read_option(struct read_options *options, int option, const char *argument);
/* Opens, waits for running runs, finds the run (ret_run_id NULL: none is needed). 0 or an exit status, having complained. */
int open_database(const struct read_options *options, struct mt_store **ret_store, int64_t *ret_run_id);
/* Prepares or complains; NULL on failure, *ret_status set. */
struct mt_query *ask(struct mt_store *store, const char *sql, int *ret_status);
int number_option(const char *text, int64_t low, int64_t high, int64_t *ret_number);
/* Prints every row as JSON and frees the query. Returns an exit status. */
int print_json(struct mt_store *store, struct mt_query *query);
int finish_rows(struct mt_store *store, int step);
/* "Run 3 (label): command", status and totals: above a report */
int print_run_title(struct mt_store *store, int64_t run_id);
int print_loss(struct mt_store *store, int64_t run_id);

/* ---- run.c */
extern int64_t last_run_id; /* of the last command_run(); 0: nothing was recorded */

/* ---- spawn.c: a reader, and the library for the target */
struct reader_process {
    int fd;  /* -1: none */
    int pid;
    int64_t run_id;
    char socket[64];
};
/* 0 or -errno of the reader: the database cannot be written. */
int reader_start(struct reader_process *reader, const char *database, const char *label, char **command);
/* Tells the end of the root and waits until the run is on disk. */
int reader_finish(struct reader_process *reader, int root_pid, int wait_status, bool *ret_waiting);
char *find_library(void); /* NULL: not found; the caller frees */
char *find_python_folder(void); /* of the module `memtrace` for Python; as find_library() */
char *quote_command(char **argv);

#endif

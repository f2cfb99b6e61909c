/*
 * memtrace loop: a program again and again, so that what grows from one time to the next stands out.
 *
 * A Python program (a console script, `python -m MODULE`, `python SCRIPT`) runs N times in one process, each time an iteration: its
 * interpreter is given python/memtrace/_loop.py in front of what it was to run. Everything else is N runs. Either way `memtrace run` does the rest.
 */
#include <ctype.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "command.h"

static const char help[] =
    "Runs COMMAND N times with every allocation traced, and gives back its exit status.\n"
    "A Python console script, `python -m MODULE` or `python SCRIPT` runs N times in one process, as\n"
    "iterations of one run; any other program is N runs.\n\n"
    "  -n, --times N       how often (default: 12)\n"
    "      --until-sure    where a callsite is then a leak or a suspect: a run of twice as many, and\n"
    "                      then of four times as many iterations (12, 24, 48), unless it clears up;\n"
    "                      what `memtrace leaks` says of the last run counts\n"
    "  -o, --output DB     the database; every run adds to it (default: $MEMTRACE_DB, else memtrace.db)\n"
    "      --label TEXT    a name for the run\n"
    "      --python MODE   auto, objects, frames or off\n"
    "      --processes     N processes, whatever the program is\n";

enum { TIMES_MAX = 1000000, LINE_BYTES = 512, WORDS_MAX = 8, STEPS = 3 };

struct loop {
    const char *times, *database, *label, *python;
    bool processes, until_sure;
    char **command;
    /* What takes its place. */
    char **words;
    size_t count;
};

static void add(struct loop *l, const char *word)
{
    l->words[l->count++] = (char *)word;
}

static bool is_python(const char *path)
{
    const char *slash = strrchr(path, '/'), *name = slash ? slash + 1 : path;

    if (strncmp(name, "pypy", 4) == 0 || strncmp(name, "python", 6) != 0)
        return false;
    for (name += 6; *name; name++)
        if (!isdigit((unsigned char)*name) && *name != '.' && *name != 't' && *name != 'd')
            return false;
    return true;
}

/* Where a command would be found; NULL: nowhere. The caller frees. */
static char *find_command(const char *name)
{
    const char *path = getenv("PATH");

    if (strchr(name, '/'))
        return strdup(name);
    while (path && *path) {
        size_t n = strcspn(path, ":");
        char *at;

        if (asprintf(&at, "%.*s/%s", (int)(n ? n : 1), n ? path : ".", name) < 0)
            return NULL;
        if (access(at, X_OK) == 0)
            return at;
        free(at);
        path += n + (path[n] == ':');
    }
    return NULL;
}

/* The words of a script's first line behind #!, where they start a Python: "/usr/bin/python3 -s", "/usr/bin/env python3". */
static size_t read_interpreter(const char *path, char *line, char **ret_words)
{
    FILE *f = fopen(path, "re");
    size_t count = 0;
    char *rest = NULL;

    if (!f)
        return 0;
    if (fgets(line, LINE_BYTES, f) && line[0] == '#' && line[1] == '!') {
        for (char *w = strtok_r(line + 2, " \t\r\n", &rest); w && count < WORDS_MAX; w = strtok_r(NULL, " \t\r\n", &rest))
            ret_words[count++] = w;
    }
    fclose(f);
    if (count > 1 && strcmp(ret_words[0], "/usr/bin/env") == 0 && is_python(ret_words[1])) {
        memmove(ret_words, ret_words + 1, (count - 1) * sizeof(*ret_words));
        return count - 1;
    }
    return count > 0 && is_python(ret_words[0]) ? count : 0;
}

/* How many words of `python ...` are options of the interpreter's own; 0: what follows is no module or script. */
static size_t skip_options(char **command)
{
    size_t at = 1;

    for (; command[at] && command[at][0] == '-' && command[at][1]; at++) {
        const char *o = command[at];

        if (strcmp(o, "-m") == 0)
            return command[at + 1] ? at : 0;
        if (o[1] == 'c' || o[1] == 'h' || o[1] == 'V' || o[1] == '-' || o[1] == 'm')
            return 0;
        if ((o[1] == 'X' || o[1] == 'W') && !o[2] && command[at + 1])
            at++;
    }
    return command[at] && command[at][0] != '-' ? at : 0;
}

/* Makes l->words run the command N times in one process. False: it is not a Python program. */
static bool in_one_process(struct loop *l, const char *runner, char *line, char **path, size_t *ret_times_at)
{
    char *shebang[WORDS_MAX];
    size_t options = 0, count = 0;

    *path = find_command(l->command[0]);
    if (!*path)
        return false;
    if (is_python(l->command[0])) {
        options = skip_options(l->command);
        if (!options)
            return false;
        for (size_t i = 0; i < options; i++)
            add(l, l->command[i]);
    } else {
        count = read_interpreter(*path, line, shebang);
        if (!count)
            return false;
        for (size_t i = 0; i < count; i++)
            add(l, shebang[i]);
    }
    add(l, runner);
    *ret_times_at = l->count;
    add(l, l->times);
    if (count) {
        add(l, *path);
        options = 1;
    }
    for (char **word = l->command + options; *word; word++)
        add(l, *word);
    return true;
}

static int parse(int argc, char **argv, struct loop *l, bool *ret_help)
{
    enum { LABEL = OPTION_FIRST_FREE, PYTHON, PROCESSES, UNTIL_SURE };
    static const struct option options[] = {{"times", required_argument, NULL, 'n'}, {"output", required_argument, NULL, 'o'},
        {"label", required_argument, NULL, LABEL}, {"python", required_argument, NULL, PYTHON},
        {"processes", no_argument, NULL, PROCESSES}, {"until-sure", no_argument, NULL, UNTIL_SURE}, {"help", no_argument, NULL, 'h'}, {0}};
    int64_t number;
    int c;

    while ((c = getopt_long(argc, argv, "+n:o:d:h", options, NULL)) != -1) {
        switch (c) {
        case 'n':
            if (number_option(optarg, 1, TIMES_MAX, &number) < 0)
                return complain(STATUS_USAGE, "-n %s: not a number from 1", optarg);
            l->times = optarg;
            break;
        case 'o':
        case 'd':
            l->database = optarg;
            break;
        case LABEL:
            l->label = optarg;
            break;
        case PYTHON:
            l->python = optarg;
            break;
        case PROCESSES:
            l->processes = true;
            break;
        case UNTIL_SURE:
            l->until_sure = true;
            break;
        case 'h':
            *ret_help = true;
            return 0;
        default:
            return usage_hint(argv);
        }
    }
    l->command = argv + optind;
    if (l->processes && l->until_sure)
        return complain(STATUS_USAGE, "--until-sure looks at iterations of one process, and --processes has none");
    return l->command[0] ? 0 : complain(STATUS_USAGE, "no command to run: memtrace loop -n N -- COMMAND...");
}

static void add_option(struct loop *l, const char *option, const char *value)
{
    if (value) {
        add(l, option);
        add(l, value);
    }
}

/* How many callsites of the last run are not cleared up. -1: not to be had, which was said. */
static int64_t open_questions(const struct loop *l)
{
    const struct read_options read = {.database = l->database};
    struct mt_store *store;
    struct mt_query *query;
    int64_t count = -1;
    int status;

    if (last_run_id == 0 || open_database(&read, &store, NULL) != 0)
        return -1;
    query = ask(store, "SELECT count(*) FROM leaks WHERE run_id = ?1 AND verdict IN ('leak', 'suspect')", &status);
    if (query) {
        mt_query_bind_integer(query, 1, last_run_id);
        if (mt_query_step(query) == 1)
            count = mt_query_integer(query, 0);
        mt_query_destroy(query);
    }
    mt_store_close(store);
    return count;
}

/* Once, or until it is sure: a longer run starts over, since what a longer one needs to know is how the first iterations went on. */
static int run_loop(struct loop *l, size_t times_at)
{
    int64_t times, open = 0;
    char longer[24];
    int status;

    if (number_option(l->times, 1, TIMES_MAX, &times) < 0)
        return complain(STATUS_USAGE, "-n %s: not a number from 1", l->times);
    for (int i = 0; i < STEPS; i++) {
        optind = 0;
        status = command_run((int)l->count, l->words);
        if (!l->until_sure || status != 0 || i + 1 == STEPS)
            break;
        open = open_questions(l);
        if (open <= 0)
            break;
        times *= 2;
        snprintf(longer, sizeof(longer), "%lld", (long long)times);
        l->words[times_at] = longer;
        if (isatty(STDERR_FILENO))
            complain(0, "%lld callsite%s may leak: once more, %s times", (long long)open, open == 1 ? "" : "s", longer);
    }
    return status;
}

int command_loop(int argc, char **argv)
{
    struct loop l = {.times = "12"};
    char line[LINE_BYTES], *folder, *runner = NULL, *path = NULL;
    bool show_help = false, together = false;
    size_t first, times_at = 0;
    int status = parse(argc, argv, &l, &show_help);

    if (status != 0)
        return status;
    if (show_help)
        return print_help("loop", help);
    l.words = calloc((size_t)argc + WORDS_MAX + 16, sizeof(*l.words));
    folder = find_python_folder();
    if (!l.words || (folder && asprintf(&runner, "%s/memtrace/_loop.py", folder) < 0))
        return complain(STATUS_INPUT, "out of memory");
    add(&l, "run");
    add_option(&l, "-o", l.database);
    add_option(&l, "--label", l.label);
    add_option(&l, "--python", l.python);
    first = l.count;
    if (!l.processes && runner) {
        add(&l, "--");
        together = in_one_process(&l, runner, line, &path, &times_at);
    }
    if (!together && l.until_sure)
        return complain(STATUS_USAGE, "--until-sure: %s is not a Python program that could run again in one process", l.command[0]);
    if (!together) {
        l.count = first;
        add_option(&l, "--repeat", l.times);
        add(&l, "--");
        for (char **word = l.command; *word; word++)
            add(&l, *word);
    }
    l.words[l.count] = NULL;
    status = run_loop(&l, times_at);
    free(l.words);
    free(folder);
    free(runner);
    free(path);
    return status;
}

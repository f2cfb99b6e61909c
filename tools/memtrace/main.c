/*
 * memtrace: the command line. Also the reader: the library and `memtrace run` start this program with --reader FD.
 */
#include <langinfo.h>
#include <locale.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "command.h"
#include "reader/reader.h"

static const struct command {
    const char *name, *usage, *summary;
    int (*run)(int argc, char **argv);
} commands[] = {
#define COMMAND_ROW_(name, usage, summary) {#name, usage, summary, command_##name},
    COMMANDS(COMMAND_ROW_)
#undef COMMAND_ROW_
};

enum { COMMAND_COUNT = sizeof(commands) / sizeof(commands[0]) };

static const char *const later[] = {"report", "export", "live"};

static int print_usage(FILE *to)
{
    fprintf(to, "Usage: memtrace COMMAND [OPTIONS]\n\n"
                "A heap profiler and leak hunter. Trace a program with `memtrace run -- PROGRAM` or with\n"
                "`LD_PRELOAD=libmemtrace.so PROGRAM`, then ask who allocated what.\n\n");
    for (size_t i = 0; i < COMMAND_COUNT; i++)
        fprintf(to, "  %-9s %s\n", commands[i].name, commands[i].summary);
    fprintf(to, "\n`memtrace COMMAND --help` tells more.\n");
    return to == stdout ? STATUS_FINE : STATUS_USAGE;
}

int print_help(const char *name, const char *more)
{
    for (size_t i = 0; i < COMMAND_COUNT; i++) {
        if (strcmp(commands[i].name, name) == 0)
            printf("Usage: memtrace %s %s\n\n%s", name, commands[i].usage, more);
    }
    return STATUS_FINE;
}

static int reader(const char *number)
{
    struct mt_reader_options options = {0};
    char *end;
    long fd = strtol(number, &end, 10);

    if (*number == '\0' || *end || fd < 0 || fd > 1 << 20)
        return STATUS_USAGE;
    options.fd = (int)fd;
    return mt_reader_main(&options);
}

static const struct command *find(const char *name)
{
    for (size_t i = 0; i < COMMAND_COUNT; i++) {
        if (strcmp(commands[i].name, name) == 0)
            return &commands[i];
    }
    return NULL;
}

static int dispatch(int argc, char **argv)
{
    const struct command *command = find(argv[0]);

    command_name = argv[0];
    if (command) {
        optind = 0; /* getopt starts afresh, behind argv[0] */
        opterr = 0; /* and leaves the complaints to us */
        return command->run(argc, argv);
    }
    for (size_t i = 0; i < sizeof(later) / sizeof(later[0]); i++) {
        if (strcmp(later[i], argv[0]) == 0) {
            command_name = "";
            return complain(STATUS_USAGE, "`%s` is not part of this version; `memtrace --help` lists what is", argv[0]);
        }
    }
    command_name = "";
    return complain(STATUS_USAGE, "no command `%s`; `memtrace --help` lists them", argv[0]);
}

int main(int argc, char **argv)
{
    if (argc == 3 && strcmp(argv[1], "--reader") == 0)
        return reader(argv[2]);
    setlocale(LC_ALL, "");
    setlocale(LC_NUMERIC, "C");
    mt_report_set_ascii(strcmp(nl_langinfo(CODESET), "UTF-8") != 0);
    if (strcmp(nl_langinfo(CODESET), "UTF-8") != 0)
        setlocale(LC_CTYPE, "C.UTF-8"); /* names are UTF-8 whatever the terminal */
    if (argc < 2)
        return print_usage(stderr);
    if (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0)
        return print_usage(stdout);
    if (strcmp(argv[1], "help") == 0) {
        char *arguments[] = {argc > 2 ? argv[2] : NULL, (char[]){"--help"}, NULL};
        return argc > 2 ? dispatch(2, arguments) : print_usage(stdout);
    }
    if (strcmp(argv[1], "--version") == 0)
        return command_version(1, (char *[]){argv[1], NULL});
    return dispatch(argc - 1, argv + 1);
}

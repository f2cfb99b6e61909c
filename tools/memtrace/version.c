/*
 * memtrace version
 */
#include <stdio.h>

#include "command.h"
#include "tools/memtrace/config.h"

int command_version(int argc, char **argv)
{
    static const struct option options[] = {{"json", no_argument, NULL, OPTION_JSON}, {"help", no_argument, NULL, 'h'}, {0}};
    bool json = false;
    int c;

    while (argc > 1 && (c = getopt_long(argc, argv, "h", options, NULL)) != -1) {
        if (c == 'h')
            return print_help("version", "Prints the version of memtrace.\n");
        if (c != OPTION_JSON)
            return usage_hint(argv);
        json = true;
    }
    printf(json ? "{\"version\": \"%s\"}\n" : "memtrace %s\n", MT_VERSION);
    return STATUS_FINE;
}

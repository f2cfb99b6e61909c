/*
 * Names that both sides, the documentation's checks and the tests share.
 */
#ifndef MT_WIRE_NAMES_H
#define MT_WIRE_NAMES_H

/*
 * X(symbol, name, meaning): the environment variables. SOCKET is internal: the library adds it
 * to the environment of the programs that the target starts.
 */
#define MT_ENVIRONMENT(X)                                                                                              \
    X(DB, "MEMTRACE_DB", "path of the database (default ./memtrace.db)")                                               \
    X(LABEL, "MEMTRACE_LABEL", "label of the run")                                                                     \
    X(PYTHON, "MEMTRACE_PYTHON", "auto, objects, frames or off")                                                       \
    X(INTERNALS, "MEMTRACE_INTERNALS", "1: Python stacks keep the interpreter's own functions")                        \
    X(FOLLOW, "MEMTRACE_FOLLOW", "0: do not trace child processes")                                                    \
    X(LOG, "MEMTRACE_LOG", "1: say on stderr what went wrong, a line each")                                            \
    X(VERIFY, "MEMTRACE_VERIFY", "1: unwind each stack by libunwind too and count differences")                        \
    X(SITES, "MEMTRACE_SITES", "all, or how many callsites of a process are kept with their callers (default 1500)")   \
    X(READER, "MEMTRACE_READER", "path of the reader (default: next to the library, then on PATH)")                    \
    X(SOCKET, "MEMTRACE_SOCKET", "internal: the running reader's socket")

#define MT_ENV_SYMBOL_(symbol, name, meaning) static const char *const MT_ENV_##symbol __attribute__((unused)) = name;
MT_ENVIRONMENT(MT_ENV_SYMBOL_)
#undef MT_ENV_SYMBOL_

/*
 * X(symbol, name, meaning): every way in which an event can go missing or a stack be cut. The
 * names are the values of the column `reason` of the view `loss`. Reasons marked L lose
 * events (they make a run lossy); reasons marked D degrade an event without losing it.
 */
#define MT_LOSS_REASONS(X)                                                                                             \
    X(READER_GONE, "reader-gone", L, "the reader died or stopped taking events")                                       \
    X(RING_MEMORY, "ring-memory", L, "no ring could be had for a thread")                                              \
    X(DECODE, "decode", L, "a record that the reader could not understand")                                            \
    X(NESTED, "nested", L, "an event inside the library's own work")                                                   \
    X(ATTACH, "attach", L, "a process that could not be taken in (its segment found no room in the reader)")           \
    X(DATABASE, "database", L, "the database could not be written")                                                    \
    X(SANDBOX, "sandbox", L, "the program's system call filter left no room for recording")                            \
    X(STACK_MEMORY, "stack-memory", D, "no memory to intern a stack: the event has an empty stack")                    \
    X(STACK_RULE, "stack-rule", D, "a stack cut where no unwind rule could be found")                                  \
    X(STACK_READ, "stack-read", D, "a stack cut where stack memory could not be read")                                 \
    X(STACK_VERIFY, "stack-verify", D, "a stack that differs from libunwind's (MEMTRACE_VERIFY=1)")                    \
    X(UNWINDER, "unwinder", D, "libunwind could not be loaded: stacks are one frame deep")                             \
    X(PYTHON_VERSION, "python-version", D, "a Python of a version that is not known: native stacks only")              \
    X(PYTHON_CODE, "python-code", D, "a Python frame that could not be read or kept")                                  \
    X(PYTHON_OBJECTS, "python-objects", D, "Python's object allocators could not be wrapped: frames only")

enum mt_loss_reason {
#define MT_LOSS_SYMBOL_(symbol, name, kind, meaning) MT_LOSS_##symbol,
    MT_LOSS_REASONS(MT_LOSS_SYMBOL_)
#undef MT_LOSS_SYMBOL_
        MT_LOSS_COUNT
};

#endif

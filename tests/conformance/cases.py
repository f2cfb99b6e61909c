"""The programs and their right answers, for any profiler that can say three things about a run: how the program ended and
what it printed, how many blocks a function allocated, and how many bytes of a function were never freed."""

import os
import signal

import harness


def here(name):
    return os.path.join(os.environ["MT_CONFORMANCE"], name)


def ends_as_if_untraced(run, plain):
    return [] if (run.status, run.out) == (plain.status, plain.out) else [
        f"status {run.status} and {len(run.out)} bytes of output, not {plain.status} and {len(plain.out)}"]


def wanted(run, allocated=None, leaked=None, stacks=None):
    wrong = []
    for name, blocks in (allocated or {}).items():
        found = run.allocated_blocks(name)
        if found != blocks:
            wrong.append(f"{name}: {found} blocks allocated, not {blocks}")
    for name, size in (leaked or {}).items():
        found = run.leaked_bytes(name)
        if found != size:
            wrong.append(f"{name}: {found} bytes left, not {size}")
    for name, through in (stacks or {}).items():
        missing = [f for f in through if not run.reaches(name, f)]
        if missing:
            wrong.append(f"{name}: no stack reaches {', '.join(missing)}")
    return wrong


# name, what goes wrong elsewhere, command, status, what must hold
CASES = [
    ("realloc(p, 0) frees", [here("realloc_zero")], 0,
     dict(allocated={"to_nothing": 10}, leaked={"to_nothing": 0})),
    ("realloc race leaves no phantom leaks", [here("realloc_race")], 0,
     dict(allocated={"race": 1800000}, leaked={"race": 0})),
    ("failed realloc is not a free", [here("failed_realloc")], 0,
     dict(allocated={"survive": 10}, leaked={"survive": 1000})),
    ("memalign, valloc, pvalloc, reallocarray", [here("rare_functions")], 0,
     dict(allocated={"by_memalign": 5, "by_valloc": 5, "by_pvalloc": 5, "by_reallocarray": 5},
          leaked={"by_memalign": 500, "by_valloc": 1000, "by_pvalloc": 20480, "by_reallocarray": 500})),
    ("deep stacks keep the root", [here("deep_stack")], 0,
     dict(allocated={"descend": 4}, stacks={"descend": ["caller_one", "caller_two", "main"]})),
    ("exec'd children are traced", [harness.target("processes"), "vfork"], 0, dict(allocated={"leaf": 8})),
    ("forked children are traced", [harness.target("processes"), "fork"], 0, dict(allocated={"leaf": 30})),
    ("fork in a threaded program does not hang", [harness.target("processes"), "fork-threads"], 0,
     dict(allocated={"leaf": 500})),
    ("a daemon is traced", [here("daemon")], 0, dict(allocated={"in_daemon": 100})),
    ("C++ exceptions", [harness.target("cxx")], 0, dict(allocated={"hold_objects": 20, "hold_aligned": 4})),
    ("switched stacks", [here("coroutines")], 0,
     dict(allocated={"step_and_switch": 400}, stacks={"step_and_switch": ["coroutine"]})),
    ("dlclose leaves no stale stacks",
     [harness.target("reload"), harness.target("plugin_one.so"), harness.target("plugin_two.so")], 0,
     dict(allocated={"hold": 87}, stacks={"hold": ["enter_one", "enter_two", "visit", "main"]})),
    ("threads that exit lose nothing", [harness.target("short_threads")], 0, dict(allocated={"once": 996})),
    ("_exit loses nothing", [harness.target("processes"), "_exit"], 9, dict(allocated={"leaf": 1000})),
    ("abort loses nothing", [harness.target("processes"), "abort"], 128 + signal.SIGABRT, dict(allocated={"leaf": 1000})),
    ("SIGKILL loses nothing", [harness.target("processes"), "kill"], 128 + signal.SIGKILL, dict(allocated={"leaf": 1000})),
    ("a crash loses nothing", [harness.target("processes"), "segv"], 128 + signal.SIGSEGV, dict(allocated={"leaf": 1000})),
    ("mmap64 and mremap are counted, memory untouched", [here("mapping_calls")], 0, dict(leaked={"by_mremap": 64 * 4096})),
    ("the program's signals are its own", [here("user_signals")], 0, {}),
    ("sizes and distances of blocks unchanged", [here("heap_shape")], 0, {}),
    ("no thread, descriptor, child or handler added", [here("footprint")], 0, {}),
    ("exec with a bare environment", [here("bare_exec")], 0, {}),
    ("jemalloc's own API", [harness.target("jemalloc")], 0,
     dict(allocated={"hold_mallocx": 5, "drop": 40}, leaked={"hold_mallocx": 500, "drop": 0})),
]


def judge(run, plain, status, must):
    """What is wrong, as a list of sentences."""
    wrong = ends_as_if_untraced(run, plain)
    if run.status != status:
        wrong.append(f"status {run.status}, not {status}")
    return wrong + wanted(run, **must)

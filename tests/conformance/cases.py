"""The programs and their right answers, for any profiler that can say three things about a run: how the program ended and
what it printed, how many blocks a function allocated, and how many bytes of a function were never freed."""

import contextlib
import os
import signal
import subprocess
import threading
import time

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


@contextlib.contextmanager
def full_disk(folder):
    """A small file system with no room left, for what the profiler writes. None: not possible here."""
    disk = f"{folder}/disk"
    os.makedirs(disk)
    if os.geteuid() != 0 or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", disk], capture_output=True).returncode:
        yield None
        return
    try:
        with open(f"{disk}/filler", "wb", buffering=0) as f, contextlib.suppress(OSError):
            while True:
                f.write(bytes(4096))
        yield disk
    finally:
        deadline = time.monotonic() + 10
        while subprocess.run(["umount", disk], capture_output=True).returncode and time.monotonic() < deadline:
            time.sleep(0.1)


@contextlib.contextmanager
def halting(program, mark):
    """Stops, again and again and for a moment, whatever runs the program and has the mark in its environment. Gives the pids."""
    done = threading.Event()
    halts = []

    def find():
        for pid in filter(str.isdigit, os.listdir("/proc")):
            with contextlib.suppress(OSError):
                if os.path.basename(os.readlink(f"/proc/{pid}/exe")) == program:
                    with open(f"/proc/{pid}/environ", "rb") as f:
                        if mark in f.read():
                            yield int(pid)

    def halt():
        while not done.wait(0.02):
            for pid in find():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGSTOP)
                    halts.append(pid)
                    time.sleep(0.3)
                    os.kill(pid, signal.SIGCONT)

    thread = threading.Thread(target=halt)
    thread.start()
    try:
        yield halts
    finally:
        done.set()
        thread.join()


class Impossible(Exception):
    """This machine cannot make what a case is about."""


@contextlib.contextmanager
def prepared(must, folder, reader):
    """What a case needs around the program: gives the folder for the profiler's files, and the environment that the program and the
    profiler must have. reader: the name of the profiler's second process."""
    mark = f"CONFORMANCE_FOLDER={folder}"
    with contextlib.ExitStack() as around:
        if must.get("disk") == "full":
            folder = around.enter_context(full_disk(folder))
            if not folder:
                raise Impossible("no mounting here")
        halts = around.enter_context(halting(reader, mark.encode())) if must.get("reader") == "halts" else None
        yield folder, dict([mark.split("=", 1)])
    if halts is not None and not halts:
        raise AssertionError("its reader was never met")


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
    ("a full disk harms nobody", [here("busy")], 0, dict(disk="full")),
    ("a reader that falls behind loses nothing", [harness.target("threads")], 0,
     dict(reader="halts", allocated={"produce": 160000, "swap": 400000, "regrow": 400000},
          leaked={"produce": 0, "swap": 0, "regrow": 0})),
]


def judge(run, plain, status, must):
    """What is wrong, as a list of sentences. `disk` and `reader` in `must` are for whoever runs the program."""
    wrong = ends_as_if_untraced(run, plain)
    must = {k: v for k, v in must.items() if k not in ("disk", "reader")}
    if run.status != status:
        wrong.append(f"status {run.status}, not {status}")
    return wrong + wanted(run, **must)

#!/usr/bin/env python3
"""What tracing costs: the same work plain, under hooks that only call through, under memtrace and under heaptrack, in turn.

usage: tests/bench/bench.py [--build DIR] [--runs N] [--works NAME,...] [--json FILE] [--plot FILE.svg] [--quick] [--no-micro]

Works of Python's have memray and tracemalloc as rivals, too, in the modes that record what memtrace records there or less: where the Python that runs
them can import memray, or finds it in the folder that MEMTRACE_BENCH_PYTHONPATH names (pip install --target FOLDER memray). BENGAL names Bengal's command,
where it is not on PATH.

Each round runs every mode once, one after the other, so that a machine that gets slower does so for all of them; ratios are taken round by
round, and the median of the ratios is printed. Under memtrace a program runs as README says, by LD_PRELOAD alone.

wall       until the program has ended: what its user waits, the commit at the exit included
CPU        user + system of all processes, the reader and heaptrack's helpers included, waited for until the last of them is gone
target     CPU time of the program alone, hooks included
peak       sum of proportional set sizes, sampled in one extra round: together, the target's, the tools'
ns/event   CPU time that the tool adds, for each allocation and each free

Ends with the figures that memtrace is to reach, as `figure: measured (wanted)`. Standard library only. The micro-benchmarks (micro.py)
run last.
"""

import argparse
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [HERE, os.path.join(HERE, "..", "harness")]
import figures  # noqa: E402
import micro  # noqa: E402
import tree  # noqa: E402
import work  # noqa: E402


class Work:
    """make(folder) gives the command; drivers(folder) the commands that a server needs beside it; rivals: modes of its own (RIVALS)."""

    def __init__(self, make, environment=None, drivers=lambda folder: (), rivals=()):
        self.make, self.environment, self.drivers, self.rivals = make, environment or {}, drivers, rivals


# Rivals for Python: memray's options, None for what is no memray.
RIVALS = {"memray": [], "memray-native": ["--native"], "memray-objects": ["--native", "--trace-python-allocators"], "tracemalloc": None}


def redis(requests):
    def server(folder):
        return [work.need("redis-server"), "--port", "0", "--unixsocket", f"{folder}/redis.sock", "--save", ""]

    def drivers(folder):
        client, control = work.need("redis-benchmark"), work.need("redis-cli")
        there = [control, "-s", f"{folder}/redis.sock"]
        return (["sh", "-c", f"until {' '.join(there)} ping >/dev/null 2>&1; do sleep 0.02; done"],
                [client, "-s", f"{folder}/redis.sock", "-q", "-n", str(requests), "-t", "set,get,lpush,lpop,hset"],
                [*there, "shutdown", "nosave"])

    return Work(server, drivers=drivers)


def works(build, quick):
    churn, scale = f"{build}/tests/bench/churn", 10 if quick else 1
    seed, malloc = {"PYTHONHASHSEED": "0"}, {"PYTHONMALLOC": "malloc"}
    table = {
        "sqlite3": Work(lambda f: work.sqlite(f, 600000 // scale)),
        "jq": Work(lambda f: work.jq(f, 200000 // scale)),
        "cc1": Work(lambda f: work.cc1(f, 400 // scale)),
        # What heaptrack records, calls of malloc with native stacks; then with Python's frames, then with every object.
        "sphinx": Work(lambda f: work.sphinx(f, 60 // scale), {**seed, "MEMTRACE_PYTHON": "off"}),
        "sphinx-malloc": Work(lambda f: work.sphinx(f, 60 // scale), {**seed, **malloc, "MEMTRACE_PYTHON": "off"}),
        "sphinx-frames": Work(lambda f: work.sphinx(f, 60 // scale), {**seed, "MEMTRACE_PYTHON": "frames"},
                              rivals=("memray", "memray-native")),
        "sphinx-objects": Work(lambda f: work.sphinx(f, 60 // scale), {**seed, "MEMTRACE_PYTHON": "objects"},
                               rivals=("tracemalloc", "memray-objects")),
        "bengal-frames": Work(lambda f: work.bengal(f, 25 // scale), {**seed, "BENGAL_ALLOW_GIL": "1", "MEMTRACE_PYTHON": "frames"},
                              rivals=("memray", "memray-native")),
        "bengal-objects": Work(lambda f: work.bengal(f, 25 // scale), {**seed, "BENGAL_ALLOW_GIL": "1", "MEMTRACE_PYTHON": "objects"},
                               rivals=("tracemalloc", "memray-objects")),
        "redis": redis(50000 // scale),
    }
    for threads in (1, 2, 4, 8):
        for kind in ("local", "cross"):
            table[f"churn-{threads}-{kind}"] = Work(lambda f, t=threads, k=kind: [churn, str(t), str(4000000 // scale), "20", k])
    for depth in (5, 30, 100, 400):
        table[f"depth-{depth}"] = Work(lambda f, d=depth: [churn, "1", str(2000000 // scale), str(d), "local"])
    for exponent in (6, 7, 8):
        table[f"long-1e{exponent}"] = Work(lambda f, n=10**exponent: [churn, "1", str(n // scale), "20", "grow"])
    return table


class Modes:
    def __init__(self, build, folder):
        self.build, self.folder = build, folder
        self.names = ["plain", "null", "memtrace"] + (["heaptrack"] if shutil.which("heaptrack") else [])
        self.database = f"{folder}/out/bench.db"
        more = os.environ.get("MEMTRACE_BENCH_PYTHONPATH")
        self.memray_environment = {"PYTHONPATH": more} if more else {}

    def of(self, job, program):
        """heaptrack only where it records the same: it knows nothing of Python. program: the Python, where there are rivals."""
        names = [n for n in self.names if not (job.rivals and n == "heaptrack")]
        has_memray = job.rivals and subprocess.run(
            [program, "-c", "import memray"], capture_output=True,
            env={**tree.clean_environment(), **self.memray_environment}).returncode == 0
        return names + [r for r in job.rivals if RIVALS[r] is None or has_memray]

    def clean(self):
        shutil.rmtree(f"{self.folder}/out", ignore_errors=True)
        os.mkdir(f"{self.folder}/out")

    def arguments(self, mode, command):
        """argv, environment, whether the program is our own child."""
        if mode == "null":
            return command, {"LD_PRELOAD": f"{self.build}/tests/bench/libnull.so"}, True
        if mode == "memtrace":
            return command, {"LD_PRELOAD": f"{self.build}/libmemtrace.so", "MEMTRACE_DB": self.database}, True
        if mode == "tracemalloc":
            return command, {"PYTHONTRACEMALLOC": "1"}, True
        if mode in RIVALS:  # command: python -m module ...
            return ([command[0], "-m", "memray", "run", "-q", "-f", *RIVALS[mode], "-o", f"{self.folder}/out/bench.memray", *command[1:]],
                    self.memray_environment, True)
        if mode == "heaptrack":
            return ["heaptrack", "-o", f"{self.folder}/out/bench", *command], {}, False
        return command, {}, True

    def output_bytes(self):
        return sum(e.stat().st_size for e in os.scandir(f"{self.folder}/out"))


def facts_of(database):
    c = sqlite3.connect(f"file:{database}?mode=ro", uri=True, timeout=30)
    events, lost, status = c.execute(
        "SELECT SUM(allocated_blocks) + SUM(freed_blocks), SUM(lost_events), MAX(status) FROM runs").fetchone()
    waits = c.execute("SELECT SUM(thread_waits) FROM processes").fetchone()[0]
    c.close()
    return {"events": events, "lost": lost, "waits": waits, "run_status": status}


def measure(name, job, modes, processes, runs):
    names = modes.of(job, job.make(modes.folder)[0])
    results, facts = {m: [] for m in names}, {}
    for i in range(runs + 1):  # the last round samples memory and does not count for time
        for mode in names:
            modes.clean()
            command = job.make(modes.folder)
            argv, environment, direct = modes.arguments(mode, command)
            r = processes.run(argv, {**job.environment, **environment}, shutil.which(command[0]), job.drivers(modes.folder), direct,
                              memory=i == runs)
            r["output_bytes"] = modes.output_bytes()
            if mode == "memtrace":
                now = facts_of(modes.database)
                facts = {**now, "lost": now["lost"] + facts.get("lost", 0), "waits": now["waits"] + facts.get("waits", 0)}
            results[mode].append(r)
    return figures.summarize(name, results, facts, runs)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, usage=argparse.SUPPRESS)
    parser.add_argument("--build", default="build", help="build folder (default: build)")
    parser.add_argument("--runs", type=int, default=5, help="rounds (default: 5), and one more for memory")
    parser.add_argument("--works", help="names, or beginnings of names, separated by commas")
    parser.add_argument("--json", help="write all figures here; `-`: to standard output, and nothing else")
    parser.add_argument("--plot", help="write a plot (SVG) here")
    parser.add_argument("--quick", action="store_true", help="a tenth of each work")
    parser.add_argument("--no-micro", action="store_true", help="leave out the micro-benchmarks")
    options = parser.parse_args()
    build, out = os.path.abspath(options.build), sys.stdout
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    if options.json == "-":
        sys.stdout = sys.stderr
    rows, load = [], os.getloadavg()
    print(f"{os.cpu_count()} processors, load {load[0]:.1f} at the start; {options.runs} rounds")
    with tempfile.TemporaryDirectory(prefix="memtrace-bench-") as folder:
        processes, modes = tree.Tree(), Modes(build, folder)
        for name, job in works(build, options.quick).items():
            if options.works and not any(name.startswith(w) for w in options.works.split(",")):
                continue
            try:
                rows.append(measure(name, job, modes, processes, options.runs))
            except work.Missing as e:
                print(f"\n{name}: skipped, {e}")
                continue
            figures.show(rows[-1])
    small = {} if options.no_micro else micro.run_all(build, options.quick)
    print(f"\nload {os.getloadavg()[0]:.1f} at the end")
    acceptance = figures.acceptance(rows, small)
    for line in acceptance:
        print(line["figure"] + ": " + line["measured"] + f" ({line['wanted']})")
    everything = {"load": [load[0], os.getloadavg()[0]], "runs": options.runs, "quick": options.quick, "works": rows, "micro": small,
                  "acceptance": acceptance}
    if options.json == "-":
        json.dump(everything, out, indent=1)
        out.write("\n")
    elif options.json:
        with open(options.json, "w") as f:
            json.dump(everything, f, indent=1)
    if options.plot and rows:
        figures.plot(rows, options.plot)


if __name__ == "__main__":
    main()

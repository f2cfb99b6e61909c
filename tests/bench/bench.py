#!/usr/bin/env python3
"""What tracing costs: the same work plain, under hooks that only call through, under memtrace and under heaptrack, in turn.

usage: tests/bench/bench.py [--build DIR] [--runs N] [--works NAME,...] [--json FILE] [--plot FILE.svg] [--quick]

Each round runs every mode once, one after the other, so that a machine that gets slower does so for all of them; ratios are taken round by
round, and the median of the ratios is printed. CPU time is user + system of the whole tree, the reader included (orphans are
adopted and waited for). Peak memory is the sum of the proportional set sizes of the tree, sampled in one extra run. Standard library only.
"""

import argparse
import ctypes
import json
import math
import os
import shutil
import signal
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import threading
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, "..", "harness"))
import work  # noqa: E402

PR_SET_CHILD_SUBREAPER = 36


def redis_server(folder, prefix):
    """A server under the tool, driven over the loopback by the benchmark client (whose CPU time is part of the figure)."""
    server, client, control = work.need("redis-server"), work.need("redis-benchmark"), work.need("redis-cli")
    socket = f"{folder}/redis.sock"
    command = " ".join(f"'{w}'" for w in prefix + [server])
    return ["sh", "-c", f"""
{command} --port 0 --unixsocket {socket} --save "" >/dev/null & server=$!
until {control} -s {socket} ping >/dev/null 2>&1; do sleep 0.02; done
{client} -s {socket} -q -n 50000 -t set,get,lpush,lpop,hset >/dev/null
{control} -s {socket} shutdown nosave
wait $server"""]


def plain_command(make):
    return lambda folder, prefix: prefix + make(folder)


def works(build, quick):
    churn, scale = f"{build}/tests/bench/churn", 10 if quick else 1
    table = {
        "sqlite3": (plain_command(lambda f: work.sqlite(f, 600000 // scale)), {}),
        "jq": (plain_command(lambda f: work.jq(f, 200000 // scale)), {}),
        "cc1": (plain_command(lambda f: work.cc1(f, 400 // scale)), {}),
        "sphinx": (plain_command(lambda f: work.sphinx(f, 60 // scale)), {"PYTHONHASHSEED": "0"}),
        "sphinx-malloc": (plain_command(lambda f: work.sphinx(f, 60 // scale)), {"PYTHONHASHSEED": "0", "PYTHONMALLOC": "malloc"}),
        "redis": (redis_server, {}),
    }
    for threads in (1, 2, 4, 8):
        for kind in ("local", "cross"):
            table[f"churn-{threads}-{kind}"] = (
                plain_command(lambda f, t=threads, k=kind: [churn, str(t), str(4000000 // scale), "20", k]), {})
    for depth in (5, 30, 100, 400):
        table[f"depth-{depth}"] = (plain_command(lambda f, d=depth: [churn, "1", str(2000000 // scale), str(d), "local"]), {})
    for events in (10**6, 10**7, 10**8):
        table[f"long-{events:.0e}"] = (plain_command(lambda f, n=events: [churn, "1", str(n // scale), "20", "grow"]), {})
    return table


class Tree:
    """Runs a command, adopts what it leaves behind, and adds up what all of it cost."""

    def __init__(self):
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)

    @staticmethod
    def descendants():
        parents = {}
        for entry in os.listdir("/proc"):
            if entry.isdigit():
                try:
                    with open(f"/proc/{entry}/stat") as f:
                        parents.setdefault(int(f.read().rsplit(")", 1)[1].split()[1]), []).append(int(entry))
                except OSError:
                    pass
        found, queue = [], list(parents.get(os.getpid(), []))
        while queue:
            pid = queue.pop()
            found.append(pid)
            queue += parents.get(pid, [])
        return found

    def sample(self, peak, stop):
        while not stop.wait(0.02):
            total = 0
            for pid in self.descendants():
                try:
                    with open(f"/proc/{pid}/smaps_rollup") as f:
                        total += next((int(l.split()[1]) for l in f if l.startswith("Pss:")), 0)
                except OSError:
                    pass
            peak[0] = max(peak[0], total * 1024)

    def run(self, argv, environment, memory=False):
        peak, stop = [0], threading.Event()
        sampler = threading.Thread(target=self.sample, args=(peak, stop)) if memory else None
        if sampler:
            sampler.start()
        start = time.monotonic()
        pid = os.spawnvpe(os.P_NOWAIT, argv[0], argv, {**os.environ, **environment})
        cpu = wall = first_cpu = status = 0
        while True:
            try:
                done, s, usage = os.wait4(-1, 0)
            except ChildProcessError:
                break
            cpu += usage.ru_utime + usage.ru_stime
            if done == pid:
                wall, first_cpu, status = time.monotonic() - start, usage.ru_utime + usage.ru_stime, s
        if sampler:
            stop.set()
            sampler.join()
        return {"wall": wall, "cpu": cpu, "first_cpu": first_cpu, "peak_bytes": peak[0], "status": status}


class Modes:
    def __init__(self, build, folder):
        self.build, self.folder = build, folder
        self.names = ["plain", "null", "memtrace"] + (["heaptrack"] if shutil.which("heaptrack") else [])

    def database(self):
        return f"{self.folder}/bench.db"

    def prepare(self):
        for name in os.listdir(self.folder):
            if name.startswith("bench."):
                os.unlink(f"{self.folder}/{name}")

    def prefix(self, mode):
        return {"plain": [], "null": ["env", f"LD_PRELOAD={self.build}/tests/bench/libnull.so"],
                "memtrace": [f"{self.build}/memtrace", "run", "-o", self.database(), "--"],
                "heaptrack": ["heaptrack", "-o", f"{self.folder}/bench.heaptrack"]}[mode]

    def output_bytes(self):
        return sum(os.path.getsize(f"{self.folder}/{n}") for n in os.listdir(self.folder) if n.startswith("bench."))


def events_of(database):
    c = sqlite3.connect(f"file:{database}?mode=ro", uri=True, timeout=30)
    row = c.execute("SELECT SUM(allocated_blocks) + SUM(freed_blocks), SUM(lost_events) FROM runs").fetchone()
    c.close()
    return row


def measure(name, make, environment, modes, tree, runs):
    results = {m: [] for m in modes.names}
    facts = {"events": None, "lost": None}
    for i in range(runs + 1):  # the last round samples memory and does not count for time
        for mode in modes.names:
            modes.prepare()
            argv = make(modes.folder, modes.prefix(mode))
            quiet = os.open(os.devnull, os.O_WRONLY)
            saved = os.dup(1), os.dup(2)
            os.dup2(quiet, 1), os.dup2(quiet, 2)
            try:
                r = tree.run(argv, environment, memory=i == runs)
            finally:
                os.dup2(saved[0], 1), os.dup2(saved[1], 2)
                for fd in (*saved, quiet):
                    os.close(fd)
            r["output_bytes"] = modes.output_bytes()
            if mode == "memtrace":
                facts["events"], facts["lost"] = events_of(modes.database())
            results[mode].append(r)
    return summarize(name, results, facts, runs)


def summarize(name, results, facts, runs):
    row = {"work": name, **facts, "modes": {}}
    for mode, rs in results.items():
        timed = rs[:runs]
        entry = {"wall": statistics.median(r["wall"] for r in timed), "cpu": statistics.median(r["cpu"] for r in timed),
                 "target_cpu": statistics.median(r["first_cpu"] for r in timed), "peak_bytes": rs[runs]["peak_bytes"],
                 "output_bytes": rs[runs]["output_bytes"], "status": rs[runs]["status"]}
        for figure in ("wall", "cpu"):
            entry[f"{figure}_ratio"] = statistics.median(
                r[figure] / p[figure] for r, p in zip(timed, results["plain"]) if p[figure])
            entry[f"added_{figure}"] = statistics.median(r[figure] - p[figure] for r, p in zip(timed, results["plain"]))
        row["modes"][mode] = entry
    m = row["modes"]["memtrace"]
    if facts["events"]:
        m["ns_per_event"] = m["added_cpu"] / facts["events"] * 1e9
    if "heaptrack" in row["modes"]:
        h = row["modes"]["heaptrack"]
        for figure in ("wall", "cpu"):
            if h[f"added_{figure}"] > 0:
                row[f"added_{figure}_share"] = m[f"added_{figure}"] / h[f"added_{figure}"]
    return row


def mib(n):
    return f"{n / 1048576:.1f}"


def show(row):
    print(f"\n{row['work']}: {row['events'] or 0:,} events, {row['lost']} lost", end="")
    if "added_cpu_share" in row:
        print(f"; memtrace adds {row['added_cpu_share']:.2f} of the CPU that heaptrack adds", end="")
    print(f"\n  {'':10}{'wall s':>9}{'ratio':>7}{'CPU s':>9}{'ratio':>7}{'target':>9}{'peak MiB':>10}{'output MiB':>12}{'ns/event':>10}")
    for mode, e in row["modes"].items():
        ns = f"{e['ns_per_event']:.0f}" if "ns_per_event" in e else ""
        print(f"  {mode:10}{e['wall']:9.3f}{e['wall_ratio']:7.2f}{e['cpu']:9.3f}{e['cpu_ratio']:7.2f}{e['target_cpu']:9.3f}"
              f"{mib(e['peak_bytes']):>10}{mib(e['output_bytes']):>12}{ns:>10}", flush=True)


def geometric_mean(values):
    values = [v for v in values if v and v > 0]
    return math.exp(sum(map(math.log, values)) / len(values)) if values else None


def plot(rows, path):
    """CPU against plain, a group of bars a work: a plain SVG."""
    modes = [("null", "#bbbbbb"), ("memtrace", "#2a7ae2"), ("heaptrack", "#e28a2a")]
    top = max(e["cpu_ratio"] for r in rows for e in r["modes"].values())
    scale, height = 420 / top, len(rows) * 52 + 50
    out = [f'<svg xmlns="http://www.w3.org/2000/svg" width="760" height="{height}" font-family="sans-serif" font-size="12">',
           '<rect width="100%" height="100%" fill="white"/><text x="10" y="20" font-size="14">CPU time against the plain run '
           '(whole tree, median)</text>']
    for i, row in enumerate(rows):
        y = 40 + i * 52
        out.append(f'<text x="150" y="{y + 24}" text-anchor="end">{row["work"]}</text>')
        for j, (mode, colour) in enumerate(m for m in modes if m[0] in row["modes"]):
            ratio = row["modes"][mode]["cpu_ratio"]
            out.append(f'<rect x="160" y="{y + j * 14}" width="{ratio * scale:.1f}" height="12" fill="{colour}"/>'
                       f'<text x="{165 + ratio * scale:.1f}" y="{y + j * 14 + 10}" font-size="10">{mode} {ratio:.2f}</text>')
    with open(path, "w") as f:
        f.write("\n".join(out + ["</svg>\n"]))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--build", default="build")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--works", help="names, or beginnings of names, separated by commas")
    parser.add_argument("--json")
    parser.add_argument("--plot")
    parser.add_argument("--quick", action="store_true", help="a tenth of each work")
    options = parser.parse_args()
    build = os.path.abspath(options.build)
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    rows, tree = [], Tree()
    with tempfile.TemporaryDirectory(prefix="memtrace-bench-") as folder:
        modes = Modes(build, folder)
        for name, (make, environment) in works(build, options.quick).items():
            if options.works and not any(name.startswith(w) for w in options.works.split(",")):
                continue
            try:
                rows.append(measure(name, make, environment, modes, tree, options.runs))
            except work.Missing as e:
                print(f"\n{name}: skipped, {e}")
                continue
            show(rows[-1])
    for figure in ("cpu", "wall"):
        mean = geometric_mean([r.get(f"added_{figure}_share") for r in rows])
        if mean:
            print(f"\nadded {figure}, memtrace / heaptrack, geometric mean over the works: {mean:.3f}", end="")
    print()
    if options.json:
        with open(options.json, "w") as f:
            json.dump(rows, f, indent=1)
    if options.plot and rows:
        plot(rows, options.plot)


if __name__ == "__main__":
    main()

#!/usr/bin/env python3
"""What noise would drown: parts of memtrace alone, by instruction counts and in nanoseconds, and how threads get on with each other.

usage: tests/bench/micro.py [--build DIR] [--quick]      (bench.py runs it last)

Instructions are counted by callgrind inside the function in question only, in two runs with different counts: the difference is free of
start-up and of learning. Nanoseconds are CPU time of the thread; the least of several runs, for what disturbs only adds.
"""

import argparse
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, HERE)
import steady  # noqa: E402
import tree  # noqa: E402

DEPTHS = (5, 30, 100, 400)
STREAMS = (("local", "blocks freed soon after"), ("grow", "growing to 2 million live blocks (--quick: fewer), freed in no order"),
           ("stacks", "100,000 distinct stacks in no order"), ("merge", "two rings, blocks freed by the other thread"))


def words(command, environment=None):
    """The `name value` pairs that a program prints."""
    out = subprocess.run(command, capture_output=True, text=True, env={**tree.clean_environment(), **(environment or {})}, timeout=600)
    if out.returncode:
        raise RuntimeError(f"{command}: status {out.returncode}, {out.stderr[-300:]}")
    parts = out.stdout.split()
    return {parts[i]: float(parts[i + 1]) for i in range(0, len(parts) - 1, 2)}


def instructions(function, command, folder):
    done = subprocess.run(["valgrind", "--tool=callgrind", f"--callgrind-out-file={folder}/callgrind.out",
                           f"--toggle-collect={function}", *command], capture_output=True, text=True, timeout=1800)
    counted = re.search(r"Collected : (\d+)", done.stderr)
    if done.returncode or not counted:
        raise RuntimeError(f"callgrind: status {done.returncode}, {done.stderr[-300:]}")
    return int(counted[1])


def per_item(function, command, few, many):
    """Instructions for each item, of a command that takes a count as its last argument. None without valgrind."""
    if not shutil.which("valgrind"):
        return None
    with tempfile.TemporaryDirectory(prefix="memtrace-bench-") as folder:
        a, b = (instructions(function, [*command, str(n)], folder) for n in (few, many))
    return (b - a) / (many - few)


def least(command, count, runs, figure="ns"):
    found = [words([*command, str(count)]) for _ in range(runs)]
    return min(found, key=lambda f: f[figure])


def number(value, form="{:.0f}"):
    return "-" if value is None else form.format(value)


def capture(build, quick):
    program, rows = f"{build}/tests/bench/micro_capture", []
    print("\ncapture (src/stack), 1 to 4 frames at the top that are new\n"
          f"  {'frames':>8}{'new':>7}{'instructions':>14}{'ns':>8}")
    for depth in DEPTHS:
        native = least([program, str(depth)], 100000 if quick else 1000000, 3 if quick else 7)
        count = per_item("mt_stack_capture", [program, str(depth)], 2000, 4000 if quick else 10000)
        rows.append({"depth": depth, "frames": native["frames"], "new": native["pushed"], "instructions": count, "ns": native["ns"]})
        print(f"  {native['frames']:8.1f}{native['pushed']:7.1f}{number(count):>14}{native['ns']:8.1f}", flush=True)
    return rows


def reader(build, quick):
    program, rows = f"{build}/tests/bench/micro_reader", []
    print("\nthe reader's way of an event (order, decode, stacks, live)\n"
          f"  {'instructions':>14}{'ns':>8}{'million/s':>11}")
    for stream, what in STREAMS:
        # Past the growth, both counts.
        few, many = (4200000, 4600000) if stream == "grow" and not quick else (400000, 600000)
        native = least([program, stream], 1000000 if quick else 12000000, 3 if quick else 5)
        count = per_item("order_drain", [program, stream], few, many)
        rows.append({"stream": stream, "instructions": count, "ns": native["ns"], "live": native["live"], "steady_ns": native.get("steady-ns"),
                     "events_per_second": 1e9 / native["ns"]})
        print(f"  {number(count):>14}{native['ns']:8.1f}{1e3 / native['ns']:11.1f}  {stream}: {what} ({native['live']:,.0f} at the end)", flush=True)
        if "steady-ns" in native:
            print(f"  {'-':>14}{native['steady-ns']:8.1f}{1e3 / native['steady-ns']:11.1f}  of it with 2 million live: each event but few a free in no order, "
                  "or a block for one", flush=True)
    return rows


def churns(build, argument_lists, runs, figures):
    """Medians of churn's figures, over rounds in which every (label, environment, arguments) has its turn."""
    found = {label: [] for label, _, _ in argument_lists}
    with tempfile.TemporaryDirectory(prefix="memtrace-bench-") as folder:
        for i in range(runs):
            for label, preload, arguments in argument_lists:
                environment = {"LD_PRELOAD": preload, "MEMTRACE_DB": f"{folder}/{label}-{i}.db"} if preload else {}
                found[label].append(words([f"{build}/tests/bench/churn", *arguments], environment))
    return {label: {f: statistics.median(r[f] for r in rs) for f in figures} for label, rs in found.items()}


def emission(build, quick):
    count, library = "200000" if quick else "2000000", f"{build}/libmemtrace.so"
    arguments = ["1", count, "20", "split"]
    tools = (("plain", None), ("null", f"{build}/tests/bench/libnull.so"), ("memtrace", library))
    found = churns(build, [(f"{label}, {where}", preload, [*arguments, *more]) for label, preload in tools
                           for where, more in (("alone", ["alone"]), ("beside", []))], 3 if quick else 9, ("alloc-ns", "free-ns"))
    print(f"\nan event in its own thread, ns (churn 1 {count} 20 split: one callsite); alone: the process has one thread; beside: another one has had\n"
          f"events, too, so that each record carries the time\n"
          f"  {'':10}{'allocation alone':>18}{'beside':>8}{'free alone':>12}{'beside':>8}")
    for label, _ in tools:
        alone, beside = found[f"{label}, alone"], found[f"{label}, beside"]
        print(f"  {label:10}{alone['alloc-ns']:18.1f}{beside['alloc-ns']:8.1f}{alone['free-ns']:12.1f}{beside['free-ns']:8.1f}", flush=True)
    return found


def scaling(build, quick):
    count, library = 200000 if quick else 4000000, f"{build}/libmemtrace.so"
    found = {}
    print(f"\nthreads (churn, 20 frames deep): CPU time of an event in its own thread, ns; events a CPU second of the threads\n"
          f"  {'':10}{'alone':>8}{'1 thread':>10}{'1 and an idle one':>19}{'2 threads':>11}{'2 against 1':>13}{'against 1 and idle':>20}{'against alone':>15}")
    for label, preload in (("plain", None), ("memtrace", library)):
        row = churns(build, [("alone", preload, ["1", str(count), "20", "local", "alone"]), ("one", preload, ["1", str(count), "20", "local"]),
                             ("idle", preload, ["1", str(count), "20", "local", "idle"]),
                             ("two", preload, ["2", str(2 * count), "20", "local"])], 3 if quick else 7, ("thread-ns/event", "events/s"))
        ns = {k: v["thread-ns/event"] for k, v in row.items()}
        found[label] = {**row, "two_against_one": 2 * ns["one"] / ns["two"], "two_against_idle": 2 * ns["idle"] / ns["two"],
                        "two_against_alone": 2 * ns["alone"] / ns["two"]}
        print(f"  {label:10}{ns['alone']:8.1f}{ns['one']:10.1f}{ns['idle']:19.1f}{ns['two']:11.1f}{found[label]['two_against_one']:13.2f}"
              f"{found[label]['two_against_idle']:20.2f}{found[label]['two_against_alone']:15.2f}", flush=True)
    return found


def run_all(build, quick):
    result = {"capture": capture(build, quick), "reader": reader(build, quick), "emission": emission(build, quick),
              "scaling": scaling(build, quick), "steady": steady.check(build, quick)}
    at_30 = next(r for r in result["capture"] if r["depth"] == 30)
    e, s, slowest = result["emission"], result["scaling"]["memtrace"], min(result["reader"], key=lambda r: r["events_per_second"])
    result["acceptance"] = [
        (f"a capture at {at_30['frames']:.0f} frames, ns (made-up work; in real programs: target's ns/event)", at_30["ns"], "at most 60", "{:.1f}"),
        *((f"a free above the real free, ns ({what})", e[f"memtrace, {where}"]["free-ns"] - e[f"plain, {where}"]["free-ns"], "at most 10", "{:.1f}")
          for where, what in (("alone", "a process of one thread"), ("beside", "of several: with the time"))),
        ("reader, million events a second of one core, slowest stream", f"{slowest['events_per_second'] / 1e6:.1f} ({slowest['stream']})",
         "at least 10"),
        ("2 threads against 1, events a CPU second of theirs", f"{s['two_against_one']:.2f} (against one alone in its process: {s['two_against_alone']:.2f})",
         "at least 1.9"),
        *result["steady"]["acceptance"]]
    return result


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, usage=argparse.SUPPRESS)
    parser.add_argument("--build", default="build")
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    for figure, measured, wanted, *form in run_all(os.path.abspath(options.build), options.quick)["acceptance"]:
        print(f"{figure}: {measured if isinstance(measured, str) else form[0].format(measured)} ({wanted})")


if __name__ == "__main__":
    main()

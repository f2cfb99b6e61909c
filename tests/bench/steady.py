"""Is a lock shared between threads in steady work? Two threads allocate and free under memtrace, and are looked at from outside after their start.

strace counts their futex calls (a lock that is waited for makes them). gdb puts a breakpoint on every instruction of the library that locks
the bus, of which every lock and every shared counter needs one: taken or not, waited for or not, it shows.
"""

import collections
import os
import re
import shutil
import signal
import sqlite3
import subprocess
import tempfile
import time

import tree

LOCKING = re.compile(r"^\s+([0-9a-f]+):\s+(?:lock |xchg .*\()", re.M)


def base_of(pid, library):
    with open(f"/proc/{pid}/maps") as f:
        return next((int(l.split("-")[0], 16) for l in f if l.rstrip().endswith(library)), None)


def futex_calls(pid, seconds):
    """Calls of the threads that pid has, in so many seconds. None: strace cannot say."""
    tracer = subprocess.Popen(["strace", "-f", "-c", "-e", "trace=futex", "-p", str(pid)], stdout=subprocess.DEVNULL,
                              stderr=subprocess.PIPE, text=True)
    time.sleep(seconds)
    tracer.send_signal(signal.SIGINT)
    text = tracer.communicate(timeout=30)[1]
    if "attached" not in text:
        return None
    found = re.search(r"(\d+)\s+(?:\d+\s+)?futex$", text, re.M)
    return int(found[1]) if found else 0


def locked_instructions(pid, library, seconds, folder):
    """How often threads of pid ran each locking instruction: {function: count}, over the seconds; or None."""
    listing = subprocess.run(["objdump", "-d", "--no-show-raw-insn", library], capture_output=True, text=True).stdout
    base, places = base_of(pid, library), LOCKING.findall(listing)
    if not places or base is None:
        return None
    script, ready = f"{folder}/gdb.commands", f"{folder}/ready"
    with open(script, "w") as f:
        f.write("set pagination off\nset breakpoint pending off\nhandle SIGINT stop nopass\n")
        for i, place in enumerate(places, 1):
            f.write(f"break *{base + int(place, 16):#x}\nignore {i} 1000000000\n")
        f.write(f"shell touch {ready}\ncontinue\ninfo breakpoints\ndetach\n")
    debugger = subprocess.Popen(["gdb", "-nx", "-batch", "-p", str(pid), "-x", script], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                stderr=subprocess.DEVNULL, text=True)
    deadline = time.monotonic() + 60
    while not os.path.exists(ready) and debugger.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(seconds)
    os.kill(pid, signal.SIGINT)  # gdb sees it and stops there; the program never does
    text = debugger.communicate(timeout=60)[0]
    hits, function = collections.Counter(), None
    for line in text.splitlines():
        if re.match(r"\d+\s+breakpoint", line):
            found = re.search(r"(?:in |<)(\w+)", line)
            function = found[1] if found else "?"
        elif function and (found := re.search(r"already hit (\d+) time", line)):
            hits[function] += int(found[1])
    return dict(hits) if "breakpoint" in text else None


def check(build, quick):
    library, seconds, result = f"{build}/libmemtrace.so", 1 if quick else 3, {"acceptance": []}
    missing = [t for t in ("strace", "gdb", "objdump") if not shutil.which(t)]
    if missing:
        print(f"\nsteady work: not looked at, {', '.join(missing)} missing")
        return result
    with tempfile.TemporaryDirectory(prefix="memtrace-bench-") as folder:
        program = subprocess.Popen([f"{build}/tests/bench/churn", "2", "4000000000", "20", "local"], stdout=subprocess.DEVNULL,
                                   env={**tree.clean_environment(), "LD_PRELOAD": library, "MEMTRACE_DB": f"{folder}/bench.db"})
        start = time.monotonic()
        time.sleep(1)
        result["futex_calls"] = futex_calls(program.pid, seconds)
        result["locked"] = locked_instructions(program.pid, library, seconds, folder)
        program.kill()
        program.wait()
        result["events_per_second"] = events_of(f"{folder}/bench.db") / (time.monotonic() - start)
    rate = f"{result['events_per_second'] / 1e6:.2f} million events a second, all in all"
    print(f"\nsteady work of two threads, {seconds} s each way ({rate})\n  futex calls: {result['futex_calls']}")
    if result["locked"] is None:
        print("  locking instructions: gdb could not look")
    else:
        print(f"  locking instructions run: {sum(result['locked'].values())}")
        for function, count in sorted(result["locked"].items(), key=lambda i: -i[1]):
            print(f"    {count:8} {function}")
        result["acceptance"].append(("locking instructions run by two threads in steady work, in " + str(seconds) + " s",
                                     f"{sum(result['locked'].values())}", "none for each event: only the reader's bell"))
    result["acceptance"].append((f"futex calls of two threads in steady work, in {seconds} s", str(result["futex_calls"]),
                                 "none but at the reader's bell"))
    return result


def events_of(database):
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if os.path.exists(database) and not os.path.exists(database + "-wal"):
            c = sqlite3.connect(f"file:{database}?mode=ro", uri=True, timeout=30)
            row = c.execute("SELECT SUM(allocated_blocks) + SUM(freed_blocks), MAX(status) FROM runs").fetchone()
            c.close()
            if row[1] != "running":
                return row[0] or 0
        time.sleep(0.05)
    return 0

"""Runs programs under memtrace and looks at what it wrote down.

Standard library only. A test file defines unittest cases and ends with `harness.main()`, which prints TAP for meson.
The places of things come from the environment that tests/meson.build sets:

    MT_LIBRARY   libmemtrace.so       MT_COMMAND   memtrace        MT_TARGETS   folder of the built targets
    MT_SOURCE    the source tree      MT_COUNTER   the independent counter
"""

import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
import traceback
import unittest

LIBRARY = os.environ.get("MT_LIBRARY", "")
COMMAND = os.environ.get("MT_COMMAND", "")
TARGETS = os.environ.get("MT_TARGETS", "")
SOURCE = os.environ.get("MT_SOURCE", "")
COUNTER = os.environ.get("MT_COUNTER", "")

COMMIT_SECONDS = 60  # how long a run may take to be written down after its program has ended


def target(name):
    return os.path.join(TARGETS, name)


def clean_environment():
    return {k: v for k, v in os.environ.items() if not k.startswith("MEMTRACE_") and k != "LD_PRELOAD"}


class Result:
    """A finished program: what it printed, how it ended, and its database."""

    def __init__(self, out, err, status, db):
        self.out, self.err, self.status, self.db = out, err, status, db

    def query(self, sql, *values):
        connection = sqlite3.connect(f"file:{self.db}?mode=ro", uri=True, timeout=30)
        try:
            connection.row_factory = sqlite3.Row
            return connection.execute(sql, values).fetchall()
        finally:
            connection.close()

    def one(self, sql, *values):
        rows = self.query(sql, *values)
        if len(rows) != 1:
            raise AssertionError(f"{len(rows)} rows, not one: {sql}")
        return rows[0] if len(rows[0].keys()) > 1 else rows[0][0]

    def run(self):
        return self.one("SELECT * FROM runs ORDER BY run_id DESC LIMIT 1")

    def function(self, name, columns=("allocated_blocks", "allocated_bytes", "live_blocks", "live_bytes"), **where):
        """Sums over the rows of a function, in one process or all."""
        where.setdefault("heap", "malloc")
        condition = " AND ".join(f"{k} = ?" for k in where)
        sums = ", ".join(f"COALESCE(SUM({c}), 0)" for c in columns)
        return tuple(self.query(
            f"SELECT {sums} FROM top_allocators WHERE function = ? AND {condition}", name, *where.values())[0])

    def wait_until_written(self, runs=1, seconds=COMMIT_SECONDS):
        """The reader goes on for a moment after the last process has ended. The database is looked into only when it has no -wal, for
        a look at the moment at which the writer closes it would leave the -wal there."""
        deadline = time.monotonic() + seconds
        last = None
        while time.monotonic() < deadline:
            if os.path.exists(self.db) and not os.path.exists(self.db + "-wal"):
                try:
                    last = [r["status"] for r in self.query("SELECT status FROM runs")]
                    if len(last) >= runs and "running" not in last:
                        return self
                except sqlite3.OperationalError as error:
                    last = str(error)
            time.sleep(0.02)
        raise AssertionError(f"not written after {seconds} s: {last}, -wal: {os.path.exists(self.db + '-wal')}")


def finish(process, seconds):
    """Output and status of a process group that may not outlive its time."""
    try:
        out, err = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        out, err = process.communicate()
        raise AssertionError(f"still running after {seconds} s: {process.args}; stderr: {err[-500:]!r}")
    status = process.returncode
    return out, err, status if status >= 0 else 128 - status


def plain(arguments, *, env=None, cwd=None, stdin=None, seconds=120):
    process = subprocess.Popen(arguments, env={**clean_environment(), **(env or {})}, cwd=cwd,
                               stdin=stdin or subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                               start_new_session=True)
    return Result(*finish(process, seconds), None)


def traced(arguments, *, db, how="preload", env=None, cwd=None, stdin=None, seconds=120, written=True, options=(),
           preload=()):
    """how: `preload` (LD_PRELOAD alone) or `run` (memtrace run). written: wait for the database."""
    environment = {**clean_environment(), "MEMTRACE_DB": db}
    if how == "preload":
        environment["LD_PRELOAD"] = " ".join([LIBRARY, *preload])
    else:
        arguments = [COMMAND, "run", *options, "--", *arguments]
        if preload:
            environment["LD_PRELOAD"] = " ".join(preload)
    process = subprocess.Popen(arguments, env={**environment, **(env or {})}, cwd=cwd,
                               stdin=stdin or subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                               start_new_session=True)
    result = Result(*finish(process, seconds), db)
    return result.wait_until_written() if written else result


def memtrace(*arguments, env=None, cwd=None, seconds=60):
    return plain([COMMAND, *arguments], env=env, cwd=cwd, seconds=seconds)


class Case(unittest.TestCase):
    """Each test has a folder of its own that goes when it passes, and a database in it."""

    maxDiff = None

    def setUp(self):
        self.folder = tempfile.mkdtemp(prefix="memtrace-test-")
        self.addCleanup(shutil.rmtree, self.folder, ignore_errors=True)
        self.db = os.path.join(self.folder, "memtrace.db")

    def trace(self, *arguments, **options):
        options.setdefault("db", self.db)
        return traced(list(arguments), **options)

    def assertComplete(self, result, status=0):
        run = result.run()
        self.assertEqual(result.status, status, result.err[-1000:])
        self.assertEqual(dict(status=run["status"], exit_status=run["exit_status"], lost=run["lost_events"]),
                         dict(status="complete", exit_status=status, lost=0))
        self.assertEqual([tuple(r) for r in result.query("SELECT reason, count FROM loss WHERE count > 0")], [])

    def assertConsistent(self, result):
        """What must hold in every database, whatever was traced."""
        for p in result.query("SELECT * FROM processes"):
            self.assertEqual(p["allocated_blocks"] - p["freed_blocks"], p["live_blocks"], dict(p))
            sums = result.query(
                "SELECT COALESCE(SUM(allocated_blocks), 0), COALESCE(SUM(allocated_bytes), 0), COALESCE(SUM(live_blocks), 0), "
                "COALESCE(SUM(live_bytes), 0), COALESCE(SUM(peak_bytes), 0) FROM top_allocators "
                "WHERE process_id = ? AND heap IN ('malloc', 'python')", p["process_id"])[0]
            self.assertEqual(tuple(sums), (p["allocated_blocks"], p["allocated_bytes"], p["live_blocks"],
                                           p["live_bytes"], p["peak_live_bytes"]))
        for r in result.query("SELECT * FROM runs"):
            sums = result.query("SELECT SUM(allocated_blocks), SUM(allocated_bytes), SUM(freed_blocks), COUNT(*) "
                                "FROM processes WHERE run_id = ?", r["run_id"])[0]
            self.assertEqual(tuple(sums), (r["allocated_blocks"], r["allocated_bytes"], r["freed_blocks"], r["processes"]))


def main():
    """unittest, told as TAP on stdout. Arguments: parts of test names to run."""
    # A shell cannot trap what was ignored when it started (nohup, a background job). What is caught here is not ignored in what is started.
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT):
        if signal.getsignal(number) == signal.SIG_IGN:
            signal.signal(number, lambda *_: None)
    wanted = sys.argv[1:]
    suite = unittest.defaultTestLoader.loadTestsFromModule(sys.modules["__main__"])
    tests = [t for group in suite for t in group if not wanted or any(w in t.id() for w in wanted)]
    failed = 0
    print("TAP version 13")
    print(f"1..{len(tests)}")
    for number, test in enumerate(tests, 1):
        result = unittest.TestResult()
        began = time.monotonic()
        try:
            test.run(result)
        except BaseException:  # a test file's trouble is a failure, not the end of the report
            result.errors.append((test, traceback.format_exc()))
        name = test.id().split(".", 1)[1]
        bad = result.failures + result.errors
        if bad:
            failed += 1
            for _, text in bad:
                for line in text.splitlines():
                    print("#", line)
            print(f"not ok {number} - {name}")
        elif result.skipped:
            print(f"ok {number} - {name} # SKIP {result.skipped[0][1]}")
        else:
            print(f"ok {number} - {name} # {time.monotonic() - began:.1f} s")
        sys.stdout.flush()
    return sys.exit(1 if failed else 0)

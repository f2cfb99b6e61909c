"""Limits on what a test allocates, as marks.

    @pytest.mark.memtrace(max_peak="64M")               # no more than this, above what the fixtures hold
    @pytest.mark.memtrace(leaks=0)                      # 12 times in a row: no callsite may leak
    @pytest.mark.memtrace(max_peak=1 << 26, leaks=0, iterations=24)

    memtrace run -- pytest -p memtrace.pytest_plugin ...

The body of a marked test runs in a forked process, so that only what it does is counted: fixtures are set up before and taken down behind it, and are
not part of any figure. What the body changes in the test process's memory is gone after it. With `leaks`, the body runs `iterations` times (12
where not said), and the verdicts are those of `memtrace leaks`; a body that gives fixtures something to keep is seen to leak it.

Without memtrace's library in the process marked tests run as any other, once, and one line at the end says that no limit was looked at.
"""

import gc
import os
import pickle
import re
import sqlite3
import sys
import time
import traceback

import pytest

import memtrace

NAMES = {"max_peak", "leaks", "iterations"}
UNITS = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30}
WAIT_SECONDS = 60  # for the reader
unmeasured = []


def pytest_configure(config):
    config.addinivalue_line("markers", "memtrace(max_peak=BYTES, leaks=COUNT, iterations=N): limits, looked at under `memtrace run`")


def pytest_terminal_summary(terminalreporter):
    if unmeasured:
        terminalreporter.write_line("memtrace: limits of {} test{} not looked at: run `memtrace run -- pytest ...`".format(
            len(unmeasured), "s were" if len(unmeasured) > 1 else " was"))


def bytes_of(limit):
    if isinstance(limit, int):
        return limit
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kmg]?)(?:i?b)?\s*", str(limit), re.IGNORECASE)
    if not match:
        raise ValueError("memtrace: max_peak={!r} is no number of bytes such as 1000000, '800k' or '64M'".format(limit))
    return int(float(match.group(1)) * UNITS[match.group(2).lower()])


class Limits:
    def __init__(self, mark):
        wrong = set(mark.kwargs) - NAMES
        if mark.args or wrong:
            raise ValueError("memtrace: the mark takes max_peak, leaks and iterations, not {}".format(
                ", ".join(sorted(map(str, wrong or mark.args)))))
        self.max_peak = bytes_of(mark.kwargs["max_peak"]) if "max_peak" in mark.kwargs else None
        self.leaks = mark.kwargs.get("leaks")
        self.iterations = mark.kwargs.get("iterations", 12 if self.leaks is not None else 1)
        if self.leaks is not None and self.iterations < 8:
            raise ValueError("memtrace: {} iterations are too few to tell a leak".format(self.iterations))


def repeat(function, arguments, name, iterations):
    """In the child: what went wrong, as (kind, text), or None."""
    outcome = None
    gc.collect()
    with memtrace.phase(name):
        for i in range(iterations):
            memtrace.iteration("{} {}".format(name, i + 1))
            try:
                function(**arguments)
            except pytest.skip.Exception as error:
                outcome = ("skip", str(error))
            except BaseException:
                outcome = ("fail", traceback.format_exc())
            if outcome:
                break
            gc.collect()
    memtrace.iteration("exit")
    return outcome


def in_child(function, arguments, name, iterations):
    """Its pid, wait status and outcome."""
    from_child, to_parent = os.pipe()
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid == 0:
        try:
            os.close(from_child)
            outcome = repeat(function, arguments, name, iterations)
            sys.stdout.flush()
            sys.stderr.flush()
            with os.fdopen(to_parent, "wb") as f:
                f.write(pickle.dumps(outcome))
        finally:
            os._exit(0)
    os.close(to_parent)
    with os.fdopen(from_child, "rb") as f:
        told = f.read()
    _, status = os.waitpid(pid, 0)
    return pid, status, pickle.loads(told) if told else None


class Measured:
    """What the database has of a process that is over. None of it: LookupError."""

    def __init__(self, database, pid, name):
        deadline = time.monotonic() + WAIT_SECONDS
        while not self._read(database, pid, name):
            if time.monotonic() > deadline:
                raise LookupError("{} has nothing of this test after {} seconds".format(database, WAIT_SECONDS))
            time.sleep(0.05)

    def _read(self, database, pid, name):
        try:
            connection = sqlite3.connect("file:{}?mode=ro".format(database), uri=True, timeout=5)
        except sqlite3.Error:
            return False
        try:
            row = connection.execute("SELECT process_id FROM processes WHERE pid = ? AND ended_at NOT NULL ORDER BY process_id DESC LIMIT 1",
                                     (pid,)).fetchone()
            if not row:
                return False
            self.peak = connection.execute("SELECT max(peak_live_bytes) - min(live_bytes_before) FROM phases WHERE process_id = ? AND phase = ?",
                                           (row[0], name)).fetchone()[0]
            self.lost = connection.execute("SELECT sum(count) FROM loss WHERE process_id = ?", row).fetchone()[0] or 0
            self.top = connection.execute("SELECT function, file, line, sum(peak_bytes) FROM top_allocators WHERE process_id = ? "
                                          "AND heap <> 'mmap' GROUP BY 1, 2, 3 ORDER BY 4 DESC LIMIT 5", row).fetchall()
            self.leaks = connection.execute(
                "SELECT function, file, line, sum(bytes_per_iteration), sum(blocks_per_iteration) FROM leaks WHERE process_id = ? AND "
                "verdict = 'leak' GROUP BY 1, 2, 3 ORDER BY 4 DESC", row).fetchall()
            return self.peak is not None
        except sqlite3.Error:
            return False
        finally:
            connection.close()


def complaints(limits, found):
    if limits.max_peak is not None and found.peak > limits.max_peak:
        yield "held {:,} bytes at its peak, {:,} are allowed:".format(found.peak, limits.max_peak)
        for function, file, line, size in found.top:
            yield "    {:>14,} bytes  {}  {}:{}".format(size, function, file, line)
    if limits.leaks is not None and len(found.leaks) > limits.leaks:
        yield "{} callsite{} in {} iterations, {} allowed:".format(len(found.leaks), "s leak" if len(found.leaks) > 1 else " leaks",
                                                                   limits.iterations, "none is" if not limits.leaks else limits.leaks)
        for function, file, line, size, blocks in found.leaks:
            yield "    {:>14,.0f} bytes in {:,.4g} blocks each time  {}  {}:{}".format(size, blocks, function, file, line)
    if limits.leaks is not None and found.lost:
        yield "lost {:,} events: no leak can be told from it".format(found.lost)


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem):
    mark = pyfuncitem.get_closest_marker("memtrace")
    if mark is None:
        return None
    try:
        limits = Limits(mark)
    except ValueError as error:
        pytest.fail(str(error), pytrace=False)
    if not memtrace.active():
        unmeasured.append(pyfuncitem.nodeid)
        return None
    database = os.path.join(str(pyfuncitem.config.invocation_params.dir), os.environ.get("MEMTRACE_DB") or "memtrace.db")
    arguments = {name: pyfuncitem.funcargs[name] for name in pyfuncitem._fixtureinfo.argnames}
    pid, status, outcome = in_child(pyfuncitem.obj, arguments, pyfuncitem.nodeid, limits.iterations)
    if status != 0:
        pytest.fail("its process ended with wait status {}".format(status), pytrace=False)
    if outcome:
        (pytest.skip if outcome[0] == "skip" else lambda text: pytest.fail(text, pytrace=False))(outcome[1])
    try:
        told = list(complaints(limits, Measured(database, pid, pyfuncitem.nodeid)))
    except LookupError as error:
        told = [str(error)]
    if told:
        pytest.fail("memtrace: " + "\n".join(told), pytrace=False)
    return True

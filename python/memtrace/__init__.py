"""Tells memtrace what a Python program is doing, and the program what it holds.

    import memtrace

    with memtrace.phase("render"):
        ...
    for _ in range(10):
        memtrace.iteration("build")     # at the top of the loop
        build()
    memtrace.snapshot("after build")
    print(memtrace.current())           # Figures(native=..., python=..., rss=..., vms=...)

    with memtrace.delta("render") as d:
        render()
    print(d)                            # what was gained, by kind
    print(d.top(5))                     # by line, once the run is in the database

In a program that does not run under memtrace every call does nothing and costs next to nothing; current() then still has rss and vms.
No dependencies; Python 3.8 and later. Names may be any text; they are cut at 4,096 bytes.
"""

import collections
import contextlib
import ctypes
import os

__all__ = ["active", "phase", "iteration", "snapshot", "mark", "pause", "resume", "current", "delta", "Figures", "Delta"]

Figures = collections.namedtuple("Figures", "native python rss vms")
Figures.__doc__ = """Bytes held now: by malloc, by Python's objects (both None without memtrace), resident, and mapped."""


def _bind():
    functions = {}
    try:
        library = ctypes.CDLL(None)
        for name in ("mark", "phase_begin", "phase_end", "iteration", "snapshot"):
            function = getattr(library, "memtrace_" + name)
            function.argtypes, function.restype = [ctypes.c_char_p], None
            functions[name] = function
        for name in ("pause", "resume"):
            function = getattr(library, "memtrace_" + name)
            function.argtypes, function.restype = [], None
            functions[name] = function
        function = library.memtrace_current
        function.argtypes, function.restype = [ctypes.POINTER(ctypes.c_ulonglong)], ctypes.c_int
        functions["current"] = function
    except (AttributeError, OSError, TypeError):
        return None  # not under memtrace
    return functions


_functions = _bind()


def active():
    """Whether memtrace's library is in this process."""
    return _functions is not None


def _say(name, text):
    if _functions is not None:
        _functions[name](str(text).encode("utf-8", "replace").replace(b"\0", b" "))


def mark(name):
    """A named instant: totals, memory, and what every callsite holds (views marks, snapshot_sites)."""
    _say("mark", name)


def snapshot(label):
    """What every callsite holds now (view snapshot_sites)."""
    _say("snapshot", label)


def iteration(label=""):
    """Ends the running iteration and begins the next one: call it at the top of the loop (views iterations, leaks)."""
    _say("iteration", label)


def pause():
    """Leaves allocations of all threads out until resume(); frees are still seen."""
    if _functions is not None:
        _functions["pause"]()


def resume():
    if _functions is not None:
        _functions["resume"]()


class phase(contextlib.ContextDecorator):
    """A part of the program, as a context manager or a decorator; phases nest (view phases)."""

    def __init__(self, name):
        self.name = name

    def __enter__(self):
        _say("phase_begin", self.name)
        return self

    def __exit__(self, *unused):
        _say("phase_end", self.name)
        return False


def _memory():
    try:
        with open("/proc/self/statm") as f:
            total, resident = f.read().split()[:2]
        page = os.sysconf("SC_PAGE_SIZE")
        return int(resident) * page, int(total) * page
    except (OSError, ValueError):
        return 0, 0


def current():
    """What the process holds at this moment, as memtrace's reader has counted it."""
    rss, vms = _memory()
    if _functions is not None:
        figures = (ctypes.c_ulonglong * 2)()
        if _functions["current"](figures):
            return Figures(int(figures[0]), int(figures[1]), rss, vms)
    return Figures(None, None, rss, vms)


class Delta:
    """What was gained between two points. native, python, rss and vms are differences in bytes, None where not known."""

    def __init__(self, label, database):
        self.label, self.database = label, database
        self.before = self.after = None

    def __getattr__(self, name):
        if name not in Figures._fields:
            raise AttributeError(name)
        before, after = getattr(self.before, name, None), getattr(self.after, name, None)
        return None if before is None or after is None else after - before

    def __repr__(self):
        return "Delta({!r}, {})".format(self.label, ", ".join("{}={}".format(n, getattr(self, n)) for n in Figures._fields))

    def top(self, count=10):
        """Lines by bytes gained: rows (function, file, line, bytes, blocks). None as long as the database does not have both ends:
        it is written every few seconds and at the program's end."""
        import sqlite3

        try:
            connection = sqlite3.connect("file:{}?mode=ro".format(self.database), uri=True)
        except sqlite3.Error:
            return None
        try:
            return top_between(connection, self.label + " begins", self.label + " ends", count)
        except sqlite3.Error:
            return None
        finally:
            connection.close()


def top_between(connection, first, second, count=10):
    """The same for any two snapshots of the database's last run, by their labels."""
    ids = [connection.execute("SELECT max(snapshot_id) FROM snapshot_sites WHERE label = ? AND run_id = "
                              "(SELECT max(run_id) FROM runs)", (label,)).fetchone()[0] for label in (first, second)]
    if None in ids:
        return None
    return connection.execute(
        "SELECT s.function, s.file, s.line, sum(g.bytes) AS bytes, sum(g.blocks) AS blocks FROM ("
        "  SELECT site_id, live_bytes AS bytes, live_blocks AS blocks FROM snapshot_sites WHERE snapshot_id = ?2"
        "  UNION ALL SELECT site_id, -live_bytes, -live_blocks FROM snapshot_sites WHERE snapshot_id = ?1) AS g"
        " JOIN sites AS s USING (site_id) WHERE s.heap <> 'mmap' GROUP BY 1, 2, 3 HAVING bytes <> 0"
        " ORDER BY bytes DESC LIMIT ?3", (ids[0], ids[1], count)).fetchall()


@contextlib.contextmanager
def delta(label, database=None):
    """Snapshots around a block, and the difference of current()."""
    d = Delta(str(label), os.path.abspath(database or os.environ.get("MEMTRACE_DB") or "memtrace.db"))
    snapshot(d.label + " begins")
    d.before = current()
    try:
        yield d
    finally:
        d.after = current()
        snapshot(d.label + " ends")

"""Totals equal those of a counter that shares nothing with memtrace (tests/targets/counter.c).

Both libraries are loaded at once, the counter behind memtrace, so that the comparison holds for programs that are not
deterministic too. What the counter sees after its own last words (destructors that run later) cannot be compared; there is none in
these programs.

Python in the default mode: the counter wraps the interpreter's object allocators as memtrace does, each on its own, and the totals, those of
the heap python and those of the heap malloc are the same numbers.
"""

import os

import harness
import work
from pythons import PYTHONS

LINES = f"{harness.SOURCE}/tests/targets/python/lines.py"
OBJECTS = {"PYTHONHASHSEED": "0", "COUNTER_PYTHON": "1"}


class IndependentCount(harness.Case):
    def compare(self, command, status=0, env=None, seconds=200):
        file = f"{self.folder}/counts"
        result = self.trace(*command, preload=[harness.COUNTER], seconds=seconds,
                            env={"COUNTER_FILE": file, **(env or {})})
        self.assertEqual(result.status, status, result.err[-2000:])
        self.assertEqual(result.run()["lost_events"], 0)
        self.assertConsistent(result)
        counted = {int(l.split()[0]): tuple(map(int, l.split()[1:])) for l in open(file)}
        self.assertTrue(counted)
        for pid, (*total, blocks, size, frees, _, _, _) in counted.items():
            row = result.query("SELECT allocated_blocks, allocated_bytes, freed_blocks, process_id FROM processes WHERE pid = ? "
                               "ORDER BY process_id DESC LIMIT 1", pid)[0]
            self.assertEqual(list(row[:3]), total, command[0])
            heaps = {r["heap"]: tuple(r)[1:] for r in result.query(
                "SELECT heap, SUM(allocated_blocks), SUM(allocated_bytes), SUM(freed_blocks) FROM top_allocators "
                "WHERE process_id = ? GROUP BY heap", row["process_id"])}
            self.assertEqual(heaps.get("python", (0, 0, 0)), (blocks, size, frees), command[0])
            self.assertEqual(heaps["malloc"], (total[0] - blocks, total[1] - size, total[2] - frees), command[0])
        return result, max(counted.values())

    def real(self, make, least_blocks, **options):
        try:
            command = make(self.folder)
        except work.Missing as missing:
            self.skipTest(str(missing))
        _, most = self.compare(command, **options)
        self.assertGreater(most[0], least_blocks, "the work has become too small to say anything")

    def test_basic(self):
        _, most = self.compare([harness.target("basic")], status=7)
        self.assertEqual(most, (1129, 5311378, 1103, 0, 0, 0, 1129, 5311378, 1103))

    def test_targets(self):
        for name in ("threads", "cxx", "realloc", "short_threads", "signals"):
            with self.subTest(name):
                self.db = f"{self.folder}/{name}.db"
                if os.path.exists(f"{self.folder}/counts"):
                    os.remove(f"{self.folder}/counts")
                self.compare([harness.target(name)])

    def test_sqlite(self):
        self.real(work.sqlite, 500000)

    def test_jq(self):
        self.real(work.jq, 500000)

    def test_cc1(self):
        self.real(work.cc1, 500000)

    def test_sphinx(self):
        """Every object and every call of malloc that serves none; then frames only, where a call of malloc is a call of malloc."""
        self.real(work.sphinx, 5000000, env=OBJECTS)
        os.remove(f"{self.folder}/counts")
        self.db += ".frames"
        self.real(work.sphinx, 300000, env={"PYTHONHASHSEED": "0", "MEMTRACE_PYTHON": "frames"})

    def test_python(self):
        """Each CPython that is here, with threads."""
        for version, python in PYTHONS:
            with self.subTest(python=version):
                self.db = f"{self.folder}/{version}.db"
                if os.path.exists(f"{self.folder}/counts"):
                    os.remove(f"{self.folder}/counts")
                _, most = self.compare([python, LINES], env=OBJECTS)
                self.assertGreater(most[3], 50000)

    def test_python_with_malloc(self):
        """PYTHONMALLOC=malloc: a call of malloc for each object, so that blocks are as many. (Bytes are more: an object of none is asked of malloc
        as one of one byte.) What was handed out before memtrace's wrapper was back in place is found when it is freed."""
        for version, python in PYTHONS:
            if version.endswith("t"):
                continue  # refused without the lock
            with self.subTest(python=version):
                self.db = f"{self.folder}/{version}.db"
                file = f"{self.folder}/{version}"
                result = self.trace(python, LINES, preload=[harness.COUNTER], env={"COUNTER_FILE": file, "PYTHONMALLOC": "malloc"})
                self.assertConsistent(result)
                blocks, _, frees = map(int, open(file).read().split()[1:4])
                row = result.one("SELECT allocated_blocks, freed_blocks, unmatched_frees FROM processes")
                self.assertEqual(tuple(row), (blocks, frees, 0))


harness.main()

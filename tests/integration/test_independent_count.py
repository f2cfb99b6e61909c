"""Totals equal those of a counter that shares nothing with memtrace (tests/targets/counter.c).

Both libraries are loaded at once, the counter behind memtrace, so that the comparison holds for programs that are not
deterministic too. What the counter sees after its own last words (destructors that run later) cannot be compared; there is none in
these programs.
"""

import os

import harness
import work


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
        for pid, (blocks, size, frees) in counted.items():
            row = result.query("SELECT allocated_blocks, allocated_bytes, freed_blocks FROM processes WHERE pid = ? "
                               "ORDER BY process_id DESC LIMIT 1", pid)[0]
            self.assertEqual(tuple(row), (blocks, size, frees), command[0])
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
        self.assertEqual(most, (1129, 5311378, 1103))

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
        self.real(work.sphinx, 300000, env={"PYTHONHASHSEED": "0", "MEMTRACE_PYTHON": "frames"})  # objects are no calls of malloc


harness.main()

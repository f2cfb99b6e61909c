"""A program with more callsites than are worth keeping: the same sums whatever is kept, and a way to keep all."""

import json
import os

import harness
from harness import memtrace, target

FUNCTIONS = ("function", "file", "line", "module", "heap", "kind")
SUMS = ("peak_bytes", "peak_blocks", "live_bytes", "live_blocks", "allocated_bytes", "allocated_blocks", "freed_blocks", "temporary_blocks")


class Folding(harness.Case):
    def run_stacks(self, *options, db=None, **environment):
        result = self.trace(target("stacks"), how="run", options=options, db=db or self.db, env=environment)
        self.assertComplete(result)
        self.assertConsistent(result)
        return result

    def by_function(self, result, run_id=1):
        return [tuple(r) for r in result.query(
            f"SELECT {', '.join(FUNCTIONS)}, {', '.join(f'SUM({s})' for s in SUMS)} FROM top_allocators WHERE run_id = ? "
            f"GROUP BY {', '.join(FUNCTIONS)} ORDER BY {', '.join(FUNCTIONS)}", run_id)]

    def check_functions(self, result):
        self.assertEqual(result.function("passing"), (20000, 390000, 0, 0))
        self.assertEqual(result.function("held"), (200, 20000, 200, 20000))
        self.assertEqual(result.function("large"), (1, 1000000, 1, 1000000))

    def test_sums_do_not_depend_on_it(self):
        folded = self.run_stacks()
        whole = self.run_stacks("--all-sites", db=self.db + ".whole")
        self.check_functions(folded)
        self.check_functions(whole)
        self.assertEqual(self.by_function(folded), self.by_function(whole))
        sites = whole.one("SELECT COUNT(*) FROM top_allocators WHERE function IN ('passing', 'held', 'large')")
        self.assertEqual(sites, 20201)
        self.assertEqual(whole.one("SELECT folded_sites FROM runs"), 0)
        self.assertEqual(whole.one("SELECT COUNT(*) FROM top_allocators WHERE folded"), 0)
        self.assertLess(folded.one("SELECT COUNT(*) FROM top_allocators"), 1600)
        kept = folded.one("SELECT COUNT(*) FROM top_allocators WHERE NOT folded")
        self.assertEqual(folded.one("SELECT folded_sites FROM runs") + kept,
                         whole.one("SELECT COUNT(*) FROM top_allocators"))
        self.assertEqual(folded.one("SELECT folded_blocks FROM processes"),
                         folded.one("SELECT SUM(allocated_blocks) FROM top_allocators WHERE folded"))
        self.assertLess(os.path.getsize(folded.db) * 5, os.path.getsize(whole.db))

    def test_what_matters_is_whole(self):
        result = self.run_stacks()
        stack = result.one("SELECT stack FROM top_allocators WHERE function = 'large'").split(";")
        ways = [f for f in stack if f in ("left", "right")]
        self.assertEqual(ways, ["right" if 12345 >> d & 1 else "left" for d in reversed(range(15))])
        self.assertIn("main", stack)
        self.assertEqual(result.one("SELECT COUNT(*) FROM top_allocators WHERE function = 'held' AND NOT folded"), 200)
        folded = result.one("SELECT DISTINCT stack FROM top_allocators WHERE folded AND function = 'passing'")
        self.assertEqual(folded, "passing;[other callers]")

    def test_how_many(self):
        result = self.run_stacks(MEMTRACE_SITES="10")
        self.assertLessEqual(result.one("SELECT COUNT(*) FROM top_allocators WHERE NOT folded AND heap = 'malloc' AND "
                                        "stack LIKE '%;main;%'"), 10)
        self.check_functions(result)
        result = self.run_stacks(MEMTRACE_SITES="all", db=self.db + ".all")
        self.assertEqual(result.one("SELECT folded_sites FROM runs"), 0)
        result = self.run_stacks(MEMTRACE_SITES="nonsense", db=self.db + ".nonsense")
        self.assertGreater(result.one("SELECT folded_sites FROM runs"), 15000)

    def test_the_same_sites_in_the_next_run(self):
        for options in ((), ("--all-sites",), ()):
            result = self.run_stacks(*options)
        self.assertEqual(self.by_function(result, 1), self.by_function(result, 2))
        self.assertEqual(self.by_function(result, 2), self.by_function(result, 3))
        # what the first run kept is the same row in the second; what the second kept, in the third
        for earlier, later in ((1, 2), (2, 3)):
            self.assertEqual(result.one(
                "SELECT COUNT(*) FROM (SELECT site_id FROM top_allocators WHERE run_id = ? AND NOT folded EXCEPT "
                "SELECT site_id FROM top_allocators WHERE run_id = ?)", earlier, later), 0)

    def test_it_is_said(self):
        self.run_stacks()
        for command in ("top", "leaks"):
            self.assertIn(b"--all-sites", memtrace(command, "-d", self.db, "--stacks").out)
            self.assertNotIn(b"--all-sites", memtrace(command, "-d", self.db).out)
        rows = json.loads(memtrace("top", "-d", self.db, "--json").out)
        self.assertIn("large", json.dumps(rows))

    def test_small_programs_are_whole(self):
        result = self.trace(target("deep"))
        self.assertEqual(result.one("SELECT folded_sites FROM runs"), 0)


if __name__ == "__main__":
    harness.main()

"""What is written ahead of a process's end comes to the same rows as what is written at it; also when somebody dies in between."""

import os
import signal
import sqlite3
import subprocess
import sys
import time

import harness

# 300 functions of a file that is nowhere, which call each other in ways that depend on a number; then a word, and an answer awaited.
PROGRAM = r"""
import os, sys
kept, functions = [], {}
def step(depth, n):
    functions[n % 300](depth, n)
source = "".join(f'''
def f{i}(depth, n):
    if depth:
        step(depth - 1, (n * 7919 + {i}) % 100003)
        return
    kept.append([n] * {i % 13 + 1})
    kept.append("x" * ({i} + n % 50))
    if len(kept) > 2000:
        del kept[:1500]
''' for i in range(300))
names = {"kept": kept, "step": step}
exec(compile(source, "/gen.py", "exec"), names)
functions.update((i, names[f"f{i}"]) for i in range(300))
for n in range(12000):
    step(n % 9, n)
os.write(1, b"ready\n")
child = os.fork() if "fork" in sys.argv else -1
if child > 0:
    os.waitpid(child, 0)
os.read(0, 1) if child else None
for n in range(12000, 15000):
    step(n % 9, n)
"""
ROWS = ("SELECT folded, heap, stack, allocated_blocks, allocated_bytes, freed_blocks, live_blocks, live_bytes "
        "FROM top_allocators WHERE run_id = ? AND file = '/gen.py' ORDER BY 1, 2, 3, 4, 5")


class Ahead(harness.Case):
    def start(self, *arguments):
        script = f"{self.folder}/program.py"
        with open(script, "w") as f:
            f.write(PROGRAM)
        environment = {**harness.clean_environment(), "MEMTRACE_DB": self.db, "LD_PRELOAD": harness.LIBRARY, "PYTHONHASHSEED": "0",
                       "MEMTRACE_PYTHON": "objects", "MEMTRACE_SITES": "100"}
        process = subprocess.Popen([sys.executable, script, *arguments], env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self.addCleanup(process.stdout.close)
        self.addCleanup(process.stdin.close)
        self.addCleanup(process.kill)
        self.assertEqual(process.stdout.readline(), b"ready\n")
        return process

    def number(self, sql):
        connection = sqlite3.connect(self.db, timeout=30)
        try:
            return connection.execute(sql).fetchone()[0]
        finally:
            connection.close()

    def await_work_ahead(self, sites=300):
        """Of processes that have not been written, there are sites."""
        deadline = time.monotonic() + 30
        while self.number("SELECT COUNT(*) FROM site WHERE folded") < sites:
            self.assertLess(time.monotonic(), deadline, "nothing is written ahead")
            time.sleep(0.02)

    def answer(self, process):
        process.stdin.write(b"x")
        process.stdin.flush()
        self.assertEqual(process.wait(60), 0)

    def let_end(self, process, runs=1, consistent=True):
        self.answer(process)
        return self.ended(process, runs, consistent)

    def ended(self, process, runs, consistent=True):
        result = harness.Result(b"", b"", process.returncode, self.db).wait_until_written(runs)
        if consistent:
            self.assertConsistent(result)
        for table, identity in (("frame", "module_id, offset"), ("stack", "stack_id - up, frame_id"), ("site", "stack_id, heap_id")):
            self.assertEqual(result.query(f"SELECT 1 FROM {table} GROUP BY {identity} HAVING COUNT(*) > 1"), [], table)
        self.assertEqual(self.number("PRAGMA integrity_check"), "ok")
        return result

    def rows(self, result, run=1):
        rows = [tuple(r) for r in result.query(ROWS, run)]
        self.assertGreater(sum(r[0] for r in rows), 300)
        return rows

    def ahead(self):
        process = self.start()
        self.await_work_ahead()
        self.assertEqual(self.number("SELECT COUNT(*) FROM site_totals"), 0)
        return process

    def at_the_end(self):
        """Nothing can be done ahead while somebody else has the database."""
        self.trace("/bin/true")
        other = sqlite3.connect(self.db, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        process = self.start()
        time.sleep(0.5)
        self.assertLess(self.number("SELECT COUNT(*) FROM site"), 100)
        other.execute("ROLLBACK")
        other.close()
        return self.let_end(process, 2)

    def test_same_rows(self):
        result = self.let_end(self.ahead())
        self.assertComplete(result)
        rows = self.rows(result)
        # what turned out to be worth keeping with its callers has left a row behind, but not many
        self.assertLess(self.number("SELECT COUNT(*) FROM site WHERE site_id NOT IN (SELECT site_id FROM site_totals)"), 110)
        self.db += ".late"
        self.assertEqual(rows, self.rows(self.at_the_end(), 2))

    def test_next_run_has_the_same_sites(self):
        first = self.rows(self.let_end(self.ahead()))
        result = self.let_end(self.start(), 2)
        self.assertEqual(first, self.rows(result, 2))
        self.assertEqual(result.query("SELECT site_id FROM top_allocators WHERE run_id = 1 AND file = '/gen.py' EXCEPT "
                                      "SELECT site_id FROM top_allocators WHERE run_id = 2"), [])

    def test_reader_killed(self):
        process = self.ahead()
        os.kill(self.number("SELECT reader_pid FROM run"), signal.SIGKILL)
        self.answer(process)
        # of the first run there may be what a checkpoint wrote, which is no sites
        result = self.let_end(self.start(), 2, consistent=False)
        self.assertEqual([r["status"] for r in result.query("SELECT status FROM runs ORDER BY run_id")], ["lossy", "complete"])
        process = result.one("SELECT * FROM processes WHERE run_id = 2")
        self.assertEqual(tuple(result.one("SELECT SUM(allocated_blocks), SUM(live_bytes) FROM top_allocators WHERE run_id = 2 AND "
                                          "heap IN ('malloc', 'python')")), (process["allocated_blocks"], process["live_bytes"]))
        rows = self.rows(result, 2)
        self.db += ".alone"
        self.assertEqual(rows, self.rows(self.let_end(self.start())))

    def test_target_killed(self):
        process = self.ahead()
        process.kill()
        process.wait(60)
        result = self.ended(process, 1)
        self.assertEqual((result.run()["status"], result.run()["lost_events"]), ("killed", 0))
        self.rows(result)

    def test_forks(self):
        process = self.start("fork")
        self.await_work_ahead()
        result = self.let_end(process)
        self.assertComplete(result)
        self.assertEqual(result.run()["processes"], 2)

    def test_two_writers(self):
        processes = [self.start(), self.start()]
        self.await_work_ahead()
        self.answer(processes[0])
        result = self.let_end(processes[1], 2)
        self.assertEqual([r["status"] for r in result.query("SELECT status FROM runs")], ["complete", "complete"])
        self.assertEqual(self.rows(result, 1), self.rows(result, 2))


if __name__ == "__main__":
    harness.main()

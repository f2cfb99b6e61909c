"""Every case of cases.py under memtrace."""

import os
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

import cases
import harness


class Memtrace:
    """The answers of cases.py from a memtrace database."""

    def __init__(self, result):
        self.result, self.status, self.out = result, result.status, result.out

    def sum(self, column, name):
        return self.result.query(
            f"SELECT COALESCE(SUM({column}), 0) FROM top_allocators WHERE function = ? OR function LIKE ?",
            name, name + "(%")[0][0]

    def allocated_blocks(self, name):
        return self.sum("allocated_blocks", name)

    def leaked_bytes(self, name):
        return self.sum("live_bytes", name)

    def reaches(self, name, outer):
        return any(outer in r["stack"] for r in self.result.query(
            "SELECT stack FROM top_allocators WHERE function = ?", name))


def memtrace(command, must, folder):
    with cases.prepared(must, folder, os.path.basename(harness.COMMAND)) as (files, env):
        return Memtrace(harness.traced(command, db=f"{files}/memtrace.db", env=env, written="disk" not in must))


class Conformance(harness.Case):
    pass


def add(name, command, status, must):
    def test(self):
        plain = harness.plain(command)
        try:
            run = memtrace(command, must, self.folder)
        except cases.Impossible as why:
            self.skipTest(str(why))
        self.assertEqual(cases.judge(run, plain, status, must), [])
        if "disk" not in must:
            self.assertEqual(run.result.run()["lost_events"], 0)

    setattr(Conformance, "test_" + "".join(c if c.isalnum() else "_" for c in name), test)


for case in cases.CASES:
    add(*case)

harness.main()

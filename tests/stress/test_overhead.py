"""What the library costs the target in memory: no more than 32 MiB plus 2 %, and overhead_bytes says how much."""

import harness
import work

MIB = 1 << 20


class Overhead(harness.Case):
    def peak_rss(self, command, env):
        """Peak of the program itself, as the kernel counts it."""
        done = harness.plain([harness.target("peak"), *command], env=env, seconds=300)
        status, peak = map(int, done.out.split())
        self.assertEqual(status, 0, done.err)
        return peak

    def check(self, make, env=None):
        try:
            plain = self.peak_rss(make(self.folder), env or {})
            traced = self.peak_rss(make(self.folder), {"PRELOAD_CHILD": harness.LIBRARY, "MEMTRACE_DB": self.db, **(env or {})})
        except work.Missing as missing:
            self.skipTest(str(missing))
        result = harness.Result(b"", b"", 0, self.db).wait_until_written()
        print(f"# {self.id().split('.')[-1]}: {plain / MIB:.1f} MiB plain, {traced / MIB:.1f} MiB traced, "
              f"overhead_bytes {result.run()['overhead_bytes'] / MIB:.1f} MiB")
        self.assertLessEqual(traced, plain * 1.02 + 32 * MIB)
        self.assertAlmostEqual(result.run()["overhead_bytes"], traced - plain, delta=1.5 * MIB)

    def test_sqlite(self):
        self.check(work.sqlite)

    def test_jq(self):
        self.check(work.jq)

    def test_cc1(self):
        self.check(work.cc1)

    def test_sphinx(self):
        self.check(work.sphinx, {"PYTHONHASHSEED": "0"})

    def test_threads(self):
        self.check(lambda folder: [harness.target("threads")])

    def test_short_threads(self):
        self.check(lambda folder: [harness.target("short_threads")])


harness.main()

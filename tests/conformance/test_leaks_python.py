"""Verdicts on Python's callsites that are known to leak, or known not to (leaks/corpus.py, run for real); loops that go on until it is sure; the pytest
plugin."""

import collections
import json
import os
import subprocess
import sys

import harness
import pythons

CORPUS = os.path.join(harness.SOURCE, "tests/conformance/leaks/corpus.py")
EXTENSION = os.path.join(os.environ["MT_CONFORMANCE"], "libleak_extension.so")
MODULE = os.path.join(os.environ["MT_BUILD"], "python")
N = 12
SEEDS = int(os.environ.get("MT_LEAK_SEEDS", "20"))

# function: heap, bytes an iteration
CERTAIN = {"leak_one": ("python", 4033), "leak_two_in_noise": ("python", 8066), "leak_in_turnover": ("python", 4033),
           "leak_cycle": ("python", 4033), "leak_traceback": ("python", 4033), "leak_mapping": ("mmap", 1 << 14),
           "leak_extension": ("malloc", 3000)}
BOUNDED = """turnover_3 pool_25 cache_4 cache_8 lru_values interned lazy fifo_4 grown_then_freed growing_list collected_cycle text_buffer
warm_up""".split()

MARKS = """
import pytest
KEPT = []

@pytest.fixture
def large():
    data = bytearray(30_000_000)
    yield data
    data.clear()

@pytest.mark.memtrace(max_peak="1M")
def test_fixture_does_not_count(large):
    assert len(bytearray(500_000)) + len(large) == 30_500_000

@pytest.mark.memtrace(max_peak="1M")
def test_too_much(large):
    bytearray(2_000_000)

@pytest.mark.memtrace(leaks=0)
def test_leak():
    KEPT.append(bytes(5000))

@pytest.mark.memtrace(leaks=1, iterations=24)
def test_known_leak():
    KEPT.append(bytes(5000))

@pytest.mark.memtrace(leaks=0, max_peak="1M")
def test_no_leak(large):
    sum(len(bytes(5000)) for _ in range(10))

@pytest.mark.memtrace(leaks=0)
def test_wrong():
    assert 1 == 2

@pytest.mark.memtrace(leaks=0)
def test_skipped():
    pytest.skip("not here")

@pytest.mark.memtrace(max_peek=1)
def test_misspelt():
    pass

@pytest.mark.memtrace(leaks=0, iterations=5)
def test_too_few():
    pass

def test_unmarked():
    pass
"""


def with_pytest():
    for _, python in [("", "/usr/bin/python3"), *pythons.PYTHONS]:
        if os.path.exists(python) and not subprocess.run([python, "-c", "import pytest"], capture_output=True).returncode:
            return python
    return None


class Python(harness.Case):
    def corpus(self, mode, seed=1, iterations=N):
        result = self.trace(pythons.PYTHONS[0][1], CORPUS, mode, str(seed), str(iterations), EXTENSION, how="run")
        self.assertComplete(result)
        return result.query("SELECT * FROM leaks WHERE run_id = (SELECT max(run_id) FROM runs)")

    def test_no_leak_where_there_is_none(self):
        found = collections.defaultdict(collections.Counter)
        for seed in range(1, SEEDS + 1):
            self.db = os.path.join(self.folder, f"{seed}.db")
            for row in self.corpus("bounded", seed):
                found[row["function"]][row["verdict"]] += 1
        print(f"# {SEEDS} runs, verdicts:", dict(sum(found.values(), collections.Counter())))
        self.assertEqual({name: dict(counts) for name, counts in found.items() if counts["leak"]}, {})
        self.assertEqual([name for name in BOUNDED if name not in found], [])

    def test_every_certain_leak_is_named(self):
        for seed in range(1, SEEDS // 4 + 1):
            rows = self.corpus("leaks", seed)
            for name, (heap, size) in CERTAIN.items():
                found = [r for r in rows if r["function"] == name and r["verdict"] == "leak" and r["heap"] == heap]
                self.assertEqual(len(found), 1, (name, seed))
                self.assertAlmostEqual(found[0]["bytes_per_iteration"], size, delta=size / 100)
                self.assertEqual(found[0]["since"], 1)
                self.assertTrue(found[0]["file"].endswith("corpus.py"))
            self.assertEqual([r["verdict"] for r in rows if r["function"] == "leak_larger"], ["leak"])

    def test_resident_memory(self):
        """What fragments is told from what leaks; what is pinned in arenas is neither, where as much is pinned each time."""
        for mode, conclusion in (("fragments", "fragmentation"), ("pins", "neither"), ("leaks", "leak")):
            rows = self.corpus(mode)
            told = json.loads(harness.memtrace("leaks", "-d", self.db, "--process", "--json").out)
            self.assertEqual([p["conclusion"] for p in told], [conclusion], mode)
            if mode != "leaks":
                self.assertEqual([r["function"] for r in rows if r["verdict"] in ("leak", "suspect")], [])

    def loop(self, text, *options):
        script = os.path.join(self.folder, "script.py")
        with open(script, "w") as f:
            f.write(text)
        done = harness.memtrace("loop", "--until-sure", *options, "-o", self.db, "--", pythons.PYTHONS[0][1], script, seconds=120)
        result = harness.Result(done.out, done.err, done.status, self.db).wait_until_written()
        return done, result, [r[0] for r in result.query("SELECT count(*) FROM iterations WHERE label <> 'exit' GROUP BY run_id")]

    def test_until_sure(self):
        """A leak is still one after 48, a cache that is full after 15 is none after 24, and where there is nothing 12 are enough."""
        keep = "import sys\nkept = sys.modules.setdefault('kept', type(sys)('kept')).__dict__.setdefault('list', [])\n"
        done, result, iterations = self.loop(keep + "kept.append(None)\nkept.append(bytes(9000))\n")
        self.assertEqual((done.status, iterations), (0, [12, 24, 48]))
        row = result.one("SELECT verdict, line, bytes_per_iteration FROM leaks WHERE run_id = 3 AND verdict = 'leak'")
        self.assertEqual(tuple(row)[:2], ("leak", 4))
        self.assertAlmostEqual(row["bytes_per_iteration"], 9033, delta=90)
        self.db += ".cache"
        done, result, iterations = self.loop(keep + "if len(kept) < 15:\n    kept.append(bytes(9000))\n")
        self.assertEqual((done.status, iterations), (0, [12, 24]))
        self.assertEqual(result.one("SELECT count(*) FROM leaks WHERE run_id = 2 AND verdict IN ('leak', 'suspect')"), 0)
        self.assertEqual(result.one("SELECT verdict FROM leaks WHERE run_id = 1 AND line = 4 AND bytes_per_iteration > 9000"), "leak")
        self.db += ".nothing"
        done, result, iterations = self.loop("bytes(9000)\n", "-n", "10")
        self.assertEqual((done.status, iterations), (0, [10]))
        self.db += ".failing"
        done, result, iterations = self.loop(keep + "kept.append(bytes(9000))\nsys.exit(3)\n")
        self.assertEqual((done.status, iterations), (3, [12]))
        for arguments in (["--", "/bin/true"], ["--processes", "--", sys.executable, "-m", "this"]):
            done = harness.memtrace("loop", "--until-sure", "-o", self.db, *arguments)
            self.assertEqual((done.status, done.out), (2, b""))
            self.assertIn(b"--until-sure", done.err)

    def pytest(self, python, *before):
        with open(os.path.join(self.folder, "test_marks.py"), "w") as f:
            f.write(MARKS)
        done = harness.plain([*before, python, "-m", "pytest", "-v", "-p", "memtrace.pytest_plugin", "-p", "no:cacheprovider", "--strict-markers",
                              "test_marks.py"], cwd=self.folder, env={"PYTHONPATH": MODULE, "MEMTRACE_DB": self.db, "COLUMNS": "150"})
        words = [line.split() for line in done.out.decode().splitlines() if line.startswith("test_marks.py::")]
        return {w[0].split("::")[1]: w[1] for w in words}, done.out.decode()

    def test_pytest(self):
        python = with_pytest()
        if not python:
            self.skipTest("no pytest")
        outcomes, text = self.pytest(python, harness.COMMAND, "run", "--")
        self.assertEqual(outcomes, dict(
            test_fixture_does_not_count="PASSED", test_too_much="FAILED", test_leak="FAILED", test_known_leak="PASSED", test_no_leak="PASSED",
            test_wrong="FAILED", test_skipped="SKIPPED", test_misspelt="FAILED", test_too_few="FAILED", test_unmarked="PASSED"), text)
        self.assertRegex(text, r"memtrace: held 2,\d\d\d,\d\d\d bytes at its peak, 1,048,576 are allowed:\n +2,000,\d+ bytes  test_too_much ")
        self.assertRegex(text, r"memtrace: 1 callsite leaks in 12 iterations, none is allowed:\n +5,\d\d\d bytes in .* test_leak .*test_marks.py:21")
        self.assertIn("assert 1 == 2", text)
        self.assertIn("not max_peek", text)
        self.assertIn("5 iterations are too few", text)
        self.assertNotIn("were not looked at", text)

    def test_pytest_without_memtrace(self):
        python = with_pytest()
        if not python:
            self.skipTest("no pytest")
        outcomes, text = self.pytest(python)
        self.assertEqual({name for name, outcome in outcomes.items() if outcome == "FAILED"}, {"test_wrong", "test_misspelt", "test_too_few"}, text)
        self.assertIn("memtrace: limits of 7 tests were not looked at: run `memtrace run -- pytest ...`", text)


harness.main()

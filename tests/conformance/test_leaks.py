"""Verdicts on programs whose callsites are known to leak, or known not to: leaks/corpus.c, run for real."""

import collections
import json
import math
import os
import re

import harness

CORPUS = os.path.join(os.environ["MT_CONFORMANCE"], "leak_corpus")
N = 12
SEEDS = int(os.environ.get("MT_LEAK_SEEDS", "40"))

# bytes an iteration of those that leak for certain
CERTAIN = {"leak_one": 1000, "leak_two_in_noise": 2000, "leak_in_turnover": 1000, "leak_mapping": 1 << 14, "leak_reachable": 1488}
BOUNDED = """turnover_3 pool_25 warm_up cache_4 cache_8 fifo_4 lazy pool_that_doubles interned grown_then_freed lru flush_every_5 vector
mapped constant""".split()


def binomial_tails(k, n, p):
    """How probable it is to be as far out as k, on the nearer side."""
    terms = [math.comb(n, i) * p ** i * (1 - p) ** (n - i) for i in range(n + 1)]
    return min(sum(terms[:k + 1]), sum(terms[k:]))


class Leaks(harness.Case):
    def corpus(self, mode, seed=1, iterations=N, **options):
        result = self.trace(CORPUS, mode, str(seed), str(iterations), how="run", **options)
        self.assertComplete(result)
        return result

    def verdicts(self, result):
        run = result.query("SELECT max(run_id) AS run_id FROM runs")[0]["run_id"]
        return {r["function"]: r for r in result.query("SELECT * FROM leaks WHERE run_id = ?", run)}

    def test_iterations_compared(self):
        result = self.corpus("leaks")
        done = harness.memtrace("diff", "1@iteration:4", "1@iteration:9", "-n", "0", "--json", "-d", result.db)
        self.assertEqual(done.status, 0, done.err)
        changes = {r["function"]: r["change_bytes"] for r in json.loads(done.out)}
        for name in ("leak_one", "leak_mapping", "leak_reachable"):
            self.assertEqual(changes[name], 5 * CERTAIN[name], name)

    def test_no_leak_where_there_is_none(self):
        found = collections.defaultdict(collections.Counter)
        for seed in range(1, SEEDS + 1):
            for name, row in self.verdicts(self.corpus("bounded", seed)).items():
                found[name][row["verdict"]] += 1
        print(f"# {SEEDS} runs, verdicts:", dict(sum(found.values(), collections.Counter())))
        self.assertEqual({name: dict(counts) for name, counts in found.items() if counts["leak"]}, {})
        for name in BOUNDED:
            self.assertIn(name, found)
        for name in ("cache_4", "cache_8", "fifo_4", "mapped", "constant"):
            self.assertEqual(found[name]["suspect"], 0, name)
        for name in ("turnover_3", "flush_every_5", "grown_then_freed"):
            self.assertLessEqual(found[name]["suspect"], 1 + SEEDS // 50, name)

    def test_every_certain_leak_is_named(self):
        by_chance = collections.Counter()
        for seed in range(1, SEEDS + 1):
            rows = self.verdicts(self.corpus("leaks", seed))
            for name, size in CERTAIN.items():
                row = rows[name]
                self.assertEqual(row["verdict"], "leak", (name, seed, row["gate"]))
                self.assertAlmostEqual(row["bytes_per_iteration"], size, delta=size / 100)
                self.assertLessEqual(row["ci_low"], size)
                self.assertGreaterEqual(row["ci_high"], size)
                self.assertEqual(row["since"], 1)
                self.assertLess(row["q_value"], 0.01)
                self.assertTrue(row["file"].endswith("corpus.c"))
            self.assertEqual(rows["leak_larger"]["verdict"], "leak")
            self.assertGreater(rows["leak_larger"]["ci_low"], 1000)
            self.assertEqual(rows["leak_one"]["blocks_per_iteration"], 1)
            self.assertEqual(rows["leak_one"]["p_value"], 0.25 ** 9)
            # One block all the while, but for ever: a suspect, since nothing stays.
            self.assertEqual((rows["leak_by_realloc"]["verdict"], rows["leak_by_realloc"]["gate"]), ("suspect", "replaced"))
            for name in ("leak_half", "leak_fifth"):
                by_chance[name] += name in rows and rows[name]["verdict"] == "leak"
        for name, chance in (("leak_half", "0.5"), ("leak_fifth", "0.2")):
            predicted = float(harness.plain([os.environ["MT_SIMULATION"], "--predict", chance, str(N)]).out)
            print(f"# {name}: {by_chance[name]} of {SEEDS} runs say leak; the method predicts {predicted * SEEDS:.2f}")
            self.assertGreater(binomial_tails(by_chance[name], SEEDS, predicted), 0.0005)

    def test_cohorts_add_up(self):
        result = self.corpus("leaks")
        for row in result.query("SELECT site_id, live_bytes, live_blocks FROM leaks WHERE verdict = 'leak'"):
            self.assertEqual(result.one("SELECT sum(survivor_bytes), sum(survivor_blocks) FROM cohorts WHERE site_id = ?",
                                        row["site_id"])[:], (row["live_bytes"], row["live_blocks"]))
            series = result.query("SELECT live_bytes FROM site_iterations WHERE site_id = ? ORDER BY iteration", row["site_id"])
            self.assertEqual(len(series), N)
            self.assertEqual(series[-1]["live_bytes"], row["live_bytes"])

    def test_freed_before_the_end(self):
        """What the program holds to its last iteration and then frees grows all the same."""
        rows = self.verdicts(self.corpus("freed", iterations=20))
        self.assertEqual(rows["main"]["verdict"], "leak")
        self.assertEqual((rows["main"]["bytes_per_iteration"], rows["main"]["live_blocks"]), (1000, 0))

    def test_few_and_many_iterations(self):
        rows = self.verdicts(self.corpus("leaks", iterations=6))
        self.assertEqual((rows["leak_one"]["verdict"], rows["leak_one"]["gate"]), ("suspect", "few"))
        rows = self.verdicts(self.corpus("leaks", iterations=300))
        self.assertEqual((rows["leak_one"]["verdict"], rows["leak_one"]["bytes_per_iteration"]), ("leak", 1000))
        rows = self.verdicts(self.corpus("bounded", iterations=300))
        self.assertEqual([n for n, r in rows.items() if r["verdict"] == "leak"], [])

    def test_loss_forbids_the_verdict(self):
        result = self.trace(CORPUS, "lossy", "1", str(N), how="run")
        self.assertEqual((result.status, result.run()["status"]), (0, "lossy"))
        self.assertEqual([tuple(r) for r in result.query("SELECT reason, count FROM loss")], [("sandbox", 1)])
        rows = self.verdicts(result)
        self.assertEqual([n for n, r in rows.items() if r["verdict"] == "leak"], [])
        for name in [*CERTAIN, "leak_larger"]:
            self.assertEqual((rows[name]["verdict"], rows[name]["gate"]), ("suspect", "loss"), name)
        done = harness.memtrace("leaks", "-d", self.db, "--fail-on", "leak")
        self.assertEqual(done.status, 0)
        self.assertIn("Not sure: the run lost events.", done.out.decode())
        told = json.loads(harness.memtrace("leaks", "-d", self.db, "--process", "--json").out)
        self.assertEqual([p["conclusion"] for p in told], ["suspect"])
        self.assertEqual(harness.memtrace("leaks", "-d", self.db, "--fail-on", "suspect").status, 1)

    def test_simulation(self):
        """200 repetitions of every generator: no `leak` without one, and leaks by chance at the rates predicted."""
        done = harness.plain([os.environ["MT_SIMULATION"], "200", "1", str(N)])
        self.assertEqual(done.status, 0, done.out.decode()[-2000:])
        text = done.out.decode()
        self.assertEqual(re.findall(r"^  [a-z ]+ (\d+) of \d{4}$", text, re.M), ["0", "0", "0"], text)
        for name in ("leak, 1 block an iteration", "leak, 2 in Poisson(100)", "leak, ever larger blocks"):
            self.assertEqual(re.search(re.escape(name) + r" +([01]\.\d+)", text)[1], "1.0000")

    def test_without_iterations(self):
        result = self.trace(harness.target("basic"), how="run")
        self.assertEqual([tuple(r) for r in result.query("SELECT DISTINCT verdict FROM leaks")], [("live-at-exit",)])

    def test_fragmentation(self):
        result = self.corpus("fragments")
        self.assertEqual([n for n, r in self.verdicts(result).items() if r["verdict"] in ("leak", "suspect")], [])
        told = json.loads(harness.memtrace("leaks", "-d", self.db, "--process", "--json").out)
        self.assertEqual([p["conclusion"] for p in told], ["fragmentation"], told)
        self.corpus("leaks")
        told = json.loads(harness.memtrace("leaks", "-d", self.db, "--process", "--json").out)
        self.assertEqual([p["conclusion"] for p in told], ["leak"], told)

    def test_command(self):
        self.corpus("leaks")
        done = harness.memtrace("leaks", "-d", self.db, "--fail-on", "leak")
        self.assertEqual(done.status, 1, done.err)
        text = done.out.decode()
        self.assertIn("leak_one keeps 1000 B of each iteration in 1 block", text)
        self.assertIn("every one since iteration 1 of 12", text)
        self.assertIn("born in leak_one, called by leaks, main", text)
        rows = json.loads(harness.memtrace("leaks", "-d", self.db, "--json", "-n", "0").out)
        self.assertEqual({r["function"] for r in rows if r["verdict"] == "leak"} - {"leak_half"}, {*CERTAIN, "leak_larger"})
        suppressions = os.path.join(self.folder, "suppressions")
        with open(suppressions, "w") as f:
            f.write("# known\nleak:^leak_*\n")
        done = harness.memtrace("leaks", "-d", self.db, "--fail-on", "suspect", "--suppress", suppressions)
        self.assertEqual(done.status, 0, done.out)
        self.assertIn("leak_*", done.out.decode())
        with open(suppressions, "w") as f:
            f.write("race:x\n")
        self.assertEqual(harness.memtrace("leaks", "-d", self.db, "--suppress", suppressions).status, 3)
        self.assertEqual(harness.memtrace("leaks", "-d", self.db, "--fail-on", "noise").status, 2)
        self.corpus("bounded")
        self.assertEqual(harness.memtrace("leaks", "-d", self.db, "--fail-on", "leak").status, 0)


harness.main()

"""diff, gate, check and scale, and the functions of `memtrace sql`, on programs whose memory is known."""

import json
import os
import random
import shutil
import sqlite3

import harness
from harness import target


class Comparisons(harness.Case):
    def sizes(self, label, *arguments):
        self.assertComplete(self.trace(target("sizes"), *map(str, arguments), how="run", options=["--label", label]))

    def rows(self, *arguments, status=0):
        done = harness.memtrace(*arguments, "-d", self.db, "--json")
        self.assertEqual(done.status, status, done.err)
        return json.loads(done.out)

    def text(self, *arguments, status=0):
        done = harness.memtrace(*arguments, "-d", self.db)
        self.assertEqual(done.status, status, done.err)
        return done.out.decode()

    def test_diff(self):
        self.sizes("a", 100)
        self.sizes("b", 120, 50, 4000)
        rows = {r["function"]: r for r in self.rows("diff", "1", "2")}
        self.assertEqual({n: (r["state"], r["a_bytes"], r["b_bytes"], r["change_bytes"]) for n, r in rows.items()}, {
            "page": ("changed", 1000000, 1206000, 206000),
            "links": ("changed", 10000, 14400, 4400),
            "noise": ("added", 0, 4000, 4000)})
        self.assertEqual([r["function"] for r in self.rows("diff", "1", "2")], ["page", "links", "noise"])
        back = {r["function"]: r["state"] for r in self.rows("diff", "label:b", "a")}
        self.assertEqual(back["noise"], "gone")
        self.assertEqual(self.rows("diff", "1", "1"), [])
        marks = {r["function"]: r["change_bytes"] for r in self.rows("diff", "1@pages", "1")}
        self.assertEqual(marks, {"links": 10000})
        phases = {r["function"]: (r["a_bytes"], r["b_bytes"]) for r in self.rows("diff", "1@phase:build", "2@phase:build")}
        self.assertEqual(phases, {"page": (1000000, 1206000), "links": (10000, 14400)})
        self.assertRegex(self.text("diff", "2@phase:build", "2@exit"), r"\Alive bytes: ")
        after = {r["function"]: (r["state"], r["change_bytes"]) for r in self.rows("diff", "2@phase:build", "2@exit")}
        self.assertEqual(after, {"noise": ("added", 4000)})
        self.assertIn("+201.2 KiB", self.text("diff", "a", "b"))
        for wrong, status in ((["diff", "1"], 2), (["diff", "1", "77"], 3), (["diff", "1", "2", "--by", "rss"], 2),
                              (["diff", "1@nothing", "2"], 3), (["diff", "1@phase:pages", "2"], 3), (["diff", "1@iteration:1", "2"], 3)):
            self.assertEqual(harness.memtrace(*wrong, "-d", self.db).status, status, wrong)

    def test_gate(self):
        numbers = random.Random(5)
        for _ in range(6):  # in turn
            self.sizes("before", 200, 0, numbers.randrange(1, 8000))
            self.sizes("same", 200, 0, numbers.randrange(1, 8000))
            self.sizes("more", 200, 600, numbers.randrange(1, 8000))
        total, *sites = self.rows("gate", "--baseline", "before", "--candidate", "more", status=1)
        self.assertEqual((total["scope"], total["regression"], total["baseline_runs"], total["candidate_runs"]),
                         ("total", True, 6, 6))
        self.assertAlmostEqual(total["difference_bytes"], 120000, delta=9000)
        self.assertLess(total["ci_low"], 120000 + 9000)
        self.assertAlmostEqual(total["p_value"], 1 / 924, places=12)
        self.assertEqual([(s["function"], s["regression"], s["difference_bytes"]) for s in sites], [("page", True, 120000)])
        total, *sites = self.rows("gate", "--baseline", "before", "--candidate", "same")
        self.assertEqual((total["regression"], sites), (False, []))
        self.assertGreater(total["smallest_effect_bytes"], 65535)
        self.rows("gate", "--baseline", "more", "--candidate", "before")  # less is no regression
        self.assertIn("REGRESSION", self.text("gate", "--baseline", "before", "--candidate", "more", "--metric", "live", status=1))
        self.rows("gate", "--baseline", "before", "--candidate", "more", "--metric", "allocated", status=1)
        self.rows("gate", "--baseline", "1-6", "--candidate", "7-18", "--metric", "rss")
        for wrong, status in ((["--baseline", "1", "--candidate", "2"], 2), (["--baseline", "before"], 2),
                              (["--baseline", "x", "--candidate", "more"], 3)):
            self.assertEqual(harness.memtrace("gate", "-d", self.db, *wrong).status, status, wrong)

    def test_gate_leaves_failed_runs_out(self):
        for i in range(5):
            self.sizes("before", 100)
            self.sizes("after", 100)
        self.trace(target("basic"), how="run", options=["--label", "after"])  # status 7
        total = self.rows("gate", "--baseline", "before", "--candidate", "after")[0]
        self.assertEqual((total["candidate_runs"], total["excluded_runs"], total["difference_bytes"]), (5, 1, 0))

    def test_gate_on_a_real_program(self):
        """jq over a file of which 3 % more is read: found, and said to be jq's."""
        if not shutil.which("jq"):
            self.skipTest("no jq")
        numbers = random.Random(1)
        for name, count in (("before", 20000), ("after", 20600)):
            with open(f"{self.folder}/{name}.json", "w") as f:
                json.dump([dict(id=i, name=f"item {i}", tags=["a", "b"]) for i in range(count)], f)
        for _ in range(6):
            for name in ("before", "after"):
                self.assertComplete(self.trace("jq", "-c", "length", f"{self.folder}/{name}.json", how="run",
                                               options=["--label", name], env={"PADDING": "x" * numbers.randrange(1000)}))
        total, *sites = self.rows("gate", "--baseline", "before", "--candidate", "after", "-n", "0", status=1)
        self.assertTrue(total["regression"])
        self.assertAlmostEqual(total["difference_bytes"] / total["baseline_bytes"], 0.03, delta=0.01)
        self.assertTrue(any(s["regression"] for s in sites))
        self.rows("gate", "--baseline", "after", "--candidate", "before")

    def test_check(self):
        self.sizes("", 100)
        peak = (1 << 20) + 1000000 + 10000
        self.text("check", "--max-peak", str(peak), "--max-live", "2M", "--max-allocated", "2MiB", "--max-growth", "0")
        text = self.text("check", "--max-peak", str(peak - 1), "--max-rss", "1G", status=1)
        self.assertIn("EXCEEDED", text)
        self.assertIn("page", text)
        rows = self.rows("check", "--phase", "build", "--max-peak", "1M", status=1)
        self.assertEqual(rows, [dict(run_id=1, limit="peak", bytes=peak, max_bytes=1 << 20, exceeded=True)])
        for wrong, status in ((["--max-peak", "much"], 2), ([], 2), (["--max-peak", "1G", "--phase", "none"], 3)):
            self.assertEqual(harness.memtrace("check", "-d", self.db, *wrong).status, status, wrong)

    def test_check_growth(self):
        self.trace(target("api"), how="run")
        self.trace(harness.target("api"), how="run")
        self.text("check", "--max-growth", "1K")

    def test_scale(self):
        for pages in (100, 200, 300, 400, 600, 800):
            self.sizes(f"pages={pages}", pages)
        rows = self.rows("scale")
        peak = next(r for r in rows if r["scope"] == "total" and r["metric"] == "peak")
        self.assertEqual((peak["name"], peak["runs"]), ("pages", 6))
        self.assertGreater(peak["r_squared"], 0.99)
        self.assertEqual(peak["shape"], "faster than linear")  # one part of it is quadratic
        self.assertTrue(1 < peak["growth_ci_low"] <= peak["growth_exponent"] <= peak["growth_ci_high"] < 1.1, peak)
        steep = {r["function"]: r for r in rows if r["scope"] == "site"}
        self.assertEqual(set(steep), {"page", "links"})
        self.assertAlmostEqual(steep["links"]["exponent"], 2, places=9)
        self.assertAlmostEqual(steep["page"]["exponent"], 1, places=9)
        text = self.text("scale", "--name", "pages")
        self.assertIn("peak live bytes by pages", text)
        self.assertIn("####", text)
        self.assertEqual(harness.memtrace("scale", "-d", self.db, "--name", "files").status, 3)

    def test_spread(self):
        for noise in (1000, 1100, 1200, 1300, 1400, 1500, 90000):
            self.sizes("night", 50, 0, noise)
        rows = self.rows("spread")
        peak = next(r for r in rows if r["metric"] == "peak" and r["scope"] == "total")
        base = (1 << 20) + 500000 + 2500
        self.assertEqual({k: peak[k] for k in ("runs", "median_bytes", "min_bytes", "max_bytes", "ci_low", "ci_high", "outliers")},
                         dict(runs=7, median_bytes=base + 1300, min_bytes=base + 1000, max_bytes=base + 90000,
                              ci_low=base + 1000, ci_high=base + 90000, outliers=[7]))
        self.assertEqual([(r["function"], r["range_bytes"]) for r in rows if r["scope"] == "site"], [("noise", 89000)])
        self.assertIn("outliers: run 7", self.text("spread", "1-7"))
        self.assertEqual(harness.memtrace("spread", "-d", self.db, "1").status, 3)

    def test_same_work_same_memory(self):
        """The same work ten times: live bytes to the byte, resident memory within a tenth."""
        done = harness.memtrace("run", "-o", self.db, "--label", "ten", "--repeat", "10", "--", target("sizes"), "300")
        self.assertEqual(done.status, 0, done.err)
        rows = {r["metric"]: r for r in self.rows("spread", "ten") if r["scope"] == "total"}
        self.assertEqual(rows["peak"]["runs"], 10)
        self.assertEqual(rows["peak"]["min_bytes"], rows["peak"]["max_bytes"])
        self.assertLessEqual(rows["rss"]["max_bytes"], 1.1 * rows["rss"]["min_bytes"])

    def test_runs_of_a_real_program(self):
        """Ten times the same: peak live bytes within 1 %, resident memory within 10 %, as `runs` shows it."""
        folder = os.path.join(self.folder, "package")
        os.mkdir(folder)
        for i in range(6):
            with open(f"{folder}/module_{i}.py", "w") as f:
                f.write("\n".join(f"def function_{n}(a, b={n}):\n    \"\"\"Number {n}.\"\"\"\n    return [a * {n}, b, 'text {n}']\n" for n in range(60)))
        done = harness.memtrace("run", "-o", self.db, "--label", "compile", "--repeat", "10", "--", "/usr/bin/python3", "-m", "compileall", "-f", "-q",
                                folder, seconds=200)
        self.assertEqual(done.status, 0, done.err)
        rows = self.rows("runs")
        self.assertEqual([(r["status"], r["exit_status"], r["lost_events"]) for r in rows], [("complete", 0, 0)] * 10)
        for column, share in (("peak_live_bytes", 1.01), ("peak_rss_bytes", 1.1)):
            values = [r[column] for r in rows]
            self.assertLessEqual(max(values), share * min(values), (column, values))
        self.assertGreater(rows[0]["peak_live_bytes"], 1 << 20)

    def test_sql_functions(self):
        self.sizes("", 10)
        values = "WITH v (x, y) AS (VALUES (1, 2), (2, 1), (3, 4), (4, 8), (5, 9), (6, 11), (7, NULL)) "
        self.assertEqual(self.rows("sql", values + "SELECT median(y) AS m, percentile(y, 0.25) AS q, theil_sen(x, y) AS t, "
                                   "theil_sen_low(x, y) AS low, theil_sen_high(x, y) AS high FROM v"),
                         [dict(m=6.0, q=2.5, t=2.0, low=1.0, high=3.5)])
        # 14 of 15 pairs rise: 6 of 720 orders have at most one that does not, and as many the other way round
        self.assertAlmostEqual(self.rows("sql", values + "SELECT mann_kendall_p(x, y) AS p FROM v")[0]["p"], 12 / 720)
        self.assertEqual(self.rows("sql", "SELECT human_size(1572864) AS a, human_size(NULL) AS b, human_size(-12) AS c, "
                                   "median(NULL) AS d"), [dict(a="1.5 MiB", b=None, c="-12 B", d=None)])
        self.assertEqual([r["m"] for r in self.rows("sql", values + "SELECT median(y) OVER (ORDER BY x ROWS 2 PRECEDING) AS m FROM v")],
                         [2, 1.5, 2, 4, 8, 9, 10])

    def test_sql_stack(self):
        self.sizes("", 10)
        wanted = self.rows("sql", "SELECT stack FROM sites WHERE function = 'page'")[0]["stack"]
        self.assertGreater(wanted.count(";"), 1)
        site = "(SELECT site_id FROM sites WHERE function = 'page')"
        self.assertEqual(self.rows("sql", f"SELECT stack({site}) AS a, stack({site}, 2) AS b, stack({site}, 0) AS c, stack(-1) AS d, "
                                   "stack(NULL) AS e"),
                         [dict(a=wanted, b=";".join(wanted.split(";")[:2]), c=None, d=None, e=None)])

    def test_sql_extension(self):
        """In the command line tool, which loads extensions wherever it is packaged; and in Python's module where that does."""
        self.sizes("", 10)
        query = "SELECT median(column1), human_size(2048), stack((SELECT site_id FROM sites WHERE function = 'page'), 1) FROM (VALUES (1), (5), (6))"
        done = harness.plain(["sqlite3", self.db, ".load " + os.environ["MT_SQL_EXTENSION"], query])
        self.assertEqual((done.status, done.out, done.err), (0, b"5.0|2.0 KiB|page\n", b""))
        done = harness.plain(["sqlite3", ":memory:", ".load " + os.environ["MT_SQL_EXTENSION"], "SELECT stack(1)"])
        self.assertIn(b"not a memtrace database", done.err)
        connection = sqlite3.connect(":memory:")
        if hasattr(connection, "enable_load_extension"):
            connection.enable_load_extension(True)
            connection.load_extension(os.environ["MT_SQL_EXTENSION"])
            self.assertEqual(connection.execute("SELECT median(column1) FROM (VALUES (1), (5), (6))").fetchone(), (5.0,))
        connection.close()


harness.main()

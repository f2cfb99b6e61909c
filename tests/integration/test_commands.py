"""The commands on a real database, and the cookbook's queries."""

import json
import os
import re

import harness
from harness import memtrace, target


class Commands(harness.Case):
    def setUp(self):
        super().setUp()
        self.trace(target("basic"))
        self.trace(target("api"), how="run", options=("--label", "second"))

    def command(self, *arguments, status=0, **options):
        result = memtrace(*arguments, **options)
        self.assertEqual(result.status, status, (arguments, result.out[-500:], result.err[-500:]))
        return result.out.decode()

    def test_each_prints_a_table_and_json(self):
        for name in ("runs", "top", "leaks", "phases"):
            with self.subTest(name):
                table = self.command(name, "-d", self.db)
                self.assertTrue(table.strip())
                self.assertNotIn("\x1b", table, "colours without a terminal")
                json.loads(self.command(name, "-d", self.db, "--json"))

    def test_runs(self):
        text = self.command("runs", "-d", self.db)
        self.assertIn("second", text)
        self.assertIn("basic", text)
        self.assertEqual([r["run_id"] for r in json.loads(self.command("runs", "-d", self.db, "--json"))], [1, 2])
        for run in ("2", "second"):
            self.assertEqual([r["run_id"] for r in json.loads(self.command("runs", "-d", self.db, "--json", "--run", run))], [2])
        self.assertEqual(memtrace("runs", "-d", self.db, "--run", "3").status, 3)

    def test_database_from_the_environment(self):
        self.assertIn("hold_ten", self.command("top", "--run", "1", env={"MEMTRACE_DB": self.db}))

    def test_default_database_is_in_the_current_folder(self):
        self.assertIn("hold_ten", self.command("top", "--run", "1", cwd=self.folder))

    def test_top_orders(self):
        for order, function, column, value in (
                (None, "raise_peak", "peak_bytes", 3 << 20), ("peak", "raise_peak", "peak_bytes", 3 << 20),
                ("live", "after_peak", "live_bytes", 1 << 20), ("total", "raise_peak", "allocated_bytes", 3 << 20),
                ("count", "churn", "allocated_blocks", 1000), ("temporary", "churn", "temporary_blocks", 1000)):
            with self.subTest(order):
                arguments = ["top", "-d", self.db, "--run", "1", "-n", "1", *(["--by", order] if order else [])]
                row, = json.loads(self.command(*arguments, "--json"))
                self.assertEqual((row["function"], row[column]), (function, value))
                heading, line = self.command(*arguments).splitlines()[-2:]
                self.assertIn("FUNCTION", heading)
                self.assertIn(function, line)

    def test_leaks_at_exit(self):
        self.assertIn("after_peak", self.command("leaks", "-d", self.db, "--run", "1"))
        rows = json.loads(self.command("leaks", "-d", self.db, "--run", "1", "--json"))
        self.assertEqual([(r["function"], r["verdict"], r["live_blocks"], r["live_bytes"]) for r in rows if r["heap"] == "malloc"], [
            ("after_peak", "live-at-exit", 1, 1 << 20), ("after_peak", "live-at-exit", 1, 1 << 20), # two lines
            ("hold_zeroed", "live-at-exit", 7, 1050), ("hold_ten", "live-at-exit", 10, 1000),
            ("lag_by_two", "live-at-exit", 2, 48), ("hold_nothing", "live-at-exit", 5, 0)])

    def test_sql(self):
        query = "SELECT allocated_blocks, freed_blocks FROM runs ORDER BY run_id LIMIT 1"
        text = self.command("sql", "-d", self.db, query)
        self.assertRegex(text, r"1129\D+1103")
        rows = json.loads(self.command("sql", "-d", self.db, "--json", query))
        self.assertIn(1129, json.loads(json.dumps(rows[0] if isinstance(rows, list) else rows["rows"][0])).values())

    def test_sql_is_read_only(self):
        for statement in ("DELETE FROM runs", "CREATE TABLE x (y)", "ATTACH 'other.db' AS o; CREATE TABLE o.x (y)"):
            result = memtrace("sql", "-d", self.db, statement, cwd=self.folder)
            self.assertNotEqual(result.status, 0, statement)
        self.assertRegex(self.command("sql", "-d", self.db, "SELECT COUNT(*) FROM runs"), "2")

    def test_wrong_usage_and_bad_input(self):
        self.assertEqual(memtrace("no-such-command").status, 2)
        self.assertEqual(memtrace("top", "--no-such-option").status, 2)
        self.assertEqual(memtrace("run").status, 2)
        missing = memtrace("top", "-d", f"{self.folder}/missing.db")
        self.assertEqual(missing.status, 3)
        self.assertEqual(len(missing.err.decode().strip().splitlines()), 1)
        self.assertFalse(os.path.exists(f"{self.folder}/missing.db"), "a reading command created a database")
        junk = f"{self.folder}/junk.db"
        with open(junk, "wb") as f:
            f.write(os.urandom(8192))
        self.assertEqual(memtrace("top", "-d", junk).status, 3)
        self.assertEqual(memtrace("top", "-d", self.db, "--run", "99").status, 3)
        self.assertEqual(memtrace("sql", "-d", self.db, "SELEC").status, 2 if memtrace(
            "sql", "-d", self.db, "SELEC").status == 2 else 3)

    def test_version(self):
        self.assertRegex(self.command("version"), r"\d+\.\d+\.\d+")

    def test_repeat(self):
        self.command("run", "-o", self.db, "--repeat", "3", "--label", "thrice", "--", target("basic"), status=7)
        text = self.command("sql", "-d", self.db, "SELECT COUNT(*) AS n FROM runs WHERE label = 'thrice' "
                            "AND allocated_blocks = 1129")
        self.assertIn("3", text)

    def test_mark(self):
        import subprocess
        import time
        env = {**harness.clean_environment(), "MEMTRACE_DB": self.db, "LD_PRELOAD": harness.LIBRARY}
        sleeper = subprocess.Popen([target("sleeper")], env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        sleeper.stdout.readline()
        self.command("mark", "--pid", str(sleeper.pid), "from outside")
        sleeper.stdin.close()
        self.assertEqual(sleeper.wait(30), 0)
        sleeper.stdout.close()
        result = harness.Result(b"", b"", 0, self.db).wait_until_written(runs=3)
        self.assertEqual(result.query("SELECT COUNT(*) FROM snapshot_sites WHERE label = 'from outside'")[0][0] > 0, True)

    def test_cookbook(self):
        """Every query in the cookbook runs."""
        path = f"{harness.SOURCE}/examples/cookbook.sql"
        with open(path) as f:
            text = re.sub(r"^--.*\n", "", f.read(), flags=re.M)
        queries = [q.strip() for q in re.split(r";\s*\n", text) if q.strip()]
        self.assertGreater(len(queries), 8)
        for query in queries:
            with self.subTest(query.splitlines()[0]):
                self.command("sql", "-d", self.db, query)

    def test_views_have_the_contract_columns(self):
        import sqlite3
        contract = {
            "runs": "run_id label command cwd started_at wall_ns exit_status processes allocated_blocks allocated_bytes "
                    "freed_blocks peak_live_bytes live_bytes live_blocks peak_rss_bytes overhead_bytes lost_events status",
            "processes": "run_id process_id parent_process_id pid exe command started_at ended_at end_kind exit_status "
                         "allocator python_version allocated_blocks allocated_bytes freed_blocks peak_live_bytes "
                         "live_bytes live_blocks peak_rss_bytes",
            "top_allocators": "run_id process_id site_id heap function file line module peak_bytes peak_blocks live_bytes "
                              "live_blocks allocated_bytes allocated_blocks temporary_blocks stack",
            "leaks": "run_id process_id site_id heap verdict bytes_per_iteration ci_low ci_high blocks_per_iteration "
                     "p_value q_value live_bytes live_blocks function file line module stack",
            "iterations": "run_id process_id iteration label started_ns ended_ns live_bytes live_blocks peak_live_bytes "
                          "rss_bytes vms_bytes",
            "phases": "run_id process_id phase parent started_ns ended_ns live_bytes_before live_bytes_after "
                      "peak_live_bytes allocated_bytes allocated_blocks rss_before rss_after vms_before vms_after "
                      "python_bytes_before python_bytes_after",
            "memory_samples": "run_id process_id at_ns live_bytes python_bytes rss_bytes rss_anon_bytes rss_file_bytes "
                              "vms_bytes overhead_bytes",
            "snapshot_sites": "run_id process_id snapshot_id kind label at_ns site_id live_bytes live_blocks "
                              "allocated_bytes allocated_blocks",
            "loss": "run_id process_id reason count",
        }
        connection = sqlite3.connect(f"file:{self.db}?mode=ro", uri=True)
        for view, columns in contract.items():
            with self.subTest(view):
                connection.execute(f"SELECT {', '.join(columns.split())} FROM {view}").fetchall()
        connection.close()


harness.main()

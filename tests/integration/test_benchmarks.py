"""The benchmarks themselves: that they run and say what they should. What they measure is not a test's business."""

import json
import os
import subprocess
import sys

import harness

BENCH = f"{harness.SOURCE}/tests/bench"
BUILD = os.environ.get("MT_BUILD", "")


class Benchmarks(harness.Case):
    def script(self, name, *arguments):
        done = subprocess.run([sys.executable, f"{BENCH}/{name}", "--build", BUILD, "--quick", *arguments], capture_output=True, text=True,
                              env=harness.clean_environment(), cwd=self.folder, timeout=200)
        self.assertEqual(done.returncode, 0, done.stdout[-500:] + done.stderr[-1500:])
        return done.stdout

    def test_one_work(self):
        plot = f"{self.folder}/plot.svg"
        told = json.loads(self.script("bench.py", "--runs", "1", "--works", "churn-1-local", "--no-micro", "--json", "-", "--plot", plot))
        (row,) = told["works"]
        self.assertLessEqual({"plain", "null", "memtrace"}, set(row["modes"]))
        self.assertEqual((row["work"], row["lost"], row["run_status"], [m["status"] for m in row["modes"].values()]),
                         ("churn-1-local", 0, "complete", [0] * len(row["modes"])))
        self.assertGreaterEqual(row["events"], 400000)
        m = row["modes"]["memtrace"]
        self.assertGreater(m["cpu"], m["target_cpu"])  # the reader's is part of it
        self.assertGreater(m["output_bytes"], 0)
        self.assertIn("events lost, all works", [line["figure"] for line in told["acceptance"]])
        with open(plot) as f:
            self.assertIn("churn-1-local", f.read())

    def test_stacks_that_are_hard(self):
        out = self.script("verify", "--works", "twist,target-coroutines")
        self.assertRegex(out, r"[\d,]{6,} captures compared, 0 differences, 0 programs failed")


harness.main()

"""stats/ against SciPy, where a Python with SciPy is at hand."""

import itertools
import json
import os
import subprocess
import sys

import harness

PROGRAM = r"""
import json, sys
import numpy, scipy.stats as st
rows = [json.loads(line) for line in sys.stdin]
wrong, exact = [], 0
def same(row, name, found, wanted, error=1e-9):
    if not abs(found - wanted) <= error * max(1, abs(wanted)):
        wrong.append(f"row {row}: {name} {found!r}, SciPy {wanted!r}")
for k, r in enumerate(rows):
    y, z, n, m = r["y"], r["z"], len(r["y"]), len(r["z"])
    x = list(range(1, n + 1))
    same(k, "median", r["median"], numpy.median(y))
    same(k, "percentile", r["percentile"], numpy.percentile(y, 90))
    same(k, "theil_sen", r["theil_sen"]["estimate"], st.theilslopes(y, x)[0])
    ties = len(set(y)) < n
    if not ties:
        exact += 1
        same(k, "kendall", r["kendall"], st.kendalltau(x, y, method="exact").pvalue)
        low, high = st.theilslopes(y, x)[2:]
        slopes = sorted((y[j] - y[i]) / (x[j] - x[i]) for i in range(n) for j in range(i + 1, n))
        if n > 5 and r["theil_sen"]["low"] is not None: # SciPy's interval is normal: the exact one is within two ranks of it
            at = min(range(len(slopes)), key=lambda i: abs(slopes[i] - r["theil_sen"]["low"]))
            same(k, "rank of the interval", at, min(range(len(slopes)), key=lambda i: abs(slopes[i] - low)), 2)
    if not ties and len(set(y + z)) == n + m:
        same(k, "larger", r["larger"], st.mannwhitneyu(z, y, alternative="greater", method="exact").pvalue)
        same(k, "smaller", r["smaller"], st.mannwhitneyu(z, y, alternative="less", method="exact").pvalue)
    else: # with ties SciPy is normal
        same(k, "larger, ties", r["larger"], st.mannwhitneyu(z, y, alternative="greater", method="asymptotic").pvalue, 0.06)
    same(k, "difference", r["difference"]["estimate"], numpy.median([b - a for a in y for b in z]))
    fit = st.linregress(x, y)
    same(k, "slope", r["slope"]["estimate"], fit.slope)
    same(k, "intercept", r["intercept"], fit.intercept)
    reach = fit.stderr * st.t.ppf(0.975, n - 2)
    same(k, "slope's interval", (r["slope"]["high"] - r["slope"]["low"]) / 2, reach, 1e-8)
    same(k, "slope's middle", (r["slope"]["high"] + r["slope"]["low"]) / 2, fit.slope)
    same(k, "exponent", r["exponent"]["estimate"], st.linregress(numpy.log(x), numpy.log(y)).slope)
    same(k, "tail", r["tail"], st.binom.sf(m - 1, n + 10, 0.25), 1e-11)
    same(k, "upper", r["upper"], st.beta.ppf(0.95, m + 1, n))
    same(k, "lower", r["lower"], st.beta.ppf(0.05, m, n + 1))
    same(k, "normal", r["normal"], st.norm.ppf(r["normal_p"]))
    same(k, "student", r["student"], st.t.ppf(0.975, m))
    p = numpy.array(r["p"][:len(r["q"])])
    if len(r["p"]) <= 40:
        order = numpy.argsort(p)[::-1]
        q = numpy.minimum.accumulate(p[order] * len(p) / numpy.arange(len(p), 0, -1))
        for i, value in zip(order, q):
            same(k, "q", r["q"][i], min(1, value))
print(json.dumps([wrong, len(rows), exact]))
"""


def with_scipy():
    for python in dict.fromkeys([sys.executable, "/usr/bin/python3"]):
        if os.path.exists(python) and not subprocess.run([python, "-c", "import scipy.stats"], capture_output=True).returncode:
            return python
    return None


class Statistics(harness.Case):
    def values(self):
        return harness.plain([os.environ["MT_STATS_VALUES"]]).out

    def test_against_scipy(self):
        python = with_scipy()
        if not python:
            self.skipTest("no SciPy")
        done = subprocess.run([python, "-c", PROGRAM], input=self.values(), capture_output=True)
        self.assertEqual(done.returncode, 0, done.stderr.decode()[-2000:])
        wrong, rows, exact = json.loads(done.stdout)
        self.assertEqual(wrong, [])
        self.assertEqual(rows, 200)
        self.assertGreater(exact, 60)

    def test_mann_whitney_by_enumeration(self):
        """Ties included: every way to draw the second sample."""
        checked = 0
        for line in self.values().splitlines():
            row = json.loads(line)
            y, z = row["y"], row["z"]
            if len(y) + len(z) > 16:
                continue
            pool = sorted(y + z)
            rank = {v: (2 * pool.index(v) + 1 + pool.count(v)) for v in pool}
            wanted = sum(rank[v] for v in z)
            sums = [sum(rank[v] for v in drawn) for drawn in itertools.combinations(pool, len(z))]
            self.assertAlmostEqual(row["larger"], sum(s >= wanted for s in sums) / len(sums), places=12)
            self.assertAlmostEqual(row["smaller"], sum(s <= wanted for s in sums) / len(sums), places=12)
            checked += 1
        self.assertGreater(checked, 10)


harness.main()

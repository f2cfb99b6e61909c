"""README's quick start in a fresh copy of the tree, killed half way at several moments and started again."""

import os
import shutil
import signal
import subprocess
import time

import harness


class QuickStart(harness.Case):
    def copy(self):
        """What a clone has; nothing that was built."""
        self.tree = f"{self.folder}/tree"
        shutil.copytree(harness.SOURCE, self.tree, symlinks=True, ignore=lambda folder, names: [
            n for n in names if n in (".git", "__pycache__") or n.startswith("build") or n.endswith(".db")])

    def start(self):
        return subprocess.Popen(["examples/quickstart"], cwd=self.tree, env=harness.clean_environment(), stdin=subprocess.DEVNULL,
                                stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True)

    def test_killed_and_started_again(self):
        if os.geteuid() != 0 and not shutil.which("dpkg-query"):
            self.skipTest("cannot install what may be missing")
        self.copy()
        for seconds in (0.3, 1.0, 3.0):
            process = self.start()
            time.sleep(seconds)
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate(timeout=30)
        for _ in range(2):
            process = self.start()
            out = process.communicate(timeout=150)[0].decode()
            self.assertEqual(process.returncode, 0, out[-2000:])
        self.assertIn("built 300 pages 10 times; 24000 links remembered", out)
        leak = next(line for line in out.splitlines() if line.startswith("leak ") and "remember_link" in line)
        self.assertIn("24,000", leak)
        self.assertIn("remember_link keeps 48.4 KiB of each iteration in 2,400 blocks", out)
        rows = [line.split() for line in out.splitlines() if len(line.split()) == 3 and line.split()[0].isdigit()]
        self.assertEqual([int(r[0]) for r in rows], list(range(1, 11)), "ten iterations")
        growth = {int(b[2]) - int(a[2]) for a, b in zip(rows[4:8], rows[5:9])}
        self.assertEqual(growth, {2400}, "blocks that stay, by iteration, once the caches are full")


harness.main()

"""Fork, exec and the ways to end: every process has its row, and nothing of it is lost."""

import os
import shutil
import signal

import harness
from harness import target


class Processes(harness.Case):
    def run_target(self, *arguments, status=0, **options):
        result = self.trace(target("processes"), *arguments, **options)
        self.assertEqual(result.status, status, result.err)
        self.assertConsistent(result)
        return result

    def leaves(self, result):
        """Blocks of leaf() per process, sorted."""
        return sorted(r["n"] for r in result.query(
            "SELECT SUM(allocated_blocks) n FROM top_allocators WHERE function = 'leaf' GROUP BY process_id"))

    def ends(self, result, *columns):
        return sorted(tuple(r) for r in result.query(f"SELECT {', '.join(columns)} FROM processes"))

    def test_fork(self):
        for how in ("preload", "run"):
            with self.subTest(how=how):
                self.db = f"{self.folder}/{how}.db"
                result = self.run_target("fork", how=how)
                self.assertComplete(result)
                self.assertEqual(self.leaves(result), [5, 25])
                child = result.one("SELECT * FROM processes WHERE parent_process_id IS NOT NULL AND parent_process_id <> 0")
                parent = result.one("SELECT * FROM processes WHERE process_id <> ?", child["process_id"])
                self.assertEqual(child["parent_process_id"], parent["process_id"])
                self.assertEqual((child["allocated_blocks"], child["allocated_bytes"], child["live_blocks"]), (25, 250, 25))
                self.assertEqual((child["freed_blocks"], child["unmatched_frees"]), (0, 10))
                self.assertEqual((child["exit_status"], child["end_kind"]), (3, "exit"))
                self.assertEqual(parent["live_blocks"], 15)
                self.assertNotEqual(child["pid"], parent["pid"])

    def test_fork_with_threads(self):
        result = self.run_target("fork-threads")
        self.assertComplete(result)
        self.assertEqual(self.leaves(result), [25] * 20)
        self.assertEqual(sorted(r["exit_status"] for r in result.query(
            "SELECT exit_status FROM processes")), sorted([0, *range(20)]))

    def test_fork_tree(self):
        result = self.run_target("fork-tree")
        self.assertComplete(result)
        self.assertEqual(self.leaves(result), [25] * 4)
        self.assertEqual(result.run()["processes"], 4)

    def test_vfork(self):
        result = self.run_target("vfork")
        self.assertComplete(result)
        self.assertEqual(self.leaves(result), [2, 6])
        self.assertIn((4, "exit"), self.ends(result, "exit_status", "end_kind"))

    def test_posix_spawn(self):
        result = self.run_target("spawn")
        self.assertComplete(result)
        self.assertEqual(self.leaves(result), [2, 7])

    def test_exec_chain(self):
        for how in ("preload", "run"):
            with self.subTest(how=how):
                self.db = f"{self.folder}/{how}.db"
                result = self.run_target("exec", status=11, how=how)
                self.assertComplete(result, 11)
                self.assertEqual(self.leaves(result), [3, 4, 9])
                rows = result.query("SELECT * FROM processes ORDER BY process_id")
                self.assertEqual([r["end_kind"] for r in rows], ["exec", "exec", "exit"])
                self.assertEqual(len({r["pid"] for r in rows}), 1)
                self.assertEqual(rows[-1]["exit_status"], 11)
                self.assertEqual(result.run()["processes"], 3)

    def test_daemons(self):
        """A second fork before the first child has done anything: the run must not be over before the daemon has said hello."""
        for attempt in range(20):
            self.db = f"{self.folder}/daemon{attempt}.db"
            result = self.trace(os.path.join(os.environ["MT_CONFORMANCE"], "daemon"))
            self.assertEqual(result.function("in_daemon"), (100, 1000, 100, 1000))
            self.assertEqual(result.run()["processes"], 3)

    def test_shell(self):
        result = self.run_target("shell")
        self.assertComplete(result)
        self.assertEqual(self.leaves(result), [3, 8])

    def test_follow_off(self):
        for how, options in (("preload", {"env": {"MEMTRACE_FOLLOW": "0"}}), ("run", {"options": ("--no-follow",)})):
            with self.subTest(how=how):
                self.db = f"{self.folder}/{how}.db"
                result = self.run_target("spawn", how=how, **options)
                self.assertEqual(self.leaves(result), [2])

    def test_follow_off_behind_the_hooks(self):
        """system() and popen() take the environment as it is."""
        result = self.run_target("shell", env={"MEMTRACE_FOLLOW": "0"})
        self.assertEqual(self.leaves(result), [])
        self.assertEqual(result.query("SELECT COUNT(*), SUM(processes) FROM runs")[0][:], (1, 1))

    def test_relative_preload(self):
        """A path that leads nowhere from another folder must not reach children, whichever way they are started."""
        folder, name = os.path.split(harness.LIBRARY)
        result = self.trace("sh", "-c", f"cd /; {target('processes')} shell; {target('processes')} fork; exit 3", cwd=folder,
                            env={"LD_PRELOAD": f"./{name}"})
        self.assertEqual((result.status, result.err), (3, b""))
        self.assertEqual(self.leaves(result), [3, 5, 8, 25])

    def test_preload_out_of_reach(self):
        """A child that may not read the library (or is in a chroot without it) runs untraced, and nobody complains."""
        if os.geteuid() != 0:
            self.skipTest("needs root to become somebody else")
        hidden = f"{self.folder}/hidden"
        os.mkdir(hidden, 0o700)
        library = shutil.copy(harness.LIBRARY, hidden)
        result = self.trace("setpriv", "--reuid", "65534", "--clear-groups", "sh", "-c", "/bin/echo $LD_PRELOAD-; exit 3",
                            env={"LD_PRELOAD": library, "MEMTRACE_READER": harness.COMMAND})
        self.assertEqual((result.status, result.out, result.err), (3, b"-\n", b""))
        self.assertEqual(result.run()["processes"], 1)

    def test_ends(self):
        for how, kind, status in (("_exit", "_exit", 9), ("quick_exit", "_exit", 10), ("abort", "abort", 128 + signal.SIGABRT),
                                  ("kill", "signal", 128 + signal.SIGKILL), ("segv", "signal", 128 + signal.SIGSEGV),
                                  ("term", "signal", 128 + signal.SIGTERM)):
            for way in ("preload", "run"):
                with self.subTest(end=how, how=way):
                    self.db = f"{self.folder}/{how}-{way}.db"
                    result = self.run_target(how, status=status, how=way)
                    self.assertEqual(result.function("leaf"), (1000, 10000, 1000, 10000))
                    process = result.one("SELECT end_kind, exit_status, live_blocks FROM processes")
                    # abort() is a signal too; which of the two names it gets depends on whether its hook saw it.
                    self.assertIn(process["end_kind"], {kind, "signal"} if how == "abort" else {kind})
                    self.assertEqual(process["live_blocks"], 1000)
                    run = result.run()
                    if way == "run":
                        self.assertEqual((process["exit_status"], run["exit_status"]), (status, status))
                    self.assertEqual(run["status"], "killed" if status > 128 else "complete")
                    self.assertEqual(run["lost_events"], 0)

    def test_run_gives_back_the_status(self):
        for arguments, status in ((["sh", "-c", "exit 42"], 42), (["sh", "-c", "kill -9 $$"], 137), (["true"], 0)):
            result = self.trace(*arguments, how="run")
            self.assertEqual(result.status, status)
            self.assertEqual(result.run()["exit_status"], status)
        missing = self.trace("no-such-program-anywhere", how="run", written=False)
        self.assertNotEqual(missing.status, 0)
        self.assertEqual(len(missing.err.strip().splitlines()), 1, missing.err)

    def test_many_runs_at_once(self):
        """Several runs write to one database at the same time."""
        import concurrent.futures
        with concurrent.futures.ThreadPoolExecutor(6) as pool:
            results = list(pool.map(lambda _: self.trace(target("basic"), written=False), range(6)))
        self.assertEqual([r.status for r in results], [7] * 6)
        result = results[0].wait_until_written(runs=6)
        self.assertEqual([tuple(r) for r in result.query("SELECT allocated_blocks, freed_blocks, status FROM runs")],
                         [(1129, 1103, "complete")] * 6)
        self.assertConsistent(result)


harness.main()

"""Exit codes and complaints of the command line: one line each, and the command of `run` runs whatever happens."""

import os
import signal
import subprocess
import time

import harness
from harness import memtrace, target


class Usage(harness.Case):
    def complains(self, status, *arguments, part="", **options):
        result = memtrace(*arguments, cwd=self.folder, **options)
        lines = result.err.decode().splitlines()
        self.assertEqual((result.status, len(lines)), (status, 1), (arguments, result.err))
        self.assertEqual(result.out, b"")
        self.assertTrue(lines[0].startswith("memtrace"), lines[0])
        self.assertIn(part, lines[0])

    def test_wrong_usage(self):
        for arguments in (["frobnicate"], ["loop"], ["diff", "1"], ["gate"], ["check"], ["scale", "x"], ["report"], ["export"], ["live"],
                          ["top", "--by", "size"], ["top", "-n", "many"], ["top", "--frob"], ["top", "extra"], ["leaks", "-n"],
                          ["runs", "extra"], ["phases", "--by", "x"], ["sql"], ["sql", "SELECT 1", "SELECT 2"], ["sql", "--run", "1", "SELECT 1"], ["mark"],
                          ["mark", "--pid", "x", "name"], ["run"], ["run", "--repeat", "0", "true"],
                          ["run", "--python", "maybe", "true"], ["version", "--frob"]):
            with self.subTest(arguments):
                self.complains(2, *arguments)
        self.assertEqual(memtrace().status, 2)

    def test_help(self):
        for command in ("run", "runs", "top", "leaks", "diff", "gate", "check", "scale", "spread", "phases", "mark", "sql", "version"):
            with self.subTest(command):
                first, second = memtrace(command, "--help"), memtrace("help", command)
                self.assertEqual((first.status, first.err), (0, b""))
                self.assertIn(f"Usage: memtrace {command} ", first.out.decode())
                self.assertEqual(first.out, second.out)
                self.assertLessEqual(max(len(line) for line in first.out.decode().splitlines()[1:]), 100)

    def test_unreadable_input(self):
        for name, content in (("missing", None), ("empty", b""), ("text", b"no database\n" * 500), ("noise", os.urandom(9000))):
            if content is not None:
                with open(f"{self.folder}/{name}", "wb") as f:
                    f.write(content)
            for command in (["runs"], ["top"], ["leaks"], ["phases"], ["sql", "SELECT 1"], ["scale"],
                            ["check", "--max-peak", "1G"]):
                with self.subTest((name, command)):
                    self.complains(3, command[0], "-d", name, *command[1:], part=name)
        self.assertFalse(os.path.exists(f"{self.folder}/missing"))
        self.complains(3, "mark", "--pid", "1", "name")

    def test_status_of_the_command(self):
        for script, status in (("exit 0", 0), ("exit 42", 42), ("kill -9 $$", 137), ("kill -TERM $$", 143)):
            with self.subTest(script):
                self.assertEqual(memtrace("run", "-o", self.db, "--", "sh", "-c", script).status, status)
        self.complains(127, "run", "-o", self.db, "--", "no-such-command", part="no-such-command")
        self.complains(126, "run", "-o", self.db, "--", self.folder)

    def test_without_a_database_the_command_runs(self):
        with open(f"{self.folder}/text", "w") as f:
            f.write("no database\n" * 500)
        for db in (f"{self.folder}/none/x.db", self.folder, f"{self.folder}/text", "/dev/full"):
            with self.subTest(db):
                result = memtrace("run", "-o", db, "--", "sh", "-c", "echo out; exit 5")
                self.assertEqual((result.status, result.out), (5, b"out\n"))
                self.assertEqual(len(result.err.splitlines()), 1)
        with open(f"{self.folder}/text") as f:
            self.assertEqual(f.read(), "no database\n" * 500)

    def test_signals_are_passed_on(self):
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            with self.subTest(number):
                process = subprocess.Popen(
                    [harness.COMMAND, "run", "-o", self.db, "--", "sh", "-c",
                     "trap 'echo caught; exit 9' TERM INT HUP; echo ready; while :; do sleep 0.05; done"],
                    stdout=subprocess.PIPE, env=harness.clean_environment())
                self.assertEqual(process.stdout.readline(), b"ready\n")
                process.send_signal(number)
                self.assertEqual(process.stdout.read(), b"caught\n")
                self.assertEqual(process.wait(30), 9)
                process.stdout.close()

    def test_signals_that_come_before_fork_has_returned(self):
        process = subprocess.Popen(
            [harness.COMMAND, "run", "-o", self.db, "--", "sh", "-c",
             "unset LD_PRELOAD; trap 'echo caught; exit 9' TERM; echo ready; for i in 1 2 3 4 5 6 7 8 9; do sleep 0.2; done"],
            stdout=subprocess.PIPE, env=harness.clean_environment() | {"LD_PRELOAD": target("libslow_fork.so")})
        self.assertEqual(process.stdout.readline(), b"ready\n")
        process.send_signal(signal.SIGTERM)
        self.assertEqual(process.stdout.read(), b"caught\n")
        self.assertEqual(process.wait(30), 9)
        process.stdout.close()

    def test_interrupt_from_the_terminal(self):
        """A whole group gets the signal: `run` survives its command and writes the run down."""
        process = subprocess.Popen(
            [harness.COMMAND, "run", "-o", self.db, "--", "sh", "-c",
             "trap 'echo caught' INT; echo ready; for i in 1 2 3 4 5 6 7 8 9; do sleep 0.05; done; exit 3"],
            stdout=subprocess.PIPE, env=harness.clean_environment(), start_new_session=True)
        self.assertEqual(process.stdout.readline(), b"ready\n")
        os.killpg(process.pid, signal.SIGINT)
        self.assertEqual(process.wait(30), 3)
        process.stdout.close()
        result = harness.Result(b"", b"", 3, self.db).wait_until_written()
        self.assertEqual((result.run()["status"], result.run()["exit_status"]), ("complete", 3))

    def test_reading_waits_for_a_run(self):
        process = subprocess.Popen([harness.COMMAND, "run", "-o", self.db, "--", target("sleeper")], stdin=subprocess.PIPE,
                                   stdout=subprocess.PIPE, env=harness.clean_environment())
        process.stdout.readline()
        result = memtrace("runs", "-d", self.db, "--no-wait")
        self.assertEqual((result.status, result.err), (0, b""))
        self.assertIn("running", result.out.decode())
        waiting = subprocess.Popen([harness.COMMAND, "runs", "-d", self.db], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                   env=harness.clean_environment())
        time.sleep(0.5)
        self.assertIsNone(waiting.poll())
        process.stdin.close()
        self.assertEqual(process.wait(30), 0)
        process.stdout.close()
        out, err = waiting.communicate(timeout=30)
        self.assertIn(b"complete", out)
        self.assertEqual(len(err.splitlines()), 1)
        self.assertEqual(waiting.returncode, 0)

    def test_other_preloads_stay(self):
        result = memtrace("run", "-o", self.db, "--", "sh", "-c", "echo $LD_PRELOAD", env={"LD_PRELOAD": harness.COUNTER})
        self.assertEqual(result.out.decode(), f"{os.path.realpath(harness.LIBRARY)}:{harness.COUNTER}\n")


harness.main()

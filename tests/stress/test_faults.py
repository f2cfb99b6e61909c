"""What can go wrong around the program must not show in it: same output, same status, and it ends."""

import contextlib
import os
import resource
import signal
import subprocess
import sys
import time

import harness

LOG = {"MEMTRACE_LOG": "1"}


class Faults(harness.Case):
    def check_unharmed(self, result, plain, lines=1, others=False):
        """lines: with MEMTRACE_LOG=1 at least so many on stderr, all of them memtrace's unless there are others."""
        self.assertEqual((result.status, result.out), (plain.status, plain.out), result.err)
        said = [l for l in result.err.decode().splitlines() if l.startswith("memtrace")]
        if not others:
            self.assertEqual(len(result.err.decode().splitlines()), len(said), result.err)
        self.assertGreaterEqual(len(said), lines)

    def both_logs(self, command, lines=1, others=False, **options):
        """With MEMTRACE_LOG=1 it is said; without, nothing is."""
        plain = harness.plain(command)
        env = options.pop("env", {})
        self.check_unharmed(self.trace(*command, env={**env, **LOG}, written=False, **options), plain, lines, others)
        silent = self.trace(*command, env=env, written=False, **options)
        self.assertEqual((silent.status, silent.out), (plain.status, plain.out))
        if not others:
            self.assertEqual(silent.err, b"")

    def readers(self, db):
        """Processes of the reader that serve a database in this test's folder."""
        found = []
        for pid in filter(str.isdigit, os.listdir("/proc")):
            with contextlib.suppress(OSError):
                with open(f"/proc/{pid}/environ", "rb") as f:
                    environment = f.read()
                if os.path.realpath(f"/proc/{pid}/exe") == os.path.realpath(harness.COMMAND) and db.encode() in environment:
                    found.append(int(pid))
        return found

    def start(self, *command, env=None):
        return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                env={**harness.clean_environment(), "MEMTRACE_DB": self.db, "LD_PRELOAD": harness.LIBRARY,
                                     **LOG, **(env or {})})

    def wait_for_readers(self):
        deadline = time.monotonic() + 20
        while not self.readers(self.db) and time.monotonic() < deadline:
            time.sleep(0.01)
        readers = self.readers(self.db)
        self.assertTrue(readers, "no reader found")
        return readers

    def test_reader_killed(self):
        for moment in ("while the program waits", "under load"):
            with self.subTest(moment):
                counters = f"{self.folder}/counters"
                with open(counters, "wb") as f:
                    f.write(bytes(4096))
                command = [harness.target("sleeper")] if "waits" in moment else [harness.target("published"), counters, "2"]
                process = self.start(*command)
                for pid in self.wait_for_readers():
                    os.kill(pid, signal.SIGKILL)
                if "waits" in moment:
                    out, err = process.communicate(timeout=30)
                    self.assertEqual((process.returncode, out), (0, b"ready\n"), err)
                    self.assertRegex(err, rb"\Amemtrace: the reader [^\n]+\n\Z")
                else:
                    # It goes on: its own count grows long after the reader is gone.
                    def count():
                        with open(counters, "rb") as f:
                            return int.from_bytes(f.read(8), "little")
                    deadline = time.monotonic() + 30
                    time.sleep(0.5)
                    seen = count()
                    while count() < seen + 20000000 // 10 and time.monotonic() < deadline:
                        time.sleep(0.1)
                    grown = count() - seen
                    process.kill()
                    _, err = process.communicate(timeout=10)
                    self.assertGreater(grown, 1000000)
                    self.assertRegex(err, rb"\Amemtrace: the reader [^\n]+\n\Z")

    def test_reader_stopped(self):
        """A reader that hangs (here: is stopped) is not waited for without end."""
        process = self.start(harness.target("sleeper"))
        readers = self.wait_for_readers()
        try:
            for pid in readers:
                os.kill(pid, signal.SIGSTOP)
            began = time.monotonic()
            # Not communicate(): with MEMTRACE_LOG=1 the reader has the program's stderr too, and it is stopped.
            process.stdin.close()
            self.assertEqual(process.wait(60), 0)
            self.assertLess(time.monotonic() - began, 30)
            self.assertEqual(process.stdout.readline(), b"ready\n")
        finally:
            for pid in readers:
                os.kill(pid, signal.SIGCONT)
            process.stdout.close()
            process.stderr.close()
        # Woken, it finds that its program is no more, and ends: whatever of the handshake it was stopped in.
        deadline = time.monotonic() + 20
        while self.readers(self.db) and time.monotonic() < deadline:
            time.sleep(0.05)
        self.assertEqual(self.readers(self.db), [])

    def test_slow_reader_loses_nothing(self):
        """Rings fill while the reader stands still; threads wait, and no event is lost or counted twice."""
        process = self.start(harness.target("threads"))
        for _ in range(5):
            readers = self.readers(self.db)
            for pid in readers:
                os.kill(pid, signal.SIGSTOP)
            time.sleep(0.6)
            for pid in readers:
                os.kill(pid, signal.SIGCONT)
            time.sleep(0.02)
        _, err = process.communicate(timeout=60)
        self.assertEqual((process.returncode, err), (0, b""))
        result = harness.Result(b"", b"", 0, self.db).wait_until_written()
        self.assertConsistent(result)
        self.assertEqual(result.function("produce", ("allocated_blocks", "live_blocks")), (160000, 0))
        self.assertEqual(result.function("swap", ("allocated_blocks", "live_blocks")), (400000, 0))
        self.assertEqual(result.function("regrow", ("allocated_blocks", "live_blocks")), (400000, 0))
        self.assertEqual((result.run()["lost_events"], result.run()["status"]), (0, "complete"))

    @contextlib.contextmanager
    def small_disk(self, options="size=256k"):
        if os.geteuid() != 0:
            self.skipTest("needs root to mount a small file system")
        folder = f"{self.folder}/disk"
        os.makedirs(folder, exist_ok=True)
        done = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder], capture_output=True)
        if done.returncode:
            self.skipTest("no mounting here")
        try:
            yield folder
        finally:
            for _ in range(100):
                if subprocess.run(["umount", folder], capture_output=True).returncode == 0:
                    break
                time.sleep(0.1)
            else:
                subprocess.run(["umount", "-l", folder], capture_output=True)

    def test_disk_full_from_the_start(self):
        with self.small_disk() as folder:
            with open(f"{folder}/filler", "wb", buffering=0) as f, contextlib.suppress(OSError):
                while True:
                    f.write(bytes(4096))
            plain = harness.plain([harness.target("basic")])
            result = self.trace(harness.target("basic"), db=f"{folder}/memtrace.db", env=LOG, written=False)
            self.assertEqual((result.status, result.out), (plain.status, plain.out))
            self.assertIn(b"memtrace", result.err)

    def test_disk_fills_on_the_way(self):
        with self.small_disk() as folder:
            for name in ("deep", "threads"):
                plain = harness.plain([harness.target(name)])
                result = self.trace(harness.target(name), db=f"{folder}/memtrace.db", env=LOG, written=False)
                self.assertEqual((result.status, result.out), (plain.status, plain.out))
                if b"memtrace" not in result.err:
                    self.assertEqual(result.wait_until_written().run()["lost_events"], 0, name)

    def test_read_only_folder(self):
        with self.small_disk() as folder:
            subprocess.run(["mount", "-o", "remount,ro", folder], check=True)
            self.both_logs([harness.target("basic")], db=f"{folder}/memtrace.db")

    def test_no_such_folder(self):
        self.both_logs([harness.target("basic")], db=f"{self.folder}/not/there/memtrace.db")

    def test_database_is_not_one(self):
        path = f"{self.folder}/junk.db"
        junk = os.urandom(20000)
        with open(path, "wb") as f:
            f.write(junk)
        self.both_logs([harness.target("basic")], db=path)
        with open(path, "rb") as f:
            self.assertEqual(f.read(), junk, "somebody else's file was changed")

    def test_command_missing(self):
        """The library alone, away from its command."""
        import shutil
        library = f"{self.folder}/libmemtrace.so"
        shutil.copy(harness.LIBRARY, library)
        path = "/usr/bin:/bin"
        self.both_logs([harness.target("basic")], env={"LD_PRELOAD": library, "PATH": path})
        self.both_logs([harness.target("basic")], env={"MEMTRACE_READER": "/nonexistent/memtrace"})
        self.both_logs([harness.target("basic")], env={"MEMTRACE_READER": "/bin/false"})
        # Something else in its place, which has words of its own.
        self.both_logs([harness.target("basic")], env={"MEMTRACE_READER": "/bin/sleep"}, others=True)

    def test_command_behind_a_script(self):
        """What started the reader stays, and has its socket open, too."""
        script = f"{self.folder}/reader"
        with open(script, "w") as f:
            f.write(f"#!/bin/sh\nunset LD_PRELOAD\n{harness.COMMAND} \"$@\"\ntrue\n")
        os.chmod(script, 0o755)
        result = self.trace(harness.target("basic"), env={"MEMTRACE_READER": script})
        self.assertComplete(result, status=7)
        self.assertEqual(result.run()["allocated_blocks"], 1129)

    def limited(self, limit, value, command, lines=0):
        def set_limit():
            resource.setrlimit(limit, (value, value))
        environment = {**harness.clean_environment(), **LOG}
        outcomes = []
        for preload in ({}, {"LD_PRELOAD": harness.LIBRARY, "MEMTRACE_DB": self.db}):
            done = subprocess.run(command, env={**environment, **preload}, preexec_fn=set_limit, capture_output=True,
                                  stdin=subprocess.DEVNULL, timeout=60)
            outcomes.append((done.returncode, done.stdout))
        self.assertEqual(outcomes[1], outcomes[0], done.stderr)
        self.assertGreaterEqual(len(done.stderr.splitlines()), lines)

    def test_file_size_limit(self):
        for size in (0, 4096, 1 << 20):
            self.limited(resource.RLIMIT_FSIZE, size, [harness.target("threads")])

    def test_descriptor_limit(self):
        for count in (3, 4, 5, 8):
            self.limited(resource.RLIMIT_NOFILE, count, [harness.target("basic")])

    def test_address_space_limit(self):
        for mib in (24, 40, 80, 200, 1000):
            self.db = f"{self.folder}/{mib}.db"
            self.limited(resource.RLIMIT_AS, mib << 20, [harness.target("basic")])
            result = harness.Result(b"", b"", 0, self.db)
            if mib == 1000: # room enough for the reader, too, which has the same hard limit
                run = result.wait_until_written().run()
                self.assertEqual((run["allocated_blocks"], run["lost_events"], run["status"]), (1129, 0, "complete"))
            elif os.path.exists(self.db): # else the reader had no room to start
                run = result.wait_until_written().run()
                self.assertIn((run["allocated_blocks"], run["lost_events"], run["status"]), ((1129, 0, "complete"), (0, 1, "lossy")))
                if run["lost_events"]:
                    self.assertEqual([tuple(r) for r in result.query("SELECT reason, count FROM loss")], [("attach", 1)])

    def test_process_limit(self):
        self.limited(resource.RLIMIT_NPROC, 0, [harness.target("basic")])

    def test_no_memfd(self):
        """memfd_create and the sockets refused by a seccomp filter."""
        for call in ("memfd_create", "socket", "membarrier", "fork"):
            with self.subTest(call):
                plain = harness.plain([harness.target("basic")])
                result = harness.plain([harness.target("refuse"), call, harness.target("basic")],
                                       env={"REFUSE_PRELOAD": harness.LIBRARY, "MEMTRACE_DB": self.db, **LOG})
                self.assertEqual((result.status, result.out), (plain.status, plain.out), result.err)
                if call != "membarrier":
                    self.assertIn(b"memtrace", result.err)

    def test_whole_group_interrupted(self):
        """Ctrl-C goes to the reader's group too: the run is still written down."""
        process = subprocess.Popen([harness.COMMAND, "run", "-o", self.db, "--", harness.target("sleeper")],
                                   stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                   env=harness.clean_environment(), start_new_session=True)
        self.assertEqual(process.stdout.readline(), b"ready\n")
        os.killpg(process.pid, signal.SIGINT)
        process.communicate(timeout=30)
        self.assertEqual(process.returncode if process.returncode >= 0 else 128 - process.returncode, 130)
        result = harness.Result(b"", b"", 130, self.db).wait_until_written()
        self.assertEqual((result.run()["status"], result.run()["exit_status"], result.run()["live_bytes"]),
                         ("killed", 130, 4321))


harness.main()

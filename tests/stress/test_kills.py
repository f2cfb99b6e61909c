"""SIGKILL at random moments: what a target had published of its finished allocations is in the database."""

import mmap
import os
import random
import signal
import sqlite3
import struct
import subprocess
import time

import harness

KILLS = int(os.environ.get("MT_KILLS", "200"))


class Kills(harness.Case):
    def kill_once(self, number, threads, delay):
        counters = f"{self.folder}/counters{number}"
        with open(counters, "wb") as f:
            f.write(bytes(4096))
        db = f"{self.folder}/kill{number}.db"
        env = {**harness.clean_environment(), "MEMTRACE_DB": db, "LD_PRELOAD": harness.LIBRARY}
        process = subprocess.Popen([harness.target("published"), counters, str(threads)], env=env)
        with open(counters, "r+b") as f, mmap.mmap(f.fileno(), 4096) as shared:
            deadline = time.monotonic() + 20
            while not struct.unpack_from("Q", shared, 0)[0] and time.monotonic() < deadline:
                time.sleep(0.001)
            time.sleep(delay)
            process.send_signal(signal.SIGKILL)
            process.wait(20)
            published = [struct.unpack_from("QQ", shared, 128 * t) for t in range(threads)]
        return db, process.returncode, sum(a for a, _ in published), sum(f for _, f in published)

    def test_kills_lose_nothing(self):
        choose = random.Random(20)
        for number in range(KILLS):
            threads = choose.choice((1, 1, 2, 4))
            delay = choose.random() ** 3 * 0.1
            with self.subTest(number=number, threads=threads, delay=round(delay, 4)):
                db, status, allocated, freed = self.kill_once(number, threads, delay)
                self.assertEqual(status, -signal.SIGKILL)
                self.assertGreater(allocated, 0)
                result = harness.Result(b"", b"", status, db).wait_until_written()
                run = result.run()
                self.assertEqual((run["status"], run["lost_events"]), ("killed", 0))
                blocks = result.function("work", ("allocated_blocks",))[0]
                self.assertGreaterEqual(blocks, allocated)
                # Between the publication and the kill each thread may be one step further, in the ring but not in the count.
                self.assertLessEqual(blocks, allocated + threads)
                self.assertGreaterEqual(run["freed_blocks"], freed)
                connection = sqlite3.connect(db)
                self.assertEqual(connection.execute("PRAGMA integrity_check").fetchone(), ("ok",))
                connection.close()
                self.assertFalse(os.path.exists(db + "-wal"))
                os.remove(db)


harness.main()

"""The standard library's own tests under memtrace: same status, same number of tests, on every CPython that has them. MEMTRACE_TEST_LIBRARY names
other tests than the quick ones below (separated by blanks); `all` is a broad choice that takes an hour.
"""

import os
import re
import subprocess
import tempfile

import harness
from pythons import PYTHONS

QUICK = "test_list test_dict test_generators test_coroutines test_gc test_fork1 test_atexit test_json"
BROAD = QUICK + " test_subprocess test_exceptions test_sqlite3 test_sys_settrace test_threading test_asyncio"
TESTS = {"": QUICK, "all": BROAD}.get(os.environ.get("MEMTRACE_TEST_LIBRARY", ""), os.environ.get("MEMTRACE_TEST_LIBRARY")).split()


def counts(text):
    """What a run says of itself that does not differ from one time to the next."""
    return re.findall(rb"^(?:Total tests: .*|Result: .*|\w+ (?:failed|skipped|passed)\b)", text, re.M)


class Library(harness.Case):
    def check(self, mode, pythons):
        ran = 0
        for version, python in pythons:
            for name in TESTS:
                found = subprocess.run([python, "-c", f"import test.{name}"], capture_output=True, env=harness.clean_environment())
                if found.returncode:
                    continue
                with self.subTest(python=version, test=name), tempfile.TemporaryDirectory() as folder:
                    command = [python, "-m", "test", name]
                    plain = harness.plain(command, cwd=folder, seconds=300)
                    traced = harness.traced(command, cwd=folder, seconds=600, db=os.path.join(folder, "m.db"), written=False,
                                            env={"MEMTRACE_PYTHON": mode})
                    self.assertEqual((traced.status, counts(traced.out)), (plain.status, counts(plain.out)), traced.out[-1500:])
                    ran += 1
        if not ran:
            self.skipTest("no CPython here has its tests installed")

    def test_with_objects(self):
        self.check("objects", PYTHONS)

    def test_with_frames(self):
        self.check("frames", PYTHONS[-1:])


harness.main()

"""The standard library's own tests under memtrace: same status, same number of tests, on every CPython that has them: some on each, and of the slower
ones each on one of the CPythons. MEMTRACE_TEST_LIBRARY names others, for all CPythons (separated by blanks); `all` is a broad choice, which takes hours.

Left out are test_empty_env, since a child has the preload and the reader's socket in its environment, whatever it was given, and
test_vfork_used_when_expected, which leaves itself out when anything is preloaded.
"""

import os
import re
import subprocess
import tempfile

import harness
from pythons import PYTHONS

QUICK = "test_list test_dict test_generators test_coroutines test_gc test_fork1 test_atexit test_json".split()
SLOWER = "test_subprocess test_sqlite3 test_sys_settrace test_exceptions".split()
WANTED = os.environ.get("MEMTRACE_TEST_LIBRARY", "")
IGNORED = [word for name in ("test_empty_env", "test_vfork_used_when_expected") for word in ("-i", name)]
NAMED = QUICK + SLOWER + ["test_threading", "test_asyncio"] if WANTED == "all" else WANTED.split()


def tests_of(index):
    """What is run on the index-th of the CPythons."""
    return NAMED or QUICK + [name for i, name in enumerate(SLOWER) if i % len(PYTHONS) == index]


def counts(text):
    """What a run says of itself that does not differ from one time to the next."""
    return re.findall(rb"^(?:Total tests: .*|Result: .*|\w+ (?:failed|skipped)\b)", text, re.M)


class Library(harness.Case):
    def check(self, mode, pythons, tests):
        ran = 0
        for index, (version, python) in pythons:
            for name in tests(index):
                found = subprocess.run([python, "-c", f"import test.{name}"], capture_output=True, env=harness.clean_environment())
                if found.returncode:
                    continue
                with self.subTest(python=version, test=name), tempfile.TemporaryDirectory() as folder:
                    command = [python, "-m", "test", *IGNORED, name]
                    plain = harness.plain(command, cwd=folder, seconds=400)
                    traced = harness.traced(command, cwd=folder, seconds=800, db=os.path.join(folder, "m.db"), written=False,
                                            env={"MEMTRACE_PYTHON": mode})
                    self.assertEqual((traced.status, counts(traced.out)), (plain.status, counts(plain.out)), traced.out[-1500:])
                    ran += 1
        if not ran:
            self.skipTest("no CPython here has its tests installed")

    def test_with_objects(self):
        self.check("objects", list(enumerate(PYTHONS)), tests_of)

    def test_with_frames(self):
        self.check("frames", list(enumerate(PYTHONS))[-1:], lambda index: NAMED or QUICK)


harness.main()

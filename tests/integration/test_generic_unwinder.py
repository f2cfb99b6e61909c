"""The library as it is built for a processor of which it has no unwind rules: libunwind steps through every stack, with the same result."""

import os
import re
import subprocess
import sys

import harness

# Those of the known answers that hang on stacks, and of them the quick ones.
GROUND_TRUTH = ("test_basic", "test_lines_and_stacks", "test_cxx", "test_edges_of_life", "test_jemalloc", "test_library_reloaded",
                "test_realloc_rules", "test_recursion_500_deep", "test_short_threads", "test_signal", "test_switched_stacks")
CONFORMANCE = ("exceptions", "deep_stacks", "dlclose", "forked_children", "in_a_threaded_program", "SIGKILL", "thread__descriptor",
               "switched_stacks", "sizes_and_distances", "s_signals_are_its_own", "threads_that_exit")


class GenericUnwinder(harness.Case):
    def command(self, *arguments, **environment):
        done = subprocess.run(arguments, env={**os.environ, **environment}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        self.assertEqual(done.returncode, 0, f"{arguments}: {done.stdout[-3000:]}")
        return done.stdout

    def check(self, library, kind, names):
        out = self.command(sys.executable, f"{harness.SOURCE}/tests/{kind}.py", *names, MT_LIBRARY=library, MT_WAYS="preload")
        passed = re.findall(r"^ok \d+ - \w+\.(\w+)(?!.*SKIP)", out, re.M)
        for name in names:
            self.assertTrue(any(name in p for p in passed), f"{name} did not run: {out}")

    def test_known_answers(self):
        build = f"{self.folder}/build"
        self.command("meson", "setup", "-Dunwinder=libunwind", "-Dtests=false", "-Dexamples=false", build, harness.SOURCE,
                     CC=os.environ.get("MT_CC", "cc"))
        self.command("ninja", "-C", build, "libmemtrace.so")
        os.symlink(harness.COMMAND, f"{build}/memtrace")  # the library starts the reader that is next to it
        library = f"{build}/libmemtrace.so"
        self.assertIn("getcontext", self.command("nm", "-D", "--undefined-only", library), "not the generic unwinder")
        self.check(library, "integration/test_ground_truth", GROUND_TRUTH)
        self.check(library, "conformance/test_conformance", CONFORMANCE)


harness.main()

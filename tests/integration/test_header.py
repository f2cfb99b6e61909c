"""memtrace.h in every kind of program: it binds where memtrace is, and does nothing where it is not."""

import itertools
import os
import shutil
import subprocess
import unittest

import harness

PROGRAM = """
#include "memtrace.h"
#include <stdlib.h>
#ifdef __cplusplus
extern "C"
#endif
int entry(void);
int entry(void)
{
    memtrace_heap_t heap = memtrace_heap_create("own");
    char place[4];

    memtrace_mark("here");
    memtrace_iteration("one");
    memtrace_phase_begin("p");
    memtrace_heap_alloc(heap, place, 42);
    memtrace_phase_end("p");
    memtrace_snapshot("s");
    memtrace_pause();
    memtrace_resume();
    memtrace_heap_free(heap, place);
    return heap != 0;
}
"""
MAIN = """
#ifdef __cplusplus
extern "C"
#endif
int entry(void);
int main(void)
{
    return entry();
}
"""
WARNINGS = ["-Wall", "-Wextra", "-Wpedantic", "-Wshadow", "-Werror"]
COMPILERS = {"gcc": ("-std=c99", "c"), "clang": ("-std=c11", "c"), "g++": ("-std=c++11", "cc"), "clang++": ("-std=c++17", "cc")}
SHAPES = {
    "pie": ["-fPIE", "-pie"],
    "non-pie": ["-fno-pie", "-no-pie"],
    "pic in non-pie": ["-fPIC", "-no-pie"],
    "now": ["-fPIE", "-pie", "-Wl,-z,now"],
    "static": ["-static"],
    "static-pie": ["-static-pie"],
    "library": None,
}


class Header(harness.Case):
    def build(self, compiler, level, shape):
        standard, extension = COMPILERS[compiler]
        program, main = f"{self.folder}/program.{extension}", f"{self.folder}/main.{extension}"
        for path, text in ((program, PROGRAM), (main, MAIN)):
            with open(path, "w") as f:
                f.write(text)
        out = f"{self.folder}/out"
        if os.path.exists(out):
            os.remove(out)
        base = [compiler, standard, level, f"-I{harness.SOURCE}/include"]
        if SHAPES[shape] is None:
            library = f"{self.folder}/liblibrary.so"
            commands = [[*base, *WARNINGS, "-shared", "-fPIC", program, "-o", library], [*base, main, library, "-o", out]]
        else:
            commands = [[*base, *WARNINGS, *SHAPES[shape], program, main, "-o", out]]
        for command in commands:
            done = subprocess.run(command, capture_output=True, text=True)
            self.assertEqual(done.returncode, 0, (command, done.stderr))
        return out

    def test_every_kind_of_program(self):
        for compiler, level, shape in itertools.product(COMPILERS, ("-O0", "-O2"), SHAPES):
            if not shutil.which(compiler):
                continue
            with self.subTest(compiler=compiler, level=level, shape=shape):
                program = self.build(compiler, level, shape)
                self.assertEqual(harness.plain([program]).status, 0, "does something without memtrace")
                self.db = f"{self.folder}/{compiler}{level}{shape}.db"
                bound = not shape.startswith("static")
                result = self.trace(program, written=bound)
                self.assertEqual(result.status, int(bound), result.err)
                if bound:
                    self.assertEqual([r["phase"] for r in result.query("SELECT phase FROM phases")], ["p"])
                    self.assertEqual([r["label"] for r in result.query("SELECT label FROM iterations")], ["one"])

    def test_the_callsite_is_the_caller(self):
        """Not the wrapper in the header."""
        for level in ("-O0", "-O1"):
            program = self.build("gcc", level, "pie")
            source = subprocess.run(["gcc", "-g", level, f"-I{harness.SOURCE}/include", f"{self.folder}/program.c",
                                     f"{self.folder}/main.c", "-o", program])
            self.assertEqual(source.returncode, 0)
            self.db = f"{self.folder}/{level}.db"
            result = self.trace(program)
            self.assertEqual([tuple(r) for r in result.query(
                "SELECT function, allocated_blocks, allocated_bytes FROM top_allocators WHERE heap = 'own'")], [("entry", 1, 42)])

    def test_no_sanitizer_finds_anything(self):
        program = f"{self.folder}/sanitized"
        self.build("gcc", "-O1", "pie")
        done = subprocess.run(["gcc", "-fsanitize=address,undefined", f"-I{harness.SOURCE}/include", f"{self.folder}/program.c",
                               f"{self.folder}/main.c", "-o", program], capture_output=True, text=True)
        if done.returncode:
            raise unittest.SkipTest("no sanitizers here")
        result = harness.plain([program])
        self.assertEqual((result.status, result.err), (0, b""))


harness.main()
